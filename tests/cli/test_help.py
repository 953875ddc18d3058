"""What `--help` shows, and that it is there at once."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib

import pytest

import backends
from bench.cli import commands
from bench.cli.main import main
from bench.paths import command_line, renamed
from bench.recipes import RECIPES
from bench.recipes.show import KINDS
from bench.studies import scaling
from bench.training import loop
from bench.training.trackers import LOGS
from reference.timesteps import SPACINGS
from tests.helpers.tree import ROOT

HEAVY = {"numpy", "scipy", "pandas", "matplotlib", "tqdm", "jinja2", *(backends.about(name).module for name in backends.names())}


def every(parser) -> list:
    return [parser, *(p for below in parser.commands.values() for p in every(below))]


PARSERS = {p.prog: p for p in every(commands.parser())}


@pytest.mark.parametrize("prog", PARSERS)
def test_help_loads_nothing_that_takes_time(prog):
    words = [*prog.split()[1:], "--help"]
    code = (f"import sys; from bench.cli.main import main; code = main({words!r}); "
            f"print(code, sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stderr == "0 []\n" and f"usage: {prog} " in done.stdout


@pytest.mark.parametrize("prog", PARSERS)
def test_help_shows_one_example_that_is_a_command_and_every_default(prog):
    text, parser = PARSERS[prog].format_help(), PARSERS[prog]
    [example] = re.findall(r"^example: ddim-bench (.+)$", text, re.MULTILINE)
    words = re.sub("'cosine schedule'", "x", example).split()
    assert commands.parser().parse(words).body
    assert example.startswith(prog.removeprefix("ddim-bench").strip())
    for action in parser._actions:
        if action.option_strings and action.nargs != 0 and not action.required:
            said = parser.formatter_class(prog)._expand_help(action)
            assert "default" in said, action.dest
            if action.default is not None and action.default != [] and action.dest != "out":
                assert f"default: {action.default}" in said, action.dest


def test_texts_know_the_names_that_they_list():
    """They are written out, because to know them takes time to load."""
    args = commands.parser().parse
    assert set(args(["study", "scaling"]).axes.split(",")) == set(scaling.AXES)
    assert args(["run"]).save_every == args(["train", "--train-steps", "1", "--save", "x"]).save_every == loop.SAVE_EVERY
    text = {prog: re.sub(r"\s+", " ", PARSERS[prog].format_help().replace("-\n", "-")) for prog in PARSERS}
    for prog, names in (("recipe", RECIPES), ("train", LOGS), ("recipe", LOGS), ("run", SPACINGS), ("sample", SPACINGS),
                        ("sample", [f"--{kind}" for kind in KINDS])):
        assert all(re.sub(r"- ", "-", name) in text[f"ddim-bench {prog}"].replace("- ", "-") for name in names), (prog, names)


def test_both_scripts_and_the_module_are_the_same_program(tmp_path):
    for start in (["bench/run.py"], ["-m", "bench", "run"]):
        done = subprocess.run([sys.executable, *start, "--dry-run=plan", "--backends", "torch", "--steps", "10"], cwd=ROOT,
                              capture_output=True, text=True, timeout=120)
        assert done.returncode == 0 and "torch: sample and measure S=10" in done.stdout, done.stderr
    for start in (["bench/train.py"], ["-m", "bench", "train"]):
        options = ["--train-steps", "1", "--warmup", "1", "--save", str(tmp_path / "x")]
        done = subprocess.run([sys.executable, *start, *options], cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (2, "error: --warmup=1: must be below the 1 of --train-steps\n")


def test_the_console_script_is_the_same_program():
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"] == {"ddim-bench": "bench.cli.entry:main"}


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ddim-bench {importlib.metadata.version('ddim-bench')}\n"


@pytest.mark.parametrize(("words", "line"), [
    (["run", "--steps", "10,50"], "python bench/run.py --steps 10,50"),
    (["train", "--save", "my folder"], "ddim-bench train --save 'my folder'"), (["study", "noise"], "ddim-bench study noise"),
])
def test_a_recorded_command_is_what_was_typed(words, line):
    assert command_line(*words) == line


@pytest.mark.parametrize(("old", "new"), [
    ("python -m bench.train --preset base --steps 20000 --save x", "ddim-bench train --preset base --train-steps 20000 --save x"),
    ("python -m bench.recipe mnist-scratch --steps 300 --sampling-steps 20",
     "ddim-bench recipe mnist-scratch --train-steps 300 --steps 20"),
    ("python -m bench.neighbours --images a.npy", "ddim-bench study neighbours --images a.npy"),
    ("python bench/run.py --table ddim", "python bench/run.py --table ddim"), ("ddim-bench report", "ddim-bench report"),
])
def test_a_command_of_an_older_version_is_shown_in_its_present_form(old, new):
    assert renamed(old) == new
    commands.parser().parse(new.replace("python bench/run.py", "ddim-bench run").split()[1:])
