"""The sections of `report.html` that come from the rows of one table: claims, cells, curves, equivalence, floor and ceiling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from bench.paths import command_line
from bench.pictures import svg
from bench.pictures.svg import Series
from bench.records.rows import AnyRow, of
from bench.records.values import Metric
from bench.report import measures, table1_claims, table1_frames, table1_page
from bench.report.html.parts import BARS, STAR, Figure, Section, Table, interval, plain, seeds
from bench.report.measures import label
from bench.sampling import table1

SPACINGS = {table1.UNIFORM: "uniform", table1.QUAD: "quad"}
BOUNDS = {"floor": "floor: real images", "ceiling": "ceiling: noise"}
ETAS = [str(eta) for eta in table1.ETAS]  # one colour each


@dataclass(frozen=True)
class Grid:
    """The cells that may be compared: one device, one number of images n."""

    measured: pd.DataFrame  # of `table.measurements`
    stats: pd.DataFrame  # of `table.statistics`
    bounds: dict[str, float]  # floor and ceiling of this n
    names: dict[str, str]  # of the measures, with the extractor
    device: str
    n: int
    preset: str
    source: str  # n, seeds, extractor and its hash, for captions
    together: table1_claims.Together  # the images of all seeds of the first backend's cells

    @property
    def metric(self) -> str:
        """FID with its extractor."""
        return self.names["fid"]

    @property
    def backends(self) -> list[str]:
        """The one with most cells first."""
        return self.stats["backend"].value_counts().index.tolist()

    def of(self, backend: str, spacing: str, eta: str | None = None) -> pd.DataFrame:
        """The lines of `stats` of these cells, by S; without `eta` of all. S = T is of either spacing: both visit all steps."""
        s = self.stats
        chosen = (s["backend"] == backend) & ((s["spacing"] == spacing) | (s["S"] == table1.FULL))
        return s[chosen if eta is None else chosen & (s["eta"] == eta)].sort_values("S")

    def lines(self, backend: str, spacing: str) -> list[tuple[int, str, pd.DataFrame]]:
        """(colour, eta, cells) of each eta that was drawn."""
        return [(k, plain(eta), part) for k, eta in enumerate(ETAS) if len(part := self.of(backend, spacing, eta))]

    def verdicts(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Comparisons and verdicts of `table_claims`, for the first backend."""
        compared = table1_claims.comparisons(self.measured[self.measured["backend"] == self.backends[0]], together=self.together)
        return compared, table1_claims.verdicts(compared)


def grids(found: list[AnyRow]) -> list[Grid]:
    """Of the rows of one table, the largest first."""
    out, bounds = [], table1_frames.bounds(found)
    device: Any
    n: Any
    for (device, n), measured in table1_frames.measurements(found).groupby(["device", "n"]):
        stats = table1_frames.statistics(measured)
        least, most = stats["seeds"].min(), stats["seeds"].max()
        source = f"n = {n:,} images, {'' if least == most else f'{least} to '}{seeds(most)} a cell. {extractor(found)}"
        of_n = bounds[bounds["n"] == n]
        limits = {BOUNDS[bound]: float(fid) for bound, fid in zip(of_n["bound"], of_n["fid"], strict=True)}
        together = table1_frames.together(found, stats["backend"].value_counts().index[0], device, n)
        out.append(Grid(measured, stats, limits, table1_page.titles(found), device, n, found[0].preset, source,
                        together))
    return sorted(out, key=lambda g: -len(g.stats))


def extractor(found: list[AnyRow]) -> str:
    """What the metric was measured with, for captions."""
    values = of(found, Metric)[0].values
    return f"Extractor {values['extractor']}, sha256 {values['extractor_sha256'][:16]}, against {values['reference']}."


def claims(found: list[Grid], command: str) -> Section:
    """The paper's claims with a verdict on each."""
    s = Section("The paper's claims")
    if not found:
        s.missing.append(("Verdicts on the paper's claims need the table.", command))
        return s
    for g in found:
        _claims(s, g, "" if g is found[0] else f": {g.preset}, n = {g.n:,}", command)
    return s


def _claims(s: Section, g: Grid, name: str, command: str) -> None:
    compared, verdicts = g.verdicts()
    whose = f"{label(g.backends[0])} on {g.device}. {g.source}"
    shown = verdicts.assign(shown=[f"{line['shown']} of {line['of']}" for line in verdicts.to_dict("records")]).drop(columns="of")
    shown["spacing"] = _in_words(shown["spacing"])
    s.tables.append(Table(f"Verdict on each claim{name}", shown, "Reproduced: every comparison of the claim is shown by its 95% "
                          f"interval. Contradicted: one is the other way. Shown: how many comparisons are. {whose}", command,
                          folded=bool(name)))
    compared = compared[compared["verdict"] != measures.ABSENT]
    lines = list(compared.to_dict("records"))
    each = pd.DataFrame({
        "claim": compared["claim"], "a": _in_words(compared["a"]), "b": _in_words(compared["b"]), "factor": compared["factor"],
        "FID(a), FID(b)": [f"{c['mean_a']:.2f}, {c['mean_b']:.2f}" for c in lines],
        "in the paper": ["" if pd.isna(c['paper_a']) else f"{c['paper_a']:g}, {c['paper_b']:g}" for c in lines],
        "difference": [f"{c['difference']:+.2f}" for c in lines], "95% interval": [interval(c['low'], c['high'], 2) for c in lines],
        "told in 80%": [f"{c['detectable']:.2g}" for c in lines], "noise": compared["noise"], "verdict": compared["verdict"]})
    s.tables.append(Table(f"Every comparison behind the verdicts{name}", each, "Difference: FID(a) - factor x FID(b), negative "
                          "where the paper's claim holds. Told in 80%: the size of a difference that is told from 0 in 80% of "
                          "studies. The paper's values are Inception FID on CIFAR-10: they show its claim and no more. "
                          f"{whose}", command,
                          folded=True))


def _in_words(spacings: pd.Series[str]) -> pd.Series[str]:
    return spacings.str.replace(table1.UNIFORM, SPACINGS[table1.UNIFORM])


def cells(found: list[Grid], command: str) -> Section:
    """The table in the paper's form, and the paper's own."""
    s = Section("FID by steps and noise", [
        "S is the number of sampling steps, eta the noise that each of them adds: 0 adds none (DDIM), 1 as much as DDPM, sigma_hat "
        "more. Spacing is the rule by which the S timesteps are chosen. FID is a distance between features of drawn and of real "
        "images; it is larger for fewer images n, so that it compares with the floor (real images) and the ceiling (noise) of the "
        "same n. KID is another such distance; precision is the share of images that look real, recall the share of real images "
        "that are covered. x_T is the noise that an image starts from."])
    if not found:
        s.missing.append(("The table of FID by S, eta and spacing has no rows yet.", command))
    for g in found:
        for spacing, words in SPACINGS.items():
            part = g.of(g.backends[0], spacing)
            if (part["spacing"] == spacing).any():
                frame = by_steps(part.assign(spacing=""), "fid").drop(columns="spacing")
                s.tables.append(Table(f"{g.metric}: {label(g.backends[0])} on {g.device}, {words} spacing, n = {g.n:,}", frame,
                                      f"{g.source} {BARS} {STAR}", command, best="lowest",
                                      folded=spacing == table1.QUAD or g is not found[0]))
        for name, title in g.names.items():
            if g.stats["seconds" if name == "seconds" else f"{name}_mean"].notna().any():
                parts = [by_steps(g.stats[g.stats["backend"] == backend], name) for backend in g.backends]
                for backend, part in zip(g.backends, parts, strict=True):
                    part.insert(0, "backend", label(backend))
                s.tables.append(Table(f"{title[0].upper()}{title[1:]}: every cell on {g.device}, n = {g.n:,}",
                                      pd.concat(parts).fillna(""), f"{g.source} {BARS} {STAR}", command, folded=True,
                                      best="highest" if name in ("precision", "recall") else "lowest"))
    s.tables.append(Table(
        "As published, of other data: FID, CIFAR-10, quad spacing",
        table1_frames.published().rename(index=plain, columns="S = {}".format).reset_index(),
        "Song, Meng & Ermon 2021, arXiv:2010.02502, table 1. Another data set and another extractor than ours (Inception, "
        "n = 50,000, 1 seed, no hash published): compare the shape, never the values.", folded=True))
    return s


def by_steps(part: pd.DataFrame, name: str) -> pd.DataFrame:
    """A line for each eta and spacing, a column for each S, "mean ± standard deviation" in the cells."""
    wide = table1_page.pivot(part, name).replace({"spacing": SPACINGS})
    return wide.rename(columns={S: f"S = {S}" for S in wide.columns if S not in ("eta", "spacing")})


def curves(found: list[Grid], command: str) -> Section:
    """FID against S and against seconds, and the paper's curves."""
    s = Section("Quality against steps, and against time")
    if not found:
        s.missing.append(("Curves of FID need the table.", command))
        return s
    for g in found:
        first, *others = g.backends
        for spacing, words in SPACINGS.items():
            panels = [(f"eta = {eta}", [_series(part, label(first)), *(
                _series(cells, label(other), alone=True) for other in others if len(cells := g.of(other, spacing, ETAS[k])))])
                for k, eta, part in g.lines(first, spacing)]
            if not panels:  # a table may have one spacing alone
                continue
            ticks = sorted({x for _, series in panels for one in series for x in one.x})
            s.figures.append(Figure(f"{g.metric} against steps, {words} spacing", [("", svg.multiples(
                panels, "sampling steps S", g.metric, bounds=g.bounds, ticks=ticks))], f"One eta a panel, the others pale. On "
                f"{g.device}; open markers: other backends. {g.source} {BARS}", command,
                folded=spacing == table1.QUAD or g is not found[0]))
        for backend in [b for b in g.backends if g.stats[g.stats["backend"] == b]["seconds"].notna().any()]:
            etas = dict.fromkeys(eta for spacing in SPACINGS for _, eta, _ in g.lines(backend, spacing))
            panels = [(f"eta = {eta}", [_series(part, f"{words} spacing", alone=spacing == table1.QUAD, seconds=True)
                                        for spacing, words in SPACINGS.items() for _, each, part in g.lines(backend, spacing)
                                        if each == eta]) for eta in etas]
            picture = svg.multiples(panels, "seconds per image", g.metric, front=True)
            s.figures.append(Figure(f"{g.metric} against time, {label(backend)}", [("", picture)], f"One eta a panel, the others "
                                    f"pale; S grows from left to right. On {g.device}. {g.source} {BARS}", command, folded=True))
    published = table1_frames.published()
    S: list[Any] = published.columns.tolist()
    series = [Series(f"eta = {plain(eta)}", S, published.T[eta].tolist(), colour=k) for k, eta in enumerate(ETAS)]
    picture = svg.curves(series, "sampling steps S", "FID (Inception, CIFAR-10)", ticks=S)
    s.figures.append(Figure("The paper's curves, for their shape", [("", picture)], "Song, Meng & Ermon 2021, table 1: CIFAR-10, "
                            "quad spacing, n = 50,000, 1 seed, Inception features; neither spread nor hash was published.",
                            command_line("report"), folded=True))
    return s


def _series(part: pd.DataFrame, name: str, alone: bool = False, seconds: bool = False) -> Series:
    return Series(name, part["seconds" if seconds else "S"].tolist(), part["fid_mean"].tolist(),
                  part["fid_sd"].fillna(0).tolist(), alone=alone)


def equivalence(found: list[AnyRow], command: str) -> list[Table]:
    """Whether backends give the same FID, a table for each pair."""
    tested, out = table1_claims.equivalence(table1_frames.measurements(found)), []
    n: Any
    one: Any
    other: Any
    for (n, one, other), part in tested.groupby(["n", "one", "other"], sort=False):
        names = [f"{label(backend)} on {device}" for backend, device in (one.split(" "), other.split(" "))]
        shown = pd.DataFrame({
            "S": part["S"], "eta": part["eta"].map(plain), "spacing": _in_words(part["spacing"]), "seeds": part["seeds"],
            "difference": [f"{line['difference']:+.4f}" for line in part.to_dict("records")],
            "90% interval": [interval(line['low'], line['high'], 4) for line in part.to_dict("records")],
            "verdict": part["verdict"]})
        out.append(Table(f"{table1_page.titles(found)['fid']}: {names[1]} minus {names[0]}", shown, "Two one-sided tests on "
                         "differences paired by seed. Equivalent: the 90% interval of the mean difference lies within "
                         f"{table1_claims.MARGIN:g}, a margin fixed beforehand. n = {n:,} images a cell. {extractor(found)}",
                         command))
    return out


def pixels(found: list[AnyRow], command: str) -> tuple[list[Table], list[Figure]]:
    """How far images of two backends from the same x_T are apart at eta = 0, against S."""
    frame, tables, figures = table1_frames.pixel_differences(found), [], []
    frame = frame[(frame["spacing"] == table1.UNIFORM) & frame["max"].notna()]
    for pair_n, part in frame.groupby(["one", "other", "n"]):
        one, other, n = map(str, pair_n)
        across = part.groupby("S")[list(table1_frames.QUANTILES)]
        mean, sd = across.mean(), across.std().fillna(0)
        pair = f"{label(one)} and {label(other)}"
        how = f"n = {int(n):,} images, {seeds(part['seed'].nunique())}; pixels, no extractor."
        S = mean.index.tolist()
        series = [Series("largest" if name == "max" else f"{name} of pixels", S, mean[name].tolist(), sd[name].tolist(), colour=k)
                  for k, name in enumerate(table1_frames.QUANTILES) if (mean[name] > 0).all()]  # the scale is logarithmic
        picture = svg.curves(series, "sampling steps S", "|difference|, images in [-1, 1]", ticks=S)
        figures.append(Figure(f"Pixel differences of {pair}", [("", picture)], "Quantiles over all pixels, images of eta = 0 from "
                              f"the same x_T, uniform spacing. {how} {BARS}", command, folded=True))
        tables.append(Table(f"Pixel differences of {pair} by S", mean.map("{:.1e}".format).reset_index(), "Quantiles of "
                            f"|difference|, eta = 0, uniform spacing, mean over seeds. {how}", command, folded=True))
    return tables, figures
