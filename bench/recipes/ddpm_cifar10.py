"""DDPM on CIFAR-10: the paper's network, algorithms 1 and 2, FID, and the interpolation of real images.

Ho et al. 2020 (arXiv:2006.11239), section 4 and appendix B: 35.7M parameters, T = 1000, betas linear from 1e-4 to 0.02, Adam at
2e-4 after 5,000 warm-up steps, batch 128, dropout 0.1, random flips, an EMA of 0.9999, 800,000 steps, reverse variance beta_t,
x0_hat clipped. Interpolation (section 4.4, figure 8): two held-out images are diffused to the same t, mixed with shares lambda of
the second, and denoised; the noise is the same for every lambda.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench import streams
from bench.data.pixels import to_float, to_uint8
from bench.recipes.experiment import Experiment
from bench.recipes.recipe import Recipe
from reference import diffusion, schedules
from reference.config import ModelConfig, require
from reference.weights import count

PARAMETERS = 35_746_307  # the paper's 35.7M; of google/ddpm-cifar10-32 as well
SHARES = np.linspace(0, 1, 9)
LEVELS = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)  # of T
PAIR = (0, 1)  # held-out images


def assert_the_papers(model: ModelConfig) -> None:
    """Raise `ConfigError` unless the network has the paper's number of parameters."""
    require(count(model) == PARAMETERS, "parameters", count(model), f"the DDPM paper's network for CIFAR-10 has {PARAMETERS}")


def run(e: Experiment) -> None:
    """The interpolation, then samples with their FID, and the loss curve."""
    if e.options.weights is None:
        assert_the_papers(e.recipe.preset.model)
    e.values["parameters"] = count(e.model.spec.model)
    images = to_float(e.held_out.images[list(PAIR)])
    strips, reached = interpolate(e, images)
    e.values["interpolation_t"] = reached
    picture = [np.concatenate((images[:1], strip, images[1:])) for strip in strips]
    e.save_grid("", to_uint8(np.concatenate(picture)), len(SHARES) + 2,
                title="two held-out images diffused to t, mixed with share lambda, denoised",
                rows=[f"t = {t}" for t in reached],
                heads=["image 1", *(f"{share:g}" for share in SHARES), "image 2"], xlabel="lambda")
    e.show_samples()
    e.losses()


def interpolate(e: Experiment, pair: NDArray[np.float32]) -> tuple[list[NDArray[np.float32]], list[int]]:
    """For each level of noise one strip (len(SHARES), C, H, W), and the timesteps reached."""
    model, seed = e.model, e.options.seed
    T = model.spec.diffusion.timesteps
    plan = e.plan()
    alpha_bars = schedules.alpha_bars(schedules.betas(model.spec.diffusion))
    x0, noise = pair.astype(np.float64), streams.normal(seed, "x_T", list(PAIR), pair.shape[1:]).astype(np.float64)
    strips, reached = [], []
    starts = {next(i for i, t in enumerate(plan.timesteps) if t <= level * (T - 1)) for level in LEVELS}
    for first in sorted(starts, reverse=True):  # a shortened path has fewer levels
        t = plan.timesteps[first]
        a, b = diffusion.q_sample(x0, np.full(len(pair), t), noise, alpha_bars)
        mixed = np.stack([diffusion.mix(a, b, share) for share in SHARES]).astype(np.float32)
        strips.append(e.follow(mixed, plan.cut(first, plan.steps), f"interpolate at t = {t}", ids=[0] * len(SHARES)))
        reached.append(t)
    return strips, reached


RECIPE = Recipe(
    "ddpm-cifar10", "DDPM on CIFAR-10, with interpolation", "Ho et al. 2020 (arXiv:2006.11239), section 4 and appendix B",
    steps=800_000, samples=50_000, sampling={"steps": 1000, "sampler": "ddpm", "variance": "large"}, run=run, pictures=("grid",))
