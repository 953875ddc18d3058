"""What a worker can be asked to time: blocks of one kind of work.

Each command prepares its inputs untimed, runs `units` of its work, waits for the device once at the end and returns the seconds
between. Then it reads what the work made: what a backend had not finished when it said so is waited for there, which `late` tells.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import backends
from bench import files, streams
from bench.messages import (
    Block,
    TimeForward,
    TimeKernel,
    TimeMetric,
    TimePath,
    TimeRoof,
    TimeSample,
    TimeStep,
    TimeTables,
    TimeTrain,
    Timing,
)
from bench.sampling.loop import sound, time_steps
from bench.training.batches import batch_of
from bench.workers.peers import Peer
from bench.workers.session import Session
from reference.config import require
from reference.conventions import make_plan

TIMED_BATCHES = 8  # distinct batches that a timed training block goes round


def time_train(session: Session, asked: TimeTrain) -> Block:
    key = f"{asked.images} {asked.seed} {asked.batch_size} {asked.flip}"
    if key not in session.timed:
        data = np.load(asked.images)
        session.timed = {key: [batch_of(session.spec, data, asked.seed, n, asked.batch_size, asked.flip)
                               for n in range(TIMED_BATCHES)]}
    steps = iter([replace(session.timed[key][n % TIMED_BATCHES], step=session.steps_trained + n) for n in range(asked.units)])
    session.steps_trained += asked.units
    backend = session.backend
    return _block(session, asked, lambda: backend.train_step(next(steps)),
                  read=backend.to_host if isinstance(backend, Peer) else lambda _: backend.weights())


def time_sample(session: Session, asked: TimeSample) -> Block:
    backend = session.backend
    seconds, images = time_steps(backend, session.spec, asked.units, asked.batch_size, asked.seed)
    late = _late(lambda: backend.to_host(images))
    if asked.out:
        shape = (asked.batch_size, *session.spec.image_shape)
        with files.replacing(Path(asked.out)) as file:
            np.save(file, sound("images", backend.to_host(images), shape))
    return Block(seconds, late)


def time_forward(session: Session, asked: TimeForward) -> Block:
    x = _noise(session, asked.batch_size, asked.seed)
    t = session.backend.to_device(np.full(asked.batch_size, session.spec.diffusion.timesteps // 2))
    return _block(session, asked, lambda: session.backend.forward(x, t))


def time_step(session: Session, asked: TimeStep) -> Block:
    x, plan = _noise(session, asked.batch_size, asked.seed), make_plan(session.spec.diffusion, session.spec.diffusion.timesteps)
    return _block(session, asked, lambda: session.backend.step(x, x, plan.steps // 2, plan, None))


def time_path(session: Session, asked: TimePath) -> Block:
    x, plan = _noise(session, asked.batch_size, asked.seed), make_plan(session.spec.diffusion, asked.steps)
    return _block(session, asked, lambda: session.backend.sample(x, plan, None))


def time_tables(session: Session, asked: TimeTables) -> Block:
    plan = make_plan(session.spec.diffusion, session.spec.diffusion.timesteps)
    return _block(session, asked, lambda: session.backend.tables(plan), wait=False)


def time_metric(session: Session, asked: TimeMetric) -> Block:
    from bench.data import pixels
    from bench.metric import fid

    images = pixels.to_uint8(np.clip(streams.normal(0, "check", np.arange(asked.samples), (1, 28, 28)), -1, 1))
    return _block(session, asked, lambda: fid.evaluate(images), wait=False)


def time_kernel(session: Session, asked: TimeKernel) -> Block:
    # NumPy's products, exponentials and copies on a CPU, the framework's product of matrices elsewhere.
    if session.spec.device != "cpu":
        return time_roof(session, TimeRoof(asked.units, "gemm", 2048, session.spec.dtype))
    a, b = np.full((512, 512), 0.5, np.float32), np.full(1 << 20, 0.5, np.float32)
    return _block(session, asked, lambda: (a @ a, np.exp(b), b.copy()), wait=False)


def time_roof(session: Session, asked: TimeRoof) -> Block:
    require(asked.kernel in ("gemm", "convolution"), "kernel", asked.kernel, "must be gemm or convolution")
    run, flops = getattr(backends.roofline(session.name), asked.kernel)(asked.n, session.spec.device, asked.dtype)
    return replace(_block(session, asked, run), flops=flops)


def _noise(session: Session, batch_size: int, seed: int) -> Any:
    return session.backend.to_device(streams.normal(seed, "x_T", np.arange(batch_size), session.spec.image_shape))


def _block(session: Session, asked: Timing, run: Callable[[], Any], wait: bool = True,
           read: Callable[[Any], Any] | None = None) -> Block:
    """Seconds of so many runs; `wait`: their result is a tensor on the device; `read` brings what they made to the host."""
    session.backend.synchronize()
    began = time.perf_counter()
    for _ in range(asked.units):
        out = run()
    session.backend.synchronize(*([out] if wait else []))
    seconds = time.perf_counter() - began
    return Block(seconds, _late(lambda: read(out)) if read else 0.0)


def _late(read: Callable[[], Any]) -> float:
    """Seconds that reading a result takes longer than reading it again: those of work that was not done yet."""
    began = time.perf_counter()
    read()
    there = time.perf_counter()
    read()
    return max(0.0, there - began - (time.perf_counter() - there))
