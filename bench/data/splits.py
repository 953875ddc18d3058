"""One rule decides for every source which images are trained on and which are held out, and a check refuses what breaks it.

1. A source that names a training and a held-out split keeps them. `NAME` says what such a folder or array is called.
2. A source that names a training split alone has nothing else read: that split is divided as in 3.
3. Images without names of splits: of n different ones max(n // 10, min(128, n // 2)) are held out, the first ones of a fixed
   permutation in the order in which they are first met. A copy goes where its original goes.

No image may be in both splits, by a hash of its pixels. Published data sets keep their own copies, which are counted.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from bench import streams
from bench.data.readers import DataError

SPLITS = ("train", "test")
HELD_OUT = 128  # least number of held-out images: twice the feature width of the metric's own extractor
MOST_COPIES = 100  # a person's own splits are refused where more than one in so many held-out images is a training image

NAME = re.compile(r"(?:x_)?(?:(?P<train>train(?:ing)?)|(?P<test>test(?:ing)?)|(?P<val>val(?:id|idation)?))(?:_images)?",
                  re.IGNORECASE)


def role(name: str) -> str | None:
    """Which split a folder or an array of this name is: "train", "test", "val", or None."""
    match = NAME.fullmatch(name)
    return match.lastgroup if match else None


def named(names: Iterable[str], place: object) -> dict[str, str]:
    """Of the folders or arrays of a source: which is "train", and which is held out, "test" or else "val", as "test".

    Empty where none is named as a split. Raises DataError for two of one role, and for held-out images without training images.
    """
    found: dict[str, str] = {}
    for name in names:
        if (its := role(name)) is not None:
            if its in found:
                raise DataError(f"{place}: both {found[its]} and {name} are called as a {its} split; rename one")
            found[its] = name
    if found and "train" not in found:
        raise DataError(f"{place}: {' and '.join(found.values())} would be held out, and no train is there; add it, or rename")
    held_out = found.get("test") or found.get("val")
    return {"train": found["train"], **({"test": held_out} if held_out else {})} if found else {}


def cut(images: NDArray[np.uint8], place: object) -> dict[str, NDArray[np.int64]]:
    """Which of these images belong to "train" and to "test", by rule 3. Raises DataError where there are not two different ones."""
    kinds: dict[bytes, int] = {}
    kind = np.array([kinds.setdefault(hashed, len(kinds)) for hashed in hashes(images)], np.int64)
    if len(kinds) < 2:
        copies = f" {len(images)} times" if len(images) > 1 else ""
        raise DataError(f"{place}: holds {len(kinds)} image{copies}, and needs one to train on and one to hold out")
    held_out = chosen(len(kinds))[kind]
    return {"train": np.flatnonzero(~held_out), "test": np.flatnonzero(held_out)}


def chosen(count: int) -> NDArray[np.bool_]:
    """Which of `count` different images are held out."""
    out = np.zeros(count, bool)
    out[streams.permutation(0, "split", count, 0)[:max(count // 10, min(HELD_OUT, count // 2))]] = True
    return out


def hashes(images: NDArray[np.uint8]) -> Sequence[bytes]:
    """A hash of the pixels of each image."""
    return [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images]


def check(train: NDArray[np.uint8], test: NDArray[np.uint8], place: object, published: bool = False) -> str | None:
    """What to say of held-out images that are training images too, None where there are none.

    Raises DataError for more than one in `MOST_COPIES`, unless the data set is `published`: papers measure with its copies.
    """
    if train.shape[1:] != test.shape[1:]:
        return None  # refused elsewhere, as one of them is not the network's
    known = set(hashes(train))
    if not (copies := sum(hashed in known for hashed in hashes(test))):
        return None
    line = f"{place}: {copies} of its {len(test)} held-out images are training images too"
    if not published and copies * MOST_COPIES > len(test):
        raise DataError(f"{line}: at most one in {MOST_COPIES} may be; remove the copies from one split")
    return line
