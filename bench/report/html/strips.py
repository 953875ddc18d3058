"""The first images of a cell as a strip, kept beside the page so that it can be written again where the cells are not at hand."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import numpy as np

from bench import files
from bench.data.pixels import to_uint8
from bench.pictures import svg
from bench.records.rows import Row
from bench.records.values import Sample

SHOWN = 10  # images in a line
FOLDER = Path("figures") / "shown"


def kept(row: Row[Sample], out: Path) -> Path:
    """The file of a cell's strip: its name is that of this very row."""
    return out / FOLDER / f"{hashlib.sha256(row.line().encode()).hexdigest()[:16]}.png"


def strip(row: Row[Sample], out: Path) -> str:
    """The strip as a data URI: as it was kept, or of the images that the folder of the cell still holds; "" without either."""
    path = kept(row, out)
    if not path.exists():
        drawn = _folders(out).get(row.line().encode())
        if drawn is None or not drawn.exists():
            return ""
        files.folder(path.parent)
        with files.replacing(path) as file:
            file.write(svg.strip(to_uint8(np.load(drawn, mmap_mode="r")[:SHOWN]), SHOWN))
    return svg.data_uri(path.read_bytes(), "image/png")


def _folders(out: Path) -> dict[bytes, Path]:
    """The images of finished cells, by the row that they belong to."""
    found = {path: path.stat().st_mtime_ns for path in sorted(out.glob("work/sample-*/result.json"))}
    return _read(tuple(found.items()))


@cache
def _read(found: tuple[tuple[Path, int], ...]) -> dict[bytes, Path]:
    return {path.read_bytes(): path.with_name("images.npy") for path, _ in found}
