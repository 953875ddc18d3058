"""How time and memory grow: `python -m bench.scaling --axes batch,steps,size,width,threads`.

One quantity is varied at a time around the network of `--preset`. Every point is a fresh process, for its peak memory to be its
own, and a cell: an interrupted study goes on from its finished points. Rows, a figure and `scaling.md` go to `--out`.
"""

from __future__ import annotations

import argparse
import math
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from bench import extrapolation, files
from bench.command_line import exit_code
from bench.paths import ROOT
from bench.pictures.plots import COLOURS
from bench.presets import PRESETS, Preset, get_preset
from bench.records import rows
from bench.records.cells import Cells
from bench.records.rows import Row
from bench.run import choose_backends
from bench.speed import Contender, Speed
from bench.speed_report import hardware, peak_memory, unit_seconds
from bench.timing import blocks
from bench.workers.errors import WorkerError
from reference import weights
from reference.config import ConfigError, ModelConfig, require

POWERS = tuple(2**n for n in range(14))
AXES: dict[str, Callable[[str, int], tuple[int, ...]]] = {  # what is varied, over these values, on this device with so many threads
    "batch": lambda device, threads: POWERS[:9:2] if device == "cpu" else POWERS,
    "steps": lambda device, threads: (1, 2, 5, 10, 25, 50),
    "size": lambda device, threads: (16, 28, 32, 64) if device == "cpu" else (16, 32, 64, 128),
    "width": lambda device, threads: (8, 16, 32, 64) if device == "cpu" else (32, 64, 128, 256),
    "threads": lambda device, threads: tuple(n for n in POWERS if n < threads) + (threads,),
}
UNITS = {"batch": "images at once", "steps": "sampling steps S", "size": "image side, pixels", "width": "first width, channels",
         "threads": "CPU threads"}
WORK = {"training step": "time_train", "network call": "time_forward", "sampling": "time_path"}


@dataclass(frozen=True)
class Point:
    """One measurement: a backend doing one kind of work, with one quantity at one value."""

    axis: str
    value: int
    workload: str
    backend: str
    batch: int
    threads: int
    preset: Preset
    steps: int = 10


def points(axes: list[str], backends: list[str], preset: Preset, device: str, threads: int) -> Iterator[Point]:
    """All points of a study; sampling is timed against its steps alone, beside the bare network call."""
    for axis in axes:
        for value in AXES[axis](device.partition(":")[0], threads):
            for backend in backends:
                point = Point(axis, value, "training step", backend, preset.batch_size, threads, preset)
                if axis == "batch":
                    point = replace(point, batch=value)
                if axis == "threads":
                    point = replace(point, threads=value)
                if axis in ("size", "width"):
                    point = replace(point, preset=varied(preset, axis, value))
                if axis == "steps":
                    yield replace(point, workload="sampling", steps=value)
                    if value == 1:
                        yield replace(point, workload="network call")
                else:
                    yield point
                    yield replace(point, workload="network call")


def varied(preset: Preset, axis: str, value: int) -> Preset:
    """The preset with images of another side, or with all widths in proportion to another first one."""
    model = preset.model
    if axis == "size":
        return replace(preset, model=replace(model, sample_size=value))
    first, groups = model.block_out_channels[0], model.norm_num_groups
    widths = tuple(value * width // first for width in model.block_out_channels)
    return replace(preset, model=replace(model, block_out_channels=widths, norm_num_groups=math.gcd(value // 2, groups)))


class Study(Speed):
    """The points of one command."""

    def point(self, p: Point) -> None:
        """Time one point, or read it back."""
        self.preset, self.threads = p.preset, p.threads
        c = Contender(p.backend, "tuned", "float32")
        key = self.key(c, p.workload, p.batch, axis=p.axis, value=p.value, steps=p.steps) | {"stage": "scaling"}
        try:
            self._keep(c, key, {} if self.cells.done("speed", key) else self._time_point(c, p))
        except (WorkerError, ConfigError) as error:
            self.missing.append(f"missing: {p.backend}, {p.workload}, {p.axis} = {p.value}: {error}")

    def _time_point(self, c: Contender, p: Point) -> dict[str, Any]:
        args: dict[str, Any] = {"batch_size": p.batch, "seed": 0}
        with tempfile.TemporaryDirectory(prefix="ddim-bench-") as folder, self.worker(c) as worker:
            np.savez(f"{folder}/weights.npz", **weights.initialise(p.preset.model, 0))
            worker.call("load", weights=f"{folder}/weights.npz", timeout=self.timeout)
            idle = worker.call("info")["peak_rss_bytes"]
            if p.workload == "training step":
                np.save(f"{folder}/images.npy", self._images())
                args["images"] = f"{folder}/images.npy"
            if p.workload == "sampling":
                args["steps"] = p.steps

            def block(units: int) -> float:
                return worker.call(WORK[p.workload], units=units, timeout=self.timeout, **args)["seconds"]

            raw = blocks.time_blocks({"": block}, cap_seconds=20)[""]
            return raw | {"idle_rss_bytes": idle} | worker.call("info")


def table(found: list[Row], axis: str) -> pd.DataFrame:
    """One line per value of the axis: milliseconds and peak memory of each backend and workload."""
    lines: dict[int, dict[str, Any]] = {}
    for r in (r for r in found if r.config["axis"] == axis):
        who = f"{r.backend} {r.config['workload']}"
        line = lines.setdefault(r.config["value"], {UNITS[axis]: r.config["value"]})
        if axis == "width":
            line["M parameters"] = f"{weights.count(ModelConfig.from_dict(r.config['model'])) / 1e6:.2f}"
        line |= {f"{who}, ms": f"{1e3 * seconds(r):.4g}", f"{who}, MB": f"{peak_memory(r) / 1e6:.0f}"}
    return pd.DataFrame([lines[value] for value in sorted(lines)]).fillna("")


def seconds(row: Row) -> float:
    """Median time of one unit."""
    return float(np.median(unit_seconds(row)))


def line_fit(found: list[Row], axis: str, workload: str, backend: str) -> tuple[float, float, float]:
    """(a, b, largest relative deviation) of time = a + b value, weighted so that each point counts by its relative error."""
    here = [r for r in found if (r.config["axis"], r.config["workload"], r.backend) == (axis, workload, backend)]
    x, y = np.array([r.config["value"] for r in here], float), np.array([seconds(r) for r in here])
    b, a = np.polyfit(x, y, 1, w=1 / y)
    return float(a), float(b), float(np.abs((a + b * x) / y - 1).max())


def findings(found: list[Row], axis: str) -> list[str]:
    """What the points of an axis say."""
    out = []
    for backend in sorted({r.backend for r in found}, reverse=True):
        here = [r for r in found if r.backend == backend and r.config["axis"] == axis]
        call = [seconds(r) for r in here if r.config["workload"] == "network call"]
        if axis == "steps" and len(call) == 1 and len(here) > 3:
            a, b, off = line_fit(found, axis, "sampling", backend)
            overhead = b - call[0]
            out.append(f"- {backend}: S steps take {1e3 * a:.3g} ms + S x {1e3 * b:.4g} ms, within {100 * off:.0f}% at every S. "
                       f"A network call takes {1e3 * call[0]:.4g} ms: "
                       + (f"the overhead per step is {1e3 * overhead:.3g} ms." if overhead > off * b else
                          f"no overhead per step shows ({1e3 * overhead:.3g} ms)."))
        if axis == "batch" and len(call) > 2:
            a, b, off = line_fit(found, axis, "network call", backend)
            out.append(f"- {backend}: a network call takes {1e3 * a:.3g} ms + {1e3 * b:.4g} ms per image, within {100 * off:.0f}% "
                       "at every batch.")
    return out


def figure(found: list[Row], path: Path) -> None:
    """Time and memory against each axis, both logarithmic."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogFormatter, NullLocator

    axes = [axis for axis in AXES if any(r.config["axis"] == axis for r in found)]
    fig, panels = plt.subplots(2, len(axes), squeeze=False, figsize=(3.6 * len(axes), 6), layout="constrained")
    series = sorted({(r.backend, r.config["workload"]) for r in found}, reverse=True)
    for column, axis in enumerate(axes):
        for row, (label, value) in enumerate((("ms", lambda r: 1e3 * seconds(r)),
                                              ("peak memory, MB", lambda r: peak_memory(r) / 1e6))):
            panel = panels[row][column]
            for i, (backend, workload) in enumerate(series):
                here = sorted((r.config["value"], value(r)) for r in found if r.config["axis"] == axis
                              and (r.backend, r.config["workload"]) == (backend, workload))
                if here:
                    panel.plot(*zip(*here, strict=True), marker="os^Dvx"[i % 6], color=COLOURS[i % 6],
                               label=f"{backend}, {workload}")
            panel.set(xscale="log", yscale="log", xlabel=UNITS[axis], ylabel=label)
            values = sorted({r.config["value"] for r in found if r.config["axis"] == axis})
            panel.set_xticks(values, values, minor=False)
            panel.xaxis.set_minor_locator(NullLocator())
            for which in (panel.yaxis.set_major_formatter, panel.yaxis.set_minor_formatter):
                which(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
            panel.grid(alpha=0.3)
    handles = {name: line for panel in panels.flat for line, name in zip(*panel.get_legend_handles_labels(), strict=True)}
    fig.legend(handles.values(), handles, loc="outside lower center", ncols=3)
    with files.replacing(path) as out:
        fig.savefig(out, format="png", dpi=110)
    plt.close(fig)


def render(found: list[Row], command: str) -> str:
    """`scaling.md`."""
    text = ["# Scaling", "",
            f"Made by `{command}` on {hardware(found[0])}, preset {found[0].preset}, tuned, float32. One quantity varies at a "
            "time; every point is a process of its own. Times are medians of 10 blocks after a warm-up. Memory is the process's "
            "peak, the framework itself included, or the framework's counter on a GPU. Raw blocks: "
            "[rows/timing.jsonl](rows/timing.jsonl).",
            "", "![scaling](figures/scaling.png)"]
    for axis in AXES:
        if any(r.config["axis"] == axis for r in found):
            text += ["", f"## {axis.capitalize()}", "", table(found, axis).to_markdown(index=False, disable_numparse=True), "",
                     *findings(found, axis)]
    return "\n".join(text).rstrip() + "\n"


def run(args: argparse.Namespace, command: str) -> int:
    """The study; returns the exit code."""
    axes = args.axes.split(",")
    for axis in axes:
        require(axis in AXES, "--axes", axis, f"must be among {', '.join(AXES)}")
    require(args.threads >= 1, "--threads", args.threads, "must be at least 1")
    preset, chosen = get_preset(args.preset), list(choose_backends(args.backends)[0])
    wanted = list(points(axes, chosen, preset, args.device, args.threads))
    with tempfile.TemporaryDirectory(prefix="ddim-bench-") as logs:
        study = Study(preset, args.device, args.threads, Cells(args.out, args.fresh), Path(logs))
        for p in tqdm(wanted, desc="points", leave=False):
            study.point(p)
    print("\n".join(study.missing))
    require(len(study.rows) > 0, "points", len(wanted), "none could be measured")
    (args.out / "figures").mkdir(exist_ok=True)
    figure(study.rows, args.out / "figures" / "scaling.png")
    with files.replacing(args.out / "scaling.md") as file:
        file.write("\n".join([render(study.rows, command), *extrapolation.sections(rows.read(args.out / "rows"))]).encode() + b"\n")
    print(f"report: {args.out / 'scaling.md'}")
    return 3 if study.missing else 0


def main(argv: list[str] | None = None) -> int:
    """Command line; exit codes as `bench.run`'s."""
    p = argparse.ArgumentParser(prog="python -m bench.scaling", description=(__doc__ or "").split("\n\n")[0])
    p.add_argument("--axes", default=",".join(AXES), help=f"of {', '.join(AXES)}")
    p.add_argument("--preset", default="quick", help=f"of {', '.join(PRESETS)}")
    p.add_argument("--backends", help="default: all that are installed")
    p.add_argument("--device", default="cpu")
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--out", type=Path, default=ROOT / "results")
    p.add_argument("--fresh", action="store_true", help="do finished points again")
    argv = sys.argv[1:] if argv is None else argv
    args = p.parse_args(argv)
    return exit_code(lambda: run(args, shlex.join(["python", "-m", "bench.scaling", *argv])), "the finished points")


if __name__ == "__main__":
    sys.exit(main())
