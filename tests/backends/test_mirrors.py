"""What the backends mirror of the reference beyond the conformance kit's reach: the variational bound of every variance, bits per
dimension, and what the network is told in training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

import backends
from backends.protocol import Batch, Spec
from reference import diffusion, schedules, unet, weights
from reference.config import OBJECTIVES, VARIANCES, DiffusionConfig, ModelConfig
from reference.conventions import adopt

MODEL = ModelConfig(sample_size=4, block_out_channels=(8, 16), norm_num_groups=4, zero_init=False,
                    down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"))
CONVENTIONS = ("plain", "ho2020", "nichol2021")  # whose bounds differ


@dataclass(frozen=True)
class Mirror:
    """A backend, and how exact it is."""

    name: str
    backend: Any
    dtype: str
    tolerance: float

    def process(self, config: DiffusionConfig) -> Any:
        """The forward process."""
        return self.backend.process.of(config)

    def tensor(self, array: np.ndarray) -> Any:
        """The backend's own."""
        return self.backend.to_device(array)

    def host(self, tensor: Any) -> np.ndarray:
        """As NumPy's."""
        return np.asarray(self.backend.to_host(tensor), np.float64)


@pytest.fixture(scope="module", params=backends.with_likelihood())
def mirror(request) -> Mirror:
    if not backends.installed(name := request.param):
        pytest.skip(f"{name} is not installed")
    dtype, tolerance = ("float64", 1e-10) if "float64" in backends.about(name).dtypes else ("float32", 2e-4)
    return Mirror(name, backends.load(name).create(Spec(MODEL, DiffusionConfig(timesteps=100), dtype=dtype)), dtype, tolerance)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_variational_bound(mirror, convention):
    """Every variance, clipped and not, at t = 0, 1, .. T - 1 from a network that is a little off; edge pixels included."""
    rng = np.random.default_rng(0)
    t = np.array([0, 0, 1, 50, 99])
    x0 = np.clip(1.5 * rng.standard_normal((5, 1, 4, 4)), -1, 1)
    noise, error = rng.standard_normal((2, 5, 1, 4, 4))
    for variance in VARIANCES:
        config = adopt(DiffusionConfig(timesteps=100, variance=variance), convention)
        schedule, process = schedules.Schedule.from_config(config), mirror.process(config)
        v = 0.5 * error - 4 if variance == "learned" else 0.5 * error
        xt, output = diffusion.q_sample(x0, t, noise, schedule.alpha_bars), noise + 0.1 * error
        for clip in (False, True):
            expected = diffusion.vlb_terms(config, x0, xt, t, output, v, schedule, clip)
            got = process.vlb_terms(*map(mirror.tensor, (x0, xt, t, output, v)), clip)
            np.testing.assert_allclose(mirror.host(got), expected, rtol=mirror.tolerance, err_msg=f"{variance}, clip={clip}")
        np.testing.assert_allclose(mirror.host(process.prior_bits(mirror.tensor(x0))), diffusion.prior_bits(x0, schedule),
                                   rtol=mirror.tolerance)


def test_a_process_of_one_step_is_its_decoder(mirror):
    """There is no second step whose beta_tilde the first could take: the small variance is beta, as the large one."""
    x0, noise = np.random.default_rng(0).uniform(-1, 1, (2, 3, 1, 4, 4))
    for variance in ("small", "learned_range"):
        config = DiffusionConfig(timesteps=1, beta_start=0.1, beta_end=0.1, variance=variance)
        given = (x0, diffusion.q_sample(x0, np.zeros(3, int), noise, np.array([0.9])), np.zeros(3, int), 0.9 * noise, noise)
        expected = diffusion.vlb_terms(config, *given, schedules.Schedule.from_config(config))
        got = mirror.host(mirror.process(config).vlb_terms(*map(mirror.tensor, given)))
        np.testing.assert_allclose(got, expected, rtol=mirror.tolerance, err_msg=variance)
        assert np.isfinite(expected).all()


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_the_likelihood_of_pixels_far_from_the_mean(mirror, convention):
    """Bins 3 to 5.5 standard deviations away, on both sides: there a distribution function is near 0 and near 1."""
    config = adopt(DiffusionConfig(timesteps=100, variance="learned", objective="x0"), convention)
    schedule, process = schedules.Schedule.from_config(config), mirror.process(config)
    far = np.linspace(3, 5.5, 9).repeat(2) * np.tile((1, -1), 9)
    x0 = 0.5 * np.ones((18, 1, 4, 4))
    log_variance = np.full_like(x0, 2 * np.log(0.02))
    t, xt = np.zeros(18, int), x0.copy()  # beta_1 is small: mean_x0 is near 1 at t = 0, and the mean is the network's x0
    output = x0 + 0.02 * far.reshape(-1, 1, 1, 1)
    expected = diffusion.vlb_terms(config, x0, xt, t, output, log_variance, schedule)
    got = mirror.host(process.vlb_terms(*map(mirror.tensor, (x0, xt, t, output, log_variance))))
    np.testing.assert_allclose(got, expected, rtol=max(mirror.tolerance, 1e-6))  # of a difference of two values near 1
    assert np.ptp(expected) > 10  # bits: the likelihoods differ, and few are at the bound's floor of 1e-12
    assert (expected < 0.99 * -np.log2(1e-12)).all()


@pytest.mark.parametrize("weight", ["none", "snr", "p2", "min_snr"])
def test_weights_of_the_loss_down_to_an_alpha_bar_of_0(mirror, weight):
    """jsd of 5 steps ends at SNR = 0, where eps has min-SNR's weight 1 and no objective has NaN."""
    for objective in OBJECTIVES:
        config = DiffusionConfig(timesteps=5, schedule="jsd", objective=objective, loss_weight=weight)
        process = mirror.process(config)
        got = mirror.host(process.tables["weight"] if hasattr(process, "tables") else process.weight)
        expected = diffusion.loss_weights(config, schedules.alpha_bars(schedules.betas(config)))
        np.testing.assert_allclose(got, expected, rtol=mirror.tolerance, atol=1e-12, err_msg=objective)
        assert np.isfinite(expected).all() and (expected[-1] == 1 or (objective, weight) != ("eps", "min_snr"))


def test_the_network_is_told_rescaled_timesteps_in_training(mirror):
    """T = 300: a network told t in place of t x 10/3 has another loss."""
    config = adopt(DiffusionConfig(timesteps=300), "nichol2021")
    rng, w = np.random.default_rng(0), weights.initialise(MODEL, 0)
    x0, noise = rng.uniform(-1, 1, (2, 3, 1, 4, 4)).astype(np.float32)
    t = np.array([1, 100, 299])
    backend = backends.load(mirror.name).create(Spec(MODEL, config, dtype=mirror.dtype))
    backend.load_weights(w)
    got = float(backend.to_host(backend.loss_and_gradients(Batch(np.arange(3), x0, t, noise, 0))[0]))
    xt = diffusion.q_sample(x0.astype(np.float64), t, noise, schedules.alpha_bars(schedules.betas(config)))

    def loss(told: np.ndarray) -> float:
        return diffusion.loss(config, x0, t, noise, unet.forward(w, MODEL, xt, told))

    assert got == pytest.approx(loss(diffusion.network_t(config, t)), rel=max(1e-9, mirror.tolerance / 10))
    assert abs(loss(t) / got - 1) > 1e-3
    assert diffusion.network_t(replace(config, rescale_timesteps=False), t).tolist() == t.tolist()
