"""Plant mistakes in a room one after another and run the tests that could see each until one fails: first those that found the most
mistakes of the file for their time, which at the beginning are the quickest.

One process collects the room's tests. A fork of it runs them all once and notes which functions each calls, and how long it takes.
Then each mistake gets a fork of its own, in which the functions that it changes have their new code, and in which the tests run that
call them, and those that start processes, of which nobody knows what they call. What a module does when it is imported can't be
changed afterwards: such a mistake, and every mistake in a framework that reads its functions' text, gets a process that imports all of
this project anew, and there the tests of every function in its file.
"""

from __future__ import annotations

import functools
import gc
import importlib
import itertools
import json
import math
import os
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any, NamedTuple

import pytest

OURS = ("reference", "backends", "bench", "tests")
MEMORY = 12 << 30  # bytes of address space of a run
LEAST_SECONDS = 10  # of CPU, that the tests of a mistake may take, beside three times what they took without it
IMPORT_SECONDS = 20  # as many more where everything is imported anew
WALL = 20  # times as long by the clock: a run that waits for ever uses no CPU
DOUBT = 0.1  # mistakes of a file that a test counts as having found before it found any
KEPT = 50  # tests, after which the map is written
SLOW = ["--slow", "-mslow and not mutants and not recorded and not routes and not browser"]
COMPILED = ("backends/mindspore",)  # whose framework reads the text of functions


class Change(NamedTuple):
    """A mistake: what becomes of the text of `file`, a path in the tree."""

    name: str
    file: str
    planted: Callable[[str], str]


Called = tuple[str, int]  # a function: its qualified name, its first line
Chosen = list[str]  # ids of tests, in order


class Map(NamedTuple):
    """What each test took, seconds of CPU, and which functions of which files it called; the tests that fail as they are; and those
    that start processes, which may call anything."""

    seconds: dict[str, float]
    called: dict[str, dict[str, list[Called]]]  # by test and file
    left_out: list[str]
    starts: list[str]

    def tests(self, file: str, functions: Sequence[Called] | None, finds: Mapping[str, int], most: float) -> Chosen:
        """The tests that call one of these functions, or any of the file, and those that start processes, by what they found for
        their time, until they take `most` seconds. All of them, where nobody calls any of the file: what it does then is done when it
        is imported."""
        of = {test: {tuple(one) for one in files.get(file, ())} for test, files in self.called.items()}
        found = [test for test, called in of.items() if (called if functions is None else called & set(functions))]
        everything = functions is None and not found
        asked = self.seconds if everything else {*found, *self.starts}
        inorder = sorted(asked, key=lambda test: self.seconds[test] / (finds.get(test, 0) + DOUBT))
        before = itertools.accumulate((self.seconds[test] for test in inorder), initial=0.0)
        return [test for test, spent in zip(inorder, before, strict=False) if spent < most]

    def limit(self, chosen: Chosen) -> float:
        """Seconds of CPU that these tests may take."""
        return LEAST_SECONDS + 3 * sum(self.seconds[test] for test in chosen)


def replaced(old: CodeType, new: CodeType) -> list[tuple[CodeType, CodeType]] | None:
    """The functions that differ, whatever their lines, each with what becomes of it, those inside of another one after it. None where
    it is no function that differs, but what a module or a class does when it is made."""
    inner = [[c for c in code.co_consts if isinstance(c, CodeType)] for code in (old, new)]
    alike = len(inner[0]) == len(inner[1])
    found = [replaced(*pair) for pair in zip(*inner, strict=True)] if alike else []
    within = [pair for some in found for pair in some or []]
    if old.co_flags & 1:  # a function
        return [(old, new), *within] if within or differs(old, new) else []
    return None if None in found or differs(old, new) else within


def differs(old: CodeType, new: CodeType) -> bool:
    """Whether a function, module or class does something else itself, and not one inside of it."""
    consts, others = ([repr(c) if not isinstance(c, CodeType) else "" for c in code.co_consts] for code in (old, new))
    return consts != others or any(getattr(old, what) != getattr(new, what) for what in ("co_code", "co_names", "co_varnames"))


def plan(change: Change, tree: Path, known: Map, finds: Mapping[str, int], most: float) -> tuple[list[tuple[CodeType, CodeType]] | None, Chosen]:
    """(the functions to replace, None for all of the module; the tests to run)."""
    text = (tree / change.file).read_text()
    before, after = (compile(each, str(tree / change.file), "exec", dont_inherit=True) for each in (text, change.planted(text)))
    pairs = replaced(before, after)
    if pairs is None or change.file.startswith(COMPILED):
        return None, known.tests(change.file, None, finds, most)
    innermost = next(old for old, new in pairs[::-1] if differs(old, new))
    return pairs, known.tests(change.file, [(innermost.co_qualname, innermost.co_firstlineno)], finds, most)


def functions(tree: Path) -> list[FunctionType]:
    """Those of the tree that live."""
    return [found for found in gc.get_objects() if isinstance(found, FunctionType)
            and found.__code__.co_filename.startswith(f"{tree}{os.sep}")]


def patch(living: Sequence[FunctionType], file: Path, pairs: Sequence[tuple[CodeType, CodeType]]) -> None:
    """Give every function of this file that has an old code its new one."""
    for function in living:
        if function.__code__.co_filename == str(file):
            function.__code__ = next((new for old, new in pairs if function.__code__ == old), function.__code__)


class Orders(NamedTuple):
    """What to plant, and how: `found` is told of each what test failed first, or ""; `finds` says how many mistakes of a file each test
    has found so far; the tests of a mistake take at most `most` seconds, those that come first; `leave_out` leaves out the tests that
    fail without a mistake, which otherwise end it; `slow` asks CI's slow tests in place of the others."""

    changes: Iterator[Change]
    found: Callable[[Change, str], None]
    finds: Callable[[str], Mapping[str, int]] = lambda _: {}
    most: float = math.inf
    leave_out: bool = False
    slow: bool = False


class Plants:
    """A plugin of the process that has collected the tests: instead of running them, it plants."""

    def __init__(self, tree: Path, known: Path, orders: Orders) -> None:
        self.tree, self.known, self.orders = tree, known, orders

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Map once, then a fork for each mistake."""
        said, orders = self.tree / "said.log", self.orders
        if code := forked(lambda: mapped(session, self.tree, self.known, orders.leave_out), said, 36_000):
            raise pytest.UsageError(f"the tests fail without a mistake: {outcome(code, said)}")
        known = Map(**json.loads(self.known.read_text()))
        items, living = {item.nodeid: item for item in session.items}, functions(self.tree)
        for change in orders.changes:
            path = self.tree / change.file
            text = path.read_text()
            pairs, chosen = plan(change, self.tree, known, orders.finds(change.file), orders.most)
            chosen = [test for test in chosen if test in items]
            path.write_text(change.planted(text))  # for processes that tests start
            try:
                if pairs is None:
                    run: Callable[[], int] = functools.partial(anew, self.tree, session.config.invocation_params.args, chosen)
                else:
                    run = functools.partial(_patched, living, path, pairs, session, [items[test] for test in chosen])
                code = forked(run, said, known.limit(chosen) + IMPORT_SECONDS * (pairs is None)) if chosen else 0
            finally:
                path.write_text(text)
            orders.found(change, outcome(code, said) if code else "")
        return True


def _patched(living: Sequence[FunctionType], path: Path, pairs: Sequence[tuple[CodeType, CodeType]], session: pytest.Session,
             items: list[pytest.Item]) -> int:
    patch(living, path, pairs)
    return run_items(session, items)


def run_items(session: pytest.Session, items: list[pytest.Item]) -> int:
    """Run them in order until one fails; 1 if one did, whose id is the last line that is printed."""
    for i, item in enumerate(items):
        session.config.hook.pytest_runtest_protocol(item=item, nextitem=items[i + 1] if i + 1 < len(items) else None)
        if session.testsfailed:
            print(f"\nFAILED {item.nodeid}", flush=True)
            return 1
    return 0


def mapped(session: pytest.Session, tree: Path, out: Path, leave_out: bool) -> int:
    """Run all tests that `out` does not know and add what each calls. Caches are emptied before each, so that it calls all that it
    needs itself."""
    known = Map(**json.loads(out.read_text())) if out.exists() else Map({}, {}, [], [])
    for item in session.items:
        if item.nodeid in known.seconds or item.nodeid in known.left_out:
            continue
        for module in [module for name, module in sys.modules.items() if name.partition(".")[0] in OURS]:
            for kept in [value for value in vars(module).values() if isinstance(value, functools._lru_cache_wrapper)]:
                kept.cache_clear()
        codes = dict[int, CodeType]()

        def note(frame: FrameType, event: str, _: Any, codes: dict[int, CodeType] = codes) -> None:
            codes[id(frame.f_code)] = frame.f_code

        began, children = spent(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        threading.settrace(note)
        sys.settrace(note)
        failed = run_items(session, [item])
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]
        if failed and not leave_out:
            return failed
        if failed:
            known.left_out.append(item.nodeid)
            session.testsfailed = 0
            continue
        known.seconds[item.nodeid] = spent() - began
        if resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime > children:
            known.starts.append(item.nodeid)
        for code in codes.copy().values():  # a thread that a test left may go on
            file = Path(code.co_filename)
            if file.is_relative_to(tree):
                of = known.called.setdefault(item.nodeid, {}).setdefault(file.relative_to(tree).as_posix(), [])
                of.append((code.co_qualname, code.co_firstlineno))
        if len(known.seconds) % KEPT == 0:
            write(known, out)
    write(known, out)
    return 0


def spent() -> float:
    """Seconds of CPU of this process and of all that it started and that ended."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def write(known: Map, out: Path) -> None:
    """As JSON, whole at every moment."""
    out.with_suffix(".part").write_text(json.dumps(known._asdict()))
    out.with_suffix(".part").replace(out)


class Only:
    """A plugin that keeps these tests, in this order."""

    def __init__(self, chosen: Chosen) -> None:
        self.chosen = chosen

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep them."""
        named = {item.nodeid: item for item in items}
        items[:] = [named[test] for test in self.chosen if test in named]


def anew(tree: Path, arguments: Sequence[str], chosen: Chosen) -> int:
    """Import this project anew, and run these tests until one fails."""
    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        del sys.modules[name]
    importlib.invalidate_caches()
    options = [argument for argument in arguments if argument.startswith("-")]
    files = list(dict.fromkeys(test.partition("::")[0] for test in chosen))
    return int(pytest.main([*options, "-x", *files], [Only(chosen)]))


def forked(run: Callable[[], int], said: Path, seconds: float) -> int:
    """What became of a fork that does this: its exit status. What it prints is in `said`. `seconds` are of its CPU time, so that a
    busy machine changes nothing, and WALL times as many by the clock."""
    sys.stdout.flush()
    if not (process := os.fork()):
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 5))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        signal.alarm(int(WALL * seconds) + 1)
        code = 3
        try:
            with said.open("w") as file:
                for descriptor in (1, 2):
                    os.dup2(file.fileno(), descriptor)
                sys.stdout = sys.stderr = file
                try:
                    code = run()
                except BaseException:
                    traceback.print_exc()
                    raise
                finally:
                    file.flush()
        finally:
            os._exit(code)
    return os.waitpid(process, 0)[1]


def outcome(status: int, said: Path) -> str:
    """The first test that failed, or how the run ended."""
    text = said.read_text(errors="replace")
    failed = [line for line in text.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0][:200] if failed else f"ended with {os.waitstatus_to_exitcode(status)}: {' '.join(text[-200:].split())}"


def plant(tree: Path, tests: Sequence[str], known: Path, orders: Orders) -> int:
    """Plant changes in this tree, a copy of the repository. `known` holds the map of the tests, and is written where it does not
    exist. Returns an exit code: not 0 where the tests fail as they are."""
    known.parent.mkdir(parents=True, exist_ok=True)
    here = Path(__file__).parents[2]
    sys.path[:] = [str(tree), *(place for place in sys.path if Path(place or ".").resolve() != here)]
    also = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place and Path(place).resolve() != here]
    os.chdir(tree)
    os.environ |= {"PYTHONPATH": os.pathsep.join([str(tree), *also]), "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True
    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        del sys.modules[name]
    options = ["-q", "-s", "-n0", "-pno:cacheprovider", f"--basetemp={tree}.tmp", *(SLOW if orders.slow else [])]
    return int(pytest.main([*options, *tests], [Plants(tree, known, orders)]))
