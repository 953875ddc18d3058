"""What a feature extractor is to the metric, and the one behind `FID[fmnist-cnn]`: a small CNN on 28x28x1 images, 64 features.

Inception features say little about 28x28 clothes, so the metric has a classifier of its own. It is trained on the
first 30,000 training images of Fashion-MNIST, never on held-out images. Reference statistics ship for the whole
training set and for the 30,000 images that it did not see; `bench/assets/README.md` has the difference.
`python -m bench.extractor` trains it again and rewrites `bench/assets/` (full data set; minutes on two cores).
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.data.datasets import Dataset, load, load_subset
from bench.data.readers import DataError
from bench.paths import ASSETS
from reference.config import require
from reference.frechet import statistics

if TYPE_CHECKING:
    import torch

    Network = Callable[[torch.Tensor], torch.Tensor]  # uint8 images to features

Images = NDArray[np.uint8]
Statistics = dict[str, NDArray[np.float64]]  # torch-fidelity's keys: "mu" (d,), "sigma" (d, d)

NAME = "fmnist-cnn"
WIDTH = 64
SHAPE = (1, 28, 28)  # of the images that it takes
TRAINED_ON = slice(0, 30000)
# Reference sets whose statistics ship, by the name that a row carries.
REFERENCES = {"train[30000:]": slice(30000, 60000), "train": slice(0, 60000)}
WEIGHTS = ASSETS / f"{NAME}.safetensors"
STATISTICS = ASSETS / f"{NAME}-statistics.safetensors"
RECORD = ASSETS / f"{NAME}.json"


@dataclass(frozen=True)
class Extractor:
    """What turns images into the features that a metric compares. A value belongs to the weights, named by `sha256`.

    `network(device)` gives a function from uint8 images (N, *shape) to features (N, width) on that device. `convert` brings
    uint8 images (N, C, H, W) of any size and colour to that shape and says in words what it did, "" for nothing.
    """

    name: str
    width: int
    sha256: str
    shape: tuple[int | None, ...]  # of an image; None: any size
    batch: int  # images at once
    network: Callable[[str], Network] = field(compare=False, repr=False)
    convert: Callable[[Images], tuple[Images, str]] = field(compare=False, repr=False)


@functools.cache
def fmnist_cnn() -> Extractor:
    """The extractor of this module, with the shipped weights."""
    return Extractor(NAME, WIDTH, sha256(), SHAPE, 500, _features, convert)


def _features(device: str) -> Network:
    net = pretrained()["features"].to(device)
    # float64 from here on: torch-fidelity takes means and KID's kernel in the type of the features.
    return lambda images: net(scale(images)).double()


def convert(images: Images) -> tuple[Images, str]:
    """Images as `fmnist_cnn` takes them: grey by ITU-R 601's luma and 28 x 28 by Pillow's bicubic scaling, antialiased where it
    shrinks."""
    if images.shape[1:] == SHAPE:
        return images, ""
    from PIL import Image

    _, channels, h, w = images.shape
    planes = images[:, 0] if channels == 1 else images.transpose(0, 2, 3, 1)
    side = SHAPE[1:]
    out = [np.asarray(Image.fromarray(plane).convert("L").resize(side, Image.Resampling.BICUBIC)) for plane in planes]
    colour = "grey" if channels == 1 else "RGB"
    return np.stack(out)[:, None], f"{colour} {h} x {w} converted to grey {side[0]} x {side[1]} for the extractor"


def stored_statistics(reference: str) -> Statistics:
    """Shipped mean and covariance of a reference set. DataError if they belong to another extractor."""
    require(reference in REFERENCES, "reference", reference, f"must be one of {', '.join(REFERENCES)}")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(STATISTICS, "numpy") as file:
            owner = file.metadata()["extractor_sha256"]
            stored = {key: file.get_tensor(f"{reference}.{key}") for key in ("mu", "sigma")}
    except (OSError, SafetensorError) as error:
        raise DataError(f"{STATISTICS}: cannot be read: {error}") from error
    if owner != sha256():
        raise DataError(f"{STATISTICS}: made by extractor {owner}, not by {sha256()}; run python -m bench.extractor")
    return stored


def network() -> torch.nn.ModuleDict:
    """The CNN: `features` maps float32 (N, 1, 28, 28) in [-1, 1] to (N, 64), `head` maps those to 10 class logits.

    The 64 features are the plain output of a linear layer: after a ReLU some would be zero for every image and the
    covariance singular. Never trained with flips, so that it sees flipped clothes as foreign.
    """
    from torch import nn

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]

    features = nn.Sequential(
        *block(1, 32), *block(32, 64), *block(64, 128), nn.Flatten(), nn.Dropout(0.3), nn.Linear(128 * 3 * 3, WIDTH)
    )
    return nn.ModuleDict({"features": features, "head": nn.Sequential(nn.GELU(), nn.Linear(WIDTH, 10))})


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
    """uint8 (N, 1, 28, 28) to float32 in [-1, 1], as `bench.data.pixels.to_float`, on the tensor's own device."""
    return images.float() / 127.5 - 1


def train(data: Dataset, test: Dataset, seed: int, epochs: int, batch: int = 128) -> tuple[torch.nn.ModuleDict, float]:
    """Train on `data` (cross-entropy, AdamW, one-cycle learning rate); return the network and its test accuracy."""
    import torch
    from torch.nn.functional import cross_entropy
    from tqdm import trange

    assert data.labels is not None and test.labels is not None
    torch.manual_seed(seed)
    net = network()
    images, labels = torch.from_numpy(data.images[TRAINED_ON].copy()), torch.from_numpy(data.labels[TRAINED_ON].copy())
    labels = labels.long()
    steps = epochs * (len(images) // batch)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in trange(epochs, desc="epochs"):
        for ids in torch.randperm(len(images)).split(batch)[: steps // epochs]:
            logits = net["head"](net["features"](scale(images[ids])))
            loss = cross_entropy(logits, labels[ids], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    net.eval()
    with torch.no_grad():
        held_out = torch.from_numpy(test.images.copy())
        logits = torch.cat([net["head"](net["features"](scale(part))) for part in held_out.split(1000)])
    return net, float((logits.argmax(1).numpy() == test.labels).mean())


def main(argv: list[str] | None = None) -> None:
    """Train, then write weights, record and reference statistics to `bench/assets/`."""
    parser = argparse.ArgumentParser(prog="python -m bench.extractor", description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder with the four Fashion-MNIST files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(argv)

    import torch
    from safetensors.numpy import save_file
    from safetensors.torch import save_file as save_tensors

    from bench.fid import features

    torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(True)
    data, test = load("fashion-mnist", "train", args.data), load("fashion-mnist", "test", args.data)
    if len(data) != REFERENCES["train"].stop:
        parser.error(f"training needs the full data set, found {data.provenance}")
    start = time.perf_counter()
    net, accuracy = train(data, test, args.seed, args.epochs)
    seconds = time.perf_counter() - start
    save_tensors(net.state_dict(), WEIGHTS)
    sha256.cache_clear()
    fmnist_cnn.cache_clear()

    arrays: dict[str, np.ndarray[Any, Any]] = {}
    found = features(data.images)
    for name, part in REFERENCES.items():
        arrays[f"{name}.mu"], arrays[f"{name}.sigma"] = statistics(found[part])
    metadata = {"extractor_sha256": sha256(), "data": data.provenance, "data_sha256": data.sha256}
    save_file(arrays, STATISTICS, metadata)
    RECORD.write_text(json.dumps({
        "name": NAME, "width": WIDTH, "test_accuracy": accuracy, "test_images": len(test), "seed": args.seed,
        "epochs": args.epochs, "threads": args.threads, "train_split": "train[:30000]",
        "train_seconds": round(seconds),
        "command": f"python -m bench.extractor --seed {args.seed} --epochs {args.epochs} --threads {args.threads}",
        "torch": torch.__version__, "data": data.provenance, "data_sha256": data.sha256,
        "test_sha256": test.sha256, "weights_sha256": sha256(), "statistics_sha256": sha256(STATISTICS),
        "subset_sha256": load_subset("fashion-mnist", "train").sha256,
    }, indent=1) + "\n")
    print(RECORD.read_text())


if __name__ == "__main__":
    main()
