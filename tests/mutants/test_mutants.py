"""The conformance kit catches every mistake of the catalogue, and nothing but the mistake."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import backends
from tests.conformance.kit import LEVELS, Subject

from .catalogue import MUTANTS, Mutant
from .mirror import OWN, mirrored
from .run import HERE, first_failure, mutated, recorded

ROOT = HERE.parents[1]
MIRRORED = [mutant for m in MUTANTS if (mutant := mirrored(m))]
UNCHANGED = Mutant("L0", "nothing", "samplers", "return x0\n", "return x0\n")


@pytest.mark.slow
@pytest.mark.mutants
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.level}-{m.name}")
def test_caught(mutant: Mutant, tmp_path: Path) -> None:
    """The level named in the catalogue fails, in a check that the backend without the mistake passes."""
    with mutated(mutant, tmp_path) as subject:
        found = first_failure(mutant.level, subject, recorded().get(mutant.name))
    assert found, f"{mutant.level} does not catch: {mutant.name}"
    found.function(Subject("torch", backends.load("torch"), dtype=mutant.dtype, mode=mutant.mode), *found.case)


@pytest.mark.slow
@pytest.mark.recorded
@pytest.mark.parametrize("mutant", MIRRORED[::20], ids=lambda m: f"{m.level}-{m.name}")
def test_caught_in_mindspore(mutant: Mutant, tmp_path: Path) -> None:
    """One in twenty of those that `python -m tests.mutants.run --backend mindspore` asks about."""
    pytest.importorskip("mindspore")
    with mutated(mutant, tmp_path, "mindspore") as subject:
        found = first_failure(mutant.level, subject, recorded().get(mutant.name))
    assert found, f"{mutant.level} does not catch: {mutant.name}"
    found.function(Subject("mindspore", backends.load("mindspore")), *found.case)


@pytest.mark.slow
@pytest.mark.mutants
@pytest.mark.parametrize("level", [level for level in LEVELS if level != "L1"])
def test_nothing_found_in_the_unchanged_copy(level: str, tmp_path: Path) -> None:
    """Copying alone fails nothing. (L1 runs the same tables for minutes elsewhere.)"""
    with mutated(UNCHANGED, tmp_path) as subject:
        assert first_failure(level, subject) is None


def test_catalogue() -> None:
    """Enough mistakes, of every level, each once, and each in the table of README.md as caught by its level."""
    assert len(MUTANTS) >= 60
    assert {m.level for m in MUTANTS} == set(LEVELS)
    assert len({m.name for m in MUTANTS}) == len(MUTANTS)
    table = (HERE / "README.md").read_text()
    assert list(recorded()) == [m.name for m in MUTANTS], "run python -m tests.mutants.run --missing"
    assert all(f"| {m.name} | {m.level} | `test_" in table for m in MUTANTS)


def test_most_mistakes_are_those_of_the_mirror_too() -> None:
    """At least seven in ten stand in the MindSpore backend's text, and what they make of it is Python in other words than torch's."""
    assert len(MIRRORED) >= 0.7 * len(MUTANTS)
    assert set(OWN) <= {m.name for m in MIRRORED}
    for mutant in MIRRORED:
        text = (ROOT / "backends" / "mindspore" / f"{mutant.file}.py").read_text()
        assert mutant.old in text, mutant.name
        compile(text.replace(mutant.old, mutant.new), mutant.name, "exec")
        assert not re.search(r"\btorch\.|\bF\.|\bdim=", mutant.new), mutant.name
