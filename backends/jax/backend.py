"""The JAX backend: `create(spec)`. README.md of backends lists what "tuned" adds to "stock"."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from backends.protocol import Batch, DeviceError, Spec
from reference import weights as names
from reference.config import ModelConfig
from reference.conventions import Plan
from reference.solver_plans import SolverPlan
from reference.weights import Weights

from . import distributed, samplers, solving, unet
from .adam import PARTS, Parts
from .devices import at_work, find_device
from .layers import Arrays, in_dtype
from .training import Optimiser, Process, finite

DTYPES = ("float32", "bfloat16", "float16", "float64")


def create(spec: Spec) -> JaxBackend:
    """A backend for this spec. Raises `DeviceError` where the device is absent or the dtype is not offered."""
    return JaxBackend(spec)


def loss(w: Arrays, process: Process, model: ModelConfig, dtype: str, scale: float, x0: Array, t: Array, noise: Array,
         coin: Array | None, key: Array | None) -> tuple[Array, Array]:
    """(the training loss times `scale`, the loss), scalars, of weights w."""
    found = process.loss(lambda x, told: unet.forward(w, model, x, told, dtype, key), x0, t, noise, coin)
    return found * scale, found


def denoise_at(w: Arrays, model: ModelConfig, x: Array, shifts: dict[str, Array], i: Array | int, dtype: str) -> Array:
    """The network's output at step i, in x's dtype; `shifts` are those of all steps."""
    now = {name: jax.lax.dynamic_slice_in_dim(shift, i, 1) for name, shift in shifts.items()}
    return unet.denoise(w, model, in_dtype(x, dtype), now).astype(x.dtype)


def all_shifts(w: Arrays, model: ModelConfig, t: Array, dtype: str) -> dict[str, Array]:
    """`unet.time_shifts` of all t (S,)."""
    return unet.time_shifts(w, model, unet.time_embedding(w, model, t, dtype))


gradient = jax.value_and_grad(loss, has_aux=True)
# Compiled once for all backends of a model and dtype. `loss_and_gradients` and `train_step` share the gradient's bits.
compiled_forward = jax.jit(unet.forward, static_argnames=("config", "dtype"))
compiled_gradient = jax.jit(gradient, static_argnames=("model", "dtype"))
compiled_denoise = jax.jit(denoise_at, static_argnames=("model", "dtype"))
compiled_shifts = jax.jit(all_shifts, static_argnames=("model", "dtype"))


class JaxBackend:
    """`backends.protocol.Backend` in JAX. Weights, optimiser and samples are float32 (float64 where spec.dtype is)."""

    def __init__(self, spec: Spec) -> None:
        if spec.dtype not in DTYPES:
            raise DeviceError(f"dtype={spec.dtype!r}: the jax backend has {', '.join(DTYPES)}")
        distributed.join(spec)  # before JAX looks for devices
        self.spec, self.device, self.tuned = spec, find_device(spec.device), spec.mode != "stock"
        self.average = distributed.Average(self.device, spec.processes) if spec.processes > 1 else None
        self.dtype = jnp.dtype(spec.dtype if spec.dtype == "float64" else "float32")
        calls: tuple[Any, Any] = (compiled_forward, compiled_gradient) if self.tuned else (unet.forward, gradient)
        self.forward_, self.gradient = calls
        self._prepare()

    @at_work
    def _prepare(self) -> None:
        self.process = Process(self.spec.diffusion, self.device)
        self.optimiser = Optimiser(self.spec.optim, self.tuned, self.spec.dtype == "float16")
        self._restart(names.initialise(self.spec.model, 0))

    def _restart(self, weights: Weights) -> None:
        zeros = {name: np.zeros_like(value) for name, value in weights.items()}
        self.parts: Parts = {part: self._arrays(zeros if part.startswith("adam") else weights) for part in PARTS}
        self.optimiser.load_state(None)
        self.step_count = 0

    def _arrays(self, weights: Mapping[str, np.ndarray]) -> dict[str, Array]:
        return jax.device_put({name: np.array(value, self.dtype) for name, value in weights.items()})

    @at_work
    def to_device(self, array: np.ndarray) -> Array:
        """Copy to the device; floating arrays keep their dtype."""
        return jnp.array(array)

    def to_host(self, tensor: Array) -> np.ndarray:
        """Copy back, waiting for the result; bfloat16, which NumPy lacks, becomes float32."""
        host = np.array(tensor)
        return host.astype(np.float32) if tensor.dtype == jnp.bfloat16 else host

    def synchronize(self, *results: Array) -> None:
        """Return when `results` and the last step are done: JAX waits for arrays, and has no call that waits for a device."""
        jax.block_until_ready((results, self.parts))

    def device_info(self) -> dict[str, str]:
        """What runs where."""
        memory = self.device.memory_stats() or {}
        name = "cpu" if self.device.platform == "cpu" else self.device.device_kind
        return {"framework": f"jax {jax.__version__}", "device": name,
                "threads": os.environ.get("NPROC", "default"), "execution": "compiled" if self.tuned else "layer by layer",
                **({"peak_memory_bytes": str(memory["peak_bytes_in_use"])} if "peak_bytes_in_use" in memory else {})}

    @at_work
    def tables(self, plan: Plan | SolverPlan) -> dict[str, np.ndarray]:
        """The plan's coefficients, float64."""
        c = solving.coefficients(plan) if isinstance(plan, SolverPlan) else samplers.coefficients(plan)
        return {name: np.array(table) for name, table in c.items()}

    @at_work
    def step(self, x: Array, output: Array, i: int, plan: Plan, z: Array | None) -> Array:
        """x_prev of step i, in x's dtype."""
        return samplers.step(x, output, i, plan, z, cast(plan))[0]

    @at_work
    def solve(self, network: solving.Network, x: Array, plan: SolverPlan, noise: Callable[[int], Array] | None = None) -> Array:
        """The whole path from x = x_T with any network."""
        return solving.solve(network, x, plan, solving.kept(plan), noise)

    @at_work
    def load_weights(self, weights: Weights) -> None:
        """Set weights and EMA, start the optimiser afresh."""
        names.check(weights, self.spec.model, "weights")
        self._restart(weights)

    def weights(self, ema: bool = False) -> Weights:
        """Canonical arrays."""
        return {name: np.array(value) for name, value in self._network(ema).items()}

    @at_work
    def forward(self, x: Array, t: Array, self_cond: Array | None = None, *, ema: bool = False) -> Array:
        """The network in inference mode."""
        if self.spec.diffusion.self_conditioning:
            x = jnp.concatenate((x, jnp.zeros_like(x) if self_cond is None else self_cond), axis=1)
        return self.forward_(self._network(ema), self.spec.model, x.astype(self.dtype), t, self.spec.dtype)

    @at_work
    def activations(self, x: Array, t: Array) -> Weights:
        """Each block's output by canonical module name."""
        seen: dict[str, np.ndarray] = {}

        def note(name: str, value: Array) -> Array:
            seen[name] = self.to_host(value.transpose(0, 3, 1, 2) if value.ndim == 4 else value)
            return value

        inputs = jnp.concatenate((x, jnp.zeros_like(x)), axis=1) if self.spec.diffusion.self_conditioning else x
        unet.forward(self.parts["weights"], self.spec.model, inputs, t, self.spec.dtype, note=note)
        return seen

    @at_work
    def loss_and_gradients(self, batch: Batch) -> tuple[Array, Weights]:
        """Scalar loss and gradients by canonical name, before clipping."""
        scale = self._loss_scale()
        found, gradients = self._backward(batch, scale)
        while scale > 1 and not finite(gradients):
            scale /= 2  # float16 overflowed; training would leave the step out
            found, gradients = self._backward(batch, scale)
        return found, {name: np.array(g) / np.float32(scale) for name, g in gradients.items()}

    @at_work
    def train_step(self, batch: Batch) -> Array:
        """One optimiser and EMA step; the loss stays on the device."""
        found, gradients = self._backward(batch, self._loss_scale())
        if self.average:
            found, gradients = self.average((found, gradients))
        self.parts = self.optimiser.step(batch.step, self.parts, gradients)
        self.step_count = batch.step + 1
        return found

    @at_work
    def mean(self, value: float) -> float:
        """The mean over the processes; waits for all."""
        return float(self.average(jnp.array(value))) if self.average else value

    @at_work
    def sample(self, x: Array, plan: Plan | SolverPlan, noise: Callable[[int], np.ndarray] | None = None, *, ema: bool = True,
               on_step: Callable[[int], None] | None = None) -> Array:
        """The whole path from x = x_T."""
        w, model, dtype = self._network(ema), self.spec.model, self.spec.dtype
        # Once for all steps and images: they depend on t alone.
        t = solving.kept(plan)["network_t"] if isinstance(plan, SolverPlan) else jnp.array(plan.network_t, jnp.float64)
        shifts = compiled_shifts(w, model, t, dtype) if self.tuned else {}

        def output(x: Array, i: int, x0: Array) -> Array:
            inputs = jnp.concatenate((x, x0), axis=1) if self.spec.diffusion.self_conditioning else x
            if self.tuned:
                return compiled_denoise(w, model, inputs, shifts, i, dtype)
            return unet.forward(w, model, inputs, jnp.broadcast_to(t[i], len(x)), dtype)

        z = None if noise is None else lambda i: jnp.array(noise(i), self.dtype)
        x = x.astype(self.dtype)
        if isinstance(plan, SolverPlan):
            return solving.solve(output, x, plan, solving.kept(plan), z, on_step)
        return samplers.sample(output, x, plan, cast(plan), z, on_step)

    def state(self) -> Mapping[str, np.ndarray]:
        """All that a resume needs, flat."""
        return ({f"{part}/{name}": np.array(value) for part, arrays in self.parts.items() for name, value in arrays.items()}
                | self.optimiser.state() | {"step": np.array(self.step_count)})

    @at_work
    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue bit for bit from `state()`."""
        self.parts = {part: self._arrays({name: state[f"{part}/{name}"] for name in arrays}) for part, arrays in self.parts.items()}
        self.step_count = int(state["step"])
        self.optimiser.load_state(state)

    def _network(self, ema: bool) -> dict[str, Array]:
        return self.parts["ema" if ema else "weights"]

    def _loss_scale(self) -> float:
        return self.optimiser.scaler.scale if self.optimiser.scaler else 1.0

    def _backward(self, batch: Batch, scale: float) -> tuple[Array, dict[str, Array]]:
        """The loss, and the gradients of it times `scale`."""
        # So that a resumed run drops what the uninterrupted one dropped.
        key = jax.random.key(batch.step * self.spec.processes + self.spec.rank) if self.spec.model.dropout else None
        inputs = (jnp.array(batch.x0, self.dtype), jnp.array(batch.t), jnp.array(batch.noise, self.dtype),
                  None if batch.coin is None else jnp.array(batch.coin), key)
        (_, found), gradients = self.gradient(self._network(False), self.process, self.spec.model, self.spec.dtype, scale, *inputs)
        return found, gradients


@functools.lru_cache(maxsize=32)
def cast(plan: Plan) -> dict[str, list[float]]:
    """The coefficients as Python numbers, which JAX rounds to the dtype of the array that they meet."""
    return {name: table.tolist() for name, table in samplers.coefficients(plan).items()}
