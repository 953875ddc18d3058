"""The mirrored files of the reference and of every backend have the same public functions, so that their `diff` is the review.

Files are parsed, never imported: no framework is needed.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from backends import about

ROOT = Path(__file__).resolve().parents[2]
FILES = ["schedules.py", "samplers.py"]
SOLVER_FILES = ["solvers.py", "solving.py"]  # of a backend whose ABOUT.solvers is true
BACKENDS = sorted(path.parent for path in (ROOT / "backends").glob("*/backend.py"))
MIRRORS = [(folder, name) for folder in BACKENDS for name in FILES + SOLVER_FILES * about(folder.name).solvers]
# The papers' own updates, by which the coefficients are tested; the backends have the coefficients alone.
REFERENCE_ALONE = {"ddpm_step", "ddim_step", "ddim_encode_step"}
BACKEND_ALONE = {
    ("mindspore", "schedules.py"): {"f64"},  # MindSpore rounds a Python number that meets a tensor to 32 bits
}
# A backend keeps the coefficients of a plan between calls, and tells its caller of every step.
MORE_PARAMETERS = {"sample": ["c", "on_step"], "solve": ["c", "on_step"]}


def functions(source: str) -> list[tuple[str, list[str]]]:
    """(name, parameter names) of the public functions of a module, in order."""
    return [(node.name, [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)])
            for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]


def expected(name: str) -> list[tuple[str, list[str]]]:
    """Those of the reference's file, without what it alone has."""
    found = functions((ROOT / "reference" / name).read_text())
    return [(function, parameters) for function, parameters in found if function not in REFERENCE_ALONE]


def mirrored(backend: str, name: str, source: str) -> list[tuple[str, list[str]]]:
    """Those of a backend's file, without what it may have beyond the reference."""
    return [(function, [p for p in parameters if p not in MORE_PARAMETERS.get(function, [])])
            for function, parameters in functions(source) if function not in BACKEND_ALONE.get((backend, name), set())]


@pytest.mark.parametrize(("folder", "name"), MIRRORS, ids=lambda part: getattr(part, "name", part))
def test_the_same_functions(folder, name):
    assert mirrored(folder.name, name, (folder / name).read_text()) == expected(name)


def test_who_has_the_solvers_says_so():
    for folder in BACKENDS:
        assert all((folder / name).exists() == about(folder.name).solvers for name in SOLVER_FILES)


@pytest.mark.parametrize("edit", [("def clip_x0(x0,", "def clip_x0(x,"), ("def predict(", "def prediction("),
                                  ("def step(", "def _step("), ("def clip_x0(", "def extra(a): pass\ndef clip_x0(")])
def test_a_difference_is_found(edit):
    source = (ROOT / "reference" / "samplers.py").read_text().replace("x0: Array, plan", "x0, plan")
    assert mirrored("torch", "samplers.py", source)[-5:] == expected("samplers.py")
    assert edit[0] in source and mirrored("torch", "samplers.py", source.replace(*edit))[-5:] != expected("samplers.py")


def test_the_exceptions_are_needed():
    assert {name for name, _ in functions((ROOT / "reference" / "samplers.py").read_text())} >= REFERENCE_ALONE
    for (backend, name), extra in BACKEND_ALONE.items():
        assert extra <= {function for function, _ in functions((ROOT / "backends" / backend / name).read_text())}
    for folder, name in MIRRORS:
        if function := {"samplers.py": "sample", "solving.py": "solve"}.get(name):
            assert set(MORE_PARAMETERS[function]) <= set(dict(functions((folder / name).read_text()))[function])
