"""The memory of this process: its peak, and how NumPy and the frameworks say that it ran out."""

from __future__ import annotations

import math
import os
import re
import resource
import sys
from pathlib import Path

from reference.config import require


def peak_memory() -> int:
    """The largest resident size of this process so far, bytes.

    On Linux from VmHWM: ru_maxrss survives exec, so that a worker would report its parent's peak as its own.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


_OUT_OF_MEMORY = re.compile(r"out of memory|(can.?t|cannot|failed to|unable to) allocate|allocate.{0,20}memory.{0,20}fail", re.I)


def out_of_memory(error: BaseException) -> bool:
    """Whether this is NumPy's or a framework's way to say that memory ran out."""
    return isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)) is not None


def require_room(name: str, count: int, shape: tuple[int, ...], kept: int = 0) -> None:
    """Raise `ConfigError` where so many images of this shape can't be in this machine's memory: float32, beside their noise, the
    network's input and its output, and the `kept` bytes that a network on the CPU keeps of each in training. A network needs more;
    what it can't get is found out when it asks, but on a CPU the system may end the process instead."""
    needed, there = count * (16 * math.prod(shape) + kept), _memory()
    require(needed <= there, name, count, f"images of {' x '.join(map(str, shape))} need {needed / 2**30:.3g} GiB"
            f"{' in training' if kept else ''}, and this machine has {there / 2**30:.3g}; ask for fewer at once")


def _memory() -> int:
    """Bytes of this machine, or of the container that this process is in."""
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            there = min(there, int(Path(limit).read_text()))
        except (OSError, ValueError):  # no such limit: "max"
            continue
    return there
