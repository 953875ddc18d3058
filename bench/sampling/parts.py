"""The images of one cell, drawn part by part into one file. A part that is finished has a record, and is not drawn again.

A part is a batch of the cell and holds the same sample ids whoever draws it. Processes share out whole parts: the images are
the same bits for any number of processes on the same kind of device. The process that draws an image writes it, once.
"""

from __future__ import annotations

import json
import os
import time
import warnings
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bench import files
from bench.messages import Command, Load, R, Sample, Sampled
from bench.sampling.cell import Draw
from reference.weights import Weights

POLL_SECONDS = 0.2
IMAGES = "images.npy"


class Call(Protocol):
    """What asks a worker: a command and the name of a progress bar."""

    def __call__(self, command: Command[R], stage: str = "") -> R: ...


def load(call: Call, path: Path, weights: Weights) -> None:
    """Give a worker its weights; `path` is a file to use for it."""
    files.folder(path.parent)
    files.savez(path, **weights)
    call(Load(str(path)))
    path.unlink()


def draw(call: Call, wanted: Draw, scratch: Path, rank: int = 0, processes: int = 1,
         finished: Callable[[], bool] = lambda: False) -> None:
    """Draw this process's parts into `scratch`/images.npy, those aside that have their record and are what was written.
    `finished` says that the cell needs no files any more."""
    first: Sampled | None = None
    notes: list[str] = []
    asked = Sample((0, wanted.batch), wanted.plan, wanted.batch, wanted.cell.seed, str(scratch / IMAGES), 0,
                   wanted.samples)
    for part, ids in list(wanted.parts(scratch).items())[rank::processes]:
        if finished() or (part.exists() and _intact(part, ids)):
            continue
        if first is None:  # compiles, and is left out of the times
            load(call, scratch / f"weights-{rank}.npz", wanted.weights)
            warm_up = scratch / f"first-{rank}.npy"
            first = call(replace(asked, plan=wanted.cell.short, out=str(warm_up), total=wanted.batch), "first call")
            warm_up.unlink()
            notes += first.notes
        reply = call(replace(asked, ids=(ids.start, ids.stop), at=ids.start), f"sample {wanted.cell}")
        record = {"seconds": reply.seconds, "calls": reply.calls, "calls_per_image": reply.calls // len(reply.batch_seconds),
                  "first_seconds": first.seconds, "notes": notes + reply.notes, "crc32": _crc(scratch / IMAGES, ids)}
        with files.replacing(part) as file:
            file.write(json.dumps(record).encode())
        notes = []


def collect(wanted: Draw, scratch: Path, out: Path | None = None) -> dict[str, Any]:
    """The values of the row once every process has drawn its parts; the images are checked, and moved to `out`.

    Raises `FileError` for a part that is not what was written.
    """
    parts = wanted.parts(scratch)
    while not all(path.exists() for path in parts):
        time.sleep(POLL_SECONDS)
    records = []
    for path, ids in parts.items():
        if not _intact(path, ids):
            raise files.FileError(f"{path}: damaged; the same command draws its images again")
        records.append(json.loads(path.read_text()))
    if out is not None:
        os.replace(scratch / IMAGES, out)
        files.sync(out.parent)
    solver = {"calls_per_image": records[0]["calls_per_image"]} if wanted.cell.sampler else {}
    return {"batch_seconds": [record["seconds"] for record in records], "calls": sum(record["calls"] for record in records),
            **solver, "images": wanted.samples, "first_seconds": records[-1]["first_seconds"],
            "notes": [note for record in records for note in record["notes"]]}


def _intact(part: Path, ids: range) -> bool:
    """Whether a part's record can be read and its images are those that were written; warns where not."""
    images = part.with_name(IMAGES)
    try:
        if json.loads(part.read_text())["crc32"] == _crc(images, ids):
            return True
        wrong = f"{images}: does not match its CRC-32"
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        wrong = f"{part}: damaged: {error}"
    warnings.warn(f"{wrong}: images {ids.start} to {ids.stop - 1} are drawn again", stacklevel=3)
    return False


def _crc(path: Path, ids: range) -> int:
    rows: NDArray[np.floating[Any]] = np.load(path, mmap_mode="r")[ids.start:ids.stop]
    return zlib.crc32(np.ascontiguousarray(rows).data)
