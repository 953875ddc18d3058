"""`ddim-bench train`: a network trained for as long as asked, as a diffusers pipeline.

The finished folder has the EMA weights, `loss.csv`, and `training.json` with the command, seed, time and machine. Where the
training began with the weights of another one (`--weights`), it also has that one's `training.json` as `began_with`, and its losses
before the new ones.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import backends
from backends import claims
from backends.protocol import Spec
from bench import api
from bench.cli import own, watching
from bench.cli.launch import launched, serve_as_scheduler
from bench.cli.options import at_least, data_choice, unsaid, unused
from bench.cli.values import parse_log
from bench.paths import ROOT, printable
from bench.presets import Preset
from bench.progress import tracked
from bench.records import environment, trainings
from bench.timing import flops
from bench.timing.memory import require_room
from bench.training import loop
from bench.training.trackers import Log
from bench.weights import folders, pipeline, sources, tensor_files
from bench.weights.scheduler_config import require_expressible
from reference import weights
from reference.config import BOUNDS, ConfigError, DiffusionConfig, ModelConfig, OptimConfig, require
from reference.conventions import adopt, adopt_network, get_convention
from reference.respacing import respaced
from reference.timesteps import parse_steps

NEW = ("schedule", "timesteps", "objective")  # of `UNSAID`, what also says how a new network is trained


def run(args: argparse.Namespace, command: str) -> None:
    """Train, saving states beside `args.save`, then write the pipeline folder."""
    serve_as_scheduler()
    at_least(args, 0, "seed", "save_every")
    at_least(args, 1, "batch_size", "train_steps", "validate", "width")
    at_least(args, 0, "warmup", "lr")
    looks = _looks(args)
    require(not os.path.lexists(args.save) or (args.save / "model_index.json").exists(), "--save", str(args.save),
            "exists and is no pipeline folder; it is not overwritten")
    preset = own.preset(args)
    initial, model, process, scheduler = _beginning(args, preset)
    began_with, before = _history(args.weights) if args.weights else (None, [])
    steps = args.train_steps
    optim = _optim(args, preset)
    launch = launched()
    name = launch.backends(args.backend) or backends.DEFAULT
    spec = Spec(model, process, optim, args.device, args.dtype, args.mode, launch.rank, launch.processes)
    _require_trainer(name, spec)
    batch_size = args.batch_size or preset.batch_size
    require_room("--batch-size", batch_size // spec.processes, spec.image_shape, flops.kept(spec))
    dataset, held_out = data_choice(args).both(preset.dataset, spec.image_shape)
    backend = backends.load(name).create(spec)
    backend.load_weights(initial)
    config = {"backend": name, "dataset": dataset.sha256}
    if args.weights:
        config["weights"] = tensor_files.weights_hash(initial)
    logs, states = (args.save.with_name(args.save.name + suffix) for suffix in (".logs", ".states"))
    about = config | {"preset": preset.name, "optim": optim.to_dict(), "seed": args.seed, "batch_size": batch_size}
    with Log(logs, args.save.name, about, () if spec.rank > 0 else parse_log(args.log)) as log, \
            tracked(total=steps, desc=f"train {name}", mininterval=2, disable=spec.rank > 0) as bar:
        watch = watching.Watch(api.Model(name, spec, backend), log, logs, bar, args.seed, looks, args.validate or 0,
                               held_out.images, batch_size)
        done = loop.fit(backend, spec, dataset.images, seed=args.seed, steps=steps, batch_size=batch_size,
                            flip=dataset.flip, states=states, config=config, save_every=args.save_every,
                            on_step=watch.step, on_losses=watch.losses)
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
                             {"loss.csv": curve, "training.json": json.dumps(about, indent=2) + "\n"}, scheduler)
    print(f"wrote {printable(args.save.relative_to(ROOT) if args.save.is_relative_to(ROOT) else args.save)}")


def _require_trainer(name: str, spec: Spec) -> None:
    backends.take(name)
    require(backends.about(name).network, "--backend", name, "is a sampler without a network, says its ABOUT: name one that trains")
    require(backends.trains(name), "--backend", name, "has no training but that of its network: name this one")
    claims.require_claimed(backends.about(name), spec, trains=True)


def _looks(args: argparse.Namespace) -> list[int]:
    """The steps of --sample-at. Raises ConfigError."""
    if args.sample_at is None:
        return []
    try:
        looks = parse_steps(args.sample_at)
    except ConfigError as error:
        raise ConfigError(f"--sample-at={args.sample_at!r}: {str(error).partition(': ')[2]}") from None
    require(max(looks) <= args.train_steps, "--sample-at", args.sample_at, f"must be at most --train-steps={args.train_steps}")
    return looks


def _optim(args: argparse.Namespace, preset: Preset) -> OptimConfig:
    """The optimiser over --train-steps, whose warm-up follows a short length where --warmup does not say it. Raises ConfigError."""
    steps, p = args.train_steps, preset.optim
    require(args.lr is None or args.lr > 0, "--lr", args.lr, "must be above 0")
    require(args.warmup is None or args.warmup < steps, "--warmup", args.warmup, f"must be below the {steps} of --train-steps")
    lr = p.lr if args.lr is None else args.lr
    return replace(p, lr=lr, min_lr=min(p.min_lr, lr), total_steps=steps,
                   warmup_steps=min(p.warmup_steps, steps // 10) if args.warmup is None else args.warmup)


def _beginning(args: argparse.Namespace, preset: Preset) -> sources.Loaded:
    """Weights, network and process to begin with: those of --weights, or the preset's with seeded weights."""
    said = unsaid(args, *NEW, "image_size")
    if args.weights:
        unused(args, "with --weights, which have a network", "width")
        require(args.convention == "plain", "--convention", args.convention, "goes without --weights, which have a network")
        unused(args, "with --weights, whose network has one", "variance")
        found = sources.read(args.weights, said, args.ignore_scheduler)
        found = found._replace(diffusion=_trained(args, found.diffusion))
    else:
        unused(args, "without --weights", "ignore_scheduler")
        model, process = _new(args, preset)
        found = sources.Loaded(weights.initialise(model, args.seed), model, process)
    added = found.diffusion.learned_variance and found.diffusion.loss not in BOUNDS
    require(not args.unscaled_bound or added, "--unscaled-bound", True,
            "applies to the losses l2, l1 and huber with a learned variance, to which the bound's term is added")
    if args.respacing is None:
        unused(args, "without --respacing", "spacing")
    else:
        found = found._replace(diffusion=_respaced(args, found.diffusion))
    if not args.allow_cancelled_time:
        found.model.require_time("--allow-cancelled-time trains it all the same")
    require_expressible(f"--save={str(args.save)!r}", found.diffusion, found.scheduler)
    return found


def _new(args: argparse.Namespace, preset: Preset) -> tuple[ModelConfig, DiffusionConfig]:
    """Network and process of the preset, with what the options say and then the convention's details."""
    named = {name: getattr(args, name) for name in (*NEW, "variance")}
    process = adopt(_trained(args, _changed(preset.diffusion, named)), args.convention)
    if args.variance is None and args.convention != "plain" and not process.learned_variance:
        process = replace(process, variance=get_convention(args.convention).variance)  # what this code samples with
    channels = preset.model.in_channels // (1 + process.self_conditioning)
    model = preset.model if args.width is None else _of_width(preset.model, args.width)
    model = replace(model, out_channels=channels * (1 + process.learned_variance))
    return adopt_network(model, args.convention), _trained(args, process)  # asked for again: a convention fills in what is none


def _of_width(model: ModelConfig, width: int) -> ModelConfig:
    """The network with `width` channels in its first level, and in the others as many times more as before. Raises ConfigError."""
    first, groups = model.block_out_channels[0], model.norm_num_groups
    require(width % (2 * groups) == 0, "--width", width, f"must be a multiple of {2 * groups}, twice the network's groups")
    return replace(model, block_out_channels=tuple(round(c * width / first / groups) * groups for c in model.block_out_channels))


def _trained(args: argparse.Namespace, process: DiffusionConfig) -> DiffusionConfig:
    """The process with the loss that the options say."""
    return _changed(process, {"loss": args.loss, "loss_weight": args.loss_weight, "loss_sum": args.loss_sum or None,
                              "rescale_bound": False if args.unscaled_bound else None})


def _changed(process: DiffusionConfig, options: dict[str, Any]) -> DiffusionConfig:
    """The process with the options that were given. Raises `ConfigError`, in the words of the options."""
    try:
        return replace(process, **{name: value for name, value in options.items() if value is not None})
    except ConfigError as error:
        name, _, rest = str(error).partition("=")
        raise ConfigError(f"--{name.replace('_', '-')}={rest}" if options.get(name) is not None else str(error)) from None


def _respaced(args: argparse.Namespace, process: DiffusionConfig) -> DiffusionConfig:
    """The process of --respacing's steps alone."""
    text = args.respacing
    require(re.fullmatch(r"\d{1,9}(,\d{1,9})*", text) is not None, "--respacing", text,
            "must be a number of steps, or IDDPM's section counts separated by commas, such as 10,15,20")
    counts = tuple(int(count) for count in text.split(","))
    require(process.told_timesteps is None, "--respacing", text, "does not apply to the network of a respaced process")
    try:
        return respaced(process, counts if len(counts) > 1 else counts[0], spacing=args.spacing, convention=args.convention)
    except ConfigError as error:
        name, _, rest = str(error).partition("=")
        if name == "steps":
            raise ConfigError(f"--respacing={text!r}: {rest.partition(': ')[2]}") from None
        raise ConfigError(f"--{error}" if name == "spacing" else str(error)) from None


def _history(weights: str) -> tuple[dict[str, Any], list[str]]:
    """The record and the losses of the training that made these weights, as far as they lie beside them."""
    source = folders.run_of(Path(weights))
    about, curve = source / "training.json", source / "loss.csv"
    return ((trainings.record(about) if about.exists() else {}) or {"weights": weights},
            [f"{loss:.6g}" for loss in trainings.curve(curve)] if curve.exists() else [])
