"""Every command with its options, as `--help` shows them: the docstring of each function here is its command's description.

What a command does is in the file of its name. Presets, conventions and data sets are not listed here but by `run --list`: to know
them takes time to load.
"""

from __future__ import annotations

import argparse
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench.cli import studies, verdicts
from bench.cli.options import (
    BACKEND,
    BACKENDS,
    DATA,
    DEVICE,
    DTYPE,
    FRESH,
    IGNORE,
    METRIC,
    MODE,
    NAMED,
    NETWORK,
    OUT,
    SAMPLING,
    SAYING,
    SEED,
    SIZE,
    SPACING,
    THREADS,
    WEIGHTS,
    Parser,
)
from bench.cli.values import place_to_read, place_to_write

SAVE_EVERY = 120.0  # seconds
TIMEOUT = 900.0  # seconds
SOLVERS = "heun, plms, pndm, dpmpp_2s, dpmpp_2m, dpmpp_3m, dpmpp_2m_sde, unipc_2 and unipc_3"  # the fast ones


def parser() -> Parser:
    """Is a DDPM/DDIM implementation right, how fast is it, and how does image quality fall with the number of steps?

    ddim-bench COMMAND --help explains a command.

    Exit codes: 0 all well; 1 a fault of this program, which leaves a log; 2 a mistake in the command, or a file that can't be read
    or written; 3 work that failed (a worker died or hung, a loss was not finite, memory ran out); 4 backends or oracle disagree;
    130, 143 and 129 ended by Ctrl-C, SIGTERM or SIGHUP.
    """
    try:
        installed = version("ddim-bench")
    except PackageNotFoundError:
        installed = "(not installed)"
    p = Parser(prog="ddim-bench", text=parser.__doc__, example="ddim-bench run --steps 10,50,1000")
    p.add_argument("--version", action="version", version=f"ddim-bench {installed}")
    for add in (_run, _launch, _speed, _train, _sample, _convert, studies.recipe, studies.likelihood, studies.add, *verdicts.ALL):
        add(p)
    return p


def _run(commands: Parser) -> None:
    """The main job: train, time, sample, measure and compare all backends.

    Checks every stage against the NumPy oracle, prints one table, appends rows to OUT/rows and writes OUT/README.md. The same
    command goes on from its finished cells. `python bench/run.py` is the same command.
    """
    p = commands.command("run", _run.__doc__, "ddim-bench run --steps 10,50,1000",
                         (BACKENDS, NETWORK, DATA, SIZE, DEVICE, DTYPE, SEED, SPACING, SAMPLING, METRIC, IGNORE, SAYING, THREADS,
                          OUT, FRESH),
                         body="run", goes_on_from="the finished cells")
    p.add_argument("--list", dest="body", action="store_const", const="listing", default=argparse.SUPPRESS,
                   help="print presets, conventions, data sets and backends, one line each, and stop")
    p.add_argument("--table", choices=("ddim", "solvers"), help="draw and measure a grid of cells, and write its page: ddim, "
                   "the DDIM paper's table 1, in table.md; solvers, every solver with each of 5 to 50 steps, on both networks that "
                   "ship, in solvers.md; default: only the cells of --steps and --eta")
    p.add_argument("--seeds", metavar="N[,M]", help="with --table: sample seeds of a cell, and of one at S = 1000; default: 3")
    p.add_argument("--steps", metavar="S[,S]", help="sampling steps; default: 10,50,1000, with --table all of the table's")
    p.add_argument("--sampler", metavar="A[,B]", help=f"one or more of ddim, ddpm and the fast solvers {SOLVERS}; default: ddim, "
                   "with --table ddim ddim and ddpm, with --table solvers all but ddpm, with --weights and --convention diffusers "
                   "that of the folder's scheduler")
    p.add_argument("--eta", metavar="X[,X]", help="of the samplers ddim and dpmpp_2m_sde: one or more of [0, 1], of ddim sigma_hat "
                   "too; ddpm among them adds that sampler; default: 0, of dpmpp_2m_sde 1, with --table all of the table's")
    p.add_argument("--preset", metavar="NAME", help=f"{NAMED}; default: quick, or one that fits images of your "
                   "own; with --table table, with --table solvers table and table-base, one after the other")
    p.add_argument("--convention", metavar="NAME", default="plain", help=f"details of process and sampler; {NAMED}")
    p.add_argument("--samples", type=int, help="images per sampling cell; default: the preset's, with --metric inception 50,000")
    p.add_argument("--train-steps", type=int, help="optimiser steps per backend; default: the preset's")
    p.add_argument("--batch-size", type=int, help="of training, all processes together; default: the preset's")
    p.add_argument("--sample-batch", type=int, help="images drawn at once; processes share out whole batches; default: the "
                   "preset's")
    p.add_argument("--weights", metavar="SOURCE", help=f"what to sample from: {WEIGHTS}; default: the preset's")
    p.add_argument("--fit", type=int, metavar="STEPS", help="first train the network that is sampled from, for so many steps; "
                   "default: on other data than the preset's and without --weights, the preset's number, else 0")
    p.add_argument("--save-every", type=float, default=SAVE_EVERY, help="seconds between training states")
    p.add_argument("--timeout", type=float, default=TIMEOUT, help="seconds without heartbeat or progress, then a worker is ended")
    p.add_argument("--check-determinism", action="store_true", help="run a training and a sampling twice and compare the bits")
    p.add_argument("--executor", default="local", help="where cells are drawn and measured: local, ray or ray=HOST:PORT")
    p.add_argument("--dry-run", nargs="?", const="cost", choices=("cost", "plan"), help="print the resolved config and the cells, "
                   "with what each will cost by a short calibration (plan: without), and stop; default: run them")


def _launch(commands: Parser) -> None:
    """Start a command on many processes of this machine, for a framework that has no launcher: JAX.

    After -- comes the command, such as run or train, or a Python file with its arguments. Training has the same global batch and
    losses as one process, sampling the same images. When a process dies the others are ended. The same command goes on from the
    last state.
    """
    p = commands.command("launch", _launch.__doc__, "ddim-bench launch --processes 2 -- run --steps 10,50",
                         body="processes", goes_on_from="the finished cells")
    p.add_argument("-n", "--processes", type=int, metavar="N", required=True, help="how many")
    p.add_argument("--max-restarts", type=int, metavar="N", default=0, help="start all again so often when one died")


def _speed(commands: Parser) -> None:
    """Time the backends, stock and tuned, and write OUT/speed.md.

    The same command goes on from its finished races. `python bench/run.py --speed` is the same command.
    """
    p = commands.command("speed", _speed.__doc__, "ddim-bench speed --peers", (BACKENDS, DEVICE, THREADS, OUT, FRESH),
                         body="speed", goes_on_from="the finished cells")
    p.add_argument("--peers", action="store_true",
                   help="also time diffusers, lucidrains, a plain port to Flax, and engines that run an exported network")
    p.add_argument("--workloads", metavar="A,B", help="training-BATCH and sampling-BATCH, of those that --dry-run lists for the "
                                                      "preset, such as sampling-1; default: all")
    p.add_argument("--processes", type=int, default=4, help="of each contender, one after the other; of one the interval says "
                                                            "nothing of another")  # t over 4 is a third narrower than over 3
    p.add_argument("--preset", metavar="NAME", default="quick", help=f"whose network is timed; {NAMED}")
    p.add_argument("--batch-size", type=int, help="of training; default: the preset's")
    p.add_argument("--timeout", type=float, default=TIMEOUT, help="seconds without heartbeat or progress, then a worker is ended")
    p.add_argument("--dry-run", nargs="?", const="cost", choices=("cost", "plan"), help="print what will be timed, and stop; cost "
                   "and plan are the same here; default: time it")


def _train(commands: Parser) -> None:
    """Train a network and save it as a diffusers pipeline.

    The folder holds the EMA weights, loss.csv, and training.json with command, seed, time and machine; where the training began
    with other weights, also their record and their losses. The same command goes on from its last good state. On several
    processes:
      torchrun --nproc-per-node N --max-restarts 3 bench/train.py ...
      msrun --worker_num=N --local_worker_num=N --join=True bench/train.py ...
    """
    p = commands.command("train", _train.__doc__, "ddim-bench train --preset base --train-steps 20000 --save my-checkpoint",
                         (DATA, SIZE, DEVICE, DTYPE, MODE, SEED, SPACING, IGNORE, SAYING), body="train",
                         goes_on_from="the last state")
    p.add_argument("--train-steps", type=int, required=True, help="optimiser steps; the learning rate decays over them")
    p.add_argument("--save", type=place_to_write, required=True, metavar="FOLDER", help="of the finished pipeline")
    p.add_argument("--preset", metavar="NAME", help=f"{NAMED}; default: quick, or one that fits images of your own")
    p.add_argument("--width", type=int, metavar="N", help="of a new network: channels of its first level, the others in "
                   "proportion; default: the preset's")
    p.add_argument("--lr", type=float, help="learning rate after the warm-up; default: the preset's")
    p.add_argument("--warmup", type=int, metavar="N", help="steps over which the learning rate rises; default: the preset's, at "
                   "most a tenth of --train-steps")
    p.add_argument("--sample-at", metavar="N[,N]", help="optimiser steps after which samples are drawn, such as 100,500: into the "
                   "logs, and SAVE.logs/step-N.png; default: none")
    p.add_argument("--validate", type=int, metavar="N", help="every N steps, print and log the loss and the gradient's norm of at "
                   "most 128 held-out images, which takes as long as training on them: the norm is logged at no other step; "
                   "default: never")
    p.add_argument("--weights", metavar="SOURCE", help=f"start from these, with their network and process: {WEIGHTS}; default: the "
                   "preset's network, seeded")
    p.add_argument("--backend", metavar="NAME", help="default: torch, or that of the launcher")
    p.add_argument("--batch-size", type=int, help="all processes together; default: the preset's")
    p.add_argument("--convention", metavar="NAME", default="plain", help=f"details of network and process; {NAMED}")
    p.add_argument("--loss", metavar="NAME", help="l2, l1 or huber, of the network's output; kl, the variational bound's term, or "
                   "rescaled_kl, T times it; default: that of the process")
    p.add_argument("--loss-weight", metavar="NAME", help="of the timesteps: none, snr, p2 or min_snr; default: that of the process")
    p.add_argument("--loss-sum", action="store_true", help="sum the loss over the pixels of an image, as the DDIM code does; "
                   "default: their mean, with --convention song2021 the sum")
    p.add_argument("--variance", metavar="NAME", help="of the reverse process of a new network: small, large, or learned or "
                   "learned_range, for which the network has twice the output channels; default: the preset's or the convention's")
    p.add_argument("--unscaled-bound", action="store_true", help="with a learned variance, add the bound's term to the loss as it "
                   "is; default: times T/1000")
    p.add_argument("--respacing", metavar="S[,S]", help="train the process of S of the timesteps alone, or of IDDPM's section "
                   "counts, such as 10,15,20; default: all timesteps")
    p.add_argument("--allow-cancelled-time", action="store_true", help="also train a network with as many groups as channels, "
                   "whose GroupNorm cancels the time embedding")
    p.add_argument("--save-every", type=float, default=SAVE_EVERY, help="seconds between states")
    p.add_argument("--log", metavar="A[,B]", default="tensorboard", help="where to log loss and learning rate of every step and "
                   "images a second: tensorboard, wandb, mlflow or none; in SAVE.logs")


def _sample(commands: Parser) -> None:
    """Draw images from trained weights.

    The grid holds the images (256 at most), the strip some of them on their way from noise, a line each, the GIF one of them
    moving. --save keeps the images themselves as a NumPy array, uint8 (N, C, H, W). The way from x_T to an image has no noise where
    eta is 0: --encode goes it backwards from images of yours, and --interpolate takes the x_T between two of them.
    """
    p = commands.command("sample", _sample.__doc__, "ddim-bench sample --weights results/checkpoints/fmnist-small --grid a.png",
                         (BACKEND, NETWORK, DEVICE, DTYPE, MODE, SEED, SPACING, SAMPLING, IGNORE, SAYING), body="sample",
                         goes_on_from="")
    p.add_argument("--weights", metavar="SOURCE", required=True, help=WEIGHTS)
    p.add_argument("--grid", type=Path, metavar="FILE.png", help="where to draw the grid; default: nowhere")
    p.add_argument("--strip", type=Path, metavar="FILE.png", help="where to draw the strip; default: nowhere")
    p.add_argument("--gif", type=Path, metavar="FILE.gif", help="where to draw the GIF; default: nowhere")
    p.add_argument("--save", type=Path, metavar="FILE.npy", help="where to keep the images; FILE.npz: as its array images; "
                   "default: nowhere")
    p.add_argument("--save-float", type=Path, metavar="FILE.npy", help="where to keep them as drawn, float32, not clipped; "
                   "default: nowhere")
    p.add_argument("--save-dir", type=Path, metavar="FOLDER", help="where to keep each as a PNG, a new or an empty folder; "
                   "default: nowhere")
    p.add_argument("--save-x-T", type=Path, metavar="FILE.npy", help="where to keep what the images begin with; default: nowhere")
    p.add_argument("--samples", type=int, help="images to draw; default: 64, or all of --x-T or --encode")
    p.add_argument("--x-T", type=Path, metavar="FILE.npy", help="begin with these, floats (N, C, H, W); default: the seed's")
    p.add_argument("--encode", type=place_to_read, metavar="IMAGES", help="begin with what ddim encodes these images as, a "
                   "folder, a .npz or a .npy file, and print how far their decoding is from them; default: the seed's")
    p.add_argument("--interpolate", type=int, nargs=2, metavar=("A", "B"), help="begin with --samples x_T on the arc from image "
                   "A to image B of the seed, --x-T or --encode, counted from 0; default: with the images' own")
    p.add_argument("--sample-batch", type=int, default=64, help="images drawn at once")
    p.add_argument("--steps", type=_one_count, metavar="S", help="sampling steps; default: 50")
    p.add_argument("--sections", metavar="N,M[,K]", help="IDDPM's section counts, such as 10,15,20; default: --steps")
    p.add_argument("--sampler", metavar="NAME", help="ddim or ddpm; default: ddim, with --convention diffusers that of the "
                   f"folder's scheduler; or a fast solver: {SOLVERS}, which have the spacings log_snr and karras too")
    p.add_argument("--eta", metavar="X", help="of the sampler ddim: a number in [0, 1] or sigma_hat; default: 0")
    p.add_argument("--convention", metavar="NAME", default="plain", help=f"details of process and sampler; {NAMED}")


def _one_count(text: str) -> int:
    """A number of steps. Raises ArgumentTypeError, which names the option for several of them."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a whole number; IDDPM's section counts are --sections") from None


def _convert(commands: Parser) -> None:
    """Write weights of other projects as a diffusers pipeline folder.

    SOURCE is what --weights takes elsewhere: a diffusers pipeline or UNet2DModel folder, the name of one on the Hugging Face hub,
    a checkpoint of the DDIM code, of improved-diffusion or of guided-diffusion, or a file of canonical names (safetensors, PyTorch,
    MindSpore) with its config.json beside it.
    """
    p = commands.command("convert", _convert.__doc__, "ddim-bench convert google/ddpm-cifar10-32 my-folder", (IGNORE, SAYING),
                         body="convert", goes_on_from="")
    p.add_argument("source", metavar="SOURCE", help="folder, file or name on the hub")
    p.add_argument("folder", metavar="FOLDER", type=place_to_write, help="pipeline folder to write")
    p.add_argument("--mindspore", action="store_true", help="also write unet/diffusion_pytorch_model.ckpt for MindSpore")
