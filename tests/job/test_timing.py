"""The race of the main job: what each backend is given, and what is kept beside the times of its blocks."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from bench.job import timing
from bench.job.job import WORKLOADS
from bench.messages import Describe, Description, TimeSample, TimeTrain
from bench.records.agenda import Agenda, Ahead
from bench.records.cells import Cells
from bench.workers.errors import WorkerError
from tests.job.test_keys import job


@pytest.mark.parametrize(("late", "seconds"), [(0.0, 2.0), (0.5, 2.0), (2.0, 4.0)])
def test_work_that_was_left_counts_where_it_is_no_chance(late, seconds):
    """Of 2 s: a fifth of all may be left when the backend says that it is done, half may not."""
    crew, kept = SimpleNamespace(call=lambda backend, asked: SimpleNamespace(seconds=2.0, late=late, units=asked.units)), []
    assert timing._block(crew, "torch", TimeSample(1, 4, 0), kept, 3) == seconds and kept == [late / (2 + late)]


def test_a_race_is_timed_with_its_first_unit_and_its_warm_up():
    assert timing.spent({"first_seconds": 1.0, "warmup_seconds": [2.0, 4.0], "block_seconds": [8.0, 16.0]}) == 31.0


class Crew(list):
    """Backends that are timed at once and note what they are given."""

    def __init__(self, *names):
        super().__init__(names)
        self.loaded, self.asked = [], []

    def load(self, backend, weights):
        self.loaded.append((backend, weights))

    def call(self, backend, asked):
        if isinstance(asked, Describe):
            return Description({}, 7, 8, 9)
        rows = len(np.load(asked.images)) if isinstance(asked, TimeTrain) else None
        self.asked.append((backend, asked.batch_size, asked.units, rows))
        return SimpleNamespace(seconds=3.0, late=1.0 * len(self.asked) % 2)


def raced(tmp_path, monkeypatch, crew=None, agenda=None, **changes):
    asked, crew, kept = job(**changes), crew or Crew("torch"), []
    monkeypatch.setattr(timing.blocks, "time_blocks", lambda contenders, *, blocks, on_progress: {
        name: {"block_seconds": [block(units) for units in (1, 2, 5)], "blocks": blocks} for name, block in contenders.items()})
    monkeypatch.setattr(timing, "spent", lambda values: 0.0)
    book = SimpleNamespace(cells=Cells(tmp_path, fresh=False), agenda=agenda or Agenda(), missing=[],
                           leave=lambda what, error: book.missing.append(f"{what}: {error}"),
                           keep=lambda name, kind, key, values: kept.append((key["workload"], key["beside"], values)))
    timing.steps(asked, crew, book)
    return asked, crew, book, kept


def test_each_workload_has_its_weights_and_its_batch(tmp_path, monkeypatch):
    asked, crew, _, kept = raced(tmp_path, monkeypatch, batch_size=4, sample_batch=16, blocks=12)
    assert [(name, weights is expected) for (name, weights), expected in zip(
        crew.loaded, (asked.initial, asked.trained), strict=True)] == [("torch", True)] * 2
    assert crew.asked == [*(("torch", 4, units, 1) for units in (1, 2, 5)), *(("torch", 16, units, None) for units in (1, 2, 5))]
    assert [(workload, who) for workload, who, _ in kept] == [("training step", ["torch"]), ("sampling step", ["torch"])]
    first, second = (values for *_, values in kept)
    assert (first["blocks"], first["late"], second["late"], first["peak_rss_bytes"]) == (12, 0.25, 0.0, 7)
    assert len(first["load_before"]) == 3
    assert not list((tmp_path / "work").rglob("images.npy"))


class Ill(Crew):
    """The first one can't hold its weights."""

    def load(self, backend, weights):
        if backend == self[0]:
            raise WorkerError("no room")
        super().load(backend, weights)


def test_a_backend_that_cannot_be_timed_is_left_out_and_the_others_are_timed_without_it(tmp_path, monkeypatch):
    agenda = Agenda([Ahead("timing", "", "", 0, {"workload": name}) for name in WORKLOADS])
    agenda.took("timing", "", 0, 5.0)
    _, crew, book, kept = raced(tmp_path, monkeypatch, Ill("jax", "torch"), agenda)
    assert book.missing == [f"timing of the {name} jax: no room" for name in WORKLOADS]
    assert [(workload, who) for workload, who, _ in kept] == [(name, ["torch"]) for name in WORKLOADS]
    assert agenda.seconds_left() == 0


def test_several_processes_are_not_timed_and_no_blocks_are_none(tmp_path, monkeypatch):
    _, crew, book, _ = raced(tmp_path, monkeypatch, processes=2)
    assert crew.asked == [] and book.missing == ["single steps are not timed with several processes"]
    _, crew, book, _ = raced(tmp_path, monkeypatch, processes=2, blocks=0)
    assert crew.asked == [] == book.missing
