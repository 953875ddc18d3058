"""The page of a table: `results/table.md`, from rows alone. `table1_frames` and `table1_claims` compute what it shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from bench import files
from bench.records.rows import AnyRow, of
from bench.records.values import Budget, Metric
from bench.report import measures, table1_claims, table1_frames
from bench.report.measures import label, versions
from bench.report.results import beyond_tolerance
from bench.sampling import table1


def titles(rows: list[AnyRow]) -> dict[str, str]:
    """What each of `table.MEASURES` is called, with the extractor that it comes from."""
    name = next((row.values["metric"] for row in of(rows, Metric)), "FID")
    return {"fid": name, "fid_inf": f"{name}, extrapolated by 1/n to infinitely many images", "kid": name.replace("FID", "KID"),
            "precision": name.replace("FID", "precision"), "recall": name.replace("FID", "recall"),
            "seconds": "seconds per image, medians over seeds"}


def pivot(statistics: pd.DataFrame, measure: str) -> pd.DataFrame:
    """One of `table.MEASURES` as text, mean +- standard deviation over seeds, of seconds the median: a line for each eta and
    spacing, a column for each S.

    `statistics` are those of one backend, device and n. A cell of one seed has no deviation.
    """
    text = pd.DataFrame({
        "eta": [eta.removesuffix(".0") for eta in statistics["eta"]], "spacing": statistics["spacing"], "S": statistics["S"],
        "text": [figure(value, np.nan, 3) for value in statistics["seconds"]] if measure == "seconds" else [
            figure(mean, sd, 2 if measure == "kid" else 4) for mean, sd in
            zip(statistics[f"{measure}_mean"], statistics[f"{measure}_sd"], strict=True)]})
    order = list(dict.fromkeys(zip(text["eta"], text["spacing"], strict=True)))
    return text.pivot(index=["eta", "spacing"], columns="S", values="text").loc[sorted(order, key=_by_eta)].fillna("").reset_index()


def _by_eta(line: tuple[str, str]) -> tuple[int, str]:
    known = [str(eta).removesuffix(".0") for eta in table1.ETAS]
    return known.index(line[0]) if line[0] in known else len(known), line[1]


def figure(mean: float, sd: float, digits: int = 4) -> str:
    """A mean and its standard deviation as text; a NaN deviation is left out, a NaN mean gives "". KID, whose subsets and few
    reference images make more digits chance, gets 2."""
    return "" if pd.isna(mean) else f"{mean:.{digits}g}" if pd.isna(sd) else f"{mean:.{digits}g} ± {sd:.2g}"


def page(rows: list[AnyRow], command: str, missing: list[str], others: Sequence[list[AnyRow]] = ()) -> str:
    """The page of the rows of one table (`table.of_table`), and behind it of `others`, those of further networks."""
    measured = table1_frames.measurements(rows)
    out = ["# FID against the number of steps and the noise: table 1 of the DDIM paper", "",
           f"Made by `{command}`. Every number comes from a row in [rows/](rows) with this page's weights.", "",
           *_caption(rows), "", "## Budget", "", _markdown(_budget(rows)), "",
           "Calls are of the network, for one image of every cell. Predictions come from a short calibration before the first "
           "cell; measured times are those of the finished cells.", ""]
    for (_, device), of_setting in measured.groupby(["n", "device"], sort=False):
        backend = str(of_setting["backend"].value_counts().idxmax())
        out += _setting(rows, of_setting[of_setting["backend"] == backend], backend, str(device))
    out += [*_backends(rows, measured), *beyond_tolerance(rows)]
    for other in others:
        whole = page(other, command, []).split("\n")
        out += ["", f"# Preset {other[0].preset}", "", *whole[4:]]
    return "\n".join([*out, *(f"- {line}" for line in missing), ""])


def write(out: Path, rows: list[AnyRow], command: str, missing: list[str], others: Sequence[list[AnyRow]] = ()) -> Path:
    """Write `out`/table.md."""
    return files.write_page(out / "table.md", page(rows, command, missing, others))


def _markdown(frame: pd.DataFrame) -> str:
    return str(frame.to_markdown(index=False, disable_numparse=True))


def _caption(rows: list[AnyRow]) -> list[str]:
    begun = of(rows, Budget)
    c, e = begun[-1].config, begun[-1].environment
    extractors = {f"extractor {v['extractor']}, sha256 {v['extractor_sha256'][:16]}; reference: {v['reference']}"
                  for v in (row.values for row in of(rows, Metric))}
    return [
        f"- weights {c['weights']}, preset {begun[-1].preset}: channels {c['model']['block_out_channels']}, schedule "
        f"{c['diffusion']['schedule']}, T = {c['diffusion']['timesteps']}; convention {c['convention']}, {c['dtype']}",
        *(f"- {line}" for line in sorted(extractors)),
        f"- machine: {e.get('gpu') or e.get('cpu')}, {c['threads']} threads; {versions(begun[-1])}; commit {begun[-1].commit}",
        "- spacing: leading is the paper's linear rule of choosing timesteps, quad its quadratic one; at S = 1000 both are all",
    ]


def _budget(rows: list[AnyRow]) -> pd.DataFrame:
    frame = table1_frames.budget(rows)
    return pd.DataFrame({
        "backend": [label(b) for b in frame["backend"]], "device": frame["device"], "n": frame["n"], "what": frame["what"],
        "cells": [f"{done} of {cells}" for done, cells in zip(frame["finished"], frame["cells"], strict=True)],
        "calls": frame["calls"], **{f"{name} s": frame[name].map("{:.0f}".format) for name in ("predicted", "measured")}})


def _setting(rows: list[AnyRow], measured: pd.DataFrame, backend: str, device: str) -> list[str]:
    """Tables and verdicts of one backend, device and n."""
    statistics, n, names = table1_frames.statistics(measured), int(measured["n"].iloc[0]), titles(rows)
    seeds = ", ".join(f"{count} at S = {S}" for S, count in statistics.groupby("S")["seeds"].max().items())
    bounds = table1_frames.bounds(rows)
    out = [f"## {label(backend)} on {device}, n = {n}", "",
           f"Mean ± standard deviation between sample seeds ({seeds}), each of n = {n} images. The images of one seed start "
           "from the same x_T in every cell. The metrics depend on n: compare them with the floor (held-out real images) and the "
           "ceiling (standard normal noise) of the same n, and with no paper's values.", ""]
    for measure, name in names.items():
        if measure == "seconds" and statistics["seconds"].isna().all():
            out += [f"### {name}", "", measures.NO_TIMES, ""]
            continue
        limits = [f"{line['bound']} {figure(line[measure], line['fid_sd'] if measure == 'fid' else np.nan)}"
                  for line in bounds[bounds["n"] == n].to_dict("records")
                  if measure in line and not pd.isna(line[measure])]
        out += [f"### {name}", "", _markdown(pivot(statistics, measure)), "", *([", ".join(limits), ""] if limits else [])]
        if measure == "fid":
            out += ["For the shape alone, **another data set and another extractor**: the published table, CIFAR-10 32 x 32, "
                    "Inception features, n = 50,000, quad spacing (Song, Meng & Ermon 2021, arXiv:2010.02502, table 1).", "",
                    _markdown(table1_frames.published().reset_index().astype(str).replace({r"\.0$": ""}, regex=True)), ""]
    return [*out, *_claims(measured, names, table1_frames.together(rows, backend, device, n))]


def _claims(measured: pd.DataFrame, names: dict[str, str], together: table1_claims.Together) -> list[str]:
    compared = table1_claims.comparisons(measured, together=together)
    verdicts = table1_claims.verdicts(compared)
    by_kid = table1_claims.verdicts(table1_claims.comparisons(measured, "kid"))
    shown = pd.DataFrame({
        "claim": verdicts["claim"], "spacing": verdicts["spacing"], f"by {names['fid']}": verdicts["verdict"].map("**{}**".format),
        "comparisons": [f"{shown} of {of}" for shown, of in zip(verdicts["shown"], verdicts["of"], strict=True)],
        f"by {names['kid']}": by_kid["verdict"]})
    run = compared[compared["verdict"] != measures.ABSENT]
    detail = pd.DataFrame({
        "a": run["a"], "b": run["b"], "factor": run["factor"].map("{:g}".format), "a, b": _pair(run["mean_a"], run["mean_b"]),
        "a - factor x b": [f"{d:.3g} ({low:.3g} .. {high:.3g})" for d, low, high in zip(run["difference"], run["low"], run["high"],
                                                                                       strict=True)],
        "told in 80%": run["detectable"].map("{:.2g}".format), "noise": run["noise"],
        "verdict": run["verdict"], "published a, b": _pair(run["paper_a"], run["paper_b"])})
    return [
        "### The paper's claims", "", _markdown(shown), "",
        "Each claim is a set of comparisons: a is below factor x b. A comparison is reproduced where the 95% interval of the "
        "difference lies below 0, contradicted where it lies above; otherwise we cannot tell. *Paired images*: FID of the images "
        "of all seeds together, with the spread of the difference over resamples of the same images in both cells. *Paired "
        "seeds*: the mean over seeds, with a t interval. Where cells share one seed, the noise is the spread of seeds at the S "
        "named, taken as independent. *Told in 80%* is the power: the size of a difference that this test tells from 0 in 80% of "
        "studies. A claim is reproduced where all its comparisons are, contradicted where one is opposite at 5% / (their number), "
        "and not run where a cell is absent or nothing tells its noise. KID has no bias in n; FID's draws ratios towards 1.",
        "", _markdown(detail), ""]


def _pair(a: pd.Series[float], b: pd.Series[float]) -> list[str]:
    return ["" if pd.isna(x) else f"{x:.4g}, {y:.4g}" for x, y in zip(a, b, strict=True)]


def _backends(rows: list[AnyRow], measured: pd.DataFrame) -> list[str]:
    """Equivalence of the backends, and how far their images are apart."""
    tests, pixels = table1_claims.equivalence(measured), table1_frames.pixel_differences(rows)
    out = ["## Backends", ""]
    if tests.empty:
        return [*out, "One backend drew this table.", ""]
    for (n, one, other), each in tests.groupby(["n", "one", "other"], sort=False):
        count = each["verdict"].value_counts()
        out += [f"- n = {n}, {other} against {one}: " + ", ".join(f"{verdict} in {k}" for verdict, k in count.items())
                + f" of {len(each)} cells"]
    shown = tests.assign(eta=tests["eta"].str.removesuffix(".0"), verdict=tests["verdict"].map("**{}**".format), **{
        name: tests[name].map("{:.3g}".format) for name in ("difference", "low", "high")})
    out += ["", _markdown(shown.astype(str)), "",
            f"Two one-sided tests of the paired difference in {titles(rows)['fid']} over seeds: low .. high is its 90% t "
            f"interval; the margin, fixed beforehand, is {table1_claims.MARGIN:g}. Equivalent: it lies within the margin; "
            "different: wholly outside; cannot tell: neither.", ""]
    if not pixels.empty:
        quantiles = pixels.assign(**{name: pixels[name].map("{:.1e}".format) for name in table1_frames.QUANTILES})
        out += ["Pixel differences at eta = 0 from the same x_T, on the scale [-1, 1]: quantiles over all pixels.", "",
                _markdown(quantiles.astype(str)), ""]
    return out
