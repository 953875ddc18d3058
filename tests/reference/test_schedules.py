"""Noise schedules against the papers' formulas, their anchors and the laws that every schedule obeys."""

from __future__ import annotations

import math
import struct
from decimal import Decimal, getcontext

import numpy as np
import pytest
from hypothesis import given

from reference import schedules
from reference.config import ConfigError, DiffusionConfig
from reference.schedules import Schedule

from .strategies import LAW, diffusions

T = 1000
BY_HAND = {  # the formula of each schedule in plain Python, beta of t = 0..T-1
    "linear": lambda t: 1e-4 + (0.02 - 1e-4) * t / (T - 1),
    "quad": lambda t: (1e-4**0.5 + (0.02**0.5 - 1e-4**0.5) * t / (T - 1)) ** 2,
    "cosine": lambda t: min(1 - _cosine(t + 1) / _cosine(t), 0.999),
    "sigmoid": lambda t: (0.02 - 1e-4) / (1 + math.exp(6 - 12 * t / (T - 1))) + 1e-4,
    "const": lambda t: 0.02,
    "sigmoid_alpha_bar": lambda t: min(1 - _jabri(t + 1) / _jabri(t), 0.999),
    "jsd": lambda t: 1 / (T - t),
    "tutorial": lambda t: _point(t + 1) if t else 1 - (1 - _point(0)) * (1 - _point(1)),
    "tutorial_textbook": lambda t: _point(t + 1),
}


def _point(t: int) -> float:
    return 1e-4 + (0.02 - 1e-4) * t / T


def _cosine(t: int) -> float:
    return math.cos((t / T + 0.008) / 1.008 * math.pi / 2) ** 2


def _jabri(t: int) -> float:
    """Jabri et al. 2022, algorithm 1: (v_end - sigmoid(t (end - start) + start)) / (v_end - v_start)."""
    s_start, s_end, s = (1 / (1 + math.exp(-x)) for x in (-3, 3, 6 * t / T - 3))
    return (s_end - s) / (s_end - s_start)


@pytest.mark.parametrize("name", BY_HAND)
def test_betas_are_the_formula(name):
    betas = schedules.betas(DiffusionConfig(schedule=name))
    assert betas.dtype == np.float64
    expected = [BY_HAND[name](t) for t in range(T)]
    # atol: 1 - f(t+1)/f(t) cancels
    np.testing.assert_allclose(betas, expected, rtol=1e-12, atol=1e-15)


def test_every_schedule_has_a_formula_here():
    assert set(BY_HAND) | {"sigmoid_alpha_bar_float32", "linear_float32", "quad_float32"} == set(schedules.BETAS)


def test_anchors():
    linear = schedules.alpha_bars(schedules.betas(DiffusionConfig()))
    assert linear[0] == pytest.approx(0.9999, rel=1e-15)
    assert linear[999] == pytest.approx(4.035829765375676e-05, rel=1e-12)
    cosine = schedules.alpha_bars(schedules.betas(DiffusionConfig(schedule="cosine")))
    assert cosine[999] == pytest.approx(2.43e-9, rel=1e-3)


def test_linear_alpha_bar_in_fifty_digits():
    getcontext().prec = 50
    product, expected = Decimal(1), []
    for t in range(T):
        product *= 1 - (Decimal("0.0001") + Decimal("0.0199") * t / (T - 1))
        expected.append(float(product))
    np.testing.assert_allclose(schedules.alpha_bars(schedules.betas(DiffusionConfig())), expected, rtol=1e-13)


def test_cosine_clips_exactly_one_beta():
    betas = schedules.betas(DiffusionConfig(schedule="cosine"))
    assert (betas == 0.999).sum() == 1 and betas[-1] == 0.999


def test_cosine_betas_built_in_float32_are_wrong():
    t = np.arange(T + 1, dtype=np.float32) / np.float32(T)
    f = np.cos((t + np.float32(0.008)) / np.float32(1.008) * np.float32(np.pi / 2)) ** 2
    assert f.dtype == np.float32
    exact = schedules.betas(DiffusionConfig(schedule="cosine"))
    assert np.abs(np.minimum(1 - f[1:] / f[:-1], 0.999) / exact - 1).max() > 1e-3


def test_float32_end_of_the_sigmoid_schedule():
    """sigmoid(3) = 0.952574126822433..; float32 neighbours are 2^-24 apart there, and the nearest one ends every ratio."""
    end = np.float64(np.float32(1 / (1 + math.exp(-3))))
    s = [1 / (1 + math.exp(3 - 6 * t / T)) for t in range(T + 1)]
    literal = schedules.betas(DiffusionConfig(schedule="sigmoid_alpha_bar_float32"))
    np.testing.assert_allclose(literal, [min(1 - (end - b) / (end - a), 0.999) for a, b in zip(s, s[1:], strict=False)],
                               rtol=1e-11)
    off = np.abs(literal - schedules.betas(DiffusionConfig(schedule="sigmoid_alpha_bar"))).max()
    assert off == pytest.approx(6.5e-6, rel=0.01)


@pytest.mark.parametrize("T", [1, 2, 3, 4, 77, 1000])
def test_float32_linspace_counts_from_the_nearer_end(T):
    """Multiples of a float32 step, each sum rounded once to float32."""
    def f32(x: float) -> float:
        return struct.unpack("f", struct.pack("f", x))[0]

    for name, power in (("linear_float32", 1), ("quad_float32", 2)):
        first, last = f32(1e-4 ** (1 / power)), f32(0.02 ** (1 / power))
        each = f32(f32(last - first) / max(T - 1, 1))
        points = [f32(first + i * each if i < max(T // 2, 1) else last - (T - 1 - i) * each) for i in range(T)]
        assert schedules.BETAS[name](T, 1e-4, 0.02).tolist() == [f32(x**power) for x in points]


def test_the_tutorials_product_begins_at_point_0():
    """Its arrays of T + 1 points, cumulative product over all of them, are read at t = 1..T: in three points 0.9 x 0.8 and
    0.9 x 0.8 x 0.7. At T = 1000 the first 1 - alpha_bar is (1e-4 + 1.199e-4) / 1.199e-4 = 1.834 times the textbook's."""
    three = DiffusionConfig(schedule="tutorial", timesteps=2, beta_start=0.1, beta_end=0.3)
    np.testing.assert_allclose(schedules.alpha_bars(schedules.betas(three)), [0.72, 0.504], rtol=1e-14)
    assert three.start_alpha_bar == 0.9
    assert DiffusionConfig(schedule="tutorial", timesteps=500, beta_start=1e-3, beta_scaling=True).start_alpha_bar == 1 - 2e-3
    rescaled = DiffusionConfig(schedule="tutorial", zero_terminal_snr=True, objective="v")  # point 0 is gone
    assert rescaled.start_alpha_bar == DiffusionConfig(schedule="tutorial", timesteps=1, trained_betas=(0.5,)).start_alpha_bar == 1
    first, textbook = (1 - schedules.alpha_bars(schedules.betas(DiffusionConfig(schedule=name)))[0]
                       for name in ("tutorial", "tutorial_textbook"))
    assert first / textbook == pytest.approx(1 + 1e-4 / 1.199e-4, rel=1e-4)


def test_jsd_takes_the_same_from_alpha_bar_at_every_step():
    """alpha_bar_t = product of (T - s - 1) / (T - s) over s = 0..t = (T - t - 1) / T."""
    bars = schedules.alpha_bars(schedules.betas(DiffusionConfig(schedule="jsd", timesteps=5)))
    np.testing.assert_allclose(bars, [0.8, 0.6, 0.4, 0.2, 0.0], rtol=1e-14)
    tables = schedules.alpha_bars(schedules.betas(DiffusionConfig(schedule="jsd")), float32_tables=True)
    assert tables[-1] == 0 < tables[-2]


def test_scaling_by_1000_over_T():
    betas = schedules.betas(DiffusionConfig(timesteps=4000, beta_scaling=True))
    assert (betas[0], betas[-1]) == (pytest.approx(2.5e-5), pytest.approx(0.005))
    assert len(schedules.betas(DiffusionConfig(timesteps=21, beta_scaling=True))) == 21
    for T in (1, 20):
        with pytest.raises(ConfigError, match=f"timesteps={T}: .*beta=.*T must exceed 20"):
            DiffusionConfig(timesteps=T, beta_scaling=True)


def test_zero_terminal_snr_on_four_steps():
    """beta = 1/5, 1/4, 1/3, 1/2 gives alpha_bar = 4/5, 3/5, 2/5, 1/5. With r = sqrt(alpha_bar), algorithm 1 of Lin et al. maps
    r to (r - r_3) r_0 / (r_0 - r_3)."""
    r = [math.sqrt(k / 5) for k in (4, 3, 2, 1)]
    expected = [((x - r[3]) * r[0] / (r[0] - r[3])) ** 2 for x in r]
    rescaled = schedules.alpha_bars(schedules.zero_terminal_snr(np.array([1 / 5, 1 / 4, 1 / 3, 1 / 2])))
    np.testing.assert_allclose(rescaled, expected, rtol=1e-14, atol=0)
    given = DiffusionConfig(timesteps=4, trained_betas=(1 / 5, 1 / 4, 1 / 3, 1 / 2), zero_terminal_snr=True, objective="v")
    np.testing.assert_allclose(schedules.alpha_bars(schedules.betas(given)), expected, rtol=1e-14, atol=0)


@LAW
@given(diffusions())
def test_alpha_bars_fall_strictly_within_zero_and_one(config):
    betas = schedules.betas(config)
    alpha_bars = schedules.alpha_bars(betas)
    assert betas.shape == alpha_bars.shape == (config.timesteps,) and betas.dtype == alpha_bars.dtype == np.float64
    assert (np.diff(alpha_bars) < 0).all() and alpha_bars[0] < 1
    if config.ends_at_zero:
        assert alpha_bars[-1] == 0 and (alpha_bars[:-1] > 0).all() and betas[-1] == 1
        plain = schedules.BETAS[config.schedule]
        scale = 1000 / config.timesteps if config.beta_scaling else 1
        before = plain(config.timesteps, scale * config.beta_start, scale * config.beta_end)
        assert alpha_bars[0] == pytest.approx(1 - before[0], rel=1e-12)
    else:
        assert alpha_bars[-1] > 0 and (betas > 0).all() and (betas < 1).all()


@LAW
@given(diffusions())
def test_posterior_is_bayes_rule(config):
    """q(x_{t-1} | x_t, x_0) multiplies N(x_{t-1}; sqrt(ab_prev) x0, 1 - ab_prev) and N(x_t; sqrt(alpha) x_{t-1}, beta):
    precisions add, means are weighted by them."""
    s = Schedule.from_config(config)
    t = slice(1, -1) if config.ends_at_zero else slice(1, None)
    prior, likelihood = 1 / (1 - s.alpha_bars_prev[t]), s.alphas[t] / s.betas[t]
    variance = 1 / (prior + likelihood)
    loss_of_digits = 1e-15 / (1 - s.alpha_bars[0])
    np.testing.assert_allclose(s.posterior_variance[t], variance, rtol=8 * loss_of_digits)
    np.testing.assert_allclose(s.posterior_mean_x0[t], variance * prior * np.sqrt(s.alpha_bars_prev[t]), rtol=8 * loss_of_digits)
    np.testing.assert_allclose(s.posterior_mean_xt[t], variance * np.sqrt(s.alphas[t]) / s.betas[t], rtol=8 * loss_of_digits)
    assert s.posterior_variance[0] == 0 and s.alpha_bars_prev[0] == 1
    assert s.posterior_mean_x0[0] == pytest.approx(1) and s.posterior_mean_xt[0] == 0


def test_log_variance_of_the_first_step_is_the_second_ones():
    s = Schedule.from_config(DiffusionConfig())
    assert s.posterior_log_variance[0] == s.posterior_log_variance[1] == pytest.approx(math.log(s.posterior_variance[1]))
    assert Schedule.from_betas(np.array([0.25])).posterior_log_variance.tolist() == [math.log(0.25)]  # of one step its beta's


def test_float32_tables_are_rounded_once():
    """Betas and alphas in float32; their product in float64, rounded once. A float32 product drifts by 6e-7."""
    betas = schedules.betas(DiffusionConfig())
    product, expected = 1.0, []
    for beta in betas:
        product *= float(np.float32(1) - np.float32(beta))
        expected.append(float(np.float32(product)))
    tables = schedules.alpha_bars(betas, float32_tables=True)
    assert tables.tolist() == expected
    drift = np.abs(np.cumprod(np.float32(1) - betas.astype(np.float32), dtype=np.float32) / tables - 1).max()
    assert drift == pytest.approx(6e-7, rel=0.2)
