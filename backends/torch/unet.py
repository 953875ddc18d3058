"""The UNet of Ho et al. 2020 (arXiv:2006.11239, appendix B) as diffusers' `UNet2DModel` parametrises it.

Modules carry the canonical names, so `state_dict()` is the exchange format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reference.config import ModelConfig

from .layers import (
    ACTIVATIONS,
    Attention,
    Downsample,
    GroupNorm,
    NormActivation,
    NormSiLU,
    TimeEmbedding,
    Upsample,
    double,
    halve,
    time_proj,
)


class Resnet(nn.Module):
    """Two norm-activation-conv around a shortcut. The time embedding's projection is added between them, or scales and shifts what
    the second norm gives (IDDPM appendix A). `resize` changes the resolution, on both ways before the first convolution. `divisor`
    divides the sum."""

    def __init__(self, cin: int, cout: int, config: ModelConfig, resize: Callable[[Tensor], Tensor] | None = None,
                 divisor: float = 1) -> None:
        super().__init__()
        self.resize, self.divisor, self.activation = resize, divisor, ACTIVATIONS[config.act_fn]
        norm = NormSiLU if self.activation is F.silu else NormActivation
        self.norm1 = norm(cin, config)
        self.conv1 = nn.Conv2d(cin, cout, 3, padding=1)
        self.scale_shift = config.scale_shift
        self.time_emb_proj = nn.Linear(config.time_width, cout * (1 + config.scale_shift))
        self.norm2 = GroupNorm(cout, config) if config.scale_shift else norm(cout, config)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(cin, cout, 1) if cin != cout else nn.Identity()

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        """x (N, cin, H, W), shift (N or 1, cout), or scale and shift (N or 1, 2 cout), to (N, cout, H, W)."""
        h = self.norm1(x)
        if self.resize:
            h, x = self.resize(h), self.resize(x)
        h = self.conv1(h)
        if self.scale_shift:
            scale, shift = shift[:, :, None, None].chunk(2, dim=1)
            h = self.activation(self.norm2(h) * (1 + scale) + shift)
        else:
            h = h + shift[:, :, None, None]
            h = self.norm2(h)
        h = self.conv2(self.dropout(h))
        h = self.conv_shortcut(x) + h
        return h if self.divisor == 1 else h / self.divisor


class Block(nn.Module):
    """The layers of one resolution under their canonical names; `UNet` runs them."""

    def __init__(self, channels: list[tuple[int, int]], attentions: int, config: ModelConfig, *,
                 down: bool = False, up: bool = False, middle: bool = False, by_resnet: bool = False) -> None:
        super().__init__()
        width, groups = channels[-1][1], config.middle_groups if middle else config.norm_num_groups
        divisor = config.mid_block_scale_factor if middle else 1
        self.resnets = nn.ModuleList([Resnet(cin, cout, config, divisor=divisor) for cin, cout in channels])
        self.attentions = nn.ModuleList([Attention(width, config, groups, divisor) for _ in range(attentions)])
        self.downsamplers = nn.ModuleList(
            [Resnet(width, width, config, halve) if by_resnet else Downsample(width, config)] if down else [])
        self.upsamplers = nn.ModuleList([Resnet(width, width, config, double) if by_resnet else Upsample(width)] if up else [])


class UNet(nn.Module):
    """`forward(x, t)` is `denoise(x, time_shifts(t))`: t enters through one shift per resnet, which depends on t alone."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        widths, layers = config.block_out_channels, config.layers_per_block
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(config)
        down_blocks, skips, cin = [], [widths[0]], widths[0]
        for i, (width, kind) in enumerate(zip(widths, config.down_block_types, strict=True)):
            last = i == len(widths) - 1
            channels = [(cin, width)] + [(width, width)] * (layers - 1)
            attentions = layers * (kind == "AttnDownBlock2D")
            down_blocks.append(Block(channels, attentions, config, down=not last, by_resnet=config.by_resnet(kind)))
            skips += [width] * (layers + (not last))
            cin = width
        self.down_blocks = nn.ModuleList(down_blocks)
        if config.mid_block_type:
            self.mid_block = Block([(cin, cin), (cin, cin)], int(config.add_attention), config, middle=True)
        up_blocks = []
        for i, (width, kind) in enumerate(zip(widths[::-1], config.up_block_types, strict=True)):
            channels = [((cin if j == 0 else width) + skips.pop(), width) for j in range(layers + 1)]
            attentions = (layers + 1) * (kind == "AttnUpBlock2D")
            up_blocks.append(Block(channels, attentions, config, up=i < len(widths) - 1, by_resnet=config.by_resnet(kind)))
            cin = width
        self.up_blocks = nn.ModuleList(up_blocks)
        self.conv_norm_out = NormSiLU(widths[0], config)
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)

    def time_shifts(self, t: Tensor) -> list[Tensor]:
        """What t (N,) does in each resnet, in the order of the forward pass: (N, cout) each, or (N, 2 cout) to scale and shift."""
        temb = self.time_embedding(time_proj(t, self.config).to(self.conv_in.weight.dtype))
        temb = ACTIVATIONS[self.config.act_fn](temb)
        return [module.time_emb_proj(temb) for module in self.modules() if isinstance(module, Resnet)]

    def denoise(self, x: Tensor, time_shifts: list[Tensor]) -> Tensor:
        """Output (N, out_channels, H, W) for x (N, in_channels, H, W); shifts are those of N t, or of one where all agree."""
        shifts = iter(time_shifts)
        if self.config.center_input_sample:
            x = 2 * x - 1
        h = self.conv_in(x)
        skips = [h]
        for block in cast("Iterable[Block]", self.down_blocks):
            for j, resnet in enumerate(block.resnets):
                h = resnet(h, next(shifts))
                if block.attentions:
                    h = block.attentions[j](h)
                skips.append(h)
            for downsample in block.downsamplers:
                h = downsample(h, next(shifts)) if isinstance(downsample, Resnet) else downsample(h)
                skips.append(h)
        if self.config.mid_block_type:
            h = self.mid_block.resnets[0](h, next(shifts))
            if self.mid_block.attentions:
                h = self.mid_block.attentions[0](h)
            h = self.mid_block.resnets[1](h, next(shifts))
        for block in cast("Iterable[Block]", self.up_blocks):
            for j, resnet in enumerate(block.resnets):
                h = resnet(torch.cat((h, skips.pop()), dim=1), next(shifts))
                if block.attentions:
                    h = block.attentions[j](h)
            for upsample in block.upsamplers:
                h = upsample(h, next(shifts)) if isinstance(upsample, Resnet) else upsample(h)
        return self.conv_out(self.conv_norm_out(h))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Output (N, out_channels, H, W) for x (N, in_channels, H, W) and t (N,), which may be fractional."""
        return self.denoise(x, self.time_shifts(t))


def outputs(network: UNet, run: Callable[[], object]) -> dict[str, Tensor]:
    """Each block's output by canonical module name, copied while `run` runs the network."""
    seen: dict[str, Tensor] = {}
    kinds = (Resnet, Attention, Downsample, Upsample, TimeEmbedding)
    hooks = [module.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out.clone()}))
             for name, module in network.named_modules() if isinstance(module, kinds) or name in ("conv_in", "conv_out")]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return seen
