"""What users would pick instead, as contenders of the speed table, one file each.

A peer takes the same commands in a worker as a backend does. diffusers, lucidrains and a plain port to Flax train and sample; the
others run diffusers' network, converted, and sample alone. No framework is imported before one is created.
"""

from __future__ import annotations

import importlib
from typing import cast

from backends import NotInstalled
from backends.protocol import Spec
from bench.workers.peers.peer import DTYPES as DTYPES
from bench.workers.peers.peer import Peer as Peer
from reference.config import require

LIBRARIES = {"diffusers": "Diffusers", "lucidrains": "Lucidrains", "flax": "Flax"}  # file and class
ENGINES = {"aotinductor": "AotInductor", "onnxruntime": "OnnxRuntime", "openvino": "OpenVino"}
PEERS = LIBRARIES | ENGINES


def dtypes(name: str) -> tuple[str, ...]:
    """Those that this peer is timed in."""
    # ONNX Runtime's kernels for CPUs have no bfloat16, and the port to Flax is a plain one.
    return ("float32",) if name in ("onnxruntime", "flax") else DTYPES


def create(name: str, spec: Spec) -> Peer:
    """The peer of this name. Raises `NotInstalled`, and `ConfigError` for a process, device or dtype that it does not have."""
    require(spec.dtype in dtypes(name), "dtype", spec.dtype, f"{name} is timed in {' and '.join(dtypes(name))}")
    try:
        return cast(Peer, getattr(importlib.import_module(f"bench.workers.peers.{name}"), PEERS[name])(spec))
    except ImportError as error:
        extras = "peers,engines" if name in ENGINES else "peers"
        raise NotInstalled(f"peer {name!r}: {error}; to install: pip install -e \".[{extras}]\"") from error
