"""What the rows say of more processes, and what they foretell for 50,000 images at S = 1000: the last part of `scaling.md`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from bench.presets import PRESETS
from bench.records.rows import Row
from bench.report import label, seconds_per_image
from bench.timing import flops
from reference.config import ModelConfig

IMAGES, STEPS = 50_000, 1000
GPUS = (1, 8, 64)
PEAK = 67e12  # FLOP/s, float32 without tensor cores, of one H100 or H200 SXM: NVIDIA's data sheets
SHARES = (0.1, 0.4)  # of the peak that is reached; small networks reach little, for a kernel's launch outlasts its work
BATCH = 500  # images that one GPU draws at once


def sections(rows: Iterable[Row]) -> list[str]:
    """Lines of Markdown, from every row of a results folder."""
    found = list(rows)
    return [*_processes(found), *_extrapolation(found)]


def processes_table(rows: Iterable[Row]) -> pd.DataFrame:
    """Times of the jobs of which the same work was done by more than one number of processes, the newest row of each."""
    groups: dict[str, dict[int, Row]] = {}
    for row in rows:
        if row.kind in ("train", "sample"):
            same = {name: value for name, value in row.config.items() if name not in ("processes", "provenance")}
            groups.setdefault(f"{row.kind} {sorted(same.items(), key=str)}", {})[row.config.get("processes", 1)] = row
    lines: list[dict[str, Any]] = []
    for group in groups.values():
        if len(group) < 2:
            continue
        times = {n: _seconds(row) for n, row in sorted(group.items())}
        alone = next(iter(times.items()))
        for n, seconds in times.items():
            c = group[n].config
            work = f"sample S = {c['steps']}, batch {c['batch_size']}" if group[n].kind == "sample" else \
                f"training step, batch {c['batch_size']}"
            lines.append({"backend": label(group[n].backend), "work": work, "device": c["device"], "threads of each": c["threads"],
                          "processes": n, "ms": f"{1e3 * seconds:.4g}", "speed-up": f"{alone[1] / seconds:.2f}",
                          "of the ideal": f"{alone[1] / seconds / (n / alone[0]):.0%}"})
    return pd.DataFrame(lines)


def _seconds(row: Row) -> float:
    """Of a training step, or of an image."""
    if row.kind == "sample":
        return seconds_per_image(row)
    return row.values["seconds"] / max(1, len(row.values["losses"]) - row.values.get("starts", 1))


def paper_hours(model: ModelConfig, gpus: int, share: float) -> float:
    """Hours for the images on so many GPUs: rounds of whole batches, for processes share out batches and exchange nothing."""
    rounds = math.ceil(math.ceil(IMAGES / BATCH) / gpus)
    return rounds * BATCH * STEPS * flops.forward(model) / (PEAK * share) / 3600


def _processes(rows: list[Row]) -> list[str]:
    table = processes_table(rows)
    text = ["", "## Processes", "", "Each training step exchanges one message the size of the weights; drawing exchanges nothing. "
            "The same command with and without a launcher adds to this table: "
            "`torchrun --nproc-per-node N bench/run.py --threads T`, "
            "`msrun --worker_num=N --local_worker_num=N --join=True bench/run.py --threads T`. Processes that share the cores of "
            "one machine can't gain more than its idle cores.", ""]
    return [*text, "No two rows here differ in the number of processes alone." if table.empty else
            table.to_markdown(index=False, disable_numparse=True)]


def _extrapolation(rows: list[Row]) -> list[str]:
    text = ["", f"## {IMAGES:,} images at S = {STEPS}", ""]
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if row.kind == "sample" and row.config["steps"] >= 50:
            where = "cpu" if row.config["device"] == "cpu" else str(row.environment.get("gpu") or row.config["device"])
            found.setdefault((row.backend, f"{where}, {row.preset}"), []).append(seconds_per_image(row) / row.config["steps"])
    for (backend, where), each in sorted(found.items(), reverse=True):
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
