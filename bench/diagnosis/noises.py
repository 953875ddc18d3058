"""The rest of the catalogue: mistakes in the noise, and in how the two samplers go back a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from bench.diagnosis.mistakes import mistake
from bench.diagnosis.outputs import MISTAKES
from bench.diagnosis.trial import Trial
from reference.config import ConfigError
from reference.plan import Plan


def _ddim(name: str, change: Callable[[Trial], Trial | None], noisy: bool = True) -> None:
    """A mistake of the sampler ddim, with noise where `noisy`."""
    def changed(trial: Trial) -> Trial | None:
        fits = trial.plan.sampler == "ddim" and (trial.plan.needs_noise or not noisy)
        return change(trial) if fits else None
    MISTAKES[name] = changed


def _ddpm(name: str, change: Callable[[Trial], Trial | None]) -> None:
    """A mistake of the sampler ddpm."""
    MISTAKES[name] = lambda trial: change(trial) if trial.plan.sampler == "ddpm" else None


def _of(trial: Trial, plan: Plan) -> Trial | None:
    try:
        return None if plan == trial.plan else trial.of(plan)
    except ConfigError:
        return None


_ddim("sqrt(1 - alpha_bar_prev) before eps, without sigma^2",
      lambda trial: trial.with_c(prev_from_eps=np.sqrt(1 - trial.c["alpha_bar_prev"])))
_ddim("1 - alpha_bar_prev - sigma before eps, sigma not squared",
      lambda trial: trial.with_c(prev_from_eps=np.sqrt(np.maximum(1 - trial.c["alpha_bar_prev"] - trial.c["sigma"], 0))))
_ddim("eta scales the variance, not the standard deviation",
      lambda trial: _of(trial, replace(trial.plan, eta=float(np.sqrt(trial.plan.eta)))) if not trial.plan.sigma_hat else None)
_ddim("eta is ignored, as if it were 1, as ddpm with beta_tilde is",
      lambda trial: _of(trial, replace(trial.plan, eta=1.0)) if not trial.plan.sigma_hat else None)
_ddim("eta is ignored, as if it were 0",
      lambda trial: replace(trial.of(replace(trial.plan, eta=0.0)), z=None) if not trial.plan.sigma_hat else None)
_ddim("noise of sigma_hat", lambda trial: _of(trial, replace(trial.plan, sigma_hat=True, eta=1.0)))
_ddim("noise of eta = 1 for sigma_hat",
      lambda trial: _of(trial, replace(trial.plan, sigma_hat=False, eta=1.0)) if trial.plan.sigma_hat else None)
_ddim("sqrt(1 - alpha_bar) of the state before the step, not after it",
      lambda trial: trial.with_c(prev_from_eps=np.sqrt(1 - trial.c["alpha_bar"])), noisy=False)
_ddim("sqrt(alpha_bar) of the state before the step, not after it",
      lambda trial: trial.with_c(prev_from_x0=np.sqrt(trial.c["alpha_bar"])), noisy=False)
_ddim("no square root over 1 - alpha_bar_prev before eps",
      lambda trial: trial.with_c(prev_from_eps=trial.c["prev_from_eps"] ** 2), noisy=False)
_ddpm("the variance beta_tilde, not beta", lambda trial: _of(trial, replace(trial.plan, variance="small")))
_ddpm("the variance beta, not beta_tilde", lambda trial: _of(trial, replace(trial.plan, variance="large")))
_ddpm("the mean not divided by sqrt(alpha)", lambda trial: trial.with_c(
    prev_from_x0=trial.c["prev_from_x0"] * np.sqrt(trial.c["alpha_bar"] / trial.c["alpha_bar_prev"]),
    prev_from_x=trial.c["prev_from_x"] * np.sqrt(trial.c["alpha_bar"] / trial.c["alpha_bar_prev"])))
_ddpm("the sampler ddim with eta = 0, not ddpm",
      lambda trial: replace(trial.of(replace(trial.plan, sampler="ddim", eta=0.0, sigma_hat=False)), z=None))


_ddim("the sampler ddpm with the variance beta, not ddim",
      lambda trial: _of(trial, replace(trial.plan, sampler="ddpm", variance="large")))


def _noisy(name: str, change: Callable[[Trial], Trial | None]) -> None:
    """A mistake in how noise is added."""
    MISTAKES[name] = lambda trial: change(trial) if trial.z is not None else None


_noisy("the variance before the noise, not its square root", lambda trial: trial.with_c(sigma=trial.c["sigma"] ** 2))
_noisy("no noise is added", lambda trial: replace(trial, z=None))


@mistake("noise at the last step, too")
def _last(trial: Trial) -> Trial | None:
    plan = trial.plan
    if trial.z is None or plan.noise_gate[-1]:
        return None
    return trial.of(replace(plan, noise_gate=(1,) * plan.steps))


@mistake("the noise of the first step at every step")
def _once(trial: Trial) -> Trial | None:
    z = trial.z
    return replace(trial, z=lambda i: z(0)) if z else None


@mistake("the noise of the steps in reverse order")
def _reverse(trial: Trial) -> Trial | None:
    z, n = trial.z, trial.plan.steps
    return replace(trial, z=lambda i: z(n - 1 - i)) if z else None


@mistake("the noise of the next step")
def _next(trial: Trial) -> Trial | None:
    z, n = trial.z, trial.plan.steps
    return replace(trial, z=lambda i: z(min(i + 1, n - 1))) if z else None


@mistake("one noise for all images of a batch")
def _shared(trial: Trial) -> Trial | None:
    z = trial.z
    return replace(trial, z=lambda i: np.broadcast_to(z(i)[:1], z(i).shape)) if z and len(trial.x_T) > 1 else None


@mistake("noise with the opposite sign")
def _minus(trial: Trial) -> Trial | None:
    z = trial.z
    return replace(trial, z=lambda i: -z(i)) if z else None


@mistake("noise from x_T at every step")
def _start(trial: Trial) -> Trial | None:
    return replace(trial, z=lambda i: trial.x_T) if trial.z else None
