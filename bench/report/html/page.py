"""`results/report.html`: the table, its curves and images as one page that needs no other file and no script, from rows.

`ddim-bench report` writes it again. What has no rows is left out, with one line that says which command makes them.
Images are shown where the folders of their cells still exist.
"""

from __future__ import annotations

import html
import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bench import files
from bench.paths import ROOT, command_line
from bench.records.rows import AnyRow
from bench.report import table1_frames, table1_page
from bench.report.html import likelihood_section, other_sections, solver_sections, table1_sections
from bench.report.html.parts import TABLE, seeds
from bench.report.html.table1_sections import Grid
from bench.report.measures import label
from bench.sampling import table1

FIGURE = re.compile(r'<figure(?: class="small")?>\s*<h3>(.*?)</h3>')  # tables have the class "table"
TEMPLATE = ROOT / "bench" / "assets" / "report.html.j2"


def render(found: list[AnyRow], out: Path, command: str = TABLE, begun: AnyRow | None = None,
           solvers: str = solver_sections.COMMAND) -> Path:
    """Write `page` as `out`/report.html; returns it. Raises `FileError` where it can't be written."""
    path = files.folder(out) / "report.html"
    with files.replacing(path) as file:
        file.write(page(found, out, command, begun, solvers).encode())
    return path


def page(found: list[AnyRow], out: Path, command: str = TABLE, begun: AnyRow | None = None,
         solvers: str = solver_sections.COMMAND) -> str:
    """The page from rows: a table's, and the newest ones of the main job, of recipes and of studies, with the images in `out`.

    The table is that of the budget row `begun`, by default the one that was begun last; `command` is what made it, `solvers` what
    made the tables of solvers.
    """
    newest = table1_frames.of_table(found, begun) if begun else table1_frames.latest(found)
    grids = table1_sections.grids(newest)
    sections = [
        table1_sections.claims(grids, command), table1_sections.cells(grids, command), table1_sections.curves(grids, command),
        solver_sections.section(found, solvers), other_sections.backends(newest, found, command),
        table1_sections.limits(newest, command),
        other_sections.checkpoints(found, out), other_sections.chance(found), likelihood_section.likelihoods(found),
        other_sections.samples(newest, found, out, command), other_sections.cost(newest, found, command),
    ]
    environment = Environment(loader=FileSystemLoader(TEMPLATE.parent), autoescape=True, undefined=StrictUndefined)
    return environment.get_template(TEMPLATE.name).render(
        title="FID against the number of DDIM steps, with error bars", kicker="ddim-bench: DDPM and DDIM on PyTorch and MindSpore",
        lead=lead(grids), tiles=tiles(grids), sections=sections, command=command,
        rewrite=command_line("report"))


def figures(text: str) -> set[str]:
    """The titles of the pictures on a page that `page` made."""
    return {html.unescape(title) for title in FIGURE.findall(text)}


def lead(grids: list[Grid]) -> list[str]:
    """What the page found, in sentences."""
    if not grids:
        return ["The table has not been measured yet; what other commands have measured is below."]
    g, first = grids[0], grids[0].backends[0]
    line = g.of(first, table1.UNIFORM, "0.0").to_dict("records")
    falls = ", ".join(f"{table1_page.figure(cell['fid_mean'], cell['fid_sd'])} at S = {cell['S']}" for cell in line)
    limits = ", ".join(f"{name} {value:.2f}" for name, value in g.bounds.items())
    told = ", ".join(f"{count} {verdict}" for verdict, count in g.verdicts()[1]["verdict"].value_counts().items())
    return [f"{g.metric} of {label(first)}'s images with eta = 0 is {falls} ({limits}; {g.n:,} images a cell).",
            f"Of the DDIM paper's claims about its table 1, for each rule of choosing timesteps: {told}."]


def tiles(grids: list[Grid]) -> list[tuple[str, str, str]]:
    """(name, value, note) of the numbers to see first, at S = 50 and eta = 0."""
    out = []
    for g in grids[:1]:
        for backend in g.backends:
            for cell in g.of(backend, table1.UNIFORM, "0.0").to_dict("records"):
                if cell['S'] == 50:
                    out += [(f"{g.metric}, {label(backend)}", table1_page.figure(cell['fid_mean'], cell['fid_sd']),
                             f"S = 50, eta = 0, {seeds(cell['seeds'])}"),
                            (f"Time per image, {label(backend)}", f"{1e3 * cell['seconds_mean']:.3g} ms", f"S = 50, {g.device}")]
        out += [(name.capitalize(), f"{value:.2f}", f"{g.metric}, n = {g.n:,}") for name, value in g.bounds.items()]
    return out
