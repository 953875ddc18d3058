"""The speed table: `python bench/run.py --speed --peers`.

Contenders are the backends, stock and tuned, and peers (`bench.workers.peers`), each in a worker process of its own, started
with the same threads and allocator. Blocks of all contenders are interleaved A B B A, and one contender runs twice, for the
noise floor. Each workload is one cell: an interrupted run goes on from the finished ones.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from backends import NotInstalled, about
from backends.protocol import Spec
from bench import files, streams
from bench.presets import Preset
from bench.records import environment
from bench.records.cells import Cells
from bench.records.rows import Row
from bench.report import speed_page
from bench.timing import blocks
from bench.workers import peers
from bench.workers.errors import Left, WorkerError, in_turn
from bench.workers.process import Worker
from bench.workers.session import plain_spec
from reference import weights
from reference.config import ConfigError, require

IMAGES = 512  # random ones: what is timed does not depend on what they show
ROOFS = {"cpu": {"gemm": 2048, "convolution": 128}, "cuda": {"gemm": 8192, "convolution": 512},
         "ascend": {"gemm": 8192, "convolution": 512}}


@dataclass(frozen=True)
class Contender:
    """One column of the race: a backend or peer, how it runs, and whether it is the second run of another one."""

    backend: str
    mode: str
    dtype: str
    again: bool = False

    @property
    def name(self) -> str:
        """What the report calls it."""
        mode = "eager" if self.backend in peers.PEERS and self.mode == "stock" else self.mode
        return f"{self.backend} {mode} {self.dtype}" + (" (again)" if self.again else "")


@dataclass(frozen=True)
class Workload:
    """One cell: a command of the worker, at one batch size."""

    name: str
    command: str
    batch_size: int


def contenders(backends: Sequence[str], with_peers: bool, device: str = "cpu") -> list[Contender]:
    """All that could race: backends stock, tuned and compiled, also in reduced precision, and peers, eager and tuned."""
    out = []
    for backend in backends:
        out += [Contender(backend, "stock", "float32"), Contender(backend, "tuned", "float32")]
        out += [Contender(backend, "tuned", dtype) for dtype in about(backend).reduced]
        if device.partition(":")[0] in about(backend).compiled_apart:
            out += [Contender(backend, "compiled", dtype) for dtype in ("float32", *about(backend).reduced)]
    if with_peers:
        out += [Contender("diffusers", "stock", "float32"), Contender("diffusers", "tuned", "float32"),
                Contender("diffusers", "tuned", "bfloat16"), Contender("lucidrains", "stock", "float32")]
    first = next(c for c in out if c.mode == "tuned")
    return [*out, replace(first, again=True)]


def workloads(preset: Preset) -> list[Workload]:
    """Training, and sampling at the preset's batch, four times it, and one image (latency)."""
    n = preset.sample_batch
    return [Workload("training step", "time_train", preset.batch_size),
            *(Workload("sampling step", "time_sample", batch) for batch in (n, 4 * n, 1))]


class Speed:
    """One run of the speed table."""

    def __init__(self, preset: Preset, device: str, threads: int, cells: Cells, logs: Path, timeout: float = 900.0) -> None:
        self.preset, self.device, self.threads, self.cells, self.logs, self.timeout = preset, device, threads, cells, logs, timeout
        self.rows: list[Row] = []
        self.missing: list[str] = []
        self.environment = environment.describe()
        self.weights = weights.initialise(preset.model, 0)

    @contextlib.contextmanager
    def worker(self, c: Contender) -> Iterator[Worker]:
        """A fresh process for this contender. Raises as `Worker.call`."""
        p = self.preset
        spec = Spec(p.model, p.diffusion, p.optim, self.device, c.dtype, c.mode)
        with Worker(c.backend, plain_spec(spec), self.threads, self.logs / f"{c.name}.log") as worker:
            worker.call("create", timeout=self.timeout)
            yield worker

    def able(self, wanted: Sequence[Contender]) -> list[Contender]:
        """Those that can be created here; a line in `missing` for each other one."""
        out = []
        for c in tqdm(wanted, desc="start contenders", leave=False):
            try:
                with self.worker(c):
                    out.append(c)
            except (ConfigError, WorkerError) as error:
                if isinstance(error, NotInstalled) and c.backend in peers.PEERS:  # asked for by name
                    raise
                self.missing.append(f"not run: {c.name}: {error}")
        require(len(out) > 0, "contenders", [c.name for c in wanted], "none can run here; " + "".join(self.missing[:1]))
        return out

    def key(self, c: Contender, workload: str, batch: int, **more: Any) -> dict[str, Any]:
        """What decides a cell."""
        p = self.preset
        return {"stage": "speed", "backend": c.backend, "contender": c.name, "mode": c.mode, "dtype": c.dtype, "workload": workload,
                "batch_size": batch, "device": self.device, "threads": self.threads,
                "variables": environment.worker_env(self.threads), "model": p.model.to_dict(),
                "diffusion": p.diffusion.to_dict(), "optim": p.optim.to_dict(), "blocks": p.blocks, **more}

    def race(self, workload: Workload, wanted: Sequence[Contender]) -> None:
        """Time one workload, all contenders in turn. One that fails is left out, and the others are timed again."""
        who = list(wanted)
        while who:
            keys = {c: self.key(c, workload.name, workload.batch_size, beside=[other.name for other in who]) for c in who}
            raw: dict[str, dict[str, Any]] = {}
            try:
                if not all(self.cells.done("speed", key) for key in keys.values()):
                    raw = self._time(workload, who)
            except Left as left:
                self.missing.append(f"missing: {workload.name}, batch {workload.batch_size}: {left.who.name}: {left}")
                who.remove(left.who)
                continue
            for c, key in keys.items():
                self._keep(c, key, raw.get(c.name, {}))
            return

    def _time(self, workload: Workload, who: Sequence[Contender]) -> dict[str, dict[str, Any]]:
        state = {"began": datetime.now(UTC).isoformat(timespec="seconds"), "load_before": [round(x, 2) for x in os.getloadavg()]}
        args: dict[str, Any] = {"batch_size": workload.batch_size, "seed": 0}
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ddim-bench-")))
            np.savez(folder / "weights.npz", **self.weights)
            np.save(folder / "images.npy", self._images())
            if workload.command == "time_train":
                args["images"] = str(folder / "images.npy")
            running: dict[Contender, Worker] = {}
            timed: dict[str, blocks.Block] = {}
            for c in who:
                running[c] = in_turn(c, stack.enter_context, self.worker(c))
                in_turn(c, running[c].call, "load", weights=str(folder / "weights.npz"), timeout=self.timeout)
                timed[c.name] = partial(self._block, c, running[c], workload.command, args)
            bar = stack.enter_context(tqdm(desc=f"{workload.name}, batch {workload.batch_size}", leave=False, mininterval=1))

            def progress(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            raw = blocks.time_blocks(timed, blocks=self.preset.blocks, on_progress=progress)
            return {c.name: raw[c.name] | state | in_turn(c, running[c].call, "info", timeout=self.timeout) for c in who}

    def _block(self, c: Contender, worker: Worker, command: str, args: dict[str, Any], units: int) -> float:
        return in_turn(c, worker.call, command, units=units, timeout=self.timeout, **args)["seconds"]

    def _images(self) -> NDArray[np.uint8]:
        model, n = self.preset.model, IMAGES
        noise = streams.normal(0, "check", np.arange(n), (model.in_channels, model.sample_size, model.sample_size))
        return (127.5 * (np.tanh(noise) + 1)).astype(np.uint8)

    def roof(self, c: Contender) -> None:
        """The best matrix rate that this contender's framework reaches in its dtype, of two kernels."""
        for kernel, n in ROOFS[self.device.partition(":")[0]].items():
            key = self.key(replace(c, mode="roof"), kernel, n)
            try:
                raw = {} if self.cells.done("speed", key) else self._time_roof(c, {"kernel": kernel, "n": n, "dtype": c.dtype})
            except WorkerError as error:
                self.missing.append(f"missing: {kernel} of {c.backend} in {c.dtype}: {error}")
                continue
            self._keep(c, key, raw)

    def _time_roof(self, c: Contender, args: dict[str, Any]) -> dict[str, Any]:
        with self.worker(c) as worker:
            def call(units: int) -> dict[str, Any]:
                return worker.call("time_roof", units=units, timeout=self.timeout, **args)

            raw = blocks.time_blocks({"": lambda units: call(units)["seconds"]}, cap_seconds=10)[""]
            return raw | {"flops": call(1)["flops"]}

    def _keep(self, c: Contender, key: dict[str, Any], values: dict[str, Any]) -> None:
        row = partial(Row, "timing", c.backend, self.preset.name, key, values, self.environment, self.environment["commit"])
        self.rows.append(self.cells.run("speed", key, lambda folder: row()))


def run(preset: Preset, backends: Sequence[str], args: argparse.Namespace) -> int:
    """The whole table, with the options of `bench.run`; returns the exit code: 0, or 3 where a contender failed on the way."""
    require(preset.blocks >= blocks.LEAST_BLOCKS, "blocks", preset.blocks, f"must be at least {blocks.LEAST_BLOCKS}")
    wanted = contenders(backends, args.peers, args.device)
    if args.dry_run:
        print("\n".join([*(w.name + f", batch {w.batch_size}" for w in workloads(preset)), *(c.name for c in wanted)]))
        return 0
    with tempfile.TemporaryDirectory(prefix="ddim-bench-") as logs:
        this = Speed(preset, args.device, args.threads, Cells(args.out, args.fresh), Path(logs), args.timeout)
        who = this.able(wanted)
        for c in {(c.backend, c.dtype): replace(c, again=False) for c in who}.values():
            if about(c.backend).roofline:
                this.roof(c)
        for workload in workloads(preset):
            this.race(workload, who)
    print("\n".join([*speed_page.terminal(this.rows), "", *this.missing]))
    path = args.out / "speed.md"
    with files.replacing(path) as file:
        file.write(speed_page.render(args.out / "rows").encode())
    print(f"\nreport: {path}")
    return 3 if any(line.startswith("missing") for line in this.missing) else 0
