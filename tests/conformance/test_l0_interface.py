"""L0: the interface of a sampler. Names, shapes, dtypes, and what a method must leave alone."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib.metadata import version

import numpy as np
import pytest

import backends
from backends import protocol
from backends.protocol import DeviceError, Spec
from reference import samplers, solving

from . import guard
from .cases import DDIM, SOLVED, TINY, network, plan_of
from .kit import FULL, LEVELS, SAMPLER_LEVELS, Subject, normal

PLAN = plan_of("ddim", DDIM, {"timesteps": 100}, 4)
METHODS = {
    kind: [n for n, member in vars(getattr(protocol, kind)).items() if inspect.isfunction(member) and not n.startswith("_")]
    for kind in ("Sampler", "Solver", "Backend")
}


def test_declared_levels(subject: Subject) -> None:
    """A backend claims all levels, or as a sampler those that need no network; nothing between."""
    assert set(subject.levels) in (set(LEVELS), set(SAMPLER_LEVELS)), f"levels={subject.levels} must be all or {SAMPLER_LEVELS}"


def test_methods(subject: Subject) -> None:
    """Every method of the protocol is there and takes the protocol's arguments by their names, with its defaults."""
    backend = subject.backend()
    solver = ("Solver",) if backends.about(subject.name).solvers else ()
    for kind in ("Sampler", *solver, "Backend") if subject.trains else ("Sampler", *solver):
        for name in METHODS[kind]:
            ours, theirs = ({n: p.default for n, p in inspect.signature(getattr(of, name)).parameters.items() if n != "self"}
                            for of in (backend, getattr(protocol, kind)))
            guard.must(name, list(ours) == list(theirs), f"takes {list(ours)}, the protocol says {list(theirs)}")
            wrong = [n for n in theirs if ours[n] is not theirs[n]]
            guard.must(name, not wrong, f"has other defaults of {wrong}, the protocol says {[theirs[n] for n in wrong]}")


@pytest.mark.parametrize("case", ["real", "int64", "bool"])
def test_round_trip(subject: Subject, case: str) -> None:
    """What goes to the device comes back, and is a copy."""
    backend = subject.backend()
    array = {"real": normal(0, 2, 3).astype(subject.real), "int64": np.arange(-3, 3), "bool": np.arange(4) % 2 == 0}[case]
    original = array.copy()
    tensor = backend.to_device(array)
    array[...] = 0
    back = backend.to_host(tensor)
    guard.must("to_host", back.dtype == original.dtype, f"returned {back.dtype} of {original.dtype}")
    guard.must("to_host", np.array_equal(back, original), "returned other values than `to_device` was given, which must be copied")
    backend.synchronize(tensor)
    backend.synchronize()


def test_device_info(subject: Subject) -> None:
    """Strings by name, among them the framework with the version that is installed, and the device that was asked for."""
    info = subject.backend().device_info()
    assert {"framework", "device"} <= set(info)
    framework, device = info["framework"], info["device"]
    for package in backends.about(subject.name).packages[:1]:
        assert version(package).split("+")[0] in framework, f"framework={framework!r}: {package} is {version(package)}"
    assert ("cpu" in device.lower()) == (subject.device == "cpu"), f"device={device!r}: {subject.device} was asked for"
    assert all(isinstance(key, str) and isinstance(value, str) and value for key, value in info.items()), info


def test_absent_device(subject: Subject) -> None:
    """One line that names the argument and its value."""
    with pytest.raises(DeviceError, match=r"device='abacus'[^\n]*$"):
        guard.watched("create", subject.module.create)(Spec(TINY, device="abacus"))


def test_tables_shape(subject: Subject) -> None:
    """The reference's keys, each (S,) float64 of NumPy."""
    check_shapes(subject.backend().tables(PLAN), samplers.coefficients(PLAN))


def check_shapes(tables: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    """Names, shapes and dtypes."""
    guard.must("tables", set(tables) == set(expected), f"returned {sorted(tables)}, must be {sorted(expected)}")
    for name, table in tables.items():
        found, wanted = (table.dtype, table.shape), (np.dtype(np.float64), expected[name].shape)
        guard.must("tables", found == wanted, f"returned {found[0]} {found[1]} for {name!r}, must be {wanted[0]} {wanted[1]}")


def test_step_leaves_its_arguments(subject: Subject) -> None:
    """A step gives x's shape and dtype and writes into none of its arguments."""
    backend = subject.backend()
    arrays = [normal(seed, 2, 2, 4, 4).astype(subject.real) for seed in range(3)]
    x, output, z = (backend.to_device(a.copy()) for a in arrays)  # of which a tensor may be a view
    result = backend.to_host(backend.step(x, output, 1, PLAN, z))
    assert result.shape == arrays[0].shape and result.dtype == subject.real
    for tensor, array in zip((x, output, z), arrays, strict=True):
        assert np.array_equal(backend.to_host(tensor), array)


@pytest.mark.subjects(solvers=True)
def test_solver_tables_shape(subject: Subject) -> None:
    """The reference's keys and shapes, float64 of NumPy."""
    for case in ("heun", "pndm"):
        check_shapes(subject.backend().tables(SOLVED[case]), solving.coefficients(SOLVED[case]))


@pytest.mark.subjects(dtypes=FULL)
def test_exponential(subject: Subject) -> None:
    """exp over the range of float32, each value by itself: the noise of a step whose log variance the network says."""
    plan = plan_of("ddpm", {"variance": "learned"}, {}, 4)
    backend = subject.backend(network(plan.diffusion), plan.diffusion)
    variance = np.linspace(-170, 170, 64).reshape(2, 2, 4, 4).astype(np.float32)
    x = np.zeros_like(variance)
    arrays = (x, np.concatenate((x, variance), axis=1), x + 1)
    x, output, z = (backend.to_device(a.astype(subject.real)) for a in arrays)
    actual, expected = backend.to_host(backend.step(x, output, 0, plan, z)), np.exp(0.5 * variance.astype(np.float64))
    subject.close("L0.primitives", actual / expected, np.ones_like(expected), "exp")
