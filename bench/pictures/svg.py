"""The pictures of `report.html` as data URIs: curves in SVG, whose ink follows the reader's light or dark theme, images in PNG."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.pictures.grids import grid
from bench.pictures.plots import COLOURS, logarithmic, mark, plot
from bench.pictures.plots import panels as panels_

INK = "#123456"  # stands for the reader's text colour until the SVG is written
THEME = "<style>svg{color:#1d2129}@media (prefers-color-scheme:dark){svg{color:#e4e6eb}}</style>"
STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "ddim-bench", "font.family": "sans-serif", "font.size": 10, "lines.linewidth": 1.6,
    "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "legend.fontsize": 10, "grid.color": INK,
    "grid.linewidth": 0.5,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK)}
MARKERS = "osD^vPX"


@dataclass(frozen=True)
class Series:
    """One curve. `error` is the half length of a point's bar in y and `x_error` in x, 0 where a single seed has no spread.

    Curves of one `colour` belong together; `alone` draws points without a line, open and larger, to lie around another's.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    error: Sequence[float] | None = None
    x_error: Sequence[float] | None = None
    colour: int = 0
    alone: bool = False


def curves(series: Sequence[Series], xlabel: str, ylabel: str, *, log: str = "xy", ticks: Sequence[float] = (),
           bounds: Mapping[str, float] | None = None, front: bool = False, height: float = 3.8) -> str:
    """An SVG of curves with error bars, as a data URI.

    `log` names the logarithmic axes, `ticks` the marks on the x axis, `bounds` horizontal lines by label. `front` adds the Pareto
    front: the points of all curves that no other beats in both x and y, smaller being better.
    """
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure, axes = plot(xlabel, ylabel, figsize=(4.4, height + 0.1 * len(series)))
        for s in series:
            colour = COLOURS[s.colour % len(COLOURS)]
            shape: dict[str, Any] = {"ls": "none", "markersize": 9, "mfc": "none", "mew": 1.4} if s.alone else {"markersize": 4.5}
            axes.errorbar(s.x, s.y, yerr=s.error, xerr=s.x_error, color=colour, marker=MARKERS[s.colour % len(MARKERS)], capsize=3,
                          elinewidth=1.1, label=s.label, **shape)
        for (name, value), style in zip((bounds or {}).items(), (":", "--"), strict=False):
            axes.axhline(value, ls=style, lw=1.1, color=INK, label=name)
        if front:
            axes.plot(*pareto([(x, y) for s in series for x, y in zip(s.x, s.y, strict=True)]), drawstyle="steps-post", lw=6,
                      alpha=0.18, color=INK, label="Pareto front", zorder=0)
        for name in log:
            logarithmic(axes, name)
        if ticks:
            mark(axes, ticks)
        figure.legend(loc="outside lower center", ncols=2)
        return _svg(figure)


def multiples(panels: Sequence[tuple[str, Sequence[Series]]], xlabel: str, ylabel: str, *, ticks: Sequence[float] = (),
              bounds: Mapping[str, float] | None = None, front: bool = False) -> str:
    """An SVG of small panels (title, curves) on the same logarithmic axes, two in a line, as a data URI: in each panel its own
    curves, and pale those of the others. The rest as in `curves`."""
    import matplotlib

    every = [s for _, series in panels for s in series]
    lines = -(-len(panels) // 2)
    with matplotlib.rc_context({**STYLE, "font.size": 8, "legend.fontsize": 8}):
        figure, grid_ = panels_(lines, 2, (4.4, 0.9 + 1.75 * lines))
        for axes, (title, series) in zip(grid_.flat, panels, strict=False):
            for s in every:
                axes.plot(s.x, s.y, color=INK, lw=0.7, alpha=0.18)
            for k, s in enumerate(series):
                axes.errorbar(s.x, s.y, yerr=s.error, color=COLOURS[k % len(COLOURS)], marker=MARKERS[k % len(MARKERS)], capsize=2,
                              elinewidth=1, markersize=7 if s.alone else 3.5, mfc="none" if s.alone else None,
                              ls="none" if s.alone else "-", label=s.label)
            for (name, value), style in zip((bounds or {}).items(), (":", "--"), strict=False):
                axes.axhline(value, ls=style, lw=1, color=INK, label=name)
            if front:
                axes.plot(*pareto([(x, y) for s in every for x, y in zip(s.x, s.y, strict=True)]), drawstyle="steps-post", lw=5,
                          alpha=0.15, color=INK, label="Pareto front", zorder=0)
            axes.set_title(title, fontsize=9)
            axes.grid(alpha=0.3)
            for name in "xy":
                logarithmic(axes, name)
            if ticks:
                mark(axes, ticks, close=1.4)
        for axes in grid_.flat[len(panels):]:
            axes.axis("off")
        shown = list(grid_.flat[:len(panels)])
        low = [min(axes.get_xlim()[0] for axes in shown), min(axes.get_ylim()[0] for axes in shown)]
        high = [max(axes.get_xlim()[1] for axes in shown), max(axes.get_ylim()[1] for axes in shown)]
        for axes in shown:
            axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
        for k, axes in enumerate(shown):
            axes.set(xlabel=xlabel if k >= len(shown) - 2 else "", ylabel=ylabel if k % 2 == 0 else "")
        by_label = {label: handle for axes in shown for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        figure.legend(by_label.values(), by_label.keys(), loc="outside lower center", ncols=2)
        return _svg(figure)


def losses(by_name: Mapping[str, Sequence[float]], window: int = 10) -> str:
    """An SVG of training losses against the step: each step pale, the running mean of `window` steps in full, as a data URI.

    Curves that agree lie on one another: a later one is thinner, on top.
    """
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure, axes = plot("training step", "loss (mean squared error of eps)", figsize=(4.4, 3.9))
        for i, (name, values) in enumerate(by_name.items()):
            y, k = np.asarray(values, np.float64), max(1, min(window, len(values) // 4))
            width, colour = max(5 - 3 * i, 1.5), COLOURS[i % len(COLOURS)]
            axes.plot(np.arange(1, len(y) + 1), y, color=colour, alpha=0.3, lw=width / 2)
            axes.plot(np.arange(len(y) - k + 1) + (k + 1) / 2, np.convolve(y, np.ones(k) / k, "valid"), color=colour, lw=width,
                      label=f"{name}, mean of {k} steps")
        logarithmic(axes, "y")
        figure.legend(loc="outside lower center", ncols=1)
        return _svg(figure)


def pareto(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """The x and y of the points that no other beats in both, by growing x; smaller is better."""
    xs: list[float] = []
    ys: list[float] = []
    for x, y in sorted(points):
        if not ys or y < ys[-1]:
            xs.append(x)
            ys.append(y)
    return xs, ys


def strip(images: NDArray[np.uint8], columns: int, scale: int = 2) -> bytes:
    """A PNG of uint8 images (N, C, H, W), `columns` in a line, each pixel `scale` wide."""
    from PIL import Image

    picture = Image.fromarray(grid(images, columns, gap=1))
    buffer = BytesIO()
    picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def data_uri(content: bytes, kind: str) -> str:
    """The content of a file of this MIME type, as an address."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _svg(figure: Any) -> str:
    from matplotlib import pyplot as plt

    buffer = BytesIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    plt.close(figure)
    text = buffer.getvalue().decode().replace(INK, "currentColor").replace("</svg>", THEME + "</svg>")
    return data_uri(text[text.index("<svg"):].encode(), "image/svg+xml")
