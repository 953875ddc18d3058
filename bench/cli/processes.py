"""`ddim-bench launch`: starts one command on many processes of this machine, and ends all when one of them fails."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time

from bench.cli.options import at_least
from reference.errors import require

LOOK_SECONDS = 0.2  # between two looks at the processes
LEAVING_SECONDS = 30.0  # for a process to end by itself
MISTAKE = 2  # the exit code of what another start would not mend


def run(args: argparse.Namespace, command: str) -> int:
    """Start the processes, again when one died; returns the exit code: that of the first process that failed."""
    at_least(args, 1, "processes")
    at_least(args, 0, "max_restarts")
    require(len(args.job) > 0, "launch", command, "must name a command after --")
    program = [] if args.job[0].endswith(".py") else ["-m", "bench"]
    for left in reversed(range(args.max_restarts + 1)):
        code = _once([sys.executable, *program, *args.job], args.processes)
        if code in (0, MISTAKE) or not left:
            break
        print(f"a process ended with exit code {code}; all are started again", file=sys.stderr, flush=True)
    return code


def _once(words: list[str], processes: int) -> int:
    """The exit code of the first process that fails, after the others were ended; 0 once all are done. One that a signal ended
    counts as 128 and the signal, as in a shell."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        meet = f"127.0.0.1:{found.getsockname()[1]}"
    started = list[subprocess.Popen[bytes]]()
    try:
        for rank in range(processes):
            told = {"DDIM_BENCH_MEET": meet, "DDIM_BENCH_RANK": str(rank), "DDIM_BENCH_PROCESSES": str(processes)}
            started.append(subprocess.Popen(words, env={**os.environ, **told}))
        while True:
            codes = [one.poll() for one in started]
            if failed := [code for code in codes if code]:
                return failed[0] if failed[0] > 0 else 128 - failed[0]
            if None not in codes:
                return 0
            time.sleep(LOOK_SECONDS)
    finally:
        _end(started)


def _end(started: list[subprocess.Popen[bytes]]) -> None:
    """End those that still run, and wait for them."""
    for one in started:
        if one.poll() is None:
            one.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + LEAVING_SECONDS
    for one in started:
        try:
            one.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            one.kill()
            one.wait()
