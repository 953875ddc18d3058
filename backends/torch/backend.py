"""The torch backend: `create(spec)`. README.md of backends lists what "tuned" adds to "stock"."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Hashable, Mapping
from typing import cast

import numpy as np
import torch
from torch import Tensor

from backends.protocol import Batch, DeviceError, Spec
from reference import weights as names
from reference.conventions import Plan
from reference.solver_plans import SolverPlan
from reference.weights import Weights

from . import distributed, samplers, solving
from .compiling import Denoiser, Graph, compiled
from .devices import describe, find_device
from .exporting import engine, exported
from .replaying import Replay
from .training import Optimiser, Process
from .unet import UNet, outputs

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
APART = ("compiled", "exported")  # ways to run whose sampling has a network of its own
Inputs = tuple[Tensor, Tensor, Tensor, Tensor | None]  # of `Process.loss`, after the network
coefficients = functools.lru_cache(maxsize=32)(samplers.coefficients)


def create(spec: Spec) -> TorchBackend:
    """A backend for this spec. Raises `DeviceError` where the device is absent or the dtype is not offered."""
    return TorchBackend(spec)


class TorchBackend:
    """`backends.protocol.Backend` in torch. Weights, optimiser and samples are float32 (float64 where spec.dtype is)."""

    def __init__(self, spec: Spec) -> None:
        self.spec, self.device, self.tuned = spec, find_device(distributed.own_device(spec)), spec.mode != "stock"
        if spec.dtype not in DTYPES:
            raise DeviceError(f"dtype={spec.dtype!r}: the torch backend has {', '.join(DTYPES)}")
        self.framework = f"torch {torch.__version__}" + (f", {engine(spec)}" if spec.mode == "exported" else "")
        distributed.join(spec, self.device)
        self.dtype = torch.float64 if spec.dtype == "float64" else torch.float32
        # CUDA: launch-bound without compiling. CPU: it takes a minute; sampling batches of 64 and more gains up to 6% in
        # float32 and 14% in bfloat16, a single image 44%; training loses 4% and 12% (results/speed.md).
        self.execution = (spec.mode if spec.mode in APART else "compiled" if self.tuned and self.device.type == "cuda" else "eager")
        # Convolutions without a change of layout: tensor cores want it on CUDA. On CPU, eager, with `layers.NormSiLU`, a float32
        # training step gains 3%, sampling nothing; a bfloat16 sampling step would lose 7% (results/tries.md).
        channels_last = self.tuned and not (self.device.type == "cpu" and spec.dtype == "bfloat16" and self.execution == "eager")
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        # float32 means float32: torch's default runs convolutions on CUDA in TF32. float64's add in no fixed order unless told.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.deterministic = spec.dtype == "float64"
        self.network = UNet(spec.model).to(self.device, self.dtype)
        self.network.to(memory_format=self.layout)  # type: ignore[call-overload]
        self.ema = copy.deepcopy(self.network).eval().requires_grad_(False)
        trained = distributed.averaged(self.network, spec)
        self.trained = compiled(trained, self._failed) if self.execution == "compiled" else trained
        # Frozen weights are meant for small batches on the CPU; whenever they change, they cost the compiler's time again.
        frozen = self.device.type == "cpu"
        build = exported if spec.mode == "exported" else lambda network: compiled(network.denoise, self._failed, frozen)
        self.denoisers = {ema: Denoiser(network, DTYPES[spec.dtype], frozen, build)
                          for ema, network in ((False, self.network), (True, self.ema))}
        self.process = Process(spec.diffusion, self.device)
        # A step as one CUDA graph: float16's scaler looks at values, and launches from Python made an H200 wait half of the time.
        self.recorded = self.tuned and self.device.type == "cuda" and spec.dtype in ("float32", "bfloat16") and spec.processes == 1
        self.optimiser = Optimiser(spec.optim, self.network, self.ema, self.tuned, spec.dtype == "float16", self.recorded)
        # A sampling step as one CUDA graph, too, with the same bits: its launches are what a single image waits for.
        self.replayed = self.tuned and self.device.type == "cuda"
        self.graphs, self.steps = dict[int, Graph](), dict[Hashable, Graph]()  # of training and of sampling
        self.step_count = 0

    def to_device(self, array: np.ndarray) -> Tensor:
        """Copy to the device; floating arrays keep their dtype."""
        return torch.tensor(array, device=self.device)

    def to_host(self, tensor: Tensor) -> np.ndarray:
        """Copy back, waiting for the result; bfloat16, which NumPy lacks, becomes float32."""
        tensor = tensor.detach().cpu().contiguous()
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()

    def synchronize(self, *results: Tensor) -> None:
        """Return when all queued work is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def device_info(self) -> dict[str, str]:
        """What runs where."""
        return {"framework": self.framework, "execution": self.execution,
                "layout": str(self.layout).removeprefix("torch."), **describe(self.device)}

    def tables(self, plan: Plan | SolverPlan) -> dict[str, np.ndarray]:
        """The plan's coefficients, float64."""
        c = solving.coefficients(plan) if isinstance(plan, SolverPlan) else samplers.coefficients(plan)
        return {name: table.numpy().copy() for name, table in c.items()}

    def step(self, x: Tensor, output: Tensor, i: int, plan: Plan, z: Tensor | None) -> Tensor:
        """x_prev of step i, in x's dtype."""
        return samplers.step(x, output, i, plan, z, coefficients(plan))[0]

    def solve(self, network: solving.Network, x: Tensor, plan: SolverPlan, noise: Callable[[int], Tensor] | None = None) -> Tensor:
        """The whole path from x = x_T with any network."""
        return solving.solve(network, x, plan, solving.kept(plan), noise)

    def load_weights(self, weights: Weights) -> None:
        """Set weights and EMA, start the optimiser afresh."""
        names.check(weights, self.spec.model, "weights")
        for network in (self.network, self.ema):
            network.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in weights.items()})
        self.optimiser.load_state(None)
        self.step_count = 0
        self._changed()

    def weights(self, ema: bool = False) -> Weights:
        """Canonical arrays."""
        return {name: self.to_host(value).copy() for name, value in (self.ema if ema else self.network).state_dict().items()}

    @torch.inference_mode()
    def forward(self, x: Tensor, t: Tensor, self_cond: Tensor | None = None, *, ema: bool = False) -> Tensor:
        """The network in inference mode."""
        if self.spec.diffusion.self_conditioning:
            x = torch.cat((x, torch.zeros_like(x) if self_cond is None else self_cond), dim=1)
        network = (self.ema if ema else self.network).eval()
        with self._autocast():
            return network(self._layout(x), t).to(self.dtype)

    def activations(self, x: Tensor, t: Tensor) -> Weights:
        """Each block's output by canonical module name."""
        return {name: self.to_host(out) for name, out in outputs(self.network, lambda: self.forward(x, t)).items()}

    def loss_and_gradients(self, batch: Batch) -> tuple[Tensor, Weights]:
        """Scalar loss and gradients by canonical name, before clipping."""
        scale = self._loss_scale()
        loss = self._backward(batch, self.network, scale)
        while scale > 1 and not all(cast(Tensor, p.grad).isfinite().all() for p in self.network.parameters()):
            scale /= 2  # float16 overflowed; training would leave the step out
            loss = self._backward(batch, self.network, scale)
        return loss, {name: self.to_host(cast(Tensor, p.grad)) / np.float32(scale) for name, p in self.network.named_parameters()}

    def train_step(self, batch: Batch) -> Tensor:
        """One optimiser and EMA step; the loss stays on the device."""
        if self.recorded:
            loss = self._replay(batch)
        else:
            loss = self._backward(batch, self.trained, self._loss_scale())
            self.optimiser.step(batch.step)
        self.step_count = batch.step + 1
        self._changed()
        return distributed.mean(loss, self.spec.processes)

    def mean(self, value: float) -> float:
        """The mean over the processes; waits for all."""
        return float(distributed.mean(torch.tensor(value, dtype=torch.float64, device=self.device), self.spec.processes))

    def sample(self, x: Tensor, plan: Plan | SolverPlan, noise: Callable[[int], np.ndarray] | None = None, *, ema: bool = True,
               on_step: Callable[[int], None] | None = None) -> Tensor:
        """The whole path from x = x_T."""
        network = (self.ema if ema else self.network).eval()
        with torch.inference_mode():
            c = solving.kept(plan) if isinstance(plan, SolverPlan) else coefficients(plan)
            t = c["network_t"].to(self.device)
            apart = self.execution in APART
            denoise, dtype = (self.denoisers[ema].current(), DTYPES[self.spec.dtype]) if apart else (network.denoise, self.dtype)
            # Once for all steps and images: the shifts depend on t alone.
            shifts = [s.to(dtype) for s in network.time_shifts(t)] if self.tuned else [t[:, None]]

            def output(x: Tensor, x0: Tensor, shift: list[Tensor]) -> Tensor:
                inputs = self._layout(torch.cat((x, x0), dim=1) if self.spec.diffusion.self_conditioning else x).to(dtype)
                with self._autocast(not apart):
                    return (denoise(inputs, shift) if self.tuned else network(inputs, shift[0][:, 0].expand(len(x)))).to(self.dtype)

            x, z = x.to(self.dtype), None if noise is None else lambda i: self.to_device(noise(i)).to(self.dtype)
            if self.replayed:
                return Replay(output, shifts, self.steps, (ema, apart)).path(x, plan, c, z, on_step)
            of_step = lambda x, i, x0: output(x, x0, [s[i:i + 1] for s in shifts])  # noqa: E731
            return (solving.solve(of_step, x, plan, c, z, on_step) if isinstance(plan, SolverPlan) else
                    samplers.sample(of_step, x, plan, c, z, on_step))

    def state(self) -> Mapping[str, np.ndarray]:
        """All that a resume needs, flat."""
        return ({f"weights/{k}": v for k, v in self.weights().items()} | {f"ema/{k}": v for k, v in self.weights(ema=True).items()}
                | self.optimiser.state() | {"step": np.array(self.step_count)})

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue bit for bit from `state()`."""
        for part, network in (("weights", self.network), ("ema", self.ema)):
            network.load_state_dict({name: torch.from_numpy(np.array(state[f"{part}/{name}"])) for name in network.state_dict()})
        self.step_count = int(state["step"])
        self._changed()
        self.optimiser.load_state(state)

    def _changed(self) -> None:
        """The weights are others."""
        for denoiser in self.denoisers.values():
            denoiser.changed()

    def _loss_scale(self) -> float:
        return self.optimiser.scaler.scale if self.optimiser.scaler else 1.0

    def _inputs(self, batch: Batch) -> Inputs:
        """What the device needs of a batch; the network and its dropout are set to this step."""
        self.network.train()
        if self.spec.model.dropout:
            torch.manual_seed(batch.step * self.spec.processes + self.spec.rank)  # a resumed run drops the same elements
        x0, noise = self.to_device(batch.x0).to(self.dtype), self.to_device(batch.noise).to(self.dtype)
        return x0, self.to_device(batch.t), noise, None if batch.coin is None else self.to_device(batch.coin)

    def _replay(self, batch: Batch) -> Tensor:
        """The training step as one CUDA graph, which is recorded for each size of a batch."""
        def step(*inputs: *Inputs) -> Tensor:
            loss = self._gradients(inputs, self.trained, 1.0)
            self.optimiser.apply()
            return loss

        if (size := len(batch.x0)) not in self.graphs:
            state = self.state()
            self.graphs[size] = Graph(step, self._inputs(batch))
            self.load_state(state)
        self.optimiser.begin(batch.step)
        return self.graphs[size](*self._inputs(batch))

    def _backward(self, batch: Batch, trained: Callable[..., Tensor], scale: float) -> Tensor:
        return self._gradients(self._inputs(batch), trained, scale)

    def _gradients(self, inputs: Inputs, trained: Callable[..., Tensor], scale: float) -> Tensor:
        """The loss; its gradients, times the scale, are the parameters'."""
        self.optimiser.adam.zero_grad(set_to_none=True)

        def network(x: Tensor, t: Tensor) -> Tensor:
            with self._autocast():
                return trained(self._layout(x), t).to(self.dtype)

        loss = self.process.loss(network, *inputs)
        (loss * scale if scale != 1 else loss).backward()
        return loss.detach()

    def _failed(self, why: str) -> None:
        """Compiling failed; `device_info` says it."""
        self.execution = f"eager, for compiling failed: {why}"

    def _layout(self, x: Tensor) -> Tensor:
        return x.to(self.dtype, memory_format=self.layout)

    def _autocast(self, enabled: bool = True) -> torch.autocast:
        return torch.autocast(self.device.type, dtype := DTYPES[self.spec.dtype], enabled=enabled and dtype.itemsize == 2)
