"""Solvers of the sampling ODE and SDE, the same functions as `reference/solvers.py` in JAX.

Each works out all rows of a path at once, as float64 arrays. Notation, papers and the sums are those of the reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from reference.rows import LAGS, MORE_LAGS, Variant

from .schedules import F64

ADAMS_BASHFORTH: tuple[tuple[float, ...], ...] = (
    (1,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))  # newest slope first
Transfer = tuple[int, int, int, dict[int, float]]  # anchor, from node s, to node t, weights of the calls' eps


class Nodes(NamedTuple):
    """The nodes of a path of S steps, each array (S + 1,) float64."""
    alpha: Array
    sigma: Array
    lam: Array  # log(alpha / sigma)
    steps: int
    clean: bool  # the path ends at sigma = 0, which only a step of order 1 can reach


class Table(NamedTuple):
    """The rows of a path of K calls. Weights are (K, L), of the predictions of calls k, k - 1, .., the others (K,)."""
    node: np.ndarray  # that each call sees
    anchor: np.ndarray
    keep: Array
    x0: Array
    eps: Array
    noise: Array


def _table(anchor: np.ndarray, keep: Array, weights: dict[str, Array], noise: Array | None = None,
           node: np.ndarray | None = None) -> Table:
    """`weights` are "x0", "eps" or both; `node` is by default the anchor's; what is None is 0."""
    none = jnp.zeros_like(next(iter(weights.values())))
    return Table(anchor if node is None else node, anchor, keep, weights.get("x0", none), weights.get("eps", none),
                 _zeros(len(anchor)) if noise is None else noise)


def _zeros(n: int) -> Array:  # (n,)
    return jnp.zeros(n, F64)


def _columns(*weights: Array) -> Array:
    """(K, LAGS) of these weights, the rest 0."""
    return jnp.stack([*weights, *[_zeros(len(weights[0]))] * (LAGS - len(weights))], axis=1)


def _earlier(x: Array, by: int) -> Array:
    """Of each step the value of the one so many before; the first steps have none and get what they must not use."""
    return jnp.concatenate((x[-by:], x[:-by]))


def _phi(i: int, q: Array) -> Array:
    """phi_i(q) = sum_n q^n / (n + i)!, for i >= 1."""
    series = q * 0
    for n in range(19, -1, -1):
        series = series * q + 1 / math.factorial(n + i)
    closed = jnp.expm1(q) / q if i == 1 else (_phi(i - 1, q) - 1 / math.factorial(i - 1)) / q
    return jnp.where(jnp.abs(q) < 1, series, closed)


def _orders(n: Nodes, v: Variant, order: int) -> Array:
    """(S, 1), as many as there are predictions, fewer at the end where the variant says so, one to sigma = 0."""
    out = [min(order, k + 1, n.steps - k if n.steps < v.lower_below else order) for k in range(n.steps)]
    if n.clean or v.lower_last:
        out[-1] = 1
    return jnp.array(out)[:, None]


def _form(n: Nodes, v: Variant, s: np.ndarray, t: np.ndarray) -> tuple[Array, Array, Array, Array]:
    """(keep, scale, q, H) of steps from nodes s to t."""
    H = (n.lam[t] - n.lam[s]) * (1 + v.eta)
    if v.form == "eps":
        return n.alpha[t] / n.alpha[s], -n.sigma[t], H, H
    keep = n.sigma[t] / n.sigma[s]
    return keep * jnp.exp(-v.eta / (1 + v.eta) * H) if v.eta else keep, n.alpha[t], -H, H


def _first(n: Nodes, v: Variant, s: np.ndarray, t: np.ndarray) -> Array:
    """scale H phi_1, also where H is infinite."""
    keep, scale, q, _ = _form(n, v, s, t)
    if v.form == "x0":
        return -scale * jnp.expm1(q)
    return jnp.where(scale == 0, -keep * n.sigma[s], scale * jnp.expm1(q))


def _steps(n: Nodes) -> tuple[np.ndarray, np.ndarray]:
    """From and to which nodes: NumPy's, with which JAX's arrays are indexed."""
    return np.arange(n.steps), np.arange(1, n.steps + 1)


def ddim(n: Nodes, v: Variant) -> Table:
    """DDIM equation 12 with sigma of equation 16."""
    s, t = _steps(n)
    share = (n.sigma[t] * n.alpha[s] / (n.sigma[s] * n.alpha[t])) ** 2
    eps = n.sigma[t] * jnp.sqrt(1 - v.eta**2 + v.eta**2 * share)
    noise = v.eta * n.sigma[t] * jnp.sqrt(1 - share) if v.eta else None
    return _table(s, _zeros(n.steps), {"x0": _columns(n.alpha[t]), "eps": _columns(eps)}, noise)


def ddpm(n: Nodes, v: Variant) -> Table:
    """DDPM equation 7 between neighbours of the path, with a fixed variance; none is added at the end."""
    s, t = _steps(n)
    alpha, s2, t2 = n.alpha[s] / n.alpha[t], n.sigma[s] ** 2, n.sigma[t] ** 2
    beta = 1 - alpha**2
    noise = jnp.sqrt(beta if v.variance == "large" else beta * t2 / s2).at[-1].set(0)
    return _table(s, alpha * t2 / s2, {"x0": _columns(n.alpha[t] * beta / s2)}, noise)


def multistep(n: Nodes, v: Variant, order: int) -> Table:
    """DPM-Solver and DPM-Solver++ from past predictions (DPM-Solver++ algorithm 2 is order 2)."""
    s, t = _steps(n)
    keep, scale, q, H = _form(n, v, s, t)
    first, p = _first(n, v, s, t), _orders(n, v, order)
    h = n.lam[t] - n.lam[s]
    h1, h2 = _earlier(h, 1), _earlier(h, 2)
    slope = _columns(h / h1, -h / h1)
    change = slope - _columns(_zeros(n.steps), h / h2, -h / h2)
    third = {"exact": 2 * H * _phi(3, q), "public": H * _phi(3, q), "wrong_sign": H * _phi(3, q) - 1}[v.third]
    second = scale * H * _phi(2, q)
    bent = second * h1 / (h1 + h2) + scale * third * h / (h1 + h2)
    two = (first / 2 if v.second == "midpoint" else second)[:, None] * slope
    three = second[:, None] * slope + bent[:, None] * change
    past = jnp.where(p == 3, three, jnp.where(p == 2, two, 0.0))
    noise = n.sigma[t] * jnp.sqrt(-jnp.expm1(-2 * v.eta / (1 + v.eta) * H)) if v.eta else None
    return _table(s, keep, {v.form: _columns(first) + past}, noise)


def dpmpp_2s(n: Nodes, v: Variant) -> Table:
    """DPM-Solver++ algorithm 1: steps over two nodes, both calls anchored at the first; single ones where there is no second."""
    steps = list[tuple[int, int]]()
    while (k := len(steps)) < n.steps:
        steps.append((k, k + 1))
        if k + 2 <= n.steps - n.clean and not (k + 2 == n.steps and n.steps < v.lower_below):
            steps.append((k, k + 2))
    s, t = np.array(steps).T
    keep, scale, q, H = _form(n, v, s, t)
    first = _first(n, v, s, t)
    share = (first / 2 if v.second == "midpoint" else scale * H * _phi(2, q)) * H / _earlier(H, 1)  # before it: to the middle
    double = jnp.array(t - s == 2)[:, None]
    weights = jnp.where(double, _columns(share, first - share), _columns(first))
    return _table(s, keep, {v.form: weights}, node=_steps(n)[0])


def _transfers(n: Nodes, rows: list[Transfer], node: list[int], lags: int) -> Table:
    """PNDM equation 11: DDIM's steps with means of several eps."""
    anchor, s, t = np.array([row[:3] for row in rows]).T
    keep = n.alpha[t] / n.alpha[s]
    means = [[weights.get(k - lag, 0.0) for lag in range(lags)] for k, (_, _, _, weights) in enumerate(rows)]
    return _table(anchor, keep, {"eps": jnp.array(means) * (n.sigma[t] - keep * n.sigma[s])[:, None]}, node=np.array(node[:-1]))


def heun(n: Nodes, v: Variant) -> Table:
    """EDM algorithm 2 without churn: Euler's step in u, then the mean of both ends' slopes from the same state."""
    node, rows = [0], list[Transfer]()
    for s, t in zip(*_steps(n), strict=True):
        k = len(rows)
        rows.append((k, s, t, {k: 1}))
        if t < n.steps or not n.clean:
            rows.append((k, s, t, {k: 1 / 2, k + 1: 1 / 2}))
        node += [t] * (len(rows) - k)
    return _transfers(n, rows, node, LAGS)


def _adams(n: Nodes, node: list[int], rows: list[Transfer], past: list[int], lags: int) -> Table:
    """The rest of a path by PNDM equation 12; `past` are the calls whose eps it may use, oldest first."""
    for s in range(node[-1], n.steps):
        past = [*past, len(rows)][-4:]
        rows.append((len(rows), s, s + 1, dict(zip(past[::-1], ADAMS_BASHFORTH[len(past) - 1], strict=True))))
        node.append(s + 1)
    return _transfers(n, rows, node, lags)


def plms(n: Nodes, v: Variant) -> Table:
    """PNDM's linear multistep, started by one step of Heun's kind."""
    return _adams(n, [0, 1, 1], [(0, 0, 1, {0: 1}), (0, 0, 1, {0: 1 / 2, 1: 1 / 2})], [0], MORE_LAGS["plms"])


def pndm(n: Nodes, v: Variant) -> Table:
    """PNDM algorithm 2: three Runge-Kutta steps (equation 13), then linear multistep from the first slope of each step."""
    node, rows = [0], list[Transfer]()
    for s in (0, 2, 4):
        k = len(rows)
        rows += [(k, s, s + 1, {k: 1}), (k, s, s + 1, {k + 1: 1}), (k, s, s + 2, {k + 2: 1}),
                 (k, s, s + 2, {k: 1 / 6, k + 1: 1 / 3, k + 2: 1 / 3, k + 3: 1 / 6})]
        node += [s + 1, s + 1, s + 2, s + 2]
    return _adams(n, node, rows, [0, 4, 8], MORE_LAGS["pndm"])


def _vandermonde(r: list[Array], b: list[Array]) -> list[Array]:
    """The rho of sum_j rho_j r_j^(i - 1) = b_i, by Lagrange's polynomials."""
    out = list[Array]()
    for j, at in enumerate(r):
        others, moments = [*r[:j], *r[j + 1 :]], b
        for other in others:
            moments = [up - other * low for low, up in zip(moments[:-1], moments[1:], strict=True)]
        out.append(moments[0] / math.prod(at - other for other in others))
    return out


def _unipc_steps(n: Nodes, v: Variant, order: int) -> tuple[Array, Array, Array]:
    """(keep, weights of the predictor, of the corrector) of every step (UniPC equation 3, algorithms 1 and 2): (S,) and (S, LAGS)
    of calls k, k - 1, .., for the corrector k + 1, k, ... After the last step nothing is corrected."""
    s, t = _steps(n)
    keep, scale, q, _ = _form(n, v, s, t)
    first, p = _first(n, v, s, t), _orders(n, v, order)
    lam, h = n.lam[s], n.lam[t] - n.lam[s]
    B = q if v.basis == "bh1" else jnp.expm1(q)
    scale = scale * B * (-1 if v.form == "x0" else 1)
    one, half = jnp.array(1.0, F64), [jnp.array(1 / 2, F64)]
    predictor, corrector = _columns(first), _columns(first)
    for of in range(1, order + 1):
        r = [(_earlier(lam, i) - lam) / h for i in range(1, of)] + [one]
        b = [math.factorial(i) * q * _phi(i + 1, q) / B for i in range(1, of + 1)]
        before = half if of == 2 else _vandermonde(r[:-1], b[:-1])
        after = half if of == 1 else _vandermonde(r, b)
        pasts = [[scale * x / y for x, y in zip(rho, r[:-1], strict=False)] for rho in (before, after)]  # of (m_{k-i} - m_k) / r_i
        new = scale * after[-1]  # of m_{k+1} - m_k
        predictor = jnp.where(p == of, _columns(first - sum(pasts[0]), *pasts[0]), predictor)
        corrector = jnp.where(p == of, _columns(new, first - sum(pasts[1]) - new, *pasts[1]), corrector)
    return keep, predictor, corrector


def unipc(n: Nodes, v: Variant, order: int) -> Table:
    """UniPC-p: the corrected state is in no row, but x_k plus weights of predictions, the corrector's less the predictor's."""
    keep, predictor, corrector = _unipc_steps(n, v, order)
    shifted = jnp.concatenate((jnp.zeros_like(predictor[:, :1]), predictor[:, :-1]), axis=1)
    correction = jnp.concatenate((jnp.zeros_like(shifted[:1]), (corrector - shifted)[:-1]))
    return _table(_steps(n)[0], keep, {v.form: predictor + keep[:, None] * correction})


SOLVERS: dict[str, Callable[[Nodes, Variant], Table]] = {
    "ddim": ddim, "ddpm": ddpm, "heun": heun, "plms": plms, "pndm": pndm, "dpmpp_2s": dpmpp_2s,
    "dpmpp_2m": partial(multistep, order=2), "dpmpp_3m": partial(multistep, order=3), "dpmpp_2m_sde": partial(multistep, order=2),
    "unipc_2": partial(unipc, order=2), "unipc_3": partial(unipc, order=3),
}
