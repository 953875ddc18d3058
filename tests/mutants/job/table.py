"""`python -m tests.mutants.job.table` plants every mistake and writes the tables of README.md (a minute or two)."""

from __future__ import annotations

import argparse

from .patches import PATCHES
from .run import HERE, planted
from .test_job_mutants import call, rings
from .wrong import MISTAKES

BACKENDS = "| a backend's mistake | what the job says |\n|---|---|\n"
JOB = "| a mistake in the job | where | the test that fails |\n|---|---|---|\n"


def main() -> None:
    """Write both tables."""
    lines = []
    for what in MISTAKES:
        said = rings(what).partition(" off by ")[0]
        lines.append(f"| {what} | `{said if len(said) < 90 else said[:87] + '...'}` |")
        print(lines[-1], flush=True)
    page = (HERE / "README.md").read_text().split(BACKENDS.split("\n")[0])[0] + BACKENDS + "\n".join(lines) + "\n\n"
    lines = []
    for patch in PATCHES:
        call(patch.test, patch.case)
        try:
            with planted(patch.where, patch.old, patch.new):
                call(patch.test, patch.case)
            caught = "nothing"
        except AssertionError:
            name = patch.test.partition(":")[2]
            caught = f"`{name}`" + (f" of: {patch.case[0]}" if name == "rings" else "")
        lines.append(f"| {patch.name} | `{patch.where.removeprefix('bench.').replace(':', '.')}` | {caught} |")
        print(lines[-1], flush=True)
    (HERE / "README.md").write_text(page + JOB + "\n".join(lines) + "\n")


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m tests.mutants.job.table", description=__doc__).parse_args()
    main()
