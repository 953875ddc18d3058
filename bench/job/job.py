"""What the main job is asked to do, and the keys by which its finished cells are found again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import backends
from backends.protocol import Spec
from bench import oracle
from bench.data.datasets import Dataset
from bench.metric import fmnist_cnn, inception
from bench.metric.extractor import Extractor
from bench.presets import Preset
from bench.records.agenda import Ahead
from bench.records.cells import Cells
from bench.records.notebook import Key
from bench.sampling.cell import Cell, Draw, plan_of
from bench.timing import flops
from bench.weights.tensor_files import weights_hash
from reference import weights as names
from reference.conventions import Plan, get_convention
from reference.solver_plans import SolverPlan, base

Images = dict[tuple[str, Cell], Path]  # of a backend's cell: the file, (n, C, H, W) float32

WORKLOADS = ("training step", "sampling step")  # that are timed, of all backends in turn
GATED_STEPS = 100  # above it, the images of two backends are compared and reported without a verdict


@dataclass(frozen=True)
class Job:
    """A resolved command line. `initial` are the seeded weights, `trained` those that sampling starts from."""

    preset: Preset
    initial: names.Weights
    trained: names.Weights
    cells: dict[str, tuple[Cell, ...]]  # what each backend draws; the others are compared with the first one's images
    device: str
    dtype: str
    convention: str
    seed: int
    dataset: Dataset
    held_out: Dataset
    threads: int
    save_every: float  # seconds between training states
    timeout: float  # seconds without heartbeat or progress, after which a worker is ended
    twice: bool  # also run a training and a sampling twice
    rank: int = 0  # of this process among those of a launcher
    processes: int = 1
    fit: int = 0  # steps of training that make `trained` first; 0: it is given
    extractor: Extractor = field(default_factory=fmnist_cnn.extractor)  # of the metric's features
    choices: Key = field(default_factory=dict)  # of sampling, beside the cells' and the convention's: arguments of `make_plan`
    measured: bool = True  # by the metric; False: only drawn and compared

    @property
    def spec(self) -> Spec:
        """What each backend is given."""
        return Spec(self.preset.model, self.preset.diffusion, self.preset.optim, self.device, self.dtype, rank=self.rank,
                    processes=self.processes)

    @property
    def metric_device(self) -> str:
        """Where features are taken: those of small networks on the CPU, which gives the same bits beside every backend."""
        return "cuda" if self.device.startswith("cuda") and self.extractor.name == inception.NAME else "cpu"

    @property
    def backends(self) -> tuple[str, ...]:
        """The first one is what the others are compared with."""
        return tuple(self.cells)

    def trains(self, backend: str) -> bool:
        """Whether the training by which backends are compared is this one's, too."""
        return self.preset.train_steps > 0 and backends.trains(backend)

    def times(self, backend: str, workload: str) -> bool:
        """Whether this backend is timed on it: a training step has to be its own."""
        return self.preset.blocks > 0 and (workload != WORKLOADS[0] or backends.trains(backend))

    @property
    def all_cells(self) -> tuple[Cell, ...]:
        """Of any backend, once each."""
        return tuple(dict.fromkeys(cell for cells in self.cells.values() for cell in cells))

    @property
    def shortens(self) -> bool:
        """Whether the convention has paths of fewer than T steps."""
        return get_convention(base(self.convention)).spacing != "all"

    @cached_property
    def initial_hash(self) -> str:
        """Of `initial`, as keys hold it."""
        return weights_hash(self.initial)

    @cached_property
    def trained_hash(self) -> str:
        """Of `trained`, as keys hold it."""
        return weights_hash(self.trained)

    def plan(self, cell: Cell) -> Plan | SolverPlan:
        """The sampling path of one cell."""
        return plan_of(self.preset.diffusion, self.draw(cell).plan)

    def compared(self, cell: Cell) -> Cell:
        """The cell whose path is held to the oracle in this one's place: a shorter one where this one is long."""
        return replace(cell, steps=oracle.STEPS) if cell.steps > GATED_STEPS and self.shortens else cell

    def draw(self, cell: Cell) -> Draw:
        """What decides the images of one cell."""
        return Draw(self.trained, cell, self.convention, self.preset.samples, self.preset.sample_batch, self.choices)

    def alike(self, cells: Iterable[Cell]) -> list[list[Cell]]:
        """These cells by sampler, eta and spacing, those of fewest steps first: one of each is held to the oracle."""
        found: dict[tuple[str | None, ...], list[Cell]] = {}
        for cell in sorted(cells, key=lambda cell: cell.steps):
            found.setdefault((cell.sampler, str(cell.eta), cell.spacing), []).append(cell)
        return list(found.values())

    def agenda(self, cells: Cells, table: bool) -> list[Ahead]:
        """What `bench.job.run` has to do, in its order; of a table also its budget."""
        p, out = self.preset, []
        passes = flops.TRAINING * p.batch_size
        if self.fit:
            first = self.backends[0]
            out.append(Ahead("train", first, f"{first}: train the network to sample from", passes * self.fit, {"stage": "fit"}))
        if table:
            out.append(Ahead("budget", " ".join(self.backends), "predict what the table costs"))
        out += [Ahead("train", b, f"{b}: train {p.train_steps} steps", passes * p.train_steps, {"stage": "train"},
                      cells.done("train", self.train_key(b))) for b in self.backends if self.trains(b)]
        out += [Ahead("oracle", b, f"{b}: hold one step to the oracle") for b in self.backends]
        if p.blocks and self.processes == 1:
            out += [Ahead("timing", "", f"time the {name}", 0, {"workload": name}) for name in WORKLOADS
                    if any(self.times(b, name) for b in self.backends)]
            out += [Ahead("timed", b, f"{b}: check what was timed") for b in self.backends]
        who = [(b, cell) for cell in self.all_cells for b in self.backends if cell in self.cells[b]]
        out += [Ahead("sample", b, f"{b}: sample {cell}", p.samples * self.plan(cell).steps, cell.config,
                      cells.done("sample", self.sample_key(b, cell))) for b, cell in who]
        out += [Ahead("path", f"{b} oracle", f"{b}: hold {each[0]} to the oracle", 0, each[0].config)
                for b in self.backends for each in self.alike(self.cells[b])]
        if self.twice:
            out += [Ahead("determinism", b, f"{b}: do it twice") for b in self.backends]
        if self.measured:
            out += [Ahead("metric", name, f"measure {what}", 0, {}, cells.done("metric", self.bound_key(name)))
                    for name, what in (("real", "real images"), ("noise", "noise"))]
            out += [Ahead("metric", b, f"{b}: measure {cell}", 0, cell.config, cells.done("metric", self.metric_key(b, cell)))
                    for b, cell in who]
        return out

    def key(self, backend: str, **more: Any) -> Key:
        """What decides the result of a cell."""
        p = self.preset
        return {"backend": backend, "model": p.model.to_dict(), "diffusion": p.diffusion.to_dict(), "device": self.device,
                "dtype": self.dtype, "convention": self.convention, "seed": self.seed, "threads": self.threads,
                "processes": self.processes, **more}

    def train_key(self, backend: str) -> Key:
        """Of the training by which backends are compared."""
        p = self.preset
        return self.key(backend, stage="train", weights=self.initial_hash, optim=p.optim.to_dict(), dataset=self.dataset.sha256,
                        train_steps=p.train_steps, batch_size=p.batch_size, provenance=self.dataset.provenance)

    def choices_key(self, *cells: Cell) -> Key:
        """`choices`, where they change a path of these cells; other cells keep their keys."""
        if not self.choices:
            return {}
        changed = any(self.plan(cell) != plan_of(self.preset.diffusion, cell.plan(self.convention)) for cell in cells)
        return {"choices": self.choices} if changed else {}

    def images_key(self, backend: str, cell: Cell, **more: Any) -> Key:
        """Of what is done with the images of a cell; `stage` names it."""
        return self.key(backend, weights=self.trained_hash, samples=self.preset.samples,
                        batch_size=self.preset.sample_batch) | cell.config | self.choices_key(cell) | more

    def sample_key(self, backend: str, cell: Cell) -> Key:
        """Of a sampling cell."""
        return self.images_key(backend, cell, stage="sample")

    def metric_key(self, backend: str, cell: Cell) -> Key:
        """Of the metric of a sampling cell."""
        return self.images_key(backend, cell, **self._references)

    def bound_key(self, name: str) -> Key:
        """Of the metric's floor ("real") or ceiling ("noise")."""
        return self._references | {"samples": self.preset.samples, "seed": self.seed, "backend": name}

    @property
    def _references(self) -> Key:
        return {"stage": "metric", "reference": self.dataset.sha256, "held_out": self.held_out.sha256,
                "extractor": self.extractor.name, "extractor_sha256": self.extractor.sha256}
