"""The training loss and the optimiser, the same formulas as `reference/diffusion.py` and `reference/optim.py` in JAX."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import ndtr

from reference.config import BOUNDS, DiffusionConfig, OptimConfig

from . import schedules
from .adam import Parts, clipped, compiled_update, update
from .devices import at_work

TINY = 1e-20


class Process:
    """The forward process: its tables, and the loss of a network under it."""

    def __init__(self, config: DiffusionConfig, device: jax.Device | None = None, tables: dict[str, Array] | None = None) -> None:
        self.config, self.device = config, device
        self.tables = forward_tables(config) if tables is None else tables

    @at_work
    def of(self, config: DiffusionConfig) -> Process:
        """That of another config, on the same device."""
        return Process(config, self.device)

    def at(self, name: str, t: Array, like: Array) -> Array:
        """The table's value at each t, (N, 1, 1, 1), in the dtype of `like`."""
        return self.tables[name][t].astype(like.dtype).reshape(-1, 1, 1, 1)

    @at_work
    def q_sample(self, x0: Array, t: Array, noise: Array) -> Array:
        """x_t from x_0 (DDPM equation 4)."""
        return self.at("signal", t, x0) * x0 + self.at("noise", t, x0) * noise

    def x0_from_output(self, xt: Array, t: Array, output: Array) -> Array:
        """The x0 that a network's output means, by the config's objective."""
        if self.config.objective == "x0":
            return output
        if self.config.objective == "previous":
            return (output - self.at("mean_xt", t, xt) * xt) / self.at("mean_x0", t, xt)
        signal, noise = self.at("signal", t, xt), self.at("noise", t, xt)
        return (xt - noise * output) / signal if self.config.objective == "eps" else signal * xt - noise * output

    def target(self, x0: Array, t: Array, noise: Array) -> Array:
        """What the network is trained to output."""
        if self.config.objective == "x0":
            return x0
        if self.config.objective == "previous":
            return self.at("mean_x0", t, x0) * x0 + self.at("mean_xt", t, x0) * self.q_sample(x0, t, noise)
        return noise if self.config.objective == "eps" else self.at("signal", t, x0) * noise - self.at("noise", t, x0) * x0

    @at_work
    def network_t(self, t: Array) -> Array:
        """The network's input for t: t itself, what the config tells in its place, or t x 1000/T in float32."""
        if self.config.told_timesteps is not None:
            return self.tables["told"][t].astype(jnp.float32)
        return t.astype(jnp.float32) * (1000 / self.config.timesteps) if self.config.rescale_timesteps else t

    def model_log_variance(self, variance: Array, t: Array) -> Array:
        """log variance of p(x_{t-1} | x_t); `variance` is the second half of the output's channels, unused where it is fixed."""
        if self.config.variance == "learned":
            return variance
        small, large = self.at("log_variance_min", t, variance), self.at("log_variance_max", t, variance)
        if self.config.variance == "small":
            return small
        if self.config.variance == "large":
            return jnp.where(t.reshape(-1, 1, 1, 1) == 0, small, large) if self.config.large_variance_first else large
        share = (variance + 1) / 2
        return share * large + (1 - share) * small

    @at_work
    def vlb_terms(self, x0: Array, xt: Array, t: Array, output: Array, variance: Array, clip: bool = False) -> Array:
        """One term of the variational bound per image, bits per dimension, shape (N,), float64 (DDPM equation 5).

        The likelihood is a difference of two values near 1.
        """
        x0, xt, output, variance = (array.astype(jnp.float64) for array in (x0, xt, output, variance))
        mean_x0, mean_xt, small = self.at("mean_x0", t, xt), self.at("mean_xt", t, xt), self.at("log_variance_min", t, xt)
        x0_hat = self.x0_from_output(xt, t, output)
        mean = mean_x0 * (jnp.clip(x0_hat, -1, 1) if clip else x0_hat) + mean_xt * xt
        mean = output if self.config.objective == "previous" else mean
        log_variance = self.model_log_variance(variance, t)
        true_mean = mean_x0 * x0 + mean_xt * xt
        kl = 0.5 * (log_variance - small - 1 + jnp.exp(small - log_variance) + (true_mean - mean) ** 2 * jnp.exp(-log_variance))
        nll = discretised_nll(x0, mean, 0.5 * log_variance, approximate_cdf if self.config.approximate_cdf else ndtr)
        return jnp.where(t.reshape(-1, 1, 1, 1) == 0, nll, kl).mean((1, 2, 3)) / math.log(2)

    @at_work
    def prior_bits(self, x0: Array) -> Array:
        """KL(q(x_T | x_0) || N(0, 1)) per image, bits per dimension, shape (N,)."""
        last = jnp.full((len(x0),), self.config.timesteps - 1)
        mean, variance = self.at("signal", last, x0) * x0, self.at("noise", last, x0) ** 2
        return 0.5 * (variance - 1 - jnp.log(variance) + mean**2).mean((1, 2, 3)) / math.log(2)

    def loss(self, network: Callable[[Array, Array], Array], x0: Array, t: Array, noise: Array,
             coin: Array | None) -> Array:
        """The training loss of one batch, a scalar (`reference.diffusion.loss`); `coin` (N,) with self-conditioning."""
        config = self.config
        xt, told = self.q_sample(x0, t, noise), self.network_t(t)
        inputs = xt
        if config.self_conditioning:
            assert coin is not None
            first = network(jnp.concatenate((xt, jnp.zeros_like(xt)), axis=1), told)[:, : x0.shape[1]]
            x0_hat = jax.lax.stop_gradient(self.x0_from_output(xt, t, first))
            inputs = jnp.concatenate((xt, x0_hat * coin.reshape(-1, 1, 1, 1)), axis=1)
        output = network(inputs, told)
        mean, variance = output[:, : x0.shape[1]], output[:, x0.shape[1]:]
        if config.loss in BOUNDS:
            bound = self.vlb_terms(x0, xt, t, mean, variance).mean().astype(mean.dtype)
            return config.timesteps * bound if config.loss == "rescaled_kl" else bound
        pixels = pixel_loss(mean - self.target(x0, t, noise), config.loss)
        per_image = pixels.sum((1, 2, 3)) if config.loss_sum else pixels.mean((1, 2, 3))
        total = (self.tables["weight"][t].astype(per_image.dtype) * per_image).mean()
        if config.learned_variance:  # IDDPM section 3.1; the mean is held fixed in the bound
            terms = self.vlb_terms(x0, xt, t, jax.lax.stop_gradient(mean), variance)
            total = total + (config.timesteps / 1000 if config.rescale_bound else 1.0) * terms.mean().astype(total.dtype)
        return total


# Compiled functions take the tables as arguments: they are compiled again for another config alone.
jax.tree_util.register_pytree_node(
    Process, lambda process: ((process.tables,), (process.config, process.device)), lambda kept, tables: Process(*kept, *tables))


def forward_tables(config: DiffusionConfig) -> dict[str, Array]:
    """What `Process` looks up by t, each (T,) float64."""
    betas = schedules.betas(config)
    alpha_bars = schedules.alpha_bars(betas)
    prev = jnp.concatenate((jnp.ones(1, jnp.float64), alpha_bars[:-1]))
    variance = betas * (1 - prev) / (1 - alpha_bars)
    first = variance[1:2] if len(betas) > 1 else betas
    mean_x0 = jnp.sqrt(prev) * betas / (1 - alpha_bars)
    return {
        "signal": jnp.sqrt(alpha_bars), "noise": jnp.sqrt(1 - alpha_bars), "weight": loss_weights(config, alpha_bars, mean_x0),
        "log_variance_max": jnp.log(betas), "log_variance_min": jnp.log(jnp.concatenate((first, variance[1:]))),
        "mean_x0": mean_x0, "mean_xt": jnp.sqrt(1 - betas) * (1 - prev) / (1 - alpha_bars),
        "told": jnp.array(config.told_timesteps or (), jnp.float64),
    }


def pixel_loss(error: Array, loss: str) -> Array:
    """Each pixel's part of the loss: `reference.diffusion.loss`."""
    if loss == "huber":
        return jnp.where(jnp.abs(error) < 1, jnp.square(error) / 2, jnp.abs(error) - 0.5)
    return jnp.square(error) if loss == "l2" else jnp.abs(error)


def loss_weights(config: DiffusionConfig, alpha_bars: Array, mean_x0: Array) -> Array:
    """Weight of the loss at each timestep, shape (T,): `reference.diffusion.loss_weights`; `mean_x0` (T,) is DDPM equation 7's."""
    if config.loss_weight == "none":
        return jnp.ones_like(alpha_bars)
    snr = alpha_bars / (1 - alpha_bars)
    as_eps = {"x0": snr, "eps": jnp.ones_like(snr), "previous": snr / mean_x0**2, "v": snr / (snr + 1)}[config.objective]
    if config.loss_weight == "snr":
        return as_eps
    if config.loss_weight == "p2":
        return (config.p2_k + snr) ** -config.p2_gamma * as_eps
    clipped, of_eps = jnp.minimum(snr, config.min_snr_gamma), jnp.minimum(config.min_snr_gamma / jnp.maximum(snr, TINY), 1)
    return {"x0": clipped, "eps": of_eps, "previous": clipped / mean_x0**2, "v": clipped / (snr + 1)}[config.objective]


def approximate_cdf(x: Array) -> Array:
    """Distribution function of the standard normal in the code of Ho et al. and IDDPM; the tanh formula of Page 1977."""
    return (1 + jnp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def discretised_nll(x0: Array, mean: Array, log_scale: Array, cdf: Callable[[Array], Array]) -> Array:
    """-log probability of 8-bit pixels in [-1, 1] under a Gaussian cut into bins of 2/255 (DDPM equation 13), nats."""
    inverse = jnp.exp(-log_scale)
    upper = cdf((x0 - mean + 1 / 255) * inverse)
    lower = cdf((x0 - mean - 1 / 255) * inverse)
    upper, lower = jnp.where(x0 > 0.999, 1.0, upper), jnp.where(x0 < -0.999, 0.0, lower)
    return -jnp.log(jnp.maximum(upper - lower, 1e-12))


@jax.jit
def finite(gradients: dict[str, Array]) -> Array:
    """Whether all gradients are numbers."""
    return jnp.stack([jnp.isfinite(gradient).all() for gradient in gradients.values()]).all()


class LossScaler:
    """Keeps float16 gradients from underflow by a factor on the loss (Micikevicius et al. 2018, arXiv:1710.03740, section 3.2),
    which grows while gradients are finite and halves when one overflows. The constants are those of `torch.amp.GradScaler`."""

    def __init__(self) -> None:
        self.scale, self.good, self.skipped = 2.0**16, 0, 0

    def unscale(self, gradients: dict[str, Array]) -> dict[str, Array] | None:
        """The gradients divided by the scale; None where one is not finite, and the step is to be left out."""
        if not finite(gradients):
            self.scale, self.good, self.skipped = self.scale / 2, 0, self.skipped + 1
            return None
        scale, self.good = self.scale, self.good + 1
        if self.good % 2000 == 0:
            self.scale *= 2
        return {name: gradient / scale for name, gradient in gradients.items()}


class Optimiser:
    """Gradient clipping, Adam and the moving average of a network's parameters (`reference.optim.adam_step`)."""

    def __init__(self, config: OptimConfig, tuned: bool, half: bool) -> None:
        self.config, self.update = config, compiled_update if tuned else update
        self.scaler = LossScaler() if half else None

    def step(self, n: int, parts: Parts, gradients: dict[str, Array]) -> Parts:
        """The parts after step n = 0, 1, ..; tuned, in place. Nothing changes where gradients overflowed in float16."""
        found = self.scaler.unscale(gradients) if self.scaler else gradients
        if found is None:
            return parts
        if self.config.max_grad_norm:
            found = clipped(found, self.config.max_grad_norm)
        c = self.config  # as numbers, so that nothing is compiled again for another step
        numbers = {"1 - beta1": 1 - c.beta1, "1 - beta2": 1 - c.beta2, "1 - beta1^n": 1 - c.beta1 ** (n + 1), "eps": c.eps,
                   "1 - beta2^n": 1 - c.beta2 ** (n + 1), "rate": c.learning_rate(n), "1 - decay": 1 - c.ema_decay_at(n)}
        return self.update(numbers, parts, found)

    def state(self) -> dict[str, np.ndarray]:
        """In float16 the loss scaler; moments are the backend's."""
        return {f"scaler_{name}": np.array(value) for name, value in vars(self.scaler).items()} if self.scaler else {}

    def load_state(self, state: Mapping[str, np.ndarray] | None) -> None:
        """From `state()`; None: as before the first step."""
        if self.scaler:
            self.scaler = LossScaler()
            for name, value in vars(self.scaler).items():
                setattr(self.scaler, name, type(value)((state or {}).get(f"scaler_{name}", value)))
