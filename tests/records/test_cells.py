"""Finished cells: used again, waited for, done again where a file is not what was written or what made them has changed."""

from __future__ import annotations

import importlib.metadata
import json
import threading
import time
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

import backends
from bench.records import cells as cells_module
from bench.records import environment, rows
from bench.records.cells import SCRATCH, SEAL, Cells, key_hash
from bench.records.rows import Row


def _row() -> Row:
    config = {"train_steps": 1, "batch_size": 8, "seed": 0, "device": "cpu"}
    return Row(kind="train", backend="torch", preset="quick", config=config, environment={}, commit="x",
               values={"losses": [1.0], "seconds": 1.0, "first_seconds": 0.5})


def test_a_finished_cell_is_used_again_and_fresh_is_not(tmp_path):
    calls: list[int] = []

    def compute(folder: Path) -> Row:
        calls.append(1)
        return _row()

    for fresh, expected in ((False, 1), (False, 1), (True, 2)):
        Cells(tmp_path, fresh).run("train", {"a": 1}, compute)
        assert len(calls) == expected
    assert len(rows.read(tmp_path / "rows")) >= 1


def test_a_row_lost_between_result_and_append_is_appended_by_the_next_run(tmp_path):
    Cells(tmp_path, False).run("train", {"a": 1}, lambda folder: _row())
    (tmp_path / "rows" / "train.jsonl").unlink()
    Cells(tmp_path, False).run("train", {"a": 1}, lambda folder: _row())
    assert len(rows.read(tmp_path / "rows")) == 1


def test_what_an_interrupted_cell_wrote_is_there_again_and_gone_when_its_row_is_safe(tmp_path):
    def interrupted(folder: Path) -> Row:
        (folder / SCRATCH / "part").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Cells(tmp_path, False).run("train", {"a": 1}, interrupted)
    seen: list[str] = []

    def finished(folder: Path) -> Row:
        seen.extend(path.name for path in (folder / SCRATCH).iterdir())
        return _row()

    cells = Cells(tmp_path, False)
    cells.run("train", {"a": 1}, finished)
    assert seen == ["part"] and not (cells.folder("train", {"a": 1}) / SCRATCH).exists()
    with pytest.raises(KeyboardInterrupt):
        Cells(tmp_path, True).run("train", {"a": 1}, interrupted)
    Cells(tmp_path, True).run("train", {"a": 1}, finished)  # --fresh starts over
    assert seen == ["part"]


def test_a_cell_that_another_run_does_is_waited_for(tmp_path):
    calls: list[int] = []

    def slow(folder: Path) -> Row:
        calls.append(1)
        time.sleep(0.5)
        return _row()

    runs = [threading.Thread(target=Cells(tmp_path, False).run, args=("train", {"a": 1}, slow)) for _ in range(3)]
    for run_ in runs:
        run_.start()
    for run_ in runs:
        run_.join(30)
    assert calls == [1] and len(rows.read(tmp_path / "rows")) == 1


def finished(tmp_path: Path) -> tuple[Path, Row]:
    """The folder of a finished cell with images, and its row."""
    def compute(folder: Path) -> Row:
        (folder / "images.npy").write_bytes(bytes(1000))
        return _row()

    cells = Cells(tmp_path, False)
    row = cells.run("train", {"a": 1}, compute)
    return cells.folder("train", {"a": 1}), row


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("harm", [flip_a_bit, lambda path: path.write_bytes(path.read_bytes()[:-1]), Path.unlink,
                                  lambda path: path.write_text("{")], ids=["flipped", "cut short", "removed", "overwritten"])
@pytest.mark.parametrize("file", ["images.npy", "result.json", SEAL])
def test_a_damaged_file_of_a_finished_cell_is_set_aside_and_the_cell_done_again(tmp_path, file, harm):
    folder, row = finished(tmp_path)
    harm(folder / file)
    damaged = (folder / file).read_bytes() if (folder / file).exists() else None
    calls = []

    def compute(place: Path) -> Row:
        calls.append(place)
        (place / "images.npy").write_bytes(bytes(1000))
        return row

    cells = Cells(tmp_path, False)
    assert not cells.done("train", {"a": 1}) and not calls
    if file == SEAL and damaged is None:  # as after a kill just before it was written
        assert cells.run("train", {"a": 1}, compute) == row
    else:
        with pytest.warns(UserWarning, match=f"{folder / file}: does not match its SHA-256: kept as {file}.damaged"):
            assert cells.run("train", {"a": 1}, compute) == row
    assert calls == [folder] and (folder / "images.npy").read_bytes() == bytes(1000)
    if damaged is not None:
        assert (folder / f"{file}.damaged").read_bytes() == damaged
    assert Cells(tmp_path, False).done("train", {"a": 1})
    assert rows.read(tmp_path / "rows") == [row], "the same row is not appended again"


@pytest.mark.parametrize("name", ["", "..", "../../theirs.txt", "x" * 5000, "a\0b"])
def test_a_seal_that_names_other_places_moves_nothing_there(tmp_path, name):
    folder, row = finished(tmp_path)
    theirs = tmp_path / "theirs.txt"
    theirs.write_text("theirs")
    (folder / SEAL).write_text(json.dumps({name: "0" * 64}))
    with pytest.warns(UserWarning, match="does not match its SHA-256"):
        assert Cells(tmp_path, False).run("train", {"a": 1}, lambda _: row) == row
    assert theirs.read_text() == "theirs" and Cells(tmp_path, False).done("train", {"a": 1})


def test_a_file_that_the_cell_did_not_write_is_set_aside(tmp_path):
    folder, row = finished(tmp_path)
    (folder / "weights.npz").write_bytes(b"foreign")
    with pytest.warns(UserWarning, match="weights.npz: does not match"):
        Cells(tmp_path, False).run("train", {"a": 1}, lambda _: row)


def test_the_name_of_a_cell_covers_versions_and_machine(monkeypatch):
    """Everything that `describe` says changes the name, but for what is listed here with a reason."""
    no_matter = {
        "load_average": "changes by the second", "governor": "a matter of speed, which the row has",
        "cores": "those in use are `affinity`", "usable_cores": "follows from affinity and quota",
        "memory_bytes": "decides no bit", "commit": "the code's hash covers it",
        "variables": "workers set their own; threads are in the key"}
    before = {name: value for name, value in environment.describe().items()}
    environment.identity.cache_clear()
    key = {"backend": "torch"}
    name = key_hash(key)
    for field in before:
        other = {"versions": {**before["versions"], "torch": "0"}, "gpu": ["a card, 1.0, 5 MHz"]}.get(field, "another")
        monkeypatch.setattr(environment, "describe", lambda field=field, other=other: before | {field: other})
        environment.identity.cache_clear()
        assert (key_hash(key) == name) == (field in no_matter), field
    monkeypatch.setattr(environment, "describe", lambda: before | {"cpu": "another"})
    environment.identity.cache_clear()
    many = {"backend": "torch", "processes": 2}
    shared = key_hash(many)
    monkeypatch.setattr(environment, "describe", lambda: before)
    environment.identity.cache_clear()
    assert key_hash(many) == shared, "processes of one job may run on machines of two kinds"


def test_the_name_of_a_cell_covers_an_outside_backends_files(tmp_path, monkeypatch):
    package = tmp_path / "my_port"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "backend.py").write_text("x = 1")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(backends, "_outside", lambda: {"port": importlib.metadata.EntryPoint("port", "my_port.backend", "group")})
    names = set()
    for file, text in (("backend.py", "x = 1"), ("backend.py", "x = 2"), ("kernel.cu", "y")):
        (package / file).write_text(text)
        cells_module.outside_hash.cache_clear()
        names.add(key_hash({"backend": "torch port"}))
    assert len(names) == 3
    (package / "kernel.cu").rename(package / "other.cu")
    cells_module.outside_hash.cache_clear()
    assert key_hash({"backend": "torch port"}) not in names
    cells_module.outside_hash.cache_clear()
    assert key_hash({"backend": "torch"}) == key_hash({"backend": "torch"}) and cells_module.outside_hash("torch") == ""


def test_the_hash_of_the_code_covers_what_decides_a_result_and_not_what_reads_it(tmp_path, monkeypatch):
    """A page that is worded anew leaves finished cells as they are."""
    places = ("reference/unet.py", "backends/torch/backend.py", "bench/streams.py", "bench/metric/fid.py", "bench/job/job.py",
              "bench/sampling/loop.py", "bench/run.py", "bench/cli/run.py", "bench/report/measures.py", "bench/report/html/page.py")
    for place in places:
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text("old")
    monkeypatch.setattr(cells_module, "ROOT", tmp_path)
    before, covered = cells_module.code_hash.__wrapped__(), []
    for place in places:
        (tmp_path / place).write_text("new")
        covered += [place] if cells_module.code_hash.__wrapped__() != before else []
        (tmp_path / place).write_text("old")
    assert tuple(covered) == places[:6]
    (tmp_path / "bench/streams.py").rename(tmp_path / "bench/other.py")
    assert cells_module.code_hash.__wrapped__() != before


def test_what_a_killed_writer_left_beside_a_finished_cell_does_not_damage_it(tmp_path):
    folder, _ = finished(tmp_path)
    for left in ("features.npy.1a2b3c4d-1.part", "images.npy.damaged"):
        (folder / left).touch()
    assert Cells(tmp_path, False).done("train", {"a": 1})


def test_a_cell_that_is_done_afresh_is_not_finished_before_it_ends(tmp_path):
    def interrupted(folder: Path) -> Row:
        raise KeyboardInterrupt

    finished(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        Cells(tmp_path, True).run("train", {"a": 1}, interrupted)
    assert not Cells(tmp_path, False).done("train", {"a": 1})


def test_a_folder_that_cells_share_is_for_one_run_at_a_time(tmp_path):
    with Cells(tmp_path, False).shared("timing") as folder, pytest.raises(Timeout):
        FileLock(folder / ".lock", timeout=0).acquire()
