"""One set of images, as rows and jobs name it, and what decides its pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reference.config import DiffusionConfig
from reference.conventions import Plan, make_plan
from reference.scheduler import Scheduler
from reference.solver_plans import FAST, FEWEST, NOISY, SolverPlan, make_solver_plan
from reference.weights import Weights


@dataclass(frozen=True)
class Cell:
    """One set of images: the number of steps S, eta as `make_plan` takes it, the seed of x_T and of the noise, and the rule of
    choosing timesteps (None: the convention's). `sampler` is a fast solver, None for DDIM and DDPM, which eta tells apart."""

    steps: int
    eta: float | str
    spacing: str | None
    seed: int
    sampler: str | None = None

    def __str__(self) -> str:
        solver = f"{self.sampler} " if self.sampler else ""
        return f"{solver}S={self.steps} eta={self.eta}{f' {self.spacing}' if self.spacing else ''} seed={self.seed}"

    @property
    def config(self) -> dict[str, Any]:
        """As rows and keys hold it."""
        solver = {"sampler": self.sampler} if self.sampler else {}
        return {"steps": self.steps, "eta": str(self.eta), "spacing": self.spacing, "seed": self.seed, **solver}

    def plan(self, convention: str) -> dict[str, Any]:
        """Arguments of `plan_of`."""
        eta = {} if self.sampler and self.sampler not in NOISY else {"eta": self.eta}
        solver = {"sampler": self.sampler} if self.sampler else {}
        return {"steps": self.steps, **eta, "spacing": self.spacing, "convention": convention, **solver}

    @property
    def short(self) -> dict[str, Any]:
        """Arguments of `plan_of` for a path of few steps that compiles what this cell needs; plain, since not every convention has
        short paths."""
        if self.sampler:
            return {"steps": FEWEST.get(self.sampler, 1), "sampler": self.sampler, "spacing": "leading"}
        return {"steps": min(2, self.steps), "eta": 0.0}


def plan_of(diffusion: DiffusionConfig, arguments: Mapping[str, Any]) -> Plan | SolverPlan:
    """`make_plan` with its arguments as JSON has them: a list of section counts, a scheduler as a dictionary. Where they name a
    fast solver, `make_solver_plan`."""
    scheduler = Scheduler.from_dict(arguments.get("scheduler", {}))
    if arguments.get("sampler") in FAST:
        return make_solver_plan(diffusion, **{**arguments, "scheduler": scheduler})
    steps = tuple(arguments["steps"]) if isinstance(arguments["steps"], list) else arguments["steps"]
    return make_plan(diffusion, **{**arguments, "steps": steps, "scheduler": scheduler})


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
        """Arguments of `plan_of`, as JSON has them; no solver has a choice of variance."""
        of_others = ("variance",) if self.cell.sampler else ()
        return {**self.cell.plan(self.convention), **{name: v for name, v in self.choices.items() if name not in of_others}}

    @property
    def batch(self) -> int:
        """The size of every batch: a compiled network sees one shape."""
        return min(self.batch_size, self.samples)

    def parts(self, scratch: Path) -> dict[Path, range]:
        """The sample ids of each part, by the file of its record."""
        return {scratch / f"images-{start:06d}.json": range(start, min(start + self.batch, self.samples))
                for start in range(0, self.samples, self.batch)}
