"""The command line, `ddim-bench COMMAND ...`: which file does the work, and how every command ends."""

from __future__ import annotations

import importlib
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bench.cli import commands
from bench.paths import command_line, printable


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


def exit_code(work: Callable[[], int | None], goes_on_from: str = "") -> int:
    """Do the work of a command, and print what ends it as one line in place of a traceback.

    2: the user's mistake, or a file that can't be read or written. 3: work that failed. 130: interrupted; `goes_on_from` says
    what the same command would start from. Else what the work returns, None as 0.
    """
    try:
        with _interrupts_kept(), _warnings_in_a_line():
            return work() or 0
    except KeyboardInterrupt:
        print("interrupted" + (f"; the same command goes on from {goes_on_from}" if goes_on_from else ""), file=sys.stderr)
        return 130
    except Exception as error:
        # Imported only now: --help must not wait for NumPy.
        from bench.training.loop import TrainingError
        from bench.workers.errors import WorkerError
        from reference.errors import ConfigError

        if isinstance(error, ConfigError | OSError):  # OSError: a full disk, a folder that is gone
            print(f"error: {printable(error)}", file=sys.stderr)
            return 2
        if isinstance(error, TrainingError | WorkerError):
            print(f"error: {printable(error)}", file=sys.stderr)
            return 3
        raise


@contextmanager
def _warnings_in_a_line() -> Iterator[None]:
    """A warning without the place in the code, which says nothing to who gives a command; of several processes the first one's."""
    def line(message: Warning | str, *_: object, **__: object) -> str:
        from bench.cli.launch import launched  # only now: --help must not wait for NumPy

        return f"warning: {message}\n" if launched().rank == 0 else ""

    before, warnings.formatwarning = warnings.formatwarning, line
    try:
        yield
    finally:
        warnings.formatwarning = before


@contextmanager
def _interrupts_kept() -> Iterator[None]:
    """A Ctrl-C that comes while Python runs a finaliser or a weak reference's callback is only printed there: send it once more."""
    before = sys.unraisablehook

    def hook(found: sys.UnraisableHookArgs) -> None:
        before(found)
        if isinstance(found.exc_value, KeyboardInterrupt):
            threading.Timer(0.1, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)).start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before
