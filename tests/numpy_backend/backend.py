"""A third backend, in plain NumPy: a sampler without a network, small enough to be read as an example.

It shares nothing with the other backends but the configs and `Plan`. Coefficients are worked out one step at a time.
"""

from __future__ import annotations

import math

import numpy as np

from backends.claims import require_claimed
from backends.protocol import Spec
from reference.config import ConfigError, DiffusionConfig
from reference.conventions import CLEAN, PURE_NOISE, Plan

from . import ABOUT

TINY = 1e-20


def _from_alpha_bar(points: np.ndarray) -> np.ndarray:
    return np.minimum(1 - points[1:] / points[:-1], 0.999)


def betas(c: DiffusionConfig) -> np.ndarray:
    """beta of t = 0..T-1, (T,) float64; formulas in the notes to `reference/schedules.py`."""
    T, factor = c.timesteps, 1000 / c.timesteps if c.beta_scaling else 1.0
    low, high = factor * c.beta_start, factor * c.beta_end
    share = np.arange(T) / max(T - 1, 1)
    t = np.arange(T + 1) / T
    if c.trained_betas is not None:
        out = np.array(c.trained_betas)
    elif c.schedule == "cosine":
        out = _from_alpha_bar(np.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2)
    elif c.schedule in ("sigmoid_alpha_bar", "sigmoid_alpha_bar_float32"):
        top = 1 / (1 + math.exp(-3))
        top = float(np.float32(top)) if c.schedule.endswith("float32") else top
        out = _from_alpha_bar(top - 1 / (1 + np.exp(3 - 6 * t)))
    elif c.schedule == "quad":
        out = (math.sqrt(low) + share * (math.sqrt(high) - math.sqrt(low))) ** 2
    elif c.schedule == "sigmoid":
        out = low + (high - low) / (1 + np.exp(6 - 12 * share))
    elif c.schedule in ("tutorial", "tutorial_textbook"):
        out = low + np.arange(1, T + 1) / T * (high - low)
        if c.schedule == "tutorial":
            out[0] += low - out[0] * low  # 1 - (1 - out[0]) (1 - low)
    elif c.schedule in ("linear_float32", "quad_float32"):  # built in float32, from both ends
        power = 2 if c.schedule == "quad_float32" else 1
        first, last = np.float32(low ** (1 / power)), np.float32(high ** (1 / power))
        step, i = float((last - first) / np.float32(max(T - 1, 1))), np.arange(T)
        points = np.where(i < max(T // 2, 1), float(first) + step * i, float(last) - step * (T - 1 - i))
        out = (points.astype(np.float32) ** power).astype(np.float64)
    elif c.schedule == "linear":
        out = low + share * (high - low)
    elif c.schedule == "const":
        out = np.full(T, high)
    elif c.schedule == "jsd":
        out = 1 / (T - np.arange(T))
    else:
        raise ConfigError(f"schedule={c.schedule!r}: the NumPy backend does not have it")
    if not c.zero_terminal_snr:
        return out
    root = np.sqrt(np.cumprod(1 - out))
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return 1 - (root / np.concatenate(([1.0], root[:-1]))) ** 2


def alpha_bars(plan: Plan) -> np.ndarray:
    """alpha_bar of t = 0..T-1, rounded as a float32 code does where the plan says so."""
    beta = betas(plan.diffusion)
    if plan.float32_tables:
        return np.cumprod((1 - beta.astype(np.float32)).astype(np.float64)).astype(np.float32).astype(np.float64)
    return np.cumprod(1 - beta)


def coefficients(plan: Plan) -> dict[str, np.ndarray]:
    """The arrays of `Sampler.tables`, each (S,) float64."""
    table = alpha_bars(plan)
    final = {"one": 1.0, "first": table[0], "start": plan.diffusion.start_alpha_bar}
    ends = {CLEAN: final[plan.final_alpha_bar], PURE_NOISE: 0.0}
    rows = []
    for t, previous, network_t, gate, predicts in zip(plan.timesteps, plan.previous, plan.network_t, plan.noise_gate, plan.predicts,
                                                      strict=True):
        ab = ends[t] if t < 0 else table[t]
        to = ends[previous] if previous < 0 else table[previous]
        signal, noise = math.sqrt(ab), math.sqrt(1 - ab)
        ratio = min(ab / max(to, 1e-300), 1.0)
        beta = 1 - ratio
        small = beta * (1 - to) / max(1 - ab, TINY)
        of = 1.0 if predicts == CLEAN else table[predicts]  # the state whose mean the objective "previous" is
        with np.errstate(divide="ignore", invalid="ignore"):
            one, signal, noise = np.float64(1), np.float64(signal), np.float64(noise)
            by, share = (1 - ab) / (np.sqrt(of) * (1 - ab / of)), np.sqrt(ab / of) * (1 - of) / (1 - one * ab)
            x0 = {"eps": (one / signal, -noise / signal), "x0": (0, 1), "v": (signal, -noise),
                  "previous": (-share * by, by)}[plan.diffusion.objective]
            eps = {"eps": (0, 1, 0), "x0": (one / noise, -signal / noise, 0), "v": (noise, signal, 0),
                   "previous": ((1 + signal * share * by) / noise, -signal * by / noise, 0)}[plan.diffusion.objective]
            if plan.rederive_eps:
                eps = (one / noise, 0, -signal / noise)
        row = {
            "alpha_bar": ab, "alpha_bar_prev": to, "network_t": network_t, "noise_gate": gate,
            "x0_from_x": x0[0], "x0_from_output": x0[1],
            "eps_from_x": eps[0], "eps_from_output": eps[1], "eps_from_x0": eps[2],
            "log_variance_min": math.log(max(small, TINY)), "log_variance_max": math.log(max(beta, TINY)),
        }
        if plan.sampler == "ddim":
            sigma = plan.eta * math.sqrt(small)
            kept = 1 - plan.eta**2 + plan.eta**2 * ratio * (1 - to) / max(1 - ab, TINY)  # of 1 - to, beside sigma^2
            row |= {"prev_from_x0": math.sqrt(to), "prev_from_x": 0.0, "prev_from_eps": math.sqrt((1 - to) * kept),
                    "sigma": math.sqrt(beta) if plan.sigma_hat else sigma}
        else:
            row |= {"prev_from_x0": math.sqrt(to) * beta / (1 - ab), "prev_from_x": math.sqrt(ratio) * (1 - to) / (1 - ab),
                    "prev_from_eps": 0.0, "sigma": math.sqrt(beta)}
        rows.append(row)
    last = rows[-1]
    if plan.previous[-1] == CLEAN:  # beta_tilde is 0 there, which some codes replace
        if plan.log_variance_first == "second" and len(rows) > 1 and plan.final_alpha_bar != "start":
            last["log_variance_min"] = rows[-2]["log_variance_min"]
        if plan.diffusion.large_variance_first and plan.variance == "large":
            last["log_variance_max"] = last["log_variance_min"]
    for row in rows:
        if plan.sampler == "ddpm" and plan.variance == "small":
            row["sigma"] = math.exp(row["log_variance_min"] / 2)
        row["sigma"] *= row["noise_gate"]
    return {key: np.array([row[key] for row in rows], np.float64) for key in rows[0]}


class NumpySampler:
    """`backends.protocol.Sampler` on arrays."""

    def __init__(self, spec: Spec) -> None:
        require_claimed(ABOUT, spec)

    def to_device(self, array: np.ndarray) -> np.ndarray:
        return np.array(array)

    def to_host(self, tensor: np.ndarray) -> np.ndarray:
        return np.array(tensor)

    def synchronize(self, *results: np.ndarray) -> None:
        pass

    def device_info(self) -> dict[str, str]:
        return {"framework": f"numpy {np.__version__}", "device": "cpu"}

    def tables(self, plan: Plan) -> dict[str, np.ndarray]:
        require_claimed(ABOUT, plan=plan)
        return coefficients(plan)

    def step(self, x: np.ndarray, output: np.ndarray, i: int, plan: Plan, z: np.ndarray | None) -> np.ndarray:
        c = {key: value[i].astype(x.dtype) for key, value in self.tables(plan).items()}
        output, extra = np.split(output, [x.shape[1]], axis=1)
        x0 = c["x0_from_x"] * x + c["x0_from_output"] * output
        if plan.clip == "dynamic":
            s = np.quantile(np.abs(x0).reshape(len(x0), -1), plan.threshold_ratio, axis=1).astype(x.dtype)
            s = np.minimum(np.maximum(s, 1), plan.sample_max)[:, None, None, None]
            x0 = np.clip(x0, -s, s) / s
        elif plan.clip == "clip":
            x0 = np.clip(x0, -plan.clip_range, plan.clip_range)
        eps = c["eps_from_x"] * x + c["eps_from_output"] * output + c["eps_from_x0"] * x0
        mean = c["prev_from_x0"] * x0 + c["prev_from_x"] * x + c["prev_from_eps"] * eps
        if z is None:
            return mean
        if plan.learned == "learned_range":
            share = (extra + 1) / 2
            extra = share * c["log_variance_max"] + (1 - share) * c["log_variance_min"]
        return mean + (c["noise_gate"] * np.exp(extra / 2) if plan.learned else c["sigma"]) * z


def create(spec: Spec) -> NumpySampler:
    """A sampler of this spec."""
    return NumpySampler(spec)
