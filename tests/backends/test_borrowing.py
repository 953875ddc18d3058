"""A sampler without a network: left out of a job by default, and drawing with another backend's network by name."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import backends
from backends import borrowing, claims
from backends.facts import About
from backends.protocol import Spec
from bench import api
from bench.cli.main import main
from bench.presets import PRESETS
from bench.records import rows
from bench.studies import scaling, speed
from reference.config import ConfigError, DiffusionConfig
from reference.conventions import make_plan
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


def test_the_facts_of_a_pair_are_what_both_have():
    sampler = About("S", install="get s", packages=("s",), order=3, levels=("L0", "L1", "L5"), schedules=("cosine", "linear"),
                    dtypes=("float64", "float32"), devices=("cpu",))
    network = About("N", install="get n", packages=("n",), order=7, module="n", dtypes=("float32", "bfloat16"), losses=("l2",),
                    schedules=("linear", "cosine", "quad"), solvers=True, likelihood=True, roofline=True, weight_files=(b"PK",),
                    launcher="torchrun")
    pair = borrowing.about(sampler, network)
    assert (pair.label, pair.order, pair.install, pair.packages) == ("S with the network of N", 3, "get s; get n", ("s", "n"))
    assert (pair.schedules, pair.dtypes, pair.devices) == (("cosine", "linear"), ("float32",), ("cpu",))
    assert pair.samplers == ("ddim", "ddpm") and pair.losses == ("l2",) and pair.network
    assert not (pair.solvers or pair.likelihood or pair.roofline or pair.weight_files or pair.launcher)
    fast = borrowing.about(replace(sampler, solvers=True), network)  # a pair solves nothing, whatever its parts do
    assert fast.samplers == ("ddim", "ddpm") and not fast.solvers and claims.problem(fast) is None


def test_a_pair_is_installed_where_both_are(monkeypatch):
    modules = {"here": "json", "gone": "a_module_that_is_absent"}
    monkeypatch.setattr(backends, "about", lambda name: About(name, module=modules[name]))
    assert [backends.installed(name) for name in ("here+here", "here+gone", "gone+here")] == [True, False, False]


class Part:
    """A sampler or a network whose tensors are (its name, array), and which notes what it is asked."""

    def __init__(self, name):
        self.name, self.asked = name, []

    def to_device(self, array):
        return self.name, array

    def to_host(self, tensor):
        assert tensor[0] == self.name, "a tensor of the other framework"
        return tensor[1]

    def device_info(self):
        return {"framework": self.name}

    def forward(self, x, t, *, ema):
        self.asked.append((self.to_host(t).tolist(), ema))
        return self.to_device(0 * self.to_host(x))

    def step(self, x, output, i, plan, z):
        self.asked.append((i, None if z is None else self.to_host(z)))
        return self.to_device(self.to_host(x) + 1)


def test_the_path_of_a_pair_is_walked_step_by_step():
    """With the averaged weights, each step's own t and, where the plan has a gate, noise; the last step has none."""
    process, steps = DiffusionConfig(timesteps=20), []
    pair = borrowing.Borrowing(Spec(TINY, process), sampler := Part("s"), network := Part("n"))
    plan = make_plan(process, 3, sampler="ddpm")
    end = pair.sample(("n", np.zeros((2, 1))), plan, lambda i: np.array(10 * i), on_step=steps.append)
    assert network.to_host(end).tolist() == [[3], [3]] and steps == [0, 1, 2]
    assert network.asked == [([float(t)] * 2, True) for t in plan.network_t]
    assert sampler.asked == [(0, 0), (1, 10), (2, None)]
    pair.sample(("n", np.zeros((2, 1))), make_plan(process, 3), lambda i: np.array(10 * i), ema=False)
    assert [z for _, z in sampler.asked[3:]] == [None] * 3 and not any(ema for _, ema in network.asked[3:])
    assert pair.device_info() == {"framework": "n", "sampler": "s"}
    with pytest.raises(ConfigError, match="self_conditioning=True"):
        pair.sample(("n", np.zeros((2, 1))), make_plan(DiffusionConfig(self_conditioning=True), 3))
