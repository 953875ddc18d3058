"""`Plan`: one sampling path with every choice resolved.

A sampler needs nothing beside its plan. Its choices compile into one array of coefficients per term of the update
(`samplers.coefficients`, in the reference and in each backend), so that one loop without branches runs every convention.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol

from .config import DiffusionConfig, require

CLEAN = -1  # the virtual state after the last step, whose alpha_bar is `Plan.final_alpha_bar`
PURE_NOISE = -2  # the virtual state of alpha_bar = 0


class Clipping(Protocol):
    """How a plan clips x0_hat."""

    @property
    def clip(self) -> str: ...
    @property
    def clip_range(self) -> float: ...
    @property
    def threshold_ratio(self) -> float: ...
    @property
    def sample_max(self) -> float: ...


@dataclass(frozen=True)
class Plan:
    """One sampling path, everything resolved. Hashable. Build it with `make_plan` or `make_encode_plan`.

    Step i moves from `timesteps[i]` to `previous[i]`, both indices into the schedule or `CLEAN`, giving the network
    `network_t[i]` and adding noise where `noise_gate[i]` is 1.
    """

    diffusion: DiffusionConfig
    sampler: str  # "ddim" or "ddpm"
    timesteps: tuple[int, ...]
    previous: tuple[int, ...]
    network_t: tuple[float, ...]
    noise_gate: tuple[int, ...]
    eta: float  # DDIM equation 16: scales the standard deviation
    sigma_hat: bool  # DDIM table 1's last row: noise of sqrt(1 - ab/ab_prev), eps term as with eta = 1
    variance: str  # DDPM only
    clip: str
    clip_range: float  # "clip" is to [-clip_range, clip_range]
    threshold_ratio: float
    sample_max: float  # the largest dynamic threshold
    rederive_eps: bool
    final_alpha_bar: str
    float32_tables: bool
    log_variance_first: str
    convention: str
    predicts: tuple[int, ...]  # of each step: the state whose mean a network of objective "previous" gives
    spacing: str = field(compare=False)  # the rule that chose the timesteps, or "sections": a name, which decides nothing any more

    @property
    def steps(self) -> int:
        """Number of network calls."""
        return len(self.timesteps)

    @property
    def needs_noise(self) -> bool:
        """Whether any step adds noise."""
        return any(self.noise_gate) and (self.sampler == "ddpm" or self.sigma_hat or self.eta > 0)

    @property
    def learned(self) -> str:
        """How the network's extra channels give the DDPM variance: "learned", "learned_range" or "" (fixed)."""
        return self.variance if self.sampler == "ddpm" and self.variance in ("learned", "learned_range") else ""

    def cut(self, start: int, stop: int) -> Plan:
        """Steps start .. stop - 1 of this path, as a plan. Noise of its step i is that of step start + i here."""
        require(0 <= start < stop <= self.steps, "start, stop", (start, stop), f"must satisfy 0 <= start < stop <= {self.steps}")
        per_step = ("timesteps", "previous", "network_t", "noise_gate", "predicts")
        return replace(self, **{name: getattr(self, name)[start:stop] for name in per_step})
