"""Options of the test suite."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from tests.helpers import threads  # noqa: F401  # before the frameworks

MOST_PROCESSES = 4  # each loads both frameworks
os.environ.setdefault("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python")  # as MindSpore needs it, if tensorboard comes first
os.environ.pop("PYTEST_ADDOPTS", None)  # is this run's, and not that of the runs that tests start


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of this suite; `--benchmark-*` are pytest-benchmark's."""
    group = parser.getgroup("ddim-bench")
    group.addoption("--backend", action="append", default=[], metavar="NAME",
                    help="check this backend (may be repeated); default: every one that is installed")
    group.addoption("--device", default="cpu", help="of the conformance kit and the speed suite: cpu, cuda, cuda:N, ascend, tpu")
    group.addoption("--mode", action="append", default=[], choices=("stock", "tuned", "compiled", "exported"),
                    help="of the conformance kit's backends (may be repeated); default: stock and tuned")
    group.addoption("--slow", action="store_true", help="also run tests marked slow")
    group.addoption("--sample", type=int, default=1, metavar="N",
                    help="of a test marked sampled run one in N of its parameter sets, at least one; default: 1, all")
    group.addoption("--record", action="store_true",
                    help="print the worst error of every row of the conformance kit's tolerance table")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """What `-n auto` means: a few processes for the whole suite on a CPU; this one for tests that are named, for benchmarks and for
    --record, which keeps its errors in memory."""
    from bench.records.environment import usable_cores
    from tests.benchmarks import gate

    whole = config.args_source == pytest.Config.ArgsSource.TESTPATHS
    alone = gate.wanted(config) or config.getoption("--record") or config.getoption("--device") != "cpu"
    return min(MOST_PROCESSES, usable_cores()) if whole and not alone else 0


def pytest_configure(config: pytest.Config) -> None:
    """Options that can't be met fail the run before anything is collected: a backend that can't be imported, too."""
    from backends import load
    from reference.config import ConfigError
    from tests.benchmarks import gate
    from tests.require_device import problem

    if (n := config.getoption("--sample")) < 1:
        raise pytest.UsageError(f"--sample={n}: must be at least 1")
    if (device := config.getoption("--device")) != "cpu" and (reason := problem(device, config.getoption("--backend"))):
        raise pytest.UsageError(reason)
    config.pluginmanager.register(gate, "speed-gate")
    for name in config.getoption("--backend"):
        try:
            load(name)
        except ConfigError as error:
            raise pytest.UsageError(str(error)) from error


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Slow tests are deselected unless they are asked for, and by --sample all that a hash of their names leaves out; the summary
    counts both. What -m and -k drop is gone by then: a sample is of what would run."""
    left_out = set() if config.getoption("--slow") else {item for item in items if item.get_closest_marker("slow")}
    tests: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("sampled"):
            tests.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for sets in tests.values():
        sets.sort(key=lambda item: hashlib.sha256(item.nodeid.encode()).digest())
        left_out.update(sets[-(-len(sets) // config.getoption("--sample")):])  # rounded up
    config.hook.pytest_deselected(items=[item for item in items if item in left_out])
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A pipeline folder with the initial weights of a tiny network."""
    from bench.weights.pipeline import save_pipeline
    from reference.config import DiffusionConfig
    from reference.weights import initialise
    from tests.helpers.tiny import TINY

    save_pipeline(tmp_path / "pipeline", initialise(TINY, 0), TINY, DiffusionConfig())
    return tmp_path / "pipeline"
