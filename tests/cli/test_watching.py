"""What is watched while a network trains: the timesteps of the held-out loss, and the rate that each step was taken with."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from backends.protocol import Spec
from bench.cli import watching
from reference.config import ConfigError, DiffusionConfig, OptimConfig
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


def test_the_held_out_loss_is_of_the_first_images_on_their_own_predictions_nowhere():
    spec = Spec(replace(TINY, in_channels=2), DiffusionConfig(timesteps=20, self_conditioning=True))
    found = watching.held_out_batch(spec, np.zeros((200, 1, 8, 8), np.uint8), 0)
    assert len(found.ids) == watching.HELD_OUT == 128 and not found.coin.any() and len(found.coin) == 128
    assert watching.held_out_batch(SPEC, np.zeros((4, 1, 8, 8), np.uint8), 0).coin is None


def watch_of(seen, tmp_path, rank=0, every=3):
    """One that looks at samples after steps 2 and 4."""
    backend = SimpleNamespace(to_host=lambda loss: loss, loss_and_gradients=lambda batch: (0.5, {
        "a": np.full(4, 3.0), "b": np.full(4, 4.0)}))
    spec = replace(SPEC, rank=rank, processes=2)
    model = SimpleNamespace(spec=spec, backend=backend,
                            sample=lambda n, steps, seed: seen.append((n, steps, seed)) or np.zeros((n, 1, 8, 8)))
    log = SimpleNamespace(losses=lambda *_: None, image=lambda name, picture, step: seen.append((name, step)),
                          scalar=lambda name, value, step: seen.append((name, step, value)))
    return watching.Watch(model, log, tmp_path, SimpleNamespace(n=0, update=lambda n: None), 9, (2, 4), every,
                          np.zeros((4, 1, 8, 8), np.uint8), 4)


def test_what_is_looked_at_after_which_step(tmp_path, monkeypatch):
    """The norm of all gradients: of four threes and four fours 10. At most as many steps as there are timesteps."""
    monkeypatch.setattr(watching.grids, "save_grid", lambda path, *_, **__: None)
    seen = []
    watch = watch_of(seen, tmp_path)
    for done in range(1, 7):
        watch.step(done, 6)
    look = (16, 20, 9)
    assert seen == [look, ("samples", 2), ("validate/loss", 3, 0.5), ("validate/gradient_norm", 3, 10.0), look, ("samples", 4),
                    ("validate/loss", 6, 0.5), ("validate/gradient_norm", 6, 10.0)]
    seen.clear()
    other = watch_of(seen, tmp_path, rank=1)
    other.step(2, 6)
    assert seen == [] and other.batch is None, "process 0 alone looks"


def test_images_a_second_are_those_since_the_last_look(tmp_path, monkeypatch):
    clock = iter([10.0, 12.0, 13.0])
    monkeypatch.setattr(watching, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    seen = []
    watch = watch_of(seen, tmp_path)
    watch.losses(0, np.zeros(5))
    watch.losses(5, np.zeros(3))
    assert seen[5:6] + seen[9:] == [("train/images_per_second", 5, 10.0), ("train/images_per_second", 8, 12.0)]


def test_without_held_out_images_there_is_no_look_at_their_loss(tmp_path):
    with pytest.raises(ConfigError, match="--validate=3: needs held-out images"):
        watching.Watch(SimpleNamespace(spec=SPEC), None, tmp_path, None, 0, (), 3, np.zeros((0, 1, 8, 8), np.uint8), 4)
