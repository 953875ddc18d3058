"""The variational bound of held-out images: `ddim-bench likelihood --weights FOLDER`.

One cell is a backend on a path of S steps: prior, KL terms and decoder of every image under every variance. Each backend is held to
the NumPy oracle at a few steps of a few images, and to the first backend at every image. An interrupted study goes on from its
finished cells. `likelihood.md` shows the last rows of every network.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from backends.protocol import Spec
from bench import files, messages, oracle
from bench.data.datasets import Dataset
from bench.data.pixels import to_float
from bench.paths import printable
from bench.records import rows, values
from bench.records.cells import SCRATCH, Cells
from bench.records.notebook import Key, Notebook
from bench.records.rows import AnyRow
from bench.report import results
from bench.report.studies import likelihood_page
from bench.sampling import bound
from bench.terminal import fit
from bench.weights.tensor_files import weights_hash
from bench.workers.crew import Crew
from bench.workers.errors import WorkerError
from reference import likelihood, weights

TERMS = "bound.npz"
CHECKED_IMAGES, CHECKED_STEPS = 2, 4  # that the oracle computes, too
CLIP = True  # x0_hat, as the codes of DDPM and IDDPM do when they measure
TIMEOUT = 900.0  # seconds without heartbeat or progress, then a worker is ended


@dataclass(frozen=True)
class Settings:
    """What all cells have in common, beside network and images: the first `samples` held-out ones."""

    name: str  # of the weights, for the page
    samples: int
    seed: int
    batch_size: int
    threads: int


@dataclass(frozen=True)
class Study:
    """The cells of one network, images uint8 (n, C, H, W)."""

    asked: Settings
    spec: Spec
    weights: weights.Weights
    held_out: Dataset
    crew: Crew
    book: Notebook

    @cached_property
    def weights_hash(self) -> str:
        """Of the network, as keys hold it."""
        return weights_hash(self.weights)

    def key(self, backend: str, path: bound.Path, **more: object) -> Key:
        """What decides the result of a cell."""
        a, s = self.asked, self.spec
        return {"stage": "likelihood", "backend": backend, "name": a.name, "weights": self.weights_hash, "model": s.model.to_dict(),
                "diffusion": s.diffusion.to_dict(), "steps": path.steps, "variances": list(path.processes), "clip": CLIP,
                "samples": a.samples, "images": self.held_out.provenance, "images_sha256": self.held_out.sha256, "seed": a.seed,
                "batch_size": a.batch_size, "device": s.device, "dtype": s.dtype, "threads": a.threads, **more}

    def terms(self, row: AnyRow, path: bound.Path) -> Path:
        """The file with the terms of every image of a finished cell."""
        return self.book.cells.folder("likelihood", self.key(row.backend, path)) / TERMS

    def measure(self, backend: str, path: bound.Path) -> AnyRow | None:
        """The bound of one backend on one path; None where it is left missing."""
        key = self.key(backend, path)

        def compute(folder: Path) -> AnyRow:
            images, began = folder / SCRATCH / "images.npy", time.perf_counter()
            np.save(images, self.held_out.images[:self.asked.samples])
            self.crew.load(backend, self.weights)
            asked = messages.Bound(str(images), path.steps, list(path.processes), self.asked.seed, self.asked.batch_size, CLIP,
                                   str(folder / TERMS))
            self.crew.call(backend, asked, f"S={path.steps}")
            with np.load(folder / TERMS) as file:
                prior = file["prior"]
                bounds = {name: {"total": (prior + file[f"terms/{name}"].sum(1)).tolist(),
                                 "terms": file[f"terms/{name}"].mean(0).tolist()} for name in path.processes}
            return self.book.row("likelihood", backend, key, {
                "n": len(prior), "timesteps": list(path.timesteps), "prior": prior.tolist(), "bounds": bounds,
                "seconds": time.perf_counter() - began})

        return self.book.cell("likelihood", key, compute)

    def check(self, row: AnyRow, path: bound.Path) -> None:
        """A few terms of a few images beside the oracle's."""
        key = self.key(row.backend, path, stage="likelihood check", rows=[row.created])

        def compute(folder: Path) -> AnyRow:
            n = min(CHECKED_IMAGES, self.asked.samples)
            steps = sorted({*np.linspace(0, path.steps - 1, min(CHECKED_STEPS, path.steps)).round().astype(int).tolist()})
            network = oracle.oracle_network(self.weights, self.spec)
            x0 = to_float(self.held_out.images[:n]).astype(np.float64)
            found = {}
            with np.load(self.terms(row, path)) as file:
                for name, process in path.processes.items():
                    prior, expected = likelihood.bound(process, network, x0, lambda i: bound.noise(
                        self.asked.seed, np.arange(n), x0.shape[1:], path, i), CLIP, steps)
                    error = max(oracle.bound_error(file[f"terms/{name}"][:n, steps], expected),
                                oracle.bound_error(file["prior"][:n], prior))
                    found[f"bound, variance {name}"] = oracle.verdict(error, self._tolerance)
            return self.book.row("check", f"{row.backend} oracle", key, found)

        self.book.cell("likelihood-check", key, compute)

    def compare(self, first: AnyRow, other: AnyRow, path: bound.Path) -> None:
        """The bound of every image on two backends."""
        key = self.key(f"{first.backend} {other.backend}", path, stage="likelihood check", rows=[first.created, other.created])
        with np.load(self.terms(first, path)) as a, np.load(self.terms(other, path)) as b:
            found = {f"bound, variance {name}": oracle.verdict(oracle.bound_error(
                b[f"terms/{name}"].sum(1), a[f"terms/{name}"].sum(1)), self._tolerance) for name in path.processes}
        self.book.keep("likelihood-check", "check", key, found)

    @property
    def _tolerance(self) -> float:
        return oracle.TOLERANCES[self.spec.dtype]["likelihood"]


def run(asked: Settings, spec: Spec, trained: weights.Weights, paths: Sequence[bound.Path], backends: Sequence[str],
        absent: Sequence[str], held_out: Dataset, out: Path, fresh: bool, command: str) -> int:
    """The whole study, into the results folder `out`, whose page names `command`. Returns the exit code: 0, 3 where something is
    missing, 4 where a backend disagrees."""
    book = Notebook(Cells(out, fresh), f"likelihood of {asked.name}", survives=(WorkerError,))
    book.missing += absent
    with files.temporary_folder() as logs, Crew(spec, asked.threads, logs, TIMEOUT) as crew:
        study = Study(asked, spec, trained, held_out, crew, book)
        for backend in backends:
            try:
                crew.start(backend)
            except WorkerError as error:
                book.missing.append(f"missing: all cells of {backend}: {error}")
        files.folder(out)
        for path in paths:
            done = [row for backend in crew if (row := study.measure(backend, path)) is not None]
            for row in done:
                study.check(row, path)
            for row in done[1:]:
                study.compare(done[0], row, path)
    measured = rows.of(book.rows, values.Likelihood)
    if not measured:
        print("\n".join(book.missing), file=sys.stderr)
        return 3
    print("\n".join([likelihood_page.terminal(measured), "", fit(results.check_table(book.rows), 2), *book.missing]))
    every = likelihood_page.newest(rows.read(out / "rows"))
    likelihood_page.figure(every, out / "figures" / "likelihood.png")
    print(f"\nreport: {printable(files.write_page(out / 'likelihood.md', likelihood_page.render(every, command)))}")
    if bad := results.disagreements(book.rows):
        print("\n".join(["", *bad]), file=sys.stderr)
        return 4
    return 3 if any(line.startswith("missing") for line in book.missing) else 0
