"""Figures by matplotlib, without a display: curves, and how a picture becomes a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from io import BytesIO
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from bench.files import folder, replacing

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe & Ito's, safe for the colour-blind
DPI = 120


def save_losses(path: Path, losses: Mapping[str, ArrayLike], ylabel: str, window: int = 25) -> Path:
    """A PNG of losses against the training step, each step pale and the running mean of `window` steps in full colour."""
    figure, axes = plot("training step", ylabel)
    for colour, (name, values) in zip(cycle(COLOURS), losses.items(), strict=False):
        y = np.asarray(values, np.float64)
        axes.plot(np.arange(1, len(y) + 1), y, color=colour, alpha=0.25, lw=0.8)
        k = max(1, min(window, len(y) // 4))
        axes.plot(np.arange(k, len(y) + 1), np.convolve(y, np.ones(k) / k, "valid"), color=colour, label=f"{name}, mean of {k}")
    axes.set_yscale("log")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend()
    return save(figure, path)


def plot(xlabel: str = "", ylabel: str = "", figsize: tuple[float, float] = (6, 4)) -> tuple[Any, Any]:
    """A figure and its axes, drawn without a display."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    figure, axes = plt.subplots(figsize=figsize, layout="constrained")
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    if xlabel:
        axes.grid(alpha=0.3)
    return figure, axes


def panels(rows: int, columns: int, figsize: tuple[float, float]) -> tuple[Any, Any]:
    """A figure and the grid of its axes, (rows, columns), drawn without a display."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    return plt.subplots(rows, columns, squeeze=False, figsize=figsize, layout="constrained")


def logarithmic(axes: Any, name: str) -> None:
    """Make the axis x or y logarithmic, marked at 1, 2, 5 of a decade: at every digit within half of one, at 1 alone over many."""
    from matplotlib import ticker

    axis = {"x": axes.xaxis, "y": axes.yaxis}[name]
    axes.set(**{f"{name}scale": "log"})
    low, high = axis.get_view_interval()
    decades = np.log10(high / low)
    axis.set_major_locator(ticker.LogLocator(subs=range(1, 10) if decades < 0.5 else (1, 2, 5) if decades < 4 else (1,)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("")


def mark(axes: Any, values: Iterable[float], close: float = 1.15) -> None:
    """Mark a logarithmic x axis at these values alone. Numbers whose ratio is at most `close` would cover one another: of these the
    round ones, 1, 2 and 5 of a decade, come first, then the smaller ones."""
    def rough(value: float) -> bool:
        return value / 10 ** np.floor(np.log10(value)) not in (1, 2, 5)

    ticks: list[float] = []
    for value in sorted(set(values), key=lambda value: (rough(value), value)):
        if all(max(value, tick) > close * min(value, tick) for tick in ticks):
            ticks.append(value)
    axes.set_xticks(sorted(ticks), [f"{tick:g}" for tick in sorted(ticks)])
    axes.minorticks_off()


def save(figure: Any, path: Path) -> Path:
    """Write a figure as PNG and close it."""
    from matplotlib import pyplot as plt
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    plt.close(figure)
    return write(path, buffer)


def write(path: Path, buffer: BytesIO) -> Path:
    """Write a picture whole or not at all, and its folder. Raises `FileError`."""
    folder(path.parent)
    with replacing(path) as file:
        file.write(buffer.getvalue())
    return path
