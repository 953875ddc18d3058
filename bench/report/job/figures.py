"""The PNG figures of one job's report, each with the words that stand for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from backends import order
from bench.data.pixels import to_uint8
from bench.pictures import plots
from bench.pictures.grids import grid
from bench.pictures.plots import COLOURS
from bench.records.rows import AnyRow, Row, of
from bench.records.values import Metric, Sample, Train
from bench.report.measures import calls, fast, label, sampler, seconds_per_image
from bench.sampling.cell import Cell

DASHES = ("-", "--", ":", "-.")
Images = Mapping[tuple[str, Cell], Path]  # backend, cell: the file, (n, C, H, W) float32


def curves(rows: list[AnyRow], folder: Path) -> list[tuple[Path, str]]:
    """The metric and seconds against S, and where fast solvers took part against network calls and seconds."""
    samples = of(rows, Sample)
    metrics = [r for r in of(rows, Metric) if r.backend not in ("real", "noise")]
    name = metrics[0].values["metric"] if metrics else "FID"

    def line(r: AnyRow) -> tuple[str, str, str]:
        return r.backend, f"{sampler(r)}, " if fast(samples) else "", r.config["eta"]

    def fids(r: Row[Sample]) -> list[float]:
        return [m.values["fid"] for m in metrics if (line(m), m.config["steps"]) == (line(r), r.config["steps"])]

    wanted: list[tuple[str, str, str, Callable[[Row[Sample]], float], Callable[[Row[Sample]], list[float]]]] = [
        ("metric.png", "sampling steps S", name, _steps, fids),
        ("seconds.png", "sampling steps S", "seconds per image", _steps, lambda r: [seconds_per_image(r)])]
    if fast(samples):
        wanted += [("calls.png", "network calls for an image", name, calls, fids),
                   ("cost.png", "seconds for an image", name, seconds_per_image, fids)]
    series = sorted(sorted({line(r) for r in samples}, reverse=True), key=lambda which: order(which[0]))
    # With more series than colours a colour is that of a sampler, and a backend has its dashes.
    many, kinds = len(series) > len(COLOURS), sorted({which[1:] for which in series})
    names = list(dict.fromkeys(which[0] for which in series))
    made = []
    for file, xlabel, ylabel, x, ys in wanted:
        points = {which: sorted((x(r), y) for r in samples if line(r) == which for y in ys(r)) for which in series}
        if not any(points.values()):
            continue  # nothing was measured, as with --metric none
        figure, axes = plots.plot(xlabel, ylabel, (8.5, 4) if many else (6, 4))
        for i, which in enumerate(series):
            # Backends that agree lie on one another: the later one is drawn smaller, on top.
            rank = names.index(which[0]) if many else i
            colour, dashes = (kinds.index(which[1:]), DASHES[rank % 4]) if many else (i, "-")
            axes.plot(*zip(*points[which], strict=True), marker="os^DvxP"[colour % 7], markersize=max(9 - 3 * rank, 3),
                      lw=max(4 - 2 * rank, 1), ls=dashes, color=COLOURS[colour % 6],
                      label=f"{label(which[0])}, {which[1]}eta {which[2]}") if points[which] else None
        if ys is fids:
            for bound, style in (("real", ":"), ("noise", "--")):
                for limit in (limit for limit in of(rows, Metric) if limit.backend == bound):
                    axes.axhline(limit.values["fid"], ls=style, color="black", lw=1,
                                 label={"real": "floor: real images", "noise": "ceiling: noise"}[bound])
        for axis in "xy":
            plots.logarithmic(axes, axis)
        if x in (calls, _steps):
            plots.mark(axes, {x(r) for r in samples})
        figure.legend(loc="outside right upper") if many else axes.legend()
        plots.save(figure, folder / file)
        made.append((folder / file, f"{ylabel} against {xlabel.removeprefix('sampling steps ')}"))
    return made


def losses(rows: list[AnyRow], folder: Path) -> list[tuple[Path, str]]:
    """The losses of the short training by which the backends are compared."""
    train = of(rows, Train, stage="train")
    if not train:
        return []
    figure, axes = plots.plot("training step", "loss")
    for i, row in enumerate(train):
        axes.plot(row.values["losses"], color=COLOURS[i % 6], lw=max(4 - 2 * i, 1), label=label(row.backend))
    axes.legend()
    plots.save(figure, folder / "losses.png")
    return [(folder / "losses.png", "training losses of the backends from the same weights and batches")]


def grids(images: Images, folder: Path) -> list[tuple[Path, str]]:
    """The first images of every cell, a column a backend."""
    if not images:
        return []
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    names = sorted({k[0] for k in images}, key=order)
    cells = sorted({cell for _, cell in images}, key=lambda cell: (cell.steps, cell.sampler or "", str(cell.eta)))
    figure, axes = plt.subplots(len(cells), len(names), squeeze=False, layout="constrained",
                                figsize=(4.2 * len(names), 2.3 * len(cells)))
    for row, cell in enumerate(cells):
        for column, name in enumerate(names):
            ax = axes[row][column]
            ax.axis("off")
            if (name, cell) in images:
                shown = to_uint8(np.load(images[name, cell], mmap_mode="r")[:32])
                ax.imshow(grid(shown, 8), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
                what = (label(name), cell.sampler, f"S = {cell.steps}", f"eta = {cell.eta}")
                ax.set_title(", ".join(filter(None, what)), fontsize=10)
    plots.save(figure, folder / "samples.png")
    return [(folder / "samples.png", "samples per backend and step count from the same x_T")]


def _steps(row: Row[Sample]) -> int:
    return int(row.config["steps"])
