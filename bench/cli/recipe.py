"""Run a well-known experiment by name: `python -m bench.cli.recipe mnist-scratch`.

Trains, samples, and leaves its pictures in OUT/gallery, a row in OUT/rows and the page OUT/gallery.md. `--steps` or `--epochs`
shorten the training; picture, row and page then say so. The same command goes on where an interrupted one stopped.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

import backends
from bench.cli.main import exit_code
from bench.data import datasets
from bench.paths import ROOT
from bench.recipes import RECIPES, gallery
from bench.recipes.experiment import Experiment
from bench.training.trackers import LOGS
from reference.config import require
from reference.timesteps import parse_steps


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m bench.cli.recipe", description=__doc__.splitlines()[0])
    p.add_argument("name", help=f"of {', '.join(RECIPES)}")
    p.add_argument("--backend", help=f"of {', '.join(backends.names())}; default: the recipe's")
    p.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N or ascend")
    p.add_argument("--dtype", default="float32", help="of the network: float32, bfloat16, float16 or float64")
    p.add_argument("--mode", default="tuned", help="tuned or stock")
    p.add_argument("--steps", type=int, help="training steps")
    p.add_argument("--epochs", type=float, help="the same in passes over the data")
    p.add_argument("--batch-size", type=int, help="of training")
    p.add_argument("--lr", type=float, help="learning rate; default: the source's")
    p.add_argument("--weights", help="folder, file or name on the hub of a trained network, in place of training")
    p.add_argument("--samples", type=int, help="images per set of samples")
    p.add_argument("--sampling-steps", type=int, help="steps S of the recipe's sampler")
    p.add_argument("--sample-batch", type=int, default=64, help="images drawn at once")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--seeds", type=int, default=3, help="trainings per choice, where the recipe compares")
    datasets.add_options(p)
    p.add_argument("--grid", action="store_true", help="also a grid of samples")
    p.add_argument("--strip", action="store_true", help="also a strip from noise to images")
    p.add_argument("--gif", action="store_true", help="also the denoising of one image, moving")
    p.add_argument("--log", default="tensorboard", help=f"one or more of {', '.join(LOGS)}, separated by commas")
    p.add_argument("--sample-at", default="", help="training steps after which samples are drawn, such as 100,500")
    p.add_argument("--out", type=Path, default=ROOT / "results", help="folder of gallery, rows and work")
    return p


def run(args: argparse.Namespace, command: str) -> None:
    """The whole recipe."""
    require(args.name in RECIPES, "name", args.name, f"must be one of {', '.join(RECIPES)}")
    for name in ("steps", "epochs", "batch_size", "samples", "sampling_steps", "sample_batch", "seeds"):
        value = getattr(args, name)
        require(value is None or value > 0, f"--{name.replace('_', '-')}", value, "must be positive")
    require(args.seed >= 0, "--seed", args.seed, "must be 0 or more")
    require(args.steps is None or args.epochs is None, "--epochs", args.epochs, "give --steps or --epochs, not both")
    recipe = RECIPES[args.name]
    require(args.weights is None or recipe.takes_weights, "--weights", args.weights,
            f"{recipe.name} compares trainings and takes no weights")
    args.backend = args.backend or recipe.backend
    args.log = tuple(filter(None, args.log.split(",")))
    args.sample_at = parse_steps(args.sample_at) if args.sample_at else []
    experiment = Experiment(recipe, args, command)
    experiment.held_out  # noqa: B018  a data set that is not there ends the run before it trains
    recipe.run(experiment)
    experiment.row()
    page = gallery.write(args.out)
    lines = [*experiment.notes, *(f"picture: {args.out / 'gallery' / file}" for file, _ in experiment.made), f"page: {page}"]
    if "tensorboard" in args.log and "training" in experiment.values:
        lines.append(f"training curves: tensorboard --logdir {args.out / 'work'}")
    print("\n".join(lines))


def main(argv: list[str] | None = None) -> int:
    """Command line; exit codes as `bench.run`'s."""
    argv = sys.argv[1:] if argv is None else argv
    command = shlex.join(["python", "-m", "bench.cli.recipe", *argv])
    return exit_code(lambda: run(parser().parse_args(argv), command), "the last state")


if __name__ == "__main__":
    sys.exit(main())
