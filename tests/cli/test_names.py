"""Names and files that do harm: refused in one line before any work, and shown in one line."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench import files
from bench.cli.main import main
from bench.data import datasets
from bench.paths import CHECKPOINTS, ROOT, printable
from bench.records import rows
from bench.records.values import Noise

SMALL = CHECKPOINTS / "fmnist-small"


@pytest.mark.parametrize("words", [["train", "--train-steps", "300", "--save"], ["convert", str(SMALL)]])
@pytest.mark.parametrize("place", ["", ".", "..", "/", "../here"])
def test_a_command_never_replaces_the_folder_that_the_user_is_in(words, place, tmp_path, monkeypatch, capsys):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert main([*words, place]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and ("must be a folder of its own" in said or "must not be empty" in said), said
    assert list(tmp_path.rglob("*")) == [tmp_path / "here"]


@pytest.mark.parametrize("words", [["run"], ["train", "--train-steps", "300", "--save", "x"], ["recipe", "mnist-scratch"]])
def test_the_root_of_all_files_is_no_data(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--data", "/"]) == 2
    assert capsys.readouterr().err == "error: --data: '/': must not be the root of all files\n"


@pytest.mark.parametrize("words", [["train", "--train-steps", "300", "--save", "x", "--data"],
                                   ["sample", "--weights", str(SMALL), "--grid", "a.png", "--encode"]])
def test_one_picture_is_no_set_of_images(words, tmp_path, monkeypatch, capsys):
    """It was called no zip file."""
    monkeypatch.chdir(tmp_path)
    Image.new("L", (28, 28)).save("one.png")
    assert main([*words, "one.png"]) == 2
    assert capsys.readouterr().err == "error: one.png: is no folder and no .npz or .npy file\n"


@pytest.mark.parametrize("name, value", [("backends", ""), ("backends", "."), ("backends", "/"), ("grid", "."), ("save", "/"),
                                         ("save", ""), ("grid", "a.jpg"), ("save", "a.png"), ("gif", "a.png"), ("save", "a.mat")])
def test_a_name_that_promises_nothing_or_another_format_is_refused(name, value, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["run"] if name == "backends" else ["sample", "--weights", str(SMALL)]
    assert main([*command, f"--{name}", value]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"--{name}=" in said and not list(tmp_path.iterdir())


def test_saved_images_are_what_their_name_says_and_can_be_read_again(tmp_path, capsys):
    for name in ("a.npy", "a.npz", "A.NPZ"):
        assert main(["sample", "--weights", str(SMALL), "--samples", "2", "--steps", "1", "--save", str(tmp_path / name)]) == 0
        train, test = datasets.load_images(tmp_path / name, (1, 28, 28))
        assert len(train) == len(test) == 1
    assert (tmp_path / "a.npz").read_bytes().startswith(b"PK") and (tmp_path / "a.npy").read_bytes().startswith(b"\x93NUMPY")


def test_a_folder_name_that_is_no_utf8_is_refused_before_any_work(tmp_path):
    """As an old archive leaves it: caf\\xe9 in Latin-1."""
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    for n in range(4):
        Image.fromarray(np.full((28, 28), n, np.uint8)).save(os.fsdecode(folder + b"/%d.png" % n))
    words = ["run", "--preset", "smoke", "--out", str(tmp_path / "out"), "--data", folder]
    done = subprocess.run([sys.executable, "-m", "bench", *words], cwd=ROOT, capture_output=True, timeout=120)
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1 and b"must be UTF-8" in done.stderr, done.stderr
    assert not (tmp_path / "out").exists()
    found = datasets.load_images(tmp_path / os.fsdecode(b"caf\xe9"), (1, 28, 28))  # by the library: its name as escapes
    assert found[0].provenance.startswith("images of caf\\udce9, train (2 of 4)")


def test_control_characters_in_names_stay_in_one_line(tmp_path, capsys):
    name = "a\nb\x1b[31m\u202e"
    (tmp_path / name).mkdir()
    for n in range(4):
        Image.fromarray(np.full((28, 28), n, np.uint8)).save(tmp_path / name / f"{n}.png")
    assert "images of a\\nb\\x1b[31m\\u202e, train" in datasets.load_images(tmp_path / name, (1, 28, 28))[0].provenance
    (tmp_path / name / "0.png").write_bytes(b"")
    (tmp_path / name / "x\ny.txt").write_bytes(b"")
    for words in (["run", "--data", str(tmp_path / name)], ["sample", "--grid", "a.png", "--weights", str(tmp_path / name)],
                  ["run", f"--{name}"]):
        assert main(words) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and said[:-1].isprintable() and "a\\nb\\x1b[31m\\u202e" in said, said
    words = ["sample", "--weights", str(SMALL), "--samples", "1", "--steps", "1"]
    assert main([*words, "--save", str(tmp_path / name / "x.npy")]) == 0
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and said[:-1].isprintable() and "a\\nb\\x1b[31m\\u202e" in said, said
    assert printable("caf\u00e9 \u56fe\u50cf \U0001f600") == "caf\u00e9 \u56fe\u50cf \U0001f600"


@pytest.mark.parametrize("words", [["run", "--dry-run=plan", "--data"], ["train", "--train-steps", "300", "--save"],
                                   ["convert", str(SMALL)], ["sample", "--grid", "a.png", "--weights"], ["report", "--out"]])
def test_a_link_that_leads_to_itself_is_one_line(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    assert main([*words, "loop"]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and [path.name for path in tmp_path.iterdir()] == ["loop"]


def pipe(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    return path


def device(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")
    return path


INPUTS = {
    "images": ("x.npy", ["run", "--data", "x.npy"]), "arrays": ("x.npz", ["run", "--data", "x.npz"]),
    "one of many images": ("set/x.png", ["run", "--data", "set"]),
    "kept images": ("x.npy", ["study", "neighbours", "--images", "x.npy"]),
    "noise": ("x.npy", ["study", "noise", "--images", "a=x.npy"]),
    "weights": ("x.pth", ["sample", "--grid", "a.png", "--weights", "x.pth"]),
    "safetensors": ("x.safetensors", ["sample", "--grid", "a.png", "--weights", "x.safetensors"]),
    "a config": ("net/unet/config.json", ["sample", "--grid", "a.png", "--weights", "net"]),
    "an index": ("net/model_index.json", ["sample", "--grid", "a.png", "--weights", "net"]),
    "weights of a folder": ("net/unet/diffusion_pytorch_model.safetensors", ["sample", "--grid", "a.png", "--weights", "net"]),
    "a record": ("net/training.json", ["train", "--train-steps", "300", "--save", "new", "--weights", "net"]),
    "losses": ("net/loss.csv", ["train", "--train-steps", "300", "--save", "new", "--weights", "net"]),
    "Inception's weights": ("x.pth", ["run", "--metric", "inception", "--inception-weights", "x.pth"]),
    "a metric of one's own": ("x.safetensors", ["fid", "a", "b", "--metric", "x.safetensors"]),
    "rows": ("out/rows/metric.jsonl", ["report", "--out", "out"]),
    "a data set's file": ("set/train-images-idx3-ubyte.gz", ["run", "--data", "set", "--dataset", "mnist"]),
}


def used():
    """Bytes of address space."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


@pytest.mark.parametrize("make", [pipe, device])
@pytest.mark.parametrize("case", INPUTS)
def test_pipes_and_devices_are_refused_unopened(case, make, tmp_path, monkeypatch, capsys):
    """A pipe without a writer would be waited for, and /dev/zero fills all memory."""
    name, words = INPUTS[case]
    monkeypatch.chdir(tmp_path)
    if name.startswith("net/"):
        shutil.copytree(SMALL, "net")
    if name.startswith("set/"):
        os.mkdir("set")
        Image.fromarray(np.zeros((28, 28), np.uint8)).save("set/0.png")
    where = make(tmp_path / name)
    before = sorted(tmp_path.rglob("*"))
    code = []
    worker = threading.Thread(target=lambda: code.append(main(words)), daemon=True)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used() + (2 << 30), limits[1]))
    try:
        worker.start()
        worker.join(60)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert code == [2], code or "it waits, or took all memory"
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and where.name in said and sorted(tmp_path.rglob("*")) == before, said


def test_a_plain_file_passes(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    for name in ("a", "b", "missing", "."):
        assert files.require_file(tmp_path / name) == tmp_path / name


def test_no_page_has_html_from_a_row(tmp_path):
    """A name such as <script> is text on Markdown pages as in report.html; a stranger's rows are shown beside one's own."""
    script = "<script>x</script>"
    (tmp_path / "rows").mkdir()
    with (tmp_path / "rows" / "study.jsonl").open("w") as file:
        for row in rows.studies(rows.read(ROOT / "results" / "rows"), Noise):
            spoilt = {key: value + script for key, value in row.config.items() if isinstance(value, str) and key != "study"}
            file.write(replace(row, config=row.config | spoilt).line() + "\n")
    assert main(["report", "--out", str(tmp_path)]) == 0
    pages = {path.name: path.read_text() for path in tmp_path.iterdir() if path.is_file()}
    assert {"noise.md", "report.html"} <= pages.keys() and not [name for name, text in pages.items() if script in text]
    assert pages["noise.md"].count("&lt;script>x") > 3


def test_markdown_pages_are_written_by_the_one_function_that_escapes(tmp_path):
    assert files.write_page(tmp_path / "a.md", "`<b>` | <img src=x>").read_text() == "`&lt;b>` | &lt;img src=x>"
    writers = [path for path in (ROOT / "bench").rglob("*.py") if re.search(r'replacing\([^)]*\.md"', path.read_text())]
    assert not writers
