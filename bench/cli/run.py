"""The main job: `python bench/run.py --steps 10,50,1000`.

Trains, times, samples and measures the same network on each backend, checks every stage against the NumPy oracle, prints one
table, appends rows to `results/rows` and writes `results/README.md` with its figures.

Exit codes: 0 all well, 2 the user's mistake or a file that can't be read or written, 3 cells missing (a worker died or hung, a loss
was not finite, memory ran out), 4 backends or oracle disagree, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import backends
from backends.protocol import Spec
from bench.cli.launch import launched, serve_as_scheduler
from bench.cli.main import exit_code
from bench.cli.options import parse_eta, parse_seeds
from bench.data import datasets
from bench.job import forecast
from bench.job.job import Job, Run, with_options
from bench.metric import inception
from bench.paths import ROOT
from bench.presets import PRESETS, get_preset
from bench.records import rows
from bench.records.cells import Cells
from bench.report import results, table1_frames, table1_page
from bench.report.html.page import render as render_html
from bench.sampling import table1
from bench.sampling.cell import Cell
from bench.studies import speed
from bench.training import loop
from bench.weights import sources
from bench.workers import ray_cluster
from reference import weights
from reference.config import ConfigError, require
from reference.conventions import CONVENTIONS, adopt, get_convention
from reference.timesteps import parse_steps


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n")[-1])
    p.add_argument("--table", choices=("ddim",), help="draw and measure the grid of the DDIM paper's table 1, and write table.md")
    p.add_argument("--seeds", metavar="N[,M]", help="with --table: sample seeds of a cell, and of one at S = 1000; default: 3,1")
    p.add_argument("--steps", help="DDIM step counts; default: 10,50,1000, with --table all of the table's")
    p.add_argument("--eta", help="one or more of [0, 1], sigma_hat or ddpm, separated by commas; default: 0, with --table all of "
                   "the table's")
    p.add_argument("--backends", help=f"of {', '.join(backends.names())}; default: all that are installed")
    p.add_argument("--preset", help=f"of {', '.join(PRESETS)}; default: quick, with --table table")
    p.add_argument("--spacing", help="how timesteps are chosen, such as leading (uniform) or quad; default: the convention's")
    datasets.add_options(p)
    inception.add_options(p)
    p.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N or ascend")
    p.add_argument("--dtype", default="float32", help="of the network: float32, bfloat16, float16 or float64")
    p.add_argument("--samples", type=int, help="images per sampling cell")
    p.add_argument("--train-steps", type=int, help="training steps per backend")
    p.add_argument("--batch-size", type=int, help="of training, all processes together")
    p.add_argument("--sample-batch", type=int, help="images drawn at once; processes share out whole batches")
    p.add_argument("--weights", help="what to sample from: a diffusers folder, a checkpoint of the DDIM code or of "
                   "improved-diffusion, or a name on the Hugging Face hub; default: the preset's")
    p.add_argument("--fit", type=int, metavar="STEPS", help="first train the network that is sampled from, for so many steps; "
                   "default: on other data than the preset's and without --weights, the preset's number, else 0")
    p.add_argument("--convention", default="plain", help=f"of {', '.join(CONVENTIONS)}")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--threads", type=int, default=launched().threads, help="CPU threads of each backend")
    p.add_argument("--save-every", type=float, default=loop.SAVE_EVERY, help="seconds between training states")
    p.add_argument("--timeout", type=float, default=900.0, help="seconds without heartbeat or progress, then a worker is ended")
    p.add_argument("--check-determinism", action="store_true", help="run a training and a sampling twice and compare the bits")
    p.add_argument("--speed", action="store_true", help="time the backends, stock and tuned, and write speed.md; nothing else")
    p.add_argument("--peers", action="store_true", help="with --speed: also time diffusers and lucidrains")
    p.add_argument("--executor", default="local", help="where cells are drawn and measured: local, ray or ray=HOST:PORT")
    p.add_argument("--out", type=Path, default=ROOT / "results", help="folder of rows, figures and report")
    p.add_argument("--fresh", action="store_true", help="do finished cells again")
    p.add_argument("--dry-run", nargs="?", const="cost", choices=("cost", "plan"), help="print the resolved config and the cells, "
                   "with what each will cost by a short calibration (plan: without), and stop")
    return p


def resolve(args: argparse.Namespace) -> tuple[Job, list[str]]:
    """The job that the command line asks for, checked, and lines about backends that are absent. Writes nothing."""
    require(args.table is not None or args.seeds is None, "--seeds", args.seeds, "goes with --table")
    for name in ("samples", "train_steps", "batch_size", "sample_batch", "threads"):
        value = getattr(args, name)
        require(value is None or value >= 1, f"--{name.replace('_', '-')}", value, "must be at least 1")
    for name, least in (("save_every", 0.0), ("timeout", 1.0)):
        value = getattr(args, name)
        require(value >= least, f"--{name.replace('_', '-')}", value, f"must be at least {least:g} seconds")
    require(args.seed >= 0, "--seed", args.seed, "must be 0 or more")
    samples = args.samples or inception.paper_n(args)
    preset = with_options(get_preset(args.preset or ("table" if args.table else "quick")), samples=samples,
                          train_steps=args.train_steps, batch_size=args.batch_size, sample_batch=args.sample_batch)
    launch = launched()
    require(preset.batch_size % launch.processes == 0, "--batch-size", preset.batch_size,
            f"must be a multiple of the {launch.processes} processes")
    for name in ("fresh", "check_determinism"):
        require(launch.processes == 1 or not getattr(args, name), f"--{name.replace('_', '-')}", True, "is for one process alone")
    by = inception.from_options(args)
    require(preset.samples >= 2 * by.width, "--samples", preset.samples,
            f"the metric needs at least twice its feature width, {2 * by.width}")
    chosen, absent = backends.choose(launch.backends(args.backends))
    cells = sampling_cells(args, chosen)
    absent += [f"{backend}: draws none of the cells asked for" for backend in chosen if backend not in cells]
    initial = weights.initialise(preset.model, args.seed)
    folder = args.weights or preset.weights
    if folder is None:
        trained = initial
    else:
        trained, model, process = sources.load(folder)
        if args.weights:
            preset = with_options(preset, model=model, diffusion=process)
            initial = weights.initialise(model, args.seed)
        else:
            weights.check(trained, preset.model, str(folder))
    preset = with_options(preset, diffusion=adopt(preset.diffusion, args.convention))
    shape = Spec(preset.model, preset.diffusion, preset.optim, args.device, args.dtype).image_shape
    dataset, held_out = (datasets.from_options(args, preset.dataset, shape, split) for split in datasets.SPLITS)
    other = dataset.name != preset.dataset
    fit = args.fit if args.fit is not None else preset.fit_steps if other and not args.weights else 0
    require(fit >= 0 and not (fit and args.weights), "--fit", fit, "must be 0 or more, and goes without --weights")
    require(not fit or launch.processes == 1, "--fit", fit, "is for one process alone: train with bench.train, then give --weights")
    if other and preset.weights and not (fit or args.weights):
        absent.append(f"weights: those of preset {preset.name}, trained on {preset.dataset} and not on {dataset.provenance}")
    preset = with_options(preset, dataset=dataset.name)
    if by.name == inception.NAME:
        absent += inception.check(by, preset.samples, dataset, held_out)
    else:
        require(preset.samples <= len(held_out), "--samples", preset.samples,
                f"the metric's floor is that of as many held-out images, and there are {len(held_out)}")
    job = Job(preset, initial, trained, cells, args.device, args.dtype, args.convention, args.seed, dataset,
              held_out, args.threads, args.save_every, args.timeout, args.check_determinism, launch.rank, launch.processes, fit, by)
    for cell in job.all_cells:
        job.plan(cell)
    return job, absent


def sampling_cells(args: argparse.Namespace, chosen: tuple[str, ...]) -> dict[str, tuple[Cell, ...]]:
    """What each backend draws. Of a table the first one draws all and the others the subset in which they are compared."""
    require(not (args.table and args.spacing), "--spacing", args.spacing, "goes without --table, which has both of the paper's")
    if args.table:
        steps = parse_steps(args.steps) if args.steps is not None else list(table1.STEPS)
        etas = parse_eta(args.eta) if args.eta is not None else table1.ETAS
        whole = table1.grid(steps, etas, args.seed, parse_seeds(args.seeds or "3,1"))
        rest = dict.fromkeys(chosen[1:], table1.paired(whole)) if table1.paired(whole) else {}
        return {chosen[0]: whole, **rest}
    steps = parse_steps(args.steps if args.steps is not None else "10,50,1000")
    etas = parse_eta(args.eta if args.eta is not None else "0")
    return dict.fromkeys(chosen, tuple(Cell(s, eta, args.spacing, args.seed) for s in steps for eta in etas))


def describe(job: Job, absent: list[str]) -> str:
    """What `--dry-run` prints."""
    config = {**job.preset.to_dict(), "device": job.device, "dtype": job.dtype, "seed": job.seed,
              "convention": asdict(get_convention(job.convention)), "threads": job.threads, "data": job.dataset.provenance,
              "extractor": job.extractor.name, "extractor_sha256": job.extractor.sha256}
    cells = [f"{job.backends[0]}: train the network to sample from for {job.fit} steps"] if job.fit else []
    for b in job.backends:
        cells += [f"{b}: oracle"] + [f"{b}: train {job.preset.train_steps} steps"] * (job.preset.train_steps > 0)
        cells += [f"{b}: time training and sampling"] * (job.preset.blocks > 0)
        cells += [f"{b}: sample and measure {cell} n={job.preset.samples}" for cell in job.cells[b]]
    return "\n".join([json.dumps(config, indent=2), *cells, *forecast.call_lines(job), *absent])


def run(args: argparse.Namespace, command: str) -> int:
    """The whole job; returns the exit code."""
    require(args.speed or not args.peers, "--peers", args.peers, "goes with --speed")
    require(not (args.speed and args.table), "--table", args.table, "goes without --speed")
    if args.speed:
        require(args.threads >= 1, "--threads", args.threads, "must be at least 1")
        preset = with_options(get_preset(args.preset or "quick"), batch_size=args.batch_size)
        return speed.run(preset, backends.choose(args.backends)[0], args)
    job, absent = resolve(args)
    if args.dry_run:
        if job.rank == 0:
            print(describe(job, absent))
        if args.dry_run == "cost" and job.processes == 1:
            with tempfile.TemporaryDirectory(prefix="ddim-bench-") as folder:
                print("\n" + forecast.table(forecast.predict(job, Cells(args.out, args.fresh), Path(folder))))
        return 0
    require(args.executor == "local" or job.processes == 1, "--executor", args.executor, "is for one process alone")
    cluster = ray_cluster.connect(args.executor, job.threads, job.device)
    cells = Cells(args.out, args.fresh)
    with tempfile.TemporaryDirectory(prefix="ddim-bench-") as logs, Run(job, cells, Path(logs), cluster) as this:
        this.missing += absent
        this.start_all()  # before anything is written: a device that is absent is the user's mistake
        try:
            args.out.mkdir(parents=True, exist_ok=True)
            probe = args.out / ".writable"
            probe.touch()
            probe.unlink(missing_ok=True)  # another run's probe, too
        except OSError as error:
            raise ConfigError(f"--out={str(args.out)!r}: {error.strerror}: must be a folder that can be written") from None
        if job.rank > 0:
            this.share()
            return 0
        this.all(begin=forecast.keep_budget if args.table else None)
    if cells.reused:
        print(f"{cells.reused} finished cells were used again; --fresh does them again")
    with cells.shared("report"):  # one run writes it at a time
        if begun := [row for row in this.rows if row.kind == "budget"]:
            found = rows.read(args.out / "rows")
            page = table1_page.write(args.out, table1_frames.of_table(found, begun[0]), command, this.missing)
            print(f"{page.read_text()}\nreport: {page}, {render_html(found, args.out, command, begun[0])}")
        else:
            print(results.terminal(this.rows, this.missing))
        if not args.table:
            print(f"\nreport: {results.render(this.rows, this.images, args.out, command, this.missing)}")
            if args.out.resolve() == ROOT / "results":
                results.update_readme(ROOT / "README.md", this.rows)
    if bad := results.disagreements(this.rows):
        print("\n".join(["", *bad]), file=sys.stderr)
        return 4
    return 3 if any(line.startswith("missing") for line in this.missing) else 0


def main(argv: list[str] | None = None) -> int:
    """Run with a command line; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    serve_as_scheduler()
    return exit_code(lambda: run(parser().parse_args(argv), shlex.join(["python", "bench/run.py", *argv])), "the finished cells")
