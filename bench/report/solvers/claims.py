"""What the solvers' papers claim, and whether a table of ours shows it: from rows to verdicts.

Two cells are compared by FID of the images of all seeds together, which start from the same x_T. The standard error of
a - factor * b is its standard deviation over resamples of these images, the same ones in both cells (paired bootstrap), and its 95%
interval is 1.96 standard errors to either side.

A claim is reproduced where the interval of every comparison lies below 0; contradicted where one lies above 0 at 5% divided by the
number of comparisons (Bonferroni); in between we cannot tell. A claim with a cell that is absent is not run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from bench.records.rows import Row
from bench.records.values import Pooled
from bench.report import measures
from bench.report.measures import ABSENT
from bench.sampling.solver_table import CLAIMS, Claim, Place


@dataclass(frozen=True)
class Comparison:
    """a - factor * b of two cells, with its standard error."""

    claim: Claim
    a: Place
    b: Place
    fid_a: float
    fid_b: float
    difference: float
    error: float
    n: int

    def interval(self) -> tuple[float, float]:
        """Of the difference, two-sided."""
        half = measures.half(self.error)
        return self.difference - half, self.difference + half

    @property
    def verdict(self) -> str:
        """On this comparison alone."""
        return measures.verdict(self.difference, measures.half(self.error))


def comparisons(claim: Claim, found: Mapping[Place, Row[Pooled]]) -> list[Comparison]:
    """Those whose cells are there, of the same images."""
    out = []
    for a, b in claim.pairs:
        if a in found and b in found and (told := measures.paired(found[a], found[b], claim.factor)):
            x, y = found[a].values, found[b].values
            out.append(Comparison(claim, a, b, x["fid"], y["fid"], *told, x["n"]))
    return out


def verdict(claim: Claim, compared: list[Comparison]) -> str:
    """On the whole claim."""
    if len(compared) < len(claim.pairs):
        return ABSENT
    return measures.verdict_on_all([(each.difference, each.error, math.inf) for each in compared])


def verdicts(found: Mapping[Place, Row[Pooled]]) -> list[tuple[Claim, list[Comparison], str]]:
    """Every claim with its comparisons and its verdict."""
    compared = [(claim, comparisons(claim, found)) for claim in CLAIMS]
    return [(claim, each, verdict(claim, each)) for claim, each in compared]
