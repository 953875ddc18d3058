"""The confusion table of the diagnosis: `python -m tests.diagnosis.table` writes results/diagnosis.md.

Every planted mistake (`tests.diagnosis.planted`) is drawn on networks, S and eta that the catalogue was not tried on while it was
written, which was the closed form with its own constants, S = 8, 10 and 20, eta = 0, 0.3, 0.5 and 0.7.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from bench import files
from bench.diagnosis import case as cases
from bench.diagnosis.case import Case
from bench.diagnosis.noises import MISTAKES
from bench.diagnosis.verdict import RIGHT, UNKNOWN, Verdict, diagnose
from bench.paths import RESULTS
from reference import weights
from reference.config import DiffusionConfig
from tests.diagnosis import planted
from tests.helpers.tiny import TINY

FORMS = {"closed form 0.7, 0.35, 31": (0.7, 0.35, 31.0), "closed form 0.9, 0.2, 61": (0.9, 0.2, 61.0), "UNet": None}
HELD_OUT = [(5, 0.0), (5, 0.6), (40, 0.0), (40, 0.15)]  # S that divide T = 1000, where the three codes have one leading path


@dataclass(frozen=True)
class Planted:
    """One mistake in one code on one case, and what was said of it."""

    code: str
    network: str
    steps: int
    eta: float
    is_called: str
    found: Verdict
    masked: bool = False  # a pair that draws the images of one of the two

    @property
    def kind(self) -> str:
        """ "named", "one of several", "right", "unknown" or "WRONG": the answer beside what it should be."""
        alien = self.is_called in (planted.PAIR, planted.UNKNOWN)
        if self.masked:
            return "masked"
        if self.found.answer in (RIGHT, UNKNOWN):
            return self.found.answer
        if alien or self.is_called not in self.found.names:
            return "WRONG"
        return "named" if len(self.found.names) == 1 else "one of several"


@cache
def case_of(network: str, steps: int, eta: float, convention: str) -> Case:
    """A held-out case."""
    form, how = FORMS[network], {"eta": eta, "convention": convention}
    if form is not None:
        return cases.make(steps, constants=form, images=3, seed=5, **how)
    made = cases.make(steps, images=2, seed=5, shape=(1, 8, 8), **how)
    return Case(DiffusionConfig(), made.said, made.x_T, made.noise, None, TINY, weights.initialise(TINY, 3))


def run(networks: tuple[str, ...] = tuple(FORMS), held_out: list[tuple[int, float]] | None = None) -> Iterator[Planted]:
    """Every planted mistake of the three codes."""
    for network in networks:
        for steps, eta in held_out or HELD_OUT[:4 if FORMS[network] else 2]:  # the UNet in NumPy is slow
            for code, convention, draw, flaws in _codes(eta):
                case = case_of(network, steps, eta, convention)
                for name, flaw in flaws:
                    with np.errstate(all="ignore"):
                        images = draw(case, **flaw)
                    if np.isfinite(images).all():
                        alone = [draw(case, **{key: value}) for key, value in flaw.items()] if name == planted.PAIR else []
                        masked = any(np.abs(images - one).max() < 1e-4 for one in alone)
                        yield Planted(code, network, steps, eta, name, diagnose(case, images), masked)


def _codes(eta: float) -> list:
    noisy = planted.NOISY if eta else planted.SILENT
    return [("plain loop", "plain", planted.plain, planted.NOISELESS + noisy),
            ("plain loop in float32", "plain", lambda case, **f: planted.plain(case, np.float32, **f), planted.NOISELESS + noisy),
            ("diffusers", "diffusers", planted.diffusers, planted.in_diffusers(eta > 0)),
            ("lucidrains", "lucidrains", planted.lucidrains, planted.in_lucidrains(eta > 0))]


def sound() -> list[tuple[str, str]]:
    """What is said of the three codes as they are, (code, answer)."""
    return [(code, diagnose(case, draw(case)).answer) for network in FORMS for steps, eta in HELD_OUT[:2]
            for code, convention, draw, _ in _codes(eta) for case in [case_of(network, steps, eta, convention)]]


def page(found: list[Planted]) -> str:
    """Markdown: a line a mistake."""
    kinds = ("named", "one of several", "right", "unknown", "WRONG")
    names = [*MISTAKES, planted.PAIR, planted.UNKNOWN]
    lines = []
    for name in names:
        of = [p for p in found if p.is_called == name]
        if of:
            counts = [sum(p.kind == kind for p in of) for kind in kinds]
            others = sorted({n for p in of if p.kind in ("one of several", "WRONG") for n in p.found.names} - {name})
            lines.append(f"| {name} | {', '.join(sorted({p.code.removesuffix(' in float32') for p in of}))} | "
                         + " | ".join(str(n or "") for n in counts) + f" | {'; '.join(others)} |")
    alien = [p for p in found if p.is_called in (planted.PAIR, planted.UNKNOWN) and not p.masked]
    known = [p for p in found if p.is_called not in (planted.PAIR, planted.UNKNOWN)]
    rightly = {p.is_called for p in known} - {p.is_called for p in known if p.kind in ("WRONG", "unknown")}
    ever = {p.is_called for p in known if p.kind == "named"}
    correct = [answer for _, answer in sound()]
    return "\n".join([
        "# Known mistakes, named from images alone", "",
        "`ddim-bench check-images` compares a sampler's images with those of the right sampler with each known mistake in it.",
        "Here mistakes were planted in a plain loop, in diffusers' DDIMScheduler and in lucidrains' GaussianDiffusion, on "
        "networks, S",
        "and eta that the diagnosis was not tuned on. Made by `python -m tests.diagnosis.table`.", "",
        f"- Planted: {len(found)} samplers: {len(FORMS)} networks, (S, eta) of {', '.join(map(str, HELD_OUT))}, the UNet at S = 5.",
        f"- {len(ever & rightly)} of {len({p.is_called for p in known})} known mistakes are named, "
        "and nowhere wrongly or not at all.",
        f"  The catalogue has {len(MISTAKES)}.",
        f"- Of {len(alien)} samplers with two mistakes or one that is not in the catalogue,",
        f"  {sum(p.found.answer == UNKNOWN for p in alien)} are called unknown and "
        f"{sum(p.kind == 'WRONG' for p in alien)} by a name."
        f" {sum(p.masked for p in found)} more draw the images of one of their two mistakes, and are left out.",
        f"- Of the {len(correct)} samplers without a mistake, {correct.count(RIGHT)} are called right.", "",
        "*One of several* counts answers that list the mistake beside others which draw the same images there. *Right* counts "
        "cases",
        "in which a mistake changes nothing beyond the tolerance.", "",
        "| mistake | planted in | named | one of several | right | unknown | wrong | listed beside it |",
        "|---|---|---:|---:|---:|---:|---:|---|", *lines, ""])


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m tests.diagnosis.table", description=__doc__).parse_args()
    files.write_page(RESULTS / "diagnosis.md", page(list(run())))
    print("wrote results/diagnosis.md")
