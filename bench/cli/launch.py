"""One job on many processes, started by a framework's own launcher: `torchrun ... bench/run.py` or `msrun ... bench/run.py`; or by
`ddim-bench launch`, where the framework has none.

Every process runs the same program. They meet in two places only: each training step averages the gradients, and process 0
waits for the files of the sample batches that the others drew. Process 0 alone writes rows, states and the report. On several
machines the output folder must be shared.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import backends
from backends.protocol import Spec
from bench.records.environment import usable_cores
from reference.config import ModelConfig, require


@dataclass(frozen=True)
class Launch:
    """What the launcher told this process. `able` are the backends that it belongs to, none without a launcher."""

    able: tuple[str, ...] = ()
    rank: int = 0
    processes: int = 1
    local_processes: int = 1  # of this machine, among which its cores are shared

    @property
    def threads(self) -> int:
        """CPU threads for this process."""
        return max(1, usable_cores() // self.local_processes)

    def backends(self, asked: str | None) -> str | None:
        """The backends to run: a launcher starts processes for one of its own alone, by default the first."""
        require(not self.able or asked in (None, *self.able), "--backends", asked,
                f"these processes were started by the launcher of {', '.join(self.able)}, which runs one backend and no other")
        return asked or (self.able[0] if self.able else None)


def launched(variables: Mapping[str, str] = os.environ) -> Launch:
    """Who this process is, by the variables that the launchers set; the backends are those whose `About.launcher` it is."""
    if "TORCHELASTIC_RUN_ID" in variables:
        rank, processes, local = (int(variables[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"))
        return Launch(_backends_of("torchrun"), rank, processes, local)
    if variables.get("MS_ROLE") == "MS_WORKER":
        processes = int(variables["MS_WORKER_NUM"])
        require("RANK_ID" in variables, "RANK_ID", None, "msrun sets it on several machines only with --node_rank")
        return Launch(_backends_of("msrun"), int(variables["RANK_ID"]), processes, processes)
    if "DDIM_BENCH_MEET" in variables:
        rank, processes = int(variables["DDIM_BENCH_RANK"]), int(variables["DDIM_BENCH_PROCESSES"])
        return Launch(_backends_of("ddim-bench launch"), rank, processes, processes)
    return Launch()


def serve_as_scheduler() -> None:
    """`msrun` starts the program once more as the scheduler, where its workers meet: return at once if this is not it."""
    if os.environ.get("MS_ROLE") == "MS_SCHED":
        # It stays there until the workers are gone, then it ends the process.
        backends.load(_backends_of("msrun")[0]).create(Spec(ModelConfig()))


def _backends_of(launcher: str) -> tuple[str, ...]:
    return tuple(name for name in backends.names() if backends.about(name).launcher == launcher)
