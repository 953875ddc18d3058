"""`python -m tests.require_rows FOLDER`: each row of a main job of all installed backends is in FOLDER and no comparison failed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import backends
from bench.records import rows
from bench.report import results


def wanted(names: Sequence[str]) -> dict[str, set[str]]:
    """Whose rows of each kind a main job of these backends has; of two or more, each is compared with the first."""
    checks = {f"{name} oracle" for name in names} | {f"{names[0]} {other}" for other in names[1:]}
    return {"check": checks, "metric": {*names, "real", "noise"}, **{kind: {*names} for kind in ("train", "timing", "sample")}}


def main(folder: Path) -> int:
    """Exit code 1 and a line for each thing that is missing or disagrees."""
    found = rows.read(folder / "rows")
    here = [name for name in backends.names() if backends.installed(name)]
    problems = [f"no {kind} row of {who}" for kind, whose in wanted(here).items()
                for who in sorted(whose - {r.backend for r in found if r.kind == kind})]
    problems += results.disagreements(found)
    problems += [f"{name} is missing" for name in ("README.md", "figures/samples.png", "figures/metric.png")
                 if not (folder / name).exists()]
    print("\n".join(problems) or f"{len(found)} rows, all there")
    return 1 if problems else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.require_rows", description=__doc__)
    parser.add_argument("folder", type=Path)
    sys.exit(main(parser.parse_args().folder))
