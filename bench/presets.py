"""Presets: everything that a run needs, by name."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.paths import CHECKPOINTS, ROOT
from reference.config import ConfigError, DiffusionConfig, ModelConfig, OptimConfig

DOWN, UP = "DownBlock2D", "UpBlock2D"
SPEED = ModelConfig(
    layers_per_block=2, block_out_channels=(32, 64, 128), down_block_types=(DOWN, "AttnDownBlock2D", DOWN),
    up_block_types=(UP, "AttnUpBlock2D", UP)
)  # 0.87 GFLOP per image forward, 3.7M parameters
FMNIST_SMALL = ModelConfig(
    block_out_channels=(16, 24, 48), down_block_types=(DOWN, DOWN, "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", UP, UP)
)  # 0.098 GFLOP per image forward, 0.41M parameters
FMNIST_BASE = ModelConfig(
    layers_per_block=2, block_out_channels=(32, 64, 128), down_block_types=(DOWN, DOWN, "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", UP, UP)
)  # 0.82 GFLOP per image forward, 3.9M parameters


@dataclass(frozen=True)
class Preset:
    """One named experiment; the command line overrides single fields."""

    name: str
    model: ModelConfig
    weights: Path | None  # pipeline folder that sampling starts from; None: the seeded initial weights
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    dataset: str = "fashion-mnist"
    batch_size: int = 64  # of training
    train_steps: int = 60  # in the main job: losses of the backends are compared over these; 0: none
    fit_steps: int = 2000  # in the main job, on other data than the preset's: training of the network that is sampled from
    samples: int = 128
    sample_batch: int = 128
    blocks: int = 10  # timed blocks per contender; 0: steps are not timed

    def changed(self, **options: Any) -> Preset:
        """The preset with these fields; None leaves a field alone."""
        return replace(self, **{name: value for name, value in options.items() if value is not None})

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return self._channels, self.model.sample_size, self.model.sample_size

    @property
    def _channels(self) -> int:
        return self.model.in_channels // (1 + self.diffusion.self_conditioning)

    def of_shape(self, channels: int, size: int) -> Preset:
        """The preset with its network for images of `channels` x size x size, and then without weights. Raises `ConfigError`."""
        if (channels, size, size) == self.shape:
            return self
        per = self._channels
        model = replace(self.model, sample_size=size, in_channels=self.model.in_channels // per * channels,
                        out_channels=self.model.out_channels // per * channels)
        return replace(self, model=model, weights=None)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, for rows and `--dry-run`."""
        out = asdict(self) | {name: getattr(self, name).to_dict() for name in ("model", "diffusion", "optim")}
        out["weights"] = None if self.weights is None else _relative(self.weights)
        return out


def _relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name


_OPTIM = OptimConfig(lr=1e-3, warmup_steps=200, total_steps=20000, min_lr=1e-5, ema_decay=0.999)

_BASE = DiffusionConfig(schedule="cosine", objective="v")  # results/ablation.md says what each is worth, and how sure that is

_DDPM_CIFAR10 = ModelConfig(
    sample_size=32, in_channels=3, out_channels=3, layers_per_block=2, block_out_channels=(128, 256, 256, 256), norm_num_groups=32,
    down_block_types=(DOWN, "AttnDownBlock2D", DOWN, DOWN), up_block_types=(UP, UP, "AttnUpBlock2D", UP), dropout=0.1,
)  # DDPM appendix B: 35.7M parameters, attention at 16 x 16
_DIM_28 = ModelConfig(
    layers_per_block=2, block_out_channels=(28, 56, 112), norm_num_groups=7,
    down_block_types=(DOWN, DOWN, "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", UP, UP),
)  # dim 28, multipliers 1, 2, 4

_OWN_32 = replace(FMNIST_SMALL, sample_size=32, in_channels=3, out_channels=3)  # 0.13 GFLOP per image forward
_OWN_64 = ModelConfig(
    sample_size=64, in_channels=3, out_channels=3, block_out_channels=(16, 24, 48, 64),
    down_block_types=(DOWN, DOWN, DOWN, "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", UP, UP, UP),
)  # 0.52 GFLOP per image forward

_MANY = ModelConfig(
    block_out_channels=(8, 16, 32), norm_num_groups=4,
    down_block_types=(DOWN, DOWN, "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", UP, UP),
)  # small enough to be trained dozens of times

# The recipes' (`bench.recipes`): what each module there says of its source holds for the numbers here.
_RECIPES = (
    Preset("mnist-scratch", FMNIST_SMALL, None, DiffusionConfig(schedule="tutorial"),
           OptimConfig(lr=1e-3, max_grad_norm=0, ema_decay=0), dataset="mnist", batch_size=128),
    Preset("ddpm-cifar10", _DDPM_CIFAR10, None, optim=OptimConfig(lr=2e-4, warmup_steps=5000, ema_decay=0.9999),
           dataset="cifar10", batch_size=128),
    Preset("ddim-respaced", FMNIST_SMALL, None, optim=_OPTIM, batch_size=32),
    Preset("cosine-selfcond", _MANY, None, DiffusionConfig(beta_scaling=True),
           OptimConfig(lr=1e-3, beta2=0.99, ema_decay=0.995), batch_size=32),
    Preset("fashion-mnist-mindspore", _DIM_28, None, DiffusionConfig(timesteps=200, variance="small", loss="huber"),
           OptimConfig(lr=1e-4, total_steps=37500, min_lr=1e-7, max_grad_norm=0, ema_decay=0, decay_every=3750), batch_size=16),
)

# For a person's own images, made for their size and colour by `Preset.of_shape`: up to 32 x 32, and larger ones.
_OWN = (Preset("own-32", _OWN_32, None, optim=_OPTIM), Preset("own-64", _OWN_64, None, optim=_OPTIM))

PRESETS = {p.name: p for p in (
    Preset("quick", FMNIST_SMALL, CHECKPOINTS / "fmnist-small", optim=_OPTIM),
    Preset("table", FMNIST_SMALL, CHECKPOINTS / "fmnist-small", optim=_OPTIM, train_steps=0, blocks=0, samples=256),
    Preset("table-base", FMNIST_BASE, CHECKPOINTS / "fmnist-base", _BASE, _OPTIM, train_steps=0, blocks=0, samples=256),
    Preset("base", FMNIST_BASE, CHECKPOINTS / "fmnist-base", _BASE, _OPTIM),
    Preset("speed", SPEED, None, optim=_OPTIM, sample_batch=64),
    Preset("smoke", FMNIST_SMALL, CHECKPOINTS / "fmnist-small", optim=_OPTIM, train_steps=12, fit_steps=300, batch_size=32),
    *_RECIPES, *_OWN,
)}


def get_preset(name: str) -> Preset:
    """The preset of this name; `ConfigError` lists the valid ones."""
    if name not in PRESETS:
        raise ConfigError(f"--preset={name!r}: must be one of {', '.join(PRESETS)}")
    return PRESETS[name]


def fitting(size: int) -> Preset:
    """The preset whose network is meant for a person's own images of this side."""
    return PRESETS["own-32" if size <= 32 else "own-64"]
