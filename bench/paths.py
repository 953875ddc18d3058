"""Where the repository keeps what it ships, what a user types to run it, and how names are shown."""

from __future__ import annotations

import shlex
import unicodedata
from pathlib import Path

from reference.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINTS = ROOT / "results" / "checkpoints"
ASSETS = Path(__file__).parent / "assets"
IS_CLONE = (ROOT / "pyproject.toml").is_file()  # else an installed wheel, beside which nothing is written
RESULTS = ROOT / "results" if IS_CLONE else Path("results")

STUDIES = ("noise", "neighbours", "ablation", "scaling", "extractor")
MOVED = {  # options of older commands
    "train": {"--steps": "--train-steps"}, "recipe": {"--steps": "--train-steps", "--sampling-steps": "--steps"},
    "sample": {"--batch-size": "--sample-batch"}, "neighbours": {"--batch-size": "--sample-batch"}}


def require_clone(name: str, what: str) -> None:
    """Raise ConfigError for an installed wheel, since `what`, which the option `name` asks for, is in a clone alone."""
    if not IS_CLONE:
        raise ConfigError(f"{name}: {what} in a clone of the project alone, and this is an installed wheel: clone it and "
                          "`pip install -e .` there")


def command_line(name: str, *options: str) -> str:
    """What a user types for a command of `bench.cli`: rows record it, pages and messages show it."""
    return shlex.join([*(["python", "bench/run.py"] if name == "run" else ["ddim-bench", name]), *options])


def printable(text: object) -> str:
    """Text for one line of a terminal or page: control characters and bytes that are no UTF-8 as escapes, such as `\\n`."""
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") else c
                   for c in str(text))


def renamed(recorded: str) -> str:
    """The present form of a command that a row or a checkpoint recorded as `python -m bench.NAME ...`; any other as it is."""
    match recorded.split(" -m bench."):
        case ["python", rest]:
            name, *options = shlex.split(rest)
            options = [MOVED.get(name, {}).get(word, word) for word in options]
            return command_line(*(("study", name) if name in STUDIES else (name,)), *options)
    return recorded
