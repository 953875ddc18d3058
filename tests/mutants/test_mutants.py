"""The conformance kit catches every mistake of the catalogue, and nothing but the mistake."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import backends
from bench.paths import ROOT
from tests.conformance.kit import LEVELS, Subject

from . import solvers_elsewhere
from .catalogue import MUTANTS, Mutant
from .catalogue_solvers import SOLVER_MISTAKES
from .generator import FOUND, outcomes
from .run import HERE, asked_first, edited, first_failure, mutated, recorded

UNCHANGED = Mutant("L0", "nothing", "samplers", "return x0\n", "return x0\n")


@pytest.mark.slow
@pytest.mark.mutants
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.level}-{m.name}")
def test_caught(mutant: Mutant, tmp_path: Path) -> None:
    """The level named in the catalogue fails, in a check that the backend without the mistake passes."""
    with mutated(mutant, tmp_path) as subject:
        found = first_failure(mutant.level, subject, asked_first(mutant, recorded()))
    assert found, f"{mutant.level} does not catch: {mutant.name}"
    found.function(Subject("torch", backends.load("torch"), dtype=mutant.dtype, mode=mutant.mode), *found.case)


@pytest.mark.slow
@pytest.mark.mutants
@pytest.mark.parametrize("level", [level for level in LEVELS if level != "L1"])
def test_nothing_found_in_the_unchanged_copy(level: str, tmp_path: Path) -> None:
    """Copying alone fails nothing. (L1 runs the same tables for minutes elsewhere.)"""
    with mutated(UNCHANGED, tmp_path) as subject:
        assert first_failure(level, subject) is None


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.level}-{m.name}")
def test_applies(mutant: Mutant) -> None:
    """The text stands in the torch backend as often as the catalogue says, and what becomes of it is another program."""
    text = (ROOT / "backends" / "torch" / f"{mutant.file}.py").read_text()
    assert ast.dump(ast.parse(edited(mutant, text))) != ast.dump(ast.parse(text))


@pytest.mark.parametrize(("backend", "mutant"), [(backend, m) for backend in solvers_elsewhere.WORDS
                                                 for m in solvers_elsewhere.mistakes(backend)],
                         ids=lambda v: v if isinstance(v, str) else v.name)
def test_applies_elsewhere(backend: str, mutant: Mutant) -> None:
    """The same of the solvers' mistakes and the other backends."""
    text = (ROOT / "backends" / backend / f"{mutant.file}.py").read_text()
    planted = edited(mutant, text)
    assert ast.dump(ast.parse(planted)) != ast.dump(ast.parse(text)) and "torch" not in mutant.new


@pytest.mark.parametrize("backend", solvers_elsewhere.WORDS)
def test_every_mistake_of_the_solvers_is_asked_of_the_other_backends(backend: str) -> None:
    assert len(solvers_elsewhere.mistakes(backend)) == len(SOLVER_MISTAKES)


def test_a_mistake_whose_text_has_moved_is_named() -> None:
    """One that stands there twice, too."""
    for text, found in (("return x\n", 0), ("return x0\nreturn x0\n", 2)):
        with pytest.raises(LookupError, match=f"nothing: samplers.py holds .* {found} times, not 1"):
            edited(UNCHANGED, text)


def test_catalogue() -> None:
    """Enough mistakes, of every level, each once, and each in the table of README.md as caught by its level."""
    assert len(MUTANTS) >= 60
    assert {m.level for m in MUTANTS} == set(LEVELS)
    assert len({m.name for m in MUTANTS}) == len(MUTANTS)
    table = (HERE / "README.md").read_text()
    assert list(recorded()) == [m.name for m in MUTANTS], "run python -m tests.mutants.run --missing"
    assert all(f"| {m.name} | {m.level} | `test_" in table for m in MUTANTS)


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md", "tests/conformance/README.md"])
def test_the_pages_say_how_many_mistakes_were_tried(page: str) -> None:
    text, asked = (ROOT / page).read_text(), sum(map(len, outcomes(FOUND).values()))
    assert re.search(rf"\b{len(MUTANTS)}(?!\d)", text), f"the catalogue has {len(MUTANTS)} mistakes"
    assert re.search(rf"\b{asked:,}(?!\d)", text), f"results/mutation.md has {asked:,} mistakes"
