"""Times of units of work: the main job's table and ratios, and `results/speed.md`, the speed table of every machine, from rows of
`bench.studies.speed`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from backends import DEFAULT
from bench.records.rows import AnyRow, Row, of
from bench.records.values import KERNELS, Timing
from bench.report.measures import (
    Ratio,
    floor,
    hardware,
    label,
    paired_ratio,
    peak_memory,
    steady,
    time_ratio,
    unfit,
    unit_seconds,
    versions,
)
from bench.terminal import fit
from bench.timing import blocks, flops

Group = list[Row[Timing]]  # the contenders of one workload that were timed in turn, a row for each process
AGAIN = " (again)"  # ends the name of a contender's second run
HEAD = """# Speed

Written by `ddim-bench speed --peers`, from the raw block times in [rows/timing.jsonl](rows/timing.jsonl). Every
contender is a process of its own with the same threads and allocator; blocks of all contenders alternate A B B A. "stock" is the
framework's plain layers, "tuned" the backend's default, "compiled" adds `torch.compile` where that is not the default (CPU),
"exported" samples by ONNX Runtime.
diffusers' `UNet2DModel` computes the same function with the same weights, as its examples use it (eager), and compiled in
channels_last (tuned). ONNX Runtime, OpenVINO and AOTInductor run that network, converted. Flax is a plain port of it with
those weights, compiled by JAX. lucidrains is the nearest network of another function: see its parameters and GFLOP.

- Ratios are speed-ups: the other's time divided by this one's, median of neighbouring blocks. Of several processes of a contender
  the interval is Student's t over them, 95%; of a single one it is a bootstrap of its blocks, and says nothing of another process.
  "diffusers tuned" is that of the same precision.
- A/A is the same ratio of one contender run twice, in other processes. A ratio not further from 1 than that interval's farther end,
  or whose own interval holds 1, is no difference. Where A/A reaches beyond 1.5, or the load average is more than 1.5 by core, no
  ratio is shown. "unsteady": the warm-up found no agreement within 5%, or the blocks' second half differs by more from the first.
- Share of roof: FLOPs of convolutions, linear layers and attention (a training step counts three forward passes) per second, of
  the best rate of a large matrix product or convolution in any of the frameworks here, in the same run, precision and threads.
- The backends' training step also averages the weights (EMA), which no peer's does."""


def speed_table(rows: list[AnyRow]) -> pd.DataFrame:
    """Medians of the timed blocks: units/s, quartiles, CV, first call, steadiness; one line per backend and workload."""
    lines = []
    for row in of(rows, Timing):
        v, s = row.values, blocks.summary(unit_seconds(row))
        lines.append({
            "backend": label(row.backend), "workload": row.config["workload"], "batch": row.config["batch_size"],
            "ms (median)": round(1e3 * s["median"], 2), "quartiles": f"{1e3 * s['q1']:.2f} .. {1e3 * s['q3']:.2f}",
            "per second": round(1 / s["median"], 2), "images/s": round(row.config["batch_size"] / s["median"], 1),
            "CV": f"{100 * s['cv']:.1f}%" + (" (noisy)" if s["cv"] > 0.05 else ""), "first call s": round(v["first_seconds"], 2),
            "steady": "yes" if steady(row) else "no", "peak memory MB": round(v["peak_rss_bytes"] / 1e6),
        })
    return pd.DataFrame(lines)


def races(rows: list[AnyRow]) -> dict[str, tuple[list[Row[Timing]], list[Ratio]]]:
    """Of each workload that was timed in turn its rows, and the ratio of each one's alternate blocks: A/A."""
    out = {}
    for workload in ("training step", "sampling step"):
        found = of(rows, Timing, workload=workload)
        out[workload] = found, [paired_ratio(x[0::2], x[1::2]) for x in map(unit_seconds, found)]
    return out


def ratio_lines(rows: list[AnyRow]) -> list[str]:
    """Paired time ratios of the contenders that were timed in turn, with bootstrap intervals, beside the A/A floor."""
    out = []
    for workload, (found, same) in races(rows).items():
        if len(found) > 1 and (why := unfit(found, same)):
            out.append(f"- {workload}: no ratio, since the machine was not fit for one: {why}")
            continue
        for i, other in enumerate(found[1:], start=1):
            ratio = paired_ratio(unit_seconds(other), unit_seconds(found[0]))
            ends = [end for j in (0, i) for end in same[j][1:]]
            out.append(f"- {workload}: {label(other.backend)} takes {ratio.median:.2f} times {label(found[0].backend)}'s time "
                       f"(95% interval {ratio.low:.2f} .. {ratio.high:.2f}); A/A: {min(ends):.2f} .. {max(ends):.2f}"
                       + "; no difference" * ratio.inside(floor((same[0], same[i]))))
    return out


def machine(row: AnyRow) -> str:
    """What must agree for two rows to stand in one section, in words."""
    return f"preset {row.preset}, {row.config['device']}: {hardware(row)}, {row.config['threads']} threads"


def groups(found: Iterable[Row[Timing]]) -> list[Group]:
    """Rows that were timed in turn, of each workload and batch those of the newest run: its first process of each contender, and
    what came after it of the others."""
    newest: dict[tuple[Any, ...], dict[int, Group]] = {}
    for row in sorted((r for r in found if r.config.get("stage") == "speed" and r.config["workload"] not in KERNELS),
                      key=lambda r: r.values["began"]):
        of_run = newest.setdefault((machine(row), row.config["workload"], row.config["batch_size"]), {})
        n = row.config.get("process", 0)
        if n in of_run and row.values["began"] > of_run[n][0].values["began"]:
            del of_run[n]
            if n == 0:
                of_run.clear()
        of_run.setdefault(n, []).append(row)
    return [[row for rows in of_run.values() for row in rows] for of_run in newest.values()]


def roofs(found: Iterable[Row[Timing]]) -> dict[tuple[str, str], tuple[float, str]]:
    """(machine, dtype) to the best FLOP/s that any framework reached there, and by which kernel; the newest row of each counts."""
    newest = {(machine(r), r.config["dtype"], r.backend, r.config["workload"]): r for r in found
              if r.config.get("stage") == "speed" and r.config["workload"] in KERNELS}
    out: dict[tuple[str, str], tuple[float, str]] = {}
    for (where, dtype, backend, kernel), r in newest.items():
        rate = r.values["flops"] / float(unit_seconds(r).min())
        if rate > out.get((where, dtype), (0.0, ""))[0]:
            out[where, dtype] = rate, f"{kernel} of {backend}"
    return out


def speed_up(group: Group, name: str, other: str) -> Ratio | None:
    """How many times faster `name` is than `other`, over the processes that both have; None for itself and nobody."""
    one, two = (processes(group, each) for each in (name, other))
    if name == other or not (both := sorted(one.keys() & two.keys())):
        return None
    return time_ratio([unit_seconds(two[n]) for n in both], [unit_seconds(one[n]) for n in both])


def processes(group: Group, name: str) -> dict[int, Row[Timing]]:
    """The rows of a contender by the number of their process."""
    return {r.config.get("process", 0): r for r in group if r.config["contender"] == name}


def table(group: Group, roof: dict[tuple[str, str], tuple[float, str]]) -> pd.DataFrame:
    """One line per contender of a workload. Ratios are left out where the machine was not fit for them."""
    same = noise_floor(group)
    why = unfit(group, [same[1]] if same else [])

    def compared(name: str, other: str) -> str:
        ratio = None if why else speed_up(group, name, other)
        return "" if ratio is None else f"{ratio}" + " no difference" * (same is not None and ratio.inside(floor([same[1]])))

    lines = []
    for name in dict.fromkeys(r.config["contender"] for r in group if not r.config["contender"].endswith(AGAIN)):
        found = processes(group, name)
        r = found[min(found)]
        c, v = r.config, r.values
        s = blocks.summary(np.concatenate([unit_seconds(each) for each in found.values()]))
        passes = flops.TRAINING if c["workload"] == "training step" else 1
        rate = passes * v["flops_per_image"] * c["batch_size"] / s["median"]
        top = roof.get((machine(r), c["dtype"]))
        lines.append({
            "contender": name, "ms": f"{1e3 * s['median']:.4g}",
            "quartiles": f"{1e3 * s['q1']:.4g} .. {1e3 * s['q3']:.4g}",
            "images/s": f"{c['batch_size'] / s['median']:.4g}",
            "CV": f"{100 * s['cv']:.1f}%" + (" (noisy)" if s["cv"] > 0.05 else "")
                  + ("" if all(map(steady, found.values())) else " (unsteady)"),
            "x own stock": compared(name, f"{r.backend} stock float32") if c["mode"] != "stock" else "",
            "x diffusers eager": compared(name, "diffusers eager float32"),
            "x diffusers tuned": compared(name, f"diffusers tuned {c['dtype']}"),
            f"x {DEFAULT} tuned": compared(name, f"{DEFAULT} tuned {c['dtype']}"),
            "roof": f"{100 * rate / top[0]:.0f}%" if top else "", "first call s": f"{v['first_seconds']:.3g}",
            "peak MB": f"{max(map(peak_memory, found.values())) / 1e6:.0f}", "M parameters": f"{v['parameters'] / 1e6:.2f}",
            "GFLOP/image": f"{v['flops_per_image'] / 1e9:.3f}",
        })
    out = pd.DataFrame(lines)
    return out.loc[:, (out != "").any()]  # a column that nobody fills says nothing


def noise_floor(group: Group) -> tuple[str, Ratio] | None:
    """The contender that was run twice, and the A/A ratio."""
    for r in group:
        name = r.config["contender"].removesuffix(AGAIN)
        if name != r.config["contender"] and (ratio := speed_up(group, r.config["contender"], name)):
            return name, ratio
    return None


def said(group: Group) -> list[str]:
    """What holds for all ratios of a workload: A/A, the number of processes, and whether there are any."""
    same = noise_floor(group)
    n = len({r.config.get("process", 0) for r in group})
    out = [f"A/A ({same[0]}): {same[1]}" if same else "A/A: not measured",
           f"processes of a contender: {n}" + "; the intervals are of these alone" * (n == 1)]
    if why := unfit(group, [same[1]] if same else []):
        out.append(f"no ratios, since the machine was not fit for any: {why}")
    return out


def title(group: Group) -> str:
    """Workload and batch."""
    return f"{group[0].config['workload']}, batch {group[0].config['batch_size']}"


def terminal(found: list[Row[Timing]]) -> list[str]:
    """The tables as text."""
    roof, out = roofs(found), []
    for group in groups(found):
        out += ["", title(group), fit(table(group, roof)), *said(group)]
    return out


def of_races(every: list[AnyRow]) -> list[Row[Timing]]:
    """The rows of the page."""
    return of(every, Timing, stage="speed")


def render(found: list[Row[Timing]]) -> str:
    """All of `speed.md`, from the rows of races."""
    roof, out, where = roofs(found), [HEAD], ""
    for group in sorted(groups(found), key=lambda group: machine(group[0])):
        first = group[0]
        if machine(first) != where:
            where = machine(first)
            peaks = [f"{dtype} {rate / 1e12:.3g} TFLOP/s ({by})" for (at, dtype), (rate, by) in roof.items() if at == where]
            out += ["", f"## {where[0].upper()}{where[1:]}", "", f"- {versions(first)}",
                    f"- roof: {'; '.join(peaks) or 'not measured'}",
                    f"- variables: {json.dumps(first.config['variables'])}"]
        load = first.values["load_before"][0]
        out += ["", f"### {title(group)}", "", table(group, roof).to_markdown(index=False, disable_numparse=True), "",
                *(f"- {line}" for line in said(group)), f"- {first.values['began']}, code {first.commit[:12]}"
                f"{' with changes' if first.commit.endswith('+dirty') else ''}, load average before: {load}"]
    return "\n".join(out) + "\n"
