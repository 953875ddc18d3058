"""Mutation testing: small mistakes that nobody thought of, one at a time, in the rooms where a wrong number can be born.

`python -m tests.mutants.generator --room reference --mutants 300` plants a seeded sample of them in a copy of the repository, runs the
tests of the room that could see each until one fails ([planting.py](planting.py)), and keeps every outcome in `--out`, where the same
command goes on. `python -m tests.mutants.generator --page` writes results/mutation.md from what was found. Survivors that change
nothing are listed with their reason in [equivalent.toml](equivalent.toml).
"""

from __future__ import annotations

import argparse
import ast
import copy
import functools
import hashlib
import json
import math
import os
import platform
import shutil
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from multiprocessing import Value
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any, NamedTuple

from scipy.stats import binomtest

from bench.paths import ROOT

from .planting import Change, Orders, plant

HERE = Path(__file__).parent
FOUND, BLIND = (ROOT / "results" / name for name in ("mutation.jsonl", "blind.jsonl"))
LISTS = ("blind.toml", *(f"blind-{n}.toml" for n in range(2, 9)))  # of mistakes written without the tests
MAPS = ROOT / "build" / "mutants"  # which functions each test calls, by room and text


# Rooms of bench that have few numbers of their own, and where the tests of all of them are.
OTHERS = ("cli", "data", "diagnosis", "pictures", "recipes", "records", "sampling", "studies", "training", "weights", "workers",
          "workers/peers")
TESTS = ("data", "weights", "records", "pictures", "sampling", "training", "timing", "metric", "diagnosis", "recipes", "studies", "report", "job",
         "workers", "cli")
FILES = ("api", "oracle", "streams", "progress", "terminal", "routes", "fuzz", "examples")
PARTS = ("schedules", "samplers", "solvers", "training", "layers", "unet")  # of a backend, where a wrong number can be born
INTERFACE = ("about", "borrowing", "claims", "devices", "protocol", "kit")


class Room(NamedTuple):
    """Files that get mistakes, and the tests that should see them."""

    files: tuple[str, ...]
    tests: tuple[str, ...]


ROOMS = {
    "reference": Room(("reference/*.py",), ("tests/reference", "tests/weights/test_solver_schedulers.py",
                                            "tests/weights/test_solver_folders.py", "tests/weights/test_schedulers.py",
                                            "tests/conformance/test_l2_network.py", "--backend=torch", "--mode=tuned")),
    "torch": Room(tuple(f"backends/torch/{part}.py" for part in PARTS),
                  ("tests/conformance", "tests/backends/test_mirrors.py", "tests/backends/test_torch_devices.py",
                   "tests/backends/test_torch.py", "tests/workers/test_timed.py", "--backend=torch")),
    **{name: Room(tuple(f"backends/{name}/{part}.py" for part in PARTS), ()) for name in ("mindspore", "jax")},  # of the kit (kits.py)
    "metric": Room(("bench/metric/*.py",), ("tests/metric",)),
    "timing": Room(("bench/timing/*.py",), ("tests/timing", "tests/workers", "tests/studies")),
    "report": Room(("bench/report/*.py", "bench/report/*/*.py"), ("tests/report", "tests/studies", "tests/cli/test_report.py")),
    "job": Room(("bench/job/*.py",), ("tests/job/test_checks.py", "tests/job/test_keys.py", "tests/job/test_forecast.py",
                                      "tests/job/test_timing.py", "tests/job/test_stages.py", "tests/test_oracle.py")),
}
# Rooms whose mistakes are written by hand alone.
FURTHER = {
    "harness": Room(("backends/*.py", "bench/*.py", *(f"bench/{name}/*.py" for name in OTHERS)),
                    tuple(f"tests/{name}" for name in (*TESTS, *(f"test_{name}.py" for name in FILES),
                                                       *(f"backends/test_{name}.py" for name in INTERFACE)))),
}


class How(NamedTuple):
    """How a room is asked: in how many processes, with how many seconds of tests at most for each mistake, and whether tests that fail
    without a mistake are left out, as those of other versions or without a framework do, or end it; and whether CI's slow tests are
    asked in place of the others."""

    processes: int = 1
    most: float = math.inf
    leave_out: bool = False
    slow: bool = False


ALL = How()
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
            if len({ast.dump(arg) for arg in node.args[:2]}) > 1 and not any(isinstance(arg, ast.Starred) for arg in node.args[:2]):
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


def ask(name: str, asked: list[Mutant], seed: int, out: Path, how: How = ALL) -> None:
    """Plant mistakes of a room in as many processes as `how` says, each in a copy of the repository, and add a line of JSON each to
    `out`, at once."""
    out = out.resolve()
    with tempfile.TemporaryDirectory() as folder:
        trees = [Path(folder) / f"tree{i}" for i in range(how.processes)]
        for tree in trees:
            copy_to(tree)
        start = functools.partial(planted_in, name=name, out=out, seed=seed, how=how, known=map_of(name, how.slow))
        if how.processes > 1:  # the map is made once
            ended([start(trees[0], [], Value("i"))])
        following = Value("i")
        ended([start(tree, asked, following) for tree in trees])


def copy_to(tree: Path) -> None:
    """The repository as it is, with what git ignores left out."""
    shutil.copytree(ROOT, tree, symlinks=True, ignore=shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build"))


def map_of(room: str, slow: bool = False) -> Path:
    """Where the map of a room's tests, or of its slow ones, is kept, by the text of the program and of the tests and by what runs them."""
    python = [path for of in ("reference", "backends", "bench", "tests") for path in sorted((ROOT / of).rglob("*.py"))
              if not path.is_relative_to(HERE)]
    text = hashlib.sha256(b"".join(path.read_bytes() for path in python) + environment().encode()).hexdigest()
    return MAPS / f"{room}{'-slow' * slow}-{text[:16]}.json"


def planted_in(tree: Path, asked: list[Mutant], following: Synchronized[int], *, name: str, out: Path, seed: int, how: How,
               known: Path) -> int:
    """The id of a process that plants in this tree those that no other process took."""
    def changes() -> Iterator[Change]:
        while True:
            with following.get_lock():
                i = following.value
                following.value += 1
            if i >= len(asked):
                return
            yield Change(asked[i].name, asked[i].file, asked[i].planted)

    def finds(file: str) -> Counter[str]:
        return Counter(by.removeprefix("FAILED ").partition(" - ")[0] for mutant, by in outcomes(out)[name].items()
                       if mutant.startswith(f"{file} "))

    def found(change: Change, killed_by: str) -> None:
        keep(out, name, change.name, killed_by, seed, how)

    if process := os.fork():
        return process
    code = 1
    try:
        code = plant(tree, (ROOMS | FURTHER)[name].tests, known, Orders(changes(), found, finds, how.most, how.leave_out, how.slow))
    finally:
        sys.stdout.flush()
        os._exit(code)


def ended(processes: list[int]) -> None:
    """Wait for them; the exit code of the first one that failed ends this program."""
    failed = [code for code in (os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes) if code]
    if failed:
        raise SystemExit(failed[0])


def environment() -> str:
    """What asks: versions, and the frameworks that are not there."""
    names = ("numpy", "scipy", "torch", "mindspore", "jax", "diffusers")
    there = {name: version(name) for name in names if find_spec(name)}
    return (f"Python {platform.python_version()}, {', '.join(f'{name} {said}' for name, said in there.items())}"
            + "".join(f", no {name}" for name in names if name not in there))


def keep(out: Path, room: str, mutant: str, killed_by: str, seed: int, how: How = ALL) -> None:
    """Add an outcome, and print it."""
    row = {"room": room, "mutant": mutant, "killed_by": killed_by, "seed": seed, "environment": environment()}
    with out.open("a") as file:
        file.write(json.dumps(row | ({} if how.most == math.inf else {"seconds": how.most})) + "\n")
    print(f"{mutant}: {killed_by or 'SURVIVED'}", flush=True)


def outcomes(out: Path, first: bool = False) -> dict[str, dict[str, str]]:
    """What each mistake was killed by, or "", by room; the last line of a mistake counts, or the `first`."""
    found: dict[str, dict[str, str]] = {name: {} for name in ROOMS | FURTHER}
    for line in out.read_text().splitlines() if out.exists() else []:
        row = json.loads(line)
        if not first or row["mutant"] not in found[row["room"]]:
            found[row["room"]][row["mutant"]] = row["killed_by"]
    return found


def page(out: Path, reasons: dict[str, str]) -> str:
    """results/mutation.md. `reasons` says why a mistake changes nothing."""
    text = ["# Mistakes that a generator planted", "",
            "Written by `python -m tests.mutants.generator --page` from [mutation.jsonl](mutation.jsonl). Each mistake is one small "
            "change of one expression: another operator, a number off by one, a term, keyword or statement left out, two arguments "
            "exchanged, a condition inverted. The sample of each room is chosen by a hash. Killed: a test of the room fails. Equivalent: "
            "no program could tell, or it is the look of a picture or a file alone, by the reason below. Shares are of those that are not equivalent. That at first is the room's, "
            "with Wilson's 95% interval; since then survivors got tests, and were asked again (`--again`).", "",
            "| room | possible | sample | killed | equivalent | survived | share killed | at first |",
            "|---|--:|--:|--:|--:|--:|--:|--:|"]
    lists: list[str] = []
    began = outcomes(out, first=True)
    for name, found in outcomes(out).items():
        if found:
            lived = sorted(mutant for mutant, killed_by in found.items() if not killed_by)
            same = [mutant for mutant in lived if mutant in reasons]
            killed, told = len(found) - len(lived), len(found) - len(same)
            before = sum(1 for killed_by in began[name].values() if killed_by)
            low, high = binomtest(before, told).proportion_ci(method="wilson")
            possible = {mutant.name for mutant in sample(ROOMS[name], 10**9, 0)}
            text.append(f"| {name} | {len(possible):,} | {len(found)} | {killed} | {len(same)} | "
                        f"{len(lived) - len(same)} | {killed / told:.1%} | {before / told:.1%} ({low:.1%} to {high:.1%}) |")
            for title, members in (("equivalent", same), ("survived", [m for m in lived if m not in reasons])):
                if members:
                    why = dict.fromkeys(found.keys() - possible, "its text has changed since") | reasons
                    lists += ["", f"## {name}: {title}", "", *(f"- `{escaped(m)}`" + (f": {why[m]}" if m in why else "")
                                                              for m in members)]
    return "\n".join(text + answered(out) + blind(BLIND) + lists) + "\n"


def answered(out: Path) -> list[str]:
    """What the answers of each room rest on: versions, how much of the tests was run, and what has changed since."""
    text = ["", "## What was asked, and where", "",
            "Where a mistake's tests had a limit, those ran that come first: the likeliest, then the quickest. One that survived them may "
            "fail another test of its room. So may one that only a process runs which a test starts: the first answers did not ask such tests. A "
            "survivor that was asked again has an answer more, in torch, metric, timing and report of some test files alone.", ""]
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    for (room, where, most), number in Counter((row["room"], row.get("environment"), row.get("seconds")) for row in rows).items():
        limit = "no limit" if most is None else f"tests of at most {most:g} s of CPU for each mistake"
        text += [f"- {room}: {number} answers; {limit}; {where or 'versions were not noted'}"]
    for name, found in outcomes(out).items():
        gone = found.keys() - {mutant.name for mutant in sample(ROOMS[name], 10**9, 0)} if found else None
        if gone:
            text += [f"- {name}: of {len(found)} mistakes {len(gone)} stood in text that has changed since"]
    return text


def blind(out: Path) -> list[str]:
    """The scores of the mistakes of each list: when they were asked first, and by now."""
    first, now = ({mutant: killed_by for room in outcomes(out, when).values() for mutant, killed_by in room.items()}
                  for when in (True, False))
    text = ["", "## Lists of sixty mistakes", "",
            "Each list was there before any of its mistakes was tried; [blind.jsonl](blind.jsonl) says by what each was caught. Who wrote the third "
            "knew some of the tests, who wrote the others had read none. Those from the third on are of all rooms. Most of the first list's of a "
            "backend were asked of one level, dtype and mode of the kit, and most of the third's of bench of the test files that look at "
            "their module, as were the sixth's of the harness; those from the third on that were not caught at first were asked again of one test each, which was then written for it; "
            "but four of the fourth, two of the fifth and two of the seventh failed a test that was there, a slow one, one that starts a process, one in "
            "float16 or a backend's own beside the kit, which were not asked at first. "
            "One whose text has changed since can't be asked again."] if first else []
    for name in LISTS:
        listed = tomllib.loads((HERE / name).read_text())["mistake"]
        names = {Mutant(said["file"], said["name"], 0, 0, said["old"], said["new"]).name for said in listed}
        asked = [mutant for mutant in first if mutant in names]
        if asked:
            left = [mutant for mutant in asked if not now[mutant]]
            text += ["", f"[{name}](../tests/mutants/{name}): of {len(asked)} that were asked {sum(map(bool, map(first.get, asked)))} were "
                     f"caught at first, and {len(asked) - len(left)} are by now.", *([""] if left else []),
                     *(f"- not caught: `{escaped(one)}`" for one in left)]
    return text


def escaped(name: str) -> str:
    """A name on one line of Markdown's code."""
    return " ".join(name.replace("`", "'").split())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.mutants.generator", description=__doc__)
    parser.add_argument("--room", choices=ROOMS, action="append", default=[], help="may be repeated")
    parser.add_argument("--mutants", type=int, default=300, help="of each room; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the choice; default: %(default)s")
    parser.add_argument("--again", action="store_true", help="ask those that survived again, but for equivalent ones")
    parser.add_argument("--out", type=Path, default=FOUND, help="default: results/mutation.jsonl")
    parser.add_argument("--processes", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=math.inf, help="of CPU at most, that the tests of a mistake take; default: all")
    parser.add_argument("--leave-out", action="store_true", help="the tests that fail without a mistake, instead of ending there")
    parser.add_argument("--page", action="store_true", help="write results/mutation.md")
    asked = parser.parse_args()
    reasons = tomllib.loads((HERE / "equivalent.toml").read_text())
    for room_name in asked.room:
        known = {mutant for mutant, killed_by in outcomes(asked.out)[room_name].items()
                 if killed_by or mutant in reasons or not asked.again}
        left = [m for m in sample(ROOMS[room_name], asked.mutants, asked.seed) if m.name not in known]
        if ROOMS[room_name].tests:
            ask(room_name, left, asked.seed, asked.out, How(asked.processes, asked.seconds, asked.leave_out))
            continue
        from .kits import caught_by
        for mistake in left:
            keep(asked.out, room_name, mistake.name, caught_by(room_name, mistake, asked.again), asked.seed)
    if asked.page:
        (ROOT / "results" / "mutation.md").write_text(page(asked.out, reasons))
