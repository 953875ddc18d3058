"""The report of one job, from its rows: one table for the terminal, `results/README.md` and PNG figures.

Rows hold raw samples; every median and interval is derived here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from backends import order
from bench import files
from bench.data.pixels import to_uint8
from bench.pictures import plots
from bench.pictures.grids import grid
from bench.pictures.plots import COLOURS
from bench.records.rows import AnyRow, Row, of
from bench.records.values import Checks, Metric, Sample, Train, Verdict
from bench.report.measures import calls, fast, label, sampler, seconds_per_image, unfit
from bench.report.speed_page import races, ratio_lines, speed_table
from bench.sampling.cell import Cell

Images = Mapping[tuple[str, Cell], Path]  # backend, cell: the file, (n, C, H, W) float32
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
            line |= {m["metric"]: round(m["fid"], 3), m["metric"].replace("FID", "KID"): round(m["kid"], 5)}
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
            out.append(f"- {v['metric']} {what}, n = {v['n']}: {v['fid']:.3f} (KID {v['kid']:.5f})")
    for row in [r for r in of(rows, Metric) if r.backend not in ("real", "noise")][:1]:
        v = row.values
        out.append(f"- extractor {v['extractor']}, sha256 {v['extractor_sha256'][:16]}; reference: {v['reference']}")
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
                          "verdict": "**DISAGREES**" if not v["ok"] else "" if gate is None else "ok"})
    return pd.DataFrame(lines)


def disagreements(rows: list[AnyRow]) -> list[str]:
    """One line per failed comparison."""
    return [f"{row.backend}: {name}{_cell(row)} off by {_error(v, '.3g')}, tolerance "
            + ("any finite number" if v["tolerance"] is None else f"{v['tolerance']:.3g}")
            for row in of(rows, Checks) for name, v in row.values.items() if not v["ok"]]


def _error(found: Verdict, form: str) -> str:
    return "not finite" if found["error"] is None else format(found["error"], form)


def _cell(row: AnyRow) -> str:
    signs = {"sampler": "", "steps": "S=", "eta": "eta="}
    return "".join(f", {sign}{row.config[name]}" for name, sign in signs.items() if name in row.config)


def terminal(rows: list[AnyRow], missing: list[str]) -> str:
    """What the main job prints."""
    tables = [table.to_string(index=False) for table in (sample_table(rows), speed_table(rows)) if not table.empty]
    rest = [*ratio_lines(rows), *bounds(rows), check_table(rows).to_string(index=False), *missing]
    return "\n\n".join([*tables, "\n".join(rest)])


def render(rows: list[AnyRow], images: Images, out: Path, command: str, missing: list[str]) -> Path:
    """Write `out`/README.md and `out`/figures/*.png; returns the former."""
    figures = out / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    made = [*_curves(rows, figures), *_losses(rows, figures), *_grids(images, figures)]
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


def _curves(rows: list[AnyRow], folder: Path) -> list[tuple[Path, str]]:
    samples = of(rows, Sample)
    metrics = [r for r in of(rows, Metric) if r.backend not in ("real", "noise")]
    name = metrics[0].values["metric"] if metrics else "FID"

    def line(r: AnyRow) -> tuple[str, str, str]:
        return r.backend, f"{sampler(r)}, " if fast(samples) else "", r.config["eta"]

    def fids(r: Row[Sample]) -> list[float]:
        return [m.values["fid"] for m in metrics if (line(m), m.config["steps"]) == (line(r), r.config["steps"])]

    wanted: list[tuple[str, str, str, Callable[[Row[Sample]], float], Callable[[Row[Sample]], list[float]]]] = [
        ("metric.png", "sampling steps S", name, lambda r: r.config["steps"], fids),
        ("seconds.png", "sampling steps S", "seconds per image", lambda r: r.config["steps"], lambda r: [seconds_per_image(r)])]
    if fast(samples):
        wanted += [("calls.png", "network calls for an image", name, calls, fids),
                   ("cost.png", "seconds for an image", name, seconds_per_image, fids)]
    series = sorted(sorted({line(r) for r in samples}, reverse=True), key=lambda which: order(which[0]))
    made = []
    for file, xlabel, ylabel, x, ys in wanted:
        figure, axes = plots.plot(xlabel, ylabel)
        for i, which in enumerate(series):
            points = sorted((x(r), y) for r in samples if line(r) == which for y in ys(r))
            # Backends that agree lie on one another: the later one is drawn smaller, on top.
            axes.plot(*zip(*points, strict=True), marker="os^Dvx"[i % 6], markersize=max(9 - 3 * i, 3), lw=max(4 - 2 * i, 1),
                      color=COLOURS[i % 6], label=f"{label(which[0])}, {which[1]}eta {which[2]}") if points else None
        if ys is fids:
            for bound, style in (("real", ":"), ("noise", "--")):
                for limit in (limit for limit in of(rows, Metric) if limit.backend == bound):
                    axes.axhline(limit.values["fid"], ls=style, color="black", lw=1,
                                 label={"real": "floor: real images", "noise": "ceiling: noise"}[bound])
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.legend()
        plots.save(figure, folder / file)
        made.append((folder / file, f"{ylabel} against {xlabel.removeprefix('sampling steps ')}"))
    return made


def _losses(rows: list[AnyRow], folder: Path) -> list[tuple[Path, str]]:
    train = of(rows, Train, stage="train")
    if not train:
        return []
    figure, axes = plots.plot("training step", "loss")
    for i, row in enumerate(train):
        axes.plot(row.values["losses"], color=COLOURS[i % 6], lw=max(4 - 2 * i, 1), label=label(row.backend))
    axes.legend()
    plots.save(figure, folder / "losses.png")
    return [(folder / "losses.png", "training losses of the backends from the same weights and batches")]


def _grids(images: Images, folder: Path) -> list[tuple[Path, str]]:
    if not images:
        return []
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    names = sorted({k[0] for k in images}, key=order)
    cells = sorted({cell for _, cell in images}, key=lambda cell: (cell.steps, cell.sampler or "", str(cell.eta)))
    figure, axes = plt.subplots(len(cells), len(names), squeeze=False, layout="constrained",
                                figsize=(4.2 * len(names), 2.3 * len(cells)))
    for row, cell in enumerate(cells):
        for column, name in enumerate(names):
            ax = axes[row][column]
            ax.axis("off")
            if (name, cell) in images:
                shown = to_uint8(np.load(images[name, cell], mmap_mode="r")[:32])
                ax.imshow(grid(shown, 8), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
                what = (label(name), cell.sampler, f"S = {cell.steps}", f"eta = {cell.eta}")
                ax.set_title(", ".join(filter(None, what)), fontsize=10)
    plots.save(figure, folder / "samples.png")
    return [(folder / "samples.png", "samples per backend and step count from the same x_T")]
