"""The table of solvers as sampling cells, and what the solvers' papers claim, as pairs of these cells.

All cells of one sample seed start from the same x_T, so that two cells are compared image by image. A claim is about network
calls: S steps of Heun and of DPM-Solver++(2S) are 2S - 1 of them, of PLMS S + 1, of PNDM S + 9, of the other solvers S.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.sampling.cell import Cell
from reference.config import require
from reference.solver_plans import CODES

NAME = "solvers"  # of the table
STEPS = (5, 7, 10, 15, 20, 50)
LONG = 100  # S of DDIM that the claims look back to
EQUAL = {3: 5, 4: 7, 8: 15}  # S of Heun, and its calls: those of the other solvers at this S
PAIRED_STEPS = (10,)  # of the cells that further backends draw too
SOLVERS = tuple(name for name in CODES["plain"] if name != "ddpm")

Place = tuple[str, int]  # solver, S


@dataclass(frozen=True)
class Claim:
    """`pairs` of cells (a, b) of which the source says that FID(a) < factor * FID(b)."""

    text: str
    source: str
    pairs: tuple[tuple[Place, Place], ...]
    factor: float = 1.0


def _each(a: str, b: str, *steps: int) -> tuple[tuple[Place, Place], ...]:
    return tuple(((a, S), (b, S)) for S in steps)


CLAIMS = (
    Claim("DPM-Solver++(2M) at 20 calls is as good as DDIM at 100: at most 1.05 times its FID", "Lu et al. 2022, arXiv:2211.01095",
          ((("dpmpp_2m", 20), ("ddim", LONG)),), factor=1.05),
    Claim("DPM-Solver++(2M) is better than DDIM at equal calls", "the same", _each("dpmpp_2m", "ddim", 10, 15, 20)),
    Claim("the third order is worth it without guidance: DPM-Solver++(3M) is better than (2M)", "the same",
          _each("dpmpp_3m", "dpmpp_2m", 10, 15, 20)),
    Claim("the third order is worth it without guidance: UniPC-3 is better than UniPC-2", "Zhao et al. 2023, arXiv:2302.04867",
          _each("unipc_3", "unipc_2", 5, 7, 10)),
    Claim("UniPC-3 is better than DPM-Solver++(3M) at few calls", "the same", _each("unipc_3", "dpmpp_3m", 5, 7, 10)),
    Claim("Heun is better than DDIM at equal calls, or one fewer", "Karras et al. 2022, arXiv:2206.00364",
          (*((("heun", S), ("ddim", calls)) for S, calls in EQUAL.items()), (("heun", 5), ("ddim", 10)),
           (("heun", 10), ("ddim", 20)), (("heun", 50), ("ddim", LONG)))),
)


def cell(place: Place, seed: int) -> Cell:
    """The cell of a solver and S, on the solver's own default grid."""
    solver, S = place
    code = CODES["plain"][solver]
    return Cell(S, code.variant.eta, code.spacing, seed, solver)


def cells(steps: list[int], solvers: list[str], seed: int, seeds: int) -> tuple[Cell, ...]:
    """The cells of the table's given rows and columns, seed by seed, cheap ones first, and those of Heun and DDIM that are for the
    claims alone. Sample seeds are `seed`, `seed` + 1, ... Raises `ConfigError`."""
    for name, found, known in (("--steps", steps, STEPS), ("--sampler", solvers, SOLVERS)):
        for value in found:
            require(value in known, name, value, f"table {NAME} has {', '.join(map(str, known))}")
    places = [(solver, S) for S in steps for solver in solvers]
    if "heun" in solvers:
        places += [("heun", S) for S, calls in EQUAL.items() if calls in steps]
    if "ddim" in solvers and {20, 50} & set(steps):
        places.append(("ddim", LONG))
    return tuple(cell(place, seed + k) for k in range(seeds) for place in places)


def paired(drawn: tuple[Cell, ...]) -> tuple[Cell, ...]:
    """Those that backends after the first draw too."""
    return tuple(c for c in drawn if c.steps in PAIRED_STEPS)
