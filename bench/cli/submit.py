"""`ddim-bench submit`: the rows of this machine as one file that names neither the host nor its user."""

from __future__ import annotations

import argparse
import contextlib
import getpass
import json
import re
import socket
import warnings
from pathlib import Path

from bench import files
from bench.paths import printable
from bench.records import rows
from bench.records.rows import AnyRow
from bench.report.measures import hardware
from reference.config import ConfigError, require

NAME = re.compile(r"[a-z0-9][a-z0-9-]{1,40}")
PATHS = re.compile(r"(?:/home/|/Users/|/root/|[A-Za-z]:\\\\Users\\\\)[^\"\s,]*")


def run(args: argparse.Namespace, command: str) -> None:
    """Validate the rows of OUT/rows and write them to the file. Raises ConfigError; nothing is written then."""
    require(NAME.fullmatch(args.name) is not None, "--name", args.name, "must be small letters, digits and -, such as epyc-2-cores")
    path: Path = args.file or Path(f"{args.name}.jsonl")
    require(path.suffix == ".jsonl", "--file", str(path), "must end in .jsonl")
    require(not path.exists(), "--file", str(path), "is there already; name another file")
    require((args.out / "rows").is_dir(), "--out", str(args.out), "holds no rows; ddim-bench run writes them")
    found = valid(args.out / "rows")
    machines = sorted({hardware(row) for row in found if "device" in row.config})
    require(len(machines) == 1, "--out", str(args.out), f"holds rows of {len(machines)} machines, must be of one: "
            + "; ".join(machines) + "; run with an --out of its own")
    lines = [row.line() for row in found]
    for row, line in zip(found, lines, strict=True):
        if said := private(line):
            raise ConfigError(f"--out={str(args.out)!r}: a row of kind {row.kind}, created {row.created}, holds "
                              f"{printable(said)!r}, which names a host or a user: run it again with paths that do not")
    with files.replacing(path) as file:
        file.write(("\n".join(lines) + "\n").encode())
    print(f"wrote {printable(path)}: {len(found)} rows of {machines[0]}\nattach it to a pull request that adds it as "
          f"results/machines/{args.name}.jsonl; ddim-bench report then lists it in results/machines.md")


def valid(folder: Path) -> list[AnyRow]:
    """Every row of a folder. Raises ConfigError where one would be left out or there is none."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = rows.read(folder)
    for warning in said:
        raise ConfigError(f"--out: {warning.message}; mend or remove that line")
    require(bool(found), "--out", str(folder.parent), "holds no rows; ddim-bench run writes them")
    return found


def private(line: str) -> str | None:
    """What of a row's text names the host, the user or a path of theirs; None where nothing does."""
    if path := PATHS.search(line):
        return path[0]
    words = set(re.findall(r"[\w.-]+", json.loads(json.dumps(line))))
    named = {socket.gethostname(), socket.getfqdn()} - {"localhost", ""}
    with contextlib.suppress(KeyError, OSError):  # a container's user without a name
        named.add(getpass.getuser())
    return next((word for word in sorted(named - {"root"}) if len(word) > 3 and word in words), None)
