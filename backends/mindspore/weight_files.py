"""Parameters of MindSpore's `.ckpt` files."""

from __future__ import annotations

import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from google.protobuf.message import DecodeError
from mindspore.train.checkpoint_pb2 import Checkpoint

from reference.config import ConfigError, require

DTYPES = {"Float16": np.float16, "Float32": np.float32, "Float64": np.float64, "Int32": np.int32, "Int64": np.int64}
CRC = b"crc_num"  # before the last ten bytes, where `save_checkpoint(crc_check=True)` wrote the file


def read(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """The file's parameters, under the key "". Raises `ConfigError` where it is damaged or of other dtypes.

    The message is taken apart here: `mindspore.load_checkpoint` accepts a shape that claims more than the file holds.
    """
    content = path.read_bytes()
    if content[-17:-10] == CRC:
        crc, content = int.from_bytes(content[-10:], "big"), content[:-17]
        require(binascii.crc32(content) == crc, str(path), hex(crc), "corrupt: its content does not match its CRC-32")
    message, out = Checkpoint(), {}
    parts: dict[str, list[Any]] = {}
    try:
        message.ParseFromString(content)
    except (DecodeError, ValueError, IndexError):  # protobuf's own and what its Python decoder lets through
        raise ConfigError(f"{path}: corrupt, truncated or no MindSpore checkpoint") from None
    for value in message.value:  # a large parameter is several values of one name
        parts.setdefault(value.tag, []).append(value.tensor)
    for name, slices in parts.items():
        kind, shape = slices[0].tensor_type, tuple(slices[0].dims)
        require(kind in DTYPES, str(path), name, f"is of type {kind[:20]!r}; must be one of {', '.join(DTYPES)}")
        data = b"".join(part.tensor_content for part in slices)
        wanted = int(np.prod([0 if n < 0 else n for n in shape], dtype=object)) * np.dtype(DTYPES[kind]).itemsize
        require(len(data) == wanted and min(shape, default=0) >= 0, str(path), name,
                f"holds {len(data)} bytes, which is not a {kind} of shape {shape}")
        out[name] = np.frombuffer(data, DTYPES[kind]).reshape(shape)
    return {"": out} if out else {}


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a file that `mindspore.load_checkpoint` reads. `path` ends in .ckpt."""
    ms.save_checkpoint([{"name": name, "data": ms.Tensor(value)} for name, value in arrays.items()], str(path), crc_check=True)
