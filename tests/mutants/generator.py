"""Mutation testing: small mistakes that nobody thought of, one at a time, in the rooms where a wrong number can be born.

`python -m tests.mutants.generator --room reference --mutants 300` plants a seeded sample of them in copies of the repository, runs the
room's tests on each until one fails, and keeps every outcome in `--out`, where the same command goes on. `python -m
tests.mutants.generator --page` writes results/mutation.md from what was found. Survivors that change nothing are listed with their
reason in [equivalent.toml](equivalent.toml).
"""

from __future__ import annotations

import argparse
import ast
import copy
import hashlib
import json
import os
import resource
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis  # noqa: F401  for all runs, as the next four
import pandas  # noqa: F401
import pytest
import scipy.linalg  # noqa: F401
import torch  # noqa: F401
from scipy.stats import binomtest

from bench.paths import ROOT

HERE = Path(__file__).parent
FOUND = ROOT / "results" / "mutation.jsonl"
MEMORY = 12 << 30  # bytes of address space of a run


class Room(NamedTuple):
    """Files that get mistakes, and the tests that should see them."""

    files: tuple[str, ...]
    tests: tuple[str, ...]


ROOMS = {
    "reference": Room(("reference/*.py",), ("tests/reference", "tests/weights/test_solver_schedulers.py",
                                            "tests/conformance/test_l2_network.py", "--backend=torch", "--mode=tuned")),
    "torch": Room(tuple(f"backends/torch/{name}.py" for name in ("schedules", "samplers", "solvers", "training", "layers", "unet")),
                  ("tests/conformance", "--backend=torch", "--mode=tuned")),
    "metric": Room(("bench/metric/*.py",), ("tests/metric",)),
    "timing": Room(("bench/timing/*.py",), ("tests/timing", "tests/workers", "tests/studies")),
    "report": Room(("bench/report/*.py", "bench/report/*/*.py"), ("tests/report", "tests/cli/test_report.py")),
}
OPERATORS: dict[type, tuple[type, ...]] = {
    ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.Div,), ast.Div: (ast.Mult,), ast.Pow: (ast.Mult,),
    ast.FloorDiv: (ast.Div,), ast.Mod: (ast.FloorDiv,), ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt), ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,), ast.NotIn: (ast.In,), ast.And: (ast.Or,), ast.Or: (ast.And,)}


class Mutant(NamedTuple):
    """One mistake: in `file`, what stands in `function` from `start` to `end` (offsets in bytes) becomes `new`."""

    file: str
    function: str
    start: int
    end: int
    old: str
    new: str

    @property
    def name(self) -> str:
        """Where it is and what it does, without line numbers, so that it stays the same while other lines change."""
        return f"{self.file} {self.function}: {self.old} -> {self.new}"

    def planted(self, text: str) -> str:
        """The text of the file with the mistake in it."""
        data = text.encode()
        return (data[:self.start] + self.new.encode() + data[self.end:]).decode()


def changed(node: ast.AST) -> Iterator[ast.AST | None]:
    """What this node could have been by mistake; None stands for a statement that was forgotten."""
    match node:
        case ast.BinOp():
            yield from (replaced(node, op=op()) for op in OPERATORS.get(type(node.op), ()))
            yield from (node.left, node.right)
        case ast.AugAssign():
            yield from (replaced(node, op=op()) for op in OPERATORS.get(type(node.op), ()))
            yield None
        case ast.Compare(ops=[only]):
            yield from (replaced(node, ops=[op()]) for op in OPERATORS.get(type(only), ()))
        case ast.BoolOp():
            yield from (replaced(node, op=op()) for op in OPERATORS[type(node.op)])
            yield from node.values
        case ast.UnaryOp(op=ast.USub() | ast.Not()):
            yield node.operand
        case ast.IfExp():
            yield from (node.body, node.orelse)
        case ast.If():
            yield replaced(node, test=ast.UnaryOp(ast.Not(), node.test))
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield from (ast.Constant(value + 1), ast.Constant(value - 1))
        case ast.Constant(value=float(value)):
            yield from (ast.Constant(2 * value if value else 1.0), ast.Constant(value + 1))
        case ast.Call():
            if len(node.args) > 1 and not any(isinstance(arg, ast.Starred) for arg in node.args[:2]):
                yield replaced(node, args=[node.args[1], node.args[0], *node.args[2:]])
            for i in range(len(node.keywords)):
                yield replaced(node, keywords=node.keywords[:i] + node.keywords[i + 1:])
        case ast.Expr(value=ast.Call()):
            yield None


def replaced(node: ast.AST, **fields: Any) -> ast.AST:
    """A copy with other fields."""
    out = copy.copy(node)
    for name, value in fields.items():
        setattr(out, name, value)
    return out


def sites(node: ast.AST, function: str = "") -> Iterator[tuple[ast.AST, str]]:
    """Every node that may go wrong, with its function: not those of annotations, errors, texts, imports and decorators."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_params", "bases"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, (ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom)):
                continue
            if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "__name__ == '__main__'"):
                continue
            inside = isinstance(child, (ast.FunctionDef, ast.ClassDef))
            within = f"{function}.{child.name}".lstrip(".") if inside else function  # type: ignore[attr-defined]
            yield child, within
            yield from sites(child, within)


def mutants(file: str, text: str) -> list[Mutant]:
    """All mistakes of a file. Those of equal names are numbered."""
    lines = text.encode().splitlines(keepends=True)
    starts = [sum(map(len, lines[:i])) for i in range(len(lines))]
    out: list[Mutant] = []
    seen: dict[str, int] = {}
    for node, function in sites(ast.parse(text)):
        for new in changed(node):
            whole = node.test if isinstance(node, ast.If) else node
            instead = new.test if isinstance(new, ast.If) else new
            start, end = (starts[line - 1] + column for line, column in
                          ((whole.lineno, whole.col_offset), (whole.end_lineno, whole.end_col_offset)))  # type: ignore[attr-defined]
            shown = "pass" if instead is None else ast.unparse(instead)
            if isinstance(node, (ast.expr, ast.If)):
                shown = f"({shown})"
            one = Mutant(file, function, start, end, text.encode()[start:end].decode(), shown)
            seen[one.name] = seen.get(one.name, 0) + 1
            out.append(one if seen[one.name] == 1 else one._replace(function=f"{function}#{seen[one.name]}"))
    return out


def sample(room: Room, number: int, seed: int) -> list[Mutant]:
    """So many mistakes of a room, by a hash of their names: the choice stays where other lines change."""
    every = [one for pattern in room.files for path in sorted(ROOT.glob(pattern))
             for one in mutants(path.relative_to(ROOT).as_posix(), path.read_text())]
    return sorted(every, key=lambda one: hashlib.sha256(f"{seed} {one.name}".encode()).digest())[:number]


def started(tree: Path, room: Room, file: str, seconds: float, said: Path) -> int:
    """A process that runs the room's tests in this tree, until one fails; what it says is in `said`.

    A fork, since importing the frameworks takes longer than most tests; modules of this project are imported anew, from the tree. The
    tests named after `file` go first. `seconds` of CPU time are the limit, so that a busy machine changes nothing.
    """
    if process := os.fork():
        return process
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 5))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    sys.stdout = sys.stderr = said.open("w")
    for descriptor in (1, 2):
        os.dup2(sys.stdout.fileno(), descriptor)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("reference", "backends", "bench", "tests")]:
        del sys.modules[name]
    os.chdir(tree)
    os.environ |= {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True
    sys.path[:] = [str(tree), *(place for place in sys.path if Path(place or ".").resolve() != ROOT)]
    named = [path for test in room.tests if (tree / (path := f"{test}/test_{Path(file).stem}.py")).exists()]
    code = pytest.main(["-x", "-q", "-n", "0", "-p", "no:cacheprovider", *named, *room.tests])
    sys.stdout.flush()
    os._exit(code)


def outcome(status: int, said: Path) -> str:
    """"" where all tests passed, else the first that failed, or how the run ended."""
    if status == 0:
        return ""
    text = said.read_text(errors="replace")
    failed = [line for line in text.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0][:200] if failed else f"ended with {os.waitstatus_to_exitcode(status)}: {' '.join(text[-200:].split())}"


def ask(name: str, number: int, seed: int, processes: int, out: Path, again: bool) -> None:
    """Plant a sample of a room's mistakes, so many at once, and add a line of JSON each to `out`. Those that are there are not asked
    again, unless `again` says so and they survived."""
    room = ROOMS[name]
    known = {mutant for mutant, killed_by in outcomes(out)[name].items() if killed_by or not again}
    left = [mutant for mutant in sample(room, number, seed) if mutant.name not in known]
    with tempfile.TemporaryDirectory() as folder:
        trees = [Path(shutil.copytree(ROOT, Path(folder) / str(i), symlinks=True,
                                      ignore=shutil.ignore_patterns(".*", "__pycache__", "*.egg-info"))) for i in range(processes)]
        right = started(trees[0], room, "", 3600, Path(folder) / "right")
        _, status, usage = os.wait4(right, 0)
        if failed := outcome(status, Path(folder) / "right"):
            raise SystemExit(f"error: {name}: the tests fail without a mistake: {failed}")
        running: dict[int, tuple[Path, Mutant, str]] = {}
        while left or running:
            while left and trees:
                tree, mutant = trees.pop(), left.pop(0)
                text = (tree / mutant.file).read_text()
                (tree / mutant.file).write_text(mutant.planted(text))
                seconds = 60 + 3 * (usage.ru_utime + usage.ru_stime)
                running[started(tree, room, mutant.file, seconds, tree.with_suffix(".log"))] = tree, mutant, text
            process, status = os.wait()
            tree, mutant, text = running.pop(process)
            (tree / mutant.file).write_text(text)
            trees.append(tree)
            found = outcome(status, tree.with_suffix(".log"))
            with out.open("a") as file:
                file.write(json.dumps({"room": name, "mutant": mutant.name, "killed_by": found, "seed": seed}) + "\n")
            print(f"{mutant.name}: {found or 'SURVIVED'}", flush=True)


def outcomes(out: Path) -> dict[str, dict[str, str]]:
    """What each mistake was killed by, or "", by room; the last line of a mistake counts."""
    found: dict[str, dict[str, str]] = {name: {} for name in ROOMS}
    for line in out.read_text().splitlines() if out.exists() else []:
        row = json.loads(line)
        found[row["room"]][row["mutant"]] = row["killed_by"]
    return found


def page(out: Path, reasons: dict[str, str]) -> str:
    """results/mutation.md. `reasons` says why a mistake changes nothing."""
    text = ["# Mistakes that a generator planted", "",
            "Written by `python -m tests.mutants.generator --page` from [mutation.jsonl](mutation.jsonl). Each mistake is one small "
            "change of one expression: another operator, a number off by one, a term, keyword or statement left out, two arguments "
            "exchanged, a condition inverted. The sample of each room is chosen by a hash. Killed: a test of the room fails. Equivalent: "
            "no program could tell, by the reason below. The share is of those that are not equivalent, with Wilson's 95% interval.", "",
            "| room | possible | sample | killed | equivalent | survived | share killed |", "|---|--:|--:|--:|--:|--:|--:|"]
    lists: list[str] = []
    for name, found in outcomes(out).items():
        if found:
            lived = sorted(mutant for mutant, killed_by in found.items() if not killed_by)
            same = [mutant for mutant in lived if mutant in reasons]
            killed, told = len(found) - len(lived), len(found) - len(same)
            low, high = binomtest(killed, told).proportion_ci(method="wilson")
            text.append(f"| {name} | {len(sample(ROOMS[name], 10**9, 0)):,} | {len(found)} | {killed} | {len(same)} | "
                        f"{len(lived) - len(same)} | {killed / told:.1%} ({low:.1%} to {high:.1%}) |")
            for title, members in (("equivalent", same), ("survived", [m for m in lived if m not in reasons])):
                if members:
                    lists += ["", f"## {name}: {title}", "", *(f"- `{escaped(m)}`" + (f": {reasons[m]}" if m in reasons else "")
                                                              for m in members)]
    return "\n".join(text + lists) + "\n"


def escaped(name: str) -> str:
    """A name on one line of Markdown's code."""
    return " ".join(name.replace("`", "'").split())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.mutants.generator", description=__doc__)
    parser.add_argument("--room", choices=ROOMS, action="append", default=[], help="may be repeated")
    parser.add_argument("--mutants", type=int, default=300, help="of each room; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the choice; default: %(default)s")
    parser.add_argument("--processes", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--again", action="store_true", help="ask those that survived again")
    parser.add_argument("--out", type=Path, default=FOUND, help="default: results/mutation.jsonl")
    parser.add_argument("--page", action="store_true", help="write results/mutation.md")
    asked = parser.parse_args()
    for room_name in asked.room:
        ask(room_name, asked.mutants, asked.seed, asked.processes, asked.out, asked.again)
    if asked.page:
        (ROOT / "results" / "mutation.md").write_text(page(asked.out, tomllib.loads((HERE / "equivalent.toml").read_text())))
