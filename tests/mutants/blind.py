"""Mistakes of lists that were there before any was tried ([blind.toml](blind.toml), [blind-2.toml](blind-2.toml) to
[blind-8.toml](blind-8.toml)), planted as the generator's are.

`python -m tests.mutants.blind` plants them and keeps every outcome in results/blind.jsonl, where the same command goes on;
`python -m tests.mutants.generator --page` counts them on results/mutation.md. Those of MindSpore and JAX are asked of the
kit's levels, as those of the catalogue are, and of the backend's own tests.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from pathlib import Path

from bench.paths import ROOT

from .generator import BLIND, LISTS, How, Mutant, ask, keep, outcomes
from .kits import KITS, caught_by

PLACES = {"reference": "reference/", "torch": "backends/torch/", **{room: f"backends/{room}/" for room in KITS},
          **{room: f"bench/{room}/" for room in ("metric", "timing", "report", "job")}}  # of rooms; "harness" has all others


def room_of(file: str) -> str:
    """The room whose tests are asked about a file."""
    return next((room for room, place in PLACES.items() if file.startswith(place)), "harness")


def mistakes(room: str) -> list[Mutant]:
    """Those of a room's files whose text is still there; a line on stderr for each other one."""
    out = []
    for said in [one for name in LISTS for one in tomllib.loads((Path(__file__).parent / name).read_text())["mistake"]]:
        if room_of(said["file"]) == room:
            text, old = (ROOT / said["file"]).read_bytes(), said["old"].encode()
            if text.count(old) != 1:
                print(f"left out: {said['name']}: {said['file']} has other words by now", file=sys.stderr)
                continue
            start = text.index(old)
            out.append(Mutant(said["file"], said["name"], start, start + len(old), said["old"], said["new"]))
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.mutants.blind", description=__doc__)
    parser.add_argument("--room", choices=(*PLACES, "harness"), action="append", help="may be repeated; default: all")
    parser.add_argument("--again", action="store_true", help="ask those that survived again")
    parser.add_argument("--leave-out", action="store_true", help="the tests that fail without a mistake, instead of ending there")
    parser.add_argument("--slow", action="store_true", help="ask CI's slow tests in place of the others; with --again, of what survived these")
    asked = parser.parse_args()
    for name in asked.room or (*PLACES, "harness"):
        known = {mutant for mutant, killed_by in outcomes(BLIND)[name].items() if killed_by or not asked.again}
        left = [m for m in mistakes(name) if m.name not in known]
        if name not in KITS:
            ask(name, left, 0, BLIND, How(leave_out=asked.leave_out, slow=asked.slow))
            continue
        for mistake in left:
            keep(BLIND, name, mistake.name, caught_by(name, mistake), 0)
