"""The commands of a worker and their replies, typed, as both ends of its pipe see them. `bench.workers.session` and
`bench.workers.timed` do what is asked for. A command travels as one line of JSON: its name and its fields. Arrays travel in .npy
and .npz files that its fields name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

R = TypeVar("R")


def said(name: str) -> str:
    """How messages to people name a command: TimeTrain as "time_train"."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


class Command(Generic[R]):
    """What a worker is asked for; `reply` is the class of its answer."""
    reply: ClassVar[type[Any]]


@dataclass(frozen=True)
class Done:
    """It was done."""


@dataclass(frozen=True)
class Description:
    """What the backend says of its device, parameters and FLOPs per image, and the process's peak memory so far in bytes."""
    device: dict[str, str]
    peak_rss_bytes: int
    parameters: int
    flops_per_image: int


@dataclass(frozen=True)
class Create(Command[Description]):
    """Import the framework and build the network: the first command."""
    reply = Description


@dataclass(frozen=True)
class Describe(Command[Description]):
    """Describe the backend."""
    reply = Description


@dataclass(frozen=True)
class Load(Command[Done]):
    """Set weights and EMA from an .npz file of canonical arrays; the optimiser starts afresh."""
    reply = Done
    weights: str


@dataclass(frozen=True)
class Weights(Command[Done]):
    """Write weights and EMA, as `weights/NAME` and `ema/NAME`, to an .npz file."""
    reply = Done
    out: str


@dataclass(frozen=True)
class Tables(Command[Done]):
    """Write a plan's coefficients to an .npz file, as the framework computes them. `plan` are the arguments of `make_plan`."""
    reply = Done
    plan: dict[str, Any]
    out: str


@dataclass(frozen=True)
class Forward(Command[Done]):
    """Write the network's output (.npy) for an .npz file of x, t and, with self-conditioning, self_cond."""
    reply = Done
    inputs: str
    out: str
    ema: bool = False


@dataclass(frozen=True)
class LossValue:
    """A training loss."""
    loss: float


@dataclass(frozen=True)
class Loss(Command[LossValue]):
    """The training loss of one batch, an .npz file of `Batch`'s arrays. With `step` that training step is done too, and the .npz
    file `out` gets its gradients and the state on both sides of it, as `gradients/NAME`, `before/..` and `after/..`."""
    reply = LossValue
    batch: str
    step: int | None = None
    out: str = ""


@dataclass(frozen=True)
class Trained:
    """The figures of `training.loop.Fit`, and hashes of the weights and of their moving average."""
    losses: list[float]
    seconds: float
    first_seconds: float
    starts: int
    skipped: int
    weights: str
    ema: str


@dataclass(frozen=True)
class Train(Command[Trained]):
    """Train from the loaded weights, or from the newest state in the folder `states`: see `training.loop.fit`.

    `images` is a .npy file of uint8 (N, C, H, W). The EMA weights go to the .npz file `out`.
    """
    reply = Trained
    images: str
    seed: int
    steps: int
    batch_size: int
    flip: bool
    states: str | None = None
    config: dict[str, Any] | None = None
    save_every: float | None = None  # seconds; None: the loop's
    out: str | None = None


@dataclass(frozen=True)
class Sampled:
    """`seconds` is the sum of `batch_seconds`; `batch_size` as it ended up, and `notes` say where memory ran out."""
    seconds: float
    batch_seconds: list[float]
    calls: int  # of the network
    batch_size: int
    notes: list[str]


@dataclass(frozen=True)
class Sample(Command[Sampled]):
    """Draw the images of sample ids ids[0] .. ids[1] - 1 with the EMA weights, in batches: see `sampling.loop.draw`.

    They become rows `at` .. of the .npy file `out` of `total` rows, (total, C, H, W) float32.
    """
    reply = Sampled
    ids: tuple[int, int]
    plan: dict[str, Any]
    batch_size: int
    seed: int
    out: str
    at: int
    total: int


@dataclass(frozen=True)
class Bound(Command[Done]):
    """Write the variational bound of images, a .npy file of uint8 (n, C, H, W), under the EMA weights to the .npz file `out`:
    `prior`, (n,), and `terms/VARIANCE`, (n, S), for each of `variances`. See `sampling.bound`."""
    reply = Done
    images: str
    steps: int
    variances: list[str]
    seed: int
    batch_size: int
    clip: bool
    out: str


@dataclass(frozen=True)
class Block:
    """Seconds of a block of work, and how long its result was still waited for after them; of a roof's kernel also its FLOPs."""
    seconds: float
    late: float = 0.0
    flops: int | None = None


@dataclass(frozen=True)
class Timing(Command[Block]):
    """A block of `units` units of work, see `timing.blocks`. The sub-classes say which work."""
    reply = Block
    units: int


@dataclass(frozen=True)
class TimeTrain(Timing):
    """Training steps; the batches are made beforehand from the images of a .npy file."""

    images: str
    seed: int
    batch_size: int
    flip: bool = False


@dataclass(frozen=True)
class TimeSample(Timing):
    """Sampling steps: a network call and a DDIM update with eta = 0 for each. Their images go to the .npy file `out`."""

    batch_size: int
    seed: int
    out: str | None = None


@dataclass(frozen=True)
class TimeForward(Timing):
    """Calls of the network in inference mode."""

    batch_size: int
    seed: int


@dataclass(frozen=True)
class TimeStep(Timing):
    """DDIM updates with eta = 0, without the network."""

    batch_size: int
    seed: int


@dataclass(frozen=True)
class TimePath(Timing):
    """Whole DDIM paths of `steps` steps with eta = 0."""

    batch_size: int
    seed: int
    steps: int


@dataclass(frozen=True)
class TimeTables(Timing):
    """Buildings of the schedule and all coefficients of the full path."""


@dataclass(frozen=True)
class TimeMetric(Timing):
    """Evaluations of the metric, FID and KID, of `samples` images."""

    samples: int


@dataclass(frozen=True)
class TimeKernel(Timing):
    """The calibration kernel, by which times of two days are compared."""


@dataclass(frozen=True)
class TimeRoof(Timing):
    """Runs of the framework's `gemm` or `convolution` of size n."""

    kernel: str
    n: int
    dtype: str
