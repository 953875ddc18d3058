"""backends/README.md and reference/README.md name what exists, and all that they promise to list."""

from __future__ import annotations

import dataclasses
import importlib
import re
from pathlib import Path
from typing import Any

import pytest

from backends import protocol
from backends.protocol import About

ROOT = Path(__file__).resolve().parents[2]
BACKENDS, REFERENCE = ((ROOT / room / "README.md").read_text() for room in ("backends", "reference"))


def rows(text: str, heading: str) -> list[list[str]]:
    """Cells of the first table under a heading, without its head."""
    lines = text.split(f"## {heading}\n")[1].split("\n## ")[0].splitlines()
    table = [line.strip("| ").split(" | ") for line in lines if line.startswith("|")]
    return table[2:]


def functions() -> list[str]:
    """What the table of formulas calls functions: module.name or module.Class.name."""
    return sorted({name for row in rows(REFERENCE, "Formula, function, source") for name in re.findall(r"`([\w.]+)`", row[1])})


@pytest.mark.parametrize("name", functions())
def test_every_named_function_exists(name):
    module, *path = name.split(".")
    found: Any = importlib.import_module(f"reference.{module}")
    for part in path:
        found = getattr(found, part)
    assert callable(found) and (found.__doc__ or "").strip()


def test_the_table_of_formulas():
    table = rows(REFERENCE, "Formula, function, source")
    assert len(table) >= 30 and len(functions()) >= 40
    assert all(len(row) == 3 and re.search(r"`\w+\.\w", row[1]) and row[2].strip() for row in table)


@pytest.mark.parametrize(("text", "room"), [(BACKENDS, "backends"), (REFERENCE, "reference")])
def test_links_and_files(text, room):
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / room / target).exists(), target
    for path in re.findall(r"`((?:tests|backends|reference|bench)/[\w/.]+\.\w+)`", text):
        assert (ROOT / path).exists() or "NAME" in path, path


def test_the_whole_interface_is_listed():
    methods = {name for kind in (protocol.Sampler, protocol.Backend) for name in vars(kind) if not name.startswith("_")}
    assert {re.findall(r"\w+", row[0])[0] for row in rows(BACKENDS, "The interface")} == methods | {"create"}


def test_every_file_of_a_backend_is_listed():
    first = "".join(line.split("|")[1] for line in BACKENDS.splitlines() if line.startswith("| `"))
    listed = set(re.findall(r"`(\w+\.py)`", first))
    for folder in (path.parent for path in (ROOT / "backends").glob("*/backend.py")):
        assert {path.name for path in folder.glob("*.py")} <= listed
    listed = set(re.findall(r"`(\w+\.py)`", REFERENCE.split("\n## ")[0]))
    assert {path.name for path in (ROOT / "reference").glob("*.py")} - {"__init__.py"} == listed


def test_every_field_of_about_is_explained():
    source = (ROOT / "backends" / "facts.py").read_text()
    for field in dataclasses.fields(About):
        assert re.search(rf"^    {field.name}: .*  # \w", source, re.MULTILINE), field.name


def test_gains_are_those_of_the_speed_table():
    """Each interval of backends/README.md is in results/speed.md, in the line of the same contender."""
    found = (ROOT / "results" / "speed.md").read_text()
    for name, *gains in rows(BACKENDS, 'What "tuned" adds'):
        lines = [line for line in found.splitlines() if line.startswith(f"| {name.replace(',', '')} ")]
        assert len(lines) == 4 and len(gains) == 2
        for gain in gains:
            assert any(gain.strip() in line for line in lines), f"{name}: {gain}"
