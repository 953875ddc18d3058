"""`SolverPlan`: one path of a fast solver with every choice resolved; and how codes run the solvers, as data.

The samplers ddim and ddpm with all their conventions have `make_plan`; here they are solvers like the others, without quirks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from . import grids, schedules
from .config import DiffusionConfig, require
from .conventions import CONVENTIONS, adopt, get_convention
from .diffusion import network_t
from .grids import Nodes
from .rows import Path, Variant
from .scheduler import SILENT, Scheduler, parse_clip
from .solvers import SOLVERS

FEWEST = {"plms": 2, "pndm": 4, "dpmpp_2s": 2, "dpmpp_2m": 2, "dpmpp_3m": 3, "dpmpp_2m_sde": 2, "unipc_2": 2, "unipc_3": 3}  # steps
FROM_ZERO = ("ddim", "ddpm", "dpmpp_2m", "dpmpp_3m", "dpmpp_2m_sde")  # their first step has a limit from alpha_bar = 0
FAST = tuple(name for name in SOLVERS if name not in ("ddim", "ddpm"))  # the samplers that `make_plan` does not have
NOISY = ("ddim", "dpmpp_2m_sde")  # the samplers with an eta
TRAILING = ("heun", "dpmpp_2s", "dpmpp_3m", "unipc_3")  # have this spacing by default, by results/solver-grids.md
STOCHASTIC = (*NOISY, "dpmpp_2m", "dpmpp_3m")  # those whose variant may have one


@dataclass(frozen=True)
class Code:
    """How a code runs one solver where its caller says nothing; `grids.GRIDS` has its spacings."""

    variant: Variant = Variant()
    grid: str = "plain"
    spacing: str = "leading"
    final_alpha_bar: str = "one"  # where the path ends: "one", or "first", alpha_bars[0]
    start: str = "one"  # x_T is taken as it is, or "sigma": for pure noise of the first state, x_T times sigma


_DPM = Code(Variant(lower_below=15), "diffusers_dpm", "linspace")
_AUTHORS = Code(Variant(lower_below=10), "dpm_solver", "time_uniform", "first")
_UNIPC = Code(Variant(lower_below=math.inf), "diffusers_unipc", "linspace")
_K = Code(Variant(), "k_diffusion", "linspace", start="sigma")

CODES: dict[str, dict[str, Code]] = {
    "plain": {name: Code(Variant(eta=float(name == "dpmpp_2m_sde")), spacing="trailing" if name in TRAILING else "leading")
              for name in SOLVERS},
    "diffusers": {
        "heun": Code(grid="diffusers_heun", spacing="linspace", start="sigma"),
        "plms": Code(grid="diffusers_pndm", final_alpha_bar="first"),
        "pndm": Code(grid="diffusers_pndm", final_alpha_bar="first"),
        "dpmpp_2s": replace(_DPM, variant=Variant(lower_below=math.inf), grid="diffusers_single"),
        "dpmpp_2m": _DPM,
        "dpmpp_3m": replace(_DPM, variant=replace(_DPM.variant, third="public")),
        "dpmpp_2m_sde": replace(_DPM, variant=replace(_DPM.variant, eta=1.0)),
        "unipc_2": _UNIPC, "unipc_3": _UNIPC,
    },
    "dpm_solver": {
        "dpmpp_2s": replace(_AUTHORS, variant=Variant()), "dpmpp_2m": _AUTHORS,
        "dpmpp_3m": replace(_AUTHORS, variant=replace(_AUTHORS.variant, third="public")),
    },
    "unipc": {name: replace(_AUTHORS, variant=Variant(basis="bh1", lower_below=math.inf), grid="unipc")
              for name in ("unipc_2", "unipc_3")},
    "k_diffusion": {"heun": _K, "dpmpp_2m": _K, "dpmpp_2m_sde": replace(_K, variant=Variant(eta=1.0))},
}
SOURCES = {  # the commit or version that was read
    "plain": "this project", "diffusers": "github.com/huggingface/diffusers 0.35.2", "unipc": "github.com/wl-zhao/UniPC cf9de85",
    "dpm_solver": "github.com/LuChengTHU/dpm-solver 52bc3fb", "k_diffusion": "github.com/crowsonkb/k-diffusion 4601bf0",
}


@dataclass(frozen=True)
class SolverPlan:
    """One path, everything resolved. Hashable. Build it with `make_solver_plan`.

    `t`, `alpha` and `sigma` are the path's nodes, noisiest first, of which the last is its end. A solver may call the network
    more than once at a node.
    """

    diffusion: DiffusionConfig
    sampler: str
    variant: Variant
    t: tuple[float, ...]
    alpha: tuple[float, ...]
    sigma: tuple[float, ...]
    start: float  # x_T is multiplied by it
    clip: str
    clip_range: float
    threshold_ratio: float
    sample_max: float
    convention: str
    spacing: str = field(compare=False)  # the rule that chose the nodes: a name, which decides nothing any more

    @property
    def path(self) -> Path:
        """The states of all calls, and the rows."""
        return SOLVERS[self.sampler](Nodes(*(np.array(values) for values in (self.t, self.alpha, self.sigma))), self.variant)

    @property
    def network_t(self) -> tuple[float, ...]:
        """What the network is told at each node; at an end of sigma = 0 it is asked nothing."""
        return tuple(network_t(self.diffusion, np.array(self.t)).tolist())

    @cached_property
    def steps(self) -> int:
        """Number of network calls, as of a `Plan`."""
        return len(self.path.rows)


def make_solver_plan(
    diffusion: DiffusionConfig, steps: int, *, sampler: str, convention: str = "plain", spacing: str | None = None,
    eta: float | None = None, clip: str | float | None = None, final_alpha_bar: str | None = None, steps_offset: int | None = None,
    round_t: bool = False, variant: Mapping[str, Any] | None = None, scheduler: Scheduler = SILENT,
) -> SolverPlan:
    """Resolve the caller's choices, a file's and a code's into a `SolverPlan`. Raises `ConfigError`.

    One function, since it is a list of rules.

    What the caller leaves at None is what `scheduler` says where the convention is `diffusers` and the sampler the file's own, else
    the code's. `steps` is S, the steps of the grid, which Heun and PNDM spend more calls on. `clip` is as `parse_clip` reads it.
    `round_t` tells the network whole timesteps, or real ones, of states that stay where they are. `variant` changes fields of
    `Variant`.
    """
    require(convention in CODES, "convention", convention, f"fast solvers have {', '.join(CODES)}")
    require(sampler in CODES[convention], "sampler", sampler, f"convention {convention} has {', '.join(CODES[convention])}")
    code = CODES[convention][sampler]
    fewest = FEWEST.get(sampler, 1)
    require(isinstance(steps, int) and fewest <= steps <= diffusion.timesteps, "steps", steps,
            f"{sampler} needs {fewest} <= S <= T={diffusion.timesteps}")
    noisy = [name for name in NOISY if name in CODES[convention]]
    require(eta is None or sampler in NOISY, "eta", eta,
            f"{sampler} has no noise to scale: leave it out{', or use ' * bool(noisy)}{' or '.join(noisy)}")
    require(eta is None or (not isinstance(eta, str) and 0 <= eta <= 1), "eta", eta, "must be in [0, 1]")
    require(sampler != "ddpm" or not diffusion.learned_variance, "variance", diffusion.variance,
            "is per pixel and no number: sample with make_plan, sampler ddpm")
    unknown = sorted(set(variant or {}) - {f.name for f in fields(Variant)})
    require(not unknown, "variant", unknown, f"known are {', '.join(f.name for f in fields(Variant))}")
    said = scheduler.solver_choices if convention == "diffusers" and sampler == scheduler.sampler else {}
    changes = said.get("variant", {}) | dict(variant or {}) | ({} if eta is None else {"eta": float(eta)})
    chosen: Variant = replace(code.variant, **changes)
    require(chosen.eta == 0 or sampler in STOCHASTIC, "eta", chosen.eta,
            f"{sampler} has no stochastic steps: they are of {', '.join(STOCHASTIC)}")
    ends = final_alpha_bar or said.get("final_alpha_bar") or code.final_alpha_bar
    require(ends in ("one", "first"), "final_alpha_bar", ends, "must be one or first")
    require(not (convention == "diffusers" and chosen.basis == "bh1" and ends == "one"), "variant", "bh1",
            "gives NaN in diffusers on a path that ends at alpha_bar = 1: use final_alpha_bar first, or convention plain")
    require(diffusion.objective != "previous", "objective", "previous",
            "is the mean of one step, which says x0 and eps at whole timesteps alone: use sampler ddim or ddpm (make_plan)")
    require(diffusion.objective != "v" or code.grid != "diffusers_pndm", "objective", "v",
            f"diffusers' {sampler} averages v of several states before it takes it for one's: use convention plain")
    diffusion, float32_tables = _process(diffusion, convention)
    alpha_bars = schedules.alpha_bars(schedules.betas(diffusion), float32_tables)
    if convention == "diffusers" and diffusion.ends_at_zero and code.grid in ("diffusers_dpm", "diffusers_unipc"):
        alpha_bars[-1] = 2.0**-24
    rule = spacing or said.get("spacing") or code.spacing
    offset = said.get("steps_offset", 0) if steps_offset is None and rule == "leading" else steps_offset or 0
    require(not (convention == "dpm_solver" and sampler == "dpmpp_2s" and rule == "log_snr" and steps % 2), "steps", steps,
            "dpm-solver spaces an odd path of log_snr otherwise: use an even number")
    require(not (code.grid == "diffusers_pndm" and sampler == "pndm" and diffusion.timesteps // steps % 2), "steps", steps,
            f"diffusers' Runge-Kutta steps need an even T // S, not {diffusion.timesteps // steps}: "
            f"use {_even(diffusion.timesteps, steps)}")
    nodes = grids.grid(code.grid, alpha_bars, steps, rule, ends, offset, diffusion.schedule)
    if sampler in ("pndm", "dpmpp_2s") and code.grid in ("plain", "diffusers_pndm"):
        stride = diffusion.timesteps // steps if code.grid == "diffusers_pndm" else None
        nodes = grids.with_middles(nodes, alpha_bars, sampler, stride)
    later = _later(code, rule)
    require(nodes.alpha[0] > 0 or diffusion.objective != "eps", "objective", "eps",
            f"says nothing of the image at alpha_bar = 0, where this path starts: use {later}")
    able = [name for name in FROM_ZERO if name in CODES[convention]]
    require(nodes.alpha[0] > 0 or sampler in FROM_ZERO, "sampler", sampler,
            f"has no first step from alpha_bar = 0: use {' or '.join([*able, later])}")
    require(nodes.alpha[0] > 0 or chosen.form == "x0", "form", chosen.form, "has no first step from alpha_bar = 0: use x0")
    trailing = "" if rule == "trailing" or diffusion.ends_at_zero else " or spacing trailing"
    require(convention != "plain" or nodes.sigma[-2] > nodes.sigma[-1], "final_alpha_bar", ends,
            f"is where spacing {rule} has its last call already: use one{trailing}")
    if round_t:
        nodes = nodes._replace(t=np.round(nodes.t))
    clipped = parse_clip(said.get("clip", "none") if clip is None else clip)
    start = float(nodes.sigma[0]) if code.start == "sigma" and not (code.grid == "diffusers_heun" and rule == "leading") else 1.0
    t, alpha, sigma = (tuple(values.tolist()) for values in nodes)
    return SolverPlan(diffusion, sampler, chosen, t, alpha, sigma, start, clipped.kind, clipped.limit, clipped.ratio, clipped.most,
                      convention, rule)


def _later(code: Code, rule: str) -> str:
    """What makes a path start after alpha_bar = 0."""
    if rule == "leading":
        return "fewer steps or a smaller steps_offset"
    return "spacing leading" if "leading" in grids.GRIDS[code.grid][1] else "convention plain with spacing leading"


def _even(T: int, steps: int) -> str:
    """What makes T // S even."""
    able = [S for S in range(FEWEST["pndm"], T + 1) if T // S % 2 == 0]
    return f"S={min(able, key=lambda S: abs(S - steps))}" if able else "plms"


def _process(diffusion: DiffusionConfig, convention: str) -> tuple[DiffusionConfig, bool]:
    """The process as the code has it, and whether its tables are float32."""
    name = base(convention)
    return adopt(diffusion, name), get_convention(name).float32_tables


def base(convention: str) -> str:
    """The convention of the process: solvers' own codes take any process as it is, as plain does."""
    return "plain" if convention in CODES and convention not in CONVENTIONS else convention
