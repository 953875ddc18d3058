"""The command line: `ddim-bench COMMAND ...`, and how every command ends."""

from __future__ import annotations

import importlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bench.training.loop import TrainingError
from bench.workers.errors import WorkerError
from reference.config import ConfigError


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    name, *options = sys.argv[1:] if argv is None else argv
    return importlib.import_module(f"bench.cli.{name}").main(options)


def exit_code(command: Callable[[], int | None], goes_on_from: str = "") -> int:
    """Run a command, and print what ends it as one line in place of a traceback.

    2: the user's mistake, or a file that can't be read or written. 3: work that failed. 130: interrupted; `goes_on_from` says
    what the same command would start from. Else what the command returns, None as 0.
    """
    try:
        with _interrupts_kept():
            return command() or 0
    except (ConfigError, OSError) as error:  # OSError: a full disk, a folder that is gone
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (TrainingError, WorkerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("interrupted" + (f"; the same command goes on from {goes_on_from}" if goes_on_from else ""), file=sys.stderr)
        return 130


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
