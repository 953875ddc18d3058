"""Kinds of work that a worker times: as many units as asked for, of what they say, between two looks at the clock; a backend that
says too early that it is done is seen; and the roof's kernels do their FLOPs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import backends
from backends.protocol import Spec
from bench import streams
from bench.messages import TimeForward, TimeKernel, TimeMetric, TimePath, TimeRoof, TimeSample, TimeStep, TimeTables, TimeTrain
from bench.workers import timed
from bench.workers.child import COMMANDS
from bench.workers.session import Session
from reference.config import ConfigError, DiffusionConfig, ModelConfig

HERE = Path(__file__).parent
TINY = ModelConfig(sample_size=8, block_out_channels=(8, 16), norm_num_groups=4,
                   down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"))


class Counter:
    """A backend that notes what it is asked, and whether the clock is stopped only after the result is there."""

    def __init__(self):
        self.asked, self.waited = [], []

    def to_device(self, array):
        return array

    def synchronize(self, *results):
        self.waited.append(len(results))

    def forward(self, x, t):
        self.asked.append((x.shape, t.tolist()))
        return x

    def step(self, x, output, i, plan, z):
        self.asked.append((x.shape, plan.sampler, plan.eta, z))
        return x

    def sample(self, x, plan, noise):
        self.asked.append((x.shape, plan.steps, noise))
        return x

    def tables(self, plan):
        self.asked.append(plan.steps)


@pytest.fixture
def session():
    return Session("torch", Spec(TINY, DiffusionConfig(timesteps=20)), Counter(), lambda *_: None, print)


SHAPE = (3, 1, 8, 8)
CASES = [(TimeForward(4, batch_size=3, seed=0), (SHAPE, [10, 10, 10]), 1),
         (TimeStep(4, batch_size=3, seed=0), (SHAPE, "ddim", 0.0, None), 1),
         (TimePath(4, batch_size=3, seed=0, steps=5), (SHAPE, 5, None), 1),
         (TimeTables(4), 20, 0)]


@pytest.mark.parametrize("command, asked, results", CASES, ids=lambda value: type(value).__name__)
def test_a_block_is_so_many_units_and_one_wait(session, command, asked, results):
    assert COMMANDS[type(command)](session, command).seconds > 0
    assert session.backend.asked == [asked] * 4 and session.backend.waited == [0, results]


class Device:
    """A backend with a clock of its own: each unit of work takes a second, a reading an eighth. It notes all that it is asked in
    order. With `lazy` work is put off until its result is read, and `synchronize` returns at once."""

    def __init__(self, lazy=False):
        self.lazy, self.now, self.queued, self.log = lazy, 0.0, 0, []

    def clock(self):
        self.log.append("clock")
        return self.now

    def unit(self, n=1):
        self.log += ["unit"] * n
        self.queued += n
        self.wait(not self.lazy)

    def wait(self, whether=True):
        if whether:
            self.now, self.queued = self.now + self.queued, 0

    def synchronize(self, *results):
        self.log.append("wait")
        self.wait(not self.lazy)

    def to_device(self, array):
        self.made()
        return array

    def made(self):
        """An input, which takes half a second."""
        self.now += 0.5

    def to_host(self, tensor):
        self.wait()
        self.now += 0.125
        return tensor

    def weights(self, ema=False):
        return self.to_host({})

    def forward(self, x, t):
        self.unit()
        return x

    def step(self, x, output, i, plan, z):
        self.unit()
        return x

    def train_step(self, batch):
        self.log.append(batch.step)
        self.unit()
        return np.zeros(())

    def sample(self, x, plan, noise):
        self.unit(plan.steps)
        return x


def on(device, monkeypatch, tmp_path, command):
    """The block of a command, by the device's clock."""
    np.save(tmp_path / "images.npy", np.zeros((20, 1, 8, 8), np.uint8))
    worker = Session("torch", Spec(TINY, DiffusionConfig(timesteps=20)), device, lambda *_: None, print)
    monkeypatch.setattr(timed.time, "perf_counter", device.clock)
    for module, name in ((streams, "normal"), (timed, "batch_of")):  # what makes inputs
        make = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, make=make, **more: device.made() or make(*given, **more))
    return COMMANDS[type(command)](worker, command)


def every(folder):
    """Commands, and the units that each is to be."""
    return [(TimeTrain(7, str(folder / "images.npy"), 0, 4), 7), (TimeSample(7, 3, 0), 7), (TimeSample(45, 3, 0), 45),
            (TimeForward(7, 3, 0), 7), (TimeStep(7, 3, 0), 7), (TimePath(2, 3, 0, steps=5), 10)]


@pytest.mark.parametrize("n", range(6), ids=lambda n: type(every(HERE)[n][0]).__name__)
def test_all_units_and_nothing_else_lie_between_two_looks_at_the_clock(n, monkeypatch, tmp_path):
    device = Device()
    command, units = every(tmp_path)[n]
    assert on(device, monkeypatch, tmp_path, command).seconds == units
    done = [entry for entry in device.log if not isinstance(entry, int)]
    assert done[:2 + units + 2] == ["wait", "clock", *["unit"] * units, "wait", "clock"]
    assert set(done[4 + units:]) <= {"clock"}  # what is read afterwards


def test_timed_training_goes_on_step_by_step(monkeypatch, tmp_path):
    """Also from one block to the next."""
    device = Device()
    np.save(tmp_path / "images.npy", np.zeros((20, 1, 8, 8), np.uint8))
    worker = Session("torch", Spec(TINY, DiffusionConfig(timesteps=20)), device, lambda *_: None, print)
    for _ in range(2):
        timed.time_train(worker, every(tmp_path)[0][0])
    assert [entry for entry in device.log if isinstance(entry, int)] == list(range(14))


@pytest.mark.parametrize("n", [0, 1, 2])
@pytest.mark.parametrize("lazy", [False, True])
def test_a_backend_that_does_not_wait_is_seen(n, lazy, monkeypatch, tmp_path):
    command, units = every(tmp_path)[n]
    block = on(Device(lazy), monkeypatch, tmp_path, command)
    assert (block.seconds, block.late) == ((0, units) if lazy else (units, 0))


def test_images_of_timed_steps_are_kept_where_they_are_asked_for(monkeypatch, tmp_path):
    on(Device(), monkeypatch, tmp_path, TimeSample(7, 3, 0, str(tmp_path / "out.npy")))
    assert np.load(tmp_path / "out.npy").shape == SHAPE


def test_mindspore_waits_for_the_results_and_for_the_last_update():
    """Its own wait for the device returns at once the first time, so that each is read."""
    from types import SimpleNamespace

    mindspore = pytest.importorskip("backends.mindspore.backend")
    read = []

    def tensor(name):
        return SimpleNamespace(asnumpy=lambda: read.append(name))

    mindspore.MindSporeBackend.synchronize(SimpleNamespace(updated=tensor("update")), tensor("loss"))
    mindspore.MindSporeBackend.synchronize(SimpleNamespace(updated=None), tensor("images"))
    assert read == ["loss", "update", "images"]


def test_the_kernel_asks_nothing_of_the_backend(session):
    assert 0 < timed.time_kernel(session, TimeKernel(1)).seconds < 10
    assert session.backend.asked == []


@pytest.mark.slow
def test_the_metric(session):
    assert timed.time_metric(session, TimeMetric(1, 128)).seconds > 0


@pytest.mark.parametrize("framework", [name for name in backends.names() if backends.installed(name)
                                       and backends.about(name).roofline])
def test_the_roofs_kernels_do_their_flops(framework):
    roof = backends.roofline(framework)
    run, flops = roof.gemm(16, "cpu", "float32")
    out = np.array(run())
    assert out.shape == (16, 16) and (out == 16).all() and flops == 16 * 16 * 16 * 2
    run, flops = roof.convolution(8, "cpu", "float32")
    out = np.array(run())
    assert sorted(out.shape) == [8, 16, 56, 56] and flops == out.size * 8 * 9 * 2
    assert (out == 8 * 9).sum() == 16 * 8 * 54 * 54 and out.min() == 8 * 4  # inside and at corners, whatever the layout


def test_an_unknown_kernel_is_refused(session):
    with pytest.raises(ConfigError, match="kernel='fft'"):
        timed.time_roof(session, TimeRoof(1, kernel="fft", n=8, dtype="float32"))


def test_timed_training_goes_round_eight_batches_and_another_size_has_its_own(monkeypatch, tmp_path):
    seen = []
    device = Device()
    device.train_step = lambda batch: seen.append((len(batch.ids), int(batch.ids[0]))) or np.zeros(())
    np.save(tmp_path / "images.npy", np.zeros((20, 1, 8, 8), np.uint8))
    worker = Session("torch", Spec(TINY, DiffusionConfig(timesteps=20)), device, lambda *_: None, print)
    timed.time_train(worker, TimeTrain(9, str(tmp_path / "images.npy"), 0, 4))
    assert len(set(seen)) == 8 and seen[8] == seen[0]
    timed.time_train(worker, TimeTrain(1, str(tmp_path / "images.npy"), 0, 2))
    assert seen[-1][0] == 2


def test_away_from_the_cpu_the_kernel_is_the_frameworks_product(session, monkeypatch):
    """And a roof's block says the FLOPs that it did."""
    asked = []
    roof = type("Roof", (), {"gemm": staticmethod(lambda *words: asked.append(words) or ((lambda: 0), 77))})
    monkeypatch.setattr(timed.backends, "roofline", lambda name: roof)
    session.spec = Spec(TINY, DiffusionConfig(timesteps=20), device="cuda:1", dtype="bfloat16")
    assert timed.time_kernel(session, TimeKernel(3)).flops == 77 and asked == [(2048, "cuda:1", "bfloat16")]


def test_the_metric_is_timed_on_as_many_pictures_as_were_asked_for(session, monkeypatch):
    from bench.metric import fid

    seen = []
    monkeypatch.setattr(fid, "evaluate", seen.append)
    timed.time_metric(session, TimeMetric(2, 5))
    assert [(images.shape, images.dtype) for images in seen] == [((5, 1, 28, 28), np.uint8)] * 2 and seen[0].std() > 30
