"""The fields of `values` in the rows of studies and likelihoods. `bench.records.values` has all others, and the names of all.

A row of study "ablation" or "tries" holds a record of the main job, and is described there.
"""

from typing import Annotated, Any, NotRequired, TypedDict


class Bits(TypedDict):
    """The variational bound of images under one variance of the reverse process."""

    total: Annotated[list[float], "bits per dimension of each image: prior and all terms"]
    terms: Annotated[list[float], "bits per dimension by step of the path, the mean over images: first the decoder's, then KLs"]


class Likelihood(TypedDict):
    """The variational bound of held-out images over one path (`ddim-bench likelihood`)."""

    n: Annotated[int, "number of images"]
    timesteps: Annotated[list[int], "of the whole process that the path keeps, increasing"]
    prior: Annotated[list[float], "bits per dimension of each image: KL of q(x_T given x_0) from N(0, 1)"]
    bounds: Annotated[dict[str, Bits], "by variance: `total` of each image and `terms`, bits per dimension"]
    seconds: Annotated[float, "s: of the whole cell, compiling included"]


class Point(TypedDict):
    """FID of the parts of one size."""

    n: Annotated[int, "images of a part"]
    disjoint: Annotated[bool, "whether no image is in two parts"]
    fid: Annotated[list[float], "of every part"]
    fid_half: Annotated[list[Any], "of the halves of every part, the mean of both; empty where they are too few"]
    resampled: NotRequired[Annotated[list[float], "of all images: FID of as many of them drawn with replacement"]]


class Noise(TypedDict):
    """FID of parts of fixed images (`ddim-bench study noise`)."""

    points: Annotated[list[Point], "for each size n: `n`, `disjoint`, `fid` of every part, `fid_half` of the halves of every part"]
    cost: Annotated[dict[str, float], "s of features and distances, peak bytes"]


class Neighbours(TypedDict):
    """Samples and their nearest training images (`ddim-bench study neighbours`)."""

    class_shares: Annotated[list[float] | None, "share of each class among the samples, by their nearest images; null: no labels"]
    held_out_class_shares: Annotated[list[float] | None, "the same of held-out images"]
    accuracy: Annotated[float | None, "of that classifier on held-out images"]
    near: Annotated[float, "share of samples nearer to a training image than 99% of held-out images are"]
    copies: Annotated[dict[str, float], "share of copies among samples and held-out images"]
    squared: Annotated[dict[str, list[int]], "quantiles of the squared pixel distance to the nearest training image"]


class Pooled(TypedDict):
    """The images of all sample seeds of one cell together (`ddim-bench run --table solvers`)."""

    n: Annotated[int, "number of images"]
    metric: Annotated[str, "name of the distance, such as FID[fmnist-cnn]"]
    fid: Annotated[float, "Frechet distance of all of them"]
    resampled: Annotated[list[float], "of n of them drawn with replacement; value k has the same seeds and ids in every cell"]


class RoundTrip(TypedDict):
    """Held-out images, encoded to x_T and decoded again with S steps each (`ddim-bench study round-trip`)."""

    n: Annotated[int, "number of images"]
    error: Annotated[dict[str, list[float]], "by the eta of decoding: each image's squared error per dimension of pixels in [0, 1]"]


class Apart(TypedDict):
    """Distances of features from the images that all timesteps draw with eta = 0."""

    own: Annotated[list[float], "of each image, from that of the same x_T"]
    others: Annotated[list[float], "of each image, the mean distance from those of every other x_T"]
    found: Annotated[float, "share of images whose nearest is that of the same x_T"]


class SameNoise(TypedDict):
    """Images of S steps beside those of all timesteps from the same x_T (`ddim-bench study same-noise`)."""

    n: Annotated[int, "number of images"]
    reference_steps: Annotated[int, "S of the images that are compared with"]
    distance: Annotated[dict[str, Apart], "by eta: `own`, `others` and `found`, in the extractor's features"]


class Way(TypedDict):
    """Distances of features along interpolations of x_T."""

    ends: Annotated[list[float], "of each pair: between its two images"]
    largest: Annotated[list[float], "of each pair: the largest between neighbours on the way"]


class Interpolation(TypedDict):
    """Images between pairs of x_T, interpolated on the sphere (`ddim-bench study same-noise`)."""

    n: Annotated[int, "number of pairs"]
    parts: Annotated[int, "equal parts of a way"]
    distance: Annotated[dict[str, Way], "by eta: `ends` and `largest`, in the extractor's features"]
