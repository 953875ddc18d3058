"""The training loop: batches from the streams, losses, and states from which a run that was killed goes on bit for bit."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec

import numpy as np
from numpy.typing import NDArray

from backends.protocol import Backend, Spec
from bench.timing.memory import out_of_memory
from bench.training import MOST_STEPS
from bench.training.batches import batch_of, batches
from bench.training.states import at_work, load_state, save_state
from reference.config import require

COLLECT_EVERY = 50  # steps between looks at the losses, which wait for the device
SAVE_EVERY = 120.0  # seconds between states


class TrainingError(RuntimeError):
    """Training can't go on: a loss that is not finite, or a batch that memory can't hold. One line, states are kept."""


@dataclass(frozen=True)
class Fit:
    """What a training gave. Times are of all processes that took part in it, without the saving of states."""

    losses: NDArray[np.float64]  # one a step
    seconds: float  # of all steps but each process's first, data included
    first_seconds: float  # of the last process's first step, which compiles
    starts: int  # processes that took part
    skipped: int  # steps that a loss scaler left out, whose gradients overflowed half precision


P = ParamSpec("P")


def _alone(work: Callable[P, Fit]) -> Callable[P, Fit]:
    """One training at a time in a folder of states."""
    @functools.wraps(work)
    def locked(*args: P.args, **options: P.kwargs) -> Fit:
        spec, states = args[1], options.get("states")
        assert isinstance(spec, Spec)
        if not isinstance(states, Path) or spec.rank > 0:
            return work(*args, **options)
        with at_work(states):
            return work(*args, **options)

    return locked


@_alone
def fit(backend: Backend, spec: Spec, images: NDArray[np.uint8], *, seed: int, steps: int, batch_size: int, flip: bool,
        states: Path | None = None, config: Mapping[str, Any] | None = None, save_every: float = SAVE_EVERY,
        on_step: Callable[[int, int], object] | None = None,
        on_losses: Callable[[int, NDArray[np.float64]], object] | None = None) -> Fit:
    """Train on steps 0 .. steps - 1 of the streams, from the weights that `backend` holds. One function, since the order of what
    happens at a step decides what a state holds.

    images: (N, C, H, W) uint8. With `states`, a folder, the state is saved there every `save_every` seconds and after the last
    step, and training goes on from the newest one. `config` is what must agree for that beside the spec and the arguments here,
    such as the data's hash. `on_step(done, steps)` is called after each step was queued,
    `on_losses(step, losses)` with the losses from that step on whenever they were read.

    Raises `TrainingError`, and `CheckpointError` where a state is damaged, of another config or can't be written, or where another
    training is at work in `states`.
    """
    require(steps <= MOST_STEPS, "steps", steps, f"must be at most {MOST_STEPS:,}")
    config = {"model": spec.model.to_dict(), "diffusion": spec.diffusion.to_dict(), "optim": spec.optim.to_dict(),
              "dtype": spec.dtype, "seed": seed, "batch_size": batch_size, "flip": flip, **(config or {})}
    losses, first = np.zeros(steps), 0.0
    start, starts, seconds, good = _go_on(backend, spec, states, config, losses)
    pending: list[Any] = []
    feed = batches(spec, images, seed, start, steps, batch_size, flip)
    began = saved = time.perf_counter()
    for step in range(start, steps):
        try:
            pending.append(backend.train_step(next(feed)))
            due = step + 1 == steps or time.perf_counter() - saved >= save_every
            if step == start or len(pending) >= COLLECT_EVERY or due:
                unread = step + 1 - len(pending)
                losses[unread:step + 1] = [float(backend.to_host(loss)) for loss in pending]
                pending.clear()
                if on_losses:
                    on_losses(unread, losses[unread:step + 1])
        except Exception as error:
            if not out_of_memory(error):
                raise
            full = True
        else:
            full = False
        if full:  # outside the handler, whose traceback holds on to memory
            pending.clear()
            raise TrainingError(_advice(backend, spec, images, seed, step, batch_size, flip))
        if not pending and (bad := np.flatnonzero(~np.isfinite(losses[:step + 1]))).size:
            raise TrainingError(_diverged(int(bad[0]), float(losses[bad[0]]), spec, good))
        if step == start:
            first = time.perf_counter() - began
            began += first
        if states is not None and due and spec.rank == 0:  # all processes hold the same state, and go on from the same file
            seconds += time.perf_counter() - began
            arrays = dict(backend.state())
            if not all(np.isfinite(value).all() for value in arrays.values()):  # the next loss would show it, too late
                raise TrainingError(_diverged(step, float(losses[step]), spec, good))
            arrays |= {"losses": losses[:step + 1], "seconds": np.array(seconds), "starts": np.array(starts)}
            good = str(save_state(states, step + 1, arrays, config))
            began = saved = time.perf_counter()
        if on_step:
            on_step(step + 1, steps)
    skipped = int(backend.state()["scaler_skipped"]) if spec.dtype == "float16" else 0
    return Fit(losses, seconds + time.perf_counter() - began, first, starts, skipped)


def _go_on(backend: Backend, spec: Spec, states: Path | None, config: Mapping[str, Any], losses: NDArray[np.float64]
           ) -> tuple[int, int, float, str]:
    """Load the newest state, its losses into `losses`: (steps done, processes so far, their seconds, the state's name)."""
    start, starts, seconds, good = 0, 1, 0.0, "none"
    if states is not None and (found := load_state(states, config)) is not None:
        start, state = found
        require(start <= len(losses), "steps", len(losses), f"{states} holds a state of step {start} already")
        losses[:start], seconds, starts = state.pop("losses"), float(state.pop("seconds")), int(state.pop("starts")) + 1
        backend.load_state(state)
        good = f"of step {start} in {states}"
    if spec.processes > 1:
        require(backend.mean(start) == start, "step", start, f"process {spec.rank} found this state in {states} and another one "
                "did not: all processes must see the same files")
    return start, starts, seconds, good


def _diverged(step: int, loss: float, spec: Spec, good: str) -> str:
    what = "is not finite" if not np.isfinite(loss) else "is finite, but the weights are not any more,"
    return (f"loss={loss:g}: {what} at step {step}, learning rate {spec.optim.learning_rate(step):g}, {spec.dtype}; "
            f"last good state: {good}; lower the learning rate" + ("" if spec.dtype == "float32" else " or use float32"))


def _advice(backend: Backend, spec: Spec, images: NDArray[np.uint8], seed: int, step: int, size: int, flip: bool) -> str:
    """Names the largest of half, a quarter, .. of the batch whose gradients fit."""
    fits = size // spec.processes // 2 * spec.processes
    while fits >= spec.processes:
        try:
            backend.to_host(backend.loss_and_gradients(batch_of(spec, images, seed, step, fits, flip))[0])
            break
        except Exception as error:
            if not out_of_memory(error):
                raise
        fits = fits // spec.processes // 2 * spec.processes
    what = f"a batch of {fits} fits" if fits else f"not even a batch of {spec.processes} fits"
    return f"batch_size={size}: out of memory at training step {step}; {what}"
