"""What a run says of its own wall time."""

import os
import time

import pytest

from bench.records.cells import Cells
from bench.records.notebook import Notebook, stamped


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
    assert row.environment == {"commit": "abc", "load": [1.5, 2.0, 3.0]}
