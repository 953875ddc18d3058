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
from bench.report import table1_frames
from bench.report.html import first_screen, job_section, other_sections, solver_sections, study_sections, table1_sections
from bench.report.html.parts import TABLE

PICTURE = re.compile(  # tables have the class "table"; charts are drawn from rows, as SVG
    r'<figure(?: class="small")?>\s*<h3>(.*?)</h3>\s*(?:<div class="strip"><span>[^<]*</span>)?<img src="data:image/(?!svg)')
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
    tables = [table1_frames.of_table(found, begun)] if begun else table1_frames.tables(found)
    newest, job = next(iter(tables), []), first_screen.newest_job(found)
    grids = [grid for table in tables for grid in table1_sections.grids(table)]
    sections = [
        table1_sections.claims(grids, command), table1_sections.cells(grids, command), table1_sections.curves(grids, command),
        study_sections.latents(found), solver_sections.section(found, solvers), other_sections.backends(newest, found, command),
        *job_section.section(job), other_sections.limits(newest, command), other_sections.checkpoints(found, out),
        study_sections.chance(found), study_sections.likelihoods(found),
        other_sections.samples(newest, found, out, command), other_sections.cost(newest, found, command),
        *other_sections.machines(out),
    ]
    environment = Environment(loader=FileSystemLoader(TEMPLATE.parent), autoescape=True, undefined=StrictUndefined)
    return environment.get_template(TEMPLATE.name).render(
        title="FID against the number of DDIM steps, with error bars",
        kicker="ddim-bench: DDPM and DDIM on PyTorch, MindSpore and JAX",
        screen=first_screen.screen(grids, newest, job, out, command), sections=sections, command=command,
        rewrite=command_line("report"))


def pictures(text: str) -> set[str]:
    """The titles of the figures with images of cells on a page that `page` made: without these images it can't be made again."""
    return {html.unescape(title) for title in PICTURE.findall(text)}
