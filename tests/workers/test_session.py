"""What a worker does with its backend, on backends that note what they are asked."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from backends.protocol import BackendError, Spec
from bench import messages
from bench.training.loop import SAVE_EVERY
from bench.workers import session
from reference.config import ConfigError, DiffusionConfig
from tests.helpers.tiny import TINY

SPEC = Spec(TINY, DiffusionConfig(timesteps=20))


class Scaled:
    """A backend whose loss scaler leaves out the first `skips` tries of a step."""

    def __init__(self, skips=0):
        self.skips, self.tries, self.step = skips, 0, 0

    def loss_and_gradients(self, batch):
        return np.float32(0.5), {"a": np.ones(1)}

    def to_host(self, tensor):
        return tensor

    def train_step(self, batch):
        self.tries += 1
        self.step += self.tries > self.skips

    def state(self):
        return {"scaler_skipped": np.array(min(self.tries, self.skips)), "step": np.array(self.step)}

    def load_weights(self, weights):
        self.loaded = weights

    def weights(self, ema=False):
        return {"a": np.full(1, 2.0 if ema else 1.0, np.float32)}


def of(backend, **more):
    return session.Session("torch", SPEC, backend, lambda *_: None, print, **more)


@pytest.mark.parametrize("skips", [0, 3])
def test_a_step_that_a_loss_scaler_leaves_out_is_tried_again(tmp_path, skips):
    """Both sides of the step that was taken: nothing of the tries lies between them."""
    backend, x = Scaled(skips), np.zeros((1, 1, 8, 8), np.float32)
    np.savez(tmp_path / "b.npz", ids=np.arange(1), x0=x, t=np.zeros(1), noise=x)
    assert session.loss(of(backend), messages.Loss(str(tmp_path / "b.npz"), 4, str(tmp_path / "o.npz"))).loss == 0.5
    assert backend.tries == skips + 1
    with np.load(tmp_path / "o.npz") as found:
        assert (found["before/step"], found["after/step"], found["before/scaler_skipped"]) == (0, 1, skips)
        assert "gradients/a" in found


def test_weights_and_their_average_are_written_apart(tmp_path):
    session.weights(of(Scaled()), messages.Weights(str(tmp_path / "w.npz")))
    with np.load(tmp_path / "w.npz") as found:
        assert {name: float(value[0]) for name, value in found.items()} == {"weights/a": 1.0, "ema/a": 2.0}


def test_timed_steps_go_on_from_a_training_and_start_afresh_with_new_weights(tmp_path, monkeypatch):
    """And a training without a word about it saves its state as often as the loop does."""
    asked = []
    done = SimpleNamespace(losses=np.zeros(6), seconds=1.0, first_seconds=2.0, starts=1, skipped=0)
    monkeypatch.setattr(session, "fit", lambda *_, **how: asked.append(how) or done)
    np.save(tmp_path / "images.npy", np.zeros((2, 1, 8, 8), np.uint8))
    np.savez(tmp_path / "w.npz", a=np.zeros(1))
    it = of(Scaled())
    for every in (None, 0.0):
        found = session.train(it, messages.Train(str(tmp_path / "images.npy"), 3, 6, 4, True, save_every=every))
    assert it.steps_trained == 6 and found.weights != found.ema and (found.seconds, found.first_seconds) == (1.0, 2.0)
    assert [how["save_every"] for how in asked] == [SAVE_EVERY, 0.0] and asked[0]["flip"] and asked[0]["states"] is None
    session.load(it, messages.Load(str(tmp_path / "w.npz")))
    assert it.steps_trained == 0


def test_trained_weights_that_are_not_the_networks_are_a_wrong_answer(tmp_path, monkeypatch):
    done = SimpleNamespace(losses=np.zeros(1), seconds=1.0, first_seconds=2.0, starts=1, skipped=0)
    monkeypatch.setattr(session, "fit", lambda *_, **how: done)
    np.save(tmp_path / "images.npy", np.zeros((2, 1, 8, 8), np.uint8))
    with pytest.raises(BackendError, match="weights"):
        session.train(of(Scaled()), messages.Train(str(tmp_path / "images.npy"), 3, 1, 4, False, out=str(tmp_path / "w.npz")))
    assert not (tmp_path / "w.npz").exists()


@pytest.mark.parametrize("ids", [(3, 3), (-1, 2), (4, 1)])
def test_no_images_are_no_range(ids):
    with pytest.raises(ConfigError, match="must be a range of at least one id"):
        session.sample(of(Scaled()), messages.Sample(ids, {"steps": 2}, 4, 0, "nowhere", 0, 1))


def test_the_batch_that_fits_is_kept_where_memory_ran_out_alone(tmp_path, monkeypatch):
    """A last batch that is small is none that fits."""
    sizes = []

    def draw(backend, path, ids, shape, *, seed, batch_size, on_progress):
        sizes.append(batch_size)
        fits = min(batch_size, 4)
        return SimpleNamespace(images=np.zeros((len(ids), *shape), np.float32), batch_seconds=[1.0, 2.0], batch_size=fits,
                               notes=["smaller"] if fits < batch_size else [])

    monkeypatch.setattr(session, "draw", draw)
    it = of(Scaled())
    for batch_size in (2, 8, 8, 3):
        asked = messages.Sample((0, 2), {"steps": 5}, batch_size, 0, str(tmp_path / f"{len(sizes)}.npy"), 0, 2)
        found = session.sample(it, asked)
    assert sizes == [2, 8, 4, 3] and (found.seconds, found.calls) == (3.0, 10)
