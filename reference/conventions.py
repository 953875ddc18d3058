"""Where public implementations differ, as data, and what makes a `Plan` of it, with a file's and a caller's own choices."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from . import timesteps
from .config import BOUNDS, VARIANCES, DiffusionConfig, ModelConfig, require
from .diffusion import network_t
from .plan import CLEAN as CLEAN
from .plan import PURE_NOISE as PURE_NOISE
from .plan import Plan as Plan
from .scheduler import SILENT, Scheduler, parse_clip


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
    loss_weight: str = "none"  # of training, where the caller names none
    loss_sum: bool = False  # the loss is summed over the pixels of an image
    predicts: str = "process"  # "previous" gives the mean of x_{t-1}, or with "path" of the next state of the shortened path
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
    resnet_time_scale_shift: str = "default"


CONVENTIONS = {c.name: c for c in (
    Convention("plain", "this project", rederive_eps=True),
    Convention("ho2020", "github.com/hojonathanho/diffusion", spacing="all", clip_ddim="clip", large_variance_first=True,
               approximate_cdf=True),
    Convention("song2021", "github.com/ermongroup/ddim", float32_tables=True, gate_ddpm="t_positive",
               loss_sum=True, zero_init=False),
    Convention("nichol2021", "github.com/openai/improved-diffusion", beta_scaling=True, spacing="linspace",
               clip_ddim="clip", rederive_eps=True, large_variance_first=True,
               approximate_cdf=True, rescale_timesteps=True, encode="shifted", predicts="path", flip_sin_to_cos=True, freq_shift=0,
               norm_eps=1e-5, downsample_padding=1, num_attention_heads=4, resnet_time_scale_shift="scale_shift"),
    Convention("diffusers", "github.com/huggingface/diffusers", clip_ddim="clip", variance="small",
               log_variance_first="floor", previous_ddim="ratio", float32_tables=True, float32_schedules=("linear", "quad"),
               gate_ddim="clean", gate_ddpm="t_positive", encode="destination", flip_sin_to_cos=True, freq_shift=0, norm_eps=1e-5,
               downsample_padding=1, zero_init=False, attention_head_dim=8),
    Convention("lucidrains", "github.com/lucidrains/denoising-diffusion-pytorch", beta_scaling=True, spacing="trailing",
               clip_ddim="clip", rederive_eps=True, variance="small", log_variance_first="floor",
               float32_schedules=("sigmoid_alpha_bar",), loss_weight="snr"),
)}


def get_convention(name: str) -> Convention:
    """The convention of this name; `ConfigError` lists the valid ones."""
    require(name in CONVENTIONS, "convention", name, f"must be one of {', '.join(CONVENTIONS)}")
    return CONVENTIONS[name]


def adopt(diffusion: DiffusionConfig, convention: str) -> DiffusionConfig:
    """The process as this convention's code defines and trains it: betas, the network's t, loss weight, bound.

    Training keeps float64 tables in every convention: float32 ones differ by less than the float32 images that they multiply.
    Raises `ConfigError`.
    """
    c = get_convention(convention)
    named = diffusion.trained_betas is None  # given betas are what they are
    bound = diffusion.loss in BOUNDS  # as are the bound's terms
    variant = "_float32" if named and diffusion.schedule in c.float32_schedules else ""
    out = replace(
        diffusion, schedule=diffusion.schedule + variant,
        beta_scaling=diffusion.beta_scaling or (c.beta_scaling and named and diffusion.schedule == "linear"),
        rescale_timesteps=diffusion.rescale_timesteps or (c.rescale_timesteps and diffusion.told_timesteps is None),
        large_variance_first=diffusion.large_variance_first or c.large_variance_first,
        approximate_cdf=diffusion.approximate_cdf or c.approximate_cdf,
        loss_weight=c.loss_weight if diffusion.loss_weight == "none" and not bound else diffusion.loss_weight,
        loss_sum=diffusion.loss_sum or (c.loss_sum and not bound))
    out.check_tables(c.float32_tables)
    return out


NETWORK = ("flip_sin_to_cos", "freq_shift", "norm_eps", "downsample_padding", "zero_init", "attention_head_dim",
           "num_attention_heads", "resnet_time_scale_shift")


def adopt_network(model: ModelConfig, convention: str) -> ModelConfig:
    """The network of this size with the convention's details, for training; trained weights keep theirs. Raises `ConfigError`.

    The norm of the middle attention stays: a network with scale-shift conditioning loses it unless its groups are said.
    """
    c = get_convention(convention)
    groups = model.norm_num_groups if c.resnet_time_scale_shift == "scale_shift" else None
    return replace(model, attn_norm_num_groups=groups, **{name: getattr(c, name) for name in NETWORK})


def make_plan(
    diffusion: DiffusionConfig,
    steps: int | tuple[int, ...],
    *,
    sampler: str | None = None,
    eta: float | str | None = None,
    spacing: str | None = None,
    convention: str = "plain",
    clip: str | float | None = None,
    threshold_ratio: float | None = None,
    variance: str | None = None,
    final_alpha_bar: str | None = None,
    steps_offset: int | None = None,
    rederive_eps: bool | None = None,
    scheduler: Scheduler = SILENT,
) -> Plan:
    """Resolve the caller's choices, a file's and a convention's into a `Plan`. Raises `ConfigError`.

    What the caller leaves at None is what `scheduler` says where the convention is `diffusers`, else the convention's. The fixed
    variance that `scheduler` says holds in every convention. `steps` is S or IDDPM's section counts; `eta` is a number in [0, 1],
    "sigma_hat", or "ddpm" for the sampler ddpm, so that one option names all kinds of noise; `clip` is as `parse_clip` reads it.
    """
    c = get_convention(convention)
    said = scheduler if convention == "diffusers" else Scheduler(variance_type=scheduler.variance_type)
    sampler, scale, sigma_hat = _noise(sampler or (said.sampler if eta is None else None) or "ddim", eta)
    ddim = sampler == "ddim"
    clipped = parse_clip(clip if clip is not None else said.clip or _clip(c, ddim, diffusion.objective))
    ratio = clipped.ratio if threshold_ratio is None else threshold_ratio
    require(0 < ratio <= 1, "threshold_ratio", ratio, "must be in (0, 1]")
    variance = variance or (diffusion.variance if diffusion.learned_variance else said.variance or c.variance)
    require(variance in VARIANCES, "variance", variance, f"must be one of {', '.join(VARIANCES)}")
    require((variance in ("learned", "learned_range")) <= (variance == diffusion.variance), "variance", variance,
            f"the network was built for variance {diffusion.variance}")
    final_alpha_bar = _final(final_alpha_bar or (said.final_alpha_bar if ddim else None) or c.final_alpha_bar, diffusion)
    diffusion = adopt(diffusion, convention)
    rule = spacing or said.timestep_spacing or c.spacing
    offset = said.steps_offset if steps_offset is None and rule == "leading" else steps_offset
    path = tuple(timesteps.path(diffusion.timesteps, steps, rule, convention, offset or 0)[::-1])
    _check_first(path[0], diffusion, convention, rule)
    previous = (*path[1:], CLEAN)
    if ddim and c.previous_ddim == "ratio":
        stride = diffusion.timesteps // (steps if isinstance(steps, int) else len(path))
        previous = tuple(max(t - stride, CLEAN) for t in path)
    gate = _gate(c.gate_ddim if ddim else c.gate_ddpm, path, previous, final_alpha_bar)
    return Plan(
        diffusion, sampler, path, previous, _network_t(path, diffusion), gate, scale, sigma_hat, variance, clipped.kind,
        clipped.limit, ratio, clipped.most, c.rederive_eps if rederive_eps is None else rederive_eps, final_alpha_bar,
        c.float32_tables, c.log_variance_first, convention,
        (*path[1:], CLEAN) if c.predicts == "path" else tuple(t - 1 for t in path), rule if isinstance(steps, int) else "sections",
    )


def _final(said: str, diffusion: DiffusionConfig) -> str:
    require(said in ("one", "first", "start"), "final_alpha_bar", said, "must be one, first or start")
    require(said != "start" or diffusion.start_alpha_bar < 1, "final_alpha_bar", said,
            f"is the state before t = 0 of the schedule tutorial, and this one is {diffusion.schedule}; use one or first")
    return said


def _check_first(t: int, diffusion: DiffusionConfig, convention: str, rule: str) -> None:
    silent = diffusion.ends_at_zero and diffusion.objective == "eps" and t == diffusion.timesteps - 1
    leading = "leading" in timesteps.LITERAL[convention]
    later = "fewer steps" if rule == "leading" else "spacing leading" if leading else "convention plain with fewer steps"
    require(not silent, "timesteps", t, f"has alpha_bar = 0, where eps says nothing about x0: use {later}, or a network of v or x0")


def _clip(c: Convention, ddim: bool, objective: str) -> str:
    """A convention's clipping. IDDPM's DDPM mean is the output of "previous" itself, on which clipping x0_hat has no effect."""
    unclipped = objective == "previous" and c.predicts == "path"
    return c.clip_ddim if ddim else "none" if unclipped else c.clip_ddpm


def _gate(rule: str, path: tuple[int, ...], previous: tuple[int, ...], final_alpha_bar: str) -> tuple[int, ...]:
    """1 for each step that adds noise; the state "start" has noise, so that the step to it adds some as any other."""
    return tuple({
        "list_end": [1] * (len(path) - 1) + [int(final_alpha_bar == "start")],
        "clean": [int(t != CLEAN or final_alpha_bar != "one") for t in previous],
        "t_positive": [int(t > 0 or final_alpha_bar == "start") for t in path],
    }[rule])


def _noise(sampler: str, eta: float | str | None) -> tuple[str, float, bool]:
    """(sampler, scale of sigma, whether it is sigma_hat)."""
    if eta == "ddpm":
        sampler, eta = "ddpm", 0.0
    require(sampler in ("ddim", "ddpm"), "sampler", sampler, "must be ddim or ddpm; fast solvers have make_solver_plan")
    scale = 1.0 if isinstance(eta, str) else float(eta or 0)
    require(eta == "sigma_hat" or (not isinstance(eta, str) and 0 <= scale <= 1), "eta", eta,
            "must be in [0, 1], sigma_hat or ddpm")
    return sampler, scale, eta == "sigma_hat"


def make_encode_plan(diffusion: DiffusionConfig, steps: int | tuple[int, ...], *, spacing: str | None = None,
                     convention: str = "plain", clip: str | float | None = None, scheduler: Scheduler = SILENT) -> Plan:
    """DDIM's ODE run from x0 to x_T (DDIM section 4.3), eta = 0.

    The first step leaves the clean image, alpha_bar = 1, for which no timestep exists: the network gets the first timestep
    of the path there. Nothing is clipped unless `clip` says so, as in `make_plan`, and eps stays the network's: at alpha_bar = 1 it
    can't be derived from x0. Two codes differ:
    `nichol2021` takes the image for a sample at the path's first timestep, clips by default, and its last step goes to
    alpha_bar = 0; `diffusers` gives the network the timestep that each step goes to, and clips by default; `scheduler` is as in
    `make_plan`.
    """
    inverse = replace(scheduler, thresholding=None)  # diffusers' DDIMInverseScheduler has none
    decode = make_plan(diffusion, steps, eta=0.0, spacing=spacing, convention=convention, clip=clip, scheduler=inverse)
    c = get_convention(convention)
    path = decode.timesteps[::-1]
    if c.encode == "shifted":
        return replace(decode, timesteps=path, previous=(*path[1:], PURE_NOISE), predicts=decode.predicts[::-1],
                       network_t=_network_t(path, decode.diffusion), noise_gate=(0,) * len(path))
    require(diffusion.objective in ("eps", "v"), "objective", diffusion.objective,
            "a clean image and its x0 prediction leave eps undefined: encoding needs eps or v")
    destination = c.encode == "destination"
    told = path if destination else (path[0], *path[:-1])
    return replace(decode, timesteps=decode.previous[::-1], previous=path, noise_gate=(0,) * len(path),
                   network_t=_network_t(told, decode.diffusion), predicts=decode.predicts[::-1],
                   clip="none" if clip is None and not destination else decode.clip, rederive_eps=False)


def _network_t(path: tuple[int, ...], diffusion: DiffusionConfig) -> tuple[float, ...]:
    return tuple(network_t(diffusion, np.array(path)).tolist())
