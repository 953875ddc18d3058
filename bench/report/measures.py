"""What every page asks of a row."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

import backends
from bench.records.rows import AnyRow, Row
from bench.records.values import Pooled, Sample, Timing
from bench.weights.pipeline import read_pipeline
from bench.weights.tensor_files import weights_hash

LEVEL, POWER = 0.05, 0.8  # of every test: a false alarm in one of twenty; the power by which it is described
REPRODUCED, CONTRADICTED, UNKNOWN, ABSENT = "reproduced", "contradicted", "cannot tell", "not run"  # verdicts on a claim


def label(backend: str) -> str:
    """The name to show."""
    return backends.about(backend).label


def seconds_per_image(row: Row[Sample]) -> float:
    """Of a sampling row: the time of the process that drew longest, where several took the batches in turn."""
    processes = row.config.get("processes", 1)
    return max(sum(row.values["batch_seconds"][rank::processes]) for rank in range(processes)) / row.values["images"]


def calls(row: Row[Sample]) -> int:
    """Network calls for one image; DDIM and DDPM have one a step."""
    return row.values.get("calls_per_image", row.config["steps"])


def sampler(row: AnyRow) -> str:
    """The sampler of a cell's row: a fast solver has its name there."""
    return row.config.get("sampler") or ("ddpm" if row.config["eta"] == "ddpm" else "ddim")


def fast(rows: Iterable[AnyRow]) -> bool:
    """Whether a fast solver is among these rows."""
    return any("sampler" in row.config for row in rows)


def cores(environment: dict[str, Any]) -> int | None:
    """The cores that the process may use; rows from before they were written down have its affinity."""
    return environment.get("usable_cores", environment.get("affinity"))


def hardware(row: AnyRow) -> str:
    """The GPU, or the CPU and the cores that the process may use."""
    e = row.environment
    return ", ".join(e["gpu"]) if row.config["device"] != "cpu" and e.get("gpu") else f"{e.get('cpu')}, {cores(e)} cores"


def versions(row: AnyRow) -> str:
    """The packages that were installed, with their versions."""
    return ", ".join(f"{name} {version}" for name, version in row.environment.get("versions", {}).items() if version)


def stale(row: AnyRow, out: Path) -> str:
    """What to say of a study's row, named NAME or "NAME, HOW", whose images `out`/checkpoints/NAME would not draw any more.

    Empty where the row does not say whose weights drew them, or no such checkpoint is there.
    """
    drew, folder = row.config.get("weights"), out / "checkpoints" / row.config["name"].partition(", ")[0]
    if drew is None or not (folder / "model_index.json").exists():
        return ""
    now = weights_hash(read_pipeline(folder).weights)
    return "" if now == drew else f"Stale: drawn by weights {drew}; those in checkpoints/{folder.name} are {now} now."


def unit_seconds(row: Row[Timing]) -> NDArray[np.float64]:
    """Seconds of one unit in each block."""
    return np.array(row.values["block_seconds"]) / row.values["units_per_block"]


def peak_memory(row: Row[Timing]) -> int:
    """Bytes: of the contender's process, or of its device where the framework counts that."""
    return int(row.values["device"].get("peak_memory_bytes", row.values["peak_rss_bytes"]))


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """(mean, half length of its 95% interval) of independent values, by Student's t; NaN for the half of a single one."""
    n = len(values)
    if n < 2:
        return float(values.mean()), float("nan")
    return float(values.mean()), float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / n**0.5)


def paired(a: Row[Pooled], b: Row[Pooled], factor: float) -> tuple[float, float] | None:
    """FID(a) - factor * FID(b) of two cells, and its standard error: the spread over resamples of the same images in both (paired
    bootstrap, Efron & Tibshirani 1993, chapter 8). None where they are not of the same images."""
    if a.config["seeds"] != b.config["seeds"]:
        return None
    resampled = np.array(a.values["resampled"]) - factor * np.array(b.values["resampled"])
    return a.values["fid"] - factor * b.values["fid"], float(resampled.std(ddof=1))


def half(error: float, df: float = math.inf, level: float = LEVEL) -> float:
    """Half of the two-sided t interval of a mean with this standard error; normal of infinitely many degrees of freedom, NaN of
    none."""
    return float(stats.t.ppf(1 - level / 2, df)) * error if df > 0 else math.nan


def detectable(error: float, df: float = math.inf) -> float:
    """The size of a difference with this standard error that the test at `LEVEL` tells from 0 in `POWER` of all studies."""
    return half(error, df) + half(error, df, 2 * (1 - POWER))


def verdict(difference: float, half: float) -> str:
    """On the claim that a difference is below 0, from half of its interval: NaN where nothing tells."""
    if math.isnan(half):
        return ABSENT
    return REPRODUCED if difference + half < 0 else CONTRADICTED if difference - half > 0 else UNKNOWN


def verdict_on_all(found: Sequence[tuple[float, float, float]]) -> str:
    """On a claim of several comparisons, each a difference, its standard error and degrees of freedom: reproduced where every one
    is; contradicted where one is the other way at `LEVEL` divided by their number (Bonferroni); absent where one is."""
    each = {verdict(difference, half(error, df)) for difference, error, df in found}
    if ABSENT in each:
        return ABSENT
    if each == {REPRODUCED}:
        return REPRODUCED
    strict = [difference - half(error, df, LEVEL / len(found)) for difference, error, df in found]
    return CONTRADICTED if max(strict) > 0 else UNKNOWN
