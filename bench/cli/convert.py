"""`ddim-bench convert`: weights of other projects as a diffusers pipeline folder."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from bench.cli.options import unused
from bench.weights import folders, pipeline, sources, tensor_files
from reference.config import SCHEDULES, require


def run(args: argparse.Namespace, command: str) -> None:
    """Read the source and write the folder."""
    require(args.schedule is None or args.schedule in SCHEDULES, "--schedule", args.schedule,
            f"must be one of {', '.join(SCHEDULES)}")
    if not Path(args.source).is_file():
        unused(args, "to a folder or a name on the hub, which say it themselves", "sample_size", "heads")
    weights, model, diffusion, scheduler = sources.read(args.source, args.sample_size, args.heads or sources.HEADS,
                                                        args.ignore_scheduler)
    given = {key: value for key in ("schedule", "timesteps") if (value := getattr(args, key)) is not None}
    diffusion = replace(diffusion, **given)
    pipeline.save_pipeline(args.folder, weights, model, diffusion, scheduler=scheduler)
    if args.mindspore:
        tensor_files.write_mindspore(args.folder / "unet" / folders.MINDSPORE, weights)
    print(f"wrote {args.folder}: {sum(value.size for value in weights.values())} parameters, {diffusion}")
