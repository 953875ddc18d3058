"""A sampling step as one CUDA graph, beside the same kernels launched one by one: `python -m tests.benchmarks.cuda_steps`.

Both are the tuned torch backend with the network of DDPM's CIFAR-10 recipe. Their images are compared bit by bit, for every kind
of plan; then paths of `STEPS` steps are timed in turn (A B B A). It needs a GPU, and says so where there is none.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np

from backends.protocol import Spec
from bench.presets import get_preset
from bench.report.measures import paired_ratio
from reference import weights
from reference.conventions import make_plan
from reference.solver_plans import make_solver_plan
from tests.require_device import problem

STEPS, PAIRS = 50, 12


def main(argv: list[str] | None = None) -> int:
    """Print one line for each dtype, batch and plan. Exit code: 0, 1 where images differ, 2 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtypes", default="bfloat16,float32")
    parser.add_argument("--batches", default="1,64")
    args = parser.parse_args(argv)
    if reason := problem("cuda", ["torch"]):
        print(f"error: {reason}", file=sys.stderr)
        return 2
    import torch

    from backends.torch import backend as torch_backend

    preset = get_preset("ddpm-cifar10")
    diffusion, given, unequal = preset.diffusion, weights.initialise(preset.model, 0), 0
    plans = {"eta = 0": make_plan(diffusion, 10), "eta = 1": make_plan(diffusion, 10, eta=1.0),
             "DDPM": make_plan(diffusion, 10, sampler="ddpm"), "dynamic clipping": make_plan(diffusion, 4, clip="dynamic"),
             **{name: make_solver_plan(diffusion, 10, sampler=name) for name in ("dpmpp_2m", "unipc_3", "heun")}}
    for dtype in args.dtypes.split(","):
        replayed, launched = (torch_backend.create(Spec(preset.model, diffusion, device="cuda", dtype=dtype)) for _ in range(2))
        launched.replayed = False
        for backend in (replayed, launched):
            backend.load_weights(given)
        for batch in map(int, args.batches.split(",")):
            rng = np.random.default_rng(0)
            x = torch.from_numpy(rng.standard_normal((batch, *preset.shape)).astype(np.float32)).cuda()
            noise = rng.standard_normal((24, *x.shape)).astype(np.float32)
            for name, plan in plans.items():
                same = torch.equal(*(backend.sample(x, plan, noise.__getitem__) for backend in (replayed, launched)))
                unequal += not same
                print(f"{dtype}, batch {batch}, {name}: {'bit-equal' if same else 'DIFFERENT'}", flush=True)
            whole, seconds = make_plan(diffusion, diffusion.timesteps).cut(0, STEPS), {replayed: [], launched: []}
            for pair in range(PAIRS):
                for backend in (replayed, launched)[::1 if pair % 2 else -1]:
                    torch.cuda.synchronize()
                    begun = time.perf_counter()
                    backend.sample(x, whole)
                    torch.cuda.synchronize()
                    seconds[backend].append((time.perf_counter() - begun) / STEPS)
            found = paired_ratio(seconds[launched], seconds[replayed])
            print(f"{dtype}, batch {batch}: {1e3 * np.median(seconds[replayed]):.3f} ms a step as one graph, "
                  f"{1e3 * np.median(seconds[launched]):.3f} ms launched: {found[0]:.2f} times ({found[1]:.2f} to {found[2]:.2f})")
    return int(unequal > 0)


if __name__ == "__main__":
    sys.exit(main())
