"""Config records: every mistake is one line that names the field, its value and the rule."""

from __future__ import annotations

import dataclasses
import json
import math
import re

import pytest
from hypothesis import given

from reference.config import LOSS_WEIGHTS, OBJECTIVES, SCHEDULES, VARIANCES, ConfigError, DiffusionConfig, ModelConfig, OptimConfig
from reference.scheduler import Scheduler, parse_clip

from .strategies import LAW, diffusions

RECORDS = (ModelConfig, DiffusionConfig, OptimConfig)
CIFAR10 = {  # google/ddpm-cifar10-32, unet/config.json
    "_class_name": "UNet2DModel", "sample_size": 32, "in_channels": 3, "out_channels": 3, "layers_per_block": 2,
    "block_out_channels": [128, 256, 256, 256], "act_fn": "silu",
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"], "norm_num_groups": 32, "norm_eps": 1e-6,
    "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1, "attention_head_dim": None,
}


def says(message: str) -> str:
    return "^" + re.escape(message)


@pytest.mark.parametrize("change, message", [
    ({"sample_size": 0}, "sample_size=0: must be between 1 and 65536"),
    ({"sample_size": 30}, "sample_size=30: must be divisible by 2^2 for 3 levels"),
    ({"sample_size": 28.0}, "sample_size=28.0: must be of type int"),
    ({"sample_size": True}, "sample_size=True: must be of type int"),
    ({"in_channels": -1}, "in_channels=-1: must be between 1 and 65536"),
    ({"out_channels": 0}, "out_channels=0: must be between 1 and 65536"),
    ({"layers_per_block": 0}, "layers_per_block=0: must be between 1 and 65536"),
    ({"block_out_channels": ()}, "block_out_channels=(): must have 1 to 16 levels"),
    ({"block_out_channels": (16, 32.0, 64)}, "block_out_channels=(16, 32.0, 64): must be of type tuple[int, ...]"),
    ({"block_out_channels": (16, 36, 64)}, "block_out_channels=(16, 36, 64): every width must be a positive multiple of "
                                           "norm_num_groups=8"),
    ({"block_out_channels": (15, 30, 60), "norm_num_groups": 5}, "block_out_channels=(15, 30, 60): the first width must be even"),
    ({"down_block_types": ("DownBlock2D",)}, "down_block_types=('DownBlock2D',): must have one entry per level of "
                                             "block_out_channels (3)"),
    ({"up_block_types": ("UpBlock2D", "UpBlock2D", "DownBlock2D")}, "up_block_types='DownBlock2D': must be one of UpBlock2D, "
                                                                    "AttnUpBlock2D"),
    ({"norm_num_groups": 0}, "norm_num_groups=0: must be between 1 and 65536"),
    ({"norm_eps": 0.0}, "norm_eps=0.0: must be positive"),
    ({"norm_eps": float("nan")}, "norm_eps=nan: must be positive"),
    ({"norm_eps": float("inf")}, "norm_eps=inf: must be positive and finite"),
    ({"downsample_padding": 2}, "downsample_padding=2: must be 0 or 1"),
    ({"freq_shift": 8}, "freq_shift=8: must be 0 or more and below half the first width"),
    ({"freq_shift": -1}, "freq_shift=-1: must be 0 or more and below half the first width"),
    ({"dropout": 1.0}, "dropout=1.0: must be in [0, 1)"),
    ({"attention_head_dim": 8, "num_attention_heads": 4}, "num_attention_heads=4: give attention_head_dim or "
                                                          "num_attention_heads, not both"),
    ({"attention_head_dim": 7}, "attention_head_dim=7: must divide the block's width 32"),
    ({"num_attention_heads": 5}, "num_attention_heads=5: must divide the block's width 32"),
    ({"num_attention_heads": 0}, "num_attention_heads=0: must divide the block's width 32"),
    ({"attention_head_dim": -8}, "attention_head_dim=-8: must divide the block's width 32"),
    ({"attn_norm_num_groups": 7}, "attn_norm_num_groups=7: must divide the last width 64"),
    ({"dropout": -0.1}, "dropout=-0.1: must be in [0, 1)"),
    ({"act_fn": "tanh"}, "act_fn='tanh': must be one of silu, swish, relu, gelu, mish"),
    ({"upsample_type": "kernel"}, "upsample_type='kernel': must be one of conv, resnet"),
    ({"norm_num_groups": 1, "block_out_channels": (16, True, 64)}, "block_out_channels=(16, True, 64): must be of type tuple[int"),
])
def test_a_network_that_cannot_be(change, message):
    with pytest.raises(ConfigError, match=says(message)):
        ModelConfig(**change)


@pytest.mark.parametrize("change, message", [
    ({"schedule": "exp"}, f"schedule='exp': must be one of {', '.join(SCHEDULES)}"),
    ({"objective": "noise"}, f"objective='noise': must be one of {', '.join(OBJECTIVES)}"),
    ({"variance": "tiny"}, f"variance='tiny': must be one of {', '.join(VARIANCES)}"),
    ({"loss": "l3"}, "loss='l3': must be one of l2, l1, huber"),
    ({"loss_weight": "min"}, f"loss_weight='min': must be one of {', '.join(LOSS_WEIGHTS)}"),
    ({"timesteps": 0}, "timesteps=0: must be between 1 and 1000000"),
    ({"timesteps": 1000.0}, "timesteps=1000.0: must be of type int"),
    ({"timesteps": "1000"}, "timesteps='1000': must be of type int"),
    ({"beta_start": 0.0}, "beta_start, beta_end=(0.0, 0.02): must satisfy 0 < beta_start <= beta_end < 1"),
    ({"beta_end": 1.0}, "beta_start, beta_end=(0.0001, 1.0): must satisfy"),
    ({"beta_start": 0.1}, "beta_start, beta_end=(0.1, 0.02): must satisfy"),
    ({"beta_start": float("nan")}, "beta_start, beta_end=(nan, 0.02): must satisfy"),
    ({"timesteps": 20, "beta_scaling": True}, "timesteps=20: beta_scaling gives beta=1 >= 1; T must exceed 20"),
    ({"zero_terminal_snr": True}, "objective='eps': zero_terminal_snr has alpha_bar = 0 at the last step"),
    ({"schedule": "jsd", "loss": "kl"}, "objective='eps': the schedule has alpha_bar = 0 at the last step"),
    ({"loss": "kl", "loss_weight": "p2"}, "loss_weight='p2': must be none with loss kl, a term of the bound in bits per dimension"),
    ({"loss": "rescaled_kl", "loss_sum": True}, "loss_sum=True: must be False with loss rescaled_kl"),
    ({"timesteps": 2, "told_timesteps": (0.0,)}, "told_timesteps='1 numbers': must be as many as timesteps=2"),
    ({"timesteps": 2, "told_timesteps": (0.0, 5.0), "rescale_timesteps": True}, "rescale_timesteps=True: goes without told"),
    ({"timesteps": 2, "told_timesteps": (0, 5)}, "told_timesteps=(0, 5): must be of type tuple[float, ...]"),
    ({"timesteps": 3, "trained_betas": (0.1, 0.2)}, "trained_betas='2 numbers': must be as many as timesteps=3"),
    ({"timesteps": 100, "trained_betas": (0.01,) * 100, "beta_scaling": True}, "beta_scaling=True: goes without trained_betas"),
    ({"timesteps": 2, "trained_betas": (1.0, 0.5)}, "trained_betas='2 numbers': must be as many as timesteps=2, each between 0"),
    ({"schedule": "jsd", "timesteps": 1}, "timesteps=1: the schedule needs a step before the one that ends at alpha_bar = 0"),
    ({"schedule": "jsd", "variance": "learned_range"}, "objective='eps': the schedule has alpha_bar = 0 at the last step"),
    ({"schedule": "jsd", "self_conditioning": True}, "objective='eps': the schedule has alpha_bar = 0 at the last step"),
    ({"schedule": "jsd", "loss_weight": "p2", "p2_k": 0.0}, "p2_k=0.0: must be above 0: the schedule has SNR = 0"),
    ({"zero_terminal_snr": True, "objective": "v", "timesteps": 1}, "timesteps=1: zero_terminal_snr needs a step before"),
    ({"timesteps": 100_000}, "timesteps=100000: schedule linear takes alpha_bar from 0.9999 to 1.19e-322: it must fall no further "
                             "than 1.4e-76; beta_scaling keeps linear betas there for every T"),
    ({"timesteps": 20_000}, "timesteps=20000: schedule linear takes alpha_bar from 0.9999 to 1.32e-88"),
    ({"timesteps": 20_000, "zero_terminal_snr": True, "objective": "x0", "beta_end": 0.9}, "timesteps=20000: schedule linear"),
    ({"beta_start": 1e-17, "beta_end": 1e-17}, "beta_start, beta_end=(1e-17, 1e-17): schedule linear takes alpha_bar from 1 to 1: "
                                               "it must fall below 1 and at every step in float64"),
    ({"p2_gamma": float("inf")}, "p2_gamma=inf: must be finite and not negative"),
    ({"min_snr_gamma": -1.0}, "min_snr_gamma=-1.0: must be finite and not negative"),
])
def test_a_diffusion_that_cannot_be(change, message):
    with pytest.raises(ConfigError, match=says(message)):
        DiffusionConfig(**change)


@pytest.mark.parametrize("T", [21, 10_000, 1_000_000])
def test_scaled_and_closed_schedules_serve_any_T(T):
    assert DiffusionConfig(timesteps=T, beta_scaling=True).timesteps == T
    assert DiffusionConfig(timesteps=T, schedule="cosine").timesteps == T


@pytest.mark.parametrize("change, message", [
    ({"lr": 0.0}, "lr=0.0: must be positive and finite"),
    ({"lr": float("nan")}, "lr=nan: must be positive and finite"),
    ({"beta2": 1.0}, "beta2=1.0: must be in [0, 1)"),
    ({"ema_decay": -0.1}, "ema_decay=-0.1: must be in [0, 1)"),
    ({"eps": 0.0}, "eps=0.0: must be positive"),
    ({"warmup_steps": -1}, "warmup_steps=-1: must be finite and not negative"),
    ({"max_grad_norm": float("inf")}, "max_grad_norm=inf: must be finite and not negative"),
    ({"min_lr": 1.0}, "min_lr=1.0: must be between 0 and lr"),
    ({"min_lr": -1e-9}, "min_lr=-1e-09: must be between 0 and lr"),
    ({"decay_every": 0}, "decay_every=0: must be at least 1"),
    ({"warmup_steps": 10, "total_steps": 10}, "total_steps=10: must exceed warmup_steps=10"),
])
def test_an_optimiser_that_cannot_be(change, message):
    with pytest.raises(ConfigError, match=says(message)):
        OptimConfig(**change)


@pytest.mark.parametrize("record", RECORDS)
def test_json_round_trip(record):
    config = record()
    assert record.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert hash(config) == hash(record.from_dict(config.to_dict()))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.lr = 1  # type: ignore[misc]


@LAW
@given(diffusions())
def test_json_round_trip_of_any_diffusion(config):
    assert DiffusionConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("record", RECORDS)
def test_unknown_key_is_an_error_unless_told(record):
    with pytest.raises(ConfigError, match=rf"^{record.__name__}=\['learning_rate'\]: unknown keys; known are "):
        record.from_dict({"learning_rate": 1})
    assert record.from_dict({"learning_rate": 1}, ignore_unknown=True) == record()


def test_reads_the_published_cifar10_network():
    config = ModelConfig.from_dict(CIFAR10, ignore_unknown=True)
    assert config.block_out_channels == (128, 256, 256, 256) and config.norm_eps == 1e-6
    assert config.heads(256) == 1


def test_heads():
    assert ModelConfig(attention_head_dim=8).heads(32) == 4
    assert ModelConfig(num_attention_heads=4).heads(64) == 4
    assert ModelConfig().heads(64) == 1


def test_heads_are_checked_where_attention_is():
    """Widths 16, 32, 64 with attention at 32 and in the middle: a head of 32 divides both, though not 16."""
    assert ModelConfig(attention_head_dim=32).heads(64) == 2
    with pytest.raises(ConfigError, match=says("attention_head_dim=32: must divide the block's width 16")):
        ModelConfig(attention_head_dim=32, down_block_types=("AttnDownBlock2D",) * 3, up_block_types=("AttnUpBlock2D",) * 3)


def test_attention_on_the_way_up_counts_from_the_other_end():
    """The first block up has the last width."""
    none, up = ("DownBlock2D",) * 3, ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D")
    assert ModelConfig(down_block_types=none, up_block_types=up).attention_widths == (64,)
    assert ModelConfig(down_block_types=none, up_block_types=up[::-1]).attention_widths == (16, 64)


def test_weights_of_power_0_need_no_k():
    """(0 + SNR)^0 is 1 also where SNR is 0."""
    assert DiffusionConfig(schedule="jsd", loss_weight="p2", p2_k=0.0, p2_gamma=0.0).p2_gamma == 0


def test_learned_variance():
    assert [v for v in VARIANCES if DiffusionConfig(variance=v).learned_variance] == ["learned", "learned_range"]


@pytest.mark.parametrize(("make", "word"), [
    (lambda: DiffusionConfig(timesteps=2, trained_betas=(0.1, 1.5)), "trained_betas"),
    (lambda: ModelConfig(attn_norm_num_groups=0), "attn_norm_num_groups=0"),
    (lambda: ModelConfig(time_embedding_dim=0), "time_embedding_dim=0"),
    (lambda: parse_clip("dynamic:1.5"), "clip='dynamic:1.5'"),
    (lambda: parse_clip("none:1"), "clip='none:1'"), (lambda: parse_clip("clip:2"), "clip='clip:2'"),
    (lambda: ModelConfig(resnet_time_scale_shift="spatial"), "resnet_time_scale_shift='spatial'"),
    (lambda: parse_clip("inf"), "clip='inf'"), (lambda: Scheduler(clip_sample_range=math.inf), "clip_sample_range=inf"),
    (lambda: Scheduler(sample_max_value=math.inf), "sample_max_value=inf"),
    (lambda: Scheduler(dynamic_thresholding_ratio=0.0), "dynamic_thresholding_ratio=0.0"),
    (lambda: Scheduler("DDIMScheduler", solver={"solver_order": 2}), "solver={'solver_order': 2}: is of DPMSolverMultistep"),
    (lambda: Scheduler("PNDMScheduler", clip_sample=True), "PNDMScheduler=['clip_sample']: are keys of solver for this class"),
])
def test_the_end_of_each_range_is_its_own(make, word):
    """A beta above 1, a norm of no groups, an embedding of no width, a quantile above 1, a number after words that take none,
    ranges without an end, settings of another class."""
    with pytest.raises(ConfigError, match=says(word)):
        make()


def test_time_is_cancelled_where_a_group_is_one_channel():
    """Unless the embedding scales and shifts what the norm gives."""
    narrow = ModelConfig(norm_num_groups=16)
    assert narrow.cancels_time and not ModelConfig().cancels_time
    assert not dataclasses.replace(narrow, resnet_time_scale_shift="scale_shift").cancels_time


def test_a_quantile_of_1_is_the_largest_pixel():
    assert (parse_clip("dynamic:1").ratio, parse_clip("dynamic").ratio) == (1, 0.995)


def test_thresholding_without_a_largest_value_goes_to_one():
    """As diffusers' own default."""
    assert Scheduler(thresholding=True).clip == "dynamic:0.995:1.0"


def test_alpha_bar_may_stand_still_in_float32_tables():
    """1 - 1e-9 is 1 in float32, and 1 - 1e-17 in float64."""
    config = DiffusionConfig(timesteps=3, trained_betas=(0.1, 1e-9, 0.1))
    config.check_tables()
    config.check_tables(float32_tables=True)
    with pytest.raises(ConfigError, match="below 1 and at every step in float64"):
        DiffusionConfig(timesteps=3, trained_betas=(0.1, 1e-17, 0.1)).check_tables()
