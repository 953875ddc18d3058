"""Run the main job in this process, with a wrong backend or with a mistake planted in the job itself."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import inspect
import io
import os
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from backends import NotInstalled
from backends.protocol import BackendError
from bench.cli import run as command
from bench.data.datasets import Dataset
from bench.job import run as stages
from bench.job.job import Job
from bench.messages import Command, R
from bench.metric import fid
from bench.presets import Preset
from bench.records.cells import Cells
from bench.records.notebook import Notebook
from bench.report import results
from bench.sampling.cell import Cell
from bench.timing import blocks
from bench.workers import session
from bench.workers.child import COMMANDS
from bench.workers.crew import Crew
from bench.workers.errors import WorkerError, WrongAnswer
from reference import weights
from reference.config import ConfigError, DiffusionConfig, ModelConfig, OptimConfig
from tests.helpers.tiny import install_backend

HERE = Path(__file__).parent
TRAIN_STEPS, SAMPLES, STEPS = 12, 8, 4
SMALLEST = ModelConfig(sample_size=8, block_out_channels=(8,), norm_num_groups=4, zero_init=False,
                       down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",))
DIFFUSION = DiffusionConfig(timesteps=20)
OPTIM = OptimConfig(lr=1e-3, warmup_steps=6, total_steps=40, min_lr=1e-5, ema_decay=0.99, max_grad_norm=0.1)
ETAS = (0.0, 1.0, "ddpm")
NONE: dict[str, Any] = {
    "metric": "none", "fid": 0.0, "fid_half": 0.0, "fid_inf": 0.0, "kid": 0.0, "kid_subset_size": 1, "kid_subset_std": 0.0,
    "kid_reference": "", "n": SAMPLES, "seed": 0, "extractor": "", "extractor_sha256": "", "reference": ""}


class Here(Crew):
    """A crew whose workers are in this process: commands and replies are the same, and failures what a worker makes of them."""

    def start(self, backend: str, name: str | None = None, **changes: Any) -> None:
        """Make the backend."""
        self._workers[name or backend] = session.create(backend, replace(self.spec, **changes), lambda *_: None, print)  # type: ignore[assignment]

    def stop(self, name: str) -> None:
        """Forget it."""
        self._workers.pop(name, None)

    def call(self, name: str, command: Command[R], stage: str = "") -> R:
        """Do what is asked for."""
        try:
            return COMMANDS[type(command)](self._workers[name], command)  # type: ignore[arg-type, no-any-return]
        except (ConfigError, NotInstalled):
            raise
        except Exception as error:
            kind = WrongAnswer if isinstance(error, BackendError) else WorkerError
            raise kind(f"worker {name}: {type(command).__name__.lower()} failed: {type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class Ended:
    """How a job ended."""

    code: int
    stdout: str
    stderr: str
    book: Notebook


def images(n: int = 40, seed: int = 0) -> Dataset:
    """Noise in place of a data set."""
    pixels = np.random.default_rng(seed).integers(0, 256, (n, 1, 8, 8), np.uint8)
    return Dataset("noise", "train", pixels, None, f"noise of seed {seed}", hashlib.sha256(pixels.tobytes()).hexdigest(), False)


def job(backends: tuple[str, ...] = ("wrong",), *, steps: tuple[int, ...] = (STEPS,), etas: tuple[Any, ...] = ETAS, blocks: int = 0,
        train_steps: int = TRAIN_STEPS, diffusion: DiffusionConfig = DIFFUSION, seed: int = 0, **changes: Any) -> Job:
    """A small job: 8 images, a network of one level, a short training."""
    preset = Preset("tiny", SMALLEST, None, diffusion, OPTIM, "noise", 8, train_steps, 0, SAMPLES, SAMPLES, blocks)
    first = weights.initialise(SMALLEST, 0)
    cells = dict.fromkeys(backends, tuple(Cell(s, eta, None, seed) for s in steps for eta in etas))
    return replace(Job(preset, first, first, cells, "cpu", "float32", "plain", seed, images(), images(seed=1), 1, 1e9, 1e9, False),
                   **changes)


def run(asked: Job, out: Path, wrong: str = "", fresh: bool = False) -> Ended:
    """The job's own stages and its end, with the workers in this process and a metric that costs nothing."""
    site = out / "site"
    if not site.exists():
        install_backend(site, "wrong", "from tests.mutants.job.wrong import create\n")
    book = Notebook(Cells(out, fresh), "tiny", survives=(WorkerError,), wrong_answers=(WrongAnswer,))
    said, complained = io.StringIO(), io.StringIO()
    measured = dict.fromkeys(("floor", "ceiling", "evaluate"), lambda *_, **__: NONE)
    with contextlib.ExitStack() as stack:
        stack.enter_context(patch.dict(os.environ, {"WRONG": wrong}))
        stack.enter_context(patch.object(sys, "path", [str(site), *sys.path]))
        stack.enter_context(patch.object(blocks, "time_blocks", partial(blocks.time_blocks, least=0.02, cap_seconds=0.5)))
        stack.enter_context(patch.object(results, "render", lambda *_: ""))
        stack.enter_context(patch.object(os, "fsync", lambda _: None))
        for name, function in measured.items():
            stack.enter_context(patch.object(fid, name, function))
        stack.enter_context(contextlib.redirect_stdout(said))
        stack.enter_context(contextlib.redirect_stderr(complained))
        importlib.invalidate_caches()
        logs = out / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        with Here(asked.spec, 1, logs, 1e9, quiet=True) as crew:
            stages.start(asked, crew, book)
            drawn = stages.run(asked, crew, book)
        code = command.report(argparse.Namespace(out=out, table=None), book, drawn, "a test")
    return Ended(code, said.getvalue(), complained.getvalue(), book)


@contextlib.contextmanager
def planted(where: str, old: str, new: str) -> Iterator[None]:
    """A function of bench or reference with an edit in its text, for all that call it: `where` is its module and name."""
    module, _, name = where.partition(":")
    function: Any = importlib.import_module(module)
    for part in name.split("."):
        function = getattr(function, part) if not isinstance(vars(function).get(part), property) else vars(function)[part].fget
    function = inspect.unwrap(function)
    text = textwrap.dedent(inspect.getsource(function))
    if text.count(old) != 1:
        raise LookupError(f"{where}: {old!r} stands there {text.count(old)} times and must once")
    text = "from __future__ import annotations\n" + text[text.index("def "):].replace(old, new)
    made: dict[str, Any] = {}
    exec(compile(text, inspect.getfile(function), "exec"), function.__globals__, made)
    right, function.__code__ = function.__code__, made[function.__name__].__code__
    try:
        yield
    finally:
        function.__code__ = right
