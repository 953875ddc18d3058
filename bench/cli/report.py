"""`ddim-bench report`: the page of the table, written again from rows."""

from __future__ import annotations

import argparse

from bench.records import rows
from bench.report.html.page import render


def run(args: argparse.Namespace, command: str) -> None:
    """Write OUT/report.html."""
    print(f"page: {render(rows.read(args.out / 'rows'), args.out)}")
