"""What a recipe is, and what a user chooses for a run of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import backends
from bench import api
from bench.data import datasets
from bench.metric.extractor import Extractor
from bench.presets import Preset, get_preset
from bench.weights.unsaid import Unsaid
from reference.config import DiffusionConfig, OptimConfig, require
from reference.conventions import Plan
from reference.solver_plans import FAST, SolverPlan


@dataclass(frozen=True)
class Recipe:
    """One experiment. `run` gets an `Experiment` and leaves pictures, the first of them the gallery's, and values in it."""

    name: str  # of its preset too
    title: str
    source: str
    steps: int  # of training, all told
    samples: int
    sampling: Mapping[str, Any]  # arguments of `Model.plan` for the pictures of samples
    run: Callable[[Any], None]  # is given an `Experiment`
    backend: str = backends.DEFAULT
    pictures: tuple[str, ...] = ()  # of grid, strip and gif, those made without being asked for
    flip: bool | None = None  # None: as the data set allows
    takes_weights: bool = True  # False: it compares trainings
    shows: bool = True  # it calls `Experiment.show_samples`, which draws the pictures that are asked for

    @property
    def preset(self) -> Preset:
        """Its numbers."""
        return get_preset(self.name)

    def sampling_steps(self, steps: int | None, diffusion: DiffusionConfig) -> int:
        """So many steps, or else its own; at most all of the process."""
        return min(steps or self.sampling["steps"], diffusion.timesteps)

    def plan(self, model: api.Model, steps: int | None, /, **choices: Any) -> Plan:
        """Its way to sample, in so many steps, with `choices` in place of its own."""
        return model.plan(**{**self.sampling, "steps": self.sampling_steps(steps, model.spec.diffusion), **choices})

    def shown(self, model: api.Model, steps: int | None, sampler: str | None) -> Plan | SolverPlan:
        """How the pictures of samples are drawn: its own way, or another sampler as this project has it, in as many steps."""
        own = self.plan(model, steps)
        if sampler in (None, own.sampler):
            return own
        return (model.solver_plan if sampler in FAST else model.plan)(own.steps, sampler=sampler)


@dataclass(frozen=True)
class Options:
    """What a user chose for one run of a recipe; None leaves it to the recipe."""

    backend: str
    device: str
    dtype: str
    mode: str
    train_steps: int | None
    epochs: float | None  # in place of `train_steps`
    batch_size: int | None  # of training
    lr: float | None
    weights: str | None  # of a trained network, in place of training
    ignore_scheduler: bool  # go on without the sampling settings of their folder
    unsaid: Unsaid  # what their files don't say
    samples: int | None
    steps: int | None  # of sampling
    sampler: str | None  # of the pictures of samples
    sample_batch: int
    seed: int
    seeds: int  # trainings per choice, where the recipe compares
    data: datasets.Choice
    extractor: Extractor | None  # of the metric's features; None: nothing is measured
    pictures: tuple[str, ...]  # of `show.KINDS`, beside the recipe's own
    log: tuple[str, ...]  # of `trackers.LOGS`
    sample_at: tuple[int, ...]  # training steps after which samples are drawn
    out: Path


def shortened(optim: OptimConfig, steps: int, full: int, lr: float | None) -> OptimConfig:
    """The optimiser of a run of `steps` in place of `full` steps: its decay ends with it, in as many stages, its warm-up takes a
    tenth at most."""
    if lr is not None:
        require(lr > 0, "--lr", lr, "must be positive")
        optim = replace(optim, lr=lr, min_lr=min(optim.min_lr, lr))
    if steps >= full:
        return optim
    return replace(optim, total_steps=steps if optim.total_steps else 0, warmup_steps=min(optim.warmup_steps, steps // 10),
                   decay_every=max(1, optim.decay_every * steps // full))
