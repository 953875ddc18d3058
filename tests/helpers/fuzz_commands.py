"""Command lines made of the parsers' own options and of values that people mistype: exit code 0 or 2 with one line, no traceback.

`python -m tests.helpers.fuzz_commands --lines 1000` gives so many and prints a table; `--number N` gives one again. Commands run in
this process up to the moment at which their work would begin: a training, the drawing of images, a worker, a measurement.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import random
import resource
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

import numpy as np

import backends
from bench.cli import commands
from bench.cli.options import Parser
from bench.data import catalogue
from bench.paths import CHECKPOINTS
from bench.presets import PRESETS
from bench.recipes import RECIPES
from reference import weights
from reference.config import OBJECTIVES, SCHEDULES, VARIANCES, ModelConfig
from reference.conventions import CONVENTIONS
from reference.grids import GRIDS
from reference.solver_plans import CODES
from reference.solvers import SOLVERS
from tests.helpers.fuzz_readers import ADDRESSES, command

SMALL = str(CHECKPOINTS / "fmnist-small")
STOPS = ("bench.training.loop.fit", "bench.api.draw", "bench.workers.crew.Crew.start", "bench.studies.noise.study",
         "bench.studies.neighbours.study", "bench.studies.ablation.measure", "bench.metric.make_fmnist_cnn.train",
         "bench.metric.own_cnn.train")  # of work

WORDS = ("x", "none", "0", "-1", "1,2", ",", "a\nb", "\x1b[31m", "--", "-", "nan", "inf", "1e400", "9" * 40, "<b>", "x" * 300,
         "caf\u00e9", "")
WHOLE = ("1", "2", "3", "10", "64", "0", "-1", "1.5", "1e3", "1000", "1001", "1000000000000", str(2**63), str(2**64), "9" * 40,
         "x", "")
REAL = ("1", "0.5", "1e-3", "0", "-1", "inf", "-inf", "nan", "1e400", "x", "")
PLACES = ("new", "images.npy", "images.png", "images.gif", "images.npz", "folder", "new/deeper", "file", ".", "/", "/dev/null",
          "/dev/zero", "/proc/self/mem", "a\nb", "x" * 300, "new.jpg", "")
LISTS = ("1", "3", "10,50", "10,5,2", "1000", "1001", "0", "-1", "1,,2", "1,1", "x", "1000000", "9" * 40, "")
BY_METAVAR = {
    "SOURCE": (SMALL, SMALL + "/unet", "folder", "file", "owner/name", "owner/name@main", "/dev/zero", "nowhere", "a\nb", ""),
    "S": LISTS, "S[,S]": LISTS, "N[,M]": LISTS, "N[,N]": LISTS, "N,M[,K]": LISTS,
    "X": ("0", "0.5", "1", "2", "-1", "nan", "sigma_hat", "ddpm", "x"),
    "X[,X]": ("0", "0,1", "sigma_hat", "0,ddpm", "2", "nan", "x", "0,0"),
    "A,B": ("torch", "torch,torch", "torch,x", "x", ",", "real"),
    "RULE": ("none", "1", "0", "-1", "dynamic", "dynamic:0.9:2", "dynamic:x", "inf"),
    "A[,B]": ("ddim", "ddpm", "ddim,ddpm", "tensorboard", "none", "wandb", "batch,steps", "x", ","),
    "NAME=FILE.npy": ("a=images.npy", "images.npy", "=images.npy", "real=images.npy", "a=file", "../a=images.npy", "a=/dev/zero"),
    "VARIANT": ("cosine schedule", "x"), "FILE.npy": ("drawn.npy", "drawn.npz", *PLACES), "FILE.png": ("drawn.png", *PLACES),
    "FILE.safetensors": ("new.safetensors", *PLACES),
}
BY_OPTION = {
    "preset": (*PRESETS, "x"), "backend": ("torch", "x", "real", "../x"),
    "sampler": (*SOLVERS, ",".join(SOLVERS), "ddim,ddpm", "ddim,dpmpp_2m_sde", "x"),
    "convention": (*dict.fromkeys((*CONVENTIONS, *CODES)), "x"),
    "spacing": (*dict.fromkeys(rule for _, rules in GRIDS.values() for rule in rules), "x"),
    "variance": (*VARIANCES, "x"), "objective": (*OBJECTIVES, "x"), "schedule": (*SCHEDULES, "x"), "name": (*RECIPES, "x", "../x"),
    "device": ("cpu", "cuda", "cuda:99", "ascend", "x", "cpu:0"), "dtype": ("float32", "float64", "bfloat16", "x"),
    "dataset": ("fashion-mnist", "mnist", "cifar10", "images", "x"), "mode": ("tuned", "stock", "compiled", "x"),
    "executor": ("local", "x", "ray=", "ray=x"), "final_alpha": ("one", "first", "x"), "time_order": ("sin", "cos", "x"),
    "qkv_order": ("heads", "qkv", "x"), "images": ("images.npy", "file", "3"),
    "metric": ("fmnist-cnn", "none", "inception", "file", "folder", "x", ""),
}
NEEDED = {("sample",): "save"}  # beside what the parser requires
EVEN = ("sampler", "convention", "spacing")  # options of which each name is as likely, and which meet often


class Begun(BaseException):
    """The work would begin now."""


def leaves(p: Parser, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Parser]]:
    """Every command that has none below it, with the words that name it."""
    if not p.commands:
        yield path, p
    for name, below in p.commands.items():
        yield from leaves(below, (*path, name))


def values(action: argparse.Action) -> tuple[str, ...]:
    """What may be typed for an option: what it takes, and what it does not."""
    if action.choices:
        return (*map(str, action.choices), "x", "")
    if action.dest in BY_OPTION:
        return BY_OPTION[action.dest]
    if action.metavar in BY_METAVAR:
        return BY_METAVAR[str(action.metavar)]
    return WHOLE if action.type is int else REAL if action.type is float else WORDS if action.type is None else PLACES


def line(rng: random.Random, every: list[tuple[tuple[str, ...], Parser]]) -> list[str]:
    """One command line. Its pages go into the folder `out` unless it says otherwise; the main job only plans."""
    path, p = rng.choice(every + [leaf for leaf in every if leaf[0] == ("run",)] * 4)
    words = list(path)
    actions = [action for action in p._actions if action.dest not in ("help", "out", "dry_run")]
    for action in rng.sample(actions, len(actions)):
        even = action.dest in EVEN
        required = action.required or NEEDED.get(path) == action.dest
        wanted = required or rng.random() < (0.3 if even else min(0.5, 2.5 / len(actions)))
        if not wanted or (required and rng.random() < 0.05):
            continue
        flag = [rng.choice(action.option_strings)] if action.option_strings else []
        some = values(action)
        at = rng.random() if even else rng.random()**3  # mostly one of the first, which are right
        value = [] if action.nargs == 0 else [some[int(len(some) * at)]]
        words += [f"{flag[0]}={value[0]}"] if flag and value and rng.random() < 0.3 else flag + value
    if rng.random() < 0.1:
        words.insert(rng.randrange(len(words) + 1), rng.choice((*WORDS, "--help", "--fresh", "--tpyo", "--steps", "run")))
    options = p._option_string_actions
    words += ["--out", "out" if rng.random() < 0.9 else rng.choice(PLACES)] * ("--out" in options)
    return words + ["--dry-run=plan"] * ("--dry-run" in options)


@contextlib.contextmanager
def harmless(folder: Path) -> Iterator[None]:
    """A folder to stand in with some files, the data set that ships, no network, no framework but torch, and no work."""
    def stop(*_: Any, **__: Any) -> NoReturn:
        raise Begun

    def zeros(model: ModelConfig, seed: int) -> dict[str, np.ndarray]:
        return {name: np.zeros(shape, np.float32) for name, shape in weights.shapes(model).items()}

    def load(name: str) -> Any:
        return real("torch" if name == "mindspore" else name)

    (folder / "folder").mkdir()
    (folder / "file").write_text("x")
    np.save(folder / "images.npy", np.random.default_rng(0).integers(0, 256, (200, 1, 28, 28), np.uint8))
    here, real = Path.cwd(), backends.load
    records = {name: replace(record, debian_folder=None) for name, record in catalogue.RECORDS.items()}
    patches = [*(mock.patch(name, stop) for name in STOPS), mock.patch("reference.weights.initialise", zeros),
               mock.patch("logging.raiseExceptions", False),  # pooch's logger may hold a stream that an earlier test has closed
               mock.patch("os.fsync"), mock.patch("backends.load", load), mock.patch.dict(catalogue.RECORDS, records),
               mock.patch.dict(os.environ, {"XDG_CACHE_HOME": str(folder / "cache"),
                                            "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"}),  # as in tests/conftest.py
               mock.patch("torch.set_num_threads"), mock.patch("socket.getaddrinfo", side_effect=OSError("no network"))]
    os.environ.pop("DDIM_BENCH_DATA", None)
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        stack.enter_context(warnings.catch_warnings())
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(here)


def give(number: int, seed: int = 0) -> tuple[list[str], str]:
    """The command line of this number, and how it ended: "0", "2" or "begun". Raises AssertionError for any other end."""
    words = line(random.Random(f"{seed} {number}"), list(leaves(commands.parser())))
    try:
        return words, str(command(words))
    except Begun:
        return words, "begun"
    except BaseException as error:
        raise AssertionError(f"line {number} (seed {seed}): {words}: {type(error).__name__}: {error}") from error


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    p.add_argument("--lines", type=int, default=1000)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--number", type=int, help="one line alone")
    asked = p.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    ends: dict[str, collections.Counter[str]] = {}
    faults = 0
    with tempfile.TemporaryDirectory() as name, harmless(Path(name).resolve()):
        for number in range(asked.lines) if asked.number is None else [asked.number]:
            try:
                words, end = give(number, asked.seed)
                known = words[0] in commands.parser().commands
                ends.setdefault(words[0] if known else "no command", collections.Counter())[end] += 1
            except AssertionError as error:
                faults += 1
                print(f"fault: {error}", flush=True)
    print("| command | lines | 0 | 2 | work would begin |\n|:--|--:|--:|--:|--:|")
    for name, counts in sorted(ends.items()):
        print(f"| {name} | {counts.total():,} | {counts['0']:,} | {counts['2']:,} | {counts['begun']:,} |")
    sys.exit(faults > 0)
