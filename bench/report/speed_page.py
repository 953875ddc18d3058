"""`results/speed.md`, the speed table of every machine, from rows of `bench.studies.speed`. Medians and ratios are made here."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pandas as pd

from backends import DEFAULT
from bench.records.rows import AnyRow, Row, of
from bench.records.values import KERNELS, Timing
from bench.report.measures import hardware, peak_memory, unit_seconds, versions
from bench.timing import blocks, flops

Group = list[Row[Timing]]  # the contenders of one workload that were timed in turn
HEAD = """# Speed

Written by `ddim-bench speed --peers`, from the raw block times in [rows/timing.jsonl](rows/timing.jsonl). Every
contender is a process of its own with the same threads and allocator; blocks of all contenders alternate A B B A. "stock" is the
framework's plain layers, "tuned" the backend's default, "compiled" adds `torch.compile` where that is not the default (CPU).
diffusers' `UNet2DModel` computes the same function with the same weights, as its examples use it (eager), and compiled in
channels_last (tuned). lucidrains is the nearest network of another function: see its parameters and GFLOP.

- Ratios are speed-ups: the other's time divided by this one's, median of neighbouring blocks with its 95% bootstrap interval.
  "diffusers tuned" is that of the same precision.
- A/A is the same ratio of one contender run twice, in two processes. A ratio no further from 1 than that is no difference.
- Share of roof: FLOPs of convolutions, linear layers and attention (a training step counts three forward passes) per second, of
  the best rate of a large matrix product or convolution in any of the frameworks here, in the same run, precision and threads.
- The backends' training step also averages the weights (EMA), which no peer's does."""


def machine(row: AnyRow) -> str:
    """What must agree for two rows to stand in one section, in words."""
    return f"preset {row.preset}, {row.config['device']}: {hardware(row)}, {row.config['threads']} threads"


def groups(found: Iterable[Row[Timing]]) -> list[Group]:
    """Rows that were timed in turn, of each workload and batch the newest."""
    newest: dict[tuple[Any, ...], Group] = {}
    for row in found:
        if row.config.get("stage") != "speed" or row.config["workload"] in KERNELS:
            continue
        key = machine(row), row.config["workload"], row.config["batch_size"]
        group = newest.setdefault(key, [])
        if group and row.values["began"] > group[0].values["began"]:
            group.clear()
        if not group or row.values["began"] == group[0].values["began"]:
            group.append(row)
    return list(newest.values())


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


def speed_up(row: Row[Timing], other: Row[Timing] | None) -> str:
    """How many times faster than `other`, with its interval; empty for itself and nobody."""
    if other is None or other is row:
        return ""
    return "{:.2f} ({:.2f} .. {:.2f})".format(*blocks.paired_ratio(unit_seconds(other), unit_seconds(row)))


def table(group: Group, roof: dict[tuple[str, str], tuple[float, str]]) -> pd.DataFrame:
    """One line per contender of a workload."""
    by_name = {r.config["contender"]: r for r in group}
    lines = []
    for r in group:
        c, v = r.config, r.values
        if c["contender"].endswith("(again)"):
            continue
        s = blocks.summary(unit_seconds(r))
        passes = flops.TRAINING if c["workload"] == "training step" else 1
        rate = passes * v["flops_per_image"] * c["batch_size"] / s["median"]
        top = roof.get((machine(r), c["dtype"]))
        lines.append({
            "contender": c["contender"], "ms": f"{1e3 * s['median']:.4g}",
            "quartiles": f"{1e3 * s['q1']:.4g} .. {1e3 * s['q3']:.4g}",
            "images/s": f"{c['batch_size'] / s['median']:.4g}",
            "CV": f"{100 * s['cv']:.1f}%" + (" (noisy)" if s["cv"] > 0.05 else "") + ("" if v["steady"] else " (unsteady)"),
            "x own stock": speed_up(r, by_name.get(f"{r.backend} stock float32")) if c["mode"] != "stock" else "",
            "x diffusers eager": speed_up(r, by_name.get("diffusers eager float32")),
            "x diffusers tuned": speed_up(r, by_name.get(f"diffusers tuned {c['dtype']}")),
            f"x {DEFAULT} tuned": speed_up(r, by_name.get(f"{DEFAULT} tuned {c['dtype']}")),
            "roof": f"{100 * rate / top[0]:.0f}%" if top else "", "first call s": f"{v['first_seconds']:.3g}",
            "peak MB": f"{peak_memory(r) / 1e6:.0f}", "M parameters": f"{v['parameters'] / 1e6:.2f}",
            "GFLOP/image": f"{v['flops_per_image'] / 1e9:.3f}",
        })
    out = pd.DataFrame(lines)
    return out.loc[:, (out != "").any()]  # a column that nobody fills says nothing


def noise_floor(group: Group) -> str:
    """The A/A ratio of a workload."""
    for r in group:
        name = r.config["contender"].removesuffix(" (again)")
        first = next((o for o in group if o.config["contender"] == name and o is not r), None)
        if name != r.config["contender"] and first is not None:
            return f"A/A ({name}): {speed_up(r, first)}"
    return "A/A: not measured"


def title(group: Group) -> str:
    """Workload and batch."""
    return f"{group[0].config['workload']}, batch {group[0].config['batch_size']}"


def terminal(found: list[Row[Timing]]) -> list[str]:
    """The tables as text."""
    roof, out = roofs(found), []
    for group in groups(found):
        out += ["", title(group), table(group, roof).to_string(index=False), noise_floor(group)]
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
                f"- {noise_floor(group)}", f"- {first.values['began']}, code {first.commit[:12]}"
                f"{' with changes' if first.commit.endswith('+dirty') else ''}, load average before: {load}"]
    return "\n".join(out) + "\n"
