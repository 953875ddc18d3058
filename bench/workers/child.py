"""The child's side of a worker: `python -m bench.workers.child FD` answers commands until stdin ends or the parent is gone."""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from backends import NotInstalled
from backends.protocol import Backend, BackendError, Spec
from bench import messages
from bench.workers import session, timed
from reference.config import ConfigError, require

BEAT_SECONDS = 1.0
PROGRESS_SECONDS = 0.2  # at most one message in this time
COMMANDS: dict[type[messages.Command[Any]], Callable[[session.Session, Any], Any]] = {
    messages.Describe: session.describe, messages.Load: session.load, messages.Weights: session.weights,
    messages.Tables: session.tables, messages.Forward: session.forward, messages.Loss: session.loss, messages.Train: session.train,
    messages.Sample: session.sample, messages.Bound: session.bound, messages.TimeTrain: timed.time_train,
    messages.TimeSample: timed.time_sample, messages.TimeForward: timed.time_forward, messages.TimeStep: timed.time_step,
    messages.TimePath: timed.time_path, messages.TimeTables: timed.time_tables, messages.TimeMetric: timed.time_metric,
    messages.TimeKernel: timed.time_kernel, messages.TimeRoof: timed.time_roof,
}


def _die_with_parent() -> None:
    """On Linux at once, so that a killed job's worker can't write beside the next one's; elsewhere at the next heartbeat."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _raised_in(backend: Backend, error: Exception) -> bool:
    """Whether the code of a backend at work raised this: then it is no user's mistake, whatever its class."""
    rooms = {"backends", type(backend).__module__.partition(".")[0]}
    names = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(name.partition(".")[0] in rooms for name in names)


def serve(pipe: int) -> None:
    """Answer commands until stdin ends or the parent is gone. One function, since all its parts share the pipe and its lock."""
    lock, busy = threading.Lock(), threading.Event()
    at_work: session.Session | None = None

    def send(message: dict[str, Any]) -> None:
        with lock:
            os.write(pipe, json.dumps(message).encode() + b"\n")

    def beat() -> None:
        while busy.wait():
            time.sleep(BEAT_SECONDS)
            try:
                if busy.is_set():
                    send({"beat": True})
            except OSError:
                os._exit(1)  # the parent is gone, and the main thread may be hours from noticing

    reported = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal reported
        if done == total or time.monotonic() - reported >= PROGRESS_SECONDS:
            reported = time.monotonic()
            send({"progress": [done, total]})

    def answer(message: dict[str, Any]) -> dict[str, Any]:
        nonlocal at_work
        try:
            asked = getattr(messages, message["command"])(**message["args"])
            if isinstance(asked, messages.Create):
                at_work = session.create(first["backend"], Spec.from_dict(first["spec"]), progress,
                                         lambda line: print(line, file=sys.stderr))
                return {"reply": asdict(session.describe(at_work, asked))}
            require(at_work is not None, "backend", first["backend"], "is not created yet: the first command is Create")
            return {"reply": asdict(COMMANDS[type(asked)](at_work, asked))}  # type: ignore[arg-type]
        except Exception as error:
            if isinstance(error, ConfigError) and not (at_work and _raised_in(at_work.backend, error)):
                return {"error": "NotInstalled" if isinstance(error, NotInstalled) else "ConfigError", "message": str(error)}
            traceback.print_exc()
            text = " ".join(str(error).split())[:500]
            kind = "WrongAnswer" if isinstance(error, BackendError) else "WorkerError"
            return {"error": kind, "message": f"worker {first['backend']}: {messages.said(message['command'])} failed: "
                                                       f"{type(error).__name__}: {text}"}

    faulthandler.enable()
    _die_with_parent()
    os.set_inheritable(pipe, False)
    threading.Thread(target=beat, daemon=True).start()
    first = json.loads(sys.stdin.readline())
    sys.path += first["folders"]
    for line in sys.stdin:
        busy.set()
        reply = answer(json.loads(line))
        busy.clear()
        send(reply)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
