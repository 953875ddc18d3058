"""`python -m tests.benchmarks.solver_cost`: what a network call costs in each solver, against one in DDIM, at batch 64.

Whole paths of about 20 calls alternate with DDIM's in blocks A B B A. It prints the ratio of the CPU times of a call with its 95%
interval, beside DDIM's against itself, and ends with 1 where an interval lies above --most. What else runs on the machine takes
no CPU time of this process, so that a busy machine widens the intervals. With OMP_NUM_THREADS=1: threads that wait for others spin,
which counts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

import backends
from bench import api
from bench.report.measures import paired_ratio
from bench.timing import blocks
from reference.solver_plans import FAST, make_solver_plan
from reference.solvers import SOLVERS

CALLS = 20
STEPS = {"heun": 10, "dpmpp_2s": 10, "plms": 19, "pndm": 11}  # of about as many calls


def path(model: api.Model, sampler: str, batch: int) -> tuple[Callable[[int], float], int]:
    """(CPU seconds of so many paths, network calls of one)."""
    fast, S = sampler in FAST, STEPS.get(sampler, CALLS)
    plan = make_solver_plan(model.spec.diffusion, S, sampler=sampler) if fast else model.plan(S)
    x, noise = model.backend.to_device(model.noise(batch)), model.noise(batch, seed=1)

    def block(units: int) -> float:
        began = time.process_time()
        for _ in range(units):
            out = model.backend.sample(x, plan, lambda _: noise)
        model.backend.synchronize(out)
        return time.process_time() - began

    return block, plan.steps


def ratio(model: api.Model, sampler: str, batch: int, least: float) -> tuple[float, float, float]:
    """Median and 95% interval of a call's time by that of DDIM, of `sampler` "ddim" against itself."""
    (ours, calls), (theirs, of_ddim) = path(model, sampler, batch), path(model, "ddim", batch)
    raw = blocks.time_blocks({"ddim": theirs, "solver": ours}, least=least)
    one, two = (np.array(raw[name]["block_seconds"]) / raw[name]["units_per_block"] / n
                for name, n in (("solver", calls), ("ddim", of_ddim)))
    return paired_ratio(one, two)


def main(argv: list[str] | None = None) -> int:
    """Print a line for each solver."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", default=backends.DEFAULT, help=f"of {', '.join(backends.with_solvers())}")
    parser.add_argument("--weights", default="results/checkpoints/fmnist-small")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--least", type=float, default=1.0, help="seconds of a block")
    parser.add_argument("--most", type=float, default=1.03, help="ratio that is accepted")
    args = parser.parse_args(argv)
    model, slower = api.load(args.weights, args.backend), []
    for sampler in (name for name in SOLVERS if name != "ddpm"):
        median, low, high = ratio(model, sampler, args.batch_size, args.least)
        slower += [sampler] * (low > args.most)
        print(f"{sampler}: {median:.3f} ({low:.3f} .. {high:.3f})" + " against itself" * (sampler == "ddim"), flush=True)
    print(f"slower than {args.most} times DDIM: {', '.join(slower) or 'none'}")
    return 1 if slower else 0


if __name__ == "__main__":
    raise SystemExit(main())
