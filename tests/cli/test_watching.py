"""What is watched while a network trains: the timesteps of the held-out loss, and the rate that each step was taken with."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from backends.protocol import Spec
from bench.cli import watching
from reference.config import DiffusionConfig, OptimConfig
from tests.helpers.tiny import TINY

SPEC = Spec(TINY, DiffusionConfig(timesteps=20), OptimConfig(lr=1.0, warmup_steps=4))


def test_the_held_out_images_spread_over_all_timesteps():
    assert watching.held_out_batch(SPEC, np.zeros((4, 1, 8, 8), np.uint8), 0).t.tolist() == [2, 7, 12, 17]


def test_each_step_is_logged_with_its_own_rate(tmp_path):
    seen = []
    log = SimpleNamespace(losses=lambda *_: None, scalar=lambda name, value, step: seen.append((name, step, value)))
    watch = watching.Watch(SimpleNamespace(spec=SPEC), log, tmp_path, None, 0, (), 0, np.zeros((0, 1, 8, 8), np.uint8), 4)
    watch.losses(0, np.zeros(3))
    watch.losses(3, np.zeros(1))
    rates = [(step, value) for name, step, value in seen if name == "train/learning_rate"]
    assert rates == [(1, 0.25), (2, 0.5), (3, 0.75), (4, 1.0)]
