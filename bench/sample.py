"""Draw images from trained weights: `python -m bench.sample --weights FOLDER --grid samples.png --gif denoising.gif`.

The grid holds the images (256 at most), the strip some of them on their way from noise, a line each, the GIF one of them moving.
`--save` keeps the images themselves as a NumPy array, uint8 (N, C, H, W).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import backends
from bench import api, files
from bench.command_line import exit_code
from bench.data.pixels import to_uint8
from bench.pictures import grids
from reference.config import ConfigError, require
from reference.conventions import CONVENTIONS, Plan
from reference.timesteps import SPACINGS, parse_steps

KINDS = ("grid", "strip", "gif")
GRID_IMAGES, STRIP_FRAMES, STRIP_IMAGES, GIF_FRAMES = 256, 10, 6, 40
COLUMNS = 8


def show(model: api.Model, plan: Plan, n: int, wanted: Mapping[str, Path], *, seed: int = 0, batch_size: int = 64, title: str = ""
         ) -> tuple[NDArray[np.float32], dict[str, str]]:
    """Images 0 .. n - 1 of this seed, and the captions of the pictures drawn: `wanted` gives the file of each kind."""
    how = f"{plan.sampler.upper()}, S = {plan.steps}"
    x, captions = model.noise(n, seed), {}
    images = model.follow(x, plan, seed=seed, batch_size=batch_size, progress="sample")
    if "grid" in wanted:
        shown = images[:GRID_IMAGES]
        captions["grid"] = f"{title}{len(shown)}{'' if len(shown) == n else f' of {n:,}'} samples, {how}"
        grids.save_grid(wanted["grid"], to_uint8(shown), min(COLUMNS, n), title=captions["grid"])
    if "strip" in wanted:
        captions["strip"] = f"{title}from noise to images, {how}"
        states, t = model.path(x[:STRIP_IMAGES], plan, min(STRIP_FRAMES, plan.steps), seed=seed)
        by_image = to_uint8(states.swapaxes(0, 1).reshape(-1, *x.shape[1:]))
        grids.save_grid(wanted["strip"], by_image, len(states), title=captions["strip"], heads=api.describe_timesteps(t))
    if "gif" in wanted:
        captions["gif"] = f"{title}the denoising of one image, {how}"
        states, t = model.path(x[:1], plan, min(GIF_FRAMES, plan.steps), seed=seed)
        grids.save_gif(wanted["gif"], list(to_uint8(states)), api.describe_timesteps(t), columns=1, scale=8)
    return images, captions


def main(argv: list[str] | None = None) -> int:
    """Command line; exit codes as `bench.run`'s."""
    p = argparse.ArgumentParser(prog="python -m bench.sample", description=__doc__.splitlines()[0])
    p.add_argument("--weights", required=True, help="a diffusers folder, a checkpoint file or a name on the hub")
    p.add_argument("--backend", default="torch", help=f"of {', '.join(backends.names())}")
    p.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N or ascend")
    p.add_argument("--dtype", default="float32", help="of the network: float32, bfloat16, float16 or float64")
    p.add_argument("--samples", type=int, default=64)
    p.add_argument("--batch-size", type=int, default=64)
    p.add_argument("--steps", default="50", help="S, or IDDPM's section counts such as 10,15,20")
    p.add_argument("--sampler", default="ddim", help="ddim or ddpm")
    p.add_argument("--eta", default="0", help="a number in [0, 1], or sigma_hat")
    p.add_argument("--spacing", help=f"how timesteps are chosen: {', '.join(SPACINGS)}; default: the convention's, leading")
    p.add_argument("--convention", default="plain", help=f"of {', '.join(CONVENTIONS)}")
    p.add_argument("--seed", type=int, default=0)
    for kind in KINDS:
        p.add_argument(f"--{kind}", type=Path, metavar="FILE", help=f"where to draw the {kind}")
    p.add_argument("--save", type=Path, metavar="FILE.npy", help="where to keep the images")
    args = p.parse_args(argv)
    return exit_code(lambda: run(args))


def run(args: argparse.Namespace) -> None:
    """Draw what was asked for."""
    asked = {kind: path for kind in (*KINDS, "save") if (path := getattr(args, kind))}
    require(bool(asked), "--grid, --strip, --gif, --save", None, "at least one must name a file")
    for kind, path in asked.items():
        require(path.parent.is_dir(), f"--{kind}", str(path), "its folder must exist")
    wanted = {kind: path for kind, path in asked.items() if kind in KINDS}
    require(args.seed >= 0, "--seed", args.seed, "must be 0 or more")
    model = api.load(args.weights, args.backend, device=args.device, dtype=args.dtype)
    counts = parse_steps(args.steps)
    try:
        eta = args.eta if args.eta == "sigma_hat" else float(args.eta)
    except ValueError:
        raise ConfigError(f"--eta={args.eta!r}: must be a number in [0, 1] or sigma_hat") from None
    plan = model.plan(counts[0] if len(counts) == 1 else tuple(counts), sampler=args.sampler, eta=eta, spacing=args.spacing,
                      convention=args.convention)
    images, _ = show(model, plan, args.samples, wanted, seed=args.seed, batch_size=args.batch_size)
    if args.save:
        with files.replacing(args.save) as file:
            np.save(file, to_uint8(images))
    print("\n".join(f"wrote {path}" for path in asked.values()))


if __name__ == "__main__":
    sys.exit(main())
