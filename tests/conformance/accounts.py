"""What a run left out because a backend does not claim it, counted; a run that has left nothing to test of a level is an error."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable

import pytest

import backends
from backends import claims

from .kit import Subject

LEFT_OUT = re.compile(r"Skipped: (\S+) does not claim (.+)")
LEVEL = re.compile(r"test_(l\d)_\w+\.py::")
REFUSALS = "test_l0_refusals.py"


class Account:
    """A plugin of the run's first process, which hears of every test."""

    def __init__(self, subjects: Iterable[Subject], asked: bool) -> None:
        self.asked = asked  # by name: otherwise tests in other dtypes and modes are not even collected
        self.parts = {s.name: f"[{s.name}-{s.device}-" for s in subjects}
        self.ran: Counter[tuple[str, str]] = Counter()  # (backend, level): tests that were not left out, refusals aside
        self.left: Counter[tuple[str, str]] = Counter()
        self.kinds: dict[str, Counter[str]] = defaultdict(Counter)  # by backend: tests that a kind left out
        self.total: Counter[str] = Counter()  # by backend

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test once, as left out or as run."""
        name = next((name for name, part in self.parts.items() if part in report.nodeid), None)
        level = LEVEL.search(report.nodeid)
        if name is None or level is None or REFUSALS in report.nodeid:
            return
        key = (name, level.group(1).upper())
        said = LEFT_OUT.fullmatch(report.longrepr[2]) if report.skipped and isinstance(report.longrepr, tuple) else None
        if said:
            self.left[key] += 1
            self.total[name] += 1
            self.kinds[name].update({item.partition("=")[0] for item in said.group(2).split(", ")})
        elif report.when == "call":
            self.ran[key] += 1

    def empty(self) -> list[str]:
        """A line for each level of which claims have left nothing to test."""
        return [f"{level} of {name}: nothing is left to test of {left} tests, so nothing was shown: claim more in its ABOUT"
                for (name, level), left in sorted(self.left.items()) if not self.ran[name, level]]

    def lines(self) -> list[str]:
        """For the end of the run: what each backend does not claim, and of one that was asked for how many tests a kind left out.
        Several kinds may leave out one test."""
        out = []
        for name in self.parts:
            about = backends.about(name)
            kinds = {kind: claims.missing(about, kind) for kind in claims.NAMES}
            for kind in [kind for kind, names in kinds.items() if names]:
                count = f": {self.kinds[name][kind]} tests left out" * self.asked
                out.append(f"NOT CLAIMED by {name}: {kind} {', '.join(kinds[kind])}{count}")
            if self.asked and self.total[name]:
                out.append(f"{name}: {self.total[name]} tests left out in all, since it does not claim what they ask for")
        return [*out, *(f"ERROR: {line}" for line in self.empty())]

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """A green run in which nothing of a level was left to test is a failed one."""
        if exitstatus == pytest.ExitCode.OK and self.empty():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
