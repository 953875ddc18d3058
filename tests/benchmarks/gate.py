"""The speed suite's switch, measurement and gate: a pytest plugin over pytest-benchmark, registered by tests/conftest.py.

pytest-benchmark compares absolute seconds and lets much pass without a word. Here every round of a benchmark is divided by a
calibration kernel timed just before it in the same process, and the baseline's and this run's medians of these ratios are
compared. The run says whether that means anything: on another machine, or of a benchmark that the baseline lacks, it does not.
With --benchmark-compare-fail=median:10% these two fail, as does what is slower by more than the percentage and by more than three
times its A/A spread.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.logger import Logger
from pytest_benchmark.utils import PercentageRegressionCheck, get_machine_id, load_storage

from bench.records import environment
from bench.timing import blocks

SUITE, STORAGE = Path("tests", "benchmarks"), Path("results", "benchmarks")
LEAST_CHANGE = 0.10
GROUP = "param:backend"
KERNEL_SECONDS = 0.05  # of the calibration kernel before each round
SUITE_OPTIONS = ("benchmark_compare", "benchmark_compare_fail", "benchmark_json", "benchmark_save", "benchmark_autosave",
                 "benchmark_only", "benchmark_enable")
FAIL, LINES = pytest.StashKey[float](), pytest.StashKey[list[str]]()
_seconds = 0.0


def clock() -> float:
    """The timer of the suite's benchmarks: seconds of one unit, as the worker that did the work counts them."""
    return _seconds


def measure(benchmark: Any, block: blocks.Block, kernel: blocks.Block, **info: Any) -> None:
    """Warm `block` up and time it in rounds, each after a block of the calibration kernel; `info` goes into the results."""
    def unit() -> None:
        global _seconds
        _seconds += block(k) / k

    k, calls, kernel_seconds = 1, 1, []
    if benchmark.enabled:
        info["first_seconds"] = block(1)
        k, calls = blocks.calibrate(block), blocks.calibrate(kernel, least=KERNEL_SECONDS)
        info["steady"] = blocks.warm_up(block, k, 60)[1]
    benchmark.pedantic(unit, setup=lambda: kernel_seconds.append(kernel(calls) / calls), rounds=blocks.LEAST_BLOCKS)
    if benchmark.enabled:
        rounds = benchmark.stats.stats.data
        info |= {"units_per_round": k, "ratios": [a / b for a, b in zip(rounds, kernel_seconds, strict=True)]}
    benchmark.extra_info.update(info)


def wanted(config: pytest.Config) -> bool:
    """Whether the command asks for the speed suite."""
    return any(config.getoption(name, None) for name in SUITE_OPTIONS)


def pytest_configure(config: pytest.Config) -> None:
    """Where a comparison or a saved result is asked for, run the suite in place of the tests; refuse what would measure nothing."""
    for name in SUITE_OPTIONS:
        if str(config.getoption(name, None)) in ("", "."):  # Path("") is "."
            raise pytest.UsageError(f"--{name.replace('_', '-')}=: must not be empty; is a variable unset?")
    if not wanted(config):
        return
    if "--benchmark-disable" in config.invocation_params.args:
        raise pytest.UsageError("--benchmark-disable: measures nothing, so there would be nothing to compare or save")
    if config.getoption("dist", "no") != "no" or config.getoption("numprocesses", None):
        raise pytest.UsageError("-n: benchmarks that run beside one another measure nothing; leave it out")
    if config.option.benchmark_compare_fail:
        config.option.benchmark_compare = config.option.benchmark_compare or True
        config.stash[FAIL] = max(LEAST_CHANGE, *map(_percentage, config.option.benchmark_compare_fail))
        config.option.benchmark_compare_fail = []  # it would judge seconds
    config.option.benchmark_disable = False
    if config.option.benchmark_storage == "file://./.benchmarks":
        config.option.benchmark_storage = f"file://{config.rootpath / STORAGE}"
    if config.option.benchmark_group_by == "group":
        config.option.benchmark_group_by = GROUP
    if (asked := config.option.benchmark_compare) and not _baseline(config):  # which takes the path behind it for a name
        name = "" if asked is True else f"={asked!r}"
        raise pytest.UsageError(f"--benchmark-compare{name}: no such baseline in {STORAGE}; paths of tests go before this option")
    if config.args_source != pytest.Config.ArgsSource.ARGS:
        config.args[:] = [str(config.rootpath / SUITE)]


def _percentage(check: Any) -> float:
    if not isinstance(check, PercentageRegressionCheck):
        raise pytest.UsageError("--benchmark-compare-fail: must be a percentage such as median:10%; seconds are not compared")
    return check.threshold / 100


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The suite is collected where it is asked for, by an option or by its path."""
    suite = config.rootpath / SUITE
    if collection_path != suite or config.option.benchmark_disable is False:
        return None
    return not any(Path(arg.partition("::")[0]).resolve().is_relative_to(suite) for arg in config.args)


def _baseline(config: pytest.Config) -> tuple[Any, dict[str, Any]] | None:
    """The newest result of the name that --benchmark-compare was given, if any. Raises UsageError where it is broken."""
    wanted = config.option.benchmark_compare
    storage = load_storage(config.option.benchmark_storage, logger=Logger(config=config), default_machine_id=get_machine_id(),
                           netrc=None)
    try:
        found = [path for path in storage.query("[0-9][0-9][0-9][0-9]_" if wanted is True else wanted) if path.suffix == ".json"]
    except ValueError:  # a path of many parts
        return None
    return (found[-1], read_baseline(found[-1])) if found else None


def read_baseline(path: Path) -> dict[str, Any]:
    """A saved result that can be compared with. Raises UsageError where it is broken, or none of this suite's."""
    try:
        saved = json.loads(path.read_text(encoding="utf8"))
        ratios = [benchmark["extra_info"].get("ratios") for benchmark in saved["benchmarks"] if benchmark["fullname"]]
        whole = isinstance(saved["machine_info"], dict) and all(r is None or (len(r) > 1 and min(r) > 0) for r in ratios)
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise pytest.UsageError(f"{path}: is broken: {type(error).__name__}: {error}; measure the baseline again") from None
    if not whole or not any(ratios):
        raise pytest.UsageError(f"{path}: holds no ratios to the calibration kernel, which are what is compared; measure it again "
                                f"with the suite in {SUITE}")
    return dict(saved)


@pytest.hookimpl(tryfirst=True)
def pytest_benchmark_group_stats(benchmarks: Any, group_by: str) -> list[tuple[str, list[Any]]] | None:
    """By backend; pytest-benchmark's own way fails at a benchmark that has none."""
    if group_by != GROUP:
        return None
    groups: dict[str, list[Any]] = {}
    for found in sorted(benchmarks, key=lambda found: found["name"]):
        groups.setdefault(f"backend={(found['params'] or {}).get('backend')}", []).append(found)
    return sorted(groups.items())


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """What decides a time, in place of names of hosts and builds."""
    found = environment.describe()
    machine_info.clear()
    machine_info.update({key: found[key] for key in ("cpu", "cpu_flags", "affinity")}, quota=found["quota"]["cpu"],
                        gpu=[line.split(",")[0] for line in found["gpu"] or []], device=config.getoption("--device", "cpu"))


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: Any, output_json: dict[str, Any]) -> None:
    """What may differ between runs that are compared."""
    found = environment.describe()
    output_json |= {"versions": found["versions"], "load_average": found["load_average"], "commit": found["commit"]}
    output_json.pop("commit_info", None)  # names the folder and the branch


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Judge, once pytest-benchmark has its results."""
    config = session.config
    if not config.getoption("benchmark_compare", None) or session.exitstatus not in (0, 1):
        return
    path, baseline = _baseline(config)  # type: ignore[misc]
    measured = {b.fullname: b.extra_info for b in config._benchmarksession.benchmarks if not b.has_error}  # type: ignore[attr-defined]
    machine = config._benchmarksession.get_machine_info()  # type: ignore[attr-defined]
    least = config.stash.get(FAIL, LEAST_CHANGE)
    good, config.stash[LINES] = judge(machine, measured, baseline, least)
    config.stash[LINES].insert(0, f"baseline: {path}")
    if FAIL in config.stash and not good:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say it."""
    if lines := config.stash.get(LINES, []):
        terminalreporter.section("speed against the baseline")
        terminalreporter.write("\n".join([*lines, ""]))


def judge(machine: Mapping[str, Any], measured: Mapping[str, Mapping[str, Any]], baseline: Mapping[str, Any],
          least: float = LEAST_CHANGE) -> tuple[bool, list[str]]:
    """(whether all is comparable and nothing slower, what to say). `measured` is extra_info by a benchmark's full name."""
    before = {b["fullname"]: b["extra_info"] for b in baseline["benchmarks"] if "ratios" in b["extra_info"]}
    plain = sorted(name for name, info in measured.items() if "ratios" not in info)
    measured = {name: info for name, info in measured.items() if name not in plain}
    differ = [f"{key} was {baseline['machine_info'].get(key)!r}, is {value!r}" for key, value in machine.items()
              if baseline["machine_info"].get(key) != value]
    missing, both = sorted(measured.keys() - before.keys()), [name for name in measured if name in before]
    lines = [f"not comparable: {name}: times itself; let gate.measure do it" for name in plain]
    lines += [f"missing in baseline: {name}" for name in missing]
    lines += [f"not run here, though in the baseline: {name}" for name in sorted(before.keys() - measured.keys())]
    if differ:
        return False, [f"not comparable: other machine: {'; '.join(differ)}", *lines]
    slower = 0
    for name in both:
        change, limit, spread = compare(measured[name]["ratios"], before[name]["ratios"], least)
        if abs(change) > limit:
            slower += change > 0
            lines.append(f"{'slower' if change > 0 else 'faster'}: {name}: {1 + change:.2f} times the baseline's time, beyond "
                         f"{100 * limit:.0f}% (A/A {100 * spread:.1f}%)")
    lines.insert(0, f"comparable: same machine; {len(both)} of {len(measured)} compared, {slower} slower" if both else
                 "not comparable: nothing that was measured is in the baseline")
    return bool(both) and not missing and not plain and not slower, lines


def compare(now: list[float], before: list[float], least: float = LEAST_CHANGE) -> tuple[float, float, float]:
    """(relative change of the median, its limit, the larger A/A spread) of a benchmark's ratios to the calibration kernel."""
    spread = max(abs(np.median(r[0::2]) / np.median(r[1::2]) - 1) for r in (now, before))
    return float(np.median(now) / np.median(before) - 1), max(least, 3 * spread), spread
