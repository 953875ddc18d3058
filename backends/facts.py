"""`About`: what others may know of a backend without loading its framework. The standard library is enough here."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, get_args, get_type_hints

LEVELS = ("L0", "L1", "L2", "L3", "L4", "L5", "L6")  # of the conformance kit
SAMPLER_LEVELS = ("L0", "L1", "L5")  # what `backends.protocol.Sampler` alone is enough for


@dataclass(frozen=True)
class About:
    """The facts of one backend: `ABOUT` in the `__init__.py` of its folder, which loads no framework.

    An outside package exports it from the package of the module that its entry point names: `ABOUT` of `my_port` for the entry
    point `my_port.backend`. Without one, the backend is described by these defaults, its name as the label.

    What it has of the reference may be claimed by kinds, from `schedules` to `devices`: None is all. `backends.claims` knows the
    names of each kind. What is not claimed must be refused, and the kit asks for it.
    """

    label: str  # what reports call it: "PyTorch"
    install: str = "see its own documentation"  # a command
    module: str | None = None  # the framework's: where Python finds no such module, the backend is not installed
    packages: tuple[str, ...] = ()  # distributions whose versions every row names
    order: int = 100  # the place among the backends in tables and pictures; the first one is the default
    levels: tuple[str, ...] = LEVELS  # that it passes: all, or L0, L1 and L5 for a sampler without a network
    dtypes: tuple[str, ...] = ("float32",)  # of the network, on the CPU
    reduced: tuple[str, ...] = ("bfloat16", "float16")  # dtypes worth timing beside float32, on any device
    compiled_apart: tuple[str, ...] = ()  # kinds of device on which the mode "compiled" differs from "tuned"
    slow_to_compile: tuple[str, ...] = ()  # kinds of device on which the kit runs in mode "stock", and "tuned" once a level
    thread_variables: tuple[str, ...] = ()  # that set its number of threads, beside OMP_NUM_THREADS
    launcher: str | None = None  # which starts it on many processes: torchrun, msrun or ddim-bench launch
    solvers: bool = False  # runs `reference.solver_plans.SolverPlan`s: `backends.protocol.Solver`
    likelihood: bool = False  # has the variational bound's terms: `backends.protocol.Likelihood`
    roofline: bool = False  # has roofline.py: `backends.protocol.Roofline`
    weight_files: tuple[bytes, ...] = ()  # how the framework's own files of weights begin; weight_files.py reads them
    schedules: tuple[str, ...] | None = None  # names of `reference.schedules.BETAS`, or "trained_betas"
    objectives: tuple[str, ...] | None = None  # what the network's output may be: eps, x0, v, previous
    variances: tuple[str, ...] | None = None  # of the reverse process: small and large in DDPM alone; learned, learned_range
    losses: tuple[str, ...] | None = None  # of a backend that trains: l2, l1, huber, kl, rescaled_kl
    samplers: tuple[str, ...] | None = None  # ddim, ddpm, and with `solvers` the fast ones; None: all of these
    spacings: tuple[str, ...] | None = None  # rules that choose timesteps, of all codes, or "sections"
    conventions: tuple[str, ...] | None = None  # names of `reference.conventions.CONVENTIONS` and of solvers' own codes
    modes: tuple[str, ...] | None = None  # None: stock, tuned and compiled; exported has to be named
    devices: tuple[str, ...] | None = None  # kinds: cpu, cuda, ascend, tpu

    @property
    def network(self) -> bool:
        """Whether the backend has a network and its training, beside a sampler."""
        return not set(self.levels) <= set(SAMPLER_LEVELS)


def problem(about: About) -> str | None:
    """What is wrong with the first of these facts that is not of its field's type, or names no level; None where nothing is."""
    types = get_type_hints(About)
    for field in fields(about):
        if not _fits(value := getattr(about, field.name), types[field.name]):
            return f"{field.name}={value!r} must be of type {field.type}"
    if strange := [level for level in about.levels if level not in LEVELS]:
        return f"levels has {strange[0]!r}, which must be one of {', '.join(LEVELS)}"
    return None


def _fits(value: Any, wanted: Any) -> bool:
    """Whether it is of this type: a class, one of several, or a tuple of such. A bool is no int."""
    if getattr(wanted, "__origin__", None) is tuple:
        return type(value) is tuple and all(_fits(one, get_args(wanted)[0]) for one in value)
    return any(_fits(value, one) for one in get_args(wanted)) if get_args(wanted) else type(value) is wanted
