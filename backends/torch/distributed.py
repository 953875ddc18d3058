"""Training on many processes: the group that `torchrun` prepared, and means over it."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from backends.protocol import Spec
from reference.config import require


def own_device(spec: Spec) -> str:
    """The device of this process: `cuda` is a different one for each process of a machine."""
    return f"cuda:{os.environ['LOCAL_RANK']}" if spec.processes > 1 and spec.device == "cuda" else spec.device


def join(spec: Spec, device: torch.device) -> None:
    """Wait for the other processes. `torchrun` tells each its rank and where to meet."""
    if spec.processes > 1:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        if not dist.is_initialized():
            # The agent keeps its store over restarts: without a prefix, processes read where those of the last attempt listened.
            store, rank, size = next(dist.rendezvous("env://"))
            store = dist.PrefixStore(f"attempt {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", store=store, rank=rank, world_size=size)
        found = dist.get_rank(), dist.get_world_size()
        require(found == (spec.rank, spec.processes), "rank, processes", (spec.rank, spec.processes), f"torchrun says {found}")


def averaged(network: nn.Module, spec: Spec) -> nn.Module:
    """The network, whose backward pass leaves gradients that are means over the processes."""
    return DistributedDataParallel(network) if spec.processes > 1 else network


def mean(value: Tensor, processes: int) -> Tensor:
    """The mean over the processes."""
    if processes > 1:
        dist.all_reduce(value)
        value = value / processes
    return value
