"""Rows that are made up, for kinds and studies of which results/rows may have none yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.paths import ROOT
from bench.records import rows
from reference.config import DiffusionConfig


def likelihood(totals: Mapping[str, Sequence[float]], steps: int = 10, backend: str = "torch", **config: Any) -> rows.AnyRow:
    """A row of these bits per dimension of each image, by variance."""
    n = len(next(iter(totals.values())))
    bounds = {name: {"total": list(map(float, total)), "terms": [1.0] * steps} for name, total in totals.items()}
    base = {"name": "net", "weights": "w", "images_sha256": "i", "samples": n, "seed": 0, "clip": True, "dtype": "float32",
            "device": "cpu", "steps": steps, "images": "held out", "diffusion": DiffusionConfig().to_dict()}
    return rows.Row("likelihood", backend, "likelihood of net", base | config, {
        "n": n, "timesteps": list(range(steps)), "prior": [0.0] * n, "bounds": bounds, "seconds": 1.0}, {}, "c")


def committed() -> list[rows.AnyRow]:
    """The rows of results/rows, and one that is made up of each kind and study that they lack."""
    found = rows.read(ROOT / "results" / "rows")
    there = {(row.kind, row.config.get("study")) for row in found}
    made = [likelihood({"large": [1, 2], "small": [3, 4]})]
    return found + [row for row in made if (row.kind, row.config.get("study")) not in there]
