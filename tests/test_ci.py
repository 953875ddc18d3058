"""What `.ci/run` prints about its budget, what `--sample` leaves of the tests, and that pages name what there is."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from _pytest.mark.expression import Expression

from bench.paths import ROOT

INSTALLED = {one.lower() for found in metadata.packages_distributions().values() for one in found}
ALONE = """
import importlib, sys
class Absent:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError("absent: " + name)
sys.meta_path.insert(0, Absent)
for name in {modules!r}:
    importlib.import_module(name)
"""
PROGRAMS = ("python3.11", "pip", "ruff", "mypy", "lint-imports", "pytest", "python")


@pytest.fixture
def ci(tmp_path):
    """run(edit, failing): `.ci/run`, edited, with programs that do nothing but one that fails; its exit code and lines."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    (tmp_path / ".ci").mkdir()

    def run(edit=lambda text: text, failing=None):
        (tmp_path / ".ci" / "run").write_text(edit((ROOT / ".ci" / "run").read_text()))
        (tmp_path / "bin").mkdir()
        (tmp_path / "tests").mkdir()
        (tmp_path / "tests" / "gpu.sh").write_text("#!/bin/sh\n")
        (tmp_path / "tests" / "gpu.sh").chmod(0o755)
        for name in PROGRAMS:
            (tmp_path / "bin" / name).write_text(f"#!/bin/sh\nexit {3 if name == failing else 0}\n")
            (tmp_path / "bin" / name).chmod(0o755)
        variables = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
        done = subprocess.run(["bash", tmp_path / ".ci" / "run"], env=variables, capture_output=True, text=True)
        return done.returncode, done.stdout.splitlines()

    return run


def budget():
    """By part, minutes: of the table in CONTRIBUTING.md."""
    rows = re.findall(r"^\| ([a-z -]+) \| (\d+) \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    return {part: int(minutes) for part, minutes in rows}


def test_the_end_holds_every_part_against_the_budget_of_contributing_md(ci):
    code, lines = ci()
    assert code == 0 and len(lines) == len(budget())
    found = dict(re.fullmatch(r"([a-z -]+?) +0:0\d of +(\d+):00 minutes", line).groups() for line in lines)
    assert {part: int(minutes) for part, minutes in found.items()} == budget()
    assert budget()["total"] == 35 == sum(minutes for part, minutes in budget().items() if part != "total")


def test_a_part_over_its_budget_is_marked_and_does_not_fail(ci):
    code, lines = ci(lambda text: text.replace("1 lint", "0 lint").replace("\nmypy\n", "\nsleep 1\n"))
    [marked] = [line for line in lines if "over its budget" in line]
    assert code == 0 and marked.startswith("lint ") and "0:01 of  0:00 minutes" in marked


def test_a_failure_keeps_its_exit_code_and_says_how_long_all_took(ci):
    code, lines = ci(failing="mypy")
    assert code == 3 and len(lines) == len(budget())


TESTS = """
import pytest

@pytest.mark.sampled
@pytest.mark.parametrize("n", range(9))
def test_many(n): pass

@pytest.mark.sampled
@pytest.mark.parametrize("n", range(2))
def test_two(n): pass

@pytest.mark.sampled
def test_one(): pass

@pytest.mark.parametrize("n", range(3))
def test_another(n): pass
"""


def collected(folder: Path, *options: str) -> list[str]:
    """What pytest says of the tests of a folder that it would run."""
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "--collect-only", "-q", *options, folder]
    return subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
                          text=True).stdout.splitlines()


@pytest.mark.parametrize("n, counts", [(1, (9, 2, 1, 3)), (2, (5, 1, 1, 3)), (4, (3, 1, 1, 3)), (100, (1, 1, 1, 3))])
def test_a_sample_is_fixed_and_has_every_test(tmp_path, n, counts):
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = sampled\n")
    lines = [collected(tmp_path, *(["--sample", str(n)] if n > 1 else [])) for _ in range(2)]
    chosen = [[line for line in each if "::" in line] for each in lines]
    assert chosen[0] == chosen[1]
    assert tuple(sum(f"::test_{name}" in line for line in chosen[0]) for name in ("many", "two", "one", "another")) == counts
    assert n == 1 or f"{15 - sum(counts)} deselected" in lines[0][-1]


def test_a_sample_is_of_what_another_option_leaves(tmp_path):
    (tmp_path / "test_it.py").write_text("""
import pytest

@pytest.mark.sampled
@pytest.mark.parametrize("n", [1, *(pytest.param(n, marks=pytest.mark.long) for n in range(2, 9))])
def test_it(n): pass
""")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  sampled\n  long\n")
    lines = collected(tmp_path, "--sample", "100", "-m", "not long")
    assert [line for line in lines if "::" in line] == ["test_it.py::test_it[1]"]


def test_a_sample_of_none_is_refused():
    done = subprocess.run([sys.executable, "-m", "pytest", "-n0", "--sample", "0", "--collect-only", "tests/test_ci.py"], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 4 and "--sample=0: must be at least 1" in done.stderr


def test_the_same_checks_everywhere():
    """`.ci/run`, `tox -e lint`, the pre-commit hooks and CONTRIBUTING.md."""
    checks = ["ruff check .", "mypy", "lint-imports"]
    ci = (ROOT / ".ci" / "run").read_text().partition('part "lint"\n')[2].partition("\n\n")[0]
    tox = (ROOT / "tox.ini").read_text().partition("[testenv:lint]")[2].partition("commands =")[2].partition("\n\n")[0]
    hooks = re.findall(r"entry: (.*)", (ROOT / ".pre-commit-config.yaml").read_text())
    assert ci.splitlines() == [line.strip() for line in tox.strip().splitlines()] == hooks == checks
    assert " && ".join(checks) in (ROOT / "CONTRIBUTING.md").read_text()


# Markers that a test may have together, and how often CI runs it. What is also slow says so in pyproject.toml.
RUNS = {(): 1, ("slow",): 1, ("slow", "sampled"): 1, ("slow", "mutants"): 1, ("slow", "routes"): 1, ("slow", "recorded"): 0,
        ("browser",): 0}


def times_run(script: str, markers: tuple[str, ...], usual: str) -> int:
    """How many of a script's pytest commands run a test with these markers; those that choose names (-k) repeat some on purpose."""
    commands = [shlex.split(line) for line in re.findall(r"^pytest\b.*", script, re.MULTILINE) if " -k " not in line]
    chosen = [Expression.compile(words[words.index("-m") + 1] if "-m" in words else usual) for words in commands]
    fitting = [of.evaluate(lambda name: name in markers) for of in chosen]
    return sum(fits and ("slow" not in markers or "--slow" in words) for fits, words in zip(fitting, commands, strict=True))


@pytest.mark.parametrize("markers", RUNS, ids=" ".join)
def test_ci_runs_every_test_once(markers, pytestconfig):
    usual = pytestconfig.getini("addopts")
    assert times_run((ROOT / ".ci" / "run").read_text(), markers, usual[usual.index("-m") + 1]) == RUNS[markers]
    also_slow = {line.partition(":")[0] for line in pytestconfig.getini("markers") if line.endswith("also slow")}
    assert also_slow | {"slow", "browser"} == {name for names in RUNS for name in names}


def test_the_routes_are_the_files_that_ci_names_for_them():
    [line] = re.findall(r"^pytest .*-m routes .*", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    texts = {path.relative_to(ROOT).as_posix(): path.read_text() for path in (ROOT / "tests").rglob("*.py")}
    marked = {path: n for path, text in texts.items() if (n := len(re.findall(r"^@pytest\.mark\.routes", text, re.MULTILINE)))}
    assert marked == {"tests/test_routes.py": 2, "tests/numpy_backend/test_row.py": 1}
    assert {word for word in line.split() if word.startswith("tests/")} == set(marked)
    assert all(texts[path].count("@pytest.mark.slow\n@pytest.mark.routes\n") == n for path, n in marked.items())


def test_the_tests_of_the_oracle_need_no_more_than_tox_installs_for_them():
    """Their modules load where nothing else can be imported, and the extra test has all of it, too."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    own, extra = ({re.split("[<>=]", need)[0] for need in needs}
                  for needs in (project["dependencies"], project["optional-dependencies"]["test"]))
    section = (ROOT / "tox.ini").read_text().partition("[testenv:reference")[2]
    listed = set(section.partition("deps =")[2].partition("commands =")[0].split())
    assert listed <= extra
    present, more = set(), listed | own
    while more:  # what these require
        present |= more
        needs = [need for name in more for need in metadata.requires(name) or [] if "extra ==" not in need]
        more = {re.match(r"[\w.-]+", need)[0].lower() for need in needs} & INSTALLED - present
    absent = {name for name, found in metadata.packages_distributions().items()
              if not {one.lower() for one in found} & present and not (ROOT / name).exists()}
    modules = [f"tests.reference.{path.stem}" for path in (ROOT / "tests" / "reference").glob("*.py")]
    program = ALONE.format(absent=absent, modules=modules)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert {"torch", "matplotlib"} & absent and done.returncode == 0, done.stderr


def test_the_tests_that_the_readme_names_exist():
    named = set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?", (ROOT / "tests" / "README.md").read_text()))
    assert len(named) > 30
    for path, name in named:
        assert (ROOT / path).exists(), path
        assert not name or f"def {name}(" in (ROOT / path).read_text(), f"{path}::{name}"


@pytest.mark.parametrize(("words", "line"), [
    (["--minutes", "0"], "error: --minutes=0: must be a whole number from 1"),
    (["--step", "10"], "error: --step: must be --device, --preset, --minutes or --out"),
])
def test_the_script_for_a_gpu_refuses_a_mistake_before_it_begins(tmp_path, words, line):
    done = subprocess.run([ROOT / "tests" / "gpu.sh", *words, "--out", tmp_path / "out"], capture_output=True, text=True)
    assert (done.returncode, done.stderr.splitlines(), list(tmp_path.iterdir())) == (2, [line], [])
