"""Imports run one way and rooms stay small: the contracts of pyproject.toml hold, and a planted mistake breaks them."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.paths import ROOT

PACKAGES = ("reference", "backends", "bench")
MOST_FILES, MOST_LINES, LONG_FUNCTION = 9, 250, 50


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """`lint-imports` on the packages in this folder, with its pyproject.toml."""
    program = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True, no_logo=True))"
    return subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=120)


def test_imports_run_one_way():
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def copy(tmp_path):
    """plant(file, line): add the line to this file of a copy of the packages, then lint the copy."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "assets"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)

    def plant(file: str, line: str) -> subprocess.CompletedProcess[str]:
        with (tmp_path / file).open("a") as text:
            text.write(f"\n{line}\n")
        return lint(tmp_path)

    return plant


@pytest.mark.parametrize("guard", ["", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    "], ids=["plain", "for types"])
@pytest.mark.parametrize("file, line, broken, arrow", [
    ("bench/data/readers.py", "from bench.report import measures", "the rooms of bench",
     "bench.data.readers -> bench.report.measures"),
    ("bench/paths.py", "from bench.records import rows", "the rooms of bench", "bench.paths -> bench.records.rows"),
    ("reference/unet.py", "import backends.protocol", "reference <- backends <- bench", "reference.unet -> backends.protocol"),
    ("backends/protocol.py", "from bench import paths", "reference <- backends <- bench", "backends.protocol -> bench.paths"),
    ("bench/data/readers.py", "from bench.data import datasets", "no circles", ".readers -> .datasets"),
    ("reference/config.py", "import reference.unet", "no circles", ".config -> .unet"),
    ("bench/job/job.py", "import argparse", "argparse stops at the command line", "bench.job.job -> argparse"),
])
def test_a_planted_import_breaks_its_contract(copy, guard, file, line, broken, arrow):
    done = copy(file, guard + line)
    assert done.returncode == 1 and f"{broken} BROKEN" in done.stdout, done.stdout + done.stderr
    assert arrow in done.stdout, done.stdout


def test_a_new_room_must_have_its_place(copy):
    done = copy("bench/elsewhere.py", "")
    assert done.returncode == 1 and "elsewhere" in done.stdout


def test_rooms_have_few_files():
    rooms = {path.parent for path in (ROOT / "bench").rglob("__init__.py")} - {ROOT / "bench", ROOT / "bench" / "cli"}
    counts = {room: len([file for file in room.glob("*.py") if file.name != "__init__.py"]) for room in rooms}
    assert rooms and not [f"{room}: {n} files" for room, n in counts.items() if n > MOST_FILES]


def test_files_are_short():
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    lines = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in files}
    assert len(files) > 100 and not [f"{path}: {n} lines" for path, n in lines.items() if n > MOST_LINES]


def test_a_long_function_says_why_it_is_one():
    long = [(path.relative_to(ROOT), node) for package in PACKAGES for path in (ROOT / package).rglob("*.py")
            for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)
            and node.end_lineno - node.lineno >= LONG_FUNCTION]
    unsaid = [f"{path}: {node.name}" for path, node in long if "One function, since" not in (ast.get_docstring(node) or "")]
    assert long and not unsaid
