"""FID of the images of all sample seeds of a cell together, and of resamples of them, by which two cells are compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.job import measuring
from bench.job.job import Images, Job
from bench.metric import fid
from bench.metric.resampling import RESAMPLES, resampled
from bench.progress import tracked
from bench.records.notebook import Notebook
from bench.records.rows import AnyRow
from bench.sampling.cell import Cell


def keep(job: Job, book: Notebook, images: Images, table: str) -> None:
    """A row of study "pooled" for the cells that differ in the seed alone, where all of them were drawn.

    Resample k takes the same image ids of the same seeds in every cell, so that cells are compared by the paired bootstrap (Efron &
    Tibshirani 1993, chapter 8).
    """
    target = fid.target(job.dataset, job.metric_device, job.extractor)
    alike: dict[tuple[str, Cell], list[Cell]] = {}
    for backend, cells in job.cells.items():
        for cell in cells:
            alike.setdefault((backend, replace(cell, seed=job.seed)), []).append(cell)
    for (backend, first), cells in tracked(alike.items(), desc="resampled", leave=False):
        if not all((backend, cell) in images for cell in cells):
            continue
        seeds = [cell.seed for cell in cells]
        key = job.metric_key(backend, first) | {"stage": "pooled", "study": "pooled", "table": table, "seeds": seeds,
                                                "resamples": RESAMPLES}

        def compute(folder: Path, backend: str = backend, cells: list[Cell] = cells, key: dict[str, object] = key) -> AnyRow:
            features = np.concatenate([measuring.features(job, book, backend, cell, images[backend, cell]) for cell in cells])
            return book.row("study", backend, key, {
                "n": len(features), "metric": f"FID[{job.extractor.name}]", "fid": fid.distance(fid.statistics(features), target),
                "resampled": resampled(features, target, job.seed, RESAMPLES)})

        book.cell("pooled", key, compute)
