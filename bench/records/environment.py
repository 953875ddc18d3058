"""The machine and software of a run, for its rows, and the variables that every timed process starts with.

Nothing here names the host, the user or a path of theirs. Versions come from package metadata: no framework is imported.
"""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import backends
from bench.paths import ROOT
from reference.config import require

FLAGS = ("sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8",
         "asimd", "sve", "sve2", "bf16", "hypervisor")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
CGROUP = "/sys/fs/cgroup"  # in a container: its own limits
# glibc returns large blocks to the system after each use and faults them in again, which costs big batches up to 1.7x.
ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "4294967296", "MALLOC_TOP_PAD_": "268435456"}


def usable_cores() -> int:
    """CPU cores that this process may use, at least 1: its affinity where the system has one (macOS has none), else every core;
    at most the whole cores of the container's CPU quota, so that a quota of 1.5 cores gives 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = (_cpu_quota() or "").partition(" ")  # microseconds of CPU time in each period; "max" or -1: no limit
    return max(1, min(cores, int(quota) // int(period)) if quota.isdigit() and period.isdigit() else cores)


def worker_env(threads: int) -> dict[str, str]:
    """Environment variables of a worker, to be set before anything is imported: thread counts and one allocator setting."""
    require(threads >= 1, "threads", threads, "must be at least 1")
    return {**dict.fromkeys(thread_variables(), str(threads)), **ALLOCATOR}


def thread_variables() -> tuple[str, ...]:
    """The environment variables that set numbers of threads: those of libraries, and those that backends name."""
    return (*THREADS, *(variable for name in backends.names() for variable in backends.about(name).thread_variables))


@functools.cache
def identity() -> dict[str, Any]:
    """What of the machine and its software decides the bits and the times of a result; no load, clock or commit."""
    found = describe()
    kept = ("cpu", "machine", "cpu_flags", "affinity", "quota", "os", "libc", "python", "versions")
    return {name: found[name] for name in kept} | {"gpu": [line.split(",")[:2] for line in found["gpu"] or []]}


def describe() -> dict[str, Any]:
    """Machine state and versions, plain JSON types; what can't be read is None."""
    info = dict(line.split(":", 1) for line in (_text("/proc/cpuinfo") or "").splitlines() if ":" in line)
    info = {key.strip(): value.strip() for key, value in info.items()}
    flags = (info.get("flags") or info.get("Features") or "").split()
    return {
        "cpu": info.get("model name") or _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor() or None,
        "machine": platform.machine(),
        "cpu_flags": [flag for flag in FLAGS if flag in flags], "cores": os.cpu_count(),
        "affinity": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "usable_cores": usable_cores(),
        "governor": _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"), "quota": _quota(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "load_average": [round(x, 2) for x in os.getloadavg()], "gpu": _gpu(),
        "os": f"{platform.system()} {platform.release()}", "libc": " ".join(platform.libc_ver()).strip() or None,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "versions": {name: _version(name) for name in packages()}, "commit": commit(),
        "variables": {name: os.environ[name] for name in (*thread_variables(), *ALLOCATOR) if name in os.environ},
    }


def packages() -> tuple[str, ...]:
    """The distributions whose versions decide a result or a time: those of the backends, of the metric, and what they share."""
    frameworks = [package for name in backends.names() for package in backends.about(name).packages]
    return "numpy", "scipy", *frameworks, "torch-fidelity", "diffusers", "safetensors", "pandas"


def commit() -> str:
    """Git commit of the code, with `+dirty` where tracked code differs from it (`results/` aside); "unknown" where this folder is
    not the top of a repository that has the code, such as sources inside someone else's."""
    top = _git("rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != ROOT or not _git("ls-files", "bench") or (head := _git("rev-parse", "HEAD")) is None:
        return "unknown"
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!results")
    return head + ("+dirty" if changed else "")


def _git(*words: str) -> str | None:
    """What git says of this folder; variables such as GIT_DIR, which would have it speak of another one, do not reach it."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return _output("git", "-C", str(ROOT), *words, env=ours)


def _quota() -> dict[str, Any]:
    """The container's limits as the kernel writes them."""
    return {"cpu": _cpu_quota(), "memory": _text(f"{CGROUP}/memory.max") or _text(f"{CGROUP}/memory/memory.limit_in_bytes")}


def _cpu_quota() -> str | None:
    """The container's CPU quota and its period in microseconds, "QUOTA PERIOD": cgroup v2, else v1."""
    quota, period = (_text(f"{CGROUP}/cpu/cpu.cfs_{name}_us") for name in ("quota", "period"))
    return _text(f"{CGROUP}/cpu.max") or (f"{quota} {period}" if quota and period else None)


def gpus(environment: dict[str, Any]) -> str:
    """The GPUs of a machine, each without the clock of the moment, its third field: two rows of one machine differ in it."""
    lines = [line.split(", ") for line in environment.get("gpu") or []]
    return ", ".join(part for parts in lines for n, part in enumerate(parts) if n != 2 or not part.endswith("MHz"))


def _gpu() -> list[str] | None:
    fields = "name,driver_version,clocks.sm,clocks.max.sm,memory.total"
    lines = _output("nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader")
    return lines.splitlines() if lines else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text().strip() or None
    except OSError:
        return None


def _output(*command: str, env: dict[str, str] | None = None) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20, env=env).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
