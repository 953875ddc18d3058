"""`ddim-bench compare`: two or more runs beside each other."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pandas as pd

from bench.paths import printable
from bench.records import rows
from bench.records.rows import AnyRow
from bench.report.machines import versus
from bench.terminal import fit
from reference.config import require


def run(args: argparse.Namespace, command: str) -> None:
    """Print the tables as text, JSON or CSV."""
    require(len(args.runs) >= 2, "A B", [str(path) for path in args.runs], "must be two or more folders or files of rows")
    found: versus.Runs = {}
    for path in args.runs:
        name = printable(path.parent.name if path.name in ("rows", "") else path.stem) or str(path)
        found[name if name not in found else printable(str(path))] = read(path)
    require(len(found) == len(args.runs) == len({path.resolve() for path in args.runs}), "A B", [str(path) for path in args.runs],
            "every run must appear once")
    tables = versus.tables(found)
    print(shown(tables, args.format))
    if args.format == "text" and not {"agreement", "distances", "times"} & set(tables):
        print("no cell, no timing and no comparison is in both")


def read(path: Path) -> list[AnyRow]:
    """The rows of a results folder, of a folder of rows or of one file. Raises ConfigError where there are none."""
    place = path / "rows" if (path / "rows").is_dir() else path
    require(place.exists(), "run", str(path), "no such folder or file")
    found = rows.read(place)
    require(bool(found), "run", str(path), "holds no rows; name a results folder, its rows, or a .jsonl file of them")
    return found


def shown(tables: dict[str, pd.DataFrame], form: str) -> str:
    """The tables as text for a terminal, as one JSON object of lists of records, or as CSV, each behind a line with its name."""
    if form == "json":
        return json.dumps({name: json.loads(table.to_json(orient="records")) for name, table in tables.items()}, indent=2)
    texts = {name: table.to_csv(index=False) if form == "csv" else fit(table.fillna("")) for name, table in tables.items()}
    return "\n\n".join(f"{name}\n{text.rstrip()}" for name, text in texts.items())
