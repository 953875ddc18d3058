"""The main job catches every mistake of the catalogue: by its exit code and a line on stderr, or by the test that is named."""

from __future__ import annotations

import importlib
import inspect
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.protocol import Spec
from bench.sampling.cell import Cell
from bench.sampling.loop import time_steps
from reference.config import DiffusionConfig
from tests.helpers.tiny import install_backend

pytest.importorskip("torch", reason="the wrong backends are torch's")
from tests.mutants.job.patches import PATCHES, Patch  # noqa: E402
from tests.mutants.job.run import HERE, SMALLEST, job, planted, run  # noqa: E402
from tests.mutants.job.wrong import MISTAKES  # noqa: E402

ROOT = HERE.parents[2]


def asked(said: str) -> dict[str, Any]:
    """The smallest job that can see a mistake of which it is to say this."""
    if said == "late steps":
        return {"steps": (300,), "etas": (1.0,), "diffusion": DiffusionConfig(timesteps=300), "train_steps": 0}
    if "dpmpp_2m" in said:
        return {"cells": {"wrong": (Cell(4, 0.0, None, 0, "dpmpp_2m"),)}, "train_steps": 0}
    if "timed" in said:
        return {"etas": (0.0,), "train_steps": 0, "blocks": 10}
    if said in ("gradient", "step") or said.startswith("loss after"):
        return {"etas": (0.0,)}
    return {"train_steps": 0} if said == "sampling" or "sample" in said else {"etas": (1.0,), "train_steps": 0}


def rings(what: str) -> str:
    """The job's line about a mistake on stderr, which must come with exit code 4: of a comparison, or of an answer that is none."""
    said, _ = MISTAKES[what]
    with tempfile.TemporaryDirectory() as folder:
        ended = run(job(**asked(said)), Path(folder), what)
    lines, none = ended.stderr.splitlines(), "BackendError" in said
    starts = (said,) if none else (f"wrong oracle: {said}", f"wrong: {said}")
    found = [line for line in lines if line.startswith(starts) and (none or "off by" in line)]
    assert ended.code == 4 and found, (ended.code, lines[-5:])
    assert not none or f"missing: {found[0]}" in ended.stdout
    return found[0]


def losses_differ() -> None:
    """Two backends of which one trains wrongly: their losses are compared."""
    with tempfile.TemporaryDirectory() as folder:
        ended = run(job(("torch", "wrong"), etas=(0.0,)), Path(folder), "gradients of the wrong sign in training alone")
    assert any(line.startswith("torch wrong: losses_of_10_steps off by") for line in ended.stderr.splitlines())


def right_alone() -> None:
    """A right backend: exit code 0."""
    with tempfile.TemporaryDirectory() as folder:
        assert run(job(("torch",), etas=(0.0,)), Path(folder)).code == 0


def left_undone() -> None:
    """A backend that fails while it draws gives no answer: exit code 3, and nothing on stderr."""
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of order")

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("backends.torch.backend.TorchBackend.sample", fails)
        ended = run(job(("torch",), etas=(0.0,), train_steps=0), Path(folder))
    assert "missing: sample torch: worker torch: sample failed: RuntimeError: out of order" in ended.stdout
    assert ended.code == 3 and "out of order" not in ended.stderr


def sampling_is_timed_whole() -> None:
    """Seven steps, by a clock that counts them: the wait counts, the making of inputs does not."""
    clock, queue = [0.0], [0]

    class Steps:
        def to_device(self, x: np.ndarray) -> np.ndarray:
            clock[0] += 100
            return x

        def synchronize(self, *_: Any) -> None:
            clock[0], queue[0] = clock[0] + queue[0], 0

        def sample(self, x: np.ndarray, plan: Any, noise: None) -> np.ndarray:
            queue[0] += plan.steps
            return x

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.sampling.loop.time.perf_counter", lambda: clock[0])
        assert time_steps(Steps(), Spec(SMALLEST, DiffusionConfig(timesteps=20)), 7, 2, 0)[0] == 7


def call(test: str, case: tuple[Any, ...]) -> None:
    """Run a test or a function of this file by its name."""
    module, name = test.split(":")
    function = getattr(importlib.import_module(module), name)
    if "tests.workers.test_timed" in module:
        from tests.workers import test_timed as timed

        command, wanted, results = timed.CASES[case[0]]
        worker = timed.Session("torch", Spec(timed.TINY, DiffusionConfig(timesteps=20)), timed.Counter(), lambda *_: None, print)
        function(worker, command, wanted, results)
        return
    with tempfile.TemporaryDirectory() as folder:
        function(*case, *([Path(folder)] if "tmp_path" in inspect.signature(function).parameters else []))


@pytest.mark.slow
@pytest.mark.mutants
@pytest.mark.parametrize("what", MISTAKES)
def test_a_wrong_backend_rings_the_alarm(what: str) -> None:
    """With no other backend beside it."""
    rings(what)


@pytest.mark.slow
@pytest.mark.mutants
@pytest.mark.parametrize("patch", PATCHES, ids=lambda p: p.name)
def test_a_mistake_in_the_job_fails_its_test(patch: Patch) -> None:
    """The test passes without the mistake and fails with it."""
    call(patch.test, patch.case)
    with planted(patch.where, patch.old, patch.new), pytest.raises(AssertionError):
        call(patch.test, patch.case)


@pytest.mark.slow
@pytest.mark.mutants
@pytest.mark.parametrize("what", ["images too dark", "every second training step left out"])
def test_the_command_line_ends_with_4(what: str, tmp_path: Path) -> None:
    """Workers, processes and all, with a wrong backend that was installed as an outside package."""
    install_backend(tmp_path / "site", "wrong", "from tests.mutants.job.wrong import create\n")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path / 'site'}{os.pathsep}{ROOT}", "WRONG": what, "TINY_METRIC": "none"}
    command = [sys.executable, str(ROOT / "tests/helpers/tiny_run.py"), "--backends", "wrong", "--steps", "5", "--out",
               str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 4, done.stderr[-2000:]
    assert f"wrong oracle: {MISTAKES[what][0]}" in done.stderr and "Traceback" not in done.stderr


def test_catalogue() -> None:
    """Enough mistakes, each once, each in the table of README.md; and each edit fits its function."""
    names = [*MISTAKES, *(patch.name for patch in PATCHES)]
    assert len(names) == len(set(names)) >= 100
    rows = [line.strip("| ").split(" | ")[0] for line in (HERE / "README.md").read_text().splitlines() if line.startswith("| ")]
    assert [name for name in rows if name in names] == names, "run python -m tests.mutants.job.table"
    for patch in PATCHES:
        with planted(patch.where, patch.old, patch.new):
            pass
    for page, said in (("README.md", f"all {len(names)} of"),
                       ("tests/conformance/README.md", f"{len(MISTAKES)} wrong backends and {len(PATCHES)}")):
        assert said in " ".join((ROOT / page).read_text().split()), f"{page}: the catalogue has {len(MISTAKES)} and {len(PATCHES)}"
