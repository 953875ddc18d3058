"""Solvers of the sampling ODE and SDE, each as linear rows over the states and predictions so far.

A path has K network calls. Call k sees x_k and gives m_k (x0, clipped where asked) and e_k (eps); its row makes the next state,
    x_{k+1} = keep x_anchor + sum_j x0[j] m_j + sum_j eps[j] e_j + noise z_k,    j <= k,
and `solving.solve` is the one loop for all of them. A solver is a function of the path's `Nodes` that returns a `Path`: the state
of each call, and the rows. Notation: alpha = sqrt(alpha_bar), sigma = sqrt(1 - alpha_bar), u = sigma / alpha (EDM calls it sigma),
lam = log(alpha / sigma), half the log-SNR. A step goes from node s to t, h = lam_t - lam_s. EDM = Karras et al. 2022
(arXiv:2206.00364), DPM-Solver = Lu et al. 2022 (2206.00927), DPM-Solver++ = Lu et al. 2022 (2211.01095), UniPC = Zhao et al. 2023
(2302.04867), PNDM = Liu et al. 2022 (2202.09778).

Both forms of DPM-Solver are exponential integrators: with a prediction that is a polynomial of tau in [0, 1] over the
step, c_0 + c_1 tau + c_2 tau^2, the exact solution is keep x + scale H (phi_1 c_0 + phi_2 c_1 + 2 phi_3 c_2), phi_i = phi_i(q).
The x0 form has keep = sigma_t / sigma_s, scale = alpha_t, H = h, q = -h; the eps form has keep = alpha_t / alpha_s, scale =
-sigma_t, H = q = h. Stochastic steps of strength eta have H = (1 + eta) h (DPM-Solver++, its section on SDEs).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from .grids import Nodes
from .rows import OURS, Path, Row, Variant, Weights, combine, phi


def _order(n: Nodes, v: Variant, order: int, k: int) -> int:
    """Of step k: as many as there are predictions, fewer at the end where the variant says so, one to sigma = 0."""
    left = n.steps - k
    if n.sigma[k + 1] == 0 or (v.lower_last and left == 1):
        return 1
    return min(order, k + 1, left if n.steps < v.lower_below else order)


def _form(n: Nodes, v: Variant, s: int, t: int) -> tuple[float, float, float, float]:
    """(keep, scale, q, H) of a step; see above."""
    H = float(n.lam[t] - n.lam[s]) * (1 + v.eta)
    if v.form == "x0":
        return float(n.sigma[t] / n.sigma[s]) * (math.exp(-v.eta / (1 + v.eta) * H) if v.eta else 1), float(n.alpha[t]), -H, H
    return float(n.alpha[t] / n.alpha[s]), float(-n.sigma[t]), H, H


def _first(n: Nodes, v: Variant, s: int, t: int) -> float:
    """scale H phi_1, also where H is infinite: from alpha = 0, or to sigma = 0, where the eps form has the limit -alpha_t u_s."""
    keep, scale, q, _ = _form(n, v, s, t)
    if v.form == "eps":
        return scale * math.expm1(q) if scale else -keep * float(n.sigma[s])
    return -scale * math.expm1(q)


def _row(v: Variant, anchor: int, keep: float, *terms: tuple[float, Mapping[int, float]], noise: float = 0.0) -> Row:
    return Row(anchor, keep, combine(*terms), {}, noise) if v.form == "x0" else Row(anchor, keep, {}, combine(*terms), noise)


def ddim(n: Nodes, v: Variant = OURS) -> Path:
    """DDIM equation 12 with sigma of equation 16: Euler's step in u, and order 1 of every family here."""
    rows = []
    for k in range(n.steps):
        share = (n.sigma[k + 1] * n.alpha[k] / (n.sigma[k] * n.alpha[k + 1])) ** 2  # u_t^2 / u_s^2
        eps = n.sigma[k + 1] * math.sqrt(1 - v.eta**2 + v.eta**2 * share)
        noise = v.eta * n.sigma[k + 1] * math.sqrt(1 - share) if v.eta else 0.0
        rows.append(Row(k, 0.0, {k: n.alpha[k + 1]}, {k: eps}, noise))
    return Path(n, rows)


def ddpm(n: Nodes, v: Variant = OURS) -> Path:
    """DDPM equation 7 between neighbours of the path (IDDPM equation 19), with a fixed variance; none is added at the end."""
    rows = []
    for k in range(n.steps):
        alpha, s2, t2 = n.alpha[k] / n.alpha[k + 1], n.sigma[k] ** 2, n.sigma[k + 1] ** 2
        beta = 1 - alpha**2
        noise = 0.0 if k == n.steps - 1 else math.sqrt(beta if v.variance == "large" else beta * t2 / s2)
        rows.append(Row(k, alpha * t2 / s2, {k: n.alpha[k + 1] * beta / s2}, {}, noise))
    return Path(n, rows)


def _differences(n: Nodes, k: int, p: int) -> tuple[Weights, Weights]:
    """What the past says of c_1 and c_2, as weights of predictions, by Newton's divided differences.

    In units of the step from node k the past lies at tau = -h_{k-1} / h and -(h_{k-1} + h_{k-2}) / h.
    """
    h, h1 = n.lam[k + 1] - n.lam[k], n.lam[k] - n.lam[k - 1]
    slope = {k: h / h1, k - 1: -h / h1}
    if p == 2:
        return slope, {}
    h2 = n.lam[k - 1] - n.lam[k - 2]
    change = combine((1, slope), (-h / h2, {k - 1: 1, k - 2: -1}))
    return combine((1, slope), (h1 / (h1 + h2), change)), combine((h / (h1 + h2), change))


def multistep(n: Nodes, v: Variant, order: int) -> Path:
    """DPM-Solver and DPM-Solver++ from past predictions, order 1 to 3, ODE or SDE (DPM-Solver++ algorithm 2 is order 2).

    At order 3 the codes of DPM-Solver, diffusers and k-diffusion give c_2 the weight H phi_3, half of the exact one, and are of
    second order.
    """
    rows = []
    for k in range(n.steps):
        p = _order(n, v, order, k)
        keep, scale, q, H = _form(n, v, k, k + 1)
        first = _first(n, v, k, k + 1)
        terms: list[tuple[float, Mapping[int, float]]] = [(first, {k: 1})]
        if p > 1:
            slope, bend = _differences(n, k, p)
            third = {"exact": 2 * H * phi(3, q), "public": H * phi(3, q), "wrong_sign": H * phi(3, q) - 1}[v.third]
            terms += [(first / 2 if p == 2 and v.second == "midpoint" else scale * H * phi(2, q), slope), (scale * third, bend)]
        noise = float(n.sigma[k + 1]) * math.sqrt(-math.expm1(-2 * v.eta / (1 + v.eta) * H)) if v.eta else 0.0
        rows.append(_row(v, k, keep, *terms, noise=noise))
    return Path(n, rows)


def dpmpp_2s(n: Nodes, v: Variant = OURS) -> Path:
    """DPM-Solver++ algorithm 1: steps over two nodes, s to t by way of a middle one, both calls anchored at s.

    The last step of an odd path, one to sigma = 0, and the last two of a path that lowers its orders are of order 1.
    """
    rows: list[Row] = []
    while (k := len(rows)) < n.steps:
        keep, _, _, middle = _form(n, v, k, k + 1)
        rows.append(_row(v, k, keep, (_first(n, v, k, k + 1), {k: 1})))
        if k + 2 > n.steps or n.sigma[k + 2] == 0 or (k + 2 == n.steps and n.steps < v.lower_below):
            continue
        keep, scale, q, H = _form(n, v, k, k + 2)
        first = _first(n, v, k, k + 2)
        second = first / 2 if v.second == "midpoint" else scale * H * phi(2, q)
        rows.append(_row(v, k, keep, (first, {k: 1}), (second * H / middle, {k: -1, k + 1: 1})))
    return Path(n, rows)


def heun(n: Nodes, v: Variant = OURS) -> Path:
    """EDM algorithm 2 without churn: Euler's step in u, then the mean of both ends' slopes from the same state; S steps have 2S - 1
    calls where the path ends at sigma = 0, whose step stays Euler's."""
    calls = [0]
    rows: list[Row] = []
    for s in range(n.steps):
        k, t = len(rows), s + 1
        keep = n.alpha[t] / n.alpha[s]
        slope = n.sigma[t] - keep * n.sigma[s]  # alpha_t (u_t - u_s)
        rows.append(Row(k, keep, {}, {k: slope}))
        calls.append(t)
        if n.sigma[t] > 0:
            rows.append(Row(k, keep, {}, {k: slope / 2, k + 1: slope / 2}))
            calls.append(t)
    return Path(n.at(calls), rows)


ADAMS_BASHFORTH: tuple[tuple[float, ...], ...] = (
    (1,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))  # newest slope first


def _transfer(n: Nodes, s: int, t: int, anchor: int, weights: Weights) -> Row:
    """PNDM equation 11: DDIM's step with a mean of several eps."""
    keep = n.alpha[t] / n.alpha[s]
    return Row(anchor, keep, {}, combine((n.sigma[t] - keep * n.sigma[s], weights)))


def _adams(n: Nodes, calls: list[int], rows: list[Row], past: list[int]) -> Path:
    """The rest of a path by PNDM equation 12; `past` are the calls whose eps it may use, oldest first."""
    for s in range(calls[-1], n.steps):
        k = len(rows)
        past = [*past, k][-4:]
        rows.append(_transfer(n, s, s + 1, k, dict(zip(past[::-1], ADAMS_BASHFORTH[len(past) - 1], strict=True))))
        calls.append(s + 1)
    return Path(n.at(calls), rows)


def plms(n: Nodes, v: Variant = OURS) -> Path:
    """PNDM's linear multistep, started by one step of Heun's kind: S + 1 calls, of which the second is not in the history."""
    rows = [_transfer(n, 0, 1, 0, {0: 1}), _transfer(n, 0, 1, 0, {0: 1 / 2, 1: 1 / 2})]
    return _adams(n, [0, 1, 1], rows, [0])


def pndm(n: Nodes, v: Variant = OURS) -> Path:
    """PNDM algorithm 2: three Runge-Kutta steps (equation 13), whose middle nodes are the odd ones of the first seven, then linear
    multistep; the history has the first slope of each step. S steps have S + 9 calls."""
    rows: list[Row] = []
    calls = [0]
    for s in (0, 2, 4):
        k = len(rows)
        rows += [_transfer(n, s, s + 1, k, {k: 1}), _transfer(n, s, s + 1, k, {k + 1: 1}), _transfer(n, s, s + 2, k, {k + 2: 1}),
                 _transfer(n, s, s + 2, k, {k: 1 / 6, k + 1: 1 / 3, k + 2: 1 / 3, k + 3: 1 / 6})]
        calls += [s + 1, s + 1, s + 2, s + 2]
    return _adams(n, calls, rows, [0, 4, 8])


def _unipc_step(n: Nodes, v: Variant, k: int, p: int) -> tuple[float, Weights, Weights]:
    """(keep, weights of the predictor, of the corrector) of step k, order p (UniPC equation 3, algorithms 1 and 2)."""
    keep, scale, q, _ = _form(n, v, k, k + 1)
    first = (_first(n, v, k, k + 1), {k: 1.0})
    if n.sigma[k + 1] in (0, n.sigma[k]):  # nothing is corrected after the last step, nor where nothing changed
        return keep, combine(first), {}
    B = q if v.basis == "bh1" else math.expm1(q)
    h = n.lam[k + 1] - n.lam[k]
    r = np.array([(n.lam[k - i] - n.lam[k]) / h for i in range(1, p)] + [1.0])
    differences: list[Weights] = [{k - i: 1 / r[i - 1], k: -1 / r[i - 1]} for i in range(1, p)] + [{k + 1: 1.0, k: -1.0}]
    b = np.array([math.factorial(i) * q * phi(i + 1, q) / B for i in range(1, p + 1)])
    R = np.array([r**i for i in range(p)])
    before = np.array([0.5]) if p == 2 else np.linalg.solve(R[:-1, :-1], b[:-1])
    after = np.array([0.5]) if p == 1 else np.linalg.solve(R, b)
    scale = scale * B * (-1 if v.form == "x0" else 1)
    predictor = combine(first, *((scale * rho, d) for rho, d in zip(before, differences[:-1], strict=True)))
    return keep, predictor, combine(first, *((scale * rho, d) for rho, d in zip(after, differences, strict=True)))


def unipc(n: Nodes, v: Variant, order: int) -> Path:
    """UniPC-p: each state is corrected once its prediction is known, at no further call.

    The corrected state is in no row: it is x_k plus weights of predictions, the corrector's less the predictor's of step k - 1.
    """
    rows: list[Row] = []
    correction: Weights = {}
    for k in range(n.steps):
        keep, predictor, corrector = _unipc_step(n, v, k, _order(n, v, order, k))
        rows.append(_row(v, k, keep, (keep, correction), (1.0, predictor)))
        correction = combine((1.0, corrector), (-1.0, predictor))
    return Path(n, rows)


SOLVERS: dict[str, Callable[[Nodes, Variant], Path]] = {
    "ddim": ddim, "ddpm": ddpm, "heun": heun, "plms": plms, "pndm": pndm, "dpmpp_2s": dpmpp_2s,
    "dpmpp_2m": partial(multistep, order=2), "dpmpp_3m": partial(multistep, order=3), "dpmpp_2m_sde": partial(multistep, order=2),
    "unipc_2": partial(unipc, order=2), "unipc_3": partial(unipc, order=3),
}
