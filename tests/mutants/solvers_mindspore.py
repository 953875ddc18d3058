"""`python -m tests.mutants.solvers_mindspore`: the mistakes of `catalogue_solvers`, planted in the MindSpore backend.

Each is written as MindSpore writes the same line, in a copy of the backend, and the checks of its level are asked in float32, that
which catches it in PyTorch first: rows are float64 in every dtype, and MindSpore has no other network on a CPU. It prints the check
that catches each, and ends with 1 where one is caught by none. README.md has the last run.
"""

from __future__ import annotations

import argparse

from .catalogue import MUTANTS, Mutant
from .catalogue_solvers import SOLVER_MISTAKES
from .mirror import ask

WORDS = (  # how a line of PyTorch reads in MindSpore, in this order
    ("torch.tensor(plan.network_t, dtype=F64).round()", "ops.round(Tensor(plan.network_t, F64))"),
    ("torch.tensor(plan.network_t, dtype=F64)", "Tensor(plan.network_t, F64)"),
    ("torch.expm1(-2 * v.eta / (1 + v.eta) * H)", "ops.expm1(f64(-2 * v.eta / (1 + v.eta)) * H)"),
    ("torch.expm1(-v.eta / (1 + v.eta) * H)", "ops.expm1(f64(-v.eta / (1 + v.eta)) * H)"),
    ("torch.exp(-v.eta / (1 + v.eta) * H)", "ops.exp(f64(-v.eta / (1 + v.eta)) * H)"),
    ("-H / (1 + v.eta), H / (1 + v.eta)", "-H / f64(1 + v.eta), H / f64(1 + v.eta)"),
    ("torch.sqrt(1 - v.eta**2 + v.eta**2 * share)", "ops.sqrt(f64(1 - v.eta**2) + f64(v.eta**2) * share)"),
    ("noise = v.eta * n.sigma[t]", "noise = f64(v.eta) * n.sigma[t]"), ("noise = v.eta**0.5 *", "noise = f64(v.eta**0.5) *"),
    ("two, 0.0))", "two, f64(0)))"), ("1 / math.factorial(i - 1)) / q", "f64(1 / math.factorial(i - 1))) / q"),
    ("1 / math.factorial(i)) / q", "f64(1 / math.factorial(i))) / q"),
    ("t = c[\"network_t\"]", "t = solving.kept(plan)[\"network_t\"] if isinstance(plan, SolverPlan) else"),
    ("(torch.arange(len(c[\"network_t\"])).double() if isinstance(plan, SolverPlan) else c[\"network_t\"])",
     "Tensor(np.arange(len(solving.kept(plan)[\"network_t\"]), dtype=np.float64)) if isinstance(plan, SolverPlan) else"),
    ("torch.", "ops."), ("dim=1", "axis=1"),
)


def mirrored(mutant: Mutant) -> Mutant:
    """The same mistake in MindSpore's text, asked in float32."""
    old, new = mutant.old, mutant.new
    for torch, mindspore in WORDS:
        old, new = old.replace(torch, mindspore), new.replace(torch, mindspore)
    return mutant._replace(old=old, new=new, dtype="float32")


def mistakes() -> list[Mutant]:
    """Those of the solvers."""
    names = {mistake[1] for mistake in SOLVER_MISTAKES}
    return [mirrored(mutant) for mutant in MUTANTS if mutant.name in names]


def main() -> int:
    """Ask about all, or about those whose names are given."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants.solvers_mindspore", description=__doc__)
    parser.add_argument("names", nargs="*", help="of mistakes; default: all")
    names = parser.parse_args().names
    wanted = [mutant for mutant in mistakes() if not names or mutant.name in names]
    survived = []
    for mutant in wanted:
        _, found = ask(mutant, "mindspore", [mutant.level])
        survived += [mutant.name] * (not found)
        print(f"{mutant.level} {mutant.name}: {f'{found.name}: {repr(found.error)[:140]}' if found else 'NOTHING'}", flush=True)
    print(f"{len(wanted) - len(survived)} of {len(wanted)} caught")
    return 1 if survived else 0


if __name__ == "__main__":
    raise SystemExit(main())
