"""What a worker can be asked to do with its backend. Arrays travel as .npy and .npz files, everything else as JSON.

A command takes a `Session` and keyword arguments and returns a dict. All randomness comes from `bench.streams`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import backends
from backends.protocol import Backend, Batch, Spec
from bench import files, streams
from bench.timing import flops
from bench.timing.memory import out_of_memory, peak_memory
from bench.training.batches import batch_of
from bench.training.loop import SAVE_EVERY, fit
from bench.weights.tensor_files import weights_hash
from bench.workers import peers, timed
from reference.config import DiffusionConfig, ModelConfig, OptimConfig, require
from reference.conventions import Plan, make_plan
from reference.weights import count

TIMED_BATCHES = 8  # distinct batches that a timed training block goes round


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


RECORDS: dict[str, Any] = {"model": ModelConfig, "diffusion": DiffusionConfig, "optim": OptimConfig}


def make_spec(values: dict[str, Any]) -> Spec:
    """The spec from plain JSON types; `model`, `diffusion` and `optim` are records. Raises `ConfigError`."""
    return Spec(**{key: RECORDS[key].from_dict(value) if key in RECORDS else value for key, value in values.items()})


def plain_spec(spec: Spec) -> dict[str, Any]:
    """The plain JSON types that `make_spec` takes."""
    return {key: value.to_dict() if key in RECORDS else value for key, value in vars(spec).items()}


def create(session: Session) -> dict[str, Any]:
    """Import the framework and build the network. Raises `NotInstalled`, `ConfigError`, `DeviceError`."""
    if session.name in peers.PEERS:
        session.backend = peers.create(session.name, session.spec)
    else:
        session.backend = backends.load(session.name).create(session.spec)
    return info(session)


def info(session: Session) -> dict[str, Any]:
    """What the backend says of its device, its parameters and FLOPs per image, and the process's peak memory so far in bytes."""
    backend, model = _backend(session), session.spec.model
    size = {"parameters": count(model), "flops_per_image": flops.forward(model)}
    return {"device": dict(backend.device_info()), "peak_rss_bytes": peak_memory(),
            **(backend.size() if isinstance(backend, peers.Peer) else size)}


def load(session: Session, weights: str) -> dict[str, Any]:
    """Set weights and EMA from an .npz file of canonical arrays; the optimiser starts afresh."""
    with np.load(weights) as file:
        _backend(session).load_weights({name: file[name] for name in file.files})
    session.steps_trained = 0
    return {}


def weights(session: Session, out: str) -> dict[str, Any]:
    """Weights and EMA, as `weights/NAME` and `ema/NAME`, to an .npz file."""
    backend = _backend(session)
    files.savez(Path(out), **{f"{kind}/{name}": value for kind, ema in (("weights", False), ("ema", True))
                          for name, value in backend.weights(ema=ema).items()})
    return {}


def tables(session: Session, plan: dict[str, Any], out: str) -> dict[str, Any]:
    """The plan's coefficients as the framework computes them, to an .npz file."""
    files.savez(Path(out), **_backend(session).tables(_plan(session, plan)))
    return {}


def forward(session: Session, inputs: str, out: str, ema: bool = False) -> dict[str, Any]:
    """The network's output (.npy) for an .npz file of x, t and, with self-conditioning, self_cond."""
    backend = _backend(session)
    with np.load(inputs) as file:
        given = {name: backend.to_device(file[name]) for name in file.files}
    with files.replacing(Path(out)) as file:
        np.save(file, backend.to_host(backend.forward(**given, ema=ema)))
    return {}


def loss(session: Session, batch: str) -> dict[str, Any]:
    """Training loss of one batch without a step: an .npz file of `Batch`'s arrays."""
    backend = _backend(session)
    with np.load(batch) as file:
        value, _ = backend.loss_and_gradients(Batch(**{name: file[name] for name in file.files}, step=0))
    return {"loss": float(backend.to_host(value))}


def train(session: Session, images: str, seed: int, steps: int, batch_size: int, flip: bool, states: str | None = None,
          config: dict[str, Any] | None = None, save_every: float = SAVE_EVERY, out: str | None = None) -> dict[str, Any]:
    """Train from the loaded weights, or from the newest state in the folder `states`: see `training.fit`.

    The EMA weights go to the .npz file `out`. Returns its figures with `losses` as a list, and `weights` and `ema`, hashes of
    what was trained.
    """
    backend = _backend(session)
    done = fit(backend, session.spec, np.load(images), seed=seed, steps=steps, batch_size=batch_size, flip=flip, config=config,
               states=None if states is None else Path(states), save_every=save_every, on_step=session.progress)
    session.steps_trained = steps
    if out:
        files.savez(Path(out), **backend.weights(ema=True))
    return {**asdict(done), "losses": done.losses.tolist(), "weights": weights_hash(backend.weights()),
            "ema": weights_hash(backend.weights(ema=True))}


def time_train(session: Session, units: int, images: str, seed: int, batch_size: int, flip: bool = False) -> dict[str, Any]:
    """Seconds of one block of `units` training steps; its batches are made beforehand."""
    backend = _backend(session)
    key = f"{images} {seed} {batch_size} {flip}"
    if key not in session.timed:
        data = np.load(images)
        session.timed = {key: [batch_of(session.spec, data, seed, n, batch_size, flip) for n in range(TIMED_BATCHES)]}
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
    plans = [cut(full, 0, min(full.steps, units - n)) for n in range(0, units, full.steps)]
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
    images = np.empty((stop - start, *shape), np.float32)  # no memory map: a full disk would end the process with a signal
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
    with files.replacing(Path(out)) as file:
        np.save(file, images)
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


def cut(plan: Plan, start: int, stop: int) -> Plan:
    """Steps start .. stop - 1 of a plan."""
    fields = ("timesteps", "previous", "network_t", "noise_gate")
    return replace(plan, **{name: getattr(plan, name)[start:stop] for name in fields})


def _backend(session: Session) -> Backend:
    require(session.backend is not None, "backend", session.name, "is not created yet")
    return session.backend


def _plan(session: Session, values: dict[str, Any]) -> Plan:
    steps = values["steps"]
    return make_plan(session.spec.diffusion, **{**values, "steps": tuple(steps) if isinstance(steps, list) else steps})


COMMANDS: dict[str, Callable[..., dict[str, Any]]] = {
    f.__name__: f for f in (create, info, load, weights, tables, forward, loss, train, time_train, time_sample, sample)
} | timed.WORKLOADS
