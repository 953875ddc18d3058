"""Sixty mistakes that were written without the tests ([blind.toml](blind.toml)), planted as those of the generator are.

`python -m tests.mutants.blind` plants them and keeps every outcome in results/blind.jsonl, where the same command goes on;
`python -m tests.mutants.generator --page` counts them on results/mutation.md.
"""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path

from bench.paths import ROOT

from .generator import BLIND, ROOMS, Mutant, ask, outcomes

PLACES = {"reference": "reference/", "torch": "backends/torch/", "mindspore": "backends/mindspore/",
          **{room: f"bench/{room}/" for room in ("metric", "timing", "report", "job")}}  # of rooms


def mistakes(room: str) -> list[Mutant]:
    """Those of a room's files. Raises `LookupError` where the text of one has moved."""
    out = []
    for said in tomllib.loads((Path(__file__).parent / "blind.toml").read_text())["mistake"]:
        if said["file"].startswith(PLACES[room]):
            text, old = (ROOT / said["file"]).read_bytes(), said["old"].encode()
            if text.count(old) != 1:
                raise LookupError(f"{said['name']}: {said['file']} holds {said['old']!r} {text.count(old)} times, not once")
            start = text.index(old)
            out.append(Mutant(said["file"], said["name"], start, start + len(old), said["old"], said["new"]))
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.mutants.blind", description=__doc__)
    parser.add_argument("--room", choices=PLACES, action="append", help="may be repeated; default: all")
    parser.add_argument("--again", action="store_true", help="ask those that survived again")
    asked = parser.parse_args()
    for name in asked.room or ROOMS:
        known = {mutant for mutant, killed_by in outcomes(BLIND)[name].items() if killed_by or not asked.again}
        ask(name, [m for m in mistakes(name) if m.name not in known], 0, BLIND)
