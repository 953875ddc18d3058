"""The narrow interface between the harness and a framework.

A backend is a folder here, or an installed package with an entry point in the group `ddim_bench.backends`. Its module exports
`create(spec: Spec) -> Backend`, and its package exports `ABOUT: About`. NumPy arrays cross into the framework in `to_device`,
`load_weights`, `load_state` and `train_step`, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from backends.facts import About as About
from reference.config import ConfigError, DiffusionConfig, ModelConfig, OptimConfig, require
from reference.conventions import Plan
from reference.solver_plans import SolverPlan
from reference.weights import Weights

Tensor = Any  # the framework's own
MODES = ("stock", "tuned", "compiled", "exported")
RECORDS: dict[str, Any] = {"model": ModelConfig, "diffusion": DiffusionConfig, "optim": OptimConfig}  # fields of `Spec`


class DeviceError(ConfigError):
    """This machine or framework does not have the device or dtype."""


class BackendError(RuntimeError):
    """A backend gave what is not what this interface promises."""


@dataclass(frozen=True)
class Spec:
    """Everything that `create` needs to build a backend."""

    model: ModelConfig
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    device: str = "cpu"  # cpu, cuda, cuda:N, ascend, tpu
    dtype: str = "float32"  # of the network: float32, bfloat16, float16, float64. Tables and updates stay float64/float32
    # "stock": the framework's plain layers, nothing tuned; "compiled": tuned, and compiled at any cost; "exported": tuned, and
    # sampling by an engine for inference, of a backend that names this mode.
    mode: str = "tuned"
    rank: int = 0  # of this process among those that train together, started by the framework's own launcher
    processes: int = 1

    def __post_init__(self) -> None:
        require(self.mode in MODES, "mode", self.mode, f"must be one of {', '.join(MODES)}")
        require(self.dtype in ("float32", "bfloat16", "float16", "float64"), "dtype", self.dtype,
                "must be one of float32, bfloat16, float16, float64")
        require(0 <= self.rank < self.processes, "rank", self.rank, f"must be one of 0 .. processes - 1, of {self.processes}")
        channels = self.image_channels
        wanted = 2 * channels if self.diffusion.learned_variance else channels
        require(self.model.out_channels == wanted, "out_channels", self.model.out_channels,
                f"variance {self.diffusion.variance} on {channels} image channels needs {wanted}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Spec:
        """From plain JSON types, as `to_dict` gives them. Raises `ConfigError`; also for an unknown name."""
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        require(not unknown, "Spec", unknown, f"unknown keys; known are {', '.join(f.name for f in fields(cls))}")
        return cls(**{key: RECORDS[key].from_dict(value) if key in RECORDS else value for key, value in values.items()})

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` of it gives an equal spec."""
        return {key: value.to_dict() if key in RECORDS else value for key, value in vars(self).items()}

    @property
    def image_channels(self) -> int:
        """Channels of an image; with self-conditioning the network's input is the image beside its last x0_hat."""
        if not self.diffusion.self_conditioning:
            return self.model.in_channels
        require(self.model.in_channels % 2 == 0, "in_channels", self.model.in_channels,
                "self_conditioning feeds the image and its last x0_hat: must be even")
        return self.model.in_channels // 2

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.image_channels, self.model.sample_size, self.model.sample_size


@dataclass(frozen=True)
class Batch:
    """One training step's inputs, the same for every backend."""

    ids: np.ndarray  # (N,) int64, position of each sample in the training stream
    x0: np.ndarray  # (N, C, H, W) float32 in [-1, 1]
    t: np.ndarray  # (N,) int64 in 0..T-1
    noise: np.ndarray  # (N, C, H, W) float32, standard normal
    step: int  # 0, 1, ..: decides the learning rate and Adam's bias correction
    coin: np.ndarray | None = None  # (N,) bool: condition this sample on its own first x0_hat


class Sampler(Protocol):
    """Enough for tables, single steps and whole paths (conformance levels L0, L1 and L5)."""

    def to_device(self, array: np.ndarray) -> Tensor:
        """Copy to the device; floating arrays keep their dtype."""

    def to_host(self, tensor: Tensor) -> np.ndarray:
        """Copy back, waiting for the result."""

    def synchronize(self, *results: Tensor) -> None:
        """Return when `results` and all work queued before them are done."""

    def device_info(self) -> dict[str, str]:
        """Framework version, device name, threads, and how the network runs (eager, compiled, graph)."""

    def tables(self, plan: Plan | SolverPlan) -> dict[str, np.ndarray]:
        """The plan's coefficients, computed in the framework: keys and shapes of `reference.samplers.coefficients`, float64. Of a
        `SolverPlan`, which only a backend with `About.solvers` is given, those of `reference.solving.coefficients`."""

    def step(self, x: Tensor, output: Tensor, i: int, plan: Plan, z: Tensor | None) -> Tensor:
        """x_prev of step i, in x's dtype: (N, C, H, W) from the network's output (N, C or 2C, H, W)."""


class Solver(Protocol):
    """What a sampler whose `About.solvers` is true has besides."""

    def solve(self, network: Callable[[Tensor, int, Tensor], Tensor], x: Tensor, plan: SolverPlan,
              noise: Callable[[int], Tensor] | None = None) -> Tensor:
        """The whole path from x = x_T, in x's dtype, with any network: `network(x, k, x0)` gives the output (N, C or 2C, H, W) of
        call k from the state and the last x0_hat, (N, C, H, W), zeros at first; `noise(k)` gives z where row k adds some."""


class Backend(Sampler, Protocol):
    """A sampler with the UNet and its training."""

    def load_weights(self, weights: Weights) -> None:
        """Set weights and EMA from canonical float32 arrays and start the optimiser afresh. Names and shapes are checked."""

    def weights(self, ema: bool = False) -> Weights:
        """Canonical arrays."""

    def forward(self, x: Tensor, t: Tensor, self_cond: Tensor | None = None, *, ema: bool = False) -> Tensor:
        """The network in inference mode: x (N, C, H, W), t (N,) as `Plan.network_t` has it, output (N, out_channels, H, W)."""

    def activations(self, x: Tensor, t: Tensor) -> Weights:
        """Each block's output by canonical module name, for conformance: `time_embedding`, `conv_in`,
        `down_blocks.i.resnets.j`, `...attentions.j`, `...downsamplers.0`, `mid_block...`, `up_blocks...`, `conv_out`."""

    def loss_and_gradients(self, batch: Batch) -> tuple[Tensor, Weights]:
        """Scalar loss and gradients by canonical name, before clipping, for conformance."""

    def train_step(self, batch: Batch) -> Tensor:
        """One optimiser and EMA step; the scalar loss stays on the device.

        With `spec.processes` above 1 the batch is this process's share, gradients and loss are means over all processes, and
        all must call this. Beside it only `mean` and the constructor wait for other processes.
        """

    def sample(self, x: Tensor, plan: Plan | SolverPlan, noise: Callable[[int], np.ndarray] | None = None, *, ema: bool = True,
               on_step: Callable[[int], None] | None = None) -> Tensor:
        """The whole path from x = x_T; `noise(i)` gives z of step i; `on_step(i)` is called after step i was queued. Of a
        `SolverPlan` steps are network calls."""

    def mean(self, value: float) -> float:
        """The mean over all processes, which all must call; only where `spec.processes` is above 1."""

    def state(self) -> Mapping[str, np.ndarray]:
        """All that a resume needs, flat: `weights/NAME`, `ema/NAME`, `adam_m/NAME`, `adam_v/NAME`, `step`; in float16 also the
        loss scaler: `scaler_scale`, `scaler_good` the steps since it last halved, `scaler_skipped` those that it left out."""

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue bit for bit from `state()`."""


class Process(Protocol):
    """A forward process as the framework has it, with the terms of its variational bound: `reference.diffusion`'s functions.

    Tensors: x0, xt, noise, output (N, C, H, W), t (N,) integers in 0..T-1, variance as the output, unused where it is fixed.
    """

    def of(self, config: DiffusionConfig) -> Process:
        """That of another config, on the same device."""

    def q_sample(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t from x_0 (DDPM equation 4)."""

    def network_t(self, t: Tensor) -> Tensor:
        """The network's input for t, (N,)."""

    def vlb_terms(self, x0: Tensor, xt: Tensor, t: Tensor, output: Tensor, variance: Tensor, clip: bool = False) -> Tensor:
        """One term of the bound per image, bits per dimension, (N,) (DDPM equation 5)."""

    def prior_bits(self, x0: Tensor) -> Tensor:
        """KL(q(x_T | x_0) || N(0, 1)) per image, bits per dimension, (N,)."""


class Likelihood(Protocol):
    """What a backend whose `About.likelihood` is true has besides."""

    process: Process  # of `spec.diffusion`


class Roofline(Protocol):
    """The file roofline.py of a backend whose `About.roofline` is true: kernels whose best rate is the machine's, by which a
    network's rate is judged. Each function returns the kernel, to be called again and again, and its floating point operations."""

    def gemm(self, n: int, device: str, dtype: str) -> tuple[Callable[[], Tensor], int]:
        """The product of two n x n matrices."""

    def convolution(self, n: int, device: str, dtype: str) -> tuple[Callable[[], Tensor], int]:
        """A 3x3 convolution of 16 images, 56 x 56, with n channels in and out."""


class WeightFiles(Protocol):
    """The file weight_files.py of a backend whose `About.weight_files` says how such a file begins. Where users need files for the
    framework's own loader it also has `write(path, arrays)`."""

    def read(self, path: Path) -> dict[str, Weights]:
        """Each dictionary of arrays in the file by its key there, "" for the file itself, without running code in it. Raises
        `ConfigError` where it is damaged."""
