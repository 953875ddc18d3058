"""The page of encoding and decoding, table 2 of the DDIM paper: `results/round-trip.md`, from rows alone."""

from __future__ import annotations

from itertools import cycle, pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.pictures import plots
from bench.records import rows
from bench.records.rows import AnyRow, Row
from bench.records.values import RoundTrip
from bench.report.measures import hardware
from bench.report.studies import image_claims
from bench.report.studies.image_claims import Claim

PUBLISHED = {10: 0.014, 20: 0.0065, 50: 0.0023, 100: 0.0009, 200: 0.0004, 500: 0.0001, 1000: 0.0001}  # CIFAR-10's test set
ZERO, ONE = "0.0", "1.0"
SAME = ("weights", "samples", "seed", "dtype", "device", "images_sha256")  # what comparable rows of a network share
Rows = list[Row[RoundTrip]]


def newest(found: list[AnyRow]) -> dict[str, Rows]:
    """By network: the last row of each S, of those that compare with the network's last row, by growing S."""
    out: dict[str, Rows] = {}
    every = rows.studies(found, RoundTrip)
    for name in dict.fromkeys(row.config["name"] for row in every):
        of_name = [row for row in every if row.config["name"] == name]
        last = {row.config["steps"]: row for row in of_name
                if row.backend == of_name[-1].backend and all(row.config[key] == of_name[-1].config[key] for key in SAME)}
        out[name] = [last[S] for S in sorted(last)]
    return out


def errors(found: Rows, eta: str) -> dict[int, NDArray[np.float64]]:
    """By S: the error of every image."""
    return {row.config["steps"]: np.array(row.values["error"][eta]) for row in found}


def table(found: Rows) -> pd.DataFrame:
    """One line an S, as people read it."""
    ddim, ddpm = errors(found, ZERO), errors(found, ONE)
    return pd.DataFrame([{"S": str(S), "error": image_claims.mean(ddim[S]), "decoded with eta = 1": image_claims.mean(ddpm[S]),
                          "DDIM paper": f"{PUBLISHED[S]:g}" if S in PUBLISHED else ""} for S in ddim])


def claims(found: Rows) -> list[Claim]:
    """The paper's (section 5.4)."""
    ddim, ddpm = errors(found, ZERO), errors(found, ONE)
    out = [Claim("an image that is encoded and decoded comes back better with every larger S (table 2)",
                 {f"error at S = {b} less that at S = {a}": ddim[b] - ddim[a] for a, b in pairwise(ddim)})] * (len(ddim) > 1)
    return [*out, Claim("not so with DDPM's noise: eta = 0 decodes with less error than eta = 1",
                        {f"S = {S}: eta = 0 less eta = 1": ddim[S] - ddpm[S] for S in ddim})]


def terminal(found: Rows) -> str:
    """What the command prints."""
    return image_claims.terminal(table(found), claims(found))


def about(found: Rows) -> str:
    """What the figures of a network come from."""
    row = found[0]
    c = row.config
    return (f"n = {row.values['n']:,} images of {c['images']}, sha256 {c['images_sha256'][:16]}, 1 seed ({c['seed']}); network "
            f"{c['weights']}, {row.backend} in {c['dtype']}, on {hardware(row)}. No extractor: errors are of pixels.")


def render(networks: dict[str, Rows], command: str) -> str:
    """`round-trip.md`."""
    text = ["# Round trips: table 2 of the DDIM paper", "",
            f"Made by `{command}`. Raw values: [rows/study.jsonl](rows/study.jsonl).", "",
            "Held-out images are *encoded*: DDIM's steps are taken backwards, from the image to x_T, the noise that would draw it. "
            "Then x_T is *decoded*: drawn with as many steps S. *Error*: the mean of squares over the pixels, which lie in [0, 1], "
            "less is better; ±: half of the 95% interval of the mean over images. *eta* is the share of DDPM's noise. The paper's "
            "errors are of CIFAR-10 and another network: compare the shape alone.", "", "![round trip](figures/round-trip.png)"]
    for name, found in networks.items():
        text += ["", f"## {name}", "", about(found), "", table(found).to_markdown(index=False, disable_numparse=True), "",
                 "### The paper's claims", "", *image_claims.section(claims(found))]
    return "\n".join(text) + "\n"


def figure(networks: dict[str, Rows], path: Path) -> None:
    """The error against S, a curve a network, beside the paper's."""
    figure, axes = plots.plot("steps S of encoding and of decoding", "squared error per dimension")
    every = set(PUBLISHED)
    for colour, (name, found) in zip(cycle(plots.COLOURS), networks.items(), strict=False):
        for eta, style in ((ZERO, "o-"), (ONE, "s:")):
            by_S = errors(found, eta)
            every |= set(by_S)
            axes.plot(list(by_S), [v.mean() for v in by_S.values()], style, color=colour, markersize=4,
                      label=f"{name}, eta = {float(eta):g}")
    axes.plot(list(PUBLISHED), list(PUBLISHED.values()), "k--", lw=1, label="DDIM table 2: CIFAR-10, another network")
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(sorted(every), [str(S) for S in sorted(every)])
    axes.minorticks_off()
    axes.legend(fontsize=8)
    plots.save(figure, path)
