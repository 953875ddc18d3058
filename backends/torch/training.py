"""The training loss and the optimiser, the same formulas as `reference/diffusion.py` and `reference/optim.py` in torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from reference.config import BOUNDS, DiffusionConfig, OptimConfig

from . import schedules

TINY = 1e-20
MOMENTS = (("adam_m", "exp_avg"), ("adam_v", "exp_avg_sq"))


class Process:
    """The forward process: its tables on a device, and the loss of a network under it."""

    def __init__(self, config: DiffusionConfig, device: torch.device) -> None:
        self.config = config
        betas = schedules.betas(config)
        alpha_bars = schedules.alpha_bars(betas)
        prev = torch.cat((torch.ones_like(betas[:1]), alpha_bars[:-1]))
        variance = betas * (1 - prev) / (1 - alpha_bars)
        first = variance[1:2] if len(betas) > 1 else betas
        mean_x0 = prev.sqrt() * betas / (1 - alpha_bars)
        self.tables = {
            "signal": alpha_bars.sqrt(), "noise": (1 - alpha_bars).sqrt(), "weight": loss_weights(config, alpha_bars, mean_x0),
            "log_variance_max": betas.log(), "log_variance_min": torch.cat((first, variance[1:])).log(),
            "mean_x0": mean_x0, "mean_xt": (1 - betas).sqrt() * (1 - prev) / (1 - alpha_bars),
            "told": torch.tensor(config.told_timesteps or (), dtype=torch.float64),
        }
        self.tables = {name: table.to(device) for name, table in self.tables.items()}

    def of(self, config: DiffusionConfig) -> Process:
        """That of another config, on the same device."""
        return Process(config, self.tables["signal"].device)

    def at(self, name: str, t: Tensor, like: Tensor) -> Tensor:
        """The table's value at each t, (N, 1, 1, 1), in the dtype of `like`."""
        return self.tables[name][t].to(like.dtype).reshape(-1, 1, 1, 1)

    def q_sample(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t from x_0 (DDPM equation 4)."""
        return self.at("signal", t, x0) * x0 + self.at("noise", t, x0) * noise

    def x0_from_output(self, xt: Tensor, t: Tensor, output: Tensor) -> Tensor:
        """The x0 that a network's output means, by the config's objective."""
        if self.config.objective == "x0":
            return output
        if self.config.objective == "previous":
            return (output - self.at("mean_xt", t, xt) * xt) / self.at("mean_x0", t, xt)
        signal, noise = self.at("signal", t, xt), self.at("noise", t, xt)
        return (xt - noise * output) / signal if self.config.objective == "eps" else signal * xt - noise * output

    def target(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """What the network is trained to output."""
        if self.config.objective == "x0":
            return x0
        if self.config.objective == "previous":
            return self.at("mean_x0", t, x0) * x0 + self.at("mean_xt", t, x0) * self.q_sample(x0, t, noise)
        return noise if self.config.objective == "eps" else self.at("signal", t, x0) * noise - self.at("noise", t, x0) * x0

    def network_t(self, t: Tensor) -> Tensor:
        """The network's input for t: t itself, what the config tells in its place, or t x 1000/T in float32."""
        if self.config.told_timesteps is not None:
            return self.tables["told"][t].float()
        return t.float() * (1000 / self.config.timesteps) if self.config.rescale_timesteps else t

    def model_log_variance(self, variance: Tensor, t: Tensor) -> Tensor:
        """log variance of p(x_{t-1} | x_t); `variance` is the second half of the output's channels, unused where it is fixed."""
        if self.config.variance == "learned":
            return variance
        small, large = self.at("log_variance_min", t, variance), self.at("log_variance_max", t, variance)
        if self.config.variance == "small":
            return small
        if self.config.variance == "large":
            return torch.where(t.reshape(-1, 1, 1, 1) == 0, small, large) if self.config.large_variance_first else large
        share = (variance + 1) / 2
        return share * large + (1 - share) * small

    def vlb_terms(self, x0: Tensor, xt: Tensor, t: Tensor, output: Tensor, variance: Tensor, clip: bool = False) -> Tensor:
        """One term of the variational bound per image, bits per dimension, shape (N,) (DDPM equation 5)."""
        mean_x0, mean_xt, small = self.at("mean_x0", t, xt), self.at("mean_xt", t, xt), self.at("log_variance_min", t, xt)
        x0_hat = self.x0_from_output(xt, t, output)
        mean = mean_x0 * (x0_hat.clamp(-1, 1) if clip else x0_hat) + mean_xt * xt
        mean = output if self.config.objective == "previous" else mean
        log_variance = self.model_log_variance(variance, t)
        true_mean = mean_x0 * x0 + mean_xt * xt
        kl = 0.5 * (log_variance - small - 1 + (small - log_variance).exp() + (true_mean - mean) ** 2 * (-log_variance).exp())
        nll = discretised_nll(x0, mean, 0.5 * log_variance, approximate_cdf if self.config.approximate_cdf else torch.special.ndtr)
        return torch.where(t.reshape(-1, 1, 1, 1) == 0, nll, kl).mean(dim=(1, 2, 3)) / math.log(2)

    def prior_bits(self, x0: Tensor) -> Tensor:
        """KL(q(x_T | x_0) || N(0, 1)) per image, bits per dimension, shape (N,)."""
        last = torch.full((len(x0),), self.config.timesteps - 1, device=x0.device)
        mean, variance = self.at("signal", last, x0) * x0, self.at("noise", last, x0) ** 2
        return 0.5 * (variance - 1 - variance.log() + mean**2).mean(dim=(1, 2, 3)) / math.log(2)

    def loss(self, network: Callable[[Tensor, Tensor], Tensor], x0: Tensor, t: Tensor, noise: Tensor,
             coin: Tensor | None) -> Tensor:
        """The training loss of one batch, a scalar (`reference.diffusion.loss`); `coin` (N,) with self-conditioning."""
        config = self.config
        xt, told = self.q_sample(x0, t, noise), self.network_t(t)
        inputs = xt
        if config.self_conditioning:
            assert coin is not None
            with torch.no_grad():
                first = network(torch.cat((xt, torch.zeros_like(xt)), dim=1), told)[:, : x0.shape[1]]
                x0_hat = self.x0_from_output(xt, t, first)
            inputs = torch.cat((xt, x0_hat * coin.reshape(-1, 1, 1, 1)), dim=1)
        output = network(inputs, told)
        mean, variance = output[:, : x0.shape[1]], output[:, x0.shape[1]:]
        if config.loss in BOUNDS:
            bound = self.vlb_terms(x0.double(), xt.double(), t, mean.double(), variance.double()).mean().to(mean.dtype)
            return config.timesteps * bound if config.loss == "rescaled_kl" else bound
        pixels = pixel_loss(mean - self.target(x0, t, noise), config.loss)
        per_image = pixels.sum(dim=(1, 2, 3)) if config.loss_sum else pixels.mean(dim=(1, 2, 3))
        total = (self.tables["weight"][t].to(per_image.dtype) * per_image).mean()
        if config.learned_variance:  # IDDPM section 3.1; the mean is held fixed in the bound
            terms = self.vlb_terms(x0.double(), xt.double(), t, mean.detach().double(), variance.double())
            total = total + (config.timesteps / 1000 if config.rescale_bound else 1.0) * terms.mean().to(total.dtype)
        return total


def pixel_loss(error: Tensor, loss: str) -> Tensor:
    """Each pixel's part of the loss: `reference.diffusion.loss`."""
    if loss == "huber":
        return torch.where(error.abs() < 1, error.square() / 2, error.abs() - 0.5)
    return error.square() if loss == "l2" else error.abs()


def loss_weights(config: DiffusionConfig, alpha_bars: Tensor, mean_x0: Tensor) -> Tensor:
    """Weight of the loss at each timestep, shape (T,): `reference.diffusion.loss_weights`; `mean_x0` (T,) is DDPM equation 7's."""
    if config.loss_weight == "none":
        return torch.ones_like(alpha_bars)
    snr = alpha_bars / (1 - alpha_bars)
    as_eps = {"x0": snr, "eps": torch.ones_like(snr), "previous": snr / mean_x0**2, "v": snr / (snr + 1)}[config.objective]
    if config.loss_weight == "snr":
        return as_eps
    if config.loss_weight == "p2":
        return (config.p2_k + snr) ** -config.p2_gamma * as_eps
    clipped, of_eps = snr.clamp(max=config.min_snr_gamma), (config.min_snr_gamma / snr.clamp(min=TINY)).clamp(max=1)
    return {"x0": clipped, "eps": of_eps, "previous": clipped / mean_x0**2, "v": clipped / (snr + 1)}[config.objective]


def approximate_cdf(x: Tensor) -> Tensor:
    """Distribution function of the standard normal in the code of Ho et al. and IDDPM; the tanh formula of Page 1977."""
    return (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def discretised_nll(x0: Tensor, mean: Tensor, log_scale: Tensor, cdf: Callable[[Tensor], Tensor]) -> Tensor:
    """-log probability of 8-bit pixels in [-1, 1] under a Gaussian cut into bins of 2/255 (DDPM equation 13), nats."""
    inverse = (-log_scale).exp()
    upper = cdf((x0 - mean + 1 / 255) * inverse)
    lower = cdf((x0 - mean - 1 / 255) * inverse)
    upper, lower = torch.where(x0 > 0.999, 1.0, upper), torch.where(x0 < -0.999, 0.0, lower)
    return -(upper - lower).clamp(min=1e-12).log()


class LossScaler:
    """Keeps float16 gradients from underflow by a factor on the loss (Micikevicius et al. 2018, arXiv:1710.03740, section 3.2),
    which grows while gradients are finite and halves when one overflows. The constants are those of `torch.amp.GradScaler`."""

    def __init__(self) -> None:
        self.scale, self.good, self.skipped = 2.0**16, 0, 0

    def unscale(self, parameters: list[Tensor]) -> bool:
        """Divide the gradients by the scale; False where one is not finite, and the step is to be left out."""
        gradients = [cast(Tensor, parameter.grad) for parameter in parameters]
        torch._foreach_mul_(gradients, 1 / self.scale)
        finite = bool(torch.stack([gradient.isfinite().all() for gradient in gradients]).all())
        if finite:
            self.good += 1
            if self.good % 2000 == 0:
                self.scale *= 2
        else:
            self.scale, self.good, self.skipped = self.scale / 2, 0, self.skipped + 1
        return finite


class Optimiser:
    """Gradient clipping, Adam and the moving average of a network's parameters (`reference.optim.adam_step`). With `recorded` a
    CUDA graph holds `apply`, and what changes from step to step lies on the device."""

    def __init__(self, config: OptimConfig, network: nn.Module, ema: nn.Module, tuned: bool, half: bool, recorded: bool) -> None:
        self.config = config
        self.scaler = LossScaler() if half else None
        self.names = [name for name, _ in network.named_parameters()]
        self.parameters: list[Tensor] = list(network.parameters())
        self.ema: list[Tensor] = list(ema.parameters())
        self.lr, self.new_share = [torch.zeros((), device=self.parameters[0].device) if recorded else 0.0 for _ in range(2)]
        self.adam = torch.optim.Adam(self.parameters, lr=self.lr, betas=(config.beta1, config.beta2), eps=config.eps,
                                     fused=tuned, capturable=recorded)  # fused: one kernel for all parameters
        for parameter in self.parameters:  # what Adam's first step would make, here so that `state` and `step` find it
            counter = torch.zeros((), device=parameter.device if tuned else None)
            self.adam.state[parameter] = {"step": counter, "exp_avg": torch.zeros_like(parameter, requires_grad=False),
                                          "exp_avg_sq": torch.zeros_like(parameter, requires_grad=False)}

    def step(self, n: int) -> None:
        """Apply the parameters' gradients as step n = 0, 1, ..; nothing changes where they overflowed in float16."""
        if self.scaler and not self.scaler.unscale(self.parameters):
            return
        self.begin(n)
        self.apply()

    def begin(self, n: int) -> None:
        """Set what `apply` reads of step n: learning rate, the average's share of the new, and Adam's counters."""
        lr, new_share = self.config.learning_rate(n), 1 - self.config.ema_decay_at(n)
        if isinstance(self.lr, Tensor) and isinstance(self.new_share, Tensor):
            self.lr.fill_(lr)
            self.new_share.fill_(new_share)
        else:
            self.adam.param_groups[0]["lr"], self.new_share = lr, new_share
        torch._foreach_zero_(counters := [moments["step"] for moments in self.adam.state.values()])
        torch._foreach_add_(counters, n)

    def apply(self) -> None:
        """Clip the gradients, take Adam's step and move the average."""
        if self.config.max_grad_norm:
            nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        self.adam.step()
        with torch.no_grad():
            if not isinstance(self.new_share, Tensor):
                torch._foreach_lerp_(self.ema, self.parameters, self.new_share)
                return
            change = torch._foreach_mul(torch._foreach_sub(self.parameters, self.ema), self.new_share)  # lerp wants a Python number
            torch._foreach_add_(self.ema, change)

    def state(self) -> dict[str, np.ndarray]:
        """First and second moments by parameter name; in float16 the loss scaler too."""
        scaler = {f"scaler_{name}": np.array(value) for name, value in vars(self.scaler).items()} if self.scaler else {}
        return scaler | {f"{ours}/{name}": self.adam.state[parameter][theirs].cpu().contiguous().numpy().copy()
                for ours, theirs in MOMENTS for name, parameter in zip(self.names, self.parameters, strict=True)}

    def load_state(self, state: Mapping[str, np.ndarray] | None) -> None:
        """From `state()`; None: as before the first step, with moments of zero."""
        if self.scaler:
            self.scaler = LossScaler()
            for name, value in vars(self.scaler).items():
                setattr(self.scaler, name, type(value)((state or {}).get(f"scaler_{name}", value)))
        for name, parameter in zip(self.names, self.parameters, strict=True):
            for ours, theirs in MOMENTS:
                moment = self.adam.state[parameter][theirs]
                moment.zero_() if state is None else moment.copy_(torch.from_numpy(np.array(state[f"{ours}/{name}"])))
