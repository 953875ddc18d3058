"""Two kernels that reach the machine's best rate of arithmetic. A network's rate is reported as a share of it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def gemm(n: int, device: str, dtype: str) -> tuple[Callable[[], Tensor], int]:
    """The product of two n x n matrices, and its FLOPs."""
    a, b = (torch.ones(n, n, device=device, dtype=DTYPES[dtype]) for _ in range(2))
    return lambda: a @ b, 2 * n**3


def convolution(n: int, device: str, dtype: str) -> tuple[Callable[[], Tensor], int]:
    """A 3x3 convolution of 16 images, 56 x 56, n channels in and out, and its FLOPs."""
    x = torch.ones(16, n, 56, 56, device=device, dtype=DTYPES[dtype]).to(memory_format=torch.channels_last)
    w = torch.ones(n, n, 3, 3, device=device, dtype=DTYPES[dtype]).to(memory_format=torch.channels_last)

    def run() -> Tensor:
        with torch.inference_mode():
            return torch.nn.functional.conv2d(x, w, padding=1)

    return run, 2 * 16 * 56 * 56 * n * n * 9
