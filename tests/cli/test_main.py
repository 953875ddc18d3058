"""Whatever ends a command is one line and an exit code, in all of them alike."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from bench.cli import recipe, run, sample, train
from bench.cli.main import exit_code
from bench.studies import scaling
from bench.training.loop import TrainingError
from bench.weights import sources
from bench.workers.errors import WorkerDied, WorkerError
from reference.config import ConfigError
from tests.helpers import tree


def fails(error: BaseException):
    def command(*_):
        raise error

    return command


@pytest.mark.parametrize(("error", "code", "line"), [
    (ConfigError("--steps=0: must be positive"), 2, "error: --steps=0: must be positive\n"),
    (OSError(28, "No space left on device"), 2, "error: [Errno 28] No space left on device\n"),
    (TrainingError("step 3: the loss is nan"), 3, "error: step 3: the loss is nan\n"),
    (WorkerError("out of memory"), 3, "error: out of memory\n"), (WorkerDied("SIGKILL"), 3, "error: SIGKILL\n"),
    (KeyboardInterrupt(), 130, "interrupted; the same command goes on from the last state\n"),
])
def test_one_line_and_its_code(error, code, line, capsys):
    assert exit_code(fails(error), "the last state") == code
    assert capsys.readouterr().err == line


def test_own_code_and_own_mistakes_pass():
    """A command's own code is kept, and an error of the program itself is not dressed up as the user's."""
    assert exit_code(lambda: 4) == 4 and exit_code(lambda: None) == 0
    with pytest.raises(ZeroDivisionError):
        exit_code(lambda: 1 // 0)


FINALISER = """
import time
from bench.cli.main import exit_code

class Slow:
    def __del__(self):
        print("in the finaliser", flush=True)
        time.sleep(1)

def command():
    Slow()
    time.sleep(60)

raise SystemExit(exit_code(command))
"""


def test_ctrl_c_in_a_finaliser_is_not_lost():
    """Python itself only prints it there, and goes on."""
    with subprocess.Popen([sys.executable, "-c", FINALISER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          preexec_fn=tree.heed_ctrl_c, cwd=tree.ROOT) as process:
        assert process.stdout.readline() == "in the finaliser\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr.read().endswith("\ninterrupted\n")


@pytest.mark.parametrize(("module", "inner", "options"), [
    (run, "run", ""), (train, "train", "--steps 9 --save x"), (recipe, "run", "mnist-scratch"), (scaling, "run", ""),
    (sample, "run", "--weights x"), (sources, "load", "a b"),
])
def test_every_command_ends_this_way(module, inner, options, monkeypatch, capsys):
    for error, code in ((OSError(28, "No space left on device"), 2), (WorkerError("out of memory"), 3), (KeyboardInterrupt(), 130)):
        monkeypatch.setattr(module, inner, fails(error))
        assert module.main(options.split()) == code
        assert capsys.readouterr().err.count("\n") == 1
