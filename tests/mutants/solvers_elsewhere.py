"""`python -m tests.mutants.solvers_elsewhere`: the mistakes of `catalogue_solvers`, planted in the MindSpore and the JAX backend.

Each is written as the other backend writes the same line, in a copy of it, and the checks of its level are asked in float32: rows
are float64 in every dtype, and MindSpore has no other network on a CPU. It prints the check that catches each, and ends with 1 where
one is caught by none. README.md has the last run.
"""

from __future__ import annotations

import argparse

from .catalogue import MUTANTS, Mutant
from .catalogue_solvers import SOLVER_MISTAKES
from .mirror import ask

TOLD = ("(torch.arange(len(c[\"network_t\"])).double() if isinstance(plan, SolverPlan) else c[\"network_t\"])", "t = c[\"network_t\"]")
ELSEWHERE = "solving.kept(plan)[\"network_t\"]"
WORDS = {"mindspore": (  # how a line of PyTorch reads there, in this order
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
    (TOLD[1], f"t = {ELSEWHERE} if isinstance(plan, SolverPlan) else"),
    (TOLD[0], f"Tensor(np.arange(len({ELSEWHERE}), dtype=np.float64)) if isinstance(plan, SolverPlan) else"),
    ("torch.", "ops."), ("dim=1", "axis=1"),
), "jax": (
    ("torch.tensor(plan.network_t, dtype=F64).round()", "jnp.round(jnp.array(plan.network_t, F64))"),
    ("torch.tensor(plan.network_t, dtype=F64)", "jnp.array(plan.network_t, F64)"),
    ("    noise = torch.cat((noise[:-1], _zeros(1)))\n", ".at[-1].set(0)"),
    (TOLD[1], f"t = {ELSEWHERE} if isinstance(plan, SolverPlan) else"),
    (TOLD[0], f"jnp.arange(float(len({ELSEWHERE}))) if isinstance(plan, SolverPlan) else"),
    ("torch.", "jnp."), ("dim=1", "axis=1"),
)}


def mirrored(mutant: Mutant, backend: str) -> Mutant:
    """The same mistake in the backend's text, asked in float32."""
    old, new = mutant.old, mutant.new
    for torch, theirs in WORDS[backend]:
        old, new = old.replace(torch, theirs), new.replace(torch, theirs)
    return mutant._replace(old=old, new=new, dtype="float32")


def mistakes(backend: str) -> list[Mutant]:
    """Those of the solvers."""
    names = {mistake[1] for mistake in SOLVER_MISTAKES}
    return [mirrored(mutant, backend) for mutant in MUTANTS if mutant.name in names]


def main() -> int:
    """Ask about all, or about those whose names are given."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants.solvers_elsewhere", description=__doc__)
    parser.add_argument("--backend", choices=WORDS, help="default: both, one after the other")
    parser.add_argument("names", nargs="*", help="of mistakes; default: all")
    args = parser.parse_args()
    survived = 0
    for backend in [args.backend] if args.backend else WORDS:
        wanted = [mutant for mutant in mistakes(backend) if not args.names or mutant.name in args.names]
        caught = 0
        for mutant in wanted:
            _, found = ask(mutant, backend, [mutant.level])
            caught += found is not None
            print(f"{backend} {mutant.level} {mutant.name}: {f'{found.name}: {repr(found.error)[:140]}' if found else 'NOTHING'}",
                  flush=True)
        print(f"{backend}: {caught} of {len(wanted)} caught", flush=True)
        survived += len(wanted) - caught
    return 1 if survived else 0


if __name__ == "__main__":
    raise SystemExit(main())
