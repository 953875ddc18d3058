"""What the page `report.html` is made of: sections that hold tables and figures, as its template takes them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from bench.paths import command_line
from bench.report import measures, table1_claims

TABLE, MAIN = command_line("run", "--table", "ddim"), command_line("run", "--steps", "10,50,1000")
BARS = "Bars and ±: standard deviation between seeds; a cell of one seed has none. Times: medians over seeds."
STAR = "★: the best cell."
LONG = 24  # characters of a cell that may take several lines
BADGES = {text: kind for kind, texts in {
    "good": (measures.REPRODUCED, table1_claims.SAME, "ok"),
    "bad": (measures.CONTRADICTED, table1_claims.DIFFERENT, "**DISAGREES**"),
    "even": (measures.UNKNOWN, measures.ABSENT),
}.items() for text in texts}


@dataclass(frozen=True)
class Table:
    """A frame with its title and caption. `folded` shows the title alone until it is opened. `best` marks the "lowest" or "highest"
    of the numbers in the columns that are named after an S."""

    title: str
    frame: pd.DataFrame
    caption: str
    command: str = ""
    folded: bool = False
    best: str = ""

    @property
    def lines(self) -> list[list[tuple[str, str]]]:
        """Head and body as (text, CSS class): "n" in columns of numbers, "badge" and its kind for verdicts, "long", "best".

        Verdicts come first, so that a narrow screen shows them without scrolling.
        """
        text = self.frame.astype(str)
        text = text[sorted(text, key=lambda name: name != "verdict")]
        columns = ["n" if all(re.fullmatch(r"[-+\d.,e ±%]*( h)?", cell) for cell in text[name]) else "" for name in text]
        lines = [[str(name) for name in text], *text.to_numpy().tolist()]
        found = [[(cell, _css(cell, column)) for cell, column in zip(line, columns, strict=True)] for line in lines]
        numbers = {(i, k): float(cell.split()[0]) for i, line in enumerate(found[1:], 1) for k, (cell, css) in enumerate(line)
                   if css.startswith("n") and cell.strip() and lines[0][k].startswith("S = ")} if self.best else {}
        if numbers:
            i, k = (min if self.best == "lowest" else max)(numbers, key=lambda place: numbers[place])
            found[i][k] = found[i][k][0], f"{found[i][k][1]} best"
        return found


@dataclass(frozen=True)
class Figure:
    """Pictures by their labels, as data URIs; one without a label has the whole width, and `small` does not enlarge it."""

    title: str
    images: Sequence[tuple[str, str]]
    caption: str
    command: str
    small: bool = False
    folded: bool = False


@dataclass
class Section:
    """One part of the page. `missing` are pairs of what has no rows and the command that makes them. Of a `folded` one the title
    and `text` alone are seen until it is opened."""

    title: str
    text: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    missing: list[tuple[str, str]] = field(default_factory=list)
    folded: bool = False

    @property
    def inside(self) -> str:
        """What is in a folded section, in words."""
        parts = ((len(self.tables), "table"), (len(self.figures), "figure"))
        return ", ".join(f"{count} {name}{'s' * (count > 1)}" for count, name in parts if count) or "what is missing"


def interval(low: float, high: float, digits: int) -> str:
    """"low .. high", empty for NaN."""
    return "" if pd.isna(low) else f"{low:+.{digits}f} .. {high:+.{digits}f}"


def plain(eta: str) -> str:
    """eta of rows as people write it: "0.0" is 0."""
    return eta.removesuffix(".0")


def seeds(number: int) -> str:
    """ "1 seed", "3 seeds"."""
    return f"{number} seed{'s' if number > 1 else ''}"


def _css(text: str, column: str) -> str:
    return f"badge {BADGES[text]}" if text in BADGES else f"{column} long".strip() if len(text) > LONG else column
