"""What a run says of its own wall time."""

import os
import time
from dataclasses import replace

import pytest

from bench.records.agenda import Agenda, Ahead
from bench.records.cells import Cells
from bench.records.notebook import Notebook, stamped
from bench.records.rows import RowError


def test_the_wall_time_of_stages_is_added_up_also_of_one_that_fails(tmp_path, monkeypatch):
    clock = iter([0.0, 3.0, 10.0, 11.0, 20.0, 24.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    book = Notebook(Cells(tmp_path, fresh=False), "tiny")
    assert book.wall_time() == "wall time 0.0 s: "
    with book.stage("timing"):
        pass
    with book.stage("sampling"):
        pass
    with pytest.raises(KeyError), book.stage("timing"):
        raise KeyError
    assert book.wall_time() == "wall time 8.0 s: timing 7.0 s (88%), sampling 1.0 s (12%)"


def test_a_row_says_the_load_of_its_machine(monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (1.5, 2.0, 3.0))
    config = {"train_steps": 1, "batch_size": 8, "seed": 0, "device": "cpu"}
    row = stamped("train", "torch", "quick", config, {"losses": [1.0], "seconds": 1.0, "first_seconds": 1.0}, {"commit": "abc"})
    assert row.environment == {"commit": "abc", "load": [1.5, 2.0, 3.0]} and row.commit == "abc"
    with pytest.raises(RowError, match="row of kind 'train': values: losses is missing"):
        stamped("train", "torch", "quick", config, {"seconds": 1.0, "first_seconds": 1.0}, {"commit": "abc"})


def test_what_is_missing_is_a_line_and_a_wrong_answer_is_one_of_both(tmp_path):
    book = Notebook(Cells(tmp_path, fresh=False), "tiny", survives=(ValueError, ArithmeticError), wrong_answers=(ArithmeticError,))
    for error in (ValueError("died"), ArithmeticError("is off")):
        def fails(folder, error=error):
            raise error
        assert book.cell("sample", {"backend": "torch", "error": str(error)}, fails) is None
    assert book.missing == ["missing: sample torch: died", "missing: sample torch: is off"]
    assert book.wrong == ["sample torch: is off"]
    config = {"train_steps": 1, "batch_size": 8, "seed": 0, "device": "cpu"}
    book.keep("train", "train", {"backend": "torch", **config}, {"losses": [1.0], "seconds": 1.0, "first_seconds": 1.0})
    assert [row.kind for row in book.rows] == ["train"] and book.rows[0].environment["cell_seconds"] < 60


def test_what_a_cell_says_of_itself_is_among_what_is_missing(tmp_path):
    """Such as a batch that memory could not hold: the images are there, and the user reads the line."""
    key = {"backend": "torch", "steps": 5, "eta": "0.0", "samples": 8, "seed": 0, "batch_size": 8, "device": "cpu"}
    sample = {"images": 8, "batch_seconds": [0.5], "first_seconds": 0.1, "calls": 10, "notes": ["a smaller batch"]}
    for again in range(2):  # found again, it says so again
        book = Notebook(Cells(tmp_path, fresh=False), "tiny")
        book.keep("sample", "sample", key, sample)
        assert (book.missing, book.wrong, book.cells.reused) == (["a smaller batch"], [], again)


def test_a_cell_leaves_the_agenda_where_it_was_finished_before_is_left_missing_or_ends(tmp_path, capsys):
    """And a row that says already how long its cell took, on another machine, keeps that."""
    key = {"backend": "torch", "train_steps": 1, "batch_size": 8, "seed": 0, "device": "cpu"}
    values = {"losses": [1.0], "seconds": 1.0, "first_seconds": 1.0}
    Notebook(Cells(tmp_path, fresh=False), "tiny").keep("train", "train", key, values)
    book = Notebook(Cells(tmp_path, fresh=False), "tiny", survives=(ValueError,))
    book.agenda = Agenda([Ahead(*cell, 10) for cell in (
        ("train", "torch", "again"), ("sample", "torch", "fails"), ("train", "jax", "runs"))])
    book.agenda.took("train", "torch", 1, 1.0)
    book.keep("train", "train", key, values)
    assert book.agenda.seconds_left() == 20
    book.cell("sample", {"backend": "torch"}, lambda folder: int("x"))
    assert book.agenda.seconds_left() == 10
    other = key | {"backend": "jax"}
    row = book.cell("train", other, lambda folder: replace(
        book.row("train", "jax", other, values), environment={"cell_seconds": 7.0}))
    assert row.environment["cell_seconds"] == 7.0 and book.agenda.seconds_left() == 0
    assert capsys.readouterr().err.splitlines() == ["cell 2 of 3, about 20 s left: fails", "cell 3 of 3, about 10 s left: runs"]
