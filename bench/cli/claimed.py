"""What of a command the backends claim: the rest is left out with one line, or refused where it was asked for by name."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import backends
from backends import claims
from backends.protocol import Spec
from bench.job.job import GATED_STEPS, Job
from bench.presets import Preset
from bench.sampling.cell import Cell
from reference.config import ConfigError
from reference.conventions import make_plan

OPTIONS = {"samplers": ("sampler", "eta"), "spacings": ("spacing",), "variances": ("variance",)}  # by which a kind is named


def timed(preset: Preset, device: str, dtype: str) -> dict[str, Any]:
    """What a backend must claim to be trained and timed at all, as arguments of `claims.unclaimed`: the sampling step that is timed
    is one of DDIM on leading timesteps."""
    spec = Spec(preset.model, preset.diffusion, preset.optim, device, dtype)
    return {"spec": spec, "plan": make_plan(preset.diffusion, preset.diffusion.timesteps), "trains": True}


def whole(asked: str | None, chosen: Sequence[str], needed: dict[str, Any]) -> tuple[tuple[str, ...], list[str]]:
    """Those of the chosen backends that claim all that is needed, and a line for each other one. Raises `ConfigError` where
    `asked` is the option that names them, or none is left."""
    outside = {name: claims.unclaimed(backends.about(name), **needed) for name in chosen}
    lines = {name: claims.line(backends.about(name), *next(iter(found.items()))) for name, found in outside.items() if found}
    able = tuple(name for name in chosen if name not in lines)
    if lines and (asked is not None or not able):
        raise ConfigError(f"--backends={asked!r}: {next(iter(lines.values()))}")
    return able, [f"{name} was left out: {line}" for name, line in lines.items()]


def to_time(asked: str | None, preset: Preset, device: str) -> tuple[str, ...]:
    """The backends to time, of those asked for or installed; prints a line for each that is left out. Raises as `whole`."""
    chosen, absent = backends.choose(asked)
    able, left = whole(asked, chosen, timed(preset, device, "float32"))
    print("\n".join([*absent, *left, ""]), end="")
    return able


def cells(args: argparse.Namespace, asked: str | None, job: Job) -> tuple[Job, list[str]]:
    """The job with what its backends claim to draw, and lines about the rest. Raises `ConfigError` where a backend that was asked
    for by name does not claim what an option names, or claims none of its cells."""
    able, lines = whole(asked, job.backends, timed(job.preset, job.device, job.dtype))
    drawn: dict[str, tuple[Cell, ...]] = {}
    for name in able:
        outside = {cell: found for cell in job.cells[name] if (found := _outside(job, name, cell))}
        kept = tuple(cell for cell in job.cells[name] if cell not in outside)
        for kind, value in dict.fromkeys(pair for found in outside.values() for pair in found.items()):
            line = claims.line(backends.about(name), kind, value)
            named = [option for option in OPTIONS.get(kind, ()) if getattr(args, option) is not None and not args.table]
            if asked is not None and (named or not kept):
                raise ConfigError(f"--{named[0]}={getattr(args, named[0])!r}: {line}" if named else f"--backends={asked!r}: {line}")
            count = sum(found.get(kind) == value for found in outside.values())
            lines.append(f"{name}: {count} of its cells were left out: {line}")
        drawn |= {name: kept} if kept else {}
    if not drawn:
        raise ConfigError(f"--backends={asked!r}: no backend claims any of what is asked for: {lines[0]}")
    lines += [f"{name}: the short training and the time of a training step were left out, which are those of "
              f"{name.partition(backends.BORROWS)[2]}" for name in drawn
              if not backends.trains(name) and (job.preset.train_steps or job.preset.blocks)]
    return replace(job, cells=drawn), lines


def _outside(job: Job, name: str, cell: Cell) -> dict[str, str]:
    """What of this cell the backend does not claim, by kind; of a long one also of the path on the convention's own timesteps by
    which its late steps are held to the oracle."""
    paths = [cell, replace(cell, spacing=None)] if cell.steps > GATED_STEPS and not cell.sampler else [cell]
    return {kind: value for path in paths for kind, value in claims.unclaimed(backends.about(name), plan=job.plan(path)).items()}
