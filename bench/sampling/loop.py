"""The drawing loop: batches of one size along a plan, for a worker, for `api.Model` and for the timer alike.

All randomness comes from `bench.streams`: an image depends on its id and its seed, not on the batch it is drawn in.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.protocol import Backend, BackendError, Spec, Tensor
from bench import streams
from bench.timing.memory import out_of_memory
from reference.config import require
from reference.conventions import Plan, make_plan
from reference.solver_plans import SolverPlan

Images = NDArray[np.floating[Any]]  # float32, float64 from a network of that dtype


@dataclass(frozen=True)
class Drawn:
    """What `draw` gives. `images` are (n, C, H, W); `batch_size` is the one it ended up with, and `notes` say why."""

    images: Images
    batch_seconds: list[float]
    batch_size: int
    notes: list[str]


def draw(backend: Backend, plan: Plan | SolverPlan, ids: NDArray[np.int64], shape: tuple[int, ...], *, seed: int, batch_size: int,
         x: Images | None = None, on_progress: Callable[[int, int], object] | None = None) -> Drawn:
    """Take noise, or the rows of x (n, *shape), along a plan; row i gets x_T and the step noise of image `ids[i]`.

    Every batch has `batch_size` rows, the last one filled up with the first rows again, which are dropped: a compiled network
    sees one shape. Where memory runs out the batch is halved. `on_progress(done, total)` counts steps of images. Raises
    `BackendError` for images of another shape, and for NaN and infinities.
    """
    require(len(ids) >= 1, "ids", len(ids), "must be at least one")
    require(batch_size >= 1, "batch_size", batch_size, "must be at least 1")
    n, size, done = len(ids), batch_size, 0
    images: Images = np.empty(0)
    seconds: list[float] = []
    notes: list[str] = []
    while done < n:
        rows = np.arange(done, done + size) % n
        kept, before = min(size, n - done), done

        def step_done(i: int, kept: int = kept, before: int = before) -> None:
            if on_progress:
                on_progress(before * plan.steps + (i + 1) * kept, n * plan.steps)

        try:
            start = streams.normal(seed, "x_T", ids[rows], shape) if x is None else x[rows]
            out, took = _batch(backend, plan, start, seed, ids[rows], step_done)
        except Exception as error:
            if size == 1 or not out_of_memory(error):
                raise
            notes.append(f"out of memory with a sampling batch of {size}; going on with {size // 2}")
            size //= 2
            continue
        if done == 0:
            images = np.empty((n, *shape), out.dtype)  # no memory map: a full disk would end the process with a signal
        images[done:done + kept] = out[:kept]
        seconds.append(took)
        done += kept
    return Drawn(images, seconds, size, notes)


def _batch(backend: Backend, plan: Plan | SolverPlan, x: Images, seed: int, ids: NDArray[np.int64],
           step_done: Callable[[int], None]) -> tuple[Images, float]:
    """The images of one batch, and the seconds from the device's x to the host's images."""
    on_device = backend.to_device(x)
    backend.synchronize(on_device)
    began = time.perf_counter()
    out = backend.sample(on_device, plan, lambda i: streams.normal(seed, "z", ids, x.shape[1:], step=i), on_step=step_done)
    images, took = backend.to_host(out), time.perf_counter() - began
    return sound("images", images, x.shape), took


def sound(what: str, given: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """What a backend gave as an array, which must be of this shape and finite. Raises `BackendError`."""
    array = np.asarray(given)
    if array.shape != shape:
        raise BackendError(f"{what}: shape {array.shape} in place of {shape}")
    if bad := np.count_nonzero(~np.isfinite(array)):
        raise BackendError(f"{what}: {bad} of {array.size} values are not finite")
    return array


def time_steps(backend: Backend, spec: Spec, units: int, batch_size: int, seed: int) -> tuple[float, Tensor]:
    """(seconds of one block of `units` sampling steps, its images): a network call and a DDIM update with eta = 0 for each step.

    The steps are the first ones of the full path of T, so that a block's length does not depend on S.
    """
    full = make_plan(spec.diffusion, spec.diffusion.timesteps)
    plans = [full.cut(0, min(full.steps, units - n)) for n in range(0, units, full.steps)]
    x = backend.to_device(streams.normal(seed, "x_T", np.arange(batch_size), spec.image_shape))
    backend.synchronize(x)
    began = time.perf_counter()
    for plan in plans:
        out = backend.sample(x, plan, None)
    backend.synchronize(out)
    return time.perf_counter() - began, out
