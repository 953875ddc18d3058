"""An adapter as one begins it: half of the features, claimed in `ABOUT`, of a sampler in a functional style.

`betas`, `row` and `update` are the sampler: pure functions, as a JAX code has them. The class hands them what the kit says.
Formulas: DDPM equations 4 and 7, DDIM equations 12 and 16; IDDPM equation 17 for the cosine.
"""

from __future__ import annotations

import math

import numpy as np

from backends.claims import require_claimed
from backends.protocol import Spec
from reference.config import DiffusionConfig
from reference.conventions import CLEAN, Plan

from . import ABOUT

TINY = 1e-20
Row = dict[str, float]


def betas(c: DiffusionConfig) -> np.ndarray:
    """beta of t = 0..T-1, (T,)."""
    if c.schedule == "cosine":
        alpha_bar = np.cos((np.arange(c.timesteps + 1) / c.timesteps + 0.008) / 1.008 * math.pi / 2) ** 2
        return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)
    scale = 1000 / c.timesteps if c.beta_scaling else 1.0
    return np.linspace(scale * c.beta_start, scale * c.beta_end, c.timesteps)


def row(plan: Plan, table: np.ndarray, i: int) -> Row:
    """The numbers of step i: x0_hat from x and eps, the mean from x0_hat, x and eps, and the noise."""
    t, previous = plan.timesteps[i], plan.previous[i]
    end = table[0] if plan.final_alpha_bar == "first" else 1.0
    ab, to = (end if at == CLEAN else table[at] for at in (t, previous))
    ratio = min(ab / to, 1.0)
    beta = 1 - ratio
    small = beta * (1 - to) / max(1 - ab, TINY)  # beta_tilde
    out = {
        "alpha_bar": ab, "alpha_bar_prev": to, "network_t": plan.network_t[i], "noise_gate": float(plan.noise_gate[i]),
        "x0_from_x": 1 / math.sqrt(ab), "x0_from_output": -math.sqrt(1 - ab) / math.sqrt(ab),
        "eps_from_x": 0.0, "eps_from_output": 1.0, "eps_from_x0": 0.0,
        "log_variance_min": math.log(max(small, TINY)), "log_variance_max": math.log(max(beta, TINY)),
        "prev_from_x0": math.sqrt(to),
    }
    if plan.rederive_eps:  # from the clipped x0_hat
        out |= {"eps_from_x": 1 / math.sqrt(1 - ab), "eps_from_output": 0.0, "eps_from_x0": -math.sqrt(ab) / math.sqrt(1 - ab)}
    if plan.sampler == "ddim":
        kept = 1 - plan.eta**2 + plan.eta**2 * ratio * (1 - to) / max(1 - ab, TINY)  # of 1 - to, beside sigma^2
        sigma = math.sqrt(beta) if plan.sigma_hat else plan.eta * math.sqrt(small)
        return out | {"prev_from_x": 0.0, "prev_from_eps": math.sqrt((1 - to) * kept), "sigma": sigma}
    return out | {"prev_from_x0": math.sqrt(to) * beta / (1 - ab), "prev_from_x": math.sqrt(ratio) * (1 - to) / (1 - ab),
                  "prev_from_eps": 0.0, "sigma": math.sqrt(beta)}


def rows(plan: Plan) -> list[Row]:
    """Those of all steps. At the last one beta_tilde is 0, whose logarithm is taken from the step before, or of a tiny number."""
    table = np.cumprod(1 - betas(plan.diffusion))
    if plan.float32_tables:
        beta = betas(plan.diffusion).astype(np.float32)
        table = np.cumprod((1 - beta).astype(np.float64)).astype(np.float32).astype(np.float64)
    out = [row(plan, table, i) for i in range(plan.steps)]
    if plan.previous[-1] == CLEAN:
        if plan.log_variance_first == "second" and len(out) > 1:
            out[-1]["log_variance_min"] = out[-2]["log_variance_min"]
        if plan.diffusion.large_variance_first and plan.variance == "large":
            out[-1]["log_variance_max"] = out[-1]["log_variance_min"]
    for r in out:
        if plan.sampler == "ddpm" and plan.variance == "small":
            r["sigma"] = math.exp(r["log_variance_min"] / 2)
        r["sigma"] *= r["noise_gate"]
    return out


def clipped(plan: Plan, x0: np.ndarray) -> np.ndarray:
    """x0_hat (N, C, H, W) as the plan clips it."""
    if plan.clip == "dynamic":
        s = np.quantile(np.abs(x0).reshape(len(x0), -1), plan.threshold_ratio, axis=1)[:, None, None, None]
        s = np.minimum(np.maximum(s, 1), plan.sample_max).astype(x0.dtype)
        return np.clip(x0, -s, s) / s
    return np.clip(x0, -plan.clip_range, plan.clip_range) if plan.clip == "clip" else x0


def update(plan: Plan, r: Row, x: np.ndarray, output: np.ndarray, z: np.ndarray | None) -> np.ndarray:
    """x_prev (N, C, H, W), in x's dtype."""
    n = {name: x.dtype.type(value) for name, value in r.items()}
    x0 = clipped(plan, n["x0_from_x"] * x + n["x0_from_output"] * output)
    eps = n["eps_from_x"] * x + n["eps_from_output"] * output + n["eps_from_x0"] * x0
    mean = n["prev_from_x0"] * x0 + n["prev_from_x"] * x + n["prev_from_eps"] * eps
    return mean if z is None else mean + n["sigma"] * z


class Adapter:
    """`backends.protocol.Sampler`."""

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
        found = rows(plan)
        return {name: np.array([r[name] for r in found]) for name in found[0]}

    def step(self, x: np.ndarray, output: np.ndarray, i: int, plan: Plan, z: np.ndarray | None) -> np.ndarray:
        require_claimed(ABOUT, plan=plan)
        return update(plan, rows(plan)[i], x, output, z)


def create(spec: Spec) -> Adapter:
    """A sampler of this spec."""
    return Adapter(spec)
