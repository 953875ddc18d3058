"""One set of images, as rows and jobs name it, and what decides its pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reference.config import DiffusionConfig
from reference.conventions import Plan, make_plan
from reference.scheduler import Scheduler
from reference.weights import Weights


@dataclass(frozen=True)
class Cell:
    """One set of images: the number of steps S, eta as `make_plan` takes it, the seed of x_T and of the noise, and the rule of
    choosing timesteps (None: the convention's)."""

    steps: int
    eta: float | str
    spacing: str | None
    seed: int

    def __str__(self) -> str:
        return f"S={self.steps} eta={self.eta}{f' {self.spacing}' if self.spacing else ''} seed={self.seed}"

    @property
    def config(self) -> dict[str, Any]:
        """As rows and keys hold it."""
        return {"steps": self.steps, "eta": str(self.eta), "spacing": self.spacing, "seed": self.seed}

    def plan(self, convention: str) -> dict[str, Any]:
        """Arguments of `make_plan`."""
        return {"steps": self.steps, "eta": self.eta, "spacing": self.spacing, "convention": convention}


def plan_of(diffusion: DiffusionConfig, arguments: Mapping[str, Any]) -> Plan:
    """`make_plan` with its arguments as JSON has them: a list of section counts, a scheduler as a dictionary."""
    steps, said = arguments["steps"], arguments.get("scheduler", {})
    return make_plan(diffusion, **{**arguments, "steps": tuple(steps) if isinstance(steps, list) else steps,
                                   "scheduler": Scheduler.from_dict(said)})


@dataclass(frozen=True)
class Draw:
    """What decides the images: weights, cell, convention, the number of images, images per batch."""

    weights: Weights
    cell: Cell
    convention: str
    samples: int
    batch_size: int
    choices: Mapping[str, Any] = field(default_factory=dict)  # further arguments of `make_plan`, as JSON has them

    @property
    def plan(self) -> dict[str, Any]:
        """Arguments of `make_plan`, as JSON has them."""
        return {**self.cell.plan(self.convention), **self.choices}

    @property
    def batch(self) -> int:
        """The size of every batch: a compiled network sees one shape."""
        return min(self.batch_size, self.samples)

    def parts(self, scratch: Path) -> dict[Path, range]:
        """The sample ids of each part, by the file of its record."""
        return {scratch / f"images-{start:06d}.json": range(start, min(start + self.batch, self.samples))
                for start in range(0, self.samples, self.batch)}
