"""What the DDIM paper claims about its Table 1, and whether a table of ours shows it: pure functions from measurements to verdicts.

The cells of one sample seed share x_T, so differences are taken seed by seed, and their mean is held to its two-sided 95% t
interval over seeds. Where two cells share one seed only, each is taken to spread as the seeds of its eta and spacing do at the
largest S up to its own that has several, and the two to be independent.

A claim of several comparisons is reproduced where every one of them is; not reproduced where one is the other way at 5% divided by
their number (Bonferroni); within noise in between; not run where a cell is absent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from bench.report.table1_frames import PLACE, published
from bench.sampling.table1 import FULL, QUAD, UNIFORM

Place = tuple[int, str, str]  # S, eta, spacing, as measurements hold them
LEVEL = 0.05
EXPLODES, NEARLY = 0.5, 1.2  # at most half of; at most 1.2 times
ZERO, ONE, SIGMA_HAT = "0.0", "1.0", "sigma_hat"
REPRODUCED, OPPOSITE, NOISE, ABSENT = "reproduced", "not reproduced", "within noise", "not run"
SAME, DIFFERENT, UNKNOWN = "equivalent", "different", "cannot say"


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


def comparisons(measured: pd.DataFrame, measure: str = "fid") -> pd.DataFrame:
    """Every comparison of every claim, on the `table.measurements` of one backend, device and n.

    Columns: `claim`, `spacing`, the cells `a` and `b` in words, `factor`; their means `mean_a`, `mean_b` over the seeds that both
    have; `difference`, the mean of a - factor * b, with its 95% interval `low` .. `high`, standard error `se` and degrees of
    freedom `df`; `seeds`, `noise` (where se comes from) and `verdict`; `paper_a`, `paper_b`, the published values (NaN between
    spacings, of which the paper has one).
    """
    paper, lines = published(), []
    for claim in claims():
        for a, b in claim.pairs:
            x, y = (_by_seed(measured, place, measure) for place in (a, b))
            d = (x - claim.factor * y).dropna()
            se, df, noise = _noise(measured, a, b, claim.factor, d, measure)
            half = _half(se, df, LEVEL)
            mean = float(d.mean())
            same = a[2] == b[2] or FULL in (a[0], b[0])
            lines.append({
                "claim": claim.text, "spacing": claim.spacing, "a": _words(a), "b": _words(b), "factor": claim.factor,
                "mean_a": x[d.index].mean(), "mean_b": y[d.index].mean(),
                "difference": mean, "low": mean - half, "high": mean + half, "se": se, "df": df, "seeds": len(d), "noise": noise,
                "verdict": _verdict(mean, half),
                "paper_a": paper.loc[a[1], a[0]] if same else np.nan, "paper_b": paper.loc[b[1], b[0]] if same else np.nan})
    return pd.DataFrame(lines)


def verdicts(compared: pd.DataFrame) -> pd.DataFrame:
    """One line for each `claim` and `spacing` of `comparisons`: its `verdict`, and how many (`shown`) `of` its comparisons alone
    are reproduced."""
    lines = []
    for (claim, spacing), each in compared.groupby(["claim", "spacing"], sort=False):
        opposite = [difference - _half(se, df, LEVEL / len(each)) > 0
                    for difference, se, df in zip(each["difference"], each["se"], each["df"], strict=True)]
        if (each["verdict"] == ABSENT).any():
            verdict = ABSENT
        elif (each["verdict"] == REPRODUCED).all():
            verdict = REPRODUCED
        else:
            verdict = OPPOSITE if any(opposite) else NOISE
        lines.append({"claim": claim, "spacing": spacing, "verdict": verdict, "shown": int((each["verdict"] == REPRODUCED).sum()),
                      "of": len(each)})
    return pd.DataFrame(lines)


def equivalence(measured: pd.DataFrame, measure: str = "fid") -> pd.DataFrame:
    """Whether backends give the same figure, cell by cell, by two one-sided tests (Schuirmann 1987) on differences paired by seed.

    The first backend of an n is the one with the most cells; every other (or the same on another device) is held against it. The
    margin is the standard deviation between the first one's seeds. "equivalent" where the 90% t interval of the mean difference (5%
    a side) lies within +- margin, "different" where it lies wholly outside, "cannot say" otherwise, as with one seed.
    Columns: `n`, `one`, `other`, `S`, `eta`, `spacing`, `seeds`, `difference` (other - one), `low`, `high`, `margin`, `verdict`.
    """
    columns = ["n", "one", "other", "S", "eta", "spacing", "seeds", "difference", "low", "high", "margin", "verdict"]
    lines = []
    for n, of_n in measured.groupby("n"):
        contenders = of_n.groupby(["backend", "device"]).size().sort_values(ascending=False, kind="stable").index
        frames = [of_n[(of_n["backend"] == backend) & (of_n["device"] == device)] for backend, device in contenders]
        for other, (backend, device) in zip(frames[1:], contenders[1:], strict=True):
            for place, _ in other.groupby(PLACE[3:6], sort=False):
                x, y = (_by_seed(frame, place, measure) for frame in (frames[0], other))
                d, margin = (y - x).dropna(), float(x.std(ddof=1))
                if d.empty:
                    continue
                mean, half = float(d.mean()), _half(float(d.std(ddof=1)) / math.sqrt(len(d)), len(d) - 1, 2 * LEVEL)
                verdict = SAME if abs(mean) + half <= margin else DIFFERENT if abs(mean) - half > margin else UNKNOWN
                values = [n, " ".join(contenders[0]), f"{backend} {device}", *place, len(d), mean, mean - half, mean + half, margin]
                lines.append(dict(zip(columns, [*values, verdict], strict=True)))
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


def _half(se: float, df: int, level: float) -> float:
    """Half of the two-sided t interval; NaN without degrees of freedom."""
    return float(stats.t.ppf(1 - level / 2, df)) * se if df > 0 else math.nan


def _verdict(mean: float, half: float) -> str:
    if math.isnan(half):
        return ABSENT
    return REPRODUCED if mean + half < 0 else OPPOSITE if mean - half > 0 else NOISE


def _words(place: Place) -> str:
    S, eta, spacing = place
    return f"S = {S}, eta = {eta.removesuffix('.0')}" + ("" if S == FULL else f", {spacing}")
