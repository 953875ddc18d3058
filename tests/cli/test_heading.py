"""The main job's first lines: before any framework, with how long it takes where that is known."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

from bench.cli import heading
from bench.cli import run as command
from bench.cli.commands import parser
from bench.paths import ROOT
from bench.records import rows
from bench.records.cells import Cells
from bench.records.notebook import stamped

# In place of a worker, whose process would import a framework: what this process has loaded.
WATCHED = """
import sys
from bench.workers import crew
class Worker:
    def __init__(self, *_, **__):
        print("WORKER", [name for name in ("torch", "mindspore", "jax") if name in sys.modules], flush=True)
        raise SystemExit(7)
crew.Worker = Worker
from bench.cli.main import main
main(["run", "--preset", "smoke", "--steps", "10,50", "--samples", "128", "--out", sys.argv[1]])
"""


def test_the_header_is_printed_before_any_framework_is_loaded(tmp_path):
    done = subprocess.run([sys.executable, "-c", WATCHED, tmp_path], capture_output=True, text=True, timeout=300,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 7, done.stderr
    *header, last = done.stdout.splitlines()
    assert last == "WORKER []" and [line.split(":")[0] for line in header] == ["job", "with", "to", "cells", "time"]
    assert "preset smoke, 2 x 128 images, S = 10, 50" in header[0] and str(tmp_path) in header[2] and "\x1b" not in done.stdout


def job(out, *words):
    args = parser().parse(["run", "--preset", "smoke", "--backends", "torch", "--steps", "10,50", "--samples", "128", "--out",
                           str(out), *words])
    return command.resolve(args)[0]


def test_the_time_is_that_of_earlier_cells_of_this_machine(tmp_path):
    """Without one the network's passes are said, of a training step three; 2 s a pass give the time."""
    found, cells = job(tmp_path), Cells(tmp_path, fresh=False)
    said = heading.lines(found, heading.agenda(found, cells, table=False), tmp_path, None)
    calls = 3 * 12 * 32 + 128 * 60
    assert said[-1].endswith(f"{calls:,} network passes of an image are ahead") and said[3] == "cells: 12"

    drawn = {"images": 64, "calls": 1, "first_seconds": 0.0, "batch_seconds": [1.0]}
    mine = stamped("sample", "torch", "smoke", found.sample_key("torch", found.all_cells[0]), drawn)
    mine = replace(mine, environment=mine.environment | {"cell_seconds": 2.0 * 640})
    rows.append(tmp_path / "rows", replace(mine, environment=mine.environment | {"cpu": "another one", "cell_seconds": 1.0}))
    assert "said after" in heading.lines(found, heading.agenda(found, cells, table=False), tmp_path, None)[-1]
    rows.append(tmp_path / "rows", mine)
    ahead = heading.agenda(found, cells, table=False)
    assert ahead.seconds_left() == 2.0 * calls
    assert heading.lines(found, ahead, tmp_path, None)[-1] == (
        f"time:  about {2 * calls / 3600:.1f} h, as such cells took on this machine before")


def test_the_agenda_is_what_the_job_does(tmp_path):
    """Every cell is on it once; a finished training and a finished cell are known."""
    found = job(tmp_path, "--eta", "0,1")
    names = [ahead.name for ahead in found.agenda(Cells(tmp_path, fresh=False), table=False)]
    assert names == ["train", "oracle", "timing", "timing", "timed", *["sample"] * 4, *["path"] * 2, *["metric"] * 6]
