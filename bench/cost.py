"""What a job will cost: seconds and memory of each cell, predicted by `--dry-run` from a short calibration on this machine.

The calibration runs the job's own commands on the job's own batch sizes for a few steps. A cell's time is linear in its steps:

    training   first step + (steps - 1) * one step
    sampling   images / batch * (S * one step + overhead)

and the oracle's check, whose size is fixed, is run as it is. Memory is the peak of the worker's resident size (of this process for
the metric), which depends on batch sizes alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench import checks, drawing, fid, grid, timing
from bench.cells import Cells
from bench.job import Job, Run
from bench.worker import WorkerError

TRAIN_STEPS = 8
SHORT, LONG = 2, 12  # sampling steps of the two paths whose difference is the time of a step
METRIC_IMAGES = 512
WARM_UP_BLOCKS = 9  # of a timing, beside those that count: `timing.time_blocks`


@dataclass(frozen=True)
class Prediction:
    """One cell. `seconds` is None where the calibration failed, 0 where the cell is finished already."""

    backend: str
    cell: str
    seconds: float | None
    memory: int | None  # bytes


def predict(job: Job, cells: Cells, folder: Path) -> list[Prediction]:
    """Every cell of the job, in order. `folder` is empty and for the calibration's files; `cells` are looked up only."""
    out: list[Prediction] = []
    with Run(job, Cells(folder, fresh=True), folder) as trial:
        for backend in job.backends:
            try:
                out += _backend(trial, cells, backend)
            except WorkerError:
                out.append(Prediction(backend, "all", None, None))
    return out + _metric(trial, cells)


def table(predictions: list[Prediction]) -> str:
    """For the terminal, with the sum."""
    lines = [{"backend": p.backend, "cell": p.cell, "seconds": "unknown" if p.seconds is None else f"{p.seconds:.1f}",
              "memory MB": "" if p.memory is None else f"{p.memory / 2**20:.0f}"} for p in predictions]
    total = sum(p.seconds or 0.0 for p in predictions)
    return pd.DataFrame(lines).to_string(index=False) + f"\npredicted: {total:.0f} s together"


def _backend(trial: Run, cells: Cells, backend: str) -> list[Prediction]:
    job, p, out = trial.job, trial.job.preset, []
    call = partial(trial.call, backend)

    def add(cell: str, seconds: float, done: bool = False) -> None:
        out.append(Prediction(backend, cell, 0.0 if done else seconds, call("info", "info")["peak_rss_bytes"]))

    add("start", _seconds(lambda: trial.start(backend)))
    steps = min(TRAIN_STEPS, p.train_steps)
    loading = _seconds(lambda: np.save(trial.logs / "images.npy", job.dataset.images))
    loading += _seconds(lambda: trial.load(backend, trial.logs, job.initial))
    fitted = call("train", "calibrate", images=str(trial.logs / "images.npy"), seed=job.seed, steps=steps, batch_size=p.batch_size,
                  flip=job.dataset.flip)
    train_step = fitted["seconds"] / max(1, steps - 1)
    if job.fit and backend == job.backends[0]:
        add(f"train {job.fit} steps", loading + fitted["first_seconds"] + (job.fit - 1) * train_step)
    add(f"train {p.train_steps} steps", loading + fitted["first_seconds"] + (p.train_steps - 1) * train_step,
        cells.done("train", job.train_key(backend)))
    add("oracle", _seconds(lambda: checks.oracle(trial, backend)))

    drawing.load(call, trial.logs / "weights.npz", job.trained)
    paths = {eta: _sampling(job, call, eta, trial.logs / "drawn.npy") for eta in job.etas}
    add("time the training step", _timing(train_step, p.blocks))
    add("time the sampling step", _timing(next(iter(paths.values()))[1], p.blocks))
    for s, eta in job.cells:
        first, step, overhead = paths[eta]
        add(f"sample S={s} eta={eta} n={p.samples}", first + p.samples / p.sample_batch * (s * step + overhead),
            cells.done("sample", grid.sample_key(trial, backend, s, eta)))
    return out


def _sampling(job: Job, call: Callable[..., dict[str, Any]], eta: float | str, out: Path) -> tuple[float, float, float]:
    """(seconds before the first batch, of a step of a batch, of a batch beside its steps)."""
    def draw(steps: int) -> float:
        plan = {"steps": min(steps, job.preset.diffusion.timesteps), "eta": eta, "convention": job.convention, "spacing": "leading"}
        return call("sample", "calibrate", ids=[0, job.preset.sample_batch], plan=plan, batch_size=job.preset.sample_batch,
                    seed=job.seed, out=str(out))["seconds"]

    draw(SHORT)  # compiles
    first, short, long = draw(SHORT), draw(SHORT), draw(LONG)
    step = (long - short) / (LONG - SHORT)
    return first, step, max(0.0, short - SHORT * step)


def _timing(step: float, blocks: int) -> float:
    units = math.ceil(1.2 * timing.LEAST_SECONDS / step)
    return (blocks + WARM_UP_BLOCKS) * units * step


def _metric(trial: Run, cells: Cells) -> list[Prediction]:
    job, n = trial.job, trial.job.preset.samples
    images = job.held_out.images[:min(METRIC_IMAGES, n)]
    first = _seconds(lambda: fid.evaluate(images, job.dataset, seed=job.seed))
    again = _seconds(lambda: fid.evaluate(images, job.dataset, seed=job.seed)) * n / len(images)
    memory = timing.peak_memory()
    bounds = [("real", first), ("noise", again)]
    out = [Prediction(name, "metric", 0.0 if cells.done("metric", grid.bound_key(trial, name)) else seconds, memory)
           for name, seconds in bounds]
    for backend in job.backends:
        for s, eta in job.cells:
            done = cells.done("metric", grid.metric_key(trial, backend, s, eta))
            out.append(Prediction(backend, f"metric S={s} eta={eta}", 0.0 if done else again, memory))
    return out


def _seconds(do: Callable[[], object]) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began
