"""Backends by name. Importing this loads no framework: one is imported when it is asked for, so that a machine with one of
them installed runs that one, and a timed process holds no other.
"""

from __future__ import annotations

import importlib
import importlib.util
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from reference.config import ConfigError, require

GROUP = "ddim_bench.backends"
INSTALL = {"torch": 'pip install -e ".[torch]"', "mindspore": 'pip install -e ".[mindspore]"'}


class NotInstalled(ConfigError):
    """The backend exists but its framework can't be imported; the message says how to install it."""


def names() -> list[str]:
    """Folders of this package, then entry points of the group `ddim_bench.backends`."""
    here = sorted((p.parent.name for p in Path(__file__).parent.glob("*/backend.py")), reverse=True)  # torch first
    return here + sorted({e.name for e in entry_points(group=GROUP)} - set(here))


def load(name: str) -> ModuleType:
    """The module of this backend, which exports `create(spec)`. Raises `ConfigError` for an unknown name, `NotInstalled`
    where its framework is missing or broken."""
    if name not in names():
        raise ConfigError(f"backend={name!r}: must be one of {', '.join(names())}")
    try:
        for entry in entry_points(group=GROUP):
            if entry.name == name:
                return entry.load()
        return importlib.import_module(f"{__name__}.{name}.backend")
    except ImportError as error:
        how = INSTALL.get(name, "see its own documentation")
        raise NotInstalled(f"backend={name!r}: {error}; to install: {how}") from error


def choose(asked: str | None) -> tuple[tuple[str, ...], list[str]]:
    """(backends to run, lines about those that are not installed) for names separated by commas, by default all.

    Raises `ConfigError` for an unknown name, one that is given twice, and one that is asked for but not installed.
    """
    chosen, absent = [], []
    for name in names() if asked is None else asked.split(","):
        require(name in names(), "--backends", name, f"must be one of {', '.join(names())}")
        if name not in INSTALL or importlib.util.find_spec(name) is not None:
            chosen.append(name)
            continue
        line = f"{name} is not installed and was not run; to install it: {INSTALL[name]}"
        require(asked is None, "--backends", name, line)
        absent.append(line)
    require(len(chosen) > 0, "--backends", asked, "no backend is installed: " + "; ".join(absent))
    require(len(set(chosen)) == len(chosen), "--backends", asked, "every backend must appear once")
    return tuple(chosen), absent
