"""Where PyTorch is not installed: what measures says so at once, all else works."""

import importlib.util
import os
import subprocess
import sys

import pytest

from bench.cli.main import main
from bench.metric import fmnist_cnn
from bench.paths import ROOT
from bench.records import rows

ABSENT = ("torch", "torch_fidelity", "torchvision", "mindspore")
SITE = f"""
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {ABSENT} else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
"""
NEEDS = ": needs PyTorch and torch-fidelity, beside whatever backend draws: pip install"


@pytest.mark.parametrize("command, name", [
    (["run", "--steps", "5"], "fmnist-cnn"), (["run", "--metric", "inception"], "inception"), (["fid", "a", "b"], "fmnist-cnn"),
    (["recipe", "cosine-selfcond"], "fmnist-cnn"), (["study", "ablation"], "fmnist-cnn"),
])
def test_what_measures_ends_before_its_work(monkeypatch, tmp_path, capsys, command, name):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda asked: None if asked == "torch_fidelity" else find(asked))
    fmnist_cnn.extractor.cache_clear()
    out = [] if command[0] == "fid" else ["--out", str(tmp_path / "out")]
    assert main([*command, *out]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith(f"error: metric='{name}'{NEEDS}") and "--metric none" in error and "\n" not in error
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_all_else_works_with_jax_alone(tmp_path, folder):
    """Of a job, a training and samples; nothing names what it lacks but the lines about backends that are not installed."""
    pytest.importorskip("jax")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE)
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(ROOT)])}

    def run(*command, code=0):
        done = subprocess.run([sys.executable, *map(str, command)], env=variables, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == code, done.stderr[-2000:]
        return done.stdout + done.stderr

    job = (ROOT / "tests" / "helpers" / "tiny_run.py", "--steps", "2", "--train-steps", "2", "--samples", "4", "--out", "out")
    assert f"error: metric='fmnist-cnn'{NEEDS}" in run(*job, "--samples", "128", code=2) and not (tmp_path / "out").exists()
    told = run(*job, "--metric", "none")
    assert "torch is not installed and was not run; to install it: pip install" in told
    found = rows.read(tmp_path / "out" / "rows")
    assert {row.kind for row in found} == {"train", "check", "timing", "sample"} and all("jax" in row.backend for row in found)
    run("-m", "bench", "sample", "--backend", "jax", "--weights", folder, "--steps", "2", "--samples", "2", "--grid", "a.png")
    run("-m", "bench", "convert", folder, "copy")
    assert (tmp_path / "a.png").stat().st_size > 500 and list((tmp_path / "copy").rglob("*.safetensors"))
