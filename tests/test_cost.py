"""What `--dry-run` predicts, against the job itself."""

import shutil
import subprocess

import numpy as np
import pytest

from bench import cost, rows
from bench.config import CHECKPOINTS
from tests import tree

TOLERANCE, TRIES = 0.25, 5
LEAST_SECONDS = 2.0  # of a cell whose own time is held to the tolerance
# Batches whose steps are short against a timed block, which takes whole steps: of tenths of a second, chance decides between two
# and three of them.
JOB = ["--preset", "smoke", "--backends", "torch", "--threads", "1", "--steps", "5,25", "--eta", "0,0.5", "--samples", "256",
       "--sample-batch", "32", "--batch-size", "8", "--train-steps", "150"]


def test_the_table_has_every_cell_and_the_sum():
    found = [("torch", "train", "60 steps", 12.34, 2**28), ("real", "metric", "", 0.0, None), ("mindspore", "all", "", None, None)]
    text = cost.table([cost.Prediction(*each) for each in found])
    lines = [line.split() for line in text.splitlines()]
    assert ["torch", "train", "60", "steps", "12.3", "256"] in lines and ["real", "metric", "0.0"] in lines
    assert ["mindspore", "all", "unknown"] in lines and lines[-1] == ["predicted:", "12", "s", "together"]


def job(code, *options):
    found = subprocess.run(tree.command(code, "bench/run.py", *JOB, *options), env=tree.environment(code), capture_output=True,
                           text=True, timeout=500)
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
        elif row.kind == "check" and "oracle" in row.backend:
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
def test_predictions_are_within_a_quarter_of_the_job(tmp_path):
    """Of the whole, and of every cell of some seconds, in the median of up to five tries: the machine's speed may change between
    calibration and job."""
    (tmp_path / "code").mkdir()
    code = tree.copy_to(tmp_path / "code")
    shutil.copytree(CHECKPOINTS, code / "results" / "checkpoints")
    tries = []
    for n in range(TRIES):
        out = tmp_path / f"out{n}"
        before = predicted(job(code, "--dry-run", "--out", out))
        assert not out.exists()
        job(code, "--out", out)
        seconds, memory = measured(out)
        assert set(before) == set(seconds) | {("torch", "start")}
        long = [cell for cell in seconds if seconds[cell] >= LEAST_SECONDS]
        assert len(long) >= 4, seconds
        largest = {cell: before[cell][1] / megabytes - 1 for cell, megabytes in memory.items()}
        assert all(abs(x) <= TOLERANCE for x in largest.values()), largest
        tries.append({"whole": sum(before[cell][0] for cell in seconds) / sum(seconds.values()) - 1}
                     | {cell: before[cell][0] / seconds[cell] - 1 for cell in long})
        off = {cell: float(np.median([each[cell] for each in tries if cell in each])) for cell in tries[-1]}
        print({cell: round(value, 2) for cell, value in tries[-1].items()})
        if all(abs(x) <= TOLERANCE for x in off.values()):
            break
    else:
        pytest.fail(f"off by more than {TOLERANCE:.0%} in the median of {TRIES} tries: {off}")
    again = predicted(job(code, "--dry-run", "--out", out))
    assert {cell for cell, (predicted_seconds, _) in again.items() if predicted_seconds == 0.0} >= {
        cell for cell in seconds if "time" not in cell[1] and "oracle" not in cell[1]}
