"""The options of `ddim-bench study NAME`, `recipe` and `likelihood`, beside `commands`; the work is in the files so named."""

from __future__ import annotations

from pathlib import Path

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
    OUT,
    SAYING,
    SEED,
    THREADS,
    WEIGHTS,
    Parser,
)
from bench.cli.values import device


def add(commands: Parser) -> None:
    """Measure another question than the main job's."""
    studies = commands.command("study", add.__doc__, "ddim-bench study noise --images NAME=samples.npy")
    for study in (_noise, _neighbours, _round_trip, _same_noise, _ablation, _scaling, _extractor):
        study(studies)


def _noise(studies: Parser) -> None:
    """How far chance alone moves FID, by the number of images.

    Appends a row of kind "study" for each set of images and writes OUT/noise.md.
    """
    p = studies.command("noise", _noise.__doc__, "ddim-bench study noise --images NAME=samples.npy", (DATA, SEED, OUT),
                        body="study", study="noise", goes_on_from="")
    p.add_argument("--images", action="append", default=[], metavar="NAME=FILE.npy",
                   help="uint8 or floats in [-1, 1], (n, C, H, W), in FILE.npz its array images, measured beside the held-out "
                   "images; may be repeated; default: those alone")


def _neighbours(studies: Parser) -> None:
    """Are samples copies of training images, and which classes do they show?

    Compares pixel by pixel, prints what it finds, appends a row of kind "study" and draws the nearest pairs.
    """
    p = studies.command("neighbours", _neighbours.__doc__, "ddim-bench study neighbours --images samples.npy",
                        (DATA, OUT, SAYING, IGNORE), body="study", study="neighbours", goes_on_from="")
    p.add_argument("--images", type=Path, metavar="FILE.npy", help="uint8 or floats in [-1, 1], (n, C, H, W), in FILE.npz its "
                   "array images; default: --weights")
    p.add_argument("--weights", metavar="SOURCE", help=f"draw them from {WEIGHTS}; default: --images")
    p.add_argument("--name", help="of the row and the picture; default: that of the file or folder")
    p.add_argument("--backend", metavar="NAME", help="with --weights; default: torch")
    p.add_argument("--device", type=device, metavar="NAME", help="with --weights: cpu, cuda, cuda:N, ascend or tpu; default: cpu")
    p.add_argument("--samples", type=int, help="with --weights: images to draw; default: 1000")
    p.add_argument("--steps", type=int, metavar="S", help="with --weights: sampling steps of DDIM, eta = 0; default: 50")
    p.add_argument("--sample-batch", type=int, help="with --weights: images drawn at once; default: 64")
    p.add_argument("--seed", type=int, help="with --weights: of the samples; default: 0")


def _round_trip(studies: Parser) -> None:
    """How well images come back that are encoded to x_T and decoded again.

    Table 2 of the DDIM paper, with a verdict on what it claims: appends a row of kind "study" for each number of steps and writes
    OUT/round-trip.md. The same command goes on from its finished cells.
    """
    _latents(studies, "round-trip", _round_trip.__doc__, "10,20,50,100,200,500,1000", "held-out images, the first ones", (DATA,))


def _same_noise(studies: Parser) -> None:
    """Whether images of the same x_T are alike, however many steps draw them.

    Figures 5 and 6 of the DDIM paper, with a verdict on what it claims: appends a row of kind "study" for each number of steps and
    writes OUT/same-noise.md with a picture. The same command goes on from its finished cells.
    """
    _latents(studies, "same-noise", _same_noise.__doc__, "10,20,50,100", "images to draw", ())


def _latents(studies: Parser, name: str, text: str | None, steps: str, samples: str, parents: tuple[Parser, ...]) -> None:
    p = studies.command(name, text, f"ddim-bench study {name} --weights results/checkpoints/fmnist-small",
                        (BACKEND, *parents, DEVICE, DTYPE, SEED, SAYING, IGNORE, OUT, FRESH), body="study", study=name,
                        goes_on_from="the finished cells")
    p.add_argument("--weights", metavar="SOURCE", required=True, help=WEIGHTS)
    p.add_argument("--name", help="of the network, for page and rows; default: that of the file or folder")
    p.add_argument("--steps", metavar="S[,S]", default=steps, help="of encoding and of decoding" if parents else
                   "beside all timesteps, which are always drawn")
    p.add_argument("--samples", type=int, default=64, help=samples)
    p.add_argument("--sample-batch", type=int, default=64, help="images at once")


def _ablation(studies: Parser) -> None:
    """What a change of the training is worth.

    Trains every variant of a preset with several seeds, samples and measures; writes OUT/ablation.md, which compares each variant
    with the preset as it is. A training that has its row is not done again, one that was interrupted goes on from its last state.
    """
    p = studies.command("ablation", _ablation.__doc__, "ddim-bench study ablation --only 'cosine schedule'",
                        (BACKEND, DATA, DEVICE, DTYPE, SEED, OUT), body="study", study="ablation", goes_on_from="the last state")
    p.add_argument("--preset", metavar="NAME", default="quick", help=NAMED)
    p.add_argument("--only", action="append", default=[], metavar="VARIANT",
                   help="may be repeated; a name that does not exist lists them; default: all")
    p.add_argument("--seeds", metavar="N[,M]", default="5,3", help="trainings of the preset as it is, and of each variant")
    p.add_argument("--images", type=int, default=96000, help="training images of a variant")
    p.add_argument("--samples", type=int, default=1024, help="images to measure")
    p.add_argument("--steps", type=int, metavar="S", default=50, help="sampling steps of DDIM")


def _scaling(studies: Parser) -> None:
    """How time and memory grow with batch, steps, image size, width and threads.

    Every point is a fresh process. Writes rows, a figure and OUT/scaling.md. The same command goes on from its finished points.
    """
    p = studies.command("scaling", _scaling.__doc__, "ddim-bench study scaling --axes batch,steps",
                        (BACKENDS, DEVICE, THREADS, OUT, FRESH), body="study", study="scaling", goes_on_from="the finished points")
    p.add_argument("--axes", metavar="A[,B]", default="batch,steps,size,width,threads", help="what to vary, one at a time")
    p.add_argument("--preset", metavar="NAME", default="quick", help=NAMED)


def _extractor(studies: Parser) -> None:
    """For maintainers: train the network behind FID[fmnist-cnn] again.

    Rewrites its weights, record and reference statistics in bench/assets. Needs the full Fashion-MNIST; takes minutes.
    """
    p = studies.command("extractor", _extractor.__doc__, "ddim-bench study extractor --data FOLDER", body="study",
                        study="extractor", goes_on_from="")
    p.add_argument("--data", type=Path, metavar="FOLDER", help="with the four Fashion-MNIST files; default: the download cache")
    p.add_argument("--seed", type=int, default=0, help="of weights and batches")
    p.add_argument("--epochs", type=int, default=8, help="passes over the data")
    p.add_argument("--threads", type=int, default=2, help="CPU threads")


def likelihood(commands: Parser) -> None:
    """The variational bound of held-out images, in bits per dimension.

    Measures prior, KL terms and decoder under every variance of the reverse process, over all timesteps or over fewer, compares the
    backends with the NumPy oracle and each other, appends rows and writes OUT/likelihood.md. The same command goes on from its
    finished cells.
    """
    p = commands.command("likelihood", likelihood.__doc__, "ddim-bench likelihood --weights results/checkpoints/fmnist-small",
                         (BACKENDS, DATA, DEVICE, DTYPE, SEED, IGNORE, SAYING, THREADS, OUT, FRESH), body="likelihood",
                         goes_on_from="the finished cells")
    p.add_argument("--weights", metavar="SOURCE", required=True, help=WEIGHTS)
    p.add_argument("--steps", metavar="S[,S]", help="steps of the path, evenly spaced from the first timestep to the last; "
                   "default: all timesteps")
    p.add_argument("--variance", metavar="A[,B]", help="of the reverse process: small, large, and that which the network learned; "
                   "default: all of these")
    p.add_argument("--samples", type=int, default=64, help="held-out images, the first ones")
    p.add_argument("--sample-batch", type=int, default=64, help="images at once")


def recipe(commands: Parser) -> None:
    """Run a well-known experiment by name.

    Trains, samples, and leaves its pictures in OUT/gallery, a row in OUT/rows and the page OUT/gallery.md. --train-steps or
    --epochs shorten the training; picture, row and page then say so. The same command goes on from its last state.
    """
    p = commands.command("recipe", recipe.__doc__, "ddim-bench recipe mnist-scratch --epochs 1",
                         (DATA, DEVICE, DTYPE, MODE, SEED, METRIC, OUT, IGNORE, SAYING), body="recipe",
                         goes_on_from="the last state")
    p.add_argument("name", metavar="NAME", help="mnist-scratch, ddpm-cifar10, ddim-respaced, cosine-selfcond or "
                   "fashion-mnist-mindspore")
    p.add_argument("--backend", metavar="NAME", help="default: the recipe's")
    p.add_argument("--train-steps", type=int, help="optimiser steps; default: the recipe's")
    p.add_argument("--epochs", type=float, help="the same in passes over the data; default: --train-steps")
    p.add_argument("--batch-size", type=int, help="of training; default: the recipe's")
    p.add_argument("--lr", type=float, help="learning rate; default: the source's")
    p.add_argument("--weights", metavar="SOURCE", help=f"a trained network: {WEIGHTS}; default: train one")
    p.add_argument("--samples", type=int, help="images per set of samples; default: the recipe's")
    p.add_argument("--steps", type=int, metavar="S", help="sampling steps of the recipe's sampler; default: the recipe's")
    p.add_argument("--sampler", metavar="NAME", help="of the pictures of samples: ddim, ddpm or a fast solver, as `ddim-bench "
                   "sample` has them; default: the recipe's")
    p.add_argument("--sample-batch", type=int, default=64, help="images drawn at once")
    p.add_argument("--seeds", type=int, help="trainings per choice, where the recipe compares; default: 3")
    p.add_argument("--grid", action="store_true", help="also a grid of samples")
    p.add_argument("--strip", action="store_true", help="also a strip from noise to images")
    p.add_argument("--gif", action="store_true", help="also the denoising of one image, moving")
    p.add_argument("--log", metavar="A[,B]", help="tensorboard, wandb, mlflow or none; default: tensorboard")
    p.add_argument("--sample-at", metavar="N[,N]", help="optimiser steps after which samples are drawn, such as 100,500; "
                   "default: none")
