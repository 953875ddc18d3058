"""Frechet and kernel distances of generated images, through torch-fidelity, as `FID[fmnist-cnn]` and `KID[fmnist-cnn]`.

The features come from `bench.extractor`, so no value here may stand beside a paper's Inception FID. FID is biased in
the number of images (Chong & Forsyth, arXiv:1911.07023): every result carries n, FID at n/2 and the 1/n extrapolation.
KID (Binkowski et al., arXiv:1801.01401) is unbiased. Precision and recall (Kynkaanniemi et al., arXiv:1904.06991) tell
images that look real from images that cover the data; they too depend on the number of images.
"""

from __future__ import annotations

import functools
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from bench import extractor, streams
from bench.data import DataError, Dataset, load, load_subset, to_uint8
from bench.torchvision_shim import import_torchvision
from reference.config import require

METRIC = f"FID[{extractor.NAME}]"
DEFAULT_REFERENCE = "train"
KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000
PRC_NEIGHBOURS = 3  # k of the paper
PRC_ROWS = 1000  # of the matrix of distances, taken at once: bounds its memory

Images = NDArray[np.uint8]
Statistics = dict[str, NDArray[np.float64]]  # torch-fidelity's keys: "mu" (d,), "sigma" (d, d)


class Result(TypedDict):
    """One measurement. `kid_std` spreads over random subsets of the same images: it is no standard error.

    `fid_half` is the mean FID of the two halves of the images and `fid_inf` the extrapolation from n/2 and n to
    infinitely many; both are None below four times the feature width. `precision` and `recall` compare `prc_size` images
    of each side, all of the smaller one.
    """

    metric: str
    fid: float
    fid_half: float | None
    fid_inf: float | None
    kid: float
    kid_subset_std: float
    kid_subset_size: int
    precision: float
    recall: float
    prc_size: int
    n: int
    extractor: str
    extractor_sha256: str
    reference: str
    kid_reference: str
    seed: int


def features(images: Images, metric_device: str = "cpu") -> NDArray[np.float64]:
    """Features (n, 64) of uint8 images (n, 1, 28, 28). Raises ConfigError for another shape or type."""
    require(isinstance(images, np.ndarray) and images.dtype == np.uint8, "images",
            getattr(images, "dtype", type(images).__name__), "must be a uint8 array (bench.data.to_uint8 makes one)")
    require(images.ndim == 4 and images.shape[1:] == extractor.SHAPE and len(images) > 0, "images", images.shape,
            f"{extractor.NAME} takes images of shape (n, 1, 28, 28)")
    require(metric_device in ("cpu", "cuda"), "metric_device", metric_device, "must be cpu or cuda")
    _register()
    import torch
    from torch.utils.data import Dataset as TorchDataset
    from torch_fidelity.utils import create_feature_extractor, get_featuresdict_from_dataset

    class Bare(TorchDataset[torch.Tensor]):
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, i: int) -> torch.Tensor:
            return torch.from_numpy(images[i].copy())

    cuda = metric_device == "cuda"
    net = create_feature_extractor(extractor.NAME, ["features"], cuda=cuda, verbose=False)
    # save_cpu_ram means no worker processes: reading an array needs none.
    found = get_featuresdict_from_dataset(Bare(), net, 500, cuda, save_cpu_ram=True, verbose=False)["features"]
    array: NDArray[np.float64] = found.numpy()
    return array


def convert(images: Images) -> tuple[Images, str]:
    """Images of any size and colour as the extractor takes them, and what was done in words, "" for nothing.

    uint8 (n, C, H, W) becomes grey by ITU-R 601's luma and 28 x 28 by Pillow's bicubic scaling, antialiased where it shrinks.
    """
    if images.shape[1:] == extractor.SHAPE:
        return images, ""
    from PIL import Image

    _, channels, h, w = images.shape
    planes = images[:, 0] if channels == 1 else images.transpose(0, 2, 3, 1)
    side = extractor.SHAPE[1:]
    out = [np.asarray(Image.fromarray(plane).convert("L").resize(side, Image.Resampling.BICUBIC)) for plane in planes]
    colour = "grey" if channels == 1 else "RGB"
    return np.stack(out)[:, None], f"{colour} {h} x {w} converted to grey {side[0]} x {side[1]} for the extractor"


def evaluate(
    images: Images, reference: str | Images | Dataset = DEFAULT_REFERENCE, metric_device: str = "cpu", seed: int = 0
) -> Result:
    """Measure uint8 images (n, 1, 28, 28) against a reference.

    `reference` names shipped statistics ("train" or "train[30000:]"; KID, precision and recall then use the 4,000 training
    images that ship), or is an array of reference images, or a data set: then images of its shape are measured against its
    own, both through `convert`, and Fashion-MNIST against its shipped statistics. `seed` chooses KID's subsets and the images for
    precision and recall. Raises ConfigError for fewer images than twice the feature width, where the covariance is (nearly)
    singular and FID meaningless, and for an unknown name.
    """
    converted = ""
    if isinstance(reference, Dataset):
        if reference.name == "fashion-mnist" and reference.images.shape[1:] == extractor.SHAPE:
            reference = DEFAULT_REFERENCE
        else:
            images, converted = convert(images)
    _enough("images", images)
    found = features(images, metric_device)
    if isinstance(reference, Dataset):
        _enough("reference", reference.images)
        kid_target = _dataset_features(reference, metric_device)
        target = _statistics(kid_target)
        provenance = kid_provenance = "; ".join(filter(None, (reference.provenance, converted)))
    elif isinstance(reference, str):
        target, kid_target = stored_statistics(reference), _subset_features(metric_device)
        provenance = f"fashion-mnist {reference}, shipped statistics"
        kid_provenance = load_subset("fashion-mnist", "train").provenance
    else:
        _enough("reference", reference)
        kid_target = features(reference, metric_device)
        target = _statistics(kid_target)
        provenance = kid_provenance = f"{len(reference)} images given"
    import torch
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    n = len(found)
    size = min(KID_SUBSET_SIZE, n, len(kid_target))
    kid = kid_features_to_metric(torch.from_numpy(found), torch.from_numpy(kid_target), kid_subsets=KID_SUBSETS,
                                 kid_subset_size=size, rng_seed=seed, verbose=False)
    precision, recall, prc_size = _precision_recall(found, kid_target, seed)
    fid = _fid(_statistics(found), target)
    fid_half = fid_inf = None
    if n >= 4 * extractor.WIDTH:
        # Every other image, so that images sorted by class give two like halves.
        fid_half = sum(_fid(_statistics(found[i : n // 2 * 2 : 2]), target) for i in (0, 1)) / 2
        fid_inf = extrapolate(fid, n, fid_half, n // 2)
    return Result(
        metric=METRIC, fid=fid, fid_half=fid_half, fid_inf=fid_inf, kid=kid[KEY_METRIC_KID_MEAN],
        kid_subset_std=kid[KEY_METRIC_KID_STD], kid_subset_size=size, precision=precision, recall=recall,
        prc_size=prc_size, n=n, extractor=extractor.NAME, extractor_sha256=extractor.sha256(), reference=provenance,
        kid_reference=kid_provenance, seed=seed,
    )


def extrapolate(fid_n: float, n: int, fid_m: float, m: int) -> float:
    """FID of infinitely many images from FID at n > m of them: FID_n = FID_inf + b / n (arXiv:1911.07023, eq. 4)."""
    require(n > m > 0, "n, m", (n, m), "must be n > m > 0")
    return (n * fid_n - m * fid_m) / (n - m)


def floor(n: int = 10000, reference: str | Dataset = DEFAULT_REFERENCE, metric_device: str = "cpu",
          test: Dataset | None = None) -> Result:
    """What real images score: the first n of the held-out test set (all, if it is smaller)."""
    test = test or load("fashion-mnist", "test")
    return evaluate(test.images[:n], reference, metric_device)


def ceiling(n: int = 10000, reference: str | Dataset = DEFAULT_REFERENCE, metric_device: str = "cpu", seed: int = 0) -> Result:
    """What no model at all scores: n images of standard normal noise, clipped like a sample."""
    shape = reference.images.shape[1:] if isinstance(reference, Dataset) else extractor.SHAPE
    noise = np.random.Generator(np.random.Philox(seed)).standard_normal((n, *shape), np.float32)
    return evaluate(to_uint8(noise), reference, metric_device)


def stored_statistics(reference: str) -> Statistics:
    """Shipped mean and covariance of a reference set. DataError if they belong to another extractor."""
    require(reference in extractor.REFERENCES, "reference", reference,
            f"must be one of {', '.join(extractor.REFERENCES)}")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(extractor.STATISTICS, "numpy") as file:
            owner = file.metadata()["extractor_sha256"]
            stored = {key: file.get_tensor(f"{reference}.{key}") for key in ("mu", "sigma")}
    except (OSError, SafetensorError) as error:
        raise DataError(f"{extractor.STATISTICS}: cannot be read: {error}") from error
    if owner != extractor.sha256():
        raise DataError(f"{extractor.STATISTICS}: made by extractor {owner}, not by {extractor.sha256()};"
                        " run python -m bench.extractor")
    return stored


def _enough(name: str, images: Images) -> None:
    least = 2 * extractor.WIDTH
    require(len(images) >= least, f"number of {name}", len(images),
            f"must be at least {least}, twice the {extractor.WIDTH} features of {extractor.NAME}")


def _statistics(found: NDArray[np.float64]) -> Statistics:
    import torch
    from torch_fidelity.metric_fid import fid_features_to_statistics

    statistics: Statistics = fid_features_to_statistics(torch.from_numpy(found))
    return statistics


def _fid(one: Statistics, two: Statistics) -> float:
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    return float(fid_statistics_to_metric(one, two, verbose=False)[KEY_METRIC_FID])


def _precision_recall(found: NDArray[np.float64], target: NDArray[np.float64], seed: int) -> tuple[float, float, int]:
    """(precision, recall, images of each side): as many of both, as in the paper, for both values depend on either number."""
    import torch
    from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

    size = min(len(found), len(target))
    one, two = (torch.from_numpy(x[streams.permutation(seed, "subset", len(x), 0)[:size]]) for x in (found, target))
    out = prc_features_to_metric(one, two, prc_neighborhood=PRC_NEIGHBOURS, prc_batch_size=PRC_ROWS, save_cpu_ram=True,
                                 verbose=False)
    return out[KEY_METRIC_PRECISION], out[KEY_METRIC_RECALL], size


@functools.cache
def _subset_features(metric_device: str) -> NDArray[np.float64]:
    return features(load_subset("fashion-mnist", "train").images, metric_device)


@functools.cache
def _dataset_features(dataset: Dataset, metric_device: str) -> NDArray[np.float64]:
    return features(convert(dataset.images)[0], metric_device)


@functools.cache
def _register() -> None:
    """Tell torch-fidelity of the extractor, once a process."""
    import_torchvision()
    import torch
    from torch_fidelity import FeatureExtractorBase, register_feature_extractor

    class FashionMnistCnn(FeatureExtractorBase):  # type: ignore[misc]
        def __init__(self, name: str, features_list: list[str], **kwargs: Any) -> None:
            super().__init__(name, features_list)
            self.net = extractor.pretrained()["features"]

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return ("features",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "features"

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
            # float64 from here on: torch-fidelity takes means and KID's kernel in the type of the features.
            return (self.net(extractor.scale(images)).double(),)

    register_feature_extractor(extractor.NAME, FashionMnistCnn)
