"""Tensors of files that `torch.save` wrote."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reference.config import ConfigError, require


def read(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Each dictionary of tensors in the file by its key: "" the whole, "NAME" and "[N]" the elements of its dictionary or list.

    bfloat16 becomes float32. Code in the file never runs: `weights_only=True` builds tensors and plain containers alone. Raises
    `ConfigError` where that isn't enough, or the file is damaged or an optimiser's.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch's parser met in a damaged file
        if refused := re.search(r"Unsupported [^\n]*?(?= was not|\n|$)", str(error)):
            raise ConfigError(f"{path}: needs unpickling, which can run code, and is refused: {refused[0]}") from None
        raise ConfigError(f"{path}: corrupt, truncated or no PyTorch file: {str(error).strip().partition(chr(10))[0]}") from None
    if isinstance(loaded, Mapping):
        if {"state", "param_groups"} <= set(loaded):
            raise ConfigError(f"{path}: holds an optimiser's state and param_groups, no network; give the network's own file")
        inner = {str(key): part for key, part in loaded.items()}
    else:
        inner = {f"[{n}]": part for n, part in enumerate(loaded)} if isinstance(loaded, list | tuple) else {}
    size = path.stat().st_size
    found = {key: {name: _array(path, name, value, size) for name, value in part.items() if _is_parameter(name, value)}
             for key, part in ({"": loaded} | inner).items() if isinstance(part, Mapping)}
    return {key: part for key, part in found.items() if part}


def _is_parameter(name: Any, value: Any) -> bool:
    return isinstance(name, str) and isinstance(value, Tensor)


def _array(path: Path, name: str, tensor: Tensor, size: int) -> np.ndarray:
    """Shares the tensor's memory. A tensor with more elements than the file has bytes for would grow when it is copied."""
    require(tensor.layout == torch.strided and not tensor.is_quantized and tensor.device.type == "cpu", str(path), name,
            "is not a dense tensor in memory")
    require(tensor.numel() * tensor.element_size() <= size, str(path), name,
            f"has {tensor.numel()} elements, more than the file holds")
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor.resolve_conj().resolve_neg()).numpy()
