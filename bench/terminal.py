"""What a terminal shows: tables that fit its width, colours where it has them, durations in words."""

from __future__ import annotations

import os
import sys

import pandas as pd

WIDTH = 80
CODES = {"bold": "1", "red": "31", "green": "32"}
SHORT = {"max pixel difference": "max diff", "network calls": "calls", "ms (median)": "ms", "first call s": "first s",
         "peak memory MB": "peak MB", "tolerance": "limit"}  # headers that pages have room for


def fit(table: pd.DataFrame, keys: int = 1, width: int = WIDTH) -> str:
    """The table as text of lines of at most `width` characters: with shorter headers and, where that is not enough, in parts, each
    of which has the first `keys` columns. A part is wider only where these and one more column are."""
    table = table.rename(columns=SHORT)
    parts, here = [], list(range(min(keys, table.shape[1])))
    for column in range(keys, table.shape[1]):
        if len(here) > keys and _width(table.iloc[:, [*here, column]]) > width:
            parts.append(here)
            here = list(range(keys))
        here.append(column)
    return "\n\n".join(table.iloc[:, part].to_string(index=False) for part in [*parts, here])


def _width(table: pd.DataFrame) -> int:
    return max(map(len, table.to_string(index=False).splitlines()))


def page(text: str) -> str:
    """A page of Markdown whose tables are as `fit` has them."""
    out, rows = [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
            continue
        if rows:
            out.append(fit(pd.DataFrame(rows[2:], columns=rows[0])))
            rows = []
        out.append(line)
    return "\n".join(out[:-1])


def coloured(text: str, colour: str) -> str:
    """The text in this one of `CODES` where stdout is a terminal, and as it is elsewhere, or where NO_COLOR is set and not empty
    (no-color.org)."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not sys.stdout.isatty():
        return text
    return f"\x1b[{CODES[colour]}m{text}\x1b[0m"


def about(seconds: float) -> str:
    """A duration, roughly."""
    if seconds < 90:
        return f"about {max(1, round(seconds)) if seconds < 10 else 10 * round(seconds / 10)} s"
    return f"about {seconds / 60:.0f} min" if seconds < 90 * 60 else f"about {seconds / 3600:.1f} h"
