"""Every reader of strangers' files on a few broken ones, and a hundred mistyped command lines; results/fuzz.md has whole runs."""

from __future__ import annotations

import pytest

from reference.config import ConfigError

pytest.importorskip("torch")
from tests.helpers import fuzz_commands, fuzz_readers  # noqa: E402
from tests.helpers.fuzz_readers import Fault, Reader, fuzz  # noqa: E402

PATIENCE = 60.0  # seconds of CPU time, which no input takes on any machine
LINES = 100


@pytest.mark.parametrize("name", fuzz_readers.READERS)
def test_broken_files_are_read_or_refused_in_one_line(name, tmp_path):
    inputs = 5 if name == "report" else 20
    count = fuzz(name, tmp_path, range(inputs), seconds=PATIENCE)
    assert count.read + count.refused == inputs


def fails(error: Exception) -> Reader:
    def read(content: int) -> None:
        raise error
    return Reader(lambda rng: rng.randrange(9), read)


@pytest.mark.parametrize("reader, said", [
    (fails(KeyError("weight_map")), r"broken 3 \(seed 0\): KeyError: 'weight_map'"),
    (fails(MemoryError()), "MemoryError"),
    (fails(ConfigError("a: must\nbe")), "not one line: 'a: must"),
    (fails(ConfigError("a" * 30_000)), "not one line"),
    (Reader(lambda rng: 0, lambda content: sum(range(200_000))), r"broken 3 \(seed 0\): 0\.\d s"),
], ids=["another exception", "out of memory", "two lines", "a page", "slow"])
def test_a_reader_at_fault_is_named_with_its_input(reader, said, tmp_path, monkeypatch):
    monkeypatch.setitem(fuzz_readers.READERS, "broken", lambda folder: reader)
    with pytest.raises(Fault, match=said):
        fuzz("broken", tmp_path, [3], seconds=1e-4)


def test_mistyped_command_lines_end_with_one_line(tmp_path):
    with fuzz_commands.harmless(tmp_path):
        ends = [fuzz_commands.give(number)[1] for number in range(LINES)]
    assert set(ends) == {"0", "2", "begun"} and ends.count("2") > LINES / 3, ends


def test_a_command_line_at_fault_is_named(tmp_path, monkeypatch):
    def fails(*_):
        raise KeyError("x")

    said = r"line \d+ \(seed 0\): \[.*exit code 1: .error: KeyError"
    with fuzz_commands.harmless(tmp_path), pytest.raises(AssertionError, match=said):
        monkeypatch.setattr("bench.cli.main.importlib.import_module", fails)
        for number in range(LINES):
            fuzz_commands.give(number)
