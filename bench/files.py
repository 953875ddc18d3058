"""Files that are there whole or not at all."""

from __future__ import annotations

import io
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from reference.config import ConfigError


class FileError(ConfigError):
    """A file can't be written; the message names it and the system's reason."""


def require_file(path: Path) -> Path:
    """`path`, unless it is a pipe, a socket or a device, which may never answer or never end. One that is missing passes.

    Raises `FileError`.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # who opens it says what is wrong
        return path
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise FileError(f"{path}: is a pipe, a socket or a device; it must be a plain file")
    return path


def folder(path: Path) -> Path:
    """`path` as a folder, made with its parents where it is missing. Raises `FileError`."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{path}: can't be made: {error.strerror}") from error
    return path


@contextmanager
def replacing_path(path: Path, suffix: str = "") -> Iterator[Path]:
    """The name of a file that takes the place of `path` once its block, which writes it, ends well: it is synced, then renamed.

    `suffix` is for a library that asks for one. A kill leaves the old file, and at most a part beside it that the next writer
    takes over. Raises `FileError` where the disk is full or read-only, or the folder is gone; no part is left then.
    """
    part = path.with_name(f"{path.name}.part{suffix}")
    try:
        try:
            yield part
            sync(part)
            os.replace(part, path)
            sync(path.parent)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise FileError(f"{path}: can't be written: {error.strerror or f'{error}: is the disk full?'}") from error


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """As `replacing_path`, the file open for writing."""
    with replacing_path(path) as part, part.open("wb") as file:
        yield file


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A folder that takes the place of `path`, which may be one, once its block ends well. Raises `FileError`."""
    part, old = path.with_name(path.name + ".part"), path.with_name(path.name + ".old")
    try:
        for leftover in (part, old):
            shutil.rmtree(leftover, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            yield part
            for written in (*part.rglob("*"), part):
                sync(written)
            if path.exists():
                path.rename(old)
            part.rename(path)
            sync(path.parent)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise FileError(f"{path}: can't be written: {error.strerror or error}") from error


def savez(path: Path, **arrays: Any) -> None:
    """`np.savez` by `replacing`, through memory: NumPy's own leaves a broken archive open where a disk is full."""
    archive = io.BytesIO()
    np.savez(archive, **arrays)
    with replacing(path) as file:
        file.write(archive.getbuffer())


def write_rows(path: Path, rows: NDArray[Any], at: int, total: int) -> None:
    """Write rows at .. at + len(rows) - 1 of a .npy file of `total` rows, and sync them; several processes may do so at once.

    The file is whole once every row was written. Raises `FileError`.
    """
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": rows.dtype.str, "fortran_order": False,
                                                  "shape": (total, *rows.shape[1:])})
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o666), "wb", buffering=0) as file:
            file.truncate(header.tell() + total * rows[0].nbytes)  # of its final length from the start
            for start, data in ((0, header.getbuffer()), (header.tell() + at * rows[0].nbytes, np.ascontiguousarray(rows).data)):
                file.seek(start)
                left = memoryview(data).cast("B")
                while left:
                    left = left[file.write(left):]
            os.fsync(file.fileno())
    except OSError as error:
        raise FileError(f"{path}: can't be written: {error.strerror or f'{error}: is the disk full?'}") from error


def sync(path: Path) -> None:
    """Make the file, or the names in the folder, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
