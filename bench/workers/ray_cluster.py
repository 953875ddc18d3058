"""Cells on a Ray cluster: `--executor ray`, or `--executor ray=HOST:PORT` for a cluster that runs already.

The job itself stays one process, which sends out cells, writes what comes back and alone holds the results folder; nodes share
no disk. Ray gives a cell to another node when its node dies.
"""

from __future__ import annotations

import importlib.util
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Iterator
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from backends import taken
from bench import files
from bench.data.datasets import Dataset
from bench.messages import Command, Create, R
from bench.metric import fid
from bench.paths import ROOT
from bench.records import environment
from bench.sampling import parts
from bench.sampling.cell import Draw
from bench.workers.errors import WorkerError
from bench.workers.process import Worker
from reference.config import ConfigError, require

ANSWER_SECONDS = 20  # with the time to import Ray
RETRIES = 3  # nodes that may die under one cell
ROOMS = ("reference", "backends", "bench")
Key = TypeVar("Key", bound=Hashable)


def draw_cell(backend: str, spec: dict[str, Any], threads: int, timeout: float, cell: Draw
              ) -> tuple[dict[str, Any], NDArray[np.float32], dict[str, Any]]:
    """(values of the row, images, the machine) of one sampling cell, drawn in a worker of this machine."""
    began = time.perf_counter()
    with files.temporary_folder() as folder, \
            Worker(backend, spec, threads, folder / "worker.log") as worker:
        def call(command: Command[R], stage: str = "") -> R:
            return worker.call(command, timeout=timeout)

        call(Create())
        parts.draw(call, cell, folder)
        values = parts.collect(cell, folder)
        return values, np.load(folder / parts.IMAGES), _machine(began)


def measure_cell(images: NDArray[np.uint8], dataset: Dataset, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """(values of the row, the machine) of one metric cell, by the extractor that ships with this code."""
    began = time.perf_counter()
    return dict(fid.evaluate(images, dataset, seed=seed)), _machine(began)


def _machine(began: float) -> dict[str, Any]:
    return environment.describe() | {"cell_seconds": round(time.perf_counter() - began, 3)}


class Ray:
    """A Ray cluster, which every task may run on. Tasks take `threads` CPUs, and a GPU where `device` is one."""

    def __init__(self, address: str | None, threads: int, device: str) -> None:
        if importlib.util.find_spec("ray") is None:
            raise ConfigError("--executor='ray': Ray is not installed; to install it: pip install -e \".[ray]\"")
        if address and "://" not in address and ":" in address:
            _require_cluster(address)
        import ray

        self.ray: Any = ray
        # Nodes run the code of this process, whatever they have installed.
        shipped = {"py_modules": [*(str(ROOT / room) for room in ROOMS), *map(str, taken())], "excludes": ["__pycache__"]}
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=None if address else False,
                     runtime_env=shipped)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigError(f"--executor={f'ray={address}'!r}: no cluster there: {str(error).splitlines()[0]}") from None
        self.options: dict[str, Any] = {"num_cpus": threads, "max_retries": RETRIES, "num_gpus": int(device.startswith("cuda"))}
        most = max(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"])
        if threads > most:
            self.close()
            raise ConfigError(f"--threads={threads!r}: the largest node of the cluster has {most:g} CPUs")

    def map(self, function: Callable[..., Any], tasks: dict[Key, tuple[Any, ...]]) -> Iterator[tuple[Key, Callable[[], Any]]]:
        """Run all at once; each key and a function that gives its result, in the order in which they end."""
        task = self.ray.remote(**self.options)(function)
        return self._ended({task.remote(*args): key for key, args in tasks.items()})

    def _ended(self, waiting: dict[Any, Key]) -> Iterator[tuple[Key, Callable[[], Any]]]:
        while waiting:
            (done, *_), _ = self.ray.wait(list(waiting))
            yield waiting.pop(done), partial(self._result, done)

    def put(self, value: Any) -> Any:
        """What stands for `value` as an argument of many tasks, so that it is sent to each node once."""
        return self.ray.put(value)

    def close(self) -> None:
        """End the connection, and the cluster if it was started here."""
        self.ray.shutdown()

    def _result(self, reference: Any) -> Any:
        try:
            return self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except self.ray.exceptions.RayError as error:
            raise WorkerError(f"Ray: {str(error).splitlines()[0]}") from None


def _require_cluster(address: str) -> None:
    """Raise `ConfigError` where no cluster answers. Ray's own attempt prints lines of its own and may wait for minutes."""
    host, _, port = address.rpartition(":")
    asked = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        socket.create_connection((host, port), timeout=ANSWER_SECONDS / 4).close()
        found = subprocess.run(asked, capture_output=True, timeout=ANSWER_SECONDS).returncode == 0
    except (OSError, OverflowError, UnicodeError, subprocess.TimeoutExpired):
        found = False
    require(found, "--executor", f"ray={address}", "no cluster answers there; start one, or leave the address out")


def connect(name: str, threads: int, device: str) -> Ray | None:
    """The executor of this name: None for "local", this process and its workers."""
    kind, _, address = name.partition("=")
    require(name == "local" or kind == "ray", "--executor", name, "must be local, ray or ray=HOST:PORT")
    return Ray(address or None, threads, device) if kind == "ray" else None
