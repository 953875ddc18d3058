"""Data sets of images: named ones, or a person's own folder or array, as uint8 arrays.

The named sets and their files are in `catalogue`, the readers in `readers` and `image_files`.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench import streams
from bench.data import catalogue
from bench.data.catalogue import RECORDS, File, Record
from bench.data.image_files import list_images, pad_to, read_images
from bench.data.readers import DataError, npz_names, read_npy, read_npz
from bench.paths import ASSETS

ENVIRONMENT = "DDIM_BENCH_DATA"
IMAGES = "images"  # the name of a data set that is no published one
HELD_OUT = 128  # least number of held-out images: twice the feature width of the metric's own extractor
SPLITS = ("train", "test")
NPZ_SPLITS = {"train": ("x_train", "train_images"), "test": ("x_test", "test_images")}  # as Keras and MedMNIST name them
NPZ_WHOLE = ("images", "arr_0")


@dataclass(frozen=True, eq=False)
class Dataset:
    """One split in memory, read-only: images uint8 (N, C, H, W) in [0, 255], labels uint8 (N,) where there are any.

    `sha256` is that of the images' bytes, so it names the data whatever file they came from. `flip`: see `Record`.
    """

    name: str
    split: str
    images: NDArray[np.uint8]
    labels: NDArray[np.uint8] | None
    provenance: str
    sha256: str
    flip: bool

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Choice:
    """Which data set a user names: by its name, by the place of its files, by both or by neither. The rest as in `load`."""

    name: str | None = None
    path: Path | None = None
    download: bool = False
    pad: bool = False

    def load(self, default: str, shape: tuple[int, int, int], split: str) -> Dataset:
        """One split for a network of image shape (C, H, W). `default` is the name where none was asked for and `path` does not
        hold other images. Raises DataError as `load`."""
        name = self.name or (default if self.path is None or _holds(RECORDS[default], self.path) else IMAGES)
        return load(name, split, self.path, shape=shape, pad=self.pad, download=self.download)


def load(name: str, split: str, folder: str | os.PathLike[str] | None = None, *, download: bool = False,
         shape: tuple[int, int, int] | None = None, pad: bool = False) -> Dataset:
    """Load one split ("train" or "test") of a data set from the first place that has it.

    Places of a named set: `folder`, or else the folder named by $DDIM_BENCH_DATA or its subfolder NAME, where the files must
    be; otherwise the download cache, the Debian package, a download (only if `download`), and last the small subset of
    Fashion-MNIST that ships with this code. `provenance` tells which one it was. For the name "images", `folder` is a folder of
    image files, a .npy or a .npz file; see `load_images`. `shape` (C, H, W) is what the network takes; `pad` surrounds smaller
    images with black. Raises DataError for an unknown name or split, a missing, damaged or altered file, images of another
    shape, and a download that fails.
    """
    if split not in SPLITS:
        raise DataError(f"split {split!r} of {name} is unknown: known are {', '.join(SPLITS)}")
    if name == IMAGES:
        if folder is None or shape is None or download:
            raise DataError("data set 'images' needs --data PATH, a folder of images or a .npz or .npy file, and no --download")
        return load_images(Path(folder), split, shape, pad=pad)
    if name not in RECORDS:
        raise DataError(f"data set {name!r} is unknown: known are {', '.join((*RECORDS, IMAGES))}")
    return _fit(_load_record(RECORDS[name], split, folder, download), shape, pad)


def load_subset(name: str, split: str) -> Dataset:
    """Load the part of a data set that ships with this code: 4,000 training and 2,000 test images, balanced."""
    record = RECORDS[name]
    if record.subset is None:
        file = record.archive or record.splits[split][0]
        raise DataError(f"data set {name}: {file.name} is nowhere found: --download fetches it from {record.urls[0]}, "
                        "--data FOLDER says where it is")
    files = record.subset[split]
    return _read(record, split, files, ASSETS / name, f"{name} shipped subset {split} ({catalogue.count(files)})")


def load_images(path: Path, split: str, shape: tuple[int, int, int], *, pad: bool = False) -> Dataset:
    """A person's own images, for a network of image shape (C, H, W).

    A folder: every file in it and its subfolders is one image, cropped and scaled (`image_files.read_image`). A .npy or .npz
    file: uint8 (N, H, W), (N, H, W, C) or (N, C, H, W) of the network's size. A folder with the subfolders train and test, or
    a .npz file with x_train and x_test (or train_images and test_images), says itself what is held out; else a .npz file has
    one array, or one called images or arr_0, and of n images max(n // 10, min(128, n // 2)) are held out: the first ones of a
    fixed permutation of the files in the order of their names. Labels are not read.
    """
    if path.is_dir():
        paths, part = _split_folder(path, split)
        images = read_images(paths, shape, pad=pad)
    elif path.suffix in (".npy", ".npz"):
        images, part = _split_array(path, split, shape[0])
    else:
        raise DataError(f"{path}: {'is no folder and no .npz or .npy file' if path.exists() else 'no such file or folder'}")
    images = np.ascontiguousarray(images)
    colour, (h, w) = {1: "grey", 3: "RGB"}.get(images.shape[1], f"{images.shape[1]} channels"), images.shape[2:]
    provenance = f"images of {path.name}, {split} ({part}), {colour} {h} x {w}"
    dataset = Dataset(IMAGES, split, images, None, provenance, _digest(images), flip=False)
    return _fit(dataset, shape, pad)


def _holds(record: Record, place: Path) -> bool:
    """Whether a file of the data set is in this folder, whole or not."""
    return any(catalogue.find(record, (file,), place) for files in record.splits.values() for file in files)


def _load_record(record: Record, split: str, folder: str | os.PathLike[str] | None, download: bool) -> Dataset:
    files = record.splits[split]
    full = f"{record.name} full {split} ({catalogue.count(files)})"
    if named := folder or os.environ.get(ENVIRONMENT):
        place = Path(named)
        if not folder and (place / record.name).is_dir():
            place /= record.name
        if download:
            catalogue.download(record, files, place)
        return _read(record, split, files, place, f"{full}, folder {place.name}")
    cache = _cache(record)
    if not catalogue.find(record, files, cache):
        if record.debian_folder and catalogue.find(record, files, record.debian_folder):
            return _read(record, split, files, record.debian_folder, f"{full}, Debian package {record.debian_package}")
        if not download:
            return load_subset(record.name, split)
        catalogue.download(record, files, cache)
    return _read(record, split, files, cache, f"{full}, downloaded")


def _cache(record: Record) -> Path:
    import pooch

    return Path(pooch.os_cache("ddim-bench")) / record.name


def _read(record: Record, split: str, files: tuple[File, ...], folder: Path, provenance: str) -> Dataset:
    images, labels = catalogue.read(record, files, folder)
    images = np.ascontiguousarray(images)
    return Dataset(record.name, split, images, labels, provenance, _digest(images), record.flip)


def _digest(images: NDArray[np.uint8]) -> str:
    images.flags.writeable = False
    return hashlib.sha256(images.data).hexdigest()


def _fit(dataset: Dataset, shape: tuple[int, int, int] | None, pad: bool) -> Dataset:
    """The data set in the network's shape, padded if asked for. Raises DataError where it isn't."""
    if shape is None or dataset.images.shape[1:] == shape:
        return dataset
    if pad and dataset.images.shape[1] == shape[0] and max(dataset.images.shape[2:]) <= shape[1]:
        images = pad_to(dataset.images, shape[1])
        return replace(dataset, images=images, sha256=_digest(images), provenance=f"{dataset.provenance}, padded to {shape[1]}")
    raise DataError(f"{dataset.provenance}: images of shape {dataset.images.shape[1:]}, and the network takes {shape}"
                    + ("" if pad else "; --pad surrounds smaller ones with black"))


def _split_folder(folder: Path, split: str) -> tuple[list[Path], str]:
    if all((folder / name).is_dir() for name in SPLITS):
        paths = list_images(folder / split)
        return paths, str(len(paths))
    paths = list_images(folder)
    chosen = _chosen(len(paths), split, folder)
    return [paths[n] for n in chosen], f"{len(chosen)} of {len(paths)}"


def _split_array(path: Path, split: str, channels: int) -> tuple[NDArray[np.uint8], str]:
    if path.suffix == ".npy":
        images = read_npy(path)
    else:
        names = npz_names(path)
        if own := [name for name in NPZ_SPLITS[split] if name in names]:
            return _channels_first(read_npz(path, own[0]), channels, path), own[0]
        whole = [name for name in NPZ_WHOLE if name in names] or names
        if len(whole) != 1:
            raise DataError(f"{path}: which array are the images, of {', '.join(names[:10]) or 'none'}? Name it images, or name "
                            "the splits x_train and x_test")
        images = read_npz(path, whole[0])
    images = _channels_first(images, channels, path)
    chosen = _chosen(len(images), split, path)
    return images[chosen], f"{len(chosen)} of {len(images)}"


def _chosen(count: int, split: str, place: Path) -> NDArray[np.int64]:
    """Which of `count` images, in the order of their names, belong to a split; in that order."""
    if count < 2:
        raise DataError(f"{place}: holds {count} image, and needs one to train on and one to hold out")
    held_out = max(count // 10, min(HELD_OUT, count // 2))
    order = streams.permutation(0, "split", count, 0)
    return np.sort(order[:held_out] if split == "test" else order[held_out:])


def _channels_first(images: NDArray[np.uint8], channels: int, path: Path) -> NDArray[np.uint8]:
    if images.ndim == 3 and channels == 1:
        return images[:, None]
    if images.ndim == 4 and channels in (images.shape[1], images.shape[3]):
        return images if images.shape[1] == channels else images.transpose(0, 3, 1, 2)
    raise DataError(f"{path}: shape {images.shape} is not that of images with {channels} channels: (N, H, W) for one channel, "
                    f"(N, H, W, {channels}) or (N, {channels}, H, W)")
