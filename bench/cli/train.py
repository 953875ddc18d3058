"""Train a checkpoint for as long as asked and ship it: `python -m bench.train --steps 20000 --save FOLDER`.

Goes on from its last good state when the same command is started again. The finished folder is a diffusers pipeline with the
EMA weights, `loss.csv`, and `training.json` with the command, seed, time and machine; where it began with the weights of another
training (`--weights`), with that one's `training.json` as `began_with`, and its losses before the new ones. On several processes:
`torchrun --nproc-per-node N --max-restarts 3 -m bench.train ...` or `msrun --worker_num=N --local_worker_num=N --join=True
bench/train.py ...`.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

import backends
from backends.protocol import Spec
from bench.cli.launch import launched, serve_as_scheduler
from bench.cli.main import exit_code
from bench.data import datasets
from bench.paths import ROOT
from bench.presets import get_preset
from bench.records import environment
from bench.training import loop
from bench.training.trackers import LOGS, Log
from bench.weights import pipeline, sources, tensor_files
from reference import weights
from reference.config import ConfigError, require
from reference.conventions import CONVENTIONS, adopt, adopt_network


def main(argv: list[str] | None = None) -> int:
    """Command line; exit codes as `bench.run`'s."""
    parser = argparse.ArgumentParser(prog="ddim-bench train", description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--weights", help="start from these, with their network and process: a diffusers folder, a checkpoint "
                        "file or a name on the hub; default: the preset's network, seeded")
    parser.add_argument("--backend", help="default: torch, or that of the launcher")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--mode", default="tuned")
    parser.add_argument("--steps", type=int, required=True, help="optimiser steps; the learning rate decays over them")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--convention", default="plain", help=f"details of network and process: {', '.join(CONVENTIONS)}")
    parser.add_argument("--seed", type=int, default=0)
    datasets.add_options(parser)
    parser.add_argument("--save-every", type=float, default=loop.SAVE_EVERY, help="seconds between states")
    parser.add_argument("--log", default="tensorboard", help=f"one or more of {', '.join(LOGS)}, separated by commas; in SAVE.logs")
    parser.add_argument("--save", type=Path, required=True, help="folder of the finished pipeline")
    args = parser.parse_args(argv)
    serve_as_scheduler()
    command = shlex.join(["python", "bench/train.py", *(sys.argv[1:] if argv is None else argv)])
    return exit_code(lambda: train(args, command), "the last state")


def train(args: argparse.Namespace, command: str) -> None:
    """Train, saving states beside `args.save`, then write the pipeline folder."""
    preset = get_preset(args.preset)
    began_with, before = None, []
    if args.weights:
        require(args.convention == "plain", "--convention", args.convention, "goes without --weights, which have a network")
        initial, model, process = sources.load(args.weights)
        began_with = _record(Path(args.weights) / "training.json") or {"weights": args.weights}
        before = _losses(Path(args.weights) / "loss.csv")
    else:
        model, process = adopt_network(preset.model, args.convention), adopt(preset.diffusion, args.convention)
        initial = weights.initialise(model, args.seed)
    require(args.save_every >= 0, "--save-every", args.save_every, "must be at least 0 seconds")
    require(args.steps > preset.optim.warmup_steps, "--steps", args.steps,
            f"must exceed the warm-up's {preset.optim.warmup_steps}")
    optim = replace(preset.optim, total_steps=args.steps)
    launch = launched()
    name = launch.backends(args.backend) or "torch"
    spec = Spec(model, process, optim, args.device, args.dtype, args.mode, launch.rank, launch.processes)
    batch_size = args.batch_size or preset.batch_size
    dataset = datasets.from_options(args, preset.dataset, spec.image_shape, "train")
    backend = backends.load(name).create(spec)
    backend.load_weights(initial)
    config = {"backend": name, "dataset": dataset.sha256}
    if args.weights:
        config["weights"] = tensor_files.weights_hash(initial)
    logs, states = (args.save.with_name(args.save.name + suffix) for suffix in (".logs", ".states"))
    about = config | {"preset": preset.name, "optim": optim.to_dict(), "seed": args.seed, "batch_size": batch_size}
    with Log(logs, args.save.name, about, [] if spec.rank > 0 else args.log.split(",")) as log, \
            tqdm(total=args.steps, desc=f"train {name}", mininterval=2, disable=spec.rank > 0) as bar:
        done = loop.fit(backend, spec, dataset.images, seed=args.seed, steps=args.steps, batch_size=batch_size,
                            flip=dataset.flip, states=states, config=config, save_every=args.save_every,
                            on_step=lambda n, _: bar.update(n - bar.n), on_losses=log.losses)
    if spec.rank > 0:
        return
    about = {
        "command": command, "seconds": round(done.seconds + done.first_seconds, 1), "starts": done.starts,
        "processes": spec.processes,
        "skipped_steps": done.skipped, "config": config | {
            "model": spec.model.to_dict(), "diffusion": spec.diffusion.to_dict(), "optim": optim.to_dict(), "seed": args.seed,
            "batch_size": batch_size, "dtype": args.dtype},
        "dataset": dataset.provenance, "began_with": began_with, "final_loss_mean_of_1000": float(done.losses[-1000:].mean()),
        "device": backend.device_info(), "environment": environment.describe(),
    }
    curve = "step,loss\n" + "".join(f"{n},{loss}\n" for n, loss in enumerate([*before, *(f"{x:.6g}" for x in done.losses)]))
    pipeline.save_pipeline(args.save, backend.weights(ema=True), spec.model, spec.diffusion,
                             {"loss.csv": curve, "training.json": json.dumps(about, indent=2) + "\n"})
    print(f"wrote {args.save.relative_to(ROOT) if args.save.is_relative_to(ROOT) else args.save}")


def _record(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text()) if path.exists() else None
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}") from None


def _losses(path: Path) -> list[str]:
    try:
        return [f"{float(line.split(',')[1]):.6g}" for line in path.read_text().splitlines()[1:]] if path.exists() else []
    except (ValueError, IndexError) as error:
        raise ConfigError(f"{path}: not lines of step,loss: {error}") from None
