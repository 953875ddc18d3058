"""Files and folders that are there whole or not at all, also where two processes write the same one."""

import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest

from bench import files
from bench.paths import ROOT


def write_often(path, letter):
    for _ in range(40):
        with files.replacing(path) as file:
            file.write(letter * 5000)


def test_two_processes_that_write_one_file_do_not_disturb_each_other(tmp_path):
    path, context = tmp_path / "page.md", multiprocessing.get_context("fork")
    writers = [context.Process(target=write_often, args=(path, letter)) for letter in (b"a", b"b")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(300)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert path.read_bytes() in (b"a" * 5000, b"b" * 5000) and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("ends", [KeyboardInterrupt, SystemExit, ValueError])
def test_a_writer_that_is_interrupted_leaves_the_old_file_alone(tmp_path, ends):
    (tmp_path / "page.md").write_text("old")
    with pytest.raises(ends), files.replacing(tmp_path / "page.md") as file:
        file.write(b"half")
        raise ends
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"page.md": "old"}


def replace_folder(path, n):
    with files.replacing_folder(path) as part:
        (part / "number").write_text(str(n))


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="needs a system that exchanges names")
def test_a_folder_that_is_replaced_can_be_read_at_every_moment(tmp_path):
    path, absent, done = tmp_path / "pipeline", [], threading.Event()
    replace_folder(path, 0)

    def read():
        while not done.is_set():
            if not path.exists():
                absent.append(True)

    reader = threading.Thread(target=read)
    reader.start()
    for n in range(60):
        replace_folder(path, n)
    done.set()
    reader.join()
    assert not absent and (path / "number").read_text() == "59" and list(tmp_path.iterdir()) == [path]


def test_a_system_that_cannot_exchange_names_replaces_in_two_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_exchanged", lambda a, b: False)
    for n in range(3):
        replace_folder(tmp_path / "pipeline", n)
    assert (tmp_path / "pipeline" / "number").read_text() == "2" and len(list(tmp_path.iterdir())) == 1


def test_what_a_killed_process_left_is_removed_and_what_another_one_writes_is_not(tmp_path):
    path, context = tmp_path / "page.md", multiprocessing.get_context("fork")
    gone = context.Process(target=lambda: None)
    gone.start()
    gone.join()
    here = files._part(path).name.partition(f"{os.getpid()}")[0]
    left, live, foreign = (tmp_path / f"{name}.part" for name in (f"{here}{gone.pid}", f"{here}{os.getppid()}", "page.md.0-1"))
    for each in (left, live, foreign):
        each.touch()
    with files.replacing(path) as file:
        file.write(b"x")
    assert not left.exists() and live.exists() and foreign.exists()


HOLD = """
import sys
from bench import files
with files.temporary_folder() as folder:
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_the_folders_of_killed_runs_are_swept_and_those_of_living_ones_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / f"{files.TEMPORARY}strange").mkdir()  # without a lock it is none of ours
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / files.LOCK).touch()
    (tmp_path / f"{files.TEMPORARY}link").symlink_to(tmp_path / "far")
    runs = [subprocess.Popen([sys.executable, "-c", HOLD], cwd=ROOT, env={**os.environ, "TMPDIR": str(tmp_path)}, text=True,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)]
    killed, living = (Path(run.stdout.readline().strip()) for run in runs)
    (killed / "log").write_text("half")
    runs[0].kill()
    runs[0].wait()
    assert killed.exists()
    with files.temporary_folder() as own:
        assert own.parent == tmp_path and not killed.exists() and living.exists()
    assert not own.exists() and (tmp_path / "far" / files.LOCK).exists() and (tmp_path / f"{files.TEMPORARY}strange").exists()
    runs[1].communicate("")
    assert not living.exists()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_folder_that_was_taken_for_a_dead_ones_is_made_again(tmp_path, monkeypatch, moment):
    """Another process sweeps between the making of the folder and its lock, or while the lock is waited for."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    swept = []

    class Late(files.FileLock):
        def acquire(self, *args, **more):
            if swept:
                return super().acquire(*args, **more)
            swept.append(Path(self.lock_file).parent)
            out = super().acquire(*args, **more) if moment == "after" else None
            shutil.rmtree(swept[0])
            return out or os.open(self.lock_file, os.O_CREAT)  # as filelock opens it

    monkeypatch.setattr(files, "FileLock", Late)
    with files.temporary_folder() as own:
        assert own != swept[0] and own.exists() and not swept[0].exists()


def test_rows_that_several_write_are_one_file_whatever_their_order(tmp_path):
    whole = np.arange(30, dtype=np.float32).reshape(10, 3)
    files.write_rows(tmp_path / "a.npy", whole[2:6], 2, 10)
    size = (tmp_path / "a.npy").stat().st_size  # its last one from the start
    files.write_rows(tmp_path / "a.npy", whole[6:], 6, 10)
    files.write_rows(tmp_path / "a.npy", whole[:2], 0, 10)
    assert np.array_equal(np.load(tmp_path / "a.npy"), whole) and (tmp_path / "a.npy").stat().st_size == size
    files.write_rows(tmp_path / "a.npy", -whole[2:4], 2, 10)
    assert np.array_equal(np.load(tmp_path / "a.npy")[:, 0], [0, 3, -6, -9, 12, 15, 18, 21, 24, 27])


def test_a_text_has_a_limit_and_is_utf_8(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_TEXT", 1 << 20)
    path = tmp_path / "a.txt"
    path.write_bytes(b"a" * (1 << 20))
    assert len(files.read_text(path)) == 1 << 20
    path.write_bytes(b"a" * (1 << 20) + b"a")
    with pytest.raises(files.FileError, match="a.txt: is larger than 1 MiB"):
        files.read_text(path)
    path.write_bytes(b"\xff")
    with pytest.raises(files.FileError, match="a.txt: is no UTF-8 text"):
        files.read_text(path)


def test_what_is_written_is_synced_before_it_gets_its_name_and_the_folder_of_the_name_after(tmp_path, monkeypatch):
    """Else a power cut leaves the new name with an empty file."""
    done, sync, rows = [], files.sync, np.zeros((2, 3), np.float32)
    monkeypatch.setattr(files, "sync", lambda path: done.append(path.name.partition(".")[0]) or sync(path))
    for name, real in (("replace", os.replace), ("rename", os.rename)):
        monkeypatch.setattr(os, name, lambda *paths, real=real: done.append("named") or real(*paths))
    with files.replacing(tmp_path / "a.md") as file:
        file.write(b"x")
    assert done == ["a", "named", tmp_path.name]
    done.clear()
    with files.replacing_folder(tmp_path / "net.d") as part:
        (part / "unet").mkdir()
        (part / "unet" / "weights").touch()
    assert sorted(done[:3]) == ["net", "unet", "weights"] and done[3:] == ["named", tmp_path.name]
    monkeypatch.setattr(os, "fsync", lambda handle: done.append(os.fstat(handle).st_size))
    files.write_rows(tmp_path / "a.npy", rows, 0, 2)
    assert done[-1] == (tmp_path / "a.npy").stat().st_size


def test_a_part_is_left_to_its_machine_and_to_a_process_that_is_anothers(tmp_path, monkeypatch):
    """A folder is removed with what is in it, whatever its name."""
    path, parts = tmp_path / "net[1]", []
    for machine in ("one", "two"):
        monkeypatch.setattr(files.platform, "node", lambda machine=machine: machine)
        parts.append(files._part(path))
    (left := parts[1].with_name(parts[1].name.replace(f"-{os.getpid()}.", "-4194305."))).mkdir()
    (left / "half").touch()

    def kill(error):
        raise error

    for error, stays in ((PermissionError, True), (ProcessLookupError, False)):
        monkeypatch.setattr(os, "kill", lambda *_, error=error: kill(error))
        files._part(path)
        assert left.exists() == stays
    assert parts[0] != parts[1]


def test_a_pipe_is_no_plain_file(tmp_path):
    """Which whoever opened it would wait for."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(files.FileError, match="pipe: is a pipe, a socket or a device; it must be a plain file"):
        files.require_file(tmp_path / "pipe")
    assert files.require_file(tmp_path) == tmp_path and files.require_file(tmp_path / "none") == tmp_path / "none"
