"""What every page asks of a row."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

import backends
from bench.records.rows import AnyRow, Row
from bench.records.values import Sample, Timing
from bench.weights.pipeline import read_pipeline
from bench.weights.tensor_files import weights_hash


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
