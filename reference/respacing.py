"""A process of fewer steps that is trained by itself: those kept of another one (`timestep_respacing` in IDDPM's code)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from . import schedules, timesteps
from .conventions import adopt, get_convention
from .diffusion import network_t
from .diffusion_config import DiffusionConfig


def respaced(diffusion: DiffusionConfig, steps: int | tuple[int, ...], *, spacing: str | None = None,
             convention: str = "nichol2021") -> DiffusionConfig:
    """The process of S steps that keeps S timesteps of `diffusion`, for its own training and bound.

    `steps`, `spacing` and `convention` are as in `make_plan`. alpha_bar at the kept timesteps stays, so that
    beta_i = 1 - alpha_bar[t_i] / alpha_bar[t_{i-1}] (IDDPM equation 19); step i tells the network t_i, rescaled where the process
    says so. What counts steps counts S of them: the factor T of the bound, and the "previous" state. Raises `ConfigError`.
    """
    whole = adopt(diffusion, convention)
    kept = np.array(timesteps.path(whole.timesteps, steps, spacing or get_convention(convention).spacing, convention))
    bars = schedules.alpha_bars(schedules.betas(whole))[kept]
    betas = 1 - bars / np.concatenate(([1.0], bars[:-1]))
    return replace(whole, timesteps=len(kept), trained_betas=tuple(betas.tolist()), beta_scaling=False, zero_terminal_snr=False,
                   rescale_timesteps=False, told_timesteps=tuple(network_t(whole, kept).tolist()))
