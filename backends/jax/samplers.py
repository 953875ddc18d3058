"""DDPM and DDIM sampling, the same functions as `reference/samplers.py` in JAX.

Coefficients are float64, as `tables` shows them; as Python numbers JAX rounds them once to the dtype of x that they meet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from reference.plan import CLEAN, Plan
from reference.solver_plans import SolverPlan

from . import schedules

Coefficients = Mapping[str, Any]  # by name; per step an array's entry, or a Python number
TINY = 1e-20


def coefficients(plan: Plan) -> Coefficients:
    """Per-step arrays of shape (S,), float64, for `step`. Names say what is computed from what.

    x0 = x0_from_x x + x0_from_output output, then clipped;
    eps = eps_from_x x + eps_from_output output + eps_from_x0 x0;
    x_prev = prev_from_x0 x0 + prev_from_x x + prev_from_eps eps + sigma z.
    """
    alpha_bars = schedules.alpha_bars(schedules.betas(plan.diffusion), plan.float32_tables)
    final = {"one": 1.0, "first": float(alpha_bars[0]), "start": plan.diffusion.start_alpha_bar}[plan.final_alpha_bar]
    alpha_bars = jnp.concatenate((alpha_bars, jnp.array([0.0, final])))  # indices PURE_NOISE = -2 and CLEAN = -1
    ab, ab_prev = alpha_bars[jnp.array(plan.timesteps)], alpha_bars[jnp.array(plan.previous)]
    # Of the state whose mean is predicted; what a network predicts has no `final_alpha_bar`.
    ab_mean = jnp.where(jnp.array(plan.predicts) == CLEAN, 1.0, alpha_bars[jnp.array(plan.predicts)])
    gate = jnp.array(plan.noise_gate, jnp.float64)
    network_t = jnp.array(plan.network_t, jnp.float64)
    return {"alpha_bar": ab, "alpha_bar_prev": ab_prev, "network_t": network_t, "noise_gate": gate,
            **_output_terms(plan, ab, ab_mean), **_previous_terms(plan, ab, ab_prev, gate)}


def _output_terms(plan: Plan, ab: jax.Array, ab_mean: jax.Array) -> Coefficients:
    """What the network's output means: x0 and eps from x and the output; `ab_mean` is of the state whose mean "previous" is."""
    zero, one = jnp.zeros_like(ab), jnp.ones_like(ab)
    signal, noise = jnp.sqrt(ab), jnp.sqrt(1 - ab)
    if plan.diffusion.objective == "eps":
        x0_from_x, x0_from_output = 1 / signal, -noise / signal
        eps_from_x, eps_from_output, eps_from_x0 = zero, one, zero
    elif plan.diffusion.objective == "x0":
        x0_from_x, x0_from_output = zero, one
        eps_from_x, eps_from_output, eps_from_x0 = 1 / noise, -signal / noise, zero
    elif plan.diffusion.objective == "previous":  # DDPM equation 7 solved for x0
        weight = jnp.sqrt(ab_mean) * (1 - ab / ab_mean)
        x0_from_x, x0_from_output = -jnp.sqrt(ab / ab_mean) * (1 - ab_mean) / weight, (1 - ab) / weight
        eps_from_x, eps_from_output, eps_from_x0 = (1 - signal * x0_from_x) / noise, -signal * x0_from_output / noise, zero
    else:  # v = sqrt(ab) eps - sqrt(1 - ab) x0, Salimans & Ho 2022 (arXiv:2202.00512), appendix D
        x0_from_x, x0_from_output = signal, -noise
        eps_from_x, eps_from_output, eps_from_x0 = noise, signal, zero
    if plan.rederive_eps:
        eps_from_x, eps_from_output, eps_from_x0 = 1 / noise, zero, -signal / noise
    return {"x0_from_x": x0_from_x, "x0_from_output": x0_from_output,
            "eps_from_x": eps_from_x, "eps_from_output": eps_from_output, "eps_from_x0": eps_from_x0}


def _previous_terms(plan: Plan, ab: jax.Array, ab_prev: jax.Array, gate: jax.Array) -> Coefficients:
    """What the sampler does: the state before, from x, x0 and eps, and its noise."""
    # alpha between neighbours of the path, IDDPM equation 19; encoding has ab_prev < ab, even 0, and needs no variance.
    alpha = jnp.minimum(ab / jnp.maximum(ab_prev, 1e-300), 1)
    beta = 1 - alpha
    beta_tilde = beta * (1 - ab_prev) / jnp.maximum(1 - ab, TINY)
    log_variance_max = jnp.log(jnp.maximum(beta, TINY))
    log_variance_min = jnp.log(jnp.maximum(beta_tilde, TINY))
    if plan.previous[-1] == CLEAN and plan.log_variance_first == "second" and plan.steps > 1 and plan.final_alpha_bar != "start":
        log_variance_min = log_variance_min.at[-1].set(log_variance_min[-2])
    if plan.previous[-1] == CLEAN and plan.diffusion.large_variance_first and plan.variance == "large":
        log_variance_max = log_variance_max.at[-1].set(log_variance_min[-1])
    zero = jnp.zeros_like(ab)
    if plan.sampler == "ddim":
        sigma = plan.eta * jnp.sqrt(beta_tilde)  # DDIM equation 16
        prev_from_x0, prev_from_x = jnp.sqrt(ab_prev), zero
        # 1 - ab_prev - sigma^2 without its cancellation, which for eta = 1 leaves rounding alone where ab is near 0.
        left = 1 - plan.eta**2 + plan.eta**2 * alpha * (1 - ab_prev) / jnp.maximum(1 - ab, TINY)
        prev_from_eps = jnp.sqrt((1 - ab_prev) * left)
        if plan.sigma_hat:
            sigma = jnp.sqrt(beta)
    else:
        # DDPM equation 7
        prev_from_x0, prev_from_x = jnp.sqrt(ab_prev) * beta / (1 - ab), jnp.sqrt(alpha) * (1 - ab_prev) / (1 - ab)
        prev_from_eps = zero
        sigma = jnp.exp(0.5 * log_variance_min) if plan.variance == "small" else jnp.sqrt(beta)
    return {"prev_from_x0": prev_from_x0, "prev_from_x": prev_from_x, "prev_from_eps": prev_from_eps, "sigma": sigma * gate,
            "log_variance_min": log_variance_min, "log_variance_max": log_variance_max}


def clip_x0(x0: jax.Array, plan: Plan | SolverPlan) -> jax.Array:
    """x0_hat (N, C, H, W) as the plan clips it: not at all, to its range, or by Imagen's dynamic threshold.

    The threshold (Saharia et al. 2022, arXiv:2205.11487, section 2.3) is per image: the given quantile of |x0|, at least 1
    and, as in diffusers, at most `plan.sample_max`; x0 is clipped to it and divided by it.
    """
    if plan.clip == "none":
        return x0
    if plan.clip == "clip":
        return jnp.clip(x0, -plan.clip_range, plan.clip_range)
    s = _quantile(jnp.abs(x0).reshape(len(x0), -1), plan.threshold_ratio)
    s = jnp.minimum(jnp.maximum(s, 1), plan.sample_max).reshape(-1, 1, 1, 1)
    return jnp.clip(x0, -s, s) / s


def _quantile(x: jax.Array, share: float) -> jax.Array:
    """Linearly interpolated quantile of each row of x (N, M), shape (N,). `jnp.quantile` has its position in x's dtype."""
    position = share * (x.shape[1] - 1)
    low = int(position)
    ordered = jnp.sort(x, axis=1)
    first, second = ordered[:, low], ordered[:, min(low + 1, x.shape[1] - 1)]
    return first + (second - first) * (position - low)


def predict(x: jax.Array, output: jax.Array, i: int, plan: Plan, c: Coefficients) -> tuple[jax.Array, jax.Array]:
    """(x0, eps) of step i from the network's output, x0 clipped as planned."""
    x0 = clip_x0(c["x0_from_x"][i] * x + c["x0_from_output"][i] * output, plan)
    eps = c["eps_from_x"][i] * x + c["eps_from_output"][i] * output + c["eps_from_x0"][i] * x0
    return x0, eps


def step(x: jax.Array, output: jax.Array, i: int, plan: Plan, z: jax.Array | None, c: Coefficients) -> tuple[jax.Array, jax.Array]:
    """One reverse step: (x_prev, x0_hat).

    x, z: (N, C, H, W); output: the network's, (N, C or 2C, H, W); z may be None where the plan adds no noise.
    """
    output, variance = output[:, : x.shape[1]], output[:, x.shape[1]:]
    x0, eps = predict(x, output, i, plan, c)
    x_prev = c["prev_from_x0"][i] * x0 + c["prev_from_x"][i] * x + c["prev_from_eps"][i] * eps
    if z is not None:
        x_prev = x_prev + _sigma(variance, i, plan, c) * z
    return x_prev, x0


def _sigma(variance: jax.Array, i: int, plan: Plan, c: Coefficients) -> jax.Array:
    """Standard deviation of the step's noise; learned ones after IDDPM equation 15 ("learned" is log variance itself)."""
    if not plan.learned:
        return c["sigma"][i]
    if plan.learned == "learned_range":
        share = (variance + 1) / 2
        variance = share * c["log_variance_max"][i] + (1 - share) * c["log_variance_min"][i]
    return c["noise_gate"][i] * jnp.exp(0.5 * variance)


def sample(network: Callable[[jax.Array, int, jax.Array], jax.Array], x: jax.Array, plan: Plan, c: Coefficients,
           noise: Callable[[int], jax.Array] | None = None, on_step: Callable[[int], None] | None = None) -> jax.Array:
    """Run the whole path from x = x_T (or from x0, for an encoding plan).

    `network(x, i, x0)` is the network's output at step i, in x's dtype; x0 is its last x0_hat, for self-conditioning.
    `noise(i)` gives z of step i and is asked only where the plan adds noise; `on_step(i)` is called after step i.
    """
    x0 = jnp.zeros_like(x)
    for i in range(plan.steps):
        output = network(x, i, x0)
        z = noise(i) if noise is not None and plan.needs_noise and plan.noise_gate[i] else None
        x, x0 = step(x, output, i, plan, z, c)
        if on_step is not None:
            on_step(i)
    return x
