"""Configuration of the network, the diffusion process and the optimiser: frozen dataclasses that validate themselves.

Field names of `ModelConfig` are the keys of diffusers' `UNet2DModel` config, because that layout is what the field exchanges.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .diffusion_config import BOUNDS as BOUNDS
from .diffusion_config import LOSS_WEIGHTS as LOSS_WEIGHTS
from .diffusion_config import LOSSES as LOSSES
from .diffusion_config import OBJECTIVES as OBJECTIVES
from .diffusion_config import SCHEDULES as SCHEDULES
from .diffusion_config import VARIANCES as VARIANCES
from .diffusion_config import DiffusionConfig as DiffusionConfig
from .errors import ConfigError as ConfigError
from .errors import require
from .optim_config import OptimConfig as OptimConfig
from .records import LATER, Record, choice, freeze

DOWN_BLOCKS = ("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D")
UP_BLOCKS = ("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D")
RESAMPLING = ("conv", "resnet")
TIME_SCALE_SHIFT = ("default", "scale_shift")
ACTIVATIONS = ("silu", "swish", "relu", "gelu", "mish")  # swish is silu
MIDDLE = ("UNetMidBlock2D",)


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
    `act_fn` is the activation of the residual blocks; that of the time embedding and of the end is SiLU. Each layer of the middle
    divides its sum by `mid_block_scale_factor`, and with a `mid_block_type` of None there is no middle.
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
    act_fn: str = field(default="silu", metadata=LATER)
    mid_block_type: str | None = field(default="UNetMidBlock2D", metadata=LATER)
    mid_block_scale_factor: float = field(default=1.0, metadata=LATER)

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
        choice("act_fn", self.act_fn, ACTIVATIONS)
        require(self.mid_block_type in (None, *MIDDLE), "mid_block_type", self.mid_block_type, f"must be {MIDDLE[0]} or null")
        require(0 < self.mid_block_scale_factor < float("inf"), "mid_block_scale_factor", self.mid_block_scale_factor,
                "must be positive and finite")
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
        require(0 < self.norm_eps < float("inf"), "norm_eps", self.norm_eps, "must be positive and finite")
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
