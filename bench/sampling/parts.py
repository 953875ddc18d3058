"""The images of one cell, drawn batch by batch. Each batch is a file until the cell is finished, so that none is drawn twice.

A batch holds the same sample ids whoever draws it, and processes share out whole batches: the images are the same bits for any
number of processes on the same kind of device.
"""

from __future__ import annotations

import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import files
from bench.sampling.cell import Draw
from reference.weights import Weights

POLL_SECONDS = 0.2
Call = Callable[..., dict[str, Any]]  # command, stage, **arguments: a worker's reply


def load(call: Call, path: Path, weights: Weights) -> None:
    """Give a worker its weights; `path` is a file to use for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.savez(path, **weights)
    call("load", "load", weights=str(path))
    path.unlink()


def draw(call: Call, drawing: Draw, scratch: Path, rank: int = 0, processes: int = 1,
         finished: Callable[[], bool] = lambda: False) -> None:
    """Draw this process's batches, those aside whose file is there. `finished` says that the cell needs no files any more."""
    first, notes = None, []
    plan = drawing.cell.plan(drawing.convention)
    args = {"plan": plan, "batch_size": drawing.batch_size, "seed": drawing.cell.seed}
    out = scratch / f"drawn-{rank}.npy"
    for part, ids in list(drawing.parts(scratch).items())[rank::processes]:
        if part.exists() or finished():
            continue
        if first is None:  # compiles, and is left out of the times
            load(call, scratch / f"weights-{rank}.npz", drawing.weights)
            short = {"steps": min(2, drawing.cell.steps), "eta": 0.0}  # plain: not every convention has short paths
            first = call("sample", "first call", ids=[0, drawing.batch_size], out=str(out), **{**args, "plan": short})
            notes += first["notes"]
        reply = call("sample", f"sample {drawing.cell}", ids=[int(ids[0]), int(ids[-1]) + 1], out=str(out), **args)
        files.savez(part, **{**reply, "notes": notes + reply["notes"]}, images=np.load(out), first_seconds=first["seconds"])
        notes = []


def collect(drawing: Draw, scratch: Path) -> tuple[dict[str, Any], NDArray[np.float32]]:
    """(values of the row, images (n, C, H, W)) once every process has drawn its batches."""
    paths = drawing.parts(scratch)
    while not all(path.exists() for path in paths):
        time.sleep(POLL_SECONDS)
    parts = [_read(path) for path in paths]
    values = {"batch_seconds": [float(part["seconds"]) for part in parts], "calls": sum(int(part["calls"]) for part in parts),
              "images": drawing.samples, "first_seconds": float(parts[-1]["first_seconds"]),
              "notes": [note for part in parts for note in part["notes"].tolist()]}
    return values, np.concatenate([part["images"] for part in parts])


def _read(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise files.FileError(f"{path}: damaged: {error}; remove it to draw its images again") from None
