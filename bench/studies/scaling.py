"""How time and memory grow: `python -m bench.studies.scaling --axes batch,steps,size,width,threads`.

One quantity is varied at a time around the network of `--preset`. Every point is a fresh process, for its peak memory to be its
own, and a cell: an interrupted study goes on from its finished points. Rows, a figure and `scaling.md` go to `--out`.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import backends
from bench import files
from bench.cli.main import exit_code
from bench.paths import ROOT
from bench.presets import PRESETS, Preset, get_preset
from bench.records import environment, rows
from bench.records.cells import Cells
from bench.report import scaling_page
from bench.studies.speed import Contender, Speed
from bench.timing import blocks
from bench.workers.errors import WorkerError
from reference import weights
from reference.config import ConfigError, require

POWERS = tuple(2**n for n in range(14))
AXES: dict[str, Callable[[str, int], tuple[int, ...]]] = {  # what is varied, over these values, on this device with so many threads
    "batch": lambda device, threads: POWERS[:9:2] if device == "cpu" else POWERS,
    "steps": lambda device, threads: (1, 2, 5, 10, 25, 50),
    "size": lambda device, threads: (16, 28, 32, 64) if device == "cpu" else (16, 32, 64, 128),
    "width": lambda device, threads: (8, 16, 32, 64) if device == "cpu" else (32, 64, 128, 256),
    "threads": lambda device, threads: tuple(n for n in POWERS if n < threads) + (threads,),
}
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


def points(axes: list[str], chosen: list[str], preset: Preset, device: str, threads: int) -> Iterator[Point]:
    """All points of a study; sampling is timed against its steps alone, beside the bare network call."""
    for axis in axes:
        for value in AXES[axis](device.partition(":")[0], threads):
            for backend in chosen:
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


def run(args: argparse.Namespace, command: str) -> int:
    """The study; returns the exit code."""
    axes = args.axes.split(",")
    for axis in axes:
        require(axis in AXES, "--axes", axis, f"must be among {', '.join(AXES)}")
    require(args.threads >= 1, "--threads", args.threads, "must be at least 1")
    preset, chosen = get_preset(args.preset), list(backends.choose(args.backends)[0])
    wanted = list(points(axes, chosen, preset, args.device, args.threads))
    with tempfile.TemporaryDirectory(prefix="ddim-bench-") as logs:
        study = Study(preset, args.device, args.threads, Cells(args.out, args.fresh), Path(logs))
        for p in tqdm(wanted, desc="points", leave=False):
            study.point(p)
    print("\n".join(study.missing))
    require(len(study.rows) > 0, "points", len(wanted), "none could be measured")
    (args.out / "figures").mkdir(exist_ok=True)
    scaling_page.figure(study.rows, args.out / "figures" / "scaling.png")
    with files.replacing(args.out / "scaling.md") as file:
        text = [scaling_page.render(study.rows, command), *scaling_page.extrapolation(rows.read(args.out / "rows"))]
        file.write("\n".join(text).encode() + b"\n")
    print(f"report: {args.out / 'scaling.md'}")
    return 3 if study.missing else 0


def main(argv: list[str] | None = None) -> int:
    """Command line; exit codes as `bench.run`'s."""
    p = argparse.ArgumentParser(prog="python -m bench.studies.scaling", description=(__doc__ or "").split("\n\n")[0])
    p.add_argument("--axes", default=",".join(AXES), help=f"of {', '.join(AXES)}")
    p.add_argument("--preset", default="quick", help=f"of {', '.join(PRESETS)}")
    p.add_argument("--backends", help="default: all that are installed")
    p.add_argument("--device", default="cpu")
    p.add_argument("--threads", type=int, default=environment.usable_cores())
    p.add_argument("--out", type=Path, default=ROOT / "results")
    p.add_argument("--fresh", action="store_true", help="do finished points again")
    argv = sys.argv[1:] if argv is None else argv
    args = p.parse_args(argv)
    return exit_code(lambda: run(args, shlex.join(["python", "-m", "bench.studies.scaling", *argv])), "the finished points")


if __name__ == "__main__":
    sys.exit(main())
