"""The page of the study of scaling: `results/scaling.md`, from rows alone; its last part extrapolates to the paper's grid."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from backends import order
from bench import files
from bench.pictures.plots import COLOURS
from bench.presets import PRESETS
from bench.records.rows import AnyRow, Row, of
from bench.records.values import Sample, Timing, Train
from bench.report.measures import REPRODUCED, UNKNOWN, hardware, label, peak_memory, seconds_per_image, unfit, unit_seconds
from bench.timing import flops
from bench.weights.tensor_files import weights_hash
from reference import weights
from reference.config import ModelConfig

UNITS = {"batch": "images at once", "steps": "sampling steps S", "size": "image side, pixels", "width": "first width, channels",
         "threads": "CPU threads"}
LINEAR = 0.25  # how far from a line a time may be: the spread of medians of 10 blocks on a machine in use
IMAGES, STEPS = 50_000, 1000
GPUS = (1, 8, 64)
PEAK = 67e12  # FLOP/s, float32 without tensor cores, of one H100 or H200 SXM: NVIDIA's data sheets
SHARES = (0.1, 0.4)  # of the peak that is reached; small networks reach little, for a kernel's launch outlasts its work
BATCH = 500  # images that one GPU draws at once


def table(found: list[Row[Timing]], axis: str) -> pd.DataFrame:
    """One line per value of the axis: milliseconds and peak memory of each backend and workload."""
    lines: dict[int, dict[str, Any]] = {}
    for r in (r for r in found if r.config["axis"] == axis):
        who = f"{r.backend} {r.config['workload']}"
        line = lines.setdefault(r.config["value"], {UNITS[axis]: r.config["value"]})
        if axis == "width":
            line["M parameters"] = f"{weights.count(ModelConfig.from_dict(r.config['model'])) / 1e6:.2f}"
        line |= {f"{who}, ms": f"{1e3 * seconds(r):.4g}", f"{who}, MB": f"{peak_memory(r) / 1e6:.0f}"}
    return pd.DataFrame([lines[value] for value in sorted(lines)]).fillna("")


def seconds(row: Row[Timing]) -> float:
    """Median time of one unit."""
    return float(np.median(unit_seconds(row)))


def line_fit(found: list[Row[Timing]], axis: str, workload: str, backend: str) -> tuple[float, float, float]:
    """(a, b, largest relative deviation) of time = a + b value, weighted so that each point counts by its relative error."""
    here = [r for r in found if (r.config["axis"], r.config["workload"], r.backend) == (axis, workload, backend)]
    x, y = np.array([r.config["value"] for r in here], float), np.array([seconds(r) for r in here])
    b, a = np.polyfit(x, y, 1, w=1 / y)
    return float(a), float(b), float(np.abs((a + b * x) / y - 1).max())


def findings(found: list[Row[Timing]], axis: str) -> list[str]:
    """What the points of an axis say."""
    out = []
    for backend in sorted({r.backend for r in found}, key=order):
        here = [r for r in found if r.backend == backend and r.config["axis"] == axis]
        call = [seconds(r) for r in here if r.config["workload"] == "network call"]
        if axis == "steps" and len(call) == 1 and len(here) > 3:
            a, b, off = line_fit(found, axis, "sampling", backend)
            overhead = b - call[0]
            out.append(f"- {backend}: S steps take {1e3 * a:.3g} ms + S x {1e3 * b:.4g} ms, within {100 * off:.0f}% at every S. "
                       f"A network call takes {1e3 * call[0]:.4g} ms: "
                       + (f"the overhead per step is {1e3 * overhead:.3g} ms." if overhead > off * b else
                          f"no overhead per step shows ({1e3 * overhead:.3g} ms).")
                       + f" Time grows linearly with S (DDIM paper, figure 4): **{REPRODUCED if off <= LINEAR else UNKNOWN}**; a "
                       f"line within {LINEAR:.0%} at every S is called so.")
        if axis == "batch" and len(call) > 2:
            a, b, off = line_fit(found, axis, "network call", backend)
            out.append(f"- {backend}: a network call takes {1e3 * a:.3g} ms + {1e3 * b:.4g} ms per image, within {100 * off:.0f}% "
                       "at every batch.")
    return out


def figure(found: list[Row[Timing]], path: Path) -> None:
    """Time and memory against each axis, a line of two panels each, all logarithmic: wide enough to be read on a page."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogFormatter, NullLocator

    axes = [axis for axis in UNITS if any(r.config["axis"] == axis for r in found)]
    fig, panels = plt.subplots(len(axes), 2, squeeze=False, figsize=(8, 2.7 * len(axes) + 0.6), layout="constrained")
    series = sorted(sorted({(r.backend, r.config["workload"]) for r in found}, reverse=True), key=lambda line: order(line[0]))
    for pair, axis in zip(panels, axes, strict=True):
        for panel, (quantity, value) in zip(pair, (("ms", lambda r: 1e3 * seconds(r)),
                                                 ("peak memory, MB", lambda r: peak_memory(r) / 1e6)), strict=True):
            for i, (backend, workload) in enumerate(series):
                here = sorted((r.config["value"], value(r)) for r in found if r.config["axis"] == axis
                              and (r.backend, r.config["workload"]) == (backend, workload))
                if here:
                    panel.plot(*zip(*here, strict=True), marker="os^Dvx"[i % 6], color=COLOURS[i % 6],
                               label=f"{backend}, {workload}")
            panel.set(xscale="log", yscale="log", xlabel=UNITS[axis], ylabel=quantity)
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


def newest(every: list[AnyRow]) -> list[Row[Timing]]:
    """The rows of the points that were measured last, in the order of their axes."""
    points = {(r.config["axis"], r.config["value"], r.config["workload"], r.backend): r
              for r in of(every, Timing, stage="scaling")}
    return sorted(points.values(), key=lambda r: list(UNITS).index(r.config["axis"]))


def render(found: list[Row[Timing]], command: str, every: list[AnyRow]) -> str:
    """`scaling.md`: the points `found`, and what every row of the results folder says of larger jobs."""
    text = ["# Scaling", "",
            f"Made by `{command}` on {hardware(found[0])}, preset {found[0].preset}, tuned, float32. One quantity varies at a "
            "time; every point is a process of its own. Times are medians of 10 blocks after a warm-up. Memory is the process's "
            "peak, the framework itself included, or the framework's counter on a GPU. Raw blocks: "
            "[rows/timing.jsonl](rows/timing.jsonl).",
            *_stale(found), "", "![scaling](figures/scaling.png)"]
    for axis in UNITS:
        if any(r.config["axis"] == axis for r in found):
            text += ["", f"## {axis.capitalize()}", "", table(found, axis).to_markdown(index=False, disable_numparse=True), "",
                     *findings(found, axis)]
    return "\n".join([*text, *extrapolation(every)]) + "\n"


def _stale(found: list[Row[Timing]]) -> list[str]:
    """What to say where the preset has another network by now: its seeded weights have another hash."""
    then = {r.config["weights"] for r in found if "weights" in r.config and r.config["axis"] not in ("size", "width")}
    preset = PRESETS.get(found[0].preset)
    now = weights_hash(weights.initialise(preset.model, 0)) if preset and then else None
    return ["", f"Stale: the network of preset {found[0].preset} has changed since."] if then - {now} else []


def extrapolation(rows: Iterable[AnyRow]) -> list[str]:
    """Lines of Markdown, from every row of a results folder."""
    found = list(rows)
    return [*_processes(found), *_extrapolation(found)]


def processes_table(rows: Iterable[AnyRow]) -> pd.DataFrame:
    """Times of the jobs of which the same work was done by more than one number of processes, the newest row of each."""
    groups: dict[str, dict[int, tuple[AnyRow, float]]] = {}
    for row in rows:
        same = {name: value for name, value in row.config.items() if name not in ("processes", "provenance")}
        for seconds in (*map(seconds_per_image, of([row], Sample)), *map(_seconds_per_step, of([row], Train))):
            groups.setdefault(f"{row.kind} {sorted(same.items(), key=str)}", {})[row.config.get("processes", 1)] = row, seconds
    lines: list[dict[str, Any]] = []
    for group in groups.values():
        if len(group) < 2:
            continue
        least, alone = min(group), group[min(group)][1]
        for n, (row, seconds) in sorted(group.items()):
            c = row.config
            work = f"sample S = {c['steps']}, batch {c['batch_size']}" if row.kind == "sample" else \
                f"training step, batch {c['batch_size']}"
            lines.append({"backend": label(row.backend), "work": work, "device": c["device"], "threads of each": c["threads"],
                          "processes": n, "ms": f"{1e3 * seconds:.4g}", "speed-up": f"{alone / seconds:.2f}",
                          "of the ideal": f"{alone / seconds / (n / least):.0%}"})
    return pd.DataFrame(lines)


def _seconds_per_step(row: Row[Train]) -> float:
    return row.values["seconds"] / max(1, len(row.values["losses"]) - row.values.get("starts", 1))


def paper_hours(model: ModelConfig, gpus: int, share: float) -> float:
    """Hours for the images on so many GPUs: rounds of whole batches, for processes share out batches and exchange nothing."""
    rounds = math.ceil(math.ceil(IMAGES / BATCH) / gpus)
    return rounds * BATCH * STEPS * flops.forward(model) / (PEAK * share) / 3600


def _processes(rows: list[AnyRow]) -> list[str]:
    table = processes_table(rows)
    text = ["", "## Processes", "", "Each training step exchanges one message the size of the weights; drawing exchanges nothing. "
            "The same command with and without a launcher adds to this table: "
            "`torchrun --nproc-per-node N bench/run.py --threads T`, "
            "`msrun --worker_num=N --local_worker_num=N --join=True bench/run.py --threads T`. Processes that share the cores of "
            "one machine can't gain more than its idle cores.", ""]
    return [*text, "No two rows here differ in the number of processes alone." if table.empty else
            table.to_markdown(index=False, disable_numparse=True)]


def _extrapolation(rows: list[AnyRow]) -> list[str]:
    text = ["", f"## {IMAGES:,} images at S = {STEPS}", ""]
    found: dict[tuple[str, str], list[float]] = {}
    for row in of(rows, Sample):
        if row.config["steps"] >= 50 and not unfit([row]):
            where = "cpu" if row.config["device"] == "cpu" else str(row.environment.get("gpu") or row.config["device"])
            found.setdefault((row.backend, f"{where}, {row.preset}"), []).append(seconds_per_image(row) / row.config["steps"])
    for (backend, where), each in sorted(sorted(found.items(), reverse=True), key=lambda item: order(item[0][0])):
        seconds = float(np.median(each))
        text.append(f"- measured, {label(backend)} on {where}: {1e3 * seconds:.3g} ms for an image and a step, in the median of "
                    f"the sampling cells with S of 50 or more; {seconds * IMAGES * STEPS / 3600:.3g} hours for all on that machine")
    lines = []
    for name in ("quick", "ddpm-cifar10"):
        model = PRESETS[name].model
        for share in SHARES:
            hours = {f"{n} GPU" + "s" * (n > 1): f"{paper_hours(model, n, share):.3g} h" for n in GPUS}
            lines.append({"network": name, "GFLOP an image and step": f"{flops.forward(model) / 1e9:.3g}",
                          "of the peak": f"{share:.0%}", **hours})
    return [*text, "", f"On paper, not measured: FLOPs alone, in float32, on GPUs of {PEAK / 1e12:.0f} TFLOP/s (H100 and H200 SXM, "
            f"data sheet) of which the given part is reached. Each GPU draws whole batches of {BATCH}, "
            f"{math.ceil(IMAGES / BATCH)} in all, and exchanges nothing; "
            "64 GPUs take two rounds, as 50 would. Starting and the metric come on top.", "",
            pd.DataFrame(lines).to_markdown(index=False, disable_numparse=True)]
