"""The sampling cells that a command line of the main job asks for, by backend."""

from __future__ import annotations

import argparse
import difflib

import backends
from bench.cli import tables
from bench.cli.options import unused
from bench.cli.values import parse_eta
from bench.job.job import GATED_STEPS
from bench.sampling.cell import Cell
from reference.config import require
from reference.scheduler import Scheduler
from reference.solver_plans import FAST, NOISY
from reference.solvers import SOLVERS
from reference.timesteps import parse_steps


def asked(args: argparse.Namespace, chosen: tuple[str, ...], own: Scheduler) -> tuple[dict[str, tuple[Cell, ...]], list[str]]:
    """What each backend draws, and a line for each that does not draw all.

    Of a table the first one draws all and the others the subset in which they are compared. Of three or more backends that nobody
    asked for by name the first alone draws the cells whose images are compared without a verdict, since they take the longest.
    `own` says the sampler where none is asked for.
    """
    if args.table:
        found = tables.cells(args, chosen)
        return found, [f"{backend}: draws none of the cells asked for" for backend in chosen if backend not in found]
    steps = parse_steps(args.steps if args.steps is not None else "10,50,1000")
    pairs = samplers(args, own)
    for backend in chosen if args.backends and any(sampler for sampler, _ in pairs) else ():
        able = backends.with_solvers()
        require(backend in able, "--sampler", args.sampler or own.sampler,
                f"backend {backend} has ddim and ddpm alone, says its ABOUT: use --backends {','.join(able)}")
    every = tuple(Cell(s, eta, args.spacing, args.seed, sampler) for s in steps for sampler, eta in pairs)
    short = tuple(cell for cell in every if cell.steps <= GATED_STEPS)
    if len(chosen) < 3 or args.backends or short in ((), every):
        return dict.fromkeys(chosen, every), []
    names = ",".join(chosen)
    return {chosen[0]: every} | dict.fromkeys(chosen[1:], short), [
        f"{backend}: draws no S above {GATED_STEPS}, which {chosen[0]} alone draws; --backends {names} draws all with each"
        for backend in chosen[1:]]


def samplers(args: argparse.Namespace, own: Scheduler) -> list[tuple[str | None, float | str]]:
    """(fast solver or None, eta, "ddpm" for that sampler) of each cell of one S, in the order of `SOLVERS`."""
    if args.sampler is None and not own.fast:
        return [(None, eta) for eta in parse_eta(args.eta if args.eta is not None else "ddpm" if own.sampler == "ddpm" else "0")]
    names = (args.sampler or str(own.sampler)).split(",")
    for name in names:
        require_known(name, args.sampler)
    require(len(set(names)) == len(names), "--sampler", args.sampler, "every name must appear once")
    if not set(names) & set(NOISY):
        unused(args, f"to the sampler{'s' * (len(names) > 1)} {', '.join(names)}", "eta")
    if set(names) <= set(FAST):
        unused(args, "without the sampler ddpm", "variance")
    etas = parse_eta(args.eta if args.eta is not None else "0")
    require("ddpm" not in etas, "--eta", args.eta, "goes without ddpm where --sampler is given")
    out: list[tuple[str | None, float | str]] = []
    for name in sorted(names, key=list(SOLVERS).index):
        if name == "ddpm":
            out.append((None, "ddpm"))
        elif name in NOISY:
            out += [(None if name == "ddim" else name, eta) for eta in (etas if name == "ddim" or args.eta is not None else (1.0,))]
        else:
            said = own.solver_choices.get("variant", {}) if name == own.sampler else {}
            out.append((name, said.get("eta", 0.0)))
    return out


def require_known(name: str, said: str) -> None:
    """Raise ConfigError for a name of no sampler in what `said` names."""
    near = difflib.get_close_matches(name, SOLVERS, 1)
    require(name in SOLVERS, "--sampler", said, f"{name!r} is no sampler; "
            + (f"did you mean {near[0]}?" if near else f"choose from {', '.join(SOLVERS)}"))
