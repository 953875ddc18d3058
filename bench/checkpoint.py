"""Weights and configs as diffusers' pipeline folders, and training states that survive a kill.

Tensors are safetensors only: nothing here unpickles. What this code writes carries a SHA-256 over names, shapes and bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from bench.diffusers_json import CheckpointError, named, read_scheduler, read_unet, scheduler_json, unet_json
from reference.config import DiffusionConfig, ModelConfig
from reference.weights import Weights, check, shapes

WEIGHTS = "diffusion_pytorch_model.safetensors"
MAX_HEADER = 16 << 20  # bytes
KEEP = 2  # training states

LEGACY_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # of attention, up to diffusers 0.16


def save_pipeline(folder: Path, weights: Weights, model: ModelConfig, diffusion: DiffusionConfig,
                  extra: Mapping[str, str] | None = None) -> str:
    """Write a folder that `load_pipeline` and diffusers' `DDPMPipeline.from_pretrained` read; returns the weights' SHA-256.

    `extra` holds further text files by name. The folder appears whole, and replaces an older one. Raises `CheckpointError`.
    """
    folder = Path(folder).absolute()
    part, old = folder.with_name(folder.name + ".part"), folder.with_name(folder.name + ".old")
    check(weights, model, str(folder))
    if folder.exists() and not (folder / "model_index.json").exists():
        raise CheckpointError(f"{folder}: exists and is no pipeline folder; it is not overwritten")
    index = {"_class_name": "DDPMPipeline", "scheduler": ["diffusers", "DDPMScheduler"], "unet": ["diffusers", "UNet2DModel"]}
    files = {"model_index.json": index, "unet/config.json": unet_json(model),
             "scheduler/scheduler_config.json": scheduler_json(diffusion)}
    try:
        for leftover in (part, old):
            shutil.rmtree(leftover, ignore_errors=True)
        (part / "unet").mkdir(parents=True)
        (part / "scheduler").mkdir()
        sha256 = _write_tensors(part / "unet" / WEIGHTS, weights, {"format": "pt"})
        texts = {name: json.dumps(values, indent=2, sort_keys=True) + "\n" for name, values in files.items()}
        for name, text in {**texts, **(extra or {})}.items():
            (part / name).write_text(text)
            sync(part / name)
        for written in (part / "unet", part / "scheduler", part):
            sync(written)
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
        sync(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(part, ignore_errors=True)
        raise CheckpointError(f"{folder}: can't be written: {error}") from error
    return sha256


def load_pipeline(folder: Path) -> tuple[dict[str, np.ndarray], ModelConfig, DiffusionConfig]:
    """(weights, model, diffusion) of a pipeline folder of ours or of diffusers, nested or flat (as google/ddpm-cifar10-32 is).

    Raises `CheckpointError`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder")
    unet, scheduler = (folder / name if (folder / name).is_dir() else folder for name in ("unet", "scheduler"))
    path = unet / WEIGHTS
    if not path.exists() and path.with_suffix(".bin").exists():
        raise CheckpointError(f"{path}: missing; {path.with_suffix('.bin').name} is a pickle, which can run code and is not "
                              "read: convert it to safetensors")
    with _open(path) as file:
        legacy = any(".query." in name for name in file.keys())  # noqa: SIM118
    model = read_unet(unet / "config.json", legacy)
    return load_weights(path, model), model, read_scheduler(scheduler / "scheduler_config.json")


def load_weights(path: Path, model: ModelConfig) -> dict[str, np.ndarray]:
    """float32 weights of one safetensors file, checked against the network's names and shapes. Raises `CheckpointError`."""
    path = Path(path)
    largest = sum(8 * math.prod(shape) for shape in shapes(model).values()) + MAX_HEADER
    out = {}
    for name, value in _read_tensors(path, largest)[0].items():
        if value.dtype.kind != "f":
            raise CheckpointError(f"{path}: {name} is {value.dtype}; weights must be float16, float32 or float64")
        if ".attentions." in name:
            name = re.sub(r"\.(query|key|value|proj_attn)\.", lambda m: f".{LEGACY_NAMES[m[1]]}.", name)
        if name in out:
            raise CheckpointError(f"{path}: {name} is there under its old and its new name")
        with np.errstate(over="ignore"):  # an infinity is reported by name below
            out[name] = value.astype(np.float32)
    with named(path):
        check(out, model, str(path))
    return out


def save_state(folder: Path, step: int, state: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> Path:
    """Write the training state after `step` steps, atomically, and keep the last two; returns the file.

    `config` is all that must agree for training to go on, plain JSON. A kill at any moment leaves the earlier states as they
    were. Raises `CheckpointError` where the file can't be written, or where the folder holds a later step.
    """
    folder = Path(folder)
    later = [path.name for path in _states(folder) if _step(path) > step]
    if later:
        raise CheckpointError(f"{folder}: holds {later[0]}, which is later than step {step}; use another folder or remove it")
    path = folder / f"state-{step:08d}.safetensors"
    metadata = {"step": str(step), "config": json.dumps(config, sort_keys=True, allow_nan=False)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_tensors(path, state, metadata)
        for old in (*_states(folder)[KEEP:], *folder.glob("state-*.safetensors.part")):  # a killed writer's leftovers too
            old.unlink()
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: can't be written: {error}") from error
    return path


def load_state(folder: Path, config: Mapping[str, Any]) -> tuple[int, dict[str, np.ndarray]] | None:
    """(step, state) of the newest state in `folder`; None where it holds none.

    Raises `CheckpointError` where the newest is damaged or is of another config: says what differs, and which earlier state is
    good. Nothing is removed or overwritten.
    """
    paths = _states(Path(folder))
    if not paths:
        return None
    try:
        return _read_state(paths[0], config)
    except CheckpointError as error:
        good = next((path for path in paths[1:] if _is_good(path, config)), None)
        advice = f"{good.name} is good: remove {paths[0].name} to go on from it" if good else "no earlier state there is good"
        raise CheckpointError(f"{error}; {advice}") from error


def _is_good(path: Path, config: Mapping[str, Any]) -> bool:
    try:
        _read_state(path, config)
    except CheckpointError:
        return False
    return True


def _states(folder: Path) -> list[Path]:
    """Newest first."""
    found = (path for path in folder.glob("state-*.safetensors") if re.fullmatch(r"state-\d{8,18}", path.stem))
    return sorted(found, key=_step, reverse=True)


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("state-"))


def _read_state(path: Path, config: Mapping[str, Any]) -> tuple[int, dict[str, np.ndarray]]:
    tensors, metadata = _read_tensors(path)
    if not {"sha256", "step", "config"} <= set(metadata) or metadata["step"] != str(_step(path)):
        raise CheckpointError(f"{path}: is not the training state that its name says")
    try:
        differ = _differences(json.loads(metadata["config"]), json.loads(json.dumps(config)), "")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its config can't be read: {error}") from None
    if differ:
        raise CheckpointError(f"{path}: is of another config: {'; '.join(differ)}")
    return _step(path), tensors


def _differences(found: Any, asked: Any, name: str) -> list[str]:
    if isinstance(found, dict) and isinstance(asked, dict):
        return [line for key in sorted(set(found) | set(asked))
                for line in _differences(found.get(key), asked.get(key), f"{name}.{key}".lstrip("."))]
    return [] if found == asked else [f"{name} is {found!r} there and {asked!r} here"]


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
    try:
        if path.stat().st_size == 0:
            raise CheckpointError(f"{path}: empty")
        with safe_open(path, framework="np") as file:
            yield file
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing") from None
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: corrupt, truncated or of another dtype: {error}") from None


def _read_tensors(path: Path, largest: int | None = None) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays and metadata, the hash verified where there is one. A file is never larger in memory than on disk."""
    with _open(path) as file:
        if largest is not None and path.stat().st_size > largest:
            raise CheckpointError(f"{path}: {path.stat().st_size} bytes are more than this network's weights can have")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = dict(file.metadata() or {})
    if "sha256" in metadata and metadata["sha256"] != digest(tensors, metadata):
        raise CheckpointError(f"{path}: corrupt: its content does not match its SHA-256")
    return tensors, metadata


def digest(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in the order of the names, and over the metadata but `sha256`."""
    out = hashlib.sha256(json.dumps({k: v for k, v in metadata.items() if k != "sha256"}, sort_keys=True).encode())
    for name in sorted(tensors):
        value = np.asarray(tensors[name])
        out.update(json.dumps([name, value.dtype.str, value.shape]).encode())
        out.update(value.tobytes())
    return out.hexdigest()


def _write_tensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: dict[str, str]) -> str:
    arrays = {name: np.asarray(value, order="C") for name, value in tensors.items()}
    sha256 = digest(arrays, metadata)
    part = path.with_name(path.name + ".part")
    try:
        save_file(arrays, part, {**metadata, "sha256": sha256})
        sync(part)
        os.replace(part, path)
        sync(path.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return sha256


def sync(path: Path) -> None:
    """Make the file, or the names in the folder, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
