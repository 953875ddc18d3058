"""Floating-point operations of the network's convolutions, linear layers and attention; a multiply-add counts as two.

The same as `torch.utils.flop_counter` finds on the eager network; norms, activations and additions are left out.
"""

from __future__ import annotations

from reference.config import ModelConfig

TRAINING = 3  # a training step's passes of the forward's size: forward, gradient of inputs, gradient of weights


def forward(model: ModelConfig) -> int:
    """FLOPs of one image's forward pass."""
    widths, layers, size = model.block_out_channels, model.layers_per_block, model.sample_size
    temb = 4 * widths[0]
    total = linear(widths[0], temb) + linear(temb, temb) + conv(model.in_channels, widths[0], size)

    def resnet(cin: int, cout: int) -> int:
        shortcut = conv(cin, cout, size, kernel=1) if cin != cout else 0
        return conv(cin, cout, size) + linear(temb, cout) + conv(cout, cout, size) + shortcut

    skips, cin, last = [widths[0]], widths[0], len(widths) - 1
    for i, (width, kind) in enumerate(zip(widths, model.down_block_types, strict=True)):
        for _ in range(layers):
            total += resnet(cin, width) + (kind == "AttnDownBlock2D") * attention(width, size)
            skips.append(width)
            cin = width
        if i != last:
            size //= 2
            total += conv(width, width, size)
            skips.append(width)
    total += 2 * resnet(cin, cin) + attention(cin, size)
    for i, (width, kind) in enumerate(zip(widths[::-1], model.up_block_types, strict=True)):
        for _ in range(layers + 1):
            total += resnet(cin + skips.pop(), width) + (kind == "AttnUpBlock2D") * attention(width, size)
            cin = width
        if i != last:
            size *= 2
            total += conv(width, width, size)
    return total + conv(widths[0], model.out_channels, size)


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
