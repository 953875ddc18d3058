"""The crew, on workers that note what they are asked: patience, names, and the files in which arrays travel."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from backends.protocol import Batch, Spec
from bench.messages import Create, Describe, Load, Loss, Sample
from bench.workers import crew
from bench.workers.errors import WorkerError
from reference.config import DiffusionConfig
from tests.helpers.tiny import TINY

SPEC = Spec(TINY, DiffusionConfig(timesteps=20))


class Worker:
    """One that answers at once; `heard` has all that were started."""

    heard: list[Worker] = []

    def __init__(self, backend, spec, threads, log, silence):
        self.backend, self.spec, self.log, self.silence, self.asked, self.closed = backend, spec, log, silence, [], False
        self.begun_with = silence
        Worker.heard.append(self)

    def call(self, command, on_progress=None, timeout=None):
        self.asked.append((command, timeout))
        if self.backend == "broken":
            raise WorkerError("no")
        if isinstance(command, Load):
            with np.load(command.weights) as file:
                self.loaded = dict(file)
        if isinstance(command, Loss):
            with np.load(command.batch) as file:
                self.batch = set(file)
            if command.step is not None:
                np.savez(command.out, **{"gradients/a": np.full(2, float(command.step))})
            return SimpleNamespace(loss=0.5)
        if isinstance(command, Sample):
            assert not Path(command.out).exists()
            np.save(command.out, np.arange(*command.ids))
        return None

    def close(self):
        self.closed = True


@pytest.fixture
def team(monkeypatch, tmp_path):
    Worker.heard = []
    monkeypatch.setattr(crew, "Worker", Worker)
    return lambda timeout=20.0: crew.Crew(SPEC, 2, tmp_path, timeout)


@pytest.mark.parametrize(("timeout", "start"), [(20.0, 300.0), (900.0, 900.0)])
def test_a_start_has_more_patience_than_what_follows(team, timeout, start):
    """A framework that is imported holds the heartbeat up."""
    it = team(timeout)
    it.start("torch")
    it.call("torch", Describe())
    [worker] = Worker.heard
    assert worker.begun_with == start and worker.silence == timeout
    assert worker.asked == [(Create(), start), (Describe(), timeout)]


def test_a_worker_takes_the_place_of_the_one_of_its_name(team, tmp_path):
    it = team()
    it.start("torch")
    it.start("torch", "torch float64", dtype="float64")
    it.start("torch")
    assert [worker.closed for worker in Worker.heard] == [True, False, False] and list(it) == ["torch float64", "torch"]
    assert [worker.spec["dtype"] for worker in Worker.heard] == ["float32", "float64", "float32"]
    assert Worker.heard[1].log == tmp_path / "torch float64.log"
    it.close()
    assert all(worker.closed for worker in Worker.heard) and list(it) == []


def test_one_that_does_not_start_is_ended_and_none_of_the_crew(team):
    it = team()
    with pytest.raises(WorkerError):
        it.start("broken")
    assert "broken" not in it and Worker.heard[0].closed


def test_arrays_travel_in_files_that_are_gone_afterwards(team, tmp_path):
    it = team()
    it.start("torch")
    [worker] = Worker.heard
    it.load("torch", {"a": np.arange(3)})
    assert worker.loaded["a"].tolist() == [0, 1, 2]
    x = np.zeros((2, 1, 8, 8), np.float32)
    batch = Batch(ids=np.arange(2), x0=x, t=np.arange(2), noise=x, step=0)
    assert it.loss("torch", batch) == (0.5, {}) and worker.batch == {"ids", "x0", "t", "noise"}
    loss, done = it.loss("torch", Batch(**{**vars(batch), "coin": np.ones(2, bool)}), 0)
    assert loss == 0.5 and done["gradients/a"].tolist() == [0, 0] and "coin" in worker.batch, "step 0 is a step"
    (tmp_path / "torch-drawn.npy").touch()
    assert it.draw("torch", range(3, 7), {"steps": 5}, 2, 9).tolist() == [3, 4, 5, 6]
    asked = worker.asked[-1][0]
    assert (asked.ids, asked.batch_size, asked.seed, asked.at, asked.total) == ((3, 7), 2, 9, 0, 4)
    assert list(tmp_path.iterdir()) == []
