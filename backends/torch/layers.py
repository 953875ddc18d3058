"""The UNet's layers that `torch.nn` does not have as they are needed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reference.config import ModelConfig

FEW_SCORES = 2**20  # of attention: 4 MB in float32, which caches hold


def _compiling() -> bool:
    """Whether torch.compile is at work. What is exported keeps torch's own layers."""
    return torch.compiler.is_compiling() and not torch.compiler.is_exporting()


def time_proj(t: Tensor, config: ModelConfig) -> Tensor:
    """Sinusoidal embedding of t (N,), float64 (N, first width): frequencies 10000^(-k / (half - freq_shift)).

    float64 because a float32 angle is up to 2.6e-5 off at t = 977.
    """
    half = config.block_out_channels[0] // 2
    k = torch.arange(half, dtype=torch.float64, device=t.device)
    freqs = torch.exp(-math.log(10000.0) * k / (half - config.freq_shift))
    angle = t.double()[:, None] * freqs
    order = (torch.cos(angle), torch.sin(angle)) if config.flip_sin_to_cos else (torch.sin(angle), torch.cos(angle))
    return torch.cat(order, dim=1)


class TimeEmbedding(nn.Module):
    """Two-layer perceptron on the sinusoidal embedding."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.block_out_channels[0]
        self.linear_1 = nn.Linear(width, config.time_width)
        self.linear_2 = nn.Linear(config.time_width, config.time_width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, first width) to (N, time width)."""
        return self.linear_2(F.silu(self.linear_1(x)))


class GroupNorm(nn.GroupNorm):
    """Zero mean and unit variance per image and group, then scale and shift per channel. `groups` are the config's unless given."""

    def __init__(self, channels: int, config: ModelConfig, groups: int | None = None) -> None:
        super().__init__(groups or config.norm_num_groups, channels, config.norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same. In channels_last torch's kernel on CPU takes the variance for a difference of squares, 1% off
        where the mean is 100 deviations. The norm does not see what is added to a group: there it gets x without its mean."""
        if _compiling() and (x.is_cuda or not torch.is_grad_enabled()):
            return _compiled_norm(x, self.weight, self.bias, self.num_groups, self.eps)
        if _channels_last_on_cpu(x):
            x = x - _group_mean(x.detach().mean((2, 3)), self.num_groups)
        return super().forward(x)


class NormSiLU(GroupNorm):
    """GroupNorm, then SiLU. On CPU torch's own takes several times as long in channels_last, which the convolutions want."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        if _channels_last_on_cpu(x):
            arguments = (x, self.weight, self.bias, self.num_groups, self.eps)
            if torch.is_grad_enabled():
                return ChannelsLastNormSiLU.apply(*arguments)
            return F.silu(_channels_last_norm(*arguments)[0], inplace=True)
        return F.silu(super().forward(x))


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu, "swish": F.silu, "relu": F.relu, "gelu": F.gelu, "mish": F.mish}


class NormActivation(GroupNorm):
    """GroupNorm, then the activation of the residual blocks, where that is not SiLU."""

    def __init__(self, channels: int, config: ModelConfig) -> None:
        super().__init__(channels, config)
        self.activation = ACTIVATIONS[config.act_fn]

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        return self.activation(super().forward(x))


def _channels_last_on_cpu(x: Tensor) -> bool:
    """Whether torch's own kernel for x is not the one to take."""
    channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return x.device.type == "cpu" and channels_last and not _compiling()


def _channels_last_norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """GroupNorm of x (N, C, H, W) in few passes over (N, H, W, C), and for its gradient x - mean and 1 / deviation."""
    centred = x - _group_mean(x.mean((2, 3)), groups)
    scale = torch.rsqrt(_group_mean(centred.square().mean((2, 3)), groups) + eps)
    return torch.addcmul(bias[:, None, None], centred, scale * weight[:, None, None]), centred, scale


def _compiled_norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """GroupNorm of x (N, C, H, W) in x's layout and dtype, of float32 moments of its channels. torch's own on CUDA gives another
    layout than channels_last, which every convolution, forward and backward, would then copy back; on CPU it is
    slower for a single image."""
    wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    variance, mean = torch.var_mean(wide, (2, 3), correction=0) if x.is_cuda else _moments(wide)
    of_group = _group_mean(mean, groups)
    spread = _group_mean(variance + (mean - of_group.flatten(1)).square(), groups)
    scale = torch.rsqrt(spread + eps) * weight[:, None, None]
    return ((wide - of_group) * scale + bias[:, None, None]).to(x.dtype)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Variance and mean (N, C) of each channel of x (N, C, H, W) in one pass over it. The squares are of differences from the first
    pixel: those of x itself would leave nothing of the variance beside a large mean."""
    first = x[:, :, :1, :1]
    apart = x - first
    mean = apart.mean((2, 3))
    return apart.square().mean((2, 3)) - mean.square(), mean + first[:, :, 0, 0]


def _group_mean(x: Tensor, groups: int) -> Tensor:
    """Each channel's group mean of x (N, C), as (N, C, 1, 1)."""
    return x.unflatten(1, (groups, -1)).mean(2, keepdim=True).expand(-1, -1, x.shape[1] // groups).flatten(1)[:, :, None, None]


class ChannelsLastNormSiLU(torch.autograd.Function):
    """`_channels_last_norm` followed by SiLU, for autograd.

    For u = w x_hat + b the gradient is dx = scale (w du - mean(w du) - x_hat mean(w du x_hat)) within a group.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        """`NormSiLU.forward`."""
        u, centred, scale = _channels_last_norm(x, weight, bias, groups, eps)
        ctx.groups = groups
        ctx.save_for_backward(u, centred, scale, weight[:, None, None])
        return F.silu(u)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, weight and bias."""
        u, centred, scale, weight = ctx.saved_tensors
        du = torch.ops.aten.silu_backward(gradients[0].contiguous(memory_format=torch.channels_last), u)
        bias_part, weight_part = du.sum((2, 3)), (du * centred).sum((2, 3)) * scale.flatten(1)
        positions = u.shape[2] * u.shape[3]
        offset = _group_mean(bias_part / positions * weight.flatten(), ctx.groups)
        slope = _group_mean(weight_part / positions * weight.flatten(), ctx.groups)
        dx = torch.addcmul(-scale * offset, du, scale * weight).addcmul_(centred, -scale * scale * slope)
        return dx, weight_part.sum(0), bias_part.sum(0), None, None


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention over (N, heads, positions, head_dim)."""
    # On CPU the fused kernel's gradient takes twice as long in bfloat16, and of a single image the compiler makes a faster one.
    few = _compiling() and q.shape[0] * q.shape[1] * q.shape[2] ** 2 <= FEW_SCORES
    if q.device.type == "cpu" and (few or q.dtype == torch.bfloat16):
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        return scores.to(torch.promote_types(q.dtype, torch.float32)).softmax(-1).to(v.dtype) @ v
    return F.scaled_dot_product_attention(q, k, v)


class Attention(nn.Module):
    """Self-attention over the H W positions, scaled by head_dim^-1/2, around a shortcut. `groups` of its norm: None for no norm.
    `divisor` divides the sum."""

    def __init__(self, channels: int, config: ModelConfig, groups: int | None, divisor: float = 1) -> None:
        super().__init__()
        self.heads = config.heads(channels)
        self.divisor = divisor
        self.group_norm = GroupNorm(channels, config, groups) if groups else nn.Identity()
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        n, c, h, w = x.shape
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)
        q, k, v = (project(tokens).reshape(n, h * w, self.heads, -1).transpose(1, 2)
                   for project in (self.to_q, self.to_k, self.to_v))
        mixed = attend(q, k, v).transpose(1, 2).reshape(n, h * w, c)
        y = x + self.to_out[0](mixed).transpose(1, 2).reshape(n, c, h, w)
        return y if self.divisor == 1 else y / self.divisor


def halve(x: Tensor) -> Tensor:
    """The mean of each 2 x 2 pixels."""
    return F.avg_pool2d(x, 2)


def double(x: Tensor) -> Tensor:
    """Nearest neighbour."""
    if x.is_cuda and _compiling():
        return _doubled(x)
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def _doubled(x: Tensor) -> Tensor:
    """`double` in channels_last, by a copy. Compiled, the gradient of torch's own adds atomically: slowly, in no fixed order."""
    pixels = x.permute(0, 2, 3, 1)[:, :, None, :, None]
    return pixels.expand(-1, -1, 2, -1, 2, -1).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


class Downsample(nn.Module):
    """Strided convolution; padding 0 means right and bottom only."""

    def __init__(self, channels: int, config: ModelConfig) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=config.downsample_padding)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H/2, W/2)."""
        return self.conv(x if self.conv.padding[0] else F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Nearest neighbour, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, 2H, 2W)."""
        return self.conv(double(x))
