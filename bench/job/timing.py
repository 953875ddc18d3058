"""The timing cells: a training step and a sampling step, blocks of all backends in turn."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np

from bench import files
from bench.job.job import WORKLOADS, Job
from bench.messages import Describe, TimeSample, TimeTrain, Timing
from bench.oracle import UNFINISHED
from bench.progress import on_terminal, tracked
from bench.records.notebook import Notebook
from bench.timing import blocks
from bench.workers.crew import Crew
from bench.workers.errors import Left, in_turn

IMAGES = 4096  # of the data, that training steps are timed on


def steps(job: Job, crew: Crew, book: Notebook) -> None:
    """Both workloads. A backend that dies is left out, and the others are timed again."""
    if not job.preset.blocks:
        return
    if job.processes > 1:
        book.missing.append("single steps are not timed with several processes")
        return
    for workload, batch in zip(WORKLOADS, (job.preset.batch_size, job.preset.sample_batch), strict=True):
        _race(job, crew, book, workload, batch)


def spent(values: Mapping[str, Any]) -> float:
    """Seconds that a contender was timed for, with its first unit and its warm-up."""
    return float(values["first_seconds"] + sum(values["warmup_seconds"]) + sum(values["block_seconds"]))


def _race(job: Job, crew: Crew, book: Notebook, workload: str, batch: int) -> None:
    p, who = job.preset, [backend for backend in crew if job.times(backend, workload)]
    while who:
        keys = {b: job.key(b, stage="timing", workload=workload, batch_size=batch, blocks=p.blocks, beside=who,
                           optim=p.optim.to_dict()) for b in who}
        raw: dict[str, dict[str, Any]] = {b: {} for b in who}
        race = {"backend": "", "workload": workload}  # as the agenda names it
        try:
            if all(book.cells.done("timing", key) for key in keys.values()):
                book.agenda.skip("timing", race)
            else:
                number = book.agenda.begin("timing", race)
                raw = _time(job, crew, book, workload, batch, who)
                book.agenda.end(number, sum(map(spent, raw.values())))
        except Left as left:
            book.leave(f"timing of the {workload} {left.who}", left.reason)
            who.remove(left.who)
            continue
        for backend, key in keys.items():
            book.keep("timing", "timing", key, raw[backend])
        return


def _time(job: Job, crew: Crew, book: Notebook, workload: str, batch: int, who: list[str]) -> dict[str, dict[str, Any]]:
    training, load = workload == "training step", [round(x, 2) for x in os.getloadavg()]
    with book.cells.shared("timing") as folder, tracked(
            desc=f"time the {workload}", leave=False, mininterval=1, disable=not on_terminal()) as bar:
        asked: Timing = TimeSample(1, batch, job.seed)
        if training:
            asked = TimeTrain(1, str(folder / "images.npy"), job.seed, batch)
            with files.replacing(folder / "images.npy") as file:
                np.save(file, job.dataset.images[:IMAGES])
        contenders: dict[str, Callable[[int], float]] = {}
        late: dict[str, list[float]] = {backend: [] for backend in who}
        for backend in who:
            in_turn(backend, crew.load, backend, job.initial if training else job.trained)
            contenders[backend] = partial(_block, crew, backend, asked, late[backend])

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        raw = blocks.time_blocks(contenders, blocks=job.preset.blocks, on_progress=progress)
        (folder / "images.npy").unlink(missing_ok=True)
    return {b: values | {"load_before": load, "late": float(np.median(late[b]))} | asdict(in_turn(b, crew.call, b, Describe()))
            for b, values in raw.items()}


def _block(crew: Crew, backend: str, asked: Timing, late: list[float], units: int) -> float:
    """The block's seconds; the share of its work that was left after them goes to `late`, and counts where it is no chance."""
    found = in_turn(backend, crew.call, backend, replace(asked, units=units))
    late.append(found.late / (found.seconds + found.late))
    return found.seconds if late[-1] <= UNFINISHED else found.seconds + found.late
