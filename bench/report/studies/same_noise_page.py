"""The page of images from the same x_T, figures 5 and 6 of the DDIM paper: `results/same-noise.md`, from rows alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.records import rows
from bench.records.rows import AnyRow, Row
from bench.records.values import Interpolation, SameNoise
from bench.report.measures import hardware
from bench.report.studies import image_claims
from bench.report.studies.image_claims import Claim

ALIKE = 0.5  # times the distance from other images, below which two images are called alike; fixed before any measurement
JUMP = 0.5  # of the distance of the ends, above which one of the parts of a way is called a jump
EARLY = 20  # steps that are enough, says the paper
ZERO, ONE = "0.0", "1.0"
SAME = ("weights", "samples", "seed", "dtype", "device", "extractor_sha256")  # what comparable rows of a network share
Rows = list[Row[SameNoise]]
Network = tuple[Rows, Row[Interpolation] | None]


def newest(found: list[AnyRow]) -> dict[str, Network]:
    """By network: the last row of each S, of those that compare with the network's last row, by growing S; its interpolation."""
    out: dict[str, Network] = {}
    every, ways = rows.studies(found, SameNoise), rows.studies(found, Interpolation)
    for name in dict.fromkeys(row.config["name"] for row in every):
        of_name = [row for row in every if row.config["name"] == name]

        def alike(row: AnyRow, to: AnyRow = of_name[-1]) -> bool:
            return row.backend == to.backend and all(row.config[key] == to.config[key] for key in ("name", *SAME))

        last = {row.config["steps"]: row for row in of_name if alike(row)}
        out[name] = [last[S] for S in sorted(last)], next((way for way in reversed(ways) if alike(way)), None)
    return out


def picture(name: str) -> str:
    """The file of a network's images in figures/."""
    return f"same-noise-{name}.png"


def shares(row: Row[SameNoise], eta: str) -> NDArray[np.float64]:
    """Of each image: its distance from the one of the same x_T, as a share of the mean distance from others, over all images."""
    v = row.values["distance"][eta]
    return np.array(v["own"]) / float(np.mean(v["others"]))


def table(found: Rows) -> pd.DataFrame:
    """One line an S, as people read it."""
    return pd.DataFrame([{"S": str(row.config["steps"]), **{
        f"{what}, eta = {float(eta):g}": image_claims.mean(shares(row, eta)) if what == "distance"
        else f"{row.values['distance'][eta]['found']:.1%}" for what in ("distance", "found") for eta in (ZERO, ONE)}}
        for row in found])


def claims(network: Network) -> list[Claim]:
    """The paper's (sections 5.2 and 5.3)."""
    found, way = network
    shorter = [row for row in found if row.config["steps"] < row.values["reference_steps"]]
    early = [row for row in shorter if row.config["steps"] == EARLY]

    def near(rows: Rows) -> dict[str, NDArray[np.float64]]:
        return {f"S = {row.config['steps']}: distance less {ALIKE:g}": shares(row, ZERO) - ALIKE for row in rows}

    whole = found[0].values["reference_steps"]
    out = [Claim(f"images of the same x_T are alike at any S: nearer to the one of S = {whole} than {ALIKE:g} times the distance "
                 "from others (figure 5)", near(shorter)),
           Claim(f"S = {EARLY} is alike already", near(early)),
           Claim("not so with DDPM's noise: eta = 0 is nearer than eta = 1",
                 {f"S = {row.config['steps']}: eta = 0 less eta = 1": shares(row, ZERO) - shares(row, ONE) for row in shorter})]
    if way:
        def jumps(eta: str) -> NDArray[np.float64]:
            v = way.values["distance"][eta]
            return np.array(v["largest"]) - JUMP * np.array(v["ends"])

        largest = {eta: np.array(way.values["distance"][eta]["largest"]) for eta in (ZERO, ONE)}
        S = way.config["steps"]
        out += [Claim(f"images between two x_T change smoothly: no part of {way.values['parts']} is {JUMP:g} of the way (figure 6)",
                      {f"S = {S}: largest part less {JUMP:g} of the way": jumps(ZERO)}),
                Claim("not so with DDPM's noise: the largest part is smaller with eta = 0 than with eta = 1",
                      {f"S = {S}: eta = 0 less eta = 1": largest[ZERO] - largest[ONE]})]
    return [claim for claim in out if claim.values]


def terminal(network: Network) -> str:
    """What the command prints."""
    return image_claims.terminal(table(network[0]), claims(network))


def about(network: Network) -> str:
    """What the figures of a network come from."""
    row = network[0][0]
    c = row.config
    return (f"n = {row.values['n']:,} images, 1 seed ({c['seed']}); network {c['weights']}, {row.backend} in {c['dtype']}, on "
            f"{hardware(row)}. Extractor {c['extractor']}, sha256 {c['extractor_sha256'][:16]}.")


def render(networks: dict[str, Network], command: str) -> str:
    """`same-noise.md`."""
    text = ["# The same x_T: figures 5 and 6 of the DDIM paper", "",
            f"Made by `{command}`. Raw values: [rows/study.jsonl](rows/study.jsonl).", "",
            "Every image starts from noise, *x_T*. The images of S steps are held to those that all steps draw with eta = 0 from "
            "the same x_T. *Distance*: of the extractor's features, as a share of the mean distance from the images of other x_T; "
            "0 is the same image, 1 no nearer than any other; ±: half of the 95% interval of the mean over images. *Found*: the "
            "share of images that are nearer to the one of their own x_T than to all others. *eta* is the share of DDPM's noise."]
    for name, network in networks.items():
        text += ["", f"## {name}", "", about(network), "", f"![{name}](figures/{picture(name)})", "",
                 table(network[0]).to_markdown(index=False, disable_numparse=True), "", "### The paper's claims", "",
                 *image_claims.section(claims(network))]
    return "\n".join(text) + "\n"
