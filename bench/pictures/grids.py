"""Pictures of images: grids and strips with labels, GIFs of a denoising path.

Images are uint8, (N, C, H, W) with C = 1 (grey) or 3 (RGB); `bench.data.pixels.to_uint8` makes them. A file
appears whole or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.pictures.plots import DPI, plot, save, write
from reference.config import require

HOLD_MS = 2000  # a GIF's last frame

Images = NDArray[np.uint8]


def grid(images: Images, columns: int, gap: int = 0) -> Images:
    """One picture (H', W') or (H', W', 3) of images (N, C, H, W), row by row.

    `gap` white pixels lie between images; a short last row is filled with black. Raises `ConfigError` for another dtype or shape.
    """
    _check(images)
    require(columns >= 1, "columns", columns, "must be at least 1")
    n, c, h, w = images.shape
    lines = -(-n // columns)
    padded = np.full((lines * columns, c, h + gap, w + gap), 255, np.uint8)
    padded[:, :, :h, :w] = 0
    padded[:n, :, :h, :w] = images
    tiled = padded.reshape(lines, columns, c, h + gap, w + gap).transpose(0, 3, 1, 4, 2)
    picture = tiled.reshape(lines * (h + gap), columns * (w + gap), c)[:lines * (h + gap) - gap, :columns * (w + gap) - gap]
    return picture[:, :, 0] if c == 1 else picture


def save_grid(path: Path, images: Images, columns: int, *, title: str = "", rows: Sequence[str] = (), heads: Sequence[str] = (),
              xlabel: str = "", scale: float = 2.0) -> Path:
    """A PNG of a grid: `title` above, one of `rows` left of each line of images, one of `heads` below each column.

    A strip is the grid of one line. `scale` is the size of a pixel. Raises `FileError` where the file can't be written.
    """
    picture = grid(images, columns, gap=2)
    h, w = images.shape[2] + 2, images.shape[3] + 2
    lines = -(-len(images) // columns)
    require(len(rows) in (0, lines), "rows", len(rows), f"must label each of {lines} lines")
    require(len(heads) in (0, columns), "heads", len(heads), f"must label each of {columns} columns")
    wide = scale * picture.shape[1] / DPI + 0.08 * max(map(len, rows), default=0)
    words = 0.25 * (bool(title) * (1 + title.count("\n")) + bool(heads) + bool(xlabel))  # inches above and below
    widest = max(wide, 0.085 * max(map(len, title.split("\n")))) + 0.2
    figure, axes = plot(figsize=(widest, scale * picture.shape[0] / DPI + words + 0.1))
    axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_xticks([w * i + w / 2 - 1.5 for i in range(len(heads))], heads, fontsize=8)
    axes.set_yticks([h * i + h / 2 - 1.5 for i in range(len(rows))], rows, fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(xlabel, fontsize=8)
    return save(figure, path)


def save_gif(path: Path, frames: Sequence[Images], labels: Sequence[str], *, columns: int = 8, scale: int = 4,
             frame_ms: int = 120) -> Path:
    """A GIF that shows each frame, images (N, C, H, W), as a grid with its label below, for ever; the last frame stays 2 s."""
    from PIL import Image, ImageDraw

    require(len(frames) == len(labels) > 0, "labels", len(labels), f"must label each of {len(frames)} frames, at least one")
    bar, made = 16, []
    for images, text in zip(frames, labels, strict=True):
        picture = Image.fromarray(grid(images, min(columns, len(images)), gap=1)).convert("RGB")
        picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
        frame = Image.new("RGB", (picture.width, picture.height + bar), "white")
        frame.paste(picture, (0, 0))
        ImageDraw.Draw(frame).text((4, picture.height + 1), text, fill="black", font_size=12)
        made.append(frame)
    buffer = BytesIO()
    made[0].save(buffer, "GIF", save_all=True, append_images=made[1:], loop=0, optimize=True,
                 duration=[frame_ms] * (len(made) - 1) + [HOLD_MS])
    return write(path, buffer)


def _check(images: Images) -> None:
    require(images.dtype == np.uint8 and images.ndim == 4 and images.shape[1] in (1, 3) and len(images) > 0, "images",
            (str(images.dtype), images.shape), "must be uint8 of shape (N, C, H, W), N at least 1, C 1 or 3")


def save_each(folder: Path, images: Images) -> None:
    """Every image as a PNG of its own, 00000.png and so on. Raises `FileError` where the folder can't be written."""
    from PIL import Image

    _check(images)
    for n, image in enumerate(images):
        out = BytesIO()
        Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(out, "PNG")
        write(folder / f"{n:05}.png", out)
