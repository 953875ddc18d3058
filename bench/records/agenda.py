"""What is ahead of a job: its cells in their order, which of them runs, and about how long the rest takes.

A network call of one image costs a backend the same in every cell, and a training step as `bench.timing.flops.TRAINING` of them: a
cell's time is its passes by the rate of those that were finished. A cell without any takes what one like it took.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.progress import Status
from bench.terminal import about


@dataclass(frozen=True)
class Ahead:
    """A cell: `name` and `backend` as its key's, what of its key tells it from others of both, and how people call it. `passes` of
    the network, by one image each; 0 where they are not what takes the time."""

    name: str
    backend: str
    text: str
    passes: int = 0
    config: Mapping[str, Any] = field(default_factory=dict)
    done: bool = False  # before this run

    def is_of(self, name: str, key: Mapping[str, Any]) -> bool:
        """Whether this is the cell of that key."""
        return (self.name, self.backend) == (name, key["backend"]) and all(key.get(n) == v for n, v in self.config.items())


class Agenda:
    """The cells that are ahead. `begin` says which one runs; `end` and `took` keep how long one took."""

    def __init__(self, cells: list[Ahead] | None = None) -> None:
        self.cells = cells or []
        self._left = {n for n, cell in enumerate(self.cells) if not cell.done}
        self._took: list[tuple[str, str, int, float]] = []  # name, backend, passes, seconds
        self._status = Status()

    def begin(self, name: str, key: Mapping[str, Any]) -> int | None:
        """The number of this cell, which is said on stderr; None of a cell that is not on the list."""
        number = next((n for n in sorted(self._left) if self.cells[n].is_of(name, key)), None)
        if number is not None:
            self._left -= set(range(number))  # left missing
            left = self.seconds_left()
            self._status.say(f"cell {number + 1} of {len(self.cells)}{f', {about(left)} left' if left else ''}: "
                             f"{self.cells[number].text}")
        return number

    def end(self, number: int | None, seconds: float | None) -> None:
        """The cell of this number is done, or left missing (None)."""
        if number is None:
            return
        self._left.discard(number)
        if seconds is not None:
            cell = self.cells[number]
            self.took(cell.name, cell.backend, cell.passes, seconds)
        if not self._left:
            self.close()

    def skip(self, name: str, key: Mapping[str, Any]) -> None:
        """This cell was finished before."""
        self._left -= {n for n in self._left if self.cells[n].is_of(name, key)}

    def drop(self, backend: str) -> None:
        """Nothing is done by this backend."""
        self._left -= {n for n in self._left if backend in self.cells[n].backend.split()}

    def took(self, name: str, backend: str, passes: int, seconds: float) -> None:
        """How long a cell took, now or before."""
        self._took.append((name, backend, passes, seconds))

    def seconds_left(self) -> float | None:
        """Of the cells that are not done; None where no cell with passes was finished yet, though some are ahead. A cell without,
        of which none like it was finished, counts as the mean of those that were."""
        left = [self.cells[n] for n in sorted(self._left)]
        passes = sum(cell.passes for cell in left)
        if passes and not any(n for _, _, n, _ in self._took):
            return None
        return sum(self._rate(cell) * cell.passes if cell.passes else self._usual(cell) for cell in left) if left else 0.0

    def _rate(self, cell: Ahead) -> float:
        """Seconds of a pass: of this backend's cells of that name, else of its cells, else of all."""
        for same in ((cell.name, cell.backend), (None, cell.backend), (None, None)):
            found = [(n, s) for name, who, n, s in self._took if n and same[0] in (None, name) and same[1] in (None, who)]
            if found:
                return sum(s for _, s in found) / sum(n for n, _ in found)
        return 0.0

    def _usual(self, cell: Ahead) -> float:
        """Seconds of a cell without passes, found in the same way."""
        for same in ((cell.name, cell.backend), (cell.name, None), (None, None)):
            found = [s for name, who, n, s in self._took if not n and same[0] in (None, name) and same[1] in (None, who)]
            if found:
                return sum(found) / len(found)
        return 0.0

    def close(self) -> None:
        """Take the line off a terminal."""
        self._status.close()
