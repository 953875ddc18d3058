"""L3: the training loss against `reference/diffusion.py`, and its gradients against finite differences of the NumPy network.

`golden/derivatives.npz` holds them, for they take longer than all else here.
A directional derivative is taken in two stages: of the network's output by a central difference in the weights, then of the
loss along it. Each parameter tensor gets a direction of its own, so that a wrong gradient in one can't hide in the sum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from backends.protocol import Batch, Spec
from reference import diffusion as process
from reference import unet
from reference.config import BOUNDS, DiffusionConfig, ModelConfig
from reference.schedules import Schedule
from reference.weights import Weights

from . import cases, fields
from .kit import FAR, FAR_CASES, FULL, Subject, batch, far, weights

Array = np.ndarray


class Point(NamedTuple):
    """A batch as the NumPy network sees it."""

    model: ModelConfig
    diffusion: DiffusionConfig
    batch: Batch
    inputs: Array  # x_t, with self-conditioning beside the first x0_hat
    told: Array  # what the network is told of t
    output: Array
    weights: Weights


def inputs(model: ModelConfig, diffusion: DiffusionConfig) -> Batch:
    """The batch of one training step."""
    return batch(Spec(model, diffusion), size=9 if model == cases.LARGE else 3)


@cache
def point(model: ModelConfig, diffusion: DiffusionConfig, of: Callable[[], Weights] | None = None) -> Point:
    """The forward pass of one training step in float64, with the kit's weights where no others are given."""
    b, w = inputs(model, diffusion), of() if of else weights(model)
    alpha_bars = Schedule.from_config(diffusion).alpha_bars
    told = process.network_t(diffusion, b.t)
    shown = xt = process.q_sample(b.x0.astype(np.float64), b.t, b.noise.astype(np.float64), alpha_bars)
    if diffusion.self_conditioning:
        first = unet.forward(w, model, np.concatenate((xt, 0 * xt), axis=1), told)[:, : xt.shape[1]]
        x0_hat = process.x0_from_output(diffusion, xt, b.t, first, alpha_bars)
        shown = np.concatenate((xt, process.self_condition(x0_hat, b.coin)), axis=1)
    return Point(model, diffusion, b, shown, told, unet.forward(w, model, shown, told), w)


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
    w = p.weights

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


def reference_loss(p: Point) -> float:
    """The training loss at the point."""
    return process.loss(p.diffusion, p.batch.x0.astype(np.float64), p.batch.t, p.batch.noise.astype(np.float64), p.output)


def whole_derivatives(p: Point, count: int = 3) -> list[float]:
    """Derivatives along this many directions of all weights."""
    return [derivative(p, directions(p.model, seed)) for seed in range(count)]


def tensor_derivatives(p: Point) -> list[float]:
    """For each tensor the derivative along its part of one direction."""
    return [derivative(p, {name: d}) for name, d in directions(p.model, 0).items()]


@cache
def golden() -> dict[str, Array]:
    """What `make_golden.py` stored: the loss at a point, and the derivatives there."""
    with np.load(Path(__file__).parent / "golden" / "derivatives.npz") as file:
        return dict(file)


def worked_out(kind: str, p: Point) -> list[float]:
    """The derivatives that a test of this kind needs."""
    return tensor_derivatives(p) if kind == "tensor" else whole_derivatives(p, 1 if kind == "large" else 3)


@cache
def derivatives(kind: str, case: str) -> list[float]:
    """Those stored for this case, where they are and the loss is still theirs; else `worked_out`, which takes seconds."""
    p = POINTS[kind, case]()
    stored = golden().get(f"{kind}/{case}", np.array([np.nan]))
    return stored[1:].tolist() if abs(stored[0] / reference_loss(p) - 1) < 1e-9 else worked_out(kind, p)


POINTS = {(kind, case): partial(point, cases.network(diffusion), diffusion)
          for kind, table in (("loss", cases.LOSSES), ("crossed", cases.CROSSED_LOSSES)) for case, diffusion in table.items()} | {
    ("tensor", case): partial(point, model, DiffusionConfig()) for case, model in cases.TRAINED.items()} | {
    ("large", "large"): partial(point, cases.LARGE, DiffusionConfig())}


def gradients_of(subject: Subject, model: ModelConfig, diffusion: DiffusionConfig, w: Weights | None = None
                 ) -> tuple[float, dict[str, Array]]:
    """The backend's loss and gradients at the point."""
    backend = subject.backend(model, diffusion)
    backend.load_weights(weights(model) if w is None else w)
    value, gradients = backend.loss_and_gradients(inputs(model, diffusion))
    return float(backend.to_host(value)), dict(gradients)


def check_loss(subject: Subject, diffusion: DiffusionConfig, kind: str, case: str) -> None:
    """The loss, and gradients along whole directions."""
    quantity = {"loss": "L3.gradient", "crossed": "L3.crossed"}[kind]
    model = cases.network(diffusion)
    p = point(model, diffusion)
    value, gradients = gradients_of(subject, model, diffusion)
    subject.close("L3.loss", value, reference_loss(p), case)
    norm = np.sqrt(sum(float((np.asarray(g, np.float64) ** 2).sum()) for g in gradients.values()))
    errors = [abs(along(gradients, directions(model, seed)) - expected) / norm
              for seed, expected in enumerate(derivatives(kind, case))]
    for seed, error in enumerate(errors):
        subject.within(quantity, error, f"{case}, direction {seed}")
    if case == "eps":
        subject.reduced("L3.gradient", max(errors), case)


@pytest.mark.compiled(case="eps")
@pytest.mark.subjects(mode="tuned")
@pytest.mark.parametrize("case", cases.LOSSES)
def test_loss(subject: Subject, case: str) -> None:
    """Objective, loss, weighting, variance, schedule and self-conditioning."""
    check_loss(subject, cases.LOSSES[case], "loss", case)


@pytest.mark.subjects(mode="tuned", dtypes=FULL)
@pytest.mark.parametrize("case", cases.CROSSED_LOSSES)
def test_crossed_loss(subject: Subject, case: str) -> None:
    """The same options, every two of them in every pair of their values."""
    check_loss(subject, cases.CROSSED_LOSSES[case], "crossed", case)


@pytest.mark.parametrize("case", cases.TRAINED)
def test_every_tensor(subject: Subject, case: str) -> None:
    """The gradient of each tensor, relative to that tensor's own where it is not 0, as a key's bias in attention is."""
    model = cases.TRAINED[case]
    _, gradients = gradients_of(subject, model, DiffusionConfig())
    expected = dict(zip(directions(model, 0), derivatives("tensor", case), strict=True))
    typical = np.median([abs(e) for e in expected.values()])
    for name, d in directions(model, 0).items():
        error = abs(along(gradients, {name: d}) - expected[name]) / max(abs(expected[name]), 0.1 * typical)
        subject.within("L3.tensor", error, f"{case}: {name}")


@pytest.mark.subjects(dtypes=("float32",))
def test_large_network(subject: Subject) -> None:
    """Gradients at 256 positions, 64 channels and 32 groups, of 9 images, along a whole direction."""
    _, gradients = gradients_of(subject, cases.LARGE, DiffusionConfig())
    norm = np.sqrt(sum(float((np.asarray(g, np.float64) ** 2).sum()) for g in gradients.values()))
    error = abs(along(gradients, directions(cases.LARGE, 0)) - derivatives("large", "large")[0]) / norm
    subject.within("L3.gradient", error, "large network")


FAR_POINTS = {case: partial(far, case) for case in FAR_CASES}  # one object a case, by which `point` keeps what it has worked out


@pytest.mark.subjects(dtypes=FULL)
@pytest.mark.parametrize("case", FAR_CASES)
def test_far_from_zero(subject: Subject, case: str) -> None:
    """Norms, softmax and SiLU at the ends of their range in training, which may have formulas of its own for them."""
    p = point(FAR, DiffusionConfig(), FAR_POINTS[case])
    value, gradients = gradients_of(subject, FAR, DiffusionConfig(), far(case))
    subject.close(f"L3.{case}", value, reference_loss(p), f"{case}, loss")
    norm = np.sqrt(sum(float((np.asarray(g, np.float64) ** 2).sum()) for g in gradients.values()))
    error = abs(along(gradients, directions(FAR, 0)) - far_derivative(case)) / norm
    subject.within(f"L3.{case}", error, f"{case}, gradient")


@cache
def far_derivative(case: str) -> float:
    """Along one direction of all weights."""
    p = point(FAR, DiffusionConfig(), FAR_POINTS[case])
    return derivative(p, directions(FAR, 0))


@pytest.mark.subjects(mode="tuned", dtypes=("float32",))
@pytest.mark.parametrize("case", fields.DIFFUSION)
def test_each_field(subject: Subject, case: str) -> None:
    """The loss of two processes that differ in one field, in a row: what was kept for the first is not taken for the second."""
    changes, value = fields.DIFFUSION[case]
    for diffusion in (DiffusionConfig(**changes), DiffusionConfig(**changes | {case: value})):
        model = cases.network(diffusion)
        found, _ = gradients_of(subject, model, diffusion)
        subject.close("L3.loss", found, reference_loss(point(model, diffusion)), f"{case}={getattr(diffusion, case)}")


# Dropout. Of one image of one pixel the gradient of conv2's middle tap is an outer product with conv2's input, so it shows which
# channels were dropped there, and by what the others were multiplied.
DROPPING = replace(cases.ONE_LEVEL, sample_size=1, block_out_channels=(64,))
CONV2 = [name for name in weights(DROPPING) if name.endswith("conv2.weight")]
SURE = 4.5  # standard deviations


def middle_taps(subject: Subject, rate: float, step: int, images: int = 1, pixels: int = 1) -> tuple[Array, Array]:
    """conv2's input in the first block (64,), which no dropout before it has changed; and whether all of the gradient of
    each block and channel is 0, (blocks, 64)."""
    model = replace(DROPPING, dropout=rate, sample_size=pixels)
    backend = subject.backend(model)
    backend.load_weights(weights(DROPPING))
    _, gradients = backend.loss_and_gradients(replace(batch(subject.spec(model), size=images), step=step))
    bias = gradients[CONV2[0].replace("weight", "bias")]
    largest = int(np.abs(bias).argmax())
    taps = np.stack([np.asarray(gradients[name], np.float64)[:, :, 1, 1] for name in CONV2])
    return taps[0, largest] / float(bias[largest]), ~taps.any(axis=1)


@pytest.mark.subjects(mode="tuned")
@pytest.mark.parametrize("case", [0.1, 0.3])
def test_dropout(subject: Subject, case: float) -> None:
    """In training each element of conv2's input is 0 with this chance, else divided by the rest of it, whatever became of other
    channels, blocks and steps. L2 sees that nothing is dropped elsewhere."""
    kept, dropped = [], []
    for step in range(10):
        values, zero = middle_taps(subject, case, step)
        kept.append(values), dropped.append(zero)
    whole, nothing = middle_taps(subject, 0.0, 0)
    assert not nothing.any(), "without dropout nothing is dropped"
    for values, zero in zip(kept, dropped, strict=True):
        factor = np.where(zero[0], 0, 1 / (1 - case))
        subject.close("L3.dropout", values, whole * factor, f"p={case}: conv2's input")
    law(np.stack(dropped).astype(float), case)


def law(dropped: Array, p: float) -> None:
    """Assert that zeros and ones (steps, blocks, channels) have mean p and no correlation along any axis."""
    deviation = np.sqrt(p * (1 - p) / dropped.size)
    assert abs(dropped.mean() - p) < SURE * deviation, f"dropout: {dropped.mean():.4f} of the elements are 0, p={p}"
    for axis, name in enumerate(("steps", "blocks", "channels")):
        along_axis = np.moveaxis(dropped - p, axis, 0)
        for lag in range(1, len(along_axis) // 2 + 1):  # a mask that repeats, too
            pairs = along_axis[lag:] * along_axis[:-lag]
            found = pairs.mean() / (p * (1 - p))
            assert abs(found) < SURE / np.sqrt(pairs.size), f"dropout: a correlation of {found:.3f} between {name}, {lag} apart"


@pytest.mark.subjects(mode="tuned")
@pytest.mark.parametrize("case", ["images", "pixels"])
def test_dropout_is_independent(subject: Subject, case: str) -> None:
    """Of two images, or four pixels, a channel is 0 in all by chance alone."""
    p, count, options = 0.3, {"images": 2, "pixels": 4}[case], {"images": {"images": 2}, "pixels": {"pixels": 2}}[case]
    zero = np.stack([middle_taps(subject, p, step, **options)[1] for step in range(4)])
    share, deviation = zero.mean(), np.sqrt(p**count * (1 - p**count) / zero.size)
    assert abs(share - p**count) < SURE * deviation, f"dropout: {share:.4f} of the channels are 0 in all {case}, not {p**count:.4f}"
