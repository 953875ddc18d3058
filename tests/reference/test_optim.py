"""Adam, learning rate, clipping and EMA against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference import optim
from reference.config import OptimConfig

from .strategies import LAW, SEED


def one(value: float) -> dict[str, np.ndarray]:
    return {"w": np.array([value])}


def run(config: OptimConfig, gradients: list[float], w: float = 0.0) -> list[tuple[float, float]]:
    """(weight, EMA) after each step."""
    weights, m, v, ema, out = one(w), one(0.0), one(0.0), one(w), []
    for step, g in enumerate(gradients):
        weights, m, v, ema = optim.adam_step(config, step, weights, one(g), m, v, ema)
        out.append((weights["w"].item(), ema["w"].item()))
    return out


def test_first_step_is_lr_times_the_sign():
    """m_hat = g and v_hat = g^2, so the step is lr g / (|g| + eps)."""
    config = OptimConfig(lr=1e-3, max_grad_norm=0)
    assert run(config, [-7.0])[0][0] == pytest.approx(1e-3, rel=1e-8)
    # eps = 1e-8 beside the corrected root halves the step of a gradient of 1e-8; beside the uncorrected one it would be 3.07e-5.
    assert run(config, [1e-8])[0][0] == pytest.approx(-5e-4, rel=1e-12)


def test_two_steps_by_hand():
    """betas 1/2 and 3/4, g = 1 then 3: m = 1/2, 7/4; v = 1/4, 39/16; corrections 1/2, 3/4 and 1/4, 7/16."""
    config = OptimConfig(lr=0.1, beta1=0.5, beta2=0.75, eps=1e-30, max_grad_norm=0)
    first, second = (w for w, _ in run(config, [1.0, 3.0], w=1.0))
    assert first == pytest.approx(0.9, rel=1e-15)
    assert second == pytest.approx(0.9 - 0.1 * (7 / 4 / (3 / 4)) / math.sqrt(39 / 16 / (7 / 16)), rel=1e-14)


@LAW
@given(st.floats(1e-3, 1e3), st.integers(1, 20))
def test_a_constant_gradient_moves_by_lr_each_step(g, steps):
    config = OptimConfig(lr=1e-2, eps=1e-20, max_grad_norm=0)
    assert run(config, [g] * steps)[-1][0] == pytest.approx(-1e-2 * steps, rel=1e-9)


def test_moments_are_returned_and_inputs_untouched():
    config = OptimConfig(max_grad_norm=0)
    w, g, m, v, ema = one(1.0), one(2.0), one(3.0), one(4.0), one(5.0)
    _, new_m, new_v, _ = optim.adam_step(config, 7, w, g, m, v, ema)
    assert new_m["w"].item() == pytest.approx(0.9 * 3 + 0.1 * 2) and new_v["w"].item() == pytest.approx(0.999 * 4 + 0.001 * 4)
    assert [d["w"].item() for d in (w, g, m, v, ema)] == [1, 2, 3, 4, 5]


def test_global_norm_clipping():
    """Norm of (3, 4) and (0, 12) together is 13; below the limit nothing is scaled."""
    gradients = {"a": np.array([3.0, 4.0]), "b": np.array([0.0, 12.0])}
    assert optim.clip_scale(OptimConfig(max_grad_norm=1.0), gradients) == pytest.approx(1 / (13 + 1e-6), rel=1e-15)
    assert optim.clip_scale(OptimConfig(max_grad_norm=13.1), gradients) == 1
    assert optim.clip_scale(OptimConfig(max_grad_norm=0.0), gradients) == 1
    scaled = run(OptimConfig(lr=1.0, beta1=0.0, beta2=0.0, eps=1.0, max_grad_norm=0.5), [2.0])[0][0]
    assert scaled == pytest.approx(-0.5 / 1.5, rel=1e-6)  # g = 0.5: 0.5 / (|0.5| + 1)


@pytest.mark.parametrize("step, rate", [
    (0, 0.25), (1, 0.5), (3, 1.0),  # warm-up over four steps
    (4, 1.0), (6, 0.2 + 0.8 * 0.5), (5, 0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi / 4))), (8, 0.2), (100, 0.2),
])
def test_learning_rate_by_hand(step, rate):
    config = OptimConfig(lr=1.0, warmup_steps=4, total_steps=8, min_lr=0.2)
    assert config.learning_rate(step) == pytest.approx(rate, rel=1e-15)


def test_learning_rate_without_decay_or_warm_up():
    assert [OptimConfig(lr=0.5).learning_rate(n) for n in (0, 10**6)] == [0.5, 0.5]
    config = OptimConfig(lr=1.0, warmup_steps=2)
    assert [config.learning_rate(n) for n in (0, 1, 2, 9)] == [0.5, 1, 1, 1]


def test_a_rate_that_changes_once_an_epoch():
    """MindSpore's cosine_decay_lr: min + (max - min) (1 + cos(pi floor(i / step_per_epoch) / decay_epoch)) / 2, here of three
    epochs of four steps: cos is 1, 1/2 and -1/2."""
    config = OptimConfig(lr=1.0, min_lr=0.2, total_steps=12, decay_every=4)
    rates = [0.2 + 0.8 * (1 + cos) / 2 for cos in (1, 0.5, -0.5) for _ in range(4)]
    assert [config.learning_rate(n) for n in range(13)] == pytest.approx([*rates, 0.2], rel=1e-14)
    warm = OptimConfig(lr=1.0, min_lr=0.2, warmup_steps=3, total_steps=15, decay_every=4)  # epochs begin after the warm-up
    assert [warm.learning_rate(n) for n in range(3, 15)] == pytest.approx(rates, rel=1e-14)
    assert "decay_every" not in OptimConfig().to_dict() and OptimConfig.from_dict(config.to_dict()) == config


def test_learning_rate_that_decays_without_warm_up():
    config = OptimConfig(lr=1.0, total_steps=4, min_lr=0.2)
    assert [config.learning_rate(n) for n in (0, 2, 4, 9)] == pytest.approx([1, 0.6, 0.2, 0.2], rel=1e-15)


def test_adam_uses_the_rate_of_its_step():
    config = OptimConfig(lr=1.0, warmup_steps=4, eps=1e-20, max_grad_norm=0)
    assert [w for w, _ in run(config, [1.0] * 4)] == pytest.approx([-0.25, -0.75, -1.5, -2.5])


def test_ema_by_hand():
    """Decay (1 + n) / (10 + n) = 1/10, 2/11, 3/12 until it meets ema_decay; the average takes the new weights."""
    config = OptimConfig(lr=1.0, eps=1e-20, max_grad_norm=0, ema_decay=0.2)
    assert [config.ema_decay_at(n) for n in (0, 1, 2, 3)] == pytest.approx([1 / 10, 2 / 11, 0.2, 0.2])
    averages = [ema for _, ema in run(config, [1.0] * 3, w=1.0)]  # weights 1, 0, -1, -2
    expected = [0.1 * 1 + 0.9 * 0]
    expected.append(2 / 11 * expected[-1] + 9 / 11 * -1)
    expected.append(0.2 * expected[-1] + 0.8 * -2)
    assert averages == pytest.approx(expected)


def test_ema_without_memory_is_the_weights():
    config = OptimConfig(lr=1.0, eps=1e-20, max_grad_norm=0, ema_decay=0.0)
    assert [config.ema_decay_at(n) for n in (0, 1, 10**6)] == [0, 0, 0]
    assert all(ema == w for w, ema in run(config, [1.0] * 3, w=1.0))


@LAW
@given(SEED, st.integers(0, 10**6))
def test_ema_of_standing_weights_stands(seed, step):
    """The gradient is 0, so are the moments: neither weights nor their average move."""
    w = {"w": np.random.default_rng(seed).standard_normal(5)}
    zero = {"w": np.zeros(5)}
    new_w, _, _, ema = optim.adam_step(OptimConfig(), step, w, zero, zero, zero, w)
    np.testing.assert_array_equal(new_w["w"], w["w"])
    np.testing.assert_allclose(ema["w"], w["w"], rtol=1e-15)


def test_gradients_are_clipped_at_1_unless_told():
    """DDPM's code and diffusers' scripts clip there."""
    assert optim.clip_scale(OptimConfig(), {"w": np.array([4.0])}) == pytest.approx(1 / (4 + 1e-6), rel=1e-15)
