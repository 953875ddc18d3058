"""Fast solvers as diffusers has them: whole paths of its scheduler classes, which run in float64 here, against the oracle's."""

from __future__ import annotations

import importlib
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from reference import schedules, solver_plans
from reference.config import ConfigError, DiffusionConfig
from reference.solver_config import DEFAULTS, PROCESS, from_scheduler
from reference.solver_plans import SolverPlan, make_solver_plan
from reference.solving import solve

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

SDE, EPS = {"algorithm_type": "sde-dpmsolver++"}, {"algorithm_type": "dpmsolver"}
FIRST = {"final_sigmas_type": "sigma_min"}
MULTI, SINGLE, UNIPC, DEIS, HEUN, PNDM = DEFAULTS
SETTINGS = [
    *((name, settings) for name in (MULTI, UNIPC, DEIS, HEUN) for settings in (
        {}, {"use_karras_sigmas": True}, {"timestep_spacing": "trailing"}, {"timestep_spacing": "leading", "steps_offset": 1})),
    *((name, {"solver_order": 3} | settings) for name in (MULTI, UNIPC) for settings in ({}, {"use_karras_sigmas": True}, FIRST)),
    *((MULTI, settings) for settings in (
        FIRST, SDE, SDE | FIRST, SDE | {"solver_order": 3}, SDE | {"solver_type": "heun"}, EPS | FIRST,
        EPS | FIRST | {"solver_order": 3},
        {"solver_type": "heun"}, {"euler_at_final": True} | FIRST, {"lower_order_final": False} | FIRST, {"use_lu_lambdas": True},
        {"thresholding": True, "sample_max_value": 1.3, "dynamic_thresholding_ratio": 0.9})),
    *((SINGLE, settings) for settings in ({}, {"use_karras_sigmas": True}, FIRST, {"solver_type": "heun"}, EPS | FIRST)),
    *((UNIPC, settings) for settings in (FIRST, {"solver_type": "bh1"} | FIRST, {"predict_x0": False} | FIRST,
                                         {"lower_order_final": False} | FIRST)),
    (DEIS, {"solver_order": 3}), (DEIS, {"lower_order_final": False}),
    (HEUN, {"clip_sample": True, "clip_sample_range": 0.7}), (HEUN, {"use_exponential_sigmas": True}),
    *((PNDM, settings) for settings in ({}, {"skip_prk_steps": True}, {"steps_offset": 1}, {"set_alpha_to_one": True},
                                        {"skip_prk_steps": True, "steps_offset": 1})),
]


class Wide:
    """A module whose float32 is float64."""

    def __init__(self, module) -> None:
        self.module = module

    def __getattr__(self, name: str):
        return getattr(self.module, "float64" if name == "float32" else name)


def scheduler(monkeypatch, name: str, settings: dict, objective: str = "eps"):
    module = importlib.import_module(getattr(importlib.import_module("diffusers"), name).__module__)
    monkeypatch.setattr(module, "torch", Wide(torch))
    monkeypatch.setattr(module, "np", Wide(np))
    monkeypatch.setattr(solver_plans, "_process", lambda diffusion, convention: (diffusion, False))  # float64 tables
    betas = schedules.betas(DiffusionConfig())
    prediction = {"eps": "epsilon", "v": "v_prediction"}[objective]
    return getattr(module, name)(num_train_timesteps=1000, trained_betas=betas, prediction_type=prediction, **settings)


def output(x: np.ndarray, t: float) -> np.ndarray:
    return 0.8 * np.tanh(1.1 * x + 0.3 * math.sin(t / 170))


def read(theirs) -> tuple[str, dict]:
    """By `from_scheduler`, from the file that diffusers would write."""
    return from_scheduler(json.loads(theirs.to_json_string()))


def visited(by: str, plan: SolverPlan, x: np.ndarray, noise: np.ndarray) -> tuple[list[np.ndarray], list[float]]:
    """The states that the calls see and the last one, and the timesteps that they are told, of the oracle or of a backend's own
    rows and loop in float64."""
    states, told = [], []
    if by == "reference":
        def network(seen, t):
            states.append(seen)
            told.append(t[0])
            return output(seen, t[0])

        end = solve(network, x, plan, lambda k: noise[k])
        return [*states, end], told
    solving = pytest.importorskip(f"backends.{by}.solving", exc_type=ImportError)
    tensor, array = (torch.from_numpy, lambda v: v.numpy()) if by == "torch" else (
        importlib.import_module("mindspore").Tensor, lambda v: v.asnumpy())
    rows = solving.coefficients(plan)
    told = array(rows["network_t"]).tolist()

    def call(seen, k, x0):
        states.append(array(seen).copy())
        return tensor(output(states[-1], told[k]))

    end = solving.solve(call, tensor(x), plan, rows, lambda k: tensor(noise[k]))
    return [*states, array(end)], told


def compare(monkeypatch, name: str, settings: dict, steps: int, by: str, within: float) -> None:
    """Every state of the path in float64, and every timestep that the network is told, from the class's own file."""
    shape = (2, 1, 3, 3)
    x = np.random.default_rng(0).standard_normal(shape)
    noise = np.random.default_rng(1).standard_normal((99, *shape))
    for objective in ("eps", "v") if name != PNDM else ("eps",):
        theirs = scheduler(monkeypatch, name, settings, objective)
        sampler, options = read(theirs)
        count = {6: 5, 15: 20}[steps] if sampler == "pndm" else steps  # whose T // S is even
        theirs.set_timesteps(count)
        options = read(theirs)[1]  # the class may have changed a setting, and says so
        diffusion = replace(DiffusionConfig(), objective=objective)
        plan = make_solver_plan(diffusion, count, sampler=sampler, convention="diffusers", **options)
        (*got, end), told = visited(by, plan, x, noise)
        assert told == pytest.approx(theirs.timesteps.tolist(), abs=1e-6 if sampler != "heun" else 3e-5)  # Heun's are float32
        state = torch.from_numpy(x) * float(theirs.init_noise_sigma)
        for k, t in enumerate(theirs.timesteps):
            seen = theirs.scale_model_input(state, t)
            np.testing.assert_allclose(seen.numpy(), got[k], rtol=0, atol=within * max(1, float(seen.abs().max())))
            extra = {"variance_noise": torch.from_numpy(noise[k])} if plan.variant.eta else {}
            state = theirs.step(torch.from_numpy(output(got[k], told[k])), t, state, **extra).prev_sample
        np.testing.assert_allclose(state.numpy(), end, rtol=0, atol=within * max(1, float(state.abs().max())))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("steps", [6, 15])
@pytest.mark.parametrize("name, settings", SETTINGS, ids=lambda v: v if isinstance(v, str) else "-".join(map(str, v.values())))
def test_paths_of_diffusers_are_ours(monkeypatch, name, settings, steps):
    compare(monkeypatch, name, settings, steps, "reference", 1e-12)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("by, within", [("torch", 1e-10), ("mindspore", 3e-6)])  # which takes a Python number as float32
@pytest.mark.parametrize("name, settings", [
    (MULTI, {}), (MULTI, {"solver_order": 3}), (MULTI, SDE), (SINGLE, {}), (UNIPC, {"solver_order": 3}), (DEIS, {}), (HEUN, {}),
    (PNDM, {}), (PNDM, {"skip_prk_steps": True})], ids=lambda v: v if isinstance(v, str) else "-".join(map(str, v.values())))
def test_paths_of_diffusers_are_those_of_the_backends(monkeypatch, name, settings, by, within):
    """Of every class, by the backend's own rows and loop."""
    compare(monkeypatch, name, settings, 6, by, within)


def test_diffusers_unipc_gives_nan_where_we_refuse(monkeypatch):
    theirs = scheduler(monkeypatch, UNIPC, {"solver_type": "bh1"})
    theirs.set_timesteps(6)
    state = torch.ones(1, 1, 2, 2, dtype=torch.float64)
    for t in theirs.timesteps:
        state = theirs.step(state / 2, t, state).prev_sample
    sampler, options = read(theirs)
    assert bool(state.isnan().all())
    with pytest.raises(ConfigError, match="bh1': gives NaN"):
        make_solver_plan(DiffusionConfig(), 6, sampler=sampler, convention="diffusers", **options)


@pytest.mark.parametrize("name, settings", [
    (MULTI, {}), (MULTI, {"solver_order": 3}), (MULTI, SDE), (SINGLE, {}), (UNIPC, {}), (UNIPC, {"solver_order": 3}), (HEUN, {}),
    (PNDM, {"skip_prk_steps": True}), (PNDM, {})])
@pytest.mark.parametrize("steps", [10, 20])
def test_the_convention_is_what_the_classes_do_unsaid(name, settings, steps):
    sampler, options = from_scheduler({"_class_name": name} | settings)
    said, unsaid = (make_solver_plan(DiffusionConfig(), steps, sampler=sampler, convention="diffusers", **o) for o in (options, {}))
    assert said == unsaid


@pytest.mark.parametrize("name", DEFAULTS)
def test_every_key_of_a_class_is_known_with_its_default(name):
    """A file says all of them, and one with the class's name alone means the same."""
    theirs = json.loads(getattr(importlib.import_module("diffusers"), name)().to_json_string())
    known = {key: value for key, value in theirs.items() if not key.startswith("_") and key not in PROCESS}
    assert set(known) <= set(DEFAULTS[name])
    assert from_scheduler(theirs) == from_scheduler({"_class_name": name})


@pytest.mark.parametrize("config, message", [
    ({"_class_name": "LMSDiscreteScheduler"}, "_class_name='LMSDiscreteScheduler': fast solvers are DPM"),
    ({"_class_name": MULTI, "solver_rank": 3}, r"DPMSolverMultistepScheduler=\['solver_rank'\]: unknown keys"),
    ({"_class_name": MULTI, "solver_order": 1}, "solver_order=1: must be one of 2, 3"),
    ({"_class_name": MULTI, "algorithm_type": "sde-dpmsolver"}, "algorithm_type='sde-dpmsolver': must be one of dpmsolver"),
    ({"_class_name": MULTI, "use_beta_sigmas": True}, "use_beta_sigmas=True: only False is had here"),
    ({"_class_name": MULTI, "lambda_min_clipped": -5.1}, "lambda_min_clipped=-5.1: only -inf is had here"),
    ({"_class_name": MULTI, "use_exponential_sigmas": True}, "use_exponential_sigmas=True: cuts t"),
    ({"_class_name": MULTI, "use_karras_sigmas": True, "use_lu_lambdas": True}, "use_karras_sigmas=True: goes with no other rule"),
    ({"_class_name": MULTI, "final_sigmas_type": "one"}, "final_sigmas_type='one': must be one of zero, sigma_min"),
    ({"_class_name": SINGLE, "solver_order": 3}, "solver_order=3: must be one of 2"),
    ({"_class_name": UNIPC, "disable_corrector": [0]}, r"disable_corrector=\[0\]: only an empty list"),
    ({"_class_name": DEIS, "solver_type": "rho"}, "solver_type='rho': must be one of logrho"),
])
def test_a_file_that_says_something_else_is_refused_in_one_line(config, message):
    with pytest.raises(ConfigError, match=message) as error:
        from_scheduler(config)
    assert "\n" not in str(error.value)
