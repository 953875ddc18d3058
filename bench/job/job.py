"""The main job: check, train, time, sample and measure on each backend, as cells.

Every stage is held against the NumPy oracle as it goes, and the backends against each other.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from backends.protocol import Spec
from bench import files
from bench.data import datasets
from bench.job import checks, measuring, sampling
from bench.metric import fmnist_cnn
from bench.metric.extractor import Extractor
from bench.presets import Preset
from bench.records import environment
from bench.records.cells import SCRATCH, Cells
from bench.records.rows import Row
from bench.sampling import parts
from bench.sampling.cell import Cell, Draw
from bench.timing import blocks
from bench.weights import pipeline
from bench.weights.tensor_files import weights_hash
from bench.workers import ray_cluster
from bench.workers.errors import Left, WorkerError, in_turn
from bench.workers.process import Worker
from bench.workers.session import plain_spec
from reference import weights as names
from reference.conventions import Plan, get_convention, make_plan


@dataclass(frozen=True)
class Job:
    """A resolved command line. `initial` are the seeded weights, `trained` those that sampling starts from."""

    preset: Preset
    initial: names.Weights
    trained: names.Weights
    cells: dict[str, tuple[Cell, ...]]  # what each backend draws; the first one's images are those that others are held against
    device: str
    dtype: str
    convention: str
    seed: int
    dataset: datasets.Dataset
    held_out: datasets.Dataset
    threads: int
    save_every: float  # seconds between training states
    timeout: float  # seconds without heartbeat or progress, after which a worker is ended
    twice: bool  # also run a training and a sampling twice
    rank: int = 0  # of this process among those of a launcher
    processes: int = 1
    fit: int = 0  # steps of training that make `trained` first; 0: it is at hand
    extractor: Extractor = field(default_factory=fmnist_cnn.extractor)  # of the metric's features

    @property
    def spec(self) -> Spec:
        """What each backend is told."""
        return Spec(self.preset.model, self.preset.diffusion, self.preset.optim, self.device, self.dtype, rank=self.rank,
                    processes=self.processes)

    @property
    def metric_device(self) -> str:
        """Where features are taken: the small network's on the CPU, which gives the same bits beside every backend."""
        return "cuda" if self.device.startswith("cuda") and self.extractor != fmnist_cnn.extractor() else "cpu"

    @property
    def backends(self) -> tuple[str, ...]:
        """The first one is what the others are compared with."""
        return tuple(self.cells)

    @property
    def all_cells(self) -> tuple[Cell, ...]:
        """Of any backend, once each."""
        return tuple(dict.fromkeys(cell for cells in self.cells.values() for cell in cells))

    @property
    def shortens(self) -> bool:
        """Whether the convention has paths of fewer than T steps."""
        return get_convention(self.convention).spacing != "all"

    def plan(self, cell: Cell) -> Plan:
        """The sampling path of one cell."""
        return make_plan(self.preset.diffusion, **cell.plan(self.convention))

    def key(self, backend: str, **more: Any) -> dict[str, Any]:
        """What decides the result of a cell."""
        p = self.preset
        return {"backend": backend, "model": p.model.to_dict(), "diffusion": p.diffusion.to_dict(), "device": self.device,
                "dtype": self.dtype, "convention": self.convention, "seed": self.seed, "threads": self.threads,
                "processes": self.processes, **more}

    def trained_key(self, backend: str, cell: Cell) -> dict[str, Any]:
        """Key of what is done with the images of a cell; `stage` names it."""
        return self.key(backend, weights=weights_hash(self.trained), samples=self.preset.samples,
                        batch_size=self.preset.sample_batch) | cell.config

    def train_key(self, backend: str) -> dict[str, Any]:
        """Key of the training cell."""
        p = self.preset
        return self.key(backend, stage="train", weights=weights_hash(self.initial), optim=p.optim.to_dict(),
                        dataset=self.dataset.sha256, train_steps=p.train_steps, batch_size=p.batch_size,
                        provenance=self.dataset.provenance)

    def drawing(self, cell: Cell) -> Draw:
        """The images of one sampling cell."""
        return Draw(self.trained, cell, self.convention, self.preset.samples, self.preset.sample_batch)


class Run:
    """One run of a job: its workers, its cells, the rows so far and what is missing. A context manager, which ends the workers."""

    def __init__(self, job: Job, cells: Cells, logs: Path, cluster: ray_cluster.Ray | None = None) -> None:
        self.job, self.cells, self.logs, self.cluster = job, cells, logs, cluster
        self.workers: dict[str, Worker] = {}
        self.rows: list[Row] = []
        self.missing: list[str] = []
        self.images: dict[tuple[str, Cell], Path] = {}  # backend, cell: the file, (n, C, H, W) float32
        self.environment = environment.describe()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers.values():
            worker.close()
        if self.cluster:
            self.cluster.close()

    def start(self, backend: str) -> None:
        """Start a backend's worker, in place of the one that it may have. Raises as `Worker.call`."""
        if backend in self.workers:
            self.workers.pop(backend).close()
        worker = self.workers[backend] = Worker(backend, plain_spec(self.job.spec), self.job.threads,
                                                self.logs / f"{backend}.log", silence=self.job.timeout)
        worker.call("create", timeout=self.job.timeout)

    def start_all(self) -> None:
        """Start every worker; one that dies leaves all its cells missing."""
        for backend in self.job.backends:
            try:
                self.start(backend)
            except WorkerError as error:
                self.workers.pop(backend).close()
                if self.job.processes > 1:
                    raise
                self.missing.append(f"missing: all cells of {backend}: {error}")

    def row(self, kind: str, backend: str, key: dict[str, Any], values: dict[str, Any]) -> Row:
        """A row of this run."""
        return Row(kind=kind, backend=backend, preset=self.job.preset.name, config=key, values=values,
                   environment=self.environment | {"load": list(os.getloadavg())}, commit=self.environment["commit"])

    def cell(self, name: str, key: dict[str, Any], compute: Callable[[Path], Row]) -> Row | None:
        """Run one cell; a worker that died leaves it missing, and the others go on.

        Of several processes none can go on: the launcher ends them, and may start all again.
        """
        def timed(folder: Path) -> Row:
            began = time.perf_counter()
            row = compute(folder)
            return replace(row, environment={"cell_seconds": round(time.perf_counter() - began, 3)} | row.environment)

        try:
            row = self.cells.run(name, key, timed)
        except WorkerError as error:
            if self.job.processes > 1:
                raise
            self.missing.append(f"missing: {name} {key['backend']}: {error}")
            return None
        self.rows.append(row)
        self.missing += row.values.get("notes", [])
        return row

    def keep(self, name: str, kind: str, key: dict[str, Any], values: dict[str, Any]) -> None:
        """A cell whose values are at hand."""
        self.cell(name, key, lambda folder: self.row(kind, key["backend"], key, values))

    def all(self, begin: Callable[[Run], None] | None = None) -> None:
        """Every stage; `begin` is called once the network to sample from is at hand."""
        if self.job.fit and not self._train_own():
            return measuring.measure(self)  # floor and ceiling
        if begin:
            begin(self)
        p = self.job.preset
        trained = [self._train(backend) for backend in self.workers if p.train_steps]  # first: processes must not wait long
        for backend in self.workers:
            checks.oracle(self, backend)
        checks.losses(self, [row for row in trained if row is not None])
        if self.job.processes == 1 and p.blocks:
            self._time()
        elif p.blocks:
            self.missing.append("single steps are not timed with several processes")
        sampling.sample(self)
        for cell in self.job.all_cells:
            checks.images(self, cell)
        if self.job.twice:
            for backend in list(self.workers):
                checks.determinism(self, backend)
        for worker in self.workers.values():
            worker.close()
        measuring.measure(self)

    def share(self) -> None:
        """What a process does that is not the first one: its share of the trainings and of the images."""
        for backend in self.workers:
            key = self.job.train_key(backend)
            if key["train_steps"] and not self.cells.done("train", key):
                self._fit(backend, self.cells.folder("train", key) / SCRATCH, key["train_steps"])
            for cell in self.job.cells[backend]:
                sampling.draw_share(self, backend, cell)

    def call(self, backend: str, command: str, stage: str, **args: Any) -> dict[str, Any]:
        """Ask a worker, with a bar where it reports progress."""
        bar = None

        def progress(done: int, total: int) -> None:
            nonlocal bar
            bar = bar or tqdm(total=total, desc=f"{stage} {backend}", leave=False, mininterval=1, disable=self.job.rank > 0)
            bar.update(done - bar.n)

        try:
            return self.workers[backend].call(command, on_progress=progress, timeout=self.job.timeout, **args)
        finally:
            if bar is not None:
                bar.close()

    def _train_own(self) -> bool:
        """Train the network to sample from, on the first backend, and keep it as a pipeline folder; whether that went well."""
        job, p = self.job, self.job.preset
        row = self._train(next(iter(self.workers)), job.fit) if self.workers else None
        if row is None:
            return False
        with np.load(self.cells.folder("train", row.config) / "weights.npz") as file:
            self.job = replace(job, trained={name: file[name] for name in file.files})
        folder = self.cells.work.parent / "checkpoints" / f"{p.name}-{job.dataset.sha256[:8]}"
        pipeline.save_pipeline(folder, self.job.trained, p.model, p.diffusion)
        self.missing.append(f"weights: trained for {job.fit} steps with {row.backend} on {job.dataset.provenance}; kept in "
                            f"checkpoints/{folder.name}")
        return True

    def _train(self, backend: str, fit: int = 0) -> Row | None:
        """The training that backends are compared by; or one of `fit` steps, whose weights are then sampled from."""
        key = self.job.train_key(backend) | ({"stage": "fit", "train_steps": fit} if fit else {})
        return self.cell("train", key, lambda folder: self.row("train", backend, key, self._fit(
            backend, folder / SCRATCH, key["train_steps"], folder / "weights.npz" if fit else None)))

    def _fit(self, backend: str, scratch: Path, steps: int, out: Path | None = None) -> dict[str, Any]:
        job, p = self.job, self.job.preset
        self.load(backend, scratch, job.initial)
        images = scratch / f"images-{job.rank}.npy"
        with files.replacing(images) as file:
            np.save(file, job.dataset.images)
        return self.call(backend, "train", "train", steps=steps, batch_size=p.batch_size, seed=job.seed,
                         images=str(images), flip=job.dataset.flip, states=str(scratch / "states"),
                         config={"backend": backend, "dataset": job.dataset.sha256}, save_every=job.save_every,
                         out=None if out is None else str(out))

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
                except Left as left:
                    self.missing.append(f"missing: timing of the {workload} {left.who}: {left}")
                    who.remove(left.who)
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
                in_turn(backend, self.load, backend, folder, job.trained if command == "time_sample" else job.initial)
                contenders[backend] = partial(in_turn, backend, self._block, backend, command, args)
            with tqdm(desc=f"time the {workload}", leave=False, mininterval=1) as bar:
                def progress(done: int, total: int) -> None:
                    bar.total = total
                    bar.update(done - bar.n)
                raw = blocks.time_blocks(contenders, blocks=job.preset.blocks, on_progress=progress)
            (folder / "images.npy").unlink()
        return {b: {**values, **in_turn(b, self.call, b, "info", "info")} for b, values in raw.items()}

    def _block(self, backend: str, command: str, args: dict[str, Any], units: int) -> float:
        return self.workers[backend].call(command, units=units, timeout=self.job.timeout, **args)["seconds"]

    def load(self, backend: str, folder: Path, weights: names.Weights) -> None:
        """Give a worker its weights, through a file in `folder`."""
        parts.load(partial(self.call, backend), folder / f"weights-{self.job.rank}.npz", weights)

    def draw(self, backend: str, path: Path, ids: NDArray[Any], cell: Cell) -> dict[str, Any]:
        """The command `sample`'s reply for sample ids `ids`, consecutive, with its `images`; `path` is a file to use."""
        reply = self.call(backend, "sample", f"sample {cell}", ids=[int(ids[0]), int(ids[-1]) + 1],
                          plan=cell.plan(self.job.convention), batch_size=self.job.preset.sample_batch, seed=cell.seed,
                          out=str(path))
        return reply | {"images": np.load(path)}


def with_options(preset: Preset, **options: Any) -> Preset:
    """The preset with the command line's fields; None leaves a field alone."""
    return replace(preset, **{name: value for name, value in options.items() if value is not None})
