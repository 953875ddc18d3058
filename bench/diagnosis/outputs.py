"""More of the catalogue: mistakes in what is made of the network's output, and in the scale of states and images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from bench.diagnosis.mistakes import MISTAKES, mistake
from bench.diagnosis.trial import Trial
from reference.plan import Plan


def _plan(name: str, change: Callable[[Plan], Plan]) -> None:
    """A mistake that is another choice of the plan."""
    def changed(trial: Trial) -> Trial | None:
        plan = change(trial.plan)
        return None if plan == trial.plan else trial.of(plan)
    MISTAKES[name] = changed


def _clipped(plan: Plan, again: bool) -> Plan:
    return replace(plan, clip="clip", clip_range=1.0, rederive_eps=again) if plan.clip == "none" else plan


_plan("eps not derived again from the clipped x0", lambda p: replace(p, rederive_eps=p.clip == "none" and p.rederive_eps))
_plan("eps derived again from the clipped x0", lambda p: p if p.clip == "none" else replace(p, rederive_eps=True))
_plan("x0 not clipped", lambda p: replace(p, clip="none"))
_plan("x0 clipped to [-1, 1], eps as the network gives it", lambda p: _clipped(p, False))
_plan("x0 clipped to [-1, 1], eps derived again", lambda p: _clipped(p, True))
_plan("x0 by a dynamic threshold", lambda p: replace(p, clip="dynamic", threshold_ratio=0.995, sample_max=1e9))


@mistake("the state clipped to [-1, 1] after every step")
def _clipped_state(trial: Trial) -> Trial:
    return replace(trial, after=lambda x: np.clip(x, -1, 1))


@mistake("the images in [0, 1], not [-1, 1]")
def _unit(trial: Trial) -> Trial:
    return replace(trial, end=lambda x: (x + 1) / 2)


@mistake("the images clipped to [0, 1] after scaling")
def _unit_clipped(trial: Trial) -> Trial:
    return replace(trial, end=lambda x: np.clip((x + 1) / 2, 0, 1))


@mistake("the images clipped to [-1, 1] at the end")
def _end(trial: Trial) -> Trial:
    return replace(trial, end=lambda x: np.clip(x, -1, 1))


@mistake("the network's input scaled by the square root of alpha_bar of the first step")
def _scaled(trial: Trial) -> Trial:
    return replace(trial, before=lambda x: x * np.sqrt(trial.c["alpha_bar"][0]))


@mistake("x_T scaled by sqrt(1 - alpha_bar)")
def _x_T(trial: Trial) -> Trial:
    return replace(trial, x_T=trial.x_T * np.sqrt(1 - trial.c["alpha_bar"][0]))


def _meaning(objective: str) -> None:
    def change(trial: Trial) -> Trial | None:
        plan = trial.plan
        if plan.diffusion.objective == objective or trial.c["alpha_bar"][0] < 1e-6 and objective == "eps":
            return None
        return trial.of(replace(plan, diffusion=replace(plan.diffusion, objective=objective)))
    MISTAKES[f"the output read as {objective}"] = change


for _objective in ("eps", "x0", "v"):
    _meaning(_objective)


@mistake("the output with the opposite sign")
def _sign(trial: Trial) -> Trial:
    return trial.with_c(x0_from_output=-trial.c["x0_from_output"], eps_from_output=-trial.c["eps_from_output"])


@mistake("x0 divided by alpha_bar, not by its square root")
def _unrooted(trial: Trial) -> Trial | None:
    if trial.plan.diffusion.objective != "eps":
        return None
    root = np.sqrt(trial.c["alpha_bar"])
    return trial.with_c(x0_from_x=trial.c["x0_from_x"] / root, x0_from_output=trial.c["x0_from_output"] / root)


@mistake("1 - alpha_bar without its square root before eps")
def _noise_root(trial: Trial) -> Trial | None:
    if trial.plan.diffusion.objective != "eps":
        return None
    return trial.with_c(x0_from_output=trial.c["x0_from_output"] * np.sqrt(1 - trial.c["alpha_bar"]))
