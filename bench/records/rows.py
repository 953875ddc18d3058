"""Result rows: the only writer of `results/rows/*.jsonl`, and its reader.

One line of JSON is one row. Lines are only ever appended: under a lock, in one write, followed by fsync. Raw samples go into
`values`; medians and intervals are derived by the report.
"""

from __future__ import annotations

import itertools
import json
import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar, cast

from filelock import FileLock

from bench.records import validity, values
from reference.config import ConfigError

VERSION = 1
KINDS = (*values.KINDS, "study")
MAX_LINE = 16 << 20  # bytes; a longer line is no row of ours
LOCK_SECONDS = 60.0

# How a row of version n becomes one of version n + 1.
UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}

Values = TypeVar("Values", covariant=True)  # a record of `bench.records.values`


class RowError(ConfigError):
    """A row, or a file of rows, that can't be used; the message names the file, the line and the reason."""


@dataclass(frozen=True)
class Row(Generic[Values]):
    """One measured cell. Building one validates it.

    `config` is what was asked for, and identifies the cell; `values` is what was measured, raw; `environment` is
    `environment.describe()`; `commit` is the code's git commit, with `+dirty` where it was changed; `created` is UTC.
    """

    kind: str
    backend: str
    preset: str
    config: dict[str, Any]
    values: Values
    environment: dict[str, Any]
    commit: str
    created: str = ""
    version: int = VERSION

    @property
    def notes(self) -> list[str]:
        """What its values say of how they came about, in the kinds that do."""
        return list(cast(dict[str, Any], self.values).get("notes", []))

    def __post_init__(self) -> None:
        if self.created == "":
            object.__setattr__(self, "created", datetime.now(UTC).isoformat(timespec="seconds"))
        for field in fields(self):
            value, kind = getattr(self, field.name), str(field.type)
            good = {"str": str, "int": int, "dict[str, Any]": dict, "Values": dict}[kind]
            _require(type(value) is good, field.name, value, f"must be of type {good.__name__}")
        _require(self.version == VERSION, "version", self.version, f"must be {VERSION}")
        _require(self.kind in KINDS, "kind", self.kind, f"must be one of {', '.join(KINDS)}")
        for name in ("backend", "preset", "commit"):
            _require(getattr(self, name) != "", name, "", "must not be empty")
        try:
            stamp = datetime.fromisoformat(self.created)
        except ValueError:
            stamp = datetime.min
        _require(stamp.tzinfo is not None, "created", self.created, "must be an ISO 8601 time with its offset from UTC")
        _require(json.loads(self.line()) == vars(self), "config, values, environment", "...",
                 "must hold plain JSON types with string keys: no tuple, no array")

    def line(self) -> str:
        """One line of JSON, without the line end. Raises `RowError` for a NaN, an infinity or another type than JSON's."""
        try:
            text = json.dumps(vars(self), allow_nan=False, sort_keys=True)
            json.dumps(vars(self), ensure_ascii=False).encode()  # half a surrogate pair could not be printed
            return text
        except (TypeError, ValueError, RecursionError) as error:
            raise RowError(f"row of kind {self.kind!r}: {error}: values must be finite plain JSON types") from None


AnyRow = Row[object]  # whose kind was not asked for: of its values nothing can be read, see `of`


def _require(condition: bool, name: str, value: object, rule: str) -> None:
    if not condition:
        raise RowError(f"row field {name}={str(value)[:80]!r}: {rule}")


def parse(line: bytes) -> AnyRow:
    """The row in one line of JSON, written by this version or an older one. Raises `RowError`."""
    try:
        values = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RowError(f"not JSON: {error}") from None
    if not isinstance(values, dict):
        raise RowError(f"a row must be a JSON object, not {type(values).__name__}")
    version = values.get("version")
    _require(type(version) is int and version <= VERSION, "version", version, f"this code reads up to {VERSION}; update it")
    while (version := values["version"]) != VERSION:
        _require(version in UPGRADES, "version", version, "is unknown")
        values = UPGRADES[version](values)
    names = {field.name for field in fields(Row)}
    _require(set(values) == names, "names", sorted(set(values) ^ names), "are missing or unknown")
    return Row(**values)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def append(folder: Path, row: AnyRow, *, once: bool = False) -> Path:
    """Append `row` to `folder`/KIND.jsonl, creating both; returns the file. Safe from many processes at once.

    With `once`, a row that is there already, to the second of its `created`, is not written again.

    Where the disk is full or read-only the file keeps its old length, and `RowError` names it.
    """
    data = (row.line() + "\n").encode()
    path = Path(folder) / f"{row.kind}.jsonl"
    _require(len(data) <= MAX_LINE, "values", f"{len(data)} bytes", f"a row must be at most {MAX_LINE} bytes")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path), path.open("a+b", buffering=0) as file:
            end = _mend(path, file)
            before = path.read_bytes()
            if once and data in before:
                return path
            if said := validity.clock_problem(before.rstrip().rpartition(b"\n")[2]):
                warnings.warn(f"{path}: {said}", stacklevel=2)
            try:
                if (written := file.write(data)) != len(data):
                    raise OSError(f"only {written} of {len(data)} bytes were written")
                os.fsync(file.fileno())
            except BaseException:
                file.truncate(end)
                raise
    except OSError as error:
        raise RowError(f"{path}: row can't be written: {error}") from error
    return path


def read(folder: Path) -> list[AnyRow]:
    """Every row of `folder`/*.jsonl, or of the one file that it is, by file and line; none where it is missing.

    A torn last line (its writer was killed) moves to FILE.torn, or stays where the folder is read-only, with a warning. Any
    other bad line raises `RowError` with its number. A row whose fields are not those of its kind (`validity.problems`) is left
    out, with a warning: someone else's row must not break the page of all.
    """
    out = []
    for path in [Path(folder)] if Path(folder).is_file() else sorted(Path(folder).glob("*.jsonl")):
        _require(path.is_file(), "file", path, "must be a regular file")  # a pipe would be waited for
        try:
            end = _whole_lines(path)
            with path.open("rb") as file:
                for number in itertools.count(1):
                    if file.tell() >= end:
                        break
                    row = _parse_at(path, number, file.readline(MAX_LINE + 1))
                    wrong = validity.problems(row.kind, row.config, cast(dict[str, Any], row.values))
                    if wrong := wrong + validity.environment_problems(row.environment):
                        warnings.warn(f"{path}:{number}: row left out: {'; '.join(wrong[:3])}", stacklevel=2)
                    else:
                        out.append(row)
        except OSError as error:
            raise RowError(f"{path}: can't be read: {error}") from error
    return out


def of(found: Iterable[AnyRow], record: type[Values], **config: Any) -> list[Row[Values]]:
    """The rows whose values are such a record of `bench.records.values`, and whose config has these values, in their order.

    Every reader of `values` gets its rows here, so that a type checker knows their fields.
    """
    kind, study = values.kind_of(record)
    asked = config | ({"study": study} if study else {})
    return [cast("Row[Values]", row) for row in found
            if row.kind == kind and all(row.config.get(name) == value for name, value in asked.items())]


def studies(found: Iterable[AnyRow], record: type[Values]) -> list[Row[Values]]:
    """The rows of one study, oldest first."""
    return sorted(of(found, record), key=lambda row: row.created)


def _parse_at(path: Path, number: int, line: bytes) -> AnyRow:
    try:
        _require(len(line) <= MAX_LINE, "line", f"{len(line)} bytes", f"must be at most {MAX_LINE} bytes")
        return parse(line)
    except RowError as error:
        raise RowError(f"{path}:{number}: {error}") from None


def _lock(path: Path) -> FileLock:
    return FileLock(path.parent / ".lock", timeout=LOCK_SECONDS)  # its Timeout is an OSError


def _whole_lines(path: Path) -> int:
    """Length of `path` up to its last line end, after a torn line was set aside."""
    with path.open("rb") as file:
        start, tail = _tail(file)
    if not tail:
        return start
    try:
        with _lock(path), path.open("a+b", buffering=0) as writable:  # the tail may be a line that is being written
            return _mend(path, writable)
    except OSError as error:
        warnings.warn(f"{path}: torn last line of {len(tail)} bytes ignored; it can't be set aside: {error}", stacklevel=3)
        return start


def _tail(file: BinaryIO) -> tuple[int, bytes]:
    """Offset behind the last line end, and the bytes that follow it."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - MAX_LINE - 1))
    data = file.read(MAX_LINE + 1)
    cut = data.rfind(b"\n") + 1
    if cut == 0 and len(data) > MAX_LINE:
        raise OSError(f"no line end in its last {len(data)} bytes")
    return size - len(data) + cut, data[cut:]


def _mend(path: Path, file: BinaryIO) -> int:
    """Under the lock: give a whole last row its missing line end, or move a torn one to FILE.torn; returns the length."""
    start, tail = _tail(file)
    if tail:
        try:
            parse(tail)
        except RowError:
            torn = path.with_name(path.name + ".torn")
            with torn.open("ab") as aside:
                aside.write(tail + b"\n")
                aside.flush()
                os.fsync(aside.fileno())
            file.truncate(start)
            warnings.warn(f"{path}: torn last line of {len(tail)} bytes moved to {torn.name}", stacklevel=4)
        else:
            file.write(b"\n")
    return file.seek(0, os.SEEK_END)
