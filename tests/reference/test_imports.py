"""Imports run one way, reference <- backends <- bench, and none of the three loads a framework by being imported."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends import about, names

ROOT = Path(__file__).resolve().parents[2]
FRAMEWORKS = {*(about(name).module for name in names()), "torchvision", "torch_fidelity", "diffusers", "tensorflow"}
BENCH_EXTRA = {"filelock", "matplotlib", "pandas", "PIL", "pooch", "safetensors", "tqdm"}
FILES = sorted(p for room in ("reference", "backends", "bench") for p in (ROOT / room).rglob("*.py"))
BACKENDS = sorted(p.parent.name for p in (ROOT / "backends").glob("*/__init__.py"))
RECORDS = {"reference.solver_plans.SolverPlan", *(f"reference.rows.{name}" for name in ("Row", "Variant", "LAGS", "MORE_LAGS"))}
# What there is to claim is a list of names, and their tables are the only list of them.
NAMES = {"reference.grids.GRIDS", "reference.timesteps.LITERAL", "reference.solver_plans.CODES", "reference.solver_plans.FAST"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, top_level: bool = False) -> Iterator[str]:
    """Absolute names of the modules that a file imports, `from a import b` as a.b; `top_level`: only on being imported."""
    package = module_name(path).split(".") if path.name == "__init__.py" else module_name(path).split(".")[:-1]

    def walk(node: ast.AST) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = package[: len(package) + 1 - child.level] if child.level else []
                source = ".".join([*base, *([child.module] if child.module else [])])
                yield from (f"{source}.{alias.name}" for alias in child.names)
            elif not (top_level and (isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or for_types(child))):
                yield from walk(child)

    def for_types(node: ast.AST) -> bool:
        return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"

    return walk(ast.parse(path.read_text(encoding="utf-8")))


def room(name: str) -> str:
    return name.split(".")[0]


def test_relative_imports_are_resolved():
    assert "reference.schedules.Array" in set(imports(ROOT / "reference/unet.py"))
    assert "backends.torch.schedules" in set(imports(ROOT / "backends/torch/samplers.py"))


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_direction(path):
    name = module_name(path)
    for target in imports(path):
        assert room(target) != "tests", f"{name} imports {target}"
        if room(name) == "reference":
            assert room(target) in {"reference", "numpy", "scipy", *sys.stdlib_module_names}, f"{name} imports {target}"
        if room(name) == "backends":
            assert room(target) != "bench", f"{name} imports {target}"
            if room(target) == "reference":  # what a backend may know: configs, plans, names of weights, what a row holds
                known = target.split(".")[1] in {"config", "conventions", "errors", "plan", "weights"}
                named = name == "backends.claims" and target in NAMES
                assert known or named or target in RECORDS, f"{name} imports {target}"
            own = name.split(".")[1:2]
            others = {f"backends.{b}" for b in BACKENDS if [b] != own}
            assert ".".join(target.split(".")[:2]) not in others, f"{name} imports {target}"
            assert room(target) not in FRAMEWORKS or own == [room(target)], f"{name} imports {target}"


@pytest.mark.parametrize("path", [p for p in FILES if p.parent.parent.name != "backends"], ids=module_name)
def test_no_framework_at_the_top_of_a_module(path):
    assert not {room(target) for target in imports(path, top_level=True)} & FRAMEWORKS


def test_module_names_hide_no_library():
    """`python bench/run.py` puts bench/ first on sys.path."""
    for path in (ROOT / "bench").iterdir():
        assert path.stem == "__init__" or path.stem not in sys.stdlib_module_names | FRAMEWORKS | BENCH_EXTRA, path


PROBE = """
import importlib, json, sys
from pathlib import Path
before = set(sys.modules)
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
files = [getattr(sys.modules[name], "__file__", None) or "" for name in set(sys.modules) - before]
print(json.dumps([Path(f).parts for f in files]))
"""


def loaded_by(modules: list[str]) -> set[str]:
    """Packages of site-packages, and rooms of ours, that a fresh interpreter loads by importing these modules."""
    result = subprocess.run([sys.executable, "-c", PROBE, json.dumps(modules)], cwd=ROOT, capture_output=True, text=True,
                            timeout=120)
    assert result.returncode == 0, result.stderr
    out = set()
    for parts in json.loads(result.stdout.splitlines()[-1]):
        if "site-packages" in parts:
            out.add(Path(parts[parts.index("site-packages") + 1]).name.partition(".")[0])
        elif Path(*parts[: len(ROOT.parts)]) == ROOT:
            out.add(parts[len(ROOT.parts)])
    return out


def test_the_probe_sees_what_is_loaded():
    assert loaded_by(["scipy.special"]) >= {"numpy", "scipy"} and loaded_by(["json"]) == set()


def test_reference_loads_numpy_and_scipy_alone():
    modules = [module_name(p) for p in (ROOT / "reference").glob("*.py")]
    assert len(modules) >= 10
    assert loaded_by(modules) - {"numpy", "scipy", "reference"} == set()


def test_backends_load_no_framework_until_asked():
    modules = ["backends", "backends.protocol", *(f"backends.{b}" for b in BACKENDS)]
    assert loaded_by(modules) - {"numpy", "scipy", "reference", "backends"} == set()


def test_bench_loads_no_framework():
    absent = [m for m in sorted(BENCH_EXTRA) if importlib.util.find_spec(m) is None]
    if absent:
        pytest.skip(f"needs the bench extra, of which {', '.join(absent)} are not installed; the backends' environments run this")
    modules = [module_name(p) for p in (ROOT / "bench").rglob("*.py")]
    assert len(modules) >= 50
    loaded = loaded_by(modules)
    assert "bench" in loaded and not loaded & FRAMEWORKS
