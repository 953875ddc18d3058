"""Ask a mistake in the MindSpore or the JAX backend of the kit's levels, and of the backend's own tests.

Its framework reads the text of functions, which can't be changed afterwards: each mistake gets a copy of the backend.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import backends
from bench.paths import ROOT

from . import catalogue, mirror
from .generator import Mutant, copy_to

KITS = ("mindspore", "jax")  # rooms that are asked so
LONGEST = 1200  # seconds that the kit may take in one way


def caught_by(room: str, one: Mutant, thorough: bool = True) -> str:
    """What catches a mistake in a backend: the first check of the kit that fails, with how it was asked, or the first of the backend's
    own tests; "" where none does. What is quick comes first: of the plain and of the tuned network the level that is the likeliest.
    What takes many minutes on top is asked where it is to be `thorough`."""
    first, rest = (slice(1), slice(1, None))
    quick = (kits(room, one, "float32", "stock", first) or kits(room, one, "float32", "tuned", first)
             or kits(room, one, "float32", "stock", rest))
    if quick or not thorough:
        return quick
    return own(room, one) or kits(room, one, "float32", "tuned", rest) or kits(room, one, "float16", "stock")


def kits(room: str, one: Mutant, dtype: str, mode: str, part: slice = slice(None)) -> str:
    """The first check of the kit that fails, of this part of the levels that the mistake's file reaches."""
    file = Path(one.file).stem
    if file not in mirror.REACH:
        return ""
    text = (ROOT / one.file).read_text()
    planted = catalogue.Mutant(mirror.REACH[file][0], one.function, file, text, one.planted(text), dtype, mode)
    backends.load(room)  # what fails without the mistake is not caught
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail(f"took longer than {LONGEST} s"))
    signal.alarm(LONGEST)
    try:
        level, found = mirror.ask(planted, room, mirror.REACH[file][part])
    except (Exception, pytest.fail.Exception) as error:  # it can't be imported, or does not end
        return f"{type(error).__name__}: {error}"[:200].splitlines()[0]
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return f"{level} {found.name}, {dtype}, {mode}" if found else ""


def own(room: str, one: Mutant) -> str:
    """The first of a backend's own tests that fails in a copy of the repository with the mistake."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        copy_to(tree)
        (tree / one.file).write_text(one.planted((tree / one.file).read_text()))
        done = subprocess.run([sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider",
                               f"tests/backends/test_{room}.py", "tests/backends/test_mirrors.py"], cwd=tree,
                              env={**os.environ, "PYTHONPATH": str(tree)}, capture_output=True, text=True)
    return next((line[:200] for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))), "")
