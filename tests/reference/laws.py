"""Distributions whose sampling paths are known, and the order of every solver's error under them.

With data N(m, c^2) the best eps is sigma (x - alpha m) / (alpha^2 c^2 + sigma^2), and along the ODE (x - alpha m) over the standard
deviation stands still. Orders are measured on Karras' grid between both ends of a schedule, at the grid's own last sigma: a step to
sigma = 0 would add an error that no number of steps removes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
from scipy.integrate import solve_ivp

from reference import grids, schedules
from reference.config import DiffusionConfig
from reference.grids import Nodes, of_u
from reference.rows import OURS, Path, Variant
from reference.solvers import ddim, dpmpp_2s, heun, multistep, plms, unipc

ALPHA_BARS = schedules.alpha_bars(schedules.betas(DiffusionConfig()))
U = grids.u_table(ALPHA_BARS)
EPS, TAYLOR, SDE = Variant(form="eps"), Variant(second="taylor"), Variant(eta=1.0)
PUBLIC = Variant(third="public")
Solver = Callable[[Nodes], Path]


def run(path: Path, x, predict, noise=lambda k: 0.0):
    """The end of a path; `predict(x, alpha, sigma)` is (x0, eps)."""
    states, said = [x], []
    for k, row in enumerate(path.rows):
        said.append(predict(states[k], path.states.alpha[k], path.states.sigma[k]))
        terms = [w * said[j][0] for j, w in row.x0.items()] + [w * said[j][1] for j, w in row.eps.items()]
        states.append(row.keep * states[row.anchor] + sum(terms) + row.noise * noise(k))
    return states[-1]


class Gaussian:
    m, c = 0.3, 0.5

    def predict(self, x, alpha, sigma):
        eps = sigma * (x - alpha * self.m) / (alpha**2 * self.c**2 + sigma**2)
        return (x - sigma * eps) / alpha, eps

    def exact(self, x, n):
        spread = np.hypot(n.alpha * self.c, n.sigma)
        return n.alpha[-1] * self.m + spread[-1] / spread[0] * (x - n.alpha[0] * self.m)


class TwoGaussians(Gaussian):
    """N(-0.6, 0.3^2) and N(0.5, 0.4^2), weights 0.4 and 0.6."""

    def predict(self, x, alpha, sigma):
        parts = []
        for weight, m, c in ((0.4, -0.6, 0.3), (0.6, 0.5, 0.4)):
            var = alpha**2 * c**2 + sigma**2
            parts.append((weight / np.sqrt(var) * np.exp(-((x - alpha * m) ** 2) / (2 * var)), sigma * (x - alpha * m) / var))
        eps = sum(p * e for p, e in parts) / sum(p for p, _ in parts)
        return (x - sigma * eps) / alpha, eps

    def exact(self, x, n):
        """dx/du = eps in the coordinate x / alpha, with lam for the variable."""
        def slope(lam, y):
            u = np.exp(-lam)
            alpha = 1 / np.hypot(1, u)
            return -u * self.predict(y * alpha, alpha, u * alpha)[1]
        span = (n.lam[0], n.lam[-1])
        return solve_ivp(slope, span, [x / n.alpha[0]], method="DOP853", rtol=1e-13, atol=1e-15).y[0, -1] * n.alpha[-1]


def karras(steps: int) -> Nodes:
    return of_u(np.zeros(steps + 1), grids.karras(float(U[0]), float(U[-1]), steps + 1))


def with_middles(sampler: str, n: Nodes) -> Nodes:
    return grids.with_middles(n, ALPHA_BARS, sampler)


ORDERS: dict[str, tuple[Solver, int]] = {
    "ddim": (ddim, 1), "heun": (heun, 2), "plms": (plms, 2), "dpmpp_2s": (lambda n: dpmpp_2s(with_middles("dpmpp_2s", n)), 2),
    "2s on the grid": (dpmpp_2s, 2), "dpmpp_2m": (partial(multistep, v=OURS, order=2), 2),
    "2m taylor": (partial(multistep, v=TAYLOR, order=2), 2), "dpmpp_3m": (partial(multistep, v=OURS, order=3), 3),
    "public 3m": (partial(multistep, v=PUBLIC, order=3), 2),
    "public 3m eps": (partial(multistep, v=replace(PUBLIC, form="eps"), order=3), 2),
    "deis_2": (partial(multistep, v=replace(TAYLOR, form="eps"), order=2), 2), "deis_3": (partial(multistep, v=EPS, order=3), 3),
    "unipc_1": (partial(unipc, v=OURS, order=1), 2), "unipc_2": (partial(unipc, v=OURS, order=2), 3),
    "unipc_3": (partial(unipc, v=OURS, order=3), 4), "unipc_2 bh1": (partial(unipc, v=Variant(basis="bh1"), order=2), 3),
}
VARIANCES: dict[str, tuple[Solver, int]] = {
    "ddim, eta = 1": (partial(ddim, v=SDE), 1), "dpmpp_2m_sde": (partial(multistep, v=SDE, order=2), 2),
    "2m_sde taylor": (partial(multistep, v=replace(SDE, second="taylor"), order=2), 2),
    "public 3m_sde": (partial(multistep, v=replace(SDE, third="public"), order=3), 2),
    "3m_sde of diffusers": (partial(multistep, v=replace(SDE, third="wrong_sign"), order=3), 1),
}


def error(law: Gaussian, solver: Solver, steps: int) -> tuple[float, int]:
    """|x - exact x| at the end of a path from x_T = 1.3, and its network calls."""
    n = karras(steps)
    path = solver(n)
    return float(abs(run(path, 1.3, law.predict) - law.exact(1.3, n))), len(path.rows)


def slopes(law: Gaussian, solver: Solver, counts: tuple[int, ...]) -> list[float]:
    """By how many powers of two the error falls where the steps double."""
    return [math.log2(a / b) for (a, _), (b, _) in pairwise(error(law, solver, steps) for steps in counts)]


def variance(path: Path, c: float) -> float:
    """That of the path's end from the exact start, under N(0, c^2): rows act on vectors of (x_T, z_0, z_1, ..)."""
    first = np.zeros(len(path.rows) + 1)
    first[0] = np.hypot(path.states.alpha[0] * c, path.states.sigma[0])
    basis = np.eye(len(first))

    def predict(x, alpha, sigma):
        eps = sigma * x / (alpha**2 * c**2 + sigma**2)
        return (x - sigma * eps) / alpha, eps

    return float(np.sum(run(path, first, predict, lambda k: basis[k + 1]) ** 2))


def variance_slopes(solver: Solver, counts: tuple[int, ...], c: float = 0.5) -> list[float]:
    """The same of the error of the end's variance."""
    errors = []
    for n in map(karras, counts):
        errors.append(abs(variance(solver(n), c) - (n.alpha[-1] * c) ** 2 - n.sigma[-1] ** 2))
    return [math.log2(a / b) for a, b in pairwise(errors)]
