"""Kill -9 at random moments of training, sampling and reporting, and Ctrl-C; the same command again ends with the same bits."""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

import backends
from bench.records import rows
from tests.helpers import tree

pytestmark = [pytest.mark.slow, pytest.mark.recorded]
REAL = [name for name in backends.names() if backends.installed(name)]
SIGNS = {"training": "work/train-*/scratch/states/*", "sampling": "work/sample-*/scratch/*", "reporting": "figures/*"}
KILLS = [("training", 8), ("sampling", 7), ("reporting", 5)]
PATIENCE = 3600  # seconds of one job, which none takes on any machine


@pytest.fixture(scope="module")
def code(tmp_path_factory):
    return tree.copy_to(tmp_path_factory.mktemp("code"))


def arguments(backend, out):
    return ["tests/helpers/tiny_run.py", "--backends", backend, "--steps", "10,20", "--eta", "1", "--train-steps", "60",
            "--save-every", "0", "--out", out]


def finish(code, args):
    done = subprocess.run(tree.command(code, *args), env=tree.environment(code), cwd=code, capture_output=True, text=True,
                          timeout=PATIENCE)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def results(out):
    """All that must not depend on kills: by cell, what training and metric gave, and the images' bytes."""
    found = {}
    for row in rows.read(out / "rows"):
        if row.kind in ("train", "metric", "check") and row.config.get("stage") != "timed":
            values = {name: value for name, value in row.values.items() if name not in ("seconds", "first_seconds", "starts")}
            name = (row.kind, row.backend, row.config.get("stage"), row.config.get("steps"))
            assert name not in found, f"{name} is there twice"
            found[name] = values
    for path in out.glob("work/sample-*/images.npy"):
        found["images", path.parent.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@pytest.mark.parametrize("backend", REAL)
def test_killed_at_20_random_moments_a_job_ends_with_the_bits_of_an_uninterrupted_one(code, tmp_path, backend):
    choose, killed = random.Random(1), []
    out = tmp_path / "killed"
    for stage, times in KILLS:
        for _ in range(times):
            began = time.time()
            process = tree.start(code, *arguments(backend, out), log=tmp_path / "log")
            delay = choose.uniform(0, {"training": 0.3, "sampling": 0.8, "reporting": 0.4}[stage])
            if tree.kill_when(process, tree.newer(out, SIGNS[stage], began), delay):
                killed.append(stage)
    print(f"{backend}: killed {len(killed)} times: {killed}")
    finish(code, arguments(backend, out))
    finish(code, arguments(backend, tmp_path / "straight"))
    expected, found = results(tmp_path / "straight"), results(out)
    assert found == expected
    assert len(killed) >= 18 and {stage for stage, _ in KILLS} == set(killed)  # some jobs end before their kill
    assert ("train", backend, "train", None) in found and sum(name[0] == "images" for name in found) == 2
    starts = [row.values["starts"] for row in rows.read(out / "rows") if row.kind == "train"]
    assert starts[0] > 2  # it went on, and did not begin again each time
    assert not list(out.rglob("*.part")) and not list(out.glob("work/*/scratch")) and not list(out.rglob("*.torn"))


@pytest.mark.parametrize("backend", REAL)
def test_a_training_killed_at_random_moments_ships_the_same_files(code, tmp_path, backend):
    choose, out = random.Random(2), {name: tmp_path / name for name in ("killed", "straight")}
    args = ["bench/train.py", "--preset", "smoke", "--backend", backend, "--train-steps", 240, "--batch-size", 2,
            "--save-every", 0, "--save"]
    kills = 0
    for _ in range(4):
        process = tree.start(code, *args, out["killed"], log=tmp_path / "log")
        kills += tree.kill_when(process, tree.newer(tmp_path, "killed.states/*", time.time()), choose.uniform(0, 3))
    for folder in out.values():
        finish(code, [*args, folder])
    assert kills >= 3
    for name in ("unet/diffusion_pytorch_model.safetensors", "loss.csv", "unet/config.json"):
        assert (out["killed"] / name).read_bytes() == (out["straight"] / name).read_bytes()


@pytest.mark.parametrize("backend", REAL)
def test_ctrl_c_leaves_complete_rows_and_the_job_goes_on(code, tmp_path, backend):
    """Interrupted once a first row is there; the same command then finishes the job and uses that row's cell."""
    process = tree.start(code, *arguments(backend, tmp_path), log=tmp_path / "log")
    assert tree.kill_when(process, lambda: bool(list(tmp_path.glob("rows/*.jsonl"))), 0.2, signal.SIGINT)
    assert process.returncode == 130
    assert "interrupted; the same command goes on" in (tmp_path / "log").read_text()
    before = rows.read(tmp_path / "rows")
    assert len(before) >= 1
    assert "used again" in finish(code, arguments(backend, tmp_path))
    after = rows.read(tmp_path / "rows")
    assert all(row in after for row in before) and {"check", "train", "timing", "sample", "metric"} == {r.kind for r in after}


@pytest.mark.parametrize("backend", REAL)
@pytest.mark.parametrize("harm", ["flipped", "truncated"])
def test_a_damaged_state_is_named_the_good_one_offered_and_nothing_overwritten(code, tmp_path, backend, harm):
    process = tree.start(code, *arguments(backend, tmp_path / "out"), log=tmp_path / "log")
    states = tmp_path / "out" / "work"
    assert tree.kill_when(process, lambda: len(list(states.glob("train-*/scratch/states/state-*.safetensors"))) == 2, 0.1)
    older, newest = sorted(states.glob("train-*/scratch/states/state-*.safetensors"))[-2:]
    data = bytearray(newest.read_bytes())
    if harm == "flipped":
        data[len(data) // 2] ^= 4
    newest.write_bytes(data if harm == "flipped" else data[: len(data) // 2])
    damaged = newest.read_bytes()
    again = subprocess.run(tree.command(code, *arguments(backend, tmp_path / "out")), env=tree.environment(code), cwd=code,
                           capture_output=True, text=True, timeout=PATIENCE)
    error = again.stderr.splitlines()[-1]
    assert again.returncode == 2 and error.startswith("error: ")
    assert newest.name in error and f"{older.name} is good" in error and "corrupt" in error
    assert newest.read_bytes() == damaged and older.exists()
    newest.unlink()  # as advised
    finish(code, arguments(backend, tmp_path / "out"))
    assert np.isfinite(next(row.values["losses"] for row in rows.read(tmp_path / "out" / "rows") if row.kind == "train")).all()


def test_corrupt_weights_stop_both_backends_with_one_line(code, tmp_path):
    """Weights are read before any framework starts: one reader for all."""
    folder: Path = tmp_path / "weights"
    import shutil
    shutil.copytree(tree.ROOT / "results" / "checkpoints" / "fmnist-small", folder)
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    for backend in REAL:
        done = subprocess.run(tree.command(code, "tests/helpers/tiny_run.py", "--backends", backend, "--weights", folder, "--out",
                                           tmp_path / "out"), env=tree.environment(code), cwd=code, capture_output=True, text=True)
        assert done.returncode == 2 and file.name in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
