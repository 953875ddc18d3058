"""Names, shapes and seeded initial values of the UNet's parameters."""

from __future__ import annotations

import re

import numpy as np
import pytest

from reference import weights
from reference.config import ConfigError, ModelConfig

from .test_config import CIFAR10

SMALL = ModelConfig(sample_size=8, block_out_channels=(16, 32), down_block_types=("DownBlock2D", "AttnDownBlock2D"),
                    up_block_types=("AttnUpBlock2D", "UpBlock2D"))


def test_cifar10_network_has_the_published_number_of_parameters():
    """DDPM appendix B says 35.7 million; diffusers' google/ddpm-cifar10-32 has 35,746,307."""
    assert weights.count(ModelConfig.from_dict(CIFAR10, ignore_unknown=True)) == 35_746_307


def test_shapes_by_hand():
    shapes = weights.shapes(SMALL)
    assert shapes["conv_in.weight"] == (16, 1, 3, 3) and shapes["conv_out.bias"] == (1,)
    assert shapes["time_embedding.linear_1.weight"] == (64, 16) and shapes["time_embedding.linear_2.weight"] == (64, 64)
    assert shapes["down_blocks.1.resnets.0.conv1.weight"] == (32, 16, 3, 3)
    assert shapes["down_blocks.1.resnets.0.conv_shortcut.weight"] == (32, 16, 1, 1)
    assert "down_blocks.0.resnets.0.conv_shortcut.weight" not in shapes
    assert shapes["down_blocks.1.attentions.0.to_out.0.weight"] == (32, 32)
    # Skips are 16 (conv_in), 16, 16 (downsampler), 32: the up path joins 32 + 32, 32 + 16, then 32 + 16, 16 + 16.
    assert [shapes[f"up_blocks.{i}.resnets.{j}.norm1.weight"] for i in (0, 1) for j in (0, 1)] == [(64,), (48,), (48,), (32,)]
    assert list(shapes)[0] == "conv_in.weight" and list(shapes)[-1] == "conv_out.bias"


def philox(key: int, counter: list[int]) -> list[int]:
    """Philox-4x64 with 10 rounds (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3")."""
    mask, (k0, k1), (c0, c1, c2, c3) = 2**64 - 1, (key, 0), counter
    for _ in range(10):
        p0, p1 = 0xD2E7470EE14C6C93 * c0, 0xCA5A826395121157 * c2
        c0, c1, c2, c3 = (p1 >> 64) ^ c1 ^ k0, p1 & mask, (p0 >> 64) ^ c3 ^ k1, p0 & mask
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & mask, (k1 + 0xBB67AE8584CAA73B) & mask
    return [c0, c1, c2, c3]


def test_philox_is_the_published_one():
    """Known answer for counter 0 and key 0, from Random123's kat_vectors."""
    assert philox(0, [0, 0, 0, 0]) == [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]


def test_initial_values_by_hand():
    """Parameter n, in order, is drawn at counter (1, 0, n, 0) on: 53 bits to [-1, 1), times sqrt(6 / (9 (in + out)))."""
    got = weights.initialise(ModelConfig(zero_init=False), seed=7)
    for name, bound in (("conv_in.weight", np.sqrt(6 / (9 * 17))), ("time_embedding.linear_1.weight", np.sqrt(6 / 80)),
                        ("conv_out.weight", np.sqrt(6 / (9 * 17)))):
        n = list(got).index(name)
        bits = [b for i in (1, 2) for b in philox(7, [i, 0, n, 0])]
        expected = [((b >> 11) / 2**52 - 1) * bound for b in bits]
        np.testing.assert_array_equal(got[name].ravel()[:8], np.float32(expected))


def test_initial_values_follow_their_rule():
    got = weights.initialise(ModelConfig(zero_init=False), seed=0)
    assert {n: w.shape for n, w in got.items()} == weights.shapes(ModelConfig())
    for name, w in got.items():
        assert w.dtype == np.float32
        if w.ndim == 1:
            assert (w == (1 if re.search(r"norm\d?\.weight|norm_out\.weight", name) else 0)).all(), name
        elif w.size > 5000:  # fan-average: variance 2 / (receptive field (in + out))
            receptive = np.prod(w.shape[2:])
            assert w.var() == pytest.approx(2 / (receptive * (w.shape[0] + w.shape[1])), rel=0.05), name
            assert abs(w.mean()) < 4 * w.std() / np.sqrt(w.size), name


def test_zero_init_zeroes_the_end_of_each_residual_branch():
    got = weights.initialise(SMALL, seed=0)
    zero = {name for name, w in got.items() if w.ndim > 1 and not w.any()}
    assert zero == {name for name in got if re.search(r"(conv2|to_out\.0|conv_out)\.weight$", name)} and len(zero) > 8


def test_seeds_give_different_networks():
    a, b = weights.initialise(SMALL, 0), weights.initialise(SMALL, 1)
    assert not np.array_equal(a["conv_in.weight"], b["conv_in.weight"])
    np.testing.assert_array_equal(a["conv_in.weight"], weights.initialise(SMALL, 0)["conv_in.weight"])
    with pytest.raises(ConfigError, match="seed=-1: must be 0 or more"):
        weights.initialise(SMALL, -1)


def test_check_names_the_first_thing_wrong():
    good = weights.initialise(SMALL, 0)
    weights.check(good, SMALL, "file")
    missing = {k: v for k, v in good.items() if k != "conv_in.bias"}
    for bad, message in (
        (missing, "file='conv_in.bias': parameter is missing"),
        (good | {"conv_in.bias": np.zeros(3, np.float32)}, "file='conv_in.bias (3,)': shape must be (16,)"),
        *((good | {"conv_in.bias": np.array([0.0] * 15 + [value], np.float32)}, "file='conv_in.bias': holds a NaN or an infinity")
          for value in (np.nan, np.inf, -np.inf)),
        (good | {"extra": np.zeros(1)}, "file=['extra']: parameter is not part of this network"),
    ):
        with pytest.raises(ConfigError, match="^" + re.escape(message)):
            weights.check(bad, SMALL, "file")
