"""What the main job holds each backend against: the NumPy oracle, the first backend, and its own run the second time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from backends.protocol import Batch
from bench import files, streams
from bench.oracle import TOLERANCES, loss_error, oracle_network, path_error, relative_error, verdict
from bench.records.cells import SCRATCH
from bench.records.rows import Row
from bench.sampling.cell import Cell
from bench.training import batches
from bench.weights.tensor_files import weights_hash
from reference import samplers

if TYPE_CHECKING:
    from bench.job.job import Run

ORACLE_IMAGES, ORACLE_STEPS = 2, 10
GATED_STEPS = 100  # above it, the images of two backends are compared and reported without a verdict
GATED_LOSSES = 10
QUANTILES = (0.5, 0.9, 0.99, 0.999, 1.0)  # of the pixels' differences
TWICE_STEPS = 10  # of training, and of sampling, that the determinism check runs twice


def oracle(run: Run, backend: str) -> None:
    """Tables, one forward pass, one training loss and two short sampling paths against the oracle."""
    job, tolerances = run.job, TOLERANCES[run.job.dtype]
    cells = list(dict.fromkeys(replace(cell, seed=job.seed) for cell in job.cells[backend]))  # a path does not depend on the seed
    key = job.key(backend, stage="oracle", weights=weights_hash(job.trained),
                  cells=[[c.steps, str(c.eta), c.spacing] for c in cells])

    def compute(folder: Path) -> Row:
        scratch = folder / SCRATCH
        run.load(backend, scratch, job.trained)
        network = oracle_network(job.trained, job.spec)
        worst = 0.0
        for cell in cells:
            run.call(backend, "tables", "tables", plan=cell.plan(job.convention), out=str(scratch / "tables.npz"))
            tables = samplers.coefficients(job.plan(cell))
            with np.load(scratch / "tables.npz") as file:
                worst = max(worst, *(relative_error(file[name], table) for name, table in tables.items()))
        shape, T = job.spec.image_shape, job.preset.diffusion.timesteps
        ids = np.arange(4)
        x = streams.normal(job.seed, "check", ids, shape)
        t = np.linspace(0, T - 1, len(ids)).round()
        found = _forward(run, backend, scratch, x, t)
        values = {"tables": worst, "forward": float(np.abs(found - network(x, t)).max())}
        batch = batches.training_batch(job.seed, job.dataset.images, 0, 8, T, flip=job.dataset.flip)
        values["loss"] = loss_error(_loss(run, backend, scratch, batch), job.spec, network, batch)
        steps = min(ORACLE_STEPS, *(c.steps for c in cells)) if job.shortens else T
        short = Cell(steps, 0.0, None, job.seed)
        found = run.draw(backend, scratch / "oracle.npy", np.arange(ORACLE_IMAGES), short)["images"]
        x_T = streams.normal(job.seed, "x_T", np.arange(ORACLE_IMAGES), shape)
        values["sampling"] = path_error(found, network, x_T, job.plan(short))
        return run.row("check", f"{backend} oracle", key,
                       {name: verdict(error, None if name == "sampling" and steps > GATED_STEPS else tolerances[name])
                        for name, error in values.items()})

    run.cell("oracle", key, compute)


def _forward(run: Run, backend: str, folder: Path, x: NDArray[Any], t: NDArray[Any]) -> NDArray[Any]:
    files.savez(folder / "inputs.npz", x=x, t=t)
    run.call(backend, "forward", "forward", inputs=str(folder / "inputs.npz"), out=str(folder / "outputs.npy"))
    return np.load(folder / "outputs.npy")


def _loss(run: Run, backend: str, folder: Path, batch: Batch) -> float:
    files.savez(folder / "batch.npz", ids=batch.ids, x0=batch.x0, t=batch.t, noise=batch.noise)
    return run.call(backend, "loss", "loss", batch=str(folder / "batch.npz"))["loss"]


def determinism(run: Run, backend: str) -> None:
    """A short training and a stochastic sampling, in this worker and again in a fresh one: bit-equal, or by how much not."""
    job, p = run.job, run.job.preset
    key = job.key(backend, stage="determinism", weights=weights_hash(job.initial), optim=p.optim.to_dict(),
                  dataset=job.dataset.sha256, batch_size=p.batch_size, samples=p.sample_batch)

    def once(folder: Path) -> dict[str, NDArray[Any]]:
        steps = min(TWICE_STEPS, p.diffusion.timesteps) if job.shortens else p.diffusion.timesteps
        run.load(backend, folder, job.initial)
        with files.replacing(folder / "images.npy") as file:
            np.save(file, job.dataset.images)
        reply = run.call(backend, "train", "train twice", steps=TWICE_STEPS, batch_size=p.batch_size, seed=job.seed,
                         images=str(folder / "images.npy"), flip=job.dataset.flip)
        run.call(backend, "weights", "weights", out=str(folder / "trained.npz"))
        with np.load(folder / "trained.npz") as file:
            weights = np.concatenate([file[name].ravel() for name in sorted(file.files)])
        drawn = run.draw(backend, folder / "drawn.npy", np.arange(p.sample_batch), Cell(steps, 1.0, None, job.seed))
        return {f"losses of {TWICE_STEPS} steps": np.array(reply["losses"]), "weights and EMA after them": weights,
                f"images of S={steps}, eta=1": drawn["images"]}

    def compute(folder: Path) -> Row:
        first = once(folder / SCRATCH)
        run.start(backend)
        second = once(folder / SCRATCH)
        values = {name: verdict(float(np.abs(a - second[name]).max()), None) | {"bit_equal": a.tobytes() == second[name].tobytes()}
                  for name, a in first.items()}
        return run.row("check", f"{backend} itself", key, values)

    run.cell("determinism", key, compute)


def losses(run: Run, trained: list[Row]) -> None:
    """The first losses of each further backend against the first one's."""
    for other in trained[1:]:
        a, b = (np.array(r.values["losses"][:GATED_LOSSES]) for r in (trained[0], other))
        key = run.job.key(f"{trained[0].backend} {other.backend}", stage="losses", rows=[trained[0].created, other.created])
        values = {f"losses_of_{len(a)}_steps": verdict(relative_error(b, a), TOLERANCES[run.job.dtype]["losses"])}
        run.keep("losses", "check", key, values)


def images(run: Run, cell: Cell) -> None:
    """The images of one cell of each further backend against the first one's: the largest difference, and quantiles of all."""
    have = [b for b in run.job.backends if (b, cell) in run.images]
    for other in have[1:]:
        difference = np.abs(np.load(run.images[have[0], cell]) - np.load(run.images[other, cell]))
        gate = TOLERANCES[run.job.dtype]["images"] if cell.steps <= GATED_STEPS else None
        found = verdict(float(difference.max()), gate)
        found["quantiles"] = {str(q): float(value) for q, value in zip(QUANTILES, np.quantile(difference, QUANTILES), strict=True)}
        key = run.job.trained_key(f"{have[0]} {other}", cell) | {"stage": "images"}
        run.keep("images", "check", key, {"images": found})


