"""The sampling cells of every backend: drawn here, or all at once on a cluster."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from bench import files
from bench.records.cells import SCRATCH
from bench.records.rows import Row
from bench.sampling import parts
from bench.sampling.cell import Cell
from bench.workers import ray_cluster
from bench.workers.session import plain_spec

if TYPE_CHECKING:
    from bench.job.job import Run


def sample(run: Run) -> None:
    """Every sampling cell. What a cluster draws is kept in the order in which it is ready."""
    job, before = run.job, len(run.rows)
    wanted = [(backend, cell) for cell in job.all_cells for backend in run.workers if cell in job.cells[backend]]
    keys = {which: sample_key(run, *which) for which in wanted}
    remote = {(backend, cell): (backend, plain_spec(job.spec), job.threads, job.timeout, job.drawing(cell))
              for backend, cell in wanted if run.cluster and not run.cells.done("sample", keys[backend, cell])}
    for which in tqdm(wanted, desc="cells", leave=False, disable=len(wanted) < 10):
        if which not in remote:
            _sample(run, *which)
    if run.cluster:
        for which, fetch in run.cluster.map(ray_cluster.draw_cell, remote):
            _sample(run, *which, fetch)
        order = [keys[which] for which in wanted]
        run.rows[before:] = sorted(run.rows[before:], key=lambda row: order.index(row.config))
        run.images = {which: run.images[which] for which in wanted if which in run.images}


def sample_key(run: Run, backend: str, cell: Cell) -> dict[str, Any]:
    """Key of a sampling cell."""
    return run.job.trained_key(backend, cell) | {"stage": "sample"}


def draw_share(run: Run, backend: str, cell: Cell) -> None:
    """Draw this process's batches of a cell."""
    key = sample_key(run, backend, cell)
    parts.draw(partial(run.call, backend), run.job.drawing(cell), run.cells.folder("sample", key) / SCRATCH,
                 run.job.rank, run.job.processes, finished=partial(run.cells.done, "sample", key))


def _sample(run: Run, backend: str, cell: Cell, fetch: Callable[[], Any] | None = None) -> None:
    key = sample_key(run, backend, cell)

    def compute(folder: Path) -> Row:
        if fetch:
            values, images, machine = fetch()
        else:
            draw_share(run, backend, cell)
            values, images = parts.collect(run.job.drawing(cell), folder / SCRATCH)
            machine = run.environment | {"load": list(os.getloadavg())}
        with files.replacing(folder / "images.npy") as file:
            np.save(file, images)
        return replace(run.row("sample", backend, key, values), environment=machine)

    if run.cell("sample", key, compute) is not None:
        run.images[backend, cell] = run.cells.folder("sample", key) / "images.npy"


