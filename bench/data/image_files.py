"""A folder of image files as one array, by Pillow."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from bench.data.readers import MAX_BYTES, DataError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "PPM")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")  # 8 bits a channel or fewer
MAX_PIXELS = 1 << 26  # of one file


def list_images(folder: Path) -> list[Path]:
    """Every file below a folder, in the order of their names; those whose name starts with a dot are left out.

    Raises DataError for an empty folder, and for an entry that is neither a folder nor a plain file.
    """
    found: list[Path] = []

    def fail(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}")

    for where, folders, files in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files + [name for name in folders if (Path(where) / name).is_symlink()]:
            path = Path(where) / name
            if not name.startswith("."):
                if not path.is_file():
                    raise DataError(f"{path}: is no plain file; links to folders are not followed")
                found.append(path)
    if not found:
        raise DataError(f"{folder}: no image in this folder")
    return sorted(found, key=lambda path: path.relative_to(folder).parts)


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
    for n, path in enumerate(tqdm(paths, desc="read images", leave=False, mininterval=1, delay=2)):
        out[n] = read_image(path, shape, pad=pad)
    return out


def read_image(path: Path, shape: tuple[int, int, int], *, pad: bool = False) -> NDArray[np.uint8]:
    """One image file, upright by its EXIF tag, its largest centred square scaled to (C, H, W) = `shape`.

    Scaling is Pillow's bicubic with antialiasing (arXiv:2104.11222 shows what goes wrong without). Colours become the network's:
    grey by ITU-R 601's luma, RGB from grey by repetition; transparent parts become white. Raises DataError for a file that
    can't be decoded to its end, holds several frames or more than 8 bits a channel, or is smaller than `shape`: an image is never
    enlarged, but with `pad` surrounded with black.
    """
    from PIL import Image, ImageOps

    channels, size, _ = shape
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata; pixels are checked below
            with Image.open(path, formats=FORMATS) as image:
                _check(path, image.size, image.mode, getattr(image, "is_animated", False), 1 if pad else size)
                image.verify()  # checksums, of a PNG; the file must then be opened again
            with Image.open(path, formats=FORMATS) as image:
                image.load()
                upright = ImageOps.exif_transpose(image)
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


def _check(path: Path, size: tuple[int, int], mode: str, animated: bool, least: int) -> None:
    w, h = size
    if w * h > MAX_PIXELS:
        raise DataError(f"{path}: {w} x {h} are more than {MAX_PIXELS} pixels")
    if min(w, h) < least:
        raise DataError(f"{path}: {w} x {h} is smaller than the network's {least} x {least}; --pad surrounds it with black")
    if mode not in MODES:
        raise DataError(f"{path}: pixels of type {mode}; only 8 bits a channel are read")
    if animated:
        raise DataError(f"{path}: holds several frames; a file must be one image")
