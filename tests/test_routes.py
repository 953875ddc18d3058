"""The routes of bench/README.md, played to the letter from an empty folder: the commands are read from the page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.paths import ROOT

STEP = re.compile(r"^\d+\. (?:[^`\n]*: )?`((?:ddim-bench|mkdir) [^`]+)`", re.MULTILINE)


def steps(title: str) -> list[str]:
    """The commands of the numbered steps below a heading, one each."""
    section = (ROOT / "bench" / "README.md").read_text().split(f"### {title}\n")[1].split("\n### ")[0]
    found = STEP.findall(section)
    assert len(found) == len(re.findall(r"^\d+\. ", section.split("\n\n")[1], re.MULTILINE)) > 3
    return [" ".join(command.split()) for command in found]


def play(command: str, folder: Path) -> str:
    """What a command prints, as a reader would type it in that folder."""
    script = f'ddim-bench() {{ "{sys.executable}" -m bench "$@"; }}\n{command}'
    done = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, timeout=500,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.routes
def test_from_your_images_to_a_model(tmp_path):
    """Sixteen colour pictures: every step ends well and leaves what it says."""
    (tmp_path / "my_pngs").mkdir()
    for n in range(16):
        x = np.random.default_rng(n).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(x).save(tmp_path / "my_pngs" / f"{n}.png")
    said = [play(command, tmp_path) for command in steps("From your images to a model")]
    assert said[0].startswith("images: RGB 16 x 16") and "held-out loss" in said[0]
    for name in ("my-samples.png", "between.png", "my-network.logs/step-20.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.size > (16, 16)
    assert len(list((tmp_path / "my-samples").glob("*.png"))) == 16
    with Image.open(tmp_path / "my-samples" / "00000.png") as picture:
        assert (picture.size, picture.mode) == ((16, 16), "RGB")
    assert "DISAGREES" not in said[-1] and "PyTorch / oracle" in said[-1]
    assert "too few images for a meaningful number" in said[-2] and re.search(r"FID\[own-[0-9a-f]{8}\] floor: .* n = 8", said[-2])
    assert re.search(r"FID\[own-[0-9a-f]{8}\]", said[-2])[0] in said[-1]


@pytest.mark.slow
@pytest.mark.routes
def test_from_two_machines_to_a_verdict(tmp_path):
    """Both are this machine: their images are the same, and what is said of times depends on how busy it is."""
    _, _, compared, *_ = [play(command, tmp_path) for command in steps("From two machines to a verdict")]
    assert "agrees" in compared and "disagrees" not in compared and "no difference" in compared.split("distances")[1]
    assert "training step" in compared.split("times")[1]
    page = (tmp_path / "first" / "machines.md").read_text()
    assert "| here " in page and "| epyc-2-cores " in page
    assert "Compared: times" in (tmp_path / "first" / "report.html").read_text()
