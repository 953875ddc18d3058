"""What files of weights often do not say: who says it instead, and the line about what is assumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.weights.errors import CheckpointError, named, note
from reference.config import OBJECTIVES, SCHEDULES, DiffusionConfig, ModelConfig, require

QKV_ORDERS = ("heads", "qkv")  # what the rows of a joint projection are split by first; "heads" is guided-diffusion's legacy order
TIME_ORDERS = ("sin", "cos")  # which half of the time embedding comes first
Config = tuple[ModelConfig, DiffusionConfig]


@dataclass(frozen=True)
class Unsaid:
    """A user's word on what a file does not say; None leaves it to what is usual. Raises `ConfigError`.

    `clip` is the sampler's and only keeps it out of the line: it is an option of sampling.
    """

    heads: int | None = None
    image_size: int | None = None
    schedule: str | None = None
    timesteps: int | None = None
    objective: str | None = None
    time_order: str | None = None
    clip: str | float | None = None
    head_channels: int | None = None
    qkv_order: str | None = None

    def __post_init__(self) -> None:
        require(self.heads is None or self.head_channels is None, "head_channels", self.head_channels,
                "is the width of a head and heads their number: give one of them")
        for name in ("heads", "image_size", "timesteps", "head_channels"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "must be at least 1")
        for name, allowed in (("schedule", SCHEDULES), ("objective", OBJECTIVES), ("time_order", TIME_ORDERS),
                              ("qkv_order", QKV_ORDERS)):
            value = getattr(self, name)
            require(value is None or value in allowed, name, value, f"must be one of {', '.join(allowed)}")

    def fill(self, path: Path, said: Mapping[str, Any], usual: Mapping[str, Any], scheduler: bool = False, rest: str = "",
             joint: bool = False) -> dict[str, Any]:
        """The value of each key: what the file says, else what the user says, else what is usual, named in one line.

        `scheduler`: the files say how to clip. `rest` ends the line. `joint`: q, k and v are one projection, to which alone
        head_channels and qkv_order apply. Raises `CheckpointError` where the user contradicts the file, or a value is None.
        """
        found, assumed = dict(said), []
        for key in ("head_channels", "qkv_order"):
            if getattr(self, key) is not None and not joint:
                raise CheckpointError(f"{path}: {_option(key)}={getattr(self, key)}: applies to files of improved-diffusion and "
                                      "guided-diffusion alone; leave it out")
        for key, value in said.items():
            given = getattr(self, key)
            if given not in (None, value):
                raise CheckpointError(f"{path}: {_option(key)}={given}: contradicts the file, which says {value}; must be that or "
                                      "left out")
        for key, value in usual.items():
            found[key] = getattr(self, key) if getattr(self, key) is not None else value
            if found[key] is None:
                raise CheckpointError(f"{path}: does not say {key.replace('_', ' ')}, and nothing shows it; give {_option(key)}")
            if getattr(self, key) is None:
                assumed.append(f"{key.replace('_', ' ')} {value} ({_option(key)})")
        if not scheduler and self.clip is None:
            assumed.append("clipping as the convention has it (--clip)")
        if assumed:
            note(f"{path}: does not say, and is taken for: {', '.join(assumed)}{rest}")
        return found

    def in_folder(self, config: Path, scheduler: Path | None, model: ModelConfig, diffusion: DiffusionConfig) -> Config:
        """Network and process of a folder, whose config.json says the network and whose scheduler's config the process."""
        network = {"heads": _heads(model), "image_size": model.sample_size, "time_order": TIME_ORDERS[model.flip_sin_to_cos]}
        process = {key: getattr(diffusion, key) for key in ("schedule", "timesteps", "objective")}
        self.fill(config, network, {}, scheduler=True)
        if scheduler:
            self.fill(scheduler, process, {}, scheduler=True)
            return model, diffusion
        return model, self.process(config, diffusion, self.fill(config, {}, process))

    def process(self, path: Path, usual: DiffusionConfig, found: Mapping[str, Any]) -> DiffusionConfig:
        """The process with what `fill` found."""
        with named(path):
            return replace(usual, **{key: found[key] for key in ("schedule", "timesteps", "objective")})


SILENT = Unsaid()


def _option(key: str) -> str:
    return f"--{key.replace('_', '-')}"


def _heads(model: ModelConfig) -> int | list[int]:
    """Of the attention blocks: one number, or several where the levels differ."""
    found = sorted({model.heads(width) for width in model.attention_widths})
    return found[0] if len(found) == 1 else found
