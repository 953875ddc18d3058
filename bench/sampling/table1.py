"""Table 1 of the DDIM paper (Song, Meng & Ermon 2021) as sampling cells."""

from __future__ import annotations

from bench.sampling.cell import Cell
from reference.config import require

NAME = "ddim"  # of the table
FULL = 1000  # S at which the path is every timestep of the paper's process
STEPS = (10, 20, 50, 100, FULL)
ETAS: tuple[float | str, ...] = (0.0, 0.2, 0.5, 1.0, "sigma_hat")
FULL_ETAS: tuple[float | str, ...] = (0.0, 1.0, "sigma_hat")  # at S = FULL, whose cells cost ten times those of S = 100
UNIFORM, QUAD = "leading", "quad"  # the paper's "linear" and "quadratic"
PAIRED_STEPS, PAIRED_ETAS = (10, 20, 50), (0.0, 1.0)  # uniform: the cells that further backends draw too


def grid(steps: list[int], etas: tuple[float | str, ...], seed: int, seeds: tuple[int, int]) -> tuple[Cell, ...]:
    """The cells of the table's given rows and columns, cheap ones first.

    Sample seeds are `seed`, `seed` + 1, ..: `seeds` are their numbers for S up to 100 and for S = 1000. Raises `ConfigError`.
    """
    for name, found, known in (("--steps", steps, STEPS), ("--eta", etas, ETAS)):
        for value in found:
            require(value in known, name, value, f"table ddim has {', '.join(map(str, known))}")
    short = [Cell(s, eta, spacing, seed + k) for k in range(seeds[0]) for s in steps if s != FULL for eta in etas
             for spacing in (UNIFORM, QUAD)]
    full = [Cell(FULL, eta, UNIFORM, seed + k) for k in range(seeds[1]) if FULL in steps for eta in etas if eta in FULL_ETAS]
    return (*short, *full)


def paired(cells: tuple[Cell, ...]) -> tuple[Cell, ...]:
    """Those that backends after the first draw too."""
    return tuple(c for c in cells if c.steps in PAIRED_STEPS and c.eta in PAIRED_ETAS and c.spacing == UNIFORM)
