"""Named arrays from files, whoever wrote them: safetensors, alone or in shards, PyTorch's and MindSpore's.

Nothing is unpickled: PyTorch's files go through its `weights_only=True`. A file is never larger in memory than on disk, but for
bfloat16, which NumPy lacks and which becomes float32.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickletools
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

import backends
from bench import files
from bench.weights.errors import CheckpointError, named, read_object, refuse_lookalikes
from reference.weights import Weights

INDEX = re.compile(r".*\.(safetensors|bin)\.index(\.\w+)?\.json", re.DOTALL)  # diffusers puts a variant's name before .json
PREFIX = re.compile(r"((module|_orig_mod|model|unet)\.)+")  # of DataParallel, torch.compile and modules around a network
START = 512  # bytes from which a file's kind is seen
READ = {"F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"}  # of safetensors' dtypes
MAX_FILE = 8 << 30  # bytes, where no network says how large its weights are
# All that a file of weights names. `weights_only=True` lets more pass: bytearray and tensor classes, which allocate any size.
PICKLED = re.compile(r"collections (OrderedDict|Counter)|torch\._utils _rebuild_(tensor|tensor_v2|parameter)|"
                     r"torch (Size|\w+Storage|device|b?float\d\d|u?int\d\d?|bool)|torch\.storage \w+Storage")

Arrays = dict[str, np.ndarray]


def read(path: Path, largest: int = MAX_FILE) -> dict[str, Arrays]:
    """Each dictionary of arrays in a file of weights by the key it has there, "" for the file itself.

    PyTorch's training states hold several, the others one. A prefix that wrappers gave all names is gone. `largest` is in bytes.
    Raises `CheckpointError`, also where the file needs a framework that is not installed.
    """
    return {key: without_prefix(arrays) for key, arrays in _read(Path(path), largest).items()}


def without_prefix(arrays: Arrays) -> Arrays:
    """The same arrays without the wrappers' prefix, where all names have the same."""
    prefix = match[0] if (match := PREFIX.match(next(iter(arrays), ""))) else ""
    if not prefix or not all(name.startswith(prefix) for name in arrays):
        return arrays
    return {name.removeprefix(prefix): value for name, value in arrays.items()}


def _read(path: Path, largest: int) -> dict[str, Arrays]:
    if INDEX.fullmatch(path.name):
        return {"": _read_shards(path, largest)}
    try:
        size = files.require_file(path).stat().st_size
        with path.open("rb") as file:
            start = file.read(START)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: can't be read: {error}") from None
    refuse_lookalikes(path, start)
    if path.suffix == ".safetensors" or (start[8:9] == b"{" and int.from_bytes(start[:8], "little") < size):
        return {"": read_safetensors(path, largest)[0]}
    check_size(path, size, largest)
    if start.startswith(b"PK"):
        _check_zip(path)
    elif start.startswith(b"\x80"):
        with path.open("rb") as file:
            _check_pickles(path, file)
    readers = [name for name in backends.names() if backends.about(name).weight_files]
    for name in readers:
        if start.startswith(backends.about(name).weight_files):
            with named(path):
                return backends.weight_files(name).read(path)
    *others, last = ("safetensors", *(backends.about(name).label for name in readers))
    raise CheckpointError(f"{path}: empty, corrupt, or of neither {', '.join(others)} nor {last}")


def write_mindspore(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a file that `mindspore.load_checkpoint` reads, atomically. Raises `CheckpointError`, also without MindSpore."""
    with named(path):
        framework = backends.weight_files("mindspore")
    try:
        with files.replacing_path(path, ".ckpt") as part:
            framework.write(part, arrays)
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path}: can't be written: {str(error).splitlines()[0]}") from error


def check_size(path: Path, size: int, largest: int) -> None:
    """Refuse a file before anything of its size is allocated."""
    if size > largest:
        raise CheckpointError(f"{path}: {size} bytes are more than this network's weights can have, {largest}")


@contextlib.contextmanager
def open_safetensors(path: Path) -> Iterator[Any]:
    """The open file, with every way in which it can be damaged as `CheckpointError`."""
    try:
        if files.require_file(path).stat().st_size == 0:
            raise CheckpointError(f"{path}: empty")
        with safe_open(path, framework="np") as file:
            yield file
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing") from None
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        said = " ".join(str(error).split())  # it quotes the file
        raise CheckpointError(f"{path}: corrupt, truncated or of another dtype: {said}") from None


def read_safetensors(path: Path, largest: int | None = None) -> tuple[Arrays, dict[str, str]]:
    """Arrays and metadata, the hash verified where there is one."""
    with open_safetensors(path) as file:
        if largest is not None:
            check_size(path, path.stat().st_size, largest)
        dtypes = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        if unread := [name for name, dtype in dtypes.items() if dtype not in READ]:
            raise CheckpointError(f"{path}: {unread[0]} is {dtypes[unread[0]]}; weights must be bfloat16, float16, float32 or "
                                  "float64")
        halves = _bfloat16(path, [name for name, dtype in dtypes.items() if dtype == "BF16"])
        tensors = {name: halves[name] if name in halves else file.get_tensor(name) for name in dtypes}
        metadata = dict(file.metadata() or {})
    if "sha256" in metadata and metadata["sha256"] != digest(tensors, metadata):
        raise CheckpointError(f"{path}: corrupt: its content does not match its SHA-256")
    return tensors, metadata


def _bfloat16(path: Path, names: list[str]) -> Arrays:
    """Tensors of an open safetensors file as float32, of which a bfloat16 is the upper half."""
    out: Arrays = {}
    with path.open("rb") as file:
        begin = 8 + int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(begin - 8)) if names else {}
        for name in names:
            first, last = header[name]["data_offsets"]
            file.seek(begin + first)
            upper = np.frombuffer(file.read(last - first), "<u2").astype(np.uint32)
            out[name] = (upper << 16).view(np.float32).reshape(header[name]["shape"])
    return out


def digest(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in the order of the names, and over the metadata but `sha256`."""
    out = hashlib.sha256(json.dumps({k: v for k, v in metadata.items() if k != "sha256"}, sort_keys=True).encode())
    for name in sorted(tensors):
        value = np.asarray(tensors[name])
        out.update(json.dumps([name, value.dtype.str, value.shape]).encode())
        out.update(np.ascontiguousarray(value).data)
    return out.hexdigest()


def _read_shards(index: Path, largest: int) -> Arrays:
    """The files that an index names, which must lie beside it and hold what it says."""
    where = read_object(index).get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(name, str) for name in where.values()):
        raise CheckpointError(f"{index}: weight_map must be an object of file names")
    shards, kind = sorted(set(where.values())), INDEX.fullmatch(index.name)[1]  # type: ignore[index]
    for name in shards:
        if not re.fullmatch(rf"[\w.-]+\.{kind}", name):
            raise CheckpointError(f"{index}: shard {name!r}: must be a .{kind} file in the index's own folder")
    out: Arrays = {}
    for name in shards:
        tensors = _read(index.parent / name, largest).get("", {})
        if wrong := [tensor for tensor in tensors if where.get(tensor) != name]:
            raise CheckpointError(f"{index}: does not say that {wrong[0]} is in {name}")
        out |= tensors
        largest -= sum(value.nbytes for value in tensors.values())
    if absent := [tensor for tensor in where if tensor not in out]:
        raise CheckpointError(f"{index}: {absent[0]} is not in {where[absent[0]]}, as it says")
    return out


def _check_zip(path: Path) -> None:
    """PyTorch stores its members as they are; a compressed one could unpack to any size. Their CRC-32 must hold."""
    try:
        with zipfile.ZipFile(path) as file:
            if packed := [member.filename for member in file.infolist() if member.compress_type != zipfile.ZIP_STORED]:
                raise CheckpointError(f"{path}: {packed[0]!r} is compressed, which PyTorch's files are not")
            if sum(member.file_size for member in file.infolist()) > path.stat().st_size:
                raise CheckpointError(f"{path}: its members claim more bytes than the file has")
            damaged = file.testzip()
            for member in file.infolist():
                if member.filename.endswith(".pkl"):
                    with file.open(member) as content:
                        _check_pickles(path, content)
    except CheckpointError:
        raise
    except (OSError, zipfile.BadZipFile, zlib.error, ValueError, RuntimeError, EOFError, OverflowError) as error:
        raise CheckpointError(f"{path}: corrupt or truncated: {error}") from None
    if damaged is not None:
        raise CheckpointError(f"{path}: corrupt: {damaged!r} does not match its CRC-32")


def _check_pickles(path: Path, file: IO[bytes]) -> None:
    """Read the opcodes of the pickles at the start of a file, without running them, and refuse what tensors do not need."""
    try:
        for _ in range(5):  # the first format has its magic number, version, system, object and list of storages
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4") or (
                        opcode.name == "GLOBAL" and not PICKLED.fullmatch(str(argument))):
                    what = str(argument)[:100].replace(" ", ".") if argument else f"the opcode {opcode.name}"
                    raise CheckpointError(f"{path}: needs unpickling of more than tensors, which may run code; refused: {what}")
            if file.read(1) == b"" or not file.seekable():
                return
            file.seek(-1, os.SEEK_CUR)
    except CheckpointError:
        raise
    except (ValueError, OverflowError, MemoryError) as error:
        raise CheckpointError(f"{path}: corrupt or truncated: {str(error)[:200]}") from None


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: dict[str, str]) -> str:
    """Write a safetensors file, atomically; returns the SHA-256 of `digest`, which its metadata has too. Raises `FileError`."""
    arrays = {name: np.asarray(value, order="C") for name, value in tensors.items()}
    sha256 = digest(arrays, metadata)
    try:
        with files.replacing_path(path) as part:
            save_file(arrays, part, {**metadata, "sha256": sha256})
            _order_metadata(part)
    except SafetensorError as error:
        raise files.FileError(f"{path}: can't be written: {error}") from error
    return sha256


def _order_metadata(path: Path) -> None:
    """Sort a safetensors file's metadata, which its library writes in an order that differs from call to call."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        file.seek(8)
        file.write(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size))


def weights_hash(weights: Weights) -> str:
    """SHA-256 of weights, shortened."""
    return digest(weights, {})[:16]
