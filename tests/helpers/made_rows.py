"""Rows that are made up, for kinds and studies of which results/rows may have none yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from bench.paths import ROOT
from bench.records import rows
from reference.config import DiffusionConfig


def likelihood(totals: Mapping[str, Sequence[float]], steps: int = 10, backend: str = "torch", **config: Any) -> rows.AnyRow:
    """A row of these bits per dimension of each image, by variance."""
    n = len(next(iter(totals.values())))
    bounds = {name: {"total": list(map(float, total)), "terms": [1.0] * steps} for name, total in totals.items()}
    base = {"name": "net", "weights": "w", "images_sha256": "i", "samples": n, "seed": 0, "clip": True, "dtype": "float32",
            "device": "cpu", "steps": steps, "images": "held out", "diffusion": DiffusionConfig().to_dict(), "model": {}}
    return rows.Row("likelihood", backend, "likelihood of net", base | config, {
        "n": n, "timesteps": list(range(steps)), "prior": [0.0] * n, "bounds": bounds, "seconds": 1.0}, {}, "c")


def latents(study: str, values: Mapping[str, Any], **config: Any) -> rows.AnyRow:
    """A row of one of the studies of x_T."""
    base = {"study": study, "name": "net", "weights": "w", "samples": 3, "seed": 0, "dtype": "float32", "device": "cpu",
            "steps": 10, "images": "held out", "images_sha256": "i", "extractor": "e", "extractor_sha256": "h"}
    return rows.Row("study", "torch", "p", base | config, dict(values), {}, "c")


def round_trip(by_eta: Mapping[str, Sequence[float]], **config: Any) -> rows.AnyRow:
    """A row of these errors of each image."""
    return latents("round trip", {"n": len(by_eta["0.0"]), "error": {eta: list(x) for eta, x in by_eta.items()}}, **config)


def same_noise(own: Mapping[str, Sequence[float]], others: float = 4.0, **config: Any) -> rows.AnyRow:
    """A row of these distances of each image from its own, by eta."""
    apart = {eta: {"own": list(x), "others": [others] * len(x), "found": 1.0} for eta, x in own.items()}
    return latents("same noise", {"n": len(own["0.0"]), "reference_steps": 1000, "distance": apart}, **config)


def interpolation(largest: Mapping[str, Sequence[float]], ends: float = 4.0, **config: Any) -> rows.AnyRow:
    """A row of these largest parts of each way, by eta."""
    ways = {eta: {"ends": [ends] * len(x), "largest": list(x)} for eta, x in largest.items()}
    return latents("interpolation", {"n": len(largest["0.0"]), "parts": 10, "distance": ways}, **config)


@cache
def committed() -> list[rows.AnyRow]:
    """The rows of results/rows, and one that is made up of each kind and study that they lack. Read once: it takes seconds."""
    found = rows.read(ROOT / "results" / "rows")
    there = {(row.kind, row.config.get("study")) for row in found}
    three = {"0.0": [1.0, 1.1, 1.2], "1.0": [3.0, 3.1, 3.2]}
    made = [likelihood({"large": [1, 2], "small": [3, 4]}), round_trip(three), same_noise(three), interpolation(three)]
    return found + [row for row in made if (row.kind, row.config.get("study")) not in there]
