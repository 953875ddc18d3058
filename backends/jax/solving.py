"""The one loop of all solvers, the same functions as `reference/solving.py` in JAX.

Rows are worked out in float64; as Python numbers JAX rounds them once to the dtype of the array that they meet.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from reference.rows import Row
from reference.solver_plans import SolverPlan

from .samplers import Coefficients, clip_x0
from .schedules import F64
from .solvers import SOLVERS, Nodes

Network = Callable[[Array, int, Array], Array]


def coefficients(plan: SolverPlan) -> Coefficients:
    """The rows of a path of K network calls as float64 arrays, (K,) but for "x0" and "eps", (K, L); see the reference."""
    alpha, sigma = jnp.array(plan.alpha, F64), jnp.array(plan.sigma, F64)
    nodes = Nodes(alpha, sigma, jnp.log(alpha) - jnp.log(sigma), len(plan.t) - 1, plan.sigma[-1] == 0)
    table = SOLVERS[plan.sampler](nodes, plan.variant)
    network_t = jnp.array(plan.network_t, F64)
    return {"alpha": alpha[table.node], "sigma": sigma[table.node], "network_t": network_t[table.node],
            "anchor": jnp.array(table.anchor, F64), "keep": table.keep, "x0": table.x0, "eps": table.eps, "noise": table.noise}


kept = functools.lru_cache(maxsize=32)(coefficients)


def _rows(c: Coefficients) -> list[Row]:
    """The rows as Python numbers, without weights of 0."""
    def weights(k: int, of_lags: list[float]) -> dict[int, float]:
        return {k - lag: weight for lag, weight in enumerate(of_lags) if weight}

    columns = [c[name].tolist() for name in ("anchor", "keep", "x0", "eps", "noise")]
    return [Row(int(anchor), keep, weights(k, x0), weights(k, eps), noise)
            for k, (anchor, keep, x0, eps, noise) in enumerate(zip(*columns, strict=True))]


def predict(x: Array, output: Array, alpha: float, sigma: float, plan: SolverPlan) -> tuple[Array, Array]:
    """(x0, eps) of a call from the network's output; eps follows from x0 where that is clipped."""
    if plan.diffusion.objective == "x0":
        x0, eps = output, (x - alpha * output) / sigma
    elif plan.diffusion.objective == "eps":
        x0, eps = (x - sigma * output) / alpha, output
    else:  # Salimans & Ho 2022 (arXiv:2202.00512), appendix D
        x0, eps = alpha * x - sigma * output, sigma * x + alpha * output
    if plan.clip == "none":
        return x0, eps
    x0 = clip_x0(x0, plan)
    return x0, (x - alpha * x0) / sigma


def solve(network: Network, x: Array, plan: SolverPlan, c: Coefficients,
          noise: Callable[[int], Array] | None = None, on_step: Callable[[int], None] | None = None) -> Array:
    """Run the whole path from x = x_T, (N, C, H, W).

    `network(x, k, x0)` is the network's output at call k, in x's dtype; x0 is its last x0_hat, for self-conditioning. `noise(k)`
    gives z of call k and is asked only where the row adds noise; `on_step(k)` is called after call k.
    """
    rows, alpha, sigma = _rows(c), c["alpha"].tolist(), c["sigma"].tolist()
    last = {use: k for k, row in enumerate(rows) for use in row.reads}
    held: dict[tuple[str, int], Array] = {("x", 0): plan.start * x}  # what a row to come reads
    x0 = jnp.zeros_like(x)
    for k, row in enumerate(rows):
        seen = held["x", k]
        x0, eps = predict(seen, network(seen, k, x0)[:, : x.shape[1]], alpha[k], sigma[k], plan)
        held |= {("x0", k): x0, ("eps", k): eps}
        x = row.keep * held["x", row.anchor]
        for name, weights in (("x0", row.x0), ("eps", row.eps)):
            for j, weight in weights.items():
                x = x + weight * held[name, j]
        if noise is not None and row.noise:
            x = x + row.noise * noise(k)
        held = {use: value for use, value in held.items() if last.get(use, k) > k} | {("x", k + 1): x}
        if on_step is not None:
            on_step(k)
    return x
