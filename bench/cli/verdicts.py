"""The options of the commands that judge what others made, beside those in `commands`; the work is in the files so named."""

from __future__ import annotations

from pathlib import Path

from bench.cli.options import OUT, Parser
from bench.cli.values import place_to_read


def _fid(commands: Parser) -> None:
    """The Frechet distance of two sets of images.

    A and B are each a folder of image files, a .npy or .npz file of images, or a .npz file with mu and sigma, as pytorch-fid writes
    it; B may be fashion-mnist, whose statistics ship. Prints the distance with n, an estimate of its bias, and the interval by the
    bootstrap over the images of A; and KID where both are images.
    """
    p = commands.command("fid", _fid.__doc__, "ddim-bench fid my-samples my_pngs", body="distance", goes_on_from="")
    p.add_argument("one", metavar="A", type=place_to_read, help="images to measure")
    p.add_argument("two", metavar="B", type=place_to_read, help="what to measure them against")
    p.add_argument("--metric", choices=("fmnist-cnn", "inception"), default="fmnist-cnn",
                   help="what the features come from: the network that ships, for grey 28 x 28 images, or that of papers")
    p.add_argument("--inception-weights", type=Path, metavar="FILE", help="a file in torch-fidelity's format; default: "
                   "torch-fidelity's own, which --download fetches")
    p.add_argument("--download", action="store_true", help="fetch the weights of --metric inception where they are missing")
    p.add_argument("--seed", type=int, default=0, help="of the bootstrap and of KID's subsets")


def _report(commands: Parser) -> None:
    """Write the pages in OUT again, from the rows in OUT/rows.

    A page keeps the command that it names as its maker. OUT/README.md is written by the main job alone.
    """
    commands.command("report", _report.__doc__, "ddim-bench report", (OUT,), body="report", goes_on_from="")


ALL = (_fid, _report)
