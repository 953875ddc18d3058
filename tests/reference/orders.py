"""`python -m tests.reference.orders`: measures the order of every solver and writes results/orders.md with its figure."""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from bench.paths import ROOT
from reference import grids
from reference.rows import Variant
from reference.solvers import multistep, pndm, unipc

from .laws import (
    ALPHA_BARS,
    ORDERS,
    PUBLIC,
    VARIANCES,
    Gaussian,
    Solver,
    TwoGaussians,
    error,
    run,
    slopes,
    variance_slopes,
    with_middles,
)

COUNTS = (12, 24, 48, 96, 192, 384, 768)
NAMES = ("ddim", "heun", "plms", "dpmpp_2s", "dpmpp_2m", "dpmpp_3m", "unipc_2", "unipc_3")
EVEN: dict[str, Solver] = {name: ORDERS[name][0] for name in ("ddim", "heun", "plms", "dpmpp_2m")} | {
    "pndm": lambda n: pndm(with_middles("pndm", n))}
CODES: dict[str, tuple[str, Solver, int]] = {  # what each line of the second table is: the code, its rows, the order it should have
    "DPM-Solver++(3M)": ("dpm-solver, diffusers DPMSolverMultistepScheduler, k-diffusion dpmpp_3m_sde at eta 0",
                         partial(multistep, v=PUBLIC, order=3), 3),
    "DPM-Solver-3, eps form": ("dpm-solver, diffusers algorithm_type dpmsolver",
                               partial(multistep, v=replace(PUBLIC, form="eps"), order=3), 3),
    "DPM-Solver++(2M)": ("all of them", ORDERS["dpmpp_2m"][0], 2),
    "DPM-Solver++(2M), solver_type heun": ("diffusers", ORDERS["2m taylor"][0], 2),
    "DEIS, order 2": ("diffusers DEISMultistepScheduler", ORDERS["deis_2"][0], 2),
    "DEIS, order 3": ("the same", ORDERS["deis_3"][0], 3),
    "DPM-Solver++(2S) on the grid": ("diffusers DPMSolverSinglestepScheduler", ORDERS["2s on the grid"][0], 2),
    "Heun": ("diffusers HeunDiscreteScheduler, k-diffusion", ORDERS["heun"][0], 2),
    "UniPC-2, bh1": ("UniPC; diffusers, which gives NaN with it where the path ends at sigma = 0", ORDERS["unipc_2 bh1"][0], 3),
    "UniPC-3, bh1": ("the same", partial(unipc, v=Variant(basis="bh1"), order=3), 4),
    "UniPC-3, bh2": ("the same, without NaN", ORDERS["unipc_3"][0], 4),
}


def table(head: list[str], lines: list[list[object]]) -> str:
    """A Markdown table."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def ours(name: str) -> list[object]:
    """A line of the first table."""
    solver, order = ORDERS[name]
    low, high = slopes(Gaussian(), solver, (192, 384, 768))
    (two,) = slopes(TwoGaussians(), solver, (192, 384))
    at_24, calls = error(Gaussian(), solver, 24)
    return [f"`{name}`", order, f"{low:.2f}", f"{high:.2f}", f"{two:.2f}", calls, f"{at_24:.1e}"]


def even(name: str) -> list[float]:
    """Slopes on a grid of equal steps in t, from t = 999 down to 0 and not beyond, whose number grows threefold."""
    law, errors = Gaussian(), []
    for steps in (111, 333, 999):
        n = grids.on_schedule(np.linspace(999, 0, steps + 1), ALPHA_BARS)
        errors.append(abs(run(EVEN[name](n), 1.3, law.predict) - law.exact(1.3, n)))
    return [math.log(a / b, 3) for a, b in pairwise(errors)]


def on_even(name: str) -> list[object]:
    """A line of its table."""
    return [f"`{name}`", 1 if name == "ddim" else 2, *(f"{slope:.2f}" for slope in even(name))]


def public(name: str) -> list[object]:
    """A line of the second."""
    code, solver, wanted = CODES[name]
    low, high = slopes(Gaussian(), solver, (192, 384, 768))
    return [name, code, wanted, f"{low:.2f}", f"**{high:.2f}**" if high < wanted - 0.5 else f"{high:.2f}"]


def stochastic(name: str) -> list[object]:
    """A line of the third."""
    solver, order = VARIANCES[name]
    return [name, order, *(f"{slope:.2f}" for slope in variance_slopes(solver, (128, 256, 512)))]


def render() -> str:
    """The page."""
    names = ["192 to 384 steps", "384 to 768"]
    return f"""# The order of the solvers

Made by `python -m tests.reference.orders`. The oracle's own solvers in float64 ([reference/solvers.py](../reference/solvers.py))
run from x_T = 1.3 under a law whose exact path is known, so that every number here is an error of the solver and not of a network.
A slope s says that twice the steps make the error 2^s times smaller. The grid is Karras' with rho = 7 between both ends of the
linear schedule with T = 1000, and a path ends at its last sigma, 0.01: a step to sigma = 0 would add the same error for every
number of steps.

![Error against network calls](figures/orders.png)

## Ours

The Gaussian is N(0.3, 0.5^2). The two Gaussians are N(-0.6, 0.3^2) and N(0.5, 0.4^2) with weights 0.4 and 0.6, for which an ODE
solver at 1e-13 gives the exact path. The last two columns are of a path of 24 steps under the Gaussian.

{table(["solver", "order", *names, "two Gaussians, 192 to 384", "calls", "error"], [ours(name) for name in NAMES])}

UniPC-p has order p + 1, because each state is corrected once its prediction is known, at no further call. At few steps a high order
says little: compare the errors, at equal calls.

PNDM begins with Runge-Kutta steps through the middle of a step in t, so that its grid is one of equal steps in t: here from t = 999
to t = 0, where the path ends. `plms` and `pndm` reach their order beyond some hundred steps.

{table(["solver", "order", "111 to 333 steps", "333 to 999"], [on_even(name) for name in EVEN])}

## As public codes have them

{table(["solver", "code", "order of the paper", *names], [public(name) for name in CODES])}

**The public third-order multistep solvers are of second order.** They give the second divided difference of the predictions the
weight H phi_3, where 2 H phi_3 belongs: phi_3 is the weight of the second derivative, which is twice that difference. With the
right weight the same formula has the third order: `dpmpp_3m` above, and DEIS, which integrates the same polynomial in another way.
The codes' own functions, called on this grid, gave the same slopes (diffusers 0.35.2, dpm-solver 52bc3fb, k-diffusion 4601bf0:
1.92 and 1.96; in eps form 1.89 and 1.94). The right weight is ours; the public one is in conventions `diffusers`, `dpm_solver`.

[tests/weights/test_solver_schedulers.py](../tests/weights/test_solver_schedulers.py) holds our rows of the convention diffusers
against its classes, state by state, to 1e-12.

## Stochastic solvers

Under N(0, 0.5^2) the variance of a path's end follows exactly, without sampling: its rows act on vectors of x_T and all z. Slopes
of the error of that variance:

{table(["solver", "order", "128 to 256 steps", "256 to 512"], [stochastic(name) for name in VARIANCES])}

The third-order stochastic solver of diffusers (`sde-dpmsolver++`, solver_order 3) also has a wrong sign in that weight, H phi_3 -
1, and is worse than its second order.
"""


def figure(path: Path) -> Path:
    """Error against calls under the Gaussian."""
    from bench.pictures import plots  # here, since the tests of the oracle use the rest of this module without matplotlib

    figure, axes = plots.plot("network calls", "error at the end of the path", (7, 4.5))
    lines = {name: ORDERS[name][0] for name in NAMES} | {"dpmpp_3m as public codes have it": ORDERS["public 3m"][0]}
    for number, (name, solver) in enumerate(lines.items()):
        errors, calls = zip(*(error(Gaussian(), solver, steps) for steps in COUNTS), strict=True)
        style = "--" if "public" in name else "-" if number < len(plots.COLOURS) else ":"
        axes.loglog(calls, errors, style, marker=".", color=plots.COLOURS[number % len(plots.COLOURS)], label=name)
    axes.legend(fontsize="small")
    return plots.save(figure, path)


def main(argv: list[str] | None = None) -> int:
    """Write both."""
    from bench import files

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "results", help="folder of orders.md")
    out = parser.parse_args(argv).out
    figure(out / "figures" / "orders.png")
    with files.replacing(out / "orders.md") as file:
        file.write(render().encode())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
