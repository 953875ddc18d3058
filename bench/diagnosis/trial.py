"""A path with a mistake in it: the right plan, its coefficients and its noise, of which a mistake changes a part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.diagnosis.case import Case, Network
from reference import samplers, schedules
from reference.plan import CLEAN, Plan

Array = NDArray[np.float64]
Coefficients = dict[str, Array]
Noise = Callable[[int], Array]


def _same(x: Array) -> Array:
    return x


@dataclass(frozen=True, eq=False)
class Trial:
    """A sampler: step i takes `after(step(x))` and the images are `end(x)`. `z(i)` is the noise of step i."""

    plan: Plan
    c: Coefficients
    x_T: Array
    z: Noise | None
    before: Callable[[Array], Array] = _same  # of the state that the network is given
    after: Callable[[Array], Array] = _same  # of every state
    end: Callable[[Array], Array] = _same  # of the images

    def states(self, network: Network) -> Array:
        """(S, N, C, H, W): the state after each step; the last are the images."""
        x, out = self.x_T, []
        for i in range(self.plan.steps):
            output = network(self.before(x), np.full(len(x), self.c["network_t"][i]))
            noisy = self.z is not None and self.plan.noise_gate[i]
            x = self.after(samplers.step(x, output, i, self.plan, self.z(i) if noisy and self.z else None, self.c)[0])
            out.append(x)
        out[-1] = self.end(out[-1])
        return np.stack(out)

    def of(self, plan: Plan) -> Trial:
        """The same along another plan, with its own coefficients."""
        return replace(self, plan=plan, c=samplers.coefficients(plan))

    def with_c(self, **arrays: Any) -> Trial:
        """The same with some coefficients replaced."""
        return replace(self, c={**self.c, **{name: np.broadcast_to(a, len(self.plan.timesteps)) for name, a in arrays.items()}})

    def with_tables(self, alpha_bars: Array) -> Trial:
        """The same with alpha_bar of t = 0..T-1 from another table."""
        final = self.c["alpha_bar_prev"][-1] if self.plan.previous[-1] == CLEAN else None
        if self.plan.final_alpha_bar == "first":
            final = alpha_bars[0]
        previous = [final if t == CLEAN else alpha_bars[t] for t in self.plan.previous]
        return self.with_levels(alpha_bars[list(self.plan.timesteps)], np.array(previous, np.float64))

    def with_levels(self, ab: Array, ab_prev: Array) -> Trial:
        """The same with other alpha_bars at the ends of the steps; all that follows from them follows."""
        least = 1e-12 if self.plan.diffusion.objective == "eps" else 0.0  # of which eps would be divided by 0
        ab, ab_prev = np.clip(ab, least, 1 - 1e-15), np.clip(ab_prev, least, 1.0)
        gate = np.array(self.plan.noise_gate, np.float64)
        # No function of the reference that backends mirror takes alpha_bars of no schedule: these two parts of `coefficients` do.
        terms = {**samplers._output_terms(self.plan, ab, ab_prev), **samplers._previous_terms(self.plan, ab, ab_prev, gate)}
        return replace(self, c={**self.c, **terms, "alpha_bar": ab, "alpha_bar_prev": ab_prev})


def right(case: Case) -> Trial:
    """The sampler without a mistake."""
    plan, noise = case.plan, case.noise
    return Trial(plan, samplers.coefficients(plan), case.x_T, None if noise is None else noise.__getitem__)


def table(trial: Trial) -> Array:
    """alpha_bar of t = 0..T-1, as the right sampler has it."""
    return schedules.alpha_bars(schedules.betas(trial.plan.diffusion), trial.plan.float32_tables)
