"""Train on Fashion-MNIST, sample, and print a FID to compare: one screen of code.

    python examples/one_screen.py                    # 2,000 steps
    python examples/one_screen.py --steps 50 --n 128  # a short try

Prints the held-out loss before and after, the FID of the samples, and that of real images and of noise for as many images.
"""

import argparse
from pathlib import Path

import numpy as np

from bench import api
from bench.data.datasets import load_subset
from bench.data.pixels import to_uint8
from bench.metric import fid
from bench.pictures.grids import save_grid
from bench.presets import get_preset
from bench.training.batches import batch_of
from reference.config import DiffusionConfig, OptimConfig

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--steps", type=int, default=2000, help="optimiser steps")
parser.add_argument("--n", type=int, default=1000, help="images to draw, at least 128")
parser.add_argument("--out", default="one-screen.png", help="grid of samples")
asked = parser.parse_args()

# The images that ship: 4,000 to train on, 2,000 held out; uint8, (N, 1, 28, 28).
train, held_out = load_subset("fashion-mnist", "train"), load_subset("fashion-mnist", "test")

# DDPM: a linear schedule of T = 1000, a network that predicts the noise. The learning rate rises, then falls as a cosine.
optim = OptimConfig(lr=1e-3, warmup_steps=min(200, asked.steps // 10), total_steps=asked.steps, min_lr=1e-5, ema_decay=0.999)
model = api.new(get_preset("quick").model, DiffusionConfig(schedule="linear", objective="eps"), optim, "torch", seed=0)


def held_out_loss() -> float:
    """Of 128 held-out images, each with a timestep and a noise of its own."""
    batch = batch_of(model.spec, held_out.images, seed=1, step=0, size=128, flip=False)
    return float(model.backend.to_host(model.backend.loss_and_gradients(batch)[0]))


before = held_out_loss()
fit = model.train(train.images, asked.steps, batch_size=64, seed=0, flip=train.flip)
print(f"held-out loss {before:.4f} before, {held_out_loss():.4f} after {asked.steps:,} steps in {fit.seconds:.0f} s")

# DDIM with 50 of the 1000 steps; the average of the weights (EMA) draws.
images = to_uint8(model.sample(asked.n, steps=50, eta=0.0, seed=0))
save_grid(Path(asked.out), images[:64], 8, title=f"DDIM, S = 50, after {asked.steps:,} training steps")

found, real = fid.evaluate(images), fid.floor(asked.n, test=held_out)
noise = fid.evaluate(to_uint8(np.random.default_rng(0).standard_normal(images.shape)))
print(f"FID[fmnist-cnn] {found['fid']:.1f} of n = {asked.n} images; real images {real['fid']:.1f}, noise {noise['fid']:.1f}")
