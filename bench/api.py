"""The library in a few lines: load weights, pick a backend, sample, time, check.

    from bench.api import load

    model = load("results/checkpoints/fmnist-small", backend="torch")
    images = model.sample(16, steps=50, eta=0.0, seed=0)  # NumPy, (16, 1, 28, 28) float32
    print(model.time(batch_size=16)["images_per_second"], model.check())

Images are float32 (float64 from a float64 network), about in [-1, 1] (`bench.data.pixels.to_uint8` clips and scales them).
Randomness comes from `bench.streams`: image n of a seed is the same whatever the backend and the batch it is drawn in.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import backends
from backends import claims
from backends.protocol import Backend, Spec
from bench import oracle, streams
from bench.progress import tracked
from bench.sampling.loop import draw, time_steps
from bench.timing import blocks
from bench.training import batches, loop
from bench.weights import pipeline, sources
from bench.weights.scheduler_config import note_unused
from bench.weights.unsaid import Unsaid
from reference import weights as names
from reference.config import ConfigError, DiffusionConfig, ModelConfig, OptimConfig, require
from reference.conventions import CLEAN, Plan, make_encode_plan, make_plan
from reference.scheduler import SILENT, Scheduler
from reference.solver_plans import FAST, SolverPlan, make_solver_plan
from reference.solvers import SOLVERS

Images = NDArray[np.floating[Any]]  # float32, float64 from a network of that dtype
SOLVER_CHOICES = {"spacing", "eta", "convention", "clip", "final_alpha_bar", "steps_offset", "round_t", "variant"}


def load(source: str | Path, backend: str = backends.DEFAULT, *, device: str = "cpu", dtype: str = "float32", mode: str = "tuned",
         ignore_scheduler: bool = False, **said: Any) -> Model:
    """A trained network on a backend (`backends.names()`): a diffusers folder, a file or a name on the hub, see `sources.read`.

    `said` is for files that don't say it: heads, image_size, schedule, timesteps, objective, time_order ("sin" or "cos" first); a
    line names what is assumed. `ignore_scheduler` goes on without the sampling settings of a diffusers folder. Warns of keys that
    are not honoured. Raises `CheckpointError` for the source, `NotInstalled` for the backend, `DeviceError` for the device or
    dtype, all of them `ConfigError`s.
    """
    found = sources.read(source, Unsaid(**said), ignore_scheduler)
    spec = Spec(found.model, found.diffusion, OptimConfig(), device, dtype, mode)
    return _make(backend, spec, found.weights, found.scheduler)


def new(model: ModelConfig, process: DiffusionConfig | None = None, optim: OptimConfig | None = None,
        backend: str = backends.DEFAULT, *, seed: int = 0, device: str = "cpu", dtype: str = "float32", mode: str = "tuned",
        allow_cancelled_time: bool = False) -> Model:
    """A network with seeded initial weights, to be trained. Raises as `load`, and `ConfigError` for a network with blocks that
    can't know t (`ModelConfig.cancels_time`) unless `allow_cancelled_time`."""
    if not allow_cancelled_time:
        model.require_time("allow_cancelled_time=True takes it all the same")
    spec = Spec(model, process or DiffusionConfig(), optim or OptimConfig(), device, dtype, mode)
    return _make(backend, spec, names.initialise(model, seed))


def _make(name: str, spec: Spec, weights: names.Weights, scheduler: Scheduler = SILENT) -> Model:
    name = backends.borrowed(name, None)
    claims.require_claimed(backends.about(name), spec)
    backend = backends.load(name).create(spec)
    backend.load_weights(weights)
    return Model(name, spec, backend, scheduler)


@dataclass(frozen=True)
class Model:
    """A network on a backend. `backend` is the whole of `backends.protocol.Backend`, for all that has no method here."""

    name: str  # of the backend
    spec: Spec
    backend: Backend
    scheduler: Scheduler = SILENT  # what the weights' source says about sampling

    def sample(self, n: int, steps: int | tuple[int, ...] = 50, eta: float | str | None = None, *, seed: int = 0,
               batch_size: int = 64, **choices: Any) -> Images:
        """Images 0 .. n - 1 of this seed, (n, C, H, W), with the EMA weights.

        `steps` is S or IDDPM's section counts, `eta` a number in [0, 1] or "sigma_hat", by default 0; `choices` are `make_plan`'s:
        sampler ("ddim" or "ddpm"), spacing, convention, clip ("none", 1, 3.5, "dynamic:0.995:1.5"), variance, final_alpha_bar,
        steps_offset. With convention "diffusers" the choices that are left out, the sampler too, are those of the weights' folder.
        For a fast solver (sampler "dpmpp_2m", say) they are `solver_plan`'s. Raises `ConfigError`.
        """
        x = self.noise(n, seed)
        if fast := self.fast_solver(choices.get("sampler"), choices.get("convention", "plain")):
            path: Plan | SolverPlan = self.solver_plan(steps, eta=eta, **{**choices, "sampler": fast})
        else:
            path = self.plan(steps, eta=eta, **choices)
        return self.follow(x, path, seed=seed, batch_size=batch_size)

    def fast_solver(self, sampler: str | None, convention: str) -> str | None:
        """The fast solver that is asked for, or where no sampler is, with convention "diffusers", the weights' folder's. Raises
        `ConfigError` for a name that is no sampler's."""
        require(sampler is None or sampler in SOLVERS, "sampler", sampler, f"must be one of {', '.join(SOLVERS)}")
        name = sampler or (self.scheduler.sampler if convention == "diffusers" else None)
        return name if name in FAST else None

    def plan(self, steps: int | tuple[int, ...], **choices: Any) -> Plan:
        """The path from noise to images: `reference.conventions.make_plan`. With convention "diffusers" one line names the settings
        of the weights' folder that are for a fast solver."""
        note_unused(self.scheduler, choices.get("convention", "plain"), choices.get("sampler") or "ddim")
        return make_plan(self.spec.diffusion, steps, **{"scheduler": self.scheduler, **choices})

    def solver_plan(self, steps: int | tuple[int, ...], *, sampler: str, **choices: Any) -> SolverPlan:
        """The path of a fast solver, whose choices are `reference.solver_plans.make_solver_plan`'s: spacing, eta, convention, clip,
        final_alpha_bar, steps_offset, round_t, variant. Some solvers make more than one network call a step. With convention
        "diffusers" those left out are what the weights' folder says for this solver; one line names what it says for another."""
        able = backends.with_solvers()
        require(self.name in able, "sampler", sampler,
                f"backend {self.name} has ddim and ddpm alone, says its ABOUT: use {' or '.join(able)}")
        given = {name: value for name, value in choices.items() if value is not None}
        if unknown := sorted(set(given) - SOLVER_CHOICES):
            raise ConfigError(f"{unknown[0]}={given[unknown[0]]!r}: is no choice of {sampler}: leave it out")
        if isinstance(steps, tuple):
            raise ConfigError(f"steps={steps!r}: section counts are for ddim and ddpm: give {sampler} one number")
        note_unused(self.scheduler, given.get("convention", "plain"), sampler)
        return make_solver_plan(self.spec.diffusion, steps, sampler=sampler, scheduler=self.scheduler, **given)

    def noise(self, n: int, seed: int = 0) -> Images:
        """x_T of images 0 .. n - 1, (n, C, H, W)."""
        require(n >= 1, "n", n, "must be at least 1")
        return streams.normal(seed, "x_T", np.arange(n), self.spec.image_shape)

    def encode(self, images: Images, steps: int | tuple[int, ...], *, batch_size: int = 64, **choices: Any) -> Images:
        """Latents x_T of images (N, C, H, W) in [-1, 1] by DDIM's ODE run backwards; `follow(x, plan(steps))` decodes them."""
        note_unused(self.scheduler, choices.get("convention", "plain"), "ddim")
        plan = make_encode_plan(self.spec.diffusion, steps, **{"scheduler": self.scheduler, **choices})
        return self.follow(images, plan, batch_size=batch_size)

    def follow(self, x: Images, plan: Plan | SolverPlan, *, seed: int = 0, batch_size: int = 64, ids: Sequence[int] | None = None,
               progress: str = "") -> Images:
        """Take x (N, C, H, W) along a plan. Row n gets the step noise of image `ids[n]`, by default n. `progress` names a bar."""
        require(batch_size >= 1, "batch_size", batch_size, "must be at least 1")
        claims.require_claimed(backends.about(self.name), plan=plan)
        wanted = np.arange(len(x)) if ids is None else np.asarray(ids)
        with tracked(total=len(x) * plan.steps, desc=progress, disable=not progress, mininterval=2) as bar:
            drawn = draw(self.backend, plan, wanted, x.shape[1:], seed=seed, batch_size=min(batch_size, len(x)), x=x,
                         on_progress=lambda done, _: bar.update(done - bar.n))
        for note in drawn.notes:
            warnings.warn(note, stacklevel=2)
        return drawn.images

    def path(self, x: Images, plan: Plan | SolverPlan, frames: int = 10, *, seed: int = 0) -> tuple[Images, list[int]]:
        """States on the way, (frames + 1, N, C, H, W) from x itself to the result, and the timestep of each, -1 for clean."""
        if isinstance(plan, SolverPlan):
            raise ConfigError(f"sampler={plan.sampler!r}: stops on the way would lose its earlier predictions: use ddim or ddpm")
        claims.require_claimed(backends.about(self.name), plan=plan)
        require(1 <= frames <= plan.steps, "frames", frames, f"must be from 1 to the plan's {plan.steps} steps")
        cuts = np.linspace(0, plan.steps, frames + 1).round().astype(int).tolist()
        states, ids = [x], np.arange(len(x))
        for a, b in pairwise(cuts):
            if self.spec.diffusion.self_conditioning:  # the last x0_hat is not part of a state: from the start each time
                a = 0
            z = self._z(seed, ids, a)
            got = self.backend.sample(self.backend.to_device(states[0 if a == 0 else -1]), plan.cut(a, b), z)
            states.append(self.backend.to_host(got))
        return np.stack(states), [plan.timesteps[0], *(plan.previous[b - 1] for b in cuts[1:])]

    def train(self, images: NDArray[np.uint8], steps: int, *, batch_size: int = 64, seed: int = 0, flip: bool = False,
              **options: Any) -> loop.Fit:
        """Train on uint8 images (N, C, H, W); `options` are `bench.training.loop.fit`'s. Raises `TrainingError`."""
        require(images.shape[1:] == self.spec.image_shape, "images", images.shape,
                f"the network is made for images of shape {self.spec.image_shape}")
        claims.require_claimed(backends.about(self.name), self.spec, trains=True)
        return loop.fit(self.backend, self.spec, images, seed=seed, steps=steps, batch_size=batch_size, flip=flip, **options)

    def save(self, folder: str | Path) -> str:
        """Write the EMA weights as a diffusers pipeline folder; returns their SHA-256."""
        return pipeline.save_pipeline(Path(folder), self.backend.weights(ema=True), self.spec.model, self.spec.diffusion,
                                      scheduler=self.scheduler)

    def time(self, steps: int = 50, *, batch_size: int = 16, seed: int = 0, **options: Any) -> dict[str, float | bool]:
        """Seconds of a sampling step, median and quartiles, and images/s at S = `steps`; `options` are `time_blocks`'s.

        For a figure to publish use `bench/run.py`, which gives each backend a process of its own and keeps the raw samples.
        """
        def block(units: int) -> float:
            return time_steps(self.backend, self.spec, units, batch_size, seed)[0]

        raw = blocks.time_blocks({"": block}, **options)[""]
        found = blocks.summary(np.array(raw["block_seconds"]) / raw["units_per_block"])
        return {"seconds_per_step": found["median"], "q1": found["q1"], "q3": found["q3"], "cv": found["cv"],
                "images_per_second": batch_size / (steps * found["median"]), "first_seconds": raw["first_seconds"],
                "steady": raw["steady"]}

    def check(self, seed: int = 0) -> dict[str, dict[str, Any]]:
        """Largest errors against the float64 oracle, each with its tolerance and verdict: tables, one forward pass, the loss of
        one batch, and a DDIM path of 10 steps."""
        shape, T, backend = self.spec.image_shape, self.spec.diffusion.timesteps, self.backend
        plan = self.plan(min(oracle.STEPS, T))
        x, t = streams.normal(seed, "check", np.arange(4), shape), np.linspace(0, T - 1, 4).round()
        output = backend.to_host(backend.forward(backend.to_device(x), backend.to_device(t), ema=True))
        batch = batches.training_batch(seed, np.zeros((1, *shape), np.uint8), 0, 8, T)
        if self.spec.diffusion.self_conditioning:
            batch = replace(batch, coin=np.zeros(8, bool))
        loss = float(backend.to_host(backend.loss_and_gradients(batch)[0]))
        x_T = self.noise(oracle.IMAGES, seed)
        ema = backend.weights(ema=True)
        found = oracle.Answers([(plan, backend.tables(plan))], x, t, output, batch, loss)
        errors = oracle.errors(found, self.spec, backend.weights(), ema)
        errors["sampling"] = oracle.path_error(self.follow(x_T, plan), oracle.oracle_network(ema, self.spec), x_T, plan)
        return {name: oracle.verdict(error, oracle.TOLERANCES[self.spec.dtype][name]) for name, error in errors.items()}

    def _z(self, seed: int, ids: NDArray[np.int64], first: int = 0) -> Callable[[int], Images]:
        return lambda i: streams.normal(seed, "z", ids, self.spec.image_shape, step=first + i)


def describe_timesteps(timesteps: Sequence[int]) -> list[str]:
    """How pictures label the states of `Model.path`."""
    return ["clean" if t == CLEAN else f"t = {t}" for t in timesteps]
