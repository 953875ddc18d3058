"""The states that a sampling path visits: what the network is told of each, and its alpha and sigma, noisiest first.

A position is a real index into the schedule, 0 .. T - 1. Between whole positions codes interpolate linearly in different
quantities: log u (k-diffusion, and ours), u (diffusers), log alpha (the authors of DPM-Solver), u = sigma / alpha.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .errors import ConfigError, require
from .schedules import Array
from .timesteps import SPACINGS, path

BETWEEN = ("log_u", "u", "log_alpha")


class Nodes(NamedTuple):
    """States of a path, each array (n,) float64. The last is where the path ends; nothing is told of it."""

    t: Array  # position in the schedule
    alpha: Array  # sqrt(alpha_bar), in [0, 1]
    sigma: Array  # sqrt(1 - alpha_bar)

    @property
    def steps(self) -> int:
        """From each state to the next."""
        return len(self.t) - 1

    @property
    def lam(self) -> Array:
        """log(alpha / sigma), half the log-SNR: -inf where alpha is 0, inf where sigma is."""
        with np.errstate(divide="ignore"):
            return np.log(self.alpha) - np.log(self.sigma)

    def at(self, which: list[int]) -> Nodes:
        """These states."""
        return Nodes(self.t[which], self.alpha[which], self.sigma[which])


def of_u(t: Array, u: Array) -> Nodes:
    """States of noise levels u, 0 and infinity included."""
    finite = np.isfinite(u)
    u = np.where(finite, u, 1)
    return Nodes(np.asarray(t, np.float64), np.where(finite, 1 / np.hypot(1, u), 0), np.where(finite, u / np.hypot(1, u), 1))


def u_table(alpha_bars: Array) -> Array:
    """u of every timestep, (T,), increasing; infinite where alpha_bar is 0."""
    with np.errstate(divide="ignore"):
        return np.sqrt((1 - alpha_bars) / alpha_bars)


def on_schedule(t: Array, alpha_bars: Array, between: str = "log_u") -> Nodes:
    """States at these positions. Raises `ConfigError` for one outside of the schedule, where an offset may lead."""
    require(bool(np.max(t) < len(alpha_bars)), "steps_offset", f"up to t={np.max(t):g}",
            f"every timestep must be below T={len(alpha_bars)}: use a smaller one")
    whole = np.arange(len(alpha_bars))
    if between == "log_alpha":
        log_alpha = np.interp(t, whole, np.log(alpha_bars) / 2)
        return Nodes(t, np.exp(log_alpha), np.sqrt(-np.expm1(2 * log_alpha)))
    u = u_table(alpha_bars)
    integers = np.asarray(t, np.int64)
    if np.array_equal(integers, t):
        return Nodes(np.asarray(t, np.float64), np.sqrt(alpha_bars[integers]), np.sqrt(1 - alpha_bars[integers]))
    require(bool(np.isfinite(u[math.ceil(np.max(t))])), "zero_terminal_snr", True,
            "has no states between timesteps: use spacing leading, which convention plain has")
    return of_u(t, np.interp(t, whole, u) if between == "u" else np.exp(np.interp(t, whole, np.log(u))))


def position(u: Array, alpha_bars: Array, between: str = "log_u") -> Array:
    """Where in the schedule these noise levels lie; the inverse of `on_schedule`, held to 0 .. T - 1."""
    table = u_table(alpha_bars)
    whole = np.arange(len(table))
    if between == "log_alpha":
        return np.interp(np.log1p(u**2), np.log1p(table**2), whole)
    return np.interp(u, table, whole) if between == "u" else np.interp(np.log(u), np.log(table), whole)


def karras(low: float, high: float, n: int, rho: float = 7.0) -> Array:
    """n noise levels u from `high` to `low`, evenly spaced in u^(1 / rho) (EDM equation 5)."""
    share = np.arange(n) / max(n - 1, 1)
    return (high ** (1 / rho) + share * (low ** (1 / rho) - high ** (1 / rho))) ** rho


def log_snr(low: float, high: float, n: int) -> Array:
    """n noise levels u from `high` to `low`, evenly spaced in the log-SNR (DPM-Solver section 3.3)."""
    return np.exp(np.log(high) + np.arange(n) / max(n - 1, 1) * (np.log(low) - np.log(high)))


LEVELS = {"karras": karras, "log_snr": log_snr}


def levels(rule: str, n: int, alpha_bars: Array, between: str = "log_u", top: int | None = None) -> Nodes:
    """n states by one of `LEVELS`, between the ends of the schedule, or from timestep `top` on. Raises `ConfigError`."""
    u = u_table(alpha_bars)[:None if top is None else top + 1]
    if not np.isfinite(u[-1]):
        raise ConfigError(f"spacing={rule!r}: has no first level where alpha_bar ends at 0: use spacing leading, which convention "
                          "plain has")
    chosen = LEVELS[rule](float(u[0]), float(u[-1]), n)
    return of_u(position(chosen, alpha_bars, between), chosen)


def with_middles(nodes: Nodes, alpha_bars: Array, sampler: str, stride: int | None = None) -> Nodes:
    """A node inside steps: for dpmpp_2s in the middle of the log-SNR of every step but one to sigma = 0 (DPM-Solver++ algorithm 1,
    r_1 = 1/2), for pndm in the middle of the timesteps of the first three, of which diffusers rounds half a stride down."""
    lam = nodes.lam
    parts = []
    for k in range(nodes.steps):
        parts.append(nodes.at([k]))
        if sampler == "dpmpp_2s" and nodes.sigma[k + 1] > 0:
            u = np.exp(-(lam[k : k + 1] + lam[k + 1]) / 2)
            parts.append(of_u(position(u, alpha_bars), u))
        if sampler == "pndm" and k < 3:
            t = (nodes.t[k : k + 1] + nodes.t[k + 1]) / 2
            parts.append(on_schedule(t if stride is None else nodes.t[k : k + 1] - stride // 2, alpha_bars))
    parts.append(nodes.at([nodes.steps]))
    return Nodes(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def _end(alpha_bars: Array, ends: str) -> Nodes:
    """Where a path ends: at the clean image, or at alpha_bars[0]."""
    return of_u(np.array([-1.0]), np.zeros(1)) if ends == "one" else on_schedule(np.zeros(1), alpha_bars)


def plain(alpha_bars: Array, S: int, rule: str, offset: int, schedule: str) -> Nodes:
    """Ours: DDIM's spacings, with sections left out, or even levels; real timesteps."""
    if rule in LEVELS:
        return levels(rule, S, alpha_bars)
    return on_schedule(np.array(path(len(alpha_bars), S, rule, "plain", offset)[::-1]), alpha_bars)


def _whole(T: int, S: int, rule: str, offset: int, top: int) -> Array:
    """Timesteps of diffusers' DPM, UniPC and DEIS classes: S of S + 1 points, without the lowest one, but for trailing."""
    if rule == "linspace":
        return np.round(np.linspace(0, top - 1, S + 1))[:0:-1]
    if rule == "leading":
        return (np.arange(S + 1) * (top // (S + 1)))[:0:-1] + float(offset)
    return np.round(np.arange(top, 0, -T / S)) - 1


def diffusers_dpm(alpha_bars: Array, S: int, rule: str, offset: int, schedule: str) -> Nodes:
    """DPMSolverMultistepScheduler: levels over the whole schedule (log_snr is use_lu_lambdas); t is told rounded, with the schedule
    cosine cut."""
    if rule not in LEVELS:
        return on_schedule(_whole(len(alpha_bars), S, rule, offset, len(alpha_bars)), alpha_bars)
    nodes = levels(rule, S, alpha_bars)
    return nodes._replace(t=np.floor(nodes.t) if schedule == "cosine" else np.round(nodes.t))


def diffusers_unipc(alpha_bars: Array, S: int, rule: str, offset: int, schedule: str) -> Nodes:
    """UniPCMultistepScheduler: the same, but that it rounds with every schedule."""
    return diffusers_dpm(alpha_bars, S, rule, offset, "")


def diffusers_heun(alpha_bars: Array, S: int, rule: str, offset: int, schedule: str) -> Nodes:
    """HeunDiscreteScheduler: real timesteps with u linear between whole ones; levels between the ends of linspace."""
    T = len(alpha_bars)
    if rule in LEVELS:
        return levels(rule, S, alpha_bars)
    t = {"linspace": np.linspace(0, T - 1, S)[::-1], "leading": (np.arange(S) * (T // S))[::-1] + offset,
         "trailing": np.round(np.arange(T, 0, -T / S)) - 1}[rule]
    return on_schedule(t, alpha_bars, "u")


def diffusers_pndm(alpha_bars: Array, S: int, rule: str, offset: int, schedule: str) -> Nodes:
    """PNDMScheduler, whose step goes from t to t - T // S: a path of its own with the spacing leading alone."""
    return on_schedule((np.arange(S) * (len(alpha_bars) // S))[::-1] + float(offset), alpha_bars)


def dpm_solver(alpha_bars: Array, S: int, rule: str, offset: int, schedule: str) -> Nodes:
    """The authors': log alpha linear between timesteps, of which those of lam < -5.1 are left out; S + 1 points, of which the last
    is the end. The network is told a multiple of 1000 / T."""
    return unipc(alpha_bars[np.log(u_table(alpha_bars)) <= 5.1], S, rule, offset, schedule)


def unipc(alpha_bars: Array, S: int, rule: str, offset: int, schedule: str) -> Nodes:
    """The same without that limit."""
    T = len(alpha_bars)
    require(alpha_bars[-1] > 0, "zero_terminal_snr", True,
            "has no log alpha at its end, which this code's grids need: use spacing leading, which convention plain has")
    if rule == "log_snr":
        nodes = levels(rule, S + 1, alpha_bars, "log_alpha")
    else:
        power = 1 if rule == "time_uniform" else 2
        time = np.linspace(1, (1 / T) ** (1 / power), S + 1) ** power
        nodes = on_schedule(np.clip(time * T - 1, 0, T - 1), alpha_bars, "log_alpha")
    return nodes._replace(t=nodes.t * 1000 / T)


def k_diffusion(alpha_bars: Array, S: int, rule: str, offset: int, schedule: str) -> Nodes:
    """k-diffusion's `get_sigmas`, or even levels: real timesteps, log u linear between whole ones."""
    if rule in LEVELS:
        return levels(rule, S, alpha_bars)
    return on_schedule(np.linspace(len(alpha_bars) - 1, 0, S), alpha_bars)


Grid = Callable[[Array, int, str, int, str], Nodes]
DIFFUSERS = ("linspace", "leading", "trailing", *LEVELS)
GRIDS: dict[str, tuple[Grid, tuple[str, ...]]] = {
    "plain": (plain, (*SPACINGS, *LEVELS)),
    "diffusers_dpm": (diffusers_dpm, DIFFUSERS),
    "diffusers_unipc": (diffusers_unipc, DIFFUSERS[:4]),
    "diffusers_single": (diffusers_dpm, ("linspace", "karras")),
    "diffusers_heun": (diffusers_heun, DIFFUSERS),
    "diffusers_pndm": (diffusers_pndm, ("leading",)),
    "dpm_solver": (dpm_solver, ("time_uniform", "time_quadratic", "log_snr")),
    "unipc": (unipc, ("time_uniform", "time_quadratic", "log_snr")),
    "k_diffusion": (k_diffusion, ("linspace", *LEVELS)),
}


def grid(name: str, alpha_bars: Array, S: int, rule: str, ends: str, offset: int, schedule: str) -> Nodes:
    """The S states of a code's calls by its grid, one a step, and the path's end. Raises `ConfigError`."""
    build, rules = GRIDS[name]
    require(rule in rules, "spacing", rule, f"must be one of {', '.join(rules)}")
    require(offset >= 0, "steps_offset", offset, "must be 0 or more")
    require(offset == 0 or rule == "leading", "steps_offset", offset, "moves the spacing leading alone")
    require(rule not in LEVELS or S > 1, "steps", S, f"spacing {rule} needs two or more")
    nodes = build(alpha_bars, S, rule, offset, schedule)
    if nodes.steps == S:
        return nodes
    end = _end(alpha_bars, ends)
    if math.isclose(float(end.sigma[0]), float(nodes.sigma[-1]), rel_tol=1e-9):  # the last state again: a step that changes nothing
        end = nodes.at([-1])._replace(t=end.t)
    return Nodes(*(np.concatenate(pair) for pair in zip(nodes, end, strict=True)))
