"""Noise schedules in float64, the same functions as `reference/schedules.py` in torch. Tables are made on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from reference.config import DiffusionConfig

MAX_BETA = 0.999  # IDDPM, section 3.2
F64 = torch.float64


def _betas_from_alpha_bar(alpha_bar: Tensor) -> Tensor:
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=MAX_BETA)


def torch_linspace(start: float, end: float, n: int) -> Tensor:
    """`torch.linspace` in float32, as `reference/schedules.py` has it, so that every processor gives the same numbers."""
    first, last = torch.tensor([start, end]).double()
    step = ((last - first).float() / max(n - 1, 1)).double()
    i = torch.arange(n, dtype=F64)
    return torch.where(i < max(n // 2, 1), first + step * i, last - step * (n - 1 - i)).float().double()


def linear(T: int, beta_start: float, beta_end: float) -> Tensor:
    """DDPM section 4."""
    return torch.linspace(beta_start, beta_end, T, dtype=F64)


def quad(T: int, beta_start: float, beta_end: float) -> Tensor:
    """Linear in sqrt(beta); the DDIM code's `quad`, diffusers' `scaled_linear`."""
    return torch.linspace(beta_start**0.5, beta_end**0.5, T, dtype=F64) ** 2


def cosine(T: int, beta_start: float, beta_end: float) -> Tensor:
    """IDDPM equation 17. The two ends are not used: the curve fixes its own."""
    t = torch.arange(T + 1, dtype=F64) / T
    return _betas_from_alpha_bar(torch.cos((t + 0.008) / 1.008 * torch.pi / 2) ** 2)


def sigmoid(T: int, beta_start: float, beta_end: float) -> Tensor:
    """The DDIM code's `sigmoid`: betas on a logistic curve over [-6, 6]."""
    return torch.sigmoid(torch.linspace(-6, 6, T, dtype=F64)) * (beta_end - beta_start) + beta_start


def const(T: int, beta_start: float, beta_end: float) -> Tensor:
    """The DDIM code's `const`: every beta is the last one. The first end is not used."""
    return torch.full((T,), beta_end, dtype=F64)


def jsd(T: int, beta_start: float, beta_end: float) -> Tensor:
    """The DDIM code's `jsd`: 1/T, .., 1/2, 1, so that alpha_bar ends at 0. The two ends are not used."""
    return 1 / torch.arange(T, 0, -1, dtype=F64)


def sigmoid_alpha_bar(T: int, beta_start: float, beta_end: float) -> Tensor:
    """Jabri et al. 2022 (arXiv:2212.11972), algorithm 1 with start -3, end 3, tau 1. The two beta ends are not used."""
    start, end = torch.sigmoid(torch.tensor([-3.0, 3.0], dtype=F64))
    t = torch.arange(T + 1, dtype=F64) / T
    return _betas_from_alpha_bar((end - torch.sigmoid(t * 6 - 3)) / (end - start))


def sigmoid_alpha_bar_float32(T: int, beta_start: float, beta_end: float) -> Tensor:
    """`sigmoid_alpha_bar` with its end rounded to float32, as lucidrains' code has it: betas are up to 6.5e-6 off at T = 1000."""
    end = torch.sigmoid(torch.tensor(3.0, dtype=F64)).float().double()
    return _betas_from_alpha_bar(end - torch.sigmoid(torch.arange(T + 1, dtype=F64) / T * 6 - 3))


def linear_float32(T: int, beta_start: float, beta_end: float) -> Tensor:
    """`linear` as diffusers builds it, by a float32 linspace."""
    return torch_linspace(beta_start, beta_end, T)


def quad_float32(T: int, beta_start: float, beta_end: float) -> Tensor:
    """`quad` as diffusers builds it, in float32 throughout."""
    return (torch_linspace(beta_start**0.5, beta_end**0.5, T) ** 2).float().double()


def tutorial(T: int, beta_start: float, beta_end: float) -> Tensor:
    """T + 1 linear points, as the code of tutorials has them that count t = 1..T: alpha_bar is a product from point 0 on, though t
    is never 0. The first beta here has points 0 and 1."""
    points = torch.linspace(beta_start, beta_end, T + 1, dtype=F64)
    return torch.cat((1 - (1 - points[:1]) * (1 - points[1:2]), points[2:]))


def tutorial_textbook(T: int, beta_start: float, beta_end: float) -> Tensor:
    """The T + 1 linear points of `tutorial` without the first."""
    return torch.linspace(beta_start, beta_end, T + 1, dtype=F64)[1:]


BETAS = {f.__name__: f for f in (linear, quad, cosine, sigmoid, const, jsd, sigmoid_alpha_bar, tutorial, tutorial_textbook,
                                 linear_float32, quad_float32, sigmoid_alpha_bar_float32)}


def zero_terminal_snr(betas: Tensor) -> Tensor:
    """Lin et al. 2023 (arXiv:2305.08891), algorithm 1: shift and scale sqrt(alpha_bar) so that its last value is 0."""
    root = torch.sqrt(torch.cumprod(1 - betas, 0))
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    alpha_bars = root**2
    return 1 - alpha_bars / torch.cat((torch.ones(1, dtype=F64), alpha_bars[:-1]))


def betas(config: DiffusionConfig) -> Tensor:
    """Betas of a diffusion config, shape (T,), float64."""
    scale = 1000 / config.timesteps if config.beta_scaling else 1.0
    if config.trained_betas is not None:
        out = torch.tensor(config.trained_betas, dtype=F64)
    else:
        out = BETAS[config.schedule](config.timesteps, scale * config.beta_start, scale * config.beta_end)
    return zero_terminal_snr(out) if config.zero_terminal_snr else out


def alpha_bars(betas: Tensor, float32_tables: bool = False) -> Tensor:
    """Cumulative product of 1 - betas, shape (T,), float64; `float32_tables` rounds as a float32 torch code does."""
    if float32_tables:
        return torch.cumprod(1 - betas.float(), 0, dtype=F64).float().double()
    return torch.cumprod(1 - betas, 0)
