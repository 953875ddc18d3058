"""L3: the training loss against `reference/diffusion.py`, and its gradients against finite differences of the NumPy network.

A directional derivative is taken in two stages: of the network's output by a central difference in the weights, then of the
loss along it. Each parameter tensor gets a direction of its own, so that a wrong gradient in one can't hide in the sum.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest

from backends.protocol import Batch, Spec
from reference import diffusion as process
from reference import unet
from reference.config import BOUNDS, DiffusionConfig, ModelConfig
from reference.schedules import Schedule

from . import cases
from .kit import Subject, batch, weights

Array = np.ndarray


class Point(NamedTuple):
    """A batch as the NumPy network sees it."""

    model: ModelConfig
    diffusion: DiffusionConfig
    batch: Batch
    inputs: Array  # x_t, with self-conditioning beside the first x0_hat
    told: Array  # what the network is told of t
    output: Array


@cache
def point(model: ModelConfig, diffusion: DiffusionConfig) -> Point:
    """The forward pass of one training step in float64."""
    b = batch(Spec(model, diffusion))
    alpha_bars = Schedule.from_config(diffusion).alpha_bars
    told = process.network_t(diffusion, b.t)
    inputs = xt = process.q_sample(b.x0.astype(np.float64), b.t, b.noise.astype(np.float64), alpha_bars)
    if diffusion.self_conditioning:
        first = unet.forward(weights(model), model, np.concatenate((xt, 0 * xt), axis=1), told)[:, : xt.shape[1]]
        x0_hat = process.x0_from_output(diffusion, xt, b.t, first, alpha_bars)
        inputs = np.concatenate((xt, process.self_condition(x0_hat, b.coin)), axis=1)
    return Point(model, diffusion, b, inputs, told, unet.forward(weights(model), model, inputs, told))


def loss(p: Point, output: Array, held: Array) -> float:
    """The loss at `output`, with the bound's mean taken from `held`, through which no gradient flows (IDDPM section 3.1)."""
    b, channels = p.batch, p.batch.x0.shape[1]
    x0, noise = b.x0.astype(np.float64), b.noise.astype(np.float64)
    if not p.diffusion.learned_variance or p.diffusion.loss in BOUNDS:
        return process.loss(p.diffusion, x0, b.t, noise, output)
    schedule = Schedule.from_config(p.diffusion)
    xt = process.q_sample(x0, b.t, noise, schedule.alpha_bars)
    bound = process.vlb_terms(p.diffusion, x0, xt, b.t, held[:, :channels], output[:, channels:], schedule).mean()
    simple = process.loss(replace(p.diffusion, variance="large"), x0, b.t, noise, output[:, :channels])
    return simple + (p.diffusion.timesteps / 1000 if p.diffusion.rescale_bound else 1) * bound


def derivative(p: Point, direction: dict[str, Array]) -> float:
    """d loss / d weights along the direction, by central differences of the fourth order."""
    w = weights(p.model)

    def output(h: float) -> Array:
        moved = {name: w[name] + h * d for name, d in direction.items()}
        return unet.forward({name: w[name].astype(np.float64) for name in w} | moved, p.model, p.inputs, p.told)

    h = 1e-3 / np.sqrt(sum(float((d**2).sum()) for d in direction.values()))
    slope = (8 * (output(h) - output(-h)) - (output(2 * h) - output(-2 * h))) / (12 * h)
    step = 1e-6 / np.abs(slope).max() if slope.any() else 1.0
    return (loss(p, p.output + step * slope, p.output) - loss(p, p.output - step * slope, p.output)) / (2 * step)


def directions(model: ModelConfig, seed: int) -> dict[str, Array]:
    """A random direction for every parameter."""
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(value.shape) for name, value in weights(model).items()}


def along(gradients: dict[str, Array], direction: dict[str, Array]) -> float:
    """Gradient times direction, float64."""
    return float(sum((np.asarray(gradients[name], np.float64) * d).sum() for name, d in direction.items()))


@cache
def whole_derivatives(model: ModelConfig, diffusion: DiffusionConfig) -> list[float]:
    """Derivatives along three directions of all weights."""
    return [derivative(point(model, diffusion), directions(model, seed)) for seed in range(3)]


@cache
def tensor_derivatives(model: ModelConfig) -> dict[str, float]:
    """For each tensor the derivative along its part of one direction."""
    p = point(model, DiffusionConfig())
    return {name: derivative(p, {name: d}) for name, d in directions(model, 0).items()}


def gradients_of(subject: Subject, model: ModelConfig, diffusion: DiffusionConfig) -> tuple[float, dict[str, Array]]:
    """The backend's loss and gradients at the point."""
    backend = subject.backend(model, diffusion)
    backend.load_weights(weights(model))
    value, gradients = backend.loss_and_gradients(point(model, diffusion).batch)
    return float(backend.to_host(value)), dict(gradients)


@pytest.mark.parametrize("case", cases.LOSSES)
def test_loss(subject: Subject, case: str) -> None:
    """Objective, loss, weighting, variance, schedule and self-conditioning: the loss, and gradients along whole directions."""
    diffusion = cases.LOSSES[case]
    model = cases.network(diffusion)
    p = point(model, diffusion)
    value, gradients = gradients_of(subject, model, diffusion)
    x0, noise = p.batch.x0.astype(np.float64), p.batch.noise.astype(np.float64)
    subject.close("L3.loss", value, process.loss(diffusion, x0, p.batch.t, noise, p.output), case)
    norm = np.sqrt(sum(float((np.asarray(g, np.float64) ** 2).sum()) for g in gradients.values()))
    for seed, expected in enumerate(whole_derivatives(model, diffusion)):
        error = abs(along(gradients, directions(model, seed)) - expected) / norm
        subject.within("L3.gradient", error, f"{case}, direction {seed}")


@pytest.mark.parametrize("case", cases.TRAINED)
def test_every_tensor(subject: Subject, case: str) -> None:
    """The gradient of each tensor, relative to that tensor's own where it is not 0, as a key's bias in attention is."""
    model = cases.TRAINED[case]
    _, gradients = gradients_of(subject, model, DiffusionConfig())
    expected = tensor_derivatives(model)
    typical = np.median([abs(e) for e in expected.values()])
    for name, d in directions(model, 0).items():
        error = abs(along(gradients, {name: d}) - expected[name]) / max(abs(expected[name]), 0.1 * typical)
        subject.within("L3.tensor", error, f"{case}: {name}")


def test_dropout(subject: Subject) -> None:
    """Dropout acts in training, anew at each step. L2 sees that it does not act elsewhere."""
    losses = set()
    for rate, step in ((0.5, 0), (0.5, 1), (0.0, 0)):
        backend = subject.backend(replace(cases.TINY, dropout=rate))
        backend.load_weights(weights(cases.TINY))
        losses.add(float(backend.to_host(backend.loss_and_gradients(replace(batch(subject.spec()), step=step))[0])))
    assert len(losses) == 3, "the loss with dropout must differ from step to step and from that without"
