"""`ddim-bench report`: the pages of a results folder, written again from its rows.

The main job's own README.md is left as it is: its pictures and its list of what is missing are not in rows.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bench import files
from bench.paths import command_line, printable, renamed
from bench.recipes import gallery
from bench.records import rows
from bench.records.cells import Cells
from bench.records.rows import AnyRow, of
from bench.records.values import Timing
from bench.report import ablation_page, noise_page, results, scaling_page, speed_page, table1_frames, table1_page
from bench.report.html import page as html
from bench.report.machines import page as machines_page
from bench.report.machines import versus
from bench.report.solvers import frames as solver_frames
from bench.report.solvers import page as solvers_page
from bench.report.studies import likelihood_page, round_trip_page, same_noise_page
from bench.sampling import solver_table
from reference.config import require

MADE_BY = re.compile(r"^Made by `(.+?)`", re.MULTILINE)


def run(args: argparse.Namespace, command: str) -> int:
    """Write every page of `args.out` that its rows can fill; returns the exit code, 3 where a page was left as it was."""
    out: Path = args.out
    require(args.json is None or args.json.suffix == ".json", "--json", str(args.json), "must end in .json")
    require(out.is_dir(), "--out", str(out), "is no folder; name one with rows, as ddim-bench run writes it")
    found, kept, made = rows.read(out / "rows"), [], []
    with Cells(out, fresh=False).shared("report"):
        for name, text in pages(found, out):
            made.append((name, text))
            path = out / name
            shown = html.pictures(files.read_text(path)) if name == "report.html" and path.exists() else set()
            if lost := shown - html.pictures(text):
                kept.append(printable(
                    f"missing: {path}: kept as it is, because images that it shows are not in {out / 'work'}: "
                    f"{', '.join(sorted(lost))}; `{made_by(out / 'table.md', 'run', '--table', 'ddim')}` draws them"))
                continue
            if path.suffix == ".md":
                files.write_page(path, text)
            else:
                with files.replacing(path) as file:
                    file.write(text.encode())
            print(f"page: {printable(path)}")
    if args.json or args.csv:
        export(found, args.json, args.csv, made, machines_page.found(out))
    print("\n".join(kept), end="\n" * bool(kept), file=sys.stderr)
    return 3 if kept else 0


def export(found: list[AnyRow], to_json: Path | None, to_csv: Path | None, made: Sequence[tuple[str, str]] = (),
           machines: versus.Runs | None = None) -> None:
    """The tables of images, times and comparisons, those of the pages `made` (file name, Markdown), and what `compare` says of
    several machines, as one JSON object and as CSV files."""
    timed: list[AnyRow] = [row for row in of(found, Timing) if "peak_rss_bytes" in row.values]  # roofs have none
    tables = {"images": results.sample_table(found), "times": results.speed_table(timed), "checks": results.check_table(found)}
    if machines and len(machines) > 1:
        tables |= {slug(f"compared {name}"): table for name, table in versus.tables(machines).items()}
    for name, text in made:
        tables |= of_page(name.removesuffix(".md"), text) if name.endswith(".md") else {}
    if to_json is not None:
        text = json.dumps({name: json.loads(table.to_json(orient="records")) for name, table in tables.items()}, indent=2)
        with files.replacing(to_json) as file:
            file.write((text + "\n").encode())
        print(f"tables: {printable(to_json)}")
    if to_csv is not None:
        for name, table in tables.items():
            path = files.folder(to_csv) / f"{name}.csv"
            with files.replacing(path) as file:
                file.write(table.to_csv(index=False).encode())
            print(f"table: {printable(path)}")


def of_page(page: str, text: str) -> dict[str, pd.DataFrame]:
    """The Markdown tables of a page, named by the page and the heading above; numbers are numbers, other cells text."""
    found, heading = dict[str, pd.DataFrame](), ""
    for block in re.split(r"\n(?=#)|\n\n", text):
        if block.startswith("#"):
            heading = block.splitlines()[0].strip("# ")
        if (lines := [line for line in block.splitlines() if line.startswith("|")]) and len(lines) > 2:
            head, _, *body = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
            name = slug(f"{page} {heading}")
            same = sum(other == name or other.startswith(f"{name}-table-") for other in found)
            frame = pd.DataFrame(body, columns=head)
            found[f"{name}-table-{same + 1}" if same else name] = frame.apply(_numbers)
    return found


def _numbers(column: pd.Series[Any]) -> pd.Series[Any]:
    try:
        return pd.to_numeric(column)
    except ValueError:
        return column


def slug(name: str) -> str:
    """A name for a file: small letters, digits and -."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:100]


def pages(found: list[AnyRow], out: Path) -> Iterator[tuple[str, str]]:
    """(file name, content) of each page that has rows. A page keeps the command that it names as its maker."""
    tables = table1_frames.tables(found)
    by = made_by(out / "table.md", "run", "--table", "ddim")
    if tables:
        yield "table.md", table1_page.page(tables[0], by, [], tables[1:])
    if raced := speed_page.of_races(found):
        yield "speed.md", speed_page.render(raced)
    if points := scaling_page.newest(found):
        yield "scaling.md", scaling_page.render(points, made_by(out / "scaling.md", "study", "scaling"), found)
    if sets := noise_page.newest(found):
        yield "noise.md", noise_page.render(sets, made_by(out / "noise.md", "study", "noise"), out)
    if tried := ablation_page.studied(found):
        yield "ablation.md", ablation_page.render(tried, made_by(out / "ablation.md", "study", "ablation"))
    if networks := likelihood_page.newest(found):
        yield "likelihood.md", likelihood_page.render(networks, made_by(out / "likelihood.md", "likelihood", "--weights", "SOURCE"))
    for name, page in (("round-trip", round_trip_page), ("same-noise", same_noise_page)):
        if of_study := page.newest(found):
            yield f"{name}.md", page.render(of_study, made_by(out / f"{name}.md", "study", name, "--weights", "SOURCE"))
    if any(row.kind == "recipe" for row in found):
        yield "gallery.md", gallery.page(found)
    solvers = made_by(out / solvers_page.PAGE, "run", "--table", solver_table.NAME)
    if tables := [solver_frames.of_table(found, budget) for budget in solver_frames.begun(found)]:
        solvers_page.draw(tables, out / "figures" / solvers_page.FIGURE)
        yield solvers_page.PAGE, solvers_page.page(tables, solvers, [])
    if len(machines := machines_page.found(out)) > 1:
        yield machines_page.PAGE, machines_page.render(machines, command_line("report"))
    yield "report.html", html.page(found, out, by, solvers=solvers)


def made_by(path: Path, *default: str) -> str:
    """The command that a page says it was made by, in its present form; that of `default` where it says none."""
    said = MADE_BY.search(files.read_text(path)) if path.exists() else None
    return renamed(said[1]) if said else command_line(*default)
