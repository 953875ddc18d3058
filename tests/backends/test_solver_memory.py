"""How many image batches a solver's loop keeps while the network works: live tensors are counted, not bytes of the process."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

import backends
from backends.protocol import Spec
from reference.config import DiffusionConfig
from reference.solver_plans import CODES, make_solver_plan
from tests.helpers.tiny import TINY

SHAPE = (3, 2, 5, 7)
MORE = {"pndm": 5}  # beside DDIM's; its Runge-Kutta start keeps the first slope of three steps


def of_one_kind(name: str, made: Any) -> int:
    """Live arrays of this shape that are of the kind of `made`, which is one of them."""
    if name == "jax":  # whose arrays Python's collector does not know
        return sum(one.shape == SHAPE for one in pytest.importorskip("jax").live_arrays())
    found = [one for one in gc.get_objects() if issubclass(type(one), type(made)) and tuple(one.shape) == SHAPE]
    return len({one.data_ptr() for one in found} if name == "torch" else found)  # of PyTorch's some are views


def most_held(name: str, sampler: str, **choices) -> int:
    """Batches of images that live at a network call, of all calls the most, by the backend's own `solve`."""
    if not backends.installed(name):
        pytest.skip(f"{name} is not installed")
    backend = backends.load(name).create(Spec(TINY))
    plan = make_solver_plan(DiffusionConfig(), 12, sampler=sampler, spacing="trailing", **choices)

    def tensor(seed: int):
        return backend.to_device(np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32))

    counts: list[int] = []

    def network(x, k, x0):
        counts.append(of_one_kind(name, x))
        return tensor(k)

    gc.freeze()  # what is there already is not looked at, which would take seconds
    try:
        backend.solve(network, tensor(99), plan, lambda k: tensor(50 + k))
    finally:
        gc.unfreeze()
    assert len(counts) == plan.steps
    return max(counts)


@pytest.mark.parametrize("name", backends.with_solvers())
@pytest.mark.parametrize("sampler", [sampler for sampler in CODES["plain"] if sampler != "ddim"])
def test_a_solver_keeps_four_batches_more_than_ddim(name, sampler):
    """Its anchor among them."""
    assert 0 <= most_held(name, sampler) - most_held(name, "ddim") <= MORE.get(sampler, 4)
