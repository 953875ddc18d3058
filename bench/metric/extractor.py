"""What a feature extractor is to the metric. `fmnist_cnn`, `inception` and `own_cnn` each have one."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench.data.pixels import in_words
from reference.config import require

if TYPE_CHECKING:
    import torch

    Network = Callable[[torch.Tensor], torch.Tensor]  # uint8 images to features

Images = NDArray[np.uint8]
Statistics = dict[str, NDArray[np.float64]]  # torch-fidelity's keys: "mu" (d,), "sigma" (d, d)
OTHERS = "--metric inception measures with the network of papers, ddim-bench metric trains one on images of your own"


@dataclass(frozen=True)
class Extractor:
    """What turns images into the features that a metric compares. A value belongs to the weights, named by `sha256`.

    `network(device)` gives a function from uint8 images (N, *shape) to features (N, width) on that device. `convert` brings
    uint8 images (N, C, H, W) of any size and colour to that shape and says in words what it did, "" for nothing. `subject` is what
    it was trained on, in words, and `trained_on` the SHA-256 of those images, where it says nothing of others.
    """

    name: str
    width: int
    sha256: str
    shape: tuple[int | None, ...]  # of an image; None: any size
    batch: int  # images at once
    network: Callable[[str], Network] = field(compare=False, repr=False)
    convert: Callable[[Images], tuple[Images, str]] = field(compare=False, repr=False)
    subject: str = ""
    trained_on: str = ""

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether its network takes images (C, H, W) as they are."""
        return all(side in (None, found) for side, found in zip(self.shape, shape, strict=True))

    def require_fitting(self, shape: tuple[int, ...], found: str, remedy: str = "") -> None:
        """Raise `ConfigError` for images (C, H, W) of another colour or size than that of a network of one size: converted to it,
        most of what tells them apart is gone, and its features say little of the rest. `found` says in words whose they are."""
        require(None in self.shape or self.takes(shape), "--metric", self.name,
                f"its features are of {self.subject}, and {found} {in_words(shape)}: {remedy}{OTHERS}")


def require_installed(name: str) -> None:
    """Raise ConfigError where what this extractor runs in is missing, so that a command which will measure ends before it trains
    or draws."""
    require(all(importlib.util.find_spec(package) for package in ("torch", "torch_fidelity")), "metric", name,
            'needs PyTorch and torch-fidelity, beside whatever backend draws: pip install -e ".[torch]"; ddim-bench run has '
            "--metric none, which goes without")
