"""A folder of image files as one array, by Pillow."""

from __future__ import annotations

import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data import splits
from bench.data.readers import MAX_BYTES, DataError
from bench.progress import tracked

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "PPM")
# What lies beside images: tables, texts, and files of file managers.
IGNORED = re.compile(r"thumbs\.db|desktop\.ini|icon\r|_success|readme|licen[cs]e|.*\.(csv|tsv|txt|md|jsonl?|xml|ya?ml|html?|pdf)",
                     re.IGNORECASE)
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")  # 8 bits a channel or fewer
GREY = ("1", "L", "LA")
ORIENTATION = 0x0112  # EXIF's tag
MAX_PIXELS = 1 << 26  # of one file


@dataclass(frozen=True)
class Found:
    """Files of images: of each split that the folder has of its own, its name and files; else all. `unread` is what is left out."""

    own: dict[str, tuple[str, list[Path]]]
    paths: list[Path]
    unread: list[str]


def find_images(folder: Path) -> Found:
    """The images of a folder by the rule of `splits`, in the order of their names.

    Where a folder holds but one folder, that one is meant. Names that start with a dot are left out unnamed, those of `IGNORED`
    named. Raises DataError for a folder without images, for an entry that is neither a folder nor a plain file, and for splits
    that lie below other folders.
    """
    top = folder
    while (inner := _only_folder(folder)) and not splits.role(inner.name):
        folder = inner
    entries = _entries(folder)
    own = splits.named((entry.name for entry in entries if entry.is_dir()), folder)
    if own:
        files = {split: _walk(folder / name) for split, name in own.items()}
        unread = [entry.name for entry in entries if entry.name not in own.values()]
        unread += [path.name for _, left in files.values() for path in left]
        both = {split: (own[split], found) for split, (found, _) in files.items()} if len(own) == 2 else {}
        return Found(both, files["train"][0], unread)
    found, left = _walk(folder)
    deeper = {splits.role(part) for path in found for part in path.relative_to(folder).parts[:-1]}
    if "train" in deeper and deeper & {"test", "val"}:
        raise DataError(f"{top}: holds folders that are called as splits below others; they must lie at its top")
    return Found({}, found, [path.name for path in left])


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}") from error


def _only_folder(folder: Path) -> Path | None:
    """The folder that is all that `folder` holds."""
    entries = [entry for entry in _entries(folder) if not IGNORED.fullmatch(entry.name)]
    return entries[0] if len(entries) == 1 and entries[0].is_dir() and not entries[0].is_symlink() else None


def _walk(folder: Path) -> tuple[list[Path], list[Path]]:
    """Every file below a folder, and those that `IGNORED` names, each in the order of their names."""
    found: list[Path] = []
    left: list[Path] = []

    def fail(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}")

    for where, folders, files in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files + [name for name in folders if (Path(where) / name).is_symlink()]:
            path = Path(where) / name
            if IGNORED.fullmatch(name):
                left.append(path)
            elif not name.startswith("."):
                if not path.is_file():
                    raise DataError(f"{path}: is no plain file; links to folders are not followed")
                found.append(path)
    if not found:
        raise DataError(f"{folder}: no image in this folder")
    return sorted(found, key=lambda path: path.relative_to(folder).parts), sorted(left)


def pad_to(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Surround images (N, C, H, W) with black, 0 here and -1 in the network, up to `size`; an odd row goes below or right."""
    sides = [(extra // 2, extra - extra // 2) for extra in (max(0, size - side) for side in images.shape[2:])]
    return np.pad(images, [(0, 0), (0, 0), *sides])


def read_images(paths: list[Path], shape: tuple[int, int, int], *, pad: bool = False) -> NDArray[np.uint8]:
    """The images of these files, uint8 (N, C, H, W) with (C, H, W) = `shape`, H = W, C = 1 (grey) or 3 (RGB).

    See `read_image`. Nothing is returned unless every file could be read.
    """
    if len(paths) * np.prod(shape, dtype=int) > MAX_BYTES:
        raise DataError(f"{paths[0].parent}: {len(paths)} images of shape {shape} take more than {MAX_BYTES} bytes")
    out = np.empty((len(paths), *shape), np.uint8)
    for n, path in enumerate(tracked(paths, desc="read images", leave=False, mininterval=1, delay=2)):
        out[n] = read_image(path, shape, pad=pad)
    return out


def read_image(path: Path, shape: tuple[int, int, int], *, pad: bool = False) -> NDArray[np.uint8]:
    """One image file, upright by its EXIF tag, its largest centred square scaled to (C, H, W) = `shape`.

    Scaling is Pillow's bicubic with antialiasing (arXiv:2104.11222 shows what goes wrong without). Colours become the network's:
    grey by ITU-R 601's luma, RGB from grey by repetition; transparent parts become white. Raises DataError for a file that
    can't be decoded to its end, holds several frames or more than 8 bits a channel, or is smaller than `shape`: an image is never
    enlarged, but with `pad` surrounded with black. Where a phone keeps further pictures in a JPEG (MPO), the first one is read.
    """
    from PIL import Image

    channels, size, _ = shape
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata; pixels are checked below
            with Image.open(path, formats=FORMATS) as image:
                _check(path, image, 1 if pad else size)
                image.verify()  # checksums, of a PNG; the file must then be opened again
            with Image.open(path, formats=FORMATS) as image:
                image.load()
                upright = image if (turn := _turn(image)) is None else image.transpose(turn)
                if upright.has_transparency_data:
                    upright = upright.convert("RGBA")
                    upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
                plain = upright.convert({1: "L", 3: "RGB"}[channels])
        w, h = plain.size
        left, top, side = (w - min(w, h)) // 2, (h - min(w, h)) // 2, min(w, h)
        scaled = plain.resize((min(side, size),) * 2, Image.Resampling.BICUBIC, (left, top, left + side, top + side))
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever their parsing stumbles on
        reason = f"is no {', '.join(FORMATS)} image" if type(error).__name__ == "UnidentifiedImageError" else f"is broken: {error}"
        raise DataError(f"{path}: {reason.splitlines()[0]}") from error
    pixels = np.asarray(scaled, np.uint8).reshape(1, *scaled.size, channels).transpose(0, 3, 1, 2)
    return pad_to(pixels, size)[0]


def look(paths: list[Path]) -> list[tuple[bool, int]]:
    """(whether it has colours, its shorter side) of each file, from its header alone. A file that is no image is left out, and
    refused where it is read. Raises DataError where none is an image."""
    from PIL import Image

    out = []
    for path in tracked(paths, desc="look at images", leave=False, mininterval=1, delay=2):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with Image.open(path, formats=FORMATS) as image:
                    out.append((image.mode not in GREY, min(image.size)))
        except Exception:  # as in `read_image`, which says what is wrong
            continue
    if not out:
        raise DataError(f"{paths[0]}: is no {', '.join(FORMATS)} image")
    return out


def _turn(image: Any) -> Any:
    """How Pillow turns the image upright by its EXIF orientation, None where it is or nothing readable says that it isn't.

    Other tags are not looked at: Pillow's own `exif_transpose` writes all of them anew, which fails where one is damaged.
    """
    from PIL.Image import Transpose as T

    try:
        orientation = image.getexif().get(ORIENTATION)
    except Exception:  # of no tag but this one the pixels depend
        return None
    return {2: T.FLIP_LEFT_RIGHT, 3: T.ROTATE_180, 4: T.FLIP_TOP_BOTTOM, 5: T.TRANSPOSE, 6: T.ROTATE_270, 7: T.TRANSVERSE,
            8: T.ROTATE_90}.get(orientation)


def _check(path: Path, image: Any, least: int) -> None:
    w, h = image.size
    if w * h > MAX_PIXELS:
        raise DataError(f"{path}: {w} x {h} are more than {MAX_PIXELS} pixels")
    if min(w, h) < least:
        raise DataError(f"{path}: {w} x {h} is smaller than the network's {least} x {least}; --pad surrounds it with black")
    if image.mode not in MODES or _deep(image):
        depth = " with 16 bits a channel" if _deep(image) else ""
        raise DataError(f"{path}: pixels of type {image.mode}{depth}; only 8 bits a channel are read")
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise DataError(f"{path}: holds several frames; a file must be one image")


def _deep(image: Any) -> bool:
    """Whether Pillow would cut colours of 16 bits to 8, which turns those of a 12-bit camera black."""
    how = image.tile[0].args if image.tile else ""
    return (image.format == "PNG" and str(how).endswith(";16B")) or (
        image.format == "PPM" and isinstance(how, tuple) and isinstance(how[-1], int) and how[-1] > 255)
