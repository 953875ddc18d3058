"""Floating-point operations of the network's convolutions, linear layers and attention; a multiply-add counts as two.

`forward` gives the same as `torch.utils.flop_counter` finds on the eager network; norms, activations and additions are left out.
"""

from __future__ import annotations

from collections.abc import Iterator

from backends.protocol import Spec
from reference.config import ModelConfig

TRAINING = 3  # a training step's passes of the forward's size: forward, gradient of inputs, gradient of weights


def forward(model: ModelConfig) -> int:
    """FLOPs of one image's forward pass."""
    temb, shifts = model.time_width, 2 if model.scale_shift else 1
    total = linear(model.block_out_channels[0], temb) + linear(temb, temb)
    for kind, cin, cout, size in layers(model):
        if kind == "attention":
            total += attention(cout, size)
        elif kind == "conv":
            total += conv(cin, cout, size)
        else:
            shortcut = conv(cin, cout, size, kernel=1) if cin != cout else 0
            total += conv(cin, cout, size) + linear(temb, shifts * cout) + conv(cout, cout, size) + shortcut
    return total


def activations(model: ModelConfig) -> int:
    """Numbers that a training step keeps of one image for its backward pass: what each norm, SiLU, convolution and projection is
    given. Frameworks keep more: of results/scaling.md's network PyTorch 1.7 times and MindSpore 4.5 times as much."""
    kept = {"conv": lambda cin, cout: cin, "resnet": lambda cin, cout: 3 * (cin + cout), "attention": lambda cin, cout: 6 * cout}
    return sum(kept[kind](cin, cout) * size**2 for kind, cin, cout, size in layers(model))


def kept(spec: Spec) -> int:
    """Bytes of `activations` on a CPU, whose memory is the machine's; 0 on other devices, which say it when theirs ran out."""
    each = {"float64": 8, "float32": 4}.get(spec.dtype, 2)
    return each * activations(spec.model) if spec.device == "cpu" else 0


def layers(model: ModelConfig) -> Iterator[tuple[str, int, int, int]]:
    """(kind, channels in, channels out, side of its output) of the network's layers in order; of kind conv, resnet or attention."""
    widths, size = model.block_out_channels, model.sample_size
    yield "conv", model.in_channels, widths[0], size
    skips, cin, last = [widths[0]], widths[0], len(widths) - 1
    for i, (width, kind) in enumerate(zip(widths, model.down_block_types, strict=True)):
        for _ in range(model.layers_per_block):
            yield "resnet", cin, width, size
            if kind == "AttnDownBlock2D":
                yield "attention", width, width, size
            skips.append(width)
            cin = width
        if i != last:
            size //= 2
            yield "resnet" if model.by_resnet(kind) else "conv", width, width, size
            skips.append(width)
    if model.mid_block_type:
        yield from (("resnet", cin, cin, size), ("resnet", cin, cin, size))
        if model.add_attention:
            yield "attention", cin, cin, size
    for i, (width, kind) in enumerate(zip(widths[::-1], model.up_block_types, strict=True)):
        for _ in range(model.layers_per_block + 1):
            yield "resnet", cin + skips.pop(), width, size
            if kind == "AttnUpBlock2D":
                yield "attention", width, width, size
            cin = width
        if i != last:
            size *= 2
            yield "resnet" if model.by_resnet(kind) else "conv", width, width, size
    yield "conv", widths[0], model.out_channels, size


def conv(cin: int, cout: int, size: int, kernel: int = 3) -> int:
    """A convolution whose output is size x size."""
    return 2 * cin * cout * kernel**2 * size**2


def linear(cin: int, cout: int) -> int:
    """A linear layer on one vector."""
    return 2 * cin * cout


def attention(width: int, size: int) -> int:
    """Four projections of every position, and two products with the matrix of scores."""
    positions = size**2
    return 4 * positions * linear(width, width) + 2 * 2 * positions**2 * width
