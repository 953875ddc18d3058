"""The UNet's forward pass in NumPy, from canonical weights: the framework-free voice in "identical networks".

Ho et al. 2020 (arXiv:2006.11239, appendix B) as diffusers' `UNet2DModel` parametrises it. All arrays are NCHW; everything is
computed in float64 whatever the weights' dtype.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr

from .config import ModelConfig
from .schedules import Array
from .weights import Weights


def time_proj(t: ArrayLike, config: ModelConfig) -> Array:
    """Sinusoidal embedding of t (N,), shape (N, first width): frequencies 10000^(-k / (half - freq_shift))."""
    half = config.block_out_channels[0] // 2
    freqs = np.exp(-np.log(10000.0) * np.arange(half) / (half - config.freq_shift))
    angle = np.asarray(t, np.float64)[:, None] * freqs
    order = (np.cos(angle), np.sin(angle)) if config.flip_sin_to_cos else (np.sin(angle), np.cos(angle))
    return np.concatenate(order, axis=1)


def silu(x: Array) -> Array:
    """x sigmoid(x)."""
    return x * 0.5 * (1 + np.tanh(0.5 * x))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": silu, "swish": silu, "relu": lambda x: np.maximum(x, 0), "gelu": lambda x: x * ndtr(x),
    "mish": lambda x: x * np.tanh(np.logaddexp(x, 0)),  # Misra 2019 (arXiv:1908.08681)
}


def linear(w: Weights, name: str, x: Array) -> Array:
    """x (.., in) to (.., out)."""
    return x @ w[f"{name}.weight"].astype(np.float64).T + w[f"{name}.bias"]


def conv(w: Weights, name: str, x: Array, stride: int = 1, pad: tuple[int, int] | None = None) -> Array:
    """Convolution with a square kernel; `pad` is (before, after) of both spatial axes, by default what keeps the size."""
    kernel = w[f"{name}.weight"].astype(np.float64)
    out, cin, size, _ = kernel.shape
    x = np.pad(x, ((0, 0), (0, 0), *(2 * [pad or (size // 2, size // 2)])))
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (2, 3))[:, :, ::stride, ::stride]  # type: ignore
    n, _, h, width, _, _ = windows.shape
    columns = windows.transpose(0, 2, 3, 1, 4, 5).reshape(n * h * width, cin * size * size)
    y = columns @ kernel.reshape(out, -1).T + w[f"{name}.bias"]
    return y.reshape(n, h, width, out).transpose(0, 3, 1, 2)


def group_norm(w: Weights, name: str, x: Array, config: ModelConfig, groups: int | None = None) -> Array:
    """Wu & He 2018 (arXiv:1803.08494): zero mean and unit variance per image and group, then scale and shift per channel.

    `groups` are the config's unless given.
    """
    n, c, *_ = x.shape
    grouped = x.reshape(n, groups or config.norm_num_groups, -1)
    mean, variance = grouped.mean(-1, keepdims=True), grouped.var(-1, keepdims=True)
    y = ((grouped - mean) / np.sqrt(variance + config.norm_eps)).reshape(x.shape)
    return y * w[f"{name}.weight"].reshape(1, c, 1, 1) + w[f"{name}.bias"].reshape(1, c, 1, 1)


def halve(x: Array) -> Array:
    """The mean of each 2 x 2 pixels."""
    n, c, h, width = x.shape
    return x.reshape(n, c, h // 2, 2, width // 2, 2).mean((3, 5))


def double(x: Array) -> Array:
    """Nearest neighbour."""
    return x.repeat(2, axis=2).repeat(2, axis=3)


def resnet(w: Weights, name: str, x: Array, temb: Array, config: ModelConfig, resize: Callable[[Array], Array] = np.asarray
           ) -> Array:
    """Two norm-activation-conv around a shortcut. The time embedding is added between them; or, IDDPM appendix A, it scales and
    shifts what the second norm gives. Where it changes the resolution, `resize` does so on both ways before the first convolution.
    """
    act = ACTIVATIONS[config.act_fn]
    h = conv(w, f"{name}.conv1", resize(act(group_norm(w, f"{name}.norm1", x, config))))
    x = resize(x)
    emb = linear(w, f"{name}.time_emb_proj", act(temb))[:, :, None, None]
    if config.scale_shift:
        scale, shift = np.split(emb, 2, axis=1)
        h = group_norm(w, f"{name}.norm2", h, config) * (1 + scale) + shift
    else:
        h = group_norm(w, f"{name}.norm2", h + emb, config)
    h = conv(w, f"{name}.conv2", act(h))
    return h + (conv(w, f"{name}.conv_shortcut", x) if f"{name}.conv_shortcut.weight" in w else x)


def attention(w: Weights, name: str, x: Array, config: ModelConfig, groups: int | None = None) -> Array:
    """Self-attention over the H W positions, scaled by head_dim^-1/2, around a shortcut.

    `groups` are those of its norm, the config's unless given; where the weights have no norm there is none.
    """
    n, c, h, width = x.shape
    heads = config.heads(c)
    normed = group_norm(w, f"{name}.group_norm", x, config, groups) if f"{name}.group_norm.weight" in w else x
    tokens = normed.reshape(n, c, h * width).transpose(0, 2, 1)
    q, k, v = (linear(w, f"{name}.{part}", tokens).reshape(n, h * width, heads, c // heads).transpose(0, 2, 1, 3)
               for part in ("to_q", "to_k", "to_v"))
    scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(c // heads)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = (scores / scores.sum(-1, keepdims=True)) @ v
    y = linear(w, f"{name}.to_out.0", mixed.transpose(0, 2, 1, 3).reshape(n, h * width, c))
    return x + y.transpose(0, 2, 1).reshape(x.shape)


def downsample(w: Weights, name: str, x: Array, config: ModelConfig) -> Array:
    """Strided convolution; padding 0 means right and bottom only."""
    return conv(w, f"{name}.conv", x, stride=2, pad=(1, 1) if config.downsample_padding else (0, 1))


def upsample(w: Weights, name: str, x: Array) -> Array:
    """Nearest neighbour, then a convolution."""
    return conv(w, f"{name}.conv", double(x))


def forward(w: Weights, config: ModelConfig, x: ArrayLike, t: ArrayLike, activations: dict[str, Array] | None = None) -> Array:
    """Output (N, out_channels, H, W) for x (N, in_channels, H, W) and t (N,), without dropout.

    With self-conditioning x is the image and the last x0_hat, joined along the channels. Where `activations` is given each
    block's output is put into it by canonical name.
    """
    seen: dict[str, Array] = {} if activations is None else activations

    def note(name: str, value: Array) -> Array:
        seen[name] = value
        return value

    temb = linear(w, "time_embedding.linear_2", silu(linear(w, "time_embedding.linear_1", time_proj(t, config))))
    note("time_embedding", temb)
    image = np.asarray(x, np.float64)
    h = note("conv_in", conv(w, "conv_in", 2 * image - 1 if config.center_input_sample else image))
    skips = [h]
    for i, kind in enumerate(config.down_block_types):
        for j in range(config.layers_per_block):
            name = f"down_blocks.{i}.resnets.{j}"
            h = note(name, resnet(w, name, h, temb, config))
            if kind == "AttnDownBlock2D":
                name = f"down_blocks.{i}.attentions.{j}"
                h = note(name, attention(w, name, h, config))
            skips.append(h)
        if i < len(config.block_out_channels) - 1:
            name = f"down_blocks.{i}.downsamplers.0"
            h = note(name, resnet(w, name, h, temb, config, halve) if config.by_resnet(kind) else downsample(w, name, h, config))
            skips.append(h)
    if config.mid_block_type:
        scale = config.mid_block_scale_factor
        h = note("mid_block.resnets.0", resnet(w, "mid_block.resnets.0", h, temb, config) / scale)
        if config.add_attention:
            h = note("mid_block.attentions.0", attention(w, "mid_block.attentions.0", h, config, config.middle_groups) / scale)
        h = note("mid_block.resnets.1", resnet(w, "mid_block.resnets.1", h, temb, config) / scale)
    for i, kind in enumerate(config.up_block_types):
        for j in range(config.layers_per_block + 1):
            name = f"up_blocks.{i}.resnets.{j}"
            h = note(name, resnet(w, name, np.concatenate((h, skips.pop()), axis=1), temb, config))
            if kind == "AttnUpBlock2D":
                name = f"up_blocks.{i}.attentions.{j}"
                h = note(name, attention(w, name, h, config))
        if i < len(config.block_out_channels) - 1:
            name = f"up_blocks.{i}.upsamplers.0"
            h = note(name, resnet(w, name, h, temb, config, double) if config.by_resnet(kind) else upsample(w, name, h))
    return note("conv_out", conv(w, "conv_out", silu(group_norm(w, "conv_norm_out", h, config))))
