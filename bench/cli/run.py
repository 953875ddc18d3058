"""`ddim-bench run`, the main job: from the options to a job, its rows and its report.

Trains, times, samples and measures the same network on each backend, checks every stage against the NumPy oracle, prints one
table, appends rows to `results/rows` and writes `results/README.md` with its figures.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from dataclasses import asdict
from pathlib import Path

import backends
from backends.protocol import Spec
from bench import files, terminal
from bench.cli import cells, claimed, heading, metrics, own, tables
from bench.cli.launch import launched, serve_as_scheduler
from bench.cli.options import at_least, data_choice, sampling_choices, unsaid, unused
from bench.job import forecast
from bench.job import run as stages
from bench.job.job import WORKLOADS, Images, Job
from bench.metric import inception
from bench.paths import ROOT, printable, require_clone
from bench.presets import Preset
from bench.progress import on_terminal
from bench.records import rows
from bench.records.cells import Cells
from bench.records.notebook import Notebook
from bench.report import results
from bench.timing import flops
from bench.timing.memory import require_room
from bench.weights import sources
from bench.weights.scheduler_config import note_unused, require_expressible
from bench.workers import ray_cluster
from bench.workers.crew import Crew
from bench.workers.errors import WorkerError, WrongAnswer
from reference import weights
from reference.config import ConfigError, require
from reference.conventions import adopt, get_convention
from reference.scheduler import SILENT, Scheduler
from reference.solver_plans import base


def resolve(args: argparse.Namespace) -> tuple[Job, list[str]]:
    """The job that the command line asks for, checked, and lines about backends that are absent. Writes nothing."""
    require(args.table is not None or args.seeds is None, "--seeds", args.seeds, "goes with --table")
    at_least(args, 1, "samples", "train_steps", "batch_size", "sample_batch", "threads", "timeout")
    at_least(args, 0, "save_every", "seed", "fit")
    samples = args.samples or inception.paper_n(args.metric)
    preset = own.preset(args).changed(
        samples=samples, train_steps=args.train_steps, batch_size=args.batch_size, sample_batch=args.sample_batch)
    launch = launched()
    require(preset.batch_size % launch.processes == 0, "--batch-size", preset.batch_size,
            f"must be a multiple of the {launch.processes} processes")
    for name in ("fresh", "check_determinism"):
        require(launch.processes == 1 or not getattr(args, name), f"--{name.replace('_', '-')}", True, "is for one process alone")
    measured = args.metric != "none"
    require(measured or not args.table, "--metric", args.metric, "goes without --table, which is a table of FID")
    by = metrics.choose(args.metric, args.inception_weights, args.download)
    require(not measured or preset.samples >= 2 * by.width, "--samples", preset.samples,
            f"the metric needs at least twice its feature width, {2 * by.width}; --metric none goes without")
    chosen, absent = backends.choose(launch.backends(args.backends), args.network)
    preset, initial, found = beginning(args, preset)
    drawn, left = cells.asked(args, chosen, found.scheduler if args.weights and args.convention == "diffusers" else SILENT)
    absent += left
    preset = preset.changed(diffusion=adopt(preset.diffusion, base(args.convention)))
    spec = Spec(preset.model, preset.diffusion, preset.optim, args.device, args.dtype)
    shape = spec.image_shape
    require_room("--batch-size", preset.batch_size // launch.processes, shape, flops.kept(spec))
    require_room("--sample-batch", preset.sample_batch, shape)
    require_room("--samples", preset.samples, shape)
    dataset, held_out = data_choice(args).both(preset.dataset, shape)
    other = dataset.name != preset.dataset
    fit = args.fit if args.fit is not None else preset.fit_steps if other and not args.weights else 0
    require(fit >= 0 and not (fit and args.weights), "--fit", fit, "must be 0 or more, and goes without --weights")
    require(not fit or launch.processes == 1, "--fit", fit, "is for one process alone: run ddim-bench train, then give --weights")
    if other and preset.weights and not (fit or args.weights):
        absent.append(f"weights: those of preset {preset.name}, trained on {preset.dataset} and not on {dataset.provenance}")
    preset = preset.changed(dataset=dataset.name)
    absent += metrics.notes(args.metric, by, preset.samples, dataset, held_out)
    if fit:
        require_expressible("--fit", preset.diffusion, SILENT)
    said = {} if fit else found.scheduler.to_dict()
    choices = sampling_choices(args) | ({"scheduler": said} if said else {})
    job = Job(preset, initial, found.weights, drawn, args.device, args.dtype, args.convention, args.seed, dataset, held_out,
              args.threads or launch.threads, args.save_every, args.timeout, args.check_determinism, launch.rank, launch.processes,
              fit, by, choices, measured)
    for cell in (*job.all_cells, *map(job.compared, job.all_cells)):
        job.plan(cell)
    job, left = claimed.cells(args, launch.backends(args.backends), job)
    return job, [*absent, *left]


def beginning(args: argparse.Namespace, preset: Preset) -> tuple[Preset, weights.Weights, sources.Loaded]:
    """The preset with the network of --weights, its seeded weights, and what sampling starts from."""
    said = unsaid(args, "image_size")
    if args.weights is None:
        unused(args, "without --weights", "ignore_scheduler")
    folder = args.weights or preset.weights
    if folder is None:
        initial = weights.initialise(preset.model, args.seed)
        return preset, initial, sources.Loaded(initial, preset.model, preset.diffusion)
    if not args.weights:
        require_clone(f"--preset={preset.name!r}", "its weights ship")
    found = sources.read(folder, said, args.ignore_scheduler)
    if args.weights:
        preset = preset.changed(model=found.model, diffusion=found.diffusion)
    else:
        weights.check(found.weights, preset.model, str(folder))
    return preset, weights.initialise(preset.model, args.seed), found


def describe(job: Job, absent: list[str]) -> str:
    """What `--dry-run` prints."""
    codes = asdict(get_convention(job.convention)) if job.convention == base(job.convention) else job.convention
    config = {**job.preset.to_dict(), "device": job.device, "dtype": job.dtype, "seed": job.seed,
              "convention": codes, "threads": job.threads, "data": job.dataset.provenance,
              "held_out": job.held_out.provenance,
              "extractor": job.extractor.name if job.measured else None,
              "extractor_sha256": job.extractor.sha256 if job.measured else None}
    cells = [f"{job.backends[0]}: train the network to sample from for {job.fit} steps"] if job.fit else []
    for b in job.backends:
        cells += [f"{b}: oracle"] + [f"{b}: train {job.preset.train_steps} steps"] * job.trains(b)
        cells += [f"{b}: time the {name}" for name in WORKLOADS if job.times(b, name)]
        cells += [f"{b}: sample {'and measure ' * job.measured}{cell} n={job.preset.samples}" for cell in job.cells[b]]
    return "\n".join([json.dumps(config, indent=2), *cells, *forecast.call_lines(job), *absent])


def run(args: argparse.Namespace, command: str) -> int:
    """The whole job, of a table one for each of its networks; returns the exit code."""
    serve_as_scheduler()
    return max(_job(argparse.Namespace(**{**vars(args), "preset": preset}), command) for preset in tables.presets(args))


def _job(args: argparse.Namespace, command: str) -> int:
    job, absent = resolve(args)
    scheduler = Scheduler.from_dict(job.choices.get("scheduler", {}))
    note_unused(scheduler, job.convention, *(cell.sampler or ("ddpm" if cell.eta == "ddpm" else "ddim") for cell in job.all_cells))
    if args.dry_run:
        if job.rank == 0:
            print(describe(job, absent))
        if args.dry_run == "cost" and job.processes == 1:
            with files.temporary_folder() as folder:
                print("\n" + forecast.table(forecast.predict(job, Cells(args.out, args.fresh), folder)))
        return 0
    require(args.executor == "local" or job.processes == 1, "--executor", args.executor, "is for one process alone")
    cluster = ray_cluster.connect(args.executor, job.threads, job.device)
    book = Notebook(Cells(args.out, args.fresh), job.preset.name, survives=(WorkerError,) if job.processes == 1 else (),
                    wrong_answers=(WrongAnswer,))
    book.missing += absent
    if job.rank == 0:
        ahead = heading.agenda(job, book.cells, args.table is not None)
        print("\n".join(heading.lines(job, ahead, args.out, args.table)), flush=True)
        book.agenda = ahead if cluster is None else book.agenda  # whose cells end elsewhere, in any order
    with files.temporary_folder() as logs, contextlib.closing(cluster) if cluster else \
            contextlib.nullcontext(), contextlib.closing(book.agenda), \
            Crew(job.spec, job.threads, logs, job.timeout, quiet=job.rank > 0 or not on_terminal()) as crew:
        stages.start(job, crew, book)  # before anything is written: a device that is absent is the user's mistake
        require_writable(args.out)
        if job.rank > 0:
            stages.share(job, crew, book)
            return 0
        images = stages.run(job, crew, book, cluster, begin=tables.begin(args))
        tables.end(args, job, book, images)
    return report(args, book, images, command)


def require_writable(out: Path) -> None:
    """Make the folder. Raises `ConfigError` where it can't be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".writable"
        probe.touch()
        probe.unlink(missing_ok=True)  # another run's probe, too
    except OSError as error:
        raise ConfigError(f"--out={str(out)!r}: {error.strerror}: must be a folder that can be written") from None


def report(args: argparse.Namespace, book: Notebook, images: Images, command: str) -> int:
    """Print the table and write the pages; returns the exit code."""
    if book.cells.reused:
        print(f"{book.cells.reused} finished cells were used again; --fresh does them again")
    with book.cells.shared("report"):  # one run writes it at a time
        if begun := [row for row in book.rows if row.kind == "budget"]:
            found = rows.read(args.out / "rows")
            page, html = tables.write(args.out, found, begun[0], command, book.missing)
            print(f"{terminal.page(page.read_text())}\nreport: {printable(page)}, {printable(html)}")
        else:
            print(results.shown(book.rows, book.missing))
        if not args.table:
            page = results.render(book.rows, images, args.out, command, book.missing)
            print(f"\nreport: {printable(page)}, {printable(tables.write_report(args.out))}")
            if args.out.resolve() == ROOT / "results" and (why := results.update_readme(ROOT / "README.md", book.rows)):
                print(f"README.md keeps its table, since the machine was not fit for times: {why}")
    print(book.wall_time())
    if bad := [*results.disagreements(book.rows), *book.wrong]:
        print("\n".join(["", *bad]), file=sys.stderr)
        return 4
    return 3 if any(line.startswith("missing") for line in book.missing) else 0
