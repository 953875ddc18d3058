"""Noise schedules in float64: betas by name, and the tables derived from them.

Discrete time is t = 0..T-1, where t = 0 already carries one noising step. `alpha_bar` is the cumulative product of
`alpha = 1 - beta` (DDPM's notation; DDIM writes alpha for it). DDPM = Ho et al. 2020 (arXiv:2006.11239), DDIM = Song et al.
2021 (arXiv:2010.02502), IDDPM = Nichol & Dhariwal 2021 (arXiv:2102.09672).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
MAX_BETA = 0.999  # IDDPM, section 3.2: keeps the last steps of the cosine schedule from being singular


class Process(Protocol):
    """What the tables need of a `config.DiffusionConfig`, which checks itself by them."""

    @property
    def schedule(self) -> str: ...
    @property
    def timesteps(self) -> int: ...
    @property
    def beta_start(self) -> float: ...
    @property
    def beta_end(self) -> float: ...
    @property
    def beta_scaling(self) -> bool: ...
    @property
    def zero_terminal_snr(self) -> bool: ...
    @property
    def trained_betas(self) -> tuple[float, ...] | None: ...


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _float32(x: Array) -> Array:
    return x.astype(np.float32).astype(np.float64)


def _betas_from_alpha_bar(alpha_bar: Array) -> Array:
    """Betas of T steps from alpha_bar at T + 1 points that begin at the clean image; clipped at `MAX_BETA`."""
    return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], MAX_BETA)


def torch_linspace(start: float, end: float, n: int) -> Array:
    """`torch.linspace` in float32, n points: its step is a float32, and the second half is filled from the end backwards, with
    fused multiply-adds, which one rounding of the float64 value equals."""
    first, last = np.float32(start), np.float32(end)
    step, i = float((last - first) / np.float32(max(n - 1, 1))), np.arange(n)
    points = np.where(i < max(n // 2, 1), float(first) + step * i, float(last) - step * (n - 1 - i))
    return _float32(points)


def linear(T: int, beta_start: float, beta_end: float) -> Array:
    """DDPM section 4."""
    return np.linspace(beta_start, beta_end, T)


def quad(T: int, beta_start: float, beta_end: float) -> Array:
    """Linear in sqrt(beta); the DDIM code's `quad`, diffusers' `scaled_linear`."""
    return np.linspace(beta_start**0.5, beta_end**0.5, T) ** 2


def cosine(T: int, beta_start: float, beta_end: float) -> Array:
    """IDDPM equation 17. The two ends are not used: the curve fixes its own."""
    t = np.arange(T + 1) / T
    return _betas_from_alpha_bar(np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2)


def sigmoid(T: int, beta_start: float, beta_end: float) -> Array:
    """The DDIM code's `sigmoid`: betas on a logistic curve over [-6, 6]."""
    return _sigmoid(np.linspace(-6, 6, T)) * (beta_end - beta_start) + beta_start


def const(T: int, beta_start: float, beta_end: float) -> Array:
    """The DDIM code's `const`: every beta is the last one. The first end is not used."""
    return np.full(T, beta_end)


def jsd(T: int, beta_start: float, beta_end: float) -> Array:
    """The DDIM code's `jsd`: 1/T, .., 1/2, 1 (Sohl-Dickstein et al. 2015, arXiv:1503.03585, section 2.4.1, there for binomial
    diffusion). alpha_bar falls by 1/T at every step, to 0 at the last. The two ends are not used."""
    return 1 / np.arange(T, 0, -1)


def sigmoid_alpha_bar(T: int, beta_start: float, beta_end: float) -> Array:
    """Jabri et al. 2022 (arXiv:2212.11972), algorithm 1 with start -3, end 3, tau 1. The two beta ends are not used."""
    start, end = _sigmoid(np.array(-3.0)), _sigmoid(np.array(3.0))
    t = np.arange(T + 1) / T
    return _betas_from_alpha_bar((end - _sigmoid(t * 6 - 3)) / (end - start))


def sigmoid_alpha_bar_float32(T: int, beta_start: float, beta_end: float) -> Array:
    """`sigmoid_alpha_bar` with its end rounded to float32, as lucidrains' code has it: betas are up to 6.5e-6 off at T = 1000."""
    end = np.float64(np.float32(_sigmoid(np.array(3.0))))
    return _betas_from_alpha_bar(end - _sigmoid(np.arange(T + 1) / T * 6 - 3))


def linear_float32(T: int, beta_start: float, beta_end: float) -> Array:
    """`linear` as diffusers builds it, by a float32 linspace: not always the float32 nearest to `linear`."""
    return torch_linspace(beta_start, beta_end, T)


def quad_float32(T: int, beta_start: float, beta_end: float) -> Array:
    """`quad` as diffusers builds it, in float32 throughout."""
    return _float32(torch_linspace(beta_start**0.5, beta_end**0.5, T) ** 2)


def tutorial(T: int, beta_start: float, beta_end: float) -> Array:
    """T + 1 linear points, as the code of tutorials has them that count t = 1..T: alpha_bar is a product from point 0 on, though t
    is never 0. The first beta here has points 0 and 1, so 1 - alpha_bar begins at about twice `tutorial_textbook`'s."""
    points = np.linspace(beta_start, beta_end, T + 1)
    return np.concatenate(([1 - (1 - points[0]) * (1 - points[1])], points[2:]))


def tutorial_textbook(T: int, beta_start: float, beta_end: float) -> Array:
    """The T + 1 linear points of `tutorial` without the first, which DDPM's product over s = 1..t (section 2) does not have."""
    return np.linspace(beta_start, beta_end, T + 1)[1:]


BETAS = {f.__name__: f for f in (linear, quad, cosine, sigmoid, const, jsd, sigmoid_alpha_bar, tutorial, tutorial_textbook,
                                 linear_float32, quad_float32, sigmoid_alpha_bar_float32)}


def zero_terminal_snr(betas: Array) -> Array:
    """Lin et al. 2023 (arXiv:2305.08891), algorithm 1: shift and scale sqrt(alpha_bar) so that its last value is 0."""
    root = np.sqrt(np.cumprod(1 - betas))
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    alpha_bars = root**2
    return 1 - alpha_bars / np.concatenate(([1.0], alpha_bars[:-1]))


def betas(config: Process) -> Array:
    """Betas of a diffusion config, shape (T,), float64 in (0, 1) (the last is 1 with zero terminal SNR and with jsd)."""
    scale = 1000 / config.timesteps if config.beta_scaling else 1.0
    if config.trained_betas is not None:
        out = np.array(config.trained_betas)
    else:
        out = BETAS[config.schedule](config.timesteps, scale * config.beta_start, scale * config.beta_end)
    return zero_terminal_snr(out) if config.zero_terminal_snr else out


def alpha_bars(betas: Array, float32_tables: bool = False) -> Array:
    """Cumulative product of 1 - betas, shape (T,), strictly decreasing.

    `float32_tables` rounds as a float32 torch code does: betas and alphas to float32, the product accumulated in float64,
    its result rounded to float32.
    """
    if float32_tables:
        alphas = np.float32(1) - betas.astype(np.float32)
        return _float32(np.cumprod(alphas, dtype=np.float64))
    return np.cumprod(1 - betas)


@dataclass(frozen=True)
class Schedule:
    """All tables of a forward process and its posterior q(x_{t-1} | x_t, x_0), each of shape (T,), float64."""

    betas: Array
    alphas: Array
    alpha_bars: Array
    alpha_bars_prev: Array
    posterior_variance: Array  # beta_tilde, DDPM equation 7; 0 at t = 0
    posterior_log_variance: Array  # clipped: t = 0 carries the value of t = 1 (DDPM and IDDPM code)
    posterior_mean_x0: Array  # coefficient of x0 in mu_tilde, DDPM equation 7
    posterior_mean_xt: Array  # coefficient of x_t

    @staticmethod
    def from_betas(betas: Array) -> Schedule:
        """Tables from betas of shape (T,)."""
        alphas, bars = 1 - betas, alpha_bars(betas)
        prev = np.concatenate(([1.0], bars[:-1]))
        variance = betas * (1 - prev) / (1 - bars)
        clipped = np.concatenate((variance[1:2] if len(betas) > 1 else betas, variance[1:]))
        return Schedule(betas, alphas, bars, prev, variance, np.log(clipped),
                        np.sqrt(prev) * betas / (1 - bars), np.sqrt(alphas) * (1 - prev) / (1 - bars))

    @staticmethod
    def from_config(config: Process) -> Schedule:
        """Tables of a diffusion config."""
        return Schedule.from_betas(betas(config))
