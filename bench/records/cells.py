"""Finished work is kept: a cell is one unit of a job, named by a hash of all that decides its result.

A cell's folder holds its files and, written last and atomically, `result.json`. A job that was interrupted finds it and goes
on behind it. The hash covers the code, so that no result outlives the code that made it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from bench import files
from bench.paths import ROOT
from bench.records import rows

SCRATCH = "scratch"
READERS = ("run.py", "cli/*.py", "report/*.py", "report/html/*.py")  # they ask for cells and read rows: no result hangs on them


@cache
def code_hash() -> str:
    """SHA-256 over the sources of reference, backends and bench, `READERS` excepted."""
    digest = hashlib.sha256()
    for room in ("reference", "backends", "bench"):
        for path in sorted((ROOT / room).rglob("*.py")):
            if not any(path.match(f"bench/{name}") for name in READERS):
                digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def key_hash(key: dict[str, Any]) -> str:
    """Short name of a cell's key."""
    return hashlib.sha256(json.dumps({**key, "code": code_hash()}, sort_keys=True).encode()).hexdigest()[:16]


class Cells:
    """The cells of one results folder; `fresh` does every one again."""

    def __init__(self, out: Path, fresh: bool) -> None:
        self.work, self.rows_folder, self.fresh = out / "work", out / "rows", fresh
        self.reused = 0

    def folder(self, name: str, key: dict[str, Any]) -> Path:
        """Where the files of this cell are."""
        return self.work / f"{name}-{key_hash(key)}"

    def done(self, name: str, key: dict[str, Any]) -> bool:
        """Whether the cell is finished and may be used again."""
        return not self.fresh and (self.folder(name, key) / "result.json").exists()

    @contextmanager
    def shared(self, name: str) -> Iterator[Path]:
        """A folder for what several cells do together, for one run at a time."""
        folder = files.folder(self.work / name)
        with FileLock(folder / ".lock"):
            yield folder

    def run(self, name: str, key: dict[str, Any], compute: Callable[[Path], rows.Row]) -> rows.Row:
        """The cell's row: from its finished file, or computed, written and appended to the results.

        `compute` gets the cell's folder; what it writes to `folder / SCRATCH` is there again if it is interrupted, and removed
        when its row is safe. Another run that does the same cell at this moment is waited for. The row is appended after
        `result.json` is there; where the process died in between, the next run finds the row missing and appends it.
        """
        folder = files.folder(self.folder(name, key))
        result, scratch = folder / "result.json", folder / SCRATCH
        with FileLock(folder / ".lock"):
            if self.done(name, key):
                row = _parse(result)
                self.reused += 1
            else:
                if self.fresh:
                    shutil.rmtree(scratch, ignore_errors=True)
                scratch.mkdir(exist_ok=True)
                result.unlink(missing_ok=True)
                row = compute(folder)
                with files.replacing(result) as file:
                    file.write(row.line().encode())
            rows.append(self.rows_folder, row, once=True)
            shutil.rmtree(scratch, ignore_errors=True)
        return row


def _parse(result: Path) -> rows.Row:
    try:
        return rows.parse(result.read_bytes())
    except rows.RowError as error:
        raise rows.RowError(f"{result}: {error}; remove it to do its cell again") from None
