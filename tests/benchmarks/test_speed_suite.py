"""What takes the time: `pytest --benchmark-compare` measures it and compares it with the baseline in results/benchmarks."""

from __future__ import annotations

from typing import Any

import pytest

from . import gate
from .conftest import BATCH

pytestmark = pytest.mark.benchmark(timer=gate.clock)


def run(benchmark: Any, subject: Any, command: str, **args: Any) -> None:
    """Measure a worker's command."""
    worker, info = subject

    def seconds(command: str, **args: Any) -> gate.timing.Block:
        return lambda units: worker.call(command, units=units, **args)["seconds"]

    gate.measure(benchmark, seconds(command, **args), seconds("time_kernel"), **info, batch=args.get("batch_size"))


def test_training_step(benchmark, start, images, backend, mode, dtype):
    run(benchmark, start(backend, mode, dtype), "time_train", images=images, batch_size=BATCH, seed=0)


def test_forward(benchmark, start, backend, mode, dtype):
    run(benchmark, start(backend, mode, dtype), "time_forward", batch_size=BATCH, seed=0)


def test_sampling_of_10_steps(benchmark, start, backend, mode, dtype):
    run(benchmark, start(backend, mode, dtype), "time_path", batch_size=BATCH, seed=0, steps=10)


def test_ddim_step(benchmark, start, backend):
    run(benchmark, start(backend), "time_step", batch_size=BATCH, seed=0)


def test_schedule(benchmark, start, backend):
    run(benchmark, start(backend), "time_tables")


@pytest.mark.parametrize("backend", ["torch"])  # torch-fidelity measures the images of every backend
def test_metric(benchmark, start, backend):
    run(benchmark, start(backend), "time_metric", samples=256)
