"""The UNet of Ho et al. 2020 (arXiv:2006.11239, appendix B) as diffusers' `UNet2DModel` parametrises it.

Modules carry the canonical names, so `state_dict()` is the exchange format.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reference.config import ModelConfig

from .layers import Attention, Downsample, TimeEmbedding, Upsample, time_proj


class Resnet(nn.Module):
    """Two norm-SiLU-conv, the time embedding's projection added between them, around a shortcut."""

    def __init__(self, cin: int, cout: int, config: ModelConfig) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(config.norm_num_groups, cin, config.norm_eps)
        self.conv1 = nn.Conv2d(cin, cout, 3, padding=1)
        self.time_emb_proj = nn.Linear(4 * config.block_out_channels[0], cout)
        self.norm2 = nn.GroupNorm(config.norm_num_groups, cout, config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(cin, cout, 1) if cin != cout else nn.Identity()

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        """x (N, cin, H, W), shift (N or 1, cout) to (N, cout, H, W)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + shift[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return self.conv_shortcut(x) + h


class Block(nn.Module):
    """Resnets of one resolution, each followed by attention where the block has it, and the change of resolution."""

    def __init__(self, channels: Sequence[tuple[int, int]], attention: bool, resample: nn.Module | None, down: bool,
                 config: ModelConfig) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([Resnet(cin, cout, config) for cin, cout in channels])
        if attention:
            self.attentions = nn.ModuleList([Attention(cout, config) for _, cout in channels])
        if resample is not None:
            setattr(self, "downsamplers" if down else "upsamplers", nn.ModuleList([resample]))
