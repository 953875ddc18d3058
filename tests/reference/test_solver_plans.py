"""Plans of the fast solvers: every code's grid, the loop with all objectives, and what is refused."""

from __future__ import annotations

import math
import re
import weakref
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from reference import grids, schedules, solving
from reference.config import ConfigError, DiffusionConfig
from reference.conventions import make_plan
from reference.grids import on_schedule, position
from reference.rows import MORE_LAGS, Variant
from reference.samplers import sample
from reference.scheduler import Scheduler
from reference.solver_config import from_scheduler
from reference.solver_plans import CODES, FROM_ZERO, SOURCES, base, make_solver_plan
from reference.solvers import SOLVERS
from reference.solving import solve

LINEAR = DiffusionConfig()
ALPHA_BARS = schedules.alpha_bars(schedules.betas(LINEAR))
ALL = [(convention, sampler) for convention, codes in CODES.items() for sampler in codes]


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def told(sampler: str, convention: str, spacing: str, steps: int = 10, diffusion: DiffusionConfig = LINEAR) -> list[float]:
    return [round(t, 1) for t in make_solver_plan(diffusion, steps, sampler=sampler, convention=convention, spacing=spacing).t[:-1]]


@pytest.mark.parametrize("sampler, convention, spacing, want", [
    ("heun", "diffusers", "leading", list(range(900, -1, -100))), ("plms", "diffusers", "leading", list(range(900, -1, -100))),
    ("dpmpp_2m", "diffusers", "leading", list(range(900, 0, -90))),
    ("heun", "diffusers", "linspace", list(range(999, -1, -111))), ("heun", "k_diffusion", "linspace", list(range(999, -1, -111))),
    ("unipc_2", "diffusers", "linspace", [999, 899, 799, 699, 599, 500, 400, 300, 200, 100]),
    ("dpmpp_2m", "diffusers", "trailing", list(range(999, 0, -100))),
    ("dpmpp_2m", "plain", "trailing", list(range(999, 0, -100))),
    ("dpmpp_2m", "diffusers", "log_snr", [999, 886, 757, 603, 410, 202, 73, 22, 5, 0]),
    ("dpmpp_2m", "plain", "karras", [999, 936.9, 863.8, 775.1, 662.6, 510.7, 301.0, 102.2, 18.3, 0]),
    ("heun", "k_diffusion", "karras", [999, 936.9, 863.8, 775.1, 662.6, 510.7, 301.0, 102.2, 18.3, 0]),
    ("unipc_3", "diffusers", "karras", [999, 937, 864, 775, 663, 511, 301, 102, 18, 0]),
    ("dpmpp_2m", "dpm_solver", "time_uniform", [round(999 * (1 - i / 10), 1) for i in range(10)]),
])
def test_what_the_network_is_told(sampler, convention, spacing, want):
    """T = 1000, S = 10, as read off the codes' own runs."""
    assert [t + 0.0 for t in told(sampler, convention, spacing)] == want  # -0.0 is 0


def test_five_steps_of_heun_lie_between_timesteps():
    assert told("heun", "diffusers", "linspace", 5) == [999, 749.2, 499.5, 249.8, 0]


def test_cosine_starts_later_in_the_code_of_dpm_solver():
    """lam >= -5.1 leaves out the noisiest timesteps, and the network is told multiples of 1000 / T' of the T' that are left."""
    cosine = DiffusionConfig(schedule="cosine")
    bars = schedules.alpha_bars(schedules.betas(cosine))
    left = int(np.sum(np.log(np.sqrt(bars / (1 - bars))) >= -5.1))
    plan = make_solver_plan(cosine, 10, sampler="dpmpp_2m", convention="dpm_solver")
    assert 0 < 1000 - left < 20 and plan.t[0] == pytest.approx((left - 1) * 1000 / left)
    assert plan.alpha[0] == pytest.approx(math.sqrt(bars[left - 1]), rel=1e-12)


@pytest.mark.parametrize("between", grids.BETWEEN)
def test_positions_are_found_again(between):
    t = np.array([999, 998.25, 731.5, 300, 12.75, 0.5, 0])
    nodes = on_schedule(t, ALPHA_BARS, between)
    assert position(nodes.sigma / nodes.alpha, ALPHA_BARS, between) == pytest.approx(t, abs=1e-9)
    whole = on_schedule(np.array([999.0, 300, 0]), ALPHA_BARS, between)
    assert whole.alpha == pytest.approx(np.sqrt(ALPHA_BARS[[999, 300, 0]]), rel=1e-13)


@pytest.mark.parametrize("convention, sampler", [("unipc", "unipc_2"), ("dpm_solver", "dpmpp_2m")])
def test_grids_of_the_authors_codes_are_even_in_what_their_names_say(convention, sampler):
    """S + 1 states, the end among them: in time (t + 1) / T from 1 to 1 / T, in its root, and in the log-SNR."""
    plans = {rule: make_solver_plan(LINEAR, 10, sampler=sampler, convention=convention, spacing=rule)
             for rule in ("time_uniform", "time_quadratic", "log_snr")}
    time = {rule: (np.array(plan.t) + 1) / 1000 for rule, plan in plans.items()}
    assert time["time_uniform"] == pytest.approx(np.linspace(1, 1e-3, 11), rel=1e-12)
    assert np.sqrt(time["time_quadratic"]) == pytest.approx(np.linspace(1, 1e-3**0.5, 11), rel=1e-12)
    lam = np.log(plans["log_snr"].alpha) - np.log(plans["log_snr"].sigma)
    ends = np.log(ALPHA_BARS[[999, 0]] / (1 - ALPHA_BARS[[999, 0]])) / 2
    assert lam == pytest.approx(np.linspace(*ends, 11), rel=1e-9)


@pytest.mark.parametrize("schedule, of_dpm", [("linear", np.round), ("cosine", np.floor)])
def test_levels_between_timesteps_are_told_as_whole_ones(schedule, of_dpm):
    """By DPMSolverMultistepScheduler rounded, but cut with squaredcos_cap_v2, as its `set_timesteps` has it; by UniPC's rounded."""
    process = replace(LINEAR, schedule=schedule)
    real = make_solver_plan(process, 10, sampler="dpmpp_2m", spacing="karras").t[1:-2]
    for sampler, whole in (("dpmpp_2m", of_dpm), ("unipc_2", np.round)):
        told_ = make_solver_plan(process, 10, sampler=sampler, convention="diffusers", spacing="karras").t[1:-2]
        assert told_ == tuple(whole(real)), sampler
    assert tuple(np.floor(real)) != tuple(np.round(real))


def test_levels_are_even_in_what_they_say():
    u = grids.karras(0.01, 150.0, 9)
    assert np.diff(u ** (1 / 7)) == pytest.approx([np.diff(u ** (1 / 7))[0]] * 8, rel=1e-12)
    assert np.diff(np.log(grids.log_snr(0.01, 150.0, 9))) == pytest.approx([math.log(0.01 / 150) / 8] * 8, rel=1e-12)
    assert (u[0], u[-1]) == pytest.approx((150, 0.01), rel=1e-12)


def test_middles_halve_the_log_snr_of_2s_and_the_time_of_pndm():
    nodes = make_solver_plan(LINEAR, 5, sampler="dpmpp_2s", spacing="trailing")
    lam = np.log(nodes.alpha[:-1]) - np.log(nodes.sigma[:-1])
    assert len(lam) == 9 and lam[1::2] == pytest.approx((lam[:-1:2] + lam[2::2]) / 2, rel=1e-12)
    pndm = make_solver_plan(LINEAR, 5, sampler="pndm", spacing="trailing")
    assert pndm.t == (999, 899, 799, 699, 599, 499, 399, 199, -1)


CALLS = {"heun": 19, "plms": 11, "pndm": 19, "dpmpp_2s": 19}


@pytest.mark.parametrize("convention, sampler", ALL)
@pytest.mark.parametrize("objective", ["eps", "x0", "v"])
def test_data_at_one_point_is_reached(convention, sampler, objective):
    """q(x_0) is one point: every code's path gives it back, or the state at alpha_bars[0] where it ends there."""
    diffusion = replace(LINEAR, objective=objective)
    if objective == "v" and sampler in ("plms", "pndm") and convention == "diffusers":
        with pytest.raises(ConfigError, match="averages v"):
            make_solver_plan(diffusion, 10, sampler=sampler, convention=convention)
        return
    plan = make_solver_plan(diffusion, 10, sampler=sampler, convention=convention)
    states, rows = plan.path
    calls = iter(range(len(rows)))

    def network(x, t):
        k = next(calls)
        alpha, sigma = states.alpha[k], states.sigma[k]
        assert t == pytest.approx(states.t[k], abs=1e-4)
        eps = (x - alpha * 0.3) / sigma
        return {"eps": eps, "x0": np.full_like(x, 0.3), "v": alpha * eps - sigma * 0.3}[objective]

    x = normal(0, 2, 1, 2, 2)
    out = solve(network, x, plan, lambda k: 0 * x)
    assert len(rows) == CALLS.get(sampler, 10) if convention == "plain" else True
    if plan.sigma[-1] == 0:
        assert out == pytest.approx(np.full_like(x, 0.3), abs=1e-11)
    else:
        kept = plan.sigma[-1] / plan.sigma[0] * (plan.start * x - plan.alpha[0] * 0.3)
        assert out == pytest.approx(plan.alpha[-1] * 0.3 + kept, abs=1e-11)


@pytest.mark.parametrize("convention, sampler", [pair for pair in ALL if pair[1] != "ddpm"])
def test_rows_of_every_code_and_spacing_carry_a_point_and_its_noise(convention, sampler):
    """alpha and sigma of the next state, to 5e-15 of the largest term."""
    for spacing in grids.GRIDS[CODES[convention][sampler].grid][1]:
        for steps, schedule in product((4, 10, 16, 50), ("linear", "cosine")):
            states, rows = make_solver_plan(replace(LINEAR, schedule=schedule), steps, sampler=sampler, convention=convention,
                                            spacing=spacing).path
            for k, row in enumerate(rows):
                signal = [row.keep * states.alpha[row.anchor], *row.x0.values()]
                noise = [row.keep * states.sigma[row.anchor], *row.eps.values()]
                size = 5e-15 * (1 + sum(map(abs, signal + noise)))
                assert abs(sum(signal) - states.alpha[k + 1]) < size, (spacing, steps, k)
                assert abs(math.hypot(sum(noise), row.noise) - states.sigma[k + 1]) < size, (spacing, steps, k)


@pytest.mark.parametrize("sampler", sorted(CODES["plain"]))
def test_objectives_agree_and_clipping_holds(sampler):
    """The same denoiser as eps, x0 and v; clipped to 0.2 the image lies in +-0.2."""
    outs = []
    for objective in ("eps", "x0", "v"):
        plan = make_solver_plan(replace(LINEAR, objective=objective), 6, sampler=sampler, clip=0.2)
        calls = iter(range(99))
        states = plan.path.states

        def network(x, t, calls=calls, states=states, objective=objective):
            k = next(calls)
            alpha, sigma = states.alpha[k], states.sigma[k]
            x0 = np.tanh(1.2 * x + 0.1)
            eps = (x - alpha * x0) / sigma
            return {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0}[objective]

        outs.append(solve(network, normal(1, 2, 1, 2, 2), plan, lambda k: normal(9 + k, 2, 1, 2, 2)))
    assert outs[1] == pytest.approx(outs[0], rel=1e-9, abs=1e-12) and outs[2] == pytest.approx(outs[0], rel=1e-9, abs=1e-12)
    assert np.abs(outs[0]).max() <= 0.2 + 1e-12 or sampler in ("heun", "plms", "pndm")  # their last e is a mean


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_ddim_is_the_path_of_the_samplers(eta):
    def network(x, t):
        return np.tanh(x + np.sin(t[0] / 99))

    def noise(k):
        return normal(50 + k, 2, 1, 2, 2)

    x = normal(2, 2, 1, 2, 2)
    want = sample(network, x, make_plan(LINEAR, 10, eta=eta), noise)
    assert solve(network, x, make_solver_plan(LINEAR, 10, sampler="ddim", eta=eta), noise) == pytest.approx(want, rel=1e-11)


@pytest.mark.parametrize("convention, sampler, fewest", [
    ("diffusers", "dpmpp_2m", 15), ("dpm_solver", "dpmpp_2m", 10), ("dpm_solver", "dpmpp_3m", 10), ("unipc", "unipc_2", math.inf),
    ("plain", "dpmpp_2m", 0)])
def test_codes_lower_their_orders_on_short_paths_alone(convention, sampler, fewest):
    """The last step of a path that ends above sigma = 0 is of order 1 below so many steps; UniPC's also has the last correction."""
    for steps in (9, 10, 14, 15, 50):
        plan = make_solver_plan(LINEAR, steps, sampler=sampler, convention=convention, final_alpha_bar="first",
                                spacing="trailing" if convention == "plain" else None)
        read = len(plan.path.rows[-1].x0)
        assert plan.sigma[-1] > 0 and read == (3 if sampler == "unipc_2" else 1 if steps < fewest else int(sampler[-2])), steps


def test_a_learned_variance_is_left_out_and_self_conditioning_told():
    learned = replace(LINEAR, variance="learned_range")
    seen = []

    def network(x, t, last):
        seen.append(last)
        return np.concatenate((np.full_like(x, 0.1), x), axis=1)

    plan = make_solver_plan(replace(learned, self_conditioning=True), 4, sampler="dpmpp_2m")
    out = solve(network, normal(3, 2, 1, 2, 2), plan)
    assert out.shape == (2, 1, 2, 2) and not seen[0].any() and seen[1].any()


@pytest.mark.parametrize("objective", ["eps", "x0"])
@pytest.mark.parametrize("sampler", sorted(CODES["plain"]))
def test_the_loop_holds_four_predictions(sampler, objective):
    """On a path of any length; three more in PNDM's start, whose first slopes wait for the end of it."""
    given: list[weakref.ref] = []
    most = 0

    def network(x, t):
        nonlocal most
        most = max(most, sum(ref() is not None for ref in given))
        given.append(weakref.ref(out := np.tanh(x)))
        return out

    plan = make_solver_plan(replace(LINEAR, objective=objective), 20, sampler=sampler)
    solve(network, normal(5, 1, 1, 2, 2), plan, lambda k: normal(k, 1, 1, 2, 2))
    assert len(given) >= 20 and most <= (7 if sampler == "pndm" else 4)


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m", "dpmpp_3m", "dpmpp_2m_sde"])
def test_solvers_that_start_from_zero_snr(sampler):
    diffusion = replace(LINEAR, objective="v", zero_terminal_snr=True)
    plan = make_solver_plan(diffusion, 5, sampler=sampler, spacing="trailing")
    assert plan.alpha[0] == 0 and all(math.isfinite(w) for row in plan.path.rows for w in (row.keep, *row.x0.values()))
    out = solve(lambda x, t: -0.4 * np.ones_like(x), normal(4, 1, 1, 2, 2), plan, lambda k: normal(k, 1, 1, 2, 2))
    assert np.isfinite(out).all()


def test_diffusers_puts_a_number_for_zero_snr():
    diffusion = replace(LINEAR, objective="v", zero_terminal_snr=True)
    plan = make_solver_plan(diffusion, 5, sampler="unipc_2", convention="diffusers")
    assert plan.alpha[0] == pytest.approx(2.0**-12, rel=1e-7)


ZERO = replace(LINEAR, objective="v", zero_terminal_snr=True)


@pytest.mark.parametrize("spacing, moved", [("leading", True), ("linspace", False), ("trailing", False)])
def test_a_files_offset_moves_the_leading_spacing_alone(spacing, moved):
    """Where the caller wants another spacing, nothing is said of its offset."""
    plans = [make_solver_plan(LINEAR, 10, sampler="dpmpp_2m", convention="diffusers", spacing=spacing, scheduler=Scheduler(
        "DPMSolverMultistepScheduler", solver={"timestep_spacing": "leading", "steps_offset": offset})) for offset in (0, 1)]
    assert np.subtract(plans[1].t, plans[0].t)[:-1].tolist() == [float(moved)] * 10


@pytest.mark.parametrize("diffusion, options, message", [
    (LINEAR, {"sampler": "dpmpp_3m", "steps": 2}, "steps=2: dpmpp_3m needs 3 <= S <= T=1000"),
    (LINEAR, {"sampler": "pndm", "steps": 3}, "steps=3: pndm needs 4 <= S"),
    (LINEAR, {"sampler": "heun", "steps": 1001}, "steps=1001: heun needs 1 <= S <= T=1000"),
    (LINEAR, {"sampler": "lms"}, "sampler='lms': convention plain has ddim, ddpm, heun"),
    (LINEAR, {"sampler": "plms", "convention": "k_diffusion"}, "sampler='plms': convention k_diffusion has heun, dpmpp_2m"),
    (LINEAR, {"sampler": "heun", "convention": "song2021"}, "convention='song2021': fast solvers have plain, diffusers"),
    (LINEAR, {"sampler": "heun", "eta": 0.5}, "eta=0.5: heun has no noise to scale"),
    (LINEAR, {"sampler": "ddim", "eta": 1.5}, "eta=1.5: must be in"),
    (LINEAR, {"sampler": "heun", "spacing": "sometimes"}, "spacing='sometimes': must be one of leading, linspace"),
    (LINEAR, {"sampler": "plms", "convention": "diffusers", "spacing": "linspace"}, "spacing='linspace': must be one of leading"),
    (LINEAR, {"sampler": "heun", "final_alpha_bar": "zero"}, "final_alpha_bar='zero': must be one or first"),
    (LINEAR, {"sampler": "heun", "steps_offset": 1, "spacing": "trailing"}, "steps_offset=1: moves the spacing leading alone"),
    (LINEAR, {"sampler": "heun", "steps": 1, "spacing": "karras"}, "steps=1: spacing karras needs two or more"),
    (LINEAR, {"sampler": "dpmpp_2m", "variant": {"order": 4}}, r"variant=\['order'\]: known are form"),
    (LINEAR, {"sampler": "dpmpp_2m", "variant": {"second": "third"}}, "second='third': must be one of midpoint, taylor"),
    (LINEAR, {"sampler": "dpmpp_2m_sde", "variant": {"form": "eps"}}, "form='eps': has no stochastic steps"),
    (LINEAR, {"sampler": "unipc_2", "convention": "diffusers", "variant": {"basis": "bh1"}}, "bh1': gives NaN in diffusers"),
    (LINEAR, {"sampler": "dpmpp_2s", "convention": "dpm_solver", "spacing": "log_snr", "steps": 9}, "steps=9: dpm-solver"),
    (LINEAR, {"sampler": "pndm", "convention": "diffusers", "steps": 8}, "steps=8: diffusers' Runge-Kutta steps"),
    (ZERO, {"sampler": "heun", "spacing": "trailing"}, "sampler='heun': has no first step from alpha_bar = 0"),
    (ZERO, {"sampler": "dpmpp_2m", "spacing": "karras"}, "spacing='karras': has no first level"),
    (ZERO, {"sampler": "heun", "convention": "k_diffusion"} | {"steps": 7}, "zero_terminal_snr=True: has no states between"),
    (ZERO, {"sampler": "pndm", "spacing": "linspace"}, "sampler='pndm': has no first step from alpha_bar = 0"),
    *[(ZERO, {"sampler": sampler, "spacing": "trailing"}, f"sampler='{sampler}': has no first step from alpha_bar = 0: use ddim")
      for sampler in ("plms", "pndm", "dpmpp_2s", "unipc_2", "unipc_3")],
    *[(ZERO, {"sampler": sampler, "spacing": "trailing", "variant": {"form": "eps"}},
       "form='eps': has no first step from alpha_bar = 0: use x0") for sampler in ("dpmpp_2m", "dpmpp_3m")],
    *[(ZERO, {"sampler": "unipc_2", "convention": "unipc", "spacing": spacing},
       "zero_terminal_snr=True: has no log alpha at its end, .*: use spacing leading, which convention plain has")
      for spacing in grids.GRIDS["unipc"][1]],
    *[(LINEAR, {"sampler": sampler, "eta": 0.5}, f"eta=0.5: {sampler} has no noise to scale: .* use ddim or dpmpp_2m_sde")
      for sampler in CODES["plain"] if sampler not in ("ddim", "dpmpp_2m_sde")],
    *[(LINEAR, {"sampler": sampler, "variant": {"eta": 0.5}}, f"eta=0.5: {sampler} has no stochastic steps: they are of ddim")
      for sampler in CODES["plain"] if sampler not in ("ddim", "dpmpp_2m_sde", "dpmpp_2m", "dpmpp_3m")],
    *[(LINEAR, {"sampler": "dpmpp_2m", "spacing": spacing, "final_alpha_bar": "first"},
       f"final_alpha_bar='first': is where spacing {spacing} has its last call already: use one or spacing trailing")
      for spacing in ("leading", "linspace", "quad", "karras", "log_snr")],
    (replace(LINEAR, objective="previous"), {"sampler": "dpmpp_2m"}, "objective='previous': is the mean of one step"),
    (replace(LINEAR, variance="learned_range"), {"sampler": "ddpm"}, "variance='learned_range': is per pixel"),
])
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_one_line_says_what_cannot_be(diffusion, options, message):
    """And nothing else: no warning of NumPy comes before it."""
    with pytest.raises(ConfigError, match=message) as error:
        make_solver_plan(diffusion, **({"steps": 10} | options))
    assert "\n" not in str(error.value)


def followed(said: str, options: dict) -> list[dict]:
    """The options with each of the ways that an error's last words name."""
    ways: list[dict] = [{"eta": None}] if "leave it out" in said else []
    plain = {"convention": "plain"} if said.endswith(", which convention plain has") else {}
    advice = re.search(r".*\buse (.*?)(, which convention plain has)?$", said)
    fixed = {"one": {"final_alpha_bar": "one"}, "fewer steps": {"steps": options["steps"] - 1},
             "an even number": {"steps": options["steps"] + 1}, **{code: {"convention": code} for code in CODES},
             **{sampler: {"sampler": sampler} for sampler in SOLVERS}}
    for way in advice[1].split(" or ") if advice else ():
        words = way.replace(" with ", " ").replace("=", " ").replace("S ", "steps ").split()
        pairs = fixed.get(way) or dict(zip(words[::2], words[1::2], strict=True))
        ways.append(plain | pairs | ({"steps": int(pairs["steps"])} if "steps" in pairs else {}))
    return [options | way for way in ways]


def refused(diffusion: DiffusionConfig, options: dict) -> str:
    """In which words; "" where it is not."""
    try:
        make_solver_plan(diffusion, **options)
    except ConfigError as error:
        return str(error)
    return ""


def test_the_advice_of_an_error_can_be_followed():
    """On every spacing of every code, with processes that some of them can't start from or end at; one mistake at a time."""
    jsd, seen = DiffusionConfig(schedule="jsd"), set()
    for diffusion, (convention, sampler) in product((LINEAR, ZERO, jsd, replace(LINEAR, objective="v")), ALL):
        spacings = (None, *grids.GRIDS[CODES[convention][sampler].grid][1])
        for spacing, more in product(spacings, ({}, {"final_alpha_bar": "first"}, {"eta": 0.5})):
            steps = 8 if sampler == "pndm" else 7  # of which T // S is odd, or the even path of a code's own
            options = {"sampler": sampler, "convention": convention, "spacing": spacing, "steps": steps}
            if more and refused(diffusion, options):
                continue
            if said := refused(diffusion, options | more):
                ways = followed(said, options | more)
                assert ways and not any(refused(diffusion, way) for way in ways), (options, more, said, ways)
                seen.add(said.partition("=")[0])
    assert seen == {"eta", "objective", "sampler", "spacing", "final_alpha_bar", "zero_terminal_snr", "steps"}


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("convention, sampler", ALL)
def test_zero_snr_warns_of_nothing(convention, sampler):
    """On every spacing of every code it is a path of finite numbers that starts above 0 where it must, or is refused."""
    for spacing in grids.GRIDS[CODES[convention][sampler].grid][1]:
        try:
            plan = make_solver_plan(ZERO, 10, sampler=sampler, convention=convention, spacing=spacing)
        except ConfigError:
            assert sampler not in FROM_ZERO or spacing in grids.LEVELS, spacing
            continue
        assert plan.alpha[0] > 0 or sampler in FROM_ZERO, spacing
        weights = [w for row in plan.path.rows for w in (row.keep, *row.x0.values(), *row.eps.values(), row.noise)]
        assert np.isfinite([*plan.t, *plan.alpha, *plan.sigma, *weights]).all(), spacing


@pytest.mark.parametrize("sampler", sorted(CODES["plain"]))
def test_default_spacing_of_ours(sampler):
    """Third orders and steps of two calls miss the image after a last step that is long in log-SNR (results/solver-grids.md)."""
    plan, T = make_solver_plan(LINEAR, 10, sampler=sampler), LINEAR.timesteps
    assert plan.t[0] == (T - 1 if sampler in ("heun", "dpmpp_2s", "dpmpp_3m", "unipc_3") else T - T // 10)
    assert plan == make_solver_plan(LINEAR, 10, sampler=sampler, spacing="trailing" if plan.t[0] == T - 1 else "leading")


@pytest.mark.parametrize("sampler, fewest", [("ddim", 1), ("ddpm", 1), ("heun", 1), ("plms", 2), ("pndm", 4), ("dpmpp_2s", 2),
                                             ("dpmpp_2m", 2), ("dpmpp_3m", 3), ("dpmpp_2m_sde", 2), ("unipc_2", 2), ("unipc_3", 3)])
def test_a_path_has_as_many_steps_as_the_solver_has_orders(sampler, fewest):
    """PNDM's has its three Runge-Kutta steps and one more."""
    assert len(make_solver_plan(LINEAR, fewest, sampler=sampler).t) > fewest
    with pytest.raises(ConfigError, match=f"steps={fewest - 1}: {sampler} needs {fewest} <= S"):
        make_solver_plan(LINEAR, fewest - 1, sampler=sampler)


OF_CODES = {  # what their readmes and sources say of each solver where it is not our default; whether a path ends at alpha_bar = 1
    ("dpm_solver", "dpmpp_2s"): ({}, False), ("dpm_solver", "dpmpp_2m"): ({"lower_below": 10}, False),
    ("dpm_solver", "dpmpp_3m"): ({"lower_below": 10, "third": "public"}, False),
    ("unipc", "unipc_2"): ({"basis": "bh1", "lower_below": math.inf}, False),
    ("unipc", "unipc_3"): ({"basis": "bh1", "lower_below": math.inf}, False),
    ("k_diffusion", "heun"): ({}, True), ("k_diffusion", "dpmpp_2m"): ({}, True),
    ("k_diffusion", "dpmpp_2m_sde"): ({"eta": 1.0}, True),
}


@pytest.mark.parametrize("convention, sampler", OF_CODES)
def test_what_the_authors_codes_choose(convention, sampler):
    """k-diffusion starts from x_T times the first sigma."""
    plan, (variant, clean) = make_solver_plan(LINEAR, 12, sampler=sampler, convention=convention), OF_CODES[convention, sampler]
    assert plan.variant == Variant(**variant) and (plan.sigma[-1] == 0) == clean
    assert plan.start == (plan.sigma[0] if convention == "k_diffusion" else 1)
    assert {pair for pair in ALL if pair[0] == convention} <= set(OF_CODES)


def test_what_the_caller_says_comes_before_the_file():
    file = Scheduler("DPMSolverMultistepScheduler", solver={
        "solver_type": "heun", "final_sigmas_type": "sigma_min", "use_karras_sigmas": True, "euler_at_final": True})
    caller = {"variant": {"second": "midpoint"}, "final_alpha_bar": "one", "spacing": "linspace"}
    said, asked = (make_solver_plan(LINEAR, 20, sampler="dpmpp_2m", convention="diffusers", scheduler=file, **choices)
                   for choices in ({}, caller))
    assert (said.variant.second, said.spacing, said.sigma[-1] > 0) == ("taylor", "karras", True)
    assert (asked.variant.second, asked.spacing, asked.sigma[-1] > 0) == ("midpoint", "linspace", False)
    assert said.variant.lower_last and asked.variant.lower_last  # of which nothing else was said


def test_a_null_switches_nothing_on_and_a_setting_has_its_own_type():
    """As in the JSON of many a folder."""
    dpm = {"_class_name": "DPMSolverMultistepScheduler"}
    assert from_scheduler(dpm | {"use_karras_sigmas": None, "thresholding": None}) == from_scheduler(dpm)
    for key, value, rule in (("solver_order", True, "must be of type int"), ("euler_at_final", 1, "must be of type bool"),
                             ("sample_max_value", "inf", "must be above 0 and finite")):
        with pytest.raises(ConfigError, match=f"^{key}=.*: {rule}$"):
            from_scheduler(dpm | {key: value})


def test_every_code_names_its_source():
    assert list(SOURCES) and set(SOURCES) == set(CODES)
    plan = make_solver_plan(LINEAR, 5, sampler="heun")
    assert hash(plan) == hash(make_solver_plan(LINEAR, 5, sampler="heun")) and plan != replace(plan, convention="diffusers")


def test_what_is_no_code_of_solvers_stays_as_it_is():
    """So that its name is refused where conventions are looked up."""
    assert base("nope") == "nope" and base("diffusers") == "diffusers" and {base(code) for code in CODES} >= {"plain"}


@pytest.mark.parametrize("solver", sorted(MORE_LAGS))
def test_rows_that_reach_far_back_say_how_far(solver):
    """The farthest prediction that any of its paths reads is the last one for which there is room."""
    rows = make_solver_plan(DiffusionConfig(), 20, sampler=solver).path.rows
    assert max(k - j for k, row in enumerate(rows) for of in (row.x0, row.eps) for j in of) == MORE_LAGS[solver] - 1


def test_ddpm_adds_no_noise_in_its_last_step_wherever_that_ends():
    plan = make_solver_plan(DiffusionConfig(), 5, sampler="ddpm", spacing="trailing", final_alpha_bar="first")
    noise = solving.coefficients(plan)["noise"]
    assert plan.sigma[-1] > 0 and (noise[:-1] > 0).all() and noise[-1] == 0


def test_rounded_timesteps_are_told_of_states_that_stay():
    real, whole = (make_solver_plan(DiffusionConfig(), 6, sampler="dpmpp_2m", spacing="karras", round_t=r) for r in (False, True))
    assert any(t % 1 for t in real.t) and whole.t == tuple(np.round(real.t)) and replace(whole, t=real.t) == real
