"""`ddim-bench recipe NAME`: a well-known experiment, with its pictures, row and page."""

from __future__ import annotations

import argparse
import math

import backends
from backends import claims
from backends.protocol import Spec
from bench.cli import metrics
from bench.cli.cells import require_known
from bench.cli.options import at_least, data_choice, unsaid, unused
from bench.cli.values import parse_log
from bench.metric import fmnist_cnn
from bench.paths import printable
from bench.recipes import RECIPES, gallery
from bench.recipes.experiment import Experiment
from bench.recipes.recipe import Options, Recipe
from bench.recipes.show import KINDS, on_the_way
from bench.timing import flops
from bench.timing.memory import require_room
from reference.config import require
from reference.solver_plans import FAST, make_solver_plan
from reference.timesteps import parse_steps

TRAINING = ("train_steps", "epochs", "batch_size", "lr", "log", "sample_at")  # what --weights takes the place of


def run(args: argparse.Namespace, command: str) -> None:
    """The whole recipe."""
    require(args.name in RECIPES, "name", args.name, f"must be one of {', '.join(RECIPES)}")
    recipe = RECIPES[args.name]
    options = read(args, recipe)
    experiment = Experiment(recipe, options, command)
    experiment.held_out  # noqa: B018  a data set that is not there ends the run before it trains
    _require_path(experiment)
    about = _metric(args.metric, experiment)
    recipe.run(experiment)
    experiment.row()
    page = gallery.write(args.out)
    lines = [*experiment.notes, *about, *(f"picture: {printable(args.out / 'gallery' / file)}" for file, _ in experiment.made),
             f"page: {printable(page)}"]
    if "tensorboard" in options.log and "training" in experiment.values:
        lines.append(f"training curves: tensorboard --logdir {printable(args.out / 'work')}")
    print("\n".join(lines))


def _require_path(experiment: Experiment) -> None:
    """Raise ConfigError where the sampler asked for has no such path, before anything is trained or drawn."""
    o, recipe = experiment.options, experiment.recipe
    if o.sampler in FAST:
        process = recipe.preset.diffusion if o.weights is None else experiment.model.spec.diffusion
        plan = make_solver_plan(process, recipe.sampling_steps(o.steps, process), sampler=str(o.sampler))
        claims.require_claimed(backends.about(o.backend), plan=plan)


def _metric(name: str, experiment: Experiment) -> list[str]:
    """Lines about what the metric's values say. Raises ConfigError where it is damaged, or says nothing of what was asked for."""
    by = experiment.options.extractor
    if name == fmnist_cnn.NAME and experiment.measures:
        fmnist_cnn.extractor()  # a damaged one shall not end the run after its training
    if by is None or name == fmnist_cnn.NAME:
        return []
    dataset, least = experiment.dataset, 2 * by.width
    by.require_fitting(dataset.images.shape[1:], f"say nothing of {dataset.name} of", "--metric none goes without, ")
    for option, n in (("--samples", experiment.samples), ("--data", len(dataset))):
        require(n >= least, option, n, f"--metric {name} needs at least {least} images, twice its features; --metric none goes "
                "without")
    return metrics.others_images(by, dataset)


def read(args: argparse.Namespace, recipe: Recipe) -> Options:
    """The options as a record. Raises ConfigError where one is out of range, or changes nothing in this recipe."""
    for name in ("train_steps", "epochs", "batch_size", "samples", "steps", "sample_batch", "seeds"):
        value = getattr(args, name)
        require(value is None or 0 < value < math.inf, f"--{name.replace('_', '-')}", value, "must be positive and finite")
        if name in ("batch_size", "samples", "sample_batch") and value is not None:
            spec = Spec(recipe.preset.model, recipe.preset.diffusion, device=args.device, dtype=args.dtype)
            trains = name == "batch_size"
            require_room(f"--{name.replace('_', '-')}", value, spec.image_shape, flops.kept(spec) if trains else 0)
    at_least(args, 0, "seed", "train_steps", "epochs")
    require(args.train_steps is None or args.epochs is None, "--epochs", args.epochs, "give --train-steps or --epochs, not both")
    require(args.weights is None or recipe.takes_weights, "--weights", args.weights,
            f"{recipe.name} compares trainings and takes no weights")
    if args.weights is not None:
        unused(args, "with --weights, which are trained", *TRAINING)
    else:
        unused(args, "without --weights", "ignore_scheduler")
    if recipe.takes_weights:
        unused(args, f"to {recipe.name}, which compares no trainings", "seeds")
    if not recipe.shows:
        unused(args, f"to {recipe.name}, which draws pictures of its own", "grid", "strip", "gif", "sampler")
    if args.sampler is not None:
        _require_pictures(args, recipe)
    # The network that ships is looked at where it is known that samples enough for it are drawn.
    metric = "none" if args.metric == fmnist_cnn.NAME else args.metric
    by = metrics.choose(metric, args.inception_weights, args.download)
    return Options(
        backend=args.backend or recipe.backend, device=args.device, dtype=args.dtype, mode=args.mode, train_steps=args.train_steps,
        epochs=args.epochs, batch_size=args.batch_size, lr=args.lr, weights=args.weights, ignore_scheduler=args.ignore_scheduler,
        unsaid=unsaid(args), samples=args.samples, steps=args.steps, sampler=args.sampler, sample_batch=args.sample_batch,
        seed=args.seed, seeds=3 if args.seeds is None else args.seeds, data=data_choice(args),
        extractor=None if args.metric == "none" else by,
        pictures=tuple(kind for kind in ("grid", "strip", "gif") if getattr(args, kind)),
        log=parse_log(args.log or "tensorboard"), sample_at=tuple(parse_steps(args.sample_at)) if args.sample_at else (),
        out=args.out)


def _require_pictures(args: argparse.Namespace, recipe: Recipe) -> None:
    """Raise ConfigError for a sampler that is none, or that no picture of this run would show."""
    require_known(args.sampler, args.sampler)
    for kind in on_the_way(args.sampler):
        require(not getattr(args, kind), f"--{kind}", True, f"stops of {args.sampler} on the way would lose its earlier "
                "predictions: leave it out, or give --sampler ddim")
    left = [kind for kind in KINDS if (kind in recipe.pictures or getattr(args, kind)) and kind not in on_the_way(args.sampler)]
    require(bool(left), "--sampler", args.sampler, f"{recipe.name} draws no samples unless it is asked to: add --grid")
