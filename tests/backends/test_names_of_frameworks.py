"""A backend is one folder: the other code does not name the frameworks, apart from the places listed here."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import backends

ROOT = Path(__file__).resolve().parents[2]
WORDS = sorted(path.parent.name for path in (ROOT / "backends").glob("*/backend.py"))
NAME = re.compile(rf"(?<![\w-])({'|'.join(WORDS)})(?![\w-])")  # torch-fidelity is another name
FILES = sorted(path for room in ("reference", "bench") for path in (ROOT / room).rglob("*.py"))
PROSE = {"help", "description", "epilog"}  # of options

METRIC = "torch-fidelity computes the metric of every backend's images, with networks in PyTorch"
ALLOWED = {
    "bench/metric/extractor.py": METRIC,
    "bench/metric/fid.py": METRIC,
    "bench/metric/fmnist_cnn.py": METRIC,
    "bench/metric/inception.py": METRIC,
    "bench/metric/make_fmnist_cnn.py": METRIC,
    "bench/metric/own_cnn.py": METRIC,
    "bench/metric/torchvision_shim.py": METRIC,
    **{f"bench/workers/peers/{name}.py": "what is timed beside the backends are PyTorch programs, or converted from them"
       for name in ("peer", "diffusers", "lucidrains", "exported", "onnxruntime", "openvino", "aotinductor")},
    "bench/workers/peers/flax.py": "the port to Flax, a library of JAX, is timed beside the backends",
    "bench/training/trackers.py": "tensorboardX loads torch where it finds it, which a process of another framework must not hold",
    "bench/weights/tensor_files.py": "names in PyTorch's pickles are checked before a framework sees them; `convert --mindspore`",
    "bench/recipes/fashion_mnist_mindspore.py": "the tutorial that it follows is MindSpore's",
    "bench/report/speed_page.py": "text of the page, which names `torch.compile`",
    "bench/cli/convert.py": "`convert --mindspore` writes a file for `mindspore.load_checkpoint`",
}


def uses(source: str) -> Iterator[tuple[int, str]]:
    """(line, word) of each name of a framework in code and in strings; docstrings, comments and help texts are prose."""
    def walk(node: ast.AST) -> Iterator[tuple[int, str]]:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return
        if isinstance(node, ast.keyword) and node.arg in PROSE:
            return
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if not (isinstance(key, ast.Constant) and key.value in PROSE):
                    yield from (walk(key) if key else ())
                    yield from walk(value)
            return
        for _, value in ast.iter_fields(node):
            if isinstance(value, str):
                yield from ((getattr(node, "lineno", 0), word) for word in NAME.findall(value))
        for child in ast.iter_child_nodes(node):
            yield from walk(child)

    return walk(ast.parse(source))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_framework_is_named(path):
    name = path.relative_to(ROOT).as_posix()
    found = list(uses(path.read_text()))
    assert found or name not in ALLOWED, f"{name}: no longer needs its entry"
    assert not found or name in ALLOWED, f"{name} names {found}: ask `backends.about`, or list the reason"


def test_the_list_names_files():
    assert set(ALLOWED) <= {path.relative_to(ROOT).as_posix() for path in FILES}
    assert set(WORDS) == set(backends.names()) & set(WORDS) and len(WORDS) >= 2


@pytest.mark.parametrize(("source", "count"), [
    ("import torch", 1), ("from torch import nn", 1), ("import torch.nn as t", 1), ("def f():\n    return torch.ones(2)", 1),
    ("f(backend='torch')", 1), ("f(torch=1)", 1), ("x = f'backends.mindspore.{y}'", 1), ("x.mindspore", 1), ("{'torch': 1}", 1),
    ("def f(mindspore): pass", 1), ("x = 'torch,mindspore'", 2),
    ("'''Like torch.'''", 0), ("# torch", 0), ("p.add_argument('--x', help='default: torch')", 0),
    ("{'help': 'default: torch'}", 0),
    ("x = 'torch-fidelity'", 0), ("torchrun = 'fashion-mnist-mindspore'", 0), ("x = 'PyTorch'", 0)])
def test_what_counts_as_a_name(source, count):
    assert len(list(uses(source))) == count
