"""README's table of differences between codes, in both languages, from `reference.conventions`: `tests.helpers.pages` writes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.paths import ROOT
from reference.conventions import CONVENTIONS, Convention

BEGIN, END = "<!-- differences: written by tests/helpers/pages.py -->", "<!-- end of differences -->"
COLUMNS = ("ho2020", "song2021", "nichol2021", "diffusers")
HEADS = {"README.md": ("Ho 2020", "DDIM code", "IDDPM", "diffusers default"),
         "README.zh-CN.md": ("Ho 2020", "DDIM 代码", "IDDPM", "diffusers 默认")}
CHINESE = {  # of the cells and of what a line is about
    "yes": "是", "no": "否", "1 head": "1 个头", "4 heads": "4 个头", "heads 8 wide": "每个头宽 8", "mean": "平均", "sum": "求和",
    "time embedding order, divisor": "时间嵌入的顺序和除数", "GroupNorm groups, eps": "GroupNorm 的组数和 eps",
    "downsample padding": "下采样的填充", "zero-initialised last convolutions": "最后的卷积初始化为零", "attention": "注意力",
    "time embedding scales and shifts": "时间嵌入用于缩放和平移", "loss of an image, over its pixels": "一张图的损失，对像素",
    "DDPM variance where none is learned or named": "未学习也未指定时的 DDPM 方差",
}


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


def render(page: str) -> str:
    """The table of this page, Markdown."""
    lines = ["| | " + " | ".join(HEADS[page]) + " |", "|" + "---|" * (1 + len(COLUMNS))]
    for about, says in LINES.items():
        cells = [about, *(says(CONVENTIONS[name]) for name in COLUMNS)]
        lines.append("| " + " | ".join(CHINESE.get(c, c) if page != "README.md" else c for c in cells) + " |")
    return "\n".join(lines)


def write() -> None:
    """Put the tables between each page's two markers."""
    for page in HEADS:
        path: Path = ROOT / page
        before, rest = path.read_text().split(BEGIN)
        path.write_text(f"{before}{BEGIN}\n\n{render(page)}\n\n{END}{rest.split(END)[1]}")
