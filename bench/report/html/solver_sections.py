"""The section of `report.html` about fast solvers: figures, cells and verdicts of every network's table."""

from __future__ import annotations

import pandas as pd

from bench.paths import command_line
from bench.pictures import svg
from bench.pictures.svg import Series
from bench.records.rows import AnyRow
from bench.report.html.parts import BARS, STAR, Figure, Section, Table, seeds
from bench.report.measures import NO_TIMES, label
from bench.report.solvers import frames, page
from bench.sampling.solver_table import NAME

COMMAND = command_line("run", "--table", NAME)


def section(found: list[AnyRow], command: str = COMMAND) -> Section:
    """Of all rows; `command` is what made the tables."""
    s = Section("Fast solvers at equal network calls")
    for budget in frames.begun(found):
        rows = frames.of_table(found, budget)
        stats = frames.statistics(frames.measurements(rows))
        if backend := page.first(stats):
            _network(s, rows, stats[stats["backend"] == backend], backend, command)
    if s.figures:
        s.text.append(page.CALLS)
    else:
        s.missing.append(("FID of fast solvers against network calls has no rows yet.", command))
    return s


def _network(s: Section, rows: list[AnyRow], stats: pd.DataFrame, backend: str, command: str) -> None:
    name, n = frames.metric(rows), int(stats["n"].iloc[0])
    source = (f"{label(backend)}, n = {n:,} images, {seeds(int(stats['seeds'].max()))} a cell at most. "
              f"{'; '.join(page.caption(rows))}.")
    floor = {key: value for key, value in frames.bounds(rows).items() if key.startswith("floor")}
    for x, words in (("calls", "network calls for an image"), ("seconds", "seconds for an image")):
        if stats[x].isna().all():
            s.text.append(f"{page.title(rows)}, {words}: {NO_TIMES}")
            continue
        by_solver = sorted(stats.sort_values("calls").groupby("solver", sort=False), key=lambda item: frames.rank(str(item[0])))
        panels = [(str(solver), [Series("mean over seeds", line[x].tolist(), line["fid_mean"].tolist(),
                                        line["fid_sd"].fillna(0).tolist())]) for solver, line in by_solver]
        ticks = sorted(stats["calls"].unique()) if x == "calls" else ()
        picture = svg.multiples(panels, words, name, ticks=ticks, bounds=floor, front=True)
        s.figures.append(Figure(f"{name} of solvers against {words.split(' for')[0]}: {page.title(rows)}", [("", picture)],
                                f"One solver a panel, all others pale. {source} {BARS}", command,
                                folded=x != "calls" or bool(s.figures)))
    shown, each = page.verdict_table(rows, backend)
    s.tables.append(Table(f"The solvers' papers: {page.title(rows)}", shown, f"{page.HOW} {source}", command,
                          folded=bool(s.tables)))
    s.tables.append(Table(f"{name} by steps: {page.title(rows)}", page.by_steps(stats, "fid"), f"{source} {BARS} {STAR}", command,
                          best="lowest", folded=True))
    s.tables.append(Table(f"At equal calls: {page.title(rows)}", page.by_calls(stats), source, command, folded=True))
    if len(each):
        s.tables.append(Table(f"Every comparison behind the verdicts on solvers: {page.title(rows)}", each, source, command,
                              folded=True))
