"""The main job's command line: a user's mistake is one line and exit code 2, and nothing is written."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict

import pytest

import backends
from bench.cli.main import main
from bench.paths import ROOT
from bench.records import rows
from bench.report import results
from reference.config import ConfigError, DiffusionConfig
from reference.conventions import CONVENTIONS

MISTAKES = [
    ("--steps 0", "--steps"), ("--steps 2000", "T=1000"), ("--steps abc", "--steps"), ("--steps 10,10", "once"),
    ("--preset nope", "quick"), ("--backends two", "torch"), ("--dataset nope", "fashion-mnist"), ("--samples 10", "--samples=10"),
    ("--samples 20000", "held-out"), ("--weights /nowhere", "/nowhere"), ("--eta 2", "eta"), ("--eta x", "--eta"),
    ("--convention nope", "plain"), ("--dtype float8", "dtype"), ("--train-steps 0", "--train-steps"), ("--seed -1", "--seed"),
    ("--convention ho2020 --steps 10", "ho2020"), ("--data /nowhere", "/nowhere: no such file or folder"),
    ("--dataset images", "needs --data PATH"), ("--dataset mnist --data /nowhere", "train-images-idx3-ubyte.gz: no such file"),
    ("--seeds 3", "--seeds='3': goes with --table"), ("--table ddim --seeds 0", "--seeds"), ("--table ddim --seeds 3,x", "--seeds"),
    ("--table ddim --steps 30", "--steps=30: table ddim has 10, 20"), ("--table ddim --eta 0.3", "--eta=0.3"),
    ("--table ddim --convention nichol2021", "quad"), ("--table ddim --speed", "--table"), ("--table ddim --steps 10,x", "--steps"),
    ("--seed 18446744073709551616", "must be at least 0 and below 2^64"), ("--save-every inf", "--save-every=inf: must be"),
    ("--batch-size 1000000000000", "--batch-size=1000000000000: images of 1 x 28 x 28 need"),
    ("--sample-batch 1000000000000", "--sample-batch=1000000000000: images of"),
    ("--save-every -1", "--save-every=-1.0: must be at least 0"), ("--timeout 0", "--timeout"), ("--timeout nan", "--timeout"),
]


@pytest.mark.parametrize(("arguments", "word"), MISTAKES)
def test_mistakes_are_one_line_exit_2_and_write_nothing(arguments, word, tmp_path, capsys):
    assert main(["run", *arguments.split(), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and word in error
    assert not (tmp_path / "out").exists()


def test_corrupt_weights_name_file_and_reason(tmp_path, capsys):
    """Half of the shipped file's bytes."""
    import shutil
    folder = tmp_path / "weights"
    shutil.copytree(ROOT / "results" / "checkpoints" / "fmnist-small", folder)
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert main(["run", "--weights", str(folder), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert file.name in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_dry_run_prints_config_and_cells_and_writes_nothing(tmp_path, capsys):
    assert main(["run", "--dry-run=plan", "--backends", "torch", "--steps", "10,50", "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert '"name": "quick"' in out and "sample and measure S=50" in out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name, changed", [
    ("plain", {}), ("ho2020", {"large_variance_first": True, "approximate_cdf": True}), ("song2021", {"loss_sum": True}),
    ("nichol2021", {"beta_scaling": True, "rescale_timesteps": True, "large_variance_first": True, "approximate_cdf": True}),
    ("diffusers", {"schedule": "linear_float32"}), ("lucidrains", {"beta_scaling": True, "loss_weight": "snr"}),
])
def test_dry_run_shows_what_a_convention_changes(name, changed, capsys):
    """The process that is trained and sampled, every choice of the sampler, and both samplers' cells."""
    steps = "1000" if name == "ho2020" else "10"
    assert main(["run", "--dry-run=plan", "--backends", "torch", "--steps", steps, "--eta", "0,ddpm", "--convention", name]) == 0
    out = capsys.readouterr().out
    config = json.JSONDecoder().raw_decode(out)[0]
    assert config["diffusion"] == DiffusionConfig().to_dict() | changed
    assert config["convention"] == json.loads(json.dumps(asdict(CONVENTIONS[name])))
    assert f"sample and measure S={steps} eta=0.0" in out and f"sample and measure S={steps} eta=ddpm" in out


@pytest.mark.slow
def test_the_whole_job_runs_by_a_convention_without_short_paths(tmp_path):
    command = [sys.executable, str(ROOT / "tests" / "helpers" / "tiny_run.py"), "--backends", "torch", "--convention", "ho2020",
               "--steps", "20", "--eta", "0,ddpm", "--samples", "128", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env={**os.environ, "TINY_METRIC": "none"})
    assert done.returncode == 0
    told = re.search(r"wall time ([\d.]+) s: (.*)", done.stdout)
    assert re.findall(r"([a-z]+) [\d.]+ s", told[2]) == ["start", "training", "checks", "timing", "sampling", "metric"]
    assert {row.config["eta"] for row in rows.read(tmp_path / "rows") if row.kind == "sample"} == {"0.0", "ddpm"}


def test_backend_that_is_not_installed_is_named_and_an_error_when_asked_for(monkeypatch, capsys):
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: object() if name == "torch" else None)
    chosen, absent = backends.choose(None)
    assert chosen == ("torch",) and len(absent) == len(backends.names()) - 1
    assert "pip install" in absent[0] and "mindspore" in absent[0]
    with pytest.raises(ConfigError, match="mindspore is not installed"):
        backends.choose("mindspore")


def test_the_readmes_table_is_the_reports():
    table = (ROOT / "README.md").read_text().split(results.BEGIN)[1].split(results.END)[0].strip()
    assert table and all(line in (ROOT / "results" / "README.md").read_text() for line in table.splitlines())
