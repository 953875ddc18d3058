"""What a job will cost: seconds and memory of each cell, predicted by `--dry-run` from a short calibration on this machine.

The calibration runs the job's own commands on the job's own batch sizes for a few steps. A cell's time is linear in its steps,
and a fast solver's network call costs what DDIM's does:

    training   first step + (steps - 1) * one step
    sampling   images / batch * (network calls * one step + overhead)
    timing     blocks * one block

and the oracle's check, whose size is fixed, is run as it is. Memory is the peak of the worker's resident size (of this process for
the metric), which depends on batch sizes alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from bench.data import datasets
from bench.job import checks
from bench.job.job import WORKLOADS, Job
from bench.messages import Describe, Sample, TimeSample, TimeTrain, Timing, Train
from bench.metric import fid
from bench.records.cells import SCRATCH, Cells
from bench.records.notebook import Notebook
from bench.records.rows import AnyRow, of
from bench.records.values import Budget
from bench.terminal import fit
from bench.timing import blocks, memory
from bench.workers.crew import Crew
from bench.workers.errors import WorkerError

TRAIN_STEPS = 8
SHORT, LONG = 2, 12  # sampling steps of the two paths whose difference is the time of a step
WARM_UP_BLOCKS = 8  # of a timing, beside those that count; `blocks.warm_up` takes 6 at least, seldom more than 9


@dataclass(frozen=True)
class Prediction:
    """One cell of a `stage`. `seconds` is None where the calibration failed, 0 where the cell is finished already."""

    backend: str
    stage: str
    cell: str
    seconds: float | None
    memory: int | None  # bytes


def predict(job: Job, cells: Cells, folder: Path) -> list[Prediction]:
    """Every cell of the job, in order. `folder` is empty and for the calibration's files; `cells` are looked up only."""
    out: list[Prediction] = []
    trial = Notebook(Cells(folder, fresh=True), job.preset.name, survives=(WorkerError,))
    with Crew(job.spec, job.threads, folder, job.timeout) as crew:
        for backend in job.backends:
            try:
                out += _backend(job, crew, trial, cells, backend)
            except WorkerError:
                out.append(Prediction(backend, "all", "", None, None))
    return out + _metric(job, cells)


def table(predictions: list[Prediction]) -> str:
    """For the terminal, with the sum."""
    lines = [{"backend": p.backend, "cell": f"{p.stage} {p.cell}".strip(),
              "seconds": "unknown" if p.seconds is None else f"{p.seconds:.1f}",
              "memory MB": "" if p.memory is None else f"{p.memory / 2**20:.0f}"} for p in predictions]
    total = sum(p.seconds or 0.0 for p in predictions)
    return fit(pd.DataFrame(lines), 2) + f"\npredicted: {total:.0f} s together"


def calls(job: Job) -> dict[str, dict[str, int]]:
    """Network calls for one image of every cell, by backend and sample seed."""
    out: dict[str, dict[str, int]] = {}
    for backend, drawn in job.cells.items():
        for cell in drawn:
            by_seed = out.setdefault(backend, {})
            by_seed[str(cell.seed)] = by_seed.get(str(cell.seed), 0) + job.plan(cell).steps
    return out


def call_lines(job: Job) -> list[str]:
    """`calls` in words, and what they come to for all images."""
    return [f"{backend}: network calls for one image of every cell: "
            + ", ".join(f"{n:,} (seed {seed})" for seed, n in by_seed.items())
            + f"; for {job.preset.samples} images of each: {job.preset.samples * sum(by_seed.values()):,}"
            for backend, by_seed in calls(job).items()]


def keep_budget(job: Job, book: Notebook, **named: str) -> None:
    """Keep and print what the whole job costs, finished cells too, by a calibration before the first cell is drawn. `named` are
    further fields of the row's config."""
    key = job.key(" ".join(job.backends), stage="budget", weights=job.trained_hash, samples=job.preset.samples,
                  batch_size=job.preset.sample_batch, extractor_sha256=job.extractor.sha256,
                  cells={b: [str(cell) for cell in drawn] for b, drawn in job.cells.items()}, **job.choices_key(*job.all_cells),
                  **named)

    def compute(folder: Path) -> AnyRow:
        predictions = predict(job, Cells(folder, fresh=True), folder / SCRATCH) if job.processes == 1 else []
        return book.row("budget", key["backend"], key, {"calls": calls(job), "cells": [asdict(p) for p in predictions]})

    row = book.cell("budget", key, compute)
    for plan in of([row] if row else [], Budget):
        seconds = sum(cell["seconds"] or 0.0 for cell in plan.values["cells"])
        print("\n".join([*call_lines(job), f"predicted for the whole job: {seconds:.0f} s"]), flush=True)


def _backend(job: Job, crew: Crew, trial: Notebook, cells: Cells, backend: str) -> list[Prediction]:
    p, images = job.preset, crew.logs / "images.npy"
    out: list[Prediction] = []

    def timed(asked: Timing) -> float:
        """As `time_blocks` will: a single block says little, since the first ones are slow."""
        def block(units: int) -> float:
            return crew.call(backend, replace(asked, units=units)).seconds

        units = blocks.calibrate(block)
        return (p.blocks + WARM_UP_BLOCKS) * float(np.median([block(units) for _ in range(blocks.GROUP)]))

    def add(stage: str, cell: str, seconds: float, done: bool = False) -> None:
        out.append(Prediction(backend, stage, cell, 0.0 if done else seconds, crew.call(backend, Describe()).peak_rss_bytes))

    add("start", "", _seconds(lambda: crew.start(backend)))
    if fitted := {job.fit if backend == job.backends[0] else 0, p.train_steps if job.trains(backend) else 0} - {0}:
        loading = _seconds(lambda: np.save(images, job.dataset.images)) + _seconds(lambda: crew.load(backend, job.initial))
        steps = min(TRAIN_STEPS, max(fitted))
        asked = Train(str(images), job.seed, steps, p.batch_size, job.dataset.flip)
        found = crew.call(backend, asked, "calibrate")
        train_step = found.seconds / max(1, steps - 1)
        for n in sorted(fitted, reverse=True):
            add("train", f"{n} steps", loading + found.first_seconds + (n - 1) * train_step,
                n == p.train_steps and cells.done("train", job.train_key(backend)))
        if job.times(backend, WORKLOADS[0]):
            add("time", "the training step", timed(TimeTrain(1, str(images), job.seed, p.batch_size)))
    add("oracle", "", _seconds(lambda: checks.oracle(job, crew, trial, backend)))

    crew.load(backend, job.trained)
    paths = {eta: _sampling(job, crew, backend, eta) for eta in dict.fromkeys(c.eta for c in job.cells[backend])}
    if job.times(backend, WORKLOADS[1]):
        add("time", "the sampling step", timed(TimeSample(1, p.sample_batch, job.seed)))
    for cell in job.cells[backend]:
        (first, step, overhead), wanted = paths[cell.eta], job.draw(cell)
        add("sample", f"{cell} n={p.samples}", first + len(wanted.parts(Path())) * (job.plan(cell).steps * step + overhead),
            cells.done("sample", job.sample_key(backend, cell)))
    return out


def _sampling(job: Job, crew: Crew, backend: str, eta: float | str) -> tuple[float, float, float]:
    """(seconds before the first batch, of a step of a batch, of a batch beside its steps)."""
    batch, out = min(job.preset.sample_batch, job.preset.samples), crew.logs / "calibrated.npy"

    def draw(steps: int) -> float:
        plan = {"steps": min(steps, job.preset.diffusion.timesteps), "eta": eta}  # plain: not every convention has short paths
        asked = Sample((0, batch), plan, batch, job.seed, str(out), at=0, total=batch)
        return crew.call(backend, asked, "calibrate").seconds

    draw(SHORT)  # compiles
    first, short, long = draw(SHORT), draw(SHORT), draw(LONG)
    step = (long - short) / (LONG - SHORT)
    return first, step, max(0.0, short - SHORT * step)


def _metric(job: Job, cells: Cells) -> list[Prediction]:
    """Features take a time for each image, distances of noise that of any features; the first cell imports the libraries, loads
    the network and takes the features of the reference."""
    if not job.measured:
        return []
    n, by = job.preset.samples, job.extractor
    images = by.convert(job.held_out.images[:min(by.batch, n)])[0]
    size = max(2 * by.width, min(n, fid.KID_SUBSET_SIZE))
    noise = np.random.default_rng(0).standard_normal((size, by.width), np.float32)

    def features() -> float:
        return _seconds(lambda: fid.features(images, job.metric_device, by))

    def distances() -> float:
        return _seconds(lambda: fid.compare(noise, fid.statistics(noise), noise, 0))

    load = features() + distances()
    each = features() / len(images)
    again = each * n + distances()
    reference = datasets.load_subset("fashion-mnist", "train") if fid.statistics_ship(job.dataset, by) else job.dataset
    peak = memory.peak_memory()
    bounds = [("real", load + each * len(reference) + again), ("noise", again)]
    out = [Prediction(name, "metric", "", 0.0 if cells.done("metric", job.bound_key(name)) else seconds, peak)
           for name, seconds in bounds]
    for backend in job.backends:
        for cell in job.cells[backend]:
            done = cells.done("metric", job.metric_key(backend, cell))
            out.append(Prediction(backend, "metric", str(cell), 0.0 if done else again, peak))
    return out


def _seconds(do: Callable[[], object]) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began
