"""Two kernels that reach the machine's best rate of arithmetic. A network's rate is reported as a share of it."""

from __future__ import annotations

from collections.abc import Callable

import mindspore as ms
from mindspore import Tensor, ops

from .devices import find_device

DTYPES = {"float32": ms.float32, "float16": ms.float16}


def gemm(n: int, device: str, dtype: str) -> tuple[Callable[[], Tensor], int]:
    """The product of two n x n matrices, and its FLOPs."""
    find_device(device)
    a, b = (ops.ones((n, n), DTYPES[dtype]) for _ in range(2))
    multiply = ops.MatMul()
    return lambda: multiply(a, b), 2 * n**3


def convolution(n: int, device: str, dtype: str) -> tuple[Callable[[], Tensor], int]:
    """A 3x3 convolution of 16 images, 56 x 56, n channels in and out, and its FLOPs."""
    find_device(device)
    x, w = ops.ones((16, n, 56, 56), DTYPES[dtype]), ops.ones((n, n, 3, 3), DTYPES[dtype])
    convolve = ops.Conv2D(n, 3, pad_mode="pad", pad=1)
    return lambda: convolve(x, w), 2 * 16 * 56 * 56 * n * n * 9
