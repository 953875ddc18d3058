"""How time and memory grow: `ddim-bench study scaling --axes batch,steps,size,width,threads`.

One quantity is varied at a time around the network of `--preset`. Every point is a fresh process, for its peak memory to be its
own, and a cell: an interrupted study goes on from its finished points. Rows, a figure and `scaling.md` go to `--out`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from backends import trains
from backends.protocol import Spec
from bench import files
from bench.messages import Describe, TimeForward, TimePath, TimeTrain, Timing
from bench.paths import printable
from bench.presets import Preset
from bench.progress import tracked
from bench.records import rows, values
from bench.records.cells import Cells
from bench.records.notebook import Notebook
from bench.report import scaling_page
from bench.studies.speed import Contender, Race
from bench.timing import blocks
from bench.weights.tensor_files import weights_hash
from bench.workers.crew import Crew
from bench.workers.errors import WorkerError
from reference.config import ConfigError, require

POWERS = tuple(2**n for n in range(14))
AXES: dict[str, Callable[[str, int], tuple[int, ...]]] = {  # what is varied, over these values, on this device with so many threads
    "batch": lambda device, threads: POWERS[:9:2] if device == "cpu" else POWERS,
    "steps": lambda device, threads: (1, 2, 5, 10, 25, 50),
    "size": lambda device, threads: (16, 28, 32, 64) if device == "cpu" else (16, 32, 64, 128),
    "width": lambda device, threads: (8, 16, 32, 64) if device == "cpu" else (32, 64, 128, 256),
    "threads": lambda device, threads: tuple(n for n in POWERS if n < threads) + (threads,),
}
WORK: dict[str, Callable[..., Timing]] = {"training step": TimeTrain, "network call": TimeForward, "sampling": TimePath}


@dataclass(frozen=True)
class Point:
    """One measurement: a backend doing one kind of work, with one quantity at one value."""

    axis: str
    value: int
    workload: str
    backend: str
    batch: int
    threads: int
    preset: Preset
    steps: int = 10


def points(axes: Sequence[str], chosen: Sequence[str], preset: Preset, device: str, threads: int) -> Iterator[Point]:
    """All points of a study; sampling is timed against its steps alone, beside the bare network call."""
    for axis in axes:
        for value in AXES[axis](device.partition(":")[0], threads):
            for backend in chosen:
                point = Point(axis, value, "training step", backend, preset.batch_size, threads, preset)
                if axis == "batch":
                    point = replace(point, batch=value)
                if axis == "threads":
                    point = replace(point, threads=value)
                if axis in ("size", "width"):
                    point = replace(point, preset=varied(preset, axis, value))
                if axis == "steps":
                    yield replace(point, workload="sampling", steps=value)
                    if value == 1:
                        yield replace(point, workload="network call")
                else:
                    if trains(backend):
                        yield point
                    yield replace(point, workload="network call")


def varied(preset: Preset, axis: str, value: int) -> Preset:
    """The preset with images of another side, or with all widths in proportion to another first one."""
    model = preset.model
    if axis == "size":
        return replace(preset, model=replace(model, sample_size=value))
    first, groups = model.block_out_channels[0], model.norm_num_groups
    widths = tuple(value * width // first for width in model.block_out_channels)
    return replace(preset, model=replace(model, block_out_channels=widths, norm_num_groups=math.gcd(value // 2, groups)))


def able(backends: Sequence[str], crew: Crew, book: Notebook) -> list[str]:
    """Those that start on this device, and a line in the notebook for each other one. Raises `ConfigError` where none does: before
    anything is written, a device that is absent is the user's mistake."""
    without: dict[str, Exception] = {}
    for backend in backends:
        try:
            crew.start(backend)
        except (WorkerError, ConfigError) as error:
            without[backend] = error
        finally:
            crew.close()
    book.missing += [f"missing: all points of {backend}: {error}" for backend, error in without.items()]
    if len(without) == len(backends):
        raise ConfigError(str(without[backends[0]]))
    return [backend for backend in backends if backend not in without]


def measure(p: Point, crew: Crew, book: Notebook) -> None:
    """Time one point, or read it back."""
    race, c = Race(p.preset, crew, book), Contender(p.backend, "tuned", "float32")
    crew.threads, book.preset = p.threads, p.preset.name
    key = race.key(c, p.workload, p.batch, axis=p.axis, value=p.value, steps=p.steps) | {
        "stage": "scaling", "weights": weights_hash(race.weights)}
    try:
        book.keep("speed", "timing", key, {} if book.cells.done("speed", key) else _time(race, c, p))
    except (WorkerError, ConfigError) as error:
        book.missing.append(f"missing: {p.backend}, {p.workload}, {p.axis} = {p.value}: {error}")
    finally:
        crew.close()  # every point is a process of its own


def _time(race: Race, c: Contender, p: Point) -> dict[str, Any]:
    crew = race.crew
    race.start(c)
    crew.load(c.name, race.weights)
    idle = crew.call(c.name, Describe()).peak_rss_bytes
    more: dict[str, Any] = {}
    if p.workload == "training step":
        more["images"] = str(race.images())
    if p.workload == "sampling":
        more["steps"] = p.steps

    def block(units: int) -> float:
        return crew.call(c.name, WORK[p.workload](units=units, batch_size=p.batch, seed=0, **more)).seconds

    raw = blocks.time_blocks({"": block}, cap_seconds=20)[""]
    return raw | {"idle_rss_bytes": idle} | asdict(crew.call(c.name, Describe()))


def run(axes: Sequence[str], preset: Preset, backends: Sequence[str], *, device: str, threads: int, out: Path, fresh: bool,
        command: str, timeout: float = 900.0) -> int:
    """The study, into the results folder `out`, whose page names `command`. Returns the exit code."""
    for axis in axes:
        require(axis in AXES, "--axes", axis, f"must be among {', '.join(AXES)}")
    require(threads >= 1, "--threads", threads, "must be at least 1")
    book = Notebook(Cells(out, fresh), preset.name)
    spec = Spec(preset.model, preset.diffusion, preset.optim, device)
    with files.temporary_folder() as logs, Crew(spec, threads, logs, timeout, quiet=True) as crew:
        wanted = list(points(axes, able(backends, crew, book), preset, device, threads))
        for p in tracked(wanted, desc="points", leave=False):
            measure(p, crew, book)
    print("\n".join(book.missing))
    require(len(book.rows) > 0, "points", len(wanted), "none could be measured")
    (out / "figures").mkdir(exist_ok=True)
    measured = rows.of(book.rows, values.Timing)
    scaling_page.figure(measured, out / "figures" / "scaling.png")
    files.write_page(out / "scaling.md", scaling_page.render(measured, command, rows.read(out / "rows")))
    print(f"report: {printable(out / 'scaling.md')}")
    return 3 if book.missing else 0
