"""The torch backend, whose steps take the same time on any machine: each sleeps for what it did not compute."""

import time

from backends.torch.backend import TorchBackend

TRAINING_STEP, SAMPLING_STEP, BATCH = 0.1, 0.05, 0.1  # seconds, far above what the tiny network computes


class Steady(TorchBackend):
    def train_step(self, batch):
        until = time.perf_counter() + TRAINING_STEP
        loss = super().train_step(batch)
        time.sleep(max(0.0, until - time.perf_counter()))
        return loss

    def sample(self, x, plan, noise=None, **more):
        until = time.perf_counter() + BATCH + plan.steps * SAMPLING_STEP
        images = super().sample(x, plan, noise, **more)
        time.sleep(max(0.0, until - time.perf_counter()))
        return images


create = Steady
