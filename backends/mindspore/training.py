"""The training loss and the optimiser, the same formulas as `reference/diffusion.py` and `reference/optim.py` in MindSpore."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from reference.config import BOUNDS, DiffusionConfig, OptimConfig

from . import schedules
from .schedules import f64

TINY = 1e-20


class Process(nn.Cell):
    """The forward process: its tables, and the loss of a network under it."""

    def __init__(self, config: DiffusionConfig, network: nn.Cell) -> None:
        super().__init__()
        self.config, self.network = config, network
        betas = schedules.betas(config)
        alpha_bars = schedules.alpha_bars(betas)
        prev = ops.cat((ops.ones((1,), ms.float64), alpha_bars[:-1]))
        variance = betas * (1 - prev) / (1 - alpha_bars)
        first = variance[1:2] if len(betas) > 1 else betas
        mean_x0 = prev.sqrt() * betas / (1 - alpha_bars)
        tables = (
            alpha_bars.sqrt(), (1 - alpha_bars).sqrt(), loss_weights(config, alpha_bars, mean_x0),
            betas.log(), ops.cat((first, variance[1:])).log(),
            mean_x0, (1 - betas).sqrt() * (1 - prev) / (1 - alpha_bars), Tensor(config.told_timesteps or (0.0,), ms.float64),
        )
        # float32 once, here: what the tables multiply is float32.
        (self.signal, self.noise, self.weight, self.log_variance_max, self.log_variance_min, self.mean_x0, self.mean_xt,
         self.told) = (table.astype(ms.float32) for table in tables)

    def of(self, config: DiffusionConfig) -> Process:
        """That of another config, on the same device."""
        return Process(config, self.network)

    def at(self, table: Tensor, t: Tensor) -> Tensor:
        """The table's value at each t, (N, 1, 1, 1)."""
        return ops.gather(table, t, 0).reshape(-1, 1, 1, 1)

    def q_sample(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t from x_0 (DDPM equation 4)."""
        return self.at(self.signal, t) * x0 + self.at(self.noise, t) * noise

    def x0_from_output(self, xt: Tensor, t: Tensor, output: Tensor) -> Tensor:
        """The x0 that a network's output means, by the config's objective."""
        if self.config.objective == "x0":
            return output
        if self.config.objective == "previous":
            return (output - self.at(self.mean_xt, t) * xt) / self.at(self.mean_x0, t)
        signal, noise = self.at(self.signal, t), self.at(self.noise, t)
        return (xt - noise * output) / signal if self.config.objective == "eps" else signal * xt - noise * output

    def target(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """What the network is trained to output."""
        if self.config.objective == "x0":
            return x0
        if self.config.objective == "previous":
            return self.at(self.mean_x0, t) * x0 + self.at(self.mean_xt, t) * self.q_sample(x0, t, noise)
        return noise if self.config.objective == "eps" else self.at(self.signal, t) * noise - self.at(self.noise, t) * x0

    def network_t(self, t: Tensor) -> Tensor:
        """The network's input for t: t itself, what the config tells in its place, or t x 1000/T in float32."""
        if self.config.told_timesteps is not None:
            return ops.gather(self.told, t, 0)
        return t.astype(ms.float32) * (1000 / self.config.timesteps) if self.config.rescale_timesteps else t

    def model_log_variance(self, variance: Tensor, t: Tensor) -> Tensor:
        """log variance of p(x_{t-1} | x_t); `variance` is the second half of the output's channels, unused where it is fixed."""
        if self.config.variance == "learned":
            return variance
        small, large = self.at(self.log_variance_min, t), self.at(self.log_variance_max, t)
        if self.config.variance == "small":
            return small
        if self.config.variance == "large":
            return ops.where(t.reshape(-1, 1, 1, 1) == 0, small, large) if self.config.large_variance_first else large
        share = (variance + 1) / 2
        return share * large + (1 - share) * small

    def vlb_terms(self, x0: Tensor, xt: Tensor, t: Tensor, output: Tensor, variance: Tensor, clip: bool = False) -> Tensor:
        """One term of the variational bound per image, bits per dimension, shape (N,), float64 (DDPM equation 5).

        The likelihood is a difference of two values near 1, and float32 `tanh` on a CPU is 1 from 6 on.
        """
        x0, xt, output, variance = (x0.astype(ms.float64), xt.astype(ms.float64), output.astype(ms.float64),
                                    variance.astype(ms.float64))
        mean_x0, mean_xt, small = self.at(self.mean_x0, t), self.at(self.mean_xt, t), self.at(self.log_variance_min, t)
        x0_hat = self.x0_from_output(xt, t, output)
        mean = mean_x0 * (x0_hat.clamp(-1, 1) if clip else x0_hat) + mean_xt * xt
        mean = output if self.config.objective == "previous" else mean
        log_variance = self.model_log_variance(variance, t)
        true_mean = mean_x0 * x0 + mean_xt * xt
        kl = 0.5 * (log_variance - small - 1 + (small - log_variance).exp() + (true_mean - mean) ** 2 * (-log_variance).exp())
        nll = discretised_nll(x0, mean, 0.5 * log_variance, approximate_cdf if self.config.approximate_cdf else ndtr)
        return ops.where(t.reshape(-1, 1, 1, 1) == 0, nll, kl).mean((1, 2, 3)) / math.log(2)

    def prior_bits(self, x0: Tensor) -> Tensor:
        """KL(q(x_T | x_0) || N(0, 1)) per image, bits per dimension, shape (N,)."""
        mean, variance = self.signal[-1] * x0, self.noise[-1] ** 2
        return 0.5 * (variance - 1 - variance.log() + mean**2).mean((1, 2, 3)) / math.log(2)

    def construct(self, x0: Tensor, t: Tensor, noise: Tensor, coin: Tensor, step: Tensor) -> Tensor:
        """The training loss of one batch, a scalar (`reference.diffusion.loss`).

        `coin` (N,) serves self-conditioning alone, `step` () int32 dropout alone.
        """
        config = self.config
        channels = x0.shape[1]
        xt, told = self.q_sample(x0, t, noise), self.network_t(t)
        inputs = xt
        if config.self_conditioning:
            first = self.network(ops.cat((xt, ops.zeros_like(xt)), axis=1), told, step)[:, :channels]
            x0_hat = ops.stop_gradient(self.x0_from_output(xt, t, first))
            inputs = ops.cat((xt, x0_hat * coin.reshape(-1, 1, 1, 1)), axis=1)
        output = self.network(inputs, told, step)
        mean = output[:, :channels]
        if config.loss in BOUNDS:
            bound = self.vlb_terms(x0, xt, t, mean, output[:, channels:]).mean().astype(mean.dtype)
            return config.timesteps * bound if config.loss == "rescaled_kl" else bound
        pixels = pixel_loss(mean - self.target(x0, t, noise), config.loss)
        per_image = pixels.sum((1, 2, 3)) if config.loss_sum else pixels.mean((1, 2, 3))
        total = (ops.gather(self.weight, t, 0) * per_image).mean()
        if config.variance in ("learned", "learned_range"):  # IDDPM section 3.1; the mean is held fixed in the bound
            terms = self.vlb_terms(x0, xt, t, ops.stop_gradient(mean), output[:, channels:])
            total = total + (config.timesteps / 1000 if config.rescale_bound else 1.0) * terms.mean().astype(total.dtype)
        return total


def pixel_loss(error: Tensor, loss: str) -> Tensor:
    """Each pixel's part of the loss: `reference.diffusion.loss`."""
    if loss == "huber":
        return ops.where(error.abs() < 1, error.square() / 2, error.abs() - 0.5)
    return error.square() if loss == "l2" else error.abs()


def loss_weights(config: DiffusionConfig, alpha_bars: Tensor, mean_x0: Tensor) -> Tensor:
    """Weight of the loss at each timestep, shape (T,): `reference.diffusion.loss_weights`; `mean_x0` (T,) is DDPM equation 7's."""
    if config.loss_weight == "none":
        return ops.ones_like(alpha_bars)
    snr = alpha_bars / (1 - alpha_bars)
    as_eps = {"x0": snr, "eps": ops.ones_like(snr), "previous": snr / mean_x0**2, "v": snr / (snr + 1)}[config.objective]
    if config.loss_weight == "snr":
        return as_eps
    if config.loss_weight == "p2":
        return (f64(config.p2_k) + snr) ** f64(-config.p2_gamma) * as_eps
    gamma = f64(config.min_snr_gamma)
    clipped, of_eps = snr.minimum(gamma), (gamma / snr.maximum(f64(TINY))).minimum(f64(1))
    return {"x0": clipped, "eps": of_eps, "previous": clipped / mean_x0**2, "v": clipped / (snr + 1)}[config.objective]


def ndtr(x: Tensor) -> Tensor:
    """The standard normal distribution function, by erfc of |x| so that the lower tail keeps its digits."""
    tail = 0.5 * ops.erfc(x.abs() / math.sqrt(2))
    return ops.where(x < 0, tail, 1 - tail)


def approximate_cdf(x: Tensor) -> Tensor:
    """Distribution function of the standard normal in the code of Ho et al. and IDDPM; the tanh formula of Page 1977."""
    return (1 + ops.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def discretised_nll(x0: Tensor, mean: Tensor, log_scale: Tensor, cdf: Callable[[Tensor], Tensor]) -> Tensor:
    """-log probability of 8-bit pixels in [-1, 1] under a Gaussian cut into bins of 2/255 (DDPM equation 13), nats."""
    inverse = (-log_scale).exp()
    upper = cdf((x0 - mean + 1 / 255) * inverse)
    lower = cdf((x0 - mean - 1 / 255) * inverse)
    upper, lower = ops.where(x0 > 0.999, ops.ones_like(upper), upper), ops.where(x0 < -0.999, ops.zeros_like(lower), lower)
    return -(upper - lower).clamp(min=1e-12).log()


square_sum, update = ops.MultitypeFuncGraph("square_sum"), ops.MultitypeFuncGraph("update")


@square_sum.register("Tensor")
def _square_sum(gradient: Tensor) -> Tensor:
    return gradient.square().sum()


@update.register("Function", *13 * ["Tensor"])
def _update(adam: ops.Adam, power1: Tensor, power2: Tensor, rate: Tensor, eps: Tensor, ema_share: Tensor, scale: Tensor,
            beta1: Tensor, beta2: Tensor, gradient: Tensor, parameter: Parameter, m: Parameter, v: Parameter, ema: Parameter
            ) -> Tensor:
    done = adam(parameter, m, v, power1, power2, rate, beta1, beta2, eps, gradient * scale)
    value = ops.depend(parameter, done)
    return ops.assign(ema, ema + (value - ema) * ema_share)


class Optimiser(nn.Cell):
    """Gradient clipping, Adam and the moving average of a network's parameters (`reference.optim.adam_step`)."""

    def __init__(self, config: OptimConfig, network: nn.Cell, ema: nn.Cell) -> None:
        super().__init__()
        self.config = config
        self.names = [name for name, _ in network.parameters_and_names()]
        self.parameters_, self.ema = ms.ParameterTuple(network.get_parameters()), ms.ParameterTuple(ema.get_parameters())
        self.adam_m, self.adam_v = (
            ms.ParameterTuple([Parameter(ops.zeros_like(p), name=f"{moment}.{name}", requires_grad=False)
                               for name, p in zip(self.names, self.parameters_, strict=True)]) for moment in ("adam_m", "adam_v"))
        self.adam, self.map_ = ops.Adam(), ops.HyperMap()  # a compiled loop over parameters nests too deep, a map doesn't
        self.beta1, self.beta2 = Tensor(config.beta1, ms.float32), Tensor(config.beta2, ms.float32)

    def scalars(self, n: int) -> tuple[Tensor, ...]:
        """What `construct` needs of step n, as tensors, so that a compiled graph serves every step.

        The primitive adds eps to sqrt(v) before the bias correction of v, torch and the paper after it: eps sqrt(1 - beta2^t).
        """
        config = self.config
        power1, power2 = config.beta1 ** (n + 1), config.beta2 ** (n + 1)
        values = power1, power2, config.learning_rate(n), config.eps * math.sqrt(1 - power2), 1 - config.ema_decay_at(n)
        return tuple(Tensor(value, ms.float32) for value in values)

    def construct(self, gradients: tuple[Tensor, ...], power1: Tensor, power2: Tensor, rate: Tensor, eps: Tensor,
                  ema_share: Tensor) -> Tensor:
        """Apply gradients; returns their global norm."""
        norm = ops.sqrt(ops.addn(self.map_(square_sum, gradients)))
        scale = ops.ones_like(norm)
        if self.config.max_grad_norm > 0:
            scale = ops.minimum(self.config.max_grad_norm / (norm + 1e-6), scale)
        update_one = ops.partial(update, self.adam, power1, power2, rate, eps, ema_share, scale, self.beta1, self.beta2)
        done = self.map_(update_one, gradients, self.parameters_, self.adam_m, self.adam_v, self.ema)
        return ops.depend(norm, done)

    def state(self) -> dict[str, np.ndarray]:
        """First and second moments by parameter name; zeros before the first step."""
        return {f"{kind}/{name}": p.asnumpy().copy() for kind, moments in (("adam_m", self.adam_m), ("adam_v", self.adam_v))
                for name, p in zip(self.names, moments, strict=True)}

    def load_state(self, state: Mapping[str, np.ndarray] | None) -> None:
        """From `state()`; None: as before the first step, with moments of zero."""
        for kind, moments in (("adam_m", self.adam_m), ("adam_v", self.adam_v)):
            for name, p in zip(self.names, moments, strict=True):
                ops.assign(p, Tensor(np.zeros(p.shape, np.float32) if state is None else np.array(state[f"{kind}/{name}"])))
