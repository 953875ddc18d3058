"""What `--metric` names, whether it says anything of the images, and `ddim-bench metric`, which trains one on your own."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.cli.options import at_least, data_choice, unused
from bench.cli.own import readable
from bench.data.datasets import Dataset
from bench.data.own_images import shape_of
from bench.data.pixels import in_words
from bench.metric import fid, fmnist_cnn, inception, own_cnn
from bench.metric.extractor import Extractor, require_installed
from bench.paths import printable
from bench.presets import PRESETS
from reference.config import require

TOLD = 0.5  # share of the rotations below which features are hardly more than those of random filters; chance is 0.25


def choose(metric: str, weights: Path | None, download: bool) -> Extractor:
    """The extractor of --metric: "fmnist-cnn", "inception", a file that `ddim-bench metric` wrote, or "none", whose extractor is
    never run. Raises ConfigError."""
    require(metric == "inception" or weights is None, "--inception-weights", weights, "goes with --metric inception")
    if metric == "none":
        return fmnist_cnn.unchecked()
    if metric == "inception":
        return inception.load(weights, download)
    return fmnist_cnn.extractor() if metric == fmnist_cnn.NAME else own_cnn.load(Path(metric))


def notes(metric: str, by: Extractor, samples: int, dataset: Dataset, held_out: Dataset) -> list[str]:
    """Lines about what a metric's values say. Raises ConfigError where it would say nothing of these images."""
    if metric == "none":
        return ["FID was not measured, as --metric none asks for"]
    if by.name == inception.NAME:
        return inception.check(by, samples, dataset, held_out)
    by.require_fitting(dataset.images.shape[1:], f"say nothing of {dataset.name} of", "--metric none goes without, ")
    require(samples <= len(held_out), "--samples", samples, "the metric's floor is that of as many held-out images, and there are "
            f"{len(held_out)}; draw fewer, or --metric none goes without")
    require(fid.statistics_ship(dataset, by) or len(dataset) >= 2 * by.width, "--metric", metric, f"needs at least {2 * by.width} "
            f"training images to compare with, and there are {len(dataset)}: {dataset.provenance}")
    return others_images(by, dataset)


def others_images(by: Extractor, dataset: Dataset) -> list[str]:
    """A line where a person's own network was trained on other images than these."""
    other = by.trained_on not in ("", dataset.sha256)
    return [f"FID[{by.name}]: its network was trained on other images than {dataset.provenance}"] * other


def run(args: argparse.Namespace, command: str) -> None:
    """Train the network, write its file, and say what real images and noise score by it."""
    at_least(args, 0, "seed")
    at_least(args, 1, "train_steps")
    require(args.save.suffix.lower() == ".safetensors", "--save", str(args.save), "must end in .safetensors")
    require(args.save.parent.is_dir(), "--save", str(args.save), "its folder must exist")
    require_installed("own")
    train, held_out = data_choice(args).both("fashion-mnist", _shape(args))
    n, width = len(held_out), own_cnn.width_of(train, held_out)
    print(f"images: {in_words(train.images.shape[1:])}, {len(train):,} to train on, {n:,} held out", flush=True)
    told = own_cnn.write(args.save, train, held_out, args.seed, args.train_steps)
    by = own_cnn.load(args.save)
    print(f"quarter turns of held-out images told: {told:.0%}, by chance 25%" + "; of images without an upright the network learns "
          "little, and its features are hardly more than those of random filters" * (told < TOLD))
    bounds = {"floor: held-out real images": fid.floor(n, train, test=held_out, extractor=by),
              "ceiling: standard normal noise": fid.ceiling(n, train, seed=args.seed, extractor=by)}
    for name, found in bounds.items():
        print(f"FID[{by.name}] {name}, n = {n:,} against {len(train):,} training images: {found['fid']:.3f}")
    if width < own_cnn.WIDTH:
        print(f"too few images for a meaningful number: {min(n, len(train))} of a split allow {width} features in place of "
              f"{own_cnn.WIDTH}, for which {2 * own_cnn.WIDTH} of each are needed, as {4 * own_cnn.WIDTH} without splits give")
    print(f"wrote {printable(args.save)}: {width} features, sha256 {by.sha256[:16]}; --metric {printable(args.save)} takes it")


def _shape(args: argparse.Namespace) -> tuple[int, int, int]:
    """(C, H, W) of the images: a published set's, else that of a network for a person's own, or of --image-size and --channels."""
    place = data_choice(args).own("fashion-mnist")
    if place is None:
        unused(args, "without images of your own, which --data names", "image_size", "channels")
        return next((p.shape for p in PRESETS.values() if p.dataset == args.dataset), fmnist_cnn.SHAPE)
    require(args.channels in (None, 1, 3), "--channels", args.channels, "must be 1, grey, or 3, RGB")
    require(args.image_size is None or own_cnn.LEAST <= args.image_size <= own_cnn.MOST, "--image-size", args.image_size,
            f"must be {own_cnn.LEAST} to {own_cnn.MOST}")
    asked = args.channels is not None and args.image_size is not None or not readable(place)
    channels, side = fmnist_cnn.SHAPE[:2] if asked else shape_of(place, pad=args.pad)
    return args.channels or channels, args.image_size or side, args.image_size or side
