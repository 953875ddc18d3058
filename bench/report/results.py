"""The report of one job, from its rows: one table for the terminal, `results/README.md` and, by `job.figures`, its PNG figures.

Rows hold raw samples; every median and interval is derived here.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from bench import files, terminal
from bench.records.rows import AnyRow, of
from bench.records.values import Checks, Metric, Sample, Verdict
from bench.report.job import figures
from bench.report.job.figures import Images
from bench.report.measures import calls, fast, fid_text, label, sampler, seconds_per_image, unfit
from bench.report.speed_page import races, ratio_lines, speed_table

DISAGREES = "**DISAGREES**"
BEGIN, END = "<!-- table: written by bench/report/results.py -->", "<!-- end of table -->"


def sample_table(rows: list[AnyRow]) -> pd.DataFrame:
    """One line per backend, sampler, S and eta: distance, time, and how far its images are from the first backend's."""
    lines = []
    for row in of(rows, Sample):
        c = row.config
        cell = {"steps": c["steps"], "eta": c["eta"], "spacing": c.get("spacing"), "seed": c["seed"], "sampler": c.get("sampler")}
        metric = [m for m in of(rows, Metric, **cell) if m.backend == row.backend]
        parity = [p for p in of(rows, Checks, **cell) if p.backend.endswith(f" {row.backend}")]
        per_image = seconds_per_image(row)
        named = {"sampler": sampler(row), "network calls": calls(row)} if fast(rows) else {}
        line = {"backend": label(row.backend), **named, "S": c["steps"], "eta": c["eta"], "n": row.values["images"]}
        if metric:
            m = metric[0].values
            line |= {m["metric"]: fid_text(m) if "fid_sd" in m else round(m["fid"], 3),
                     m["metric"].replace("FID", "KID"): float(f"{m['kid']:.2g}")}
        line |= {"s/image": f"{per_image:.4g}", "images/s": f"{1 / per_image:.4g}"}
        if parity:
            line |= {"max pixel difference": _error(parity[0].values["images"], ".1e")}
        lines.append(line)
    return pd.DataFrame(lines).fillna("")


def bounds(rows: list[AnyRow]) -> list[str]:
    """Floor and ceiling of the metric, and what it was measured with."""
    out = []
    for name, what in (("real", "floor: held-out real images"), ("noise", "ceiling: standard normal noise")):
        for row in (r for r in of(rows, Metric) if r.backend == name):
            v = row.values
            out.append(f"- {v['metric']} {what}, n = {v['n']}: {fid_text(v)} (KID {v['kid']:.2g})")
    for row in [r for r in of(rows, Metric) if r.backend not in ("real", "noise")][:1]:
        v = row.values
        out.append(f"- extractor {v['extractor']}, sha256 {v['extractor_sha256'][:16]}; reference: {v['reference']}")
        if "fid_sd" in v:
            out.append("- ±: standard deviation over other sets of n images; cells share x_T, so that their differences move "
                       "less")
        if v["n"] < 2000:
            out.append(f"- n = {v['n']} images are few for {v['metric']}, which is biased in n: indicative only, "
                       "comparable with the floor and ceiling of the same n and nothing else")
    return out


def check_table(rows: Iterable[AnyRow]) -> pd.DataFrame:
    """Every comparison with the oracle and between backends: measured error, tolerance, verdict."""
    lines = []
    for row in of(rows, Checks):
        where = _cell(row)
        where += f", {row.config['spacing']}, seed={row.config['seed']}" if row.config.get("spacing") else ""
        where += f", on {row.config['device']}, again in a new process" if row.config.get("stage") == "determinism" else ""
        for name, v in row.values.items():
            gate = v["tolerance"]
            lines.append({"who": " / ".join(label(b) for b in row.backend.split(" ")), "what": name.replace("_", " ") + where,
                          "measured": "bit-equal" if v.get("bit_equal") else _error(v, ".1e"),
                          "tolerance": "(reported)" if gate is None else f"{gate:.0e}",
                          "verdict": DISAGREES if not v["ok"] else "" if gate is None else
                          "ok in float64" if "float64" in v else "ok: rounding" if "rounding" in v else "ok"})
    return pd.DataFrame(lines)


def disagreements(rows: list[AnyRow]) -> list[str]:
    """One line per failed comparison."""
    return [f"{row.backend}: {name}{_cell(row)} off by {_error(v, '.3g')}, tolerance "
            + ("any finite number" if v["tolerance"] is None else f"{v['tolerance']:.3g}")
            for row in of(rows, Checks) for name, v in row.values.items() if not v["ok"]]


def beyond_tolerance(rows: list[AnyRow]) -> list[str]:
    """`disagreements` as lines of a page; none where all agree."""
    lines = [f"- {line}" for line in disagreements(rows)]
    return ["Comparisons beyond their tolerance:", "", *lines, ""] if lines else []


def _error(found: Verdict, form: str) -> str:
    return "not finite" if found["error"] is None else format(found["error"], form)


def _cell(row: AnyRow) -> str:
    signs = {"sampler": "", "steps": "S=", "eta": "eta="}
    return "".join(f", {sign}{row.config[name]}" for name, sign in signs.items() if name in row.config)


def shown(rows: list[AnyRow], missing: list[str]) -> str:
    """What the main job prints."""
    samples, checks = sample_table(rows), check_table(rows)
    if not checks.empty:  # narrower than on a page
        checks = checks.replace({"verdict": {DISAGREES: "DISAGREES"}, "tolerance": {"(reported)": "-"}})
    tables = [terminal.fit(table, keys) for table, keys in ((samples, list(samples).index("eta") + 1 if "eta" in samples else 1),
                                                            (speed_table(rows), 2)) if not table.empty]
    told = terminal.fit(checks, 2).replace("DISAGREES", terminal.coloured("DISAGREES", "red"))
    rest = [*ratio_lines(rows), *bounds(rows), told, *missing]
    return "\n\n".join([*tables, "\n".join(rest)])


def render(rows: list[AnyRow], images: Images, out: Path, command: str, missing: list[str]) -> Path:
    """Write `out`/README.md and `out`/figures/*.png; returns the former."""
    folder = files.folder(out / "figures")
    made = [*figures.curves(rows, folder), *figures.losses(rows, folder), *figures.grids(images, folder)]
    e = next(iter(rows)).environment
    text = [
        "# Results", "", f"Made by `{command}`. Every number comes from a row in [rows/](rows), which holds its raw samples, "
        "its configuration, the machine and the code's commit.", "",
        "## Images", "", sample_table(rows).to_markdown(index=False), "", *bounds(rows), "",
        *_links(out, {"table.md": "The grid of the DDIM paper's table 1, with error bars"}),
        "`s/image` is the time of drawing all n images divided by n, first call left out; the largest pixel difference is to the "
        "first backend's images from the same x_T, on the scale [-1, 1].", "",
        "## Speed", "", speed_table(rows).to_markdown(index=False), "", *ratio_lines(rows), "",
        "Blocks of the contenders alternate A B B A in one run, of one process each: the intervals are of these processes. A/A is "
        "the same ratio between alternate blocks of one contender.", "", *_links(out, {
            "speed.md": "Stock and tuned, other precisions and other libraries", "scaling.md": "Time and memory as sizes grow"}),
        "## Agreement", "", check_table(rows).to_markdown(index=False), "", *missing, "",
        "## Figures", "", *(f"![{alt}](figures/{path.name})\n" for path, alt in made), "## Machine", "",
        *(f"- {key}: {value}" for key, value in _machine(e).items()), "",
    ]
    return files.write_page(out / "README.md", "\n".join(text))


def _links(out: Path, told: dict[str, str]) -> list[str]:
    """Links to those of other jobs' pages that stand beside the report."""
    found = [f"- {text}: [{name}]({name})" for name, text in told.items() if (out / name).exists()]
    return [*found, ""] if found else []


def update_readme(path: Path, rows: list[AnyRow]) -> str:
    """Put the table of `rows` between the two markers of the project's README and of its translations, README.*.md beside it.

    Where the machine was not fit for the table's times nothing is written; returns why.
    """
    if why := unfit(rows, [ratio for _, same in races(rows).values() for ratio in same]):
        return why
    table = "\n".join([sample_table(rows).to_markdown(index=False), "", *bounds(rows)]).replace("<", "&lt;")
    for page in (path, *path.parent.glob(f"{path.stem}.*{path.suffix}")):
        before, rest = page.read_text().split(BEGIN)
        with files.replacing(page) as file:
            file.write(f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.split(END)[1]}".encode())
    return ""


def _machine(environment: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in environment.items() if not isinstance(v, dict | list)} | environment.get("versions", {})
