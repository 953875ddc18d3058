"""Backends that are wrong: the torch backend with one mistake each, offered as an outside package whose entry point is `wrong`.

The variable WRONG names the class. `MISTAKES` says of each what it does, and what the main job must print of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backends.protocol import Batch, Spec
from backends.torch.backend import TorchBackend

MISTAKES: dict[str, tuple[str, type[TorchBackend]]] = {}  # what it does: the beginning of the job's line after the name, the class


def mistake(what: str, said: str) -> Callable[[type[TorchBackend]], type[TorchBackend]]:
    """Put a class into the catalogue."""
    def keep(backend: type[TorchBackend]) -> type[TorchBackend]:
        MISTAKES[what] = said, backend
        return backend

    return keep


def create(spec: Spec) -> TorchBackend:
    """The backend whose mistake the variable WRONG names; without it the right one."""
    return MISTAKES[os.environ["WRONG"]][1](spec) if os.environ.get("WRONG") else TorchBackend(spec)


class Changed(TorchBackend):
    """A backend whose images, plan, noise or gradients one function changes."""

    def images(self, x: Tensor) -> Tensor:
        """What becomes of sampled images."""
        return x

    def path(self, plan: Any) -> Any:
        """What becomes of a plan."""
        return plan

    def noise(self, given: Callable[[int], np.ndarray]) -> Callable[[int], np.ndarray] | None:
        """What becomes of the noise."""
        return given

    def sample(self, x: Tensor, plan: Any, noise: Any = None, **more: Any) -> Tensor:
        """The path."""
        return self.images(super().sample(x, self.path(plan), noise and self.noise(noise), **more))


@mistake("images too dark", "sampling")
class TooDark(Changed):
    def images(self, x: Tensor) -> Tensor:
        return 0.9 * x


@mistake("images upside down", "sampling")
class UpsideDown(Changed):
    def images(self, x: Tensor) -> Tensor:
        return x.flip(2)


@mistake("every second image repeats the one before", "sampling")
class Repeated(Changed):
    def images(self, x: Tensor) -> Tensor:
        return x[torch.arange(len(x), device=x.device) // 2 * 2]


@mistake("one image in the midst repeats another", "sampling")
class OneRepeated(Changed):
    def images(self, x: Tensor) -> Tensor:
        return torch.cat((x[:3], x[2:3], x[4:]))


@mistake("images wrong beyond the fourth", "sampling")
class BeyondTheFourth(Changed):
    def images(self, x: Tensor) -> Tensor:
        return torch.cat((x[:4], 0.9 * x[4:]))


@mistake("the image in the midst of a batch wrong", "sampling")
class MiddleImage(Changed):
    def images(self, x: Tensor) -> Tensor:
        return torch.cat((x[:len(x) // 2], 0.9 * x[len(x) // 2:len(x) // 2 + 1], x[len(x) // 2 + 1:]))


@mistake("the last image of a batch wrong", "sampling")
class LastImage(Changed):
    def images(self, x: Tensor) -> Tensor:
        return torch.cat((x[:-1], 0.9 * x[-1:]))


@mistake("large batches wrong, small ones right", "sampling")
class LargeBatches(Changed):
    def images(self, x: Tensor) -> Tensor:
        return 0.9 * x if len(x) > 4 else x


@mistake("images rounded to half precision", "sampling")
class Rounded(Changed):
    def images(self, x: Tensor) -> Tensor:
        return x.half().float()


@mistake("images rotated through the batch", "sampling")
class Rotated(Changed):
    def images(self, x: Tensor) -> Tensor:
        return x.roll(1, 0)


@mistake("one image not finite", "sample wrong: worker wrong: sample failed: BackendError: images: ")
class NotFinite(Changed):
    def images(self, x: Tensor) -> Tensor:
        return torch.cat((x[:-1], x[-1:] * float("nan")))


@mistake("wrong after step 256", "late steps")
class After256(Changed):
    def sample(self, x: Tensor, plan: Any, noise: Any = None, **more: Any) -> Tensor:
        if plan.steps <= 256:
            return super().sample(x, plan, noise, **more)
        x = super().sample(x, plan.cut(0, 256), noise, **more)
        return 0.99 * super().sample(x, plan.cut(256, plan.steps), noise and (lambda i: noise(i + 256)), **more)


@mistake("the number of the step kept in a byte", "late steps")
class StepInAByte(Changed):
    def noise(self, given: Callable[[int], np.ndarray]) -> Callable[[int], np.ndarray]:
        return lambda i: given(i % 256)


@mistake("no noise", "sampling")
class NoNoise(Changed):
    def noise(self, given: Callable[[int], np.ndarray]) -> None:
        return None


@mistake("the same noise each step", "sampling")
class SameNoise(Changed):
    def noise(self, given: Callable[[int], np.ndarray]) -> Callable[[int], np.ndarray]:
        return lambda i: given(0)


@mistake("the same noise for every image", "sampling")
class NoiseOfOne(Changed):
    def noise(self, given: Callable[[int], np.ndarray]) -> Callable[[int], np.ndarray]:
        return lambda i: np.broadcast_to(given(i)[:1], given(i).shape)


@mistake("noise of its own", "sampling")
class OwnNoise(Changed):
    def noise(self, given: Callable[[int], np.ndarray]) -> Callable[[int], np.ndarray]:
        return lambda i: np.random.default_rng(i).standard_normal(given(i).shape).astype(np.float32)


@mistake("eta ignored", "sampling")
class EtaIgnored(Changed):
    def path(self, plan: Any) -> Any:
        return replace(plan, eta=0.0) if plan.sampler == "ddim" else plan


@mistake("a fast solver that forgets its past", "sampling, dpmpp_2m")
class Forgets(Changed):
    def path(self, plan: Any) -> Any:
        return replace(plan, sampler="ddim") if plan.sampler == "dpmpp_2m" else plan


@mistake("nothing clipped", "sampling")
class NotClipped(Changed):
    def path(self, plan: Any) -> Any:
        return replace(plan, clip="none")


@mistake("the small variance for the large one", "sampling")
class SmallVariance(Changed):
    def path(self, plan: Any) -> Any:
        return replace(plan, variance="small")


@mistake("x_T of its own", "sampling")
class OwnStart(Changed):
    def sample(self, x: Tensor, plan: Any, noise: Any = None, **more: Any) -> Tensor:
        return super().sample(x.flip(3), plan, noise, **more)


@mistake("half the steps where no noise is given", "timed steps")
class HalfWhenTimed(Changed):
    def sample(self, x: Tensor, plan: Any, noise: Any = None, **more: Any) -> Tensor:
        return super().sample(x, plan if noise else plan.cut(0, -(-plan.steps // 2)), noise, **more)


@mistake("half the batch where no noise is given", "timed steps")
class HalfBatchWhenTimed(Changed):
    def sample(self, x: Tensor, plan: Any, noise: Any = None, **more: Any) -> Tensor:
        if noise:
            return super().sample(x, plan, noise, **more)
        return torch.cat((super().sample(x[:len(x) // 2], plan, noise, **more), x[len(x) // 2:]))


@mistake("a table not finite", "oracle wrong: worker wrong: tables failed: BackendError: sigma: ")
class TableNotFinite(TorchBackend):
    def tables(self, plan: Any) -> dict[str, np.ndarray]:
        found = super().tables(plan)
        return found | {"sigma": found["sigma"] * np.nan}


@mistake("a table missing", "oracle wrong: worker wrong: tables failed: BackendError: tables: ")
class TableMissing(TorchBackend):
    def tables(self, plan: Any) -> dict[str, np.ndarray]:
        return {name: table for name, table in super().tables(plan).items() if name != "sigma"}


@mistake("a table of one number for all steps", "oracle wrong: worker wrong: tables failed: BackendError: prev_from_x: ")
class TableOfOne(TorchBackend):
    def tables(self, plan: Any) -> dict[str, np.ndarray]:
        found = super().tables(plan)
        return found | {"prev_from_x": found["prev_from_x"][:1]}


@mistake("tables in float32", "tables")
class TablesInFloat32(TorchBackend):
    def tables(self, plan: Any) -> dict[str, np.ndarray]:
        return {name: table.astype(np.float32).astype(np.float64) for name, table in super().tables(plan).items()}


@mistake("the tables of noise without eta", "tables")
class TablesWithoutEta(TorchBackend):
    def tables(self, plan: Any) -> dict[str, np.ndarray]:
        return super().tables(replace(plan, eta=0.0) if plan.sampler == "ddim" else plan)


@mistake("outputs a thousandth too large", "forward")
class OutputTooLarge(TorchBackend):
    def forward(self, *args: Any, **more: Any) -> Tensor:
        return 1.001 * super().forward(*args, **more)


@mistake("outputs wrong beyond the fourth image", "forward")
class OutputBeyondTheFourth(TorchBackend):
    def forward(self, *args: Any, **more: Any) -> Tensor:
        found = super().forward(*args, **more)
        return torch.cat((found[:4], found[4:] * 0.9))


@mistake("all images told the first one's t", "forward")
class OneTime(TorchBackend):
    def forward(self, x: Tensor, t: Tensor, *args: Any, **more: Any) -> Tensor:
        return super().forward(x, t[:1].expand(len(x)), *args, **more)


@mistake("the loss twice too large", "loss")
class LossTwice(TorchBackend):
    def loss_and_gradients(self, batch: Batch) -> Any:
        loss, gradients = super().loss_and_gradients(batch)
        return 2 * loss, gradients


@mistake("training ignores half of the batch", "loss")
class HalfBatch(TorchBackend):
    def _backward(self, batch: Batch, *more: Any) -> Tensor:
        n = len(batch.t) // 2
        return super()._backward(replace(batch, ids=batch.ids[:n], x0=batch.x0[:n], t=batch.t[:n], noise=batch.noise[:n]), *more)


@mistake("gradients of the wrong sign", "gradient")
class WrongSign(TorchBackend):
    def _backward(self, *args: Any) -> Tensor:
        loss = super()._backward(*args)
        for p in self.network.parameters():
            p.grad = -p.grad
        return loss


@mistake("gradients of the wrong sign in training alone", "loss after 12 steps by that before")
class WrongSignInTraining(TorchBackend):
    def train_step(self, batch: Batch) -> Tensor:
        loss = self._backward(batch, self.network, 1.0)
        for p in self.network.parameters():
            p.grad = -p.grad
        self.optimiser.step(batch.step)
        return loss


@mistake("one tensor has no gradient", "gradient")
class NoGradient(TorchBackend):
    def _backward(self, *args: Any) -> Tensor:
        loss = super()._backward(*args)
        self.network.conv_in.weight.grad.zero_()
        return loss


@mistake("gradients twice too large", "gradient")
class GradientTwice(TorchBackend):
    def loss_and_gradients(self, batch: Batch) -> Any:
        loss, gradients = super().loss_and_gradients(batch)
        return loss, {name: 2 * value for name, value in gradients.items()}


@mistake("every second training step left out", "step")
class HalfTheSteps(TorchBackend):
    calls = 0

    def train_step(self, batch: Batch) -> Tensor:
        self.calls += 1
        return super().train_step(batch) if self.calls % 2 else super().loss_and_gradients(batch)[0]


@mistake("no training step changes anything", "loss after 12 steps by that before")
class NoTraining(TorchBackend):
    def train_step(self, batch: Batch) -> Tensor:
        return super().loss_and_gradients(batch)[0]


class OtherOptimiser(TorchBackend):
    """A backend whose optimiser has other settings than it was given."""

    other: dict[str, Any] = {}

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.optimiser.config = replace(spec.optim, **self.other)


@mistake("no warm-up", "step")
class NoWarmUp(OtherOptimiser):
    other = {"warmup_steps": 0}


@mistake("no decay of the rate", "step")
class NoDecay(OtherOptimiser):
    other = {"total_steps": 0, "min_lr": 0.0}


@mistake("gradients not clipped", "step")
class GradientsNotClipped(OtherOptimiser):
    other = {"max_grad_norm": 0.0}


@mistake("an average of the weights that follows too fast", "step")
class FastAverage(OtherOptimiser):
    other = {"ema_decay": 0.5}


@mistake("Adam's betas exchanged", "step")
class Betas(TorchBackend):
    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.optimiser.adam.param_groups[0]["betas"] = (spec.optim.beta2, spec.optim.beta1)


@mistake("Adam's eps a thousand times too large", "step")
class LargeEps(TorchBackend):
    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.optimiser.adam.param_groups[0]["eps"] = 1000 * spec.optim.eps


class Lazy(TorchBackend):
    """Puts work off until its result is read, as a queue of a device would, and says at once that it is done."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.queue: list[Callable[[], Any]] = []

    def work(self) -> None:
        """All that was put off."""
        while self.queue:
            self.queue.pop(0)()

    def synchronize(self, *results: Any) -> None:
        """Does not wait."""

    def weights(self, ema: bool = False) -> Any:
        self.work()
        return super().weights(ema=ema)

    def state(self) -> Any:
        self.work()
        return super().state()

    def to_host(self, tensor: Any) -> np.ndarray:
        self.work()
        return super().to_host(tensor)


@mistake("does not wait for training steps", "work left of a timed training step")
class NoWaitInTraining(Lazy):
    def train_step(self, batch: Batch) -> Tensor:
        """The loss is there; the update is put off: a value of the loss says nothing about it."""
        loss = self._backward(batch, self.network, 1.0)
        self.queue.append(lambda: [self._backward(batch, self.network, 1.0), self.optimiser.step(batch.step)])
        self.step_count = batch.step + 1
        return loss


@mistake("does not wait for sampling steps", "work left of a timed sampling step")
class NoWaitInSampling(Lazy):
    def sample(self, x: Tensor, plan: Any, noise: Any = None, **more: Any) -> Tensor:
        out = torch.empty_like(x)
        self.queue.append(lambda: out.copy_(super(NoWaitInSampling, self).sample(x, plan, noise, **more)))
        return out
