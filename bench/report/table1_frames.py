"""Table 1 of the DDIM paper as a grid of sampling cells, and the figures of such a grid, from its rows.

Song, Meng & Ermon 2021 (arXiv:2010.02502) give FID by the number of steps S and the noise scale eta, for one set of images a cell.
Here every cell is drawn from several sample seeds, whose streams share no number, and up to S = 100 by both of the paper's rules
of choosing timesteps (appendix D.2). All cells of one seed start from the same x_T, so differences between cells are paired.

Frames are pandas DataFrames computed from rows alone. What is absent from a row is NaN.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from bench.paths import ROOT
from bench.records.rows import AnyRow, Row, of
from bench.records.values import Budget, Checks, Metric, Pooled, Sample
from bench.report.measures import fit_seconds
from bench.sampling import table1
from bench.sampling.table1 import ETAS
from reference.conventions import get_convention

PLACE = ["backend", "device", "n", "S", "eta", "spacing", "seed"]  # of a measurement; eta as rows hold it: "0.0", "sigma_hat"
Place = tuple[int, str, str]  # S, eta, spacing of a cell, as measurements hold them
MEASURES = ["fid", "fid_inf", "kid", "precision", "recall", "seconds"]  # seconds per image
QUANTILES = {"50%": "0.5", "90%": "0.9", "99%": "0.99", "99.9%": "0.999", "max": "1.0"}  # of pixel differences, as rows name them
PUBLISHED = ROOT / "bench" / "assets" / "ddim-table1.csv"


def tables(rows: list[AnyRow]) -> list[list[AnyRow]]:
    """The rows of each table to show: of every preset the one that was begun last, that of most cells first."""
    begun = [row for row in of(rows, Budget) if "table" not in row.config]  # other tables have their name there
    newest = {row.preset: row for row in sorted(begun, key=lambda row: row.created)}
    found = [of_table(rows, row) for row in newest.values()]
    return sorted(found, key=lambda table: -len(of(table, Metric)))


def latest(rows: list[AnyRow]) -> list[AnyRow]:
    """The rows of the first of `tables`; empty where none was begun."""
    return next(iter(tables(rows)), [])


def of_table(rows: list[AnyRow], begun: AnyRow) -> list[AnyRow]:
    """The rows of one table, which has the preset, network, weights, process, convention, choices of sampling, dtype and
    extractor of this budget row, and any n, device or backend. Of a cell that was measured twice the later rows are kept."""
    drawn = {name: begun.config[name] for name in ("model", "diffusion", "weights", "convention", "dtype")}
    ours = [row for row in rows if row.preset == begun.preset and drawn.items() <= row.config.items()
            and "sampler" not in row.config and row.config.get("table") in (None, table1.NAME)
            and row.config.get("choices") in (None, begun.config.get("choices"))]
    # Floor and ceiling are of no network: those of any job with the same images count.
    images = {_images(row) for row in ours if row.kind == "metric"}
    bounds = [row for row in rows if row.kind == "metric" and "steps" not in row.config and _images(row) in images]
    found: dict[tuple[Any, ...], AnyRow] = {}
    for row in sorted([*ours, *bounds], key=lambda row: row.created):
        c = row.config
        if row.kind in ("metric", "study") and c.get("extractor_sha256") != begun.config.get("extractor_sha256"):
            continue
        which = (c.get(name) for name in ("stage", "device", "samples", "steps", "eta", "spacing", "seed"))
        found[row.kind, row.backend, *which] = row
    return list(found.values())


def _images(row: AnyRow) -> tuple[Any, ...]:
    return row.config.get("reference"), row.config.get("held_out")


def measurements(rows: list[AnyRow]) -> pd.DataFrame:
    """One line for each cell and seed that was drawn and measured: `PLACE` and `MEASURES`."""
    drawn = {_place(row): row for row in of(rows, Sample)}
    lines = []
    for row in of(rows, Metric):
        if "steps" in row.config and _place(row) in drawn:
            seconds = fit_seconds(drawn[_place(row)])
            lines.append(dict(zip(PLACE, _place(row), strict=True)) | _measures(row.values) | {"seconds": seconds})
    frame = pd.DataFrame(lines, columns=[*PLACE, *MEASURES])
    frame[MEASURES] = frame[MEASURES].astype(float)
    return frame.sort_values(PLACE, ignore_index=True, key=lambda column: column.map(_rank) if column.name == "eta" else column)


def _measures(v: Metric) -> dict[str, float | None]:
    return {"fid": v["fid"], "fid_inf": v.get("fid_inf"), "kid": v["kid"], "precision": v.get("precision"),
            "recall": v.get("recall")}


def _place(row: AnyRow) -> tuple[Any, ...]:
    c = row.config
    spacing = c.get("spacing") or get_convention(c["convention"]).spacing
    return row.backend, c["device"], c["samples"], c["steps"], c["eta"], spacing, c["seed"]


def _rank(eta: str) -> float:
    return [str(e) for e in ETAS].index(eta) if eta in map(str, ETAS) else len(ETAS)


def statistics(measured: pd.DataFrame) -> pd.DataFrame:
    """One line for each cell: `PLACE` without the seed, `seeds` (their number), and for each of `MEASURES` but the last the mean
    over seeds `NAME_mean` and the standard deviation between seeds `NAME_sd` (n - 1 in the divisor; NaN for one seed); `seconds`,
    their median, for one disturbed run in three would move a mean."""
    by_cell = measured.groupby(PLACE[:-1], sort=False)
    frame = by_cell[MEASURES[:-1]].agg(["mean", "std"])
    frame.columns = pd.Index([f"{name}_{what}" for name in MEASURES[:-1] for what in ("mean", "sd")])
    frame["seconds"] = by_cell["seconds"].median()
    frame.insert(0, "seeds", by_cell.size())
    return frame.reset_index()


def bounds(rows: list[AnyRow]) -> pd.DataFrame:
    """Floor (held-out real images) and ceiling (standard normal noise) for each n: `bound`, `n`, `MEASURES` without seconds, and
    `fid_sd`, the standard deviation of FID over sets of n images."""
    names = {"real": "floor", "noise": "ceiling"}
    lines = [{"bound": names[row.backend], "n": row.values["n"], **_measures(row.values), "fid_sd": row.values.get("fid_sd")}
             for row in of(rows, Metric) if row.backend in names]
    return pd.DataFrame(lines, columns=["bound", "n", *MEASURES[:-1], "fid_sd"]).astype({"fid_sd": float})


def together(rows: list[AnyRow], backend: str, device: str, n: int) -> dict[Place, Row[Pooled]]:
    """The images of all seeds of each cell, measured together; `n` is that of one seed."""
    return {_place(row)[3:6]: row for row in of(rows, Pooled) if _place(row)[:3] == (backend, device, n)}


def pixel_differences(rows: list[AnyRow]) -> pd.DataFrame:
    """How far the images of two backends from the same x_T are apart at eta = 0: `one`, `other`, `n`, `S`, `spacing`, `seed`, and
    `QUANTILES` of |difference| over all pixels, on the scale [-1, 1]."""
    lines = []
    for row in of(rows, Checks, stage="images", eta="0.0"):
        one, other = row.backend.split(" ")
        _, _, n, S, _, spacing, seed = _place(row)
        found: dict[str, float] = row.values["images"].get("quantiles", {})
        lines.append({"one": one, "other": other, "n": n, "S": S, "spacing": spacing, "seed": seed,
                      **{name: found.get(key) for name, key in QUANTILES.items()}})
    frame = pd.DataFrame(lines, columns=["one", "other", "n", "S", "spacing", "seed", *QUANTILES])
    return frame.sort_values(["one", "other", "n", "spacing", "S", "seed"], ignore_index=True)


def budget(rows: list[AnyRow]) -> pd.DataFrame:
    """What the table was predicted to cost and did, by `backend`, `device`, `n` and `what` ("sample" or "metric"): the numbers of
    `cells` and of those `finished`, `calls` (network calls for one image of every cell, by seed), and the seconds `predicted` for
    all cells and `measured` of the finished ones."""
    lines = []
    for plan in of(rows, Budget):
        device, n = plan.config["device"], plan.config["samples"]
        predicted = pd.DataFrame(plan.values["cells"], columns=["backend", "stage", "seconds"])
        drawn = predicted[predicted["stage"].isin(["sample", "metric"])]
        for (backend, stage), cells in drawn.groupby(["backend", "stage"], sort=False):
            done = [row for row in rows if row.kind == stage and row.backend == backend and row.config["samples"] == n
                    and row.config.get("device", device) == device]
            calls = plan.values["calls"].get(str(backend), {}) if stage == "sample" else {}
            lines.append({"backend": backend, "device": device, "n": n, "what": stage, "cells": len(cells), "finished": len(done),
                          "calls": ", ".join(f"{count:,} (seed {seed})" for seed, count in calls.items()),
                          "predicted": cells["seconds"].sum(),
                          "measured": sum(r.environment.get("cell_seconds", 0.0) for r in done)})
    return pd.DataFrame(lines, columns=["backend", "device", "n", "what", "cells", "finished", "calls", "predicted", "measured"])


def published() -> pd.DataFrame:
    """The paper's CIFAR-10 values: index eta (as in rows), columns S. Another data set and another extractor than ours."""
    frame = pd.read_csv(PUBLISHED, comment="#", index_col="eta", dtype={"eta": str})
    frame.columns = frame.columns.astype(int)
    return frame
