"""Training on many processes: the group that `msrun` prepared, and means over it."""

from __future__ import annotations

import math
import os
import sys
from typing import Any

import numpy as np
from mindspore import Tensor, communication, nn, ops

from backends.protocol import Spec
from reference.config import require

WAIT = 900  # seconds that a process waits for another in a collective operation: on a busy machine one compiles a minute longer


def join(spec: Spec) -> None:
    """Wait for the other processes. `msrun` tells each its rank and where to meet: at a scheduler, which does nothing else.

    MindSpore 2.8 ends a process on CPU after 30 s of waiting, or after $MS_NODE_TIMEOUT, which is set to `WAIT` where it is not.
    """
    if "MS_ROLE" in os.environ:
        os.environ.setdefault("MS_NODE_TIMEOUT", str(WAIT))
    if os.environ.get("MS_ROLE") == "MS_SCHED":
        communication.init()
        sys.exit(0)
    if spec.processes > 1:
        if not communication.GlobalComm.INITED:
            communication.init()
        found = communication.get_rank(), communication.get_group_size()
        require(found == (spec.rank, spec.processes), "rank, processes", (spec.rank, spec.processes), f"msrun says {found}")


class Average(nn.Cell):
    """Loss and gradients as means over the processes, in one message: on CPU each takes tens of milliseconds, however short."""

    def __init__(self, shapes: list[tuple[int, ...]], processes: int) -> None:
        super().__init__()
        self.shapes, self.processes = [(), *shapes], processes
        self.ends = np.cumsum([math.prod(shape) for shape in self.shapes]).tolist()
        self.total: Any = ops.AllReduce() if processes > 1 else None

    def construct(self, loss: Tensor, gradients: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(mean loss, mean gradients)."""
        flat = self.total(ops.cat([value.reshape(-1) for value in (loss, *gradients)])) / self.processes
        parts = [flat[start:end].reshape(shape) for start, end, shape in zip([0, *self.ends], self.ends, self.shapes, strict=False)]
        return parts[0], tuple(parts[1:])
