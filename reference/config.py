"""Configuration of the network, the diffusion process and the optimiser: frozen dataclasses that validate themselves.

Field names of `ModelConfig` are the keys of diffusers' `UNet2DModel` config, because that layout is what the field exchanges.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from . import schedules
from .errors import ConfigError as ConfigError
from .errors import require
from .optim_config import OptimConfig as OptimConfig
from .records import LATER, Record, choice, freeze

SCHEDULES = tuple(schedules.BETAS)
OBJECTIVES = ("eps", "x0", "v")
LOSSES = ("l2", "l1", "huber")
LOSS_WEIGHTS = ("none", "snr", "p2", "min_snr")
VARIANCES = ("small", "large", "learned", "learned_range")
DOWN_BLOCKS = ("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D")
UP_BLOCKS = ("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D")
RESAMPLING = ("conv", "resnet")
TIME_SCALE_SHIFT = ("default", "scale_shift")
SMALLEST_ALPHA_BAR = 2.0**-252  # its root is the smallest normal float32


@dataclass(frozen=True)
class ModelConfig(Record):
    """The UNet of Ho et al. 2020 as diffusers' `UNet2DModel` parametrises it. See the network table in the README.

    `attention_head_dim` is the width of one head (None: one head as wide as the block); `num_attention_heads` fixes their
    number instead, as IDDPM does. `downsample_padding` 0 pads right and bottom only, (0, 1, 0, 1); 1 is symmetric. With
    `resnet_time_scale_shift` "scale_shift" the time embedding scales and shifts what the second norm of a resnet gives (IDDPM
    appendix A, its code's use_scale_shift_norm); by default it is added before that norm. `attn_norm_num_groups` are the groups of
    the middle attention's norm. As in diffusers, None is `norm_num_groups` by default, and with scale_shift no norm there.
    Where `downsample_type` or `upsample_type` is "resnet", blocks with attention change their resolution by a residual block, as do
    the two Resnet.. block types always (guided-diffusion's resblock_updown); by default a convolution does. `center_input_sample`
    takes images in [0, 1] to [-1, 1]. `time_embedding_dim` is 4 first widths by default; `add_attention` is the middle's.
    """

    sample_size: int = 28
    in_channels: int = 1
    out_channels: int = 1
    layers_per_block: int = 1
    block_out_channels: tuple[int, ...] = (16, 32, 64)
    down_block_types: tuple[str, ...] = ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D")
    up_block_types: tuple[str, ...] = ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D")
    norm_num_groups: int = 8
    norm_eps: float = 1e-6
    downsample_padding: int = 0
    flip_sin_to_cos: bool = False  # False: (sin, cos); True: (cos, sin)
    freq_shift: int = 1  # divisor of the frequencies' exponent: half - freq_shift
    attention_head_dim: int | None = None
    num_attention_heads: int | None = None
    dropout: float = 0.0
    zero_init: bool = True  # zero the last convolution of each residual branch at initialisation, as Ho et al. do
    resnet_time_scale_shift: str = field(default="default", metadata=LATER)
    attn_norm_num_groups: int | None = field(default=None, metadata=LATER)
    downsample_type: str = field(default="conv", metadata=LATER)
    upsample_type: str = field(default="conv", metadata=LATER)
    add_attention: bool = field(default=True, metadata=LATER)
    center_input_sample: bool = field(default=False, metadata=LATER)
    time_embedding_dim: int | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        freeze(self)
        levels = len(self.block_out_channels)
        for name in ("sample_size", "in_channels", "out_channels", "layers_per_block", "norm_num_groups"):
            require(1 <= getattr(self, name) <= 65536, name, getattr(self, name), "must be between 1 and 65536")
        require(1 <= levels <= 16, "block_out_channels", self.block_out_channels, "must have 1 to 16 levels")
        for name, allowed in (("down_block_types", DOWN_BLOCKS), ("up_block_types", UP_BLOCKS)):
            types = getattr(self, name)
            require(len(types) == levels, name, types, f"must have one entry per level of block_out_channels ({levels})")
            for t in types:
                choice(name, t, allowed)
        for channels in self.block_out_channels:
            require(channels > 0 and channels % self.norm_num_groups == 0, "block_out_channels", self.block_out_channels,
                    f"every width must be a positive multiple of norm_num_groups={self.norm_num_groups}")
        choice("resnet_time_scale_shift", self.resnet_time_scale_shift, TIME_SCALE_SHIFT)
        for name in ("downsample_type", "upsample_type"):
            choice(name, getattr(self, name), RESAMPLING)
        require(1 <= self.time_width <= 65536, "time_embedding_dim", self.time_embedding_dim, "must be between 1 and 65536")
        groups = self.attn_norm_num_groups
        require(groups is None or groups > 0 and self.block_out_channels[-1] % groups == 0, "attn_norm_num_groups", groups,
                f"must divide the last width {self.block_out_channels[-1]}")
        require(self.block_out_channels[0] % 2 == 0, "block_out_channels", self.block_out_channels,
                "the first width must be even (half sine, half cosine)")
        require(self.block_out_channels[0] // 2 > self.freq_shift >= 0, "freq_shift", self.freq_shift,
                "must be 0 or more and below half the first width")
        require(self.norm_eps > 0, "norm_eps", self.norm_eps, "must be positive")
        require(self.downsample_padding in (0, 1), "downsample_padding", self.downsample_padding, "must be 0 or 1")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "must be in [0, 1)")
        require(self.sample_size % 2 ** (levels - 1) == 0, "sample_size", self.sample_size,
                f"must be divisible by 2^{levels - 1} for {levels} levels")
        require(self.attention_head_dim is None or self.num_attention_heads is None, "num_attention_heads",
                self.num_attention_heads, "give attention_head_dim or num_attention_heads, not both")
        for channels in self.attention_widths:
            self.heads(channels)

    @property
    def cancels_time(self) -> bool:
        """Whether some residual blocks can't know t. The time embedding adds a constant to each channel; where a group of the norm
        that follows is one channel, the norm takes that constant away again."""
        return self.norm_num_groups in self.block_out_channels and not self.scale_shift

    @property
    def time_width(self) -> int:
        """Of the time embedding."""
        return 4 * self.block_out_channels[0] if self.time_embedding_dim is None else self.time_embedding_dim

    def by_resnet(self, kind: str) -> bool:
        """Whether a block of this type changes its resolution by a residual block."""
        return kind.startswith("Resnet") or {"AttnDownBlock2D": self.downsample_type, "AttnUpBlock2D": self.upsample_type
                                             }.get(kind) == "resnet"

    @property
    def scale_shift(self) -> bool:
        """Whether the time embedding scales and shifts, in place of being added."""
        return self.resnet_time_scale_shift == "scale_shift"

    @property
    def middle_groups(self) -> int | None:
        """Groups of the middle attention's norm; None where it has no norm."""
        return self.attn_norm_num_groups or (None if self.scale_shift else self.norm_num_groups)

    def require_time(self, remedy: str) -> None:
        """Raise `ConfigError` where `cancels_time`, which nobody means to train; `remedy` says how to train it all the same."""
        require(not self.cancels_time, "norm_num_groups", self.norm_num_groups, "must be below every width: with one channel a "
                f"group (width {self.norm_num_groups}) GroupNorm cancels the time embedding, which is added before it; {remedy}")

    @property
    def attention_widths(self) -> tuple[int, ...]:
        """Of the levels that have attention, and of the middle, in increasing order."""
        levels = zip(self.block_out_channels, self.down_block_types, self.up_block_types[::-1], strict=True)
        return tuple(sorted({width for width, down, up in levels if "Attn" in down + up} | {self.block_out_channels[-1]}))

    def heads(self, channels: int) -> int:
        """Number of attention heads in a block of this width."""
        for name in ("attention_head_dim", "num_attention_heads"):
            value = getattr(self, name)
            if value is not None:
                require(value > 0 and channels % value == 0, name, value, f"must divide the block's width {channels}")
        if self.num_attention_heads is not None:
            return self.num_attention_heads
        return channels // (self.attention_head_dim or channels)


@dataclass(frozen=True)
class DiffusionConfig(Record):
    """The forward process, what the network predicts and how it is trained.

    `schedule` names a row of the schedule table; `beta_scaling` multiplies both ends of it by 1000/T (IDDPM, lucidrains).
    `variance` is the reverse process's; the two learned ones double the network's output channels. `rescale_timesteps` tells the
    network t x 1000/T. `large_variance_first` and `approximate_cdf` change the variational bound alone: the large variance takes
    beta_tilde_1 at t = 0, and the likelihood a tanh formula for the normal distribution function. T `trained_betas` take the place
    of the schedule.
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

    def __post_init__(self) -> None:
        freeze(self)
        for name, choices in (("schedule", SCHEDULES), ("objective", OBJECTIVES), ("variance", VARIANCES),
                              ("loss", LOSSES), ("loss_weight", LOSS_WEIGHTS)):
            choice(name, getattr(self, name), choices)
        require(1 <= self.timesteps <= 1_000_000, "timesteps", self.timesteps, "must be between 1 and 1000000")
        require(0 < self.beta_start <= self.beta_end < 1, "beta_start, beta_end", (self.beta_start, self.beta_end),
                "must satisfy 0 < beta_start <= beta_end < 1")
        if (given := self.trained_betas) is not None:
            require(len(given) == self.timesteps and all(0 < beta < 1 for beta in given), "trained_betas", f"{len(given)} numbers",
                    f"must be as many as timesteps={self.timesteps}, each between 0 and 1")
            require(not self.beta_scaling, "beta_scaling", True, "goes without trained_betas, which are what they are")
        if self.beta_scaling:
            largest = self.beta_end * 1000 / self.timesteps
            require(largest < 1, "timesteps", self.timesteps,
                    f"beta_scaling gives beta={largest:g} >= 1; T must exceed {self.beta_end * 1000:g}")
        require(not (self.zero_terminal_snr and self.timesteps == 1), "timesteps", self.timesteps,
                "zero_terminal_snr needs a step before the one that ends at alpha_bar = 0")
        require(not (self.zero_terminal_snr and self.objective == "eps"), "objective", self.objective,
                "zero_terminal_snr has alpha_bar = 0 at the last step, where eps says nothing about x0; use v or x0")
        for name in ("p2_gamma", "p2_k", "min_snr_gamma"):
            require(0 <= getattr(self, name) < float("inf"), name, getattr(self, name), "must be finite and not negative")
        self.check_tables()

    def check_tables(self, float32_tables: bool = False) -> None:
        """Refuse a T too large for its betas, or betas too small: 1/sqrt(alpha_bar) must be a float32, 1 - alpha_bar above 0."""
        with np.errstate(divide="ignore", invalid="ignore"):  # where alpha_bar is 0 throughout
            alpha_bars = schedules.alpha_bars(schedules.betas(self), float32_tables)
        kept = alpha_bars[:-1] if self.zero_terminal_snr else alpha_bars
        rule = f"schedule {self.schedule} takes alpha_bar from {alpha_bars[0]:.6g} to {alpha_bars[-1]:.3g}: it must fall "
        require(bool(kept[-1] >= SMALLEST_ALPHA_BAR), "timesteps", self.timesteps,
                rule + f"no further than {SMALLEST_ALPHA_BAR:.1e}; beta_scaling keeps linear betas there for every T")
        require(bool(alpha_bars[0] < 1 and (float32_tables or (np.diff(alpha_bars) < 0).all())), "beta_start, beta_end",
                (self.beta_start, self.beta_end), rule + f"below 1 and at every step in float{32 if float32_tables else 64}")

    @property
    def learned_variance(self) -> bool:
        """Whether the network predicts the variance too, in the second half of its output channels."""
        return self.variance in ("learned", "learned_range")
