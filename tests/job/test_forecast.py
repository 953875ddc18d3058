"""What `--dry-run` predicts, against the job itself."""

import shutil
import subprocess

import numpy as np
import pytest

from bench.job import forecast
from bench.paths import CHECKPOINTS
from bench.records import rows
from tests.helpers import tree
from tests.helpers.tiny import HELPERS, install_backend

TOLERANCE, TRIES = 0.25, 5
STEADY_TOLERANCE = 0.15
REAL = ["--preset", "smoke", "--backends", "torch", "--threads", "1", "--steps", "5,25", "--eta", "0,0.5", "--samples", "256",
        "--sample-batch", "32", "--batch-size", "8", "--train-steps", "150"]
STEADY = ["--backends", "steady", "--steps", "8,20", "--eta", "0,0.5", "--samples", "128"]


def test_the_table_has_every_cell_and_the_sum():
    found = [("torch", "train", "60 steps", 12.34, 2**28), ("real", "metric", "", 0.0, None), ("mindspore", "all", "", None, None)]
    text = forecast.table([forecast.Prediction(*each) for each in found])
    lines = [line.split() for line in text.splitlines()]
    assert ["torch", "train", "60", "steps", "12.3", "256"] in lines and ["real", "metric", "0.0"] in lines
    assert ["mindspore", "all", "unknown"] in lines and lines[-1] == ["predicted:", "12", "s", "together"]


def job(code, script, *options):
    found = subprocess.run(tree.command(code, script, *options), env=tree.environment(code), capture_output=True, text=True,
                           timeout=500)
    assert found.returncode == 0, found.stderr[-3000:]
    return found.stdout


def predicted(text):
    """(backend, cell) to (seconds, MB)."""
    out = {}
    for line in text.splitlines()[text.splitlines().index(next(x for x in text.splitlines() if "seconds memory MB" in x)) + 1:-1]:
        *words, seconds, memory = line.split()
        out[words[0], " ".join(words[1:])] = float(seconds), float(memory)
    return out


def measured(out):
    """(backend, cell) to seconds, and to the worker's peak in MB."""
    seconds, memory = {}, {}
    for row in rows.read(out / "rows"):
        c, v, wall = row.config, row.values, row.environment["cell_seconds"]
        if row.kind == "train":
            seconds[row.backend, f"train {c['train_steps']} steps"] = wall
        elif row.kind == "check" and c["stage"] == "oracle":
            seconds[row.backend.split()[0], "oracle"] = wall
        elif row.kind == "timing":
            blocks = sum(v["warmup_seconds"]) + sum(v["block_seconds"])
            seconds[row.backend, f"time the {c['workload']}"] = v["first_seconds"] + blocks
            memory[row.backend, f"time the {c['workload']}"] = v["peak_rss_bytes"] / 2**20
        elif row.kind == "sample":
            seconds[row.backend, f"sample S={c['steps']} eta={c['eta']} seed={c['seed']} n={c['samples']}"] = wall
        elif row.kind == "metric":
            seconds[row.backend, f"metric S={c['steps']} eta={c['eta']} seed={c['seed']}" if "steps" in c else "metric"] = wall
    return seconds, memory


@pytest.mark.slow
@pytest.mark.recorded
def test_every_cell_is_foretold_where_steps_take_the_same_time(tmp_path):
    """With steps that sleep: what the machine does beside them does not count, and what is left is the model of the cost."""
    code = tree.copy_to(tmp_path)
    install_backend(code, "steady", (HELPERS / "steady_backend.py").read_text())
    before = predicted(job(code, "tests/helpers/tiny_run.py", *STEADY, "--dry-run", "--out", tmp_path / "out"))
    job(code, "tests/helpers/tiny_run.py", *STEADY, "--out", tmp_path / "out")
    seconds, _ = measured(tmp_path / "out")
    off = {cell: before[cell][0] / seconds[cell] - 1 for cell in seconds
           if cell[1].split()[0] in ("train", "time", "sample")}
    print({cell: f"{before[cell][0]} of {seconds[cell]:.2f} s" for cell in off})
    assert len(off) == 7 and all(abs(x) <= STEADY_TOLERANCE for x in off.values()), off


@pytest.mark.slow
@pytest.mark.recorded
def test_a_real_job_is_foretold_within_a_quarter(tmp_path):
    """The whole, its training and each of its drawings, in the median of up to five tries, since the machine's speed may change
    between calibration and job; and the memory of every cell."""
    code = tree.copy_to(tmp_path)
    shutil.copytree(CHECKPOINTS, code / "results" / "checkpoints")
    tries = []
    while not tries or max(abs(np.median(each)) for each in zip(*tries, strict=True)) > TOLERANCE:
        assert len(tries) < TRIES, tries
        out = tmp_path / f"out{len(tries)}"
        before = predicted(job(code, "bench/run.py", *REAL, "--dry-run", "--out", out))
        assert not out.exists()
        job(code, "bench/run.py", *REAL, "--out", out)
        seconds, memory = measured(out)
        assert set(before) == set(seconds) | {("torch", "start")}
        print({cell: f"{before[cell][0]} of {seconds[cell]:.2f} s" for cell in seconds})
        largest = {cell: before[cell][1] / megabytes - 1 for cell, megabytes in memory.items()}
        assert all(abs(x) <= TOLERANCE for x in largest.values()), largest
        of_steps = sorted(cell for cell in seconds if cell[1].split()[0] in ("train", "sample"))
        assert len(of_steps) == 5, of_steps
        tries.append([sum(before[cell][0] for cell in seconds) / sum(seconds.values()) - 1,
                      *(before[cell][0] / seconds[cell] - 1 for cell in of_steps)])
    again = predicted(job(code, "bench/run.py", *REAL, "--dry-run", "--out", out))
    assert {cell for cell, (predicted_seconds, _) in again.items() if predicted_seconds == 0.0} >= {
        cell for cell in seconds if "time" not in cell[1] and "oracle" not in cell[1]}
