"""How long one unit of work takes: warm-up, blocks of k units, interleaved contenders. No framework, no clock of its own.

A `Block` prepares its inputs untimed, runs k units, waits for the device once at the end and returns the seconds between.
Raw block times go into rows; `summary` and `bench.report.measures` derive figures from them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from reference.config import require

Block = Callable[[int], float]
LEAST_SECONDS = 0.2  # of one block
LEAST_BLOCKS = 10
GROUP = 3  # blocks of which the warm-up takes a median
AGREE = 0.05  # two consecutive medians agree within this
MAX_UNITS = 1 << 20


def calibrate(block: Block, k: int = 1, least: float = LEAST_SECONDS) -> int:
    """A k for which a block lasted at least `least` seconds, grown from the given one with a fifth in reserve."""
    while (seconds := block(k)) < least:
        require(k < MAX_UNITS, "k", k, f"a block of {k} units ends within {least} s: nothing is being timed")
        wanted = math.ceil(1.2 * k * least / seconds) if seconds > 0 else MAX_UNITS
        k = min(max(wanted, k + 1), 10 * k, MAX_UNITS)
    return k


def warm_up(block: Block, k: int, cap_seconds: float) -> tuple[list[float], bool]:
    """Block times until the medians of two consecutive groups agree within 5% (True), or `cap_seconds` are spent (False)."""
    times: list[float] = []
    while True:
        times += [block(k) for _ in range(GROUP)]
        if len(times) > GROUP:
            before, now = np.median(times[-2 * GROUP:-GROUP]), np.median(times[-GROUP:])
            if abs(now - before) <= AGREE * before:
                return times, True
        if sum(times) >= cap_seconds:
            return times, False


def time_blocks(contenders: Mapping[str, Block], first: Mapping[str, float] | None = None, *, blocks: int = LEAST_BLOCKS,
                least: float = LEAST_SECONDS, cap_seconds: float = 60.0,
                on_progress: Callable[[int, int], None] | None = None) -> dict[str, dict[str, Any]]:
    """Warm up each contender, then time them block by block in the order A B B A, so that drift hits all alike.

    `first`: the seconds of each one's first unit, where it ran already.
    Returns raw values for each contender's row: `first_seconds` (its first unit: compilation, graph building),
    `units_per_block` k, `warmup_seconds` and `block_seconds` (seconds of k units; the i-th of two contenders are neighbours in
    time), `steady` (False: the warm-up hit its cap).
    """
    require(blocks >= LEAST_BLOCKS, "blocks", blocks, f"must be at least {LEAST_BLOCKS}")
    out: dict[str, dict[str, Any]] = {}
    for name, block in contenders.items():
        began = block(1) if first is None else first[name]
        k = calibrate(block, least=least)
        warmup, steady = warm_up(block, k, cap_seconds)
        if np.median(warmup[-GROUP:]) < 1.1 * least:  # it grew faster as it warmed
            k = calibrate(block, math.ceil(1.2 * k * least / float(np.median(warmup[-GROUP:]))), least=least)
        out[name] = {"first_seconds": began, "units_per_block": k, "warmup_seconds": warmup, "steady": steady,
                     "block_seconds": []}
    for i in range(blocks):
        for name in list(out) if i % 2 == 0 else list(out)[::-1]:
            out[name]["block_seconds"].append(contenders[name](out[name]["units_per_block"]))
            if on_progress:
                on_progress(sum(len(values["block_seconds"]) for values in out.values()), blocks * len(out))
    return out


def summary(samples: ArrayLike) -> dict[str, float]:
    """Median, quartiles, minimum, mean and coefficient of variation of raw samples, for the report."""
    x = np.asarray(samples, np.float64)
    require(x.ndim == 1 and x.size > 0 and bool((np.isfinite(x) & (x > 0)).all()), "samples", x.tolist()[:8],
            "must be positive, finite and at least one")
    q1, median, q3 = np.quantile(x, (0.25, 0.5, 0.75))
    spread = x.std(ddof=1) if x.size > 1 else 0.0
    return {"median": float(median), "q1": float(q1), "q3": float(q3), "min": float(x.min()), "mean": float(x.mean()),
            "cv": float(spread / x.mean()), "n": x.size}
