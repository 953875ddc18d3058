"""A person's own images, from a folder or an array, as the two splits that the rule of `splits` makes of them. Raises DataError."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.data import splits
from bench.data.image_files import find_images, look, read_images
from bench.data.readers import DataError, npz_names, read_npy, read_npz
from bench.paths import printable

NPZ_WHOLE = ("images", "arr_0")  # where no array is named as a split

LEAST, MOST = 8, 64  # sides of the images that a network is made for where no side is asked for

Parts = dict[str, tuple[NDArray[np.uint8], str]]  # of a split: its images, and what they are of the source


def read_folder(folder: Path, shape: tuple[int, int, int], *, pad: bool = False) -> tuple[Parts, list[str]]:
    """The images of both splits, uint8 (N, C, H, W) with (C, H, W) = `shape`, and the names of what was not read."""
    found = find_images(folder)
    return ({split: (read_images(paths, shape, pad=pad), f"{len(paths)}, its folder {printable(name)}")
             for split, (name, paths) in found.own.items()}
            or _cut(read_images(found.paths, shape, pad=pad), folder)), found.unread


def read_array(path: Path, channels: int) -> tuple[Parts, list[str]]:
    """The same of a .npy or .npz file, whose images keep their size."""
    if path.suffix.lower() == ".npy":
        return _cut(_channels_first(read_npy(path), channels, path), path), []
    names = npz_names(path)
    own, whole = splits.named(names, path), _arrays(path)
    unread = [name for name in names if name not in whole and (splits.role(name) or name in NPZ_WHOLE)]
    arrays = [_channels_first(read_npz(path, name), channels, path) for name in whole]
    if len(own) == 2:
        return {split: (images, f"{len(images)}, its array {printable(name)}")
                for (split, name), images in zip(own.items(), arrays, strict=True)}, unread
    return _cut(arrays[0], path), unread


def shape_of(path: Path, *, pad: bool = False) -> tuple[int, int]:
    """(channels, side) that a network for these images should have. Of a folder: grey where every file is; the smallest file's
    shorter side, or the largest's with `pad`, at most 64, rounded down to a multiple of 4, above 32 of 8. Arrays keep their size.
    Raises DataError where a side is below 8 or an array has another shape than images of 1 or 3 channels."""
    if not path.is_dir():
        first = read_npy(path) if path.suffix.lower() == ".npy" else read_npz(path, _arrays(path)[0])
        if first.ndim not in (3, 4) or first.ndim == 4 and not {first.shape[1], first.shape[3]} & {1, 3}:
            raise DataError(f"{path}: shape {first.shape} is not that of images: (N, H, W), (N, H, W, C) or (N, C, H, W), C 1 or 3")
        channels = 1 if first.ndim == 3 else first.shape[3] if first.shape[3] in (1, 3) else first.shape[1]
        return channels, max(_channels_first(first, channels, path).shape[2:])
    found = find_images(path)
    seen = look([file for _, files in found.own.values() for file in files] or found.paths)
    side = min((max if pad else min)(side for _, side in seen), MOST)
    if side < LEAST:
        raise DataError(f"{path}: its smallest image is {side} pixels wide or high, and at least {LEAST} are needed; --pad "
                        "surrounds small ones with black")
    unit = 4 if side <= 32 else 8
    return (3 if any(colour for colour, _ in seen) else 1), side // unit * unit


def in_order(path: Path, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """All images of a folder or an array, uint8 (N, C, H, W) with (C, H, W) = `shape`, in the order of their names or rows, none
    held out. Raises DataError."""
    if path.is_dir():
        found = find_images(path)
        return read_images(sorted(file for _, files in found.own.values() for file in files) or found.paths, shape)
    first = read_npy(path) if path.suffix.lower() == ".npy" else read_npz(path, _arrays(path)[0])
    images = _channels_first(first, shape[0], path)
    if images.shape[1:] != shape or not len(images):
        raise DataError(f"{path}: {len(images)} images of shape {images.shape[1:]}, and {shape} is needed; a folder of image files "
                        "is cropped and scaled")
    return images


def _arrays(path: Path) -> list[str]:
    """The arrays of a .npz file that hold the images: those of its splits, or the one of all. Raises DataError."""
    names = npz_names(path)
    own = splits.named(names, path)
    whole = list(own.values()) or [name for name in NPZ_WHOLE if name in names] or names
    if len(whole) > 1 and not own:
        raise DataError(f"{path}: which array are the images, of {printable(', '.join(names[:10]))}? Name it images, or name "
                        "the splits x_train and x_test")
    if not whole:
        raise DataError(f"{path}: holds no array")
    return whole


def _cut(images: NDArray[np.uint8], place: Path) -> Parts:
    return {split: (images[which], f"{len(which)} of {len(images)}") for split, which in splits.cut(images, place).items()}


def _channels_first(images: NDArray[np.uint8], channels: int, path: Path) -> NDArray[np.uint8]:
    if images.ndim == 3 and channels == 1:
        return images[:, None]
    if images.ndim == 4 and channels in (images.shape[1], images.shape[3]):
        return images if images.shape[1] == channels else images.transpose(0, 3, 1, 2)
    raise DataError(f"{path}: shape {images.shape} is not that of images with {channels} channels: (N, H, W) for one channel, "
                    f"(N, H, W, {channels}) or (N, {channels}, H, W)")
