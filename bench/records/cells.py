"""Finished work is kept: a cell is one unit of a job, named by a hash of all that decides its result.

A cell's folder holds its files, its row as `result.json` and, written last, `seal.json` with the SHA-256 of each. A job that was
interrupted finds it and goes on behind it. What does not match its seal is set aside, and the cell is done again. The name covers
the code, also that of an outside backend, the versions and the machine, so that no result outlives what made it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock

import backends
from bench import files
from bench.paths import ROOT
from bench.records import environment, rows

SCRATCH = "scratch"
RESULT, SEAL, DAMAGED = "result.json", "seal.json", ".damaged"
READERS = ("run.py", "cli/*.py", "report/*.py", "report/*/*.py")  # they ask for cells and read rows: no result hangs on them


@cache
def code_hash() -> str:
    """SHA-256 over the sources of reference, backends and bench, `READERS` excepted."""
    digest = hashlib.sha256()
    for room in ("reference", "backends", "bench"):
        for path in sorted((ROOT / room).rglob("*.py")):
            if not any(path.match(f"bench/{name}") for name in READERS):
                digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


@cache
def outside_hash(name: str) -> str:
    """SHA-256 over the files of an outside backend's package; "" for a backend of this repository, which `code_hash` covers."""
    found = backends.outside_files(name)
    digest = hashlib.sha256()
    for path in found:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16] if found else ""


def key_hash(key: dict[str, Any]) -> str:
    """Short name of a cell's key, with what decides its result beside it: code, versions and machine."""
    outside = [outside_hash(name) for name in str(key.get("backend", "")).split()]
    machine = environment.identity()
    if key.get("processes", 1) > 1:  # which may run on machines of several kinds, and share one cell
        machine = machine["versions"]
    beside = {"code": code_hash(), "outside": outside, "machine": machine}
    return hashlib.sha256(json.dumps([key, beside], sort_keys=True).encode()).hexdigest()[:16]


class Cells:
    """The cells of one results folder; `fresh` does every one again."""

    def __init__(self, out: Path, fresh: bool) -> None:
        self.work, self.rows_folder, self.fresh = out / "work", out / "rows", fresh
        self.reused = 0
        self.intact: set[Path] = set()  # folders of finished cells whose files were read and match their seal

    def folder(self, name: str, key: dict[str, Any]) -> Path:
        """Where the files of this cell are."""
        return self.work / f"{name}-{key_hash(key)}"

    def done(self, name: str, key: dict[str, Any]) -> bool:
        """Whether the cell is finished, its files are what was written, and it may be used again."""
        folder = self.folder(name, key)
        if not self.fresh and folder not in self.intact and (folder / SEAL).exists() and not _damaged(folder):
            self.intact.add(folder)
        return not self.fresh and folder in self.intact

    @contextmanager
    def shared(self, name: str) -> Iterator[Path]:
        """A folder for what several cells do together, for one run at a time."""
        folder = files.folder(self.work / name)
        with FileLock(folder / ".lock"):
            yield folder

    def run(self, name: str, key: dict[str, Any], compute: Callable[[Path], rows.AnyRow]) -> rows.AnyRow:
        """The cell's row: from its finished file, or computed, written and appended to the results.

        `compute` gets the cell's folder; what it writes to `folder / SCRATCH` is there again if it is interrupted, and removed
        when its row is safe. Another run that does the same cell at this moment is waited for. The row is appended after the
        seal is there; where the process died in between, the next run finds the row missing and appends it. Files that do not
        match the seal are renamed, with a warning, and the cell is done again.
        """
        folder = files.folder(self.folder(name, key))
        result, scratch = folder / RESULT, folder / SCRATCH
        with FileLock(folder / ".lock"):
            if self.done(name, key):
                row = rows.parse(result.read_bytes())
                self.reused += 1
            else:
                if self.fresh:
                    shutil.rmtree(scratch, ignore_errors=True)
                elif (folder / SEAL).exists():
                    _set_aside(folder)
                scratch.mkdir(exist_ok=True)
                (folder / SEAL).unlink(missing_ok=True)
                row = compute(folder)
                with files.replacing(result) as file:
                    file.write(row.line().encode())
                sealed = json.dumps(_hashes(folder)).encode()
                with files.replacing(folder / SEAL) as file:
                    file.write(sealed)
                self.intact.add(folder)
            rows.append(self.rows_folder, row, once=True)
            shutil.rmtree(scratch, ignore_errors=True)
        return row


def _hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a cell, by name."""
    out = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name not in (SEAL, ".lock") and path.suffix not in (DAMAGED, ".part"):
            with path.open("rb") as file:
                out[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return out


def _damaged(folder: Path) -> list[str]:
    """The names of a finished cell's files that are not what was written; the seal's own where it can't be read."""
    try:
        sealed = json.loads((folder / SEAL).read_bytes())
        found = _hashes(folder)
        return sorted(name for name in {RESULT, *sealed, *found} if sealed.get(name) != found.get(name) or name not in sealed)
    except (OSError, ValueError, RecursionError, AttributeError, TypeError):
        return [SEAL]


def _set_aside(folder: Path) -> None:
    """Rename what is damaged, so that the cell is done again."""
    here = os.listdir(folder)  # a damaged seal may name anything, also places outside
    for name in _damaged(folder):
        if name in here:
            os.replace(folder / name, folder / f"{name}{DAMAGED}")
        warnings.warn(f"{folder / name}: does not match its SHA-256: kept as {name}{DAMAGED}, and its cell is done again",
                      stacklevel=3)
