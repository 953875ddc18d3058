"""The sampling cells of every backend: drawn here, or all at once on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends import about
from bench import files
from bench import oracle as reference_check
from bench.job.job import Images, Job
from bench.oracle import TOLERANCES
from bench.records.cells import SCRATCH
from bench.records.notebook import Notebook
from bench.records.rows import AnyRow
from bench.sampling import parts
from bench.sampling.cell import Cell
from bench.workers import ray_cluster
from bench.workers.crew import Crew

ROUNDING = 10  # times float32's tolerance: what its rounding is believed to reach
ALIKE = 6  # times one backend's rounding: what another one's may be on the same images, which are the worst of hundreds
WORST = 4  # images of a cell that are drawn in float64, those of the largest errors


def draw(job: Job, crew: Crew, book: Notebook, cluster: ray_cluster.Ray | None) -> Images:
    """Every sampling cell. What a cluster draws is kept in the order in which it is ready."""
    before = len(book.rows)
    wanted = [(backend, cell) for cell in job.all_cells for backend in crew if cell in job.cells[backend]]
    remote = {(backend, cell): (backend, job.spec.to_dict(), job.threads, job.timeout, job.draw(cell)) for backend, cell in wanted
              if cluster and not book.cells.done("sample", job.sample_key(backend, cell))}
    images: Images = {}
    for which in wanted:
        if which not in remote:
            _cell(job, crew, book, images, *which)
    if cluster:
        for which, fetch in cluster.map(ray_cluster.draw_cell, remote):
            _cell(job, crew, book, images, *which, fetch)
        order = [job.sample_key(*which) for which in wanted]
        book.rows[before:] = sorted(book.rows[before:], key=lambda row: order.index(row.config))
    return {which: images[which] for which in wanted if which in images}


def share(job: Job, crew: Crew, book: Notebook, backend: str, cell: Cell) -> None:
    """Draw this process's parts of a cell."""
    key = job.sample_key(backend, cell)
    parts.draw(partial(crew.call, backend), job.draw(cell), files.folder(book.cells.folder("sample", key) / SCRATCH), job.rank,
               job.processes, finished=partial(book.cells.done, "sample", key))


def rounded(job: Job, crew: Crew, found: dict[str, Any], drawn: dict[str, NDArray[Any]], cell: Cell, ids: Iterable[int],
            apart: Callable[..., float]) -> dict[str, Any]:
    """The verdict `found` on the images of these ids that each backend has `drawn`. An error of float32 beyond the tolerance may be
    its rounding, which a network magnifies. Up to `ROUNDING` times the tolerance the images are drawn again in float64.

    By each of the backends: they are right where they are `apart` by no more than float64's tolerance. Where one has no float64,
    those of another one tell how far float32 alone is off there, and its own may be off by `ALIKE` times as much.
    """
    error, within = found["error"], found["tolerance"]
    if found["ok"] or error is None or error > ROUNDING * within or job.dtype != "float32" or job.processes > 1:
        return found
    able = [backend for backend in drawn if "float64" in about(backend).dtypes]
    if not able and (others := [backend for backend in job.backends if "float64" in about(backend).dtypes]):
        able = others[:1]
        drawn = drawn | {able[0]: _redrawn(job, crew, able[0], cell, ids, "float32")}
    exact = [_redrawn(job, crew, backend, cell, ids, "float64") for backend in able]
    if len(able) == len(drawn):
        error = apart(*exact)
        return found | {"float64": error, "ok": error <= TOLERANCES["float64"]["images"]}
    if not able:
        return found
    (other,) = set(drawn) - set(able)
    off = {backend: reference_check.difference(drawn[backend], exact[0]) for backend in (*able, other)}
    return found | {"rounding": off, "ok": off[other] <= ALIKE * off[able[0]]}


def _redrawn(job: Job, crew: Crew, backend: str, cell: Cell, ids: Iterable[int], dtype: str) -> NDArray[Any]:
    """The images of a cell that have these ids, drawn in this dtype by a worker of their own."""
    name = f"{backend} {dtype}"
    crew.start(backend, name, dtype=dtype)
    try:
        crew.load(name, job.trained)
        return np.concatenate([crew.draw(name, range(i, i + 1), job.draw(cell).plan, 1, cell.seed) for i in map(int, ids)])
    finally:
        crew.stop(name)


def _cell(job: Job, crew: Crew, book: Notebook, images: Images, backend: str, cell: Cell,
          fetch: Callable[[], Any] | None = None) -> None:
    key = job.sample_key(backend, cell)
    out = book.cells.folder("sample", key) / parts.IMAGES

    def compute(folder: Path) -> AnyRow:
        if not fetch:
            share(job, crew, book, backend, cell)
            return book.row("sample", backend, key, parts.collect(job.draw(cell), folder / SCRATCH, out))
        values, drawn, machine = fetch()
        with files.replacing(out) as file:
            np.save(file, drawn)
        return replace(book.row("sample", backend, key, values), environment=machine)

    if book.cell("sample", key, compute) is not None:
        images[backend, cell] = out
