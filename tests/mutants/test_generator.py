"""The generator of mistakes changes what it says, and counts what became of it."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import pytest

from bench.paths import ROOT
from tests.mutants import generator

TEXT = '''"""A text 1 + 1."""
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    ONE = 1 + 1


@cache(2)
def f(a: "1 + 1", b=0) -> "2 * 2":
    if a < b:
        raise ValueError(f"{a + b}", 3 * 4)
    out = -g(a, b, axis=1)
    return out
'''


def test_what_a_text_could_have_been():
    found = [(m.function, m.old, m.new) for m in generator.mutants("f.py", TEXT)]
    assert found == [
        ("f", "0", "(1)"), ("f", "0", "(-1)"), ("f", "a < b", "(not a < b)"), ("f", "a < b", "(a <= b)"), ("f", "a < b", "(a >= b)"),
        ("f", "-g(a, b, axis=1)", "(g(a, b, axis=1))"), ("f", "g(a, b, axis=1)", "(g(b, a, axis=1))"),
        ("f", "g(a, b, axis=1)", "(g(a, b))"), ("f", "1", "(2)"), ("f", "1", "(0)")]


def test_a_mistake_is_planted_where_it_says_also_behind_letters_of_two_bytes():
    text = "é = 'é'; x = y + é\nx += 1\nf(x)\n"
    assert [m.planted(text) for m in generator.mutants("f.py", text)] == [
        text.replace("y + é", "(y - é)"), text.replace("y + é", "(y)"), text.replace("y + é", "(é)"),
        text.replace("x += 1", "x -= 1"), text.replace("x += 1", "pass"), text.replace("1", "(2)"), text.replace("1", "(0)"),
        text.replace("f(x)", "pass")]


@pytest.mark.parametrize("room", generator.ROOMS)
def test_every_mistake_is_python_and_changes_the_program(room):
    every = generator.sample(generator.ROOMS[room], 10**9, 0)
    assert len(every) > 300 and len({m.name for m in every}) == len(every)
    for mutant in every[:40]:
        text = (ROOT / mutant.file).read_text()
        assert ast.dump(ast.parse(mutant.planted(text))) != ast.dump(ast.parse(text))
    assert generator.sample(generator.ROOMS[room], 5, 0) == every[:5] != generator.sample(generator.ROOMS[room], 5, 1)


def test_the_page_counts(tmp_path: Path):
    names = [m.name for m in generator.sample(generator.ROOMS["reference"], 4, 0)]
    out = tmp_path / "found.jsonl"
    lines = [{"room": "reference", "mutant": name, "killed_by": by, "seed": 0}
             for name, by in [(names[0], ""), (names[0], "FAILED test_x"), (names[1], "FAILED test_y"), (names[2], ""), (names[3], "")]]
    out.write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = generator.page(out, {names[3]: "it does nothing"})
    assert "| 4 | 2 | 1 | 1 | 66.7% | 33.3% (6.1% to 79.2%) |" in text
    assert f"- `{generator.escaped(names[3])}`: it does nothing" in text and f"- `{generator.escaped(names[2])}`\n" in text


def test_the_page_says_who_was_asked_what_and_what_has_changed_since(tmp_path: Path):
    one = generator.sample(generator.ROOMS["timing"], 1, 0)[0].name
    out = tmp_path / "found.jsonl"
    out.write_text("".join(json.dumps({"room": "timing", "mutant": name, "killed_by": "", "seed": 0} | more) + "\n" for name, more in [
        (one, {}), (f"{one} + 1", {"seconds": 20.0, "environment": "Python 3"}), (one, {"seconds": 20.0, "environment": "Python 3"})]))
    text = generator.page(out, {})
    assert "- timing: 1 answers; no limit; versions were not noted\n" in text
    assert "- timing: 2 answers; tests of at most 20 s of CPU for each mistake; Python 3\n" in text
    assert f"- `{generator.escaped(one)} + 1`: its text has changed since\n" in text and f"- `{generator.escaped(one)}`\n" in text
    assert "- timing: of 2 mistakes 1 stood in text that has changed since\n" in text


def test_processes_share_the_mistakes_of_a_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each is planted once, in a tree of its process, and its line says who asked and how long the tests may take."""
    def plant(tree: Path, tests: tuple[str, ...], known: Path, orders: generator.Orders) -> int:
        for change in orders.changes:
            orders.found(change, f"FAILED {tree.name}::test - x")
            assert orders.finds("reference/config.py") == {} and sum(orders.finds(change.file).values()) > 0
            assert (tree / change.file).exists() and orders.most == 3 and orders.leave_out
        return 0

    monkeypatch.setattr(generator, "plant", plant)
    asked = [m for m in generator.sample(generator.ROOMS["reference"], 30, 0) if m.file != "reference/config.py"]
    out = tmp_path / "found.jsonl"
    generator.ask("reference", asked, 0, out, generator.How(2, 3, True))
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted(row["mutant"] for row in rows) == sorted(m.name for m in asked)
    assert {row["seconds"] for row in rows} == {3} and f"numpy {np.__version__}" in rows[0]["environment"]
