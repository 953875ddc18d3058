"""Rows survive concurrency, kills and full disks, and nothing but a valid row gets in or out."""

import contextlib
import errno
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.records import rows
from bench.records.rows import Row, RowError, append, parse, read

TIMING = {"block_seconds": [0.25, 0.5], "units_per_block": 2, "warmup_seconds": [0.5], "first_seconds": 1.0, "steady": True}
TRAIN = {"losses": [1.0], "seconds": 1.0, "first_seconds": 1.0}


def make(**changes):
    fields = {"kind": "timing", "backend": "torch", "preset": "quick", "environment": {"cores": 2}, "values": TIMING,
              "config": {"workload": "training step", "batch_size": 8, "dtype": "float32", "device": "cpu", "threads": 1},
              "commit": "abc", "created": "2025-01-01T00:00:00+00:00"}
    if isinstance(changes.get("config"), dict):
        changes["config"] = fields["config"] | changes["config"]
    return Row(**(fields | changes))


def test_a_row_comes_back_equal(tmp_path):
    path = append(tmp_path / "rows", make())
    config = {"train_steps": 1, "batch_size": 8, "seed": 0, "device": "cpu"}
    append(tmp_path / "rows", make(kind="train", config=config, values=TRAIN, created=""))
    assert path == tmp_path / "rows" / "timing.jsonl"
    back = read(tmp_path / "rows")
    assert back[0] == make() and len(back) == 2
    assert back[1].created.endswith("+00:00")


def test_a_row_that_is_there_is_not_written_again_whatever_came_after_it(tmp_path):
    for row in (make(), make(backend="mindspore"), make()):
        append(tmp_path, row, once=True)
    assert [row.backend for row in read(tmp_path)] == ["torch", "mindspore"]


def test_a_missing_folder_has_no_rows(tmp_path):
    assert read(tmp_path / "nowhere") == []


@pytest.mark.parametrize("changes, said", [
    ({"kind": "other"}, "kind='other'"), ({"backend": ""}, "backend"), ({"backend": 3}, "backend='3'"),
    ({"values": {"fid": float("nan")}}, "JSON"), ({"values": {"fid": float("inf")}}, "JSON"),
    ({"values": {"times": (1, 2)}}, "tuple"), ({"values": {1: 2}}, "string keys"), ({"values": {"path": Path("x")}}, "JSON"),
    ({"config": []}, "config"), ({"created": "yesterday"}, "created"), ({"created": "2025-01-01"}, "created"),
    ({"version": 2}, "version"), ({"version": True}, "version"),
])
def test_a_wrong_row_is_refused_before_anything_is_written(tmp_path, changes, said):
    with pytest.raises(RowError, match=said):
        append(tmp_path, make(**changes))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("line, said", [
    (b"[1]", "object"), (b"{", "not JSON"), (b"\xff", "not JSON"), (b"[" * 100_000, "not JSON"), (b"{}", "version"),
    (b'{"version": 1}', "missing or unknown"), (b'{"version": 99}', "update"), (b'{"version": 0}', "unknown"),
    (b'{"version": 1e999}', "version"), (b'{"version": NaN}', "NaN"), (b"1" * 5000, "not JSON"),
])
def test_a_wrong_line_is_named_with_its_file_and_number(tmp_path, line, said):
    append(tmp_path, make())
    with (tmp_path / "timing.jsonl").open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(RowError, match=said) as caught:
        read(tmp_path)
    assert "timing.jsonl:2:" in str(caught.value)


@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from([*Row.__dataclass_fields__]) | st.text(max_size=3), inner, max_size=9)).map(
    lambda value: json.dumps(value).encode()))
def test_any_line_gives_a_row_or_our_error(line):
    with contextlib.suppress(RowError):
        assert parse(line).line()


def test_an_older_version_is_read(monkeypatch, tmp_path):
    append(tmp_path, make())
    monkeypatch.setattr(rows, "VERSION", 2)
    monkeypatch.setitem(rows.UPGRADES, 1, lambda old: old | {"version": 2, "config": old["config"] | {"threads": 7}})
    assert [(row.version, row.config["threads"]) for row in read(tmp_path)] == [(2, 7)]


@pytest.mark.parametrize("cut", [1, 2, 100])
def test_a_torn_last_line_is_set_aside(tmp_path, cut):
    path = append(tmp_path, make())
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:-cut])
    if cut == 1:  # only the line end is missing: the row is whole
        assert len(read(tmp_path)) == 2
        assert path.read_bytes() == whole * 2
        return
    with pytest.warns(UserWarning, match="torn last line"):
        assert read(tmp_path) == [make()]
    assert path.read_bytes() == whole
    assert (tmp_path / "timing.jsonl.torn").read_bytes() == whole[:-cut] + b"\n"
    assert read(tmp_path) == [make()]  # and said once


def test_a_last_row_that_is_later_than_now_is_said(tmp_path):
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat(timespec="seconds")
    path = append(tmp_path, make(created=soon))
    with pytest.warns(UserWarning, match=f"timing.jsonl: its last row is of {re.escape(soon)}, which is later than now: a clock"):
        append(tmp_path, make(backend="mindspore"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        append(tmp_path, make(backend="jax"))
        append(tmp_path, make(created=(datetime.now(UTC) + timedelta(seconds=30)).isoformat(timespec="seconds")))
        append(tmp_path, make(backend="jax"))  # two clocks are never quite the same
        path.write_bytes(path.read_bytes() + b"{}\n")  # for `read` to name
        append(tmp_path, make())
    append(tmp_path / "more", make(created=(datetime.now(UTC) + timedelta(minutes=3)).isoformat(timespec="seconds")))
    with pytest.warns(UserWarning, match="which is later than now"):
        append(tmp_path / "more", make())


def test_append_mends_a_torn_line_first(tmp_path):
    path = append(tmp_path, make())
    with path.open("ab") as file:
        file.write(b'{"version": 1, "kind"')
    with pytest.warns(UserWarning, match="torn last line of 21 bytes"):
        append(tmp_path, make(backend="mindspore"))
    assert [row.backend for row in read(tmp_path)] == ["torch", "mindspore"]


def test_a_torn_line_that_cannot_be_moved_is_ignored_with_a_warning(tmp_path, monkeypatch):
    path = append(tmp_path, make())
    with path.open("ab") as file:
        file.write(b"torn")

    def refuse(*_):
        raise PermissionError(errno.EACCES, "read-only")

    monkeypatch.setattr(rows, "_lock", refuse)
    with pytest.warns(UserWarning, match="torn last line of 4 bytes ignored"):
        assert read(tmp_path) == [make()]
    assert path.read_bytes().endswith(b"torn")


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path):
    path = append(tmp_path, make())
    before = path.read_bytes()
    script = f"""
import resource, signal
from pathlib import Path
from bench.records.rows import RowError, append, read
from dataclasses import replace
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = Path({str(tmp_path)!r})
row = read(folder)[0]
resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) + 10}, {len(before) + 10}))
try:
    append(folder, row)
except RowError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60).stdout
    assert "timing.jsonl: row can't be written" in said
    assert path.read_bytes() == before


def _append_many(folder, process):
    for i in range(25):
        append(folder, make(config={"process": process, "i": i, "padding": "x" * 5000}))


def test_eight_processes_lose_no_row(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_append_many, args=(tmp_path, p)) for p in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 8
    got = [(row.config["process"], row.config["i"]) for row in read(tmp_path)]
    assert len(got) == 200 and set(got) == {(p, i) for p in range(8) for i in range(25)}
    assert all([i for q, i in got if q == p] == list(range(25)) for p in range(8))


def _append_forever(folder, acknowledged):
    i = 0
    while True:
        append(folder, make(config={"i": i, "padding": "x" * 20_000}))
        os.write(acknowledged, b".")
        i += 1


@pytest.mark.filterwarnings("ignore:.*torn last line")
def test_a_killed_writer_leaves_whole_rows_and_a_free_lock(tmp_path):
    context = multiprocessing.get_context("fork")
    for delay in (0.01, 0.02, 0.05):
        before = len(read(tmp_path))
        reader, writer = os.pipe()
        process = context.Process(target=_append_forever, args=(tmp_path, writer))
        process.start()
        os.close(writer)
        os.read(reader, 1)
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        process.join(30)
        acknowledged = 1
        while data := os.read(reader, 4096):
            acknowledged += len(data)
        os.close(reader)
        kept = len(read(tmp_path)) - before
        assert kept - acknowledged in (0, 1)  # a written row may miss its acknowledgement, never the reverse
