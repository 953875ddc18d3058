"""Two or more runs beside each other, from their rows: do they agree, is one better, is one faster? `ddim-bench compare` prints it.

Figures are those of rows that are the same cell in both: same network, process, cell and metric. The first run is what the others
are compared with. A difference is said only where the interval leaves no other reading. A value without an interval is "no
difference" within `MARGIN`, and "cannot tell" beyond it. There is no ratio of time where `measures.unfit` finds a machine not
fit for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.records import environment
from bench.records.rows import AnyRow, Row, of
from bench.records.values import Checks, Metric, Pooled, Timing
from bench.report.measures import (
    LESS,
    MORE,
    SAME,
    UNKNOWN,
    Ratio,
    half,
    hardware,
    label,
    paired,
    paired_ratio,
    ratio,
    unfit,
    unit_seconds,
)
from bench.report.table1_claims import MARGIN

Runs = dict[str, list[AnyRow]]  # by the name that the user gave
MACHINE = ("cpu", "usable_cores", "os", "python")
NETWORK = ("model", "diffusion", "dtype", "convention", "steps", "eta", "spacing", "sampler", "samples", "weights", "choices")


def tables(runs: Runs) -> dict[str, pd.DataFrame]:
    """The tables by name: machines, agreement, distances, times. Raises nothing where a run lacks rows: its lines are absent."""
    found = {"machines": machines(runs), "agreement": agreement(runs), "distances": distances(runs), "times": times(runs),
             "not fit for times": not_fit(runs)}
    return {name: table for name, table in found.items() if not table.empty}


def machines(runs: Runs) -> pd.DataFrame:
    """What of the machine, the software and the code differs; a line each, a column a run."""
    newest = {name: max(rows, key=lambda row: row.created) for name, rows in runs.items() if rows}
    said = {name: _described(row) for name, row in newest.items()}
    keys = dict.fromkeys(key for values in said.values() for key in values)
    return pd.DataFrame([{"what": key, **{name: said[name].get(key, "") for name in said}} for key in keys
                         if len({str(values.get(key, "")) for values in said.values()}) > 1])


def _described(row: AnyRow) -> dict[str, Any]:
    e = row.environment
    gpu = {"gpu": environment.gpus(e)} if e.get("gpu") else {}
    return {"commit": row.commit[:12], **{key: e.get(key) for key in MACHINE}, **gpu,
            **{package: version or "absent" for package, version in e.get("versions", {}).items()}}


def agreement(runs: Runs) -> pd.DataFrame:
    """Of each run and backends: how many comparisons with the oracle and between backends were made, and the worst. A comparison
    that was made again counts as it came out last."""
    lines = []
    for name, rows in runs.items():
        checks = newest_checks(rows)
        for backend in dict.fromkeys(row.backend for row in checks):
            found = [(what, v) for row in checks if row.backend == backend for what, v in row.values.items()]
            gated = [(v["error"] / v["tolerance"], what) for what, v in found if v["tolerance"] and v["error"] is not None]
            worst = max(gated, default=(0.0, ""))
            bad = sum(not v["ok"] for _, v in found)
            lines.append({"run": name, "who": " / ".join(label(b) for b in backend.split(" ")), "comparisons": len(found),
                          "disagree": bad, "worst error / tolerance": round(worst[0], 3), "of": worst[1],
                          "verdict": "disagrees" if bad else "agrees"})
    return pd.DataFrame(lines)


def newest_checks(rows: list[AnyRow]) -> list[Row[Checks]]:
    """Of comparisons of the same backends in the same cell the last: rows are appended, and what was mended stays in them."""
    ordered = sorted(of(rows, Checks), key=lambda row: row.created)
    return list({(row.backend, row.preset, json.dumps(row.config, sort_keys=True)): row for row in ordered}.values())


def distances(runs: Runs) -> pd.DataFrame:
    """FID of the cells that two runs have in common: paired by the bootstrap where both kept resamples of the same image ids."""
    first, *others = runs
    lines = []
    for name in others:
        pooled = _by_cell(of(runs[name], Pooled))
        for key, mine in _by_cell(of(runs[first], Pooled)).items():
            if key in pooled and (pair := paired(pooled[key], mine, 1.0)) is not None:
                difference, error = pair
                wide = half(error)
                lines.append(_distance(first, name, mine, difference, wide) | {"n": mine.values["n"]})
        single = _by_cell([m for m in of(runs[name], Metric) if m.backend not in ("real", "noise")])
        for key, one in _by_cell([m for m in of(runs[first], Metric) if m.backend not in ("real", "noise")]).items():
            if key in single:
                difference = single[key].values["fid"] - one.values["fid"]
                lines.append(_distance(first, name, one, difference, None) | {"n": one.values["n"]})
    return pd.DataFrame(lines)


def _distance(first: str, name: str, row: Any, difference: float, wide: float | None) -> dict[str, Any]:
    c, fid = row.config, row.values["fid"]
    told = SAME if abs(difference) + (wide or 0.0) <= MARGIN else UNKNOWN
    if wide is not None and abs(difference) > wide:
        told = LESS if difference < 0 else MORE
    elif wide is not None and told == UNKNOWN:
        told = SAME
    interval = "" if wide is None else f"{difference - wide:+.3f} .. {difference + wide:+.3f}"
    return {"metric": row.values["metric"], "backend": label(row.backend), "S": c["steps"], "eta": c["eta"],
            "seeds": ",".join(map(str, c.get("seeds", [c["seed"]]))), first: round(fid, 3), name: round(fid + difference, 3),
            "difference": round(difference, 4), "95% interval": interval, "verdict": told}


def times(runs: Runs) -> pd.DataFrame:
    """Ratios of time of the workloads that two runs have in common, with the bootstrap's interval, beside the A/A floor of each."""
    lines = []
    for first, name, mine, other in _pairs(runs):
        a, b = unit_seconds(mine), unit_seconds(other)
        value, low, high = ratio(b, a)
        floors = [_same(x) for x in (a, b)]
        inside = low <= 1 <= high or any(f.low <= value <= f.high for same in floors for f in same)
        busy = [run for run, row in ((first, mine), (name, other)) if _unfit(row)]
        lines.append({
            "backend": label(mine.backend), "workload": mine.config["workload"], "batch": mine.config["batch_size"],
            "device": mine.config["device"], first: f"{1e3 * float(pd.Series(a).median()):.3g} ms",
            name: f"{1e3 * float(pd.Series(b).median()):.3g} ms", "ratio": None if busy else round(value, 3),
            "95% interval": "" if busy else f"{low:.3f} .. {high:.3f}",
            f"A/A {first}": _floor(floors[0]), f"A/A {name}": _floor(floors[1]),
            "hardware": "the same" if hardware(mine) == hardware(other) else "different",
            "verdict": f"none: {' and '.join(busy)} not fit" if busy else SAME if inside else LESS if value < 1 else MORE})
    return pd.DataFrame(lines)


def not_fit(runs: Runs) -> pd.DataFrame:
    """The runs whose machine was not fit for a ratio of time that two have in common, and why."""
    lines = [{"run": run, "backend": label(row.backend), "workload": row.config["workload"], "why": why}
             for first, name, mine, other in _pairs(runs) for run, row in ((first, mine), (name, other)) if (why := _unfit(row))]
    return pd.DataFrame(lines).drop_duplicates()


def _pairs(runs: Runs) -> list[tuple[str, str, Row[Timing], Row[Timing]]]:
    """(first run, another one, their rows) of each workload that was timed in both."""
    first, *others = runs
    mine, theirs = _by_work(of(runs[first], Timing)), {name: _by_work(of(runs[name], Timing)) for name in others}
    return [(first, name, row, theirs[name][key]) for name in others for key, row in mine.items() if key in theirs[name]]


def _unfit(row: Row[Timing]) -> str:
    return unfit([row], _same(unit_seconds(row)))


def _same(seconds: NDArray[np.float64]) -> list[Ratio]:
    """A/A: of alternate blocks of one contender; none of a single block."""
    return [paired_ratio(seconds[:len(seconds) // 2 * 2:2], seconds[1::2])] if len(seconds) > 1 else []


def _floor(found: list[Ratio]) -> str:
    return "".join(f"{same.low:.3f} .. {same.high:.3f}" for same in found)


def _by_cell(rows: Iterable[Row[Any]]) -> dict[str, Row[Any]]:
    """The newest of each cell, by what must agree for two values to compare."""
    out = {}
    for row in sorted(rows, key=lambda row: row.created):
        same = {name: row.config.get(name) for name in (*NETWORK, "seed", "seeds", "extractor_sha256", "reference", "table")}
        out[json.dumps({"backend": row.backend, **same}, sort_keys=True)] = row
    return out


def _by_work(rows: Iterable[Row[Timing]]) -> dict[str, Row[Timing]]:
    """The newest of each workload."""
    out = {}
    for row in sorted(rows, key=lambda row: row.created):
        c = row.config
        same = {name: c.get(name) for name in ("workload", "batch_size", "dtype", "threads", "stage", "contender", "mode", "axis",
                                               "value", "model")}
        kind = str(c["device"]).partition(":")[0]
        out[json.dumps({"backend": row.backend, "kind": kind, **same}, sort_keys=True)] = row
    return out
