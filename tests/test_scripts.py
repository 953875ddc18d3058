"""Scripts explain themselves on --help, and do nothing else; an installed wheel, and tox where it is cloned."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.tree import ROOT

FOLDERS = ("reference", "backends", "bench", "tests")
NOT_TYPED = ("bench/workers/child.py",)  # started by `bench.workers.process`, with the number of a pipe
SCRIPTS = sorted(path.relative_to(ROOT) for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")
                 if '\nif __name__ == "__main__":' in path.read_text() and path != Path(__file__)
                 and path.relative_to(ROOT).as_posix() not in NOT_TYPED)


def state() -> dict[Path, int]:
    """When each data file and each page was last written."""
    files = [*(ROOT / "results").glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))]
    return {path: path.stat().st_mtime_ns for path in files if path.is_file() and path.suffix not in (".py", ".pyc")}


def test_there_are_scripts():
    assert {"make_golden.py", "test_golden.py", "tiny_run.py", "pages.py", "__main__.py"} <= {path.name for path in SCRIPTS}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: ".".join(path.with_suffix("").parts))
def test_help_explains_and_does_nothing(script):
    before = state()
    done = subprocess.run([sys.executable, "-m", ".".join(script.with_suffix("").parts), "--help"], cwd=ROOT, capture_output=True,
                          text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.startswith("usage: "), done.stdout + done.stderr
    assert state() == before


@pytest.fixture
def installed(tmp_path):
    """What a wheel installs, and nothing else of a clone."""
    for package in ("reference", "backends", "bench"):
        shutil.copytree(ROOT / package, tmp_path / "site-packages" / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "elsewhere").mkdir()
    return tmp_path / "site-packages"


@pytest.mark.parametrize("words, said", [
    ("run --preset smoke --backends torch --dry-run=plan", "--preset='smoke': its weights ship in a clone of the project alone"),
    ("study extractor", "study extractor: its files are written to bench/assets in a clone of the project alone"),
    ("report", "--out='results': is no folder; name one with rows"),
])
def test_a_wheel_says_what_needs_a_clone_and_writes_nothing_beside_itself(words, said, installed):
    before = sorted(installed.rglob("*"))
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-m", "bench", *words.split()], cwd=installed.with_name("elsewhere"), env=environment,
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.startswith(f"error: {said}") and done.stderr.count("\n") == 1, done.stderr
    assert sorted(installed.rglob("*")) == before


def test_tox_hands_pip_a_constraint_file_that_it_finds_in_a_path_with_a_space(tmp_path):
    """pip splits the variable at spaces."""
    clone = tmp_path / "my clone"
    clone.mkdir()
    shutil.copy(ROOT / "constraints.txt", clone)
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini")
    value = dict(line.split(" = ") for line in tox["testenv"]["set_env"].strip().splitlines())["PIP_CONSTRAINT"]
    done = subprocess.run([sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps", "--no-index", "numpy"], cwd=clone,
                          env={**os.environ, "PIP_CONSTRAINT": value.replace("{toxinidir}", str(clone))}, capture_output=True,
                          text=True, timeout=120)
    assert done.returncode == 0, done.stderr
