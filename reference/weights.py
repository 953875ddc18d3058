"""The UNet's parameters: canonical names (diffusers' `UNet2DModel`), shapes and seeded initialisation."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .config import ModelConfig, require

Weights = Mapping[str, np.ndarray]  # float32; convolutions OIHW, linear layers (out, in)
Shapes = dict[str, tuple[int, ...]]


def _linear(name: str, cin: int, cout: int) -> Shapes:
    return {f"{name}.weight": (cout, cin), f"{name}.bias": (cout,)}


def _conv(name: str, cin: int, cout: int, size: int = 3) -> Shapes:
    return {f"{name}.weight": (cout, cin, size, size), f"{name}.bias": (cout,)}


def _norm(name: str, channels: int) -> Shapes:
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def _resnet(name: str, cin: int, cout: int, temb: int, config: ModelConfig) -> Shapes:
    shapes = {**_norm(f"{name}.norm1", cin), **_conv(f"{name}.conv1", cin, cout),
              **_linear(f"{name}.time_emb_proj", temb, cout * (1 + config.scale_shift)), **_norm(f"{name}.norm2", cout),
              **_conv(f"{name}.conv2", cout, cout)}
    return shapes | _conv(f"{name}.conv_shortcut", cin, cout, 1) if cin != cout else shapes


def _attention(name: str, channels: int, norm: bool = True) -> Shapes:
    shapes = _norm(f"{name}.group_norm", channels) if norm else {}
    for part in ("to_q", "to_k", "to_v", "to_out.0"):
        shapes |= _linear(f"{name}.{part}", channels, channels)
    return shapes


def shapes(config: ModelConfig) -> Shapes:
    """Name and shape of every parameter, in the order of the forward pass."""
    widths, layers = config.block_out_channels, config.layers_per_block
    temb = config.time_width
    out = _conv("conv_in", config.in_channels, widths[0])
    out |= _linear("time_embedding.linear_1", widths[0], temb) | _linear("time_embedding.linear_2", temb, temb)
    skips, cin = [widths[0]], widths[0]
    for i, (width, kind) in enumerate(zip(widths, config.down_block_types, strict=True)):
        for j in range(layers):
            out |= _resnet(f"down_blocks.{i}.resnets.{j}", cin, width, temb, config)
            if kind == "AttnDownBlock2D":
                out |= _attention(f"down_blocks.{i}.attentions.{j}", width)
            cin = width
            skips.append(width)
        if i < len(widths) - 1:
            name = f"down_blocks.{i}.downsamplers.0"
            out |= _resnet(name, width, width, temb, config) if config.by_resnet(kind) else _conv(f"{name}.conv", width, width)
            skips.append(width)
    if config.mid_block_type:
        out |= _resnet("mid_block.resnets.0", cin, cin, temb, config)
        if config.add_attention:
            out |= _attention("mid_block.attentions.0", cin, config.middle_groups is not None)
        out |= _resnet("mid_block.resnets.1", cin, cin, temb, config)
    for i, (width, kind) in enumerate(zip(widths[::-1], config.up_block_types, strict=True)):
        for j in range(layers + 1):
            out |= _resnet(f"up_blocks.{i}.resnets.{j}", cin + skips.pop(), width, temb, config)
            if kind == "AttnUpBlock2D":
                out |= _attention(f"up_blocks.{i}.attentions.{j}", width)
            cin = width
        if i < len(widths) - 1:
            name = f"up_blocks.{i}.upsamplers.0"
            out |= _resnet(name, width, width, temb, config) if config.by_resnet(kind) else _conv(f"{name}.conv", width, width)
    return out | _norm("conv_norm_out", widths[0]) | _conv("conv_out", widths[0], config.out_channels)


def count(config: ModelConfig) -> int:
    """Number of parameters."""
    return sum(int(np.prod(shape)) for shape in shapes(config).values())


def initialise(config: ModelConfig, seed: int) -> dict[str, np.ndarray]:
    """Seeded float32 weights: uniform with the variance of Ho et al.'s fan-average scaling, norms one, biases zero.

    Where `zero_init`, the last convolution of each residual branch, the attention's output and `conv_out` start at zero
    (their code scales them by 1e-10). Uniforms are made from raw Philox bits, one stream a parameter, because NumPy
    guarantees the raw stream across versions and not its distributions. `seed` is 0 or more.
    """
    require(seed >= 0, "seed", seed, "must be 0 or more")
    out = {}
    for n, (name, shape) in enumerate(shapes(config).items()):
        if len(shape) == 1:
            value = np.full(shape, float("norm" in name and name.endswith(".weight")))
        elif config.zero_init and name.endswith(("conv2.weight", "to_out.0.weight", "conv_out.weight")):
            value = np.zeros(shape)
        else:
            receptive = int(np.prod(shape[2:]))
            bound = np.sqrt(3 * 2 / (receptive * (shape[0] + shape[1])))
            bits = np.random.Philox(key=seed, counter=[0, 0, n, 0]).random_raw(int(np.prod(shape)))
            value = ((bits >> np.uint64(11)) * 2.0**-52 - 1).reshape(shape) * bound
        out[name] = value.astype(np.float32)
    return out


def check(weights: Weights, config: ModelConfig, source: str) -> None:
    """Raise `ConfigError` naming `source` and the first missing, surplus or misshapen parameter."""
    expected = shapes(config)
    for name, shape in expected.items():
        require(name in weights, source, name, "parameter is missing")
        require(weights[name].shape == shape, source, f"{name} {weights[name].shape}", f"shape must be {shape}")
        require(bool(np.isfinite(weights[name]).all()), source, name, "holds a NaN or an infinity")
    surplus = sorted(set(weights) - set(expected))
    require(not surplus, source, surplus[:1], "parameter is not part of this network")
