"""How every command ends: with an exit code and at most one line, whatever ends it."""

from __future__ import annotations

import io
import os
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from bench.paths import printable

# These end processes by SIGTERM, which must not wait for a collective operation.
LAUNCHERS = ("TORCHELASTIC_RUN_ID", "MS_ROLE", "DDIM_BENCH_MEET")


class Ended(BaseException):
    """A signal asked this process to end. Its argument is the signal's number."""


def exit_code(work: Callable[[], int | None], goes_on_from: str = "") -> int:
    """Do the work of a command, and print what ends it as one line in place of a traceback.

    2: the user's mistake, or a file that can't be read or written. 3: work that failed, or memory ran out. 130, 143 and 129:
    Ctrl-C, SIGTERM and SIGHUP; `goes_on_from` says what the same command would start from. 1: a fault of this program, whose
    traceback is in the file that the line names. Else what the work returns, None as 0.
    """
    with _streams_that_last():
        try:
            with _signals(), _interrupts_kept(), _warnings_in_a_line():
                code = work() or 0
                sys.stdout.flush()
                return code
        except (KeyboardInterrupt, Ended) as end:
            number = end.args[0] if isinstance(end, Ended) else signal.SIGINT
            what = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
            print(what + (f"; the same command goes on from {goes_on_from}" if goes_on_from else ""), file=sys.stderr)
            return 128 + number
        except Exception as error:
            line, code = _line(error)
            print(f"error: {printable(line)}", file=sys.stderr)
            return code


def _line(error: Exception) -> tuple[str, int]:
    missing = error.name or "" if isinstance(error, ModuleNotFoundError) else ""
    if missing and missing.partition(".")[0] not in ("reference", "backends", "bench"):
        return f"module {missing!r} is not installed; pip install -c constraints.txt -e '.[bench]' installs what commands need", 2
    # Imported only now: --help must not wait for NumPy.
    from backends.protocol import BackendError
    from bench.training.loop import TrainingError
    from bench.workers.errors import WorkerError
    from reference.errors import ConfigError

    if isinstance(error, PermissionError) and error.filename:  # such as another user's
        return f"{error.filename}: {error.strerror}: must be one that this user may read and write", 2
    if isinstance(error, ConfigError | OSError):  # OSError: a full disk, a folder that is gone
        return str(error), 2
    if isinstance(error, TrainingError | WorkerError | BackendError):
        return str(error), 3
    if isinstance(error, MemoryError):
        return f"out of memory: {' '.join(str(error).split()) or 'no size was said'}; ask for less at once", 3
    where = ""
    with suppress(OSError), tempfile.NamedTemporaryFile("w", prefix="ddim-bench-", suffix=".log", delete=False) as log:
        traceback.print_exception(error, file=log)
        where = f"; its traceback is in {log.name}"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}: a fault of this program, not of its input{where}", 1


@contextmanager
def _signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the work as Ctrl-C does, so that workers and temporary folders go; one that is ignored, as under
    nohup, stays so."""
    if threading.current_thread() is not threading.main_thread() or any(name in os.environ for name in LAUNCHERS):
        yield
        return

    def end(number: int, _: object) -> None:
        raise Ended(number)

    before: dict[signal.Signals, Any] = {}
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, end), (signal.SIGHUP, end)):
        if signal.getsignal(number) != signal.SIG_IGN:
            before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Lasting(io.TextIOBase):
    """A stream that goes nowhere once its reader is gone, such as `| head`, or where it was closed from the start. A disk that is
    full raises OSError once if the stream has a `name`, and never ends the work else."""

    def __init__(self, stream: Any, name: str = "") -> None:
        self.stream, self.called = stream, name

    def _try(self, do: str, *args: str) -> None:
        try:
            if self.stream is not None:
                getattr(self.stream, do)(*args)
        except OSError as error:
            with suppress(OSError, ValueError, AttributeError):  # so that Python's own last flush does not fail
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
            self.stream = None
            if self.called and not isinstance(error, BrokenPipeError):
                raise OSError(f"{self.called}: {error.strerror}") from error

    def write(self, text: str) -> int:
        self._try("write", text)
        return len(text)

    def flush(self) -> None:
        self._try("flush")

    def isatty(self) -> bool:
        return self.stream is not None and self.stream.isatty()

    def fileno(self) -> int:
        if self.stream is None:
            raise io.UnsupportedOperation("fileno")
        return int(self.stream.fileno())

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self.stream, "encoding", None) or "utf-8"


@contextmanager
def _streams_that_last() -> Iterator[None]:
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Lasting(before[0], "stdout"), _Lasting(before[1])
    try:
        yield
    finally:
        with suppress(OSError):  # said already, or of an error's own end
            sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


@contextmanager
def _warnings_in_a_line() -> Iterator[None]:
    """A warning without the place in the code, which says nothing to who gives a command; of several processes the first one's."""
    def line(message: Warning | str, *_: object, **__: object) -> str:
        from bench.cli.launch import launched  # only now: --help must not wait for NumPy

        return f"warning: {printable(message)}\n" if launched().rank == 0 else ""

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
