"""How many cores a process may use, on systems and in containers that this machine is not."""

import json
import os
import subprocess

import pytest

from bench.cli.launch import Launch
from bench.records import environment


@pytest.fixture
def cgroup(tmp_path, monkeypatch):
    """write(path, text): a file among the container's limits, of which there are none at first."""
    monkeypatch.setattr(environment, "CGROUP", str(tmp_path))

    def write(path, text):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)

    return write


def of_affinity(monkeypatch, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)


def test_the_affinity_counts(cgroup, monkeypatch):
    of_affinity(monkeypatch, 3)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert environment.usable_cores() == 3


@pytest.mark.parametrize("count, cores", [(10, 10), (None, 1)])
def test_without_affinity_every_core_counts(cgroup, monkeypatch, count, cores):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # as on macOS
    monkeypatch.setattr(os, "cpu_count", lambda: count)
    assert environment.usable_cores() == cores
    about = environment.describe()
    assert about["usable_cores"] == cores and about["affinity"] is None
    assert Launch("torch", 0, 2, 2).threads == max(1, cores // 2)


@pytest.mark.parametrize("text, cores", [
    ("max 100000\n", 8), ("150000 100000\n", 1), ("400000 100000\n", 4), ("50000 100000\n", 1), ("399999 100000\n", 3),
    ("100000 50000\n", 2), ("1600000 100000\n", 8), ("", 8), ("max\n", 8),
])
def test_a_quota_of_cgroup_v2_caps_them(cgroup, monkeypatch, text, cores):
    of_affinity(monkeypatch, 8)
    cgroup("cpu.max", text)
    assert environment.usable_cores() == cores


@pytest.mark.parametrize("quota, period, cores", [
    ("-1\n", "100000\n", 8), ("150000\n", "100000\n", 1), ("250000\n", "100000\n", 2), ("20000\n", "100000\n", 1),
    ("400000\n", None, 8),
])
def test_a_quota_of_cgroup_v1_caps_them(cgroup, monkeypatch, quota, period, cores):
    of_affinity(monkeypatch, 8)
    cgroup("cpu/cpu.cfs_quota_us", quota)
    if period:
        cgroup("cpu/cpu.cfs_period_us", period)
    assert environment.usable_cores() == cores


def test_a_quota_caps_where_there_is_no_affinity(cgroup, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    cgroup("cpu.max", "300000 100000\n")
    assert environment.usable_cores() == 3


def test_the_row_holds_cores_affinity_and_quota(cgroup, monkeypatch):
    of_affinity(monkeypatch, 4)
    cgroup("cpu.max", "250000 100000\n")
    about = json.loads(json.dumps(environment.describe()))
    assert (about["usable_cores"], about["affinity"], about["quota"]["cpu"]) == (2, 4, "250000 100000")


def test_a_system_without_proc_and_nvidia_still_has_a_description(cgroup, monkeypatch):
    monkeypatch.setattr(environment, "_text", lambda path: None)
    monkeypatch.setattr(environment, "_output", lambda *command, **_: "Apple M3" if command[0] == "sysctl" else None)
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    about = environment.describe()
    assert about["cpu"] == "Apple M3" and about["cpu_flags"] == [] and about["libc"] is None and about["commit"] == "unknown"
    assert about["memory_bytes"] > 0 and about["usable_cores"] >= 1


def git(folder, *words):
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_is_that_of_this_project_or_unknown(tmp_path, monkeypatch):
    """Sources inside somebody's repository, and variables that point git to another one."""
    theirs, ours = tmp_path / "theirs", tmp_path / "theirs" / "ours"
    ours.mkdir(parents=True)
    git(theirs, "init", "-q")
    (theirs / "a.py").touch()
    git(theirs, "add", ".")
    git(theirs, "commit", "-qm", "theirs")
    monkeypatch.setattr(environment, "ROOT", ours)
    assert environment.commit() == "unknown"
    git(ours, "init", "-q")
    (ours / "bench").mkdir()
    (file := ours / "bench" / "b.py").touch()
    git(ours, "commit", "-qm", "of someone who unpacked the sources here", "--allow-empty")
    assert environment.commit() == "unknown"  # it does not have them
    (ours / "results").mkdir()
    (page := ours / "results" / "page.md").touch()
    git(ours, "add", ".")
    git(ours, "commit", "-qm", "ours")
    head = git(ours, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(theirs / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(theirs))
    assert environment.commit() == head
    page.write_text("what a run writes is no change of the code")
    (ours / "bench" / "notes.txt").write_text("nor what is no part of it")
    assert environment.commit() == head
    file.write_text("changed")
    assert environment.commit() == f"{head}+dirty"


@pytest.mark.parametrize("info, flags", [
    ("flags\t\t: fpu sse4_2 avx avx2\nmodel name : A\n", ["sse4_2", "avx", "avx2"]),
    ("Features : fp asimd sve\n", ["asimd", "sve"])])
def test_the_flags_of_intel_and_arm_are_read(monkeypatch, info, flags):
    text = environment._text
    monkeypatch.setattr(environment, "_text", lambda path: info if path == "/proc/cpuinfo" else text(path))
    assert environment.describe()["cpu_flags"] == flags


def test_the_limit_of_memory_is_that_of_cgroup_v2_or_else_v1(cgroup):
    cgroup("memory/memory.limit_in_bytes", "1000\n")
    assert environment._quota()["memory"] == "1000"
    cgroup("memory.max", "2000\n")
    assert environment._quota()["memory"] == "2000"


def test_a_cards_clock_and_memory_name_no_other_machine(monkeypatch):
    """Its clock now is another number with every look."""
    found = environment.describe()
    names = []
    for clock in ("1980 MHz", "345 MHz"):
        monkeypatch.setattr(environment, "describe", lambda clock=clock: found | {"gpu": [f"H100, 550.1, {clock}, 1980 MHz"]})
        names.append(environment.identity.__wrapped__())
    assert names[0] == names[1] and names[0]["gpu"] == [["H100", " 550.1"]]


def test_a_card_is_asked_for_its_name_and_its_driver_first(monkeypatch):
    """Which `identity` keeps; each card is a line."""
    asked = []
    monkeypatch.setattr(environment, "_output", lambda *command, **_: asked.append(command) or "A, 1\nB, 2")
    assert environment._gpu() == ["A, 1", "B, 2"] and "--query-gpu=name,driver_version," in asked[0][1]
