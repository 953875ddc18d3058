"""The workers of one run, each a process that holds one backend. Knows nothing of rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.protocol import Batch, Spec
from bench import files
from bench.messages import Command, Create, Load, Loss, R, Sample
from bench.progress import tracked
from bench.workers.process import Worker
from reference.weights import Weights

START_SECONDS = 300.0  # to import a framework, which reports no progress and may hold the heartbeat up


class Crew:
    """A context manager, which ends the workers. Iterating gives their names, in the order of their start.

    `spec` is what each backend is given; `logs` a folder for logs and for arrays on their way; `timeout` seconds without
    heartbeat or progress, after which a worker is ended; `quiet` shows no progress.
    """

    def __init__(self, spec: Spec, threads: int, logs: Path, timeout: float, quiet: bool = False) -> None:
        self.spec, self.threads, self.logs, self.timeout, self.quiet = spec, threads, logs, timeout, quiet
        self._workers: dict[str, Worker] = {}

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._workers))

    def __contains__(self, name: str) -> bool:
        return name in self._workers

    def start(self, backend: str, name: str | None = None, **changes: Any) -> None:
        """Start a backend's worker, in place of the one of that name; `changes` are of the spec. Raises as `Worker.call`."""
        name = name or backend
        self.stop(name)
        spec = replace(self.spec, **changes)
        self._workers[name] = Worker(backend, spec.to_dict(), self.threads, self.logs / f"{name}.log",
                                     silence=max(self.timeout, START_SECONDS))
        try:
            self._workers[name].call(Create(), timeout=max(self.timeout, START_SECONDS))
            self._workers[name].silence = self.timeout
        except BaseException:
            self.stop(name)
            raise

    def stop(self, name: str) -> None:
        """End the worker of this name where there is one."""
        if name in self._workers:
            self._workers.pop(name).close()

    def close(self) -> None:
        """End all."""
        for name in self:
            self.stop(name)

    def call(self, name: str, command: Command[R], stage: str = "") -> R:
        """The worker's reply to a command, with a bar where `stage` names one and the worker reports progress."""
        bar = None

        def progress(done: int, total: int) -> None:
            nonlocal bar
            bar = bar or tracked(total=total, desc=f"{stage} {name}", leave=False, mininterval=1, disable=self.quiet or not stage)
            bar.update(done - bar.n)

        try:
            return self._workers[name].call(command, on_progress=progress, timeout=self.timeout)
        finally:
            if bar is not None:
                bar.close()

    def load(self, name: str, weights: Weights) -> None:
        """Give a worker its weights."""
        path = self.logs / f"{name}-weights.npz"
        files.savez(path, **weights)
        self.call(name, Load(str(path)))
        path.unlink()

    def loss(self, name: str, batch: Batch, step: int | None = None) -> tuple[float, Weights]:
        """The training loss of a batch, and with `step` what that training step did: see `messages.Loss`."""
        path, out = self.logs / f"{name}-batch.npz", self.logs / f"{name}-step.npz"
        files.savez(path, **{field: value for field in ("ids", "x0", "t", "noise", "coin")
                             if (value := getattr(batch, field)) is not None})
        found = self.call(name, Loss(str(path), step, str(out))).loss
        path.unlink()
        if step is None:
            return found, {}
        with np.load(out) as file:
            done = dict(file)
        out.unlink()
        return found, done

    def draw(self, name: str, ids: range, plan: dict[str, Any], batch_size: int, seed: int, stage: str = "sample"
             ) -> NDArray[np.floating[Any]]:
        """Images of these sample ids by the loaded weights, (n, C, H, W); `plan` are the arguments of `make_plan`."""
        path = self.logs / f"{name}-drawn.npy"
        path.unlink(missing_ok=True)
        self.call(name, Sample((ids.start, ids.stop), plan, batch_size, seed, str(path), at=0, total=len(ids)), stage)
        images = np.load(path)
        path.unlink()
        return images
