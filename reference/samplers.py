"""DDPM and DDIM sampling in float64.

`ddpm_step` and `ddim_step` are the papers' updates. `coefficients` compiles a `Plan` into one array per term, and
`step` applies them: the same linear update for every convention, objective and sampler.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from . import schedules
from .plan import CLEAN, Clipping, Plan

Array = NDArray[np.float64]
Coefficients = dict[str, Array]
TINY = 1e-20  # the floor under variances of diffusers and lucidrains; keeps log and division finite elsewhere


def ddpm_step(x: Array, eps: Array, alpha: float, alpha_bar: float, variance: float, z: Array) -> Array:
    """DDPM algorithm 2, line 4."""
    return (x - (1 - alpha) / np.sqrt(1 - alpha_bar) * eps) / np.sqrt(alpha) + np.sqrt(variance) * z


def ddim_step(x: Array, eps: Array, alpha_bar: float, alpha_bar_prev: float, sigma: float, z: Array) -> Array:
    """DDIM equation 12."""
    x0 = (x - np.sqrt(1 - alpha_bar) * eps) / np.sqrt(alpha_bar)
    return np.sqrt(alpha_bar_prev) * x0 + np.sqrt(1 - alpha_bar_prev - sigma**2) * eps + sigma * z


def ddim_encode_step(x: Array, eps: Array, alpha_bar: float, alpha_bar_next: float) -> Array:
    """DDIM equation 13 run from x0 towards x_T: `ddim_step` with sigma = 0 to a noisier state."""
    return ddim_step(x, eps, alpha_bar, alpha_bar_next, 0.0, np.zeros_like(x))


def coefficients(plan: Plan) -> Coefficients:
    """Per-step arrays of shape (S,), float64, for `step`. Names say what is computed from what.

    x0 = x0_from_x x + x0_from_output output, then clipped;
    eps = eps_from_x x + eps_from_output output + eps_from_x0 x0;
    x_prev = prev_from_x0 x0 + prev_from_x x + prev_from_eps eps + sigma z.
    """
    alpha_bars = schedules.alpha_bars(schedules.betas(plan.diffusion), plan.float32_tables)
    final = {"one": 1.0, "first": alpha_bars[0], "start": plan.diffusion.start_alpha_bar}[plan.final_alpha_bar]
    alpha_bars = np.concatenate((alpha_bars, [0.0, final]))  # indices PURE_NOISE = -2 and CLEAN = -1
    ab, ab_prev = alpha_bars[list(plan.timesteps)], alpha_bars[list(plan.previous)]
    # Of the state whose mean is predicted; what a network predicts has no `final_alpha_bar`.
    ab_mean = np.where(np.array(plan.predicts) == CLEAN, 1.0, alpha_bars[list(plan.predicts)])
    gate = np.array(plan.noise_gate, np.float64)
    network_t = np.array(plan.network_t)
    return {"alpha_bar": ab, "alpha_bar_prev": ab_prev, "network_t": network_t, "noise_gate": gate,
            **_output_terms(plan, ab, ab_mean), **_previous_terms(plan, ab, ab_prev, gate)}


def _output_terms(plan: Plan, ab: Array, ab_mean: Array) -> Coefficients:
    """What the network's output means: x0 and eps from x and the output; `ab_mean` is of the state whose mean "previous" is."""
    zero, one = np.zeros_like(ab), np.ones_like(ab)
    signal, noise = np.sqrt(ab), np.sqrt(1 - ab)
    if plan.diffusion.objective == "eps":
        x0_from_x, x0_from_output = 1 / signal, -noise / signal
        eps_from_x, eps_from_output, eps_from_x0 = zero, one, zero
    elif plan.diffusion.objective == "x0":
        x0_from_x, x0_from_output = zero, one
        eps_from_x, eps_from_output, eps_from_x0 = 1 / noise, -signal / noise, zero
    elif plan.diffusion.objective == "previous":  # DDPM equation 7 solved for x0
        weight = np.sqrt(ab_mean) * (1 - ab / ab_mean)
        x0_from_x, x0_from_output = -np.sqrt(ab / ab_mean) * (1 - ab_mean) / weight, (1 - ab) / weight
        eps_from_x, eps_from_output, eps_from_x0 = (1 - signal * x0_from_x) / noise, -signal * x0_from_output / noise, zero
    else:  # v = sqrt(ab) eps - sqrt(1 - ab) x0, Salimans & Ho 2022 (arXiv:2202.00512), appendix D
        x0_from_x, x0_from_output = signal, -noise
        eps_from_x, eps_from_output, eps_from_x0 = noise, signal, zero
    if plan.rederive_eps:
        eps_from_x, eps_from_output, eps_from_x0 = 1 / noise, zero, -signal / noise
    return {"x0_from_x": x0_from_x, "x0_from_output": x0_from_output,
            "eps_from_x": eps_from_x, "eps_from_output": eps_from_output, "eps_from_x0": eps_from_x0}


def _previous_terms(plan: Plan, ab: Array, ab_prev: Array, gate: Array) -> Coefficients:
    """What the sampler does: the state before, from x, x0 and eps, and its noise."""
    # alpha between neighbours of the path, IDDPM equation 19; encoding has ab_prev < ab, even 0, and needs no variance.
    alpha = np.minimum(ab / np.maximum(ab_prev, 1e-300), 1)
    beta = 1 - alpha
    beta_tilde = beta * (1 - ab_prev) / np.maximum(1 - ab, TINY)
    log_variance_max = np.log(np.maximum(beta, TINY))
    log_variance_min = np.log(np.maximum(beta_tilde, TINY))
    if plan.previous[-1] == CLEAN and plan.log_variance_first == "second" and plan.steps > 1 and plan.final_alpha_bar != "start":
        log_variance_min[-1] = log_variance_min[-2]
    if plan.previous[-1] == CLEAN and plan.diffusion.large_variance_first and plan.variance == "large":
        log_variance_max[-1] = log_variance_min[-1]
    zero = np.zeros_like(ab)
    if plan.sampler == "ddim":
        sigma = plan.eta * np.sqrt(beta_tilde)  # DDIM equation 16
        prev_from_x0, prev_from_x = np.sqrt(ab_prev), zero
        # 1 - ab_prev - sigma^2 without its cancellation, which for eta = 1 leaves rounding alone where ab is near 0.
        left = 1 - plan.eta**2 + plan.eta**2 * alpha * (1 - ab_prev) / np.maximum(1 - ab, TINY)
        prev_from_eps = np.sqrt((1 - ab_prev) * left)
        if plan.sigma_hat:
            sigma = np.sqrt(beta)
    else:
        # DDPM equation 7
        prev_from_x0, prev_from_x = np.sqrt(ab_prev) * beta / (1 - ab), np.sqrt(alpha) * (1 - ab_prev) / (1 - ab)
        prev_from_eps = zero
        sigma = np.exp(0.5 * log_variance_min) if plan.variance == "small" else np.sqrt(beta)
    return {"prev_from_x0": prev_from_x0, "prev_from_x": prev_from_x, "prev_from_eps": prev_from_eps, "sigma": sigma * gate,
            "log_variance_min": log_variance_min, "log_variance_max": log_variance_max}


def clip_x0(x0: Array, plan: Clipping) -> Array:
    """x0_hat (N, C, H, W) as the plan clips it: not at all, to its range, or by Imagen's dynamic threshold.

    The threshold (Saharia et al. 2022, arXiv:2205.11487, section 2.3) is per image: the given quantile of |x0|, at least 1
    and, as in diffusers, at most `plan.sample_max`; x0 is clipped to it and divided by it.
    """
    if plan.clip == "none":
        return x0
    if plan.clip == "clip":
        return np.clip(x0, -plan.clip_range, plan.clip_range)
    s = np.quantile(np.abs(x0).reshape(len(x0), -1), plan.threshold_ratio, axis=1)
    s = np.minimum(np.maximum(s, 1), plan.sample_max).reshape(-1, 1, 1, 1)
    return np.clip(x0, -s, s) / s


def predict(x: Array, output: Array, i: int, plan: Plan, c: Coefficients) -> tuple[Array, Array]:
    """(x0, eps) of step i from the network's output, x0 clipped as planned."""
    x0 = clip_x0(c["x0_from_x"][i] * x + c["x0_from_output"][i] * output, plan)
    eps = c["eps_from_x"][i] * x + c["eps_from_output"][i] * output + c["eps_from_x0"][i] * x0
    return x0, eps


def step(x: Array, output: Array, i: int, plan: Plan, z: Array | None, c: Coefficients) -> tuple[Array, Array]:
    """One reverse step: (x_prev, x0_hat).

    x, z: (N, C, H, W); output: the network's, (N, C or 2C, H, W); z may be None where the plan adds no noise.
    """
    output, variance = output[:, : x.shape[1]], output[:, x.shape[1]:]
    x0, eps = predict(x, output, i, plan, c)
    x_prev = c["prev_from_x0"][i] * x0 + c["prev_from_x"][i] * x + c["prev_from_eps"][i] * eps
    if z is not None:
        x_prev = x_prev + _sigma(variance, i, plan, c) * z
    return x_prev, x0


def _sigma(variance: Array, i: int, plan: Plan, c: Coefficients) -> Array:
    """Standard deviation of the step's noise; learned ones after IDDPM equation 15 ("learned" is log variance itself)."""
    if not plan.learned:
        return c["sigma"][i]
    if plan.learned == "learned_range":
        share = (variance + 1) / 2
        variance = share * c["log_variance_max"][i] + (1 - share) * c["log_variance_min"][i]
    return c["noise_gate"][i] * np.exp(0.5 * variance)


def sample(network: Callable[..., Array], x: Array, plan: Plan, noise: Callable[[int], Array] | None = None) -> Array:
    """Run the whole path from x = x_T (or from x0, for an encoding plan).

    `network(x, t)` gets t of shape (N,), and a third argument, its last x0_hat, with self-conditioning. `noise(i)` gives z
    of step i and is asked only where the plan adds noise.
    """
    c = coefficients(plan)
    x0 = np.zeros_like(x)
    for i in range(plan.steps):
        t = np.full(len(x), c["network_t"][i])
        output = network(x, t, x0) if plan.diffusion.self_conditioning else network(x, t)
        z = np.asarray(noise(i), np.float64) if noise is not None and plan.needs_noise and plan.noise_gate[i] else None
        x, x0 = step(x, output, i, plan, z, c)
    return x
