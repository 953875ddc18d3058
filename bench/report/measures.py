"""What every page asks of a row."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

import backends
from bench.records import environment
from bench.records.rows import AnyRow, Row
from bench.records.values import Metric, Pooled, Sample, Timing
from bench.streams import uniform_int
from bench.timing.blocks import AGREE
from bench.weights.pipeline import read_pipeline
from bench.weights.tensor_files import weights_hash
from reference.config import require

LEVEL, POWER = 0.05, 0.8  # of every test: a false alarm in one of twenty; the power by which it is described
REPRODUCED, CONTRADICTED, UNKNOWN, ABSENT = "reproduced", "contradicted", "cannot tell", "not run"  # verdicts on a claim
LESS, SAME, MORE = "less", "no difference", "more"  # of two values, the second beside the first

NO_TIMES = "None: the machine had other work, and was not fit for times."
MOST_LOAD = 1.5  # load average by usable core: a quiet machine has up to 1.25 while it times, and up to 1 from before
MOST_FLOOR = 1.5  # how far from 1 the interval of A/A may reach; within, it says which ratios are no difference


def label(backend: str) -> str:
    """The name to show."""
    return backends.about(backend).label


def seconds_per_image(row: Row[Sample]) -> float:
    """Of a sampling row: the time of the process that drew longest, where several took the batches in turn."""
    processes = row.config.get("processes", 1)
    return max(sum(row.values["batch_seconds"][rank::processes]) for rank in range(processes)) / row.values["images"]


def fit_seconds(row: Row[Sample]) -> float:
    """`seconds_per_image`; NaN where the machine was not fit for times."""
    return math.nan if unfit([row]) else seconds_per_image(row)


def fid_text(v: Metric, digits: str = ".3f") -> str:
    """FID with its standard deviation over sets of as many images, which older rows lack."""
    return f"{v['fid']:{digits}}" + (f" ± {v['fid_sd']:.2g}" if "fid_sd" in v else "")


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
    return environment.gpus(e) if row.config["device"] != "cpu" and e.get("gpu") else f"{e.get('cpu')}, {cores(e)} cores"


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


class Ratio(NamedTuple):
    """Of two contenders' times for one unit, with its 95% interval."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} .. {self.high:.2f})"

    def inside(self, floor: float) -> bool:
        """Whether it is no difference: not further from 1 than A/A, or its interval holds 1."""
        return 1 / floor <= self.median <= floor or self.low <= 1 <= self.high


def time_ratio(a: Sequence[NDArray[np.float64]], b: Sequence[NDArray[np.float64]]) -> Ratio:
    """Of the seconds of units a to those of b, an array of neighbouring blocks for each process of a contender.

    Processes of one code differ, by where their memory lies for one: the interval of several is Student's t over them, of the
    logarithms of each one's median. That of a single process is of its blocks, and holds for that process alone.
    """
    require(len(a) == len(b) > 0, "a, b", (len(a), len(b)), "must be of as many processes each")
    each = [paired_ratio(x, y) for x, y in zip(a, b, strict=True)]
    if len(each) == 1:
        return each[0]
    middle, half = interval(np.log([ratio.median for ratio in each]))
    return Ratio(math.exp(middle), math.exp(middle - half), math.exp(middle + half))


def paired_ratio(a: ArrayLike, b: ArrayLike, *, seed: int = 0, resamples: int = 4000) -> Ratio:
    """Median of a_i / b_i with its percentile bootstrap interval (Efron 1979).

    a, b: seconds per unit of neighbouring blocks. Pairs are resampled whole, by the seeded stream, so a report is repeatable. Where
    neighbours depend on each other, the interval is as much wider as that of so many values of an AR(1) process.
    """
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    require(x.shape == y.shape and x.ndim == 1 and x.size > 0, "a, b", (x.shape, y.shape), "must pair up")
    require(bool((x > 0).all() and (y > 0).all()), "a, b", "...", "must be positive")
    ratio = x / y
    draws = uniform_int(seed, "bootstrap", np.arange(resamples * ratio.size), ratio.size).reshape(resamples, ratio.size)
    median = float(np.median(ratio))
    low, high = np.quantile(np.median(ratio[draws], axis=1), (LEVEL / 2, 1 - LEVEL / 2)) / median
    r = dependence(np.log(ratio))
    wider = math.sqrt((1 + r) / (1 - r))
    return Ratio(median, median * float(low**wider), median * float(high**wider))


def dependence(x: NDArray[np.float64]) -> float:
    """The correlation of neighbours (lag 1), 0 where the one-sided test at `LEVEL` does not tell it from independence: its mean and
    variance there are Moran's (Biometrika 35, 1948). At most 0.9."""
    n, d = x.size, x - x.mean()
    square = float(d @ d)
    if n < 4 or square <= 1e-24 * n:
        return 0.0
    r, error = float(d[1:] @ d[:-1]) / square + 1 / n, (n - 2) / (n * math.sqrt(n - 1))
    return min(r, 0.9) if r > stats.norm.ppf(1 - LEVEL) * error else 0.0


def steady(row: Row[Timing]) -> bool:
    """Whether its times were: the warm-up ended in agreement, and so do the medians of both halves of the blocks."""
    seconds = unit_seconds(row)
    before, after = (float(np.median(half)) for half in np.array_split(seconds, 2)) if len(seconds) > 1 else (1.0, 1.0)
    return row.values["steady"] and abs(after - before) <= AGREE * before


def floor(same: Iterable[Ratio]) -> float:
    """How far from 1 these ratios of a contender to itself reach, as a factor of at least 1."""
    return max((max(end, 1 / end) for ratio in same for end in ratio), default=1.0)


def unfit(rows: Iterable[AnyRow], same: Iterable[Ratio] = ()) -> str:
    """Why the machine was not fit for these times, empty where it was: its load, or the ratios of a contender to itself."""
    why = []
    loads = [(load(row), cores(row.environment) or 1) for row in rows]
    most, usable = max(loads, key=lambda found: found[0] / found[1], default=(0.0, 1))
    if most > MOST_LOAD * usable:
        why.append(f"load average {most:.1f} on {usable} cores")
    if (reach := floor(same)) > MOST_FLOOR:
        why.append(f"a contender differs from itself by up to {reach:.2f} times")
    return " and ".join(why)


def load(row: AnyRow) -> float:
    """The machine's load average over a minute: before the race where the row says it, else when the row was made."""
    return float((cast("Mapping[str, Any]", row.values).get("load_before") or row.environment.get("load") or [0.0])[0])



def ratio(a: NDArray[np.float64], b: NDArray[np.float64], *, seed: int = 0, resamples: int = 2000) -> tuple[float, float, float]:
    """Median of a over median of b, of blocks that were not taken in turn, with the percentile bootstrap's 95% interval (Efron
    1979): both are resampled on their own."""
    draws = [uniform_int(seed, "bootstrap", np.arange(resamples * len(x)), len(x), step=k).reshape(resamples, len(x))
             for k, x in enumerate((a, b))]
    ratios = np.median(a[draws[0]], axis=1) / np.median(b[draws[1]], axis=1)
    low, high = np.quantile(ratios, (LEVEL / 2, 1 - LEVEL / 2))
    return float(np.median(a) / np.median(b)), float(low), float(high)
