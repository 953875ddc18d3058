"""The devices that MindSpore has here, and the threads that it computes in."""

from __future__ import annotations

import functools
import os

import mindspore as ms

from backends.protocol import DeviceError

LEAST_THREADS = 2  # that its runtime computes in: one starts the kernels and takes a share of them, one has the others


def find_device(name: str) -> str:
    """MindSpore's name of this device, set for the process; `DeviceError` where this machine lacks it, or where the process has
    computed on another one."""
    kinds = {"cpu": "CPU", "ascend": "Ascend"}
    if name not in kinds:
        raise DeviceError(f"device={name!r}: the mindspore backend has cpu and ascend")
    try:
        ms.set_device(kinds[name])
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        # Nobody sets the device of a process that has computed, not even the one that it computes on.
        if "has been initialized" not in reason or ms.get_current_device().device_target != kinds[name]:
            raise DeviceError(f"device={name!r}: MindSpore {ms.__version__} can't use it here: {reason}") from None
    hold_threads()
    return kinds[name]


@functools.cache
def hold_threads() -> str:
    """Hold the process to OMP_NUM_THREADS, which MindSpore's own kernels do not ask; how many threads compute then, for rows."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if not asked.isdigit() or int(asked) == 0:
        return "default"
    try:
        ms.device_context.cpu.op_tuning.threads_num(int(asked))
    except RuntimeError:  # it takes one number in its life
        return "set by the program around"
    return str(max(LEAST_THREADS, int(asked)))
