"""x_T as the name of an image: `ddim-bench study round-trip` and `ddim-bench study same-noise`.

Song, Meng & Ermon 2021 (arXiv:2010.02502) say that the deterministic path makes of x_T a latent code of the image:

- Table 2: an image that is encoded to x_T and decoded again, with S steps each, comes back, better with every larger S.
- Figure 5: images of the same x_T are alike, however many steps draw them.
- Figure 6: the images between two x_T, interpolated on the sphere (equation 67), change smoothly.

Each beside eta = 1, DDPM's noise, for which they say that it is not so. A cell is one S; an interrupted study goes on from its
finished cells. "Alike" is a distance of features of the metric's extractor. The pages are written from rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from bench import api, files
from bench.data.datasets import Dataset
from bench.data.pixels import to_float, to_uint8
from bench.metric import fid, fmnist_cnn
from bench.paths import printable
from bench.pictures import grids
from bench.records import rows
from bench.records.cells import Cells
from bench.records.notebook import Key, Notebook
from bench.records.rows import AnyRow
from bench.report.studies import round_trip_page, same_noise_page
from bench.weights.tensor_files import weights_hash
from reference.conventions import make_encode_plan
from reference.diffusion import slerp

ETAS = (0.0, 1.0)  # DDIM, and DDPM's noise
BETWEEN, BETWEEN_STEPS = 10, 50  # parts of an interpolation, and the steps that draw it (figure 6)
SHOWN = 10  # images of a picture, the first ones
KEPT = "kept.npz"  # features of the images with eta = 0, and the first images of each eta


@dataclass(frozen=True)
class Settings:
    """What all cells of a study have in common, beside the network."""

    name: str  # of the weights, for the page
    samples: int
    seed: int
    batch_size: int


@dataclass(frozen=True)
class Study:
    """The cells of one network on one backend."""

    asked: Settings
    model: api.Model
    book: Notebook
    hashed: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "hashed", weights_hash(self.model.backend.weights(ema=True)))

    def key(self, study: str, steps: int, **more: Any) -> Key:
        """What decides the result of a cell."""
        a, s = self.asked, self.model.spec
        return {"stage": study, "study": study, "backend": self.model.name, "name": a.name, "weights": self.hashed,
                "model": s.model.to_dict(), "diffusion": s.diffusion.to_dict(), "steps": steps, "samples": a.samples,
                "seed": a.seed, "batch_size": a.batch_size, "device": s.device, "dtype": s.dtype, **more}

    def follow(self, x: api.Images, plan: Any, what: str, ids: Sequence[int] | None = None) -> api.Images:
        """`Model.follow` with the study's seed and batch."""
        return self.model.follow(x, plan, seed=self.asked.seed, batch_size=self.asked.batch_size, ids=ids, progress=what)

    def round_trip(self, steps: int, held_out: Dataset) -> None:
        """The error of held-out images that are encoded and decoded with this many steps each."""
        key = self.key("round trip", steps, images=held_out.provenance, images_sha256=held_out.sha256)

        def compute(folder: Path) -> AnyRow:
            images = to_float(held_out.images[:self.asked.samples])
            latents = self.follow(images, make_encode_plan(self.model.spec.diffusion, steps), f"encode S={steps}")
            found = {}
            for eta in ETAS:
                back = self.follow(latents, self.model.plan(steps, eta=eta), f"decode S={steps} eta={eta:g}")
                found[str(eta)] = _numbers(((back.astype(np.float64) - images) ** 2).mean((1, 2, 3)) / 4)  # [-1, 1] to [0, 1]
            return self.book.row("study", self.model.name, key, {"n": len(images), "error": found})

        self.book.cell("round-trip", key, compute)

    def same_noise(self, steps: int) -> Path:
        """How far the images of this many steps are from those of all T, of the same x_T and of the others; its cell's folder."""
        whole = self.model.spec.diffusion.timesteps
        key = self.key("same noise", steps, **self._by)

        def compute(folder: Path) -> AnyRow:
            x, found = self.model.noise(self.asked.samples, self.asked.seed), {}
            drawn = {eta: to_uint8(self.follow(x, self.model.plan(steps, eta=eta), f"S={steps} eta={eta:g}")) for eta in ETAS}
            features = {eta: fid.features(images) for eta, images in drawn.items()}
            files.savez(folder / KEPT, features=features[0.0], shown=np.stack([drawn[eta][:SHOWN] for eta in ETAS]))
            reference = features[0.0] if steps == whole else _kept(self.same_noise(whole), "features")
            for eta in ETAS:
                apart = cdist(features[eta], reference)
                own = np.diagonal(apart)
                found[str(eta)] = {"own": _numbers(own), "others": _numbers((apart.sum(1) - own) / (len(own) - 1)),
                                   "found": own_nearest(apart)}
            return self.book.row("study", self.model.name, key, {"n": len(x), "reference_steps": whole, "distance": found})

        self.book.cell("same-noise", key, compute)
        return self.book.cells.folder("same-noise", key)

    def interpolation(self) -> None:
        """How evenly images change between the x_T of image 2i and that of 2i + 1."""
        steps = min(BETWEEN_STEPS, self.model.spec.diffusion.timesteps)
        key = self.key("interpolation", steps, parts=BETWEEN, **self._by)

        def compute(folder: Path) -> AnyRow:
            x, shares = self.model.noise(self.asked.samples // 2 * 2, self.asked.seed), np.linspace(0, 1, BETWEEN + 1)
            path = np.stack([slerp(a, b, share) for a, b in zip(x[::2], x[1::2], strict=True) for share in shares])
            found = {}
            for eta in ETAS:  # at eta = 1 each point has step noise of its own
                drawn = to_uint8(self.follow(path.astype(x.dtype), self.model.plan(steps, eta=eta), f"between, eta={eta:g}"))
                features = fid.features(drawn).reshape(len(x) // 2, BETWEEN + 1, -1)
                found[str(eta)] = {"ends": _numbers(np.linalg.norm(features[:, -1] - features[:, 0], axis=-1)),
                                   "largest": _numbers(np.linalg.norm(np.diff(features, axis=1), axis=-1).max(1))}
            return self.book.row("study", self.model.name, key, {"n": len(x) // 2, "parts": BETWEEN, "distance": found})

        self.book.cell("interpolation", key, compute)

    @property
    def _by(self) -> dict[str, str]:
        by = fmnist_cnn.extractor()
        return {"extractor": by.name, "extractor_sha256": by.sha256}


def round_trip(asked: Settings, model: api.Model, steps: Sequence[int], held_out: Dataset, out: Path, fresh: bool,
               command: str) -> None:
    """The study of table 2, into the results folder `out`, whose page names `command`."""
    study = Study(asked, model, Notebook(Cells(out, fresh), f"round trip of {asked.name}"))
    for S in steps:
        study.round_trip(S, held_out)
    networks = round_trip_page.newest(rows.read(out / "rows"))
    print(round_trip_page.terminal(networks[asked.name]))
    round_trip_page.figure(networks, out / "figures" / "round-trip.png")
    print(f"\nreport: {printable(files.write_page(out / 'round-trip.md', round_trip_page.render(networks, command)))}")


def same_noise(asked: Settings, model: api.Model, steps: Sequence[int], out: Path, fresh: bool, command: str) -> None:
    """The study of figures 5 and 6, into the results folder `out`, whose page names `command`."""
    study = Study(asked, model, Notebook(Cells(out, fresh), f"same noise of {asked.name}"))
    every = sorted({*steps, model.spec.diffusion.timesteps})
    folders = {S: study.same_noise(S) for S in reversed(every)}
    study.interpolation()
    pictures = {S: _kept(folders[S], "shown") for S in every}
    shown = np.concatenate([*(pictures[S][0] for S in every), pictures[every[-1]][1]])
    grids.save_grid(out / "figures" / same_noise_page.picture(asked.name), shown, min(SHOWN, asked.samples),
                    title=f"{asked.name}: the first images of seed {asked.seed}, the same x_T in a column",
                    rows=[*(f"eta = 0, S = {S}" for S in every), f"eta = 1, S = {every[-1]}"])
    networks = same_noise_page.newest(rows.read(out / "rows"))
    print(same_noise_page.terminal(networks[asked.name]))
    print(f"\nreport: {printable(files.write_page(out / 'same-noise.md', same_noise_page.render(networks, command)))}")


def _kept(folder: Path, name: str) -> NDArray[Any]:
    with np.load(folder / KEPT) as file:
        return np.asarray(file[name])


def own_nearest(apart: NDArray[np.float64]) -> float:
    """Of distances (n, n) of images from references the share of images that are nearest to their own, which the diagonal has."""
    return float((apart.argmin(1) == np.arange(len(apart))).mean())


def _numbers(values: NDArray[np.float64]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]
