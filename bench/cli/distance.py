"""`ddim-bench fid`: the Frechet distance of two sets of images."""

from __future__ import annotations

import argparse

from bench.cli.options import at_least
from bench.metric import inception
from bench.studies import distance


def run(args: argparse.Namespace, command: str) -> None:
    """Measure and print."""
    at_least(args, 0, "seed")
    by = inception.choose(args.metric, args.inception_weights, args.download)
    one, two = (distance.read(path, by) for path in (args.one, args.two))
    print("\n".join(distance.lines(one, two, by, args.seed)))
