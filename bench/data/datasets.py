"""Data sets of images: named ones, or a person's own folder or array, as uint8 arrays.

The named sets and their files are in `catalogue`, the readers in `readers` and `image_files`.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.data import catalogue, splits
from bench.data.catalogue import RECORDS, File, Record
from bench.data.image_files import pad_to
from bench.data.own_images import read_array, read_folder
from bench.data.pixels import in_words
from bench.data.readers import DataError, no_images
from bench.data.splits import SPLITS
from bench.paths import ASSETS, printable

ENVIRONMENT = "DDIM_BENCH_DATA"
IMAGES = "images"  # the name of a data set that is no published one
SHOWN = 5  # names that a note lists
DARK = 16  # of 255: images that nowhere reach it are taken for masks that were not scaled


@dataclass(frozen=True, eq=False)
class Dataset:
    """One split in memory, read-only: images uint8 (N, C, H, W) in [0, 255], labels uint8 (N,) where there are any.

    `sha256` is that of the images' bytes, so it names the data whatever file they came from. `flip`: see `Record`. `notes` are
    lines about the source that its user should read.
    """

    name: str
    split: str
    images: NDArray[np.uint8]
    labels: NDArray[np.uint8] | None
    provenance: str
    sha256: str
    flip: bool
    notes: tuple[str, ...] = ()

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
        hold other images. Warns of its notes. Raises DataError as `load`."""
        found = load(self._name(default), split, self.path, shape=shape, pad=self.pad, download=self.download)
        _say(found)
        return found

    def both(self, default: str, shape: tuple[int, int, int]) -> tuple[Dataset, Dataset]:
        """Training and held-out images, as `load`; that no image is in both was checked."""
        if (name := self._name(default)) == IMAGES:
            train, test = load_images(*_place(self.path, shape, self.download), pad=self.pad)
        else:
            train, test = (load(name, split, self.path, shape=shape, pad=self.pad, download=self.download) for split in SPLITS)
            if said := splits.check(train.images, test.images, name, published=True):
                test = replace(test, notes=(*test.notes, said))
        _say(train, test)
        return train, test

    def own(self, default: str) -> Path | None:
        """Where a person's own images are that this choice names, None where it names a published data set."""
        return self.path if self._name(default) == IMAGES else None

    def _name(self, default: str) -> str:
        return self.name or (default if self.path is None or _holds(RECORDS[default], self.path) else IMAGES)


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
        return load_images(*_place(folder, shape, download), pad=pad)[SPLITS.index(split)]
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


def load_images(path: Path, shape: tuple[int, int, int], *, pad: bool = False) -> tuple[Dataset, Dataset]:
    """A person's own images, for a network of image shape (C, H, W): those to train on, and those that are held out.

    A folder: every file in it and its subfolders is one image, cropped and scaled (`image_files.read_image`), but for those that
    `image_files.IGNORED` names. A .npy or .npz file: uint8 (N, H, W), (N, H, W, C) or (N, C, H, W) of the network's size. A .npz
    file without names of splits has one array, or one called images or arr_0. `splits` says what is held out. Labels are not
    read. All files are read whichever split is wanted. Raises DataError, also where held-out images are training images.
    """
    if path.is_dir():
        parts, unread = read_folder(path, shape, pad=pad)
    elif path.suffix.lower() in (".npy", ".npz") and path.is_file():
        parts, unread = read_array(path, shape[0])
    else:
        raise no_images(path)
    name = printable(path.name or path.resolve().name)
    more = f" and {len(unread) - SHOWN} more" if len(unread) > SHOWN else ""
    notes = [f"{name}: not read: {printable(', '.join(unread[:SHOWN]))}{more}"] if unread else []
    train, test = (_own(name, split, *parts[split], shape, pad) for split in SPLITS)
    if said := splits.check(train.images, test.images, path):
        notes.append(printable(said))
    if (brightest := max(part.images.max() for part in (train, test))) < DARK:
        notes.append(f"{name}: nearly black: its brightest pixel is {brightest} of 255; multiply masks of 0 and 1 by 255")
    return replace(train, notes=tuple(notes)), test


def _place(folder: str | os.PathLike[str] | None, shape: tuple[int, int, int] | None,
           download: bool) -> tuple[Path, tuple[int, int, int]]:
    if folder is None or shape is None or download:
        raise DataError("data set 'images' needs --data PATH, a folder of images or a .npz or .npy file, and no --download")
    return Path(folder), shape


def _say(*found: Dataset) -> None:
    for note in dict.fromkeys(note for dataset in found for note in dataset.notes):
        warnings.warn(note, stacklevel=3)


def _own(name: str, split: str, images: NDArray[np.uint8], part: str, shape: tuple[int, int, int], pad: bool) -> Dataset:
    images = np.ascontiguousarray(images)
    provenance = f"images of {name}, {split} ({part}), {in_words(images.shape[1:])}"
    return _fit(Dataset(IMAGES, split, images, None, provenance, _digest(images), flip=False), shape, pad)


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
