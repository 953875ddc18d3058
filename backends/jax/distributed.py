"""Training on many processes: the group that `ddim-bench launch` prepared, and means over it."""

from __future__ import annotations

import os
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from backends.protocol import Spec
from reference.config import require

AXIS = "process"


def join(spec: Spec) -> None:
    """Wait for the other processes. `ddim-bench launch` tells each its rank and where to meet."""
    if spec.processes > 1:
        if not jax.distributed.is_initialized():
            jax.config.update("jax_cpu_collectives_implementation", "gloo")
            gpu = spec.rank if spec.device == "cuda" else None  # each process of a machine has its own
            jax.distributed.initialize(os.environ["DDIM_BENCH_MEET"], spec.processes, spec.rank, gpu)
        found = jax.process_index(), jax.process_count()
        require(found == (spec.rank, spec.processes), "rank, processes", (spec.rank, spec.processes), f"jax says {found}")


class Average:
    """Means over the processes of arrays in dictionaries, in one message."""

    def __init__(self, device: jax.Device, processes: int) -> None:
        self.device, self.processes = device, processes
        first = {one.process_index: one for one in reversed(jax.devices(device.platform))}
        mesh = Mesh(np.array([first[rank] for rank in range(processes)]), AXIS)
        self.apart = NamedSharding(mesh, PartitionSpec(AXIS))
        self.mean = jax.jit(lambda shares: shares.mean(0), out_shardings=NamedSharding(mesh, PartitionSpec()))

    def __call__(self, values: Any) -> Any:
        """The means, on this process's device."""
        flat, restored = ravel_pytree(values)
        share = jax.device_put(flat[None], self.device)
        every = jax.make_array_from_single_device_arrays((self.processes, len(flat)), self.apart, [share])
        mean: Array = self.mean(every).addressable_data(0)
        return restored(mean)
