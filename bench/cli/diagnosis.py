"""`ddim-bench export-case` and `check-images`: a sampler in any language is held to the right one, from its images alone."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.cli.options import at_least, unsaid
from bench.diagnosis import case as cases
from bench.diagnosis import verdict
from bench.files import require_file
from bench.paths import printable
from bench.weights import sources
from reference.config import ConfigError, DiffusionConfig, require

CLOSED_FORM = ("schedule", "timesteps", "objective")  # options that the closed form's process has, too


def run(args: argparse.Namespace, command: str) -> int:
    """Write a case, or judge what was handed back; returns the exit code, 4 where it is not right."""
    if args.judges:
        return _check(args)
    at_least(args, 0, "seed")
    at_least(args, 1, "samples", "steps")
    said = unsaid(args, *CLOSED_FORM)
    network = sources.read(args.weights, said, args.ignore_scheduler) if args.weights else None
    process = {name: getattr(args, name) for name in CLOSED_FORM if getattr(args, name) is not None}
    found = cases.make(args.steps, network=network, diffusion=DiffusionConfig(**process), images=args.samples, seed=args.seed,
                       sampler=args.sampler, eta=_eta(args.eta), spacing=args.spacing, convention=args.convention, clip=args.clip)
    cases.write(found, args.out)
    print(f"wrote {printable(args.out)}: draw {args.samples} images from x_T.npy as case.json says, then\n"
          f"ddim-bench check-images {printable(args.out)} PORT.npy")
    return 0


def _check(args: argparse.Namespace) -> int:
    found = verdict.diagnose(cases.read(args.case), _read(args.images))
    print("\n".join(found.lines()))
    return 0 if found.answer == verdict.RIGHT else 4


def _read(path: Path) -> NDArray[Any]:
    try:
        array = np.load(require_file(path), allow_pickle=False)
    except ConfigError:
        raise
    except Exception as error:  # NumPy evaluates the header as a Python literal, which has many ways to fail
        raise ConfigError(f"PORT.npy={str(path)!r}: can't be read as a NumPy array: {' '.join(str(error).split())[:200]}") from None
    require(isinstance(array, np.ndarray), "PORT.npy", str(path), "must be a .npy file of one array")
    return np.asarray(array)


def _eta(text: str | None) -> float | str | None:
    try:
        return text if text in (None, "sigma_hat") else float(text)
    except ValueError:
        raise ConfigError(f"--eta={text!r}: must be a number in [0, 1] or sigma_hat") from None
