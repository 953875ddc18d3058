"""The forward process, the three things a network may predict, the posterior, and the training losses, in float64.

Shapes: images (N, C, H, W), t (N,) integers in 0..T-1. SNR(t) = alpha_bar / (1 - alpha_bar).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from .config import BOUNDS, DiffusionConfig
from .schedules import Array, Schedule

Index = NDArray[np.int64]


def _at(table: Array, t: Index) -> Array:
    return table[t].reshape(-1, 1, 1, 1)


def network_t(config: DiffusionConfig, t: Index | Array) -> Array:
    """The network's input for t, float64: t itself, `config.told_timesteps`, between which lines run, or with
    `config.rescale_timesteps` t x 1000/T in float32, as IDDPM does."""
    if config.told_timesteps is not None:
        return np.interp(t, np.arange(config.timesteps), config.told_timesteps)
    if not config.rescale_timesteps:
        return t.astype(np.float64)
    return (t.astype(np.float32) * np.float32(1000 / config.timesteps)).astype(np.float64)


def q_sample(x0: Array, t: Index, noise: Array, alpha_bars: Array) -> Array:
    """x_t from x_0 (DDPM equation 4)."""
    ab = _at(alpha_bars, t)
    return np.sqrt(ab) * x0 + np.sqrt(1 - ab) * noise


def x0_from_eps(xt: Array, t: Index, eps: Array, alpha_bars: Array) -> Array:
    """DDPM equation 15."""
    ab = _at(alpha_bars, t)
    return (xt - np.sqrt(1 - ab) * eps) / np.sqrt(ab)


def eps_from_x0(xt: Array, t: Index, x0: Array, alpha_bars: Array) -> Array:
    """DDPM equation 4 solved for eps."""
    ab = _at(alpha_bars, t)
    return (xt - np.sqrt(ab) * x0) / np.sqrt(1 - ab)


def v_from_x0_eps(x0: Array, t: Index, eps: Array, alpha_bars: Array) -> Array:
    """v = sqrt(ab) eps - sqrt(1 - ab) x0 (Salimans & Ho 2022, arXiv:2202.00512, appendix D)."""
    ab = _at(alpha_bars, t)
    return np.sqrt(ab) * eps - np.sqrt(1 - ab) * x0


def x0_from_v(xt: Array, t: Index, v: Array, alpha_bars: Array) -> Array:
    """x0 = sqrt(ab) x_t - sqrt(1 - ab) v."""
    ab = _at(alpha_bars, t)
    return np.sqrt(ab) * xt - np.sqrt(1 - ab) * v


def eps_from_v(xt: Array, t: Index, v: Array, alpha_bars: Array) -> Array:
    """eps = sqrt(1 - ab) x_t + sqrt(ab) v."""
    ab = _at(alpha_bars, t)
    return np.sqrt(1 - ab) * xt + np.sqrt(ab) * v


def x0_from_output(config: DiffusionConfig, xt: Array, t: Index, output: Array, alpha_bars: Array) -> Array:
    """The x0 that a network's output means, by the config's objective."""
    if config.objective == "x0":
        return output
    if config.objective == "previous":
        schedule = Schedule.from_config(config)
        return (output - _at(schedule.posterior_mean_xt, t) * xt) / _at(schedule.posterior_mean_x0, t)
    return (x0_from_eps if config.objective == "eps" else x0_from_v)(xt, t, output, alpha_bars)


def target(config: DiffusionConfig, x0: Array, t: Index, noise: Array, alpha_bars: Array) -> Array:
    """What the network is trained to output."""
    if config.objective == "x0":
        return x0
    if config.objective == "previous":
        return posterior_mean(x0, q_sample(x0, t, noise, alpha_bars), t, Schedule.from_config(config))
    return noise if config.objective == "eps" else v_from_x0_eps(x0, t, noise, alpha_bars)


def loss_weights(config: DiffusionConfig, alpha_bars: Array) -> Array:
    """Weight of the loss at each timestep, shape (T,).

    At the same t the eps loss is SNR times the x0 loss, and SNR / (SNR + 1) times the v loss. The "previous" loss is c^2 times the
    x0 loss, with c the weight of x0 in DDPM equation 7. "snr" weights these, so that every objective has the unweighted eps loss
    (lucidrains' code). "p2": (k + SNR)^-gamma times that (Choi et al. 2022,
    arXiv:2204.00227, equation 8). "min_snr": min(SNR, gamma) on the x0 loss (Hang et al. 2023, arXiv:2303.09556), divided by SNR
    for eps and by SNR + 1 for v.
    """
    if config.loss_weight == "none":
        return np.ones_like(alpha_bars)
    snr = alpha_bars / (1 - alpha_bars)
    of_x0 = Schedule.from_config(config).posterior_mean_x0 ** 2 if config.objective == "previous" else 1.0
    as_eps = {"x0": snr, "eps": np.ones_like(snr), "previous": snr / of_x0, "v": snr / (snr + 1)}[config.objective]
    if config.loss_weight == "snr":
        return as_eps
    if config.loss_weight == "p2":
        return (config.p2_k + snr) ** -config.p2_gamma * as_eps
    clipped, of_eps = np.minimum(snr, config.min_snr_gamma), np.minimum(config.min_snr_gamma / np.maximum(snr, 1e-20), 1)
    return {"x0": clipped, "eps": of_eps, "previous": clipped / of_x0, "v": clipped / (snr + 1)}[config.objective]


def posterior_mean(x0: Array, xt: Array, t: Index, schedule: Schedule) -> Array:
    """Mean of q(x_{t-1} | x_t, x_0) (DDPM equation 7)."""
    return _at(schedule.posterior_mean_x0, t) * x0 + _at(schedule.posterior_mean_xt, t) * xt


def model_log_variance(config: DiffusionConfig, variance: Array, t: Index, schedule: Schedule) -> Array:
    """log variance of p(x_{t-1} | x_t); `variance` is the second half of the output's channels, unused where it is fixed.

    Learned range: exp(v log beta + (1 - v) log beta_tilde), v from [-1, 1] to [0, 1] (IDDPM equation 15). At t = 0 the small
    variance is beta_tilde_1, and so is the large one with `config.large_variance_first`.
    """
    small = _at(schedule.posterior_log_variance, t)
    if config.variance == "learned":
        return variance
    if config.variance == "small":
        return small
    large = np.log(_at(schedule.betas, t))
    if config.variance == "large":
        return np.where(t.reshape(-1, 1, 1, 1) == 0, small, large) if config.large_variance_first else large
    share = (variance + 1) / 2
    return share * large + (1 - share) * small


def normal_kl(mean1: Array, logvar1: Array, mean2: Array, logvar2: Array) -> Array:
    """KL(N1 || N2) per element, nats."""
    return 0.5 * (logvar2 - logvar1 - 1 + np.exp(logvar1 - logvar2) + (mean1 - mean2) ** 2 * np.exp(-logvar2))


def approximate_cdf(x: Array) -> Array:
    """Distribution function of the standard normal in the code of Ho et al. and IDDPM; the tanh formula of Page 1977."""
    return (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2


def discretised_nll(x0: Array, mean: Array, log_scale: Array, cdf: Callable[[Array], Array] = ndtr) -> Array:
    """-log probability of 8-bit pixels in [-1, 1] under a Gaussian cut into bins of 2/255 (DDPM equation 13), nats."""
    inverse = np.exp(-log_scale)
    upper, lower = cdf((x0 - mean + 1 / 255) * inverse), cdf((x0 - mean - 1 / 255) * inverse)
    upper, lower = np.where(x0 > 0.999, 1, upper), np.where(x0 < -0.999, 0, lower)
    return -np.log(np.maximum(upper - lower, 1e-12))


def vlb_terms(config: DiffusionConfig, x0: Array, xt: Array, t: Index, output: Array, variance: Array, schedule: Schedule,
              clip: bool = False) -> Array:
    """One term of the variational bound per image, bits per dimension, shape (N,) (DDPM equation 5).

    KL of the posterior from the model for t > 0, the discretised likelihood at t = 0. With the objective "previous" the output is
    the model's mean, and clipping x0_hat changes nothing.
    """
    x0_hat = x0_from_output(config, xt, t, output, schedule.alpha_bars)
    x0_hat = np.clip(x0_hat, -1, 1) if clip else x0_hat
    mean = output if config.objective == "previous" else posterior_mean(x0_hat, xt, t, schedule)
    log_variance = model_log_variance(config, variance, t, schedule)
    kl = normal_kl(posterior_mean(x0, xt, t, schedule), _at(schedule.posterior_log_variance, t), mean, log_variance)
    nll = discretised_nll(x0, mean, 0.5 * log_variance, approximate_cdf if config.approximate_cdf else ndtr)
    return np.where(t.reshape(-1, 1, 1, 1) == 0, nll, kl).mean(axis=(1, 2, 3)) / np.log(2)


def prior_bits(x0: Array, schedule: Schedule) -> Array:
    """KL(q(x_T | x_0) || N(0, 1)) per image, bits per dimension, shape (N,)."""
    ab = schedule.alpha_bars[-1]
    zero = np.zeros_like(x0)
    return normal_kl(np.sqrt(ab) * x0, zero + np.log(1 - ab), zero, zero).mean(axis=(1, 2, 3)) / np.log(2)


def pixel_loss(error: Array, loss: str) -> Array:
    """Each pixel's part of the loss: the square ("l2"), the size ("l1"), or Huber's function with delta = 1 (Huber 1964), half the
    square below 1 and the size less a half above."""
    if loss == "huber":
        return np.where(np.abs(error) < 1, error**2 / 2, np.abs(error) - 0.5)
    return error**2 if loss == "l2" else np.abs(error)


def loss(config: DiffusionConfig, x0: Array, t: Index, noise: Array, output: Array) -> float:
    """The training loss of one batch: mean over images of weight(t) x mean over pixels of `pixel_loss` of output - target, with
    `config.loss_sum` the sum over pixels.

    With a learned variance (IDDPM section 3.1) `output` is (N, 2C, H, W) and the loss is L_simple + L_vlb / 1000, where L_vlb
    is T x the batch's mean bound term, and the mean is held fixed in it: its gradient reaches the variance alone. Without
    `config.rescale_bound` the mean bound term is added as it is. The losses kl (the mean bound term) and rescaled_kl (L_vlb) have
    the bound alone, whose gradient reaches mean and variance.
    """
    schedule = Schedule.from_config(config)
    mean, variance = output[:, : x0.shape[1]], output[:, x0.shape[1]:]
    xt = q_sample(x0, t, noise, schedule.alpha_bars)
    if config.loss in BOUNDS:
        bound = vlb_terms(config, x0, xt, t, mean, variance, schedule).mean()
        return float(bound * config.timesteps if config.loss == "rescaled_kl" else bound)
    pixels = pixel_loss(mean - target(config, x0, t, noise, schedule.alpha_bars), config.loss)
    per_image = pixels.sum(axis=(1, 2, 3)) if config.loss_sum else pixels.mean(axis=(1, 2, 3))
    total = (loss_weights(config, schedule.alpha_bars)[t] * per_image).mean()
    if config.learned_variance:
        scale = config.timesteps / 1000 if config.rescale_bound else 1.0
        total += scale * vlb_terms(config, x0, xt, t, mean, variance, schedule).mean()
    return float(total)


def self_condition(x0_hat: Array, coin: NDArray[np.bool_]) -> Array:
    """What a self-conditioned network is shown in training (Chen et al. 2022, arXiv:2208.04202): its own first, unclipped
    x0_hat, through which no gradient flows, for images whose coin (N,) is true, else zeros."""
    return x0_hat * coin.reshape(-1, 1, 1, 1)


def slerp(a: Array, b: Array, share: float) -> Array:
    """Spherical interpolation between two latents (C, H, W) (DDIM equation 67); share 0 gives a, 1 gives b."""
    theta = np.arccos(np.clip(np.vdot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)), -1, 1))
    if np.sin(theta) < 1e-12:
        return (1 - share) * a + share * b
    return (np.sin((1 - share) * theta) * a + np.sin(share * theta) * b) / np.sin(theta)


def mix(a: Array, b: Array, share: float) -> Array:
    """DDPM's interpolation of two images diffused to the same t (section 4.4, appendix D): (1 - share) a + share b."""
    return (1 - share) * a + share * b
