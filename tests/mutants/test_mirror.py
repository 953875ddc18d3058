"""The catalogue's mistakes are planted in the other backends, too; and what the map of levels says is what the levels run."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import backends
from tests.conformance import guard
from tests.conformance.kit import LEVELS, Subject

from .catalogue import MUTANTS, Mutant
from .mirror import MIRRORED, OTHERWISE, PAGE, REACH, ask, lines_of, mirrored
from .run import checks, mutated
from .test_mutants import UNCHANGED

SAMPLE = 6  # of each backend's, that CI plants
EVERY = 25  # of the checks of L1, which walk every plan, that are followed


def test_a_mistake_is_put_into_the_backends_own_words() -> None:
    """Where the text stands there; one in another dtype, or of another text, has no place."""
    mistake = Mutant("L1", "x", "samplers", "torch.exp(0.5 * log_variance_min)", "torch.exp(log_variance_min)")
    found = mirrored(mistake, "mindspore")
    assert found and (found.old, found.new, found.mode) == ("ops.exp(0.5 * log_variance_min)", "ops.exp(log_variance_min)", "stock")
    assert mirrored(mistake._replace(dtype="bfloat16"), "mindspore") is None
    assert mirrored(mistake._replace(old="torch.exp(0.7 * log_variance_min)"), "mindspore") is None
    assert mirrored(mistake._replace(new="torch.exp("), "mindspore") is None


def test_half_of_the_catalogue_is_mirrored_and_each_is_asked_of_a_level_that_it_reaches() -> None:
    """And the page has all of these, each caught."""
    assert all(mutant.level in REACH[mutant.file] for mutant in MUTANTS if mutant.file in REACH)
    assert all(len(found) >= 170 for found in MIRRORED.values())
    assert set(OTHERWISE) <= {(backend, mutant.name) for backend, found in MIRRORED.items() for mutant in found}
    asked = lines_of(PAGE.read_text())
    assert set(asked) == {(backend, mutant.name) for backend, found in MIRRORED.items() for mutant in found}
    assert not [line for line in asked.values() if "nothing" in line]


@pytest.mark.slow
@pytest.mark.mutants
@pytest.mark.parametrize(("backend", "mutant"), [
    (backend, mutant) for backend, found in MIRRORED.items()
    for mutant in sorted(found, key=lambda m: hashlib.sha256(m.name.encode()).digest())[:SAMPLE]],
    ids=lambda value: value if isinstance(value, str) else f"{value.level}-{value.name}")
def test_caught_in_another_backend(backend: str, mutant: Mutant) -> None:
    """By its level, in a check that the backend without the mistake passes."""
    pytest.importorskip(backend)
    _, found = ask(mutant, backend, [mutant.level])
    assert found, f"{mutant.level} does not catch: {mutant.name}"
    found.function(Subject(backend, backends.load(backend), mode=mutant.mode), *found.case)


@pytest.mark.slow
@pytest.mark.mutants
@pytest.mark.parametrize("level", LEVELS)
def test_a_level_runs_no_file_that_the_map_keeps_from_it(level: str, tmp_path: Path) -> None:
    """Beside what makes the backend."""
    with mutated(UNCHANGED, tmp_path) as subject:
        called = set[str]()

        def note(frame: FrameType, event: str, _: Any) -> None:
            if frame.f_code.co_filename.startswith(str(tmp_path)) and not made(frame):
                called.add(Path(frame.f_code.co_filename).stem)

        guard.level = level
        for n, (_, function, case) in enumerate(checks(level, "float32")):
            if level != "L1" or n % EVERY == 0:
                sys.settrace(note)
                try:
                    function(subject, *case)
                finally:
                    sys.settrace(None)
    assert called & set(REACH) <= {file for file, levels in REACH.items() if level in levels} and called


def made(frame: FrameType | None) -> bool:
    """Whether this is part of making a backend."""
    while frame and frame.f_code.co_name != "create":
        frame = frame.f_back
    return frame is not None
