"""A sampler without a network: left out of a job by default, and drawing with another backend's network by name."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import backends
from bench import api
from bench.cli.main import main
from bench.presets import PRESETS
from bench.records import rows
from bench.studies import scaling, speed
from reference.config import DiffusionConfig
from tests.helpers.tiny import TINY

HERE = Path(__file__).parents[1] / "numpy_backend"
PAIR = "np_sampler+torch"


@pytest.fixture
def port(tmp_path, monkeypatch):
    """The example port, installed as the backend np_sampler."""
    site = tmp_path / "site"
    (package := site / "np_sampler_port").mkdir(parents=True)
    for name in ("__init__.py", "backend.py"):
        shutil.copy(HERE / name, package)
    (about := site / "np_sampler-1.0.dist-info").mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: np_sampler\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[ddim_bench.backends]\nnp_sampler = np_sampler_port.backend\n")
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=":")
    backends.about.cache_clear()
    yield
    backends.about.cache_clear()


@pytest.fixture
def net(tmp_path):
    api.new(TINY, DiffusionConfig(timesteps=20)).save(tmp_path / "net")
    return str(tmp_path / "net")


def test_it_is_left_out_with_one_line(port):
    chosen, absent = backends.choose(None)
    assert "np_sampler" not in chosen and "torch" in chosen
    assert [line for line in absent if "np_sampler" in line] == [
        "np_sampler has no network and was left out; --backends np_sampler+torch draws with that of torch"]


def test_by_name_it_needs_a_network(port, net, tmp_path, capsys):
    for words in (["run", "--backends", "np_sampler", "--dry-run=plan"], ["speed", "--backends", "np_sampler"],
                  ["run", "--speed", "--backends", "np_sampler"], ["study", "scaling", "--backends", "np_sampler"],
                  ["likelihood", "--backends", "np_sampler", "--weights", net],
                  ["sample", "--backend", "np_sampler", "--weights", net, "--save", str(tmp_path / "a.npy")]):
        assert main(words) == 2
        assert capsys.readouterr().err == ("error: backend='np_sampler': is a sampler without a network, says its ABOUT: name it "
                                           "np_sampler+torch to draw with the network of torch\n")
    assert main(["run", "--backends", "np_sampler", "--network", "np_sampler", "--dry-run=plan"]) == 2
    assert "--network='np_sampler': must be one of torch" in capsys.readouterr().err
    assert main(["train", "--backend", "np_sampler", "--train-steps", "2", "--save", str(tmp_path / "x")]) == 2
    assert "is a sampler without a network, says its ABOUT: name one that trains" in capsys.readouterr().err
    assert main(["train", "--backend", PAIR, "--train-steps", "2", "--save", str(tmp_path / "x")]) == 2
    assert "has no training but that of its network" in capsys.readouterr().err


@pytest.mark.parametrize("name, with_what", [("torch", "its own"), (PAIR, "torch")])
def test_a_network_that_nobody_takes_is_refused(port, net, tmp_path, capsys, name, with_what):
    for words in (["run", "--backends", name, "--dry-run=plan"], ["run", "--dry-run=plan"],
                  ["sample", "--backend", name, "--weights", net, "--save", str(tmp_path / "a.npy")]):
        assert main([*words, "--network", "torch"]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: --network='torch': has no use, for ") and error.count("\n") == 1
        if words[0] == "sample":
            assert f"for {name} samples with {with_what}: leave it out" in error
    assert main(["run", "--backends", f"{name},np_sampler", "--network", "torch", "--dry-run=plan"]) == (name == PAIR) * 2
    assert capsys.readouterr().err == (
        "error: --backends='np_sampler+torch,np_sampler': every backend must appear once\n" if name == PAIR else "")


def test_the_remedy_that_is_named_works(port, net, tmp_path, monkeypatch, capsys):
    """The name with the network is taken by each command that asks for it; one without the terms of the bound says so."""
    assert main(["run", "--backends", PAIR, "--dry-run=plan"]) == main(["speed", "--backends", PAIR, "--dry-run=plan"]) == 0
    assert f"{PAIR} tuned float32" in capsys.readouterr().out
    asked = []
    monkeypatch.setattr(scaling, "run", lambda axes, preset, chosen, **more: asked.append(chosen) or 0)
    assert main(["study", "scaling", "--backends", f"torch,{PAIR}"]) == 0 and asked == [("torch", PAIR)]
    assert main(["sample", "--backend", PAIR, "--weights", net, "--steps", "2", "--save", str(tmp_path / "a.npy")]) == 0
    capsys.readouterr()
    for name, says in (("np_sampler+np_sampler", "the network after np_sampler+ must be one of torch"),
                       ("nowhere+torch", "must be one of torch"), (f"{PAIR}+torch", "after np_sampler+ must be one of torch")):
        assert main(["speed", "--backends", name]) == 2
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1


def test_a_pair_is_not_trained_nor_timed_in_training(port, capsys, tmp_path):
    """By the plan, the list of what is ahead, and the workloads of the speed table and of scaling."""
    assert main(["run", "--backends", f"torch,{PAIR}", "--steps", "5", "--dry-run=plan"]) == 0
    lines = capsys.readouterr().out.splitlines()
    planned = {name: [line.partition(": ")[2].partition(" S=")[0] for line in lines if line.startswith(f"{name}: ")]
               for name in ("torch", PAIR)}
    timed = "time the sampling step"
    assert planned["torch"][:4] == ["oracle", "train 60 steps", "time the training step", timed]
    assert planned[PAIR][:3] == ["oracle", timed, "sample and measure"]
    assert f"{PAIR}: the short training and the time of a training step were left out, which are those of torch" in lines
    contenders = [speed.Contender(name, "tuned", "float32") for name in ("torch", PAIR)]
    train, sample, *_ = speed.workloads(PRESETS["quick"])
    assert train.racing(contenders) == contenders[:1] and sample.racing(contenders) == contenders
    points = scaling.points(("batch",), ("torch", PAIR), PRESETS["quick"], "cpu", 1)
    assert {p.backend for p in points if p.workload == "training step"} == {"torch"}


@pytest.mark.parametrize("options", [["--eta", "1"], ["--sampler", "ddpm"], ["--convention", "diffusers", "--eta", "0.5"]])
def test_its_images_are_those_of_the_network_that_it_borrows(port, net, tmp_path, options):
    """And the steps are its own: with a wrong one the images are others."""
    for name, words in (("a", ["--backend", "np_sampler", "--network", "torch"]), ("b", ["--backend", "torch"])):
        assert main(["sample", "--weights", net, *words, "--samples", "3", "--steps", "5", *options, "--save-float",
                     str(tmp_path / f"{name}.npy")]) == 0
    a, b = (np.load(tmp_path / f"{name}.npy") for name in "ab")
    assert np.abs(a - b).max() < 1e-4


def test_the_steps_are_the_samplers_own(port, net, monkeypatch):
    model = api.load(net, PAIR)
    good = model.sample(2, 5)
    sampler = type(model.backend._sampler)
    step = sampler.step
    monkeypatch.setattr(sampler, "step", lambda self, x, output, i, plan, z: 1.01 * step(self, x, output, i, plan, z))
    assert np.abs(model.sample(2, 5) - good).max() > 1e-3
    assert backends.about(PAIR).label == "My port with the network of PyTorch" and backends.about(PAIR).network


@pytest.mark.slow
def test_it_appears_in_the_main_jobs_tables(port, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["run", "--preset", "table", "--backends", "torch,np_sampler", "--network", "torch", "--steps", "5", "--metric", "none",
             "--samples", "4", "--out", str(out)]
    assert main(words) == 0, capsys.readouterr().err
    found = rows.read(out / "rows")
    assert {row.backend for row in found if row.kind == "sample"} == {"torch", PAIR}
    checks = [row for row in found if row.kind == "check" and row.backend == f"torch {PAIR}" and "images" in row.values]
    assert checks and all(row.values["images"]["ok"] for row in checks)
    assert "My port with the network of PyTorch" in (out / "README.md").read_text()
