"""The Frechet distance of two sets of images that lie in files, with its bias and its interval: `ddim-bench fid`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data.image_files import find_images, look
from bench.data.own_images import in_order, shape_of
from bench.data.pixels import in_words, read_samples
from bench.data.readers import no_images, npz_names
from bench.metric import fid, fmnist_cnn
from bench.metric.extractor import Extractor, Images, Statistics
from bench.metric.resampling import resampled
from bench.paths import printable
from bench.report.measures import half
from reference.config import require

SHIPPED = "fashion-mnist"  # the name of the statistics that ship
METRIC_DEVICE = "cpu"


@dataclass(frozen=True)
class Side:
    """One of the two: images, or statistics alone. `what` says which in words."""

    what: str
    images: Images | None = None
    statistics: Statistics | None = None


def read(path: Path, extractor: Extractor) -> Side:
    """A folder of images, a .npy or .npz file of images (uint8, or floats in [-1, 1] of shape (N, C, H, W)), a .npz file with mu
    and sigma, or `SHIPPED`. Raises ConfigError."""
    if str(path) == SHIPPED and not path.exists():
        require(extractor == fmnist_cnn.extractor(), "B", SHIPPED,
                f"no statistics ship for {extractor.name}: name images or a .npz file")
        return Side("60,000 training images of Fashion-MNIST, shipped statistics", statistics=fmnist_cnn.stored_statistics("train"))
    scaled = ""
    if path.is_dir():
        channels, side = shape_of(path)
        found = find_images(path)
        sides = [least for _, least in look([file for _, files in found.own.values() for file in files] or found.paths)]
        if None in extractor.shape or not extractor.takes((channels, side, side)):
            side = min(sides)
        scaled = f", from files of up to {max(sides)}" if max(sides) > side else ""
        images = in_order(path, (channels, side, side))
    elif path.suffix.lower() == ".npz" and path.is_file() and set(names := npz_names(path)) >= {"mu", "sigma"}:
        return Side(f"statistics of {printable(path.name)}", statistics=_statistics(path, extractor, names))
    elif path.suffix.lower() in (".npy", ".npz") and path.is_file():
        images = read_samples(path)
    else:
        raise no_images(path)
    n = len(images)
    extractor.require_fitting(images.shape[1:], f"{path} holds")
    least = 2 * extractor.width
    require(n >= least, "number of images", n, f"{path}: must be at least {least}, twice the {extractor.width} features of "
            f"{extractor.name}; take more images")
    return Side(f"{n:,} images of {printable(path.name)}, {in_words(images.shape[1:])}{scaled}", images)


def _statistics(path: Path, extractor: Extractor, names: list[str]) -> Statistics:
    with np.load(path, allow_pickle=False) as file:
        mu, sigma = (np.asarray(file[name], np.float64) for name in ("mu", "sigma"))
    d = extractor.width
    require(mu.shape == (d,) and sigma.shape == (d, d) and bool(np.isfinite(mu).all() and np.isfinite(sigma).all()), "mu, sigma",
            f"{path}, {mu.shape}, {sigma.shape}", f"must be finite, ({d},) and ({d}, {d}), of the {d} features of {extractor.name}")
    return {"mu": mu, "sigma": sigma}


def lines(one: Side, two: Side, extractor: Extractor, seed: int) -> list[str]:
    """What `ddim-bench fid` prints. The interval is from the standard deviation over resamples of A, with B as it is; the bias is
    FID - FID of infinitely many images of A (arXiv:1911.07023, equation 4)."""
    require(one.images is not None, "A", one.what, "must be images, whose interval is asked for; give the statistics as B")
    assert one.images is not None
    found = _features(one.images, extractor)
    target = two.statistics or fid.statistics(other := _features(two.images, extractor))
    value, n = fid.distance(fid.statistics(found), target), len(found)
    spread = half(float(np.std(resampled(found, target, seed), ddof=1)))
    out = [f"A: {one.what}", f"B: {two.what}", f"FID[{extractor.name}] = {value:.3f}, n = {n:,}",
           f"95% interval by the bootstrap over the images of A: {value - spread:.3f} .. {value + spread:.3f}"]
    if n >= 4 * extractor.width:
        halves = sum(fid.distance(fid.statistics(found[i:n // 2 * 2:2]), target) for i in (0, 1)) / 2
        endless = fid.extrapolate(value, n, halves, n // 2)
        out.append(f"bias of n = {n:,}: about {value - endless:+.3f}; of infinitely many images of A about {endless:.3f}")
    else:
        out.append(f"bias: unknown, as A has fewer than {4 * extractor.width} images; compare with values of the same n alone")
    if two.images is not None:
        size = min(fid.KID_SUBSET_SIZE, n, len(other))
        out.append(f"KID[{extractor.name}] = {fid.compare(found, target, other, seed)['kid']:.5f}, in subsets of {size:,}")
    return [*out, f"extractor {extractor.name}, sha256 {extractor.sha256[:16]}"]


def _features(images: Images | None, extractor: Extractor) -> NDArray[np.floating[Any]]:
    assert images is not None
    return fid.features(extractor.convert(images)[0], METRIC_DEVICE, extractor)
