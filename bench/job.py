"""The main job: check, train, time, sample and measure on each backend, as cells.

Every stage is held against the NumPy oracle as it goes, and the backends against each other.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from backends.protocol import Spec
from bench import checks, data, environment, fid, files, timing
from bench.cells import SCRATCH, Cells
from bench.config import Preset
from bench.rows import Row
from bench.training import digest
from bench.worker import Worker, WorkerError
from reference import weights as names
from reference.conventions import Plan, make_plan


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
    timeout: float  # seconds without progress, after which a worker is taken to hang
    twice: bool  # also run a training and a sampling twice

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
    """One run of a job: its workers, its cells, the rows so far and what is missing. A context manager, which ends the workers."""

    def __init__(self, job: Job, cells: Cells, logs: Path) -> None:
        self.job, self.cells, self.logs = job, cells, logs
        self.workers: dict[str, Worker] = {}
        self.rows: list[Row] = []
        self.missing: list[str] = []
        self.images: dict[tuple[str, int, str], NDArray[np.uint8]] = {}
        self.environment = environment.describe()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers.values():
            worker.close()

    def start(self, backend: str) -> None:
        """Start a backend's worker, in place of the one that it may have. Raises as `Worker.call`."""
        if backend in self.workers:
            self.workers.pop(backend).close()
        p = self.job.preset
        spec = {"model": p.model.to_dict(), "diffusion": p.diffusion.to_dict(), "optim": p.optim.to_dict(),
                "device": self.job.device, "dtype": self.job.dtype}
        worker = self.workers[backend] = Worker(backend, spec, self.job.threads, self.logs / f"{backend}.log")
        worker.call("create", timeout=self.job.timeout)

    def start_all(self) -> None:
        """Start every worker; one that dies leaves all its cells missing."""
        for backend in self.job.backends:
            try:
                self.start(backend)
            except WorkerError as error:
                self.workers.pop(backend).close()
                self.missing.append(f"missing: all cells of {backend}: {error}")

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
        self.missing += row.values.get("notes", [])
        return row

    def keep(self, name: str, kind: str, key: dict[str, Any], values: dict[str, Any]) -> None:
        """A cell whose values are at hand."""
        self.cell(name, key, lambda folder: self.row(kind, key["backend"], key, values))

    def all(self) -> None:
        """Every stage."""
        for backend in self.workers:
            checks.oracle(self, backend)
        trained = [self._train(backend) for backend in self.workers]
        checks.losses(self, [row for row in trained if row is not None])
        self._time()
        for steps, eta in self.job.cells:
            for backend in self.workers:
                self._sample(backend, steps, eta)
            checks.images(self, steps, eta)
        if self.job.twice:
            for backend in list(self.workers):
                checks.determinism(self, backend)
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
            return self.workers[backend].call(command, on_progress=progress, timeout=self.job.timeout, **args)
        finally:
            if bar is not None:
                bar.close()

    def _train(self, backend: str) -> Row | None:
        job, p = self.job, self.job.preset
        key = job.key(backend, stage="train", weights=digest(job.initial), optim=p.optim.to_dict(), dataset=job.dataset.sha256,
                      train_steps=p.train_steps, batch_size=p.batch_size, provenance=job.dataset.provenance)

        def compute(folder: Path) -> Row:
            scratch = folder / SCRATCH
            self.load(backend, scratch, job.initial)
            with files.replacing(scratch / "images.npy") as file:
                np.save(file, job.dataset.images)
            values = self.call(backend, "train", "train", steps=p.train_steps, batch_size=p.batch_size, seed=job.seed,
                               images=str(scratch / "images.npy"), flip=job.dataset.flip, states=str(scratch / "states"),
                               config={"backend": backend, "dataset": job.dataset.sha256}, save_every=job.save_every)
            return self.row("train", backend, key, values)

        return self.cell("train", key, compute)

    def _time(self) -> None:
        """Training and sampling steps, blocks of all backends in turn. One that dies is left out, and the others timed again."""
        job, p = self.job, self.job.preset
        for workload, batch in (("training step", p.batch_size), ("sampling step", p.sample_batch)):
            who = list(self.workers)
            while who:
                keys = {b: job.key(b, stage="timing", workload=workload, batch_size=batch, blocks=p.blocks, beside=who,
                                   optim=p.optim.to_dict()) for b in who}
                raw: dict[str, dict[str, Any]] = {b: {} for b in who}
                try:
                    if not all(self.cells.done("timing", key) for key in keys.values()):
                        raw = self._time_workload(workload, batch, who)
                except _Left as error:
                    self.missing.append(f"missing: timing of the {workload} {error.backend}: {error}")
                    who.remove(error.backend)
                    continue
                for backend, key in keys.items():
                    self.keep("timing", "timing", key, raw[backend])
                break

    def _time_workload(self, workload: str, batch: int, who: Iterable[str]) -> dict[str, dict[str, Any]]:
        job = self.job
        command = "time_train" if workload == "training step" else "time_sample"
        with self.cells.shared("timing") as folder:
            with files.replacing(folder / "images.npy") as file:
                np.save(file, job.dataset.images[:4096])
            contenders = {}
            for backend in who:
                args: dict[str, Any] = {"batch_size": batch, "seed": job.seed}
                if command == "time_train":
                    args["images"] = str(folder / "images.npy")
                self._in_turn(backend, self.load, folder, job.trained if command == "time_sample" else job.initial)
                contenders[backend] = partial(self._in_turn, backend, self._block, command, args)
            with tqdm(desc=f"time the {workload}", leave=False, mininterval=1) as bar:
                def progress(done: int, total: int) -> None:
                    bar.total = total
                    bar.update(done - bar.n)
                raw = timing.time_blocks(contenders, blocks=job.preset.blocks, on_progress=progress)
        return {b: {**values, **self._in_turn(b, self.call, "info", "info")} for b, values in raw.items()}

    def _in_turn(self, backend: str, do: Callable[..., Any], *args: Any) -> Any:
        """`do(backend, ..)`, and which backend it was where that fails."""
        try:
            return do(backend, *args)
        except WorkerError as error:
            raise _Left(backend, error) from error

    def _block(self, backend: str, command: str, args: dict[str, Any], units: int) -> float:
        return self.workers[backend].call(command, units=units, timeout=self.job.timeout, **args)["seconds"]

    def _sample(self, backend: str, steps: int, eta: float | str) -> None:
        job, p = self.job, self.job.preset
        key = job.trained_key(backend, steps, eta) | {"stage": "sample"}

        def compute(folder: Path) -> Row:
            scratch, first = folder / SCRATCH, None
            for start in range(0, p.samples, p.sample_batch):
                part = scratch / f"images-{start:06d}.npz"
                if part.exists():  # drawn by a run that was interrupted
                    continue
                if first is None:
                    self.load(backend, scratch, job.trained)
                    first = self.draw(backend, scratch / "first.npy", np.arange(p.sample_batch), min(2, steps), 0.0,
                                      spacing="leading")["seconds"]
                ids = np.arange(start, min(start + p.sample_batch, p.samples))
                drawn = self.draw(backend, scratch / "drawn.npy", ids, steps, eta) | {"first_seconds": first}
                with files.replacing(part) as file:
                    np.savez(file, **drawn)
            parts = [_read_part(path) for path in sorted(scratch.glob("images-*.npz"))]
            with files.replacing(folder / "images.npy") as file:
                np.save(file, np.concatenate([part["images"] for part in parts]))
            return self.row("sample", backend, key, {
                "batch_seconds": [float(part["seconds"]) for part in parts], "calls": sum(int(part["calls"]) for part in parts),
                "images": p.samples, "first_seconds": float(parts[-1]["first_seconds"]),
                "notes": [note for part in parts for note in part["notes"].tolist()]})

        if self.cell("sample", key, compute) is not None:
            self.images[backend, steps, str(eta)] = data.to_uint8(np.load(self.cells.folder("sample", key) / "images.npy"))

    def _measure(self) -> None:
        """The metric of every set of images, beside its floor and ceiling for the same n."""
        job, n = self.job, self.job.preset.samples
        of = {"stage": "metric", "reference": job.dataset.sha256, "held_out": job.held_out.sha256}
        bounds: dict[str, Callable[[], fid.Result]] = {"real": partial(fid.floor, n, job.dataset, test=job.held_out),
                                                       "noise": partial(fid.ceiling, n, job.dataset, seed=job.seed)}
        for name, compute in bounds.items():
            self._metric(of | {"samples": n, "seed": job.seed, "backend": name}, compute)
        for (backend, steps, eta), images in tqdm(self.images.items(), desc="metric", leave=False):
            self._metric(job.trained_key(backend, steps, eta) | of, partial(fid.evaluate, images, job.dataset, seed=job.seed))

    def _metric(self, key: dict[str, Any], compute: Callable[[], fid.Result]) -> None:
        self.cell("metric", key, lambda folder: self.row("metric", key["backend"], key, dict(compute())))

    def load(self, backend: str, folder: Path, weights: names.Weights) -> None:
        """Give a worker its weights, through a file in `folder`."""
        path = folder / "weights.npz"
        with files.replacing(path) as file:
            np.savez(file, **weights)
        self.call(backend, "load", "load", weights=str(path))
        path.unlink()

    def draw(self, backend: str, path: Path, ids: NDArray[Any], steps: int, eta: float | str, **plan: Any) -> dict[str, Any]:
        """The command `sample`'s reply for sample ids `ids`, consecutive, with its `images`; `path` is a file to use."""
        args = {"steps": steps, "eta": eta, "convention": self.job.convention, **plan}
        reply = self.call(backend, "sample", f"sample S={steps} eta={eta}", ids=[int(ids[0]), int(ids[-1]) + 1], plan=args,
                          batch_size=self.job.preset.sample_batch, seed=self.job.seed, out=str(path))
        return reply | {"images": np.load(path)}


class _Left(WorkerError):
    """The backend that could not go on while several were at work."""

    def __init__(self, backend: str, error: WorkerError) -> None:
        super().__init__(str(error))
        self.backend = backend


def _read_part(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise files.FileError(f"{path}: damaged: {error}; remove it to draw its images again") from None


def with_options(preset: Preset, **options: Any) -> Preset:
    """The preset with the command line's fields; None leaves a field alone."""
    return replace(preset, **{name: value for name, value in options.items() if value is not None})
