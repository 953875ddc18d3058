"""Training states that survive a kill: written whole, read with a hash and with all that must agree to go on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from bench import files
from bench.weights.errors import CheckpointError
from bench.weights.tensor_files import read_safetensors, write_safetensors

KEEP = 2  # states


@contextmanager
def at_work(folder: Path) -> Iterator[None]:
    """Keep the folder for one training. Raises `CheckpointError` where another one is at work in it."""
    lock = FileLock(files.folder(folder) / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise CheckpointError(f"{folder}: another training is at work in this folder; wait for its end, or use another") from None
    except OSError as error:
        raise files.FileError(f"{folder}: can't be written: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


def save_state(folder: Path, step: int, state: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> Path:
    """Write the training state after `step` steps, atomically, and keep the last two; returns the file.

    `config` is all that must agree for training to go on, plain JSON. A kill at any moment leaves the earlier states as they
    were. Raises `FileError` where the file can't be written, and `CheckpointError` where the folder holds a later step.
    """
    folder = Path(folder)
    later = [path.name for path in _states(folder) if _step(path) > step]
    if later:
        raise CheckpointError(f"{folder}: holds {later[0]}, which is later than step {step}; use another folder or remove it")
    path = folder / f"state-{step:08d}.safetensors"
    metadata = {"step": str(step), "config": json.dumps(config, sort_keys=True, allow_nan=False)}
    write_safetensors(files.folder(folder) / path.name, state, metadata)
    for old in (*_states(folder)[KEEP:], *folder.glob("state-*.safetensors.*.part")):  # a killed writer's leftovers too
        old.unlink()
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
    tensors, metadata = read_safetensors(path)
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
