"""Readers of image files from strangers: IDX, CIFAR-10's binary records, a tar member, .npy and .npz.

Each compares what a file declares with what is expected or allowed before it makes an array, takes no more bytes than that from
a compressed stream, never unpickles, writes nothing, and raises DataError for everything else.
"""

from __future__ import annotations

import gzip
import math
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from reference.config import ConfigError

IDX_UINT8 = 0x08
CIFAR_RECORD = 1 + 3 * 32 * 32  # a label, then 1,024 red, green and blue values each
MAX_BYTES = 8 << 30  # of images, all of which are held in memory
MAX_RATIO = 1000  # plain shapes reach 850, zeros alone 1,030; beyond it, a member of over RATIO_FREE bytes is a bomb
RATIO_FREE = 64 << 20


class DataError(ConfigError):
    """A data file is missing, damaged or not what its name says. One line that names the file and the reason."""


class Stream(Protocol):
    """What is read here of a file, plain or compressed."""

    def read(self, size: int, /) -> bytes: ...


def exactly(stream: Stream, size: int, path: Path | str) -> bytes:
    """The `size` bytes that must be left in a stream. Raises DataError where there are fewer or more."""
    body = stream.read(size)
    if len(body) < size:
        raise DataError(f"{path}: ends after {len(body)} of {size} bytes of data")
    if stream.read(1):
        raise DataError(f"{path}: holds more than the {size} bytes of data that it should")
    return body


def read_idx(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """An IDX file of uint8 that must have exactly this shape: gzip where its name ends in .gz, unless a browser unpacked it."""
    header = 4 + 4 * len(shape)
    try:
        with path.open("rb") as file:
            plain = path.suffix.lower() != ".gz" or file.read(2) == b"\0\0"  # with which every IDX file begins
        with path.open("rb") if plain else gzip.open(path) as stream:
            head = stream.read(header)
            if len(head) < header:
                raise DataError(f"{path}: ends after {len(head)} bytes, inside its {header}-byte header")
            magic, *dims = struct.unpack(f">{1 + len(shape)}I", head)
            if magic != IDX_UINT8 << 8 | len(shape):
                raise DataError(f"{path}: magic number {magic:#010x} is not {IDX_UINT8 << 8 | len(shape):#010x}"
                                f" (IDX, uint8, {len(shape)} dimensions)")
            if tuple(dims) != shape:
                raise DataError(f"{path}: header says shape {tuple(dims)}, expected {shape}")
            body = exactly(stream, math.prod(shape), path)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    return np.frombuffer(body, np.uint8).reshape(shape)


def read_cifar(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """A file of CIFAR-10's binary version: `shape` is (number of records, CIFAR_RECORD)."""
    try:
        with path.open("rb") as stream:
            return np.frombuffer(exactly(stream, math.prod(shape), path), np.uint8).reshape(shape)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


class _Limited:
    """A stream that raises once more than `limit` bytes were taken from it."""

    def __init__(self, stream: Stream, limit: int) -> None:
        self.stream, self.left = stream, limit

    def read(self, size: int) -> bytes:
        data = self.stream.read(min(size, self.left + 1))
        self.left -= len(data)
        if self.left < 0:
            raise OSError("its contents are larger than they should be")
        return data


def read_tar(path: Path, members: Mapping[str, int], limit: int) -> dict[str, bytes]:
    """Members of a .tar.gz by name, which must have these sizes in bytes; nothing is extracted to disk.

    At most `limit` bytes are decompressed. An archive with a name outside itself (absolute, or with ..) is refused whole.
    """
    found: dict[str, bytes] = {}
    try:
        with gzip.open(path) as stream, tarfile.open(fileobj=cast(Any, _Limited(stream, limit)), mode="r|") as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                if name.is_absolute() or ".." in name.parts:
                    raise DataError(f"{path}: member {member.name!r} lies outside the archive")
                if (size := members.get(member.name)) is None:
                    continue
                if not member.isreg() or member.issparse() or member.size != size:
                    raise DataError(f"{path}: member {member.name!r} of {member.size} bytes must be a plain file of {size}")
                body = archive.extractfile(member)
                assert body is not None
                found[member.name] = exactly(body, size, f"{path}: {member.name}")
    except DataError:
        raise
    except Exception as error:  # tarfile raises more than its TarError on damaged headers
        raise DataError(f"{path}: cannot be read: {error}") from error
    if missing := [name for name in members if name not in found]:
        raise DataError(f"{path}: has no member {missing[0]}")
    return found


def read_npy(path: Path, floats: bool = False) -> NDArray[Any]:
    """A .npy file of uint8, or with `floats` of floats, of any shape up to MAX_BYTES."""
    try:
        with path.open("rb") as stream:
            return _array(stream, path.stat().st_size, str(path), floats)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def no_images(path: Path) -> DataError:
    """The error for a path that is neither a folder nor a file of arrays."""
    return DataError(f"{path}: {'is no folder and no .npz or .npy file' if path.exists() else 'no such file or folder'}")


def npz_names(path: Path) -> list[str]:
    """Names of the arrays in a .npz file."""
    if path.suffix.lower() not in (".npy", ".npz"):
        raise no_images(path)
    with _zip(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def read_npz(path: Path, name: str, floats: bool = False) -> NDArray[Any]:
    """One array of uint8 of a .npz file, of any shape up to MAX_BYTES, or with `floats` of floats; stored or deflated."""
    where = f"{path}: {name}"
    with _zip(path) as archive:
        try:
            info = archive.getinfo(f"{name}.npy")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise DataError(f"{where}: compression method {info.compress_type} is not read, only deflate")
            if info.file_size > max(RATIO_FREE, MAX_RATIO * info.compress_size):
                raise DataError(f"{where}: {info.compress_size} bytes that claim to unpack to {info.file_size} are no images")
            with archive.open(info) as stream:
                return _array(stream, info.file_size, where, floats)
        except DataError:
            raise
        except Exception as error:  # zipfile raises RuntimeError, NotImplementedError, struct.error and others beside its own
            raise DataError(f"{where}: cannot be read: {error}") from error


def _zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except Exception as error:  # see above
        raise DataError(f"{path}: cannot be read: {error}") from error


def _array(stream: Any, size: int, where: str, floats: bool = False) -> NDArray[Any]:
    """The array in a stream of .npy format and `size` bytes, header included."""
    try:
        version = np.lib.format.read_magic(stream)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = read(stream)
        header = stream.tell()
    except Exception as error:  # NumPy evaluates the header as a Python literal, which has many ways to fail
        raise DataError(f"{where}: has no .npy header: {(str(error) or type(error).__name__).splitlines()[0]}") from error
    if dtype != np.uint8 and not (floats and dtype.kind == "f"):
        raise DataError(f"{where}: holds {dtype}, and images must be uint8 in 0 .. 255" + " or floats in [-1, 1]" * floats)
    count = math.prod(shape) * dtype.itemsize
    if any(type(n) is not int or n < 0 for n in shape) or not 0 < count <= MAX_BYTES:  # NumPy lets True pass for 1
        raise DataError(f"{where}: header says shape {shape}; images take from 1 to {MAX_BYTES} bytes")
    if count != size - header:
        raise DataError(f"{where}: header says shape {shape}, and {size - header} bytes of data follow it")
    array: NDArray[Any] = np.frombuffer(exactly(stream, count, where), dtype)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)
