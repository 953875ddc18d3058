"""Kinds of work that a worker times: as many units as asked for, of what they say; and the roof's kernels do their FLOPs."""

from __future__ import annotations

import numpy as np
import pytest

import backends
from backends.protocol import Spec
from bench.messages import TimeForward, TimeKernel, TimeMetric, TimePath, TimeRoof, TimeStep, TimeTables
from bench.workers import timed
from bench.workers.child import COMMANDS
from bench.workers.session import Session
from reference.config import ConfigError, DiffusionConfig, ModelConfig

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


def test_the_kernel_asks_nothing_of_the_backend(session):
    assert 0 < timed.time_kernel(session, TimeKernel(1)).seconds < 10
    assert session.backend.asked == []


@pytest.mark.slow
def test_the_metric(session):
    assert timed.time_metric(session, TimeMetric(1, 128)).seconds > 0


@pytest.mark.parametrize("framework", [name for name in backends.names() if backends.installed(name)])
def test_the_roofs_kernels_do_their_flops(framework):
    roof = backends.roofline(framework)
    run, flops = roof.gemm(16, "cpu", "float32")
    out = np.array(run())
    assert out.shape == (16, 16) and (out == 16).all() and flops == 16 * 16 * 16 * 2
    run, flops = roof.convolution(8, "cpu", "float32")
    out = np.array(run())
    assert out.shape == (16, 8, 56, 56) and out[0, 0, 5, 5] == 8 * 9 and flops == out.size * 8 * 9 * 2


def test_an_unknown_kernel_is_refused(session):
    with pytest.raises(ConfigError, match="kernel='fft'"):
        timed.time_roof(session, TimeRoof(1, kernel="fft", n=8, dtype="float32"))
