"""`ddim-bench run --list`: what can be named on the command line."""

from __future__ import annotations

import argparse

import backends
from bench.data.catalogue import RECORDS
from bench.data.datasets import IMAGES
from bench.paths import command_line
from bench.presets import PRESETS
from reference.conventions import CONVENTIONS
from reference.errors import require


def run(args: argparse.Namespace, command: str) -> None:
    """Print the names, one line a kind."""
    require(command == command_line("run", "--list"), "--list", command, "goes without other options")
    found = [name if backends.installed(name) else f"{name} (not installed: {backends.about(name).install})"
             for name in backends.names()]
    for kind, names in (("presets", PRESETS), ("conventions", CONVENTIONS), ("data sets", (*RECORDS, IMAGES)), ("backends", found)):
        print(f"{kind}: {', '.join(names)}")
