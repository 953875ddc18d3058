"""What the main job does when a worker, a disk or a folder lets it down: one line, an exit code, and nothing lost."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from bench.records import rows
from tests.helpers import tree
from tests.helpers.tiny import HELPERS, install_backend

pytest.importorskip("torch", reason="the harmed backend is torch's")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def code(tmp_path_factory):
    """The code with the harmed backend installed beside it."""
    folder = tree.copy_to(tmp_path_factory.mktemp("code"))
    install_backend(folder, "shaky", (HELPERS / "shaky_backend.py").read_text())
    return folder


def job(code, out, *more, backends="torch,shaky", harm="", timeout=600, variables=None, **options):
    args = ["tests/helpers/tiny_run.py", "--backends", backends, "--steps", 5, "--save-every", 0, "--out", out, *more]
    environment = tree.environment(code, SHAKY=harm, TINY_METRIC="none", **(variables or {}))
    return subprocess.run(tree.command(code, *args), env=environment, cwd=code, capture_output=True, text=True, timeout=timeout,
                          **options)


def cells(out, backend):
    return Counter(row.kind for row in rows.read(out / "rows") if row.backend in (backend, f"{backend} oracle"))


ALL = {"check": 4, "train": 1, "timing": 2, "sample": 1, "metric": 1}


@pytest.mark.sampled
@pytest.mark.parametrize("harm, more, said, left", [
    ("die in create", [], "missing: all cells of shaky: worker shaky ended during create by SIGKILL, which the system sends when "
     "memory runs out; last output: the last words", {}),
    ("die in train", [], "missing: train shaky: worker shaky ended during train by SIGKILL, which the system sends when memory "
     "runs out; last output: the last words", {}),
    ("freeze in train", ["--timeout", "40"],
     "missing: train shaky: worker shaky sent no heartbeat for 40 s in train and was killed", {}),
    ("hang in sample", ["--timeout", "40"], "worker shaky made no progress for 40 s in time_sample and was killed",
     {"train": 1, "check": 2, "timing": 1}),
    ("garbage in sample", [], "missing: sample shaky: worker shaky wrote what is no message to its pipe in time_sample, ",
     {"train": 1, "check": 2, "timing": 1}),
    ("own error in sample", [], "missing: sample shaky: worker shaky: sample failed: ConfigError: S=5: is my mistake",
     {"train": 1, "check": 2, "timing": 1}),
    ("nan in sample", [], "missing: sample shaky: worker shaky: sample failed: BackendError: images: ",
     {"train": 1, "check": 2, "timing": 2}),
    ("nan in train", [], "missing: train shaky: worker shaky: train failed: TrainingError: loss=nan: is not finite at step 3, "
     "learning rate 0.001, float32; last good state: ", ALL | {"train": 0}),
    ("full in train", [], "missing: train shaky: worker shaky: train failed: TrainingError: batch_size=4: out of memory at "
     "training step 0; a batch of 1 fits", None),
])
def test_a_backend_that_fails_leaves_its_cells_missing_and_a_rerun_fills_them(code, tmp_path, harm, more, said, left):
    done = job(code, tmp_path, *more, harm=harm)
    wrong = "BackendError" in said  # an answer that is none disagrees with any
    assert done.returncode == (4 if wrong else 3), done.stderr[-2000:]
    assert (said.removeprefix("missing: ") in done.stderr) == wrong
    assert said in done.stdout and said in (tmp_path / "README.md").read_text()
    assert "Traceback" not in done.stdout + done.stderr
    assert cells(tmp_path, "torch") == ALL  # the other backend's cells are all there
    assert left is None or all(cells(tmp_path, "shaky")[kind] <= left.get(kind, 0) for kind in ALL)
    again = job(code, tmp_path, *more)
    assert again.returncode == 0, again.stderr[-2000:]
    assert "used again" in again.stdout
    found = cells(tmp_path, "shaky")
    assert {kind for kind in ALL if found[kind]} == set(ALL) and found["timing"] >= 2
    more = cells(tmp_path, "torch") - Counter(ALL)  # beside the other now
    assert more in (Counter(), Counter(timing=2, check=1), Counter(timing=1, check=1))


def test_out_of_memory_in_sampling_draws_the_same_images_in_smaller_batches(code, tmp_path):
    done = job(code, tmp_path, harm="full in sample")
    assert done.returncode == 3, done.stderr[-2000:]  # a batch that does not fit can't be timed; images agree within the tolerance
    assert "missing: timing of the sampling step shaky" in done.stdout and done.stdout.count("missing:") == 1
    said = "shaky: out of memory with a sampling batch of 32; going on with 16"
    assert said in done.stdout
    drawn = [row for row in rows.read(tmp_path / "rows") if (row.kind, row.backend) == ("sample", "shaky")]
    assert [row.values["notes"] for row in drawn] == [[said]]


def test_a_flipped_bit_in_kept_images_is_named_and_they_are_drawn_again(code, finished, tmp_path):
    out = shutil.copytree(finished, tmp_path / "out")
    images, = out.glob("work/sample-*/images.npy")
    right = images.read_bytes()
    images.write_bytes(right[:-9] + bytes([right[-9] ^ 64]) + right[-8:])
    done = job(code, out, backends="torch")
    assert done.returncode == 0 and f"warning: {images}: does not match its SHA-256" in done.stderr, done.stderr[-2000:]
    assert images.read_bytes() == right and images.with_name("images.npy.damaged").exists()
    assert cells(out, "torch") == ALL | {"sample": 2}


def test_the_determinism_check_tells_a_backend_that_repeats_from_one_that_does_not(code, tmp_path):
    done = job(code, tmp_path, "--check-determinism", harm="random in train")
    twice = {row.backend: row.values for row in rows.read(tmp_path / "rows") if row.config.get("stage") == "determinism"}
    assert all(v["bit_equal"] and v["error"] == 0 for v in twice["torch itself"].values()) and len(twice["torch itself"]) == 3
    losses, weights, images = twice["shaky itself"].values()
    assert not losses["bit_equal"] and not weights["bit_equal"] and not images["bit_equal"] and weights["error"] > 1e-4
    report = (tmp_path / "README.md").read_text()
    assert "on cpu, again in a new process | bit-equal" in " ".join(report.split())
    assert "Traceback" not in done.stderr


@pytest.fixture
def disk():
    """disk(megabytes) mounts a small memory disk and returns its folder; also `disk.grow()`, `disk.protect()`."""
    folder = Path(tempfile.mkdtemp(prefix="ddim-bench-disk-"))
    mounted = False

    def mount(megabytes):
        nonlocal mounted
        size = f"size={int(1024 * megabytes)}k"
        said = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", folder], capture_output=True)
        if said.returncode:
            pytest.skip(f"no memory disk can be mounted here ({said.stderr.decode().strip()}): the limit on file sizes is tested")
        mounted = True
        return folder

    def remount(options):
        subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)

    mount.remount = remount
    yield mount
    if mounted:
        subprocess.run(["umount", "-l", folder], check=True)
    folder.rmdir()


def one_line(done, word):
    """Exit code 2 and one line, which names a file and the reason."""
    assert done.returncode == 2, (done.returncode, done.stderr[-2000:])
    error = done.stderr.replace("\r", "\n").strip().splitlines()[-1]
    assert error.startswith("error: ") and word in error, error
    assert "Traceback" not in done.stderr
    return error


def nothing_half_written(out):
    assert not list(out.rglob("*.part")) and not list(out.rglob("*.torn"))
    rows.read(out / "rows")  # every line is whole


@pytest.mark.sampled
@pytest.mark.parametrize("megabytes", [0.05, 0.9, 1, 1.6])
def test_a_full_disk_is_one_line_and_the_job_goes_on_when_there_is_room(code, disk, megabytes):
    """From the very first files to the states of training: 0.8 MB are the images that it trains on."""
    out = disk(megabytes)
    error = one_line(job(code, out, backends="torch"), "can't be written")
    assert "No space left on device" in error or "is the disk full?" in error
    print(f"{megabytes} MB: {error}")
    nothing_half_written(out)
    disk.remount("size=100m")
    done = job(code, out, backends="torch")
    assert done.returncode == 0, done.stderr[-2000:]
    assert cells(out, "torch") == ALL


@pytest.mark.sampled
@pytest.mark.parametrize("size", [20_000, 100_000])
def test_a_file_that_may_not_grow_is_one_line(code, tmp_path, size):
    """The same harm without a mount: the system refuses every write beyond `size` bytes of a file."""
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    one_line(job(code, tmp_path / "out", backends="torch", preexec_fn=limit), "can't be written")
    nothing_half_written(tmp_path / "out")
    assert job(code, tmp_path / "out", backends="torch").returncode == 0


def test_a_read_only_disk_is_one_line_and_stays_empty(code, disk):
    out = disk(10)
    disk.remount("ro")
    one_line(job(code, out, backends="torch"), "ead-only file system")
    assert list(out.iterdir()) == []


def obey_permissions():
    """Root without the capability to write everywhere (CAP_DAC_OVERRIDE, 1), by PR_CAPBSET_DROP (24)."""
    if os.getuid() == 0:
        assert ctypes.CDLL(None).prctl(24, 1, 0, 0, 0) == 0


def test_a_folder_without_permission_is_one_line_and_stays_empty(code, tmp_path):
    out = tmp_path / "out"
    out.mkdir(mode=0o555)
    one_line(job(code, out, backends="torch", preexec_fn=obey_permissions), "Permission denied")
    one_line(job(code, out / "deeper", backends="torch", preexec_fn=obey_permissions), "Permission denied")
    assert list(out.iterdir()) == []


CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
int clock_gettime(clockid_t which, struct timespec *t) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int said = real(which, t);
    if (which == CLOCK_REALTIME) t->tv_sec += atol(getenv("CLOCK_AHEAD"));
    return said;
}
"""


@pytest.fixture(scope="module")
def finished(code, tmp_path_factory):
    """The results of a job whose machine's clock was ten days ahead; where no compiler can play that, of a plain one."""
    folder = tmp_path_factory.mktemp("finished")
    library, ahead = folder / "clock.so", {}
    if sys.platform == "linux" and (compiler := shutil.which("cc")):
        subprocess.run([compiler, "-shared", "-fPIC", "-x", "c", "-o", library, "-", "-ldl"], input=CLOCK, text=True, check=True)
        ahead = {"LD_PRELOAD": str(library), "CLOCK_AHEAD": str(10 * 86400)}
    done = job(code, folder / "out", backends="torch", variables=ahead)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "out"


def every_byte(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_clock_that_goes_back_between_two_runs_is_said_and_loses_nothing(code, finished, tmp_path):
    before = rows.read(finished / "rows")
    if all(row.created < datetime.now(UTC).isoformat() for row in before):
        pytest.skip("a clock that is ahead needs Linux and a C compiler")
    out = shutil.copytree(finished, tmp_path / "out")
    done = job(code, out, "--steps", "5,10", backends="torch")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "finished cells were used again" in done.stdout
    said, = (line for line in done.stderr.replace("\r", "\n").splitlines() if "sample.jsonl" in line)
    assert said.startswith(f"warning: {out}/rows/sample.jsonl: its last row is of 20") and "set this machine's clock" in said
    after = rows.read(out / "rows")
    assert all(row in after for row in before) and cells(out, "torch")["sample"] == 2


def test_the_lock_files_of_dead_processes_hold_nobody_up(code, finished, tmp_path):
    out = shutil.copytree(finished, tmp_path / "out")
    program = """
        import os, pathlib, signal, sys
        from filelock import FileLock
        locks = [FileLock(path) for path in pathlib.Path(sys.argv[1]).rglob(".lock")]
        for lock in locks:
            lock.acquire()
        print(len(locks), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    dead = subprocess.run([sys.executable, "-c", textwrap.dedent(program), out], capture_output=True, text=True)
    assert dead.returncode == -signal.SIGKILL and int(dead.stdout) > 5
    done = job(code, out, backends="torch", timeout=120)
    assert done.returncode == 0 and "finished cells were used again" in done.stdout, done.stderr[-2000:]
    assert rows.read(out / "rows") == rows.read(finished / "rows")


# What a user who is not root meets: root without the capabilities that pass over permissions; or nobody, who may read everything
AS_ROOT_WHO_OBEYS = ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner"]
AS_NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=+dac_read_search",
             "--ambient-caps=+dac_read_search"]


@pytest.mark.sampled
@pytest.mark.parametrize("harm", ["read-only", "of another user", "of another user, in open folders"])
def test_results_that_this_user_may_not_write_are_one_line_and_stay(code, finished, tmp_path, harm):
    user = []
    if os.getuid() == 0:
        user = AS_ROOT_WHO_OBEYS if harm == "read-only" else AS_NOBODY
        if shutil.which("setpriv") is None:
            pytest.skip("root needs setpriv of util-linux to be another user")
    elif harm != "read-only":
        pytest.skip("needs root, who alone can be another user")
    out = shutil.copytree(finished, tmp_path / "out")
    for path in (out, *out.rglob("*")):
        path.chmod(0o777 if harm.endswith("folders") and path.is_dir() else 0o555 if path.is_dir() else 0o444)
    before = every_byte(out)
    arguments = ["--backends", "torch", "--steps", "5", "--out", out]
    for script, words in (("tests/helpers/tiny_run.py", arguments), ("-m bench", ["report", "--out", out])):
        done = subprocess.run([*user, *tree.command(code, script, *words)], env=tree.environment(code, TINY_METRIC="none"),
                              cwd=code, capture_output=True, text=True, timeout=600)
        one_line(done, "Permission denied")
    assert every_byte(out) == before
    for path in (out, *out.rglob("*")):
        path.chmod(0o755)  # so that pytest can remove it


def test_a_data_folder_that_vanished_is_one_line(code, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(code / "bench" / "assets" / "fashion-mnist", folder)
    for path in folder.iterdir():
        path.unlink()
    one_line(job(code, tmp_path / "out", "--data", folder, backends="torch"), "data")
    folder.rmdir()
    one_line(job(code, tmp_path / "out", "--data", folder, backends="torch"), str(folder))
    assert not (tmp_path / "out").exists()


def test_a_data_folder_that_vanishes_later_is_not_missed(code, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    np.save(folder / "images.npy", np.random.default_rng(0).integers(0, 256, (3000, 28, 28), np.uint8))
    process = tree.start(code, "tests/helpers/tiny_run.py", "--backends", "torch", "--steps", 5,
                         "--data", folder / "images.npy", "--fit", 0, "--out", tmp_path / "out",
                         log=tmp_path / "log", TINY_METRIC="none")
    deadline = time.monotonic() + 200
    while not list(tmp_path.glob("out/rows/*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    shutil.rmtree(folder)
    assert process.wait(300) == 0
    assert cells(tmp_path / "out", "torch") == ALL


def test_an_output_folder_that_is_taken_away_is_one_line(code, tmp_path):
    """In the middle of training, and a file is in its place."""
    out = tmp_path / "out"
    process = tree.start(code, "tests/helpers/tiny_run.py", "--backends", "torch", "--steps", 5, "--train-steps", 600,
                         "--save-every", 0, "--out", out, log=tmp_path / "log", TINY_METRIC="none")
    deadline = time.monotonic() + 200
    while not list(out.glob("work/train-*/scratch/states/*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    out.rename(tmp_path / "away")
    out.touch()
    assert process.wait(300) == 2
    said = (tmp_path / "log").read_text().replace("\r", "\n")
    assert said.splitlines()[-1].startswith("error: ") and "Not a directory" in said and "Traceback" not in said
    rows.read(tmp_path / "away" / "rows")  # every line is whole


@pytest.mark.parametrize("number", [4, pytest.param(8, marks=pytest.mark.recorded)])
def test_many_jobs_at_once_on_one_folder_lose_no_row_and_do_no_cell_twice(code, tmp_path, number):
    """Half of one command and half of another, which share some cells."""
    base = ["tests/helpers/tiny_run.py", "--backends", "torch", "--train-steps", 10, "--out", tmp_path / "out"]
    jobs = [tree.start(code, *base, "--steps", 5 if n % 2 else "5,10", log=tmp_path / f"log{n}",
                       TINY_METRIC="none") for n in range(number)]
    assert [process.wait(900) for process in jobs] == [0] * number
    found = rows.read(tmp_path / "out" / "rows")
    assert Counter((row.kind, row.config.get("steps")) for row in found if row.backend == "torch") == {
        ("train", None): 1, ("timing", None): 2, ("sample", 5): 1, ("sample", 10): 1, ("metric", 5): 1, ("metric", 10): 1,
        ("check", None): 1}
    assert Counter(row.config["stage"] for row in found if row.backend == "torch oracle") == {
        "oracle": 2, "timed": 1, "path": 1}  # the first is one for each command
    assert sum(row.backend in ("real", "noise") for row in found) == 2
    nothing_half_written(tmp_path / "out")
