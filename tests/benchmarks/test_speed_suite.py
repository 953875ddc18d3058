"""What takes the time: `pytest --benchmark-compare` measures it and compares it with the baseline in results/benchmarks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bench.messages import TimeForward, TimeKernel, TimeMetric, TimePath, TimeStep, TimeTables, TimeTrain, Timing

from . import gate
from .conftest import BATCH

pytestmark = pytest.mark.benchmark(timer=gate.clock)


def run(benchmark: Any, subject: Any, asked: Timing) -> None:
    """Measure a worker's command."""
    worker, info = subject

    def seconds(asked: Timing) -> gate.blocks.Block:
        return lambda units: worker.call(replace(asked, units=units)).seconds

    gate.measure(benchmark, seconds(asked), seconds(TimeKernel(1)), **info, batch=getattr(asked, "batch_size", None))


def test_training_step(benchmark, start, images, backend, mode, dtype):
    run(benchmark, start(backend, mode, dtype), TimeTrain(1, images, 0, BATCH))


def test_forward(benchmark, start, backend, mode, dtype):
    run(benchmark, start(backend, mode, dtype), TimeForward(1, BATCH, 0))


def test_sampling_of_10_steps(benchmark, start, backend, mode, dtype):
    run(benchmark, start(backend, mode, dtype), TimePath(1, BATCH, 0, 10))


def test_ddim_step(benchmark, start, backend):
    run(benchmark, start(backend), TimeStep(1, BATCH, 0))


def test_schedule(benchmark, start, backend):
    run(benchmark, start(backend), TimeTables(1))


@pytest.mark.parametrize("backend", ["torch"])  # torch-fidelity measures the images of every backend
def test_metric(benchmark, start, backend):
    run(benchmark, start(backend), TimeMetric(1, 256))
