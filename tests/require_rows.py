"""`python -m tests.require_rows FOLDER`: every row of a two-backend main job is in FOLDER and no comparison failed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench.records import rows
from bench.report import results

WANTED = {
    "check": {"torch oracle", "mindspore oracle", "torch mindspore"}, "train": {"torch", "mindspore"},
    "timing": {"torch", "mindspore"}, "sample": {"torch", "mindspore"}, "metric": {"torch", "mindspore", "real", "noise"},
}


def main(folder: Path) -> int:
    """Exit code 1 and a line for each thing that is missing or disagrees."""
    found = rows.read(folder / "rows")
    problems = [f"no {kind} row of {who}" for kind, wanted in WANTED.items()
                for who in sorted(wanted - {r.backend for r in found if r.kind == kind})]
    problems += results.disagreements(found)
    problems += [f"{name} is missing" for name in ("README.md", "figures/samples.png", "figures/metric.png")
                 if not (folder / name).exists()]
    print("\n".join(problems) or f"{len(found)} rows, all there")
    return 1 if problems else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.require_rows", description=__doc__)
    parser.add_argument("folder", type=Path)
    sys.exit(main(parser.parse_args().folder))
