"""Tables fit 80 columns, and colours are for terminals alone."""

from __future__ import annotations

import sys

import pandas as pd
import pytest

from bench import terminal

WIDE = pd.DataFrame({"backend": ["PyTorch", "MindSpore"], "S": [10, 1000],
                     **{f"a rather long header {k}": [f"{k}.{n}" for n in range(2)] for k in range(8)}})


def test_a_wide_table_is_split_and_loses_nothing():
    text = terminal.fit(WIDE, 2)
    assert max(map(len, text.splitlines())) <= 80 < max(map(len, WIDE.to_string(index=False).splitlines()))
    parts = text.split("\n\n")
    assert len(parts) == 4 and all(part.split("\n")[1].split()[:2] == ["PyTorch", "10"] for part in parts)
    assert all(text.split().count(f"{k}.{n}") == 1 for k in range(8) for n in range(2))


def test_a_narrow_table_stays_whole_with_short_headers():
    table = pd.DataFrame({"who": ["a"], "max pixel difference": ["1e-6"]})
    assert terminal.fit(table) == "who max diff\n  a     1e-6"


def test_the_tables_of_a_page_fit_and_its_prose_stays():
    found = terminal.page(f"# T\n\n{WIDE.to_markdown(index=False)}\n- said")
    assert found.splitlines()[0] == "# T" and found.splitlines()[-1] == "- said" and "|" not in found
    assert max(map(len, found.splitlines())) <= 80 and found.split().count("7.1") == 1


@pytest.mark.parametrize("tty, variables, coloured", [
    (True, {}, True), (False, {}, False), (True, {"NO_COLOR": "1"}, False), (True, {"NO_COLOR": ""}, True),
    (True, {"TERM": "dumb"}, False)])
def test_colours_are_for_terminals(monkeypatch, tty, variables, coloured):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: tty, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert terminal.coloured("no", "red") == ("\x1b[31mno\x1b[0m" if coloured else "no")


@pytest.mark.parametrize("seconds, said", [(0.2, "about 1 s"), (8.6, "about 9 s"), (44, "about 40 s"), (100, "about 2 min"),
                                           (5000, "about 83 min"), (9000, "about 2.5 h")])
def test_durations_are_rough(seconds, said):
    assert terminal.about(seconds) == said
