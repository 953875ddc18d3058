"""Progress of long work: a bar on a terminal, and one line a stage where stderr is a file."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def tracked(work: Iterable[Any] | None = None, *, desc: str | None = None, disable: bool = False, delay: float = 0,
            **how: Any) -> Any:
    """`tqdm(work, ..)` on a terminal. Elsewhere its bar would fill a log: `desc` is printed, once, without `disable` or `delay`."""
    terminal = on_terminal()
    if desc and not (terminal or disable or delay) and sys.stderr is not None:
        print(desc, file=sys.stderr, flush=True)
    return tqdm(work, desc=desc, disable=disable or not terminal, delay=delay, **how)


class Status:
    """What a long work is at: one line that changes on a terminal, below which bars come and go; elsewhere a line each time."""

    def __init__(self) -> None:
        self._bar: Any = None

    def say(self, text: str) -> None:
        """Show it."""
        if on_terminal():
            self._bar = self._bar or tqdm(total=0, bar_format="{desc}", leave=False, dynamic_ncols=True)
            self._bar.set_description_str(text)
        elif sys.stderr is not None:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Take it off a terminal."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def on_terminal() -> bool:
    """Whether who started the command sees stderr as it is written."""
    return sys.stderr is not None and sys.stderr.isatty()
