"""Samples among the training images, pixel by pixel: `ddim-bench study neighbours --images samples.npy`, or `--weights FOLDER`.

Two questions that no distance of features answers:

- Which classes do the samples show? Each gets the class of most of its k nearest training images: a classifier of another kind
  than the network behind `FID[fmnist-cnn]`, right as often as is printed beside it.
- Does the network merely remember? The distances of samples to the nearest training image stand beside those of held-out images.
  Of a network that remembers, far more than 1% of the samples are nearer than all but 1% of the held-out images are, and many are
  less than a third as far from the nearest training image as from the next (Yoon et al. 2023, "Diffusion probabilistic models
  generalize when they fail to memorize"; Gu et al., arXiv:2310.02664). Both are printed.

Distances are Euclidean, exact, of pixels in [0, 1]. The row of kind "study" keeps the distance of every image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench import api
from bench.data import datasets, pixels
from bench.paths import printable
from bench.pictures import grids
from bench.progress import tracked
from bench.records import rows
from bench.records.notebook import stamped
from bench.terminal import fit
from bench.timing.memory import require_room
from bench.weights.tensor_files import weights_hash
from bench.weights.unsaid import SILENT, Unsaid
from reference.config import require

K = 5
ROWS = 200  # of the matrix of distances, taken at once
NEAR = 0.01  # quantile of the held-out images' distances, below which a sample is called near
COPY = 3  # times nearer to one training image than to the next: called a copy
SHOWN = 16  # nearest samples in the picture
QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)

Images = NDArray[np.uint8]
Whole = NDArray[np.int64]


class Found(TypedDict):
    """One study, plain JSON types. Squared distances are those of pixels in [0, 255], whole numbers."""

    accuracy: float | None  # of the classification, on the held-out images; None without labels
    class_shares: list[float] | None  # of the samples
    held_out_class_shares: list[float] | None  # by the same classification
    squared: dict[str, list[int]]  # "samples" and "held_out": to the nearest training image
    near: float  # share of samples that are nearer than the quantile NEAR of the held-out images
    copies: dict[str, float]  # share of "samples" and "held_out" that are COPY times nearer to one image than to the next


def nearest(queries: Images, base: Images, k: int) -> tuple[Whole, Whole]:
    """(indices, squared distances), both (n, k), of the k nearest images of `base` for each query, nearest first; exact.

    Images are uint8 of one shape. The products are those of pixels less 128, whole numbers that float32 holds exactly for up to
    1,024 values an image, and float64 for any.
    """
    require(queries.shape[1:] == base.shape[1:], "queries", queries.shape, f"must be images of shape {base.shape[1:]}")
    require(1 <= k <= len(base), "k", k, f"must be from 1 to {len(base)}, the number of images to look among")
    kind = np.float32 if base[0].size * 128**2 <= 2**24 else np.float64

    def flat(images: Images) -> tuple[NDArray[Any], NDArray[np.float64]]:
        x: NDArray[Any] = images.reshape(len(images), -1).astype(kind)
        x -= 128
        return x, np.einsum("nd,nd->n", x, x, dtype=np.float64)

    (b, b_squared), ids, squared = flat(base), [], []
    for start in tracked(range(0, len(queries), ROWS), desc="neighbours", leave=False, delay=5, mininterval=2):
        a, a_squared = flat(queries[start:start + ROWS])
        distance = b_squared - 2.0 * (a @ b.T).astype(np.float64)  # less |a|^2, which changes no order
        some = np.argpartition(distance, k - 1, axis=1)[:, :k]
        order = np.take_along_axis(some, np.lexsort((some, np.take_along_axis(distance, some, 1)), axis=1), 1)
        ids.append(order)
        squared.append(np.take_along_axis(distance, order, 1) + a_squared[:, None])
    return np.concatenate(ids), np.concatenate(squared).astype(np.int64)


def classify(ids: Whole, labels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The class of most of the neighbours (n, k); of classes with equally many, the one whose neighbours come first."""
    n, k = ids.shape
    votes = np.zeros((n, int(labels.max()) + 1))
    for rank in range(k):
        votes[np.arange(n), labels[ids[:, rank]]] += 1 + (k - rank) / (k * (k + 1))
    return votes.argmax(1)


def study(samples: Images, train: datasets.Dataset, held_out: datasets.Dataset) -> tuple[Found, Whole]:
    """What was found of samples (n, C, H, W), and the training images nearest to each, (n, K)."""
    ids, squared = nearest(samples, train.images, K)
    own_ids, own_squared = nearest(held_out.images, train.images, K)
    accuracy = shares = own_shares = None
    if train.labels is not None and held_out.labels is not None:
        classes, own_classes = classify(ids, train.labels), classify(own_ids, train.labels)
        accuracy, count = float((own_classes == held_out.labels).mean()), int(train.labels.max()) + 1
        shares, own_shares = ((np.bincount(c, minlength=count) / len(c)).tolist() for c in (classes, own_classes))
    threshold = np.quantile(own_squared[:, 0], NEAR)
    # Twins among the training images, at distance 0 from each other, would make every ratio 1: such a sample is a copy too.
    copies = {name: float((d[:, 0] * COPY**2 <= np.maximum(d[:, 1], 1)).mean())
              for name, d in (("samples", squared), ("held_out", own_squared))}
    found = Found(accuracy=accuracy, class_shares=shares, held_out_class_shares=own_shares, copies=copies,
                  squared={"samples": squared[:, 0].tolist(), "held_out": own_squared[:, 0].tolist()},
                  near=float((squared[:, 0] < threshold).mean()))
    return found, ids


def describe(found: Found, n: int) -> str:
    """For the terminal: distances, and the classes where there are labels."""
    distances = {name: np.sqrt(np.quantile(np.array(squared), QUANTILES)) / 255 for name, squared in found["squared"].items()}
    lines = [{"quantile of the distance to the nearest training image": f"{q:.0%}", "samples": f"{distances['samples'][i]:.3f}",
              "held-out images": f"{distances['held_out'][i]:.3f}"} for i, q in enumerate(QUANTILES)]
    text = [fit(pd.DataFrame(lines)), "",
            f"{found['near']:.2%} of {n:,} samples are nearer than {NEAR:.0%} of the held-out images are",
            f"{COPY} times nearer to one training image than to the next: {found['copies']['samples']:.2%} of the samples, "
            f"{found['copies']['held_out']:.2%} of the held-out images"]
    if found["class_shares"] is not None and found["held_out_class_shares"] is not None:
        shares = pd.DataFrame({"class": range(len(found["class_shares"])), "samples": found["class_shares"],
                               "held-out images": found["held_out_class_shares"]})
        text += ["", shares.to_string(index=False, float_format="{:.2%}".format),
                 f"by {K} nearest neighbours, which are right for {found['accuracy']:.2%} of the held-out images"]
    return "\n".join(text)


def draw(weights: str, backend: str, device: str, n: int, steps: int, batch_size: int, seed: int, ignore_scheduler: bool = False,
         said: Unsaid = SILENT) -> tuple[Images, str]:
    """Images 0 .. n - 1 of this seed, (n, C, H, W), from weights by DDIM with eta = 0, and the weights' hash."""
    model = api.load(weights, backend, device=device, ignore_scheduler=ignore_scheduler, **vars(said))
    require_room("--samples", n, model.spec.image_shape)
    require_room("--sample-batch", min(batch_size, n), model.spec.image_shape)
    images = model.follow(model.noise(n, seed), model.plan(steps), seed=seed, batch_size=batch_size, progress="sample")
    return pixels.to_uint8(images), weights_hash(model.backend.weights(ema=True))


def run(samples: Images, name: str, data: datasets.Choice, out: Path, backend: str = "images",
        how: Mapping[str, Any] | None = None) -> None:
    """The study of samples (n, C, H, W): prints it, appends its row and draws those that come nearest to a training image.

    `name` and `backend` are those of the row; `how` is what it says of the way in which the samples were drawn.
    """
    shape = (samples.shape[1], samples.shape[2], samples.shape[3])
    train, held_out = data.both("fashion-mnist", shape)
    found, ids = study(samples, train, held_out)
    print(describe(found, len(samples)))
    config = {**(how or {}), "study": "neighbours", "name": name, "samples": len(samples), "k": K,
              "images_sha256": hashlib.sha256(samples.tobytes()).hexdigest(), "train": train.provenance,
              "train_sha256": train.sha256, "held_out": held_out.provenance, "held_out_sha256": held_out.sha256}
    rows.append(out / "rows", stamped("study", backend, "neighbours", config, dict(found)))
    closest = np.argsort(found["squared"]["samples"], kind="stable")[:SHOWN]
    path = grids.save_grid(out / "figures" / f"neighbours-{name.replace(', ', '-')}.png",
                              np.concatenate((samples[closest], train.images[ids[closest, 0]])), len(closest),
                              title="The samples that come nearest to a training image", rows=("sample", "training image"))
    print(f"\nwrote {printable(path)}")
