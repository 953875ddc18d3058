"""The diffusion tutorial of MindSpore's documentation: Fashion-MNIST in 10 epochs.

28 x 28 images flipped at random, T = 200 with betas linear from 1e-4 to 0.02, dim 28 with multipliers 1, 2, 4, Huber's loss (its
SmoothL1Loss), batch 16, Adam with a cosine decay from 1e-4 towards 1e-7 that changes once in each of 10 epochs, 64 samples and the
denoising of one image as a GIF. In half precision (`--dtype float16`, where the backend has it) the loss is scaled dynamically.
A departure: this project's UNet, with full self-attention at 7 x 7, where the tutorial has linear attention at each level.
"""

from __future__ import annotations

from bench.recipes.experiment import Experiment
from bench.recipes.recipe import Recipe


def run(e: Experiment) -> None:
    """Samples, the GIF and the loss curve."""
    e.show_samples()
    e.losses()


RECIPE = Recipe(
    "fashion-mnist-mindspore", "Fashion-MNIST with MindSpore", "the diffusion model tutorial of MindSpore's documentation",
    steps=37_500, samples=64, sampling={"steps": 200, "sampler": "ddpm", "variance": "small", "clip": "none"}, run=run,
    backend="mindspore", pictures=("grid", "gif"), flip=True)
