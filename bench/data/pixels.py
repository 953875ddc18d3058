"""How pixels are scaled: uint8 in [0, 255] for files and metrics, float32 in [-1, 1] for networks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data.readers import DataError, npz_names, read_npz
from bench.files import read_text, require_file
from bench.paths import printable
from reference.config import ConfigError

DIGEST = re.compile(r"[0-9a-f]{16}")  # of `weights_hash`
CHUNK = 1 << 20  # values converted at once: 50,000 images in float64 would take gigabytes


def to_float(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Scale uint8 pixels in [0, 255] to float32 in [-1, 1] (DDPM section 3.3): x / 127.5 - 1. Any shape."""
    return np.asarray(images, np.float32) / np.float32(127.5) - np.float32(1)


def in_words(shape: tuple[int, ...]) -> str:
    """Colour and size of images of this shape (C, H, W): grey 28 x 28."""
    c, h, w = shape
    colour = {1: "grey", 3: "RGB"}.get(c, f"{c} channels")
    return f"{colour} {h} x {w}"


def to_uint8(images: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """The way back, for every image that is stored or measured: clip to [-1, 1], then round (x + 1) 127.5 half to even.

    Computed in float64, so that float32 images lose nothing on the way. Raises DataError for NaN and infinities.
    """
    images = np.asarray(images)
    if not (finite := np.isfinite(images)).all():
        raise DataError(f"images: {np.count_nonzero(~finite)} of {images.size} values are not finite")
    flat, out = images.reshape(-1), np.empty(images.size, np.uint8)
    for start in range(0, len(flat), CHUNK):
        x = np.clip(flat[start:start + CHUNK].astype(np.float64), -1, 1)
        out[start:start + CHUNK] = np.rint((x + 1) * 127.5)
    return out.reshape(images.shape)


def read_samples(path: Path) -> NDArray[np.uint8]:
    """Images of a .npy file, (n, C, H, W): uint8, or floats in [-1, 1] as a sampling cell keeps them. Of a .npz file those of its
    array `images`, as `ddim-bench sample` writes it, or of its only one. Raises ConfigError."""
    if path.suffix.lower() == ".npz":
        names = npz_names(require_file(path))
        name = "images" if "images" in names or len(names) != 1 else names[0]
        if name not in names:
            raise DataError(f"{path}: must hold one array, or one called images; it has {printable(names[:10])}")
        return _samples(read_npz(path, name, floats=True), f"{path}: {printable(name)}")
    try:
        images = np.load(require_file(path), mmap_mode="r", allow_pickle=False)
    except ConfigError:
        raise
    except Exception as error:  # NumPy evaluates the header as a Python literal, which has many ways to fail
        raise DataError(f"{path}: can't be read as a NumPy array: {' '.join(str(error).split())[:200]}") from None
    return _samples(images, str(path))


def drawn_by(path: Path) -> dict[str, str]:
    """{"weights": hash of the weights that drew the images of a file}, as `ddim-bench sample` writes it into a .npz file and a
    finished sampling cell has it beside its images; {} where nothing says it."""
    try:
        if path.suffix.lower() == ".npz":
            said = read_npz(path, "weights").tobytes().decode()
        else:
            said = json.loads(read_text(path.with_name("result.json")))["config"]["weights"] if path.name == "images.npy" else ""
    except (ConfigError, OSError, ValueError, RecursionError, KeyError, TypeError):
        return {}
    return {"weights": said} if isinstance(said, str) and DIGEST.fullmatch(said) else {}


def _samples(images: Any, where: str) -> NDArray[np.uint8]:
    if not (isinstance(images, np.ndarray) and images.ndim == 4 and len(images) > 0 and images.dtype.kind in "uf"
            and (images.dtype.kind == "f" or images.dtype == np.uint8)):
        raise DataError(f"{where}, {getattr(images, 'dtype', '')} {getattr(images, 'shape', '')}: must be uint8 or floats of shape "
                        "(n, C, H, W)")
    return np.array(images) if images.dtype == np.uint8 else to_uint8(images)
