"""The UNet of Ho et al. 2020 (arXiv:2006.11239, appendix B) as diffusers' `UNet2DModel` parametrises it.

Cells carry the canonical names, so their parameters' names are the exchange format.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mindspore import Tensor, nn, ops

from reference.config import ModelConfig
from reference.weights import Weights

from .layers import (
    ACTIVATIONS,
    AddShift,
    Attention,
    Conv2d,
    Downsample,
    Dropout,
    GroupNorm,
    Linear,
    TimeEmbedding,
    Upsample,
    double,
    halve,
    time_proj,
)

SAME = (1, 1, 1, 1)


class Resnet(nn.Cell):
    """Two norm-activation-conv around a shortcut. The time embedding's projection is added between them, or scales and shifts what
    the second norm gives (IDDPM appendix A). `resize` "down" or "up" changes the resolution, on both ways before conv1. `divisor`
    divides the sum."""

    def __init__(self, cin: int, cout: int, config: ModelConfig, tuned: bool, resize: str = "", divisor: float = 1) -> None:
        super().__init__()
        self.resize, self.tuned, self.divisor, self.activation = resize, tuned, divisor, ACTIVATIONS[config.act_fn]
        self.norm1 = GroupNorm(cin, config, tuned)
        self.conv1 = Conv2d(cin, cout, 3, SAME, 1)
        self.scale_shift, self.cout = config.scale_shift, cout
        self.time_emb_proj = Linear(config.time_width, cout * (1 + config.scale_shift))
        self.add_shift = AddShift(tuned)
        self.norm2 = GroupNorm(cout, config, tuned)
        self.dropout = Dropout(config.dropout)
        self.conv2 = Conv2d(cout, cout, 3, SAME, 1)
        self.conv_shortcut = Conv2d(cin, cout, 1, (0, 0, 0, 0), 1) if cin != cout else nn.Identity()

    def construct(self, x: Tensor, shift: Tensor, key: Tensor) -> Tensor:
        """x (N, cin, H, W), shift (N or 1, cout) or scale and shift (N or 1, 2 cout), key () int32, to (N, cout, H, W)."""
        h = self.activation(self.norm1(x))
        if self.resize == "down":
            h, x = halve(h), halve(x)
        elif self.resize == "up":
            h, x = double(h, self.tuned), double(x, self.tuned)
        h = self.conv1(h)
        if self.scale_shift:
            scale, shift = shift[:, :self.cout], shift[:, self.cout:]
            h = self.add_shift(self.norm2(h) * (1 + scale.reshape(-1, self.cout, 1, 1)), shift)
        else:
            h = self.norm2(self.add_shift(h, shift))
        h = self.conv2(self.dropout(self.activation(h), key))
        h = self.conv_shortcut(x) + h
        return h if self.divisor == 1 else h / self.divisor


class Block(nn.Cell):
    """Resnets of one resolution, each followed by attention where the block has it, and the change of resolution."""

    def __init__(self, channels: Sequence[tuple[int, int]], attentions: int, config: ModelConfig, tuned: bool,
                 down: bool = False, up: bool = False, middle: bool = False, by_resnet: bool = False) -> None:
        super().__init__()
        width, groups = channels[-1][1], config.middle_groups if middle else config.norm_num_groups
        divisor = config.mid_block_scale_factor if middle else 1
        self.resnets = nn.CellList([Resnet(cin, cout, config, tuned, divisor=divisor) for cin, cout in channels])
        self.attentions = nn.CellList([Attention(width, config, groups, tuned, divisor) for _ in range(attentions)])
        self.downsamplers = nn.CellList(
            [Resnet(width, width, config, tuned, "down") if by_resnet else Downsample(width, config)] if down else [])
        self.upsamplers = nn.CellList(
            [Resnet(width, width, config, tuned, "up") if by_resnet else Upsample(width, tuned)] if up else [])
        self.attends, self.down, self.up = attentions > 0, down, up  # a compiled graph can't ask an empty list
        self.by_resnet = by_resnet


class UNet(nn.Cell):
    """`construct(x, t)` is `denoise(x, time_shifts(t))`: t enters through one shift per resnet, which depends on t alone."""

    def __init__(self, config: ModelConfig, tuned: bool) -> None:
        super().__init__()
        self.config = config
        widths, layers = config.block_out_channels, config.layers_per_block
        self.conv_in = Conv2d(config.in_channels, widths[0], 3, SAME, 1)
        self.time_embedding = TimeEmbedding(config)
        down_blocks, skips, cin = [], [widths[0]], widths[0]
        for i, (width, kind) in enumerate(zip(widths, config.down_block_types, strict=True)):
            last = i == len(widths) - 1
            channels = [(cin, width)] + [(width, width)] * (layers - 1)
            attentions = layers * (kind == "AttnDownBlock2D")
            down_blocks.append(Block(channels, attentions, config, tuned, down=not last, by_resnet=config.by_resnet(kind)))
            skips += [width] * (layers + (not last))
            cin = width
        self.down_blocks = nn.CellList(down_blocks)
        self.middle = config.mid_block_type is not None
        if self.middle:
            self.mid_block = Block([(cin, cin), (cin, cin)], int(config.add_attention), config, tuned, middle=True)
        self.activation = ACTIVATIONS[config.act_fn]
        up_blocks = []
        for i, (width, kind) in enumerate(zip(widths[::-1], config.up_block_types, strict=True)):
            channels = [((cin if j == 0 else width) + skips.pop(), width) for j in range(layers + 1)]
            attentions = (layers + 1) * (kind == "AttnUpBlock2D")
            up_blocks.append(Block(channels, attentions, config, tuned, up=i < len(widths) - 1, by_resnet=config.by_resnet(kind)))
            cin = width
        self.up_blocks = nn.CellList(up_blocks)
        self.conv_norm_out = GroupNorm(widths[0], config, tuned)
        self.conv_out = Conv2d(widths[0], config.out_channels, 3, SAME, 1)

    def time_shifts(self, t: Tensor) -> tuple[Tensor, ...]:
        """What t (N,) does in each resnet, in the order of the forward pass: (N, cout) each, or (N, 2 cout) to scale and shift."""
        temb = self.time_embedding(time_proj(t, self.config).astype(self.conv_in.weight.dtype))
        temb = self.activation(temb)
        shifts: tuple[Tensor, ...] = ()  # a compiled gradient loses what is appended to a list
        for block in self.down_blocks:
            for resnet in block.resnets:
                shifts += (resnet.time_emb_proj(temb),)
            if block.down and block.by_resnet:
                shifts += (block.downsamplers[0].time_emb_proj(temb),)
        if self.middle:
            for resnet in self.mid_block.resnets:
                shifts += (resnet.time_emb_proj(temb),)
        for block in self.up_blocks:
            for resnet in block.resnets:
                shifts += (resnet.time_emb_proj(temb),)
            if block.up and block.by_resnet:
                shifts += (block.upsamplers[0].time_emb_proj(temb),)
        return shifts

    def denoise(self, x: Tensor, time_shifts: tuple[Tensor, ...], step: Tensor | int = 0) -> Tensor:
        """Output (N, out_channels, H, W) for x (N, in_channels, H, W); shifts are those of N t, or of one where all agree.

        `step`, of training, decides what dropout drops.
        """
        n, key = 0, step * len(time_shifts)
        if self.config.center_input_sample:
            x = 2 * x - 1
        h = self.conv_in(x)
        skips: tuple[Tensor, ...] = (h,)
        for block in self.down_blocks:
            for j in range(len(block.resnets)):
                h = block.resnets[j](h, time_shifts[n], key + n)
                n += 1
                if block.attends:
                    h = block.attentions[j](h)
                skips += (h,)
            if block.down:
                if block.by_resnet:
                    h = block.downsamplers[0](h, time_shifts[n], key + n)
                    n += 1
                else:
                    h = block.downsamplers[0](h)
                skips += (h,)
        if self.middle:
            h = self.mid_block.resnets[0](h, time_shifts[n], key + n)
            if self.mid_block.attends:
                h = self.mid_block.attentions[0](h)
            h = self.mid_block.resnets[1](h, time_shifts[n + 1], key + n + 1)
            n += 2
        last = len(skips)
        for block in self.up_blocks:
            for j in range(len(block.resnets)):
                last -= 1
                h = block.resnets[j](ops.cat((h, skips[last]), axis=1), time_shifts[n], key + n)
                n += 1
                if block.attends:
                    h = block.attentions[j](h)
            if block.up and block.by_resnet:
                h = block.upsamplers[0](h, time_shifts[n], key + n)
                n += 1
            elif block.up:
                h = block.upsamplers[0](h)
        return self.conv_out(ops.silu(self.conv_norm_out(h)))

    def construct(self, x: Tensor, t: Tensor, step: Tensor | int = 0) -> Tensor:
        """Output (N, out_channels, H, W) for x (N, in_channels, H, W) and t (N,), which may be fractional."""
        return self.denoise(x, self.time_shifts(t), step)


def set_weights(network: nn.Cell, weights: Weights) -> None:
    """Copy canonical arrays into a network, in place: a compiled graph keeps using the storage that it was compiled with."""
    for name, parameter in network.parameters_and_names():
        ops.assign(parameter, Tensor(np.array(weights[name])))
