"""What the DDIM paper claims about its Table 1, and whether a table of ours shows it: pure functions from measurements to verdicts.

The cells of one sample seed share x_T. Where the images of all seeds were measured together (study "pooled"), the standard error
of a difference is its spread over resamples of the same images in both cells: the bootstrap paired by image. Rows without it, and
KID, are compared seed by seed: the mean difference is held to its 95% t interval over seeds. Where two cells share one seed only,
each is taken to spread as the seeds of its eta and spacing do at the largest S up to its own that has several, and the two to be
independent.

A claim of several comparisons is reproduced where every one of them is; contradicted where one is the other way at 5% divided by
their number (Bonferroni); in between we cannot tell; not run where a cell is absent. A comparison's power is said by the difference
that it would tell from 0 in 80% of studies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bench.records.rows import Row
from bench.records.values import Pooled
from bench.report.measures import LEVEL, REPRODUCED, UNKNOWN, detectable, half, paired, verdict, verdict_on_all
from bench.report.table1_frames import PLACE, Place, published
from bench.sampling.table1 import FULL, QUAD, UNIFORM

Together = Mapping[Place, Row[Pooled]]  # of one backend, device and n
MARGIN = 0.01  # FID by which two backends may differ and still be equivalent, fixed before any measurement
EXPLODES, NEARLY = 0.5, 1.2  # at most half of; at most 1.2 times
ZERO, ONE, SIGMA_HAT = "0.0", "1.0", "sigma_hat"
SAME, DIFFERENT = "equivalent", "different"


@dataclass(frozen=True)
class Claim:
    """`pairs` of cells (a, b) of which the paper says that FID(a) < factor * FID(b)."""

    text: str
    spacing: str
    pairs: tuple[tuple[Place, Place], ...]
    factor: float = 1.0


def claims() -> list[Claim]:
    """The paper's (section 5.1 and appendix D.2), for each rule of choosing timesteps; at S = 1000 both visit all of them."""
    out = []
    for spacing in (UNIFORM, QUAD):
        def at(S: int, eta: str = ZERO, spacing: str = spacing) -> Place:
            return S, eta, UNIFORM if S == FULL else spacing

        def claim(text: str, *pairs: tuple[Place, Place], factor: float = 1.0, spacing: str = spacing) -> Claim:
            return Claim(text, spacing, pairs, factor)

        out += [
            claim("eta = 0 is the best at S = 10 and 20", *((at(S), at(S, eta)) for S in (10, 20)
                                                           for eta in ("0.2", "0.5", ONE, SIGMA_HAT))),
            claim("eta = 0 is better than eta = 1 at S = 50 and 100", *((at(S), at(S, ONE)) for S in (50, 100))),
            claim("FID falls with every larger S at eta = 0",
                  *((at(b), at(a)) for a, b in ((10, 20), (20, 50), (50, 100), (100, FULL)))),
            claim(f"sigma_hat explodes at S = 10: eta = 1 has less than {EXPLODES:g} times its FID",
                  (at(10, ONE), at(10, SIGMA_HAT)), factor=EXPLODES),
            *(claim(f"S = {S} is nearly as good as S = {FULL} at eta = 0: less than {NEARLY:g} times its FID", (at(S), at(FULL)),
                    factor=NEARLY) for S in (50, 100)),
        ]
    wins = tuple(((FULL, SIGMA_HAT, UNIFORM), (FULL, eta, UNIFORM)) for eta in (ZERO, ONE))
    helps = tuple(((S, ZERO, QUAD), (S, ZERO, UNIFORM)) for S in (10, 20))
    return [*out, Claim(f"sigma_hat is the best at S = {FULL}", "all steps", wins),
            Claim("quad spacing helps at S = 10 and 20, eta = 0", "quad, leading", helps)]


def comparisons(measured: pd.DataFrame, measure: str = "fid", together: Together | None = None) -> pd.DataFrame:
    """Every comparison of every claim, on the `table.measurements` of one backend, device and n; `together` has its pooled cells,
    which are of FID alone.

    Columns: `claim`, `spacing`, the cells `a` and `b` in words, `factor`; their means `mean_a`, `mean_b` over the seeds that both
    have; `difference`, the mean of a - factor * b, with its 95% interval `low` .. `high`, standard error `se` and degrees of
    freedom `df` (infinite for a bootstrap); `seeds`, `noise` (where se comes from), `detectable` (the difference that is told from
    0 with `POWER`) and `verdict`; `paper_a`, `paper_b`, the published values (NaN between spacings, of which the paper has one).
    """
    paper, lines = published(), []
    for claim in claims():
        for a, b in claim.pairs:
            line = compare(measured, a, b, claim.factor, measure, together)
            wide, mean = half(line["se"], line["df"]), line["difference"]
            same = a[2] == b[2] or FULL in (a[0], b[0])
            lines.append({
                "claim": claim.text, "spacing": claim.spacing, "a": _words(a), "b": _words(b), "factor": claim.factor, **line,
                "low": mean - wide, "high": mean + wide, "detectable": detectable(line["se"], line["df"]),
                "verdict": verdict(mean, wide),
                "paper_a": paper.loc[a[1], a[0]] if same else np.nan, "paper_b": paper.loc[b[1], b[0]] if same else np.nan})
    return pd.DataFrame(lines)


def compare(measured: pd.DataFrame, a: Place, b: Place, factor: float = 1.0, measure: str = "fid",
            together: Together | None = None) -> dict[str, Any]:
    """One comparison: `difference`, `se`, `df` and the rest that `comparisons` says, by images where that can be, else by seeds."""
    found = _by_images(together or {}, a, b, factor) if measure == "fid" else None
    return found or _by_seeds(measured, a, b, factor, measure)


def verdicts(compared: pd.DataFrame) -> pd.DataFrame:
    """One line for each `claim` and `spacing` of `comparisons`: its `verdict`, and how many (`shown`) `of` its comparisons alone
    are reproduced."""
    lines = []
    for (claim, spacing), each in compared.groupby(["claim", "spacing"], sort=False):
        told = verdict_on_all(list(zip(each["difference"], each["se"], each["df"], strict=True)))
        lines.append({"claim": claim, "spacing": spacing, "verdict": told, "shown": int((each["verdict"] == REPRODUCED).sum()),
                      "of": len(each)})
    return pd.DataFrame(lines)


def _by_images(together: Together, a: Place, b: Place, factor: float) -> dict[str, Any] | None:
    """A comparison by the bootstrap paired by image; None where a cell was not measured so, or not of the same images."""
    if a not in together or b not in together or (found := paired(together[a], together[b], factor)) is None:
        return None
    x, y = together[a].values, together[b].values
    return {"mean_a": x["fid"], "mean_b": y["fid"], "difference": found[0], "se": found[1], "df": math.inf,
            "seeds": len(together[a].config["seeds"]), "noise": f"{x['n']:,} paired images"}


def _by_seeds(measured: pd.DataFrame, a: Place, b: Place, factor: float, measure: str) -> dict[str, Any]:
    """A comparison by differences of seeds."""
    x, y = (_by_seed(measured, place, measure) for place in (a, b))
    d = (x - factor * y).dropna()
    se, df, noise = _noise(measured, a, b, factor, d, measure)
    return {"mean_a": x[d.index].mean(), "mean_b": y[d.index].mean(), "difference": float(d.mean()), "se": se, "df": df,
            "seeds": len(d), "noise": noise}


def equivalence(measured: pd.DataFrame, measure: str = "fid") -> pd.DataFrame:
    """Whether backends give the same figure, cell by cell, by two one-sided tests (Schuirmann 1987) on differences paired by seed.

    The first backend of an n is the one with the most cells; every other (or the same on another device) is held against it.
    "equivalent" where the 90% t interval of the mean difference (5% a side) lies within +- `MARGIN`, "different" where it lies
    wholly outside, "cannot tell" otherwise, as with one seed.
    Columns: `n`, `one`, `other`, `S`, `eta`, `spacing`, `seeds`, `difference` (other - one), `low`, `high`, `verdict`.
    """
    columns = ["n", "one", "other", "S", "eta", "spacing", "seeds", "difference", "low", "high", "verdict"]
    lines = []
    for n, of_n in measured.groupby("n"):
        contenders = of_n.groupby(["backend", "device"]).size().sort_values(ascending=False, kind="stable").index
        frames = [of_n[(of_n["backend"] == backend) & (of_n["device"] == device)] for backend, device in contenders]
        for other, (backend, device) in zip(frames[1:], contenders[1:], strict=True):
            for place, _ in other.groupby(PLACE[3:6], sort=False):
                x, y = (_by_seed(frame, place, measure) for frame in (frames[0], other))
                d = (y - x).dropna()
                if d.empty:
                    continue
                mean, wide = float(d.mean()), half(float(d.std(ddof=1)) / math.sqrt(len(d)), len(d) - 1, 2 * LEVEL)
                told = SAME if abs(mean) + wide <= MARGIN else DIFFERENT if abs(mean) - wide > MARGIN else UNKNOWN
                values = [n, " ".join(contenders[0]), f"{backend} {device}", *place, len(d), mean, mean - wide, mean + wide]
                lines.append(dict(zip(columns, [*values, told], strict=True)))
    return pd.DataFrame(lines, columns=columns)


def _by_seed(measured: pd.DataFrame, place: Place, measure: str) -> pd.Series[float]:
    S, eta, spacing = place
    found = measured[(measured["S"] == S) & (measured["eta"] == eta) & (measured["spacing"] == spacing)]
    return found.set_index("seed")[measure]


def _noise(measured: pd.DataFrame, a: Place, b: Place, factor: float, d: pd.Series[float], measure: str) -> tuple[float, int, str]:
    """Standard error of the mean of differences d, its degrees of freedom, and where it comes from. NaN where nothing tells."""
    if len(d) != 1:
        return float(d.std(ddof=1)) / math.sqrt(max(len(d), 1)), len(d) - 1, f"{len(d)} paired seeds"
    spreads = [_spread(measured, place, measure) for place in (a, b)]
    if None in spreads:
        return math.nan, 0, "one seed"
    (sd_a, df_a, S_a), (sd_b, df_b, S_b) = (s for s in spreads if s is not None)
    return math.hypot(sd_a, factor * sd_b), min(df_a, df_b), f"one seed; spread of seeds at S = {S_a} and S = {S_b}, unpaired"


def _spread(measured: pd.DataFrame, place: Place, measure: str) -> tuple[float, int, int] | None:
    """Standard deviation between seeds, degrees of freedom and S: of this cell, or of the largest smaller S with several seeds."""
    S, eta, spacing = place
    for smaller in sorted(measured.loc[measured["S"] <= S, "S"].unique(), reverse=True):
        found = _by_seed(measured, (smaller, eta, spacing), measure).dropna()
        if len(found) > 1:
            return float(found.std(ddof=1)), len(found) - 1, int(smaller)
    return None


def _words(place: Place) -> str:
    S, eta, spacing = place
    return f"S = {S}, eta = {eta.removesuffix('.0')}" + ("" if S == FULL else f", {spacing}")
