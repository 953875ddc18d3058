"""Write the derivatives of L3 and the training trajectories of L4: `python -m tests.conformance.make_golden [derivatives]`.

The derivatives are finite differences of the NumPy network. Gradients of the trajectories are the torch backend's in float64, stock
layers; clipping, Adam, learning rate and EMA are those of `reference/optim.py`, and the torch backend's own must agree with them at
every one of the 100 steps before anything is written.
"""

from __future__ import annotations

import argparse

import numpy as np

import backends
from reference import optim

from . import cases
from .kit import Subject, batch, relative_error, weights
from .test_l3_gradients import POINTS, reference_loss, worked_out
from .test_l4_training import GOLDEN, NETWORK, PARTS, STOPS, part, start


def trajectory(case: str) -> dict[str, np.ndarray]:
    """The arrays of one file."""
    subject = Subject("torch", backends.load("torch"), dtype="float64", mode="stock")
    backend, config = start(subject, case), cases.OPTIMS[case]
    zeros = {name: np.zeros(value.shape) for name, value in weights(NETWORK).items()}
    w = {name: value.astype(np.float64) for name, value in weights(NETWORK).items()}
    m, v, ema = zeros, zeros, w
    losses, out = [], {}
    for n in range(STOPS[-1]):
        step = batch(subject.spec(NETWORK), step=n)
        loss, gradients = backend.loss_and_gradients(step)
        losses.append(float(loss))
        w, m, v, ema = optim.adam_step(config, n, w, gradients, m, v, ema)
        backend.train_step(step)
        state = dict(backend.state())
        for name, expected in zip(PARTS, (w, m, v, ema), strict=True):
            for key, value in part(state, name).items():
                error = relative_error(value, expected[key])
                assert error < 1e-12 * (n + 1), f"step {n}: {name}/{key} is off by {error:.3g}"
        if n + 1 in STOPS:
            out |= {f"{n + 1}/weights/{name}": value for name, value in w.items()}
            if case == "schedule" or n + 1 == STOPS[-1]:
                out |= {f"{n + 1}/ema/{name}": value for name, value in ema.items()}
    return out | {"loss": np.array(losses)}


def derivatives() -> dict[str, np.ndarray]:
    """The arrays of `test_l3_gradients.golden`."""
    return {f"{kind}/{case}": np.array([reference_loss(p()), *worked_out(kind, p())]) for (kind, case), p in POINTS.items()}


def main(words: list[str] | None = None) -> None:
    """Write the file of derivatives and, where it is not the only part that is wanted, one for each optimiser config."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.make_golden", description=__doc__)
    parser.add_argument("part", nargs="?", choices=["derivatives"], help="this alone; default: everything")
    part = parser.parse_args(words).part
    np.savez_compressed(GOLDEN / "derivatives.npz", **derivatives())
    for case in () if part else cases.OPTIMS:
        arrays = trajectory(case)
        np.savez(GOLDEN / f"{case}.npz", **arrays)
        print(f"{case}: losses {arrays['loss'][[0, 9, 99]]}")


if __name__ == "__main__":
    main()
