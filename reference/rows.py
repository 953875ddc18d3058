"""One path of a solver as rows: what each network call's prediction makes of the states so far, and helpers to write rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from .errors import require
from .grids import Nodes
from .records import choice

Weights = dict[int, float]  # of predictions, by the number of the call that gave them
LAGS = 4  # a row reads predictions of calls k, k - 1, .., k - 3 at most; these two further back, past calls that they leave out
MORE_LAGS = {"plms": 5, "pndm": 13}


class Row(NamedTuple):
    """One update. `anchor` is the number of a state, k or earlier."""

    anchor: int
    keep: float
    x0: Weights
    eps: Weights
    noise: float = 0.0

    @property
    def reads(self) -> list[tuple[str, int]]:
        """The states "x" and predictions "x0" and "eps" that it needs, each with its number."""
        return [("x", self.anchor), *(("x0", j) for j in self.x0), *(("eps", j) for j in self.eps)]


class Path(NamedTuple):
    """States 0 .. K as `Nodes`, of which call k sees state k and the last is the result; and K rows."""

    states: Nodes
    rows: list[Row]


@dataclass(frozen=True)
class Variant:
    """How a code runs a solver. The defaults are ours."""

    form: str = "x0"  # what is interpolated: "x0" (DPM-Solver++, UniPC's default) or "eps" (DPM-Solver, DEIS with log rho)
    second: str = "midpoint"  # weight of the first difference: "midpoint" H phi_1 / 2, or "taylor" H phi_2
    third: str = "exact"  # of the second: "exact" 2 H phi_3; "public" half of it; "wrong_sign" that less 1
    basis: str = "bh2"  # UniPC's B: "bh1" q, "bh2" e^q - 1
    lower_below: float = 0  # paths of fewer steps end with orders p - 1, .., 1
    lower_last: bool = False  # the last step is of order 1 on every path; one to sigma = 0 is so in any case
    eta: float = 0.0  # of ddim (DDIM equation 16) and dpmpp_2m_sde
    variance: str = "large"  # of ddpm: "large" beta, "small" beta_tilde

    def __post_init__(self) -> None:
        for name, allowed in (("form", ("x0", "eps")), ("second", ("midpoint", "taylor")), ("basis", ("bh1", "bh2")),
                              ("third", ("exact", "public", "wrong_sign")), ("variance", ("large", "small"))):
            choice(name, getattr(self, name), allowed)
        require(self.eta == 0 or self.form == "x0", "form", self.form, "has no stochastic steps here: use x0, or eta 0")


OURS = Variant()


def phi(i: int, q: float) -> float:
    """phi_i(q) = int_0^1 e^((1 - tau) q) tau^(i - 1) / (i - 1)! dtau = sum_n q^n / (n + i)!, for i >= 1."""
    if abs(q) < 1:
        return math.fsum(q**n / math.factorial(n + i) for n in range(20))
    return math.expm1(q) / q if i == 1 else (phi(i - 1, q) - 1 / math.factorial(i - 1)) / q


def combine(*terms: tuple[float, Mapping[int, float]]) -> Weights:
    """The sum of weights times factors, without zeros."""
    out: Weights = {}
    for factor, weights in terms:
        for j, weight in weights.items():
            out[j] = out.get(j, 0.0) + factor * weight
    return {j: weight for j, weight in out.items() if weight}
