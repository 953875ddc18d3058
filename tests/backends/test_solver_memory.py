"""How many image batches a solver's loop keeps while the network works: live tensors are counted, not bytes of the process."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from reference.config import DiffusionConfig
from reference.solver_plans import CODES, make_solver_plan

SHAPE = (3, 2, 5, 7)
MORE = {"pndm": 5}  # beside DDIM's; its Runge-Kutta start keeps the first slope of three steps


def most_held(name: str, sampler: str, **choices) -> int:
    """Batches of images that live at a network call, of all calls the most, by the backend's own `solve`."""
    solving = pytest.importorskip(f"backends.{name}.solving", exc_type=ImportError)
    framework = pytest.importorskip(name)
    plan = make_solver_plan(DiffusionConfig(), 12, sampler=sampler, spacing="trailing", **choices)

    def tensor(seed: int):
        values = np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)
        return framework.from_numpy(values) if name == "torch" else framework.Tensor(values)

    def alive() -> int:
        tensors = [one for one in gc.get_objects() if issubclass(type(one), framework.Tensor) and tuple(one.shape) == SHAPE]
        return len({one.data_ptr() for one in tensors} if name == "torch" else tensors)  # of PyTorch's some are views

    counts: list[int] = []
    rows = solving.coefficients(plan)

    def network(x, k, x0):
        counts.append(alive())
        return tensor(k)

    gc.freeze()  # what is there already is not looked at, which would take seconds
    try:
        solving.solve(network, tensor(99), plan, rows, noise=lambda k: tensor(50 + k))
    finally:
        gc.unfreeze()
    assert len(counts) == plan.steps
    return max(counts)


@pytest.mark.parametrize("name", ["torch", "mindspore"])
@pytest.mark.parametrize("sampler", [sampler for sampler in CODES["plain"] if sampler != "ddim"])
def test_a_solver_keeps_four_batches_more_than_ddim(name, sampler):
    """Its anchor among them."""
    assert 0 <= most_held(name, sampler) - most_held(name, "ddim") <= MORE.get(sampler, 4)
