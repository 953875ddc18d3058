"""The metric cells: every set of images beside its floor and ceiling, here or all at once on a cluster."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from bench.data import pixels
from bench.metric import fid, fmnist_cnn
from bench.records.rows import Row
from bench.sampling.cell import Cell
from bench.workers import ray_cluster
from reference.config import require

if TYPE_CHECKING:
    from bench.job.job import Run



def metric_key(run: Run, backend: str, cell: Cell) -> dict[str, Any]:
    """Key of the metric of a sampling cell."""
    return run.job.trained_key(backend, cell) | _references(run)


def bound_key(run: Run, name: str) -> dict[str, Any]:
    """Key of the metric's floor ("real") or ceiling ("noise")."""
    return _references(run) | {"samples": run.job.preset.samples, "seed": run.job.seed, "backend": name}


def _references(run: Run) -> dict[str, Any]:
    job = run.job
    return {"stage": "metric", "reference": job.dataset.sha256, "held_out": job.held_out.sha256, "extractor": job.extractor.name,
            "extractor_sha256": job.extractor.sha256}


def measure(run: Run) -> None:
    """The metric of every set of images, beside its floor and ceiling for the same n."""
    job, n = run.job, run.job.preset.samples
    by: dict[str, Any] = {"metric_device": job.metric_device, "extractor": job.extractor}
    _metric(run, bound_key(run, "real"), partial(_here, run, lambda: fid.floor(n, job.dataset, test=job.held_out, **by)))
    _metric(run, bound_key(run, "noise"), partial(_here, run, lambda: fid.ceiling(n, job.dataset, seed=job.seed, **by)))
    keys = {which: metric_key(run, *which) for which in run.images}
    remote = {}
    if run.cluster and job.extractor == fmnist_cnn.extractor():  # another one's weights are on this machine alone
        dataset = run.cluster.put(job.dataset)
        remote = {(backend, cell): (_load(path), dataset, cell.seed) for (backend, cell), path in run.images.items()
                  if not run.cells.done("metric", keys[backend, cell])}
    for (backend, cell), path in tqdm(run.images.items(), desc="metric", leave=False):
        if (backend, cell) not in remote:
            _metric(run, keys[backend, cell], partial(_here, run, partial(_evaluate, run, path, cell.seed)))
    if run.cluster:
        for which, fetch in run.cluster.map(ray_cluster.measure_cell, remote):
            _metric(run, keys[which], fetch)


def _load(path: Path) -> fid.Images:
    return pixels.to_uint8(np.load(path))


def _evaluate(run: Run, path: Path, seed: int) -> fid.Result:
    job, images = run.job, _load(path)
    require(len(images) == job.preset.samples, "images", f"{path}, {len(images)}", f"must be the cell's {job.preset.samples}")
    return fid.evaluate(images, job.dataset, job.metric_device, seed, job.extractor)


def _here(run: Run, function: Callable[[], fid.Result]) -> tuple[dict[str, Any], dict[str, Any]]:
    return dict(function()), run.environment | {"load": list(os.getloadavg())}


def _metric(run: Run, key: dict[str, Any], compute: Callable[[], tuple[dict[str, Any], dict[str, Any]]]) -> None:
    def row(folder: Path) -> Row:
        values, machine = compute()
        return replace(run.row("metric", key["backend"], key, values), environment=machine)

    run.cell("metric", key, row)
