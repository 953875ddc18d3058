"""The extractor behind `FID[fmnist-cnn]`: a small CNN on 28x28x1 images, 64 features.

Inception features say little about 28x28 clothes, so the metric has a classifier of its own. It is trained on the
first 30,000 training images of Fashion-MNIST, never on held-out images. Reference statistics ship for the whole
training set and for the 30,000 images that it did not see; `bench/assets/README.md` has the difference.
`bench.metric.make_fmnist_cnn` trained it.
"""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.data.pixels import in_words
from bench.data.readers import DataError
from bench.metric.extractor import Extractor, Images, Statistics, require_installed
from bench.paths import ASSETS, command_line
from reference.config import require

if TYPE_CHECKING:
    import torch

    from bench.metric.extractor import Network


NAME = "fmnist-cnn"
WIDTH = 64
SHAPE = (1, 28, 28)  # of the images that it takes
TRAINED_ON = slice(0, 30000)
# Reference sets whose statistics ship, by the name that a row carries.
REFERENCES = {"train[30000:]": slice(30000, 60000), "train": slice(0, 60000)}
WEIGHTS = ASSETS / f"{NAME}.safetensors"
STATISTICS = ASSETS / f"{NAME}-statistics.safetensors"
RECORD = ASSETS / f"{NAME}.json"


@functools.cache
def extractor() -> Extractor:
    """The extractor of this module, with the shipped weights. DataError where a file of it is not the one that ships, so that a
    command which will measure ends before it trains or draws; ConfigError where the metric's packages are missing."""
    require_installed(NAME)
    _require_whole(WEIGHTS, "weights_sha256")
    _require_whole(STATISTICS, "statistics_sha256")
    return unchecked()


def unchecked() -> Extractor:
    """The same, of the weights that lie there, without a look at what is installed."""
    return Extractor(NAME, WIDTH, sha256(), SHAPE, 500, _features, convert, "grey 28 x 28 clothes")


def _require_whole(path: Path, name: str) -> None:
    """Raise DataError where the file does not have the SHA-256 that the record beside it has under this name."""
    try:
        ships, found = json.loads(RECORD.read_bytes())[name], sha256(path)
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise DataError(f"{RECORD}: cannot be read: {type(error).__name__}: {error}; restore the file") from error
    if found != ships:
        raise DataError(f"{path}: damaged: its SHA-256 is {found}, and {RECORD.name} says {ships!r:.80}; restore the file")


def _features(device: str) -> Network:
    return extracting(pretrained()["features"], device)


def extracting(net: torch.nn.Module, device: str) -> Network:
    """The function from uint8 images (N, C, H, W) to the features (N, width) of such a network, on a device of its own."""
    net = net.to(device)
    # float64 from here on: torch-fidelity takes means and KID's kernel in the type of the features.
    return lambda images: net(scale(images)).double()


def convert(images: Images) -> tuple[Images, str]:
    """Images as `extractor` takes them: grey by ITU-R 601's luma and 28 x 28 by Pillow's bicubic scaling, antialiased where it
    shrinks."""
    if images.shape[1:] == SHAPE:
        return images, ""
    from PIL import Image

    planes = images[:, 0] if images.shape[1] == 1 else images.transpose(0, 2, 3, 1)
    side = SHAPE[1:]
    out = [np.asarray(Image.fromarray(plane).convert("L").resize(side, Image.Resampling.BICUBIC)) for plane in planes]
    return np.stack(out)[:, None], f"{in_words(images.shape[1:])} converted to {in_words(SHAPE)} for the extractor"


def stored_statistics(reference: str) -> Statistics:
    """Shipped mean and covariance of a reference set. DataError where the file is not the one that ships, or belongs to another
    extractor."""
    require(reference in REFERENCES, "reference", reference, f"must be one of {', '.join(REFERENCES)}")
    from safetensors import SafetensorError, safe_open

    _require_whole(STATISTICS, "statistics_sha256")
    try:
        with safe_open(STATISTICS, "numpy") as file:
            owner = file.metadata()["extractor_sha256"]
            stored = {key: file.get_tensor(f"{reference}.{key}") for key in ("mu", "sigma")}
    except (OSError, SafetensorError) as error:
        raise DataError(f"{STATISTICS}: cannot be read: {error}") from error
    if owner != sha256():
        raise DataError(f"{STATISTICS}: made by extractor {owner}, not by {sha256()}; run {command_line('study', 'extractor')}")
    return stored


def network() -> torch.nn.ModuleDict:
    """The CNN: `features` maps float32 (N, 1, 28, 28) in [-1, 1] to (N, 64), `head` maps those to 10 class logits.

    Never trained with flips, so that it sees flipped clothes as foreign.
    """
    from torch import nn

    return nn.ModuleDict({"features": trunk(SHAPE, WIDTH, 0.3), "head": nn.Sequential(nn.GELU(), nn.Linear(WIDTH, 10))})


def trunk(shape: tuple[int, int, int], width: int, dropout: float) -> torch.nn.Sequential:
    """What maps float32 images (N, *shape) in [-1, 1], of sides from 8 on, to (N, width): three convolutions and a linear layer.

    The features are the plain output of that layer: after a ReLU some would be zero for every image and the covariance singular.
    """
    from torch import nn

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]

    channels, height, side = shape
    return nn.Sequential(*block(channels, 32), *block(32, 64), *block(64, 128), nn.Flatten(), nn.Dropout(dropout),
                         nn.Linear(128 * (height // 8) * (side // 8), width))


@functools.cache
def sha256(path: Path = WEIGHTS) -> str:
    """SHA-256 of a file, by default of the extractor's weights: a metric's value belongs to these bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def pretrained() -> torch.nn.ModuleDict:
    """The network with the shipped weights, in evaluation mode."""
    from safetensors.torch import load_file

    net = network()
    net.load_state_dict(load_file(WEIGHTS))
    return net.eval()


def scale(images: torch.Tensor) -> torch.Tensor:
    """uint8 (N, C, H, W) to float32 in [-1, 1], as `bench.data.pixels.to_float`, on the tensor's own device."""
    return images.float() / 127.5 - 1

