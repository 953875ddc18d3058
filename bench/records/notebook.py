"""Rows of one run, and what is missing from it. The only place that stamps a row with machine, load and commit."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.records import environment
from bench.records.agenda import Agenda
from bench.records.cells import Cells
from bench.records.rows import AnyRow, Row, RowError
from bench.records.validity import problems

Key = dict[str, Any]
Values = dict[str, Any]


def stamped(kind: str, backend: str, preset: str, config: Key, values: Values, machine: dict[str, Any] | None = None) -> AnyRow:
    """A row made now, on this machine (by default as `environment.describe` finds it), with the values of its kind."""
    if wrong := problems(kind, config, values):
        raise RowError(f"row of kind {kind!r}: {'; '.join(wrong)}")
    machine = machine or environment.describe()
    return Row(kind, backend, preset, config, values, machine | {"load": list(os.getloadavg())}, machine["commit"])


class Notebook:
    """What one run found: its rows so far, and a line for each thing that is missing.

    A cell whose computation raises one of `survives` is left missing, and the run goes on. One of `wrong_answers` says that a
    backend disagrees: `wrong` has a line of it, too.
    """

    def __init__(self, cells: Cells, preset: str, survives: tuple[type[Exception], ...] = (),
                 wrong_answers: tuple[type[Exception], ...] = ()) -> None:
        self.cells, self.preset, self.survives, self.wrong_answers = cells, preset, survives, wrong_answers
        self.rows: list[AnyRow] = []
        self.missing: list[str] = []
        self.wrong: list[str] = []
        self.seconds: dict[str, float] = {}  # wall time of this run by stage
        self.machine = environment.describe()
        self.agenda = Agenda()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the wall time of what runs inside."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began

    def wall_time(self) -> str:
        """The stages in their order, each with its seconds and share."""
        total = sum(self.seconds.values())
        each = [f"{name} {seconds:.1f} s ({seconds / total:.0%})" for name, seconds in self.seconds.items()]
        return f"wall time {total:.1f} s: {', '.join(each)}"

    def row(self, kind: str, backend: str, key: Key, values: Values) -> AnyRow:
        """A row of this run."""
        return stamped(kind, backend, self.preset, key, values, self.machine)

    def cell(self, name: str, key: Key, compute: Callable[[Path], AnyRow]) -> AnyRow | None:
        """Run one cell, see `Cells.run`; its row carries its seconds. None where it is left missing."""
        number, seconds = None, None
        if self.cells.done(name, key):
            self.agenda.skip(name, key)
        else:
            number = self.agenda.begin(name, key)

        def timed(folder: Path) -> AnyRow:
            nonlocal seconds
            began = time.perf_counter()
            row = compute(folder)
            seconds = round(time.perf_counter() - began, 3)
            return replace(row, environment={"cell_seconds": seconds} | row.environment)

        try:
            row = self.cells.run(name, key, timed)
        except self.survives as error:
            self.leave(f"{name} {key['backend']}", error)
            return None
        finally:
            self.agenda.end(number, seconds)
        self.rows.append(row)
        self.missing += row.notes
        return row

    def leave(self, what: str, error: Exception) -> None:
        """What is missing, and why."""
        self.missing.append(f"missing: {what}: {error}")
        if isinstance(error, self.wrong_answers):
            self.wrong.append(f"{what}: {error}")

    def keep(self, name: str, kind: str, key: Key, values: Values) -> None:
        """A cell whose values were computed already."""
        self.cell(name, key, lambda folder: self.row(kind, key["backend"], key, values))
