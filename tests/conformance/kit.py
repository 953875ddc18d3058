"""What every level shares: the backend under test, seeded inputs, and comparison within the tolerance table."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, cast

import numpy as np
import pytest

import backends
from backends import claims
from backends.facts import LEVELS as LEVELS
from backends.facts import SAMPLER_LEVELS as SAMPLER_LEVELS
from backends.facts import About
from backends.protocol import Backend, Batch, Spec
from bench import streams
from reference import weights as reference_weights
from reference.config import DiffusionConfig, ModelConfig, OptimConfig
from reference.conventions import Plan
from reference.solver_plans import SolverPlan

from . import guard
from .cases import ADOWN, AUP, ONE_LEVEL, TINY

P = TypeVar("P", Plan, SolverPlan)
DTYPES = ("float64", "float32", "bfloat16", "float16")
FULL = DTYPES[:2]
TOLERANCES = tomllib.loads((Path(__file__).parent / "tolerances.toml").read_text())
DEFERRED: list[str] | None = None  # with --record, the comparisons that failed in this test
WORST: dict[tuple[str, str, str], tuple[float, str]] = {}  # (device, dtype, quantity): largest error seen, and of what


def tolerances(device: str) -> dict[str, dict[str, dict[str, float]]]:
    """The device's rows by dtype and quantity; the CPU's, recorded in the same dtypes, for one that has none."""
    return TOLERANCES.get(device.split(":")[0], TOLERANCES["cpu"])


@dataclass(frozen=True)
class Subject:
    """A backend as one test sees it: its module, on one device, in one dtype and mode."""

    name: str
    module: ModuleType | Any  # exports create(spec)
    device: str = "cpu"
    dtype: str = "float32"
    mode: str = "tuned"

    def __str__(self) -> str:
        return f"{self.name}-{self.device}-{self.dtype}-{self.mode}"

    @property
    def about(self) -> About:
        """What the backend says of itself."""
        return backends.about(self.name)

    @property
    def levels(self) -> tuple[str, ...]:
        """What the backend claims."""
        return self.about.levels

    @property
    def trains(self) -> bool:
        """Whether this is a whole `Backend`, with the network and its training."""
        return not set(self.levels) <= set(SAMPLER_LEVELS)

    @property
    def real(self) -> type:
        """NumPy type of the images that the kit hands over: float32 unless the network runs in float64."""
        return np.float64 if self.dtype == "float64" else np.float32

    def process(self, **said: Any) -> DiffusionConfig:
        """The default process with these fields, for a test that needs any: where its schedule or objective is not claimed, the
        first that is."""
        for field in ("schedule", "objective"):
            able = [name for name in claims.claimed(self.about, f"{field}s") if name != "trained_betas"]
            if field not in said and getattr(DiffusionConfig(), field) not in able and able:
                said[field] = able[0]
        return DiffusionConfig(**said)

    def spec(self, model: ModelConfig = TINY, diffusion: DiffusionConfig | None = None, optim: OptimConfig | None = None) -> Spec:
        """What `create` is told."""
        return Spec(model, diffusion or self.process(), optim or OptimConfig(), self.device, self.dtype, self.mode)

    def leave_out(self, outside: dict[str, str]) -> None:
        """Skip the test where something is outside of what the backend claims, which `accounts.Account` counts."""
        if outside:
            kinds = ", ".join(f"{kind}={name}" for kind, name in outside.items())
            raise pytest.skip.Exception(f"{self.name} does not claim {kinds}")

    def claimed(self, plans: Iterable[P]) -> list[P]:
        """Those of the plans that the backend claims; where there is none the test is left out."""
        outside = [(plan, claims.unclaimed(self.about, plan=plan)) for plan in plans]
        found = [plan for plan, kinds in outside if not kinds]
        if not found:
            self.leave_out({kind: name for _, kinds in outside for kind, name in kinds.items()})
        return found

    def backend(self, model: ModelConfig = TINY, diffusion: DiffusionConfig | None = None,
                optim: OptimConfig | None = None) -> Backend:
        """A backend of this spec, kept for later tests: who needs a known state loads it."""
        return _create(self, self.spec(model, diffusion, optim))

    def create(self, spec: Spec) -> Backend:
        """A backend of its own."""
        self.leave_out(claims.unclaimed(self.about, spec))
        make = getattr(self.module, "create", None)
        if make is None:
            guard.refuse("create", f"{self.module.__name__} has no such function")

        def asks(plan: Plan | SolverPlan | None, trains: bool) -> None:
            self.leave_out(claims.unclaimed(self.about, spec, plan, trains))

        return cast(Backend, guard.Guard(guard.watched("create", make)(spec), asks, spec.model))

    def table(self, quantity: str) -> str:
        """The table that has this quantity's row: one of this mode alone where there is such a row, else that of the dtype."""
        own = f"{self.dtype} {self.mode}"
        return own if quantity in tolerances(self.device).get(own, {}) else self.dtype

    def tolerance(self, quantity: str) -> float:
        """Largest relative error that this quantity may have on this device in this dtype; 0 where none was recorded."""
        return tolerances(self.device)[self.table(quantity)].get(quantity, {}).get("tolerance", 0.0)

    def close(self, quantity: str, actual: Any, expected: Any, what: str = "") -> float:
        """Assert that `actual` has the shape of `expected` and lies within the tolerance of this quantity. Returns the error."""
        actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
        assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, expected {expected.shape}"
        error = relative_error(actual, expected)
        self.within(quantity, error, what)
        return error

    def within(self, quantity: str, error: float, what: str = "") -> None:
        """Record this error and assert that it is within the tolerance of this quantity. A NaN is not."""
        key = (self.device.split(":")[0], self.table(quantity), quantity)
        if not error <= WORST.get(key, (-1.0, ""))[0]:
            WORST[key] = (error, f"{self.name} {self.mode}: {what}")
        tolerance = self.tolerance(quantity)
        if not error <= tolerance:
            line = f"{what}: error {error:.3g} is above {tolerance:g} ({quantity}, {self.dtype}, {self.device})"
            assert DEFERRED is not None, line
            DEFERRED.append(line)


    def reduced(self, quantity: str, error: float, what: str = "") -> None:
        """Assert that a network in reduced precision has an error of that size, where the table has a least one: float32 or float16
        would run unasked."""
        if self.dtype in FULL:
            return
        least = tolerances(self.device)[self.table(quantity)].get(quantity, {}).get("least", 0.0)
        key = (self.device.split(":")[0], self.table(quantity), quantity + " least")
        WORST[key] = min(WORST.get(key, (np.inf, "")), (error, f"{self.name} {self.mode}: {what}"))
        assert error >= least, f"{what}: error {error:.3g} is below {least:g}, not that of {self.dtype} ({quantity}, {self.device})"


@cache
def _create(subject: Subject, spec: Spec) -> Backend:
    return subject.create(spec)


def forget() -> None:
    """Drop the backends that were kept."""
    _create.cache_clear()


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Largest |actual - expected| over the largest |expected|; absolute where all expected values are 0."""
    if not expected.size:
        return 0.0
    scale = np.abs(expected).max()
    return float(np.abs(actual - expected).max() / (scale if scale > 0 else 1.0))


def normal(seed: int, *shape: int) -> np.ndarray:
    """Standard normal float32 numbers, the same with every version of NumPy."""
    return streams.normal(seed, "check", [0], shape)[0]


@cache
def weights(config: ModelConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Float32 weights without a zero: every bias, scale and residual branch counts, so an ignored one shows."""
    out = {}
    for n, (name, shape) in enumerate(reference_weights.shapes(config).items()):
        value = streams.normal(seed, "check", [n], shape, step=1)[0]
        if len(shape) > 1:
            out[name] = value / np.sqrt(np.float32(np.prod(shape[1:])))
        elif "norm" in name and name.endswith("weight"):
            out[name] = 1 + np.float32(0.2) * value
        else:
            out[name] = np.float32(0.2) * value
    return out


FAR = replace(ONE_LEVEL, down_block_types=(ADOWN,), up_block_types=(AUP,))
FAR_CASES = ("means", "scores", "slopes")


@cache
def far(case: str) -> dict[str, np.ndarray]:
    """Weights that take norms, softmax or SiLU to the ends of their range: means of 100 deviations, scores and inputs above 88."""
    w = {name: value.copy() for name, value in weights(FAR).items()}
    for name, value in w.items():
        kind = name.removesuffix(".weight").removesuffix(".bias")
        if case == "means" and kind.endswith(("conv_in", "conv1", "conv_shortcut")):
            if name.endswith("bias"):
                value += 100
            elif kind.endswith("conv_shortcut"):
                value -= value.mean(axis=1, keepdims=True)  # means of its input cancel: only its bias has one
        elif case == "scores" and kind.endswith(("to_q", "to_k")):
            value *= 12
        elif case == "slopes" and "norm" in kind and "group_norm" not in kind:
            value *= 40
    return w


def batch(spec: Spec, size: int = 3, step: int = 0) -> Batch:
    """One training step's inputs. The first image's t is 0, where the bound has its likelihood term; some pixels are -1 or 1."""
    ids = step * size + np.arange(size)
    t = streams.uniform_int(0, "t", ids, spec.diffusion.timesteps)
    if spec.diffusion.objective not in ("x0", "previous"):  # where a random network's is off by many of that term's tiny scales
        t[0] = 0
    coin = np.arange(size) % 2 == 0 if spec.diffusion.self_conditioning else None
    x0 = np.clip(np.float32(0.7) * streams.normal(0, "check", ids, spec.image_shape, step=2), -1, 1)
    return Batch(ids=ids, x0=x0, t=t, noise=streams.normal(0, "noise", ids, spec.image_shape), step=step, coin=coin)
