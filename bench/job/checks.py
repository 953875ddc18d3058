"""The comparisons of the main job: each backend with the NumPy oracle, with the first backend, and with a second run of itself."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.protocol import Batch
from bench import files, streams
from bench import oracle as reference_check
from bench.job import sampling
from bench.job.job import GATED_STEPS, Images, Job
from bench.messages import Forward, Tables, TimeSample, Train, Weights
from bench.oracle import TOLERANCES, relative_error, verdict
from bench.records import values
from bench.records.cells import SCRATCH
from bench.records.notebook import Key, Notebook
from bench.records.rows import AnyRow, of
from bench.sampling.cell import Cell
from bench.training import batches
from bench.workers.crew import Crew
from reference.conventions import make_plan
from reference.solver_plans import base

GATED_LOSSES = 10
LATE_STEPS = 300
BELOW = 1 - 1e-9  # the largest ratio that is below 1
QUANTILES = (0.5, 0.9, 0.99, 0.999, 1.0)  # of the pixels' differences
TWICE_STEPS = 10  # of training, and of sampling, that the determinism check runs twice


def oracle(job: Job, crew: Crew, book: Notebook, backend: str) -> None:
    """Tables of every path, one forward pass, one training loss and two training steps, compared with the oracle."""
    p, spec = job.preset, job.spec
    cells = list(dict.fromkeys(replace(cell, seed=job.seed) for cell in job.cells[backend]))  # a path does not depend on the seed
    cells_key = [[value for name, value in cell.config.items() if name != "seed"] for cell in cells]
    key = job.key(backend, stage="oracle", weights=job.trained_hash, cells=cells_key,
                  dataset=job.dataset.sha256, flip=job.dataset.flip, images=job.draw(cells[0]).batch, batch_size=p.batch_size,
                  optim=p.optim.to_dict(), trains=job.trains(backend), **job.choices_key(*cells))

    def compute(folder: Path) -> AnyRow:
        scratch, size = folder / SCRATCH, job.draw(cells[0]).batch
        crew.load(backend, job.trained)
        tables = [(job.plan(cell), _tables(crew, backend, scratch, job.draw(cell).plan)) for cell in cells]
        x = streams.normal(job.seed, "check", np.arange(size), spec.image_shape)
        t, some = np.linspace(0, p.diffusion.timesteps - 1, size).round(), _some(size)
        output = _forward(crew, backend, scratch, x, t)[some]
        batch = batches.comparable(spec, job.dataset.images, job.seed, p.batch_size, job.dataset.flip)
        loss = crew.loss(backend, batch)[0]
        found = reference_check.Answers(tables, x[some], t[some], output, batch, loss)
        errors = reference_check.errors(found, spec, job.trained, job.trained)
        if job.trains(backend) and job.processes == 1:  # several processes train together or not at all
            errors |= _steps(job, crew, backend, batch)
        ungated = {"loss", "gradient"} if p.model.dropout else set()  # what is dropped is the framework's own
        return book.row("check", f"{backend} oracle", key, {
            name: verdict(error, None if name in ungated else TOLERANCES[job.dtype][name]) for name, error in errors.items()})

    book.cell("oracle", key, compute)


def _some(n: int, batch: int = 0) -> list[int]:
    """The first and the last of n, and one in the midst: of those that are made in batches, in the midst of its batch."""
    size = min(batch or n, n)
    return sorted({0, n // 2 // size * size + size // 2, n - 1})


def _steps(job: Job, crew: Crew, backend: str, batch: Batch) -> dict[str, float]:
    """Errors of the gradients, and of the first training step and one in the midst of a training, past its warm-up."""
    o = job.preset.optim
    numbers = (0, (o.warmup_steps + max(o.warmup_steps, o.total_steps)) // 2 | 1)
    done = [crew.loss(backend, batch, step)[1] for step in numbers]
    gradients = {name.partition("/")[2]: value for name, value in done[0].items() if name.startswith("gradients/")}
    return {"gradient": reference_check.gradient_error(gradients, job.spec, job.trained, batch),
            "step": reference_check.largest([reference_check.step_error(*pair) for pair in
                                             zip(done, (o, o), numbers, strict=True)])}


def paths(job: Job, crew: Crew, book: Notebook, backend: str, drawn: Images) -> None:
    """Images of one cell of every sampler, eta and spacing, as they were drawn, compared with the oracle's of the same noise."""
    alike = job.alike(cell for cell in job.cells[backend] if (backend, cell) in drawn)
    for cells in alike:
        shortest, longest = cells[0], max(cells, key=lambda cell: cell.steps)
        key = job.images_key(f"{backend} oracle", shortest, stage="path", longest=max(longest.steps, GATED_STEPS))

        def compute(folder: Path, shortest: Cell = shortest, longest: Cell = longest, key: Key = key) -> AnyRow:
            found = {"sampling": _path(job, crew, backend, shortest, drawn)}
            if longest.steps > GATED_STEPS:
                found["late steps"] = _late_steps(job, crew, backend, longest)
            return book.row("check", f"{backend} oracle", key, found)

        book.cell("path", key, compute)


def _path(job: Job, crew: Crew, backend: str, cell: Cell, drawn: Images) -> dict[str, Any]:
    """The first and the last image of a cell, one in the midst of a batch, and one that repeats another. A long path takes the
    oracle minutes: then a shorter one is drawn of the same batch or, where the convention has none, the last image compared."""
    cell, long, size = job.compared(cell), cell, job.draw(cell).batch
    if cell != long:
        crew.load(backend, job.trained)
        images = crew.draw(backend, range(size), job.draw(cell).plan, size, cell.seed)
    else:
        images = np.load(drawn[backend, cell], mmap_mode="r")
    ids = np.array(sorted({*_some(len(images), size), *_repeated(images)}) if cell.steps <= GATED_STEPS else [len(images) - 1])
    apart = partial(_path_error, job, network=reference_check.oracle_network(job.trained, job.spec), cell=cell, ids=ids)
    within = TOLERANCES[job.dtype]["sampling" if cell.steps <= reference_check.STEPS else "images"]
    error = apart(images[ids])
    if cell.steps > GATED_STEPS:
        return verdict(error, 10 * within)
    return sampling.rounded(job, crew, verdict(error, within), {backend: images[ids]}, cell, ids, apart)


def _repeated(images: NDArray[Any]) -> list[int]:
    """The first image that is an earlier one again, where there is one."""
    first: dict[int, int] = {}
    return next(([n] for n, image in enumerate(images) if first.setdefault(hash(image.tobytes()), n) < n), [])


def _late_steps(job: Job, crew: Crew, backend: str, cell: Cell) -> dict[str, Any]:
    """A path of many steps with a network that says the same of every image, its last bias, which costs the oracle nothing."""
    if not cell.sampler:  # not every solver can do every number of steps
        cell = replace(cell, steps=min(cell.steps, LATE_STEPS) if job.shortens else cell.steps, spacing=None)
    weights = {name: np.zeros_like(value) if name == "conv_out.weight" else value for name, value in job.trained.items()}
    last = range(job.preset.samples - 1, job.preset.samples)
    crew.load(backend, weights)
    images = crew.draw(backend, last, job.draw(cell).plan, 1, cell.seed)
    said = np.asarray(weights["conv_out.bias"], np.float64)[None, :, None, None]

    def network(x: NDArray[Any], t: NDArray[Any], x0: NDArray[Any] | None = None) -> NDArray[np.float64]:
        return np.broadcast_to(said, (len(x), said.size, *x.shape[2:]))

    return verdict(_path_error(job, images, network, cell, np.array(last)), TOLERANCES[job.dtype]["images"])


def _path_error(job: Job, images: NDArray[Any], network: reference_check.Network, cell: Cell, ids: NDArray[np.int64]) -> float:
    shape = job.spec.image_shape
    return reference_check.path_error(images, network, streams.normal(cell.seed, "x_T", ids, shape), job.plan(cell),
                                      lambda i: streams.normal(cell.seed, "z", ids, shape, step=i))


def timed(job: Job, crew: Crew, book: Notebook, backend: str) -> None:
    """What was timed: whether the work was done when the backend said so, and whether its images are those of so many steps."""
    rows = [row for row in of(book.rows, values.Timing) if row.backend == backend]
    if "sampling step" not in {row.config["workload"] for row in rows}:
        return
    p, shape, steps = job.preset, job.spec.image_shape, min(reference_check.TIMED_STEPS, job.preset.diffusion.timesteps)
    key = job.key(backend, stage="timed", weights=job.trained_hash, batch_size=p.sample_batch, rows=[row.created for row in rows])

    def compute(folder: Path) -> AnyRow:
        out, ids = folder / SCRATCH / "timed.npy", np.array(_some(p.sample_batch))
        crew.load(backend, job.trained)
        crew.call(backend, TimeSample(steps, p.sample_batch, job.seed, str(out)))
        plan = make_plan(p.diffusion, p.diffusion.timesteps).cut(0, steps)
        error = reference_check.path_error(np.load(out)[ids], reference_check.oracle_network(job.trained, job.spec),
                                           streams.normal(job.seed, "x_T", ids, shape), plan)
        late = {f"work left of a timed {row.config['workload']}": verdict(row.values["late"], reference_check.UNFINISHED)
                for row in rows if "late" in row.values}
        late["timed steps"] = verdict(error, TOLERANCES[job.dtype]["sampling"])
        return book.row("check", f"{backend} oracle", key, late)

    book.cell("timed", key, compute)


def training(job: Job, book: Notebook, trained: list[AnyRow]) -> None:
    """The loss of the same images after a training, which must be below that before."""
    for row in of(trained, values.Train):
        if "loss_before" not in row.values or "loss_after" not in row.values:
            continue
        key = job.key(row.backend, stage="training", rows=[row.created])
        ratio = row.values["loss_after"] / row.values["loss_before"]
        noise = 0.0 if job.dtype in ("float32", "float64") else TOLERANCES[job.dtype]["loss"]
        book.keep("training", "check", key, {
            f"loss after {row.config['train_steps']} steps by that before": verdict(ratio, BELOW + noise)})


def _tables(crew: Crew, backend: str, folder: Path, plan: dict[str, Any]) -> dict[str, NDArray[Any]]:
    crew.call(backend, Tables(plan, str(folder / "tables.npz")))
    with np.load(folder / "tables.npz") as file:
        return {name: file[name] for name in file.files}


def _forward(crew: Crew, backend: str, folder: Path, x: NDArray[Any], t: NDArray[Any]) -> NDArray[Any]:
    files.savez(folder / "inputs.npz", x=x, t=t)
    crew.call(backend, Forward(str(folder / "inputs.npz"), str(folder / "outputs.npy")))
    return np.load(folder / "outputs.npy")


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
        plan = Cell(steps, 1.0, None, job.seed).plan(base(job.convention))
        drawn = crew.draw(backend, range(p.sample_batch), plan, p.sample_batch, job.seed)
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
        book.keep("losses", "check", key, {
            f"losses_of_{len(a)}_steps": verdict(relative_error(b, a), TOLERANCES[job.dtype]["losses"])})


def images(job: Job, crew: Crew, book: Notebook, drawn: Images) -> None:
    """The images of each further backend, cell by cell, compared with the first one's: largest difference and quantiles."""
    for cell in job.all_cells:
        have = [b for b in job.backends if (b, cell) in drawn]
        for other in have[1:]:
            key = job.images_key(f"{have[0]} {other}", cell, stage="images")
            book.cell("images", key, partial(_images, job, crew, book, drawn, cell, (have[0], other), key))


def _images(job: Job, crew: Crew, book: Notebook, drawn: Images, cell: Cell, who: tuple[str, ...], key: Key, _: Path) -> AnyRow:
    both = {backend: np.load(drawn[backend, cell]) for backend in who}
    difference = np.abs(np.subtract(*both.values()))
    found = verdict(float(difference.max()), TOLERANCES[job.dtype]["images"] if cell.steps <= GATED_STEPS else None)
    worst = np.argsort(-difference.max(axis=(1, 2, 3)))[:sampling.WORST]
    found = sampling.rounded(job, crew, found, {b: a[worst] for b, a in both.items()}, cell, worst, reference_check.difference)
    found["quantiles"] = {str(q): float(v) for q, v in zip(QUANTILES, np.quantile(difference, QUANTILES), strict=True)}
    return book.row("check", key["backend"], key, {"images": found})
