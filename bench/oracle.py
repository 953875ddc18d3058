"""How far a backend is from the float64 reference: errors, the largest that are accepted, and verdicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.protocol import Batch, Spec
from reference import diffusion, samplers, schedules, unet
from reference import weights as names
from reference.conventions import Plan

# Largest accepted errors by dtype of the network. "images" is the largest pixel difference of the backends' images at eta = 0.
TOLERANCES: dict[str, dict[str, float]] = {
    "float32": {"tables": 1e-10, "forward": 2e-5, "loss": 1e-5, "sampling": 1e-4, "images": 1e-3, "losses": 1e-5},
    "float64": {"tables": 1e-10, "forward": 1e-9, "loss": 1e-9, "sampling": 1e-9, "images": 1e-8, "losses": 1e-9},
    "bfloat16": {"tables": 1e-10, "forward": 1e-1, "loss": 2e-2, "sampling": 5e-1, "images": 2.0, "losses": 5e-2},
    "float16": {"tables": 1e-10, "forward": 1e-2, "loss": 2e-3, "sampling": 1e-1, "images": 1.0, "losses": 1e-2},
}
IMAGES, STEPS = 2, 10  # of the sampling path that is compared
Network = Callable[..., NDArray[np.float64]]


@dataclass(frozen=True)
class Answers:
    """What a backend computed, beside its inputs: tables of plans, one forward pass, the loss of one batch, one sampling path.

    Arrays: x, output (N, C, H, W), t (N,); x_T, images (N, C, H, W) of `plan`. With self-conditioning the batch's coins are 0.
    """

    tables: Sequence[tuple[Plan, Mapping[str, NDArray[Any]]]]
    x: NDArray[Any]
    t: NDArray[Any]
    output: NDArray[Any]
    batch: Batch
    loss: float
    x_T: NDArray[Any]
    plan: Plan
    images: NDArray[Any]


def errors(found: Answers, spec: Spec, weights: names.Weights, ema: names.Weights) -> dict[str, float]:
    """Largest errors of the answers. The loss is that of `weights`, all else of `ema`, the weights that sampling uses."""
    network = oracle_network(ema, spec)
    return {
        "tables": max(relative_error(tables[name], expected) for plan, tables in found.tables
                      for name, expected in samplers.coefficients(plan).items()),
        "forward": float(np.abs(found.output - network(found.x, found.t)).max()),
        "loss": loss_error(found.loss, spec, oracle_network(weights, spec), found.batch),
        "sampling": path_error(found.images, network, found.x_T, found.plan),
    }


def oracle_network(weights: names.Weights, spec: Spec) -> Network:
    """The float64 network of the reference, as `samplers.sample` calls it."""
    def network(x: NDArray[Any], t: NDArray[Any], x0: NDArray[Any] | None = None) -> NDArray[np.float64]:
        if spec.diffusion.self_conditioning:
            x = np.concatenate((x, np.zeros_like(x) if x0 is None else x0), axis=1)
        return unet.forward(weights, spec.model, x, t)
    return network


def loss_error(found: float, spec: Spec, network: Network, batch: Batch) -> float:
    """Of the loss of one batch, relative to the oracle's; with self-conditioning, for a batch whose coins are all 0."""
    process = spec.diffusion
    xt = diffusion.q_sample(batch.x0, batch.t, batch.noise, schedules.alpha_bars(schedules.betas(process)))
    expected = diffusion.loss(process, batch.x0, batch.t, batch.noise, network(xt, diffusion.network_t(process, batch.t)))
    return abs(found - expected) / abs(expected)


def path_error(found: NDArray[Any], network: Network, x_T: NDArray[Any], plan: Plan) -> float:
    """Largest error of sampled images (N, C, H, W), relative to the largest value of the oracle's where that is above 1."""
    expected = samplers.sample(network, x_T.astype(np.float64), plan)
    return float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))


def relative_error(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Largest |found - expected| / |expected|, absolute where expected is 0."""
    scale = np.where(expected == 0, 1.0, np.abs(expected))
    return float(np.max(np.abs(found - expected) / scale))


def verdict(error: float, tolerance: float | None) -> dict[str, Any]:
    """One comparison, as rows hold it; without a tolerance it is reported and always ok."""
    return {"error": error, "tolerance": tolerance, "ok": tolerance is None or bool(error <= tolerance)}
