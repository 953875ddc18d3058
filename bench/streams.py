"""Counter-based random streams: every number that decides a result is a function of (seed, purpose, sample id, step).

Results therefore depend neither on the backend nor on which samples share a batch. The bits are those of
`numpy.random.Philox` (Philox4x64-10, Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), computed here for
many counters at once. NumPy pins that raw stream across versions but not its distributions, so those are made here.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reference.config import require

# Word 1 of the Philox key. 0 belongs to `reference.weights.initialise`. Numbers are never reused: they pin old results.
PURPOSES = {
    "order": 1, "flip": 2, "t": 3, "noise": 4, "self_conditioning": 5,  # training, by position in the training stream
    "x_T": 6, "z": 7,  # sampling, by image and (z) step of the path
    "bootstrap": 8, "check": 9, "split": 10, "extractor": 11,
    "subset": 12,  # of the images that a metric takes, by their number
    "bound": 13,  # of the likelihood, by image and timestep
    "ceiling": 14,  # of the metric's noise images, by image
}
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_CHUNK = 1 << 15  # words worked on at once: the temporaries stay in the cache


def _multiply(a: int, b: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """High and low 64 bits of a * b, by 32-bit halves."""
    a_high, a_low, b_high, b_low = np.uint64(a >> 32), np.uint64(a) & _LOW, b >> _32, b & _LOW
    middle = a_high * b_low + (a_low * b_low >> _32)
    carry = a_low * b_high + (middle & _LOW)
    return a_high * b_high + (middle >> _32) + (carry >> _32), np.uint64(a) * b


def _philox(counter: list[NDArray[np.uint64]], key: tuple[int, int]) -> list[NDArray[np.uint64]]:
    c0, c1, c2, c3 = counter
    for i in range(10):
        k0, k1 = (np.uint64((k + i * w) % 2**64) for k, w in zip(key, (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B), strict=True))
        high0, low0 = _multiply(0xD2E7470EE14C6C93, c0)
        high1, low1 = _multiply(0xCA5A826395121157, c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
    return [c0, c1, c2, c3]


def words(seed: int, purpose: str, ids: ArrayLike, count: int, step: int = 0) -> NDArray[np.uint64]:
    """Raw bits, (len(ids), count) uint64.

    Row r is `np.random.Philox(key=[seed, PURPOSES[purpose]], counter=[0, step, ids[r], 0]).random_raw(count)`.
    Raises `ConfigError` for an unknown purpose, or for a negative seed, id or step.
    """
    require(isinstance(seed, int) and 0 <= seed < 2**64, "seed", seed, "must be an integer from 0 to 2^64 - 1")
    require(purpose in PURPOSES, "purpose", purpose, f"must be one of {', '.join(PURPOSES)}")
    require(step >= 0, "step", step, "must be 0 or more")
    ids = np.asarray(ids, np.int64)
    require(ids.ndim == 1 and bool((ids >= 0).all()), "ids", ids.shape, "must be one axis of numbers of 0 or more")
    blocks = -(-count // 4)
    out = np.empty((len(ids), blocks, 4), np.uint64)
    rows = max(1, _CHUNK // max(count, 1))
    for start in range(0, len(ids), rows):
        part = ids[start:start + rows]
        index = np.tile(np.arange(1, blocks + 1, dtype=np.uint64), len(part))  # NumPy's Philox counts before it computes
        sample = np.repeat(part.astype(np.uint64), blocks)
        counter = [index, np.full_like(index, step), sample, np.zeros_like(index)]
        out[start:start + rows] = np.stack(_philox(counter, (seed, PURPOSES[purpose])), -1).reshape(len(part), blocks, 4)
    return out.reshape(len(ids), blocks * 4)[:, :count]


def normal(seed: int, purpose: str, ids: ArrayLike, shape: tuple[int, ...], step: int = 0) -> NDArray[np.float32]:
    """Standard normal numbers, (len(ids), *shape) float32, by Box & Muller (1958) in float64.

    Each word gives one pair: its high half the radius, its low half the angle. |value| stays below 6.67. Values are bit-equal
    on one machine; another CPU's log and cos may move one by a unit in the last place of float32.
    """
    ids, size = np.asarray(ids, np.int64), math.prod(shape)
    out = np.empty((len(ids), size), np.float32)
    rows = max(1, _CHUNK // max(size, 1))
    for start in range(0, len(ids), rows):
        bits = np.ascontiguousarray(words(seed, purpose, ids[start:start + rows], -(-size // 2), step))
        radius = np.sqrt(-2 * np.log(((bits >> _32) + np.uint64(1)) * 2.0**-32))
        angle = (bits & _LOW) * (2.0**-32 * 2 * np.pi)
        pair = np.stack((radius * np.cos(angle), radius * np.sin(angle)), -1)
        out[start:start + rows] = pair.reshape(bits.shape[0], bits.shape[1] * 2)[:, :size]
    return out.reshape(len(ids), *shape)


def uniform_int(seed: int, purpose: str, ids: ArrayLike, high: int, step: int = 0) -> NDArray[np.int64]:
    """Integers in 0..high - 1, (len(ids),) int64: the high word of bits * high, off uniform by less than high / 2^64."""
    require(1 <= high <= 2**63, "high", high, "must be from 1 to 2^63")
    return _multiply(high, words(seed, purpose, ids, 1, step)[:, 0])[0].astype(np.int64)


def coin(seed: int, purpose: str, ids: ArrayLike, step: int = 0) -> NDArray[np.bool_]:
    """Fair coins, (len(ids),) bool."""
    return words(seed, purpose, ids, 1, step)[:, 0] >> np.uint64(63) == 1


@lru_cache(maxsize=4)
def permutation(seed: int, purpose: str, n: int, epoch: int) -> NDArray[np.int64]:
    """A permutation of 0..n - 1, int64, read-only: the order that sorts n words of the epoch."""
    out = np.argsort(words(seed, purpose, [0], n, epoch)[0], kind="stable")
    out.flags.writeable = False
    return out


