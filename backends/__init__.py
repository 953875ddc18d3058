"""Backends by name: folders of this package, installed packages with an entry point in the group `ddim_bench.backends`, and
modules that are named by the user and say what they claim.

Importing this loads no framework, nor NumPy: a framework is imported by `load` alone. A machine with one of them installed
runs that one, and a timed process holds no other.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import re
import sys
from importlib.machinery import PathFinder
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

from backends.facts import About, problem
from reference.errors import ConfigError, require

GROUP = "ddim_bench.backends"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,40}")  # names become those of files
BORROWS = "+"  # SAMPLER+NETWORK: a sampler that draws with the network of another backend
# What rows and workers call so is no backend.
RESERVED = ("real", "noise", "images", "diffusers", "lucidrains", "flax", "onnxruntime", "openvino", "aotinductor")
_taken: dict[str, EntryPoint] = {}  # by `take`


class NotInstalled(ConfigError):
    """The backend exists but its framework can't be imported; the message says how to install it."""


def names() -> list[str]:
    """The folders of this package by `About.order`, then by name the entry points and those of `take`; `refused` ones aside."""
    return [*sorted(_folders(), key=order), *sorted(_outside())]


def with_solvers() -> list[str]:
    """Those of `names` that run the fast solvers, too."""
    return [name for name in names() if about(name).solvers]


def with_likelihood() -> list[str]:
    """Those of `names` that have the terms of the variational bound."""
    return [name for name in names() if about(name).likelihood]


def refused() -> dict[str, str]:
    """The entry points that are no backend because of their names, and why."""
    rule = f"must be letters, digits, _ and -, and none of {', '.join(sorted({*RESERVED, *_folders()}))}"
    return {name: f"the name of an installed package's backend {rule}" for name in sorted(_registered()) if not _fits(name)}


@functools.cache
def about(name: str) -> About:
    """The facts of this backend, for which no framework is loaded. A package without them, or a name that is not known here (old
    rows may have one), gets the defaults with the name as label."""
    if BORROWS in name:
        from backends import borrowing

        return borrowing.about(*map(about, name.split(BORROWS, 1)))
    package = _package(name)
    try:
        found = getattr(importlib.import_module(package), "ABOUT", None) if package else None
    except ImportError:  # of the outside package's own imports: `load` says what is missing
        found = None
    require(found is None or isinstance(found, About), "backend", name, f"ABOUT of {package} must be a `backends.protocol.About`")
    wrong = problem(found) if found else None
    require(wrong is None, "backend", name, f"in ABOUT of {package} {wrong}")
    return found or About(name)


def order(name: str) -> tuple[int, str]:
    """The key by which reports sort backends."""
    return about(name).order, name


def take(name: str) -> None:
    """Let this name of a module that Python finds, in the current folder too, be that of a backend: a module, or a package with a
    backend.py, that says what it claims in its ABOUT. No entry point is needed. Other names change nothing.

    Only what the user has typed is taken: names in rows come from strangers. Raises `ConfigError` for a module without an ABOUT,
    which is not imported, and for one that can't be imported for other reasons than a module that it lacks.
    """
    if BORROWS in name:
        for part in name.split(BORROWS):
            take(part)
    if name in names() or not _fits(name):
        return
    if (spec := importlib.util.find_spec(name)) is None:
        if (spec := PathFinder.find_spec(name, [os.getcwd()])) is None:
            return
        sys.path.append(os.getcwd())  # last, so that it hides nothing
    text = Path(spec.origin).read_text(errors="replace") if spec.origin and Path(spec.origin).suffix == ".py" else ""
    require("ABOUT" in text, "backend", name, f"must be one of {', '.join(names())}, or a module with an ABOUT, of "
            f"backends.protocol.About, and {spec.origin or name} has none")
    inner = any((Path(folder) / "backend.py").exists() for folder in spec.submodule_search_locations or [])
    _taken[name] = EntryPoint(name, f"{name}.backend" if inner else name, GROUP)
    about.cache_clear()
    try:
        about(name)
    except Exception as error:
        del _taken[name]
        if isinstance(error, ConfigError):
            raise
        said = str(error).partition("\n")[0]
        raise ConfigError(f"backend={name!r}: {spec.origin} can't be imported, it raises {type(error).__name__}: {said}") from error


def taken() -> list[Path]:
    """The modules that `take` took, files or the folders of packages: another process must look for them beside these, too, and
    another machine has none."""
    specs = [importlib.util.find_spec(name) for name in sorted(_taken)]
    paths = [Path(spec.origin) for spec in specs if spec and spec.origin]
    return [path.parent if path.name == "__init__.py" else path for path in paths]


def load(name: str) -> ModuleType:
    """The module of this backend, which exports `create(spec)`. Raises `ConfigError` for an unknown name, `NotInstalled`
    where its framework is missing or broken."""
    if BORROWS in name:
        from backends import borrowing

        return borrowing.module(name, *map(load, name.split(BORROWS, 1)))
    take(name)
    require(name in names(), "backend", name, f"must be one of {', '.join(names())}")
    try:
        outside = _outside().get(name)
        module = outside.load() if outside else importlib.import_module(f"{__name__}.{name}.backend")
    except ImportError as error:
        raise NotInstalled(f"backend={name!r}: {error}; to install: {about(name).install}") from error
    require(name not in _taken or hasattr(module, "create"), "backend", name,
            f"its module {module.__name__} must have a function create(spec)")
    return module


def roofline(name: str) -> ModuleType:
    """The backend's kernels that reach the machine's best rate: `protocol.Roofline`. Raises as `load`, also where it has none."""
    return _part(name, "roofline")


def weight_files(name: str) -> ModuleType:
    """The reader of the framework's own files of weights: `protocol.WeightFiles`. Raises as `load`, also where it has none."""
    return _part(name, "weight_files")


def installed(name: str) -> bool:
    """Whether Python finds the backend's framework, of SAMPLER+NETWORK both; it is not loaded. True where `About.module` does not
    name it."""
    modules = [about(part).module for part in name.split(BORROWS)]
    return all(module is None or importlib.util.find_spec(module) is not None for module in modules)


def trains(name: str) -> bool:
    """Whether a training by this backend is its own: that of SAMPLER+NETWORK is the network's, and shows nothing of the sampler."""
    return BORROWS not in name


def choose(asked: str | None, network: str | None = None) -> tuple[tuple[str, ...], list[str]]:
    """(backends to run, lines about those that are left out) for names separated by commas, by default all that are installed
    and have a network. A sampler without one takes that of the backend `network`: SAMPLER+NETWORK, which may be asked for, too.

    Raises `ConfigError` for an unknown name, one that is given twice, one that is asked for but not installed, and a sampler that
    is asked for and has neither a network nor `network`, and a `network` that none takes.
    """
    chosen, absent = [], [f"missing: all cells of {name!r}: {why}" for name, why in refused().items() if asked is None]
    for name in names() if asked is None else asked.split(","):
        take(name)
        require(name.partition(BORROWS)[0] in names(), "--backends", name,
                refused().get(name, f"must be one of {', '.join(names())}"))
        if installed(name):
            if asked is None and not about(name).network:
                absent.append(f"{name} has no network and was left out; --backends {name}{BORROWS}{DEFAULT} draws with that of "
                              f"{DEFAULT}")
            else:
                chosen.append(borrowed(name, None if BORROWS in name or about(name).network else network))
            continue
        line = f"{name} is not installed and was not run; to install it: {about(name).install}"
        require(asked is None, "--backends", name, line)
        absent.append(line)
    require(len(chosen) > 0, "--backends", asked, "no backend is installed: " + "; ".join(absent))
    require(len(set(chosen)) == len(chosen), "--backends", asked, "every backend must appear once")
    require(network is None or asked is not None and set(chosen) != set(asked.split(",")), "--network", network,
            f"has no use, for {', '.join(chosen)} samples with its own: name a sampler without a network by --backends")
    return tuple(chosen), absent


def borrowed(name: str, network: str | None) -> str:
    """The name of this backend with the network of another one where it has none; SAMPLER+NETWORK has said it. Raises `ConfigError`
    where it needs one, the other one has none, or `network` has no use."""
    take(name)
    sampler, plus, own = name.partition(BORROWS)
    if not plus and about(name).network:  # nobody asks other packages
        require(network is None, "--network", network, f"has no use, for {name} samples with its own: leave it out")
        return name
    require(plus == "" or network is None, "--network", network, f"has no use, for {name} samples with {own}: leave it out")
    require(plus != "" or network is not None, "backend", name, "is a sampler without a network, says its ABOUT: name it "
            f"{name}{BORROWS}{DEFAULT} to draw with the network of {DEFAULT}")
    take(network or "")
    able = [other for other in names() if about(other).network]
    require(not plus or own in able, "backend", name, f"the network after {sampler}{BORROWS} must be one of {', '.join(able)}")
    require(plus != "" or network in able, "--network", network, f"must be one of {', '.join(able)}")
    return name if plus else f"{name}{BORROWS}{network}"


def outside_files(name: str) -> list[Path]:
    """The files of an outside backend, by which its finished results are told from those of another version: all of its top-level
    package, or its module alone; none for a folder of this package. Nothing is imported."""
    outside = _outside().get(name.partition(BORROWS)[0])
    spec = importlib.util.find_spec(outside.module.partition(".")[0]) if outside else None
    folders = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    inside = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".pyc"]
    return inside or ([Path(spec.origin)] if spec and spec.origin else [])


@functools.cache
def _folders() -> frozenset[str]:
    return frozenset(path.parent.name for path in Path(__file__).parent.glob("*/backend.py"))


def _registered() -> dict[str, EntryPoint]:
    return _taken | {entry.name: entry for entry in entry_points(group=GROUP)}


def _fits(name: str) -> bool:
    return NAME.fullmatch(name) is not None and name not in RESERVED and name not in _folders()


def _outside() -> dict[str, EntryPoint]:
    return {name: entry for name, entry in _registered().items() if _fits(name)}


def _package(name: str) -> str:
    """The package with the backend's files, "" where there is none: an installed module outside of every package, or an unknown
    name. A module that `take` took is its own package."""
    if outside := _outside().get(name):
        return outside.module.rpartition(".")[0] or (name if name in _taken else "")
    return f"{__name__}.{name}" if name in _folders() else ""


def _part(name: str, part: str) -> ModuleType:
    require(bool(getattr(about(name), part)), "backend", name, f"has no {part}.py, says its ABOUT")
    load(name)  # says how to install the framework where it is missing
    return importlib.import_module(f"{_package(name)}.{part}")


DEFAULT = min(_folders(), key=order)  # where the caller names no backend
