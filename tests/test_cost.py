"""What `--dry-run` predicts, against the job itself."""

import json
import subprocess

import pytest

from bench import cost, rows
from tests import tree

TOLERANCE, TRIES = 0.25, 4
JOB = ["--backends", "torch", "--steps", "2,10,20", "--eta", "0,0.5", "--samples", "640", "--train-steps", "60"]


def test_the_table_has_every_cell_and_the_sum():
    text = cost.table([cost.Prediction("torch", "train 60 steps", 12.34, 2**28), cost.Prediction("real", "metric", 0.0, None),
                       cost.Prediction("mindspore", "all", None, None)])
    lines = [line.split() for line in text.splitlines()]
    assert ["torch", "train", "60", "steps", "12.3", "256"] in lines and ["real", "metric", "0.0"] in lines
    assert ["mindspore", "all", "unknown"] in lines and lines[-1] == ["predicted:", "12", "s", "together"]


def job(code, *options):
    found = subprocess.run(tree.command(code, "tests/tiny_run.py", *JOB, *options), env=tree.environment(code), capture_output=True,
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
            seconds[row.backend, f"sample S={c['steps']} eta={c['eta']} n={c['samples']}"] = wall
        elif row.kind == "metric":
            seconds[row.backend, f"metric S={c['steps']} eta={c['eta']}" if "steps" in c else "metric"] = wall
    return seconds, memory


@pytest.mark.slow
def test_predictions_are_within_a_quarter_of_the_job(tmp_path):
    """Of the whole, and of every training and sampling. Another load on the machine may spoil a try, so there are some."""
    (tmp_path / "code").mkdir()
    code = tree.copy_to(tmp_path / "code")
    for n in range(TRIES):
        out = tmp_path / f"out{n}"
        foretold = predicted(job(code, "--dry-run", "--out", out))
        assert not out.exists()
        job(code, "--out", out)
        seconds, memory = measured(out)
        assert set(foretold) == set(seconds) | {("torch", "start")}
        off = {cell: foretold[cell][0] / seconds[cell] - 1 for cell in seconds
               if cell[1].startswith(("sample", "train"))}  # tiny_run.py shortens the timings; other cells end within a second
        whole = sum(foretold[cell][0] for cell in seconds) / sum(seconds.values()) - 1
        largest = {cell: foretold[cell][1] / megabytes - 1 for cell, megabytes in memory.items()}
        print(json.dumps({"whole": whole, "seconds": {" ".join(k): v for k, v in off.items()},
                          "memory": {" ".join(k): v for k, v in largest.items()}}, indent=1))
        if all(abs(x) <= TOLERANCE for x in (whole, *off.values(), *largest.values())):
            break
    else:
        pytest.fail(f"off by more than {TOLERANCE:.0%} in {TRIES} tries")
    again = predicted(job(code, "--dry-run", "--out", out))
    assert {cell for cell, (seconds, _) in again.items() if seconds == 0.0} >= {cell for cell in seconds if "time" not in cell[1]
                                                                               and "oracle" not in cell[1]}
