"""What a feature extractor is to the metric. `fmnist_cnn` and `inception` each have one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    Network = Callable[[torch.Tensor], torch.Tensor]  # uint8 images to features

Images = NDArray[np.uint8]
Statistics = dict[str, NDArray[np.float64]]  # torch-fidelity's keys: "mu" (d,), "sigma" (d, d)


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
