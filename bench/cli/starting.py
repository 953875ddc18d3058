"""What `ddim-bench sample` begins with: x_T of the seed, of a file, of encoded images, or between two of them."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.api import Images, Model
from bench.cli.options import unused
from bench.data.own_images import in_order
from bench.data.pixels import to_float
from bench.data.readers import read_npy
from reference.config import ConfigError, require
from reference.diffusion import slerp

SAMPLES = 64


def noise(args: argparse.Namespace, model: Model, steps: int | tuple[int, ...]) -> tuple[Images, NDArray[np.float32] | None]:
    """x_T (N, C, H, W), and the images that --encode encoded, where they are decoded one by one. Raises ConfigError."""
    require(args.x_T is None or args.encode is None, "--encode", str(args.encode), "goes without --x-T")
    if args.encode is not None:
        require(args.sampler in (None, "ddim") and args.eta in (None, "0", "0.0"), "--encode", str(args.encode),
                "is for the sampler ddim with eta 0, whose way back exists")
        unused(args, "with --encode, which has a way back for --spacing and --convention alone", "variance", "final_alpha",
               "steps_offset")
    if args.interpolate is None:
        n = args.samples
    else:
        low, high = sorted(args.interpolate)
        require(0 <= low < high, "--interpolate", args.interpolate, "must be two different numbers of images, counted from 0")
        n = high + 1
    if args.x_T is not None:
        x = _taken("--x-T", _read(args, model), n, args.interpolate is not None)
        images = None
    elif args.encode is not None:
        images = to_float(_taken("--encode", in_order(args.encode, model.spec.image_shape), n, args.interpolate is not None))
        x = model.encode(images, steps, batch_size=args.sample_batch, spacing=args.spacing, convention=args.convention,
                         clip=args.clip)
    else:
        x, images = model.noise(n or SAMPLES, args.seed), None
    if args.interpolate is None:
        return x, images
    a, b = (x[i].astype(np.float64) for i in args.interpolate)
    points = args.samples or 10
    require(points >= 2, "--samples", points, "must be at least 2 with --interpolate")
    return np.stack([slerp(a, b, share) for share in np.linspace(0, 1, points)]).astype(x.dtype), None


def _read(args: argparse.Namespace, model: Model) -> NDArray[np.floating[Any]]:
    try:
        x = read_npy(args.x_T, floats=True)
    except ConfigError as error:
        raise ConfigError(f"--x-T: {error}") from None
    shape = model.spec.image_shape
    require(x.dtype.kind == "f" and x.ndim == 4 and x.shape[1:] == shape and len(x) > 0, "--x-T",
            f"{args.x_T}, {x.dtype} {x.shape}", f"must be floats of shape (N, {', '.join(map(str, shape))})")
    require(bool(np.isfinite(x).all()), "--x-T", str(args.x_T), "must be finite")
    return x.astype(np.float64 if model.spec.dtype == "float64" else np.float32)


def _taken(option: str, found: NDArray[Any], n: int | None, between: bool) -> NDArray[Any]:
    """The first n, by default all. Raises ConfigError where there are fewer."""
    require(n is None or n <= len(found), "--interpolate" if between else "--samples", n, f"{option} holds {len(found)}")
    return found[:n]
