"""What a `scheduler_config.json` of diffusers' fast schedulers says: which sampler it is, and the choices of `make_solver_plan`.

What the file says of the process (betas, prediction type) is in `DiffusionConfig`; what it says of files and versions is no choice.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

from .errors import require

Said = dict[str, Any]  # the file's keys, with the class's defaults where it is silent
PROCESS = {"num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type",
           "rescale_betas_zero_snr"}
DPM: Said = {"solver_order": 2, "thresholding": False, "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0,
             "solver_type": "midpoint", "lower_order_final": True, "use_karras_sigmas": False, "use_exponential_sigmas": False,
             "use_beta_sigmas": False, "use_flow_sigmas": False, "flow_shift": 1.0, "use_dynamic_shifting": False,
             "time_shift_type": "exponential"}
SPACED: Said = {"timestep_spacing": "linspace", "steps_offset": 0}
SINGLE: Said = DPM | {"algorithm_type": "dpmsolver++", "final_sigmas_type": "zero", "lambda_min_clipped": -math.inf,
                      "variance_type": None}
DEFAULTS: dict[str, Said] = {
    "DPMSolverMultistepScheduler": SINGLE | SPACED | {"euler_at_final": False, "use_lu_lambdas": False},
    "DPMSolverSinglestepScheduler": SINGLE | {"lower_order_final": False},
    "UniPCMultistepScheduler": DPM | SPACED | {"solver_type": "bh2", "predict_x0": True, "disable_corrector": (), "solver_p": None,
                                              "final_sigmas_type": "zero", "sigma_min": None, "sigma_max": None,
                                              "shift_terminal": None},
    "DEISMultistepScheduler": DPM | SPACED | {"algorithm_type": "deis", "solver_type": "logrho"},
    "HeunDiscreteScheduler": SPACED | {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False,
                                      "clip_sample": False, "clip_sample_range": 1.0},
    "PNDMScheduler": {"skip_prk_steps": False, "set_alpha_to_one": False, "timestep_spacing": "leading", "steps_offset": 0},
}
FIXED: Said = {  # settings that take one value here
    "use_beta_sigmas": False, "use_flow_sigmas": False, "use_dynamic_shifting": False, "solver_p": None, "sigma_min": None,
    "sigma_max": None, "shift_terminal": None, "lambda_min_clipped": -math.inf,
}


SPACINGS = {rule: rule for rule in ("leading", "linspace", "trailing")}


def from_scheduler(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """(sampler, choices) of a fast scheduler's file for `make_solver_plan` with convention `diffusers`.

    `config` is the JSON object. Raises `ConfigError` for a class, a key or a value that these solvers do not have.
    """
    name = config.get("_class_name")
    require(isinstance(name, str) and name in DEFAULTS, "_class_name", name, f"fast solvers are {', '.join(DEFAULTS)}")
    defaults = DEFAULTS[str(name)]
    given = {key: value for key, value in config.items() if not key.startswith("_") and key not in PROCESS}
    unknown = sorted(set(given) - set(defaults))
    require(not unknown, str(name), unknown, f"unknown keys; known are {', '.join(sorted(defaults))}")
    said = defaults | {key: _typed(key, value, defaults[key]) for key, value in given.items()}
    for key, value in FIXED.items():
        found: Any = said.get(key, value)
        require(found == value, key, found, f"only {value!r} is had here")
    require(not said.get("disable_corrector"), "disable_corrector", said.get("disable_corrector"), "only an empty list is had here")
    sampler, variant = READERS[str(name)](said)
    return sampler, _grid(said) | _clip(said) | ({"variant": variant} if variant else {})


def _typed(key: str, value: Any, default: Any) -> Any:
    """A value of its default's type. JSON has no infinity, but "-inf"; null is False, as Python's None is."""
    if isinstance(default, bool) and value is None:
        return False
    if isinstance(default, float) and value in ("-inf", "inf"):
        return float(value)
    kind = (int, float) if isinstance(default, float) else list if isinstance(default, tuple) else type(default)
    fits = default is None or (isinstance(value, kind) and isinstance(value, bool) == isinstance(default, bool) and value == value)
    require(fits, key, value, f"must be of type {type(default).__name__}")
    return value


def _one_of(said: Said, key: str, values: Mapping[Any, Any]) -> Any:
    require(said[key] in values, key, said[key], f"must be one of {', '.join(map(str, values))}")
    return values[said[key]]


def _grid(said: Said) -> dict[str, Any]:
    even = {"use_karras_sigmas": "karras", "use_lu_lambdas": "log_snr", "use_exponential_sigmas": "log_snr"}
    spacings = [rule for key, rule in even.items() if said.get(key)]
    require(len(spacings) <= 1, "use_karras_sigmas", True, "goes with no other rule for the noise levels")
    require(not (said.get("use_exponential_sigmas") and "solver_order" in said), "use_exponential_sigmas", True,
            f"cuts t to whole numbers in this class: use {'use_lu_lambdas' if 'use_lu_lambdas' in said else 'use_karras_sigmas'}")
    out = {"spacing": spacings[0] if spacings else _one_of({"timestep_spacing": "linspace"} | said, "timestep_spacing", SPACINGS)}
    require(said.get("steps_offset", 0) >= 0, "steps_offset", said.get("steps_offset"), "must be 0 or more")
    if out["spacing"] == "leading" and said["steps_offset"]:
        out["steps_offset"] = said["steps_offset"]
    if "final_sigmas_type" in said:
        out["final_alpha_bar"] = _one_of(said, "final_sigmas_type", {"zero": "one", "sigma_min": "first"})
    return out


def _clip(said: Said) -> dict[str, Any]:
    for key in ("dynamic_thresholding_ratio", "sample_max_value", "clip_sample_range"):
        most, rule = (1.0, "in (0, 1]") if key.endswith("ratio") else (sys.float_info.max, "above 0 and finite")
        require(0 < said.get(key, 1.0) <= most, key, said.get(key), f"must be {rule}")
    if said.get("thresholding"):
        return {"clip": f"dynamic:{said['dynamic_thresholding_ratio']}:{said['sample_max_value']}"}
    return {"clip": float(said["clip_sample_range"])} if said.get("clip_sample") else {}


def _multistep(said: Said) -> tuple[str, dict[str, Any]]:
    order = _one_of(said, "solver_order", {2: 2, 3: 3})
    kind = _one_of(said, "algorithm_type", {"dpmsolver++": "ode", "sde-dpmsolver++": "sde", "dpmsolver": "eps"})
    variant: dict[str, Any] = {"lower_below": 15 if said["lower_order_final"] else 0, "lower_last": said["euler_at_final"],
                               "second": _one_of(said, "solver_type", {"midpoint": "midpoint", "heun": "taylor"})}
    if kind == "eps":
        _ends_above_zero(said)
        variant["form"] = "eps"
    if kind == "sde" and order == 3:
        return "dpmpp_3m", variant | {"eta": 1.0, "third": "wrong_sign"}
    return ("dpmpp_2m_sde" if kind == "sde" else f"dpmpp_{order}m"), variant


def _ends_above_zero(said: Said) -> None:
    require(said["final_sigmas_type"] == "sigma_min", "final_sigmas_type", said["final_sigmas_type"],
            "must be sigma_min with algorithm_type dpmsolver, says diffusers")


def _singlestep(said: Said) -> tuple[str, dict[str, Any]]:
    _one_of(said, "solver_order", {2: 2})
    form = _one_of(said, "algorithm_type", {"dpmsolver++": "x0", "dpmsolver": "eps"})
    if form == "eps":
        _ends_above_zero(said)
    lowered = said["lower_order_final"] or said["final_sigmas_type"] == "zero"  # diffusers switches it on for odd S as well
    return "dpmpp_2s", {"form": form, "lower_below": math.inf if lowered else 0,
                        "second": _one_of(said, "solver_type", {"midpoint": "midpoint", "heun": "taylor"})}


def _unipc(said: Said) -> tuple[str, dict[str, Any]]:
    sampler = _one_of(said, "solver_order", {2: "unipc_2", 3: "unipc_3"})
    require(said["lower_order_final"] or said["final_sigmas_type"] != "zero", "lower_order_final", False,
            "gives NaN in diffusers with final_sigmas_type zero: must be True, or the other sigma_min")
    return sampler, {"basis": _one_of(said, "solver_type", {"bh1": "bh1", "bh2": "bh2"}),
                     "form": "x0" if said["predict_x0"] else "eps", "lower_below": math.inf if said["lower_order_final"] else 0}


def _heun(said: Said) -> tuple[str, dict[str, Any]]:
    even = said["use_karras_sigmas"] or said["use_exponential_sigmas"]  # between the ends of the spacing, in this class
    require(not even or said["timestep_spacing"] == "linspace", "timestep_spacing", said["timestep_spacing"],
            "must be linspace with use_karras_sigmas or use_exponential_sigmas in this class")
    return "heun", {}


def _pndm(said: Said) -> tuple[str, dict[str, Any]]:
    _one_of(said, "timestep_spacing", {"leading": "leading"})
    said["final_sigmas_type"] = "zero" if said["set_alpha_to_one"] else "sigma_min"
    return ("plms" if said["skip_prk_steps"] else "pndm"), {}


def _deis(said: Said) -> tuple[str, dict[str, Any]]:
    """DEIS with log rho is DPM-Solver's eps form with the exact weights; it ends at alpha_bars[0]."""
    said["final_sigmas_type"] = "sigma_min"
    _one_of(said, "algorithm_type", {"deis": "deis"})
    _one_of(said, "solver_type", {"logrho": "logrho"})
    sampler = _one_of(said, "solver_order", {2: "dpmpp_2m", 3: "dpmpp_3m"})
    return sampler, {"form": "eps", "second": "taylor", "third": "exact", "lower_below": 15 if said["lower_order_final"] else 0}


READERS: dict[str, Callable[[Said], tuple[str, dict[str, Any]]]] = {
    "DPMSolverMultistepScheduler": _multistep, "DPMSolverSinglestepScheduler": _singlestep, "UniPCMultistepScheduler": _unipc,
    "DEISMultistepScheduler": _deis, "HeunDiscreteScheduler": _heun, "PNDMScheduler": _pndm,
}
