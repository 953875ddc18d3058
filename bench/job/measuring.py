"""The metric cells: every set of images beside its floor and ceiling, here or all at once on a cluster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.data import pixels
from bench.job.job import Images, Job
from bench.metric import fid, fmnist_cnn
from bench.records.notebook import Key, Notebook
from bench.records.rows import AnyRow
from bench.sampling.cell import Cell
from bench.workers import ray_cluster
from reference.config import require

FEATURES = "features.npy"  # of a cell's images, in the folder of its metric cell


def measure(job: Job, book: Notebook, images: Images, cluster: ray_cluster.Ray | None) -> None:
    """The metric of every set of images, beside its floor and ceiling for the same n; nothing where the job is not measured."""
    if not job.measured:
        return
    n = job.preset.samples
    by: dict[str, Any] = {"metric_device": job.metric_device, "extractor": job.extractor}
    _cell(book, job.bound_key("real"), lambda _: fid.floor(n, job.dataset, test=job.held_out, **by))
    _cell(book, job.bound_key("noise"), lambda _: fid.ceiling(n, job.dataset, seed=job.seed, **by))
    remote = {}
    if cluster and job.extractor == fmnist_cnn.extractor():  # another one's weights are on this machine alone
        dataset = cluster.put(job.dataset)
        remote = {(backend, cell): (_load(path), dataset, cell.seed) for (backend, cell), path in images.items()
                  if not book.cells.done("metric", job.metric_key(backend, cell))}
    for (backend, cell), path in images.items():
        if (backend, cell) not in remote:
            _cell(book, job.metric_key(backend, cell), partial(_evaluate, job, path, cell.seed))
    if cluster:
        for which, fetch in cluster.map(ray_cluster.measure_cell, remote):
            _remote_cell(book, job.metric_key(*which), fetch)


def _load(path: Path) -> fid.Images:
    return pixels.to_uint8(np.load(path))


def features(job: Job, book: Notebook, backend: str, cell: Cell, path: Path) -> fid.Features:
    """Features of a cell's images, (n, width): as its metric cell kept them, extracted where another machine measured it."""
    kept = book.cells.folder("metric", job.metric_key(backend, cell)) / FEATURES
    if kept.exists():
        return np.asarray(np.load(kept))
    return fid.features(job.extractor.convert(_load(path))[0], job.metric_device, job.extractor)


def _evaluate(job: Job, path: Path, seed: int, folder: Path) -> fid.Result:
    images = _load(path)
    require(len(images) == job.preset.samples, "images", f"{path}, {len(images)}", f"must be the cell's {job.preset.samples}")
    return fid.evaluate(images, job.dataset, job.metric_device, seed, job.extractor, folder / FEATURES)


def _cell(book: Notebook, key: Key, compute: Callable[[Path], fid.Result]) -> None:
    book.cell("metric", key, lambda folder: book.row("metric", key["backend"], key, dict(compute(folder))))


def _remote_cell(book: Notebook, key: Key, fetch: Callable[[], Any]) -> None:
    def compute(folder: Path) -> AnyRow:
        values, machine = fetch()
        return replace(book.row("metric", key["backend"], key, values), environment=machine)

    book.cell("metric", key, compute)
