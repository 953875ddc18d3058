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
from bench.records import environment, rows
from bench.records.agenda import Ahead
from bench.records.cells import Cells
from bench.records.notebook import stamped
from bench.records.rows import Row
from bench.sampling.cell import Cell

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


def test_of_many_step_counts_the_ends_are_said_and_finished_cells_cost_no_passes(tmp_path):
    cells = Cells(tmp_path, fresh=False)
    found = job(tmp_path)
    six, seven = (replace(found, cells={"torch": tuple(Cell(10 * (k + 1), 0.0, None, 0) for k in range(n))}) for n in (6, 7))
    said = [heading.lines(one, heading.agenda(one, cells, table=False), tmp_path, None)[0] for one in (six, seven)]
    assert said[0].endswith("S = 10, 20, 30, 40, 50, 60") and said[1].endswith("S = 10 .. 70")
    ahead = heading.Agenda([Ahead("sample", "torch", "x", 1000, done=True), Ahead("sample", "torch", "y", 234)])
    lines = heading.lines(six, ahead, tmp_path, "ddim")
    assert lines[3] == "cells: 2, of which 1 were finished before" and "; 234 network passes" in lines[4]
    assert lines[0].startswith("job:   table ddim, preset smoke") and "the table's page" in lines[2]


def test_a_race_takes_as_much_longer_as_more_backends_run_in_it(tmp_path):
    """31 s of one contender; of the checks, a path's is known by both names. Rows of a machine with other cores say nothing."""
    found = job(tmp_path)
    here = environment.describe() | {"cell_seconds": 5.0}
    timed = {"first_seconds": 1.0, "warmup_seconds": [10.0], "block_seconds": [20.0], "units_per_block": 1, "steady": True,
             "parameters": 1, "flops_per_image": 1, "peak_rss_bytes": 1, "device": {}, "load_before": [0.0], "late": 0.0}
    checked = {"x": {"error": 0.0, "tolerance": 1.0, "ok": True}}
    race = found.key("torch", stage="timing", workload="training step", batch_size=1)
    for row in (Row("timing", "torch", "smoke", race, timed, here, "c"),
                Row("check", "torch oracle", "smoke", found.key("torch oracle", stage="path"), checked, here, "c"),
                Row("check", "torch oracle", "smoke", found.key("torch oracle", stage="oracle"), checked, here, "c"),
                Row("check", "torch oracle", "smoke", found.key("torch oracle", stage="timed"), checked,
                    here | {"usable_cores": 99}, "c")):
        rows.append(tmp_path / "rows", row)
    both = replace(found, cells={"torch": found.cells["torch"], "jax": found.cells["torch"]})
    ahead = heading.agenda(both, Cells(tmp_path, fresh=False), table=False)
    assert sorted(ahead._took) == [("oracle", "torch", 0, 5.0), ("path", "torch oracle", 0, 5.0), ("timing", "", 0, 62.0)]
