"""What a worker can be asked to time: blocks of one kind of work.

Each command takes a `Session`, prepares its inputs untimed, runs `units` of its work, waits for the device once at the
end and returns the `seconds` between.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

import backends
from bench import streams
from bench.sampling.loop import time_steps
from bench.training.batches import batch_of
from bench.workers.session import Session
from reference.config import require
from reference.conventions import make_plan

TIMED_BATCHES = 8  # distinct batches that a timed training block goes round


def time_train(session: Session, units: int, images: str, seed: int, batch_size: int, flip: bool = False) -> dict[str, Any]:
    """Training steps; the batches are made beforehand."""
    key = f"{images} {seed} {batch_size} {flip}"
    if key not in session.timed:
        data = np.load(images)
        session.timed = {key: [batch_of(session.spec, data, seed, n, batch_size, flip) for n in range(TIMED_BATCHES)]}
    steps = iter([replace(session.timed[key][n % TIMED_BATCHES], step=session.steps_trained + n) for n in range(units)])
    session.steps_trained += units
    return _block(session, units, lambda: session.backend.train_step(next(steps)))


def time_sample(session: Session, units: int, batch_size: int, seed: int) -> dict[str, Any]:
    """Sampling steps: a network call and a DDIM update with eta = 0 for each."""
    return {"seconds": time_steps(session.backend, session.spec, units, batch_size, seed)}


def time_forward(session: Session, units: int, batch_size: int, seed: int) -> dict[str, Any]:
    """Calls of the network in inference mode."""
    x = _noise(session, batch_size, seed)
    t = session.backend.to_device(np.full(batch_size, session.spec.diffusion.timesteps // 2))
    return _block(session, units, lambda: session.backend.forward(x, t))


def time_step(session: Session, units: int, batch_size: int, seed: int) -> dict[str, Any]:
    """DDIM updates with eta = 0, without the network."""
    x, plan = _noise(session, batch_size, seed), make_plan(session.spec.diffusion, session.spec.diffusion.timesteps)
    return _block(session, units, lambda: session.backend.step(x, x, plan.steps // 2, plan, None))


def time_path(session: Session, units: int, batch_size: int, seed: int, steps: int) -> dict[str, Any]:
    """Whole DDIM paths of `steps` steps with eta = 0."""
    x, plan = _noise(session, batch_size, seed), make_plan(session.spec.diffusion, steps)
    return _block(session, units, lambda: session.backend.sample(x, plan, None))


def time_tables(session: Session, units: int) -> dict[str, Any]:
    """Buildings of the schedule and all coefficients of the full path."""
    plan = make_plan(session.spec.diffusion, session.spec.diffusion.timesteps)
    return _block(session, units, lambda: session.backend.tables(plan), wait=False)


def time_metric(session: Session, units: int, samples: int) -> dict[str, Any]:
    """Evaluations of the metric, FID and KID, of `samples` images."""
    from bench.data import pixels
    from bench.metric import fid

    images = pixels.to_uint8(np.clip(streams.normal(0, "check", np.arange(samples), (1, 28, 28)), -1, 1))
    return _block(session, units, lambda: fid.evaluate(images), wait=False)


def time_kernel(session: Session, units: int) -> dict[str, Any]:
    """The calibration kernel, by which times of two days are compared: NumPy's products, exponentials and copies on a CPU, the
    framework's product of matrices elsewhere."""
    if session.spec.device != "cpu":
        return time_roof(session, units, "gemm", 2048, session.spec.dtype)
    a, b = np.full((512, 512), 0.5, np.float32), np.full(1 << 20, 0.5, np.float32)
    return _block(session, units, lambda: (a @ a, np.exp(b), b.copy()), wait=False)


def time_roof(session: Session, units: int, kernel: str, n: int, dtype: str) -> dict[str, Any]:
    """Runs of the framework's `gemm` or `convolution` of size n, with the FLOPs of one as `flops`."""
    require(kernel in ("gemm", "convolution"), "kernel", kernel, "must be gemm or convolution")
    run, flops = getattr(backends.roofline(session.name), kernel)(n, session.spec.device, dtype)
    return _block(session, units, run) | {"flops": flops}


def _noise(session: Session, batch_size: int, seed: int) -> Any:
    return session.backend.to_device(streams.normal(seed, "x_T", np.arange(batch_size), session.spec.image_shape))


def _block(session: Session, units: int, run: Callable[[], Any], wait: bool = True) -> dict[str, Any]:
    """Seconds of `units` runs; `wait`: their result is a tensor on the device."""
    session.backend.synchronize()
    began = time.perf_counter()
    for _ in range(units):
        out = run()
    session.backend.synchronize(*([out] if wait else []))
    return {"seconds": time.perf_counter() - began}
