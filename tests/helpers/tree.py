"""A copy of the code under test, so that an edit while a long test runs does not look like another version to the job."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def copy_to(folder: Path) -> Path:
    """Copy the code, its assets and `tiny_run.py`; returns the copy's root."""
    for room in ("reference", "backends", "bench"):
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    helpers = Path("tests", "helpers")
    (folder / helpers).mkdir(parents=True)
    shutil.copy(ROOT / helpers / "tiny_run.py", folder / helpers)
    return folder


def command(tree: Path, script: str, *arguments: object) -> list[str]:
    """The command line of a script or (`-m NAME`) module of the copy."""
    start = script.split() if script.startswith("-m") else [str(tree / script)]
    return [sys.executable, *start, *map(str, arguments)]


def environment(tree: Path, **more: str) -> dict[str, str]:
    """Variables for it."""
    return {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", **more}


def start(tree: Path, *args: object, log: Path, **more: str) -> subprocess.Popen[bytes]:
    """Run it in a process group of its own, stdout and stderr appended to `log`."""
    script, *arguments = args
    with log.open("ab") as out:
        return subprocess.Popen(command(tree, str(script), *arguments), env=environment(tree, **more), cwd=tree, stdout=out,
                                stderr=out, start_new_session=True, preexec_fn=default_signals)


def default_signals() -> None:
    """For `Popen(preexec_fn=)`: a shell's background jobs ignore Ctrl-C, those of nohup a hangup, and so would the processes that
    tests start there."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def kill_when(process: subprocess.Popen[bytes], sign: Callable[[], bool], delay: float, number: int = signal.SIGKILL,
              patience: float = 300.0) -> bool:
    """Send the signal `delay` seconds after `sign()` came true; False where the process ended before by itself."""
    deadline = time.monotonic() + patience
    while not sign():
        if process.poll() is not None:
            return False
        assert time.monotonic() < deadline, "the sign to kill never came"
        time.sleep(0.01)
    time.sleep(delay)
    if process.poll() is not None:
        return False
    process.send_signal(number)
    process.wait(60)
    return process.returncode in (-number, 130)


def newer(folder: Path, pattern: str, began: float) -> Callable[[], bool]:
    """Whether a file that matches was written since `began`, in seconds of `time.time`."""
    def sign() -> bool:
        for path in folder.glob(pattern):
            try:
                if path.stat().st_mtime >= began:
                    return True
            except OSError:  # gone again
                continue
        return False
    return sign
