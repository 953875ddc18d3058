"""Mistakes that people make in samplers, by name: each turns the right sampler into a wrong one, or None where it has no place.

Here are those in the schedule, in the path and in what the network is told; `outputs` and `noises` have the others. Most are
differences between published codes; the rest are slips of indices, signs and roots.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.diagnosis.trial import Trial, table
from reference import schedules, timesteps
from reference.config import ConfigError
from reference.conventions import network_t
from reference.plan import CLEAN, Plan

Array = NDArray[np.float64]
Mistake = Callable[[Trial], Trial | None]
MISTAKES: dict[str, Mistake] = {}


def mistake(name: str) -> Callable[[Mistake], Mistake]:
    """Put a function into the catalogue under the name that a user reads."""
    def add(function: Mistake) -> Mistake:
        MISTAKES[name] = function
        return function
    return add


def _process(name: str, **changes: object) -> None:
    """A mistake that is another schedule, of the same parameters."""
    def change(trial: Trial) -> Trial | None:
        process = trial.plan.diffusion
        if all(getattr(process, key) == value for key, value in changes.items()):
            return None
        try:
            other = schedules.alpha_bars(schedules.betas(replace(process, **changes)))  # type: ignore[arg-type]
        except ConfigError:
            return None
        return trial.with_tables(other)
    MISTAKES[name] = change


for _name in ("linear", "quad", "cosine", "sigmoid", "sigmoid_alpha_bar"):
    _process(f"betas of the schedule {_name}", schedule=_name)
_process("linear betas in float32", schedule="linear_float32")
_process("betas that end at 0.01, half of what they should", beta_end=0.01)


@mistake("betas rescaled to a zero terminal SNR")
def _zero(trial: Trial) -> Trial | None:
    d = trial.plan.diffusion
    if d.zero_terminal_snr:
        return None
    return trial.with_tables(schedules.alpha_bars(schedules.zero_terminal_snr(schedules.betas(d))))


@mistake("alpha_bar in float32")
def _float32(trial: Trial) -> Trial:
    return trial.with_tables(table(trial).astype(np.float32).astype(np.float64))


@mistake("the product of alphas taken in float32")
def _product(trial: Trial) -> Trial:
    betas = schedules.betas(trial.plan.diffusion).astype(np.float32)
    return trial.with_tables(np.cumprod(np.float32(1) - betas, dtype=np.float32).astype(np.float64))


@mistake("linear betas without their last point")
def _endpoint(trial: Trial) -> Trial | None:
    d = trial.plan.diffusion
    if d.schedule != "linear":
        return None
    scale = 1000 / d.timesteps if d.beta_scaling else 1.0
    return trial.with_tables(np.cumprod(1 - np.linspace(scale * d.beta_start, scale * d.beta_end, d.timesteps, endpoint=False)))


@mistake("alpha_bar one timestep early: t - 1 for t in the tables")
def _early(trial: Trial) -> Trial:
    ab = table(trial)
    return trial.with_tables(np.concatenate((ab[:1], ab[:-1])))


@mistake("alpha_bar of the timestep before, 1 before the first: alphas_cumprod_prev for alphas_cumprod")
def _before(trial: Trial) -> Trial:
    return trial.with_tables(np.concatenate(([1.0], table(trial)[:-1])))


@mistake("alpha_bar one timestep late: t + 1 for t in the tables")
def _late(trial: Trial) -> Trial:
    ab = table(trial)
    return trial.with_tables(np.concatenate((ab[1:], ab[-1:])))


@mistake("alpha for alpha_bar: no product of the alphas")
def _alpha(trial: Trial) -> Trial:
    return trial.with_tables(1 - schedules.betas(trial.plan.diffusion))


@mistake("the square root of alpha_bar for alpha_bar")
def _root(trial: Trial) -> Trial:
    return trial.with_levels(np.sqrt(trial.c["alpha_bar"]), np.sqrt(trial.c["alpha_bar_prev"]))


def _final(name: str, said: str) -> None:
    def change(trial: Trial) -> Trial | None:
        if trial.plan.final_alpha_bar == said or trial.plan.previous[-1] != CLEAN:
            return None
        return trial.of(replace(trial.plan, final_alpha_bar=said))
    MISTAKES[name] = change


_final("the last alpha_bar equals that of index 0", "first")


@mistake("the last alpha_bar equals that of index 0, without noise in that step")
def _first_still(trial: Trial) -> Trial | None:
    first = MISTAKES["the last alpha_bar equals that of index 0"](trial)
    plan = trial.plan
    if first is None or trial.z is None or plan.noise_gate[-1] or plan.sampler != "ddim" or not plan.timesteps[-1]:
        return None
    to_eps = first.c["prev_from_eps"].copy()
    to_eps[-1] = np.sqrt(1 - first.c["alpha_bar_prev"][-1])
    return first.with_c(prev_from_eps=to_eps)


@mistake("the last alpha_bar equals that of index 0, with noise in that step")
def _first_noisy(trial: Trial) -> Trial | None:
    first = MISTAKES["the last alpha_bar equals that of index 0"](trial)
    if first is None or trial.z is None or trial.plan.noise_gate[-1] or not trial.plan.timesteps[-1]:
        return None
    return first.of(replace(first.plan, noise_gate=(1,) * first.plan.steps))


_final("the last alpha_bar is 1, not that of index 0", "one")


def _told(name: str, told: Callable[[Plan], NDArray[Any]]) -> None:
    """A mistake in what the network is told."""
    def change(trial: Trial) -> Trial:
        return trial.with_c(network_t=np.array(told(trial.plan), np.float64))
    MISTAKES[name] = change


_told("the network is told t + 1", lambda p: np.array(p.network_t) + 1)
_told("the network is told t - 1", lambda p: np.array(p.network_t) - 1)
_told("the network is told t / T", lambda p: np.array(p.timesteps) / p.diffusion.timesteps)
_told("the network is told t times 1000 / T", lambda p: np.array(p.timesteps) * (1000 / p.diffusion.timesteps))
_told("the network is told the number of the step", lambda p: np.arange(p.steps)[::-1] + 0.0)
_told("the network is told the step counted from the start", lambda p: np.arange(p.steps) + 0.0)
_told("the network is told the timestep that the step goes to",
      lambda p: network_t(p.diffusion, np.maximum(np.array(p.previous), 0)))


def _path(trial: Trial, path: list[int], previous: list[int] | None = None) -> Trial | None:
    """Along other timesteps, as many as before."""
    plan = trial.plan
    if len(path) != plan.steps or min(path) < 0 or max(path) >= plan.diffusion.timesteps:
        return None
    prev = [*path[1:], CLEAN] if previous is None else previous
    gate = tuple(int(t != CLEAN) for t in prev) if plan.noise_gate[-1] == 0 else (1,) * plan.steps
    return trial.of(replace(plan, timesteps=tuple(path), previous=tuple(prev), noise_gate=gate,
                            network_t=tuple(network_t(plan.diffusion, np.array(path)).tolist()),
                            predicts=tuple(t - 1 for t in path)))


def _spacing(rule: str) -> None:
    def change(trial: Trial) -> Trial | None:
        try:
            path = timesteps.path(trial.plan.diffusion.timesteps, trial.plan.steps, rule, "plain", 0)
        except ConfigError:
            return None
        return _path(trial, list(path)[::-1])
    MISTAKES[f"the spacing {rule}"] = change


for _rule in ("leading", "trailing", "linspace", "quad"):
    _spacing(_rule)


@mistake("every timestep of the path one higher")
def _higher(trial: Trial) -> Trial | None:
    return _path(trial, [t + 1 for t in trial.plan.timesteps])


@mistake("every timestep of the path one lower")
def _lower(trial: Trial) -> Trial | None:
    return _path(trial, [t - 1 for t in trial.plan.timesteps])


@mistake("the path ascending, from clean to noise")
def _ascending(trial: Trial) -> Trial | None:
    up = list(trial.plan.timesteps[::-1])
    return _path(trial, up) if trial.plan.steps > 1 and trial.z is None else None  # sigma would be the root of a negative number


@mistake("the step before is t - 1, not the path's next")
def _neighbour(trial: Trial) -> Trial | None:
    return _path(trial, list(trial.plan.timesteps), [t - 1 if t else CLEAN for t in trial.plan.timesteps])


@mistake("the step before is t - T // S, not the path's next")
def _stride(trial: Trial) -> Trial | None:
    plan = trial.plan
    return _path(trial, list(plan.timesteps), [max(t - plan.diffusion.timesteps // plan.steps, CLEAN) for t in plan.timesteps])


@mistake("the last step is left out")
def _short(trial: Trial) -> Trial | None:
    n = trial.plan.steps
    if n < 2 or not trial.plan.timesteps[-1]:  # from t = 0 it is the path to alpha_bar of index 0
        return None
    keep = np.array([1.0] * (n - 1) + [0.0])
    stays = {"prev_from_x0": keep * trial.c["prev_from_x0"], "prev_from_eps": keep * trial.c["prev_from_eps"],
             "sigma": keep * trial.c["sigma"], "prev_from_x": np.where(keep == 1, trial.c["prev_from_x"], 1.0)}
    return trial.with_c(**stays)
