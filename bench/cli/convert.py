"""`ddim-bench convert`: weights of other projects as a diffusers pipeline folder."""

from __future__ import annotations

import argparse

from bench.cli.options import unsaid
from bench.paths import printable
from bench.weights import folders, pipeline, sources, tensor_files
from bench.weights.scheduler_config import ours_alone
from reference.config import require


def run(args: argparse.Namespace, command: str) -> None:
    """Read the source and write the folder."""
    weights, model, diffusion, scheduler = sources.read(args.source, unsaid(args), args.ignore_scheduler)
    why = ours_alone(diffusion)
    require(not why, "FOLDER", str(args.folder), f"would not be loaded by diffusers: {why}; --weights reads SOURCE as it is")
    pipeline.save_pipeline(args.folder, weights, model, diffusion, scheduler=scheduler)
    if args.mindspore:
        tensor_files.write_mindspore(args.folder / "unet" / folders.MINDSPORE, weights)
    print(f"wrote {printable(args.folder)}: {sum(value.size for value in weights.values())} parameters, {diffusion}")
