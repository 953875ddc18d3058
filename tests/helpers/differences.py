"""The table of differences between codes in reference/README.md, from `reference.conventions`: `tests.helpers.pages` writes it."""

from __future__ import annotations

from collections.abc import Callable

from bench.paths import ROOT
from reference.conventions import CONVENTIONS, Convention

BEGIN, END = "<!-- differences: written by tests/helpers/pages.py -->", "<!-- end of differences -->"
PAGE = ROOT / "reference" / "README.md"
COLUMNS = {"ho2020": "Ho 2020", "song2021": "DDIM code", "nichol2021": "IDDPM", "diffusers": "diffusers default"}


def _heads(c: Convention) -> str:
    if c.attention_head_dim:
        return f"heads {c.attention_head_dim} wide"
    return f"{c.num_attention_heads} heads" if c.num_attention_heads else "1 head"


def _said(fact: bool) -> str:
    return "yes" if fact else "no"


LINES: dict[str, Callable[[Convention], str]] = {  # what a line says of a convention
    "time embedding order, divisor": lambda c: ("cos, sin" if c.flip_sin_to_cos else "sin, cos") + ", half" + " - 1" * c.freq_shift,
    "GroupNorm groups, eps": lambda c: "32, " + f"{c.norm_eps:.0e}".replace("e-0", "e-"),
    "downsample padding": lambda c: "1" if c.downsample_padding else "(0, 1, 0, 1)",
    "zero-initialised last convolutions": lambda c: _said(c.zero_init),
    "attention": _heads,
    "time embedding scales and shifts": lambda c: _said(c.resnet_time_scale_shift == "scale_shift"),
    "loss of an image, over its pixels": lambda c: "sum" if c.loss_sum else "mean",
    "DDPM variance where none is learned or named": lambda c: c.variance,
}


def render() -> str:
    """The table, Markdown."""
    lines = ["| | " + " | ".join(COLUMNS.values()) + " |", "|" + "---|" * (1 + len(COLUMNS))]
    lines += ["| " + " | ".join([about, *(says(CONVENTIONS[name]) for name in COLUMNS)]) + " |" for about, says in LINES.items()]
    return "\n".join(lines)


def write() -> None:
    """Put the table between the page's two markers."""
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{render()}\n\n{END}{rest.split(END)[1]}")
