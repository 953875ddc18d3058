"""Claims that are tested image by image: every comparison is a mean of one value an image, which the claim says to be below 0."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.report.measures import LEVEL, POWER, REPRODUCED, detectable, half, interval, verdict, verdict_on_all
from bench.terminal import fit

READING = (
    f"Each comparison is a mean over images, each beside itself, with its {1 - LEVEL:.0%} interval by Student's t; the claim says "
    "that it is below 0. Reproduced: the interval lies below 0. Contradicted: it lies above. Cannot tell: neither. *Told in "
    f"{POWER:.0%}*, the power: the size that this test tells from 0 in {POWER:.0%} of studies. A claim is reproduced where all "
    f"its comparisons are, and contradicted where one is the other way at {LEVEL:.0%} / (their number).")


@dataclass(frozen=True)
class Claim:
    """What a paper says of images: that the mean of `values` is below 0, in every comparison by its name."""

    text: str
    values: dict[str, NDArray[np.float64]]

    @property
    def tests(self) -> list[tuple[float, float, float]]:
        """Of each comparison: the mean, its standard error and degrees of freedom."""
        return [(float(v.mean()), float(v.std(ddof=1)) / len(v) ** 0.5 if len(v) > 1 else np.nan, len(v) - 1)
                for v in self.values.values()]

    @property
    def verdict(self) -> str:
        """On all comparisons together."""
        return verdict_on_all(self.tests)


def summary(claims: list[Claim]) -> pd.DataFrame:
    """One line a claim: `claim`, `verdict`, `comparisons` that are reproduced alone, of all."""
    alone = [[verdict(mean, half(error, df)) for mean, error, df in c.tests] for c in claims]
    return pd.DataFrame([{"claim": c.text, "verdict": c.verdict, "comparisons": f"{each.count(REPRODUCED)} of {len(each)}"}
                         for c, each in zip(claims, alone, strict=True)])


def detail(claims: list[Claim]) -> pd.DataFrame:
    """One line a comparison, as people read it."""
    return pd.DataFrame([{
        "claim": c.text, "comparison": name, "n": f"{df + 1:,}", "mean": f"{mean:+.3g} ± {half(error, df):.2g}",
        f"told in {POWER:.0%}": f"{detectable(error, df):.2g}", "verdict": verdict(mean, half(error, df))}
        for c in claims for name, (mean, error, df) in zip(c.values, c.tests, strict=True)])


def mean(values: NDArray[np.float64]) -> str:
    """A mean and half of its 95% interval."""
    middle, spread = interval(values)
    return f"{middle:.3g} ± {spread:.1g}"


def terminal(table: pd.DataFrame, claims: list[Claim]) -> str:
    """A network's table and the verdicts, as the command prints them."""
    told = summary(claims)
    return "\n".join([fit(table),
                      *(f"{line.verdict}: {line.claim} ({line.comparisons})" for line in told.itertuples())])


def section(claims: list[Claim]) -> list[str]:
    """The claims on a Markdown page."""
    told = summary(claims).assign(verdict=lambda frame: frame["verdict"].map("**{}**".format))
    return [told.to_markdown(index=False, disable_numparse=True), "", READING, "",
            detail(claims).to_markdown(index=False, disable_numparse=True)]
