"""The page of the noise of FID: `results/noise.md`, from rows alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from bench.metric import fid
from bench.pictures import plots
from bench.records import rows
from bench.records.rows import AnyRow, Row
from bench.records.values import Noise
from bench.report.measures import cores, stale

LEAST = 8  # parts whose standard deviation is shown; of fewer it is hardly known itself

HELD_OUT = "held-out images"  # name of the study that is always made


def table(row: Row[Noise]) -> pd.DataFrame:
    """One line per n: `n`, `parts`, mean and standard deviation of FID and of its extrapolation, whether the parts are disjoint,
    and `differs`, what two figures of that n differ by in 5% of cases.

    Random parts of N images overlap, and their spread is sqrt(1 - n/N) of that of n new images: it is divided by that. The spread
    of the whole set, of which there is one, is that of its bootstrap (Efron & Tibshirani 1993, chapter 6); older rows have none.
    `differs` is sqrt(2) sd times Student's t, of as many degrees of freedom as there are parts, less 1, of which sd is known.
    """
    lines = []
    for point in row.values["points"]:
        n, whole = point["n"], np.array(point["fid"])
        alike = 1.0 if point["disjoint"] else (1 - n / row.config["samples"]) ** 0.5
        line: dict[str, Any] = {"n": n, "parts": len(whole), "disjoint": point["disjoint"], "fid": whole.mean(),
                                "fid_sd": _spread(whole, alike), "inf": np.nan, "inf_sd": np.nan}
        known = len(whole)
        if "resampled" in point:
            known = len(point["resampled"])
            line["fid_sd"] = _spread(np.array(point["resampled"]), 1.0)
        line["differs"] = 2**0.5 * line["fid_sd"] * float(stats.t.ppf(0.975, max(known - 1, 1)))
        if point["fid_half"]:
            beyond = np.array([fid.extrapolate(a, n, b, n // 2) for a, b in zip(whole, point["fid_half"], strict=True)])
            line |= {"inf": beyond.mean(), "inf_sd": _spread(beyond, alike)}
        lines.append(line)
    return pd.DataFrame(lines)


def _spread(values: NDArray[np.float64], alike: float) -> float:
    return float(values.std(ddof=1)) / alike if len(values) >= LEAST else np.nan


def newest(found: list[AnyRow]) -> list[Row[Noise]]:
    """The last study of every name."""
    return list({row.config["name"]: row for row in rows.studies(found, Noise)}.values())


def render(studies: list[Row[Noise]], command: str, out: Path) -> str:
    """`noise.md` of the results folder `out`."""
    text = ["# Noise of FID", "",
            f"Made by `{command}`. Raw values: [rows/study.jsonl](rows/study.jsonl).", "",
            "Each line measures parts of one set of images against the same statistics. *sd* is the standard deviation between "
            "parts, so that of a figure from other images of the same source. *Differs*: chance alone makes two figures of that n "
            "differ by more in 5 of 100 cases, by Student's t. *Infinitely many* extrapolates each part from n/2 and n. Parts are "
            f"disjoint; those marked * are random and overlap, with an sd corrected for that. Fewer than {LEAST} parts have no sd; "
            "the whole set's is by its bootstrap over images.", "",
            "![noise](figures/noise.png)"]
    for row in studies:
        frame, c, cost = table(row), row.config, row.values["cost"]
        shown = pd.DataFrame({
            "n": [f"{n:,}" for n in frame["n"]],
            "parts": [f"{line.parts}" + ("" if line.disjoint or line.parts == 1 else "*") for line in frame.itertuples()],
            f"FID[{c['extractor']}]": _figures(frame["fid"]), "sd": _figures(frame["fid_sd"]),
            "differs": _figures(frame["differs"]), "infinitely many": _figures(frame["inf"]),
            "its sd": _figures(frame["inf_sd"]), "its error": _figures(frame["inf"] - frame["inf"].iloc[-1]),
        })
        text += ["", f"## {c['name']}", "",
                 f"{c['images']}: {c['samples']:,} images, sha256 {c['images_sha256'][:16]}; extractor {c['extractor']}, sha256 "
                 f"{c['extractor_sha256'][:16]}; reference fashion-mnist {c['reference']}.", "",
                 shown.to_markdown(index=False, disable_numparse=True), "",
                 f"*Its error* is the distance from the extrapolation of all {c['samples']:,} images. Features of these took "
                 f"{cost['features_seconds']:.1f} s, all distances {cost['distances_seconds']:.1f} s, the process "
                 f"{cost['peak_rss_bytes'] / 2**30:.2f} GiB, on {cores(row.environment)} cores of {row.environment.get('cpu')}."]
        text += ["", said] if (said := stale(row, out)) else []
    return "\n".join(text) + "\n"


def _figures(values: pd.Series[float]) -> list[str]:
    return ["" if np.isnan(value) else f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}" for value in values]


def figure(studies: list[Row[Noise]], path: Path) -> None:
    """FID and its extrapolation against n, a panel each set of images, two in a line, with one standard deviation."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    lines = -(-len(studies) // 2)
    fig, panels = plt.subplots(lines, 2, figsize=(8, 3.4 * lines), layout="constrained")
    for panel in panels.flat[len(studies):]:
        panel.axis("off")
    for panel, row in zip(panels.flat, studies, strict=False):
        frame = table(row)
        for offset, (name, colour, marker, label) in enumerate((("fid", plots.COLOURS[0], "o", "n images"),
                                                                ("inf", plots.COLOURS[1], "s", "extrapolated from n/2 and n"))):
            panel.errorbar(frame["n"] * (1 + 0.04 * offset), frame[name], frame[f"{name}_sd"].fillna(0), fmt=f"{marker}-",
                           color=colour, capsize=3, markersize=4, lw=1, label=label)
        panel.set(xscale="log", xlabel="images n", ylabel=f"FID[{row.config['extractor']}]")
        panel.set_title(row.config["name"], fontsize=10)
        panel.set_xticks(frame["n"], [f"{n:,}" for n in frame["n"]], rotation=60, fontsize=8)
        panel.minorticks_off()
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
    plots.save(fig, path)
