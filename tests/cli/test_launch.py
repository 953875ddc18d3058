"""`ddim-bench launch`: what each process is told, and what becomes of the others when one fails. Its processes here are scripts."""

from __future__ import annotations

import pytest

from bench.cli.main import main

TELLS = """
import os, pathlib, sys
rank = os.environ["DDIM_BENCH_RANK"]
pathlib.Path(sys.argv[1], rank).write_text(f"{os.environ['DDIM_BENCH_PROCESSES']} {os.environ['DDIM_BENCH_MEET']}")
"""
FAILS_ONCE = """
import os, pathlib, sys, time
begun = pathlib.Path(sys.argv[1]) / ("begun" + os.environ["DDIM_BENCH_RANK"])
again = begun.exists()
begun.touch()
if not again:
    while os.environ["DDIM_BENCH_RANK"] == "0" or not begun.with_name("begun0").exists():
        time.sleep(0.01)
    {end}
"""


def launched(tmp_path, program, *words):
    (tmp_path / "program.py").write_text(program)
    return main(["launch", "-n", "2", *words, "--", str(tmp_path / "program.py"), str(tmp_path)])


def test_each_process_is_told_its_rank_how_many_there_are_and_where_they_meet(tmp_path):
    assert launched(tmp_path, TELLS) == 0
    told = [(tmp_path / rank).read_text().split() for rank in ("0", "1")]
    assert told[0] == told[1] and told[0][0] == "2" and told[0][1].startswith("127.0.0.1:")


@pytest.mark.parametrize("end, code", [("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", 137)])
def test_when_one_fails_the_others_are_ended_and_its_code_is_that_of_the_command(tmp_path, end, code):
    """The other one would wait for ever."""
    assert launched(tmp_path, FAILS_ONCE.format(end=end)) == code


def test_all_are_started_again_as_often_as_was_asked(tmp_path, capfd):
    assert launched(tmp_path, FAILS_ONCE.format(end="sys.exit(3)"), "--max-restarts", "1") == 0
    assert capfd.readouterr().err == "a process ended with exit code 3; all are started again\n"


def test_a_mistake_in_the_command_is_not_tried_again(tmp_path, capfd):
    assert launched(tmp_path, FAILS_ONCE.format(end="sys.exit(2)"), "--max-restarts", "5") == 2
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("words, said", [
    (["-n", "2"], "must name a command after --"), (["-n", "0", "--", "run"], "--processes=0: must be at least 1"),
    (["-n", "2", "--max-restarts", "-1", "--", "run"], "--max-restarts=-1: must be at least 0"),
    (["--", "run"], "required: -n/--processes"),
    (["-n", "2", "--", "run", "--stpes", "5"], "--stpes: is no option of ddim-bench run")])
def test_mistakes_end_with_one_line(words, said, capsys):
    assert main(["launch", *words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
