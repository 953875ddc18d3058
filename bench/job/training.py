"""The training cells: the short one by which backends are compared, and that of the network which is sampled from."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench import files
from bench.job.job import Job
from bench.messages import Train
from bench.records.cells import SCRATCH
from bench.records.notebook import Key, Notebook
from bench.records.rows import AnyRow
from bench.training import batches
from bench.weights import pipeline
from bench.workers.crew import Crew


def own_network(job: Job, crew: Crew, book: Notebook) -> Job | None:
    """The job with the network that its first backend trained on the job's images, kept as a pipeline folder too.

    None where the training is left missing.
    """
    backend, p = next(iter(crew), None), job.preset
    if backend is None:
        return None
    key = job.train_key(backend) | {"stage": "fit", "train_steps": job.fit}
    row = _cell(job, crew, book, backend, key, "weights.npz")
    if row is None:
        return None
    with np.load(book.cells.folder("train", key) / "weights.npz") as file:
        job = replace(job, trained={name: file[name] for name in file.files})
    folder = book.cells.work.parent / "checkpoints" / f"{p.name}-{job.dataset.sha256[:8]}"
    pipeline.save_pipeline(folder, job.trained, p.model, p.diffusion)
    book.missing.append(f"weights: trained for {job.fit} steps with {row.backend} on {job.dataset.provenance}; kept in "
                        f"checkpoints/{folder.name}")
    return job


def compare(job: Job, crew: Crew, book: Notebook, backend: str) -> AnyRow | None:
    """The training by which backends are compared, from the initial weights."""
    return _cell(job, crew, book, backend, job.train_key(backend))


def share(job: Job, crew: Crew, book: Notebook, backend: str) -> None:
    """What a process does that is not the first one: its part of the same training."""
    key = job.train_key(backend)
    if not book.cells.done("train", key):
        _fit(job, crew, backend, book.cells.folder("train", key) / SCRATCH, key["train_steps"])


def _cell(job: Job, crew: Crew, book: Notebook, backend: str, key: Key, weights: str | None = None) -> AnyRow | None:
    def compute(folder: Path) -> AnyRow:
        out = folder / weights if weights else None
        found = _fit(job, crew, backend, folder / SCRATCH, key["train_steps"], out)
        if job.processes > 1:  # whose gradients one process alone can't ask for
            return book.row("train", backend, key, found)
        size = min(batches.DISTINCT, job.preset.batch_size)
        few = batches.comparable(job.spec, job.dataset.images, job.seed, size, job.dataset.flip)
        after = crew.loss(backend, few)[0]
        crew.load(backend, job.initial)
        return book.row("train", backend, key, found | {"loss_before": crew.loss(backend, few)[0], "loss_after": after})

    return book.cell("train", key, compute)


def _fit(job: Job, crew: Crew, backend: str, scratch: Path, steps: int, out: Path | None = None) -> dict[str, Any]:
    crew.load(backend, job.initial)
    images = files.folder(scratch) / f"images-{job.rank}.npy"
    with files.replacing(images) as file:
        np.save(file, job.dataset.images)
    asked = Train(str(images), job.seed, steps, job.preset.batch_size, job.dataset.flip, str(scratch / "states"),
                  {"backend": backend, "dataset": job.dataset.sha256}, job.save_every, None if out is None else str(out))
    return asdict(crew.call(backend, asked, "train"))
