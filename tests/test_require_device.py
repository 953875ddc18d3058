"""A device that doesn't work ends a run at once with one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("command, code", [("tests.require_device cuda", 1), ("pytest tests/benchmarks --device=cuda", 4)])
def test_no_gpu_is_one_line(command, code):
    done = subprocess.run([sys.executable, "-m", *command.split(), "--backend=torch"], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, timeout=120)
    [line] = (done.stdout + done.stderr).strip().splitlines()
    assert done.returncode == code and "device 'cuda' doesn't work: device='cuda': torch" in line
