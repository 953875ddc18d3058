"""The examples run as their first lines say."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from PIL import Image

from bench.paths import ROOT

ONE_SCREEN = ROOT / "examples" / "one_screen.py"


def test_one_screen_is_one_screen():
    assert len(ONE_SCREEN.read_text().splitlines()) <= 60


@pytest.mark.slow
def test_one_screen_trains_draws_and_measures(tmp_path):
    """Its loss falls, and its floor and ceiling are those of so few images."""
    done = subprocess.run([sys.executable, ONE_SCREEN, "--steps", "5", "--n", "128", "--out", "a.png"], cwd=tmp_path,
                          capture_output=True, text=True, timeout=500, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    before, after = map(float, re.search(r"held-out loss ([\d.]+) before, ([\d.]+) after 5 steps", done.stdout).groups())
    said = re.search(r"FID\[fmnist-cnn\] ([\d.]+) of n = 128 .* ([\d.]+), noise ([\d.]+)", done.stdout)
    fid, real, noise = map(float, said.groups())
    assert after < before and real < 10 < 300 < noise and fid > 10 * real
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size > (8 * 28, 8 * 28)
