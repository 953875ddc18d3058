"""The tables of `ddim-bench run --table`: the presets that each is of, its cells, and its page."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import backends
from bench.cli.options import unused
from bench.cli.report import made_by
from bench.cli.values import parse_eta, parse_seeds
from bench.job import forecast, pooled
from bench.job.job import Images, Job
from bench.records import rows
from bench.records.notebook import Notebook
from bench.records.rows import AnyRow
from bench.report import table1_frames, table1_page
from bench.report.html import page as html
from bench.report.solvers import page as solvers_page
from bench.sampling import solver_table, table1
from bench.sampling.cell import Cell
from reference.config import require
from reference.timesteps import parse_steps

PRESETS = {"ddim": ("table",), solver_table.NAME: ("table", "table-base")}  # whose networks a table is of


def presets(args: argparse.Namespace) -> tuple[str | None, ...]:
    """The presets to run, one after another: those of a table where neither --preset nor --weights says otherwise."""
    if args.table is None or args.preset:
        return (args.preset,)
    return PRESETS[args.table][:1 if args.weights else None]


def cells(args: argparse.Namespace, chosen: tuple[str, ...]) -> dict[str, tuple[Cell, ...]]:
    """What each backend draws: the first one all, the others the subset in which they are compared."""
    require(not args.spacing, "--spacing", args.spacing, "goes without --table, which has both of the paper's"
            if args.table == "ddim" else "goes without --table, which has each solver's own")
    if args.table == solver_table.NAME:
        able = backends.with_solvers()
        chosen = tuple(backend for backend in chosen if backend in able)
        require(bool(chosen), "--backends", args.backends, f"table solvers needs one of {', '.join(able)}, which have them")
    whole, subset = _ddim(args) if args.table == "ddim" else _solvers(args)
    rest = dict.fromkeys(chosen[1:], subset) if subset else {}
    return {chosen[0]: whole, **rest}


def _ddim(args: argparse.Namespace) -> tuple[tuple[Cell, ...], tuple[Cell, ...]]:
    unused(args, "with --table, which has both samplers", "sampler")
    steps = parse_steps(args.steps) if args.steps is not None else list(table1.STEPS)
    etas = parse_eta(args.eta) if args.eta is not None else table1.ETAS
    whole = table1.grid(steps, etas, args.seed, parse_seeds(args.seeds or "3"))
    return whole, table1.paired(whole)


def _solvers(args: argparse.Namespace) -> tuple[tuple[Cell, ...], tuple[Cell, ...]]:
    unused(args, "with --table solvers, whose samplers have their own", "eta", "clip", "variance", "final_alpha", "steps_offset")
    require(args.convention == "plain", "--convention", args.convention, "goes without --table solvers, which has our own solvers")
    seeds = args.seeds or "3"
    require("," not in seeds, "--seeds", seeds, "is one number with --table solvers")
    steps = parse_steps(args.steps) if args.steps is not None else list(solver_table.STEPS)
    names = args.sampler.split(",") if args.sampler is not None else list(solver_table.SOLVERS)
    whole = solver_table.cells(steps, names, args.seed, parse_seeds(seeds)[0])
    return whole, solver_table.paired(whole)


def begin(args: argparse.Namespace) -> Callable[[Job, Notebook], None] | None:
    """What keeps a table's budget, which its page is found by."""
    if args.table is None:
        return None
    return partial(forecast.keep_budget, table=args.table) if args.table == solver_table.NAME else forecast.keep_budget


def end(args: argparse.Namespace, job: Job, book: Notebook, images: Images) -> None:
    """What a table needs once its images are measured."""
    if args.table is not None:
        pooled.keep(job, book, images, args.table)


def write(out: Path, found: list[AnyRow], begun: AnyRow, command: str, missing: list[str]) -> list[Path]:
    """The page of the table that this budget row began, and report.html."""
    if begun.config.get("table") != solver_table.NAME:
        ours = table1_frames.of_table(found, begun)
        others = [table for table in table1_frames.tables(found) if table[0].preset != begun.preset]
        first, *rest = sorted([ours, *others], key=lambda table: -len(table))
        if first is not ours:
            command = made_by(out / "table.md", "run", "--table", "ddim")
        return [table1_page.write(out, first, command, missing, rest),
                html.render(found, out, command, solvers=made_by(out / solvers_page.PAGE, "run", "--table", solver_table.NAME))]
    return [solvers_page.write(out, found, command, missing),
            html.render(found, out, made_by(out / "table.md", "run", "--table", "ddim"), solvers=command)]


def write_report(out: Path) -> Path:
    """report.html of all rows of this folder, after a job that is of no table."""
    return html.render(rows.read(out / "rows"), out, made_by(out / "table.md", "run", "--table", "ddim"),
                       solvers=made_by(out / solvers_page.PAGE, "run", "--table", solver_table.NAME))
