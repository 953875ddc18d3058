"""`training.json` and `loss.csv`, which lie beside the weights of a training, as anyone may have left them."""

import json
from functools import reduce
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from bench import files
from bench.records import validity
from reference.config import ConfigError, require


class Optimiser(TypedDict):
    """Of an optimiser's settings, those that a page reads."""

    total_steps: int
    ema_decay: float


class Process(TypedDict):
    """Of a process's settings, those that a page reads."""

    schedule: str
    objective: str


class Config(TypedDict):
    """What was trained, and how, as far as a page reads it. `diffusion` is a `Process`, `optim` an `Optimiser`."""

    model: dict[str, Any]
    diffusion: dict[str, Any]
    optim: dict[str, Any]
    backend: str
    batch_size: int
    dtype: str


class Training(TypedDict):
    """What `ddim-bench train` writes as training.json, as far as a page reads it. `config` is a `Config`."""

    command: str
    seconds: float
    config: dict[str, Any]
    dataset: str
    device: dict[str, str]
    environment: dict[str, Any]
    steps: NotRequired[int]  # that were taken, where the training was ended before the last


# Where in a record which of them stands; a later one in an earlier one.
PARTS: tuple[tuple[tuple[str, ...], type], ...] = (
    ((), Training), (("config",), Config), (("config", "diffusion"), Process), (("config", "optim"), Optimiser))


REMEDY = "restore the file or move it away"


def record(path: Path) -> dict[str, Any]:
    """The JSON object of a training.json. Raises `ConfigError`."""
    try:
        found = json.loads(files.read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON: {error}; {REMEDY}") from None
    require(isinstance(found, dict), str(path), type(found).__name__, f"must be a JSON object; {REMEDY}")
    return cast(dict[str, Any], found)


def stages(path: Path) -> list[Training]:
    """The record of a training in its training.json, and those of the trainings whose weights it began with. Raises `ConfigError`
    for what a page could not show."""
    found, out = record(path), []
    while True:
        for place, kind in PARTS:
            part = reduce(lambda value, name: value[name], place, found)
            if wrong := validity.differences(part, kind, open_to_others=True):
                raise ConfigError(f"{path}: {'.'.join((*place, wrong[0]))}; {REMEDY}")
        out.append(cast(Training, found))
        earlier = found.get("began_with")
        if not isinstance(earlier, dict) or "config" not in earlier:
            return out
        found = earlier


def steps(stage: Training) -> int:
    """Optimiser steps of a training."""
    return stage.get("steps", int(stage["config"]["optim"]["total_steps"]))


def curve(path: Path) -> list[float]:
    """The losses of a loss.csv as they stand there, (steps,). Raises `ConfigError`."""
    try:
        return [float(line.split(",")[1]) for line in files.read_text(path).splitlines()[1:]]
    except (OSError, ValueError, IndexError) as error:
        raise ConfigError(f"{path}: not lines of step,loss: {error}; {REMEDY}") from None


def losses(path: Path) -> NDArray[np.float64]:
    """The losses of a loss.csv for a page, (steps,), one or more, finite. Raises `ConfigError`."""
    found = np.array(curve(path))
    if not found.size or not np.isfinite(found).all():
        raise ConfigError(f"{path}: {len(found)} losses: must be one or more, and finite; {REMEDY}")
    return found
