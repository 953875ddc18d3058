"""Fast solvers as diffusers has them: whole paths of its scheduler classes, which run in float64 here, against the oracle's."""

from __future__ import annotations

import importlib
import math
from dataclasses import replace

import numpy as np
import pytest

from reference import schedules, solver_plans
from reference.config import DiffusionConfig
from reference.solver_plans import make_solver_plan, solve

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

MULTISTEP = ("dpmsolver_multistep", "DPMSolverMultistepScheduler")
CLASSES = {
    "dpmpp_2m": (*MULTISTEP, {"solver_order": 2}), "dpmpp_3m": (*MULTISTEP, {"solver_order": 3}),
    "dpmpp_2m_sde": (*MULTISTEP, {"solver_order": 2, "algorithm_type": "sde-dpmsolver++"}),
    "dpmpp_2s": ("dpmsolver_singlestep", "DPMSolverSinglestepScheduler", {"solver_order": 2}),
    "unipc_2": ("unipc_multistep", "UniPCMultistepScheduler", {"solver_order": 2}),
    "unipc_3": ("unipc_multistep", "UniPCMultistepScheduler", {"solver_order": 3}),
    "heun": ("heun_discrete", "HeunDiscreteScheduler", {}),
    "plms": ("pndm", "PNDMScheduler", {"skip_prk_steps": True}), "pndm": ("pndm", "PNDMScheduler", {}),
}
SINGLE = {"lower_order_final": False, "final_sigmas_type": "sigma_min"}
SETTINGS = [
    *((name, {}, {}) for name in CLASSES),
    *((name, {"use_karras_sigmas": True}, {"spacing": "karras"}) for name in CLASSES if name not in ("plms", "pndm")),
    *((name, {"timestep_spacing": "trailing"}, {"spacing": "trailing"}) for name in ("heun", "dpmpp_2m", "unipc_3")),
    *((name, {"timestep_spacing": "leading", "steps_offset": 1}, {"spacing": "leading", "steps_offset": 1})
      for name in CLASSES if name != "dpmpp_2s"),
    *((name, {"final_sigmas_type": "sigma_min"}, {"final_alpha_bar": "first"})
      for name in ("dpmpp_2m", "dpmpp_3m", "dpmpp_2m_sde", "unipc_2", "unipc_3")),
    ("plms", {"set_alpha_to_one": True}, {"final_alpha_bar": "one"}),
    ("dpmpp_2s", SINGLE, {"final_alpha_bar": "first", "variant": {"lower_below": 0}}),
    ("dpmpp_2m", {"solver_type": "heun"}, {"variant": {"second": "taylor"}}),
    ("dpmpp_2m_sde", {"solver_type": "heun"}, {"variant": {"second": "taylor"}}),
    ("dpmpp_2m", {"euler_at_final": True, "final_sigmas_type": "sigma_min"},
     {"final_alpha_bar": "first", "variant": {"lower_last": True}}),
    ("dpmpp_2m", {"lower_order_final": False, "final_sigmas_type": "sigma_min"},
     {"final_alpha_bar": "first", "variant": {"lower_below": 0}}),
    ("dpmpp_2m", {"use_lu_lambdas": True}, {"spacing": "log_snr"}),
    ("dpmpp_3m", {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
     {"final_alpha_bar": "first", "variant": {"form": "eps"}}),
    ("dpmpp_2m", {"thresholding": True, "sample_max_value": 1.3}, {"clip": "dynamic:0.995:1.3"}),
    ("unipc_2", {"solver_type": "bh1", "final_sigmas_type": "sigma_min"},
     {"final_alpha_bar": "first", "variant": {"basis": "bh1"}}),
    ("unipc_2", {"predict_x0": False, "final_sigmas_type": "sigma_min"}, {"final_alpha_bar": "first", "variant": {"form": "eps"}}),
    ("heun", {"clip_sample": True, "clip_sample_range": 0.7}, {"clip": 0.7}),
]


class Wide:
    """A module whose float32 is float64."""

    def __init__(self, module) -> None:
        self.module = module

    def __getattr__(self, name: str):
        return getattr(self.module, "float64" if name == "float32" else name)


def scheduler(monkeypatch, sampler: str, settings: dict, objective: str):
    file, name, fixed = CLASSES[sampler]
    module = importlib.import_module(f"diffusers.schedulers.scheduling_{file}")
    monkeypatch.setattr(module, "torch", Wide(torch))
    monkeypatch.setattr(module, "np", Wide(np))
    monkeypatch.setattr(solver_plans, "_process", lambda diffusion, convention: (diffusion, False))  # float64 tables
    betas = schedules.betas(DiffusionConfig())
    prediction = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}[objective]
    return getattr(module, name)(num_train_timesteps=1000, trained_betas=betas, prediction_type=prediction, **(fixed | settings))


def output(x: np.ndarray, t: float) -> np.ndarray:
    return 0.8 * np.tanh(1.1 * x + 0.3 * math.sin(t / 170))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("steps", [6, 14, 15])
@pytest.mark.parametrize("sampler, settings, options", SETTINGS, ids=lambda v: v if isinstance(v, str) else "-".join(map(str, v)))
def test_paths_of_diffusers_are_ours(monkeypatch, sampler, settings, options, steps):
    """Every state of the path in float64, and every timestep that the network is told."""
    if "lower_order_final" in settings and sampler == "dpmpp_2s" and steps % 2:
        options = options | {"variant": {"lower_below": math.inf}}  # diffusers switches it on, and says so
    if sampler == "pndm" and 1000 // steps % 2:
        steps = 20  # the others are refused
    shape, got, told = (2, 1, 3, 3), [], []
    x = np.random.default_rng(0).standard_normal(shape)
    noise = np.random.default_rng(1).standard_normal((99, *shape))
    for objective in ("eps", "v") if sampler not in ("plms", "pndm") else ("eps",):
        theirs = scheduler(monkeypatch, sampler, settings, objective)
        diffusion = replace(DiffusionConfig(), objective=objective)
        plan = make_solver_plan(diffusion, steps, sampler=sampler, convention="diffusers", **options)
        got, told = [], []

        def network(seen, t, got=got, told=told):
            got.append(seen)
            told.append(t[0])
            return output(seen, t[0])

        end = solve(network, x, plan, lambda k: noise[k])
        theirs.set_timesteps(steps)
        assert told == pytest.approx(theirs.timesteps.tolist(), abs=1e-6 if sampler != "heun" else 3e-5)  # Heun's are float32
        state = torch.from_numpy(x) * float(theirs.init_noise_sigma)
        for k, t in enumerate(theirs.timesteps):
            seen = theirs.scale_model_input(state, t)
            np.testing.assert_allclose(seen.numpy(), got[k], rtol=0, atol=1e-12)
            extra = {"variance_noise": torch.from_numpy(noise[k])} if plan.variant.eta else {}
            state = theirs.step(torch.from_numpy(output(got[k], told[k])), t, state, **extra).prev_sample
        np.testing.assert_allclose(state.numpy(), end, rtol=0, atol=1e-12)


def test_diffusers_unipc_gives_nan_where_we_refuse(monkeypatch):
    theirs = scheduler(monkeypatch, "unipc_2", {"solver_type": "bh1"}, "eps")
    theirs.set_timesteps(6)
    state = torch.ones(1, 1, 2, 2, dtype=torch.float64)
    for t in theirs.timesteps:
        state = theirs.step(state / 2, t, state).prev_sample
    assert bool(state.isnan().all())
