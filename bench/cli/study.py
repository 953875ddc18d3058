"""`ddim-bench study NAME`: the questions beside the main job's."""

from __future__ import annotations

import argparse
from pathlib import Path

import backends
from bench import api
from bench.cli import claimed
from bench.cli.launch import launched
from bench.cli.options import UNSAID, at_least, data_choice, unsaid, unused
from bench.cli.values import parse_seeds
from bench.data.pixels import drawn_by, read_samples
from bench.metric import fmnist_cnn, make_fmnist_cnn
from bench.presets import get_preset
from bench.studies import ablation, latents, neighbours, noise, scaling
from bench.timing.memory import require_room
from reference.config import require
from reference.timesteps import parse_steps

DRAWING = ("backend", "device", "samples", "steps", "sample_batch", "seed", "ignore_scheduler")  # what --images leaves unused


def run(args: argparse.Namespace, command: str) -> int:
    """The study that `args.study` names; returns its exit code."""
    if args.study in ("round-trip", "same-noise"):
        return _latents(args, command)
    for name, least in (("seed", 0), ("steps", 1), ("sample_batch", 1), ("threads", 1), ("epochs", 1)):
        if hasattr(args, name):
            at_least(args, least, name)
    if args.study == "scaling":
        preset = get_preset(args.preset)
        chosen = claimed.to_time(args.backends, preset, args.device)
        return scaling.run(args.axes.split(","), preset, chosen, device=args.device,
                           threads=args.threads or launched().threads, out=args.out, fresh=args.fresh, command=command)
    if args.study == "noise":
        noise.run(args.images, data_choice(args), args.seed, args.out, command)
    elif args.study == "neighbours":
        _neighbours(args)
    elif args.study == "ablation":
        asked = ablation.Settings(args.preset, args.images, args.samples, args.steps, args.backend, args.device, args.dtype,
                                  args.seed, parse_seeds(args.seeds))
        ablation.run(asked, args.only, data_choice(args), args.out, command)
    else:
        make_fmnist_cnn.run(args.data, args.seed, args.epochs, args.threads)
    return 0


def _latents(args: argparse.Namespace, command: str) -> int:
    at_least(args, 0, "seed")
    at_least(args, 1, "sample_batch")
    at_least(args, 2, "samples")  # one image has no spread, and no other to be unlike
    steps = parse_steps(args.steps)
    model = api.load(args.weights, args.backend, device=args.device, dtype=args.dtype, ignore_scheduler=args.ignore_scheduler,
                     **vars(unsaid(args)))
    shape, T = model.spec.image_shape, model.spec.diffusion.timesteps
    require(max(steps) <= T, "--steps", args.steps, f"must be at most the network's {T} timesteps")
    require_room("--samples", args.samples, shape)
    require_room("--sample-batch", min(args.sample_batch, args.samples), shape)
    asked = latents.Settings(args.name or Path(args.weights).name, args.samples, args.seed, args.sample_batch)
    if args.study == "same-noise":
        require(shape == fmnist_cnn.SHAPE, "--weights", args.weights, f"draws images of shape {shape}, and likeness is measured in "
                f"features of {fmnist_cnn.NAME}, which are of grey 28 x 28 clothes: name a network of these")
        latents.same_noise(asked, model, steps, args.out, args.fresh, command)
        return 0
    _, held_out = data_choice(args).both("fashion-mnist", shape)
    require(args.samples <= len(held_out), "--samples", args.samples,
            f"must be at most the {len(held_out)} images of {held_out.provenance}")
    latents.round_trip(asked, model, steps, held_out, args.out, args.fresh, command)
    return 0


def _neighbours(args: argparse.Namespace) -> None:
    require((args.images is None) != (args.weights is None), "--images, --weights", (args.images, args.weights),
            "exactly one must be given")
    if args.images:
        unused(args, "with --images, which are drawn already", *DRAWING, *UNSAID)
        return neighbours.run(read_samples(args.images), args.name or args.images.stem, data_choice(args), args.out,
                              how=drawn_by(args.images))
    at_least(args, 1, "samples")
    backend, steps, seed = args.backend or backends.DEFAULT, args.steps or 50, args.seed or 0
    samples, weights = neighbours.draw(args.weights, backend, args.device or "cpu", args.samples or 1000, steps,
                                       args.sample_batch or 64, seed, args.ignore_scheduler, unsaid(args))
    return neighbours.run(samples, args.name or Path(args.weights).name, data_choice(args), args.out, backend,
                          {"steps": steps, "eta": "0.0", "seed": seed, "weights": weights})
