"""What a `scheduler_config.json` of diffusers says about sampling, and the text form of clipping.

Field names of `Scheduler` are diffusers' keys. What the file says of the process (betas, prediction type) is in `DiffusionConfig`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from . import solver_config
from .errors import ConfigError, require
from .records import Record, choice, freeze

SAMPLERS = {"DDIMScheduler": "ddim", "DDPMScheduler": "ddpm"}
CLASSES = (*SAMPLERS, *solver_config.DEFAULTS)  # those whose settings are honoured
FIXED = {"fixed_small": "small", "fixed_small_log": "small", "fixed_large": "large"}  # the first and the second have one sigma
SPACINGS = ("leading", "linspace", "trailing")


class Clip(NamedTuple):
    """How x0_hat is clipped: not at all ("none"), to [-limit, limit] ("clip"), or by a threshold from 1 to `most` ("dynamic")."""

    kind: str
    limit: float = 1.0
    ratio: float = 0.995  # quantile of |x0_hat| that is the dynamic threshold
    most: float = math.inf


def parse_clip(said: str | float) -> Clip:
    """ "none", "clip" (the same as 1), a number, "dynamic", "dynamic:RATIO" or "dynamic:RATIO:MAX". Raises `ConfigError`."""
    rule = "must be none, clip, a number above 0, or dynamic[:RATIO[:MAX]] with RATIO in (0, 1] and MAX above 0"
    kind, *numbers = str(said).split(":")
    if kind in ("none", "clip") and not numbers:
        return Clip(kind)
    try:
        values = [float(number) for number in (numbers if kind == "dynamic" else [kind, *numbers])]
    except ValueError:
        raise ConfigError(f"clip={said!r}: {rule}") from None
    found = Clip("dynamic", 1.0, *values[:2]) if kind == "dynamic" else Clip("clip", values[0])
    require(len(values) <= (2 if kind == "dynamic" else 1), "clip", said, rule)
    require(0 < found.limit < math.inf and 0 < found.ratio <= 1 and found.most > 0, "clip", said, rule)
    return found


@dataclass(frozen=True)
class Scheduler(Record):
    """The settings of diffusers' DDIMScheduler or DDPMScheduler, None: not said; or those of a class of fast solvers, all of them
    in `solver`. Raises `ConfigError`."""

    name: str | None = None  # of the class
    clip_sample: bool | None = None
    clip_sample_range: float | None = None
    thresholding: bool | None = None
    dynamic_thresholding_ratio: float | None = None
    sample_max_value: float | None = None
    timestep_spacing: str | None = None
    steps_offset: int | None = None
    set_alpha_to_one: bool | None = None  # DDIMScheduler's; DDPMScheduler ends at alpha_bar = 1 always
    variance_type: str | None = None  # DDPMScheduler's, a fixed one; a learned one is the network's and in `DiffusionConfig`
    solver: dict[str, Any] = field(default_factory=dict)  # a fast solver's keys, for `solver_config.from_scheduler`

    def __post_init__(self) -> None:
        freeze(self)
        endless = {key: str(value) for key, value in self.solver.items() if isinstance(value, float) and math.isinf(value)}
        object.__setattr__(self, "solver", self.solver | endless)  # rows are JSON, which has no infinity
        for name, allowed in (("name", CLASSES), ("timestep_spacing", SPACINGS), ("variance_type", tuple(FIXED))):
            if getattr(self, name) is not None:
                choice(name, getattr(self, name), allowed)
        for name in ("clip_sample_range", "sample_max_value"):
            value = getattr(self, name)
            require(value is None or 0 < value < math.inf, name, value, "must be above 0 and finite")
        ratio = self.dynamic_thresholding_ratio
        require(ratio is None or 0 < ratio <= 1, "dynamic_thresholding_ratio", ratio, "must be in (0, 1]")
        require(self.steps_offset is None or self.steps_offset >= 0, "steps_offset", self.steps_offset, "must be 0 or more")
        require(self.fast or not self.solver, "solver", self.solver, f"is of {', '.join(solver_config.DEFAULTS)} alone")
        if self.fast:
            unread = [key for key, value in self.to_dict().items() if key not in ("name", "solver")]
            require(not unread, str(self.name), unread, "are keys of solver for this class")
            solver_config.from_scheduler(self._file)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, of what is said alone."""
        return {key: value for key, value in super().to_dict().items() if value is not None and value != {}}

    @property
    def fast(self) -> bool:
        """Whether the class is one of fast solvers."""
        return self.name in solver_config.DEFAULTS

    @property
    def _file(self) -> dict[str, Any]:
        return {"_class_name": self.name, **self.solver}

    @property
    def sampler(self) -> str | None:
        """That of the class and its settings."""
        return solver_config.from_scheduler(self._file)[0] if self.fast else SAMPLERS[self.name] if self.name else None

    @property
    def solver_choices(self) -> dict[str, Any]:
        """Of a class of fast solvers: as `make_solver_plan` takes them."""
        return solver_config.from_scheduler(self._file)[1] if self.fast else {}

    @property
    def clip(self) -> str | None:
        """As `parse_clip` reads it. Thresholding comes before clipping, and has a largest threshold of 1 where none is said."""
        if self.thresholding:
            return f"dynamic:{self.dynamic_thresholding_ratio or Clip('').ratio}:{self.sample_max_value or 1.0}"
        return None if self.clip_sample is None else str(self.clip_sample_range or 1.0) if self.clip_sample else "none"

    @property
    def final_alpha_bar(self) -> str | None:
        """As `make_plan` takes it."""
        return None if self.set_alpha_to_one is None else "one" if self.set_alpha_to_one else "first"

    @property
    def variance(self) -> str | None:
        """As `make_plan` takes it."""
        return FIXED[self.variance_type] if self.variance_type else None


SILENT = Scheduler()  # says nothing
