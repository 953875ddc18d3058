"""Fewer launches from Python: `torch.compile`, and CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

WARM_UPS = 3  # calls before a graph is recorded, in which libraries choose and compile their kernels


def compiled(function: Callable[..., Tensor], failed: Callable[[str], None], mode: str = "default") -> Callable[..., Tensor]:
    """`function` compiled; as it is from the first failure on, of which `failed` is told: no C++ compiler or no Triton, say."""
    fast, works = torch.compile(function, dynamic=False, mode=mode), True

    def call(*args: Any) -> Tensor:
        nonlocal works
        if works:
            try:
                return fast(*args)
            except torch._dynamo.exc.TorchDynamoException as error:
                works = False
                failed(str(error).splitlines()[0])
        return function(*args)

    return call


class Graph:
    """A function as one CUDA graph: its kernels are recorded once and started together.

    The function takes tensors of fixed shapes on the device, and None, and returns a tensor. It may change tensors in place, whose
    storage must stay, and may not look at values.
    """

    def __init__(self, function: Callable[..., Tensor], inputs: tuple[Tensor | None, ...]) -> None:
        """Record it. The function runs `WARM_UPS` times on these inputs before, with all its effects."""
        self.inputs = [None if tensor is None else tensor.clone() for tensor in inputs]
        main, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(main)
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                function(*self.inputs)
        main.wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.output = function(*self.inputs)

    def __call__(self, *inputs: Tensor | None) -> Tensor:
        """The function's result for these inputs, a tensor of its own."""
        for place, tensor in zip(self.inputs, inputs, strict=True):
            if place is not None and tensor is not None:
                place.copy_(tensor)
        self.graph.replay()
        return self.output.clone()
