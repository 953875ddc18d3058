"""The speed table: `ddim-bench speed --peers`.

Contenders are the backends, stock and tuned, and peers (`bench.workers.peers`), each in a worker process of its own, started
with the same threads and allocator. Blocks of all contenders are interleaved A B B A, and one contender runs twice, for the
noise floor. All is done again with fresh processes, since processes of one code differ. Each workload is one cell: an interrupted
run goes on from the finished ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from backends import NotInstalled, about
from backends.protocol import Spec
from bench import files, streams
from bench.messages import Block, Describe, TimeRoof, TimeTrain, Timing
from bench.paths import printable
from bench.presets import Preset
from bench.progress import tracked
from bench.records import environment, rows
from bench.records.cells import Cells
from bench.records.notebook import Notebook
from bench.report import speed_page
from bench.studies.contenders import Contender, Workload, contenders, unclaimed, workloads
from bench.timing import blocks
from bench.workers import peers
from bench.workers.crew import Crew
from bench.workers.errors import Left, WorkerError, in_turn
from reference import weights
from reference.config import ConfigError, require

R = TypeVar("R")
MOST_AT_ONCE = 16  # contenders that start at once, beside an accelerator
IMAGES = 512  # random ones: what is timed does not depend on what they show
ROOFS = {"cpu": {"gemm": 2048, "convolution": 128}} | dict.fromkeys(("cuda", "ascend"), {"gemm": 8192, "convolution": 512})


class Race:
    """One run of the speed table: a process for each contender at work, and the rows so far."""

    def __init__(self, preset: Preset, crew: Crew, book: Notebook) -> None:
        self.preset, self.crew, self.book = preset, crew, book
        self.weights = weights.initialise(replace(preset.model, zero_init=False), 0)  # an engine could leave out layers of zeros
        self.left: set[tuple[Workload, Contender]] = set()  # who failed in what
        self.pool = ThreadPoolExecutor(MOST_AT_ONCE)  # kept: a worker ends with the thread that started it

    def start(self, c: Contender) -> None:
        """A fresh process for this contender. Raises as `Worker.call`."""
        p = self.preset
        self.crew.start(c.backend, c.name, model=p.model, diffusion=p.diffusion, optim=p.optim, dtype=c.dtype, mode=c.mode)

    def each(self, who: Sequence[Contender], work: Callable[[Contender], R], desc: str) -> list[R | ConfigError | WorkerError]:
        """What `work` returns of each contender, or raises. On an accelerator all are at work at once: until a clock runs it is the
        host that imports and compiles, for minutes each."""
        def attempt(c: Contender) -> R | ConfigError | WorkerError:
            try:
                return work(c)
            except (ConfigError, WorkerError) as error:
                return error

        run = map if self.crew.spec.device == "cpu" else self.pool.map
        return list(tracked(run(attempt, who), total=len(who), desc=desc, leave=False))

    def able(self, wanted: Sequence[Contender]) -> list[Contender]:
        """Those that can be created here; a line in the notebook for each other one."""
        def attempt(c: Contender) -> None:
            self.start(c)
            self.crew.stop(c.name)

        out, without = [], []
        for c, error in zip(wanted, self.each(wanted, attempt, "start contenders"), strict=True):
            if error is None:
                out.append(c)
            elif isinstance(error, NotInstalled) and c.backend in peers.LIBRARIES:  # asked for by name
                raise error
            else:
                without.append(f"not run: {c.name}: {error}")
        require(len(out) > 0, "contenders", len(wanted), "none can run here; " + "".join(without[:1]))
        self.book.missing += without
        return out

    def key(self, c: Contender, workload: str, batch: int, **more: Any) -> dict[str, Any]:
        """What decides a cell."""
        p = self.preset
        return {"stage": "speed", "backend": c.backend, "contender": c.name, "mode": c.mode, "dtype": c.dtype, "workload": workload,
                "batch_size": batch, "device": self.crew.spec.device, "threads": self.crew.threads,
                "variables": environment.worker_env(self.crew.threads), "model": p.model.to_dict(),
                "diffusion": p.diffusion.to_dict(), "optim": p.optim.to_dict(), "blocks": p.blocks, **more}

    def race(self, workload: Workload, wanted: Sequence[Contender], process: int) -> None:
        """Time a workload, all in turn, each in a fresh process. One that fails is left out, also of the next processes; the others
        start again where blocks of them were timed beside it."""
        who = [c for c in workload.racing(wanted) if (workload, c) not in self.left]

        def key(c: Contender) -> dict[str, Any]:
            return self.key(c, workload.name, workload.batch_size, beside=[other.name for other in who], process=process)

        def done() -> bool:
            return all(self.book.cells.done("speed", key(c)) for c in who)

        while who:
            try:
                raw = {} if done() else self._time(workload, who, done)
            except Left as left:
                self._leave(workload, who, left.who, left)
                continue
            for c in who:
                self.book.keep("speed", "timing", key(c), raw.get(c.name, {}))
            return

    def _leave(self, workload: Workload, who: list[Contender], c: Contender, error: Exception) -> None:
        """Go on without this one, and say so."""
        self.book.missing.append(f"missing: {workload.name}, batch {workload.batch_size}: {c.name}: {error}")
        who.remove(c)
        self.left.add((workload, c))

    def _time(self, workload: Workload, who: list[Contender], done: Callable[[], bool]) -> dict[str, dict[str, Any]]:
        """The rows' values by contender, none where all that are left are done. `who` loses those whose first call fails; raises
        `Left` for one that fails later."""
        state = {"began": datetime.now(UTC).isoformat(timespec="seconds"), "load_before": [round(x, 2) for x in os.getloadavg()]}
        more = {"images": str(self.images())} if workload.command is TimeTrain else {}
        asked = workload.command(units=1, batch_size=workload.batch_size, seed=0, **more)
        timed: dict[str, blocks.Block] = {}
        try:
            first: dict[str, float] = {}
            for c, found in zip(tuple(who), self.each(who, partial(self._first, asked), "compile"), strict=True):
                if isinstance(found, float):
                    first[c.name], timed[c.name] = found, partial(self._block, c, asked)
                else:
                    self.crew.stop(c.name)
                    self._leave(workload, who, c, found)
            if done():
                return {}
            with tracked(desc=f"{workload.name}, batch {workload.batch_size}", leave=False, mininterval=1) as bar:
                def progress(done: int, total: int) -> None:
                    bar.total = total
                    bar.update(done - bar.n)

                raw = blocks.time_blocks(timed, first, blocks=self.preset.blocks, on_progress=progress)
            return {c.name: raw[c.name] | state | asdict(in_turn(c, self.crew.call, c.name, Describe())) for c in who}
        finally:
            self.crew.close()

    def _first(self, asked: Timing, c: Contender) -> float:
        """Start a contender; the seconds of its first unit."""
        self.start(c)
        self.crew.load(c.name, self.weights)
        return self.crew.call(c.name, asked).seconds

    def _block(self, c: Contender, asked: Timing, units: int) -> float:
        return in_turn(c, self.crew.call, c.name, replace(asked, units=units)).seconds

    def images(self) -> Path:
        """The file of the images that training steps are timed on."""
        model, n = self.preset.model, IMAGES
        noise = streams.normal(0, "check", np.arange(n), (model.in_channels, model.sample_size, model.sample_size))
        path = self.crew.logs / f"images-{model.in_channels}-{model.sample_size}.npy"
        np.save(path, (127.5 * (np.tanh(noise) + 1)).astype(np.uint8))
        return path

    def roof(self, c: Contender) -> None:
        """The best matrix rate that this contender's framework reaches in its dtype, of two kernels."""
        for kernel, n in ROOFS[self.crew.spec.device.partition(":")[0]].items():
            key = self.key(replace(c, mode="roof"), kernel, n)
            try:
                raw = {} if self.book.cells.done("speed", key) else self._time_roof(c, TimeRoof(1, kernel, n, c.dtype))
            except WorkerError as error:
                self.book.missing.append(f"missing: {kernel} of {c.backend} in {c.dtype}: {error}")
                continue
            self.book.keep("speed", "timing", key, raw)

    def _time_roof(self, c: Contender, asked: TimeRoof) -> dict[str, Any]:
        try:
            self.start(c)

            def call(units: int) -> Block:
                return self.crew.call(c.name, replace(asked, units=units))

            raw = blocks.time_blocks({"": lambda units: call(units).seconds}, cap_seconds=10)[""]
            return raw | {"flops": call(1).flops}
        finally:
            self.crew.stop(c.name)


def run(preset: Preset, backends: Sequence[str], *, device: str, threads: int, peers: bool, words: Sequence[str], processes: int,
        out: Path, fresh: bool, timeout: float, dry_run: bool) -> int:
    """The table of the workloads of `words`, as `workloads`, into the results folder `out`; `processes` of each contender, one
    after the other; `timeout` as `Crew`'s.

    Returns the exit code: 0, or 3 where a contender failed on the way.
    """
    require(preset.blocks >= blocks.LEAST_BLOCKS, "blocks", preset.blocks, f"must be at least {blocks.LEAST_BLOCKS}")
    races = workloads(preset, words)
    wanted, left = contenders(backends, peers, device), unclaimed(backends, device)
    if dry_run:
        print("\n".join([*(w.title for w in races), *(c.name for c in wanted), *left]))
        return 0
    book = Notebook(Cells(out, fresh), preset.name)
    book.missing += left
    spec = Spec(preset.model, preset.diffusion, preset.optim, device)
    with files.temporary_folder() as logs, Crew(spec, threads, logs, timeout) as crew:
        this = Race(preset, crew, book)
        who = this.able(wanted)
        for process in range(processes):  # the outer loop: a run that ends early has all workloads of some
            for workload in races:
                this.race(workload, who, process)
        for c in {(c.backend, c.dtype): replace(c, again=False) for c in who}.values():
            if about(c.backend).roofline:
                this.roof(c)
    print("\n".join([*speed_page.terminal(speed_page.of_races(book.rows)), "", *book.missing]))
    path = files.write_page(out / "speed.md", speed_page.render(speed_page.of_races(rows.read(out / "rows"))))
    print(f"\nreport: {printable(path)}")
    return 3 if any(line.startswith("missing") for line in book.missing) else 0
