"""The main job: check, train, time, sample and measure on each backend, as cells.

Every stage is held against the NumPy oracle as it goes, and the backends against each other.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from backends.protocol import Batch, Spec
from bench import data, environment, fid, files, streams, timing
from bench.cells import SCRATCH, Cells
from bench.config import Preset
from bench.rows import Row
from bench.training import digest
from bench.worker import Worker, WorkerError
from reference import diffusion, samplers, schedules, unet
from reference import weights as names
from reference.conventions import Plan, make_plan

# Largest accepted errors by dtype of the network. "images" is the largest pixel difference of the backends' images at eta = 0.
TOLERANCES: dict[str, dict[str, float]] = {
    "float32": {"tables": 1e-10, "forward": 2e-5, "loss": 1e-5, "sampling": 1e-4, "images": 1e-3, "losses": 1e-5},
    "float64": {"tables": 1e-10, "forward": 1e-9, "loss": 1e-9, "sampling": 1e-9, "images": 1e-8, "losses": 1e-9},
    "bfloat16": {"tables": 1e-10, "forward": 1e-1, "loss": 2e-2, "sampling": 5e-1, "images": 2.0, "losses": 5e-2},
    "float16": {"tables": 1e-10, "forward": 1e-2, "loss": 2e-3, "sampling": 1e-1, "images": 1.0, "losses": 1e-2},
}
ORACLE_IMAGES, ORACLE_STEPS = 2, 10
GATED_STEPS = 100  # above it, the images of two backends are compared and reported without a verdict
GATED_LOSSES = 10


@dataclass(frozen=True)
class Job:
    """A resolved command line. `initial` are the seeded weights, `trained` those that sampling starts from."""

    preset: Preset
    initial: names.Weights
    trained: names.Weights
    steps: tuple[int, ...]
    etas: tuple[float | str, ...]
    backends: tuple[str, ...]
    device: str
    dtype: str
    convention: str
    seed: int
    dataset: data.Dataset
    held_out: data.Dataset
    threads: int
    save_every: float  # seconds between training states

    @property
    def spec(self) -> Spec:
        """What each backend is told."""
        return Spec(self.preset.model, self.preset.diffusion, self.preset.optim, self.device, self.dtype)

    def plan(self, steps: int, eta: float | str) -> Plan:
        """The sampling path of one cell."""
        return make_plan(self.preset.diffusion, steps, eta=eta, convention=self.convention)

    @property
    def cells(self) -> list[tuple[int, float | str]]:
        """(S, eta) of every sampling cell."""
        return [(s, eta) for s in self.steps for eta in self.etas]

    def key(self, backend: str, **more: Any) -> dict[str, Any]:
        """What decides the result of a cell."""
        p = self.preset
        return {"backend": backend, "model": p.model.to_dict(), "diffusion": p.diffusion.to_dict(), "device": self.device,
                "dtype": self.dtype, "convention": self.convention, "seed": self.seed, "threads": self.threads, **more}

    def trained_key(self, backend: str, steps: int, eta: float | str) -> dict[str, Any]:
        """Key of the sampling and metric cells."""
        return self.key(backend, weights=digest(self.trained), steps=steps, eta=str(eta), samples=self.preset.samples,
                        batch_size=self.preset.sample_batch)


class Run:
    """One run of a job: its workers, its cells, the rows so far and what is missing."""

    def __init__(self, job: Job, cells: Cells, workers: dict[str, Worker]) -> None:
        self.job, self.cells, self.workers = job, cells, workers
        self.rows: list[Row] = []
        self.missing: list[str] = []
        self.images: dict[tuple[str, int, str], NDArray[np.uint8]] = {}
        self.environment = environment.describe()
        self.bar = tqdm(total=0, disable=True)

    def row(self, kind: str, backend: str, key: dict[str, Any], values: dict[str, Any]) -> Row:
        """A row of this run."""
        return Row(kind=kind, backend=backend, preset=self.job.preset.name, config=key, values=values,
                   environment=self.environment | {"load": list(os.getloadavg())}, commit=self.environment["commit"])

    def cell(self, name: str, key: dict[str, Any], compute: Callable[[Path], Row]) -> Row | None:
        """Run one cell; a worker that died leaves it missing, and the others go on."""
        try:
            row = self.cells.run(name, key, compute)
        except WorkerError as error:
            self.missing.append(f"missing: {name} {key['backend']}: {error}")
            return None
        self.rows.append(row)
        return row

    def keep(self, name: str, kind: str, key: dict[str, Any], values: dict[str, Any]) -> None:
        """A cell whose values are at hand."""
        self.cell(name, key, lambda folder: self.row(kind, key["backend"], key, values))

    def all(self) -> None:
        """Every stage."""
        for backend in self.workers:
            self._check(backend)
        trained = [self._train(backend) for backend in self.workers]
        self._compare_losses([row for row in trained if row is not None])
        self._time()
        for steps, eta in self.job.cells:
            for backend in self.workers:
                self._sample(backend, steps, eta)
            self._compare_images(steps, eta)
        for worker in self.workers.values():
            worker.close()
        self._measure()

    def call(self, backend: str, command: str, stage: str, **args: Any) -> dict[str, Any]:
        """Ask a worker, with a bar where it reports progress."""
        bar = None

        def progress(done: int, total: int) -> None:
            nonlocal bar
            bar = bar or tqdm(total=total, desc=f"{stage} {backend}", leave=False, mininterval=1)
            bar.update(done - bar.n)

        try:
            return self.workers[backend].call(command, on_progress=progress, **args)
        finally:
            if bar is not None:
                bar.close()

    def _check(self, backend: str) -> None:
        """Tables, one forward pass, one training loss and two short sampling paths against the oracle."""
        job, tolerances = self.job, TOLERANCES[self.job.dtype]
        key = job.key(backend, stage="oracle", weights=digest(job.trained), cells=[[s, str(e)] for s, e in job.cells])

        def compute(folder: Path) -> Row:
            self._load(backend, folder, trained=True)
            worst = 0.0
            for steps, eta in job.cells:
                args = {"steps": steps, "eta": eta, "convention": job.convention}
                self.call(backend, "tables", "tables", plan=args, out=str(folder / "tables.npz"))
                tables = samplers.coefficients(job.plan(steps, eta))
                with np.load(folder / "tables.npz") as file:
                    worst = max(worst, *(relative_error(file[name], table) for name, table in tables.items()))
            shape, T = job.spec.image_shape, job.preset.diffusion.timesteps
            ids = np.arange(4)
            x = streams.normal(job.seed, "check", ids, shape)
            t = np.linspace(0, T - 1, len(ids)).round()
            found = self._forward(backend, folder, x, t)
            expected = unet.forward(job.trained, job.preset.model, x, t)
            values = {"tables": worst, "forward": float(np.abs(found - expected).max())}
            batch = streams.training_batch(job.seed, job.dataset.images, 0, 8, T, flip=job.dataset.flip)
            values["loss"] = self._loss_error(backend, folder, batch)
            steps = min(ORACLE_STEPS, *job.steps)
            found = self._draw(backend, folder / "oracle.npy", np.arange(ORACLE_IMAGES), steps, 0.0)["images"]
            x_T = streams.normal(job.seed, "x_T", np.arange(ORACLE_IMAGES), shape).astype(np.float64)
            expected = samplers.sample(lambda x, t: unet.forward(job.trained, job.preset.model, x, t), x_T, job.plan(steps, 0.0))
            values["sampling"] = float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))
            return self.row("check", f"{backend} oracle", key,
                            {name: verdict(error, tolerances[name]) for name, error in values.items()})

        self.cell("oracle", key, compute)

    def _loss_error(self, backend: str, folder: Path, batch: Batch) -> float:
        job = self.job
        bars = schedules.alpha_bars(schedules.betas(job.preset.diffusion))
        xt = diffusion.q_sample(batch.x0, batch.t, batch.noise, bars)
        output = unet.forward(job.trained, job.preset.model, xt, batch.t)
        expected = diffusion.loss(job.preset.diffusion, batch.x0, batch.t, batch.noise, output)
        np.savez(folder / "batch.npz", ids=batch.ids, x0=batch.x0, t=batch.t, noise=batch.noise)
        found = self.call(backend, "loss", "loss", batch=str(folder / "batch.npz"))["loss"]
        return abs(found - expected) / abs(expected)

    def _train(self, backend: str) -> Row | None:
        job, p = self.job, self.job.preset
        key = job.key(backend, stage="train", weights=digest(job.initial), optim=p.optim.to_dict(), dataset=job.dataset.sha256,
                      train_steps=p.train_steps, batch_size=p.batch_size, provenance=job.dataset.provenance)

        def compute(folder: Path) -> Row:
            scratch = folder / SCRATCH
            self._load(backend, folder, trained=False)
            with files.replacing(scratch / "images.npy") as file:
                np.save(file, job.dataset.images)
            values = self.call(backend, "train", "train", steps=p.train_steps, batch_size=p.batch_size, seed=job.seed,
                               images=str(scratch / "images.npy"), flip=job.dataset.flip, states=str(scratch / "states"),
                               config={"backend": backend, "dataset": job.dataset.sha256}, save_every=job.save_every)
            return self.row("train", backend, key, values)

        return self.cell("train", key, compute)

    def _compare_losses(self, trained: list[Row]) -> None:
        for other in trained[1:]:
            a, b = (np.array(r.values["losses"][:GATED_LOSSES]) for r in (trained[0], other))
            key = self.job.key(f"{trained[0].backend} {other.backend}", stage="losses", rows=[trained[0].created, other.created])
            values = {f"losses_of_{len(a)}_steps": verdict(relative_error(b, a), TOLERANCES[self.job.dtype]["losses"])}
            self.keep("losses", "check", key, values)

    def _time(self) -> None:
        """Training and sampling steps, blocks of all backends in turn."""
        job, p = self.job, self.job.preset
        for workload, batch in (("training step", p.batch_size), ("sampling step", p.sample_batch)):
            keys = {b: job.key(b, stage="timing", workload=workload, batch_size=batch, blocks=p.blocks, beside=list(self.workers),
                               optim=p.optim.to_dict()) for b in self.workers}
            raw: dict[str, dict[str, Any]] = {b: {} for b in keys}
            if not all(self.cells.done("timing", key) for key in keys.values()):
                try:
                    raw = self._time_workload(workload, batch)
                except WorkerError as error:
                    self.missing.append(f"missing: timing of the {workload}: {error}")
                    continue
            for backend, key in keys.items():
                self.keep("timing", "timing", key, raw[backend])

    def _time_workload(self, workload: str, batch: int) -> dict[str, dict[str, Any]]:
        job = self.job
        folder = self.cells.work / "timing"
        folder.mkdir(parents=True, exist_ok=True)
        command = "time_train" if workload == "training step" else "time_sample"
        np.save(folder / "images.npy", job.dataset.images[:4096])
        contenders = {}
        for backend in self.workers:
            self._load(backend, folder, trained=workload == "sampling step")
            args: dict[str, Any] = {"batch_size": batch, "seed": job.seed}
            if command == "time_train":
                args["images"] = str(folder / "images.npy")
            contenders[backend] = partial(self._block, backend, command, args)
        with tqdm(desc=f"time the {workload}", leave=False, mininterval=1) as bar:
            def progress(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)
            raw = timing.time_blocks(contenders, blocks=job.preset.blocks, on_progress=progress)
        (folder / "images.npy").unlink()
        return {b: {**values, **self.workers[b].call("info")} for b, values in raw.items()}

    def _block(self, backend: str, command: str, args: dict[str, Any], units: int) -> float:
        return self.workers[backend].call(command, units=units, **args)["seconds"]

    def _sample(self, backend: str, steps: int, eta: float | str) -> None:
        job, p = self.job, self.job.preset
        key = job.trained_key(backend, steps, eta) | {"stage": "sample"}

        def compute(folder: Path) -> Row:
            self._load(backend, folder, trained=True)
            seconds, calls = [], 0
            first = self._draw(backend, folder / "first.npy", np.arange(p.sample_batch), min(2, steps), 0.0, spacing="leading")
            for start in range(0, p.samples, p.sample_batch):
                ids = np.arange(start, min(start + p.sample_batch, p.samples))
                part = folder / f"images-{start:06d}.npy"
                drawn = self._draw(backend, part, ids, steps, eta)
                seconds.append(drawn["seconds"])
                calls += drawn["calls"]
            parts = sorted(folder.glob("images-*.npy"))
            np.save(folder / "images.npy", np.concatenate([np.load(part) for part in parts]))
            for part in (*parts, folder / "first.npy"):
                part.unlink()
            return self.row("sample", backend, key, {"batch_seconds": seconds, "calls": calls, "images": p.samples,
                                                     "first_seconds": first["seconds"]})

        if self.cell("sample", key, compute) is not None:
            self.images[backend, steps, str(eta)] = data.to_uint8(np.load(self.cells.folder("sample", key) / "images.npy"))

    def _compare_images(self, steps: int, eta: float | str) -> None:
        have = [b for b in self.workers if (b, steps, str(eta)) in self.images]
        for other in have[1:]:
            keys = [self.job.trained_key(b, steps, eta) | {"stage": "sample"} for b in (have[0], other)]
            a, b = (np.load(self.cells.folder("sample", k) / "images.npy") for k in keys)
            gate = TOLERANCES[self.job.dtype]["images"] if steps <= GATED_STEPS else None
            key = self.job.trained_key(f"{have[0]} {other}", steps, eta) | {"stage": "images"}
            values = {"images": verdict(float(np.abs(a - b).max()), gate)}
            self.keep("images", "check", key, values)

    def _measure(self) -> None:
        """The metric of every set of images, beside its floor and ceiling for the same n."""
        job, n = self.job, self.job.preset.samples
        bounds: dict[str, Callable[[], fid.Result]] = {"real": partial(fid.floor, n, test=job.held_out),
                                                       "noise": partial(fid.ceiling, n, seed=job.seed)}
        for name, compute in bounds.items():
            self._metric({"stage": "metric", "samples": n, "seed": job.seed, "backend": name}, compute)
        for (backend, steps, eta), images in tqdm(self.images.items(), desc="metric", leave=False):
            self._metric(job.trained_key(backend, steps, eta) | {"stage": "metric"}, partial(fid.evaluate, images, seed=job.seed))

    def _metric(self, key: dict[str, Any], compute: Callable[[], fid.Result]) -> None:
        self.cell("metric", key, lambda folder: self.row("metric", key["backend"], key, dict(compute())))

    def _load(self, backend: str, folder: Path, trained: bool) -> None:
        path = folder / "weights.npz"
        np.savez(path, **(self.job.trained if trained else self.job.initial))
        self.call(backend, "load", "load", weights=str(path))
        path.unlink()

    def _forward(self, backend: str, folder: Path, x: NDArray[Any], t: NDArray[Any]) -> NDArray[Any]:
        np.savez(folder / "inputs.npz", x=x, t=t)
        self.call(backend, "forward", "forward", inputs=str(folder / "inputs.npz"), out=str(folder / "outputs.npy"))
        return np.load(folder / "outputs.npy")

    def _draw(self, backend: str, path: Path, ids: NDArray[Any], steps: int, eta: float | str, **plan: Any) -> dict[str, Any]:
        args = {"steps": steps, "eta": eta, "convention": self.job.convention, **plan}
        reply = self.call(backend, "sample", f"sample S={steps} eta={eta}", ids=[int(ids[0]), int(ids[-1]) + 1], plan=args,
                          batch_size=self.job.preset.sample_batch, seed=self.job.seed, out=str(path))
        return reply | {"images": np.load(path)}


def relative_error(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Largest |found - expected| / |expected|, absolute where expected is 0."""
    scale = np.where(expected == 0, 1.0, np.abs(expected))
    return float(np.max(np.abs(found - expected) / scale))


def verdict(error: float, tolerance: float | None) -> dict[str, Any]:
    """One comparison, as rows hold it; without a tolerance it is reported and always ok."""
    return {"error": error, "tolerance": tolerance, "ok": tolerance is None or bool(error <= tolerance)}


def with_options(preset: Preset, **options: Any) -> Preset:
    """The preset with the command line's fields; None leaves a field alone."""
    return replace(preset, **{name: value for name, value in options.items() if value is not None})
