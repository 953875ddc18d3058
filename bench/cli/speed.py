"""`ddim-bench speed`: the speed table."""

from __future__ import annotations

import argparse

import backends
from bench.cli import claimed
from bench.cli.launch import launched
from bench.cli.options import at_least
from bench.presets import get_preset
from bench.studies import speed


def run(args: argparse.Namespace, command: str) -> int:
    """Time what was asked for; returns the exit code."""
    at_least(args, 1, "threads", "batch_size", "timeout")
    preset = get_preset(args.preset).changed(batch_size=args.batch_size)
    chosen, left = claimed.whole(args.backends, backends.choose(args.backends)[0], claimed.timed(preset, args.device, "float32"))
    print("\n".join(left), end="\n" * bool(left))
    return speed.run(preset, chosen, device=args.device, threads=args.threads or launched().threads,
                     peers=args.peers, out=args.out, fresh=args.fresh, timeout=args.timeout, dry_run=bool(args.dry_run))
