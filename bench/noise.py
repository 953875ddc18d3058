"""How far chance alone moves FID: `python -m bench.noise`, `python -m bench.noise --images NAME=samples.npy`.

FID of fixed images against their number n: many parts of one set of images are measured, each against the same reference.
Their spread tells which differences between two figures mean something at that n; their mean, how large the bias is; and the
extrapolation from n/2 and n to infinitely many images (`bench.metric.fid`), how much of it that removes. Held-out real images
are always there, images of a network by `--images`. A study is a row of kind "study"; `noise.md` and its figure
show the last of every name.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench import files, streams
from bench.command_line import exit_code
from bench.data import datasets
from bench.metric import fid, fmnist_cnn
from bench.neighbours import read_samples
from bench.paths import ROOT
from bench.pictures import plots
from bench.records import environment, rows
from bench.records.rows import Row
from bench.timing import memory
from reference.config import require

SIZES = (128, 256, 512, 1024, 2048, 4096, 8192)
HELD_OUT = "held-out images"  # name of the study that is always made
PARTS = 64  # of one size, at most
DRAWN = 16  # random parts of a size that fits only once
SURE = 1.96 * 2**0.5  # standard deviations of one figure, which two equal ones differ by in 95% of cases


def parts(total: int, n: int, seed: int) -> list[NDArray[np.int64]]:
    """Indices of parts of n of `total` images: disjoint ones, or random ones where it fits only once, or the whole."""
    if total // n > 1:
        order = streams.permutation(seed, "subset", total, 0)
        return [order[start:start + n] for start in range(0, min(total // n, PARTS) * n, n)]
    return [streams.permutation(seed, "subset", total, 1 + i)[:n] for i in range(DRAWN if n < total else 1)]


def measure(found: fid.Features, target: fid.Statistics, seed: int) -> list[dict[str, Any]]:
    """FID of every part of features (N, d), and the mean of its halves where both are large enough; one entry a size."""
    least, out = 2 * found.shape[1], []
    for n in sorted({*(n for n in SIZES if least <= n < len(found)), len(found)}):
        whole, half = [], []
        for part in parts(len(found), n, seed):
            whole.append(fid.distance(fid.statistics(found[part]), target))
            if n >= 2 * least:
                half.append(sum(fid.distance(fid.statistics(found[part[i:n // 2 * 2:2]]), target) for i in (0, 1)) / 2)
        out.append({"n": n, "disjoint": len(found) // n > 1, "fid": whole, "fid_half": half})
    return out


def study(name: str, images: fid.Images, provenance: str, seed: int) -> Row:
    """The row of one set of images, whole: also the seconds and memory of its features and of all its distances."""
    by, about = fmnist_cnn.extractor(), environment.describe()
    target = fmnist_cnn.stored_statistics(fid.DEFAULT_REFERENCE)
    real = fid.subset_features()  # first: it loads the network
    began = time.perf_counter()
    found = fid.features(fmnist_cnn.convert(images)[0])
    half_way = time.perf_counter()
    fid.compare(found, target, real, seed)
    cost = {"features_seconds": half_way - began, "distances_seconds": time.perf_counter() - half_way,
            "peak_rss_bytes": memory.peak_memory()}
    config = {"study": "noise", "name": name, "images": provenance, "samples": len(images), "seed": seed,
              "reference": fid.DEFAULT_REFERENCE, "images_sha256": hashlib.sha256(images.tobytes()).hexdigest(),
              "extractor": by.name, "extractor_sha256": by.sha256}
    return Row("study", "images", "noise", config, {"points": measure(found, target, seed), "cost": cost},
               about | {"load": list(os.getloadavg())}, about["commit"])


def table(row: Row) -> pd.DataFrame:
    """One line per n: `n`, `parts`, mean and standard deviation of FID and of its extrapolation, whether the parts are disjoint.

    Random parts of N images overlap, and their spread is sqrt(1 - n/N) of that of n new images: it is divided by that. The spread
    of the whole set, of which there is one, is that of the other sizes by a power law.
    """
    lines = []
    for point in row.values["points"]:
        n, whole = point["n"], np.array(point["fid"])
        alike = 1.0 if point["disjoint"] else (1 - n / row.config["samples"]) ** 0.5
        line: dict[str, Any] = {"n": n, "parts": len(whole), "disjoint": point["disjoint"], "fid": whole.mean(),
                                "fid_sd": _spread(whole, alike), "inf": np.nan, "inf_sd": np.nan}
        if point["fid_half"]:
            beyond = np.array([fid.extrapolate(a, n, b, n // 2) for a, b in zip(whole, point["fid_half"], strict=True)])
            line |= {"inf": beyond.mean(), "inf_sd": _spread(beyond, alike)}
        lines.append(line)
    frame = pd.DataFrame(lines)
    for name in ("fid_sd", "inf_sd"):
        known = frame[name] > 0
        if known.sum() > 1:
            power = np.polyfit(np.log(frame["n"][known]), np.log(frame[name][known]), 1)
            frame.loc[frame.index[-1], name] = np.exp(np.polyval(power, np.log(frame["n"].iloc[-1])))
    return frame


def _spread(values: NDArray[np.float64], alike: float) -> float:
    return float(values.std(ddof=1)) / alike if len(values) > 1 else np.nan


def newest(found: list[Row]) -> list[Row]:
    """The last study of every name."""
    return list({row.config["name"]: row for row in rows.studies(found, "noise")}.values())


def render(studies: list[Row], command: str) -> str:
    """`noise.md`."""
    text = ["# Noise of FID", "",
            f"Made by `{command}`. Raw values: [rows/study.jsonl](rows/study.jsonl).", "",
            "Each line measures parts of one set of images against the same statistics. *sd* is the standard deviation between "
            "parts, so that of a figure from other images of the same source. *Differs*: chance alone makes two figures of that n "
            "differ by more in 5 of 100 cases. *Infinitely many* extrapolates each part from n/2 and n. Parts are disjoint; those "
            "marked * are random and overlap, with an sd corrected for that; the whole set's is by a power law.", "",
            "![noise](figures/noise.png)"]
    for row in studies:
        frame, c, cost = table(row), row.config, row.values["cost"]
        shown = pd.DataFrame({
            "n": [f"{n:,}" for n in frame["n"]],
            "parts": [f"{line.parts}" + ("" if line.disjoint or line.parts == 1 else "*") for line in frame.itertuples()],
            f"FID[{c['extractor']}]": _figures(frame["fid"]), "sd": _figures(frame["fid_sd"]),
            "differs": _figures(SURE * frame["fid_sd"]), "infinitely many": _figures(frame["inf"]),
            "its sd": _figures(frame["inf_sd"]), "its error": _figures(frame["inf"] - frame["inf"].iloc[-1]),
        })
        text += ["", f"## {c['name']}", "",
                 f"{c['images']}: {c['samples']:,} images, sha256 {c['images_sha256'][:16]}; extractor {c['extractor']}, sha256 "
                 f"{c['extractor_sha256'][:16]}; reference fashion-mnist {c['reference']}.", "",
                 shown.to_markdown(index=False, disable_numparse=True), "",
                 f"*Its error* is the distance from the extrapolation of all {c['samples']:,} images. Features of these took "
                 f"{cost['features_seconds']:.1f} s, all distances {cost['distances_seconds']:.1f} s, the process "
                 f"{cost['peak_rss_bytes'] / 2**30:.2f} GiB, on {row.environment['affinity']} cores of {row.environment['cpu']}."]
    return "\n".join(text) + "\n"


def _figures(values: pd.Series[float]) -> list[str]:
    return ["" if np.isnan(value) else f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}" for value in values]


def figure(studies: list[Row], path: Path) -> None:
    """FID and its extrapolation against n, a panel each set of images, with one standard deviation."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    fig, panels = plt.subplots(1, len(studies), squeeze=False, figsize=(4.2 * len(studies), 3.8), layout="constrained")
    for panel, row in zip(panels[0], studies, strict=True):
        frame = table(row)
        for offset, (name, colour, marker, label) in enumerate((("fid", plots.COLOURS[0], "o", "n images"),
                                                                ("inf", plots.COLOURS[1], "s", "extrapolated from n/2 and n"))):
            panel.errorbar(frame["n"] * (1 + 0.04 * offset), frame[name], frame[f"{name}_sd"], fmt=f"{marker}-", color=colour,
                           capsize=3, markersize=4, lw=1, label=label)
        panel.set(xscale="log", xlabel="images n", ylabel=f"FID[{row.config['extractor']}]")
        panel.set_title(row.config["name"], fontsize=10)
        panel.set_xticks(frame["n"], [f"{n:,}" for n in frame["n"]], rotation=60, fontsize=8)
        panel.minorticks_off()
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
    plots.save(fig, path)


def run(args: argparse.Namespace, command: str) -> None:
    """Measure what was asked for and write the report."""
    test = datasets.from_options(args, "fashion-mnist", fmnist_cnn.SHAPE, "test")
    sets = {HELD_OUT: (test.images, test.provenance)}
    for text in args.images:
        name, _, path = text.rpartition("=")
        require(bool(name and path) and name not in sets, "--images", text, "must be NAME=FILE.npy, every name once")
        images, least = read_samples(Path(path)), 2 * fmnist_cnn.WIDTH
        require(len(images) >= least, "--images", f"{text}, {len(images)} images", f"must be at least {least}")
        sets[name] = images, Path(path).name
    for name, (images, provenance) in sets.items():
        rows.append(args.out / "rows", study(name, images, provenance, args.seed))
    studies = newest(rows.read(args.out / "rows"))
    figure(studies, args.out / "figures" / "noise.png")
    with files.replacing(args.out / "noise.md") as file:
        file.write(render(studies, command).encode())
    print(f"report: {args.out / 'noise.md'}")


def main(argv: list[str] | None = None) -> int:
    """Command line; exit codes as `bench.run`'s."""
    p = argparse.ArgumentParser(prog="python -m bench.noise", description=(__doc__ or "").split("\n\n")[0])
    p.add_argument("--images", action="append", default=[], metavar="NAME=FILE.npy",
                   help="uint8 or floats in [-1, 1], (n, C, H, W), measured beside the held-out images; may be repeated")
    p.add_argument("--seed", type=int, default=0, help="of the parts")
    datasets.add_options(p)
    p.add_argument("--out", type=Path, default=ROOT / "results")
    argv = sys.argv[1:] if argv is None else argv
    args = p.parse_args(argv)
    return exit_code(lambda: run(args, shlex.join(["python", "-m", "bench.noise", *argv])))


if __name__ == "__main__":
    sys.exit(main())
