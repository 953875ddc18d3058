"""Noise schedules in float64, the same functions as `reference/schedules.py` in JAX. Callers see to it that JAX has 64 bits."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from reference.config import DiffusionConfig

MAX_BETA = 0.999  # IDDPM, section 3.2
F64 = jnp.float64


@jax.jit
def _cumprod(factors: jax.Array) -> jax.Array:
    """One factor after the other, as NumPy has it: `jnp.cumprod` multiplies in pairs and rounds elsewhere."""
    return jax.lax.scan(lambda product, factor: (product * factor,) * 2, jnp.ones((), F64), factors)[1]


def _over(values: jax.Array, number: float | jax.Array) -> jax.Array:
    """values / number, rounded once. JAX 0.10 hands `/` to XLA with the number's broadcast in it, and XLA multiplies by the inverse
    then, which rounds twice."""
    return jax.lax.div(values, jnp.full(values.shape, number, F64))


def _betas_from_alpha_bar(alpha_bar: jax.Array) -> jax.Array:
    return jnp.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], MAX_BETA)


def torch_linspace(start: float, end: float, n: int) -> jax.Array:
    """`jnp.linspace` in float32, as `reference/schedules.py` has it."""
    first, last = jnp.array([start, end], jnp.float32).astype(F64)
    # Rounded once by way of float64, which has more than twice float32's digits: a GPU's own float32 division is not exact.
    step = _over((last - first).astype(jnp.float32).astype(F64), max(n - 1, 1)).astype(jnp.float32).astype(F64)
    i = jnp.arange(n, dtype=F64)
    return jnp.where(i < max(n // 2, 1), first + step * i, last - step * (n - 1 - i)).astype(jnp.float32).astype(F64)


def linear(T: int, beta_start: float, beta_end: float) -> jax.Array:
    """DDPM section 4."""
    return jnp.linspace(beta_start, beta_end, T, dtype=F64)


def quad(T: int, beta_start: float, beta_end: float) -> jax.Array:
    """Linear in sqrt(beta); the DDIM code's `quad`, diffusers' `scaled_linear`."""
    return jnp.linspace(beta_start**0.5, beta_end**0.5, T, dtype=F64) ** 2


def cosine(T: int, beta_start: float, beta_end: float) -> jax.Array:
    """IDDPM equation 17. The two ends are not used: the curve fixes its own."""
    t = _over(jnp.arange(T + 1, dtype=F64), T)
    return _betas_from_alpha_bar(jnp.cos(_over(t + 0.008, 1.008) * jnp.pi / 2) ** 2)


def sigmoid(T: int, beta_start: float, beta_end: float) -> jax.Array:
    """The DDIM code's `sigmoid`: betas on a logistic curve over [-6, 6]."""
    return jax.nn.sigmoid(jnp.linspace(-6, 6, T, dtype=F64)) * (beta_end - beta_start) + beta_start


def const(T: int, beta_start: float, beta_end: float) -> jax.Array:
    """The DDIM code's `const`: every beta is the last one. The first end is not used."""
    return jnp.full((T,), beta_end, dtype=F64)


def jsd(T: int, beta_start: float, beta_end: float) -> jax.Array:
    """The DDIM code's `jsd`: 1/T, .., 1/2, 1, so that alpha_bar ends at 0. The two ends are not used."""
    return 1 / jnp.arange(T, 0, -1, dtype=F64)


def sigmoid_alpha_bar(T: int, beta_start: float, beta_end: float) -> jax.Array:
    """Jabri et al. 2022 (arXiv:2212.11972), algorithm 1 with start -3, end 3, tau 1. The two beta ends are not used."""
    start, end = jax.nn.sigmoid(jnp.array([-3.0, 3.0], dtype=F64))
    t = _over(jnp.arange(T + 1, dtype=F64), T)
    return _betas_from_alpha_bar(_over(end - jax.nn.sigmoid(t * 6 - 3), end - start))


def sigmoid_alpha_bar_float32(T: int, beta_start: float, beta_end: float) -> jax.Array:
    """`sigmoid_alpha_bar` with its end rounded to float32, as lucidrains' code has it: betas are up to 6.5e-6 off at T = 1000."""
    end = jax.nn.sigmoid(jnp.array(3.0, dtype=F64)).astype(jnp.float32).astype(F64)
    return _betas_from_alpha_bar(end - jax.nn.sigmoid(_over(jnp.arange(T + 1, dtype=F64), T) * 6 - 3))


def linear_float32(T: int, beta_start: float, beta_end: float) -> jax.Array:
    """`linear` as diffusers builds it, by a float32 linspace."""
    return torch_linspace(beta_start, beta_end, T)


def quad_float32(T: int, beta_start: float, beta_end: float) -> jax.Array:
    """`quad` as diffusers builds it, in float32 throughout."""
    return (torch_linspace(beta_start**0.5, beta_end**0.5, T) ** 2).astype(jnp.float32).astype(F64)


def tutorial(T: int, beta_start: float, beta_end: float) -> jax.Array:
    """T + 1 linear points, as the code of tutorials has them that count t = 1..T: alpha_bar is a product from point 0 on, though t
    is never 0. The first beta here has points 0 and 1."""
    points = jnp.linspace(beta_start, beta_end, T + 1, dtype=F64)
    return jnp.concatenate((1 - (1 - points[:1]) * (1 - points[1:2]), points[2:]))


def tutorial_textbook(T: int, beta_start: float, beta_end: float) -> jax.Array:
    """The T + 1 linear points of `tutorial` without the first."""
    return jnp.linspace(beta_start, beta_end, T + 1, dtype=F64)[1:]


BETAS = {f.__name__: f for f in (linear, quad, cosine, sigmoid, const, jsd, sigmoid_alpha_bar, tutorial, tutorial_textbook,
                                 linear_float32, quad_float32, sigmoid_alpha_bar_float32)}


def zero_terminal_snr(betas: jax.Array) -> jax.Array:
    """Lin et al. 2023 (arXiv:2305.08891), algorithm 1: shift and scale sqrt(alpha_bar) so that its last value is 0."""
    root = jnp.sqrt(_cumprod(1 - betas))
    root = _over((root - root[-1]) * root[0], root[0] - root[-1])
    alpha_bars = root**2
    return 1 - alpha_bars / jnp.concatenate((jnp.ones(1, dtype=F64), alpha_bars[:-1]))


def betas(config: DiffusionConfig) -> jax.Array:
    """Betas of a diffusion config, shape (T,), float64."""
    scale = 1000 / config.timesteps if config.beta_scaling else 1.0
    if config.trained_betas is not None:
        out = jnp.array(config.trained_betas, dtype=F64)
    else:
        out = BETAS[config.schedule](config.timesteps, scale * config.beta_start, scale * config.beta_end)
    return zero_terminal_snr(out) if config.zero_terminal_snr else out


def alpha_bars(betas: jax.Array, float32_tables: bool = False) -> jax.Array:
    """Cumulative product of 1 - betas, shape (T,), float64; `float32_tables` rounds as a float32 torch code does."""
    if float32_tables:
        return _cumprod((1 - betas.astype(jnp.float32)).astype(F64)).astype(jnp.float32).astype(F64)
    return _cumprod(1 - betas)
