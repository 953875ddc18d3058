"""Randomness: NumPy's Philox bit for bit, one value per id whatever shares the call, and pinned distributions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bench import streams
from bench.streams import PURPOSES, coin, normal, permutation, uniform_int, words
from bench.training.batches import training_batch
from reference.config import ConfigError

GOLDEN_T, GOLDEN_ORDER = [475, 786, 146, 604], [2, 0, 3, 6, 4, 5, 7, 1]
GOLDEN_X_T = [-1.1315985, -0.19846198, -0.14741223, -0.71987253]  # words 0x845206868712e226, 0xc36e2b44b7c53d64
IMAGES = np.arange(10 * 2 * 4 * 4, dtype=np.uint8).reshape(10, 2, 4, 4)


@given(seed=st.integers(0, 2**64 - 1), purpose=st.sampled_from([*PURPOSES]), step=st.integers(0, 2**63 - 1),
       ids=st.lists(st.integers(0, 2**63 - 1), max_size=4), count=st.integers(0, 23))
def test_words_are_numpys_raw_stream(seed, purpose, step, ids, count):
    got = words(seed, purpose, ids, count, step)
    assert got.shape == (len(ids), count) and got.dtype == np.uint64
    for row, i in zip(got, ids, strict=True):
        wanted = np.random.Philox(key=np.array([seed, PURPOSES[purpose]], np.uint64),
                                  counter=np.array([0, step, i, 0], np.uint64)).random_raw(count)
        assert np.array_equal(row, wanted)


def test_purposes_have_streams_of_their_own():
    assert len(set(PURPOSES.values())) == len(PURPOSES)
    assert 0 not in PURPOSES.values()  # the initial weights' key


def test_the_number_of_a_purpose_is_never_another_one():
    """Old results are those of these numbers; a new purpose has a new one."""
    old = {"order": 1, "flip": 2, "t": 3, "noise": 4, "self_conditioning": 5, "x_T": 6, "z": 7, "bootstrap": 8, "check": 9,
           "split": 10, "extractor": 11, "subset": 12, "bound": 13, "ceiling": 14}
    assert old.items() <= PURPOSES.items()


def test_golden_words():
    """Philox4x64-10 of counter 0, key 0 is the known-answer vector of Random123 (kat_vectors, philox4x64 10)."""
    zero = [np.zeros(1, np.uint64)] * 4
    assert [hex(int(w[0])) for w in streams._philox(zero, (0, 0))] == [
        "0x16554d9eca36314c", "0xdb20fe9d672d0fdc", "0xd7e772cee186176b", "0x7e68b68aec7ba23b"]
    ones = [np.full(1, 2**64 - 1, np.uint64)] * 4
    assert [hex(int(w[0])) for w in streams._philox(ones, (2**64 - 1, 2**64 - 1))] == [
        "0x87b092c3013fe90b", "0x438c3c67be8d0224", "0x9cc7d7c69cd777b6", "0xa09caebf594f0ba0"]


def test_normal_is_box_muller_of_the_halves():
    """The derivation in Python's own arithmetic, from NumPy's generator."""
    raw = np.random.Philox(key=[5, PURPOSES["x_T"]], counter=[0, 0, 42, 0]).random_raw(3)
    wanted = []
    for word in map(int, raw):
        radius = math.sqrt(-2 * math.log(((word >> 32) + 1) / 2**32))
        angle = 2 * math.pi * (word % 2**32) / 2**32
        wanted += [radius * math.cos(angle), radius * math.sin(angle)]
    np.testing.assert_allclose(normal(5, "x_T", [42], (5,))[0], wanted[:5], rtol=1e-7)


def test_the_extreme_words_give_finite_normals(monkeypatch):
    extremes = np.array([[0, 2**64 - 1, 2**32 - 1, 2**64 - 2**32]], np.uint64)
    monkeypatch.setattr(streams, "words", lambda *args: extremes)
    got = normal(0, "z", [0], (8,))
    assert np.isfinite(got).all() and np.abs(got).max() == pytest.approx(np.sqrt(64 * np.log(2)), rel=1e-6)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (1, 28, 28), (3, 5, 7), (3, 32, 32), (1, 200, 200)])
def test_a_value_depends_on_its_id_alone(shape):
    ids = np.array([3, 0, 7, 7, 10**12, *range(20, 57)])
    together = normal(1, "z", ids, shape, step=9)
    assert together.shape == (len(ids), *shape) and together.dtype == np.float32
    for i in range(0, len(ids), 5):
        assert np.array_equal(normal(1, "z", ids[i:i + 1], shape, step=9)[0], together[i])
    assert np.array_equal(np.concatenate([normal(1, "z", part, shape, step=9) for part in np.array_split(ids, 3)]), together)
    assert np.array_equal(together[2], together[3])


@pytest.mark.parametrize("change", [{"seed": 2}, {"purpose": "noise"}, {"ids": [4]}, {"step": 1}])
def test_every_key_matters(change):
    key = {"seed": 1, "purpose": "z", "ids": [3], "step": 0}
    assert not (words(count=64, **key) == words(count=64, **(key | change))).any()


def test_normals_are_normal_and_independent():
    x = normal(0, "x_T", np.arange(2000), (256,)).astype(np.float64)
    assert stats.kstest(x.ravel()[:100_000], "norm").pvalue > 1e-3
    n = x.size
    assert abs(x.mean()) < 5 / np.sqrt(n) and abs(x.var() - 1) < 5 * np.sqrt(2 / n)
    assert abs((x**4).mean() - 3) < 5 * np.sqrt(96 / n)
    for a, b in ((x[:, :-1], x[:, 1:]), (x[:-1], x[1:]), (x[:, ::2], x[:, 1::2]), (x[:, ::2]**2 - 1, x[:, 1::2]**2 - 1)):
        assert abs((a * b).mean()) < 5 * a.std() * b.std() / np.sqrt(a.size)


def test_integers_and_coins_are_uniform():
    t = uniform_int(0, "t", np.arange(100_000), 1000)
    assert t.dtype == np.int64 and t.min() == 0 and t.max() == 999
    assert stats.chisquare(np.bincount(t, minlength=1000)).pvalue > 1e-3
    assert np.array_equal(uniform_int(0, "t", np.arange(9), 1), np.zeros(9))
    assert uniform_int(0, "t", np.arange(1000), 2**63).min() >= 0
    heads = coin(0, "flip", np.arange(100_000))
    assert heads.dtype == bool and abs(heads.mean() - 0.5) < 0.008


def test_golden_values():
    """uniform_int and coin are the top of the words that `test_words_are_numpys_raw_stream` pins; these pin the rest."""
    raw = [int(np.random.Philox(key=[0, PURPOSES["t"]], counter=[0, 0, i, 0]).random_raw()) for i in range(4)]
    assert uniform_int(0, "t", np.arange(4), 1000).tolist() == [w * 1000 >> 64 for w in raw] == GOLDEN_T
    assert coin(0, "t", np.arange(4)).tolist() == [w >> 63 == 1 for w in raw]
    assert permutation(0, "order", 8, 3).tolist() == GOLDEN_ORDER
    np.testing.assert_allclose(normal(0, "x_T", [0], (4,))[0], GOLDEN_X_T, rtol=1e-6)


def test_permutations_of_epochs_differ_and_cannot_be_changed():
    first, second = permutation(0, "order", 100, 0), permutation(0, "order", 100, 1)
    assert sorted(first) == sorted(second) == list(range(100)) and not np.array_equal(first, second)
    with pytest.raises(ValueError):
        first[0] = 1


def test_training_visits_every_image_once_an_epoch():
    seen = [training_batch(3, IMAGES, step, 4, 1000) for step in range(5)]  # 20 samples: two epochs of ten, 4 + 4 + 2 | 2 + ..
    x0 = np.concatenate([batch.x0 for batch in seen])
    pixels = np.rint((x0 + 1) * 127.5).astype(np.uint8)
    for epoch in (pixels[:10], pixels[10:]):
        assert sorted(image.tobytes() for image in epoch) == sorted(image.tobytes() for image in IMAGES)
    assert np.array_equal(np.concatenate([batch.ids for batch in seen]), np.arange(20))


def test_training_draws_every_timestep():
    """From the first to the last, as its stream says."""
    t = training_batch(3, IMAGES, 0, 100, 4).t
    assert np.array_equal(t, uniform_int(3, "t", np.arange(100), 4)) and set(t) == {0, 1, 2, 3}


def test_training_batch_does_not_depend_on_the_batch_size():
    big, small = training_batch(3, IMAGES, 1, 30, 1000, flip=True, self_conditioning=True), [
        training_batch(3, IMAGES, step, 6, 1000, flip=True, self_conditioning=True) for step in range(5, 10)]
    for name in ("ids", "x0", "t", "noise", "coin"):
        assert np.array_equal(getattr(big, name), np.concatenate([getattr(batch, name) for batch in small]))


def test_training_batch_scales_and_flips():
    black_left = np.zeros((1, 1, 1, 2), np.uint8)
    black_left[..., 1] = 255
    plain = training_batch(0, black_left, 0, 64, 10)
    assert plain.x0.dtype == plain.noise.dtype == np.float32 and plain.t.dtype == np.int64 and plain.coin is None
    assert np.array_equal(plain.x0, np.tile(np.float32([-1, 1]), (64, 1, 1, 1)))
    flipped = training_batch(0, black_left, 0, 64, 10, flip=True).x0[:, 0, 0, 0] == 1
    assert np.array_equal(flipped, coin(0, "flip", np.arange(64))) and 10 < flipped.sum() < 54


@pytest.mark.parametrize("call, said", [
    (lambda: words(-1, "z", [0], 1), "seed=-1"), (lambda: words(2**64, "z", [0], 1), "seed"),
    (lambda: words(0, "nose", [0], 1), "purpose='nose'"), (lambda: words(0, "z", [-1], 1), "ids"),
    (lambda: words(0, "z", [[0]], 1), "ids"),
    (lambda: words(0, "z", [0], 1, -1), "step=-1"), (lambda: uniform_int(0, "t", [0], 0), "high=0"),
    (lambda: uniform_int(0, "t", [0], 2**63 + 1), "high="),  # beyond int64
    (lambda: training_batch(0, IMAGES, 0, 4, 10, processes=3), "batch_size=4: must be a multiple of the 3 processes"),
    (lambda: training_batch(0, IMAGES[0], 0, 4, 10), "images"), (lambda: training_batch(0, IMAGES, 0, 0, 10), "batch_size=0"),
    (lambda: training_batch(0, IMAGES.astype(np.float32), 0, 4, 10), "images"),
])
def test_bad_keys_are_refused(call, said):
    with pytest.raises(ConfigError, match=said):
        call()
