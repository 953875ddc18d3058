"""The memory of this process: its peak, and how NumPy and the frameworks say that it ran out."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path


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
