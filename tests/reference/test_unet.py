"""The NumPy UNet's layers against plain loops and SciPy, and the whole net's invariances.

`test_diffusers` compares it with another implementation.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy.signal import correlate

from reference import unet, weights
from reference.config import ModelConfig

ATTENTION = ModelConfig(sample_size=8, block_out_channels=(8, 16), norm_num_groups=4, in_channels=2, out_channels=3,
                        down_block_types=("AttnDownBlock2D", "DownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"))


def random_weights(config: ModelConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Every parameter random, norms and biases too, so that none can be forgotten."""
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape) * (0.3 if len(shape) == 1 else 0.5 / math.sqrt(np.prod(shape[1:])))
            + ("norm" in name and name.endswith("weight")) for name, shape in weights.shapes(config).items()}


def normal(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def test_time_embedding_by_hand():
    """Width 8 has four frequencies, 10000^(-k/3): 1, 10^(-4/3), 10^(-8/3), 10^-4; without the shift 10000^(-k/4) = 10^-k."""
    base = ModelConfig(block_out_channels=(8, 16, 32), norm_num_groups=4)
    got = unet.time_proj(np.array([0.0, 977.0]), base)
    assert got.shape == (2, 8) and got[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    angle = [977 * 10 ** (-4 * k / 3) for k in range(4)]
    np.testing.assert_allclose(got[1], [*map(math.sin, angle), *map(math.cos, angle)], rtol=0, atol=1e-12)
    flipped = unet.time_proj(np.array([977.0]), dataclasses.replace(base, flip_sin_to_cos=True, freq_shift=0))[0]
    angle = [977 * 10.0**-k for k in range(4)]
    np.testing.assert_allclose(flipped, [*map(math.cos, angle), *map(math.sin, angle)], rtol=0, atol=1e-12)


def test_silu():
    x = np.array([-800.0, -1.0, 0.0, 1.0, 800.0])
    np.testing.assert_allclose(unet.silu(x), [0, -1 / (1 + math.e), 0, math.e / (1 + math.e), 800], rtol=1e-15, atol=1e-300)


@pytest.mark.parametrize("size", [1, 3])
def test_conv_is_correlation(size):
    w = {"c.weight": normal(4, 3, size, size), "c.bias": normal(4, seed=2)}
    x = normal(2, 3, 6, 6, seed=3)
    expected = np.array([[correlate(np.pad(image, ((0, 0), *2 * [(size // 2, size // 2)])), kernel, "valid")[0] + b
                          for kernel, b in zip(w["c.weight"], w["c.bias"], strict=True)] for image in x])
    np.testing.assert_allclose(unet.conv(w, "c", x), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("padding", [0, 1])
def test_downsampling_padding(padding):
    """A kernel that picks its upper left tap reads x[2i, 2j] when only right and bottom are padded, x[2i - 1, 2j - 1] when all
    sides are; one that picks the lower right tap reads x[2i + 2, 2j + 2] or x[2i + 1, 2j + 1]."""
    x = np.arange(16.0).reshape(1, 1, 4, 4) + 1
    config = ModelConfig(downsample_padding=padding)
    taps = {}
    for tap in (0, 2):
        kernel = np.zeros((1, 1, 3, 3))
        kernel[0, 0, tap, tap] = 1
        taps[tap] = unet.downsample({"d.conv.weight": kernel, "d.conv.bias": np.zeros(1)}, "d", x, config)[0, 0].tolist()
    assert taps[0] == ([[1, 3], [9, 11]] if padding == 0 else [[0, 0], [0, 6]])
    assert taps[2] == ([[11, 0], [0, 0]] if padding == 0 else [[6, 8], [14, 16]])


def test_upsampling_repeats_neighbours():
    x = np.array([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 1, 2, 2)
    kernel = np.zeros((1, 1, 3, 3))
    kernel[0, 0, 1, 1] = 1
    got = unet.upsample({"u.conv.weight": kernel, "u.conv.bias": np.zeros(1)}, "u", x)
    assert got[0, 0].tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]


def test_group_norm_by_hand():
    """Two groups of one channel pair: (1, 3) has mean 2 and variance 1, (10, 14) has 12 and 4; eps = 1 goes inside the root."""
    config = dataclasses.replace(ATTENTION, norm_num_groups=2, norm_eps=1.0)
    x = np.array([1.0, 3.0, 10.0, 14.0]).reshape(1, 4, 1, 1)
    w = {"n.weight": np.array([1.0, 2.0, 1.0, 1.0]), "n.bias": np.array([0.0, 0.0, 5.0, 0.0])}
    r = [1 / math.sqrt(2), 2 / math.sqrt(5)]
    np.testing.assert_allclose(unet.group_norm(w, "n", x, config).ravel(), [-r[0], 2 * r[0], 5 - r[1], r[1]], rtol=1e-15)


@pytest.mark.parametrize("choice, heads", [({}, 1), ({"attention_head_dim": 4}, 4), ({"num_attention_heads": 2}, 2)])
def test_attention_in_plain_loops(choice, heads):
    config = dataclasses.replace(ATTENTION, **choice)
    c, h = 16, 3
    assert config.heads(c) == heads
    shapes = {k: s for k, s in weights.shapes(config).items() if k.startswith("mid_block.attentions.0")}
    rng = np.random.default_rng(0)
    w = {name.removeprefix("mid_block.attentions.0."): rng.standard_normal(shape) for name, shape in shapes.items()}
    x = normal(2, c, h, h)
    normed = unet.group_norm(w, "group_norm", x, config)
    expected = x.copy()
    for n in range(2):
        tokens = [normed[n, :, i, j] for i in range(h) for j in range(h)]
        q, k, v = ([w[f"{part}.weight"] @ token + w[f"{part}.bias"] for token in tokens] for part in ("to_q", "to_k", "to_v"))
        for a, query in enumerate(q):
            mixed = np.zeros(c)
            for head in range(heads):
                part = slice(head * c // heads, (head + 1) * c // heads)
                scores = np.array([query[part] @ key[part] for key in k]) / math.sqrt(c / heads)
                share = np.exp(scores) / np.exp(scores).sum()
                mixed[part] = sum(s * value[part] for s, value in zip(share, v, strict=True))
            expected[n, :, a // h, a % h] += w["to_out.0.weight"] @ mixed + w["to_out.0.bias"]
    named = {f"a.{name}": value for name, value in w.items()}
    np.testing.assert_allclose(unet.attention(named, "a", x, config), expected, rtol=0, atol=1e-11)


def test_attention_survives_large_scores():
    w = {f"a.{part}.weight": 1e3 * np.eye(8) for part in ("to_q", "to_k", "to_v", "to_out.0")}
    w |= {f"a.{part}.bias": np.zeros(8) for part in ("to_q", "to_k", "to_v", "to_out.0")}
    w |= {"a.group_norm.weight": np.ones(8), "a.group_norm.bias": np.zeros(8)}
    assert np.isfinite(unet.attention(w, "a", normal(1, 8, 2, 2), ATTENTION)).all()


def test_resnet_by_hand():
    """shortcut(x) + conv2(silu(norm2(conv1(silu(norm1(x))) + projection(silu(temb))))), the linear parts as sums."""
    w = {name.removeprefix("down_blocks.1.resnets.0."): value for name, value in random_weights(ATTENTION).items()
         if name.startswith("down_blocks.1.resnets.0.")}
    w = {f"r.{name}": value for name, value in w.items()}
    x, temb = normal(2, 8, 4, 4), normal(2, 32, seed=5)
    h = unet.conv(w, "r.conv1", unet.silu(unet.group_norm(w, "r.norm1", x, ATTENTION)))
    h = h + np.einsum("oi,ni->no", w["r.time_emb_proj.weight"], temb / (1 + np.exp(-temb)))[..., None, None]
    h = h + w["r.time_emb_proj.bias"][:, None, None]
    h = unet.conv(w, "r.conv2", unet.silu(unet.group_norm(w, "r.norm2", h, ATTENTION)))
    shortcut = np.einsum("oi,nihw->nohw", w["r.conv_shortcut.weight"][:, :, 0, 0], x) + w["r.conv_shortcut.bias"][:, None, None]
    np.testing.assert_allclose(unet.resnet(w, "r", x, temb, ATTENTION), h + shortcut, rtol=0, atol=1e-12)


@pytest.fixture(scope="module")
def net():
    return random_weights(ATTENTION)


def test_images_of_a_batch_do_not_mix(net):
    x, t = normal(3, 2, 8, 8), np.array([0, 500, 999])
    together = unet.forward(net, ATTENTION, x, t)
    assert together.shape == (3, 3, 8, 8) and together.dtype == np.float64
    for n in range(3):
        np.testing.assert_allclose(unet.forward(net, ATTENTION, x[n:n + 1], t[n:n + 1])[0], together[n], rtol=0, atol=1e-12)


def test_output_depends_on_every_parameter(net):
    x, t = normal(1, 2, 8, 8), np.array([321.0])
    before = unet.forward(net, ATTENTION, x, t)
    for name in net:
        # A key's bias shifts all scores of a query alike, which softmax ignores.
        changed = unet.forward(net | {name: net[name] + normal(*net[name].shape, seed=9)}, ATTENTION, x, t)
        assert (np.abs(changed - before).max() > 1e-6) != name.endswith("to_k.bias"), name


def test_output_depends_on_t(net):
    x = normal(1, 2, 8, 8)
    a, b = (unet.forward(net, ATTENTION, x, np.array([t])) for t in (10, 11))
    assert np.abs(a - b).max() > 1e-4


def test_zero_initialised_network_says_its_last_bias():
    w = weights.initialise(ATTENTION, 0) | {"conv_out.bias": np.array([1, 2, 3], np.float32)}
    out = unet.forward(w, ATTENTION, normal(1, 2, 8, 8), np.array([5]))
    np.testing.assert_array_equal(out, np.broadcast_to(np.array([1.0, 2, 3])[:, None, None], (1, 3, 8, 8)))


def test_activations_are_named_after_their_modules(net):
    seen: dict[str, np.ndarray] = {}
    out = unet.forward(net, ATTENTION, normal(1, 2, 8, 8), np.array([5]), seen)
    blocks = {name.rsplit(".", 1)[0] for name in net}
    for inner in ("conv1", "conv2", "norm1", "norm2", "time_emb_proj", "conv_shortcut", "group_norm", "to_q", "to_k", "to_v",
                  "to_out.0", "linear_1", "linear_2", "conv"):
        blocks = {b.removesuffix(f".{inner}") for b in blocks}
    assert set(seen) == blocks - {"conv_norm_out"}
    np.testing.assert_array_equal(seen["conv_out"], out)


def test_skips_are_used_last_in_first_out(net):
    """The second up block's last resnet joins its input with conv_in's output: recomputed from the recorded activations."""
    seen: dict[str, np.ndarray] = {}
    unet.forward(net, ATTENTION, normal(1, 2, 8, 8), np.array([5]), seen)
    joined = np.concatenate((seen["up_blocks.1.resnets.0"], seen["conv_in"]), axis=1)
    temb = seen["time_embedding"]
    np.testing.assert_allclose(unet.resnet(net, "up_blocks.1.resnets.1", joined, temb, ATTENTION), seen["up_blocks.1.resnets.1"],
                               rtol=0, atol=1e-13)
