"""L4: optimiser, EMA and learning rate, over 1, 10 and 100 training steps.

Step by step, the backend's own gradients go through `reference/optim.py`. Over the whole run, losses and weights are held
against float64 trajectories that `make_golden.py` stored and checked in the same way.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from backends.protocol import Backend
from reference import optim

from . import cases
from .kit import Subject, batch, weights

GOLDEN = Path(__file__).parent / "golden"
NETWORK = cases.ONE_LEVEL
STOPS = (1, 10, 100)
PARTS = ("weights", "adam_m", "adam_v", "ema")


def part(state: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """One of the four parts of a state, by parameter, float64."""
    return {key.partition("/")[2]: np.asarray(value, np.float64) for key, value in state.items() if key.startswith(f"{name}/")}


def start(subject: Subject, case: str) -> Backend:
    """A backend at step 0."""
    backend = subject.backend(NETWORK, optim=cases.OPTIMS[case])
    backend.load_weights(weights(NETWORK))
    return backend


@pytest.mark.parametrize("case", cases.OPTIMS)
def test_each_step(subject: Subject, case: str) -> None:
    """Eight steps through the warm-up: clipping, Adam, rate and EMA, each from the state before."""
    backend, config = start(subject, case), cases.OPTIMS[case]
    for n in range(8):
        step = batch(subject.spec(NETWORK), step=n)
        before = {name: part(dict(backend.state()), name) for name in PARTS}
        _, gradients = backend.loss_and_gradients(step)
        gradients = {name: np.asarray(g, np.float64) for name, g in gradients.items()}
        w, m, v, ema = (before[name] for name in PARTS)
        expected = dict(zip(PARTS, optim.adam_step(config, n, w, gradients, m, v, ema), strict=True))
        backend.train_step(step)
        after = dict(backend.state())
        for name in PARTS:
            # Relative to all moments: the gradient of a key's bias is 0, and what is left of it is rounding.
            largest = max(float(np.abs(value).max()) for value in expected[name].values()) if name.startswith("adam") else None
            for key, value in part(after, name).items():
                where = f"{case}, step {n}: {name}/{key}"
                if largest is None:
                    subject.close("L4.step", value, expected[name][key], where)
                else:
                    subject.within("L4.moments", float(np.abs(value - expected[name][key]).max()) / largest, where)


def test_gradients_do_not_train(subject: Subject) -> None:
    """`loss_and_gradients` leaves the state alone, and says the loss that the step says."""
    backend, step = start(subject, "schedule"), batch(subject.spec(NETWORK))
    before = dict(backend.state())
    loss, _ = backend.loss_and_gradients(step)
    assert all(np.array_equal(value, before[name]) for name, value in backend.state().items())
    subject.close("L4.loss.1", backend.to_host(backend.train_step(step)), backend.to_host(loss), "loss of the step")


@cache
def golden(case: str) -> dict[str, np.ndarray]:
    """`loss` (100,), and `100/weights/NAME` and `100/ema/NAME` after each stop's steps, float64."""
    with np.load(GOLDEN / f"{case}.npz") as file:
        return dict(file)


@pytest.mark.parametrize("case", cases.OPTIMS)
def test_trajectory(subject: Subject, case: str) -> None:
    """Losses and weights after 1, 10 and 100 steps."""
    backend, expected = start(subject, case), golden(case)
    losses = []
    for n in range(STOPS[-1]):
        losses.append(float(backend.to_host(backend.train_step(batch(subject.spec(NETWORK), step=n)))))
        if n + 1 in STOPS:
            subject.close(f"L4.loss.{n + 1}", losses, expected["loss"][: n + 1], f"{case}, first {n + 1} losses")
            for ema in (False, True):
                prefix = f"{n + 1}/{'ema' if ema else 'weights'}/"
                actual = backend.weights(ema=ema)
                for key, value in expected.items():
                    if key.startswith(prefix):
                        subject.close(f"L4.weights.{n + 1}", actual[key.removeprefix(prefix)], value, f"{case}: {key}")
