"""The command line, `ddim-bench COMMAND ...`: which file does the work."""

from __future__ import annotations

import importlib
import sys

from bench.cli import commands
from bench.cli.ending import exit_code
from bench.paths import command_line


def main(argv: list[str] | None = None) -> int:
    """Run a command, by default that of this process; returns its exit code.

    The file of `bench.cli` that the parsed `body` names is imported only then: `run(args, command)` does the work.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["run"] and "--speed" in words:
        words = ["speed", *(word for word in words[1:] if word != "--speed")]
    try:
        args = commands.parser().parse(words)
    except SystemExit as end:  # --help and --version, or a mistake that was printed
        return int(end.code or 0)
    return exit_code(lambda: importlib.import_module(f"bench.cli.{args.body}").run(args, command_line(*words)), args.goes_on_from)
