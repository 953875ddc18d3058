"""How far a backend is from the float64 reference: errors, the largest that are accepted, and verdicts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.protocol import Batch, Spec
from reference import diffusion, optim, samplers, schedules, solving, unet
from reference import weights as names
from reference.config import OptimConfig
from reference.conventions import Plan
from reference.solver_plans import SolverPlan

# Largest accepted errors by dtype of the network. "images" is the largest pixel difference of the backends' images at eta = 0.
TOLERANCES: dict[str, dict[str, float]] = {
    "float32": {"tables": 1e-10, "forward": 2e-5, "loss": 1e-5, "gradient": 1e-4, "step": 1e-4, "sampling": 1e-4, "images": 1e-3,
                "losses": 1e-5, "likelihood": 1e-4},
    "float64": {"tables": 1e-10, "forward": 1e-9, "loss": 1e-9, "gradient": 1e-6, "step": 1e-6, "sampling": 1e-9, "images": 1e-8,
                "losses": 1e-9, "likelihood": 1e-8},
    "bfloat16": {"tables": 1e-10, "forward": 1e-1, "loss": 2e-2, "gradient": 1e-1, "step": 1e-1, "sampling": 5e-1, "images": 2.0,
                 "losses": 5e-2, "likelihood": 2e-1},
    "float16": {"tables": 1e-10, "forward": 1e-2, "loss": 2e-3, "gradient": 2e-2, "step": 1e-1, "sampling": 1e-1, "images": 1.0,
                "losses": 1e-2, "likelihood": 2e-2},
}
IMAGES, STEPS = 2, 10  # of the sampling path that is compared
TIMED_STEPS = 4  # of the timed path, from x_T
NUDGE = 1e-6  # of each weight, by which the loss's slope is taken
SMALL_BITS = 1e-3  # bits per dimension: a term of the bound below it is compared with it
ZERO, SMALLEST = 1e-8, 1e-300  # beside which an entry of a table that is 0 is measured
UNFINISHED = 0.3  # largest share of a timed block's work that may be left when the backend says that it is done
PARTS = ("weights", "adam_m", "adam_v", "ema")  # of a training state
Network = Callable[..., NDArray[np.float64]]
Noise = Callable[[int], NDArray[Any]]


@dataclass(frozen=True)
class Answers:
    """What a backend computed, beside its inputs: tables of plans, one forward pass, the loss of one batch.

    Arrays: x, output (N, C, H, W), t (N,). With self-conditioning the batch's coins are 0.
    """

    tables: Sequence[tuple[Plan | SolverPlan, Mapping[str, NDArray[Any]]]]
    x: NDArray[Any]
    t: NDArray[Any]
    output: NDArray[Any]
    batch: Batch
    loss: float


def errors(found: Answers, spec: Spec, weights: names.Weights, ema: names.Weights) -> dict[str, float]:
    """Largest errors of the answers. The loss is that of `weights`, all else of `ema`, the weights that sampling uses."""
    network = oracle_network(ema, spec)
    return {
        "tables": largest([table_error(tables[name], expected) for plan, tables in found.tables
                           for name, expected in coefficients(plan).items()]),
        "forward": difference(found.output, network(found.x, found.t)),
        "loss": loss_error(found.loss, spec, oracle_network(weights, spec), found.batch),
    }


def coefficients(plan: Plan | SolverPlan) -> samplers.Coefficients:
    """The oracle's tables of a plan."""
    return solving.coefficients(plan) if isinstance(plan, SolverPlan) else samplers.coefficients(plan)


def oracle_network(weights: names.Weights, spec: Spec) -> Network:
    """The float64 network of the reference, as `samplers.sample` calls it."""
    def network(x: NDArray[Any], t: NDArray[Any], x0: NDArray[Any] | None = None) -> NDArray[np.float64]:
        if spec.diffusion.self_conditioning:
            x = np.concatenate((x, np.zeros_like(x) if x0 is None else x0), axis=1)
        return unet.forward(weights, spec.model, x, t)
    return network


def loss_error(found: float, spec: Spec, network: Network, batch: Batch) -> float:
    """Of the loss of one batch, relative to the oracle's; with self-conditioning, for a batch whose coins are all 0."""
    few = _few(batch)
    expected = diffusion.loss(spec.diffusion, few.x0, few.t, few.noise, _output(spec, network, few))
    return difference(np.array(found), np.array(expected)) / abs(expected)


def _output(spec: Spec, network: Network, batch: Batch) -> NDArray[np.float64]:
    process = spec.diffusion
    xt = diffusion.q_sample(batch.x0, batch.t, batch.noise, schedules.alpha_bars(schedules.betas(process)))
    return network(xt, diffusion.network_t(process, batch.t))


def _few(batch: Batch) -> Batch:
    """One of each run of equal samples where the runs are of one length: the mean loss is the same. Else the batch itself."""
    size, arrays = len(batch.t), (batch.t, batch.noise, batch.x0)
    run = next(n for n in range(size, 0, -1)
               if size % n == 0 and all(np.array_equal(a, np.repeat(a[::n], n, axis=0)) for a in arrays))
    return replace(batch, ids=batch.ids[::run], x0=batch.x0[::run], t=batch.t[::run], noise=batch.noise[::run])


def gradient_error(found: names.Weights, spec: Spec, weights: names.Weights, batch: Batch, seed: int = 0) -> float:
    """Of the gradients of one batch's loss, in one random direction, relative to their length: the slope of the oracle's loss
    there, by central differences, beside the product of gradients and direction. In the bound beside another loss the mean
    is held fixed (IDDPM section 3.1)."""
    if set(found) != set(weights):
        return math.inf
    few, process, channels = _few(batch), spec.diffusion, spec.image_channels
    holds = process.learned_variance and process.loss not in diffusion.BOUNDS
    held = _output(spec, oracle_network(weights, spec), few)[:, :channels] if holds else np.empty(0)

    def loss(moved: names.Weights) -> float:
        output = _output(spec, oracle_network(moved, spec), few)
        if not holds:
            return diffusion.loss(process, few.x0, few.t, few.noise, output)
        bound = diffusion.loss(process, few.x0, few.t, few.noise, np.concatenate((held, output[:, channels:]), axis=1))
        simple = replace(process, variance="large", rescale_bound=True)
        return bound + diffusion.loss(simple, few.x0, few.t, few.noise, output[:, :channels])

    draw = np.random.Generator(np.random.Philox(seed)).standard_normal
    way = {name: draw(np.shape(w)) for name, w in sorted(weights.items())}
    ahead, behind = (loss({name: w + side * NUDGE * way[name] for name, w in weights.items()}) for side in (1, -1))
    slope = (ahead - behind) / (2 * NUDGE)
    length = math.sqrt(sum(float(np.sum(np.square(g, dtype=np.float64))) for g in found.values()))
    product = sum(float(np.sum(found[name] * d)) for name, d in way.items())
    return largest([abs(product - slope) / (length or 1.0)])


def step_error(done: names.Weights, config: OptimConfig, step: int) -> float:
    """Of one training step (`messages.Loss`), by the oracle's optimiser from the backend's own gradients and state: largest error
    of the moments, relative to their largest, and of what the weights and their moving average moved by, beyond two units in the
    last place. Weights are held to the backend's moments: Adam divides a gradient that is rounding by itself."""
    gradients = _part(done, "gradients")
    before, after = ({part: _part(done, f"{side}/{part}") for part in PARTS} for side in ("before", "after"))
    if any(set(arrays) != set(gradients) for state in (before, after) for arrays in state.values()):
        return math.inf
    _, m, v, _ = optim.adam_step(config, step, before["weights"], gradients, before["adam_m"], before["adam_v"], before["ema"])
    w = {name: optim.updated(config, step, old, after["adam_m"][name], after["adam_v"][name])
         for name, old in before["weights"].items()}
    decay = config.ema_decay_at(step)
    ema = {name: decay * old + (1 - decay) * after["weights"][name] for name, old in before["ema"].items()}
    errors = [difference(after[part][name], value) / (largest([np.abs(x).max() for x in expected.values()]) or 1.0)
              for part, expected in (("adam_m", m), ("adam_v", v)) for name, value in expected.items()]
    for part, expected in (("weights", w), ("ema", ema)):
        moved = largest([np.abs(value - before[part][name]).max() for name, value in expected.items()])
        for name, value in expected.items():
            rounding = 2 * np.spacing(np.abs(value).astype(done[f"after/{part}/{name}"].dtype))
            beyond = np.maximum(np.abs(after[part][name] - value) - rounding, 0)
            errors.append(largest([beyond.max() / (moved or 1.0)]))
    return largest(errors)


def _part(done: names.Weights, name: str) -> dict[str, NDArray[np.float64]]:
    """The arrays under this name, in float64."""
    start = f"{name}/"
    return {key.removeprefix(start): np.asarray(value, np.float64) for key, value in done.items() if key.startswith(start)}


def path_error(found: NDArray[Any], network: Network, x_T: NDArray[Any], plan: Plan | SolverPlan,
               z: Noise | None = None) -> float:
    """Largest error of sampled images (N, C, H, W), relative to the largest value of the oracle's where that is above 1; `z(i)` is
    the noise of step i."""
    start = x_T.astype(np.float64)
    expected = solving.solve(network, start, plan, z) if isinstance(plan, SolverPlan) else samplers.sample(network, start, plan, z)
    return difference(found, expected) / max(1.0, float(np.abs(expected).max()))


def bound_error(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Largest error of terms of the variational bound, bits per dimension: relative, at least to `SMALL_BITS`."""
    scale = np.maximum(np.abs(expected), SMALL_BITS)
    return difference(found / scale if np.shape(found) == np.shape(expected) else found, expected / scale)


def relative_error(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Largest |found - expected| / |expected|, absolute where expected is 0."""
    scale = np.where(expected == 0, 1.0, np.abs(expected))
    return difference(found / scale if np.shape(found) == np.shape(expected) else found, expected / scale)


def table_error(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Largest error of a plan's table: of (S,) numbers |found - expected| beside |expected|, so that a small one can't hide behind
    a large one; of (S, L) beside the largest of the row, since a solver's weight may cancel but for rounding. What is 0 stands
    beside `ZERO` of the whole table's largest: a table of zeros must be one."""
    if np.shape(found) != np.shape(expected):
        return math.inf
    size = np.abs(expected)
    scale = size.max(axis=tuple(range(1, np.ndim(expected))), keepdims=True)
    scale = np.where(scale == 0, ZERO * size.max() + SMALLEST, scale)
    return difference(found / scale, expected / scale)


def difference(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Largest |found - expected|; infinite for another shape, which NumPy would stretch, and for anything that is not finite."""
    if np.shape(found) != np.shape(expected):
        return math.inf
    return largest([np.abs(np.subtract(found, expected, dtype=np.float64)).max()])


def largest(errors: Sequence[float]) -> float:
    """The largest of these numbers, infinite where one is not a number: Python's `max` takes NaN or leaves it, by its place."""
    found = float(np.max(errors))
    return math.inf if math.isnan(found) else found


def verdict(error: float, tolerance: float | None) -> dict[str, Any]:
    """One comparison, as rows hold it. Without a tolerance it is reported, and ok if finite. An error that is not becomes null."""
    finite = bool(np.isfinite(error))
    return {"error": float(error) if finite else None, "tolerance": tolerance,
            "ok": finite and (tolerance is None or bool(error <= tolerance))}
