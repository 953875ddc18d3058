"""One child process per backend, so that no two frameworks share a timed process and none takes the job down with it.

Commands go in as JSON lines over stdin. Replies, progress and heartbeats come back as JSON lines over a pipe of their own;
stdout and stderr, where frameworks chatter, go to a log file. The child runs `python -m bench.workers.child FD`.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NoReturn

from backends import NotInstalled, taken
from bench.messages import Command, R, said
from bench.paths import ROOT, printable
from bench.records.environment import worker_env
from bench.workers.errors import WorkerDied, WorkerError, WrongAnswer
from reference.config import ConfigError

SILENCE_SECONDS = 300.0  # without a heartbeat; a compilation may hold the GIL for long
LEAVING_SECONDS = 60.0  # for an idle child to end by itself; MindSpore's takes leave of others, slowly on a busy machine
LOOK_SECONDS = 0.5  # between two looks at the pipe
TAIL_LINES, TAIL_BYTES = 5, 4096
ERRORS: dict[str, type[Exception]] = {kind.__name__: kind for kind in (ConfigError, NotInstalled, WrongAnswer)}
MAX_MESSAGE = 1 << 30  # bytes; the largest are the losses of a training


class Worker:
    """The parent's side. Use as a context manager: leaving it, by Ctrl-C too, ends the child and its children.

    `spec` is a `Spec` in plain JSON types, see `Spec.to_dict`; nothing is imported before the command `Create`.
    """

    def __init__(self, backend: str, spec: Mapping[str, Any], threads: int, log_path: Path,
                 silence: float = SILENCE_SECONDS) -> None:
        self.backend, self.silence, self.log_path = backend, silence, Path(log_path)
        self._received, self._dead, self._busy = bytearray(), "", False
        self._awake, self._last = 0.0, time.monotonic()
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, **worker_env(threads), "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
        self._pipe, child_end = os.pipe()
        try:
            with self.log_path.open("wb") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "bench.workers.child", str(child_end)], stdin=subprocess.PIPE, stdout=log,
                    stderr=log, pass_fds=(child_end,), env=environment,
                    start_new_session=True)  # a terminal's Ctrl-C reaches the parent alone
        except BaseException:
            os.close(self._pipe)
            raise
        finally:
            os.close(child_end)
        self._send({"backend": backend, "spec": dict(spec), "folders": [str(path.parent) for path in taken()]})

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, command: Command[R], on_progress: Callable[[int, int], None] | None = None, timeout: float | None = None) -> R:
        """Run a command of `bench.messages` and return its reply.

        `on_progress(done, total)` is called as work is done; `timeout` is in seconds without progress. A user's mistake
        raises `ConfigError` (`NotInstalled` for a missing framework), another failure `WorkerError`, `WrongAnswer` where the
        backend's answer is none, and `WorkerDied` where the process ended, sent no heartbeat or hit the timeout; it stays dead.
        """
        name = said(type(command).__name__)
        if self._dead:
            raise WorkerDied(self._dead)
        try:
            self._send({"command": type(command).__name__, "args": asdict(command)})  # type: ignore[call-overload]
            moved = self._seconds()
            while True:
                match message := self._receive(name):
                    case {"beat": _}:
                        if timeout is not None and self._seconds() - moved > timeout:
                            self._die(f"made no progress for {timeout:g} s in {name}")
                    case {"progress": [int(done), int(total)]}:
                        moved = self._seconds()
                        if on_progress:
                            on_progress(done, total)
                    case {"error": str(kind), "message": str(text)}:
                        self._busy = False
                        raise ERRORS.get(kind, WorkerError)(printable(text))
                    case {"reply": dict(values)} if set(values) == {field.name for field in fields(command.reply)}:
                        self._busy = False
                        return command.reply(**values)
                    case _:
                        self._die(f"wrote what is no message to its pipe in {name}, {message!r:.80}")
        except BrokenPipeError:
            self._die(f"ended before {name}", patience=5)

    def close(self) -> None:
        """End the child, at once if it is busy. May be called twice."""
        if self._process.stdin is None or self._process.stdin.closed:
            return
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        if not self._dead:  # a dead one's group was killed at once; by now its id may belong to another process
            for end, patience in ((None, 1.0 if self._busy else LEAVING_SECONDS), (signal.SIGTERM, 3.0), (signal.SIGKILL, None)):
                if end is not None:
                    self._kill(end)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(patience)
                    break
            self._kill(signal.SIGKILL)  # processes that a framework left behind
        os.close(self._pipe)

    def _kill(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._busy = True
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        self._process.stdin.flush()

    def _receive(self, command: str) -> Any:
        """The next message, of which a working child sends one a second; bytes that are no JSON as they are."""
        quiet_since, searched = self._seconds(), 0
        while (end := self._received.find(b"\n", searched)) < 0:
            if (searched := len(self._received)) > MAX_MESSAGE:
                self._die(f"wrote more than {MAX_MESSAGE} bytes without a line end to its pipe in {command}")
            ready, _, _ = select.select([self._pipe], [], [], LOOK_SECONDS)
            self._seconds()
            if ready:
                if not (data := os.read(self._pipe, 1 << 16)):
                    self._die(f"ended during {command}", patience=5)
                self._received += data
            elif self._seconds() - quiet_since > self.silence:
                self._die(f"sent no heartbeat for {self.silence:g} s in {command}")
        line = bytes(self._received[:end])
        del self._received[:end + 1]
        try:
            return json.loads(line)
        except (ValueError, RecursionError):
            return line

    def _seconds(self) -> float:
        """Seconds in which this process looked at the pipe. Of a longer gap between two looks no more counts than one look: it is
        Ctrl-Z, a machine that slept or a terminal that holds back output, and the worker is not to blame."""
        now = time.monotonic()
        self._awake, self._last = self._awake + min(now - self._last, LOOK_SECONDS), now
        return self._awake

    def _die(self, how: str, patience: float = 0) -> NoReturn:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(patience)
        code = self._process.poll()
        self._kill(signal.SIGKILL)
        self._process.wait()
        if code is None:
            how += " and was killed"
        elif code < 0:
            name = signal.Signals(-code).name
            how += f" by {name}" + (", which the system sends when memory runs out" if name == "SIGKILL" else "")
        else:
            how += f" with exit code {code}"
        with self.log_path.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES))
            tail = [line for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()][-TAIL_LINES:]
        self._dead = f"worker {self.backend} {how}; last output: {printable(' | '.join(tail)) or 'none'}"
        raise WorkerDied(self._dead)
