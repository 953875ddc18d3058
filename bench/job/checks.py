"""The comparisons of the main job: each backend with the NumPy oracle, with the first backend, and with a second run of itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.protocol import Batch
from bench import files, streams
from bench import oracle as reference_check
from bench.job.job import Images, Job
from bench.messages import Forward, Loss, Tables, Train, Weights
from bench.oracle import TOLERANCES, relative_error, verdict
from bench.records import values
from bench.records.cells import SCRATCH
from bench.records.notebook import Notebook
from bench.records.rows import AnyRow, of
from bench.sampling.cell import Cell
from bench.training import batches
from bench.workers.crew import Crew

GATED_STEPS = 100  # above it, the images of two backends are compared and reported without a verdict
GATED_LOSSES = 10
QUANTILES = (0.5, 0.9, 0.99, 0.999, 1.0)  # of the pixels' differences
TWICE_STEPS = 10  # of training, and of sampling, that the determinism check runs twice


def oracle(job: Job, crew: Crew, book: Notebook, backend: str) -> None:
    """Tables of every path, one forward pass, one training loss and a short sampling path, compared with the oracle."""
    cells = list(dict.fromkeys(replace(cell, seed=job.seed) for cell in job.cells[backend]))  # a path does not depend on the seed
    key = job.key(backend, stage="oracle", weights=job.trained_hash, cells=[[c.steps, str(c.eta), c.spacing] for c in cells],
                  dataset=job.dataset.sha256, flip=job.dataset.flip, **job.choices_key(*cells))

    def compute(folder: Path) -> AnyRow:
        scratch, shape, T = folder / SCRATCH, job.spec.image_shape, job.preset.diffusion.timesteps
        crew.load(backend, job.trained)
        tables = [(job.plan(cell), _tables(crew, backend, scratch, job.draw(cell).plan)) for cell in cells]
        x, t = streams.normal(job.seed, "check", np.arange(4), shape), np.linspace(0, T - 1, 4).round()
        output = _forward(crew, backend, scratch, x, t)
        batch = batches.training_batch(job.seed, job.dataset.images, 0, 8, T, flip=job.dataset.flip)
        loss = _loss(crew, backend, scratch, batch)
        steps = min(reference_check.STEPS, *(c.steps for c in cells)) if job.shortens else T
        short, ids = Cell(steps, 0.0, None, job.seed), range(reference_check.IMAGES)
        x_T = streams.normal(job.seed, "x_T", np.array(ids), shape)
        images = crew.draw(backend, ids, job.draw(short).plan, len(ids), job.seed)
        found = reference_check.Answers(tables, x, t, output, batch, loss, x_T, job.plan(short), images)
        errors = reference_check.errors(found, job.spec, job.trained, job.trained)
        ungated = {"sampling"} if steps > GATED_STEPS else set()
        return book.row("check", f"{backend} oracle", key, {
            name: verdict(error, None if name in ungated else TOLERANCES[job.dtype][name]) for name, error in errors.items()})

    book.cell("oracle", key, compute)


def _tables(crew: Crew, backend: str, folder: Path, plan: dict[str, Any]) -> dict[str, NDArray[Any]]:
    crew.call(backend, Tables(plan, str(folder / "tables.npz")))
    with np.load(folder / "tables.npz") as file:
        return {name: file[name] for name in file.files}


def _forward(crew: Crew, backend: str, folder: Path, x: NDArray[Any], t: NDArray[Any]) -> NDArray[Any]:
    files.savez(folder / "inputs.npz", x=x, t=t)
    crew.call(backend, Forward(str(folder / "inputs.npz"), str(folder / "outputs.npy")))
    return np.load(folder / "outputs.npy")


def _loss(crew: Crew, backend: str, folder: Path, batch: Batch) -> float:
    files.savez(folder / "batch.npz", ids=batch.ids, x0=batch.x0, t=batch.t, noise=batch.noise)
    return crew.call(backend, Loss(str(folder / "batch.npz"))).loss


def determinism(job: Job, crew: Crew, book: Notebook, backend: str) -> None:
    """A short training and a stochastic sampling, in this worker and again in a fresh one: bit-equal, or by how much not."""
    p = job.preset
    key = job.key(backend, stage="determinism", weights=job.initial_hash, optim=p.optim.to_dict(), dataset=job.dataset.sha256,
                  flip=job.dataset.flip, batch_size=p.batch_size, samples=p.sample_batch)

    def once(folder: Path) -> dict[str, NDArray[Any]]:
        steps = min(TWICE_STEPS, p.diffusion.timesteps) if job.shortens else p.diffusion.timesteps
        crew.load(backend, job.initial)
        with files.replacing(folder / "images.npy") as file:
            np.save(file, job.dataset.images)
        asked = Train(str(folder / "images.npy"), job.seed, TWICE_STEPS, p.batch_size, job.dataset.flip)
        reply = crew.call(backend, asked, "train twice")
        crew.call(backend, Weights(str(folder / "trained.npz")))
        with np.load(folder / "trained.npz") as file:
            weights = np.concatenate([file[name].ravel() for name in sorted(file.files)])
        drawn = crew.draw(backend, range(p.sample_batch), Cell(steps, 1.0, None, job.seed).plan(job.convention), p.sample_batch,
                          job.seed)
        return {f"losses of {TWICE_STEPS} steps": np.array(reply.losses), "weights and EMA after them": weights,
                f"images of S={steps}, eta=1": drawn}

    def compute(folder: Path) -> AnyRow:
        first = once(folder / SCRATCH)
        crew.start(backend)
        second = once(folder / SCRATCH)
        return book.row("check", f"{backend} itself", key, {
            name: verdict(float(np.abs(a - second[name]).max()), None) | {"bit_equal": a.tobytes() == second[name].tobytes()}
            for name, a in first.items()})

    book.cell("determinism", key, compute)


def losses(job: Job, book: Notebook, trained: list[AnyRow]) -> None:
    """The first losses of each further backend, compared with the first one's."""
    found = of(trained, values.Train)
    for other in found[1:]:
        a, b = (np.array(r.values["losses"][:GATED_LOSSES]) for r in (found[0], other))
        key = job.key(f"{found[0].backend} {other.backend}", stage="losses", rows=[found[0].created, other.created])
        compared = {f"losses_of_{len(a)}_steps": verdict(relative_error(b, a), TOLERANCES[job.dtype]["losses"])}
        book.keep("losses", "check", key, compared)


def images(job: Job, book: Notebook, drawn: Images) -> None:
    """The images of each further backend, cell by cell, compared with the first one's: largest difference and quantiles."""
    for cell in job.all_cells:
        have = [b for b in job.backends if (b, cell) in drawn]
        for other in have[1:]:
            difference = np.abs(np.load(drawn[have[0], cell]) - np.load(drawn[other, cell]))
            gate = TOLERANCES[job.dtype]["images"] if cell.steps <= GATED_STEPS else None
            found = verdict(float(difference.max()), gate)
            found["quantiles"] = {str(q): float(v) for q, v in zip(QUANTILES, np.quantile(difference, QUANTILES), strict=True)}
            key = job.images_key(f"{have[0]} {other}", cell, stage="images")
            book.keep("images", "check", key, {"images": found})
