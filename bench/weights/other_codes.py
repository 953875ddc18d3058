"""Weights without a config.json under canonical names: of the DDIM code (song2021), improved-diffusion (nichol2021), UNet2DModel.

The network is read off the names and shapes. What these files do not say is an `Unsaid`; for the image size, the first two codes'
published configs place the first attention at 16 x 16.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.weights import folders
from bench.weights.errors import CheckpointError, named
from bench.weights.unsaid import Unsaid
from reference.config import ConfigError, DiffusionConfig, ModelConfig
from reference.weights import shapes

State = Mapping[str, np.ndarray]
Source = tuple[str, tuple[int, ...], int | None]  # their name, their shape, which of q, k, v within a joint projection


@dataclass(frozen=True)
class Layout:
    """One code's names. `mark` is a parameter that tells it from the others; `source` is None where its names are ours.

    `said` is what the code itself fixes, `usual` what its scripts have by default where its files do not say it.
    """

    name: str
    mark: str
    infer: Callable[[State], dict[str, Any]]
    source: Callable[[str, tuple[int, ...], ModelConfig], Source] | None
    said: Mapping[str, Any]
    usual: Mapping[str, Any]
    rescale_timesteps: bool = False
    rest: str = ""


def convert(path: Path, states: dict[str, dict[str, np.ndarray]], unsaid: Unsaid
            ) -> tuple[dict[str, np.ndarray], ModelConfig, DiffusionConfig] | None:
    """(weights, model, diffusion) of the network in a file; None where it is of no layout that is known here.

    `folders.network_of` chooses among several. Raises `CheckpointError` that names the first difference to our network.
    """
    for state in states.values():
        for pattern, what in REFUSED:
            if found := next((name for name in state if re.search(pattern, name)), None):
                raise CheckpointError(f"{path}: {found} {state[found].shape}: {what}")
    state = folders.network_of(path, states)
    for layout in LAYOUTS:
        if layout.mark in state:
            with named(path):
                return _read(path, state, layout, unsaid)
    return None


def _read(path: Path, state: State, layout: Layout, unsaid: Unsaid) -> tuple[dict[str, np.ndarray], ModelConfig, DiffusionConfig]:
    network = layout.infer(state)
    usual = {"heads": 1, "image_size": _published_size(network), **layout.usual, **USUAL_PROCESS}
    if any(".query." in name for name in state):  # UNet2DModel's of before diffusers 0.17, which had one head by default
        usual["heads"] = 1
    joint = layout.source is _nichol2021_source
    if joint and unsaid.head_channels:
        del usual["heads"]
    usual = {key: value for key, value in usual.items() if key not in layout.said}
    found = unsaid.fill(path, layout.said, usual, rest=layout.rest, joint=joint)
    wide = unsaid.head_channels or 8 * (found["heads"] == EIGHT_WIDE)
    heads = {"attention_head_dim": wide} if wide else {  # one head is what UNet2DModel can say of any width
        "num_attention_heads": None if found["heads"] == 1 else found["heads"]}
    model = ModelConfig(**network, **heads, sample_size=found["image_size"], flip_sin_to_cos=found["time_order"] == "cos")
    learned = model.out_channels == 2 * model.in_channels
    process = unsaid.process(path, DiffusionConfig(variance="learned_range" if learned else "large",
                                                   rescale_timesteps=layout.rescale_timesteps), found)
    return _rename(path, state, layout.source, model, unsaid.qkv_order == "qkv"), model, process


def _published_size(network: Mapping[str, Any]) -> int | None:
    down = network["down_block_types"]
    return 16 << down.index("AttnDownBlock2D") if "AttnDownBlock2D" in down else None


def _rename(path: Path, state: State, source: Callable[[str, tuple[int, ...], ModelConfig], Source] | None, model: ModelConfig,
            qkv_first: bool) -> dict[str, np.ndarray]:
    if source is None:
        return dict(state)
    out, used = {}, set()
    for name, shape in shapes(model).items():
        theirs, wanted, part = source(name, shape, model)
        if theirs not in state:
            raise CheckpointError(f"{path}: {theirs}: parameter is missing, which this network has")
        value = state[theirs]
        if value.shape != wanted:
            raise CheckpointError(f"{path}: {theirs} {value.shape}: shape must be {wanted}")
        if part is not None and qkv_first:
            value = value.reshape(3, *shape)[part]
        elif part is not None:  # rows are ordered by head, then q, k, v
            value = value.reshape(model.heads(shape[0]), 3, -1, *shape[1:])[:, part]
        out[name] = value.reshape(shape)
        used.add(theirs)
    if surplus := [name for name in state if name not in used]:
        raise CheckpointError(f"{path}: {surplus[0]} {state[surplus[0]].shape}: parameter is not part of this network")
    return out


def _dim(state: State, name: str, axis: int) -> int:
    if name not in state or state[name].ndim <= axis:
        raise ConfigError(f"{name}: is missing or has too few dimensions")
    return state[name].shape[axis]


def _model(state: State, ends: tuple[str, str], widths: list[int], layers: int, down: list[bool], up: list[bool]) -> dict[str, Any]:
    return {
        "in_channels": _dim(state, ends[0], 1), "out_channels": _dim(state, ends[1], 0), "layers_per_block": layers,
        "block_out_channels": tuple(widths), "norm_num_groups": 32,
        "down_block_types": tuple("AttnDownBlock2D" if attends else "DownBlock2D" for attends in down),
        "up_block_types": tuple("AttnUpBlock2D" if attends else "UpBlock2D" for attends in up),
    }


def _count(state: State, pattern: str) -> int:
    """How many of the names pattern.format(0), pattern.format(1), .. are there."""
    n = 0
    while pattern.format(n) in state:
        n += 1
    return n


def _song2021(state: State) -> dict[str, Any]:
    levels = _count(state, "down.{}.block.0.conv1.weight")
    widths = [_dim(state, f"down.{i}.block.0.conv1.weight", 0) for i in range(levels)]
    down = [f"down.{i}.attn.0.q.weight" in state for i in range(levels)]
    up = [f"up.{i}.attn.0.q.weight" in state for i in range(levels)][::-1]
    return _model(state, ("conv_in.weight", "conv_out.weight"), widths, _count(state, "down.0.block.{}.conv1.weight"), down, up) | {
        "norm_eps": 1e-6, "downsample_padding": 0, "freq_shift": 1, "zero_init": False}


SONG2021_NAMES = (
    (r"^time_embedding\.linear_1", "temb.dense.0"), (r"^time_embedding\.linear_2", "temb.dense.1"),
    (r"^mid_block\.resnets\.0", "mid.block_1"), (r"^mid_block\.resnets\.1", "mid.block_2"),
    (r"^mid_block\.attentions\.0", "mid.attn_1"), (r"^down_blocks", "down"), (r"^up_blocks", "up"), (r"\.resnets\.", ".block."),
    (r"\.attentions\.", ".attn."), (r"\.(down|up)samplers\.0", r".\1sample"), (r"time_emb_proj", "temb_proj"),
    (r"conv_shortcut", "nin_shortcut"), (r"group_norm", "norm"), (r"to_out\.0", "proj_out"), (r"to_([qkv])", r"\1"),
    (r"^conv_norm_out", "norm_out"),
)


def _song2021_source(name: str, shape: tuple[int, ...], model: ModelConfig) -> Source:
    is_projection = re.search(r"\.to_\w+(\.0)?\.weight$", name)
    levels = len(model.block_out_channels)
    name = re.sub(r"^up_blocks\.(\d+)", lambda m: f"up.{levels - 1 - int(m[1])}", name)
    for pattern, theirs in SONG2021_NAMES:
        name = re.sub(pattern, theirs, name)
    return name, (*shape, 1, 1) if is_projection else shape, None


def _nichol2021(state: State) -> dict[str, Any]:
    numbers = {int(m[1]) for name in state if (m := re.match(r"input_blocks\.(\d{1,4})\.", name))}
    if _dim(state, first := "input_blocks.0.0.weight", 1) == 6:
        raise ConfigError(f"{first} {state[first].shape}: a network that enlarges images, which is not read")
    # guided-diffusion's resblock_updown: the last residual block of an upper level, a second one beside it, changes the resolution
    ups = [int(m[1]) for name in state if (m := re.match(r"output_blocks\.(\d{1,4})\.[12]\.in_layers\.0\.weight", name))]
    every = min(ups, default=0) + 1  # input blocks of a level, the one that halves the resolution included
    levels: list[list[int]] = [[]]  # width of each residual block
    for n in range(1, max(numbers, default=0) + 1):
        if f"input_blocks.{n}.0.in_layers.2.weight" in state and not (ups and n % every == 0):
            levels[-1].append(_dim(state, f"input_blocks.{n}.0.in_layers.2.weight", 0))
        else:
            levels.append([])
    if not all(levels) or len(levels) > 16:
        raise ConfigError(f"input_blocks: {len(levels)} levels, of which some have no residual block")
    layers = len(levels[0])
    down = [f"input_blocks.{1 + i * (layers + 1)}.1.qkv.weight" in state for i in range(len(levels))]
    up = [f"output_blocks.{i * (layers + 1)}.1.qkv.weight" in state for i in range(len(levels))]
    scale_shift = _dim(state, "input_blocks.1.0.emb_layers.1.weight", 0) == 2 * levels[0][0]
    found = _model(state, ("input_blocks.0.0.weight", "out.2.weight"), [level[0] for level in levels], layers, down, up)
    if ups:
        found |= {"downsample_type": "resnet", "upsample_type": "resnet"} | {
            key: tuple(kind if kind.startswith("Attn") else by_resnet for kind in found[key])
            for key, by_resnet in (("down_block_types", "ResnetDownsampleBlock2D"), ("up_block_types", "ResnetUpsampleBlock2D"))}
    return found | {
        "norm_eps": 1e-5, "downsample_padding": 1, "freq_shift": 0, "zero_init": True,
        **({"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 32} if scale_shift else {})}


NICHOL2021_RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
                     "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
NICHOL2021_REST = {"conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0",
                   "time_embedding.linear_2": "time_embed.2", "conv_norm_out": "out.0", "conv_out": "out.2"}


def _nichol2021_source(name: str, shape: tuple[int, ...], model: ModelConfig) -> Source:
    layer, _, kind = name.rpartition(".")
    if layer in NICHOL2021_REST:
        return f"{NICHOL2021_REST[layer]}.{kind}", shape, None
    block, level, what, j, leaf = re.fullmatch(r"(down|up|mid)_blocks?(?:\.(\d+))?\.(\w+)\.(\d+)\.(.+)", layer).groups()  # type: ignore[union-attr]
    i, n, layers = int(level or 0), int(j), model.layers_per_block
    attends = block == "up" and model.up_block_types[i] == "AttnUpBlock2D"
    where, position = {
        ("down", "resnets"): (f"input_blocks.{1 + i * (layers + 1) + n}", 0),
        ("down", "attentions"): (f"input_blocks.{1 + i * (layers + 1) + n}", 1),
        ("down", "downsamplers"): (f"input_blocks.{(i + 1) * (layers + 1)}", 0),
        ("mid", "resnets"): ("middle_block", 2 * n), ("mid", "attentions"): ("middle_block", 1),
        ("up", "resnets"): (f"output_blocks.{i * (layers + 1) + n}", 0),
        ("up", "attentions"): (f"output_blocks.{i * (layers + 1) + n}", 1),
        ("up", "upsamplers"): (f"output_blocks.{i * (layers + 1) + layers}", 1 + attends),
    }[block, what]
    if leaf in NICHOL2021_RESNET:  # also where one changes the resolution
        return f"{where}.{position}.{NICHOL2021_RESNET[leaf]}.{kind}", shape, None
    if what == "downsamplers":
        return f"{where}.{position}.op.{kind}", shape, None
    if what == "attentions" and leaf in ("to_q", "to_k", "to_v"):
        joint = (3 * shape[0], *shape[1:], *((1,) if kind == "weight" else ()))
        return f"{where}.{position}.qkv.{kind}", joint, ("to_q", "to_k", "to_v").index(leaf)
    if what == "attentions" and leaf == "to_out.0":
        return f"{where}.{position}.proj_out.{kind}", (*shape, 1) if kind == "weight" else shape, None
    return f"{where}.{position}.{'norm' if what == 'attentions' else leaf}.{kind}", shape, None


def _unet2d(state: State) -> dict[str, Any]:
    levels = _count(state, "down_blocks.{}.resnets.0.conv1.weight")
    widths = [_dim(state, f"down_blocks.{i}.resnets.0.conv1.weight", 0) for i in range(levels)]
    down, up = ([f"{part}_blocks.{i}.attentions.0.group_norm.weight" in state for i in range(levels)] for part in ("down", "up"))
    layers = _count(state, "down_blocks.0.resnets.{}.conv1.weight")
    if any(width % 32 for width in widths):
        raise ConfigError(f"widths {widths}: 32 groups, UNet2DModel's default, do not divide them; put the network's config.json "
                          "beside the file, which says norm_num_groups")
    return _model(state, ("conv_in.weight", "conv_out.weight"), widths, layers, down, up) | {
        "norm_eps": 1e-5, "downsample_padding": 1, "freq_shift": 0, "zero_init": True}


EIGHT_WIDE = "of 8 channels each"  # UNet2DModel's default
USUAL_PROCESS = {"schedule": "linear", "timesteps": 1000, "objective": "eps"}
LAYOUTS = (
    Layout("DDIM code", "temb.dense.0.weight", _song2021, _song2021_source, {"heads": 1}, {"time_order": "sin"}),
    Layout("improved-diffusion code", "time_embed.0.weight", _nichol2021, _nichol2021_source, {}, {"heads": 4, "time_order": "cos"},
           rescale_timesteps=True),
    Layout("UNet2DModel", "time_embedding.linear_1.weight", _unet2d, None, {}, {"heads": EIGHT_WIDE, "time_order": "cos"},
           rest="; all else as UNet2DModel has it by default: a config.json beside the file would say it"),
)
LUCIDRAINS = ((r"(^|\.)init_conv\.weight$", "a 7x7 convolution stands where this network has a 3x3 one"),
              (r"\.norm\.g$", "RMSNorm stands where this network has GroupNorm"),
              (r"\.mem_kv$", "linear attention with memory stands where this network has none"))
REFUSED = ((r"^(module\.)?(label_emb|class_embedding)\.", "makes the network class-conditional, which is not read"),
           *((pattern, f"{what}; lucidrains' UNet can't be converted") for pattern, what in LUCIDRAINS))
