"""The UNet's building blocks in MindSpore, each as the framework's plain layer (stock) and as its fastest form (tuned).

Gains named below were measured on CPU with MindSpore 2.8.0. A tuned layer computes the same function.
"""

from __future__ import annotations

import math

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from reference.config import ModelConfig


def time_proj(t: Tensor, config: ModelConfig) -> Tensor:
    """Sinusoidal embedding of t (N,), float64 (N, first width): frequencies 10000^(-k / (half - freq_shift)).

    float64 because a float32 angle is up to 2.6e-5 off at t = 977.
    """
    half = config.block_out_channels[0] // 2
    freqs = Tensor(np.exp(-math.log(10000.0) * np.arange(half) / (half - config.freq_shift)))
    angle = t.astype(ms.float64).reshape(-1, 1) * freqs
    order = (ops.cos(angle), ops.sin(angle)) if config.flip_sin_to_cos else (ops.sin(angle), ops.cos(angle))
    return ops.cat(order, axis=1)


def _parameter(*shape: int) -> Parameter:
    return Parameter(Tensor(np.zeros(shape, np.float32)))


class Conv2d(nn.Cell):
    """Convolution with bias; `pad` is its (top, bottom, left, right). The primitives of nn.Conv2d, in both modes."""

    def __init__(self, cin: int, cout: int, kernel: int, pad: tuple[int, int, int, int], stride: int) -> None:
        super().__init__()
        self.weight, self.bias = _parameter(cout, cin, kernel, kernel), _parameter(cout)
        self.conv2d = ops.Conv2D(cout, kernel, pad_mode="pad", pad=pad, stride=stride)
        self.bias_add = ops.BiasAdd()

    def construct(self, x: Tensor) -> Tensor:
        """(N, cin, H, W) to (N, cout, H', W')."""
        return self.bias_add(self.conv2d(x, self.weight), self.bias)  # half the time of ops.conv2d(.., bias)


class Linear(nn.Cell):
    """x (N, cin) to (N, cout)."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.weight, self.bias = _parameter(cout, cin), _parameter(cout)
        self.matmul, self.bias_add = ops.MatMul(transpose_b=True), ops.BiasAdd()

    def construct(self, x: Tensor) -> Tensor:
        """One product of matrices."""
        return self.bias_add(self.matmul(x, self.weight), self.bias)


class GroupNorm(nn.Cell):
    """Zero mean and unit variance per image and group, then scale and shift per channel. `groups` are the config's unless given."""

    def __init__(self, channels: int, config: ModelConfig, tuned: bool, groups: int | None = None) -> None:
        super().__init__()
        self.weight, self.bias = _parameter(channels), _parameter(channels)
        self.groups, self.eps, self.tuned = groups or config.norm_num_groups, config.norm_eps, tuned
        self.batch_norm = ops.BatchNorm(is_training=True, epsilon=config.norm_eps, momentum=0.0)
        self.bias_add = ops.BiasAdd()

    def construct(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        n, c, h, w = x.shape
        if not self.tuned:
            return ops.group_norm(x, self.groups, self.weight, self.bias, self.eps)
        # Images and groups as the channels of one batch norm: its kernel takes a fifth of group_norm's time. It writes its
        # running statistics in place, so it gets fresh ones each time.
        rows = n * self.groups
        one, zero = ops.ones((rows,), ms.float32), ops.zeros((rows,), ms.float32)
        mean, variance = ops.zeros((rows,), ms.float32), ops.ones((rows,), ms.float32)
        y = self.batch_norm(x.reshape(1, rows, c // self.groups * h, w), one, zero, mean, variance)[0]
        return self.bias_add(y.reshape(n, c, h, w) * self.weight.reshape(1, c, 1, 1), self.bias)


def mish(x: Tensor) -> Tensor:
    """MindSpore's own, and x itself above 20, where float32 has no difference: on a CPU it is NaN above 44 (MindSpore 2.8)."""
    return ops.mish(ops.minimum(x, 20)) + ops.relu(x - 20)


ACTIVATIONS = {"silu": ops.silu, "swish": ops.silu, "relu": ops.relu, "gelu": ops.gelu, "mish": mish}


class AddShift(nn.Cell):
    """h (N, C, H, W) plus shift (N or 1, C) at every position."""

    def __init__(self, tuned: bool) -> None:
        super().__init__()
        self.tuned, self.bias_add = tuned, ops.BiasAdd()

    def construct(self, h: Tensor, shift: Tensor) -> Tensor:
        """As BiasAdd, whose kernel is faster than a broadcast sum."""
        n, c, height, width = h.shape
        if not self.tuned:
            return h + shift.reshape(-1, c, 1, 1)
        if shift.shape[0] == 1:
            return self.bias_add(h, shift.reshape(c))
        return self.bias_add(h.reshape(1, n * c, height, width), shift.reshape(n * c)).reshape(n, c, height, width)


class Dropout(nn.Cell):
    """In training, zero a share p of the elements and divide the others by 1 - p.

    A hash of `key` and the position says which: MindSpore's own random states can't be saved, and a resumed run would drop others.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def construct(self, x: Tensor, key: Tensor) -> Tensor:
        """x of any shape; key () int32, another one for each step and layer."""
        if self.p == 0 or not self.training:
            return x
        size = 1
        for length in x.shape:
            size *= length
        h = ops.arange(size).astype(ms.int32) * -1640531535 + key * -2048144777  # odd constants; products wrap around
        for shift, factor in ((15, 739982445), (12, 695872825)):
            h = ops.bitwise_xor(h, ops.bitwise_right_shift(h, shift)) * factor
        h = ops.bitwise_xor(h, ops.bitwise_right_shift(h, 15))
        keep = ops.bitwise_and(h, 0xFFFFFF) >= int(self.p * 2**24)
        return x * keep.reshape(x.shape).astype(x.dtype) / (1 - self.p)


class TimeEmbedding(nn.Cell):
    """Two-layer perceptron on the sinusoidal embedding."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.block_out_channels[0]
        self.linear_1 = Linear(width, config.time_width)
        self.linear_2 = Linear(config.time_width, config.time_width)

    def construct(self, x: Tensor) -> Tensor:
        """(N, first width) to (N, time width)."""
        return self.linear_2(ops.silu(self.linear_1(x)))


class Attention(nn.Cell):
    """Self-attention over the H W positions, scaled by head_dim^-1/2, around a shortcut. `groups` of its norm: None for no norm.
    `divisor` divides the sum."""

    def __init__(self, channels: int, config: ModelConfig, groups: int | None, tuned: bool, divisor: float = 1) -> None:
        super().__init__()
        self.heads = config.heads(channels)
        self.divisor = divisor
        self.group_norm = GroupNorm(channels, config, tuned, groups) if groups else nn.Identity()
        self.to_q = Linear(channels, channels)
        self.to_k = Linear(channels, channels)
        self.to_v = Linear(channels, channels)
        self.to_out = nn.CellList([Linear(channels, channels)])
        self.scores, self.mix = ops.BatchMatMul(transpose_b=True), ops.BatchMatMul()
        self.scale = (channels // self.heads) ** -0.5

    def construct(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        n, c, h, w = x.shape
        tokens = self.group_norm(x).reshape(n, c, h * w).transpose(0, 2, 1).reshape(n * h * w, c)
        split = (n, h * w, self.heads, c // self.heads)
        q = self.to_q(tokens).reshape(split).transpose(0, 2, 1, 3)
        k = self.to_k(tokens).reshape(split).transpose(0, 2, 1, 3)
        v = self.to_v(tokens).reshape(split).transpose(0, 2, 1, 3)
        mixed = self.mix(ops.softmax(self.scores(q * self.scale, k), axis=-1), v)
        mixed = self.to_out[0](mixed.transpose(0, 2, 1, 3).reshape(n * h * w, c))
        y = x + mixed.reshape(n, h * w, c).transpose(0, 2, 1).reshape(n, c, h, w)
        return y if self.divisor == 1 else y / self.divisor


def halve(x: Tensor) -> Tensor:
    """The mean of each 2 x 2 pixels."""
    n, c, h, w = x.shape
    return x.reshape(n, c, h // 2, 2, w // 2, 2).mean((3, 5))


def double(x: Tensor, tuned: bool) -> Tensor:
    """Nearest neighbour."""
    if tuned:
        return ops.interpolate(x, size=(2 * x.shape[2], 2 * x.shape[3]), mode="nearest")
    return ops.repeat_interleave(ops.repeat_interleave(x, 2, 2), 2, 3)


class Downsample(nn.Cell):
    """Strided convolution; padding 0 means right and bottom only."""

    def __init__(self, channels: int, config: ModelConfig) -> None:
        super().__init__()
        pad = (1, 1, 1, 1) if config.downsample_padding else (0, 1, 0, 1)
        self.conv = Conv2d(channels, channels, 3, pad, 2)

    def construct(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H/2, W/2)."""
        return self.conv(x)


class Upsample(nn.Cell):
    """Nearest neighbour, then a convolution."""

    def __init__(self, channels: int, tuned: bool) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, (1, 1, 1, 1), 1)
        self.tuned = tuned

    def construct(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, 2H, 2W)."""
        return self.conv(double(x, self.tuned))
