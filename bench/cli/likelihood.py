"""`ddim-bench likelihood`: the variational bound of held-out images in bits per dimension."""

from __future__ import annotations

import argparse
from pathlib import Path

import backends
from backends.protocol import Spec
from bench.cli import claimed
from bench.cli.launch import launched
from bench.cli.options import at_least, data_choice, unsaid
from bench.sampling import bound
from bench.studies import likelihood
from bench.timing.memory import require_room
from bench.weights import sources
from reference.config import ConfigError, OptimConfig, require
from reference.timesteps import parse_steps


def run(args: argparse.Namespace, command: str) -> int:
    """Measure what was asked for; returns the exit code."""
    at_least(args, 0, "seed")
    at_least(args, 1, "sample_batch", "threads")
    at_least(args, 2, "samples")  # one image has no spread
    steps = parse_steps(args.steps) if args.steps is not None else None
    chosen, absent = backends.choose(args.backends)
    able = backends.with_likelihood()
    for backend in chosen if args.backends else ():
        require(backend in able, "--backends", args.backends,
                f"backend {backend} has no terms of the bound, says its ABOUT: use {','.join(able)}")
    found = sources.read(args.weights, unsaid(args), args.ignore_scheduler)
    spec = Spec(found.model, found.diffusion, OptimConfig(), args.device, args.dtype)
    absent += [f"{b}: has no terms of the bound" for b in chosen if b not in able]
    bounded, left = claimed.whole(args.backends, [b for b in chosen if b in able], {"spec": spec})
    names = args.variance.split(",") if args.variance is not None else list(bound.variances(found.diffusion))
    require(len(set(names)) == len(names), "--variance", args.variance, "every name must appear once")
    try:
        paths = [bound.path(found.diffusion, S, names) for S in steps or [found.diffusion.timesteps]]
    except ConfigError as error:
        raise ConfigError(f"--{error}" if str(error).startswith(("steps=", "variance=")) else f"--weights: {error}") from None
    require_room("--sample-batch", min(args.sample_batch, args.samples), spec.image_shape)
    _, held_out = data_choice(args).both("fashion-mnist", spec.image_shape)
    require(args.samples <= len(held_out), "--samples", args.samples,
            f"must be at most the {len(held_out)} images of {held_out.provenance}")
    asked = likelihood.Settings(Path(args.weights).name, args.samples, args.seed, args.sample_batch,
                                args.threads or launched().threads)
    return likelihood.run(asked, spec, found.weights, paths, list(bounded), [*absent, *left], held_out, args.out, args.fresh,
                          command)
