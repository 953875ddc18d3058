"""Mistakes are planted where they stand, and asked of the tests that could see them."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from tests.mutants import planting
from tests.mutants.planting import Change, Map, Orders

CODE = """
FACTOR = 2

def double(x):
    return FACTOR * x

def half(x, by=2):
    def inner(y):
        return y / by
    return inner(x)

def unused(x):
    return x + 1

def quarter(x):
    return x / 4

class Box:
    size = 3
    def fits(self, x):
        return x < self.size
"""
TESTS = """
import subprocess, sys
from bench.made import Box, double, half  # quarter runs in another process alone

def test_double():
    assert double(3) == 6

def test_half():
    assert half(3) == 1.5

def test_box():
    assert Box().fits(2) and not Box().fits(3)

def test_another_process():
    assert subprocess.run([sys.executable, "-c", "from bench import made; exit(made.double(int(made.quarter(4))))"]).returncode == 2
"""


def compiled(old: str, new: str) -> list[str] | None:
    """The names of the functions that are replaced."""
    pairs = planting.replaced(compile(CODE, "made.py", "exec"), compile(CODE.replace(old, new), "made.py", "exec"))
    return None if pairs is None else [before.co_qualname for before, _ in pairs]


@pytest.mark.parametrize(("old", "new", "functions"), [
    ("FACTOR * x", "FACTOR + x", ["double"]), ("y / by", "y * by", ["half", "half.<locals>.inner"]), ("x < self", "x <= self", ["Box.fits"]),
    ("    return FACTOR", "    pass\n    return 1 + FACTOR", ["double"]), ("FACTOR = 2", "FACTOR = 3", None),
     ("by=2", "by=3", None), ("size = 3", "size = 4", None)])
def test_what_can_be_changed_after_the_import(old: str, new: str, functions: list[str] | None) -> None:
    """Functions can, constants and defaults can't."""
    assert compiled(old, new) == functions


def test_the_quickest_test_that_calls_a_function_goes_first() -> None:
    """Of a constant, all tests that call anything of its file; if there is none, all. A test that found mistakes goes before those that
    are quicker by less. What would take longer than wanted stays out, but never all."""
    known = Map({"slow": 9.0, "quick": 1.0, "other": 0.5}, {"slow": {"a.py": [("f", 1)]}, "quick": {"a.py": [("f", 1), ("g", 5)]}}, [], [])

    def tests(functions: list[tuple[str, int]] | None, file: str = "a.py", most: float = math.inf, **finds: int) -> list[str]:
        return known.tests(file, functions, finds, most)

    assert tests([("f", 1)]) == ["quick", "slow"] and tests([("g", 5)]) == ["quick"] and tests([("h", 7)]) == []
    assert tests(None) == ["quick", "slow"] and tests(None, "b.py") == ["other", "quick", "slow"]
    assert tests([("f", 1)], slow=1) == ["slow", "quick"] and tests([("f", 1)], slow=1, quick=1) == ["quick", "slow"]
    assert tests([("f", 1)], most=1) == ["quick"] and tests([("f", 1)], most=1, slow=1) == ["slow"]
    assert tests([("f", 1)], most=1.5) == ["quick", "slow"]
    assert known._replace(starts=["other"]).tests("a.py", [("h", 7)], {}, math.inf) == ["other"]  # in a process of which nobody knows


@pytest.mark.slow
def test_mistakes_are_planted_and_found(tmp_path: Path) -> None:
    """In a function, inside of one, in a constant, in a default; one that no test calls; one that never ends; one in what a process
    runs that a test starts. Afterwards all is as it was, and a map that was made once serves again."""
    tree, found = tmp_path / "tree", tmp_path / "found"
    (tree / "bench").mkdir(parents=True)
    (tree / "tests").mkdir()
    (tree / "pytest.ini").write_text("[pytest]\n")
    for room in ("bench", "tests"):
        (tree / room / "__init__.py").touch()
    (tree / "bench" / "made.py").write_text(CODE)
    (tree / "tests" / "test_made.py").write_text(TESTS)
    edits = [("FACTOR * x", "FACTOR + x"), ("y / by", "y * by"), ("FACTOR = 2", "FACTOR = 3"), ("by=2", "by=1"), ("x + 1", "x - 1"),
             ("return FACTOR", "while True: pass\n    return FACTOR"), ("FACTOR * x", "FACTOR**x"),
             ("x / 4", "x / 2")]
    changes = [Change(f"{old} -> {new}", "bench/made.py", lambda text, old=old, new=new: text.replace(old, new)) for old, new in edits]

    def plant() -> list[str]:
        found.write_text("")
        if not (process := os.fork()):
            try:
                planting.LEAST_SECONDS = 2
                os._exit(planting.plant(tree, ["tests"], tmp_path / "map.json",
                                        Orders(iter(changes), lambda _, by: print(by, file=found.open("a")))))
            finally:
                os._exit(9)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
        return [line.removeprefix("FAILED tests/test_made.py::").partition(" -")[0] for line in found.read_text().splitlines()]

    killed = plant()
    assert killed[:5] == ["test_double", "test_half", killed[2], "test_half", ""] and killed[2] in ("test_double", "test_another_process")
    assert killed[5].startswith("ended with") and killed[6:] == ["test_double", "test_another_process"]
    assert (tree / "bench" / "made.py").read_text() == CODE
    before = (tmp_path / "map.json").stat().st_mtime_ns
    assert plant()[:2] == killed[:2] and (tmp_path / "map.json").stat().st_mtime_ns >= before


@pytest.mark.parametrize("leave_out", [False, True])
def test_tests_that_fail_without_a_mistake_are_no_measure(tmp_path: Path, leave_out: bool) -> None:
    """Nothing is planted, or they are left out, if that is wanted."""
    (tmp_path / "tree" / "tests").mkdir(parents=True)
    (tmp_path / "tree" / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "tree" / "bench").mkdir()
    (tmp_path / "tree" / "bench" / "made.py").write_text("def two(): return 2\n")
    (tmp_path / "tree" / "tests" / "test_made.py").write_text(
        "from bench.made import two\ndef test_one(): assert two() == 1\ndef test_two(): assert two() == 2\n")
    change = Change("one", "bench/made.py", lambda text: text.replace("2", "3"))
    if not (process := os.fork()):
        try:
            for name in [name for name in sys.modules if name.split(".")[0] == "bench"]:  # that of this repository, by other tests
                del sys.modules[name]
            os._exit(planting.plant(tmp_path / "tree", ["tests"], tmp_path / "map.json",
                                    Orders(iter([change]), lambda _, by: print(by, file=(tmp_path / "by").open("a")), leave_out=leave_out)))
        finally:
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == (0 if leave_out else 4)
    assert (tmp_path / "by").exists() == leave_out
    if leave_out:
        assert (tmp_path / "by").read_text().startswith("FAILED tests/test_made.py::test_two")
        assert json.loads((tmp_path / "map.json").read_text())["left_out"] == ["tests/test_made.py::test_one"]


def test_a_run_that_waits_for_ever_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It uses no CPU."""
    monkeypatch.setattr(planting, "WALL", 0.1)
    assert planting.forked(lambda: threading.Event().wait() or 0, tmp_path / "said.log", 1) == signal.SIGALRM
