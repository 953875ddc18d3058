"""Training and sampling on several processes, under the frameworks' own launchers, and what a killed process costs."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import backends
from bench import files
from bench.cli import launch
from bench.messages import Done, Load, Sampled
from bench.records import rows
from bench.sampling import parts
from bench.sampling.cell import Cell, Draw
from bench.training import batches
from reference.config import ConfigError
from tests.helpers import tree

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "tests" / "helpers" / "distributed_training.py"
SIZE = 2
PATIENCE = 500.0  # seconds


def test_launchers_variables_say_who_a_process_is():
    torchrun = {"TORCHELASTIC_RUN_ID": "x", "RANK": "3", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
    msrun = {"MS_ROLE": "MS_WORKER", "MS_WORKER_NUM": "8", "RANK_ID": "5"}
    ours = {"DDIM_BENCH_MEET": "127.0.0.1:1", "DDIM_BENCH_RANK": "1", "DDIM_BENCH_PROCESSES": "2"}
    assert launch.launched(ours) == launch.Launch(("jax",), 1, 2, 2)
    assert launch.launched({}) == launch.Launch((), 0, 1, 1)
    assert launch.launched(torchrun) == launch.Launch(("torch",), 3, 4, 2)
    assert launch.launched(msrun) == launch.Launch(("mindspore",), 5, 8, 8)
    with pytest.raises(ConfigError, match="--node_rank"):
        launch.launched({"MS_ROLE": "MS_WORKER", "MS_WORKER_NUM": "8"})


def test_a_launcher_runs_its_own_framework():
    torchrun = launch.Launch(("torch",), 0, 2, 2)
    assert torchrun.backends(None) == torchrun.backends("torch") == "torch"
    assert launch.Launch().backends("torch,mindspore") == "torch,mindspore"
    with pytest.raises(ConfigError, match="--backends='torch,mindspore': .*launcher of torch"):
        torchrun.backends("torch,mindspore")


def test_a_launcher_of_two_backends_runs_either(monkeypatch):
    """`ddim-bench launch` is no framework's own."""
    monkeypatch.setattr(backends, "_outside", lambda: {"another": None})
    monkeypatch.setattr(backends, "about", lambda name, about=backends.about: SimpleNamespace(
        launcher="ddim-bench launch") if name == "another" else about(name))
    found = launch.launched({"DDIM_BENCH_MEET": "127.0.0.1:1", "DDIM_BENCH_RANK": "0", "DDIM_BENCH_PROCESSES": "2"})
    assert found.able == ("jax", "another") and found.backends("another") == "another" and found.backends(None) == "jax"
    with pytest.raises(ConfigError, match="--backends='torch': .*launcher of jax, another"):
        found.backends("torch")


@pytest.mark.parametrize("processes", [2, 3, 6])
def test_shares_of_a_batch_are_the_batch(processes):
    images = np.random.default_rng(0).integers(0, 256, (20, 1, 4, 4), dtype=np.uint8)
    args = {"seed": 5, "images": images, "step": 7, "batch_size": 12, "T": 50, "flip": True, "self_conditioning": True}
    whole = batches.training_batch(**args)
    shares = [batches.training_batch(**args, rank=rank, processes=processes) for rank in range(processes)]
    order = np.argsort(np.concatenate([share.ids for share in shares]))
    for name in ("ids", "x0", "t", "noise", "coin"):
        assert np.array_equal(np.concatenate([getattr(share, name) for share in shares])[order], getattr(whole, name))
    with pytest.raises(ConfigError, match="batch_size=12: must be a multiple of the 5 processes"):
        batches.training_batch(**args, processes=5)


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_processes_draw_each_batch_once(tmp_path, processes):
    calls = []

    def call(command, stage=""):
        if isinstance(command, Load):
            return Done()
        start, stop = command.ids
        assert command.batch_size == 5, "the last part is filled up: a compiled network sees one shape"
        drawn = np.arange(start, stop, dtype=np.float32)[:, None, None, None]
        files.write_rows(Path(command.out), drawn, command.at, command.total)
        if stage != "first call":
            calls.append([start, stop])
        return Sampled(seconds=1.0, batch_seconds=[1.0], calls=2, batch_size=5, notes=[])

    job = Draw({}, Cell(2, 0.0, None, 0), "plain", samples=22, batch_size=5)
    for rank in reversed(range(processes)):
        parts.draw(call, job, tmp_path, rank, processes)
    values = parts.collect(job, tmp_path)
    images = np.load(tmp_path / parts.IMAGES)
    assert np.array_equal(images.ravel(), np.arange(22))
    assert sorted(calls) == [[0, 5], [5, 10], [10, 15], [15, 20], [20, 22]]
    assert values["calls"] == 10 and values["batch_seconds"] == [1.0] * 5
    for rank in range(processes):
        parts.draw(call, job, tmp_path, rank, processes)
    assert len(calls) == 5, "what is drawn is not drawn again"
    images[7] += 1
    np.save(tmp_path / parts.IMAGES, images)
    again = "CRC-32: images 5 to 9 are drawn again"
    with pytest.raises(files.FileError, match="images-000005.json: damaged"), pytest.warns(UserWarning, match=again):
        parts.collect(job, tmp_path)
    with pytest.warns(UserWarning, match=again):
        parts.draw(call, job, tmp_path)
    assert calls[5:] == [[5, 10]] and np.array_equal(np.load(tmp_path / parts.IMAGES).ravel(), np.arange(22))
    del calls[5:]
    (tmp_path / "images-000010.json").write_text("{")
    with pytest.warns(UserWarning, match="images-000010.json: damaged: .*images 10 to 14 are drawn again"):
        parts.draw(call, job, tmp_path)
    assert calls[5:] == [[10, 15]]
    del calls[5:]
    next(tmp_path.glob("images-*.json")).unlink()
    parts.draw(call, job, tmp_path, 0, 1, finished=lambda: True)
    assert len(calls) == 5, "nor is a part of a cell that another process finished meanwhile"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def launcher(backend, logs, restarts=0):
    if not backends.installed(backend):
        pytest.skip(f"{backend} is not installed")
    binaries, kind = Path(sys.executable).parent, backends.about(backend).launcher
    if kind == "torchrun":
        return [str(binaries / "torchrun"), "--nproc-per-node", str(SIZE), "--max-restarts", str(restarts),
                "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
    if kind == "ddim-bench launch":
        return [sys.executable, "-m", "bench", "launch", "-n", str(SIZE), "--max-restarts", str(restarts), "--"]
    return [str(binaries / "msrun"), f"--worker_num={SIZE}", f"--local_worker_num={SIZE}", f"--master_port={free_port()}",
            f"--log_dir={logs}", "--join=True"]


def environment():
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "OMP_NUM_THREADS": "1", "TINY_METRIC": "none", "PATH": path}


@contextlib.contextmanager
def started(command):
    """A launcher and what it started; Ctrl-C is what both launchers end their processes for."""
    process = subprocess.Popen(list(map(str, command)), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)


def run(command):
    with started(command) as process:
        out = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 0, out[-3000:]


def train(prefix, backend, folder, steps=20, pause=0.0):
    folder.mkdir(exist_ok=True)
    run([*prefix, PROGRAM, backend, folder, steps, pause])
    return result(folder)


def result(folder):
    with np.load(folder / "result.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.mark.slow
@pytest.mark.parametrize("backend", [name for name in backends.names() if backends.about(name).launcher])
def test_many_processes_give_the_losses_of_one(tmp_path, backend):
    many = train(launcher(backend, tmp_path / "logs"), backend, tmp_path / "many")
    one = train([sys.executable], backend, tmp_path / "one")
    assert len(one["losses"]) == 20 and np.ptp(one["losses"]) > 0.01
    assert np.abs(many["losses"] / one["losses"] - 1).max() < 1e-5
    for name in set(one) - {"losses", "starts"}:
        assert np.abs(many[name] - one[name]).max() < 1e-4, name


def worker_of_rank(rank, program, variable):
    """The process id of the worker of this rank."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            variables, command = (path / "environ").read_bytes().split(b"\0"), (path / "cmdline").read_bytes()
        except OSError:
            continue
        if f"{variable}={rank}".encode() in variables and program in command and b"MS_ROLE=MS_SCHED" not in variables:
            return int(path.name)
    raise AssertionError(f"no process has {variable}={rank}")


def kill_one_after_a_state(folder, rank, variable, process):
    deadline = time.monotonic() + PATIENCE
    while not list((folder / "states").glob("state-0000001*.safetensors")):  # from step 10 on
        assert process.poll() is None, process.communicate()[0][-3000:]
        assert time.monotonic() < deadline, "no state of step 10"
        time.sleep(0.02)
    os.kill(worker_of_rank(rank, str(folder).encode(), variable), signal.SIGKILL)


@pytest.mark.sampled
@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("backend, variable", [("torch", "RANK"), ("jax", "DDIM_BENCH_RANK")])
def test_a_launcher_goes_on_from_the_last_state_when_a_process_is_killed(tmp_path, rank, backend, variable):
    whole = train(launcher(backend, None), backend, tmp_path / "whole", steps=40)
    (folder := tmp_path / "killed").mkdir()
    with started([*launcher(backend, None, restarts=1), PROGRAM, backend, folder, 40, 0.1]) as process:
        kill_one_after_a_state(folder, rank, variable, process)
        out = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 0, out[-3000:]
    killed = result(folder)
    assert killed["starts"] == 2 and whole["starts"] == 1
    for name in set(whole) - {"starts"}:
        assert np.array_equal(killed[name], whole[name]), name


@pytest.mark.slow
@pytest.mark.recorded
def test_msrun_ends_when_a_process_is_killed_and_the_same_command_goes_on(tmp_path):
    whole = train(launcher("mindspore", tmp_path / "logs"), "mindspore", tmp_path / "whole", steps=40)
    (folder := tmp_path / "killed").mkdir()
    with started([*launcher("mindspore", tmp_path / "logs"), PROGRAM, "mindspore", folder, 40, 0.2]) as process:
        kill_one_after_a_state(folder, 1, "RANK_ID", process)
        process.communicate(timeout=PATIENCE)
    assert process.returncode != 0 and not (folder / "result.npz").exists()
    killed = train(launcher("mindspore", tmp_path / "logs"), "mindspore", folder, steps=40)
    assert killed["starts"] == 2
    for name in set(whole) - {"starts"}:
        assert np.array_equal(killed[name], whole[name]), name


@pytest.mark.slow
@pytest.mark.recorded
def test_msrun_waits_for_a_process_that_is_late(tmp_path):
    """For longer than the 30 s after which MindSpore would end the others."""
    run([*launcher("mindspore", tmp_path / "logs"), PROGRAM, "mindspore", tmp_path, 3, 0, 40])
    assert len(result(tmp_path)["losses"]) == 3


@pytest.mark.parametrize("asked, waits", [(None, "900"), ("60", "60")])
def test_a_process_of_msrun_waits_for_others_as_long_as_it_is_told(monkeypatch, asked, waits):
    distributed = pytest.importorskip("backends.mindspore.distributed")
    said = {}
    monkeypatch.setenv("MS_ROLE", "MS_WORKER")
    monkeypatch.setenv("MS_NODE_TIMEOUT", asked) if asked else monkeypatch.delenv("MS_NODE_TIMEOUT", raising=False)
    monkeypatch.setattr(distributed.communication, "init", lambda: said.update(os.environ))
    monkeypatch.setattr(distributed.communication, "get_rank", lambda: 1)
    monkeypatch.setattr(distributed.communication, "get_group_size", lambda: 2)
    distributed.join(SimpleNamespace(processes=2, rank=1))
    assert said["MS_NODE_TIMEOUT"] == waits


JOB = ["--steps", "2,3", "--eta", "0.5", "--samples", "128", "--sample-batch", "32", "--train-steps", "4"]


def images(out):
    found = {}
    for row in rows.read(out / "rows"):
        if row.kind == "sample":
            (path,) = [folder / "images.npy" for folder in (out / "work").glob("sample-*")
                       if json.loads((folder / "result.json").read_text())["config"] == row.config]
            found[row.config["steps"]] = np.load(path)
    return found


@pytest.mark.sampled
@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", pytest.param("mindspore", marks=pytest.mark.recorded), "jax"])
def test_the_main_job_draws_the_same_images_on_many_processes(tmp_path, backend):
    one, many = tmp_path / "one", tmp_path / "many"
    (tmp_path / "code").mkdir()
    script = tree.copy_to(tmp_path / "code") / "tests" / "helpers" / "tiny_run.py"
    run([sys.executable, script, *JOB, "--backends", backend, "--out", one])
    run([*launcher(backend, tmp_path / "logs"), script, *JOB, "--out", many])
    assert {s: x.tobytes() for s, x in images(one).items()} == {s: x.tobytes() for s, x in images(many).items()}
    assert set(images(many)) == {2, 3} and images(many)[2].shape == (128, 1, 28, 28)
    kinds = [row.kind for row in rows.read(many / "rows")]
    assert sorted(set(kinds)) == ["check", "metric", "sample", "train"]
    assert (kinds.count("sample"), kinds.count("train"), kinds.count("metric")) == (2, 1, 4)
    losses = [next(row for row in rows.read(out / "rows") if row.kind == "train").values["losses"] for out in (one, many)]
    assert np.allclose(*losses, rtol=1e-5, atol=0)
    assert not list((many / "work").glob("*/scratch/*"))


@pytest.mark.sampled
@pytest.mark.slow
@pytest.mark.parametrize("program", [b"tiny_run.py", b"bench.workers.child"])
def test_the_main_job_under_torchrun_goes_on_when_a_process_is_killed(tmp_path, program):
    (tmp_path / "code").mkdir()
    script = tree.copy_to(tmp_path / "code") / "tests" / "helpers" / "tiny_run.py"
    job = [script, "--steps", "2", "--samples", "128", "--train-steps", "120", "--save-every", "0", "--out"]
    run([*launcher("torch", None), *job, tmp_path / "whole"])
    with started([*launcher("torch", None, restarts=1), *job, tmp_path / "killed"]) as process:
        deadline = time.monotonic() + PATIENCE
        while not list((tmp_path / "killed" / "work").glob("train-*/scratch/states/state-*[1-9]?.safetensors")):
            assert process.poll() is None and time.monotonic() < deadline, "no state of step 10"
            time.sleep(0.02)
        os.kill(worker_of_rank(1, program, "RANK"), signal.SIGKILL)
        out = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 0, out[-3000:]
    whole, killed = ({row.kind: row.values for row in rows.read(tmp_path / name / "rows")} for name in ("whole", "killed"))
    assert (whole["train"]["starts"], killed["train"]["starts"]) == (1, 2)
    for name in ("losses", "weights", "ema"):
        assert killed["train"][name] == whole["train"][name], name
    assert [x.tobytes() for x in images(tmp_path / "whole").values()] == [x.tobytes() for x in images(tmp_path / "killed").values()]


def test_one_process_options_are_refused_under_a_launcher(tmp_path, monkeypatch, capsys):
    from bench.cli.main import main

    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "3"}.items():
        monkeypatch.setenv(name, value)
    for options, said in ((["--batch-size", "64"], "--batch-size=64: must be a multiple of the 3 processes"),
                          (["--batch-size", "63", "--fresh"], "--fresh=True: is for one process alone"),
                          (["--batch-size", "63", "--backends", "mindspore"], "launcher of torch")):
        assert main(["run", "--out", str(tmp_path / "out"), *options]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
