"""Workers for the speed suite: one process per backend, mode and dtype, as in the main job."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import backends
from bench.messages import Create, Load
from bench.presets import PRESETS
from bench.records import environment
from bench.workers.process import Worker
from reference import weights
from reference.config import ConfigError

PRESET = PRESETS["quick"]
BATCH = 32
MODES, DTYPES = ("stock", "tuned"), ("float32", "bfloat16")
Start = Callable[[str, str, str], tuple[Worker, dict[str, Any]]]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests that take a mode run over all; the others have none and run as the backend's default."""
    if "backend" not in metafunc.fixturenames or metafunc.definition.get_closest_marker("parametrize"):
        return
    subjects = []
    for name in metafunc.config.getoption("--backend") or backends.names():
        try:
            backends.load(name)
        except backends.NotInstalled:
            continue  # the comparison then names its benchmarks as not run
        subjects += [(name, mode, dtype) for dtype in DTYPES if dtype in backends.about(name).dtypes for mode in MODES]
    if "mode" not in metafunc.fixturenames:
        metafunc.parametrize("backend", sorted({name for name, *_ in subjects}, key=backends.order))
    else:
        metafunc.parametrize(("backend", "mode", "dtype"), subjects)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Training images; what they show takes no time."""
    path = tmp_path_factory.mktemp("data") / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (256, 1, 28, 28), np.uint8))
    return str(path)


@pytest.fixture(scope="session")
def start(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """start(backend, mode, dtype): a worker that holds the network, and what it says of itself."""
    running: dict[tuple[str, ...], tuple[Worker, dict[str, Any]]] = {}
    folder: Path = tmp_path_factory.mktemp("workers")
    np.savez(folder / "weights.npz", **weights.initialise(PRESET.model, 0))
    threads = environment.usable_cores()

    def begin(backend: str, mode: str = "tuned", dtype: str = "float32") -> tuple[Worker, dict[str, Any]]:
        key = backend, mode, dtype
        if key not in running:
            device = request.config.getoption("--device")
            spec = {"model": PRESET.model.to_dict(), "diffusion": PRESET.diffusion.to_dict(), "optim": PRESET.optim.to_dict(),
                    "device": device, "dtype": dtype, "mode": mode}
            worker = Worker(backend, spec, threads, folder / f"{'-'.join(key)}.log")
            try:
                told = worker.call(Create())
                worker.call(Load(weights=str(folder / "weights.npz")))
            except ConfigError as error:
                worker.close()
                pytest.fail(f"{backend} {mode} {dtype} on {device}: {error}", pytrace=False)
            except BaseException:
                worker.close()
                raise
            running[key] = worker, {"backend": backend, "mode": mode, "dtype": dtype, "device": device, "threads": threads,
                                    "parameters": told.parameters, "flops_per_image": told.flops_per_image}
        return running[key]

    yield begin
    for worker, _ in running.values():
        worker.close()
