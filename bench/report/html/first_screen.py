"""The first screen of `report.html`: what was found, in sentences whose numbers come from rows; one chart; one row of images."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from bench import oracle
from bench.paths import command_line
from bench.pictures import svg
from bench.pictures.svg import Series
from bench.records.rows import AnyRow, Row, of
from bench.records.values import Checks, Metric, Sample
from bench.report import measures, speed_page, table1_claims
from bench.report.html import strips
from bench.report.html.parts import MAIN, Figure
from bench.report.html.table1_sections import Grid
from bench.report.measures import label, paired_ratio, seconds_per_image, unit_seconds
from bench.sampling import table1

SHORT = 50  # steps that are held to all
TERMS = ("A DDIM step is one call of the network; more steps cost more time. FID is a distance between drawn and real images, less "
         "is better; it depends on the number of images, and means something beside what real images score. ±: half of a 95% "
         "interval.")


@dataclass(frozen=True)
class Screen:
    """What a visitor sees first."""

    found: str  # the sentences
    terms: str = ""
    figures: list[Figure] = field(default_factory=list)


def screen(grids: list[Grid], table: list[AnyRow], job: list[AnyRow], out: Path, command: str) -> Screen:
    """Of a table's rows where there are any (`grids`, `table`), otherwise of the newest main job's, `job`."""
    sentences = [said for said in (agreement(table or job), _by_table(grids[0]) if grids else _by_job(job), times(job)) if said]
    figures = _table_figures(grids[0], table, out, command) if grids else _job_figures(job, out)
    return Screen(" ".join(sentences) or "Nothing has been measured yet: each section below says which command measures it.",
                  TERMS if sentences else "", figures)


def agreement(found: list[AnyRow]) -> str:
    """How far the images of two backends are apart at most, of those that start from the same x_T with eta = 0."""
    worst: dict[tuple[str, str], float] = {}
    for row in of(found, Checks, stage="images", eta="0.0"):
        one, other = row.backend.split(" ")
        error = row.values["images"]["error"] if "images" in row.values else None
        worst[one, other] = max(worst.get((one, other), 0.0), math.inf if error is None else error)
    said = []
    for (one, other), error in worst.items():
        text = f"{error:.0e}".replace("e-0", "e-")
        within = error <= oracle.TOLERANCES["float32"]["images"]
        said.append(f"{label(one)} and {label(other)} agree to {text} in every pixel." if within
                    else f"{label(one)} and {label(other)} differ by up to {text} in a pixel, which ranges from -1 to 1.")
    return " ".join(said)


def _by_table(g: Grid) -> str:
    measured = g.measured[g.measured["backend"] == g.backends[0]]
    short, full = ((S, "0.0", table1.UNIFORM) for S in (SHORT, table1.FULL))
    there = {(S, eta) for S, eta in zip(measured["S"], measured["eta"], strict=True)}
    if not {short[:2], full[:2]} <= there:
        return ""
    plain = table1_claims.compare(measured, short, full, together=g.together)
    nearly = table1_claims.compare(measured, short, full, table1_claims.NEARLY, together=g.together)
    verdict = measures.verdict(nearly["difference"], measures.half(nearly["se"], nearly["df"]))
    return quality(plain["difference"], measures.half(plain["se"], plain["df"]), plain["mean_b"], verdict)


def _by_job(job: list[AnyRow]) -> str:
    fids = {(row.backend, row.config["steps"]): row.values["fid"] for row in of(job, Metric, eta="0.0")
            if "sampler" not in row.config}
    backend = next(iter(fids), ("", 0))[0]
    if not {(backend, SHORT), (backend, table1.FULL)} <= set(fids):
        return ""
    full = fids[backend, table1.FULL]
    return quality(fids[backend, SHORT] - full, math.nan, full, measures.ABSENT)


def quality(difference: float, half: float, full: float, nearly: str) -> str:
    """Whether few steps are as good as all; `nearly` is the verdict on at most 1.2 times the FID of all, `full`."""
    numbers = f"{difference:+.2f}" + ("" if math.isnan(half) else f" ± {half:.2g}")
    if nearly == measures.REPRODUCED:
        how = "better than" if difference + half < 0 else "nearly as good as" if difference - half > 0 else "as good as"
        return f"{SHORT} DDIM steps are {how} {table1.FULL}: the difference is {numbers} FID of {full:.3g}."
    if nearly == measures.CONTRADICTED:
        return f"{SHORT} DDIM steps are worse than {table1.FULL}: the difference is {numbers} FID of {full:.3g}."
    return f"Whether {SHORT} DDIM steps are as good as {table1.FULL} cannot be told: the difference is {numbers} FID of {full:.3g}."


def times(job: list[AnyRow]) -> str:
    """The ratio of the times of a sampling step, with its interval; "" where nothing or no machine fit for it was timed."""
    found, same = speed_page.races([row for row in job if row.config.get("stage") == "timing"])["sampling step"]
    if len(found) < 2 or measures.unfit(found, same):
        return ""
    said = []
    for i, other in enumerate(found[1:], start=1):
        ratio = paired_ratio(unit_seconds(other), unit_seconds(found[0]))
        one, two, interval = label(other.backend), label(found[0].backend), f"({ratio.low:.2g} to {ratio.high:.2g})"
        chance = ratio.inside(measures.floor((same[0], same[i])))
        said.append(f"Whether {one} takes longer than {two} cannot be told {interval}." if chance else
                    f"{one} takes {ratio.median:.2g} times {two}'s time {interval}.")
    return " ".join(said)


def newest_job(found: list[AnyRow]) -> list[AnyRow]:
    """The rows of the main job that sampled last, outside of tables: those of its preset and weights, of each cell the newest."""
    tables = {row.preset for row in found if row.kind == "budget"}
    drawn = [row for row in of(found, Sample) if row.preset not in tables and row.config.get("stage", "sample") == "sample"]
    if not drawn:
        return []
    last: Row[Sample] = max(drawn, key=lambda row: row.created)
    same = ("weights", "device", "dtype", "samples")
    kept: dict[tuple[object, ...], AnyRow] = {}
    for row in sorted(found, key=lambda row: row.created):
        c = row.config
        bound = row.kind == "metric" and "steps" not in c and c.get("samples") == last.config["samples"]
        ours = row.preset == last.preset and row.kind in ("sample", "metric", "check", "timing", "train") and all(
            c.get(name, last.config.get(name)) == last.config.get(name) for name in same)
        if (ours and c.get("stage") not in ("speed", "scaling")) or bound:
            names = ("stage", "workload", "device", "steps", "eta", "spacing", "seed", "sampler", "train_steps")
            kept[row.kind, row.backend, *(c.get(name) for name in names)] = row
    return list(kept.values())


def _table_figures(g: Grid, table: list[AnyRow], out: Path, command: str) -> list[Figure]:
    lines = [(backend, part) for backend in g.backends if len(part := g.of(backend, table1.UNIFORM, "0.0"))]
    timed = all(part["seconds"].notna().all() for _, part in lines)
    series = [Series(label(backend), part["seconds" if timed else "S"].tolist(), part["fid_mean"].tolist(),
                     part["fid_sd"].fillna(0).tolist(), colour=k) for k, (backend, part) in enumerate(lines)]
    steps = ", ".join(str(S) for S in lines[0][1]["S"]) if lines else ""
    words, what = ("seconds per image", "time") if timed else ("sampling steps S", "steps")
    chart = Figure(f"{g.metric} against {what}", [("", svg.curves(series, words, g.metric, front=True, height=2.5))],
                   f"DDIM, eta = 0; from left to right S = {steps}; less is better in both. "
                   + "The machine had other work, and was not fit for times. " * (not timed)
                   + f"On {g.device}. {g.source}", command)
    rows = [row for row in of(table, Sample, steps=SHORT, eta="0.0", spacing=table1.UNIFORM) if row.backend == g.backends[0]]
    return [*_images(rows, out, command), *([chart] if series else [])]


def _job_figures(job: list[AnyRow], out: Path) -> list[Figure]:
    samples = [row for row in of(job, Sample, eta="0.0") if "sampler" not in row.config]
    points: dict[str, list[tuple[float, float, float, int]]] = {}
    for row in samples:
        for m in of(job, Metric, steps=row.config["steps"], eta="0.0", seed=row.config["seed"]):
            if m.backend == row.backend and "sampler" not in m.config:
                points.setdefault(row.backend, []).append((seconds_per_image(row), m.values["fid"], m.values.get("fid_sd", 0.0),
                                                           row.config["steps"]))
    metric = next((row.values for row in of(job, Metric)), None)
    if metric is None or not points:
        return _images(samples, out, MAIN)
    series = [Series(label(backend), [x[0] for x in each], [x[1] for x in each], [x[2] for x in each], colour=k)
              for k, (backend, each) in enumerate((backend, sorted(each)) for backend, each in points.items())]
    steps = ", ".join(map(str, sorted({x[3] for each in points.values() for x in each})))
    picture = svg.curves(series, "seconds per image", metric["metric"], front=True, height=2.5)
    chart = Figure(f"{metric['metric']} against time", [("", picture)],
                   f"DDIM, eta = 0; from left to right S = {steps}; less is better in both. n = {metric['n']:,} images, 1 seed; "
                   f"extractor {metric['extractor']}, sha256 {metric['extractor_sha256'][:16]}.", MAIN)
    return [*_images([row for row in samples if row.config["steps"] == SHORT], out, MAIN), chart]


def _images(rows: list[Row[Sample]], out: Path, command: str) -> list[Figure]:
    for row in sorted(rows, key=lambda row: row.config["seed"]):
        if picture := strips.strip(row, out):
            return [Figure(f"Drawn with {SHORT} steps", [("", picture)], f"The first n = {strips.SHOWN} images of 1 seed "
                           f"({row.config['seed']}), not chosen; {label(row.backend)}, eta = 0; no extractor.", command or
                           command_line("run"))]
    return []
