"""Mistakes in backends whose framework reads functions' text: which ways they are asked, and that no answer is lost."""

from __future__ import annotations

import signal
import time

import pytest

from bench.paths import ROOT
from reference.config import ConfigError

from . import kits, mirror
from .generator import Mutant, mutants
from .run import Found

pytest.importorskip("torch", reason="the backend that is asked")
FILE = "backends/torch/solvers.py"
ONE = mutants(FILE, (ROOT / FILE).read_text())[0]


def test_the_likeliest_level_is_asked_of_both_networks_before_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the backend's own tests; float16 comes last, and asks every level."""
    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr(mirror, "ask", lambda planted, room, levels: asked.append((planted.dtype, planted.mode, levels)) or ("none", None))
    monkeypatch.setattr(kits, "own", lambda *_: asked.append(("own",)) or "")
    assert kits.caught_by("torch", ONE, thorough=False) == "" and len(asked) == 3
    asked.clear()
    assert kits.caught_by("torch", ONE) == ""
    first, rest = mirror.REACH["solvers"][:1], mirror.REACH["solvers"][1:]
    assert asked == [("float32", "stock", first), ("float32", "tuned", first), ("float32", "stock", rest), ("own",),
                     ("float32", "tuned", rest), ("float16", "stock", first + rest)]


def test_the_mistake_is_in_the_text_that_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Found("test_x", None, (), AssertionError())

    def ask(planted, room, levels):
        assert (ROOT / FILE).read_text() == planted.old and ONE.planted(planted.old) == planted.new != planted.old
        return "L1", found

    monkeypatch.setattr(mirror, "ask", ask)
    assert kits.caught_by("torch", ONE) == "L1 test_x, float32, stock"


def test_one_that_does_not_end_or_cannot_be_imported_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kits, "LONGEST", 1)
    monkeypatch.setattr(mirror, "ask", lambda *_: time.sleep(60))
    before = signal.getsignal(signal.SIGALRM)
    assert kits.kits("torch", ONE, "float32", "stock") == "Failed: took longer than 1 s"
    assert signal.getsignal(signal.SIGALRM) == before  # other tests' processes end by it
    monkeypatch.undo()
    wrong = Mutant(FILE, "f", 0, 0, "", "1 = 2\n")
    assert kits.kits("torch", wrong, "float32", "stock").startswith("SyntaxError: ")


def test_a_file_that_no_level_reaches_is_asked_of_the_backends_own_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kits, "own", lambda *_: "FAILED x")
    assert kits.caught_by("torch", ONE._replace(file="backends/torch/devices.py")) == "FAILED x"


def test_a_backend_that_cannot_be_loaded_catches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its framework every mistake would count as caught."""
    def load(name: str) -> None:
        raise ConfigError(f"backend={name!r}: is not installed")

    monkeypatch.setattr(kits.backends, "load", load)
    with pytest.raises(ConfigError, match="is not installed"):
        kits.caught_by("torch", ONE)
