"""The page of the variational bound: `results/likelihood.md`, from rows alone."""

from __future__ import annotations

from itertools import cycle, permutations
from pathlib import Path

import numpy as np
import pandas as pd

from backends import order
from bench.pictures import plots
from bench.records.rows import AnyRow, Row, of
from bench.records.study_values import Bits, Likelihood
from bench.report.measures import CONTRADICTED, REPRODUCED, UNKNOWN, hardware, interval, label
from bench.terminal import fit
from reference.config import VARIANCES

SAME = ("weights", "images_sha256", "samples", "seed", "clip", "dtype", "device")  # what comparable rows of a network share
LEARNED = ("learned", "learned_range")
FEW = 100  # steps up to which IDDPM's claim about few steps is read here
LOWER, HIGHER = "lower", "higher"
Rows = list[Row[Likelihood]]


def newest(found: list[AnyRow]) -> dict[str, Rows]:
    """By network: the last row of each backend and S, of those that compare with the network's last row."""
    every = sorted(of(found, Likelihood), key=lambda row: row.created)
    out: dict[str, Rows] = {}
    for name in dict.fromkeys(row.config["name"] for row in every):
        rows = [row for row in every if row.config["name"] == name]
        alike = [row for row in rows if all(row.config[key] == rows[-1].config[key] for key in SAME)]
        last = {(row.backend, row.config["steps"]): row for row in alike}
        out[name] = [last[key] for key in sorted(last, key=lambda key: (-key[1], order(key[0])))]
    return out


def by_variance(row: Row[Likelihood]) -> list[tuple[str, Bits]]:
    """The bounds of a row, in the order of `VARIANCES`."""
    return sorted(row.values["bounds"].items(), key=lambda item: VARIANCES.index(item[0]))


def table(rows: Rows) -> pd.DataFrame:
    """One line per S, backend and variance: bits per dimension and their parts, means over images."""
    lines = []
    for row in rows:
        v, prior = row.values, float(np.mean(row.values["prior"]))
        for variance, bits in by_variance(row):
            mean, half = interval(np.array(bits["total"]))
            lines.append({"S": row.config["steps"], "backend": row.backend, "variance": variance, "bits": mean, "half": half,
                          "prior": prior, "kl": float(np.sum(bits["terms"][1:])), "decoder": bits["terms"][0],
                          "seconds": v["seconds"] / v["n"]})
    return pd.DataFrame(lines)


def shown(rows: Rows) -> pd.DataFrame:
    """`table` as people read it."""
    frame = table(rows)
    return pd.DataFrame({
        "S": frame["S"].astype(str), "variance": frame["variance"], "backend": frame["backend"].map(label),
        "bits/dim": [_bits(a, b) for a, b in zip(frame["bits"], frame["half"], strict=True)],
        "prior": [f"{x:.2g}" for x in frame["prior"]], "KL terms": [f"{x:.4g}" for x in frame["kl"]],
        "decoder": [f"{x:.4g}" for x in frame["decoder"]], "s/image": [f"{x:.3g}" for x in frame["seconds"]]})


def _bits(mean: float, half: float) -> str:
    return f"{mean:.4g} ± {half:.2g}"


def differences(rows: Rows) -> pd.DataFrame:
    """Every variance less "large" at each S, of the same images and noise on the first backend: mean, half of its 95% interval."""
    lines = []
    for row in (r for r in rows if r.backend == rows[0].backend):
        bounds = row.values["bounds"]
        for variance, bits in by_variance(row):
            if variance == "large" or "large" not in bounds:
                continue
            mean, half = interval(np.array(bits["total"]) - np.array(bounds["large"]["total"]))
            lines.append({"S": row.config["steps"], "variance": variance, "mean": mean, "half": half, "verdict": word(mean, half)})
    return pd.DataFrame(lines)


def word(mean: float, half: float) -> str:
    """Whether a mean difference with this half of an interval is below 0, above it, or neither."""
    return LOWER if mean + half < 0 else HIGHER if mean - half > 0 else UNKNOWN


def claims(rows: Rows) -> list[str]:
    """IDDPM's claim that a learned variance helps, most at few steps, where the network learned one."""
    frame = differences(rows)
    if frame.empty or not (learned := frame[frame["variance"].isin(LEARNED)]).size:
        return ["This network learned no variance: IDDPM's claim that one helps at few steps has no verdict here."]
    few = learned[learned["S"] <= FEW]
    if few.empty:
        return [f"IDDPM's claim about few steps has no verdict: no path of at most {FEW} steps was measured (`--steps`)."]
    found = [f"**{_verdict(bits)}** at S = {S} ({mean:+.3g} ± {half:.2g})"
             for S, mean, half, bits in few[["S", "mean", "half", "verdict"]].itertuples(index=False)]
    return [f"IDDPM (section 4): a learned variance gives fewer bits than the large one at few steps, here S up to {FEW}: "
            f"{', '.join(found)}. A difference as large as the half of an interval is told from 0 in half of all studies, one of "
            "1.4 times that in 80%."]


def schedule_claims(networks: dict[str, Rows]) -> list[str]:
    """IDDPM's claim that the cosine schedule gives fewer bits than the linear one: every two networks that differ in it alone, over
    the longest path that both have on one backend."""
    out = []
    for (a, linear), (b, cosine) in permutations(networks.items(), 2):
        x, y = linear[0].config, cosine[0].config
        apart = x["diffusion"] | {"schedule": "cosine"} == y["diffusion"] and x["diffusion"]["schedule"] == "linear"
        both = [(r, s) for r in linear for s in cosine if (r.backend, r.config["steps"]) == (s.backend, s.config["steps"])]
        if not (apart and both and all(x[key] == y[key] for key in ("model", *SAME) if key != "weights")):
            continue
        (r, s), S = (row.values["bounds"] for row in both[0]), both[0][0].config["steps"]
        variance = next((name for name in LEARNED if name in r), "large")
        if not (variance in r and variance in s):
            continue
        mean, half = interval(np.array(s[variance]["total"]) - np.array(r[variance]["total"]))
        out.append(f"IDDPM (section 3.2): the cosine schedule gives fewer bits than the linear one: "
                   f"**{_verdict(word(mean, half))}** ({b} less {a}: {mean:+.3g} ± {half:.2g} at S = {S} "
                   f"with the variance {variance}, image by image). One training of each: what another seed of the training would "
                   "change is not in the interval.")
    return out or ["IDDPM's claim about the cosine schedule has no verdict: no two networks here differ in the schedule alone."]


def _verdict(word: str) -> str:
    """On the claim that something gives fewer bits."""
    return {LOWER: REPRODUCED, HIGHER: CONTRADICTED}.get(word, UNKNOWN)


def terminal(rows: Rows) -> str:
    """What the command prints."""
    return fit(shown(rows), 2)


def render(networks: dict[str, Rows], command: str) -> str:
    """`likelihood.md`."""
    text = ["# Likelihoods", "", f"Made by `{command}`. Raw values: [rows/likelihood.jsonl](rows/likelihood.jsonl).", "",
            "The variational bound on -log2 p(image), divided by the number of pixels and channels: *bits/dim*, less is better. "
            "It is the sum of three parts (DDPM equation 5). *Prior*: how far the noisiest state is from pure noise. *KL terms*: "
            "how far each step of the network is from the true reverse step. *Decoder*: what the last step leaves of the 8-bit "
            "pixels. *Variance* is that of the reverse process. *S* steps keep evenly spaced timesteps, the first and the last "
            "among them, as IDDPM's code does. Every S, variance and backend has the same images and the same noise. ±: half of "
            "the 95% interval of the mean over images, by Student's t.", "", "![likelihood](figures/likelihood.png)"]
    for name, rows in networks.items():
        c, frame = rows[0].config, differences(rows)
        d = c["diffusion"]
        text += ["", f"## {name}", "",
                 f"{rows[0].values['n']:,} images of {c['images']}, sha256 {c['images_sha256'][:16]}; network {c['weights']}, "
                 f"trained with the schedule {d['schedule']}, T = {d['timesteps']}, objective {d['objective']}, variance "
                 f"{d['variance']}; {c['dtype']}, seed {c['seed']} of the noise; x0_hat "
                 f"{'clipped to [-1, 1]' if c['clip'] else 'not clipped'}; on {hardware(rows[0])}.", "",
                 shown(rows).to_markdown(index=False, disable_numparse=True)]
        if not frame.empty:
            read = pd.DataFrame({"S": frame["S"].astype(str), "variance": frame["variance"],
                                 "less large": [f"{a:+.4g} ± {b:.2g}" for a, b in zip(frame["mean"], frame["half"], strict=True)],
                                 "bits are": frame["verdict"]})
            text += ["", "Differences from the variance *large*, image by image:", "",
                     read.to_markdown(index=False, disable_numparse=True)]
        text += ["", *claims(rows)]
    text += ["", "## The schedule"]
    for claim in schedule_claims(networks):
        text += ["", claim]
    return "\n".join(text) + "\n"


def figure(networks: dict[str, Rows], path: Path) -> None:
    """A line of panels for each network: bits per dimension against S, and the terms of its longest path against t."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    fig, panels = plt.subplots(len(networks), 2, squeeze=False, figsize=(9, 3.6 * len(networks)), layout="constrained")
    for (left, right), (name, rows) in zip(panels, networks.items(), strict=True):
        first = [row for row in rows if row.backend == rows[0].backend]
        frame = table(first)
        for colour, (variance, lines) in zip(cycle(plots.COLOURS), frame.groupby("variance", sort=False), strict=False):
            left.errorbar(lines["S"], lines["bits"], lines["half"], marker="o", color=colour, capsize=3, markersize=4, lw=1,
                          label=str(variance))
            terms = first[0].values["bounds"][str(variance)]["terms"] if variance in first[0].values["bounds"] else []
            if len(terms) > 1:
                right.plot(np.array(first[0].values["timesteps"][1:]), terms[1:], color=colour, lw=1, label=str(variance))
        left.set(xscale="log", yscale="log", xlabel="steps S", ylabel="bits per dimension", title=name)
        left.set_xticks(sorted(set(frame["S"])), [str(s) for s in sorted(set(frame["S"]))])
        left.minorticks_off()
        right.set(xscale="log", yscale="log", xlabel="timestep t", ylabel=f"KL term, S = {first[0].config['steps']}", title=name)
        for panel in (left, right):
            panel.grid(alpha=0.3)
        left.legend(fontsize=8)
    plots.save(fig, path)
