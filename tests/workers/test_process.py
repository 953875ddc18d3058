"""Worker processes: every command against a known backend, and what the job hears when a worker is harmed."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import backends
from backends import NotInstalled
from bench import streams
from bench.messages import Command, Create, Describe, Forward, Load, Loss, Sample, Tables, TimeSample, TimeTrain, Train, Weights
from bench.timing.memory import out_of_memory
from bench.training import batches
from bench.workers import process
from bench.workers.errors import WorkerDied, WorkerError, WrongAnswer
from bench.workers.process import Worker
from reference import samplers, unet, weights
from reference.config import ConfigError, DiffusionConfig, OptimConfig
from reference.conventions import make_plan
from tests.helpers import tree
from tests.helpers.tiny import HELPERS, TINY, install_backend

SPEC = {"model": TINY.to_dict(), "diffusion": DiffusionConfig(timesteps=20).to_dict(), "optim": OptimConfig().to_dict(),
        "device": "cpu", "dtype": "float32"}
TRAIN = {"seed": 0, "steps": 6, "batch_size": 4, "flip": False}
GENTLE = {"steps": 5, "eta": 1.0}


@pytest.fixture
def start(tmp_path, monkeypatch):
    """start(harm, backend) gives a worker, with the fake backend installed as an outside package."""
    install_backend(tmp_path / "site", "fake", (HELPERS / "fake_backend.py").read_text())
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    workers = []

    def begin(harm="", backend="fake", create=True, spec=SPEC, **options):
        monkeypatch.setenv("FAKE_HARM", harm)
        workers.append(Worker(backend, spec, 1, tmp_path / f"{backend}.log", **options))
        if create:
            workers[-1].call(Create())
        return workers[-1]

    yield begin
    for worker in workers:
        worker.close()


@pytest.fixture
def images(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (10, 1, 8, 8), np.uint8)
    np.save(tmp_path / "images.npy", values)
    return str(tmp_path / "images.npy")


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] == "Z"


def test_create_sets_threads_and_allocator_before_anything_is_imported(start, monkeypatch):
    """Whatever the shell says."""
    for name, value in (("OMP_NUM_THREADS", "7"), ("MALLOC_MMAP_MAX_", "9")):
        monkeypatch.setenv(name, value)
    reply = start(create=False).call(Create())
    assert reply.device == {"framework": "fake", "threads": "1", "allocator": "0"}
    assert reply.parameters == weights.count(TINY) and reply.peak_rss_bytes > 1 << 20


def test_commands_against_the_reference(start, tmp_path, images):
    worker = start()
    initial = weights.initialise(TINY, 0)
    scale = float(initial["conv_in.weight"].flat[0])
    np.savez(tmp_path / "w.npz", **initial)
    worker.call(Load(weights=str(tmp_path / "w.npz")))

    worker.call(Tables(plan=GENTLE, out=str(tmp_path / "t.npz")))
    plan = make_plan(DiffusionConfig(timesteps=20), **GENTLE)
    with np.load(tmp_path / "t.npz") as found:
        assert all(np.array_equal(found[name], table) for name, table in samplers.coefficients(plan).items())

    x = np.linspace(-1, 1, 64).reshape(1, 1, 8, 8)
    np.savez(tmp_path / "in.npz", x=x, t=np.zeros(1))
    worker.call(Forward(inputs=str(tmp_path / "in.npz"), out=str(tmp_path / "out.npy")))
    assert np.array_equal(np.load(tmp_path / "out.npy"), scale * x)

    batch = batches.training_batch(0, np.load(images), 0, 4, 20)
    np.savez(tmp_path / "b.npz", ids=batch.ids, x0=batch.x0, t=batch.t, noise=batch.noise)
    expected = np.float32(np.mean((batch.noise - scale * batch.x0) ** 2))
    assert worker.call(Loss(batch=str(tmp_path / "b.npz"))).loss == expected

    seen = []
    reply = worker.call(Train(images=images, **TRAIN), on_progress=lambda done, total: seen.append((done, total)))
    t = [batches.training_batch(0, np.load(images), step, 4, 20).t.sum() for step in range(6)]
    assert reply.losses == [float(np.float32(step + t[step] / 1e6)) for step in range(6)]
    assert seen[-1] == (6, 6) and reply.seconds > 0 and reply.first_seconds > 0
    assert worker.call(TimeTrain(units=3, images=images, seed=0, batch_size=4)).seconds > 0
    assert worker.call(TimeSample(units=45, batch_size=4, seed=0)).seconds > 0  # more than twice round T = 20


def draw(worker, tmp_path, ids, batch_size, plan=GENTLE, **args):
    (tmp_path / "s.npy").unlink(missing_ok=True)
    asked = Sample(ids, plan, batch_size, seed=3, out=str(tmp_path / "s.npy"), at=0, total=ids[1] - ids[0])
    reply = worker.call(asked, **args)
    return np.load(tmp_path / "s.npy"), reply


def test_images_do_not_depend_on_the_batch(start, tmp_path):
    worker, seen = start(), []
    images, reply = draw(worker, tmp_path, [0, 11], 4, on_progress=lambda done, total: seen.append((done, total)))
    assert images.shape == (11, 1, 8, 8) and images.dtype == np.float32
    assert reply.calls == 3 * 5 and len(reply.batch_seconds) == 3 and reply.notes == []
    assert seen[-1] == (55, 55) and seen == sorted(seen)
    for ids, batch_size in ([0, 11], 11), ([0, 11], 1), ([0, 11], 100):
        assert np.array_equal(draw(worker, tmp_path, ids, batch_size)[0], images)
    assert np.array_equal(draw(worker, tmp_path, [5, 7], 4)[0], images[5:7])
    assert not np.array_equal(draw(worker, tmp_path, [5, 7], 4, {"steps": 5, "eta": 0.0})[0], images[5:7])


def test_out_of_memory_halves_the_batch_and_says_so(start, tmp_path):
    images, _ = draw(start(), tmp_path, [0, 11], 11)
    worker = start("oom")
    again, reply = draw(worker, tmp_path, [0, 11], 8)
    assert np.array_equal(again, images)
    assert reply.batch_size == 2 and len(reply.notes) == 2
    assert reply.notes[0] == "fake: out of memory with a sampling batch of 8; going on with 4"
    assert draw(worker, tmp_path, [0, 11], 8)[1].notes == []  # what fits is remembered
    with pytest.raises(WorkerError, match="MemoryError: Unable to allocate 20 GiB"):
        draw(start("oom always"), tmp_path, [0, 11], 8)


@pytest.mark.parametrize("text, expected", [
    ("CUDA out of memory. Tried to allocate 2.00 GiB", True), ("Allocate memory failed", True),
    ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes. Error code 12", True),
    ("Unable to allocate 20.0 GiB for an array", True), ("Out of Memory: not enough device memory", True),
    ("shape mismatch", False), ("invalid memory format", False),
])
def test_out_of_memory_is_told_from_other_errors(text, expected):
    assert out_of_memory(RuntimeError(text)) is expected


def test_chatter_on_stdout_breaks_nothing(start, tmp_path):
    assert draw(start("chatter"), tmp_path, [0, 3], 3)[0].shape == (3, 1, 8, 8)
    assert "nor this" in (tmp_path / "fake.log").read_text()


@pytest.mark.parametrize("harm, wrote", [("garbage", "xff"), ("forged", "seconds"), ("half a line", "beat")])
def test_a_backend_that_writes_to_the_pipe_is_named(start, tmp_path, harm, wrote):
    with pytest.raises(WorkerDied, match=f"worker fake wrote what is no message to its pipe in sample, .*{wrote}.* and was killed; "
                                         "last output: none") as caught:
        draw(start(harm), tmp_path, [0, 3], 3)
    assert "\n" not in str(caught.value)


def test_a_backend_that_answers_nonsense_is_named_and_is_no_users_mistake(start, tmp_path):
    harm = tmp_path / "harm"
    harm.touch()
    worker, images, batch = start(str(harm)), np.zeros((2, 1, 8, 8)), str(tmp_path / "b.npz")
    np.savez(batch, ids=np.arange(2), x0=images, t=np.arange(2), noise=images)
    np.savez(tmp_path / "in.npz", x=images, t=np.zeros(2))
    sample = Sample((0, 3), GENTLE, 3, seed=3, out=str(tmp_path / "s.npy"), at=0, total=3)
    for name, command, said in (
            ("own error", sample, "sample failed: ConfigError: S=5: is my mistake"),
            ("flat images", sample, "sample failed: BackendError: images: shape (3, 1, 1, 1) in place of (3, 1, 8, 8)"),
            ("nan images", sample, "sample failed: BackendError: images: "),
            ("fewer tables", Tables(GENTLE, str(tmp_path / "t.npz")), "tables failed: BackendError: tables: "),
            ("nan loss", Loss(batch), "loss failed: BackendError: loss: 1 of 1 values are not finite"),
            ("small output", Forward(str(tmp_path / "in.npz"), str(tmp_path / "o.npy")), "forward failed: BackendError: output: "),
            ("odd device", Describe(), "describe failed: BackendError: device_info: {'framework': 5} is no dict of str to str")):
        harm.write_text(name)
        with pytest.raises(WorkerError) as caught:
            worker.call(command)
        assert str(caught.value).startswith(f"worker fake: {said}") and type(caught.value) is (
            WorkerError if name == "own error" else WrongAnswer), caught.value
    harm.write_text("")
    assert worker.call(sample).calls == 5  # and it goes on


@pytest.mark.parametrize("harm, error, said", [
    ("no device", ConfigError, "this machine has none"), ("no framework", NotInstalled, "pip install fake")])
def test_a_users_mistake_comes_back_as_one(start, harm, error, said):
    with pytest.raises(error, match=said):
        start(harm)


@dataclass(frozen=True)
class Dance(Command):
    """What no worker can."""


def test_wrong_specs_backends_and_commands(start):
    with pytest.raises(ConfigError, match="dtype='float7'"):
        start(spec={**SPEC, "dtype": "float7"})
    with pytest.raises(ConfigError, match="backend='tensorflow': must be one of .*fake"):
        start(backend="tensorflow")
    with pytest.raises(ConfigError, match="not created yet"):
        start(create=False).call(Describe())
    worker = start()
    with pytest.raises(WorkerError, match="AttributeError.*Dance"):
        worker.call(Dance())
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):  # before anything is sent
        Describe(colour="red")
    with pytest.raises(ConfigError, match="steps=21"):
        worker.call(Tables(plan={"steps": 21}, out="nowhere.npz"))
    assert worker.call(Describe()).device["framework"] == "fake"  # and it goes on


def test_a_failed_command_is_told_in_one_line_and_logged(start, tmp_path, images):
    worker = start("bug")
    with pytest.raises(WorkerError, match="worker fake: train failed: RuntimeError: kernel missing") as caught:
        worker.call(Train(images=images, **TRAIN))
    assert not isinstance(caught.value, WorkerDied)
    assert "Traceback" in (tmp_path / "fake.log").read_text()


def test_a_loss_that_is_not_finite_stops_training_and_the_worker_goes_on(start, images):
    worker = start("nan")
    with pytest.raises(WorkerError, match=r"worker fake: train failed: TrainingError: loss=nan: is not finite at step 3, "
                                          r"learning rate 0.0002, float32; last good state: none") as caught:
        worker.call(Train(images=images, **TRAIN))
    assert not isinstance(caught.value, WorkerDied)
    assert worker.call(Describe()).device["framework"] == "fake"


@pytest.mark.parametrize("harm, said", [
    ("die", "by SIGKILL, which the system sends when memory runs out; last output: the last words"),
    ("segfault", "by SIGSEGV"), ("exit", "with exit code 7; last output: none")])
def test_a_worker_that_dies_is_reported_with_its_signal_and_last_output(start, images, harm, said):
    worker = start(harm)
    with pytest.raises(WorkerDied, match=f"worker fake ended during train {said}"):
        worker.call(Train(images=images, **TRAIN))
    with pytest.raises(WorkerDied, match="ended during train"):  # it stays dead
        worker.call(Describe())


def test_the_training_of_a_worker_that_died_goes_on_in_the_next(start, tmp_path, images):
    more = {"states": str(tmp_path / "states"), "save_every": 0, "config": {"data": "x"}}
    expected = start().call(Train(images=images, **TRAIN))
    with pytest.raises(WorkerDied):
        start("die").call(Train(images=images, **more, **TRAIN))
    assert sorted(path.name for path in (tmp_path / "states").glob("state-*")) == [f"state-0000000{n}.safetensors" for n in (2, 3)]
    again = start().call(Train(images=images, **more, **TRAIN))
    assert again.starts == 2 and again.losses == expected.losses and again.weights == expected.weights
    with pytest.raises(ConfigError, match="data is 'x' there and 'y' here"):
        start().call(Train(images=images, **{**more, "config": {"data": "y"}}, **TRAIN))


def test_a_command_that_cannot_write_is_a_users_mistake(start, tmp_path):
    with pytest.raises(ConfigError, match="nowhere/w.npz: can't be written: No such file or directory"):
        start().call(Weights(out=str(tmp_path / "nowhere" / "w.npz")))


def test_a_worker_killed_while_idle_is_noticed(start):
    worker = start()
    os.kill(worker._process.pid, signal.SIGKILL)
    worker._process.wait()
    with pytest.raises(WorkerDied, match="by SIGKILL"):
        worker.call(Describe())


def test_closing_a_dead_worker_kills_nobody(start, images, monkeypatch):
    """Its process id is free by then, and may be another's."""
    worker, killed = start("exit"), []
    with pytest.raises(WorkerDied):
        worker.call(Train(images=images, **TRAIN))
    monkeypatch.setattr(os, "killpg", lambda *args: killed.append(args))
    worker.close()
    assert killed == []


def test_an_idle_worker_may_end_in_its_own_time(start, tmp_path):
    """MindSpore's scheduler counts a process that was ended before it took leave as a failure of the whole job."""
    start("slow to end").close()
    assert "took leave" in (tmp_path / "fake.log").read_text()


def test_a_frozen_worker_is_ended(start, images):
    worker, began = start("freeze", silence=3.0), time.monotonic()
    with pytest.raises(WorkerDied, match="sent no heartbeat for 3 s in train and was killed"):
        worker.call(Train(images=images, **TRAIN))
    assert time.monotonic() - began < 15 and gone(worker._process.pid)


def test_a_worker_without_progress_is_ended(start, images):
    worker = start("hang", silence=30.0)
    with pytest.raises(WorkerDied, match="made no progress for 2 s in train and was killed"):
        worker.call(Train(images=images, **TRAIN), timeout=2.0)
    assert gone(worker._process.pid)


def test_slow_progress_is_no_hang(start, images):
    """Longer in all than silence and timeout, but never still for so long."""
    reply = start("slow", silence=2.0).call(Train(images=images, **{**TRAIN, "steps": 80}), timeout=1.5)
    assert len(reply.losses) == 80 and reply.seconds > 3.9


def test_closing_ends_a_busy_worker_and_its_children(start, tmp_path, images):
    worker = start("children")
    worker.call(Train(images=images, **TRAIN))
    child = int((tmp_path / "fake.log").read_text().split("child ")[1].split()[0])
    threading.Timer(0.5, worker.close).start()
    began = time.monotonic()
    worker._send({"command": "train", "args": {"images": images, **TRAIN, "steps": 10**7}})
    worker._process.wait(20)
    time.sleep(0.3)
    assert time.monotonic() - began < 10 and gone(child)
    worker.close()


SCRIPT = """
import sys, time
from bench.messages import Create, Train
from bench.workers.process import Worker
from tests_spec import SPEC
with Worker("fake", SPEC, 1, sys.argv[1]) as worker:
    worker.call(Create())
    print(worker._process.pid, flush=True)
    worker.call(Train(images=sys.argv[2], seed=0, steps=10**7, batch_size=4, flip=False))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_its_parent(start, tmp_path, images, number, monkeypatch):
    monkeypatch.setenv("FAKE_HARM", "")
    (tmp_path / "site/tests_spec.py").write_text(f"SPEC = {SPEC!r}\n")
    root = str(Path(process.__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", os.environ["PYTHONPATH"] + os.pathsep + root)
    parent = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path / "log"), images], stdout=subprocess.PIPE, text=True,
                              stderr=subprocess.DEVNULL, preexec_fn=tree.default_signals)
    child = int(parent.stdout.readline())
    time.sleep(0.5)
    assert not gone(child)
    parent.send_signal(number)
    parent.wait(20)
    deadline = time.monotonic() + 10
    while not gone(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert gone(child)


def test_the_parent_loads_no_framework():
    script = ("import sys; import bench.workers.process, bench.workers.session; "
              "import backends; print({backends.about(name).module for name in backends.names()} & {*sys.modules})")
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "set()\n"


REAL = [name for name in backends.names() if backends.installed(name)]


def test_a_framework_is_installed():
    assert REAL, "the worker's end-to-end test needs a framework"


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name == backends.DEFAULT else pytest.mark.slow) for name in REAL])
def test_a_real_backend_end_to_end(start, tmp_path, images, name):
    """Every command: forward and sampling held against the oracle, images against the batch size, losses against a rerun."""
    worker = start(backend=name)
    trained = weights.initialise(TINY, 1)
    np.savez(tmp_path / "w.npz", **trained)
    worker.call(Load(weights=str(tmp_path / "w.npz")))
    x, t = streams.normal(0, "check", np.arange(3), (1, 8, 8)), np.array([0, 7, 19])
    np.savez(tmp_path / "in.npz", x=x, t=t)
    worker.call(Forward(inputs=str(tmp_path / "in.npz"), out=str(tmp_path / "out.npy")))
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), unet.forward(trained, TINY, x.astype(float), t), atol=2e-5)

    found, reply = draw(worker, tmp_path, [0, 5], 2)
    plan = make_plan(DiffusionConfig(timesteps=20), **GENTLE)
    x_T = streams.normal(3, "x_T", np.arange(5), (1, 8, 8)).astype(float)
    expected = samplers.sample(lambda x, t: unet.forward(trained, TINY, x, t), x_T, plan,
                               lambda i: streams.normal(3, "z", np.arange(5), (1, 8, 8), step=i).astype(float))
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert reply.calls == 15
    np.testing.assert_allclose(draw(worker, tmp_path, [0, 5], 5)[0], found, atol=1e-4)

    losses = worker.call(Train(images=images, **TRAIN)).losses
    assert len(losses) == 6 and np.isfinite(losses).all()
    worker.call(Load(weights=str(tmp_path / "w.npz")))
    assert worker.call(Train(images=images, **TRAIN)).losses == losses
    assert worker.call(TimeTrain(units=2, images=images, seed=0, batch_size=4)).seconds > 0
    assert worker.call(TimeSample(units=3, batch_size=4, seed=0)).seconds > 0
    assert worker.call(Describe()).peak_rss_bytes > 50 << 20


def test_time_in_which_this_process_was_stopped_does_not_count(monkeypatch):
    """Of an hour between two looks half a second counts, and of 3 seconds too: less than any timeout."""
    clock = iter([0.0, 0.5, 1.0, 3601.0, 3601.5, 3604.5])
    monkeypatch.setattr(process, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    worker = process.Worker.__new__(process.Worker)
    worker._awake, worker._last = 0.0, process.time.monotonic()
    assert [worker._seconds() for _ in range(5)] == [0.5, 1.0, 1.5, 2.0, 2.5]


STOPPED = """
import sys
from bench.messages import Create, Train
from bench.workers.process import Worker
from pathlib import Path
from tests.workers.test_process import SPEC, TRAIN

with Worker("fake", SPEC, 1, Path(sys.argv[1]), silence=3.0) as worker:
    worker.call(Create())
    print(worker._process.pid, flush=True)
    reply = worker.call(Train(images=sys.argv[2], **TRAIN), timeout=3.0)
    print(len(reply.losses), flush=True)
"""


def is_stopped(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "T"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks Linux whether a process is stopped")
@pytest.mark.parametrize("asleep", [False, True], ids=["ctrl-z", "sleep"])
def test_ctrl_z_and_a_machine_that_sleeps_end_no_healthy_worker(asleep, tmp_path, images):
    """Ctrl-Z stops the parent alone, as workers have a session of their own. Sleep is played by stopping both; the worker wakes
    last. Each for longer than the timeout and the silence that end a worker."""
    install_backend(tmp_path / "site", "fake", (HELPERS / "fake_backend.py").read_text())
    (tmp_path / "harm").write_text("wait")  # so that it is at one step for as long as this test wants
    env = {**os.environ, "FAKE_HARM": str(tmp_path / "harm"),
           "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(tree.ROOT)])}
    with subprocess.Popen([sys.executable, "-c", STOPPED, str(tmp_path / "log"), images], stdout=subprocess.PIPE, text=True,
                          env=env, process_group=0) as parent:
        child = int(parent.stdout.readline())
        stopped = [child, parent.pid] if asleep else [parent.pid]
        while "waiting" not in (tmp_path / "log").read_text():
            assert parent.poll() is None
            time.sleep(0.05)
        time.sleep(0.5)
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP if asleep else signal.SIGTSTP)
        time.sleep(3.5)
        assert all(map(is_stopped, stopped)) and is_stopped(child) == asleep
        for pid in reversed(stopped):
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.7)  # longer than between two looks
        (tmp_path / "harm").write_text("")
        assert parent.stdout.read() == "6\n" and parent.wait(20) == 0
