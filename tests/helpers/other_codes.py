"""The UNets of two other codes as functions of their parameters' names, written from their papers and published layouts.

Each function is its network's mathematics and, run once on an empty `Parameters`, the whole list of its names and shapes.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


class Parameters(dict[str, Tensor]):
    """A state dict that draws a parameter where a name is asked for the first time."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self, name: str, *shape: int) -> Tensor:
        if name not in self:
            scale = 0.3 if len(shape) == 1 else 1 / math.sqrt(math.prod(shape[1:]))
            self[name] = scale * torch.randn(shape, generator=self.generator)
        return self[name]

    def conv(self, name: str, x: Tensor, width: int, size: int = 3, **how: int) -> Tensor:
        weight = self.draw(f"{name}.weight", width, x.shape[1], *(size,) * (x.ndim - 2))
        return (F.conv2d if x.ndim == 4 else F.conv1d)(x, weight, self.draw(f"{name}.bias", width), **how)

    def linear(self, name: str, x: Tensor, width: int) -> Tensor:
        return F.linear(x, self.draw(f"{name}.weight", width, x.shape[1]), self.draw(f"{name}.bias", width))

    def norm(self, name: str, x: Tensor, eps: float) -> Tensor:
        return F.group_norm(x, 32, self.draw(f"{name}.weight", x.shape[1]), self.draw(f"{name}.bias", x.shape[1]), eps)


def song2021(p: Parameters, x: Tensor, t: Tensor, ch: int = 64, mult: tuple[int, ...] = (1, 2, 2), layers: int = 2,
             attends: tuple[int, ...] = (1,), out: int = 3) -> Tensor:
    """github.com/ermongroup/ddim: x (N, C, H, W), t (N,)."""
    half = ch // 2
    angle = t.float()[:, None] * torch.exp(torch.arange(half) * (-math.log(10000) / (half - 1)))
    temb = p.linear("temb.dense.0", torch.cat((angle.sin(), angle.cos()), 1), 4 * ch)
    temb = p.linear("temb.dense.1", F.silu(temb), 4 * ch)

    def resnet(name: str, x: Tensor, width: int) -> Tensor:
        h = p.conv(f"{name}.conv1", F.silu(p.norm(f"{name}.norm1", x, 1e-6)), width, padding=1)
        h = h + p.linear(f"{name}.temb_proj", F.silu(temb), width)[:, :, None, None]
        h = p.conv(f"{name}.conv2", F.silu(p.norm(f"{name}.norm2", h, 1e-6)), width, padding=1)
        return h + (x if x.shape[1] == width else p.conv(f"{name}.nin_shortcut", x, width, 1))

    def attention(name: str, x: Tensor) -> Tensor:
        n, c, height, width = x.shape
        h = p.norm(f"{name}.norm", x, 1e-6)
        q, k, v = (p.conv(f"{name}.{part}", h, c, 1).flatten(2) for part in "qkv")
        mixed = v @ torch.softmax(q.transpose(1, 2) @ k / math.sqrt(c), dim=2).transpose(1, 2)
        return x + p.conv(f"{name}.proj_out", mixed.reshape(n, c, height, width), c, 1)

    skips = [p.conv("conv_in", x, ch, padding=1)]
    for i, m in enumerate(mult):
        for j in range(layers):
            h = resnet(f"down.{i}.block.{j}", skips[-1], ch * m)
            skips.append(attention(f"down.{i}.attn.{j}", h) if i in attends else h)
        if i < len(mult) - 1:
            skips.append(p.conv(f"down.{i}.downsample.conv", F.pad(skips[-1], (0, 1, 0, 1)), ch * m, stride=2))
    h = resnet("mid.block_1", skips[-1], ch * mult[-1])
    h = resnet("mid.block_2", attention("mid.attn_1", h), ch * mult[-1])
    for i in reversed(range(len(mult))):
        for j in range(layers + 1):
            h = resnet(f"up.{i}.block.{j}", torch.cat((h, skips.pop()), 1), ch * mult[i])
            h = attention(f"up.{i}.attn.{j}", h) if i in attends else h
        if i > 0:
            h = p.conv(f"up.{i}.upsample.conv", h.repeat_interleave(2, 2).repeat_interleave(2, 3), ch * mult[i], padding=1)
    return p.conv("conv_out", F.silu(p.norm("norm_out", h, 1e-6)), out, padding=1)


def nichol2021(p: Parameters, x: Tensor, t: Tensor, ch: int = 64, mult: tuple[int, ...] = (1, 2, 2), layers: int = 2,
               attends: tuple[int, ...] = (1,), out: int = 6, heads: int = 4, scale_shift: bool = False, updown: bool = False,
             head_channels: int = 0, qkv_first: bool = False) -> Tensor:
    """github.com/openai/improved-diffusion, and with the last three options guided-diffusion: x (N, C, H, W), t (N,)."""
    half = ch // 2
    angle = t.float()[:, None] * torch.exp(torch.arange(half) * (-math.log(10000) / half))
    temb = p.linear("time_embed.0", torch.cat((angle.cos(), angle.sin()), 1), 4 * ch)
    temb = p.linear("time_embed.2", F.silu(temb), 4 * ch)

    def halve(x: Tensor) -> Tensor:
        return (x[..., 0::2, 0::2] + x[..., 0::2, 1::2] + x[..., 1::2, 0::2] + x[..., 1::2, 1::2]) / 4

    def double(x: Tensor) -> Tensor:
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    def resnet(name: str, x: Tensor, width: int, resize=lambda x: x) -> Tensor:
        h = p.conv(f"{name}.in_layers.2", resize(F.silu(p.norm(f"{name}.in_layers.0", x, 1e-5))), width, padding=1)
        x = resize(x)
        emb = p.linear(f"{name}.emb_layers.1", F.silu(temb), width * (1 + scale_shift))[:, :, None, None]
        if scale_shift:
            scale, shift = emb.chunk(2, dim=1)
            h = p.norm(f"{name}.out_layers.0", h, 1e-5) * (1 + scale) + shift
        else:
            h = p.norm(f"{name}.out_layers.0", h + emb, 1e-5)
        h = p.conv(f"{name}.out_layers.3", F.silu(h), width, padding=1)
        return h + (x if x.shape[1] == width else p.conv(f"{name}.skip_connection", x, width, 1))

    def attention(name: str, x: Tensor) -> Tensor:
        n, c, height, width = x.shape
        joint = p.conv(f"{name}.qkv", p.norm(f"{name}.norm", x.flatten(2), 1e-5), 3 * c, 1)
        mixed, count = [], c // head_channels if head_channels else heads
        if qkv_first:
            each = zip(*(part.chunk(count, dim=1) for part in joint.chunk(3, dim=1)), strict=True)
        else:  # one head after the other, each q, k, v
            each = (one.chunk(3, dim=1) for one in joint.reshape(n, count, 3 * c // count, height * width).unbind(1))
        for q, k, v in each:
            mixed.append(v @ torch.softmax(q.transpose(1, 2) @ k / math.sqrt(c // count), dim=2).transpose(1, 2))
        return x + p.conv(f"{name}.proj_out", torch.cat(mixed, 1), c, 1).reshape(n, c, height, width)

    skips, n = [p.conv("input_blocks.0.0", x, ch, padding=1)], 1
    for i, m in enumerate(mult):
        for _ in range(layers):
            h = resnet(f"input_blocks.{n}.0", skips[-1], ch * m)
            skips.append(attention(f"input_blocks.{n}.1", h) if i in attends else h)
            n += 1
        if i < len(mult) - 1:
            skips.append(resnet(f"input_blocks.{n}.0", skips[-1], ch * m, halve) if updown else
                         p.conv(f"input_blocks.{n}.0.op", skips[-1], ch * m, stride=2, padding=1))
            n += 1
    h = resnet("middle_block.0", skips[-1], ch * mult[-1])
    h = resnet("middle_block.2", attention("middle_block.1", h), ch * mult[-1])
    n = 0
    for i in reversed(range(len(mult))):
        for j in range(layers + 1):
            h = resnet(f"output_blocks.{n}.0", torch.cat((h, skips.pop()), 1), ch * mult[i])
            h = attention(f"output_blocks.{n}.1", h) if i in attends else h
            if i > 0 and j == layers:
                name = f"output_blocks.{n}.{1 + (i in attends)}"
                h = resnet(name, h, ch * mult[i], double) if updown else p.conv(f"{name}.conv", double(h), ch * mult[i], padding=1)
            n += 1
    return p.conv("out.2", F.silu(p.norm("out.0", h, 1e-5)), out, padding=1)
