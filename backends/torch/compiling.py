"""Fewer launches from Python: `torch.compile`, and CUDA graphs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any, cast

import torch
from torch import Tensor

from .unet import UNet

SHAPES = 64  # of inputs, each of which is compiled; torch's own limit is 8, and then it is eager without a word
WARM_UPS = 3  # calls before a graph is recorded, in which libraries choose and compile their kernels


def compiled(function: Callable[..., Tensor], failed: Callable[[str], None], frozen: bool = False) -> Callable[..., Tensor]:
    """`function` compiled; as it is from the first failure on, of which `failed` is told: no C++ compiler or no Triton, say.

    `frozen`: it is a module's method, and the module's parameters are constants from now on, in the order that the convolutions
    want; its kernels are called from C++, and no call asks whether the module is still the same. For inference on the CPU alone.
    """
    if isinstance(function, MethodType):
        # torch.compile keeps what it compiles by the code object. With its own a module doesn't count the shapes of others, and
        # what is compiled goes with the module.
        known = function.__func__
        function = MethodType(FunctionType(known.__code__.replace(), known.__globals__, known.__name__), function.__self__)
    unguarded: Any = {"guard_filter_fn": torch.compiler.skip_guard_on_all_nn_modules_unsafe} if frozen else None
    fast, works = torch.compile(function, dynamic=False, options=unguarded), True
    options = {"freezing": True, "cpp_wrapper": True} if frozen else {}

    def call(*args: Any) -> Tensor:
        nonlocal works
        if works:
            try:
                with torch._dynamo.config.patch(recompile_limit=SHAPES), torch._inductor.config.patch(options):
                    return fast(*args)
            except torch._dynamo.exc.TorchDynamoException as error:
                works = False
                failed(str(error).splitlines()[0])
        return function(*args)

    return call


class Denoiser:
    """`denoise` of a network for sampling in a dtype of its own, as `build` makes it; `frozen`: with the weights as constants."""

    def __init__(self, source: UNet, dtype: torch.dtype, frozen: bool, build: Callable[[UNet], Callable[..., Tensor]]) -> None:
        self.source, self.dtype, self.frozen, self.build = source, dtype, frozen, build
        self.network, self.function = source, cast("Callable[..., Tensor] | None", None)

    def current(self) -> Callable[..., Tensor]:
        """It with the source's weights as they are now. In another dtype it is that of a copy, for autocast would convert the
        weights at every step."""
        same = self.dtype == next(self.source.parameters()).dtype and not self.frozen
        if self.function is None:
            self.network = self.source if same else copy.deepcopy(self.source).to(self.dtype).eval().requires_grad_(False)
            self.function = self.build(self.network)
        elif not (same or self.frozen):
            torch._foreach_copy_(list(self.network.parameters()), list(self.source.parameters()))
        return self.function

    def changed(self) -> None:
        """The source has other weights: what has them as constants is made again at its next use."""
        if self.frozen:
            self.function = None


class Graph:
    """A function as one CUDA graph: its kernels are recorded once and started together.

    The function takes tensors of fixed shapes on the device, and None, and returns a tensor. It may change tensors in place, whose
    storage must stay, and may not look at values.
    """

    def __init__(self, function: Callable[..., Tensor], inputs: tuple[Tensor | None, ...]) -> None:
        """Record it. The function runs `WARM_UPS` times on these inputs before, with all its effects."""
        self.inputs = [None if tensor is None else tensor.clone() for tensor in inputs]
        with torch.cuda.device(next(tensor.device for tensor in inputs if tensor is not None)):
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
