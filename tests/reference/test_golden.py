"""A golden file per convention, derived here from the papers' formulas and each code's own choices in 50-digit decimals.

Nothing of `reference` is used to derive them. `python -m tests.reference.test_golden` writes the files; the tests compare them
with the derivation, so that they can't rot, and the reference with them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import struct
from dataclasses import dataclass
from decimal import Decimal, getcontext
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from reference import diffusion, schedules, timesteps
from reference.config import DiffusionConfig
from reference.conventions import CLEAN, CONVENTIONS, adopt, make_encode_plan, make_plan
from reference.respacing import respaced
from reference.samplers import coefficients, step

FOLDER = Path(__file__).parent / "golden"
D = Decimal
getcontext().prec = 50
PIXELS = 4


@dataclass(frozen=True)
class Code:
    """What was read from one code. `previous` is where DDIM goes from t: the next of the list, or t - T // S."""

    scaled: bool = False  # linear betas x 1000 / T
    float32: bool = False
    clip: bool = True  # DDIM; DDPM clips in all of them
    rederive: bool = False  # eps from the clipped x0
    ddpm_variance: str = "small"
    previous: str = "next"
    paths: tuple[tuple[str, int], ...] = ()  # (spacing, S) at T = 1000
    samplers: tuple[str, ...] = ("ddim", "ddpm")
    encode: str = ""
    torch_linspace: bool = False  # linear betas by torch's float32 linspace
    bound: str = "exact"  # the variational bound; "ho": tanh for the normal distribution function, beta_tilde_1 for beta_0
    T: int = 200
    S: int = 10


CODES = {
    "plain": Code(clip=False, rederive=True, ddpm_variance="large", encode="paper",
                  paths=(("leading", 30), ("linspace", 21), ("trailing", 15), ("quad", 50))),
    "ho2020": Code(ddpm_variance="large", samplers=("ddpm",), bound="ho", T=20, S=20),
    "song2021": Code(float32=True, clip=False, ddpm_variance="large", paths=(("leading", 30), ("quad", 50), ("quad", 100))),
    "nichol2021": Code(ddpm_variance="large", scaled=True, rederive=True, encode="shifted", bound="ho",
                       paths=(("linspace", 21), ("leading", 50))),
    "diffusers": Code(float32=True, torch_linspace=True, previous="ratio", encode="destination", T=1000, S=15,
                      paths=(("leading", 30), ("linspace", 30), ("trailing", 30))),
    "lucidrains": Code(scaled=True, rederive=True, paths=(("trailing", 15), ("trailing", 30), ("trailing", 50))),
}
DEFAULT = {"plain": "leading", "ho2020": "all", "song2021": "leading", "nichol2021": "linspace", "diffusers": "leading",
           "lucidrains": "trailing"}


def f32(x: Decimal | float) -> float:
    return struct.unpack("f", struct.pack("f", float(x)))[0]


def alpha_bars(code: Code, schedule: str, sigmoid_end: float | None = None) -> list[Decimal]:
    """linear: DDPM section 4, exact. cosine (IDDPM equation 17) and the sigmoid of alpha_bar (Jabri et al., algorithm 1):
    alpha_bar_t is f(t + 1) / f(0) until beta clips at 0.999, which happens at the last step alone. float32: betas and alphas are
    rounded, their float64 product is rounded again."""
    T = code.T
    if schedule == "linear":
        scale = D(1000) / T if code.scaled else D(1)
        betas = [scale * (D("0.0001") + D("0.0199") * t / (T - 1)) for t in range(T)]
        if code.torch_linspace:  # steps of one float32, counted from the nearer end
            first, last = f32(0.0001), f32(0.02)
            each = f32(f32(last - first) / (T - 1))
            betas = [D(f32(first + each * t if t < T // 2 else last - each * (T - 1 - t))) for t in range(T)]
        exact, product = [], D(1)
        for beta in betas:
            product *= 1 - beta
            exact.append(product)
    else:
        if schedule == "cosine":
            f = [math.cos((t / T + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(T + 1)]
        else:
            end = 1 / (1 + math.exp(-3))
            f = [(end if sigmoid_end is None else sigmoid_end) - 1 / (1 + math.exp(3 - 6 * t / T)) for t in range(T + 1)]
        betas = [D(min(1 - b / a, 0.999)) for a, b in zip(f, f[1:], strict=False)]
        exact = [D(x) / D(f[0]) for x in f[1:-1]]
        exact.append(exact[-1] * D("0.001"))
    if not code.float32:
        return exact
    rounded, product64 = [], 1.0
    for beta in betas:
        product64 *= f32(1 - f32(beta))
        rounded.append(D(f32(product64)))
    return rounded


def path(name: str, spacing: str, T: int, S: int) -> list[int]:
    """Increasing timesteps as each code has them. A Fraction rounds exactly, halves to even."""
    if name == "ho2020":
        return list(range(T))
    if name == "song2021":
        return list(range(0, T, T // S)) if spacing == "leading" else [
            int(i * i * 0.8 * T / (S - 1) ** 2 + (1e-9 if i == S - 1 else 0)) for i in range(S)]
    if name == "nichol2021" and spacing == "linspace":
        out, position = [], 0.0
        for _ in range(S):
            out.append(round(position))
            position += (T - 1) / (S - 1)
        return out
    if name == "diffusers" and spacing == "leading":
        return [i * (T // S) for i in range(S)]
    if name == "lucidrains":  # linspace(-1, T - 1, S + 1) without its first point, truncated
        return [int(Fraction(i * T, S) - 1) for i in range(1, S + 1)]
    if spacing == "leading":
        return [i * T // S for i in range(S)]
    if spacing == "linspace":
        return [round(Fraction(i * (T - 1), S - 1)) for i in range(S)]
    if spacing == "trailing":
        return [round(Fraction(i * T, S)) - 1 for i in range(1, S + 1)]
    out = []
    for i in range(S):  # quad of ours: a repeated step moves up
        t = int(i * i * 0.8 * T / (S - 1) ** 2 + 1e-9)
        out.append(max(t, out[-1] + 1) if out else t)
    return out


def output(i: int, p: int) -> Fraction:
    """What the network says at step i about pixel p: multiples of a quarter in [-5/4, 5/4], large enough for x0 to clip."""
    return Fraction((7 * i + 3 * p) % 11 - 5, 4)


def noise(i: int, p: int) -> Fraction:
    return Fraction((5 * i + 2 * p) % 7 - 3, 2)


def start(p: int) -> Fraction:
    return Fraction(2 * p - 3, 2)


def dec(x: Fraction) -> Decimal:
    return D(x.numerator) / D(x.denominator)


def derive_path(name: str, sampler: str, spacing: str = "", S: int = 0) -> dict[str, list]:
    """Coefficients of every step and the states of four pixels. DDIM equations 12 and 16 at eta = 1/2; DDPM equation 7."""
    code = CODES[name]
    ab = alpha_bars(code, "linear")
    ts = path(name, spacing or DEFAULT[name], code.T, S or code.S)[::-1]
    clip, rows, states, x = code.clip or sampler == "ddpm", [], [], [dec(start(p)) for p in range(PIXELS)]
    for i, t in enumerate(ts):
        after = ts[i + 1] if i + 1 < len(ts) else -1
        if code.previous == "ratio" and sampler == "ddim":
            after = t - code.T // len(ts)
        a, b = ab[t], ab[after] if after >= 0 else D(1)
        beta = 1 - a / b
        tilde = beta * (1 - b) / (1 - a)
        last = i + 1 == len(ts)
        if sampler == "ddim":
            sigma = tilde.sqrt() / 2
            to_x0, to_x, to_eps = b.sqrt(), D(0), (1 - b - sigma**2).sqrt()
        else:
            to_x0, to_x, to_eps = b.sqrt() * beta / (1 - a), (a / b).sqrt() * (1 - b) / (1 - a), D(0)
            sigma = D(0) if last else (beta if code.ddpm_variance == "large" else tilde).sqrt()
        rows.append([t, a, b, to_x0, to_x, to_eps, sigma])
        for p in range(PIXELS):
            eps = dec(output(i, p))
            x0 = (x[p] - (1 - a).sqrt() * eps) / a.sqrt()
            if clip:
                x0 = min(max(x0, D(-1)), D(1))
            if code.rederive:
                eps = (x[p] - a.sqrt() * x0) / (1 - a).sqrt()
            x[p] = to_x0 * x0 + to_x * x[p] + to_eps * eps + sigma * dec(noise(i, p))
        states.append(list(x))
    key = f"{sampler}_{spacing}_" if spacing else f"{sampler}_"
    return {f"{key}steps": rows[-20:], f"{key}states": states[-10:]}


def derive_eta_one(name: str) -> dict[str, list]:
    """DDIM equation 12 at eta = 1 along the cosine schedule, whose alpha_bar comes down to 1e-7: the eps term's
    1 - ab' - sigma^2 loses 16 digits there, of 50."""
    code = CODES[name]
    ab, rows = alpha_bars(code, "cosine"), []
    ts = [code.T - 1, code.T - 2, code.T - 3, *range(code.T - 21, 0, -20)]
    for t, after in zip(ts, [*ts[1:], -1], strict=True):
        a, b = ab[t], ab[after] if after >= 0 else D(1)
        sigma2 = (1 - b) / (1 - a) * (1 - a / b)
        rows.append([t, b.sqrt(), (1 - b - sigma2).sqrt() if after >= 0 else D(0), sigma2.sqrt()])
    return {"eta_one_cosine": rows}


def phi(x: Decimal, approximate: bool) -> Decimal:
    """Distribution function of the standard normal: the Taylor series of erf, or 1/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))."""
    pi = D("3.14159265358979323846264338327950288419716939937510582097494")
    if approximate:
        y = ((2 / pi).sqrt() * (x + D("0.044715") * x**3) * 2).exp()
        return (1 + (y - 1) / (y + 1)) / 2
    term, total, n = x, x, 0
    while abs(term) > D("1e-45"):
        n += 1
        term *= -x * x / (2 * n)
        total += term / (2 * n + 1)
    return D("0.5") + total / (2 * pi).sqrt()


def bin_nats(x: Decimal, mean: Decimal, std: Decimal, approximate: bool) -> Decimal:
    """DDPM equation 13, floored at 1e-12; the two outermost bins are open."""
    high = D(1) if x > D("0.999") else phi((x - mean + D(1) / 255) / std, approximate)
    low = D(0) if x < D("-0.999") else phi((x - mean - D(1) / 255) / std, approximate)
    return -max(high - low, D("1e-12")).ln()


IMAGE = (Fraction(-1), Fraction(-1, 3), Fraction(1, 5), Fraction(1))
ERROR = (Fraction(1, 10), Fraction(-1, 5), Fraction(0), Fraction(3, 10))


def derive_bound(name: str) -> dict[str, list]:
    """DDPM equation 5 in bits per dimension, (t, small variance, large variance), for a network off by ERROR; and the prior's.
    KL(N(m1, v1) || N(m2, v2)) = (ln v2/v1 - 1 + v1/v2 + (m1 - m2)^2 / v2) / 2 with v1 = beta_tilde."""
    code = CODES[name]
    ab, two, ho = alpha_bars(dataclasses.replace(code, float32=False), "linear"), D(2).ln(), code.bound == "ho"
    rows = []
    for t in (0, 1, 2, code.T // 2, code.T - 1):
        a, b = ab[t], ab[t - 1] if t else D(1)
        beta = 1 - a / b
        tilde = (1 - ab[0]) * (1 - ab[1] / ab[0]) / (1 - ab[1]) if t == 0 else beta * (1 - b) / (1 - a)
        row = [D(t)]
        for variance in (tilde, tilde if t == 0 and ho else beta):
            total = D(0)
            for p in range(PIXELS):
                x, noise_, error = dec(IMAGE[p]), dec(noise(t, p)), dec(ERROR[p])
                xt = a.sqrt() * x + (1 - a).sqrt() * noise_
                x0 = (xt - (1 - a).sqrt() * (noise_ + error)) / a.sqrt()
                if t == 0:
                    total += bin_nats(x, x0, variance.sqrt(), ho)
                else:
                    gap = b.sqrt() * beta / (1 - a) * (x0 - x)
                    total += ((variance / tilde).ln() - 1 + tilde / variance + gap**2 / variance) / 2
            row.append(total / PIXELS / two)
        rows.append(row)
    a = ab[-1]
    prior = sum((-(1 - a).ln() - a + a * dec(x) ** 2) / 2 for x in IMAGE) / PIXELS / two
    return {"bound": rows, "prior": [prior]}


def derive_losses(name: str) -> dict[str, list]:
    """Losses of IDDPM's code for the process respaced to 10 steps, of a network that predicts the previous state's mean off by
    ERROR: (step, t x 1000/T, mean square, bound's term with the large variance in bits). alpha_bar is that of the kept steps, and
    all else counts those: beta = 1 - a / b of neighbours, beta_tilde of the second kept step in place of 0 at the first."""
    code = CODES[name]
    kept = path(name, "linspace", code.T, code.S)
    ab = [alpha_bars(code, "linear")[t] for t in kept]
    rows, two = [], D(2).ln()
    for i in (0, 1, code.S // 2, code.S - 1):
        a, b = ab[i], ab[i - 1] if i else D(1)
        beta = 1 - a / b
        second = (1 - ab[0]) * (1 - ab[1] / ab[0]) / (1 - ab[1])
        tilde, variance = (second, second) if i == 0 else (beta * (1 - b) / (1 - a), beta)
        square = sum(dec(e) ** 2 for e in ERROR) / PIXELS
        if i == 0:  # the mean of the state before is the image
            bits = sum(bin_nats(dec(x), dec(x) + dec(e), variance.sqrt(), True) for x, e in zip(IMAGE, ERROR, strict=True))
        else:
            bits = sum(((variance / tilde).ln() - 1 + tilde / variance + dec(e) ** 2 / variance) / 2 for e in ERROR)
        rows.append([D(i), D(kept[i]) * 1000 / code.T, square, bits / PIXELS / two])
    return {"respaced_losses": rows}


def derive_encoding(name: str) -> dict[str, list]:
    """DDIM equation 13 from the image up. "paper" and "destination" leave alpha_bar = 1; "shifted" (IDDPM) takes the image for a
    sample at the first timestep, derives eps from the clipped x0 and ends at alpha_bar = 0. Pixels are the start over 4."""
    code = CODES[name]
    ab = alpha_bars(code, "linear")
    ts = path(name, DEFAULT[name], code.T, code.S)
    shifted = code.encode == "shifted"
    at = [ab[t] for t in ts] if shifted else [D(1), *(ab[t] for t in ts[:-1])]
    to = [*(ab[t] for t in ts[1:]), D(0)] if shifted else [ab[t] for t in ts]
    told = ts if code.encode in ("shifted", "destination") else [ts[0], *ts[:-1]]
    told = [D(t) * 1000 / code.T if name == "nichol2021" else D(t) for t in told]
    states, x = [], [dec(start(p) / 4) for p in range(PIXELS)]
    for i, (a, b) in enumerate(zip(at, to, strict=True)):
        for p in range(PIXELS):
            eps = dec(output(i, p) / 4)
            x0 = (x[p] - (1 - a).sqrt() * eps) / a.sqrt()
            if code.encode != "paper":
                x0 = min(max(x0, D(-1)), D(1))
            if shifted:
                eps = (x[p] - a.sqrt() * x0) / (1 - a).sqrt()
            x[p] = b.sqrt() * x0 + (1 - b).sqrt() * eps
        states.append([told[i], *x])
    return {"encode_states": states}


def derive(name: str) -> dict[str, list | dict]:
    code = CODES[name]
    tables = {"linear": alpha_bars(code, "linear")}
    if name != "song2021":  # whose code has no cosine
        tables["cosine"] = alpha_bars(code, "cosine")
    if name in ("plain", "lucidrains"):
        tables["sigmoid_alpha_bar"] = alpha_bars(code, "sigmoid", f32(1 / (1 + math.exp(-3))) if name == "lucidrains" else None)
    shown = sorted({0, 1, 2, *range(0, code.T, code.T // 10), code.T - 2, code.T - 1})
    golden: dict[str, list | dict] = {
        "alpha_bars": {schedule: [[t, table[t]] for t in shown] for schedule, table in tables.items()},
        "paths": {f"{spacing} {S}": path(name, spacing, 1000, S) for spacing, S in code.paths},
    }
    for sampler in code.samplers:
        golden |= derive_path(name, sampler)
    if name == "song2021":  # .., 2, 2, 1, 1, 0, 0, 0, 0, 0, 0, 0: a repeated step has alpha = 1 and noise of standard deviation 0
        golden |= derive_path(name, "ddim", "quad", 80) | derive_path(name, "ddpm", "quad", 80)
    if name in ("plain", "nichol2021"):
        golden |= derive_eta_one(name)
    if name in ("plain", "ho2020", "nichol2021"):
        golden |= derive_bound(name)
    if name == "nichol2021":
        golden |= derive_losses(name)
    if name == "nichol2021":  # t.float() * (1000 / T) at T = 300
        golden["network_t"] = [[t, f32(t * f32(1000 / 300))] for t in range(0, 300, 7)]
    return golden | (derive_encoding(name) if code.encode else {})


def numbers(value: object) -> list[float]:
    if isinstance(value, dict):
        return [x for v in value.values() for x in numbers(v)]
    if isinstance(value, list):
        return [x for v in value for x in numbers(v)]
    return [float(value)]  # type: ignore[arg-type]


def write() -> None:
    for name in CODES:
        lines = [json.dumps(k) + ": " + json.dumps(v, default=float) for k, v in derive(name).items()]
        (FOLDER / f"{name}.json").write_text("{\n" + ",\n".join(lines).replace("], [", "],\n[") + "\n}\n")


def golden(name: str) -> dict:
    return json.loads((FOLDER / f"{name}.json").read_text())


def test_every_convention_has_a_file():
    assert {p.stem for p in FOLDER.glob("*.json")} == set(CODES) == set(CONVENTIONS)


@pytest.mark.parametrize("name", CODES)
def test_file_is_its_derivation(name):
    stored, derived = golden(name), derive(name)
    assert stored.keys() == derived.keys() and len(numbers(stored)) >= 200
    np.testing.assert_allclose(numbers(stored), numbers(derived), rtol=1e-14, atol=0)  # libm's cos and exp may differ by an ulp


@pytest.mark.parametrize("name", CODES)
def test_alpha_bars(name):
    for schedule, rows in golden(name)["alpha_bars"].items():
        plan = make_plan(DiffusionConfig(schedule=schedule, timesteps=CODES[name].T), CODES[name].S, convention=name)
        table = schedules.alpha_bars(schedules.betas(plan.diffusion), plan.float32_tables)
        np.testing.assert_allclose([table[t] for t, _ in rows], [ab for _, ab in rows], rtol=1e-12, err_msg=schedule)


@pytest.mark.parametrize("name", CODES)
def test_paths(name):
    for rule, expected in golden(name)["paths"].items():
        spacing, S = rule.split()
        assert timesteps.path(1000, int(S), spacing, name) == expected, rule


def pixels(values) -> np.ndarray:
    return np.array([float(v) for v in values]).reshape(1, 1, 1, PIXELS)


PATHS = [(name, s, "", CODES[name].S) for name, code in CODES.items() for s in code.samplers]


@pytest.mark.parametrize("name, sampler, spacing, S", [*PATHS, ("song2021", "ddim", "quad", 80), ("song2021", "ddpm", "quad", 80)])
def test_steps_and_states(name, sampler, spacing, S):
    code, stored = CODES[name], golden(name)
    plan = make_plan(DiffusionConfig(timesteps=code.T), S, eta=0.5, sampler=sampler, spacing=spacing or None, convention=name)
    key = f"{sampler}_{spacing}_" if spacing else f"{sampler}_"
    c = coefficients(plan)
    got = np.stack([plan.timesteps, *(c[k] for k in ("alpha_bar", "alpha_bar_prev", "prev_from_x0", "prev_from_x",
                                                     "prev_from_eps", "sigma"))], axis=1)
    np.testing.assert_allclose(got[-20:], stored[f"{key}steps"], rtol=1e-11, atol=1e-15)  # 1 - ab loses four digits at t = 0
    x, states = pixels(start(p) for p in range(PIXELS)), []
    for i in range(plan.steps):
        eps, z = pixels(output(i, p) for p in range(PIXELS)), pixels(noise(i, p) for p in range(PIXELS))
        x = step(x, eps, i, plan, z, c)[0]
        states.append(x.ravel())
    np.testing.assert_allclose(states[-10:], stored[f"{key}states"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["plain", "nichol2021"])
def test_eta_one_near_alpha_bar_zero(name):
    rows = golden(name)["eta_one_cosine"]
    path = tuple(int(t) for t, *_ in rows)
    plan = make_plan(DiffusionConfig(timesteps=CODES[name].T, schedule="cosine"), 10, eta=1.0, convention=name)
    plan = dataclasses.replace(plan, timesteps=path, previous=(*path[1:], CLEAN), network_t=path, noise_gate=(1,) * len(path))
    c = coefficients(plan)
    for n, key in enumerate(("prev_from_x0", "prev_from_eps", "sigma"), 1):
        np.testing.assert_allclose(c[key], [row[n] for row in rows], rtol=1e-10, atol=0, err_msg=key)  # alpha_bar itself: 1e-12


@pytest.mark.parametrize("name", ["plain", "ho2020", "nichol2021"])
def test_variational_bound(name):
    config = adopt(DiffusionConfig(timesteps=CODES[name].T), name)
    schedule, x0, error = schedules.Schedule.from_config(config), pixels(IMAGE), pixels(ERROR)
    for t, *terms in golden(name)["bound"]:
        at, noise_ = np.array([int(t)]), pixels(noise(int(t), p) for p in range(PIXELS))
        xt = diffusion.q_sample(x0, at, noise_, schedule.alpha_bars)
        for variance, term in zip(("small", "large"), terms, strict=True):
            got = diffusion.vlb_terms(dataclasses.replace(config, variance=variance), x0, xt, at, noise_ + error, None, schedule)
            assert got.item() == pytest.approx(term, rel=1e-11), (t, variance)
    assert diffusion.prior_bits(x0, schedule).item() == pytest.approx(golden(name)["prior"][0], rel=1e-11)


def test_losses_of_a_respaced_process():
    """mse, kl, rescaled_kl, and mse with the bound unscaled and times T/1000, where T is the number of kept steps."""
    code, x0, error = CODES["nichol2021"], pixels(IMAGE), pixels(ERROR)
    config = respaced(DiffusionConfig(timesteps=code.T, objective="previous"), code.S)
    schedule = schedules.Schedule.from_config(config)
    assert config.timesteps == len(config.told_timesteps) == code.S
    for i, told, square, bits in golden("nichol2021")["respaced_losses"]:
        at, noise_ = np.array([int(i)]), pixels(noise(int(i), p) for p in range(PIXELS))
        assert diffusion.network_t(config, at).item() == pytest.approx(told, rel=1e-7)  # a float32 product
        output = diffusion.target(config, x0, at, noise_, schedule.alpha_bars) + error

        def loss(said, **changes):
            return diffusion.loss(dataclasses.replace(config, **changes), x0, at, noise_, said)  # noqa: B023

        assert loss(output) == pytest.approx(square, rel=1e-11)
        assert loss(output, loss="kl") == pytest.approx(bits, rel=1e-9)
        assert loss(output, loss="rescaled_kl") == pytest.approx(code.S * bits, rel=1e-9)
        assert loss(output, loss_sum=True) == pytest.approx(PIXELS * square, rel=1e-11)  # the DDIM code's
        tilde = np.concatenate((output, 0 * output + (1 if i else -1)), axis=1)  # of the learned range's ends, the large variance
        for rescale, scale in ((True, code.S / 1000), (False, 1)):
            got = loss(tilde, variance="learned_range", rescale_bound=rescale)
            assert got == pytest.approx(square + scale * bits, rel=1e-9), (i, rescale)


def test_rescaled_timesteps():
    t, told = np.array(golden("nichol2021")["network_t"]).T
    config = adopt(DiffusionConfig(timesteps=300), "nichol2021")
    np.testing.assert_array_equal(diffusion.network_t(config, t.astype(int)), told)
    plan = make_plan(DiffusionConfig(timesteps=300), 300, spacing="leading", convention="nichol2021")
    np.testing.assert_array_equal(plan.network_t[::-1][::7], told)


@pytest.mark.parametrize("name", [name for name, code in CODES.items() if code.encode])
def test_encoding(name):
    code = CODES[name]
    plan = make_encode_plan(DiffusionConfig(timesteps=code.T), code.S, convention=name)
    c, x = coefficients(plan), pixels(start(p) / 4 for p in range(PIXELS))
    for i, (told, *state) in enumerate(golden(name)["encode_states"]):
        x = step(x, pixels(output(i, p) / 4 for p in range(PIXELS)), i, plan, None, c)[0]
        assert plan.network_t[i] == told
        np.testing.assert_allclose(x.ravel(), state, rtol=0, atol=1e-12)


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m tests.reference.test_golden", description=__doc__).parse_args()
    write()
