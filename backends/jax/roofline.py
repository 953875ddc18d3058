"""Two kernels that reach the machine's best rate of arithmetic. A network's rate is reported as a share of it.

Products have all digits of their dtype, as in the network: by default JAX rounds the factors of float32 on GPUs and TPUs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from .devices import find_device


def gemm(n: int, device: str, dtype: str) -> tuple[Callable[[], Array], int]:
    """The product of two n x n matrices, and its FLOPs."""
    a, b = (jnp.ones((n, n), dtype, device=find_device(device)) for _ in range(2))
    product = jax.jit(functools.partial(jnp.matmul, precision="highest"))
    return lambda: product(a, b), 2 * n**3


def convolution(n: int, device: str, dtype: str) -> tuple[Callable[[], Array], int]:
    """A 3x3 convolution of 16 images, 56 x 56, n channels in and out, and its FLOPs."""
    x = jnp.ones((16, 56, 56, n), dtype, device=find_device(device))
    w = jnp.ones((3, 3, n, n), dtype, device=find_device(device))
    run = jax.jit(lambda x, w: jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
                                                            precision="highest"))
    return lambda: run(x, w), 2 * 16 * 56 * 56 * n * n * 9
