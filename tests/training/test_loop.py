"""The training loop: what it computes, how it goes on from a state, and what it says where it can't go on."""

from __future__ import annotations

import importlib
from dataclasses import replace

import numpy as np
import pytest

import backends
from backends.protocol import Spec
from bench.training import batches, loop
from bench.weights.pipeline import CheckpointError
from reference import weights
from reference.config import ConfigError, DiffusionConfig, OptimConfig
from tests.helpers.tiny import TINY, same

SPEC = Spec(TINY, DiffusionConfig(timesteps=20), OptimConfig(lr=1e-3, warmup_steps=4))
IMAGES = np.random.default_rng(0).integers(0, 256, (10, 1, 8, 8), np.uint8)
HOW = {"seed": 0, "batch_size": 4, "flip": True}


class Interrupt(Exception):
    """In place of a kill."""


def backend(name="torch", spec=SPEC):
    out = importlib.import_module(f"backends.{name}.backend").create(spec)
    out.load_weights(weights.initialise(spec.model, 0))
    return out


def interrupt_at(step):
    def on_step(done, _):
        if done == step:
            raise Interrupt
    return on_step


def test_losses_are_those_of_the_steps_one_by_one():
    one, other = backend(), backend()
    done = loop.fit(one, SPEC, IMAGES, steps=loop.COLLECT_EVERY + 3, **HOW)
    inputs = [batches.training_batch(0, IMAGES, n, 4, 20, flip=True) for n in range(loop.COLLECT_EVERY + 3)]
    assert done.losses.tolist() == [float(other.train_step(batch)) for batch in inputs]
    assert same(one.state(), other.state())
    assert done.seconds > 0 and done.first_seconds > 0 and (done.starts, done.skipped) == (1, 0)


@pytest.mark.parametrize("name", [backends.DEFAULT, *(
    pytest.param(name, marks=[pytest.mark.slow, pytest.mark.sampled]) for name in backends.names()
    if name != backends.DEFAULT and backends.installed(name) and backends.about(name).network)])
@pytest.mark.parametrize("spec", [SPEC, replace(SPEC, model=replace(TINY, dropout=0.3))])
def test_an_interrupted_training_ends_with_the_same_bits(tmp_path, name, spec):
    straight = backend(name, spec)
    expected = loop.fit(straight, spec, IMAGES, steps=8, **HOW)
    for step in (3, 6):
        with pytest.raises(Interrupt):
            loop.fit(backend(name, spec), spec, IMAGES, steps=8, states=tmp_path, save_every=0, on_step=interrupt_at(step),
                         **HOW)
    last = backend(name, spec)
    done = loop.fit(last, spec, IMAGES, steps=8, states=tmp_path, save_every=0, **HOW)
    assert done.starts == 3 and np.array_equal(done.losses, expected.losses)
    assert same(last.state(), straight.state())
    assert len(list(tmp_path.glob("state-*"))) == 2  # the last good two
    again = backend(name, spec)  # nothing left to do
    assert np.array_equal(loop.fit(again, spec, IMAGES, steps=8, states=tmp_path, **HOW).losses, expected.losses)
    assert same(again.state(), straight.state())


def test_states_are_saved_after_the_seconds_asked_for_and_at_the_end(tmp_path):
    loop.fit(backend(), SPEC, IMAGES, steps=5, states=tmp_path, save_every=1000, **HOW)
    assert [path.name for path in tmp_path.glob("state-*")] == ["state-00000005.safetensors"]


@pytest.mark.parametrize("change, said", [
    ({"seed": 1}, "seed is 0 there and 1 here"), ({"batch_size": 2}, "batch_size"), ({"flip": False}, "flip"),
    ({"config": {"dataset": "x"}}, "dataset"), ({"steps": 2}, "steps=2: .* holds a state of step 3 already")])
def test_a_state_of_another_training_is_refused_and_kept(tmp_path, change, said):
    loop.fit(backend(), SPEC, IMAGES, steps=3, states=tmp_path, **HOW)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ConfigError, match=said):
        loop.fit(backend(), SPEC, IMAGES, **({"steps": 4, "states": tmp_path} | HOW | change))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    with pytest.raises(CheckpointError, match="diffusion.schedule"):
        other = replace(SPEC, diffusion=replace(SPEC.diffusion, schedule="cosine"))
        loop.fit(backend(spec=other), other, IMAGES, steps=4, states=tmp_path, **HOW)


def test_a_second_training_in_the_same_folder_is_refused_while_the_first_is_at_work(tmp_path):
    said = []

    def second(done, _):
        with pytest.raises(CheckpointError, match=f"{tmp_path}: another training is at work in this folder; wait") as refused:
            loop.fit(backend(), SPEC, IMAGES, steps=3, states=tmp_path, **HOW)
        said.append(str(refused.value))

    loop.fit(backend(), SPEC, IMAGES, steps=3, states=tmp_path, on_step=second, **HOW)
    assert len(said) == 3 and "remove" not in said[0]
    loop.fit(backend(), SPEC, IMAGES, steps=3, states=tmp_path, **HOW)  # its lock is free again


def poisoned(monkeypatch, one, step, loss):
    """The loss of one step is `loss`; with a finite one the weights are broken instead."""
    real = one.train_step

    def train_step(batch):
        out = real(batch)
        if batch.step == step:
            if np.isfinite(loss):
                one.network.conv_in.weight.data[0] = float("nan")
            else:
                out = out * loss
        return out
    monkeypatch.setattr(one, "train_step", train_step)


@pytest.mark.parametrize("loss", [np.nan, np.inf, 1.0])
def test_numbers_gone_wrong_stop_training_and_name_step_rate_and_state(tmp_path, monkeypatch, loss):
    one = backend()
    poisoned(monkeypatch, one, 2, loss)
    what = "loss=(nan|inf): is not finite" if not np.isfinite(loss) else "the weights are not any more,"
    with pytest.raises(loop.TrainingError, match=rf"{what} at step 2, learning rate 0.00075, float32; last good state: "
                                                     rf"{tmp_path}/state-00000002.safetensors; lower the learning rate$"):
        loop.fit(one, SPEC, IMAGES, steps=8, states=tmp_path, save_every=0, **HOW)
    fixed = backend()  # what was saved is good
    loop.fit(fixed, SPEC, IMAGES, steps=3, states=tmp_path, **HOW)
    assert all(np.isfinite(value).all() for value in fixed.state().values())


def test_a_loss_gone_wrong_is_found_at_the_next_look_without_states(monkeypatch):
    one = backend()
    poisoned(monkeypatch, one, 2, np.nan)
    with pytest.raises(loop.TrainingError, match="at step 2, .*last good state: none"):
        loop.fit(one, SPEC, IMAGES, steps=8, **HOW)


@pytest.mark.parametrize("room, said", [(3, "a batch of 2 fits"), (1, "a batch of 1 fits"), (0, "not even a batch of 1 fits")])
def test_out_of_memory_names_the_batch_that_fits(monkeypatch, room, said):
    one = backend()
    real = one._backward

    def backward(batch, *more):
        if len(batch.t) > room:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(batch, *more)
    monkeypatch.setattr(one, "_backward", backward)
    with pytest.raises(loop.TrainingError, match=f"^batch_size=4: out of memory at training step 0; {said}$"):
        loop.fit(one, SPEC, IMAGES, steps=8, **HOW)


def test_of_several_processes_each_gets_as_much_of_the_batch_that_fits():
    """24 of 4 processes: 12 and 8 do not fit, 4 do."""
    class Full:
        def loss_and_gradients(self, batch):
            if len(batch.t) > 1:
                raise MemoryError
            return np.zeros(()), {}

        def to_host(self, tensor):
            return tensor

    said = loop._advice(Full(), replace(SPEC, processes=4), IMAGES, 0, 0, 24, False)
    assert said == "batch_size=24: out of memory at training step 0; a batch of 4 fits"


HALF = replace(SPEC, dtype="float16")


def overflowing():
    """A backend whose first gradients overflow: float16 ends at 65504."""
    one = backend(spec=HALF)
    one.optimiser.scaler.scale = 2.0**26
    return one


def test_half_precision_leaves_out_steps_that_overflow_and_counts_them():
    one, before = overflowing(), dict(backend(spec=HALF).state())
    inputs = [batches.training_batch(0, IMAGES, n, 4, 20) for n in range(3)]
    assert np.isfinite(one.to_host(one.train_step(inputs[0])))
    after = one.state()
    assert after["scaler_skipped"] == 1 and after["scaler_scale"] == 2.0**25
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {"step", "scaler_skipped", "scaler_scale"}
    done = loop.fit(overflowing(), HALF, IMAGES, steps=30, **HOW)
    assert 1 <= done.skipped < 20 and np.isfinite(done.losses).all()
    assert done.losses[-5:].mean() < done.losses[:5].mean()


def test_half_precision_goes_on_with_the_same_scale(tmp_path):
    straight = overflowing()
    expected = loop.fit(straight, HALF, IMAGES, steps=16, **HOW)
    with pytest.raises(Interrupt):
        loop.fit(overflowing(), HALF, IMAGES, steps=16, states=tmp_path, save_every=0, on_step=interrupt_at(5), **HOW)
    last = backend(spec=HALF)
    done = loop.fit(last, HALF, IMAGES, steps=16, states=tmp_path, save_every=0, **HOW)
    assert same(last.state(), straight.state()) and done.skipped == expected.skipped >= 1


def test_half_precision_gradients_are_those_of_single_precision():
    batch = batches.training_batch(0, IMAGES, 0, 4, 20)
    half, single = backend(spec=HALF), backend()
    (_, found), (_, expected) = half.loss_and_gradients(batch), single.loss_and_gradients(batch)
    flat = [np.concatenate([g.ravel() for g in gradients.values()]) for gradients in (found, expected)]
    assert 0 < np.linalg.norm(flat[0] - flat[1]) < 1e-2 * np.linalg.norm(flat[1])
    half.train_step(batch), single.train_step(batch)
    for name, value in half.weights().items():
        np.testing.assert_allclose(value, single.weights()[name], atol=1e-3)


def test_a_loss_that_overflows_stops_half_precision_too(monkeypatch):
    one = backend(spec=HALF)
    poisoned(monkeypatch, one, 2, np.inf)
    with pytest.raises(loop.TrainingError, match="at step 2, .* float16; .* lower the learning rate or use float32"):
        loop.fit(one, HALF, IMAGES, steps=8, **HOW)


def test_other_errors_pass_through(monkeypatch):
    one = backend()
    monkeypatch.setattr(one, "train_step", lambda batch: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        loop.fit(one, SPEC, IMAGES, steps=8, **HOW)


def test_batches_made_ahead_for_an_accelerator_are_the_same_in_order_and_few(monkeypatch):
    spec, made = replace(SPEC, device="cuda"), []
    here = list(batches.batches(SPEC, IMAGES, 0, 3, 14, 4, True))
    ahead = list(batches.batches(spec, IMAGES, 0, 3, 14, 4, True))
    assert len(here) == len(ahead) == 11 and list(batches.batches(spec, IMAGES, 0, 5, 5, 4, True)) == []
    for a, b in zip(here, ahead, strict=True):
        assert a.step == b.step and all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("ids", "x0", "t", "noise"))
    make = batches.batch_of
    monkeypatch.setattr(batches, "batch_of", lambda *args, **more: made.append(args[3]) or make(*args, **more))
    feed = batches.batches(spec, IMAGES, 0, 0, 1000, 4, True)
    assert next(feed).step == 0 and next(feed).step == 1
    feed.close()
    assert len(made) <= 2 + batches.AHEAD


class Counts:
    """A backend whose first step takes ten seconds of a clock, and any other one."""

    def __init__(self, clock):
        self.clock, self.done = clock, 0

    def train_step(self, batch):
        self.clock[0] += 1 if self.done else 10
        self.done += 1
        return np.float64(batch.step)

    def to_host(self, tensor):
        return tensor

    def state(self):
        return {"w": np.zeros(1)}

    def load_state(self, state):
        pass


@pytest.fixture
def clock(monkeypatch):
    """Seconds, and a writer of states that takes a hundred of them."""
    now, save = [0.0], loop.save_state
    monkeypatch.setattr(loop.time, "perf_counter", lambda: now[0])

    def slow(*args):
        now[0] += 100
        return save(*args)

    monkeypatch.setattr(loop, "save_state", slow)
    return now


def test_losses_are_read_at_the_first_step_at_every_fiftieth_and_at_the_last(clock):
    """Each look waits for the device."""
    seen, steps = [], loop.COLLECT_EVERY + 3
    loop.fit(Counts(clock), SPEC, IMAGES, steps=steps, on_losses=lambda n, losses: seen.append((n, losses.tolist())), **HOW)
    assert seen == [(0, [0]), (1, list(range(1, 51))), (51, [51, 52])] and steps == 53


def test_seconds_are_those_of_the_steps_without_each_first_one_and_without_the_saving(clock, tmp_path):
    """Of every process that took part."""
    with pytest.raises(Interrupt):
        loop.fit(Counts(clock), SPEC, IMAGES, steps=9, states=tmp_path, save_every=2, on_step=interrupt_at(4), **HOW)
    assert sorted(path.name for path in tmp_path.glob("state-*")) == ["state-00000001.safetensors", "state-00000003.safetensors"]
    done = loop.fit(Counts(clock), SPEC, IMAGES, steps=9, states=tmp_path, save_every=1000, **HOW)
    assert (done.seconds, done.first_seconds, done.starts) == (2 + 5, 10, 2)
    assert done.losses.tolist() == list(range(9))


def test_what_a_killed_writer_of_states_left_is_removed(tmp_path):
    loop.fit(backend(), SPEC, IMAGES, steps=1, states=tmp_path, **HOW)
    (part := tmp_path / "state-00000007.safetensors.1a2b3c4d-1.part").touch()
    (other := tmp_path / "mine.part").touch()
    loop.fit(backend(), SPEC, IMAGES, steps=2, states=tmp_path, **HOW)
    assert not part.exists() and other.exists()


def test_of_several_processes_the_first_alone_saves_and_all_must_see_its_state(clock, tmp_path):
    second, other = replace(SPEC, rank=1, processes=2), Counts(clock)
    other.mean = lambda value: value
    loop.fit(other, second, IMAGES, steps=2, states=tmp_path, save_every=0, **HOW)
    assert list(tmp_path.iterdir()) == []
    loop.fit(Counts(clock), SPEC, IMAGES, steps=2, states=tmp_path, save_every=0, **HOW)
    assert loop.fit(other, second, IMAGES, steps=3, states=tmp_path, **HOW).starts == 2
    other.mean = lambda value: value / 2  # the first one found none
    with pytest.raises(ConfigError, match=f"step=2: process 1 found this state in {tmp_path} and another one did not"):
        loop.fit(other, second, IMAGES, steps=3, states=tmp_path, **HOW)
