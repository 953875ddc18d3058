"""The one loop of all solvers, and its rows as arrays, by which a backend is held to them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .diffusion import network_t
from .rows import LAGS, MORE_LAGS
from .samplers import Coefficients, clip_x0
from .schedules import Array
from .solver_plans import SolverPlan


def coefficients(plan: SolverPlan) -> Coefficients:
    """The rows of a path of K network calls as float64 arrays, (K,) but for "x0" and "eps".

    Of call k `alpha` and `sigma` of the state that it sees, and `network_t`, what it is told. Of its row `anchor`, `keep`, `noise`;
    `x0` and `eps` are (K, L), the weights of the predictions of calls k, k - 1, .., k - L + 1; L is `LAGS`, or `MORE_LAGS` of the
    sampler.
    """
    states, rows = plan.path
    x0, eps = np.zeros((2, len(rows), MORE_LAGS.get(plan.sampler, LAGS)))
    for k, row in enumerate(rows):
        for table, weights in ((x0, row.x0), (eps, row.eps)):
            for j, weight in weights.items():
                table[k, k - j] = weight
    return {"alpha": states.alpha[:-1], "sigma": states.sigma[:-1], "network_t": network_t(plan.diffusion, states.t[:-1]),
            "anchor": np.array([row.anchor for row in rows], np.float64), "keep": np.array([row.keep for row in rows], np.float64),
            "x0": x0, "eps": eps, "noise": np.array([row.noise for row in rows], np.float64)}


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


def solve(network: Callable[..., Array], x: Array, plan: SolverPlan, noise: Callable[[int], Array] | None = None) -> Array:
    """Run the whole path from x = x_T, (N, C, H, W).

    `network(x, t)` gets t of shape (N,), and a third argument, its last x0_hat, with self-conditioning; a learned variance is not
    used. `noise(k)` gives z of call k and is asked only where the row adds noise.
    """
    nodes, rows = plan.path
    told = network_t(plan.diffusion, nodes.t)
    last = {use: k for k, row in enumerate(rows) for use in row.reads}
    held: dict[tuple[str, int], Array] = {("x", 0): plan.start * x}  # what a row to come reads
    x0 = np.zeros_like(x)
    for k, row in enumerate(rows):
        seen = held["x", k]
        given = (x0,) if plan.diffusion.self_conditioning else ()
        output = network(seen, np.full(len(x), told[k]), *given)[:, : x.shape[1]]
        x0, eps = predict(seen, output, nodes.alpha[k], nodes.sigma[k], plan)
        held |= {("x0", k): x0, ("eps", k): eps}
        x = row.keep * held["x", row.anchor]
        for name, weights in (("x0", row.x0), ("eps", row.eps)):
            for j, weight in weights.items():
                x = x + weight * held[name, j]
        if noise is not None and row.noise:
            x = x + row.noise * np.asarray(noise(k), np.float64)
        held = {use: value for use, value in held.items() if last.get(use, k) > k} | {("x", k + 1): x}
    return x
