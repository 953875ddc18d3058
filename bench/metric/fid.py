"""Frechet and kernel distances of generated images, precision and recall, computed by torch-fidelity.

A metric is named after what its features come from: `FID[fmnist-cnn]` (`bench.metric.fmnist_cnn`, the default) or
`FID[inception-v3-compat]` (`bench.metric.inception`); values of the two never compare. FID is biased in the number of
images (Chong & Forsyth, arXiv:1911.07023): every result carries n, FID at n/2 and the 1/n extrapolation. KID (Binkowski et al.,
arXiv:1801.01401) is unbiased. Precision and recall (Kynkaanniemi et al., arXiv:1904.06991) tell images that look real from
images that cover the data; they too depend on the number of images.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from bench import streams
from bench.data.datasets import Dataset, load, load_subset
from bench.data.pixels import to_uint8
from bench.metric import fmnist_cnn
from bench.metric.deviation import deviation
from bench.metric.extractor import Extractor, Images, Statistics
from bench.metric.fmnist_cnn import REFERENCES, stored_statistics
from bench.metric.torchvision_shim import import_torchvision
from bench.progress import tracked
from reference.config import require

DEFAULT_REFERENCE = "train"
KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000
PRC_NEIGHBOURS = 3  # k of the paper
PRC_ROWS = 1000  # of the matrix of distances, taken at once: bounds its memory

Features = NDArray[np.floating[Any]]  # (n, width)


class Distances(TypedDict):
    """Two sets of features compared. `kid_subset_std` spreads over random subsets of the same images: it is no standard error.

    `fid_half` is the mean FID of the two halves of the images and `fid_inf` the extrapolation from n/2 and n to
    infinitely many; both are None below four times the feature width. `precision` and `recall` compare `prc_size` images
    of each side, all of the smaller one. `fid_sd` is the standard deviation of FID over sets of n images (`deviation`).
    """

    fid: float
    fid_sd: float
    fid_half: float | None
    fid_inf: float | None
    kid: float
    kid_subset_std: float
    kid_subset_size: int
    precision: float
    recall: float
    prc_size: int
    n: int
    seed: int


class Result(Distances):
    """One measurement, with what it belongs to. `reference_n` counts the images behind the reference's mean and covariance."""

    metric: str
    extractor: str
    extractor_sha256: str
    reference: str
    reference_n: int
    kid_reference: str  # also that of precision and recall


def features(images: Images, metric_device: str = "cpu", extractor: Extractor | None = None) -> Features:
    """Features (n, width) of uint8 images (n, *extractor.shape), by default those of `fmnist_cnn`, (n, 64) float64.

    Raises ConfigError for images of another shape or type.
    """
    extractor = extractor or fmnist_cnn.extractor()
    require(isinstance(images, np.ndarray) and images.dtype == np.uint8, "images",
            getattr(images, "dtype", type(images).__name__), "must be a uint8 array (bench.data.pixels.to_uint8 makes one)")
    wanted = ", ".join("any" if side is None else str(side) for side in extractor.shape)
    require(images.ndim == 4 and len(images) > 0 and extractor.takes(images.shape[1:]),
            "images", images.shape, f"{extractor.name} takes images of shape (n, {wanted})")
    require(metric_device in ("cpu", "cuda"), "metric_device", metric_device, "must be cpu or cuda")
    import torch

    net = extractor.network(metric_device)
    parts = []
    with torch.no_grad():
        for start in tracked(range(0, len(images), extractor.batch), desc=f"{extractor.name} features", leave=False, delay=5,
                            mininterval=2):
            part = torch.from_numpy(images[start:start + extractor.batch].copy())
            parts.append(net(part.to(metric_device)).cpu().numpy())
    return np.concatenate(parts)


def evaluate(
    images: Images, reference: str | Images | Dataset = DEFAULT_REFERENCE, metric_device: str = "cpu", seed: int = 0,
    extractor: Extractor | None = None, keep: Path | None = None
) -> Result:
    """Measure uint8 images (n, C, H, W) against a reference.

    `reference` names statistics that ship with `fmnist_cnn`, the default extractor ("train" or "train[30000:]"; KID, precision
    and recall then use the 4,000 training images that ship), or is an array of reference images, or a data set: then images of
    its shape are measured against its own, unflipped, both through the extractor's `convert`, and Fashion-MNIST by `fmnist_cnn`
    against its shipped statistics. `seed` chooses KID's subsets and the images for precision and recall. The images' features go
    to the file `keep` (.npy), where one is named. Raises ConfigError for
    fewer images than twice the feature width, where the covariance is (nearly) singular and FID meaningless, and for an
    unknown name.
    """
    extractor = extractor or fmnist_cnn.extractor()
    if isinstance(reference, Dataset) and statistics_ship(reference, extractor):
        reference = DEFAULT_REFERENCE
    converted = ""
    if isinstance(reference, Dataset):
        images, converted = extractor.convert(images)
    _enough("images", images, extractor)
    if isinstance(reference, str):
        require(extractor == fmnist_cnn.extractor(), "reference", reference,
                f"no statistics ship for {extractor.name}: give a data set")
        target, kid_target, reference_n = stored_statistics(reference), subset_features(metric_device), _length(reference)
        provenance = f"fashion-mnist {reference}, shipped statistics"
        kid_provenance = load_subset("fashion-mnist", "train").provenance
    elif isinstance(reference, Dataset):
        _enough("reference", reference.images, extractor)
        kid_target, reference_n = _dataset_features(reference, metric_device, extractor), len(reference)
        target = statistics(kid_target)
        provenance = kid_provenance = "; ".join(filter(None, (reference.provenance, converted)))
    else:
        _enough("reference", reference, extractor)
        kid_target, reference_n = features(reference, metric_device, extractor), len(reference)
        target = statistics(kid_target)
        provenance = kid_provenance = f"{len(reference)} images given"
    found = features(images, metric_device, extractor)
    if keep:
        np.save(keep, found)
    return {
        **compare(found, target, kid_target, seed), "metric": f"FID[{extractor.name}]",
        "extractor": extractor.name, "extractor_sha256": extractor.sha256, "reference": provenance, "reference_n": reference_n,
        "kid_reference": kid_provenance,
    }


def compare(found: Features, target: Statistics, target_features: Features, seed: int) -> Distances:
    """All distances of features (n, d) from a reference's statistics (FID) and its features (KID, precision, recall)."""
    import_torchvision()
    import torch
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    n, width = found.shape
    size = min(KID_SUBSET_SIZE, n, len(target_features))
    kid = kid_features_to_metric(torch.from_numpy(found), torch.from_numpy(target_features), kid_subsets=KID_SUBSETS,
                                 kid_subset_size=size, rng_seed=seed % 2**32, verbose=False)  # all that NumPy takes
    precision, recall, prc_size = _precision_recall(found, target_features, seed)
    fid = distance(statistics(found), target)
    fid_half = fid_inf = None
    if n >= 4 * width:
        # Every other image, so that images sorted by class give two like halves.
        fid_half = sum(distance(statistics(found[i : n // 2 * 2 : 2]), target) for i in (0, 1)) / 2
        fid_inf = extrapolate(fid, n, fid_half, n // 2)
    return Distances(fid=fid, fid_sd=deviation(found, target), fid_half=fid_half, fid_inf=fid_inf, kid=kid[KEY_METRIC_KID_MEAN],
                     kid_subset_std=kid[KEY_METRIC_KID_STD], kid_subset_size=size, precision=precision, recall=recall,
                     prc_size=prc_size, n=n, seed=seed)


def extrapolate(fid_n: float, n: int, fid_m: float, m: int) -> float:
    """FID of infinitely many images from FID at n > m of them: FID_n = FID_inf + b / n (arXiv:1911.07023, eq. 4)."""
    require(n > m > 0, "n, m", (n, m), "must be n > m > 0")
    return (n * fid_n - m * fid_m) / (n - m)


def floor(n: int = 10000, reference: str | Dataset = DEFAULT_REFERENCE, metric_device: str = "cpu",
          test: Dataset | None = None, extractor: Extractor | None = None) -> Result:
    """What real images score: the first n of the held-out test set (all, if it is smaller)."""
    test = test or load("fashion-mnist", "test")
    return evaluate(test.images[:n], reference, metric_device, extractor=extractor)


def ceiling(n: int = 10000, reference: str | Dataset = DEFAULT_REFERENCE, metric_device: str = "cpu", seed: int = 0,
            extractor: Extractor | None = None) -> Result:
    """What no model at all scores: n images of standard normal noise, clipped like a sample. Image i of a seed is the same for
    every n."""
    shape = reference.images.shape[1:] if isinstance(reference, Dataset) else (1, 28, 28)
    noise = streams.normal(seed, "ceiling", np.arange(n), shape)
    return evaluate(to_uint8(noise), reference, metric_device, extractor=extractor)


def target(reference: Dataset, metric_device: str = "cpu", extractor: Extractor | None = None) -> Statistics:
    """What `evaluate` takes the Frechet distance from, for images of this data set's shape."""
    extractor = extractor or fmnist_cnn.extractor()
    if statistics_ship(reference, extractor):
        return stored_statistics(DEFAULT_REFERENCE)
    return statistics(_dataset_features(reference, metric_device, extractor))


def statistics_ship(dataset: Dataset, extractor: Extractor) -> bool:
    """Whether a data set is measured against statistics that ship, and not against features of its own images."""
    return extractor == fmnist_cnn.extractor() and dataset.name == "fashion-mnist" and dataset.images.shape[1:] == extractor.shape


def statistics(found: Features) -> Statistics:
    """Mean and covariance of features, by torch-fidelity."""
    import_torchvision()
    import torch
    from torch_fidelity.metric_fid import fid_features_to_statistics

    out: Statistics = fid_features_to_statistics(torch.from_numpy(found))
    return out


def distance(one: Statistics, two: Statistics) -> float:
    """The Frechet distance, by torch-fidelity: eigenvalues of the product of the covariances."""
    import_torchvision()
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    return float(fid_statistics_to_metric(one, two, verbose=False)[KEY_METRIC_FID])


def _length(reference: str) -> int:
    part = REFERENCES[reference]
    return part.stop - part.start


def _enough(name: str, images: Images, extractor: Extractor) -> None:
    least = 2 * extractor.width
    require(len(images) >= least, f"number of {name}", len(images),
            f"must be at least {least}, twice the {extractor.width} features of {extractor.name}")


def _precision_recall(found: Features, target: Features, seed: int) -> tuple[float, float, int]:
    """(precision, recall, images of each side): as many of both, as in the paper, for both values depend on either number."""
    import torch
    from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

    size = min(len(found), len(target))
    one, two = (torch.from_numpy(x[streams.permutation(seed, "subset", len(x), 0)[:size]]) for x in (found, target))
    out = prc_features_to_metric(one, two, prc_neighborhood=PRC_NEIGHBOURS, prc_batch_size=PRC_ROWS, save_cpu_ram=True,
                                 verbose=False)
    return out[KEY_METRIC_PRECISION], out[KEY_METRIC_RECALL], size


@functools.cache
def subset_features(metric_device: str = "cpu") -> Features:
    """Features (4000, 64) of the training images that ship, by the extractor that ships."""
    return features(load_subset("fashion-mnist", "train").images, metric_device)


@functools.cache
def _dataset_features(dataset: Dataset, metric_device: str, extractor: Extractor) -> Features:
    return features(extractor.convert(dataset.images)[0], metric_device, extractor)
