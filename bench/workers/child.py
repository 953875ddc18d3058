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
from typing import Any

from backends import NotInstalled
from backends.protocol import Spec
from bench.workers import session as commands
from bench.workers import timed
from reference.config import ConfigError, require

BEAT_SECONDS = 1.0
PROGRESS_SECONDS = 0.2  # at most one message in this time
COMMANDS: dict[str, Callable[..., dict[str, Any]]] = {f.__name__: f for f in (
    commands.info, commands.load, commands.weights, commands.tables, commands.forward, commands.loss, commands.train,
    commands.sample, timed.time_train, timed.time_sample, timed.time_forward, timed.time_step, timed.time_path,
    timed.time_tables, timed.time_metric, timed.time_kernel, timed.time_roof,
)}


def _die_with_parent() -> None:
    """On Linux at once, so that a killed job's worker can't write beside the next one's; elsewhere at the next heartbeat."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def serve(pipe: int) -> None:
    """The child's side: answer commands until stdin ends or the parent is gone."""
    lock, busy = threading.Lock(), threading.Event()
    session: commands.Session | None = None

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
        nonlocal session
        try:
            if message["command"] == "create":
                session = commands.create(first["backend"], Spec.from_dict(first["spec"]), progress,
                                          lambda line: print(line, file=sys.stderr))
                return {"reply": commands.info(session)}
            require(session is not None, "backend", first["backend"], "is not created yet: the first command is create")
            return {"reply": COMMANDS[message["command"]](session, **message["args"])}
        except NotInstalled as error:
            return {"error": "NotInstalled", "message": str(error)}
        except ConfigError as error:
            return {"error": "ConfigError", "message": str(error)}
        except Exception as error:
            traceback.print_exc()
            text = " ".join(str(error).split())[:500]
            return {"error": "WorkerError", "message": f"worker {first['backend']}: {message['command']} failed: "
                                                       f"{type(error).__name__}: {text}"}

    faulthandler.enable()
    _die_with_parent()
    os.set_inheritable(pipe, False)
    threading.Thread(target=beat, daemon=True).start()
    first = json.loads(sys.stdin.readline())
    for line in sys.stdin:
        busy.set()
        reply = answer(json.loads(line))
        busy.clear()
        send(reply)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
