"""Inception FID as papers mean it: torch-fidelity's `inception-v3-compat`, the weights of the TensorFlow network that FID began
with (Heusel et al., arXiv:1706.08500), its 2048 pooled features.

A value stands beside a paper's where n is 50,000 and the reference the whole unflipped training set; on CIFAR-10:

    python bench/run.py --table ddim --metric inception --dataset cifar10 --weights google/ddpm-cifar10-32 --download
    python bench/run.py --preset ddpm-cifar10 --metric inception --weights google/ddpm-cifar10-32 --spacing quad --download

The weights (95 MB) do not ship. They are read as tensors alone, so that a file from a stranger runs no code.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.data.datasets import Dataset
from bench.metric.extractor import Extractor, Images, require_installed
from bench.metric.fmnist_cnn import sha256
from bench.metric.torchvision_shim import import_torchvision
from bench.progress import on_terminal
from reference.config import ConfigError, require

if TYPE_CHECKING:
    import torch

    from bench.metric.extractor import Network

NAME = "inception-v3-compat"  # torch-fidelity's
LAYER, WIDTH = "2048", 2048
PAPER_N = 50_000
BATCH = 50  # images of 299 x 299: the widest layers of more of them would take gigabytes


def load(weights: Path | None = None, download: bool = False) -> Extractor:
    """The extractor, from a file of weights in torch-fidelity's format, by default torch-fidelity's own in PyTorch Hub's cache.

    That one is fetched there if it is missing and `download` is set. Raises ConfigError where the file is missing or none of
    this network's, or the metric's packages are.
    """
    require_installed("inception")
    import_torchvision()
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3 as URL

    path = weights or Path(torch.hub.get_dir(), "checkpoints", URL.rpartition("/")[2])
    if weights is None and download and not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(URL, str(path), _hash(URL), progress=on_terminal())
        except (OSError, RuntimeError) as error:
            raise ConfigError(f"--metric='inception': {URL} can't be fetched to {path}: {error}") from None
    if not path.is_file():
        raise ConfigError(
            f"--inception-weights={str(path)!r}: no such file: the weights that papers use are {URL} (95 MB)" if weights else
            f"--metric='inception': {path} is missing: --download fetches it there from {URL} (95 MB), or name a copy by "
            "--inception-weights FILE")
    _pretrained(path)
    return Extractor(NAME, WIDTH, sha256(path), (3, None, None), BATCH, functools.partial(_network, path), convert)


def paper_n(metric: str) -> int | None:
    """The number of samples where none is asked for; None leaves it to the preset."""
    return PAPER_N if metric == "inception" else None


def check(extractor: Extractor, samples: int, train: Dataset, held_out: Dataset) -> list[str]:
    """Lines about why values would not compare with a paper's. ConfigError where either split is too small for a covariance."""
    for dataset in (train, held_out):
        require(len(dataset) >= 2 * WIDTH, "--metric", "inception",
                f"needs at least {2 * WIDTH} images of each split, and there are {len(dataset)}: {dataset.provenance}")
    metric, notes = f"FID[{extractor.name}]", []
    if not published(extractor):
        notes.append(f"{metric}: of weights that torch-fidelity does not publish: compares with no paper's")
    if samples != PAPER_N:
        notes.append(f"{metric}: of n = {samples:,} images, where papers have {PAPER_N:,}: it is biased in n")
    if samples > len(held_out):
        notes.append(f"{metric}: its floor is that of {len(held_out):,} images, all that are held out, not of {samples:,}")
    return notes


def published(extractor: Extractor) -> bool:
    """Whether the weights are those that torch-fidelity publishes, and papers' values come from."""
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3 as URL

    return extractor.sha256.startswith(_hash(URL))


def _hash(url: str) -> str:
    """The first digits of the file's SHA-256, with which its name ends, as PyTorch Hub's do."""
    return Path(url).stem.rpartition("-")[2]


def convert(images: Images) -> tuple[Images, str]:
    """Images as the network takes them: three channels. It scales them to 299 x 299 itself, as TensorFlow 1 does."""
    if images.shape[1] == 3:
        return images, ""
    return np.repeat(images, 3, axis=1), "grey repeated as RGB for the extractor"


def _network(path: Path, device: str) -> Network:
    net = _pretrained(path).to(device)
    return lambda images: net(images)[0]


@functools.cache
def _pretrained(path: Path) -> torch.nn.Module:
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    try:
        torch.load(path, map_location="cpu", weights_only=True)  # torch-fidelity itself reads any pickle
        return FeatureExtractorInceptionV3(NAME, [LAYER], feature_extractor_weights_path=str(path))
    except Exception as error:  # a broken pickle has many ways to fail
        raise ConfigError(f"inception weights {str(path)!r}: not a state dict of torch-fidelity's {NAME}: "
                          f"{' '.join(str(error).split())[:200]}") from None
