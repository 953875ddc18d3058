"""The grid of sampling and metric cells, backend x S x eta: drawn and measured here, or all at once on a cluster."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from bench import data, drawing, executor, fid, files
from bench.cells import SCRATCH
from bench.rows import Row

if TYPE_CHECKING:
    from bench.job import Run


def sample(run: Run) -> None:
    """Every sampling cell. What a cluster draws is kept in the order in which it is ready."""
    job, before = run.job, len(run.rows)
    cells = [(backend, steps, eta) for steps, eta in job.cells for backend in run.workers]
    keys = {cell: sample_key(run, *cell) for cell in cells}
    remote = {cell: (cell[0], job.plain_spec, job.threads, job.timeout, job.drawing(*cell[1:])) for cell in cells
              if run.cluster and not run.cells.done("sample", keys[cell])}
    for cell in cells:
        if cell not in remote:
            _sample(run, *cell)
    if run.cluster:
        for cell, fetch in run.cluster.map(executor.draw_cell, remote):
            _sample(run, *cell, fetch)
        order = [keys[cell] for cell in cells]
        run.rows[before:] = sorted(run.rows[before:], key=lambda row: order.index(row.config))
        names = [(backend, steps, str(eta)) for backend, steps, eta in cells]
        run.images = {name: run.images[name] for name in names if name in run.images}


def sample_key(run: Run, backend: str, steps: int, eta: float | str) -> dict[str, Any]:
    """Key of a sampling cell."""
    return run.job.trained_key(backend, steps, eta) | {"stage": "sample"}


def draw_share(run: Run, backend: str, steps: int, eta: float | str) -> None:
    """Draw this process's batches of a cell."""
    key = sample_key(run, backend, steps, eta)
    drawing.draw(partial(run.call, backend), run.job.drawing(steps, eta), run.cells.folder("sample", key) / SCRATCH,
                 run.job.rank, run.job.processes, finished=partial(run.cells.done, "sample", key))


def _sample(run: Run, backend: str, steps: int, eta: float | str, fetch: Callable[[], Any] | None = None) -> None:
    key = sample_key(run, backend, steps, eta)

    def compute(folder: Path) -> Row:
        if fetch:
            values, images, machine = fetch()
        else:
            draw_share(run, backend, steps, eta)
            values, images = drawing.collect(run.job.drawing(steps, eta), folder / SCRATCH)
            machine = run.environment | {"load": list(os.getloadavg())}
        with files.replacing(folder / "images.npy") as file:
            np.save(file, images)
        return replace(run.row("sample", backend, key, values), environment=machine)

    if run.cell("sample", key, compute) is not None:
        run.images[backend, steps, str(eta)] = data.to_uint8(np.load(run.cells.folder("sample", key) / "images.npy"))


def metric_key(run: Run, backend: str, steps: int, eta: float | str) -> dict[str, Any]:
    """Key of the metric of a sampling cell."""
    return run.job.trained_key(backend, steps, eta) | _references(run)


def bound_key(run: Run, name: str) -> dict[str, Any]:
    """Key of the metric's floor ("real") or ceiling ("noise")."""
    return _references(run) | {"samples": run.job.preset.samples, "seed": run.job.seed, "backend": name}


def _references(run: Run) -> dict[str, Any]:
    return {"stage": "metric", "reference": run.job.dataset.sha256, "held_out": run.job.held_out.sha256}


def measure(run: Run) -> None:
    """The metric of every set of images, beside its floor and ceiling for the same n."""
    job, n = run.job, run.job.preset.samples
    _metric(run, bound_key(run, "real"), partial(_here, run, fid.floor, n, job.dataset, test=job.held_out))
    _metric(run, bound_key(run, "noise"), partial(_here, run, fid.ceiling, n, job.dataset, seed=job.seed))
    keys = {cell: metric_key(run, *cell) for cell in run.images}
    remote = {}
    if run.cluster:
        dataset = run.cluster.put(job.dataset)
        remote = {cell: (images, dataset, job.seed) for cell, images in run.images.items()
                  if not run.cells.done("metric", keys[cell])}
    for cell, images in tqdm(run.images.items(), desc="metric", leave=False):
        if cell not in remote:
            _metric(run, keys[cell], partial(_here, run, fid.evaluate, images, job.dataset, seed=job.seed))
    if run.cluster:
        for cell, fetch in run.cluster.map(executor.measure_cell, remote):
            _metric(run, keys[cell], fetch)


def _here(run: Run, function: Callable[..., fid.Result], *args: Any, **more: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    return dict(function(*args, **more)), run.environment | {"load": list(os.getloadavg())}


def _metric(run: Run, key: dict[str, Any], compute: Callable[[], tuple[dict[str, Any], dict[str, Any]]]) -> None:
    def row(folder: Path) -> Row:
        values, machine = compute()
        return replace(run.row("metric", key["backend"], key, values), environment=machine)

    run.cell("metric", key, row)
