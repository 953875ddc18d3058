"""Is a sampler right, or at which step and by which known mistake does it depart?

A mistake is named where the path with it explains what was handed back: its images are the handed-back ones within rounding, and
nearer to them than the right ones by `EXPLAINED`. Where several do, all are named. Where none does the answer is "unknown": a pair
of mistakes is no path of a single one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.diagnosis.case import Case
from bench.diagnosis.noises import MISTAKES
from bench.diagnosis.trial import Array, right
from reference.config import require

TOLERANCES = {"float64": 1e-9, "float32": 1e-4}  # of the images, relative to the largest where that is above 1
ROUNDED = 1e-4  # a float64 file that is right to this is of a float32 program
EXPLAINED = 20.0  # times nearer than the right images
RIGHT, UNKNOWN = "right", "unknown"


@dataclass(frozen=True)
class Verdict:
    """`answer` is "right", "unknown", or the names of the mistakes that explain it. `step` is the first that departs, counted from
    0, where states were handed back; `error` the distance from the right images, relative to the largest where that is above 1."""

    answer: str
    names: tuple[str, ...]
    error: float
    tolerance: float
    step: int | None = None
    timestep: int | None = None

    def lines(self) -> list[str]:
        """What a user reads."""
        if self.answer == RIGHT:
            return [f"right: the images are off by {self.error:.1e}, tolerance {self.tolerance:.0e}"]
        out = [f"wrong: the images are off by {self.error:.1e}, tolerance {self.tolerance:.0e}"]
        if self.step is not None:
            out.append(f"departs at step {self.step} (t = {self.timestep}), the first being 0")
        if not self.names:
            return [*out, "by no known mistake alone: unknown"]
        return [*out, f"by a known mistake: {self.names[0]}" if len(self.names) == 1
                else "by one of these mistakes, which draw the same here: " + "; ".join(self.names)]


@lru_cache(maxsize=2)
def paths(case: Case) -> dict[str, Array]:
    """The states (S, N, C, H, W) of the right sampler with each known mistake, where it has a place and they are finite."""
    start, out = right(case), {}
    for name, mistake in MISTAKES.items():
        if (trial := mistake(start)) is not None:
            with np.errstate(all="ignore"):
                states = trial.states(case.network)
            if np.isfinite(states).all():
                out[name] = states
    return out


def diagnose(case: Case, found: NDArray[Any]) -> Verdict:
    """found: images (N, C, H, W), or the states after each step (S, N, C, H, W), float32 or float64 as they were computed. Raises
    ConfigError for another shape or type, and for values that are not finite."""
    n, steps = case.x_T.shape, case.plan.steps
    require(found.dtype in (np.float32, np.float64), "PORT.npy", found.dtype, "must be float32 or float64, as it was computed")
    require(found.shape in (n, (steps, *n)), "PORT.npy", found.shape,
            f"must be images {n}, or the states after each step {(steps, *n)}")
    require(bool(np.isfinite(found).all()), "PORT.npy", f"{np.count_nonzero(~np.isfinite(found))} values", "must be finite")
    tolerance = TOLERANCES[found.dtype.name]
    handed: Array = found.astype(np.float64) if found.ndim == 5 else found[None].astype(np.float64)
    expected = right(case).states(case.network)[-len(handed):]
    errors = [_off(a, b) for a, b in zip(handed, expected, strict=True)]
    error = max(errors)
    step = next((i for i, off in enumerate(errors) if off > tolerance), None) if found.ndim == 5 else None
    timestep = None if step is None else case.plan.timesteps[step]
    if error <= tolerance:
        return Verdict(RIGHT, (), error, tolerance)
    near = {name: max(_off(a, b) for a, b in zip(handed, states[-len(handed):], strict=True))
            for name, states in paths(case).items()}
    names = tuple(name for name, off in near.items() if off <= tolerance and off * EXPLAINED <= error)
    if not names and found.dtype == np.float64 and error <= ROUNDED:
        return Verdict(RIGHT, (), error, ROUNDED)
    return Verdict("; ".join(names) or UNKNOWN, names, error, tolerance, step, timestep)


def check_sampler(case: Case, sample: Callable[..., Any]) -> Verdict:
    """The same of a function `sample(network, x_T, noise, plan)` of the caller's, which gives the images or the states.
    `network(x, t)` takes x (N, C, H, W) and t (N,), noise is (S, N, C, H, W) or None."""
    return diagnose(case, np.asarray(sample(case.network, case.x_T, case.noise, case.plan)))


def _off(a: Array, b: Array) -> float:
    return float(np.abs(a - b).max() / max(1.0, np.abs(b).max()))
