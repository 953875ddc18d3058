"""Laws of the fast solvers: what their rows must make of known predictions, and their orders under laws with exact paths."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpmath import exp, log, mp, mpf, quad, sqrt

from bench.paths import ROOT
from reference import samplers, solvers
from reference.config import DiffusionConfig
from reference.conventions import make_plan
from reference.grids import Nodes, of_u
from reference.rows import OURS, Path, Variant, phi
from reference.solvers import SOLVERS, ddim, dpmpp_2s, heun, multistep, pndm, unipc

from . import orders
from .laws import (
    EPS,
    ORDERS,
    PUBLIC,
    SDE,
    TAYLOR,
    VARIANCES,
    Gaussian,
    TwoGaussians,
    karras,
    run,
    slopes,
    variance_slopes,
)
from .strategies import LAW

NAMED = {name: partial(solver, v=SDE if name == "dpmpp_2m_sde" else OURS) for name, solver in SOLVERS.items()}
EVERY = {name: solver for name, solver in NAMED.items() if name != "ddpm"} | {
    "ddim eta": partial(ddim, v=Variant(eta=0.4)), "ddpm small": partial(solvers.ddpm, v=Variant(variance="small")),
    "2m eps": partial(multistep, v=EPS, order=2), "2m taylor": partial(multistep, v=TAYLOR, order=2),
    "3m eps": partial(multistep, v=EPS, order=3), "3m public": partial(multistep, v=PUBLIC, order=3),
    "2m_sde taylor": partial(multistep, v=replace(SDE, second="taylor", eta=0.7), order=2),
    "2s eps": partial(dpmpp_2s, v=EPS), "2s taylor": partial(dpmpp_2s, v=TAYLOR),
    "lowered": partial(unipc, v=Variant(lower_below=99), order=3),
    "unipc bh1": partial(unipc, v=Variant(basis="bh1"), order=3), "unipc eps": partial(unipc, v=EPS, order=2)}


@st.composite
def nodes(draw: st.DrawFn, steps: int | None = None, clean: bool | None = None) -> Nodes:
    """Any states of falling noise; the last may be the clean image."""
    n = draw(st.integers(7, 9)) if steps is None else steps
    lam = draw(st.floats(-5, 0)) + np.cumsum([0.0, *(draw(st.floats(0.05, 2)) for _ in range(n))])
    u = np.exp(-lam)
    if draw(st.booleans()) if clean is None else clean:
        u[-1] = 0
    return of_u(np.zeros(n + 1), u)


def curved(x, alpha, sigma):
    """A denoiser that is not linear."""
    x0 = np.tanh(1.3 * x / np.hypot(alpha, 0.5) + 0.2)
    return x0, (x - alpha * x0) / sigma


@LAW
@given(st.sampled_from(sorted(EVERY)), nodes())
def test_rows_carry_a_point_and_its_noise(name, n):
    """Where q(x_0) is a point, x0 and eps stand still: every row makes alpha and sigma of the next state."""
    states, rows = EVERY[name](n)
    assert len(rows) == len(states.t) - 1
    for k, row in enumerate(rows):
        size = 5e-15 * (1 + sum(map(abs, [row.keep, *row.x0.values(), *row.eps.values()])))
        signal = row.keep * states.alpha[row.anchor] + sum(row.x0.values())
        noise = math.hypot(row.keep * states.sigma[row.anchor] + sum(row.eps.values()), row.noise)
        assert signal == pytest.approx(states.alpha[k + 1], rel=0, abs=size)
        assert noise == pytest.approx(states.sigma[k + 1], rel=0, abs=size)
        assert row.anchor <= k and all(j <= k for j in (*row.x0, *row.eps))


@LAW
@given(nodes(clean=False))
def test_ddpm_with_the_large_variance_adds_beta_and_not_beta_tilde(n):
    for k, row in enumerate(solvers.ddpm(n).rows[:-1]):
        beta, share = 1 - (n.alpha[k] / n.alpha[k + 1]) ** 2, (n.sigma[k + 1] / n.sigma[k]) ** 2
        variance = (row.keep * n.sigma[k]) ** 2 + row.noise**2
        assert variance == pytest.approx(n.sigma[k + 1] ** 2 + beta * (1 - share), rel=1e-13)


def integral(form: str, eta: float, n: Nodes, k: int, q: int) -> float:
    """What row k must make of the prediction (lam - lam_k)^q."""
    s, t, p = float(n.lam[k]), float(n.lam[k + 1]), 1 + eta
    if form == "x0":
        return float(n.alpha[k + 1]) * float(quad(lambda x: p * exp(-p * (t - x)) * (x - s) ** q, [s, t]))
    return -float(n.sigma[k + 1]) * float(quad(lambda x: exp(t - x) * (x - s) ** q, [s, t]))


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("v", [replace(TAYLOR, eta=0.0), replace(TAYLOR, form="eps"), replace(TAYLOR, eta=0.6), SDE], ids=str)
def test_an_order_integrates_its_powers(v, order):
    """A row of order p is exact for predictions that are polynomials of degree p - 1 in lam (midpoint: but for order 2)."""
    v = replace(v, second="taylor")
    n = of_u(np.zeros(5), np.exp(-np.array([-2.1, -1.5, -0.2, 0.9, 1.7])))
    row = multistep(n, v, order).rows[3]
    weights = row.x0 or row.eps
    for q in range(order):
        found = sum(w * (n.lam[j] - n.lam[3]) ** q for j, w in weights.items())
        assert found == pytest.approx(integral(v.form, v.eta, n, 3, q), rel=1e-13)


def test_the_public_third_order_misses_half_of_its_last_power():
    n = of_u(np.zeros(5), np.exp(-np.array([-2.1, -1.5, -0.2, 0.9, 1.7])))
    exact, public = (sum(w * (n.lam[j] - n.lam[3]) ** 2 for j, w in multistep(n, v, 3).rows[3].x0.items()) for v in (OURS, PUBLIC))
    h, h1 = n.lam[4] - n.lam[3], n.lam[3] - n.lam[2]
    lost = n.alpha[4] * h * phi(3, -h) * h**2  # of c_2 tau^2, which is (lam - lam_k)^2 / h^2 for c_2 = 1
    assert exact - public == pytest.approx(lost, rel=1e-12) and h1 > 0


@pytest.mark.parametrize("form", ["x0", "eps"])
@pytest.mark.parametrize("basis", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc_corrects_by_one_order(form, basis, order):
    """The predictor is exact to degree p - 1, the corrector to degree p; where rho is 1/2 they come near it alone."""
    n = of_u(np.zeros(5), np.exp(-np.array([-2.1, -1.5, -0.2, 0.9, 1.7])))
    _, predictor, corrector = solvers._unipc_step(n, Variant(form=form, basis=basis), 3, order)
    for weights, degrees, fixed in ((predictor, order, 2), (corrector, order + 1, 1)):
        for q in range(degrees):
            found = sum(w * (n.lam[j] - n.lam[3]) ** q for j, w in weights.items())
            near = q == 1 and order == fixed
            assert found == pytest.approx(integral(form, 0.0, n, 3, q), rel=0.5 if near else 1e-12)


@LAW
@given(nodes(), st.sampled_from((0.0, 1.0)))
def test_first_order_is_ddim_in_every_family(n, eta):
    noise = np.random.default_rng(3).standard_normal(20)
    want = run(ddim(n, Variant(eta=eta)), 0.8, curved, lambda k: noise[k])
    euler = [heun(n.at([k, k + 1])).rows[0] for k in range(n.steps)]  # the first call of each step
    euler = [row._replace(anchor=k, eps={k: row.eps[0]}) for k, row in enumerate(euler)]
    same = [multistep(n, OURS, 1), multistep(n, EPS, 1), Path(n, euler)]
    for path in same if eta == 0 else [multistep(n, SDE, 1)]:
        assert run(path, 0.8, curved, lambda k: noise[k]) == pytest.approx(want, rel=1e-11)


def close(a: dict[int, float], b: dict[int, float]) -> None:
    assert {j: w for j, w in a.items() if abs(w) > 1e-13} == pytest.approx({j: w for j, w in b.items() if abs(w) > 1e-13}, rel=1e-9)


@LAW
@given(nodes(4, clean=False))
def test_solvers_that_are_one_another(n):
    predictor2 = solvers._unipc_step(n, OURS, 3, 2)[1]
    close(predictor2, multistep(n, OURS, 2).rows[3].x0)
    for basis in ("bh1", "bh2"):
        close(solvers._unipc_step(n, Variant(basis=basis), 3, 3)[1], multistep(n, OURS, 3).rows[3].x0)
    assert multistep(n.at([0, 1]), OURS, 2).rows == multistep(n.at([0, 1]), OURS, 1).rows
    assert multistep(n.at([0, 1, 2]), OURS, 3).rows == multistep(n.at([0, 1, 2]), OURS, 2).rows
    assert not any(row.noise for row in (*multistep(n, OURS, 2).rows, *ddim(n).rows))
    to_clean = Nodes(n.t[:2], np.array([n.alpha[0], 1]), np.array([n.sigma[0], 0]))
    assert run(heun(to_clean), 0.8, curved) == pytest.approx(run(ddim(to_clean), 0.8, curved), rel=1e-12)


def test_equal_steps_of_2m_have_weights_of_adams_bashforth():
    n = of_u(np.zeros(4), np.exp(-np.arange(-1.0, 1.0, 0.5)))
    g = n.alpha[3] * (1 - math.exp(-0.5))
    assert multistep(n, OURS, 2).rows[2].x0 == pytest.approx({2: 3 * g / 2, 1: -g / 2}, rel=1e-13)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0, "small", "large"])
def test_ddim_and_ddpm_are_those_of_the_samplers(eta):
    ddpm = isinstance(eta, str)
    plan = make_plan(DiffusionConfig(), 10, sampler="ddpm", variance=eta) if ddpm else make_plan(DiffusionConfig(), 10, eta=eta)
    c = samplers.coefficients(plan)
    ab = np.append(c["alpha_bar"], 1.0)
    n = Nodes(np.zeros(11), np.sqrt(ab), np.sqrt(1 - ab))
    rows = (solvers.ddpm(n, Variant(variance=eta)) if ddpm else ddim(n, Variant(eta=eta))).rows
    for k, row in enumerate(rows):
        found = (row.x0[k], row.keep, row.eps.get(k, 0.0), row.noise)
        want = [c[name][k] for name in ("prev_from_x0", "prev_from_x", "prev_from_eps", "sigma")]
        assert found == pytest.approx(want, rel=1e-11, abs=1e-15)


@pytest.mark.parametrize("name", ORDERS)
def test_order_under_a_gaussian(name):
    solver, order = ORDERS[name]
    assert slopes(Gaussian(), solver, (192, 384, 768)) == pytest.approx([order, order], abs=0.15)


def test_the_page_has_what_is_measured():
    text = (ROOT / "results" / "orders.md").read_text()
    lines = [orders.ours("dpmpp_3m"), orders.public("DPM-Solver++(3M)"), orders.stochastic("3m_sde of diffusers"),
             orders.on_even("pndm")]
    assert all(orders.table([], [line]).splitlines()[-1] in text for line in lines)
    assert orders.public("DPM-Solver++(3M)")[-1] == "**1.96**" and orders.ours("dpmpp_3m")[3] == "3.01"


@pytest.mark.parametrize("name", ["ddim", "heun", "plms", "dpmpp_2s", "dpmpp_2m", "dpmpp_3m", "public 3m", "unipc_2", "unipc_3"])
def test_order_under_two_gaussians(name):
    solver, order = ORDERS[name]
    assert slopes(TwoGaussians(), solver, (192, 384)) == pytest.approx([order], abs=0.4 if order > 2 else 0.15)


@pytest.mark.parametrize("name", ["plms", "pndm"])
def test_order_of_pndm_on_its_own_grid(name):
    """Equal steps in t, as its weights want them."""
    assert orders.even(name)[1] == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize("name", VARIANCES)
def test_variance_of_stochastic_solvers(name):
    solver, order = VARIANCES[name]
    assert variance_slopes(solver, (128, 256, 512)) == pytest.approx([order, order], abs=0.2)


@pytest.mark.parametrize("name", ["ddim", "heun", "dpmpp_2m", "dpmpp_3m", "unipc_2", "deis_2"])
def test_a_path_run_back_is_encoding(name):
    """From alpha_bars[0] to noise, and again to the image: the loss falls with the solver's order."""
    solver, order = ORDERS[name]
    law, lost = Gaussian(), []
    for steps in (96, 192):
        n = karras(steps)
        noise = run(solver(n.at(list(range(steps, -1, -1)))), 0.4, law.predict)
        lost.append(abs(run(solver(n), noise, law.predict) - 0.4))
    assert math.log2(lost[0] / lost[1]) > order - 0.3


def by_hand(name: str, lam: list, m: list) -> list:
    """Two or more steps from x = 0.7, in 40 digits, from the papers' formulas. `m` are the predictions x0 of the calls, whatever x
    they are of; eps follows from the state that each call sees. Returns every state."""
    alpha = [1 / sqrt(1 + exp(-2 * x)) for x in lam]
    sigma = [exp(-x) * a for x, a in zip(lam, alpha, strict=True)]
    u = [s / a for s, a in zip(sigma, alpha, strict=True)]
    xs = [mpf("0.7")]

    def eps(x, k, call):
        return (x - alpha[k] * m[call]) / sigma[k]

    def to(k, x, e_mean, s):  # DDIM's step from node s with a given eps
        return alpha[k] * (x / alpha[s] + (u[k] - u[s]) * e_mean)

    h = [b - a for a, b in pairwise(lam)]
    x0 = xs[0]
    x1 = alpha[1] * m[0] + sigma[1] * eps(x0, 0, 0)
    if name == "ddim":
        return [x0, x1, alpha[2] * m[1] + sigma[2] * eps(x1, 1, 1)]
    if name == "dpmpp_2m":
        d = (1 + h[1] / (2 * h[0])) * m[1] - h[1] / (2 * h[0]) * m[0]  # DPM-Solver++ algorithm 2
        return [x0, x1, sigma[2] / sigma[1] * x1 - alpha[2] * (exp(-h[1]) - 1) * d]
    if name == "dpmpp_2s":  # algorithm 1: the middle is node 1
        r = h[0] / (h[0] + h[1])
        d = (1 - 1 / (2 * r)) * m[0] + m[1] / (2 * r)
        return [x0, x1, sigma[2] / sigma[0] * x0 - alpha[2] * (exp(-h[0] - h[1]) - 1) * d]
    if name == "heun":  # EDM algorithm 2: calls at node 0, 1, 1, 2
        d0, d1 = eps(x0, 0, 0), eps(x1, 1, 1)
        y1 = alpha[1] * (x0 / alpha[0] + (u[1] - u[0]) * (d0 + d1) / 2)
        d2 = eps(y1, 1, 2)
        y2 = to(2, y1, d2, 1)
        return [x0, x1, y1, y2, alpha[2] * (y1 / alpha[1] + (u[2] - u[1]) * (d2 + eps(y2, 2, 3)) / 2)]
    if name == "plms":
        e0, e1 = eps(x0, 0, 0), eps(x1, 1, 1)
        y1 = to(1, x0, (e0 + e1) / 2, 0)
        return [x0, x1, y1, to(2, y1, (3 * eps(y1, 1, 2) - e0) / 2, 1)]
    if name == "dpmpp_2m_sde":
        y1 = sigma[1] / sigma[0] * exp(-h[0]) * x0 + alpha[1] * (1 - exp(-2 * h[0])) * m[0]
        d = m[1] + h[1] / (2 * h[0]) * (m[1] - m[0])
        return [x0, y1, sigma[2] / sigma[1] * exp(-h[1]) * y1 + alpha[2] * (1 - exp(-2 * h[1])) * d]
    # UniPC with B(h) = e^q - 1, q = -h: order 1, corrected at the second call (rho = 1/2), then order 2 (rho_1 = 1/2)
    b = exp(-h[0]) - 1
    corrected = x1 - alpha[1] * b * (m[1] - m[0]) / 2
    b, r = exp(-h[1]) - 1, -h[0] / h[1]
    return [x0, x1, sigma[2] / sigma[1] * corrected - alpha[2] * b * m[1] - alpha[2] * b * (m[0] - m[1]) / r / 2]


@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m", "dpmpp_2s", "heun", "plms", "dpmpp_2m_sde", "unipc_2"])
def test_two_steps_by_hand(name):
    """Nodes lam = -1, 1/4, 1; x0 = 0.3, -0.2, 0.5, 0.1 whatever the state."""
    with mp.workdps(40):
        said = [mpf(3) / 10, mpf(-2) / 10, mpf(5) / 10, mpf(1) / 10]
        want = [float(x) for x in by_hand(name, [mpf(-1), mpf(1) / 4, mpf(1)], said)]
    path = EVERY[name](of_u(np.zeros(3), np.exp(-np.array([-1, 0.25, 1]))))
    states, x0s, epss = [0.7], [], []
    for k, row in enumerate(path.rows):
        x0s.append(float(said[k]))
        epss.append((states[k] - path.states.alpha[k] * x0s[k]) / path.states.sigma[k])
        states.append(row.keep * states[row.anchor] + sum(w * x0s[j] for j, w in row.x0.items())
                      + sum(w * epss[j] for j, w in row.eps.items()))
    assert states == pytest.approx(want, rel=1e-13)


def test_pndm_by_hand():
    """Its first and its first multistep step, by equations 11 to 13 of the paper, with eps 0.1, 0.2, .. at its calls."""
    n = of_u(np.zeros(9), np.exp(-np.array([-3, -2.4, -2, -1.5, -0.9, -0.1, 0.6, 1.0, 1.8])))
    ab, e = n.alpha**2, [0.1 * (k + 1) for k in range(14)]

    def phi11(x, slope, s, t):
        down = math.sqrt(ab[s]) * (math.sqrt((1 - ab[t]) * ab[s]) + math.sqrt((1 - ab[s]) * ab[t]))
        return math.sqrt(ab[t] / ab[s]) * x - (ab[t] - ab[s]) / down * slope

    path = pndm(n)
    states = [0.7]
    for row in path.rows:
        states.append(row.keep * states[row.anchor] + sum(w * e[j] for j, w in row.eps.items()))
    assert len(path.rows) == 14 and not any(row.x0 for row in path.rows)
    want = [phi11(0.7, e[0], 0, 1), phi11(0.7, e[1], 0, 1), phi11(0.7, e[2], 0, 2),
            phi11(0.7, (e[0] + 2 * e[1] + 2 * e[2] + e[3]) / 6, 0, 2)]
    assert states[1:5] == pytest.approx(want, rel=1e-13)
    mean = (55 * e[12] - 59 * e[8] + 37 * e[4] - 9 * e[0]) / 24
    assert states[13] == pytest.approx(phi11(states[12], mean, 6, 7), rel=1e-13)


def test_a_third_step_by_hand():
    """3M and UniPC-3 of order 3 by the integral over the parabola through three predictions, in 40 digits."""
    with mp.workdps(40):
        lam, m = [mpf(-1), mpf(1) / 4, mpf(1), mpf(3) / 2], [mpf("0.3"), mpf("-0.2"), mpf("0.5")]

        def parabola(x):
            return sum(m[j] * math.prod((x - lam[i]) / (lam[j] - lam[i]) for i in range(3) if i != j) for j in range(3))

        alpha = 1 / sqrt(1 + exp(-2 * lam[3]))
        want = float(alpha * quad(lambda x: exp(x - lam[3]) * parabola(x), [lam[2], lam[3]]))
        n = of_u(np.zeros(4), np.exp(-np.array([float(x) for x in lam])))
        u3 = float(log(exp(-lam[3])))
    assert n.lam[3] == pytest.approx(-u3)
    row = multistep(n, OURS, 3).rows[2]
    assert sum(w * float(m[j]) for j, w in row.x0.items()) == pytest.approx(want, rel=1e-13)
    predictor = solvers._unipc_step(n, OURS, 2, 3)[1]
    assert sum(w * float(m[j]) for j, w in predictor.items()) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("i", [1, 2, 3, 4])
@pytest.mark.parametrize("q", [-30.0, -1.0, -0.999, -1e-9, 0.0, 0.4, 7.0])
def test_phi_is_its_integral(i, q):
    with mp.workdps(30):
        want = float(quad(lambda x: exp((1 - x) * q) * x ** (i - 1) / math.factorial(i - 1), [0, 1]))
    assert phi(i, q) == pytest.approx(want, rel=1e-13)


def test_paths_of_fewer_steps_are_lowered_and_those_of_as_many_are_not():
    """`lower_below` is the first number of steps that keeps its orders."""
    states = of_u(np.arange(7.0), np.geomspace(10, 0.1, 7))  # 6 steps
    plain, same, lowered = (dpmpp_2s(states, Variant(lower_below=below)).rows for below in (0, 6, 7))
    assert plain == same != lowered
