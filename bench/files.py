"""Files that are there whole or not at all."""

from __future__ import annotations

import ctypes
import glob
import io
import os
import platform
import shutil
import stat
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from reference.config import ConfigError

TEMPORARY, LOCK = "ddim-bench-", ".lock"
MAX_TEXT = 256 << 20  # bytes; the losses of 10 million steps


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


def read_text(path: Path) -> str:
    """The text of a file of at most `MAX_TEXT` bytes. Raises `FileError`, and `OSError` as `Path.read_text`."""
    with require_file(path).open("rb") as file:
        data = file.read(MAX_TEXT + 1)
    if len(data) > MAX_TEXT:
        raise FileError(f"{path}: is larger than {MAX_TEXT >> 20} MiB; it must be what its name says")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: is no UTF-8 text: {error}") from None


def folder(path: Path) -> Path:
    """`path` as a folder, made with its parents where it is missing. Raises `FileError`."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{path}: can't be made: {error.strerror}") from error
    return path


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that is gone after its block. Those that killed processes left behind, whose locks are free, are removed first."""
    for left in Path(tempfile.gettempdir()).glob(f"{TEMPORARY}*"):
        with suppress(OSError, NotImplementedError):  # another user's, or at work
            if left.lstat().st_uid == os.getuid() and (left / LOCK).is_file() and not left.is_symlink():
                with FileLock(left / LOCK, timeout=0):
                    shutil.rmtree(left)
    while True:
        with tempfile.TemporaryDirectory(prefix=TEMPORARY, ignore_cleanup_errors=True) as name:
            lock = FileLock(Path(name, LOCK))
            with suppress(FileNotFoundError):
                lock.acquire()
            if lock.is_locked and Path(name, LOCK).exists():  # else another process took it for a dead one's before it was locked
                try:
                    yield Path(name)
                finally:
                    lock.release()
                return


@contextmanager
def replacing_path(path: Path, suffix: str = "") -> Iterator[Path]:
    """The name of a file that takes the place of `path` once its block, which writes it, ends well: it is synced, then renamed.

    `suffix` is for a library that asks for one. A kill leaves the old file, and at most a part beside it that the next writer
    removes. Two processes may write at once: the later one's file stays. Raises `FileError` where the disk is full or read-only,
    or the folder is gone; no part is left then.
    """
    part = _part(path, suffix)
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
    part = _part(path)
    try:
        part.mkdir(parents=True)
        try:
            yield part
            for written in (*part.rglob("*"), part):
                sync(written)
            if not path.exists():
                part.rename(path)
            elif not _exchanged(part, path):
                old = _part(path, ".old")
                path.rename(old)
                part.rename(path)
                shutil.rmtree(old, ignore_errors=True)
            sync(path.parent)
        finally:
            shutil.rmtree(part, ignore_errors=True)  # what `path` was, after an exchange
    except OSError as error:
        raise FileError(f"{path}: can't be written: {error.strerror or error}") from error


def _part(path: Path, suffix: str = "") -> Path:
    """A name beside `path` of this process alone; those of processes of this machine that are gone are removed."""
    here = f"{zlib.crc32(platform.node().encode()):08x}"
    for left in path.parent.glob(f"{glob.escape(path.name)}.{here}-*.part*"):
        owner = left.name.removeprefix(f"{path.name}.{here}-").partition(".")[0]
        if owner.isdigit() and not _alive(int(owner)):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    return path.with_name(f"{path.name}.{here}-{os.getpid()}.part{suffix}")


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _exchanged(a: Path, b: Path) -> bool:
    """Swap two folders at one moment, so that a reader finds one or the other; False where the system can't."""
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(a), os.fsencode(b)
    try:
        if sys.platform == "darwin":
            return libc.renamex_np(*names, 2) == 0  # RENAME_SWAP
        return libc.renameat2(-100, names[0], -100, names[1], 2) == 0  # AT_FDCWD, RENAME_EXCHANGE
    except AttributeError:  # an older C library
        return False


def write_page(path: Path, text: str) -> Path:
    """Write a Markdown page by `replacing`. No page has HTML of its own: what comes from names and rows shall not become any."""
    with replacing(path) as file:
        file.write(text.replace("<", "&lt;").encode())
    return path


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
