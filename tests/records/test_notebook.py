"""What a run says of its own wall time."""

import time

import pytest

from bench.records.cells import Cells
from bench.records.notebook import Notebook


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
