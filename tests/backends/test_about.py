"""What others may know of a backend without its framework: `ABOUT`, of our folders and of outside packages."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest

import backends
from backends import facts
from backends.protocol import About
from bench.workers import peers
from reference.config import ConfigError
from tests.benchmarks import conftest as benchmarks
from tests.conformance import conftest

ROOT = Path(__file__).resolve().parents[2]
OURS = sorted(path.parent.name for path in (ROOT / "backends").glob("*/backend.py"))
INSTALLED = [name for name in OURS if backends.installed(name)]


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """Install a package `a_port` with this `__init__.py`, its entry point naming `module`."""
    def install(init: str, module: str = "a_port.backend") -> None:
        package = tmp_path / "a_port"
        package.mkdir()
        (package / "__init__.py").write_text(init)
        (package / "backend.py").write_text("import a_framework_that_is_absent\n")
        (package / "roofline.py").write_text("")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(backends, "_outside", lambda: {"a_port": EntryPoint("a_port", module, backends.GROUP)})
        backends.about.cache_clear()
    yield install
    backends.about.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "a_port"]:
        del sys.modules[name]


def test_ours_say_all_about_themselves():
    for name in OURS:
        about = backends.about(name)
        folder = ROOT / "backends" / name
        assert about.label != name and name in about.install and about.packages and about.module
        assert about.roofline == (folder / "roofline.py").exists()
        assert bool(about.weight_files) == (folder / "weight_files.py").exists()
    orders = [backends.about(name).order for name in backends.names()]
    assert orders == sorted(orders) and len({backends.about(name).order for name in OURS}) == len(OURS)
    assert backends.names()[0] == backends.DEFAULT == "torch"
    launchers = [backends.about(name).launcher for name in OURS]
    assert len(set(launchers)) == len(launchers)


@pytest.mark.parametrize("name", INSTALLED)
def test_dtypes_are_those_that_the_backend_takes(name):
    assert set(backends.about(name).dtypes) == set(backends.load(name).DTYPES)


def test_names_load_neither_framework_nor_numpy():
    code = ("import json, sys, backends; [backends.about(name) for name in backends.names()]; backends.choose(None); "
            "print(json.dumps(sorted({m.partition('.')[0] for m in sys.modules})))")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    loaded = set(json.loads(done.stdout)) if INSTALLED else set()
    assert done.returncode == (0 if INSTALLED else 1), done.stderr
    assert not loaded & {"numpy", "scipy", *OURS}


def test_an_outside_package_says_the_same(outside):
    outside('from backends.protocol import About\nABOUT = About("A port", roofline=True, install="ask", module="json")\n')
    assert backends.about("a_port") == About("A port", roofline=True, install="ask", module="json")
    assert backends.names() == [*backends.names()[:-1], "a_port"] and backends.installed("a_port")
    with pytest.raises(backends.NotInstalled, match="a_framework_that_is_absent.*; to install: ask"):
        backends.roofline("a_port")


def test_roofline_and_weight_files_of_an_outside_package(outside, tmp_path):
    outside('from backends.protocol import About\nABOUT = About("A port", roofline=True)\n')
    (tmp_path / "a_port" / "backend.py").write_text("")
    importlib.invalidate_caches()
    assert Path(backends.roofline("a_port").__file__) == tmp_path / "a_port" / "roofline.py"
    with pytest.raises(ConfigError, match="backend='a_port': has no weight_files.py, says its ABOUT"):
        backends.weight_files("a_port")


@pytest.mark.parametrize(("init", "module"), [("", "a_port.backend"), ("import another_that_is_absent", "a_port.backend"),
                                              ('raise RuntimeError("loaded")', "a_port")])
def test_without_facts_there_are_defaults(outside, init, module):
    """Also where the package can't be imported, or the entry point's module is in no package and would have to be loaded."""
    outside(init, module)
    assert backends.about("a_port") == About("a_port") and backends.installed("a_port")


def test_facts_of_another_type_are_refused(outside):
    outside('ABOUT = {"label": "A port"}\n')
    with pytest.raises(ConfigError, match="backend='a_port': ABOUT of a_port must be a `backends.protocol.About`"):
        backends.about("a_port")
    assert backends.borrowed("torch", None) == "torch", "who asks for another backend is not stopped by it"


@pytest.mark.parametrize(("field", "rule"), [
    ("slow_to_compile=True", "slow_to_compile=True must be of type tuple[str, ...]"),
    ('dtypes="float32"', "dtypes='float32' must be of"),
    ("packages=(1,)", "packages=(1,) must be of type tuple[str, ...]"), ("order=True", "order=True must be of type int"),
    ("solvers=1", "solvers=1 must be of type bool"), ("module=7", "module=7 must be of type str | None"),
    ('weight_files=("PK",)', "weight_files=('PK',) must be of type tuple[bytes, ...]"),
    ('levels=("L0", "L9")', "levels has 'L9', which must be one of L0, L1, ")])
def test_a_field_of_another_type_is_refused_in_one_line(outside, field, rule):
    outside(f'from backends.protocol import About\nABOUT = About("A port", {field})\n')
    with pytest.raises(ConfigError) as refused:
        backends.about("a_port")
    assert str(refused.value).startswith(f"backend='a_port': in ABOUT of a_port {rule}") and "\n" not in str(refused.value)


def test_the_kit_says_what_is_wrong_with_facts_as_a_mistake_of_use(outside, monkeypatch):
    """No traceback: pytest prints a UsageError in one line."""
    outside('from backends.protocol import About\nABOUT = About("A port", slow_to_compile=True)\n')
    monkeypatch.setattr(backends, "load", lambda name: importlib.import_module("json"))
    config = SimpleNamespace(getoption={"--device": "cpu", "--backend": ["a_port"], "--mode": []}.__getitem__)
    with pytest.raises(pytest.UsageError, match="slow_to_compile=True must be of type"):
        conftest.pytest_configure(config)


def test_facts_of_our_own_are_of_their_types():
    assert facts.problem(About("A port", module="json", levels=("L0",), weight_files=(b"PK",))) is None
    for name in OURS:
        assert facts.problem(backends.about(name)) is None


def test_a_name_of_old_rows_is_its_own_label():
    assert backends.about("gone").label == "gone" and backends.about("").label == "" and backends.about("facts").label == "facts"
    assert sorted(["gone", "mindspore", "another", "torch"], key=backends.order) == ["torch", "mindspore", "another", "gone"]


@pytest.mark.parametrize("name", ["../x", "real", "noise", "diffusers", "torch", "a b", "x\nb", "", ".hidden", "x" * 60])
def test_names_that_are_paths_or_mean_something_else_are_no_backends(monkeypatch, name):
    entry = EntryPoint(name, "tests.helpers.fake_backend", backends.GROUP)
    monkeypatch.setattr(backends, "entry_points", lambda group: [entry, EntryPoint("good-1", "tests.helpers.fake_backend", group)])
    assert backends.names() == [*sorted(backends._folders(), key=backends.order), "good-1"]
    assert backends.load("torch").__name__ == "backends.torch.backend"
    chosen, absent = backends.choose(None)
    assert "good-1" in chosen and name not in set(chosen) - {"torch"}
    said = f"missing: all cells of {name!r}: the name of an installed package's backend must be letters, digits, _ and -, and "
    assert [line for line in absent if line.startswith(said)] == absent[:1]
    if name and name != "torch":
        with pytest.raises(ConfigError, match="the name of an installed package's backend must be"):
            backends.choose(name)


def test_the_peers_names_are_reserved():
    assert set(peers.PEERS) <= set(backends.RESERVED)


def test_every_backend_is_in_the_speed_suite(monkeypatch):
    """In both modes and each dtype that the suite measures and the backend has, once."""
    monkeypatch.setattr(backends, "load", lambda name: None)  # as if all were installed
    asked = []
    metafunc = SimpleNamespace(fixturenames=["backend", "mode"], parametrize=lambda names, values: asked.extend(values),
                               config=SimpleNamespace(getoption=lambda name: []),
                               definition=SimpleNamespace(get_closest_marker=lambda name: None))
    benchmarks.pytest_generate_tests(metafunc)
    assert len(asked) == len(set(asked)) and set(asked) == {
        (name, mode, dtype) for name in backends.names() for mode in ("stock", "tuned") for dtype in ("float32", "bfloat16")
        if dtype in backends.about(name).dtypes}
