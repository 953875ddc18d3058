"""Where public implementations differ, as data, and `Plan`: one sampling path with every such choice resolved.

A sampler needs nothing beside its plan. Its choices compile into one array of coefficients per term of the update
(`samplers.coefficients`, in the reference and in each backend), so that one loop without branches runs every convention.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from . import timesteps
from .config import VARIANCES, DiffusionConfig, ModelConfig, require
from .diffusion import network_t

CLEAN = -1  # the virtual state after the last step, whose alpha_bar is `Plan.final_alpha_bar`
PURE_NOISE = -2  # the virtual state of alpha_bar = 0


@dataclass(frozen=True)
class Convention:
    """One code's choices. Sources are named by `CONVENTIONS`; `plain` is ours and has none of the others' quirks.

    What hangs on a framework's own rounding is left out. Sizes at T = 1000, relative but for roots and sinusoids: torch's float32
    exp in diffusers' sigmoid schedule (betas 2.2e-7, alpha_bar 1.2e-7) and its float32 root in the zero-SNR rescale (betas 3.9e-3,
    alpha_bar 1.3e-5); float32 arithmetic on tables, where sqrt(1 - alpha_bar_prev - sigma^2) at eta = 1 is 3.6e-5 off near
    alpha_bar = 0 and from alpha_bar = 0 may be the root of a negative number, NaN; lucidrains' float32 copies of its tables
    (1 - alpha_bar 5.3e-4); float32 sinusoids of t in the DDIM code and diffusers (2.6e-5 at t = 977, 1e-6 of a UNet's output).
    """

    name: str
    source: str
    beta_scaling: bool = False  # linear betas x 1000/T
    final_alpha_bar: str = "one"  # "one", or "first": alpha_bars[0]
    spacing: str = "leading"  # default rule; `timesteps.LITERAL` holds the code's own version of it
    clip_ddim: str = "none"  # x0_hat: "none", "clip" to [-1, 1], "dynamic" (Saharia et al. 2022)
    clip_ddpm: str = "clip"
    rederive_eps: bool = False  # eps recomputed from the clipped x0_hat before DDIM uses it
    variance: str = "large"  # DDPM's reverse variance where the caller names none
    log_variance_first: str = "second"  # beta_tilde is 0 at the last step: "second" = the step before's, "floor" = 1e-20
    large_variance_first: bool = False  # the large variance, too, takes beta_tilde of the step before at the last step
    approximate_cdf: bool = False  # the likelihood's normal distribution function is a tanh formula, up to 2e-4 off
    previous_ddim: str = "next"  # "next" in the list, or "ratio": t - T // S
    float32_tables: bool = False
    float32_schedules: tuple[str, ...] = ()  # schedules of which the code has the variant `..._float32`
    gate_ddim: str = "list_end"  # no noise on the last step of the list, or "clean": on a step to alpha_bar = 1 only
    gate_ddpm: str = "list_end"  # the same, or "t_positive": none at t = 0 only
    rescale_timesteps: bool = False  # the network's input is t x 1000/T, a float32 product
    encode: str = "paper"  # `make_encode_plan` says what "paper", "shifted" and "destination" are
    # The network: fields of `ModelConfig`. All codes have 32 groups, which is the width's affair.
    flip_sin_to_cos: bool = False
    freq_shift: int = 1
    norm_eps: float = 1e-6
    downsample_padding: int = 0
    zero_init: bool = True
    attention_head_dim: int | None = None
    num_attention_heads: int | None = None


CONVENTIONS = {c.name: c for c in (
    Convention("plain", "this project", rederive_eps=True),
    Convention("ho2020", "github.com/hojonathanho/diffusion", spacing="all", clip_ddim="clip", large_variance_first=True,
               approximate_cdf=True),
    Convention("song2021", "github.com/ermongroup/ddim", float32_tables=True, gate_ddpm="t_positive",
               zero_init=False),
    Convention("nichol2021", "github.com/openai/improved-diffusion", beta_scaling=True, spacing="linspace",
               clip_ddim="clip", rederive_eps=True, variance="small", large_variance_first=True,
               approximate_cdf=True, rescale_timesteps=True, encode="shifted", flip_sin_to_cos=True, freq_shift=0, norm_eps=1e-5,
               downsample_padding=1, num_attention_heads=4),
    Convention("diffusers", "github.com/huggingface/diffusers", clip_ddim="clip", variance="small",
               log_variance_first="floor", previous_ddim="ratio", float32_tables=True, float32_schedules=("linear", "quad"),
               gate_ddim="clean", gate_ddpm="t_positive", encode="destination", flip_sin_to_cos=True, freq_shift=0, norm_eps=1e-5,
               downsample_padding=1, zero_init=False, attention_head_dim=8),
    Convention("lucidrains", "github.com/lucidrains/denoising-diffusion-pytorch", beta_scaling=True, spacing="trailing",
               clip_ddim="clip", rederive_eps=True, variance="small", log_variance_first="floor",
               float32_schedules=("sigmoid_alpha_bar",)),
)}


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
    threshold_ratio: float
    rederive_eps: bool
    final_alpha_bar: str
    float32_tables: bool
    log_variance_first: str
    convention: str

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
        per_step = ("timesteps", "previous", "network_t", "noise_gate")
        return replace(self, **{name: getattr(self, name)[start:stop] for name in per_step})


def get_convention(name: str) -> Convention:
    """The convention of this name; `ConfigError` lists the valid ones."""
    require(name in CONVENTIONS, "convention", name, f"must be one of {', '.join(CONVENTIONS)}")
    return CONVENTIONS[name]


def adopt(diffusion: DiffusionConfig, convention: str) -> DiffusionConfig:
    """The process as this convention's code defines and trains it: betas, the network's t, the bound. Raises `ConfigError`.

    Training keeps float64 tables in every convention: float32 ones differ by less than the float32 images that they multiply.
    """
    c = get_convention(convention)
    variant = "_float32" if diffusion.schedule in c.float32_schedules else ""
    out = replace(
        diffusion, schedule=diffusion.schedule + variant,
        beta_scaling=diffusion.beta_scaling or (c.beta_scaling and diffusion.schedule == "linear"),
        rescale_timesteps=diffusion.rescale_timesteps or c.rescale_timesteps,
        large_variance_first=diffusion.large_variance_first or c.large_variance_first,
        approximate_cdf=diffusion.approximate_cdf or c.approximate_cdf)
    out.check_tables(c.float32_tables)
    return out


NETWORK = ("flip_sin_to_cos", "freq_shift", "norm_eps", "downsample_padding", "zero_init", "attention_head_dim",
           "num_attention_heads")


def adopt_network(model: ModelConfig, convention: str) -> ModelConfig:
    """The network of this size with the convention's details, for training; trained weights keep theirs. Raises `ConfigError`."""
    c = get_convention(convention)
    return replace(model, **{name: getattr(c, name) for name in NETWORK})


def make_plan(
    diffusion: DiffusionConfig,
    steps: int | tuple[int, ...],
    *,
    sampler: str = "ddim",
    eta: float | str = 0.0,
    spacing: str | None = None,
    convention: str = "plain",
    clip: str | None = None,
    threshold_ratio: float = 0.995,
    variance: str | None = None,
    final_alpha_bar: str | None = None,
    rederive_eps: bool | None = None,
) -> Plan:
    """Resolve a convention and the caller's own choices (None: the convention's) into a `Plan`.

    `steps` is S or IDDPM's section counts; `eta` is a number in [0, 1], "sigma_hat", or "ddpm" for the sampler ddpm, so that one
    option names all kinds of noise. Raises `ConfigError`.
    """
    c = get_convention(convention)
    if eta == "ddpm":
        sampler, eta = "ddpm", 0.0
    require(sampler in ("ddim", "ddpm"), "sampler", sampler, "must be ddim or ddpm")
    sigma_hat = eta == "sigma_hat"
    scale = 1.0 if isinstance(eta, str) else float(eta)
    require(sigma_hat or (not isinstance(eta, str) and 0 <= scale <= 1), "eta", eta, "must be in [0, 1], sigma_hat or ddpm")
    clip = clip or (c.clip_ddim if sampler == "ddim" else c.clip_ddpm)
    require(clip in ("none", "clip", "dynamic"), "clip", clip, "must be none, clip or dynamic")
    require(0 < threshold_ratio <= 1, "threshold_ratio", threshold_ratio, "must be in (0, 1]")
    variance = variance or (diffusion.variance if diffusion.learned_variance else c.variance)
    require(variance in VARIANCES, "variance", variance, f"must be one of {', '.join(VARIANCES)}")
    require((variance in ("learned", "learned_range")) <= (variance == diffusion.variance), "variance", variance,
            f"the network was built for variance {diffusion.variance}")
    final_alpha_bar = final_alpha_bar or c.final_alpha_bar
    require(final_alpha_bar in ("one", "first"), "final_alpha_bar", final_alpha_bar, "must be one or first")
    diffusion = adopt(diffusion, convention)
    T = diffusion.timesteps
    path = tuple(timesteps.path(T, steps, spacing or c.spacing, convention)[::-1])
    previous = (*path[1:], CLEAN)
    if sampler == "ddim" and c.previous_ddim == "ratio":
        stride = T // len(path)
        previous = tuple(max(t - stride, CLEAN) for t in path)
    gate = {
        "list_end": [1] * (len(path) - 1) + [0],
        "clean": [int(t != CLEAN or final_alpha_bar == "first") for t in previous],
        "t_positive": [int(t > 0) for t in path],
    }[c.gate_ddim if sampler == "ddim" else c.gate_ddpm]
    return Plan(
        diffusion, sampler, path, previous, _network_t(path, diffusion), tuple(gate), scale, sigma_hat, variance, clip,
        threshold_ratio, c.rederive_eps if rederive_eps is None else rederive_eps, final_alpha_bar, c.float32_tables,
        c.log_variance_first, convention,
    )


def make_encode_plan(diffusion: DiffusionConfig, steps: int | tuple[int, ...], *, spacing: str | None = None,
                     convention: str = "plain") -> Plan:
    """DDIM's ODE run from x0 to x_T (DDIM section 4.3), eta = 0.

    The first step leaves the clean image, alpha_bar = 1, for which no timestep exists: the network gets the first timestep
    of the path there. Nothing is clipped, because at alpha_bar = 1 eps can't be derived from x0. Two codes differ:
    `nichol2021` takes the image for a sample at the path's first timestep, clips, and its last step goes to alpha_bar = 0;
    `diffusers` gives the network the timestep that each step goes to, and clips.
    """
    decode = make_plan(diffusion, steps, spacing=spacing, convention=convention)
    c = get_convention(convention)
    path = decode.timesteps[::-1]
    if c.encode == "shifted":
        return replace(decode, timesteps=path, previous=(*path[1:], PURE_NOISE),
                       network_t=_network_t(path, decode.diffusion), noise_gate=(0,) * len(path))
    require(diffusion.objective != "x0", "objective", diffusion.objective,
            "a clean image and its x0 prediction leave eps undefined: encoding needs eps or v")
    destination = c.encode == "destination"
    told = path if destination else (path[0], *path[:-1])
    return replace(decode, timesteps=decode.previous[::-1], previous=path, noise_gate=(0,) * len(path),
                   network_t=_network_t(told, decode.diffusion), clip=decode.clip if destination else "none",
                   rederive_eps=False)


def _network_t(path: tuple[int, ...], diffusion: DiffusionConfig) -> tuple[float, ...]:
    return tuple(network_t(diffusion, np.array(path)).tolist())
