"""The UNet of Ho et al. 2020 (arXiv:2006.11239, appendix B) as diffusers' `UNet2DModel` parametrises it.

The network is a function of a dictionary of weights by their canonical names, as `reference/unet.py` has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jax import Array

from reference.config import ModelConfig

from .layers import (
    ACTIVATIONS,
    Arrays,
    add_shift,
    attention,
    conv,
    double,
    downsample,
    dropout,
    group_norm,
    halve,
    in_dtype,
    linear,
    silu,
    time_proj,
    upsample,
)


def resnet(w: Arrays, name: str, x: Array, shift: Array, config: ModelConfig, key: Array | None,
           resize: Callable[[Array], Array] | None = None, divisor: float = 1) -> Array:
    """x (N, H, W, cin), shift (N or 1, cout), or scale and shift (N or 1, 2 cout), to (N, H, W, cout).

    Two norm-activation-conv around a shortcut. The time embedding's projection is added between them, or scales and shifts what the
    second norm gives (IDDPM appendix A). `resize` changes the resolution, on both ways before the first convolution; `divisor`
    divides the sum. Without `key` nothing is dropped.
    """
    act = ACTIVATIONS[config.act_fn]
    h = act(group_norm(w, f"{name}.norm1", x, config)).astype(x.dtype)
    if resize:
        h, x = resize(h), resize(x)
    h = conv(w, f"{name}.conv1", h)
    if config.scale_shift:
        scale, shift = jnp.split(shift[:, None, None], 2, axis=-1)
        h = act(group_norm(w, f"{name}.norm2", h, config) * (1 + scale) + shift).astype(x.dtype)
    else:
        h = act(group_norm(w, f"{name}.norm2", add_shift(h, shift), config)).astype(x.dtype)
    if config.dropout and key is not None:
        h = dropout(h, config.dropout, key)
    h = conv(w, f"{name}.conv2", h)
    h = h + (conv(w, f"{name}.conv_shortcut", x) if f"{name}.conv_shortcut.weight" in w else x)
    return h if divisor == 1 else h / divisor


def resnets(config: ModelConfig) -> Iterator[str]:
    """The canonical names of all resnets, in the order of the forward pass."""
    last, layers = len(config.block_out_channels) - 1, config.layers_per_block
    for i, kind in enumerate(config.down_block_types):
        yield from (f"down_blocks.{i}.resnets.{j}" for j in range(layers))
        if i < last and config.by_resnet(kind):
            yield f"down_blocks.{i}.downsamplers.0"
    if config.mid_block_type:
        yield from ("mid_block.resnets.0", "mid_block.resnets.1")
    for i, kind in enumerate(config.up_block_types):
        yield from (f"up_blocks.{i}.resnets.{j}" for j in range(layers + 1))
        if i < last and config.by_resnet(kind):
            yield f"up_blocks.{i}.upsamplers.0"


def time_embedding(w: Arrays, config: ModelConfig, t: Array, dtype: str) -> Array:
    """Two-layer perceptron on the sinusoidal embedding of t (N,), shape (N, time width)."""
    return linear(w, "time_embedding.linear_2", silu(linear(w, "time_embedding.linear_1", in_dtype(time_proj(t, config), dtype))))


def time_shifts(w: Arrays, config: ModelConfig, temb: Array) -> dict[str, Array]:
    """What the time embedding (N, time width) does in each resnet, by its name: (N, cout), or (N, 2 cout) to scale and shift."""
    temb = ACTIVATIONS[config.act_fn](temb)
    return {name: linear(w, f"{name}.time_emb_proj", temb) for name in resnets(config)}


def denoise(w: Arrays, config: ModelConfig, x: Array, shifts: dict[str, Array], key: Array | None = None,
            note: Callable[[str, Array], Array] = lambda name, value: value) -> Array:
    """Output (N, out_channels, H, W) for x (N, in_channels, H, W) in x's dtype; shifts are those of N t, or of one where all agree.

    `key`, of training, decides what dropout drops. `note` is given each block's output, (N, H, W, C), with its canonical name. One
    function, since its order is the network.
    """
    x = x.transpose(0, 2, 3, 1)
    keys = {name: None if key is None else jax.random.fold_in(key, n) for n, name in enumerate(resnets(config))}

    def block(name: str, x: Array, resize: Callable[[Array], Array] | None = None, divisor: float = 1) -> Array:
        return note(name, resnet(w, name, x, shifts[name], config, keys[name], resize, divisor))

    def attended(name: str, x: Array, groups: int | None = None, divisor: float = 1) -> Array:
        return note(name, attention(w, name, x, config, groups, divisor))

    last = len(config.block_out_channels) - 1
    h = note("conv_in", conv(w, "conv_in", 2 * x - 1 if config.center_input_sample else x))
    skips = [h]
    for i, kind in enumerate(config.down_block_types):
        for j in range(config.layers_per_block):
            h = block(f"down_blocks.{i}.resnets.{j}", h)
            if kind == "AttnDownBlock2D":
                h = attended(f"down_blocks.{i}.attentions.{j}", h)
            skips.append(h)
        if i < last:
            name = f"down_blocks.{i}.downsamplers.0"
            h = block(name, h, halve) if config.by_resnet(kind) else note(name, downsample(w, name, h, config))
            skips.append(h)
    if config.mid_block_type:
        divisor = config.mid_block_scale_factor
        h = block("mid_block.resnets.0", h, None, divisor)
        if config.add_attention:
            h = attended("mid_block.attentions.0", h, config.middle_groups, divisor)
        h = block("mid_block.resnets.1", h, None, divisor)
    for i, kind in enumerate(config.up_block_types):
        for j in range(config.layers_per_block + 1):
            h = block(f"up_blocks.{i}.resnets.{j}", jnp.concatenate((h, skips.pop()), axis=-1))
            if kind == "AttnUpBlock2D":
                h = attended(f"up_blocks.{i}.attentions.{j}", h)
        if i < last:
            name = f"up_blocks.{i}.upsamplers.0"
            h = block(name, h, double) if config.by_resnet(kind) else note(name, upsample(w, name, h))
    h = silu(group_norm(w, "conv_norm_out", h, config)).astype(h.dtype)
    return note("conv_out", conv(w, "conv_out", h)).transpose(0, 3, 1, 2)


def forward(w: Arrays, config: ModelConfig, x: Array, t: Array, dtype: str, key: Array | None = None,
            note: Callable[[str, Array], Array] = lambda name, value: value) -> Array:
    """Output (N, out_channels, H, W) in x's dtype, computed in `dtype`, for x (N, in_channels, H, W) and t (N,), which may be
    fractional."""
    temb = note("time_embedding", time_embedding(w, config, t, dtype))
    return denoise(w, config, in_dtype(x, dtype), time_shifts(w, config, temb), key, note).astype(x.dtype)
