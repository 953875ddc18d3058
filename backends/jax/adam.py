"""One update of all parameters: clipping, Adam and the moving average, which other frameworks have ready."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import Array

PARTS = ("weights", "adam_m", "adam_v", "ema")  # of the state, each an array by parameter name
Parts = dict[str, dict[str, Array]]


@jax.jit
def clipped(gradients: dict[str, Array], largest: float) -> dict[str, Array]:
    """Gradients whose norm over all tensors is at most `largest`; the 1e-6 is torch's `clip_grad_norm_`'s."""
    norm = jnp.sqrt(sum(jnp.square(gradient).sum() for gradient in gradients.values()))
    return {name: gradient * jnp.minimum(1, largest / (norm + 1e-6)) for name, gradient in gradients.items()}


@jax.jit
def adam(numbers: Mapping[str, float], w: Array, m: Array, v: Array, ema: Array, g: Array) -> tuple[Array, Array, Array, Array]:
    """(w, m, v, ema) of one tensor after a step (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1; eps outside the root)."""
    m = m + (g - m) * numbers["1 - beta1"]
    v = v + (jnp.square(g) - v) * numbers["1 - beta2"]
    w = w - numbers["rate"] * (m / numbers["1 - beta1^n"]) / (jnp.sqrt(v / numbers["1 - beta2^n"]) + numbers["eps"])
    return w, m, v, ema + (w - ema) * numbers["1 - decay"]


def update(numbers: Mapping[str, float], parts: Parts, gradients: dict[str, Array]) -> Parts:
    """`adam` of all tensors."""
    done = {name: adam(numbers, *(parts[part][name] for part in PARTS), g) for name, g in gradients.items()}
    return {part: {name: after[i] for name, after in done.items()} for i, part in enumerate(PARTS)}


compiled_update = jax.jit(update, donate_argnames="parts")
