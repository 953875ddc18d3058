"""Scripts among the tests explain themselves on --help, and do nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.tree import ROOT

SCRIPTS = sorted(path.relative_to(ROOT) for path in (ROOT / "tests").rglob("*.py")
                 if '\nif __name__ == "__main__":' in path.read_text() and path != Path(__file__))


def state() -> dict[Path, int]:
    """When each data file beside the tests was last written."""
    return {path: path.stat().st_mtime_ns for path in (ROOT / "tests").rglob("*")
            if path.is_file() and path.suffix not in (".py", ".pyc")}


def test_there_are_scripts():
    assert {"make_golden.py", "test_golden.py", "tiny_run.py"} <= {path.name for path in SCRIPTS}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: ".".join(path.with_suffix("").parts))
def test_help_explains_and_does_nothing(script):
    before = state()
    done = subprocess.run([sys.executable, "-m", ".".join(script.with_suffix("").parts), "--help"], cwd=ROOT, capture_output=True,
                          text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.startswith("usage: "), done.stdout + done.stderr
    assert state() == before
