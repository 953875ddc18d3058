"""What can be watched while a network trains: samples, the loss of held-out images, learning rate and images a second."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.protocol import Batch, Spec
from bench import api, streams
from bench.data.pixels import to_float, to_uint8
from bench.pictures import grids
from bench.training.trackers import Log
from reference.config import require

IMAGES, STEPS = 16, 50  # of the samples, and their DDIM steps
HELD_OUT = 128  # images at most, whose loss is taken


def held_out_batch(spec: Spec, images: NDArray[np.uint8], seed: int) -> Batch:
    """The first images, at most `HELD_OUT`, each with a timestep of its own, spread evenly over 0..T-1, and the same noise at every
    look: so that two losses differ by the network alone."""
    x0 = to_float(images[:HELD_OUT])
    n = np.arange(len(x0))
    return Batch(ids=n, x0=x0, t=(2 * n + 1) * spec.diffusion.timesteps // (2 * len(n)), step=0,
                 noise=streams.normal(seed, "check", n, spec.image_shape),
                 coin=np.zeros(len(n), bool) if spec.diffusion.self_conditioning else None)


class Watch:
    """What `bench.training.loop.fit` calls. Process 0 alone looks; what it does changes no weight."""

    def __init__(self, model: api.Model, log: Log, folder: Path, bar: Any, seed: int, looks: Sequence[int],
                 every: int, held_out: NDArray[np.uint8], batch_size: int) -> None:
        """`looks` are the steps after which samples are drawn, `every` the steps between looks at the held-out loss, 0: none."""
        require(len(held_out) > 0 or not every, "--validate", every, "needs held-out images, and there are none")
        self.model, self.log, self.folder, self.bar, self.seed = model, log, folder, bar, seed
        self.looks, self.every, self.batch_size = frozenset(looks), every, batch_size
        self.batch = held_out_batch(model.spec, held_out, seed) if every and model.spec.rank == 0 else None
        self.since = time.perf_counter()

    def step(self, done: int, _: int) -> None:
        """After step `done`: samples by the EMA weights, and the held-out loss and gradient norm of the weights themselves."""
        self.bar.update(done - self.bar.n)
        if self.model.spec.rank > 0:
            return
        if done in self.looks:
            drawn = self.model.sample(IMAGES, min(STEPS, self.model.spec.diffusion.timesteps), seed=self.seed)
            pictures = to_uint8(drawn)
            self.log.image("samples", grids.grid(pictures, 8), done)
            grids.save_grid(self.folder / f"step-{done}.png", pictures, 8, title=f"samples after {done:,} training steps")
        if self.batch is not None and done % self.every == 0:
            loss, gradients = self.model.backend.loss_and_gradients(self.batch)
            norm = math.sqrt(sum(float(np.square(g, dtype=np.float64).sum()) for g in gradients.values()))
            value = float(self.model.backend.to_host(loss))
            self.log.scalar("validate/loss", value, done)
            self.log.scalar("validate/gradient_norm", norm, done)
            print(f"step {done}: held-out loss {value:.5f} of {len(self.batch.ids)} images, gradient norm {norm:.3g}", flush=True)

    def losses(self, step: int, losses: NDArray[np.float64]) -> None:
        """The losses from step `step` on, beside the learning rate and the images a second since the last call."""
        self.log.losses(step, losses)
        now, optim = time.perf_counter(), self.model.spec.optim
        for done in range(step, step + len(losses)):
            self.log.scalar("train/learning_rate", optim.learning_rate(done), done + 1)
        self.log.scalar("train/images_per_second", len(losses) * self.batch_size / (now - self.since), step + len(losses))
        self.since = now
