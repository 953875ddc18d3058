"""What a worker does with its backend: one function for each command of `bench.messages`, which says what is asked for.

All randomness comes from `bench.streams`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np

import backends
from backends.protocol import Backend, BackendError, Batch, Spec
from bench import files, messages
from bench.oracle import coefficients
from bench.sampling import bound as bounds
from bench.sampling.cell import plan_of
from bench.sampling.loop import draw, sound
from bench.timing import flops
from bench.timing.memory import peak_memory
from bench.training.loop import SAVE_EVERY, fit
from bench.weights.tensor_files import weights_hash
from bench.workers import peers
from reference.config import ConfigError, require
from reference.weights import Weights, check, count

SCALES = 32  # tries of a step that a loss scaler leaves out, in float16, until its gradients fit


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


def describe(session: Session, asked: messages.Create | messages.Describe) -> messages.Description:
    backend, model = session.backend, session.spec.model
    ours = {"parameters": count(model), "flops_per_image": flops.forward(model)}
    size = backend.size() if isinstance(backend, peers.Peer) else ours
    info = dict(backend.device_info())
    if not all(isinstance(word, str) for item in info.items() for word in item):
        raise BackendError(f"device_info: {info} is no dict of str to str")
    return messages.Description(info, peak_memory(), **size)


def load(session: Session, asked: messages.Load) -> messages.Done:
    with np.load(asked.weights) as file:
        session.backend.load_weights({name: file[name] for name in file.files})
    session.steps_trained = 0
    return messages.Done()


def weights(session: Session, asked: messages.Weights) -> messages.Done:
    files.savez(Path(asked.out), **{f"{kind}/{name}": value for kind, ema in (("weights", False), ("ema", True))
                                for name, value in session.backend.weights(ema=ema).items()})
    return messages.Done()


def tables(session: Session, asked: messages.Tables) -> messages.Done:
    plan = plan_of(session.spec.diffusion, asked.plan)
    found, wanted = session.backend.tables(plan), coefficients(plan)
    if missing := set(wanted) - set(found):
        raise BackendError(f"tables: {', '.join(sorted(missing))} missing")
    files.savez(Path(asked.out), **{name: sound(name, found[name], array.shape) for name, array in wanted.items()})
    return messages.Done()


def forward(session: Session, asked: messages.Forward) -> messages.Done:
    backend = session.backend
    with np.load(asked.inputs) as file:
        given = {name: backend.to_device(file[name]) for name in file.files}
    with files.replacing(Path(asked.out)) as file:
        output = backend.to_host(backend.forward(**given, ema=asked.ema))
        model = session.spec.model
        np.save(file, sound("output", output, (len(given["x"]), model.out_channels, *given["x"].shape[2:])))
    return messages.Done()


def loss(session: Session, asked: messages.Loss) -> messages.LossValue:
    backend = session.backend
    with np.load(asked.batch) as file:
        batch = Batch(**{name: file[name] for name in file.files}, step=asked.step or 0)
    value, gradients = backend.loss_and_gradients(batch)
    found = float(sound("loss", backend.to_host(value), ()))
    if asked.step is not None:
        for _ in range(SCALES):
            before = _state(backend)
            backend.train_step(batch)
            after = _state(backend)
            if after.get("scaler_skipped") == before.get("scaler_skipped"):
                break
        parts = {"gradients": gradients, "before": before, "after": after}
        files.savez(Path(asked.out), **{f"{part}/{n}": value for part, arrays in parts.items() for n, value in arrays.items()})
    return messages.LossValue(found)


def _state(backend: Backend) -> Weights:
    """A copy of all that a training step changes."""
    return {name: np.array(value) for name, value in backend.state().items()}


def train(session: Session, asked: messages.Train) -> messages.Trained:
    backend = session.backend
    done = fit(backend, session.spec, np.load(asked.images), seed=asked.seed, steps=asked.steps, batch_size=asked.batch_size,
               flip=asked.flip, config=asked.config, states=None if asked.states is None else Path(asked.states),
               save_every=SAVE_EVERY if asked.save_every is None else asked.save_every, on_step=session.progress)
    session.steps_trained = asked.steps
    if asked.out:
        trained = backend.weights(ema=True)
        try:
            check(trained, session.spec.model, "weights")
        except ConfigError as error:
            raise BackendError(str(error)) from None
        files.savez(Path(asked.out), **trained)
    return messages.Trained(done.losses.tolist(), done.seconds, done.first_seconds, done.starts, done.skipped,
                            weights_hash(backend.weights()), weights_hash(backend.weights(ema=True)))


def sample(session: Session, asked: messages.Sample) -> messages.Sampled:
    start, stop = asked.ids
    require(0 <= start < stop, "ids", asked.ids, "must be a range of at least one id")
    path = plan_of(session.spec.diffusion, asked.plan)
    drawn = draw(session.backend, path, np.arange(start, stop), session.spec.image_shape, seed=asked.seed,
                 batch_size=min(asked.batch_size, session.batch_that_fits or asked.batch_size), on_progress=session.progress)
    notes = [f"{session.name}: {note}" for note in drawn.notes]
    for note in notes:
        session.log(note)
    if notes:
        session.batch_that_fits = drawn.batch_size
    files.write_rows(Path(asked.out), drawn.images, asked.at, asked.total)
    seconds = drawn.batch_seconds
    return messages.Sampled(sum(seconds), seconds, path.steps * len(seconds), drawn.batch_size, notes)


def bound(session: Session, asked: messages.Bound) -> messages.Done:
    path = bounds.path(session.spec.diffusion, asked.steps, asked.variances)
    found = bounds.bound(session.backend, path, np.load(asked.images), seed=asked.seed, batch_size=asked.batch_size,
                         clip=asked.clip, on_progress=session.progress)
    files.savez(Path(asked.out), prior=found.prior, **{f"terms/{name}": terms for name, terms in found.terms.items()})
    return messages.Done()
