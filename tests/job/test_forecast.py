"""What `--dry-run` predicts, against the job itself."""

import shutil
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from bench import messages
from bench.job import forecast
from bench.paths import CHECKPOINTS
from bench.records import rows
from bench.records.cells import Cells
from bench.records.notebook import Notebook
from bench.sampling.cell import Cell
from bench.workers.errors import WorkerError
from tests.helpers import tree
from tests.helpers.tiny import HELPERS, install_backend
from tests.job.test_keys import job as job_of

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


class Clockwork:
    """A crew whose commands take: a training step 2 s, its first 10 s; a block 0.3 s a unit, its first 9 s; drawing 1 s and 0.25 s
    a step."""

    def __init__(self, logs):
        self.logs, self.asked, self.blocks = logs, [], {}

    def start(self, backend):
        pass

    def load(self, backend, weights):
        self.asked.append(weights)

    def call(self, backend, asked, stage=""):
        self.asked.append(asked)
        seen = self.blocks[type(asked)] = self.blocks.get(type(asked), 0) + 1
        if isinstance(asked, messages.Train):
            return SimpleNamespace(first_seconds=10.0, seconds=2.0 * (asked.steps - 1))
        if isinstance(asked, messages.Sample):
            return SimpleNamespace(seconds=1 + 0.25 * asked.plan["steps"])
        return SimpleNamespace(peak_rss_bytes=7, seconds=9.0 if seen == 2 else 0.3 * getattr(asked, "units", 0))


def counted(do):
    """In place of a clock: whatever is done takes half a second."""
    do()
    return 0.5


def test_each_cell_costs_what_the_calibration_says(tmp_path, monkeypatch):
    """11 images in batches of 4; a network trained for 30 steps, and 12 to compare. What is finished costs nothing, of the blocks
    the one that took long counts no more than the others, and 7 steps of Heun are 13 network calls."""
    monkeypatch.setattr(forecast, "_seconds", counted)
    monkeypatch.setattr(forecast.checks, "oracle", lambda *_: None)
    cells = {"torch": (Cell(5, 0.0, None, 0), Cell(20, 0.0, None, 0), Cell(10, 0.0, None, 1), Cell(7, 0.0, None, 0, "heun"))}
    asked = job_of(samples=11, sample_batch=4, batch_size=4, train_steps=12, blocks=10, fit=30, cells=cells)
    done = SimpleNamespace(done=lambda name, key: name == "train" or key.get("steps") == 10)
    crew = Clockwork(tmp_path)
    found = forecast._backend(asked, crew, None, done, "torch")
    assert [(p.stage, p.cell, p.seconds) for p in found] == [
        ("start", "", 0.5), ("train", "30 steps", 1 + 10 + 29 * 2.0), ("train", "12 steps", 0.0),
        ("time", "the training step", pytest.approx(5.4)), ("oracle", "", 0.5), ("time", "the sampling step", pytest.approx(5.4)),
        *(("sample", f"{cell} n=11", 0.0 if cell.steps == 10 else 1.5 + 3 * ((13 if cell.sampler else cell.steps) * 0.25 + 1.0))
          for cell in cells["torch"])]
    assert {p.memory for p in found} == {7}
    trained, = [one for one in crew.asked if isinstance(one, messages.Train)]
    drawn = [one for one in crew.asked if isinstance(one, messages.Sample)]
    assert trained.steps == 8 and {(one.ids, one.batch_size, one.total) for one in drawn} == {((0, 4), 4, 4)}
    first, second = (one for one in crew.asked if isinstance(one, dict))
    assert first is asked.initial and second is asked.trained


def test_the_first_backend_alone_trains_the_network_that_is_sampled_from(tmp_path, monkeypatch):
    monkeypatch.setattr(forecast, "_seconds", counted)
    monkeypatch.setattr(forecast.checks, "oracle", lambda *_: None)
    asked = job_of(fit=30, train_steps=12, cells={"torch": (), "mindspore": ()})
    free = SimpleNamespace(done=lambda name, key: False)
    trained = {backend: [p.cell for p in forecast._backend(asked, Clockwork(tmp_path), None, free, backend) if p.stage == "train"]
               for backend in asked.backends}
    assert trained == {"torch": ["30 steps", "12 steps"], "mindspore": ["12 steps"]}


def test_the_metric_costs_its_features_and_distances(monkeypatch):
    """Half a second each: loading 1 s, features of the 10 held-out images 0.05 s each; the first cell takes the reference's too."""
    monkeypatch.setattr(forecast, "_seconds", counted)
    monkeypatch.setattr(forecast.fid, "statistics_ship", lambda *_: False)
    seen = []
    monkeypatch.setattr(forecast.fid, "features", lambda images, *_: seen.append(len(images)))
    monkeypatch.setattr(forecast.fid, "statistics", lambda features: None)
    monkeypatch.setattr(forecast.fid, "compare", lambda *_: None)
    by = SimpleNamespace(name="own", sha256="x", width=3, batch=10, convert=lambda images: (images, None))
    asked = job_of(samples=20, extractor=by)
    done = SimpleNamespace(done=lambda name, key: key["backend"] == "noise")
    found = forecast._metric(asked, done)
    assert [(p.backend, p.stage, p.cell) for p in found] == [
        ("real", "metric", ""), ("noise", "metric", ""), ("torch", "metric", str(asked.all_cells[0]))]
    assert [p.seconds for p in found] == [pytest.approx(1 + 0.05 * 1 + 1.5), 0.0, pytest.approx(1.5)] and set(seen) == {10}
    assert forecast._metric(replace(asked, measured=False), done) == []


def test_a_backend_that_cannot_be_calibrated_is_unknown_and_the_sum_goes_without(monkeypatch, tmp_path):
    def fails(job, crew, trial, cells, backend):
        raise WorkerError("no")

    monkeypatch.setattr(forecast, "_backend", fails)
    monkeypatch.setattr(forecast, "_metric", lambda *_: [])
    assert forecast.predict(job_of(), SimpleNamespace(), tmp_path) == [forecast.Prediction("torch", "all", "", None, None)]


def test_a_tables_budget_is_kept_and_said_with_the_calls_of_every_seed(tmp_path, monkeypatch, capsys):
    """What could not be calibrated counts as nothing; several processes calibrate nothing. Heun calls the network twice a step, but
    once in the last one."""
    found = [forecast.Prediction("torch", "sample", "", 2.4, None), forecast.Prediction("jax", "all", "", None, None)]
    monkeypatch.setattr(forecast, "predict", lambda *_: found)
    cells = {"torch": (Cell(5, 0.0, None, 0), Cell(20, 0.0, None, 0), Cell(5, 0.0, None, 1), Cell(4, 0.0, None, 1, "heun"))}
    for processes, seconds in ((1, 2), (2, 0)):
        book = Notebook(Cells(tmp_path, fresh=False), "tiny")
        forecast.keep_budget(job_of(samples=11, cells=cells, processes=processes), book, table="ddim")
        assert capsys.readouterr().out.splitlines() == [
            "torch: network calls for one image of every cell: 25 (seed 0), 12 (seed 1); for 11 images of each: 407",
            f"predicted for the whole job: {seconds} s"]
        assert (book.rows[0].config["table"], len(book.rows[0].values["cells"])) == ("ddim", 2 if processes == 1 else 0)
