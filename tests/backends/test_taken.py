"""Modules that no installed package registers, as backends: `backends.take`, the kit in the porter's folder, workers."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import backends
from backends.protocol import Spec
from bench.messages import Create, Tables
from bench.paths import ROOT
from bench.workers.process import Worker
from reference.config import ConfigError, DiffusionConfig
from tests.helpers.tiny import TINY

PORT = ROOT / "examples" / "port" / "my_port"


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """A folder with examples/port as one file, my_module.py, and with modules that are no backends; nothing is taken yet."""
    claims = (PORT / "__init__.py").read_text().replace("My port", "My module")
    (tmp_path / "my_module.py").write_text((PORT / "backend.py").read_text().replace("from . import ABOUT\n", claims))
    (tmp_path / "not_one.py").write_text("raise SystemExit('was imported')\n")
    (tmp_path / "half.py").write_text("ABOUT = None\nraise ValueError('no such\\ncode')\n")
    (tmp_path / "empty.py").write_text("from backends.protocol import About\nABOUT = About('Empty')\n")
    monkeypatch.setattr(backends, "_taken", {})
    monkeypatch.setattr(sys, "path", list(sys.path))
    backends.about.cache_clear()
    yield tmp_path
    backends.about.cache_clear()
    for name in ("my_module", "not_one", "half", "empty", "my_package"):
        sys.modules.pop(name, None)


def kit(folder, *words):
    command = [sys.executable, "-c", "import pytest, sys; sys.exit(pytest.main(sys.argv[1:]))", "-n0", *words]
    variables = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(("old", "code", "says"), [
    ("", 0, "passed"), ("math.sqrt(beta) if plan.sigma_hat else plan.eta * math.sqrt(small)", 1, "plain ddim eps"),
])
def test_the_kit_holds_a_module_in_the_porters_folder_to_its_claims(modules, old, code, says):
    path = modules / "my_module.py"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, "plan.eta * small") if old else path.read_text())
    done = kit(modules, f"{ROOT}/tests/conformance/test_l1_steps.py", "--backend=my_module", "-k", "test_steps and plain-ddim-eps")
    assert (done.returncode, says in done.stdout) == (code, True), done.stdout[-2000:] + done.stderr
    assert "my_module on cpu: L0, L1, L5 in float32" in done.stdout and "NOT CLAIMED by my_module: " in done.stdout


def test_the_kit_refuses_what_is_no_backend(modules):
    done = kit(modules, f"{ROOT}/tests/conformance/test_l1_steps.py", "--backend=not_one")
    assert done.returncode == 4 and "ERROR: backend='not_one': must be one of torch" in done.stderr, done.stderr
    assert "or a module with an ABOUT" in done.stderr and "was imported" not in done.stdout + done.stderr


@pytest.mark.parametrize(("name", "says"), [
    ("nowhere", "backend='nowhere': must be one of torch, mindspore, jax$"),
    ("not_one", "must be one of .*, or a module with an ABOUT, .*not_one.py has none"),
    ("half", r"half.py can't be imported, it raises ValueError: no such$"),
    ("empty", r"backend='empty': its module empty must have a function create\(spec\)"),
])
def test_a_wrong_name_is_one_line(modules, monkeypatch, name, says):
    monkeypatch.chdir(modules)
    with pytest.raises(ConfigError, match=says) as error:
        backends.load(name)
    assert "\n" not in str(error.value)
    assert name == "empty" or name not in backends.names()  # nothing is left of one whose ABOUT could not be had


def test_the_command_ends_with_2_and_one_line(modules):
    for name in ("nowhere", "not_one"):
        done = subprocess.run([sys.executable, "-m", "bench", "run", "--backends", name, "--dry-run=plan"], cwd=modules,
                              env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120)
        [line] = done.stderr.splitlines()
        assert done.returncode == 2 and f"'{name}': must be one of" in line


def test_only_what_a_user_names_is_looked_up(modules, monkeypatch):
    """A row may name any module, and to read it imports none."""
    monkeypatch.syspath_prepend(modules)
    assert backends.about("my_module").label == "my_module" and "my_module" not in sys.modules
    assert backends.choose("torch,my_module", "torch") == (("torch", "my_module+torch"), [])
    assert backends.about("my_module").label == "My module" and "my_module" in backends.names()
    assert backends.outside_files("my_module") == [modules / "my_module.py"]


def test_a_package_is_its_folder_and_all_of_its_files(modules, monkeypatch):
    """By which results are told from those of another version: what is in inner folders, too, and nothing that Python compiled."""
    package = modules / "my_package"
    files = [package / "__init__.py", package / "backend.py", package / "inner" / "table.npz"]
    for path in (*files, package / "__pycache__" / "backend.pyc"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    files[0].write_text("from backends.protocol import About\nABOUT = About('My package')\n")
    monkeypatch.syspath_prepend(modules)
    backends.take("my_package")
    assert backends.taken() == [package]
    assert backends.outside_files("my_package") == backends.outside_files("my_package+torch") == files
    assert backends.outside_files("torch") == []


def test_a_worker_is_told_where_the_module_is(modules, monkeypatch):
    """It lies in a folder of this process' path alone, and the worker's own folder is another one."""
    monkeypatch.syspath_prepend(modules)
    monkeypatch.chdir("/")
    backends.take("my_module+torch")
    spec = Spec(TINY, DiffusionConfig())
    with Worker("my_module", spec.to_dict(), 1, modules / "log") as worker:
        worker.call(Create())
        worker.call(Tables({"sampler": "ddim", "steps": 3}, str(modules / "tables.npz")))
    assert (modules / "tables.npz").exists()
