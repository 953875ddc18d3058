"""Files that are there whole or not at all."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from reference.config import ConfigError


class FileError(ConfigError):
    """A file can't be written; the message names it and the system's reason."""


def folder(path: Path) -> Path:
    """`path` as a folder, made with its parents where it is missing. Raises `FileError`."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{path}: can't be made: {error.strerror}") from error
    return path


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` once its block ends well: written beside it, synced, renamed.

    A kill leaves the old file, and at most a `.part` beside it that the next writer takes over. Raises `FileError` where the
    disk is full or read-only, or the folder is gone; no part is left then.
    """
    part = path.with_name(path.name + ".part")
    try:
        try:
            with part.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise FileError(f"{path}: can't be written: {error.strerror or f'{error}: is the disk full?'}") from error


def savez(path: Path, **arrays: Any) -> None:
    """`np.savez` by `replacing`, through memory: NumPy's own leaves a broken archive open where a disk is full."""
    archive = io.BytesIO()
    np.savez(archive, **arrays)
    with replacing(path) as file:
        file.write(archive.getbuffer())


def sync(path: Path) -> None:
    """Make the file, or the names in the folder, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
