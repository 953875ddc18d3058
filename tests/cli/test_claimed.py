"""What a backend does not claim is left out of a command with one line, or refused where it was asked for by name."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import backends
from backends import claims
from bench import api
from bench.cli.main import main
from bench.studies.contenders import Contender, contenders, unclaimed
from reference.config import ConfigError, DiffusionConfig
from tests.helpers.tiny import TINY

PORT = Path(__file__).parents[2] / "examples" / "port" / "my_port"
HALF = """from backends.facts import About
ABOUT = About("Half", schedules=("linear",), objectives=("eps",), variances=("large",), losses=("l2",), samplers=("ddim",),
              spacings=("leading",), conventions=("plain",), modes=("stock", "tuned"), devices=("cpu",), likelihood=True)
"""
RUN = ["run", "--dry-run=plan", "--preset", "table", "--steps", "5,10"]


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """`half`, the torch backend that claims half of what it has, and `my_port`, the sampler of examples/port."""
    site = tmp_path / "site"
    (site / "half_port").mkdir(parents=True)
    (site / "half_port" / "__init__.py").write_text(HALF)
    (site / "half_port" / "backend.py").write_text("from backends.torch.backend import create\n")
    shutil.copytree(PORT, site / "my_port", ignore=shutil.ignore_patterns("__pycache__"))
    for name, module in (("half", "half_port"), ("my_port", "my_port")):
        (about := site / f"{name}-1.0.dist-info").mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[ddim_bench.backends]\n{name} = {module}.backend\n")
    monkeypatch.syspath_prepend(site)
    backends.about.cache_clear()
    yield
    backends.about.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] in ("half_port", "my_port")]:
        del sys.modules[name]


@pytest.fixture
def net(tmp_path):
    api.new(TINY, DiffusionConfig(timesteps=20)).save(tmp_path / "net")
    return str(tmp_path / "net")


def told(words, capsys, code=0):
    """The lines that a command ends with."""
    assert main(words) == code
    said = capsys.readouterr()
    return (said.err if code else said.out).splitlines()


def test_by_default_it_draws_what_it_claims(installed, capsys):
    lines = told([*RUN, "--eta", "0,ddpm"], capsys)
    drawn = [line for line in lines if line.startswith("half: sample")]
    assert len(drawn) == 2 and all("eta=0" in line for line in drawn)
    wanted = "half: 2 of its cells were left out: sampler='ddpm': Half claims ddim, says its ABOUT"
    assert any(line.startswith(wanted) for line in lines)
    assert sum(line.startswith("torch: sample") for line in lines) == 4


def test_each_reason_has_the_number_of_its_own_cells(installed, capsys):
    lines = told([*RUN, "--sampler", "ddim,ddpm,heun"], capsys)
    found = {line.partition("left out: ")[2].partition(":")[0]: int(line.split()[1]) for line in lines if "of its cells" in line}
    assert found == {"sampler='ddpm'": 2, "sampler='heun'": 2, "spacing='trailing'": 2}


@pytest.mark.parametrize(("words", "line"), [
    (["--eta", "0,ddpm"], "--eta='0,ddpm': sampler='ddpm': Half claims ddim, says"),
    (["--sampler", "ddpm"], "--sampler='ddpm': sampler='ddpm': Half claims ddim, says"),
    (["--spacing", "trailing"], "--spacing='trailing': spacing='trailing': Half claims leading, says"),
    (["--convention", "song2021"], "--backends='torch,half': convention='song2021': Half claims plain, says"),
    (["--dtype", "float64"], "--backends='torch,half': dtype='float64': Half claims float32, says"),
    (["--device", "cuda"], "--backends='torch,half': device='cuda': Half claims cpu, says"),
])
def test_by_name_it_is_refused_what_it_does_not_claim(installed, capsys, words, line):
    """And by default it is left out with the same words, beside the backends that do it."""
    error, = told([*RUN, "--backends", "torch,half", *words], capsys, code=2)
    assert error.startswith(f"error: {line} its ABOUT")
    lines = told([*RUN, *words], capsys)
    assert any(line.partition(": ")[2] in said and said.startswith("half") for said in lines)
    assert any(said.startswith("torch: sample") for said in lines)


def test_by_name_it_draws_what_it_claims_where_no_option_asks_for_more(installed, capsys):
    lines = told(["run", "--table", "ddim", "--backends", "half,torch", "--steps", "10", "--dry-run=plan"], capsys)
    drawn = [line for line in lines if line.startswith("half: sample")]
    assert drawn and not any("ddpm" in line or "trailing" in line for line in drawn)
    assert any(line.startswith("half: ") and "of its cells were left out: " in line for line in lines)


def test_nothing_that_anybody_claims_is_a_mistake(installed, capsys):
    error, = told([*RUN, "--backends", "half", "--convention", "song2021"], capsys, code=2)
    assert error.startswith("error: --backends='half': convention='song2021': Half claims plain")


def test_speed_times_what_it_claims(installed, capsys):
    lines = told(["speed", "--backends", "torch,half", "--dry-run=plan"], capsys)
    assert [line for line in lines if line.startswith("half")] == ["half stock float32", "half tuned float32"]
    assert [line.partition(": dtype")[0] for line in lines if "Half claims" in line] == [
        "not run: half tuned bfloat16", "not run: half tuned float16"]
    assert Contender("half", "tuned", "bfloat16") not in contenders(["half"], False) and not unclaimed(["torch"])
    error, = told(["speed", "--backends", "torch,half", "--device", "cuda", "--dry-run=plan"], capsys, code=2)
    assert error.startswith("error: --backends='torch,half': device='cuda': Half claims cpu")
    lines = told(["speed", "--device", "cuda", "--dry-run=plan"], capsys)
    assert any(line.startswith("half was left out: device='cuda'") for line in lines)
    assert not any(line.startswith("half stock") for line in lines)


def test_a_mode_that_a_backend_lacks_is_refused(net, tmp_path, capsys):
    words = ["sample", "--weights", net, "--backend", "mindspore", "--mode", "exported", "--save", str(tmp_path / "a.npy")]
    error, = told(words, capsys, code=2)
    assert error.startswith("error: mode='exported': MindSpore claims stock, tuned, compiled")


def test_studies_of_a_backend_are_held_to_its_claims(installed, net, capsys):
    for words in (["study", "scaling"], ["likelihood", "--weights", net, "--samples", "2"]):
        error, = told([*words, "--backends", "half", "--device", "cuda"], capsys, code=2)
        assert error.startswith("error: --backends='half': device='cuda': Half claims cpu")


@pytest.mark.parametrize(("words", "line"), [
    (["--sampler", "ddpm"], "sampler='ddpm': Half claims ddim"), (["--spacing", "quad"], "spacing='quad': Half claims leading"),
    (["--sections", "3,3"], "spacing='sections': Half claims leading"),
    (["--convention", "diffusers"], "convention='diffusers': Half claims plain"),
    (["--device", "cuda"], "device='cuda': Half claims cpu"), (["--dtype", "float64"], "dtype='float64': Half claims float32"),
])
def test_sample_refuses_before_anything_is_drawn(installed, net, tmp_path, capsys, monkeypatch, words, line):
    steps = [] if "--sections" in words else ["--steps", "5"]
    drawn = []
    monkeypatch.setattr(api, "draw", lambda *args, **more: drawn.append(args))
    error, = told(["sample", "--backend", "half", "--weights", net, "--save", str(tmp_path / "a.npy"), *steps, *words], capsys, 2)
    assert line in error and error.endswith("says its ABOUT: use one of these, or another backend")
    assert not drawn and not (tmp_path / "a.npy").exists()


def test_a_borrowing_sampler_claims_what_both_claim(installed, net):
    about = backends.about("my_port+half")
    assert claims.claimed(about, "schedules") == ("linear",) and claims.claimed(about, "samplers") == ("ddim",)
    assert claims.claimed(about, "losses") == ("l2",) and claims.claimed(about, "dtypes") == ("float32",)
    model = api.load(net, "my_port+torch")
    assert np.isfinite(model.sample(1, 4, sampler="ddpm")).all()
    for refused, kind in ((lambda: model.sample(1, 4, convention="song2021"), "convention='song2021'"),
                          (lambda: model.path(model.noise(1), api.load(net).plan(4, convention="diffusers"), 2), "convention"),
                          (lambda: api.load(net, "my_port+torch", dtype="float64"), "dtype='float64'")):
        with pytest.raises(ConfigError, match=f"^{kind}.*My port with the network of PyTorch claims"):
            refused()


def test_training_is_held_to_the_losses(installed, tmp_path, capsys):
    words = ["train", "--backend", "half", "--train-steps", "2", "--save", str(tmp_path / "x")]
    error, = told([*words, "--loss", "l1"], capsys, code=2)
    assert error.startswith("error: loss='l1': Half claims l2, says its ABOUT") and not (tmp_path / "x").exists()
    model = api.new(TINY, DiffusionConfig(loss="l1"), backend="half")
    with pytest.raises(ConfigError, match="loss='l1': Half claims l2"):
        model.train(np.zeros((1, *model.spec.image_shape), np.uint8), 1)
