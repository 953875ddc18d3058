"""The bootstrap of FID: its spread is what chance gives, and two sets of images are compared on the same rows."""

import numpy as np
import pytest

from bench.metric import fid
from bench.metric.resampling import resampled


def test_every_resample_is_another_one_and_takes_the_same_rows_of_other_features():
    rng = np.random.default_rng(0)
    found = rng.standard_normal((200, 4))
    target = fid.statistics(rng.standard_normal((400, 4)))
    values = resampled(found, target, 0, 60)
    assert len(set(values)) == 60 and values == resampled(found, target, 0, 60) and values != resampled(found, target, 1, 60)
    near = np.array(resampled(found + 1e-6, target, 0, 60))
    assert np.abs(near - values).max() < 1e-4 < np.std(values)  # other rows would differ by as much as resamples do


def test_every_row_is_drawn_as_often_as_any_other(monkeypatch):
    """600 draws of each of five rows have a standard deviation of 22."""
    drawn = []
    monkeypatch.setattr(fid, "statistics", drawn.append)
    monkeypatch.setattr(fid, "distance", lambda *_: 0.0)
    resampled(np.arange(5)[:, None], {}, 0, 600)
    assert np.abs(np.bincount(np.concatenate(drawn).ravel(), minlength=5) - 600).max() < 90


def test_the_spread_is_that_of_other_sets_of_as_many():
    rng = np.random.default_rng(1)
    target = {"mu": np.zeros(2), "sigma": np.eye(2)}
    one = rng.standard_normal((300, 2)) + 1  # far off, where FID's spread does not change with the set
    sets = [fid.distance(fid.statistics(rng.standard_normal((300, 2)) + 1), target) for _ in range(300)]
    found = resampled(one, target, 0)
    assert np.std(found) == pytest.approx(np.std(sets), rel=0.2) and len(found) == 200
