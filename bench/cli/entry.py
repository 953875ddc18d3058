"""The console script `ddim-bench`, whose Ctrl-C is one line before anything else was imported, too."""

import os
import signal
import sys


def main(*words: str) -> int:
    """Run the command of this process, with `words` before its arguments; returns its exit code."""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, _interrupted)
    from bench.cli.main import main as command  # after that: it takes a moment

    return command([*words, *sys.argv[1:]])


def _interrupted(*_: object) -> None:
    os.write(2, b"interrupted\n")
    os._exit(130)
