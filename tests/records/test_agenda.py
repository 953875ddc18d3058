"""Which cell runs, and about how long the rest takes, from seconds that are given."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from bench.records.agenda import Agenda, Ahead


def agenda() -> Agenda:
    return Agenda([Ahead("train", "a", "a: train", 300), Ahead("sample", "a", "a: S=10", 100, {"steps": 10}),
                   Ahead("sample", "b", "b: S=10", 100, {"steps": 10}), Ahead("metric", "a", "measure", 0, {"steps": 10})])


def test_each_cell_is_a_line_with_the_time_left(capsys):
    it = agenda()
    it.end(it.begin("train", {"backend": "a"}), 30.0)  # 0.1 s a pass: 200 of them are left
    it.end(it.begin("sample", {"backend": "a", "steps": 10}), 50.0)  # b has none of its own: 80 s for 400
    it.end(it.begin("sample", {"backend": "b", "steps": 10}), 100.0)
    assert it.begin("sample", {"backend": "b", "steps": 20}) is None
    it.end(it.begin("metric", {"backend": "a", "steps": 10}), 1.0)
    assert capsys.readouterr().err.splitlines() == [
        "cell 1 of 4: a: train", "cell 2 of 4, about 20 s left: a: S=10", "cell 3 of 4, about 20 s left: b: S=10",
        "cell 4 of 4: measure"]


def test_a_backends_own_cells_of_that_name_count_first():
    it = agenda()
    it.took("sample", "a", 10, 10.0)  # 1 s a pass
    assert it.seconds_left() == 300 + 100 + 100
    it.took("train", "a", 10, 20.0)
    it.took("sample", "b", 10, 30.0)
    it.took("metric", "b", 0, 7.0)
    assert it.seconds_left() == pytest.approx(600 + 100 + 300 + 7)


def test_a_cell_without_passes_takes_what_one_of_its_name_took_before_any_other():
    it = agenda()
    for name in ("train", "sample"):
        it.skip(name, {"backend": "a", "steps": 10})
    it.drop("b")
    it.took("oracle", "c", 0, 100.0)
    assert it.seconds_left() == 100  # of another name, where none is like it
    it.took("metric", "c", 0, 4.0)
    assert it.seconds_left() == 4
    it.took("metric", "a", 0, 6.0)
    assert it.seconds_left() == 6


def test_what_is_finished_or_left_missing_takes_no_time():
    it = agenda()
    assert it.seconds_left() is None
    it.took("sample", "a", 1, 1.0)
    it.skip("train", {"backend": "a"})
    assert it.seconds_left() == 200
    it.drop("b")
    assert it.seconds_left() == 100
    it.begin("metric", {"backend": "a", "steps": 10})
    assert it.seconds_left() == 0


def test_a_cell_of_two_backends_goes_with_either_and_one_that_was_left_missing_says_nothing_of_times():
    both = Agenda([Ahead("images", "a b", "a beside b", 0), Ahead("sample", "a", "a: S=10", 100, {"steps": 10})])
    both.end(both.begin("sample", {"backend": "a", "steps": 10}), None)
    both.took("sample", "a", 1, 1.0)
    assert both.seconds_left() == 0  # what stood before it was passed over
    two = Agenda([Ahead("images", "a b", "a beside b", 0)])
    two.took("images", "a c", 0, 5.0)
    assert two.seconds_left() == 5
    two.drop("b")
    assert two.seconds_left() == 0


def test_what_was_left_missing_and_what_has_no_passes_say_nothing_of_a_pass():
    """Each cell takes what its backend's others do, before what any does."""
    it = agenda()
    it.end(it.begin("train", {"backend": "a"}), None)
    it.took("metric", "c", 0, 5.0)
    assert it.seconds_left() is None
    it.took("oracle", "a", 10, 10.0)
    it.took("oracle", "c", 10, 30.0)
    it.took("metric", "c", 0, 7.0)
    assert it.seconds_left() == pytest.approx(100 * 1 + 100 * 2 + 6)


def test_what_was_done_before_is_not_ahead_and_the_line_ends_with_the_last_cell(monkeypatch):
    """A backend whose name is a part of another's is not that one."""
    closed = []
    monkeypatch.setattr("bench.records.agenda.Status", lambda: SimpleNamespace(say=lambda text: 0, close=lambda: closed.append(1)))
    it = Agenda([Ahead("sample", "a", "", 10, done=True), Ahead("sample", "ab", "", 10), Ahead("sample", "b", "", 10)])
    it.took("sample", "c", 1, 1.0)
    assert it.seconds_left() == 20
    it.drop("b")
    assert it.seconds_left() == 10
    it.end(it.begin("sample", {"backend": "ab"}), 1.0)
    assert it.seconds_left() == 0 and closed == [1]
