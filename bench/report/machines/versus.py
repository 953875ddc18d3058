"""Two or more runs beside each other, from their rows: do they agree, is one better, is one faster? `ddim-bench compare` prints it.

Figures are those of rows that are the same cell in both: same network, process, cell and metric. The first run is what the others
are compared with. A difference is said only where the interval leaves no other reading. A value without an interval is "no
difference" within `MARGIN`, and "cannot tell" beyond it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.records.rows import AnyRow, Row, of
from bench.records.values import Checks, Metric, Pooled, Timing
from bench.report.measures import LESS, MORE, SAME, UNKNOWN, half, hardware, label, paired, paired_ratio, ratio, unit_seconds
from bench.report.table1_claims import MARGIN

Runs = dict[str, list[AnyRow]]  # by the name that the user gave
MACHINE = ("cpu", "usable_cores", "os", "python")
NETWORK = ("model", "diffusion", "dtype", "convention", "steps", "eta", "spacing", "sampler", "samples", "weights", "choices")


def tables(runs: Runs) -> dict[str, pd.DataFrame]:
    """The tables by name: machines, agreement, distances, times. Raises nothing where a run lacks rows: its lines are absent."""
    found = {"machines": machines(runs), "agreement": agreement(runs), "distances": distances(runs), "times": times(runs)}
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
    gpu = {"gpu": ", ".join(e["gpu"])} if e.get("gpu") else {}
    return {"commit": row.commit[:12], **{key: e.get(key) for key in MACHINE}, **gpu,
            **{package: version or "absent" for package, version in e.get("versions", {}).items()}}


def agreement(runs: Runs) -> pd.DataFrame:
    """Of each run and backends: how many comparisons with the oracle and between backends were made, and the worst."""
    lines = []
    for name, rows in runs.items():
        for backend in dict.fromkeys(row.backend for row in of(rows, Checks)):
            found = [(what, v) for row in of(rows, Checks) if row.backend == backend for what, v in row.values.items()]
            gated = [(v["error"] / v["tolerance"], what) for what, v in found if v["tolerance"] and v["error"] is not None]
            worst = max(gated, default=(0.0, ""))
            bad = sum(not v["ok"] for _, v in found)
            lines.append({"run": name, "who": " / ".join(label(b) for b in backend.split(" ")), "comparisons": len(found),
                          "disagree": bad, "worst error / tolerance": round(worst[0], 3), "of": worst[1],
                          "verdict": "disagrees" if bad else "agrees"})
    return pd.DataFrame(lines)


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
    first, *others = runs
    lines = []
    for name in others:
        theirs = _by_work(of(runs[name], Timing))
        for key, mine in _by_work(of(runs[first], Timing)).items():
            if key not in theirs:
                continue
            a, b = unit_seconds(mine), unit_seconds(theirs[key])
            value, low, high = ratio(b, a)
            floors = [_same(x) for x in (a, b)]
            inside = low <= 1 <= high or any(f[0] <= value <= f[1] for f in floors)
            lines.append({
                "backend": label(mine.backend), "workload": mine.config["workload"], "batch": mine.config["batch_size"],
                "device": mine.config["device"], first: f"{1e3 * float(pd.Series(a).median()):.3g} ms",
                name: f"{1e3 * float(pd.Series(b).median()):.3g} ms", "ratio": round(value, 3),
                "95% interval": f"{low:.3f} .. {high:.3f}",
                f"A/A {first}": _floor(floors[0]), f"A/A {name}": _floor(floors[1]),
                "hardware": "the same" if hardware(mine) == hardware(theirs[key]) else "different",
                "verdict": SAME if inside else LESS if value < 1 else MORE})
    return pd.DataFrame(lines)


def _same(seconds: NDArray[np.float64]) -> tuple[float, ...]:
    """The A/A interval: of alternate blocks of one contender, NaN of a single one."""
    if len(seconds) < 2:
        return float("nan"), float("nan")
    return paired_ratio(seconds[:len(seconds) // 2 * 2:2], seconds[1::2])[1:]


def _floor(found: tuple[float, ...]) -> str:
    return "" if found[0] != found[0] else f"{found[0]:.3f} .. {found[1]:.3f}"


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
