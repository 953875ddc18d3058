"""The errors that the main job goes by: each sees what is planted in it, at its size, and nothing that is not finite is well."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from backends.protocol import Batch, Spec
from bench import oracle
from bench.training import batches
from reference import diffusion, optim, samplers, schedules, weights
from reference.config import DiffusionConfig, ModelConfig, OptimConfig
from reference.conventions import make_plan

NAN = float("nan")
PROCESS = DiffusionConfig(timesteps=20)
SPEC = Spec(ModelConfig(sample_size=8, block_out_channels=(8,), norm_num_groups=4, zero_init=False,
                        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",)), PROCESS)
WEIGHTS = weights.initialise(SPEC.model, 0)
PLAN = make_plan(PROCESS, 4, eta=1.0)


def right() -> oracle.Answers:
    """What a backend without a mistake answers."""
    network = oracle.oracle_network(WEIGHTS, SPEC)
    x, t = np.random.default_rng(0).standard_normal((3, 1, 8, 8)), np.array([0.0, 10.0, 19.0])
    batch = batches.comparable(SPEC, np.random.default_rng(1).integers(0, 256, (20, 1, 8, 8), np.uint8), 0, 4)
    xt = diffusion.q_sample(batch.x0, batch.t, batch.noise, schedules.alpha_bars(schedules.betas(PROCESS)))
    loss = diffusion.loss(PROCESS, batch.x0, batch.t, batch.noise, network(xt, diffusion.network_t(PROCESS, batch.t)))
    return oracle.Answers([(PLAN, samplers.coefficients(PLAN))], x, t, network(x, t), batch, loss)


def off(**changes: object) -> dict[str, float]:
    """Errors of the right answers with these in their place."""
    return oracle.errors(replace(right(), **changes), SPEC, WEIGHTS, WEIGHTS)


def one(array: np.ndarray, change: float) -> np.ndarray:
    """The array with its last value moved."""
    array = np.array(array, np.float64)
    array.flat[-1] += change
    return array


def test_right_answers_have_no_error() -> None:
    """To rounding."""
    assert max(off().values()) < 1e-12


def test_errors_are_what_is_wrong() -> None:
    """At their size, each under its own name."""
    good = right()
    assert off(output=one(good.output, 0.25))["forward"] == pytest.approx(0.25)
    assert off(loss=1.1 * good.loss)["loss"] == pytest.approx(0.1)
    table = dict(good.tables[0][1])
    assert off(tables=[(PLAN, table | {"sigma": 1.01 * table["sigma"]})])["tables"] == pytest.approx(0.01)
    assert off(tables=[(PLAN, table), (PLAN, table | {"alpha_bar": table["alpha_bar"] * 1.5})])["tables"] == pytest.approx(0.5)


@pytest.mark.parametrize("place", [0, 1])
def test_nan_passes_no_maximum(place: int) -> None:
    """Python's max keeps its first argument beside NaN."""
    values = [0.0, 0.0]
    values[place] = NAN
    assert oracle.largest(values) == math.inf and oracle.largest([1.0, 3.0, 2.0]) == 3.0
    table = dict(right().tables[0][1])
    two = [(PLAN, table), (PLAN, table | {"sigma": table["sigma"] * NAN})]
    assert off(tables=two[::1 if place else -1])["tables"] == math.inf
    assert off(output=one(right().output, NAN))["forward"] == math.inf
    assert off(loss=NAN)["loss"] == math.inf


def test_another_shape_is_infinitely_wrong() -> None:
    """NumPy would stretch it."""
    assert oracle.difference(np.zeros((1, 3)), np.zeros((2, 3))) == math.inf
    assert oracle.relative_error(np.ones(1), np.ones(4)) == math.inf
    assert oracle.difference(np.array([1.0, -2.5]), np.array([1.0, 0.0])) == 2.5
    assert oracle.relative_error(np.array([3.0, 0.5]), np.array([2.0, 0.0])) == 0.5


@pytest.mark.parametrize(("error", "tolerance", "kept", "ok"), [
    (1.0, 1.0, 1.0, True), (1.1, 1.0, 1.1, False), (9.0, None, 9.0, True), (NAN, None, None, False), (NAN, 1.0, None, False),
    (math.inf, None, None, False),
])
def test_verdicts(error: float, tolerance: float | None, kept: float | None, ok: bool) -> None:
    """Within the tolerance and finite, else not."""
    assert oracle.verdict(error, tolerance) == {"error": kept, "tolerance": tolerance, "ok": ok}


@pytest.mark.parametrize(("expected", "found", "error"), [
    ([1.0, 1e-6, 0.0], [1.0, 1.5e-6, 0.0], 0.5),  # a small number is not beside a large one
    ([1.0, 1e-6, 0.0], [1.0, 1e-6, 1e-10], 0.01),
    ([[2.0, 1e-17], [0.0, 0.0]], [[2.0, 3e-17], [0.0, 0.0]], 1e-17),  # a weight that cancels is
    ([[2.0, 1e-17], [0.0, 0.0]], [[2.0, 1e-17], [0.0, 1e-10]], 0.005),
    ([0.0, 0.0], [0.0, 1e-20], 1e280), ([0.0, 0.0], [0.0, 0.0], 0.0), ([1.0, 1.0], [1.0], math.inf),
])
def test_a_table_is_held_number_by_number_and_a_row_by_its_largest(expected: list[float], found: list[float], error: float) -> None:
    """And what is 0 by a hundred-millionth of the whole table's largest."""
    assert oracle.table_error(np.array(found), np.array(expected)) == pytest.approx(error, rel=1e-6, abs=0)


def test_gradients_are_held_to_the_slope_of_the_loss() -> None:
    """Along the direction that is tried: too small and too large are wrong, and so is the wrong sign."""
    batch, draw = right().batch, np.random.Generator(np.random.Philox(0)).standard_normal
    way = {name: draw(w.shape) for name, w in sorted(WEIGHTS.items())}
    size = math.sqrt(sum(float((d**2).sum()) for d in way.values()))

    def error(slope: float) -> float:
        return oracle.gradient_error({name: d * slope / size**2 for name, d in way.items()}, SPEC, WEIGHTS, batch)

    slope = min((error(0), -error(0)), key=error)  # without gradients the error is the slope's size
    assert error(slope) < 1e-6
    for times in (0.5, 2, -1):
        assert error(times * slope) == pytest.approx(abs(times - 1) * size / abs(times), rel=1e-6)


def test_a_path_is_followed_with_its_noise() -> None:
    """Errors are relative to the largest value above 1; noise that is not added shows."""
    network, x = oracle.oracle_network(WEIGHTS, SPEC), np.random.default_rng(0).standard_normal((2, 1, 8, 8))
    plan = replace(PLAN, clip="none")

    def z(i: int) -> np.ndarray:
        return np.random.default_rng(i).standard_normal(x.shape)

    images = samplers.sample(network, x, plan, z)
    largest = float(np.abs(images).max())
    assert largest > 1 and oracle.path_error(images, network, x, plan, z) == 0
    assert oracle.path_error(one(images, 0.5), network, x, plan, z) == pytest.approx(0.5 / largest)
    assert oracle.path_error(samplers.sample(network, x, plan), network, x, plan, z) > 0.01
    assert oracle.path_error(one(images, NAN), network, x, plan, z) == math.inf
    small = samplers.sample(lambda x, t: x * 0, x / 100, replace(PLAN, clip="none"))
    assert np.abs(small).max() < 0.9  # of which an error is no share
    assert oracle.path_error(one(small, 0.5), lambda x, t: x * 0, x / 100, replace(PLAN, clip="none")) == pytest.approx(0.5)


CONFIG = OptimConfig(lr=1e-3, warmup_steps=4, total_steps=10, ema_decay=0.9)


def done(step: int) -> dict[str, np.ndarray]:
    """A training step by the oracle itself, as a worker's file holds it."""
    draw = np.random.default_rng(step).standard_normal
    old = {part: {name: np.abs(draw(shape)) for name, shape in (("a", (3, 2)), ("b", (4,)))}
           for part in (*oracle.PARTS, "gradients")}
    w, m, v, ema = optim.adam_step(CONFIG, step, *(old[part] for part in ("weights", "gradients", "adam_m", "adam_v", "ema")))
    parts = {"gradients": old["gradients"], **{f"before/{part}": old[part] for part in oracle.PARTS},
             "after/weights": w, "after/adam_m": m, "after/adam_v": v, "after/ema": ema}
    return {f"{part}/{name}": value for part, arrays in parts.items() for name, value in arrays.items()}


@pytest.mark.parametrize("step", [0, 7])
def test_a_training_step_is_held_to_the_optimiser(step: int) -> None:
    """Each part of the state, at the size of what it moves by or holds."""
    found = done(step)
    assert oracle.step_error(found, CONFIG, step) < 1e-9
    assert oracle.step_error(found, CONFIG, step + 1) > 1e-3
    for part in ("weights", "ema"):
        moved = max(np.abs(found[f"after/{part}/{n}"] - found[f"before/{part}/{n}"]).max() for n in "ab")
        wrong = found | {f"after/{part}/b": one(found[f"after/{part}/b"], 0.1 * moved)}
        if part == "weights":  # the average follows the backend's own weights
            assert oracle.step_error(wrong, CONFIG, step) >= 0.099
        else:
            assert oracle.step_error(wrong, CONFIG, step) == pytest.approx(0.1, rel=0.01)
    for part in ("adam_m", "adam_v"):
        largest = max(np.abs(found[f"after/{part}/{n}"]).max() for n in "ab")
        assert oracle.step_error(found | {f"after/{part}/b": one(found[f"after/{part}/b"], 0.2 * largest)}, CONFIG, step) >= 0.199
    other = replace(CONFIG, beta1=CONFIG.beta2, beta2=CONFIG.beta1)  # of which the weights follow: the moments alone are wrong
    _, m, v, _ = optim.adam_step(other, step, *({n: found[f"{part}/{n}"] for n in "ab"} for part in (
        "before/weights", "gradients", "before/adam_m", "before/adam_v", "before/ema")))
    w = {n: optim.updated(CONFIG, step, found[f"before/weights/{n}"], m[n], v[n]) for n in "ab"}
    decay = CONFIG.ema_decay_at(step)
    ema = {n: decay * found[f"before/ema/{n}"] + (1 - decay) * w[n] for n in "ab"}
    wrong = found | {f"after/{part}/{n}": a[n] for part, a in zip(oracle.PARTS, (w, m, v, ema), strict=True) for n in "ab"}
    assert oracle.step_error(wrong, CONFIG, step) > 0.01
    assert oracle.step_error(found | {"after/weights/a": found["after/weights/a"] * NAN}, CONFIG, step) == math.inf
    assert oracle.step_error({name: value for name, value in found.items() if name != "after/ema/a"}, CONFIG, step) == math.inf


def test_a_state_of_float32_is_not_blamed_for_its_rounding() -> None:
    """However small the step is beside the weights."""
    slow = replace(CONFIG, lr=1e-9, min_lr=0.0)
    found = done(0)
    w, m, v, ema = optim.adam_step(slow, 0, *({n: found[f"{part}/{n}"] for n in "ab"} for part in (
        "before/weights", "gradients", "before/adam_m", "before/adam_v", "before/ema")))
    found |= {f"after/{part}/{n}": arrays[n] for part, arrays in zip(oracle.PARTS, (w, m, v, ema), strict=True) for n in "ab"}
    rounded = {name: value.astype(np.float32) for name, value in found.items()}
    assert oracle.step_error(rounded, slow, 0) < 1e-4


@pytest.mark.parametrize("size", [1, 4, 8, 11, 12, 32])
def test_a_comparable_batch_has_the_loss_of_its_few_samples(size: int) -> None:
    """Of any size; each half of it has samples of its own."""
    images = np.random.default_rng(1).integers(0, 256, (20, 1, 8, 8), np.uint8)
    batch = batches.comparable(SPEC, images, 0, size)
    assert len(batch.t) == len(batch.x0) == len(batch.noise) == len(batch.ids) == size
    whole = diffusion.loss(PROCESS, batch.x0, batch.t, batch.noise, 0.5 * batch.noise)
    seen: list[int] = []

    def network(x: np.ndarray, t: np.ndarray) -> np.ndarray:
        seen.append(len(x))
        return 0.5 * batch.noise[:: size // len(x)]

    assert oracle.loss_error(whole, SPEC, network, batch) < 1e-12
    assert seen == [{1: 1, 4: 4, 8: 8, 11: 1, 12: 6, 32: 8}[size]]
    if size >= 12:
        assert not np.array_equal(batch.x0[: size // 2], batch.x0[size // 2:])


def test_a_batch_of_different_samples_is_taken_whole() -> None:
    """Whatever its size is divisible by."""
    draw = np.random.default_rng(0).standard_normal
    batch = Batch(np.arange(4), draw((4, 1, 8, 8)), np.array([3, 3, 5, 5]), draw((4, 1, 8, 8)), 0)
    sizes: list[int] = []

    def network(x: np.ndarray, t: np.ndarray) -> np.ndarray:
        sizes.append(len(x))
        return np.zeros_like(x)

    oracle.loss_error(1.0, SPEC, network, batch)
    assert sizes == [4]


def test_terms_of_a_bound_are_held_by_their_share_and_small_ones_by_a_thousandth_of_a_bit() -> None:
    """So that a KL of nearly 0 is no division by it."""
    expected = np.array([2.0, 1e-5])
    assert oracle.bound_error(np.array([2.2, 1e-5]), expected) == pytest.approx(0.1)
    assert oracle.bound_error(np.array([2.0, 2e-5]), expected) == pytest.approx(0.01)
    assert oracle.bound_error(np.ones(1), np.ones(2)) == math.inf


@pytest.mark.parametrize("size, runs", [(1, 1), (6, 6), (7, 7), (16, 8), (9, 3), (24, 8), (22, 2)])
def test_a_batch_that_is_compared_repeats_few_samples_in_runs(size: int, runs: int) -> None:
    """At most eight of them, each as often, and those of one half are not those of the other."""
    images = np.random.default_rng(1).integers(0, 256, (40, 1, 8, 8), np.uint8)
    batch, first = batches.comparable(SPEC, images, 0, size), batches.training_batch(0, images, 0, runs, 20)
    for name in ("x0", "t", "noise"):
        np.testing.assert_array_equal(getattr(batch, name), np.repeat(getattr(first, name), size // runs, axis=0))
    assert len(oracle._few(batch).t) == runs and np.array_equal(oracle._few(batch).noise, first.noise)
