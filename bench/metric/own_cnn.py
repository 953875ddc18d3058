"""The extractor behind `FID[own-1a2b3c4d]`: a small CNN that is trained on a person's own images, and named by its file's hash.

Neither the network that ships nor that of papers was made for them. This one learns without labels to tell by how many quarter
turns an image was rotated (Gidaris et al. 2018, arXiv:1803.07728), for which it has to see what the image shows. It never sees
flips: they would keep the task, and make it blind to mirrored images. The file's bytes are a function of images, seed and
steps, on one machine. Values of two files never compare.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench import streams
from bench.data.datasets import Dataset
from bench.data.own_images import LEAST, MOST
from bench.data.pixels import in_words
from bench.files import replacing_path, require_file
from bench.metric.extractor import Extractor, Images, require_installed
from bench.metric.fmnist_cnn import extracting, trunk
from bench.metric.make_fmnist_cnn import accuracy, fit
from bench.progress import tracked
from reference.config import ConfigError, require

if TYPE_CHECKING:
    import torch

KEY = "ddim-bench metric"  # of the file's metadata: a single one, since safetensors writes several in any order
WIDTH = 64  # features, where there are images enough
FEWEST = 8  # images of each split; twice as many as features
BATCH = 16  # images of a training step, each in its four rotations
HIDDEN = 128  # between features and logits, so that the features need not be the four classes alone
TOLD_ON = 1000  # held-out images, at most
LARGEST = 1 << 24  # bytes: a file of 64 x 64 RGB has a sixth of it
MAKES = "ddim-bench metric --data IMAGES --save FILE.safetensors makes one"


def width_of(train: Dataset, held_out: Dataset) -> int:
    """The number of features: half the images of the smaller split, whose covariance is regular then, at most `WIDTH`.

    Raises ConfigError for fewer than `FEWEST` images of a split, and for sides that the network does not take."""
    shape, fewest = train.images.shape[1:], min(len(train), len(held_out))
    require(fewest >= FEWEST, "--data", train.provenance, f"has {len(train)} training and {len(held_out)} held-out images, and "
            f"{FEWEST} of each are needed, as {2 * FEWEST} different ones without splits give")
    require(_fits(shape), "--data", train.provenance, f"its images are {in_words(shape)}, and must be squares of {LEAST} to {MOST} "
            "pixels a side, grey or RGB; --image-size makes those of a folder smaller")
    return min(WIDTH, fewest // 2)


def write(path: Path, train_on: Dataset, held_out: Dataset, seed: int, steps: int) -> float:
    """Train on the first split and write the file; returns the share of the rotations of held-out images that the network tells.

    Raises ConfigError as `width_of`, and where the file can't be written."""
    from safetensors.torch import save_file

    width = width_of(train_on, held_out)
    net = train(train_on.images, width, seed, steps)
    about = {"shape": train_on.images.shape[1:], "width": width, "images": train_on.sha256, "seed": seed, "steps": steps}
    with replacing_path(path) as part:
        save_file(net.state_dict(), part, {KEY: json.dumps(about, sort_keys=True)})
    return accuracy(net, *_rotated(held_out.images[:TOLD_ON]))


def train(images: NDArray[np.uint8], width: int, seed: int, steps: int) -> torch.nn.ModuleDict:
    """The network, trained for so many steps on uint8 images (n, C, H, W) in `BATCH` images' four rotations a step.

    In one thread, as several would add in another order on another number of cores."""
    import torch

    n, batch = len(images), min(BATCH, len(images))

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for step in tracked(range(steps), desc="train the metric's network", mininterval=2):
            epoch, at = divmod(step, n // batch)
            yield _rotated(images[streams.permutation(seed, "extractor", n, epoch)[at * batch:(at + 1) * batch]])

    net, threads = _seeded(images.shape[1:], width, seed), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        fit(net, batches(), steps)
    finally:
        torch.set_num_threads(threads)
    return net


def load(path: Path) -> Extractor:
    """The extractor of a file that `write` wrote. Raises ConfigError for any other, and where the metric's packages are missing."""
    require_installed(str(path))
    require(require_file(path).is_file(), "--metric", str(path), f"is no metric's name and no file; {MAKES}")
    import torch
    from safetensors import safe_open
    from safetensors.torch import load as tensors

    try:
        require(path.stat().st_size < LARGEST, "size", path.stat().st_size, f"must be below {LARGEST}")
        with safe_open(path, "numpy") as file:
            said = json.loads((file.metadata() or {})[KEY])
        (shape, width), content = (tuple(map(int, said["shape"])), int(said["width"])), path.read_bytes()
        require(_fits(shape) and 1 <= width <= WIDTH, "shape, width", (shape, width), "must be those of a network")
        net = _network(shape, width)
        net.load_state_dict(tensors(content))
        require(all(bool(torch.isfinite(part).all()) for part in net.state_dict().values()), "weights", "NaN", "must be finite")
    except Exception as error:  # a broken file has many ways to fail
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ConfigError(f"--metric={str(path)!r}: is no file that ddim-bench metric wrote ({reason}); {MAKES}") from None
    sha256 = hashlib.sha256(content).hexdigest()
    return Extractor(f"own-{sha256[:8]}", width, sha256, shape, 500, functools.partial(extracting, net.eval()["features"]), _as_is,
                     f"{in_words(shape)} images", str(said.get("images", "")))


def _network(shape: tuple[int, ...], width: int) -> torch.nn.ModuleDict:
    """`features` maps float32 (N, *shape) in [-1, 1] to (N, width), `head` maps those to a logit for each rotation."""
    from torch import nn

    channels, height, side = shape
    head = nn.Sequential(nn.GELU(), nn.Linear(width, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 4))
    return nn.ModuleDict({"features": trunk((channels, height, side), width, 0), "head": head})


def _seeded(shape: tuple[int, ...], width: int, seed: int) -> torch.nn.ModuleDict:
    """The network with weights of the seed: normal, of variance 2 / fan-in (He et al. 2015, arXiv:1502.01852), and biases of 0."""
    import torch

    net = _network(shape, width)
    for number, (name, values) in enumerate(net.named_parameters(), start=1):  # 0 is that of the order
        if values.ndim > 1:
            drawn = streams.normal(seed, "extractor", [number], tuple(values.shape))[0]
            values.data = torch.from_numpy(drawn * np.float32((2 / values[0].numel()) ** 0.5))
        elif name.endswith("bias"):
            values.data.zero_()
    return net


def _rotated(images: NDArray[np.uint8]) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 images (n, C, S, S) by 0 to 3 quarter turns, (4 n, C, S, S), and the number of turns, (4 n,)."""
    import torch

    turned = np.concatenate([np.rot90(images, turns, (2, 3)) for turns in range(4)])
    return torch.from_numpy(turned), torch.arange(4).repeat_interleave(len(images))


def _fits(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and shape[0] in (1, 3) and shape[1] == shape[2] and LEAST <= shape[1] <= MOST


def _as_is(images: Images) -> tuple[Images, str]:
    """Nothing is converted: images of another shape are refused where they are read."""
    return images, ""
