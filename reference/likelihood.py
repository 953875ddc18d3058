"""The variational bound of images over a whole path, in bits per dimension and float64 (DDPM equation 5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from . import diffusion
from .diffusion_config import DiffusionConfig
from .schedules import Array, Schedule

Network = Callable[[Array, Array], Array]  # output (N, C or 2C, H, W) of x_t (N, C, H, W) and of what it is told of t (N,)


def bound(config: DiffusionConfig, network: Network, x0: Array, noise: Callable[[int], Array], clip: bool = False,
          steps: Sequence[int] | None = None) -> tuple[Array, Array]:
    """(prior (N,), terms (N, T)) of images x0 (N, C, H, W) in [-1, 1]. The bound of an image is the sum of all.

    Column 0 is the decoder's term, -log p(x_0 | x_1); column i the divergence of p(x_{i-1} | x_i) from the posterior, at
    x_i = q_sample(x0, i, noise(i)). `clip` clips x0_hat to [-1, 1], as the codes of DDPM and IDDPM do when they measure.
    `steps` takes these columns alone. A respaced process (`respacing.respaced`) has the bound of its own shorter path (IDDPM
    section 4). The second half of an output of 2C channels is the learned variance.
    """
    schedule, columns = Schedule.from_config(config), []
    for i in range(config.timesteps) if steps is None else steps:
        t = np.full(len(x0), i)
        xt = diffusion.q_sample(x0, t, noise(i), schedule.alpha_bars)
        output = network(xt, diffusion.network_t(config, t))
        mean, variance = output[:, : x0.shape[1]], output[:, x0.shape[1]:]
        columns.append(diffusion.vlb_terms(config, x0, xt, t, mean, variance, schedule, clip))
    return diffusion.prior_bits(x0, schedule), np.stack(columns, axis=1)
