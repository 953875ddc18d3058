"""The options of the commands that judge what others made, beside those in `commands`; the work is in the files so named."""

from __future__ import annotations

from pathlib import Path

from bench.cli.options import DATA, IGNORE, INCEPTION, METRICS, NAMED, OUT, SAYING, SEED, SIZE, SPACING, WEIGHTS, Parser
from bench.cli.values import place_to_read


def _metric(commands: Parser) -> None:
    """Train a small network on images of your own, for a FID that says something of their colour and size.

    It learns to tell by how many quarter turns an image was rotated, for which it needs no labels. The file is named by its hash in
    FID[own-1a2b3c4d], and the same images, seed and steps give the same file on one machine. Prints floor and ceiling, and whether
    the images are too few. Values of two files never compare.
    """
    p = commands.command("metric", _metric.__doc__, "ddim-bench metric --data my_pngs --save my-metric.safetensors",
                         (DATA, SIZE, SEED), body="metrics", goes_on_from="")
    p.add_argument("--save", type=Path, metavar="FILE.safetensors", required=True, help="where to write; --metric takes it")
    p.add_argument("--image-size", type=int, metavar="N", help="sides of the images, 8 to 64; default: theirs, at most 64")
    p.add_argument("--train-steps", type=int, default=400, help="optimiser steps, each of 16 images in their four rotations")


def _fid(commands: Parser) -> None:
    """The Frechet distance of two sets of images.

    A and B are each a folder of image files, a .npy or .npz file of images, or a .npz file with mu and sigma, as pytorch-fid writes
    it; B may be fashion-mnist, whose statistics ship. Prints the distance with n, an estimate of its bias, and the interval by the
    bootstrap over the images of A; and KID where both are images.
    """
    p = commands.command("fid", _fid.__doc__, "ddim-bench fid my-samples my_pngs", body="distance", goes_on_from="")
    p.add_argument("one", metavar="A", type=place_to_read, help="images to measure")
    p.add_argument("two", metavar="B", type=place_to_read, help="what to measure them against")
    p.add_argument("--metric", metavar="NAME", default="fmnist-cnn", help=f"what the features come from: {METRICS}")
    p.add_argument("--inception-weights", **INCEPTION)
    p.add_argument("--download", action="store_true", help="fetch the weights of --metric inception where they are missing")
    p.add_argument("--seed", type=int, default=0, help="of the bootstrap and of KID's subsets")


def _report(commands: Parser) -> None:
    """Write the pages in OUT again, from the rows in OUT/rows.

    A page keeps the command that it names as its maker. OUT/README.md is written by the main job alone.
    """
    p = commands.command("report", _report.__doc__, "ddim-bench report", (OUT,), body="report", goes_on_from="")
    p.add_argument("--json", type=Path, metavar="FILE.json", help="also write the tables of images, times and "
                   "comparisons, and those of every page, there; default: nowhere")
    p.add_argument("--csv", type=Path, metavar="FOLDER", help="the same as NAME.csv in this folder; default: nowhere")


def _export(commands: Parser) -> None:
    """Write a case: what a sampler in any language needs to draw images that can be judged.

    OUT has x_T, the noise of each step, the plan and the network's weights as plain arrays, and case.json, which says how to draw.
    Without --weights the network is out = a x + b sin(2 x + t / c), whose constants are in case.json.
    """
    p = commands.command("export-case", _export.__doc__, "ddim-bench export-case --sampler ddim --steps 10 --eta 0 --out case",
                         (SPACING, IGNORE, SAYING), body="diagnosis", judges=False, goes_on_from="")
    p.add_argument("--out", type=Path, metavar="FOLDER", required=True, help="where to write; a new or an empty folder")
    p.add_argument("--sampler", choices=("ddim", "ddpm"), default="ddim", help="whose images are asked for")
    p.add_argument("--steps", type=int, metavar="S", default=10, help="sampling steps")
    p.add_argument("--eta", metavar="X", help="of the sampler ddim: a number in [0, 1] or sigma_hat; default: 0")
    p.add_argument("--convention", metavar="NAME", default="plain", help=f"details of process and sampler; {NAMED}")
    p.add_argument("--clip", metavar="RULE", help="of the predicted image: none, a largest value such as 1, or "
                   "dynamic[:RATIO[:MAX]]; default: the convention's")
    p.add_argument("--weights", metavar="SOURCE", help=f"the network: {WEIGHTS}; default: the closed form")
    p.add_argument("--samples", type=int, default=2, help="images")
    p.add_argument("--seed", type=int, default=0, help="of x_T and noise")


def _check(commands: Parser) -> None:
    """Say whether the images of a case are right, or at which step and by which known mistake they depart.

    PORT.npy has the images (N, C, H, W), or the state after each step (S, N, C, H, W), float32 or float64 as they were computed.
    A mistake is named where the right sampler with that mistake draws the same images; several that draw the same are all named;
    unknown is said of any other, as of two mistakes at once. Exit code 4 where the images are not right.
    """
    p = commands.command("check-images", _check.__doc__, "ddim-bench check-images case my-images.npy", body="diagnosis",
                         judges=True, goes_on_from="")
    p.add_argument("case", metavar="CASE", type=Path, help="folder that export-case wrote")
    p.add_argument("images", metavar="PORT.npy", type=Path, help="what your sampler drew")


def _compare(commands: Parser) -> None:
    """Compare runs of other machines, versions or commits, from their rows.

    Each is a results folder, a folder of rows or a .jsonl file. Prints what of machine and software differs, whether each run
    agrees with the oracle, FID of the cells that two runs have in common, with its interval where resamples of the same images were
    kept, and ratios of time with their intervals beside the A/A floor of each run. Where there is no difference it says so.
    """
    p = commands.command("compare", _compare.__doc__, "ddim-bench compare results results/h200", body="compare", goes_on_from="")
    p.add_argument("runs", metavar="A B", nargs="+", type=place_to_read, help="two or more; the first is what others are held to")
    p.add_argument("--format", choices=("text", "json", "csv"), default="text", help="of what is printed")


def _submit(commands: Parser) -> None:
    """Pack the rows of this machine into one file for a pull request.

    Every row is validated, and none may name the host, its user or their folders. The file goes to results/machines, where the page
    of all machines and compare read it beside the rows.
    """
    p = commands.command("submit", _submit.__doc__, "ddim-bench submit --out my-results --name epyc-2-cores", (OUT,), body="submit",
                         goes_on_from="")
    p.add_argument("--name", required=True, help="of the machine in the page: small letters, digits and -")
    p.add_argument("--file", type=Path, metavar="FILE.jsonl", help="where to write; default: NAME.jsonl here")


ALL = (_export, _check, _metric, _fid, _compare, _submit, _report)
