"""The table of solvers from its rows: pandas frames of what was measured. What is absent from a row is NaN."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from bench.records.rows import AnyRow, Row, of
from bench.records.values import Budget, Metric, Pooled, Sample
from bench.report.measures import calls, fit_seconds
from bench.sampling.solver_table import NAME, SOLVERS, Place

PLACE = ["backend", "device", "n", "solver", "S", "spacing", "calls"]  # of a cell; calls of the network for one image
BOUNDS = {"real": "floor: real images", "noise": "ceiling: noise"}  # of the metric, by the name that rows give them
MEASURES = ["fid", "kid", "seconds"]  # seconds per image
DRAWN = ("model", "diffusion", "weights", "convention", "dtype", "device", "samples", "batch_size")  # alike in all rows of a table


def begun(rows: list[AnyRow]) -> list[Row[Budget]]:
    """The budget rows of the tables to show: of every preset the one that was begun last, a small network's first."""
    newest = {row.preset: row for row in sorted(of(rows, Budget, table=NAME), key=lambda row: row.created)}
    return sorted(newest.values(), key=lambda row: str(row.config["model"].get("block_out_channels")))


def of_table(rows: list[AnyRow], budget: Row[Budget]) -> list[AnyRow]:
    """The rows of one table: its budget, its cells, what was measured of them, and the floor and ceiling of the same images. Of a
    cell that was measured twice the later rows are kept."""
    drawn = {name: budget.config[name] for name in DRAWN}
    sha = budget.config["extractor_sha256"]
    ours = [row for row in rows if "sampler" in row.config and drawn.items() <= row.config.items()
            and row.config.get("extractor_sha256") in (None, sha) and row.config.get("table") in (None, NAME)]
    images = {(row.config.get("reference"), row.config.get("held_out")) for row in of(ours, Metric)}
    bounds: list[AnyRow] = [row for row in of(rows, Metric) if "steps" not in row.config
                            and row.config.get("extractor_sha256") == sha and row.config["samples"] == budget.config["samples"]
                            and (row.config.get("reference"), row.config.get("held_out")) in images]
    found: dict[tuple[Any, ...], AnyRow] = {}
    for row in sorted([*ours, *bounds], key=lambda row: row.created):
        which = (row.config.get(name) for name in ("stage", "sampler", "steps", "eta", "spacing", "seed"))
        found[row.kind, row.backend, *which] = row
    return [budget, *found.values()]


def measurements(rows: list[AnyRow]) -> pd.DataFrame:
    """One line for each cell and seed that was drawn and measured: `PLACE`, `seed` and `MEASURES`."""
    drawn = {_which(row): row for row in of(rows, Sample)}
    lines = []
    for row in of(rows, Metric):
        if "sampler" in row.config and (sample := drawn.get(_which(row))):
            c = row.config
            lines.append([row.backend, c["device"], c["samples"], c["sampler"], c["steps"], c["spacing"], calls(sample), c["seed"],
                          row.values["fid"], row.values["kid"], fit_seconds(sample)])
    frame = pd.DataFrame(lines, columns=[*PLACE, "seed", *MEASURES])
    return frame.sort_values(["backend", "solver", "S", "seed"], ignore_index=True,
                             key=lambda column: column.map(rank) if column.name == "solver" else column)


def _which(row: AnyRow) -> tuple[Any, ...]:
    return row.backend, *(row.config.get(name) for name in ("sampler", "steps", "eta", "spacing", "seed"))


def rank(solver: str) -> int:
    """Where a solver stands among `SOLVERS`."""
    return SOLVERS.index(solver) if solver in SOLVERS else len(SOLVERS)


def statistics(measured: pd.DataFrame) -> pd.DataFrame:
    """One line for each cell: `PLACE`, `seeds` (their number), and of each of `MEASURES` but the last the mean over seeds
    `NAME_mean` and the standard deviation between them `NAME_sd` (NaN for one seed); of `seconds` the median."""
    by_cell = measured.groupby(PLACE, sort=False)
    frame = by_cell[MEASURES[:-1]].agg(["mean", "std"])
    frame.columns = pd.Index([f"{name}_{what}" for name in MEASURES[:-1] for what in ("mean", "sd")])
    frame["seconds"] = by_cell["seconds"].median()
    frame.insert(0, "seeds", by_cell.size())
    return frame.reset_index()


def bounds(rows: list[AnyRow]) -> dict[str, float]:
    """FID of held-out real images and of standard normal noise, as many as of a cell."""
    return {BOUNDS[row.backend]: row.values["fid"] for row in of(rows, Metric) if row.backend in BOUNDS}


def pooled(rows: list[AnyRow], backend: str) -> Mapping[Place, Row[Pooled]]:
    """FID of all seeds' images together, by cell, of one backend."""
    return {(row.config["sampler"], row.config["steps"]): row for row in of(rows, Pooled) if row.backend == backend}


def metric(rows: list[AnyRow]) -> str:
    """FID with its extractor."""
    return next((row.values["metric"] for row in of(rows, Metric)), "FID")
