"""Weights and configs as diffusers' pipeline folders.

What this code writes is safetensors and carries a SHA-256 over names, shapes and bytes.
"""

from __future__ import annotations

import json
import math
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench import files
from bench.weights import folders, tensor_files
from bench.weights.diffusers_config import read_scheduler, read_unet, scheduler_json, unet_json
from bench.weights.errors import CheckpointError, named, note
from bench.weights.folders import WEIGHTS
from bench.weights.scheduler_config import ours_alone, pipeline_class, read_sampling, require_expressible, written_class
from bench.weights.tensor_files import write_safetensors
from bench.weights.unsaid import SILENT as SAID_NOTHING
from bench.weights.unsaid import Unsaid
from reference.config import DiffusionConfig, ModelConfig
from reference.scheduler import SILENT, Scheduler
from reference.weights import Weights, check, shapes

MAX_HEADER = 16 << 20  # bytes

LEGACY_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # of attention, up to diffusers 0.16


class Loaded(NamedTuple):
    """What a source holds: canonical float32 weights, and what its files say of network, process and sampling."""

    weights: dict[str, np.ndarray]
    model: ModelConfig
    diffusion: DiffusionConfig
    scheduler: Scheduler = SILENT


def save_pipeline(folder: Path, weights: Weights, model: ModelConfig, diffusion: DiffusionConfig,
                  extra: Mapping[str, str] | None = None, scheduler: Scheduler = SILENT) -> str:
    """Write a folder that `load_pipeline` and diffusers' `DDPMPipeline.from_pretrained` read; returns the weights' SHA-256.

    `extra` holds further text files by name; `scheduler` is that of the weights' source. The folder appears whole, and replaces an
    older one. A process that diffusers can't say makes a folder that diffusers refuses to load, and a warning. Raises
    `CheckpointError`, also for what diffusers would misread, and `FileError` where it can't be written.
    """
    folder = Path(folder).absolute()
    check(weights, model, str(folder))
    require_expressible(str(folder), diffusion, scheduler)
    if why := ours_alone(diffusion):
        note(f"{folder}: {why}; so diffusers does not load this folder, and --weights here does")
    if os.path.lexists(folder) and not (folder / "model_index.json").exists():
        raise CheckpointError(f"{folder}: exists and is no pipeline folder; it is not overwritten")
    name = written_class(scheduler)
    index = {"_class_name": pipeline_class(name), "scheduler": ["diffusers", name],
             "unet": ["diffusers", "UNet2DModel"]}
    texts = {"model_index.json": index, "unet/config.json": unet_json(model),
             "scheduler/scheduler_config.json": scheduler_json(diffusion, scheduler)}
    with files.replacing_folder(folder) as part:
        (part / "unet").mkdir()
        (part / "scheduler").mkdir()
        sha256 = write_safetensors(part / "unet" / WEIGHTS, weights, {"format": "pt"})
        for name, values in texts.items():
            (part / name).write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
        for name, text in (extra or {}).items():
            (part / name).write_text(text)
    return sha256


def load_pipeline(folder: Path, file: Path | None = None) -> tuple[dict[str, np.ndarray], ModelConfig, DiffusionConfig]:
    """The first three of `read_pipeline`."""
    return read_pipeline(folder, file)[:3]


def read_pipeline(folder: Path, file: Path | None = None, ignore_scheduler: bool = False, unsaid: Unsaid = SAID_NOTHING) -> Loaded:
    """What is in a pipeline folder of ours or of diffusers, nested or flat (as google/ddpm-cifar10-32 is).

    Weights that are not in `file` are found by `folders.find`. A network alone, as `UNet2DModel.save_pretrained` writes it, has the
    diffusion of diffusers' `DDPMScheduler()`. Raises `CheckpointError`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder")
    place = folders.find(folder, file)
    diffusion, scheduler = DiffusionConfig(variance="small"), SILENT
    if place.scheduler:
        diffusion = read_scheduler(place.scheduler, ignore_scheduler)
        scheduler = read_sampling(place.scheduler, ignore_scheduler)
    largest = sum(8 * math.prod(shape) for shape in shapes(read_unet(place.config, legacy=True)).values()) + MAX_HEADER
    arrays = folders.network_of(place.weights, tensor_files.read(place.weights, largest))
    model = read_unet(place.config, legacy=any(".query." in name for name in arrays))
    model, diffusion = unsaid.in_folder(place.config, place.scheduler, model, diffusion)
    return Loaded(as_weights(place.weights, arrays, model), model, diffusion, scheduler)


def as_weights(path: Path, arrays: Mapping[str, np.ndarray], model: ModelConfig) -> dict[str, np.ndarray]:
    """Canonical float32 weights from a file's arrays: older names of attention, MindSpore's of its norms. `path` is for errors.

    Warns where the network has blocks that can't know t (`ModelConfig.cancels_time`).
    """
    expected, out = shapes(model), {}
    for name, value in arrays.items():
        if value.dtype.kind != "f":
            raise CheckpointError(f"{path}: {name} is {value.dtype}; weights must be float16, float32 or float64")
        if ".attentions." in name:
            name = re.sub(r"\.(query|key|value|proj_attn)\.", lambda m: f".{LEGACY_NAMES[m[1]]}.", name)
        name = re.sub(r"norm(\w*)\.(gamma|beta)$", lambda m: f"norm{m[1]}.{'weight' if m[2] == 'gamma' else 'bias'}", name)
        if name in out:
            raise CheckpointError(f"{path}: {name} is there under its old and its new name")
        if value.shape == expected.get(name):
            with np.errstate(over="ignore"):  # an infinity is reported by name below
                value = np.ascontiguousarray(value, np.float32)
        out[name] = value
    with named(path):
        check(out, model, str(path))
    if model.cancels_time:
        warnings.warn(f"{path}: norm_num_groups={model.norm_num_groups}: with one channel a group (width {model.norm_num_groups}) "
                      "GroupNorm cancels the time embedding, so blocks of this width do not know t; the network is used as it is",
                      stacklevel=3)
    return out


