"""What a worker can be asked to do with its backend. Arrays travel as .npy and .npz files, everything else as JSON.

A command takes a `Session` and keyword arguments and returns a dict. All randomness comes from `bench.streams`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import backends
from backends.protocol import Backend, Batch, Spec
from bench import streams
from bench.timing import peak_memory
from reference.config import DiffusionConfig, ModelConfig, OptimConfig, require
from reference.conventions import Plan, make_plan
from reference.weights import count

COLLECT_EVERY = 50  # training steps between looks at the losses, which wait for the device
TIMED_BATCHES = 8  # distinct batches that a timed training block goes round
_OUT_OF_MEMORY = re.compile(r"out of memory|(can.?t|cannot|failed to|unable to) allocate|allocate.{0,20}memory.{0,20}fail", re.I)


@dataclass
class Session:
    """The worker's side of a connection: one backend, and a way to report."""

    name: str
    spec: Spec
    progress: Callable[[int, int], None]  # done, total
    log: Callable[[str], None]
    backend: Any = None
    steps_trained: int = 0
    batch_that_fits: int | None = None
    timed: dict[str, list[Batch]] = field(default_factory=dict)


def make_spec(values: dict[str, Any]) -> Spec:
    """The spec from plain JSON types; `model`, `diffusion` and `optim` are records. Raises `ConfigError`."""
    records: dict[str, Any] = {"model": ModelConfig, "diffusion": DiffusionConfig, "optim": OptimConfig}
    return Spec(**{key: records[key].from_dict(value) if key in records else value for key, value in values.items()})


def create(session: Session) -> dict[str, Any]:
    """Import the framework and build the network. Raises `NotInstalled`, `ConfigError`, `DeviceError`."""
    session.backend = backends.load(session.name).create(session.spec)
    return info(session)


def info(session: Session) -> dict[str, Any]:
    """What the backend says of its device, the number of parameters, and the process's peak memory so far in bytes."""
    return {"device": dict(_backend(session).device_info()), "parameters": count(session.spec.model),
            "peak_rss_bytes": peak_memory()}


def load(session: Session, weights: str) -> dict[str, Any]:
    """Set weights and EMA from an .npz file of canonical arrays; the optimiser starts afresh."""
    with np.load(weights) as file:
        _backend(session).load_weights({name: file[name] for name in file.files})
    session.steps_trained = 0
    return {}


def tables(session: Session, plan: dict[str, Any], out: str) -> dict[str, Any]:
    """The plan's coefficients as the framework computes them, to an .npz file."""
    np.savez(out, **_backend(session).tables(_plan(session, plan)))
    return {}


def forward(session: Session, inputs: str, out: str, ema: bool = False) -> dict[str, Any]:
    """The network's output (.npy) for an .npz file of x, t and, with self-conditioning, self_cond."""
    backend = _backend(session)
    with np.load(inputs) as file:
        given = {name: backend.to_device(file[name]) for name in file.files}
    np.save(out, backend.to_host(backend.forward(**given, ema=ema)))
    return {}


def loss(session: Session, batch: str) -> dict[str, Any]:
    """Training loss of one batch without a step: an .npz file of `Batch`'s arrays."""
    backend = _backend(session)
    with np.load(batch) as file:
        value, _ = backend.loss_and_gradients(Batch(**{name: file[name] for name in file.files}, step=0))
    return {"loss": float(backend.to_host(value))}


def train(session: Session, images: str, seed: int, steps: int, batch_size: int, flip: bool) -> dict[str, Any]:
    """Train on steps 0 .. steps - 1 of the streams, from the loaded weights.

    Returns `losses` (one a step), `seconds` of all but the first step, data included, and `first_seconds`. Raises
    `ConfigError` at the first loss that is not finite, naming its step.
    """
    backend, data = _backend(session), np.load(images)
    losses: list[float] = []
    waiting: list[Any] = []
    first, began = 0.0, time.perf_counter()
    for step in range(steps):
        waiting.append(backend.train_step(_batch(session, data, seed, step, batch_size, flip)))
        if step == 0 or len(waiting) == COLLECT_EVERY or step == steps - 1:
            losses += [float(backend.to_host(value)) for value in waiting]
            waiting.clear()
            bad = np.flatnonzero(~np.isfinite(losses))
            require(bad.size == 0, "loss", losses[bad[0]] if bad.size else 0, f"is not finite at step {bad[:1].tolist()}; "
                    f"lr={session.spec.optim.lr:g}, {session.spec.dtype}: lower the learning rate or use float32")
        if step == 0:
            first, began = time.perf_counter() - began, time.perf_counter()
        session.progress(step + 1, steps)
    session.steps_trained = steps
    return {"losses": losses, "seconds": time.perf_counter() - began, "first_seconds": first}


def time_train(session: Session, units: int, images: str, seed: int, batch_size: int, flip: bool = False) -> dict[str, Any]:
    """Seconds of one block of `units` training steps; its batches are made beforehand."""
    backend = _backend(session)
    key = f"{images} {seed} {batch_size} {flip}"
    if key not in session.timed:
        data = np.load(images)
        session.timed = {key: [_batch(session, data, seed, n, batch_size, flip) for n in range(TIMED_BATCHES)]}
    ready = [replace(session.timed[key][n % TIMED_BATCHES], step=session.steps_trained + n) for n in range(units)]
    backend.synchronize()
    began = time.perf_counter()
    for batch in ready:
        value = backend.train_step(batch)
    backend.synchronize(value)
    seconds = time.perf_counter() - began
    session.steps_trained += units
    return {"seconds": seconds}


def time_sample(session: Session, units: int, batch_size: int, seed: int) -> dict[str, Any]:
    """Seconds of one block of `units` sampling steps: a network call and a DDIM update with eta = 0 for each.

    The steps are the first ones of the full path of T, so that a block's length does not depend on S.
    """
    backend = _backend(session)
    full = make_plan(session.spec.diffusion, session.spec.diffusion.timesteps)
    lengths = [min(full.steps, units - n) for n in range(0, units, full.steps)]
    plans = [replace(full, **{name: getattr(full, name)[:length] for name in ("timesteps", "previous", "network_t", "noise_gate")})
             for length in lengths]
    x = backend.to_device(streams.normal(seed, "x_T", np.arange(batch_size), session.spec.image_shape))
    backend.synchronize(x)
    began = time.perf_counter()
    for plan in plans:
        out = backend.sample(x, plan, None)
    backend.synchronize(out)
    return {"seconds": time.perf_counter() - began}


def sample(session: Session, ids: tuple[int, int], plan: dict[str, Any], batch_size: int, seed: int, out: str) -> dict[str, Any]:
    """Draw the images of sample ids ids[0] .. ids[1] - 1 with the EMA weights, to an .npy file (n, C, H, W) float32.

    Image n does not depend on the batch it is drawn in. Out of memory halves the batch, and the reply's `notes` say so.
    Returns `seconds` (of `batch_seconds`), `calls` of the network, and `batch_size` as it ended up.
    """
    path, shape = _plan(session, plan), session.spec.image_shape
    start, stop = ids
    require(0 <= start < stop, "ids", ids, "must be a range of at least one id")
    require(batch_size >= 1, "batch_size", batch_size, "must be at least 1")
    size = min(batch_size, stop - start, session.batch_that_fits or batch_size)
    images = np.lib.format.open_memmap(out, mode="w+", dtype=np.float32, shape=(stop - start, *shape))
    done, seconds, notes = 0, [], []
    while done < stop - start:
        # The last batch is filled up with ids beyond the range, so that a compiled network sees one shape.
        part = start + done + np.arange(size)
        try:
            seconds.append(_sample_batch(session, images[done:done + size], part, path, seed, done, stop - start))
        except Exception as error:
            if size == 1 or not out_of_memory(error):
                raise
            size = session.batch_that_fits = size // 2
            notes.append(f"{session.name}: out of memory with a sampling batch of {len(part)}; going on with {size}")
            session.log(notes[-1])
            continue
        done += size
    images.flush()
    return {"seconds": sum(seconds), "batch_seconds": seconds, "calls": path.steps * len(seconds), "batch_size": size,
            "notes": notes}


def _sample_batch(session: Session, out: NDArray[np.float32], ids: NDArray[np.int64], plan: Plan, seed: int, done: int,
                  total: int) -> float:
    shape = session.spec.image_shape
    backend = _backend(session)
    x = backend.to_device(streams.normal(seed, "x_T", ids, shape))
    backend.synchronize(x)
    began = time.perf_counter()
    images = backend.sample(
        x, plan, lambda i: streams.normal(seed, "z", ids, shape, step=i),
        on_step=lambda i: session.progress(done * plan.steps + (i + 1) * len(out), total * plan.steps))
    images = backend.to_host(images)
    seconds = time.perf_counter() - began
    out[:] = images[:len(out)]
    return seconds


def out_of_memory(error: BaseException) -> bool:
    """Whether this is NumPy's or a framework's way to say that memory ran out."""
    return isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)) is not None


def _backend(session: Session) -> Backend:
    require(session.backend is not None, "backend", session.name, "is not created yet")
    return session.backend


def _plan(session: Session, values: dict[str, Any]) -> Plan:
    steps = values["steps"]
    return make_plan(session.spec.diffusion, **{**values, "steps": tuple(steps) if isinstance(steps, list) else steps})


def _batch(session: Session, images: NDArray[np.uint8], seed: int, step: int, batch_size: int, flip: bool) -> Batch:
    diffusion = session.spec.diffusion
    return streams.training_batch(seed, images, step, batch_size, diffusion.timesteps, flip=flip,
                                  self_conditioning=diffusion.self_conditioning)


COMMANDS: dict[str, Callable[..., dict[str, Any]]] = {
    f.__name__: f for f in (create, info, load, tables, forward, loss, train, time_train, time_sample, sample)}
