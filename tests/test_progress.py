"""A bar on a terminal, and one line a stage where stderr is a file."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path

from bench.paths import CHECKPOINTS, ROOT
from bench.progress import tracked

WORDS = [sys.executable, "-m", "bench", "sample", "--weights", str(CHECKPOINTS / "fmnist-small"), "--samples", "8",
         "--sample-batch", "1", "--steps", "5", "--grid"]


def test_a_log_file_gets_one_line_a_stage(tmp_path):
    with (tmp_path / "log").open("w") as log:
        subprocess.run([*WORDS, str(tmp_path / "a.png")], cwd=ROOT, stderr=log, stdout=log, check=True, timeout=120)
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) <= 3 and not re.search(r"\r|%\||it/s", (tmp_path / "log").read_text()), lines


def test_a_terminal_gets_a_bar(tmp_path):
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    with subprocess.Popen([*WORDS, str(tmp_path / "a.png")], cwd=ROOT, stderr=theirs) as process:
        os.close(theirs)
        said = b""
        while True:
            try:
                said += os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
        assert process.wait(120) == 0
    os.close(ours)
    assert b"100%|" in said


def test_what_is_disabled_or_short_says_nothing(capsys):
    assert list(tracked(range(3), desc="three")) == [0, 1, 2]
    assert capsys.readouterr().err == "three\n"
    for how in ({"desc": "three", "disable": True}, {"desc": "three", "delay": 5}, {}):
        assert list(tracked(range(3), **how)) == [0, 1, 2]
    with tracked(total=3, desc="", mininterval=2) as bar:
        bar.update(3 - bar.n)
    assert capsys.readouterr().err == ""


def test_there_is_one_helper():
    users = [path.name for path in (ROOT / "bench").rglob("*.py") if re.search(r"import tqdm|from tqdm", path.read_text())]
    assert users == [Path("progress.py").name]
