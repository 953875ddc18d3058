"""The MindSpore backend: `create(spec)`. README.md of backends lists what "tuned" adds to "stock"."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore._extends import parse

from backends.protocol import Batch, DeviceError, Spec
from reference import weights as names
from reference.conventions import Plan
from reference.solver_plans import SolverPlan
from reference.weights import Weights

from . import distributed, samplers, solving
from .devices import find_device, hold_threads
from .training import Optimiser, Process
from .unet import UNet, set_weights

DTYPES = {"float32": ms.float32}
_parsed: list[object] = []


def _keep_parsed() -> None:
    """Keep all that MindSpore's graph parser has seen alive.

    It caches by `id()`, and Python gives a freed object's id to the next one: compiling a training step after an inference step
    then fails, or takes one function for another.
    """
    def keeping(key: Callable[[object], Any]) -> Callable[[object], Any]:
        def kept(obj: object) -> Any:
            _parsed.append(obj)
            return key(obj)
        return kept

    for name in ("get_object_key", "get_obj_id"):
        kept = keeping(getattr(parse, name))
        setattr(parse, name, kept)
        setattr(parse.parser, name, kept)


_keep_parsed()


def create(spec: Spec) -> MindSporeBackend:
    """A backend for this spec. Raises `DeviceError` where the device is absent or the dtype is not offered."""
    return MindSporeBackend(spec)


class MindSporeBackend:
    """`backends.protocol.Backend` in MindSpore. Weights, optimiser and samples are float32."""

    def __init__(self, spec: Spec) -> None:
        self.spec, self.device, self.tuned = spec, find_device(spec.device), spec.mode != "stock"
        if spec.dtype not in DTYPES:
            raise DeviceError(f"dtype={spec.dtype!r}: the mindspore backend has {', '.join(DTYPES)}: its CPU has no float64 and no "
                              "bfloat16 convolution")
        distributed.join(spec)
        self.network = UNet(spec.model, self.tuned)
        # `view` draws with the current weights: a network whose methods were compiled for inference can't be compiled for
        # training any more.
        self.ema, self.view = UNet(spec.model, self.tuned), UNet(spec.model, self.tuned)
        for name, network in (("ema.", self.ema), ("view.", self.view)):
            network.update_parameters_name(name)
            network.set_train(False)
            for parameter in network.get_parameters():
                parameter.requires_grad = False
        self.process = Process(spec.diffusion, self.network)
        self.optimiser = Optimiser(spec.optim, self.network, self.ema)
        self.step_count = 0
        self.updated: Tensor | None = None  # of the last training step, for `synchronize`
        self.gradient = ms.value_and_grad(self._loss, None, ms.ParameterTuple(self.network.get_parameters()))
        self.compiled = self.tuned
        # One graph for a whole step: PyNative's pipeline threads contend with the kernels' own on few cores.
        # Shifts are passed as mutable: a compiled function takes a plain tuple for a constant and is compiled again for each.
        self.denoise = {ema: ms.jit(net.denoise) if self.compiled else net.denoise
                        for ema, net in ((False, self.view), (True, self.ema))}
        # Two graphs: as one, the main thread waits busily for it and takes the kernels' core.
        self.train_gradient = ms.jit(self._gradient) if self.compiled else self._gradient
        self.update = ms.jit(self._update) if self.compiled else self._update
        self.average = distributed.Average([p.shape for p in self.network.get_parameters()], spec.processes)

    def to_device(self, array: np.ndarray) -> Tensor:
        """Copy to the device; 64-bit floats become 32-bit."""
        array = np.ascontiguousarray(array)
        return Tensor(array.astype(np.float32) if array.dtype == np.float64 else array)

    def to_host(self, tensor: Tensor) -> np.ndarray:
        """Copy back, waiting for the result."""
        return tensor.asnumpy()

    def synchronize(self, *results: Tensor) -> None:
        """Return when `results` are done: on CPU the first `runtime.synchronize` doesn't wait, reading a value does."""
        for result in (*results, *([] if self.updated is None else [self.updated])):
            result.asnumpy()

    def device_info(self) -> dict[str, str]:
        """What runs where."""
        return {"framework": f"mindspore {ms.__version__}", "device": self.device.lower(),
                "threads": hold_threads(), "execution": "graph" if self.compiled else "pynative"}

    def tables(self, plan: Plan | SolverPlan) -> dict[str, np.ndarray]:
        """The plan's coefficients, float64."""
        c = solving.coefficients(plan) if isinstance(plan, SolverPlan) else samplers.coefficients(plan)
        return {name: table.asnumpy().copy() for name, table in c.items()}

    def step(self, x: Tensor, output: Tensor, i: int, plan: Plan, z: Tensor | None) -> Tensor:
        """x_prev of step i, in x's dtype."""
        return samplers.step(x, output, i, plan, z, cast(plan))[0]

    def solve(self, network: solving.Network, x: Tensor, plan: SolverPlan, noise: Callable[[int], Tensor] | None = None) -> Tensor:
        """The whole path from x = x_T with any network."""
        return solving.solve(network, x, plan, solving.kept(plan), noise)

    def load_weights(self, weights: Weights) -> None:
        """Set weights and EMA, start the optimiser afresh."""
        names.check(weights, self.spec.model, "weights")
        self.synchronize()  # an update that is still running would write into what is loaded
        for network in (self.network, self.ema):
            set_weights(network, weights)
        self.optimiser.load_state(None)
        self.step_count = 0

    def weights(self, ema: bool = False) -> Weights:
        """Canonical arrays."""
        return {name: p.asnumpy().copy() for name, p in (self.ema if ema else self.network).parameters_and_names()}

    def forward(self, x: Tensor, t: Tensor, self_cond: Tensor | None = None, *, ema: bool = False) -> Tensor:
        """The network in inference mode."""
        if self.spec.diffusion.self_conditioning:
            x = ops.cat((x, ops.zeros_like(x) if self_cond is None else self_cond), axis=1)
        return self.denoise[ema](x, ms.mutable(self._inference(ema).time_shifts(t)))

    def activations(self, x: Tensor, t: Tensor) -> Weights:
        """Each block's output by canonical module name."""
        seen: dict[str, np.ndarray] = {}
        kinds = ("Resnet", "Attention", "Downsample", "Upsample", "TimeEmbedding")

        def keep(name: str) -> Callable[[nn.Cell, Any, Tensor], None]:
            return lambda cell, inputs, output: seen.update({name: output.asnumpy().copy()})

        network = self._inference(ema=False)
        hooks = [cell.register_forward_hook(keep(name)) for name, cell in network.cells_and_names()
                 if type(cell).__name__ in kinds or name in ("conv_in", "conv_out")]
        try:
            inputs = ops.cat((x, ops.zeros_like(x)), axis=1) if self.spec.diffusion.self_conditioning else x
            network.denoise(inputs, network.time_shifts(t))
        finally:
            for hook in hooks:
                hook.remove()
        return seen

    def loss_and_gradients(self, batch: Batch) -> tuple[Tensor, Weights]:
        """Scalar loss and gradients by canonical name, before clipping."""
        self.network.set_train(True)
        loss, gradients = self.gradient(*self._inputs(batch))
        return loss, {name: g.asnumpy().copy() for name, g in zip(self.optimiser.names, gradients, strict=True)}

    def train_step(self, batch: Batch) -> Tensor:
        """One optimiser and EMA step; the loss stays on the device."""
        self.network.set_train(True)
        loss, gradients = self.train_gradient(*self._inputs(batch))
        if self.spec.processes > 1:
            loss, gradients = self.average(loss, gradients)
        self.updated = self.update(ms.mutable(gradients), *self.optimiser.scalars(batch.step))
        self.step_count = batch.step + 1
        return loss

    def mean(self, value: float) -> float:
        """The mean over the processes; waits for all."""
        return float(self.average.total(Tensor(value, ms.float64)).asnumpy()) / self.spec.processes

    def sample(self, x: Tensor, plan: Plan | SolverPlan, noise: Callable[[int], np.ndarray] | None = None, *, ema: bool = True,
               on_step: Callable[[int], None] | None = None) -> Tensor:
        """The whole path from x = x_T."""
        network = self._inference(ema)
        # Once for all steps and images: they depend on t alone.
        t = solving.kept(plan)["network_t"] if isinstance(plan, SolverPlan) else Tensor(np.array(plan.network_t))
        shifts = [shift.asnumpy() for shift in network.time_shifts(t)] if self.tuned else []

        def output(x: Tensor, i: int, x0: Tensor) -> Tensor:
            inputs = ops.cat((x, x0), axis=1) if self.spec.diffusion.self_conditioning else x
            if self.tuned:
                return self.denoise[ema](inputs, ms.mutable(tuple(Tensor(s[i:i + 1]) for s in shifts)))
            return network(inputs, t[i].broadcast_to((len(x),)))

        z = None if noise is None else lambda i: self.to_device(noise(i))
        if isinstance(plan, SolverPlan):
            return solving.solve(output, x, plan, solving.kept(plan), z, on_step)
        return samplers.sample(output, x, plan, cast(plan), z, on_step)

    def state(self) -> Mapping[str, np.ndarray]:
        """All that a resume needs, flat."""
        return ({f"weights/{k}": v for k, v in self.weights().items()} | {f"ema/{k}": v for k, v in self.weights(ema=True).items()}
                | self.optimiser.state() | {"step": np.array(self.step_count)})

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue bit for bit from `state()`."""
        self.synchronize()
        for part, network in (("weights", self.network), ("ema", self.ema)):
            set_weights(network, {name: state[f"{part}/{name}"] for name, _ in network.parameters_and_names()})
        self.step_count = int(state["step"])
        self.optimiser.load_state(state)

    def _inference(self, ema: bool) -> UNet:
        if ema:
            return self.ema
        for mine, theirs in zip(self.view.get_parameters(), self.network.get_parameters(), strict=True):
            ops.assign(mine, theirs)
        return self.view

    def _loss(self, x0: Tensor, t: Tensor, noise: Tensor, coin: Tensor, step: Tensor) -> Tensor:
        return self.process(x0, t, noise, coin, step)

    def _gradient(self, x0: Tensor, t: Tensor, noise: Tensor, coin: Tensor, step: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self.gradient(x0, t, noise, coin, step)

    def _update(self, gradients: tuple[Tensor, ...], power1: Tensor, power2: Tensor, rate: Tensor, eps: Tensor,
                ema_share: Tensor) -> Tensor:
        return self.optimiser(gradients, power1, power2, rate, eps, ema_share)

    def _inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        coin = np.zeros(len(batch.t)) if batch.coin is None else batch.coin
        return (self.to_device(batch.x0), Tensor(batch.t.astype(np.int32)), self.to_device(batch.noise),
                Tensor(coin.astype(np.float32)), Tensor(batch.step * self.spec.processes + self.spec.rank, ms.int32))


@functools.lru_cache(maxsize=32)
def cast(plan: Plan) -> dict[str, list[float]]:
    """The coefficients as Python numbers, which MindSpore rounds to the dtype of the tensor that they meet."""
    return {name: table.asnumpy().tolist() for name, table in samplers.coefficients(plan).items()}
