"""`ddim-bench fid`: the Frechet distance of two sets of images."""

from __future__ import annotations

import argparse

from bench.cli import metrics
from bench.cli.options import at_least
from bench.studies import distance
from reference.config import require


def run(args: argparse.Namespace, command: str) -> None:
    """Measure and print."""
    at_least(args, 0, "seed")
    require(args.metric != "none", "--metric", args.metric, "measures nothing, which is all that this command does")
    by = metrics.choose(args.metric, args.inception_weights, args.download)
    one, two = (distance.read(path, by) for path in (args.one, args.two))
    print("\n".join(distance.lines(one, two, by, args.seed)))
