"""The UNet's building blocks, as functions of the weights by their canonical names.

Each computes in x's dtype: weights are cast to it where they meet x. Norms, softmax, sums with a bias and the angles of the time
embedding have 32 bits or more in every dtype. What runs between two names of weights is one compiled function, for JAX's single
operations cost more to start than they take. Images are (N, H, W, C) here: XLA compiles their convolutions in half the time that
it takes for (N, C, H, W).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax import Array

from reference.config import ModelConfig

Arrays = Mapping[str, Array]


def time_proj(t: Array, config: ModelConfig) -> Array:
    """Sinusoidal embedding of t (N,), float64 (N, first width): frequencies 10000^(-k / (half - freq_shift)).

    float64 because a float32 angle is up to 2.6e-5 off at t = 977.
    """
    half = config.block_out_channels[0] // 2
    freqs = jnp.exp(-math.log(10000.0) * jnp.arange(half, dtype=jnp.float64) / (half - config.freq_shift))
    angle = t.astype(jnp.float64)[:, None] * freqs
    order = (jnp.cos(angle), jnp.sin(angle)) if config.flip_sin_to_cos else (jnp.sin(angle), jnp.cos(angle))
    return jnp.concatenate(order, axis=1)


def in_dtype(x: Array, dtype: str) -> Array:
    """x in this dtype. The name alone would not do: NumPy looks it up, and MindSpore has a bfloat16 of its own there."""
    return x.astype(getattr(jnp, dtype))


def linear(w: Arrays, name: str, x: Array) -> Array:
    """x (.., in) to (.., out)."""
    return _linear(w[f"{name}.weight"], w[f"{name}.bias"], x)


@jax.jit
def _linear(weight: Array, bias: Array, x: Array) -> Array:
    return (x @ weight.astype(x.dtype).T + bias).astype(x.dtype)


def conv(w: Arrays, name: str, x: Array, stride: int = 1, pad: tuple[int, int] | None = None) -> Array:
    """Convolution with a square kernel of x (N, H, W, cin); `pad` is (before, after) of both spatial axes, by default what keeps
    the size."""
    return _conv(w[f"{name}.weight"], w[f"{name}.bias"], x, stride, pad)


@functools.partial(jax.jit, static_argnames=("stride", "pad"))
def _conv(weight: Array, bias: Array, x: Array, stride: int, pad: tuple[int, int] | None) -> Array:
    size = weight.shape[-1]
    y = jax.lax.conv_general_dilated(x, weight.astype(x.dtype), (stride, stride), [pad or (size // 2, size // 2)] * 2,
                                     dimension_numbers=("NHWC", "OIHW", "NHWC"))
    return add_shift(y, bias[None])


def add_shift(h: Array, shift: Array) -> Array:
    """h (N, H, W, C) plus shift (N or 1, C) at every position: in 32 bits or more, so that the shift's gradient is summed in them.
    """
    exact = jnp.promote_types(h.dtype, jnp.float32)
    return (h.astype(exact) + shift.astype(exact)[:, None, None]).astype(h.dtype)


def group_norm(w: Arrays, name: str, x: Array, config: ModelConfig, groups: int | None = None) -> Array:
    """Zero mean and unit variance per image and group, then scale and shift per channel. `groups` are the config's unless given.

    The output has 32 bits or more: what follows a norm elementwise is rounded once, by its caller.
    """
    return _group_norm(w[f"{name}.weight"], w[f"{name}.bias"], x, groups or config.norm_num_groups, config.norm_eps)


@functools.partial(jax.jit, static_argnames="groups")
def _group_norm(weight: Array, bias: Array, x: Array, groups: int, eps: float) -> Array:
    grouped = x.astype(weight.dtype).reshape(*x.shape[:3], groups, -1)
    centred = grouped - grouped.mean((1, 2, 4), keepdims=True)
    y = centred * jax.lax.rsqrt(jnp.square(centred).mean((1, 2, 4), keepdims=True) + eps)
    return y.reshape(x.shape) * weight + bias


silu = jax.jit(jax.nn.silu)
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": silu, "swish": silu, "relu": jax.jit(jax.nn.relu), "gelu": jax.jit(functools.partial(jax.nn.gelu, approximate=False)),
    "mish": jax.jit(jax.nn.mish)}


def dropout(x: Array, p: float, key: Array) -> Array:
    """Zero a share p of the elements and divide the others by 1 - p. `key`, another one for each step and layer, says which."""
    keep = jax.random.bernoulli(key, 1 - p, x.shape)
    return jnp.where(keep, x / (1 - p), jnp.zeros_like(x))


def attention(w: Arrays, name: str, x: Array, config: ModelConfig, groups: int | None = None, divisor: float = 1) -> Array:
    """Self-attention over the H W positions, scaled by head_dim^-1/2, around a shortcut. `divisor` divides the sum.

    `groups` are those of its norm, the config's unless given; where the weights have no norm there is none.
    """
    n, h, width, c = x.shape
    normed = group_norm(w, f"{name}.group_norm", x, config, groups) if f"{name}.group_norm.weight" in w else x
    tokens = normed.astype(x.dtype).reshape(n, h * width, c)
    q, k, v = (linear(w, f"{name}.{part}", tokens) for part in ("to_q", "to_k", "to_v"))
    y = linear(w, f"{name}.to_out.0", attend(q, k, v, config.heads(c)))
    y = x + y.reshape(x.shape)
    return y if divisor == 1 else y / divisor


@functools.partial(jax.jit, static_argnames="heads")
def attend(q: Array, k: Array, v: Array, heads: int) -> Array:
    """Scaled dot-product attention over (N, positions, C)."""
    n, positions, c = q.shape
    q, k, v = (part.reshape(n, positions, heads, c // heads) for part in (q * (c // heads) ** -0.5, k, v))
    exact = jnp.promote_types(q.dtype, jnp.float32)
    scores = jnp.einsum("nihd,njhd->nhij", q, k, preferred_element_type=exact)
    shares = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("nhij,njhd->nihd", shares, v).reshape(n, positions, c)


def halve(x: Array) -> Array:
    """The mean of each 2 x 2 pixels."""
    n, h, width, c = x.shape
    return x.reshape(n, h // 2, 2, width // 2, 2, c).mean((2, 4))


def double(x: Array) -> Array:
    """Nearest neighbour."""
    return x.repeat(2, axis=1).repeat(2, axis=2)


def downsample(w: Arrays, name: str, x: Array, config: ModelConfig) -> Array:
    """Strided convolution; padding 0 means right and bottom only."""
    return conv(w, f"{name}.conv", x, stride=2, pad=(1, 1) if config.downsample_padding else (0, 1))


def upsample(w: Arrays, name: str, x: Array) -> Array:
    """Nearest neighbour, then a convolution."""
    return conv(w, f"{name}.conv", double(x))
