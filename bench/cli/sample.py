"""`ddim-bench sample`: images from trained weights, as pictures or as an array."""

from __future__ import annotations

import argparse

import numpy as np

import backends
from bench import api, files
from bench.cli import starting
from bench.cli.options import at_least, sampling_choices, unsaid, unused
from bench.cli.values import parse_sections
from bench.data.pixels import to_uint8
from bench.paths import printable
from bench.pictures import grids
from bench.recipes.show import KINDS, show
from bench.timing.memory import require_room
from bench.weights.tensor_files import weights_hash
from reference.config import ConfigError, require
from reference.conventions import Plan
from reference.solver_plans import FAST, SolverPlan

ENDINGS = {"grid": (".png",), "strip": (".png",), "gif": (".gif",), "save": (".npy", ".npz"), "save_float": (".npy",),
           "save_x_T": (".npy",)}


def run(args: argparse.Namespace, command: str) -> None:
    """Draw what was asked for."""
    asked = {kind: path for kind in ENDINGS if (path := getattr(args, kind))}
    require(bool(asked) or args.save_dir is not None, "--grid, --strip, --gif, --save, --save-dir", None,
            "at least one must name a file or folder")
    for kind, path in asked.items():
        option = f"--{kind.replace('_', '-')}"
        require(path.suffix.lower() in ENDINGS[kind], option, str(path), f"must end in {' or '.join(ENDINGS[kind])}")
        require(path.parent.is_dir(), option, str(path), "its folder must exist")
    require(args.save_dir is None or not args.save_dir.exists() or args.save_dir.is_dir() and not any(args.save_dir.iterdir()),
            "--save-dir", str(args.save_dir), "holds something already; name a new folder")
    at_least(args, 0, "seed")
    at_least(args, 1, "steps", "sample_batch", "samples")
    if args.sections is not None:
        unused(args, "with --sections, which choose the timesteps", "steps", "spacing")
    if args.sampler == "ddpm":
        unused(args, "to the sampler ddpm", "eta")
    if args.sampler in FAST:
        _require_whole(args, args.sampler)
    steps = parse_sections(args.sections) if args.sections is not None else args.steps or 50
    choices = sampling_choices(args)
    model = api.load(args.weights, backends.borrowed(args.backend, args.network), device=args.device, dtype=args.dtype,
                     mode=args.mode, ignore_scheduler=args.ignore_scheduler, **vars(unsaid(args)))
    require_room("--samples", args.samples or 64, model.spec.image_shape)
    require_room("--sample-batch", min(args.sample_batch, args.samples or 64), model.spec.image_shape)
    start, encoded = starting.noise(args, model, steps)
    choices |= {"eta": _eta(args.eta), "spacing": args.spacing, "convention": args.convention}
    if fast := model.fast_solver(args.sampler, args.convention):
        _require_whole(args, fast)
        plan: Plan | SolverPlan = model.solver_plan(steps, sampler=fast, **choices)
    else:
        plan = model.plan(steps, sampler=args.sampler, **choices)
    images, _ = show(model, plan, len(start), {kind: path for kind, path in asked.items() if kind in KINDS}, seed=args.seed,
                     batch_size=args.sample_batch, x=start)
    if encoded is not None:
        off = np.abs(np.clip(images, -1, 1) - encoded).mean() * 127.5
        print(f"decoded: {off:.2f} of 255 from the images, in the mean of all pixels")
    for kind, kept in (("save_float", images), ("save_x_T", start)):
        if kind in asked:
            with files.replacing(asked[kind]) as file:
                np.save(file, np.asarray(kept))
    if args.save_dir:
        grids.save_each(args.save_dir, to_uint8(images))
    if args.save and args.save.suffix.lower() == ".npz":
        drew = weights_hash(model.backend.weights(ema=True))  # so that a study can say it
        files.savez(args.save, images=to_uint8(images), weights=np.frombuffer(drew.encode(), np.uint8))
    elif args.save:
        with files.replacing(args.save) as file:
            np.save(file, to_uint8(images))
    print("\n".join(f"wrote {printable(path)}" for path in (*asked.values(), *filter(None, [args.save_dir]))))


def _require_whole(args: argparse.Namespace, sampler: str) -> None:
    """Raise ConfigError for what a fast solver does not have, states on the way to the images above all."""
    unused(args, f"to the sampler {sampler}", "sections", "variance")
    for kind in ("strip", "gif"):
        path = getattr(args, kind)
        require(path is None, f"--{kind}", str(path), f"stops of {sampler} on the way would lose its earlier predictions: draw "
                "--grid or --save, or give --sampler ddim")


def _eta(text: str | None) -> float | str | None:
    try:
        return text if text in (None, "sigma_hat") else float(text)
    except ValueError:
        raise ConfigError(f"--eta={text!r}: must be a number in [0, 1] or sigma_hat") from None
