"""Finished work is kept: a cell is one unit of a job, named by a hash of all that decides its result.

A cell's folder holds its files and, written last and atomically, `result.json`. A job that was interrupted finds it and goes
on behind it. The hash covers the code, so that no result outlives the code that made it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from bench import rows
from bench.config import ROOT


@cache
def code_hash() -> str:
    """SHA-256 over the sources of reference, backends and bench, the report's own excepted."""
    digest = hashlib.sha256()
    for room in ("reference", "backends", "bench"):
        for path in sorted((ROOT / room).rglob("*.py")):
            if path.name not in ("report.py", "run.py"):
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

    def run(self, name: str, key: dict[str, Any], compute: Callable[[Path], rows.Row]) -> rows.Row:
        """The cell's row: from its finished file, or computed, written and appended to the results.

        The row is appended after `result.json` is there; where the process died in between, the next run finds the row
        missing and appends it.
        """
        folder = self.folder(name, key)
        result = folder / "result.json"
        if self.done(name, key):
            row = rows.parse(result.read_bytes())
            self.reused += 1
        else:
            folder.mkdir(parents=True, exist_ok=True)
            result.unlink(missing_ok=True)
            row = compute(folder)
            partial = folder / "result.json.part"
            with partial.open("w") as file:
                file.write(row.line())
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, result)
        appended = self.rows_folder / f"{row.kind}.jsonl"
        if not appended.exists() or row.line() not in appended.read_text():
            rows.append(self.rows_folder, row)
        return row
