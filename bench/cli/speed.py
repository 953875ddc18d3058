"""`ddim-bench speed`: the speed table."""

from __future__ import annotations

import argparse

from bench.cli import claimed
from bench.cli.launch import launched
from bench.cli.options import at_least
from bench.presets import get_preset
from bench.studies import speed


def run(args: argparse.Namespace, command: str) -> int:
    """Time what was asked for; returns the exit code."""
    at_least(args, 1, "threads", "batch_size", "processes", "timeout")
    preset = get_preset(args.preset).changed(batch_size=args.batch_size)
    chosen = claimed.to_time(args.backends, preset, args.device)
    return speed.run(preset, chosen, device=args.device, threads=args.threads or launched().threads,
                     peers=args.peers, words=tuple(args.workloads.split(",")) if args.workloads else (),
                     processes=args.processes, out=args.out, fresh=args.fresh, timeout=args.timeout, dry_run=bool(args.dry_run))
