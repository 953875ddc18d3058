"""The examples run as their first lines say."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys

import pytest
from PIL import Image

from bench.paths import ROOT

ONE_SCREEN, FIRST_HOUR = (ROOT / "examples" / name for name in ("one_screen.py", "first_hour.py"))


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


def test_the_notebook_is_made_from_the_script():
    made = runpy.run_path(str(ROOT / "examples" / "make_notebook.py"))
    assert made["NOTEBOOK"].read_text() == made["notebook"](FIRST_HOUR.read_text()), "run python examples/make_notebook.py"
    cells = json.loads(made["NOTEBOOK"].read_text())["cells"]
    code, text = (["".join(cell["source"]) for cell in cells if cell["cell_type"] == kind] for kind in ("code", "markdown"))
    assert len(code) == len(text) == 8 and all(compile(each, "cell", "exec") for each in code)
    assert all(part in FIRST_HOUR.read_text() for part in code) and all(each.startswith("#") for each in text)


@pytest.mark.slow
def test_the_first_hour_ends_with_what_it_says(tmp_path):
    """All is right by the oracle; more steps decode better and give a lower FID, between that of real images and that of noise."""
    done = subprocess.run([sys.executable, FIRST_HOUR], cwd=tmp_path, capture_output=True, text=True, timeout=500,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": ok") == 4 and "WRONG" not in done.stdout
    errors = [float(found) for found in re.findall(r"mean squared error ([\d.]+)", done.stdout)]
    fids = [float(found) for found in re.findall(r"FID\[fmnist-cnn\] ([\d.]+)", done.stdout)]
    real, noise = map(float, re.search(r"real images: ([\d.]+) .*noise: ([\d.]+)", done.stdout).groups())
    assert len(errors) == 3 and errors[0] > errors[1] > errors[2]
    assert len(fids) == 3 and noise > fids[0] > fids[1] > fids[2] > 0.5 * real
    for name in ("samples", "decoded"):
        with Image.open(tmp_path / f"first-hour-{name}.png") as picture:
            assert min(picture.size) > 3 * 28
