"""Data sets of images: where their files are found, how they are read and checked, how pixels are scaled.

A data set is one `Record`. A third one (MNIST has the same four file names, CIFAR-10 needs a reader of its own) is one
more entry of `RECORDS`.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.config import ConfigError

ASSETS = Path(__file__).parent / "assets"
ENVIRONMENT = "DDIM_BENCH_DATA"
IDX_UINT8 = 0x08


class DataError(ConfigError):
    """A data file is missing, damaged or not what its name says. One line that names the file and the reason."""


@dataclass(frozen=True)
class File:
    """One IDX file: its shape (images first), the SHA-256 of its decompressed bytes and of the published .gz."""

    name: str
    shape: tuple[int, ...]
    sha256: str
    download_sha256: str | None = None


@dataclass(frozen=True)
class Record:
    """All that is known of a data set. `splits` and `subset` hold the pair (images, labels) of each split.

    `flip` says whether a horizontal flip leaves the distribution alone: true of photographs, false of digits and
    clothes, where flipped images are no samples of the data.
    """

    name: str
    flip: bool
    url: str
    debian_package: str
    debian_folder: Path
    splits: Mapping[str, tuple[File, File]]
    subset: Mapping[str, tuple[File, File]]


# The SHA-256 of the downloads belong to files whose MD5 are those in the README of zalandoresearch/fashion-mnist.
FASHION_MNIST = Record(
    name="fashion-mnist",
    flip=False,
    url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    debian_package="dataset-fashion-mnist",
    debian_folder=Path("/usr/share/datasets/fashion-mnist"),
    splits={
        "train": (
            File("train-images-idx3-ubyte.gz", (60000, 28, 28),
                 "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                 "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
            File("train-labels-idx1-ubyte.gz", (60000,),
                 "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
                 "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
        ),
        "test": (
            File("t10k-images-idx3-ubyte.gz", (10000, 28, 28),
                 "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                 "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
            File("t10k-labels-idx1-ubyte.gz", (10000,),
                 "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
                 "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
        ),
    },
    subset={
        "train": (
            File("train-images-idx3-ubyte.gz", (4000, 28, 28),
                 "62e2e19d021f05163d78c85386b15830d9fba1aa5aaf514f3466575609e82a4f"),
            File("train-labels-idx1-ubyte.gz", (4000,),
                 "9313669c6f6b3ea86a4595fa27ef3389f38c0d066987f7c6bdd74e6ea83d002f"),
        ),
        "test": (
            File("t10k-images-idx3-ubyte.gz", (2000, 28, 28),
                 "15a92dd1e9b16ea361928086e77df4dfa890c255c00b5a8c8162c1040ce8eef1"),
            File("t10k-labels-idx1-ubyte.gz", (2000,),
                 "234596aeb6eb48133ec99a62541f90bc0728c9559a681f1e0638037462458f2c"),
        ),
    },
)
RECORDS = {record.name: record for record in (FASHION_MNIST,)}


@dataclass(frozen=True, eq=False)
class Dataset:
    """One split in memory, read-only: images uint8 (N, C, H, W) in [0, 255], labels uint8 (N,).

    `sha256` is that of the images' bytes, so it names the data whatever file they came from.
    """

    name: str
    split: str
    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    provenance: str
    sha256: str
    flip: bool

    def __len__(self) -> int:
        return len(self.images)


def load(
    name: str, split: str, folder: str | os.PathLike[str] | None = None, *, download: bool = False
) -> Dataset:
    """Load one split ("train" or "test") of a data set from the first place that has it.

    Places: `folder` or else the folder named by $DDIM_BENCH_DATA, where the files must be; otherwise the download
    cache, the Debian package, a download (only if `download`), and last the small subset that ships with this code.
    `provenance` tells which one it was. Raises DataError for an unknown name or split, a missing, damaged or altered
    file, and a download that fails.
    """
    if name not in RECORDS:
        raise DataError(f"data set {name!r} is unknown: known are {', '.join(RECORDS)}")
    record = RECORDS[name]
    if split not in record.splits:
        raise DataError(f"split {split!r} of {name} is unknown: known are {', '.join(record.splits)}")
    files = record.splits[split]
    full = f"{name} full {split} ({files[0].shape[0]})"
    named = folder or os.environ.get(ENVIRONMENT)
    if named:
        place = Path(named)
        if download:
            _download(record, files, place)
        return _read(record, split, files, place, f"{full}, folder {place.name}")
    if _complete(cache := _cache(record), files):
        return _read(record, split, files, cache, f"{full}, downloaded")
    if _complete(record.debian_folder, files):
        return _read(record, split, files, record.debian_folder, f"{full}, Debian package {record.debian_package}")
    if download:
        _download(record, files, cache)
        return _read(record, split, files, cache, f"{full}, downloaded")
    return load_subset(name, split)


def load_subset(name: str, split: str) -> Dataset:
    """Load the part of a data set that ships with this code: 4,000 training and 2,000 test images, balanced."""
    files = RECORDS[name].subset[split]
    provenance = f"{name} shipped subset {split} ({files[0].shape[0]})"
    return _read(RECORDS[name], split, files, ASSETS / name, provenance)


def to_float(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Scale uint8 pixels in [0, 255] to float32 in [-1, 1] (DDPM section 3.3): x / 127.5 - 1. Any shape."""
    return np.asarray(images, np.float32) / np.float32(127.5) - np.float32(1)


def to_uint8(images: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """The way back, for every image that is stored or measured: clip to [-1, 1], then round (x + 1) 127.5 half to even.

    Computed in float64, so that float32 images lose nothing on the way. Raises DataError for NaN and infinities.
    """
    x = np.asarray(images, np.float64)
    if not np.isfinite(x).all():
        raise DataError(f"images: {np.count_nonzero(~np.isfinite(x))} of {x.size} values are not finite")
    return np.rint((np.clip(x, -1, 1) + 1) * 127.5).astype(np.uint8)


def read_idx(path: str | os.PathLike[str], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Read an IDX file of uint8 (plain, or gzip when its name ends in .gz) that must have exactly this shape.

    The header is compared with `shape` before any array is made, and no more than one byte past the size it
    promises is ever decompressed. Raises DataError naming the file and the reason.
    """
    path = Path(path)
    header, size = 4 + 4 * len(shape), math.prod(shape)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            head = stream.read(header)
            if len(head) < header:
                raise DataError(f"{path}: ends after {len(head)} bytes, inside its {header}-byte header")
            magic, *dims = struct.unpack(f">{1 + len(shape)}I", head)
            if magic != IDX_UINT8 << 8 | len(shape):
                raise DataError(f"{path}: magic number {magic:#010x} is not {IDX_UINT8 << 8 | len(shape):#010x}"
                                f" (IDX, uint8, {len(shape)} dimensions)")
            if tuple(dims) != shape:
                raise DataError(f"{path}: header says shape {tuple(dims)}, expected {shape}")
            body = stream.read(size)
            if len(body) < size:
                raise DataError(f"{path}: ends after {len(body)} of {size} bytes of data")
            if stream.read(1):
                raise DataError(f"{path}: holds more than the {size} bytes of data that its header declares")
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    return np.frombuffer(body, np.uint8).reshape(shape)


def _cache(record: Record) -> Path:
    import pooch

    return Path(pooch.os_cache("ddim-bench")) / record.name


def _find(folder: Path, file: File) -> Path | None:
    candidates = (folder / file.name, folder / file.name.removesuffix(".gz"))
    return next((path for path in candidates if path.is_file()), None)


def _complete(folder: Path, files: tuple[File, File]) -> bool:
    return all(_find(folder, file) for file in files)


def _download(record: Record, files: tuple[File, File], folder: Path) -> None:
    import pooch

    for file in files:
        if _find(folder, file):
            continue
        url = record.url + file.name
        try:
            pooch.retrieve(url, known_hash=f"sha256:{file.download_sha256}", fname=file.name, path=folder,
                           progressbar=True)
        except Exception as error:  # requests, urllib3, OSError and ValueError (checksum) all mean the same here
            raise DataError(f"{url}: download to {folder} failed: {str(error).splitlines()[0]}") from error


def _read(record: Record, split: str, files: tuple[File, File], folder: Path, provenance: str) -> Dataset:
    images, labels = (_read_checked(folder, file) for file in files)
    images = images[:, None] if images.ndim == 3 else images
    digest = hashlib.sha256(images.tobytes()).hexdigest()
    return Dataset(record.name, split, images, labels, provenance, digest, record.flip)


def _read_checked(folder: Path, file: File) -> NDArray[np.uint8]:
    path = _find(folder, file)
    if path is None:
        raise DataError(f"{folder / file.name}: no such file")
    array = read_idx(path, file.shape)
    header = struct.pack(f">{1 + array.ndim}I", IDX_UINT8 << 8 | array.ndim, *array.shape)
    digest = hashlib.sha256(header + array.tobytes()).hexdigest()
    if digest != file.sha256:
        raise DataError(f"{path}: SHA-256 of its decompressed bytes is {digest}, expected {file.sha256}")
    return array
