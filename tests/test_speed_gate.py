"""The gate over pytest-benchmark, on a small suite with a clock of its own: what passes there without a word, and another day."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import gate
from tests.benchmarks.gate import compare, judge

ROOT = Path(__file__).resolve().parents[1]
BASELINE = "results/benchmarks/0001_baseline.json"
FAIL = ("--benchmark-compare", "--benchmark-compare-fail=median:10%")
CONFTEST = """
import pytest_benchmark.plugin
from tests.benchmarks import gate

pytest_benchmark.plugin.get_cpu_info = dict  # it takes a second

def pytest_addoption(parser):
    parser.addoption("--device", default="cpu")

def pytest_configure(config):
    config.pluginmanager.register(gate)
"""
SUITE = """
import os
import pytest
from tests.benchmarks import gate

pytestmark = pytest.mark.benchmark(timer=gate.clock)
DAY, SLOW = float(os.environ.get("DAY", "1")), float(os.environ.get("SLOW", "1"))

@pytest.mark.parametrize("backend", ["one", *os.environ.get("MORE", "").split()])
def test_work(benchmark, backend):
    slow = SLOW if backend == "one" else 1
    gate.measure(benchmark, lambda units: units * 0.01 * DAY * slow, lambda units: units * 0.001 * DAY, backend=backend)
"""


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A folder with a suite, a test and a pytest.ini as the repository has them, and one where the baseline was written, too."""
    first, second = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    for folder in (first, second):
        (folder / "tests" / "benchmarks").mkdir(parents=True)
        (folder / "results" / "benchmarks").mkdir(parents=True)
        (folder / "pytest.ini").write_text("[pytest]\ntestpaths = tests\naddopts = -q --benchmark-disable\n")
        (folder / "conftest.py").write_text(CONFTEST)
        (folder / "tests" / "test_other.py").write_text("def test_other():\n    pass\n")
        (folder / "tests" / "benchmarks" / "test_suite.py").write_text(SUITE)
    code, told = run(second, f"--benchmark-json={BASELINE}")
    assert code == 0 and "1 passed" in told, told
    return first, second


@pytest.fixture
def project(made):
    """Without a baseline."""
    return made[0]


@pytest.fixture
def baseline(made):
    """With one."""
    return made[1]


def run(project: Path, *args: str, **variables: str) -> tuple[int, str]:
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}  # this run's own processes
    environment = {**outside, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **variables}
    plugins = ["-p", "pytest_benchmark.plugin", *(["-p", "xdist"] if "-n" in args else [])]
    done = subprocess.run([sys.executable, "-m", "pytest", *plugins, *args], cwd=project, env=environment, capture_output=True,
                          text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr



def test_plain_pytest_leaves_the_suite_out(project):
    code, told = run(project)
    assert code == 0 and "1 passed" in told and "benchmark" not in told
    assert run(project, "tests/benchmarks")[1].count("1 passed") == 1  # as an ordinary test, once, where its path is given


def test_the_speed_suite_of_this_repository_runs_in_one_process():
    """Its `-n auto` is for tests; pytest-benchmark measures nothing beside xdist."""
    done = subprocess.run([sys.executable, "-m", "pytest", "-v", "--benchmark-compare", "-k", "no_such_test"], cwd=ROOT, text=True,
                          capture_output=True, timeout=120)
    assert done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED and "deselected" in done.stdout, done.stdout
    assert "Comparing against benchmarks" in done.stderr and "workers" not in done.stdout, done.stdout + done.stderr


def test_the_baseline_names_no_host(baseline):
    saved = json.loads((baseline / BASELINE).read_text())
    assert os.uname().nodename not in json.dumps(saved["machine_info"]) and "commit_info" not in saved
    assert saved["machine_info"]["cpu"] and saved["versions"]["numpy"]
    [one] = saved["benchmarks"]
    assert one["extra_info"]["ratios"] == pytest.approx([10] * 10) and one["stats"]["median"] == pytest.approx(0.01)
    assert one["params"] == {"backend": "one"} and one["extra_info"]["first_seconds"] == pytest.approx(0.01)


def test_a_slow_day_is_no_regression_and_slow_code_is(baseline):
    code, told = run(baseline, *FAIL, DAY="1.5")
    assert code == 0 and "comparable: same machine; 1 of 1 compared, 0 slower" in told and "test_other" not in told, told
    code, told = run(baseline, *FAIL, DAY="0.7", SLOW="1.3")  # in seconds faster than the baseline
    assert code == 1 and "slower: tests/benchmarks/test_suite.py::test_work[one]: 1.30 times" in told, told
    code, told = run(baseline, "--benchmark-compare", SLOW="1.3")  # told, but not asked to fail
    assert code == 0 and "1 slower" in told
    assert "0 slower" in run(baseline, "--benchmark-compare-fail=median:40%", SLOW="1.3")[1]


def test_first_silent_way_a_benchmark_that_the_baseline_lacks(baseline):
    code, told = run(baseline, *FAIL, MORE="two")
    assert code == 1 and "missing in baseline: tests/benchmarks/test_suite.py::test_work[two]" in told, told
    assert run(baseline, "--benchmark-compare", MORE="two")[0] == 0


def test_second_silent_way_disabled(baseline):
    code, told = run(baseline, *FAIL, "--benchmark-disable")
    assert code == 4 and "--benchmark-disable: measures nothing" in told


def test_third_silent_way_xdist(baseline):
    code, told = run(baseline, *FAIL, "-n", "2")
    assert code == 4 and "-n: benchmarks that run beside one another measure nothing" in told


def test_fourth_silent_way_a_path_taken_for_a_run(baseline):
    for path in ("tests/benchmarks", "tests/benchmarks/test_suite.py"):
        code, told = run(baseline, "--benchmark-compare", path)
        assert code == 4 and f"--benchmark-compare='{path}': no such baseline" in told, told
    assert "0 slower" in run(baseline, "tests/benchmarks", "--benchmark-compare")[1]
    assert "0 slower" in run(baseline, "--benchmark-compare", "0001")[1]


def test_without_a_baseline_nothing_is_compared(project):
    code, told = run(project, "--benchmark-compare")
    assert code == 4 and "--benchmark-compare: no such baseline in results/benchmarks" in told


@pytest.mark.parametrize("option", ["--benchmark-compare=", "--benchmark-json="])
def test_an_empty_variable_compares_nothing_and_is_refused(option, baseline):
    code, told = run(baseline, option)
    assert code == 4 and f"{option}: must not be empty" in told and "Traceback" not in told, told


@pytest.fixture
def spoilt(baseline):
    """spoil(change): a newer baseline, the good one's text after `change`."""
    path = baseline / BASELINE.replace("0001", "0003")
    yield lambda change: path.write_text(change((baseline / BASELINE).read_text()))
    path.unlink(missing_ok=True)


def without_ratios(text):
    saved = json.loads(text)
    saved["benchmarks"][0]["extra_info"] = {}
    return json.dumps(saved)


BROKEN = {
    "cut short": (lambda text: text[:200], "is broken: JSONDecodeError"), "empty": (lambda text: "", "is broken: JSONDecodeError"),
    "another object": (lambda text: "[1, 2]", "is broken: TypeError"), "no benchmarks": (lambda text: "{}", "is broken: KeyError"),
    "no machine": (lambda text: text.replace("machine_info", "machine"), "is broken: KeyError"),
    "ratios of text": (lambda text: text.replace('"ratios": [', '"ratios": ["a",'), "is broken: TypeError"),
    "no ratios": (without_ratios, "holds no ratios to the calibration kernel"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_baseline_is_called_broken(case, baseline, spoilt):
    """Not absent; nor is an older one taken in its place."""
    change, reason = BROKEN[case]
    spoilt(change)
    code, told = run(baseline, *FAIL)
    assert code == 4 and f"0003_baseline.json: {reason}" in told and "Traceback" not in told, told
    assert "0 slower" in run(baseline, "--benchmark-compare", "0001")[1]


def test_a_benchmark_that_times_itself_is_named(baseline):
    mine = baseline / "tests" / "benchmarks" / "test_mine.py"
    mine.write_text("def test_mine(benchmark):\n    benchmark(sum, range(9))\n")
    try:
        code, told = run(baseline, *FAIL)
    finally:
        mine.unlink()
    assert code == 1 and "Traceback" not in told, told
    assert "not comparable: tests/benchmarks/test_mine.py::test_mine: times itself; let gate.measure do it" in told


def test_a_percentage_is_asked_for(baseline):
    code, told = run(baseline, "--benchmark-compare", "--benchmark-compare-fail=median:0.1")
    assert code == 4 and "must be a percentage" in told


def test_another_machine_is_not_compared(baseline):
    saved = json.loads((baseline / BASELINE).read_text())
    saved["machine_info"]["cpu"] = "Pentium"
    (baseline / BASELINE.replace("0001", "0002")).write_text(json.dumps(saved))
    try:
        code, told = run(baseline, *FAIL)
        assert code == 1 and "not comparable: other machine: cpu was 'Pentium', is " in told, told
        assert run(baseline, "--benchmark-compare")[0] == 0
    finally:
        (baseline / BASELINE.replace("0001", "0002")).unlink()


def told(ratios_now, ratios_before=(10.0,) * 10, name="a", least=0.1):
    before = [{"fullname": "a", "extra_info": {"ratios": list(ratios_before)}}]
    return judge({"cpu": "A"}, {name: {"ratios": list(ratios_now)}}, {"machine_info": {"cpu": "A"}, "benchmarks": before}, least)


def test_the_limit_is_three_times_the_noise_and_at_least_a_tenth():
    assert compare([11.0] * 10, [10.0] * 10) == (pytest.approx(0.1), 0.1, 0)
    noisy = [9.0, 10.0] * 5  # A/A spread of a tenth
    change, limit, spread = compare([12.0] * 10, noisy)
    assert spread == pytest.approx(0.1) and limit == pytest.approx(0.3) and change == pytest.approx(12 / 9.5 - 1)
    assert told([11.2] * 10)[0] is False and told([10.9] * 10)[0] is True
    assert told([12.0] * 10, noisy)[0] is True and told([12.5] * 10, noisy)[0] is False


def test_what_is_faster_or_gone_is_told_and_does_not_fail():
    good, lines = told([5.0] * 10)
    assert good and any(line.startswith("faster: a: 0.50 times") for line in lines)
    good, lines = told([5.0] * 10, name="b")
    assert not good and lines == ["not comparable: nothing that was measured is in the baseline", "missing in baseline: b",
                                  "not run here, though in the baseline: a"]


def test_the_repository_has_the_switch(request):
    config = request.config
    assert config.pluginmanager.get_plugin("speed-gate") is gate
    assert (config.rootpath / gate.SUITE / "test_speed_suite.py").exists() and (config.rootpath / gate.STORAGE).is_dir()
