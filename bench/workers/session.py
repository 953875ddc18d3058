"""What a worker can be asked to do with its backend. Arrays travel as .npy and .npz files, everything else as JSON.

A command takes a `Session` and keyword arguments and returns a dict. All randomness comes from `bench.streams`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

import backends
from backends.protocol import Backend, Batch, Spec
from bench import files
from bench.sampling.loop import draw
from bench.timing import flops
from bench.timing.memory import peak_memory
from bench.training.loop import SAVE_EVERY, fit
from bench.weights.tensor_files import weights_hash
from bench.workers import peers
from reference.config import require
from reference.conventions import Plan, make_plan
from reference.weights import count


@dataclass
class Session:
    """The worker's side of a connection: one backend, and a way to report."""

    name: str
    spec: Spec
    backend: Backend
    progress: Callable[[int, int], None]  # done, total
    log: Callable[[str], None]
    steps_trained: int = 0
    batch_that_fits: int | None = None
    timed: dict[str, list[Batch]] = field(default_factory=dict)  # batches of `timed.time_train`


def create(name: str, spec: Spec, progress: Callable[[int, int], None], log: Callable[[str], None]) -> Session:
    """Import the framework and build the network. Raises `NotInstalled`, `ConfigError`, `DeviceError`."""
    if name in peers.PEERS:  # which has of `Backend` what the speed table times
        return Session(name, spec, cast(Backend, peers.create(name, spec)), progress, log)
    return Session(name, spec, backends.load(name).create(spec), progress, log)


def info(session: Session) -> dict[str, Any]:
    """What the backend says of its device, its parameters and FLOPs per image, and the process's peak memory so far in bytes."""
    backend, model = session.backend, session.spec.model
    size = {"parameters": count(model), "flops_per_image": flops.forward(model)}
    return {"device": dict(backend.device_info()), "peak_rss_bytes": peak_memory(),
            **(backend.size() if isinstance(backend, peers.Peer) else size)}


def load(session: Session, weights: str) -> dict[str, Any]:
    """Set weights and EMA from an .npz file of canonical arrays; the optimiser starts afresh."""
    with np.load(weights) as file:
        session.backend.load_weights({name: file[name] for name in file.files})
    session.steps_trained = 0
    return {}


def weights(session: Session, out: str) -> dict[str, Any]:
    """Weights and EMA, as `weights/NAME` and `ema/NAME`, to an .npz file."""
    backend = session.backend
    files.savez(Path(out), **{f"{kind}/{name}": value for kind, ema in (("weights", False), ("ema", True))
                          for name, value in backend.weights(ema=ema).items()})
    return {}


def tables(session: Session, plan: dict[str, Any], out: str) -> dict[str, Any]:
    """The plan's coefficients as the framework computes them, to an .npz file."""
    files.savez(Path(out), **session.backend.tables(_plan(session, plan)))
    return {}


def forward(session: Session, inputs: str, out: str, ema: bool = False) -> dict[str, Any]:
    """The network's output (.npy) for an .npz file of x, t and, with self-conditioning, self_cond."""
    backend = session.backend
    with np.load(inputs) as file:
        given = {name: backend.to_device(file[name]) for name in file.files}
    with files.replacing(Path(out)) as file:
        np.save(file, backend.to_host(backend.forward(**given, ema=ema)))
    return {}


def loss(session: Session, batch: str) -> dict[str, Any]:
    """Training loss of one batch without a step: an .npz file of `Batch`'s arrays."""
    backend = session.backend
    with np.load(batch) as file:
        value, _ = backend.loss_and_gradients(Batch(**{name: file[name] for name in file.files}, step=0))
    return {"loss": float(backend.to_host(value))}


def train(session: Session, images: str, seed: int, steps: int, batch_size: int, flip: bool, states: str | None = None,
          config: dict[str, Any] | None = None, save_every: float = SAVE_EVERY, out: str | None = None) -> dict[str, Any]:
    """Train from the loaded weights, or from the newest state in the folder `states`: see `training.fit`.

    The EMA weights go to the .npz file `out`. Returns its figures with `losses` as a list, and `weights` and `ema`, hashes of
    what was trained.
    """
    backend = session.backend
    done = fit(backend, session.spec, np.load(images), seed=seed, steps=steps, batch_size=batch_size, flip=flip, config=config,
               states=None if states is None else Path(states), save_every=save_every, on_step=session.progress)
    session.steps_trained = steps
    if out:
        files.savez(Path(out), **backend.weights(ema=True))
    return {**asdict(done), "losses": done.losses.tolist(), "weights": weights_hash(backend.weights()),
            "ema": weights_hash(backend.weights(ema=True))}


def sample(session: Session, ids: tuple[int, int], plan: dict[str, Any], batch_size: int, seed: int, out: str, at: int,
           total: int) -> dict[str, Any]:
    """Draw the images of sample ids ids[0] .. ids[1] - 1 with the EMA weights, in batches of `batch_size`: see `loop.draw`.

    They become rows `at` .. of the .npy file `out` of `total` rows, (total, C, H, W) float32. Returns `seconds` (of
    `batch_seconds`), `calls` of the network, `batch_size` as it ended up, and `notes`, which say where memory ran out.
    """
    start, stop = ids
    require(0 <= start < stop, "ids", ids, "must be a range of at least one id")
    path = _plan(session, plan)
    drawn = draw(session.backend, path, np.arange(start, stop), session.spec.image_shape, seed=seed,
                 batch_size=min(batch_size, session.batch_that_fits or batch_size), on_progress=session.progress)
    notes = [f"{session.name}: {note}" for note in drawn.notes]
    for note in notes:
        session.log(note)
    if notes:
        session.batch_that_fits = drawn.batch_size
    files.write_rows(Path(out), drawn.images, at, total)
    return {"seconds": sum(drawn.batch_seconds), "batch_seconds": drawn.batch_seconds,
            "calls": path.steps * len(drawn.batch_seconds), "batch_size": drawn.batch_size, "notes": notes}


def _plan(session: Session, values: dict[str, Any]) -> Plan:
    steps = values["steps"]
    return make_plan(session.spec.diffusion, **{**values, "steps": tuple(steps) if isinstance(steps, list) else steps})
