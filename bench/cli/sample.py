"""Draw images from trained weights: `python -m bench.cli.sample --weights FOLDER --grid samples.png --gif denoising.gif`.

The grid holds the images (256 at most), the strip some of them on their way from noise, a line each, the GIF one of them moving.
`--save` keeps the images themselves as a NumPy array, uint8 (N, C, H, W).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

import backends
from bench import api, files
from bench.cli.main import exit_code
from bench.data.pixels import to_uint8
from bench.recipes.show import KINDS, show
from reference.config import ConfigError, require
from reference.conventions import CONVENTIONS
from reference.timesteps import SPACINGS, parse_steps


def main(argv: list[str] | None = None) -> int:
    """Command line; exit codes as `bench.run`'s."""
    p = argparse.ArgumentParser(prog="python -m bench.cli.sample", description=__doc__.splitlines()[0])
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
