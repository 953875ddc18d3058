"""L4: optimiser, EMA and learning rate, over 1, 10 and 100 training steps.

Step by step, the backend's own gradients go through `reference/optim.py`. Over the whole run, losses and weights are held
against float64 trajectories that `make_golden.py` stored and checked in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from backends.protocol import Backend, Batch
from reference import optim
from reference.config import DiffusionConfig, OptimConfig

from . import cases
from .kit import FULL, Subject, batch, weights

GOLDEN = Path(__file__).parent / "golden"
NETWORK = cases.ONE_LEVEL
STOPS = (1, 10, 100)
PARTS = ("weights", "adam_m", "adam_v", "ema")


def part(state: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """One of the four parts of a state, by parameter, float64."""
    return {key.partition("/")[2]: np.asarray(value, np.float64) for key, value in state.items() if key.startswith(f"{name}/")}


def start(subject: Subject, case: str) -> Backend:
    """A backend at step 0, of the process that `golden` is of."""
    backend = subject.backend(NETWORK, DiffusionConfig(), cases.OPTIMS[case])
    backend.load_weights(weights(NETWORK))
    return backend


def check_steps(subject: Subject, config: OptimConfig, case: str, steps: Iterable[int]) -> None:
    """These steps: clipping, Adam, rate and EMA, each from the state before."""
    backend = subject.backend(NETWORK, optim=config)
    backend.load_weights(weights(NETWORK))
    state = dict(backend.state())
    for n in steps:
        step = batch(subject.spec(NETWORK), step=n)
        w, m, v, ema = (part(state, name) for name in PARTS)
        _, gradients = backend.loss_and_gradients(step)
        gradients = {name: np.asarray(g, np.float64) for name, g in gradients.items()}
        expected = dict(zip(PARTS, optim.adam_step(config, n, w, gradients, m, v, ema), strict=True))
        backend.train_step(step)
        state = dict(backend.state())
        for name in PARTS:
            # Relative to all moments: the gradient of a key's bias is 0, and what is left of it is rounding.
            largest = max(float(np.abs(value).max()) for value in expected[name].values()) if name.startswith("adam") else None
            for key, value in part(state, name).items():
                where = f"{case}, step {n}: {name}/{key}"
                if largest is None:
                    subject.close("L4.step", value, expected[name][key], where)
                else:
                    subject.within("L4.moments", float(np.abs(value - expected[name][key]).max()) / largest, where)


@pytest.mark.parametrize("case", cases.OPTIMS)
def test_each_step(subject: Subject, case: str) -> None:
    """Eight steps through the warm-up."""
    check_steps(subject, cases.OPTIMS[case], case, range(8))


@pytest.mark.subjects(mode="stock", dtypes=("float32",))  # compiles nothing
@pytest.mark.parametrize("case", cases.CROSSED_OPTIMS)
def test_crossed_options(subject: Subject, case: str) -> None:
    """No warm-up, no decay, no floor, no clipping, no average, in every pair: the first step, one after the warm-up and one after
    the decay."""
    check_steps(subject, cases.CROSSED_OPTIMS[case], case, (0, 4, 7))


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


@pytest.mark.compiled(case="schedule")
@pytest.mark.parametrize("case", cases.OPTIMS)
def test_trajectory(subject: Subject, case: str) -> None:
    """Losses and weights after 1, 10 and 100 steps. Stock layers take 10, and so does reduced precision with its wide tolerance:
    `test_each_step` holds each step to the optimiser's own."""
    backend, expected = start(subject, case), golden(case)
    stops = STOPS if subject.dtype in FULL and subject.mode != "stock" else STOPS[:2]
    losses = []
    for n in range(stops[-1]):
        losses.append(float(backend.to_host(backend.train_step(batch(subject.spec(NETWORK), step=n)))))
        if n + 1 in stops:
            subject.close(f"L4.loss.{n + 1}", losses, expected["loss"][: n + 1], f"{case}, first {n + 1} losses")
            for ema in (False, True):
                prefix = f"{n + 1}/{'ema' if ema else 'weights'}/"
                actual = backend.weights(ema=ema)
                for key, value in expected.items():
                    if key.startswith(prefix):
                        subject.close(f"L4.weights.{n + 1}", actual[key.removeprefix(prefix)], value, f"{case}: {key}")


def overflowing(subject: Subject) -> Batch:
    """A step whose gradients are no numbers in float16."""
    step = batch(subject.spec(NETWORK))
    return replace(step, noise=np.float32(1e6) * step.noise)


@pytest.mark.subjects(dtypes=("float16",), alone=True)
def test_a_step_that_overflows_is_left_out(subject: Subject) -> None:
    """In float16: weights, moments and average stay, the loss scaler halves and counts it, and `load_weights` forgets that."""
    backend = start(subject, "schedule")
    fresh = dict(backend.state())
    backend.train_step(batch(subject.spec(NETWORK)))
    before = dict(backend.state())
    backend.train_step(overflowing(subject))
    after = dict(backend.state())
    for name, value in before.items():
        if not name.startswith("scaler_") and name != "step":
            assert np.array_equal(after[name], value), f"{name} has changed in a step that overflowed"
    assert before["scaler_good"] == 1 and after["scaler_good"] == 0, "good steps are counted anew"
    assert after["scaler_scale"] == before["scaler_scale"] / 2 and after["scaler_skipped"] == before["scaler_skipped"] + 1
    backend.load_weights(weights(NETWORK))
    for name, value in backend.state().items():
        assert np.array_equal(value, fresh[name]), f"{name} is not what it was at the start"


@pytest.mark.subjects(dtypes=("float16",), alone=True)
def test_the_loss_scale_grows(subject: Subject) -> None:
    """In float16 the scale doubles after 2000 steps in a row that did not overflow, as `torch.amp.GradScaler`'s does."""
    backend = start(subject, "schedule")
    for good, expected in ((1997, [4, 4, 8, 8]), (99, [4]), (199, [4]), (499, [4]), (999, [4])):
        backend.load_state(dict(backend.state()) | {"scaler_scale": np.array(4.0), "scaler_good": np.array(good)})
        scales = []
        for n in range(len(expected)):
            backend.train_step(batch(subject.spec(NETWORK), step=n))
            scales.append(float(backend.state()["scaler_scale"]))
        assert scales == expected, f"scales {scales} after {good} steps in a row, {expected} expected"
