"""Configuration of the optimiser: a frozen dataclass that validates itself, part of `reference.config`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from .errors import require
from .records import LATER, Record, freeze


@dataclass(frozen=True)
class OptimConfig(Record):
    """Adam (Kingma & Ba 2015) with global-norm clipping, linear warm-up, cosine decay and an EMA of the weights.

    Every backend takes the rate and the decay of a step from here: they are plain Python numbers.
    """

    lr: float = 2e-4
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    warmup_steps: int = 0
    total_steps: int = 0
    min_lr: float = 0.0
    max_grad_norm: float = 1.0  # 0: no clipping
    ema_decay: float = 0.9999
    decay_every: int = field(default=1, metadata=LATER)  # steps between changes of the decaying rate: an epoch's, in some codes

    def __post_init__(self) -> None:
        freeze(self)
        require(0 < self.lr < float("inf"), "lr", self.lr, "must be positive and finite")
        for name in ("beta1", "beta2", "ema_decay"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), "must be in [0, 1)")
        require(self.eps > 0, "eps", self.eps, "must be positive")
        for name in ("warmup_steps", "total_steps", "max_grad_norm"):
            require(0 <= getattr(self, name) < float("inf"), name, getattr(self, name), "must be finite and not negative")
        require(self.decay_every >= 1, "decay_every", self.decay_every, "must be at least 1")
        require(0 <= self.min_lr <= self.lr, "min_lr", self.min_lr, "must be between 0 and lr")
        require(self.total_steps == 0 or self.total_steps > self.warmup_steps, "total_steps", self.total_steps,
                f"must exceed warmup_steps={self.warmup_steps}")

    def learning_rate(self, step: int) -> float:
        """Rate of step 0, 1, ..: linear warm-up to `lr`, then constant where `total_steps` is 0, else a half cosine that reaches
        `min_lr` at `total_steps` and stays there. It changes every `decay_every` steps."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        if self.total_steps == 0:
            return self.lr
        decayed = (step - self.warmup_steps) // self.decay_every * self.decay_every
        progress = min(decayed / (self.total_steps - self.warmup_steps), 1.0)
        return self.min_lr + (self.lr - self.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))

    def ema_decay_at(self, step: int) -> float:
        """Decay of the moving average after step 0, 1, ..: it begins low, so that the average forgets the initial weights."""
        return min(self.ema_decay, (1 + step) / (10 + step))
