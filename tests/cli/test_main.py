"""Whatever ends a command is one line and an exit code, in all of them alike."""

from __future__ import annotations

import fcntl
import importlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import backends
from bench.cli import commands, listing
from bench.cli import run as main_of_run
from bench.cli.ending import exit_code
from bench.cli.main import main
from bench.training.loop import TrainingError
from bench.workers.errors import WorkerDied, WorkerError
from reference.config import ConfigError
from reference.solver_plans import FAST
from tests.helpers import tree


def fails(error: BaseException):
    def work(*_, **__):
        raise error

    return work


@pytest.mark.parametrize(("error", "code", "line"), [
    (ConfigError("--steps=0: must be positive"), 2, "error: --steps=0: must be positive\n"),
    (OSError(28, "No space left on device"), 2, "error: [Errno 28] No space left on device\n"),
    (ModuleNotFoundError("No module named 'safetensors'", name="safetensors"), 2,
     "error: module 'safetensors' is not installed; pip install -c constraints.txt -e '.[bench]' installs what commands need\n"),
    (PermissionError(13, "Permission denied", "a/.lock"), 2,
     "error: a/.lock: Permission denied: must be one that this user may read and write\n"),
    (TrainingError("step 3: the loss is nan"), 3, "error: step 3: the loss is nan\n"),
    (WorkerError("out of memory"), 3, "error: out of memory\n"), (WorkerDied("SIGKILL"), 3, "error: SIGKILL\n"),
    (MemoryError("Unable to allocate 9 TiB"), 3, "error: out of memory: Unable to allocate 9 TiB; ask for less at once\n"),
    (KeyboardInterrupt(), 130, "interrupted; the same command goes on from the last state\n"),
])
def test_one_line_and_its_code(error, code, line, capsys):
    assert exit_code(fails(error), "the last state") == code
    assert capsys.readouterr().err == line


def test_own_code_and_own_mistakes_pass(monkeypatch, tmp_path, capsys):
    """A command's own code is kept, and an error of the program itself is not dressed up as the user's."""
    assert exit_code(lambda: 4) == 4 and exit_code(lambda: None) == 0
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert exit_code(lambda: 1 // 0) == 1
    said, (log,) = capsys.readouterr().err, tmp_path.iterdir()
    assert said == ("error: ZeroDivisionError: integer division or modulo by zero: a fault of this program, not of its input; its "
                    f"traceback is in {log}\n")
    assert "Traceback" in log.read_text() and "1 // 0" in log.read_text()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    assert exit_code(fails(KeyError("x"))) == 1
    assert capsys.readouterr().err == "error: KeyError: 'x': a fault of this program, not of its input\n"


ENDED = """
import contextlib, sys, time
from bench.cli.ending import exit_code

@contextlib.contextmanager
def folder():
    try:
        yield
    finally:
        print("cleaned up", flush=True)

def command():
    with folder():
        print("at work", flush=True)
        time.sleep(600)

raise SystemExit(exit_code(command, "the last state"))
"""


@pytest.mark.parametrize(("number", "code", "line"), [
    (signal.SIGTERM, 143, "ended by SIGTERM; the same command goes on from the last state\n"),
    (signal.SIGHUP, 129, "ended by SIGHUP; the same command goes on from the last state\n"),
    (signal.SIGINT, 130, "interrupted; the same command goes on from the last state\n")])
def test_a_signal_ends_the_work_in_order(number, code, line):
    with subprocess.Popen([sys.executable, "-c", ENDED], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          preexec_fn=tree.default_signals, cwd=tree.ROOT) as process:
        assert process.stdout.readline() == "at work\n"
        process.send_signal(number)
        assert process.wait(300) == code
        assert process.stdout.read() == "cleaned up\n" and process.stderr.read() == line


def test_under_nohup_a_hangup_is_ignored():
    ignore = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)" + ENDED.replace("600", "1")
    with subprocess.Popen([sys.executable, "-c", ignore], stdout=subprocess.PIPE, text=True, cwd=tree.ROOT) as process:
        assert process.stdout.readline() == "at work\n"
        process.send_signal(signal.SIGHUP)
        assert process.wait(300) == 0


EARLY = """
import builtins, os, signal
real = builtins.__import__

def hook(name, *args, **more):
    if name == "bench.cli.main":
        os.kill(os.getpid(), signal.SIGINT)
    return real(name, *args, **more)

builtins.__import__ = hook
from bench.cli.entry import main
main("run", "--list")
"""


def test_ctrl_c_before_anything_is_imported_is_one_line():
    done = subprocess.run([sys.executable, "-c", EARLY], capture_output=True, text=True, preexec_fn=tree.default_signals,
                          cwd=tree.ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


@pytest.mark.skipif(not hasattr(fcntl, "F_SETLEASE"), reason="needs Linux, where a lease holds back who opens a file")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_plain_file_that_does_not_answer_can_be_given_up(number, code, tmp_path, monkeypatch):
    """As on a network disk that is gone. A lease plays it: who opens the file waits, for 45 s at most."""
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)  # by which the system asks for the lease back
    np.save(tmp_path / "images.npy", np.zeros((2, 1, 28, 28), np.uint8))
    try:
        with (tmp_path / "images.npy").open("r+b") as held:
            fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            words = ["study", "noise", "--images", f"a={held.name}", "--out", str(tmp_path / "out")]
            with subprocess.Popen([sys.executable, "-m", "bench", *words], stderr=subprocess.PIPE, text=True, cwd=tree.ROOT,
                                  preexec_fn=tree.default_signals) as process:
                inode = f":{os.fstat(held.fileno()).st_ino} "
                while not any("BREAKING" in line and inode in line for line in Path("/proc/locks").read_text().splitlines()):
                    assert process.poll() is None, process.stderr.read()
                    time.sleep(0.05)
                process.send_signal(number)
                assert process.wait(30) == code and process.stderr.read().count("\n") == 1
    finally:
        signal.signal(signal.SIGIO, before)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize(("stream", "code", "line"), [("stdout", 2, "error: stdout: No space left on device\n"), ("stderr", 0, "")])
def test_a_full_disk_behind_a_log_is_one_line_where_results_are_lost(stream, code, line):
    """What went to stdout is a result; progress alone went to stderr, and its loss ends no work."""
    work = "import sys; from bench.cli.ending import exit_code; raise SystemExit(exit_code(lambda: print('x') or print('y', " \
           "file=sys.stderr, flush=True)))"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", work], **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: full},
                              text=True, cwd=tree.ROOT)
    assert done.returncode == code and (done.stderr or "").removeprefix("y\n") == line


WRITES = "from bench.cli.ending import exit_code; raise SystemExit(exit_code(lambda: [print('x' * 99) for _ in range(9999)] and 0))"


@pytest.mark.parametrize("closed", ["| head -c 5", ">&-", ">&- 2>&-", "| true"])
def test_a_closed_stdout_ends_no_work(closed):
    done = subprocess.run(["bash", "-c", f"set -o pipefail; '{sys.executable}' -c \"{WRITES}\" {closed}"], capture_output=True,
                          text=True, cwd=tree.ROOT)
    assert (done.returncode, done.stderr) == (0, "")


FINALISER = """
import time
from bench.cli.ending import exit_code

class Slow:
    def __del__(self):
        print("in the finaliser", flush=True)
        time.sleep(1)

def command():
    Slow()
    time.sleep(600)

raise SystemExit(exit_code(command))
"""


def test_ctrl_c_in_a_finaliser_is_not_lost():
    """Python itself only prints it there, and goes on."""
    with subprocess.Popen([sys.executable, "-c", FINALISER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          preexec_fn=tree.default_signals, cwd=tree.ROOT) as process:
        assert process.stdout.readline() == "in the finaliser\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(300) == 130
        assert process.stderr.read().endswith("\ninterrupted\n")


BODIES = {  # a command line of each command, and the file of `bench.cli` that does its work
    "run": "run", "run --speed": "speed", "speed": "speed", "run --list": "listing", "train --train-steps 9 --save x": "train",
    "sample --weights x": "sample", "convert a b": "convert", "recipe mnist-scratch": "recipe", "report": "report",
    "likelihood --weights x": "likelihood", "fid a b": "distance", "compare a b": "compare", "submit --name x": "submit",
    "metric --save x.safetensors": "metrics",
    "launch --processes 2 -- run": "processes", "export-case --out x": "diagnosis", "check-images a b": "diagnosis",
    "study noise": "study", "study neighbours": "study", "study ablation": "study", "study scaling": "study",
    "study extractor": "study", "study same-noise --weights x": "study", "study round-trip --weights x": "study"}


@pytest.mark.parametrize("words", BODIES)
def test_every_command_ends_this_way(words, monkeypatch, capsys):
    for error, code in ((OSError(28, "No space left on device"), 2), (WorkerError("out of memory"), 3), (KeyboardInterrupt(), 130)):
        monkeypatch.setattr(importlib.import_module(f"bench.cli.{BODIES[words]}"), "run", fails(error))
        assert main(words.split()) == code
        assert capsys.readouterr().err.count("\n") == 1


def leaves(parser):
    """The commands that have no sub-commands."""
    return [leaf for below in parser.commands.values() for leaf in leaves(below)] if parser.commands else [parser]


def test_the_list_above_has_all_commands():
    assert {p.prog.removeprefix("ddim-bench ") for p in leaves(commands.parser())} == {
        " ".join(words.split()[:2 if words.startswith("study") else 1]) for words in BODIES}


@pytest.mark.parametrize(("words", "line"), [
    ("run --step 10", "--step: is no option of ddim-bench run; did you mean --steps?"),  # was accepted as an abbreviation
    ("run --back torch", "--back: is no option of ddim-bench run; did you mean --backends?"),
    ("run --stesp=10", "--stesp: is no option of ddim-bench run; did you mean --steps?"),
    ("run --xyzzy", "--xyzzy: is no option of ddim-bench run; --help lists its options"),
    ("sample --weihgts x --grid a.png", "--weihgts: is no option of ddim-bench sample; did you mean --weights?"),
    ("train --steps 3 --save x", "--steps: does not apply to ddim-bench train; did you mean --train-steps?"),
    ("recipe mnist-scratch --sampling-steps 3", "--sampling-steps: is no option of ddim-bench recipe; did you mean --steps?"),
    ("rum --steps 10", "ddim-bench: 'rum' is no command; did you mean run?"),
    ("study nois", "ddim-bench study: 'nois' is no command; did you mean noise?"),
    ("", "ddim-bench: a command is missing; choose from run, launch, speed, train, sample, convert, recipe, likelihood, study, "
     "export-case, check-images, metric, fid, compare, submit, report"),
    ("run --samples many", "--samples: 'many': must be a whole number in digits"),
    ("run --peers", "--peers: does not apply to ddim-bench run; it is an option of ddim-bench speed"),
    ("run 10", "unrecognized arguments: 10"),
    ("run --list --seed 3", "--list='python bench/run.py --list --seed 3': goes without other options"),
    ("run --backends torch --sampler unipc3", "--sampler='unipc3': 'unipc3' is no sampler; did you mean unipc_3?"),
    ("run --backends torch --sampler ddim,xyzzy", "--sampler='ddim,xyzzy': 'xyzzy' is no sampler; choose from ddim, ddpm, heun"),
    ("run --backends torch --sampler heun,heun", "--sampler='heun,heun': every name must appear once"),
    ("run --backends torch --sampler heun,plms --eta 0", "--eta='0': does not apply to the samplers heun, plms"),
    ("run --backends torch --sampler heun --variance small", "--variance='small': does not apply without the sampler ddpm"),
    ("run --backends torch --sampler dpmpp_2m_sde --eta sigma_hat", "eta='sigma_hat': must be in [0, 1]"),
    ("run --backends torch --sampler dpmpp_3m --steps 2", "steps=2: dpmpp_3m needs 3 <= S <= T=1000"),
    ("run --backends torch --sampler pndm --convention diffusers --steps 8", "steps=8: diffusers' Runge-Kutta steps need"),
    ("run --backends torch --sampler heun --convention song2021 --steps 9", "convention='song2021': fast solvers have plain,"),
    ("run --backends torch --sampler unipc_2 --convention k_diffusion", "sampler='unipc_2': convention k_diffusion has heun,"),
    ("run --backends torch --sampler ddim,heun --convention k_diffusion", "convention='k_diffusion': must be one of plain,"),
    ("run --table ddim --sampler heun", "--sampler='heun': does not apply with --table, which has both samplers"),
    ("run --sampler ddpm --eta 0", "--eta='0': does not apply to the sampler ddpm"),
    ("run --sampler ddim --eta 0,ddpm", "--eta='0,ddpm': goes without ddpm where --sampler is given"),
    ("run --table ddim --sampler ddpm", "--sampler='ddpm': does not apply with --table, which has both samplers"),
    ("study neighbours --images a.npy --seed 3", "--seed=3: does not apply with --images, which are drawn already"),
    ("convert results/checkpoints/fmnist-small x --heads 0", "--heads=0: must be at least 1"),
    ("run --heads 1", "--heads=1: does not apply without --weights"),
    ("train --train-steps 10 --save x --image-size 8", "--image-size=8: is for images of your own, which --data names"),
    ("sample --weights x --time-order tan --grid a.png", "--time-order='tan': must be one of sin, cos"),
    ("recipe ddpm-cifar10 --objective score", "--objective='score': does not apply without --weights"),
    ("convert a b --sample-size 8", "--sample-size: is no option of ddim-bench convert; did you mean --image-size?"),
    ("convert results/checkpoints/fmnist-small x --schedule fast", "--schedule='fast': must be one of linear"),
])
def test_a_mistyped_command_is_one_line(words, line, capsys, monkeypatch):
    monkeypatch.chdir(tree.ROOT)
    assert main(words.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {line}") and error.count("\n") == 1


@pytest.mark.parametrize("option", ["table", "seeds", "steps", "sampler", "eta", "spacing", "dataset", "data", "metric", "dtype",
                                    "inception-weights", "samples", "train-steps", "sample-batch", "weights", "fit",
                                    "convention", "seed", "save-every", "executor"])
def test_speed_takes_no_option_that_changes_nothing_there(option, capsys):
    """All of these were ignored."""
    for words in (["run", "--speed", f"--{option}", "nonsense"], ["speed", f"--{option}=nonsense"]):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert error == f"error: --{option}: does not apply to ddim-bench speed; it is an option of " + error.partition(" of ")[2]


@pytest.mark.parametrize("flag", ["download", "pad", "check-determinism"])
def test_speed_takes_no_flag_that_changes_nothing_there(flag, capsys):
    assert main(["run", "--speed", f"--{flag}"]) == 2 and "does not apply to ddim-bench speed" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["run", "--data", ""], ["run", "--backends="], ["run", "--backends", ""], ["run", "--out", ""],
                                   ["train", "--train-steps", "300", "--save", ""], ["report", "--out="]])
def test_an_empty_value_is_refused(words, capsys):
    assert main(words) == 2
    name = next(word for word in words if word.startswith("--") and word != "--train-steps").rstrip("=")
    assert capsys.readouterr().err == f"error: {name}='': must not be empty\n"


def test_sampler_and_eta_name_the_same_cells(capsys):
    plans = []
    for words in (["--eta", "0,ddpm"], ["--sampler", "ddim,ddpm"], ["--sampler", "ddpm"], ["--eta", "ddpm"]):
        assert main(["run", "--dry-run=plan", "--backends", "torch", "--steps", "10", *words]) == 0
        plans.append([line for line in capsys.readouterr().out.splitlines() if "sample and measure" in line])
    assert plans[0] == plans[1] and len(plans[0]) == 2 and plans[2] == plans[3] == plans[0][1:]


def test_each_solver_and_step_count_is_a_cell_with_its_network_calls(capsys):
    words = ["--sampler", "unipc_3,heun,ddim,dpmpp_2m_sde", "--steps", "5,10", "--samples", "128", "--preset", "smoke"]
    assert main(["run", "--dry-run=plan", "--backends", "torch", *words]) == 0
    said = capsys.readouterr().out
    cells = [line.removeprefix("torch: sample and measure ") for line in said.splitlines() if "sample and measure" in line]
    assert cells == [f"{name}S={S} eta={eta} seed=0 n=128" for S in (5, 10) for name, eta in (
        ("", 0.0), ("heun ", 0.0), ("dpmpp_2m_sde ", 1.0), ("unipc_3 ", 0.0))]
    assert f"network calls for one image of every cell: {3 * 15 + 9 + 19} (seed 0)" in said
    assert main(["run", "--dry-run=plan", "--backends", "torch", *words, "--eta", "0,0.5"]) == 0
    said = capsys.readouterr().out
    assert [said.count(f"measure {name}S=5 ") for name in ("", "dpmpp_2m_sde ", "heun ")] == [2, 2, 1]
    codes = ["--sampler", "dpmpp_2m", "--convention", "dpm_solver", "--steps", "10"]
    assert main(["run", "--dry-run=plan", "--backends", "torch", *codes]) == 0
    assert '"convention": "dpm_solver"' in capsys.readouterr().out


def test_one_line_a_solver_names_the_settings_of_the_folder_that_it_goes_without(recwarn):
    words = ["run", "--dry-run=plan", "--backends", "torch", "--sampler", "heun,ddim", "--steps", "10,20", "--convention"]
    for convention, lines in (("diffusers", 1), ("plain", 0)):
        assert main([*words, convention]) == 0
        assert sum("sampler='heun': goes without clip_sample" in str(warning.message) for warning in recwarn) == lines
        recwarn.clear()


def test_the_help_names_every_solver():
    assert commands.SOLVERS.replace(" and ", ", ").split(", ") == list(FAST)


def test_a_backend_without_solvers_is_refused_by_name(monkeypatch, capsys):
    about = main_of_run.backends.about
    monkeypatch.setattr(main_of_run.backends, "about", lambda name: replace(about(name), solvers=name == "mindspore"))
    assert main(["run", "--backends", "torch", "--sampler", "heun"]) == 2
    assert capsys.readouterr().err == ("error: --sampler='heun': backend torch has ddim and ddpm alone, says its ABOUT: "
                                       "use --backends mindspore\n")


def test_the_list_names_what_a_command_can_name(capsys):
    assert main(["run", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["presets", "conventions", "data sets", "backends"]
    wanted = listing.PRESETS, listing.CONVENTIONS, listing.RECORDS, backends.names()
    for kind, names in zip(lines, wanted, strict=True):
        assert all(name in kind for name in names)


def test_the_list_says_what_is_not_installed(monkeypatch, capsys):
    monkeypatch.setattr(listing.backends, "installed", lambda name: name == "torch")
    assert main(["run", "--list"]) == 0
    assert 'backends: torch, mindspore (not installed: pip install -e ".[mindspore]"' in capsys.readouterr().out


@pytest.mark.parametrize(("codes", "ends"), [((4, 0), 4), ((0, 3), 3), ((0, 0), 0)])
def test_a_table_of_two_networks_ends_with_the_worst_of_both(codes, ends, monkeypatch):
    asked, left = [], list(codes)
    monkeypatch.setattr(main_of_run, "_job", lambda args, command: asked.append(args.preset) or left.pop(0))
    assert main(["run", "--table", "solvers"]) == ends and asked == ["table", "table-base"]
