"""Apply a mistake to a copy of the torch backend and ask a level of the kit about it.

`python -m tests.mutants.run` asks about every mistake in the torch backend and writes the table of README.md (minutes); with `--missing`
it asks about those that the table does not have.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import backends
from tests.conformance import guard, kit
from tests.conformance.kit import LEVELS, Subject
from tests.helpers import threads  # noqa: F401  # before the frameworks

from .catalogue import MUTANTS, Mutant

HERE = Path(__file__).parent
FILES = {level: sorted((HERE.parent / "conformance").glob(f"test_{level.lower()}_*.py")) for level in LEVELS}


def edited(mutant: Mutant, text: str) -> str:
    """The file's text with this mistake in it."""
    found = text.count(mutant.old)
    if found != mutant.places:
        raise LookupError(f"{mutant.name}: {mutant.file}.py holds {mutant.old!r} {found} times, not {mutant.places}")
    return text.replace(mutant.old, mutant.new)


@contextmanager
def mutated(mutant: Mutant, folder: Path, backend: str = "torch") -> Iterator[Subject]:
    """A copy of a backend with this mistake in it, imported as a package of its own."""
    source = Path(str(backends.load(backend).__file__)).parent
    package = folder / f"mutant_{abs(hash(mutant)):x}"
    package.mkdir()
    for path in source.glob("*.py"):
        text = path.read_text()
        if path.stem == mutant.file:
            text = edited(mutant, text)
        (package / path.name).write_text(text)
    worst = dict(kit.WORST)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(f"{package.name}.backend")
        yield Subject(backend, module, dtype=mutant.dtype, mode=mutant.mode)
    finally:
        sys.path.remove(str(folder))
        for name in [n for n in sys.modules if n.split(".")[0] == package.name]:
            del sys.modules[name]
        kit.forget()
        kit.WORST.clear()
        kit.WORST.update(worst)


def checks(level: str, dtype: str) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    """(name, test function, its case if it has any) of those of a level that run in this dtype, in order."""
    for path in FILES[level]:
        module = importlib.import_module(f"tests.conformance.{path.stem}")
        for name, function in vars(module).items():
            if name.startswith("test_"):
                said = getattr(function, "pytestmark", ())
                if any(dtype not in m.kwargs.get("dtypes", kit.DTYPES) for m in said if m.name == "subjects"):
                    continue
                marks = [m for m in said if m.name == "parametrize"]
                for case in marks[0].args[1] if marks else [None]:
                    yield f"{name}[{case}]" if marks else name, function, (case,) if marks else ()


def recorded() -> dict[str, str]:
    """The check that catches each mistake, by the table of README.md."""
    rows = [line.strip("| ").split(" | ") for line in (HERE / "README.md").read_text().splitlines() if line.startswith("| ")][1:]
    return {mistake: check.strip("`") for mistake, _, check in rows}


class Found(NamedTuple):
    """A check that a backend fails."""

    name: str
    function: Any
    case: tuple[Any, ...]
    error: BaseException


def first_failure(level: str, subject: Subject, guess: str | None = None) -> Found | None:
    """The first check of this level that this backend fails, or None. Those that begin with `guess` are asked before the others."""
    guard.level = level
    for name, function, case in sorted(checks(level, subject.dtype), key=lambda check: not guess or not check[0].startswith(guess)):
        try:
            function(subject, *case)
        except pytest.skip.Exception:  # of what the backend does not claim
            continue
        except (Exception, pytest.fail.Exception) as error:
            return Found(name, function, case, error)
    return None


def asked_first(mutant: Mutant, known: Mapping[str, str]) -> str | None:
    """What to ask first: the check that is known to catch it, and of a mistake in the solvers their own checks."""
    return known.get(mutant.name) or ("test_solver" if mutant.file in ("solvers", "solving") else None)


def ask(mutant: Mutant) -> str:
    """The check of the mutant's level that fails first, or "nothing"; printed, too."""
    with tempfile.TemporaryDirectory() as folder, mutated(mutant, Path(folder)) as subject:
        found = first_failure(mutant.level, subject, asked_first(mutant, {}))
    check = found.name if found else "nothing"
    print(f"{mutant.level} {mutant.name}: {check}", str(found.error).split("\n")[0][:160] if found else "", flush=True)
    return check


def main(missing: bool) -> None:
    """Write the table of README.md."""
    known = recorded() if missing else {}
    lines = [f"| {m.name} | {m.level} | `{known.get(m.name) or ask(m)}` |" for m in MUTANTS]
    head = (HERE / "README.md").read_text().split("| mistake")[0]
    (HERE / "README.md").write_text(head + "| mistake | level | caught by |\n|---|---|---|\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.mutants.run", description=__doc__)
    parser.add_argument("--missing", action="store_true", help="ask about mistakes that the table does not have alone")
    main(parser.parse_args().missing)
