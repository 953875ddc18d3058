"""The devices that torch has here."""

from __future__ import annotations

import torch

from backends.protocol import DeviceError


def find_device(name: str) -> torch.device:
    """The torch device of this name; `DeviceError` where this machine lacks it."""
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or not (index == "" or index.isdigit()):
        raise DeviceError(f"device={name!r}: the torch backend has cpu, cuda and cuda:N")
    if kind == "cuda" and (not torch.cuda.is_available() or int(index or 0) >= torch.cuda.device_count()):
        raise DeviceError(f"device={name!r}: torch {torch.__version__} finds {torch.cuda.device_count()} CUDA devices here")
    return torch.device(name)


def describe(device: torch.device) -> dict[str, str]:
    """Its name, how its arithmetic is set, and on CUDA the largest memory that torch took of it so far."""
    out = {"device": "cpu", "threads": str(torch.get_num_threads()),
           "tf32": str(torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32),
           "deterministic": str(torch.are_deterministic_algorithms_enabled())}
    if device.type == "cuda":
        out |= {"device": torch.cuda.get_device_name(device),
                "peak_memory_bytes": str(torch.cuda.max_memory_allocated(device))}
    return out
