"""Configuration of the diffusion process: a frozen dataclass that validates itself, part of `reference.config`."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from . import schedules
from .errors import require
from .records import LATER, Record, choice, freeze

SCHEDULES = tuple(schedules.BETAS)
OBJECTIVES = ("eps", "x0", "v", "previous")
BOUNDS = ("kl", "rescaled_kl")  # losses that are a term of the variational bound itself
LOSSES = ("l2", "l1", "huber", *BOUNDS)
LOSS_WEIGHTS = ("none", "snr", "p2", "min_snr")
VARIANCES = ("small", "large", "learned", "learned_range")
SMALLEST_ALPHA_BAR = 2.0**-252  # its root is the smallest normal float32


@dataclass(frozen=True)
class DiffusionConfig(Record):
    """The forward process, what the network predicts and how it is trained.

    The objective "previous" is the mean of x_{t-1} given x_t and x_0 (DDPM section 3.2; PREVIOUS_X in IDDPM's code). The losses l2,
    l1 and huber are of the output's error, a mean over pixels, or with `loss_sum` a sum (the DDIM code). With a learned variance
    the bound's term is added to them, times T/1000 unless `rescale_bound` is false. kl is the bound's term alone, rescaled_kl T
    times it. `told_timesteps` are what the network is told in place of t = 0..T-1 (`respacing.respaced`).

    `schedule` names a row of the schedule table; `beta_scaling` multiplies both ends of it by 1000/T (IDDPM, lucidrains).
    `variance` is the reverse process's; the two learned ones double the network's output channels. `rescale_timesteps` tells the
    network t x 1000/T. `large_variance_first` and `approximate_cdf` change the variational bound alone: the large variance takes
    beta_tilde_1 at t = 0, and the likelihood a tanh formula for the normal distribution function. T `trained_betas` take the place
    of the schedule. Where alpha_bar ends at 0 (`ends_at_zero`) eps says nothing of the image at the last step. With the schedule
    jsd, whose code leaves that step out in sampling, eps may be trained, and `make_plan` refuses paths that visit the step.
    """

    schedule: str = "linear"
    timesteps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    beta_scaling: bool = False
    zero_terminal_snr: bool = False
    objective: str = "eps"
    variance: str = "large"
    loss: str = "l2"
    loss_weight: str = "none"
    p2_gamma: float = 1.0
    p2_k: float = 1.0
    min_snr_gamma: float = 5.0
    self_conditioning: bool = False
    rescale_timesteps: bool = False
    large_variance_first: bool = False
    approximate_cdf: bool = False
    trained_betas: tuple[float, ...] | None = field(default=None, metadata=LATER)
    loss_sum: bool = field(default=False, metadata=LATER)
    rescale_bound: bool = field(default=True, metadata=LATER)
    told_timesteps: tuple[float, ...] | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        freeze(self)
        for name, choices in (("schedule", SCHEDULES), ("objective", OBJECTIVES), ("variance", VARIANCES),
                              ("loss", LOSSES), ("loss_weight", LOSS_WEIGHTS)):
            choice(name, getattr(self, name), choices)
        require(1 <= self.timesteps <= 1_000_000, "timesteps", self.timesteps, "must be between 1 and 1000000")
        require(0 < self.beta_start <= self.beta_end < 1, "beta_start, beta_end", (self.beta_start, self.beta_end),
                "must satisfy 0 < beta_start <= beta_end < 1")
        if (given := self.trained_betas) is not None:
            inside = len(given) == self.timesteps and all(0 < beta < 1 for beta in given[:-1]) and 0 < given[-1] <= 1
            require(inside, "trained_betas", f"{len(given)} numbers",
                    f"must be as many as timesteps={self.timesteps}, each between 0 and 1; the last may be 1")
            require(not self.beta_scaling, "beta_scaling", True, "goes without trained_betas, which are what they are")
        if self.beta_scaling:
            largest = self.beta_end * 1000 / self.timesteps
            require(largest < 1, "timesteps", self.timesteps,
                    f"beta_scaling gives beta={largest:g} >= 1; T must exceed {self.beta_end * 1000:g}")
        if self.ends_at_zero:
            self._check_zero_end()
        self._check_loss()
        require(self.told_timesteps is None or len(self.told_timesteps) == self.timesteps, "told_timesteps",
                f"{len(self.told_timesteps or ())} numbers", f"must be as many as timesteps={self.timesteps}")
        require(self.told_timesteps is None or not self.rescale_timesteps, "rescale_timesteps", True,
                "goes without told_timesteps, which are what they are")
        for name in ("p2_gamma", "p2_k", "min_snr_gamma"):
            require(0 <= getattr(self, name) < float("inf"), name, getattr(self, name), "must be finite and not negative")
        self.check_tables()

    def _check_zero_end(self) -> None:
        source = "zero_terminal_snr" if self.zero_terminal_snr else "the schedule"
        require(self.timesteps > 1, "timesteps", self.timesteps, f"{source} needs a step before the one that ends at alpha_bar = 0")
        needs_x0 = self.zero_terminal_snr or self.learned_variance or self.self_conditioning or self.loss in BOUNDS
        require(not (self.objective == "eps" and needs_x0), "objective", self.objective,
                f"{source} has alpha_bar = 0 at the last step, where eps says nothing about x0; use v or x0")
        require(self.p2_k > 0 or self.loss_weight != "p2" or self.p2_gamma == 0, "p2_k", self.p2_k,
                f"must be above 0: {source} has SNR = 0 at the last step, where the weight is p2_k^-p2_gamma")

    def _check_loss(self) -> None:
        for name, default in (("loss_weight", "none"), ("loss_sum", False)):
            require(self.loss not in BOUNDS or getattr(self, name) == default, name, getattr(self, name),
                    f"must be {default} with loss {self.loss}, a term of the bound in bits per dimension")

    def check_tables(self, float32_tables: bool = False) -> None:
        """Refuse a T too large for its betas, or betas too small: 1/sqrt(alpha_bar) must be a float32, 1 - alpha_bar above 0."""
        with np.errstate(divide="ignore", invalid="ignore"):  # where alpha_bar is 0 throughout
            alpha_bars = schedules.alpha_bars(schedules.betas(self), float32_tables)
        kept = alpha_bars[:-1] if self.ends_at_zero else alpha_bars
        rule = f"schedule {self.schedule} takes alpha_bar from {alpha_bars[0]:.6g} to {alpha_bars[-1]:.3g}: it must fall "
        require(bool(kept[-1] >= SMALLEST_ALPHA_BAR), "timesteps", self.timesteps,
                rule + f"no further than {SMALLEST_ALPHA_BAR:.1e}; beta_scaling keeps linear betas there for every T")
        require(bool(alpha_bars[0] < 1 and (float32_tables or (np.diff(alpha_bars) < 0).all())), "beta_start, beta_end",
                (self.beta_start, self.beta_end), rule + f"below 1 and at every step in float{32 if float32_tables else 64}")

    @property
    def ends_at_zero(self) -> bool:
        """Whether the last alpha_bar is 0, so that nothing is left of the image there."""
        by_schedule = self.schedule == "jsd" if self.trained_betas is None else self.trained_betas[-1] == 1
        return self.zero_terminal_snr or by_schedule

    @property
    def start_alpha_bar(self) -> float:
        """alpha_bar of the state before t = 0: 1, the clean image, but with the schedule tutorial 1 - its point 0."""
        if self.schedule != "tutorial" or self.trained_betas is not None or self.zero_terminal_snr:
            return 1.0
        return 1 - self.beta_start * (1000 / self.timesteps if self.beta_scaling else 1)

    @property
    def learned_variance(self) -> bool:
        """Whether the network predicts the variance too, in the second half of its output channels."""
        return self.variance in ("learned", "learned_range")
