"""The first lines of the main job: what is done, by whom, where results go, how many cells, about how long.

They are printed before any worker starts, so before any framework is loaded.
"""

from __future__ import annotations

from pathlib import Path

from bench.job.job import Job
from bench.job.timing import spent
from bench.paths import printable
from bench.records import environment, rows
from bench.records.agenda import Agenda
from bench.records.cells import Cells
from bench.records.rows import of
from bench.records.values import Checks, Metric, Sample, Timing, Train
from bench.report.measures import calls, cores, label
from bench.terminal import about, coloured
from bench.timing import flops


def agenda(job: Job, cells: Cells, table: bool) -> Agenda:
    """What is ahead, with how long such cells took on this machine according to the rows of the same folder."""
    out, here = Agenda(job.agenda(cells, table)), _machine(environment.describe())
    alike = {name: job.key("")[name] for name in ("model", "device", "dtype", "threads", "processes")}
    found = [row for row in rows.read(cells.rows_folder) if "cell_seconds" in row.environment and _machine(row.environment) == here
             and (row.kind == "metric" or alike.items() <= row.config.items())]

    def seconds(row: rows.AnyRow) -> float:
        return float(row.environment["cell_seconds"])

    for drawn in of(found, Sample):
        out.took("sample", drawn.backend, calls(drawn) * drawn.values["images"], seconds(drawn))
    for trained in of(found, Train):
        images = trained.config["batch_size"] * trained.config["train_steps"]
        out.took("train", trained.backend, flops.TRAINING * images, seconds(trained))
    for measured in of(found, Metric):
        out.took("metric", measured.backend, 0, seconds(measured))
    for checked in of(found, Checks):
        if (stage := checked.config["stage"]) in ("oracle", "path", "timed", "determinism"):
            out.took(stage, checked.backend if stage == "path" else checked.backend.split()[0], 0, seconds(checked))
    for timed in of(found, Timing, stage="timing"):
        out.took("timing", "", 0, spent(timed.values) * len(job.backends))
    return out


def lines(job: Job, ahead: Agenda, out: Path, table: str | None) -> list[str]:
    """What is printed. Without earlier cells of this machine the work is said, which is the same on every machine."""
    n, steps = len(ahead.cells), sorted({cell.steps for cell in job.all_cells})
    done, passes = sum(cell.done for cell in ahead.cells), sum(cell.passes for cell in ahead.cells if not cell.done)
    seconds = ahead.seconds_left()
    pages = "rows, README.md, report.html" if table is None else "rows, the table's page, report.html"
    of_steps = ", ".join(map(str, steps)) if len(steps) <= 6 else f"{steps[0]} .. {steps[-1]}"
    said = {
        "job": f"{f'table {table}, ' if table else ''}preset {job.preset.name}, "
               f"{len(job.all_cells)} x {job.preset.samples} images, S = {of_steps}",
        "with": f"{', '.join(map(label, job.backends))}, each held to the oracle; {job.device}, "
                f"{job.threads} thread{'s' * (job.threads > 1)}",
        "to": f"{printable(out)}: {pages}",
        "cells": f"{n}" + f", of which {done} were finished before" * (done > 0),
        "time": f"{about(seconds)}, as such cells took on this machine before" if seconds is not None else
                f"said after the first cells; {passes:,} network passes of an image are ahead",
    }
    return [coloured(f"{name + ':':<7}", "bold") + text for name, text in said.items()]


def _machine(e: dict[str, object]) -> tuple[object, ...]:
    return e.get("cpu"), cores(e), bool(e.get("gpu"))  # whose line has its clock of the moment
