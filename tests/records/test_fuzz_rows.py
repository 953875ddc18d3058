"""Result files from strangers: every one is read right or refused with `RowError`, and none loses a byte."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.records.cells import Cells
from bench.records.rows import Row, RowError, append, parse, read
from tests.helpers.fuzz import damaged, fuzz

ROW = Row(kind="timing", backend="torch", preset="quick", commit="abc", environment={"cores": 2, "gpu": None},
          config={"workload": "sampling step", "batch_size": 8, "dtype": "float32", "device": "cpu", "threads": 1},
          values={"block_seconds": [0.25, 1e-3], "units_per_block": 2, "warmup_seconds": [0.5], "first_seconds": 1.0,
                  "steady": True},
          created="2025-01-01T00:00:00+00:00")
LINE = ROW.line().encode()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3), max_leaves=8)


@st.composite
def changed(draw):
    """A row whose fields were removed, renamed, or given other JSON."""
    fields = asdict(ROW)
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(sorted(asdict(ROW))))
        value = fields.pop(name, None)
        action = draw(st.sampled_from(("drop", "rename", "replace", "nest")))
        if action == "rename":
            fields[draw(st.text(max_size=4))] = value
        elif action == "replace":
            fields[name] = draw(JSON)
        elif action == "nest":
            fields[name] = {"deep": "@"}
    text = json.dumps(fields)
    depth = draw(st.sampled_from((1, 50, 300, 1000, 20_000)))
    bracket = draw(st.sampled_from(("[]", "{}")))
    deep = "[" * depth + "]" * depth if bracket == "[]" else '{"a":' * depth + "1" + "}" * depth
    number = draw(st.sampled_from(("1e999", "-0", "NaN", "Infinity", "9" * 5000, '"\\ud800"', "1" * 400)))
    return text.replace('"@"', draw(st.sampled_from((deep, number)))).encode()


@given(damaged(LINE) | changed() | st.binary(max_size=200))
@fuzz()
def test_any_line_is_a_row_or_our_error(line):
    with contextlib.suppress(RowError):
        row = parse(line)
        assert parse(row.line().encode()) == row
        row.line().encode().decode("ascii")


@given(damaged(b"\n".join([LINE, LINE.replace(b"torch", b"mindspore"), LINE]) + b"\n", most=6) | st.binary(max_size=300))
@fuzz()
def test_any_file_is_read_or_refused_and_loses_no_byte(content):
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(name) / "timing.jsonl"
        path.write_bytes(content)
        added = b""
        with contextlib.suppress(RowError):
            found = read(Path(name))
            assert read(Path(name)) == found
            append(Path(name), ROW)
            added = LINE + b"\n"
            assert read(Path(name)) == [*found, ROW]
        torn = path.with_name("timing.jsonl.torn")
        kept = path.read_bytes()
        assert kept.endswith(added)
        aside = torn.read_bytes() if torn.exists() else b""
        assert (kept.removesuffix(added) + aside).removesuffix(b"\n") == content.removesuffix(b"\n")


@given(damaged(LINE) | changed())
@fuzz()
def test_any_finished_cell_is_used_or_done_again(content):
    with tempfile.TemporaryDirectory() as name:
        cells, key = Cells(Path(name), fresh=False), {"a": 1}
        cells.run("timing", key, lambda _: ROW)
        (cells.folder("timing", key) / "result.json").write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            again = Cells(Path(name), fresh=False)
            assert again.run("timing", key, lambda _: ROW) == ROW
        assert again.reused == (content == LINE) and read(Path(name) / "rows") == [ROW]


def test_a_pipe_or_folder_in_place_of_a_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "timing.jsonl")
    with pytest.raises(RowError, match="regular file"):
        read(tmp_path)
    (tmp_path / "timing.jsonl").unlink()
    (tmp_path / "timing.jsonl").mkdir()
    with pytest.raises(RowError, match="regular file"):
        read(tmp_path)
