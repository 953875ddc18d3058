"""A diffusion model of handwritten digits from scratch, as tutorials write it.

Follows Ho et al. 2020 the way the code of introductions has it: a small UNet with self-attention whose sinusoidal embedding of t
goes through an MLP, the mean squared error of the noise, and ancestral sampling (DDPM algorithm 2) without clipping, its variance
beta_t. Beside it the same noise sampled with beta_tilde. Batch 128 for 20 epochs with Adam at 1e-3 and no moving average; tutorials
differ in these.

The schedule `tutorial` is their arithmetic to the letter: betas linspace(1e-4, 0.02, T + 1), alpha_bar their product from point 0
on, t = 1..T, and noise at the last step t = 1 too, which ends in the state of alpha_bar = 1 - 1e-4 (`final_alpha_bar` "start") and
not at the clean image. The paper's product has no point 0, and no noise is added at its last step: that is the schedule
`tutorial_textbook`, whose 1 - alpha_bar at t = 1 is 1.83 times smaller. A departure: t counts from 0 here, so the network is told
t - 1 where that of a tutorial is told t.
"""

from __future__ import annotations

import numpy as np

from bench.data.pixels import to_uint8
from bench.recipes.experiment import Experiment
from bench.recipes.recipe import Recipe

COLUMNS = 8

def run(e: Experiment) -> None:
    """Samples with either variance from the same x_T and step noise, and the loss curve."""
    x, kinds = e.model.noise(e.samples, e.options.seed), {"beta_t": "large", "beta_tilde": "small"}
    final = "start" if e.model.spec.diffusion.start_alpha_bar < 1 else None  # other weights may have another process
    drawn = {name: e.follow(x, e.plan(variance=variance, final_alpha_bar=final), f"variance {name}")
             for name, variance in kinds.items()}
    e.values["variance"] = {name: {"n": len(images), "metric": e.measure(images)} for name, images in drawn.items()}
    lines = -(-e.samples // COLUMNS)
    padding = np.full((lines * COLUMNS - e.samples, *e.shape), -1, np.float32)
    e.save_grid("", to_uint8(np.concatenate([part for images in drawn.values() for part in (images, padding)])), COLUMNS,
                title=f"ancestral sampling, S = {e.plan().steps}, same noise: variance beta_t above, beta_tilde below",
                rows=[name for name in drawn for _ in range(lines)])
    e.losses()


RECIPE = Recipe(
    "mnist-scratch", "DDPM from scratch on MNIST", "Ho et al. 2020 (arXiv:2006.11239) as tutorials simplify it", steps=9375,
    samples=32, sampling={"steps": 1000, "sampler": "ddpm", "variance": "large", "clip": "none"}, run=run, shows=False)
