"""Train a checkpoint for as long as asked and ship it: `python -m bench.train --steps 20000 --save FOLDER`.

Goes on from its last good state when the same command is started again. The finished folder is a diffusers pipeline with the
EMA weights, `loss.csv`, and `training.json` with the command, seed, time and machine.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

import backends
from backends.protocol import Spec
from bench import checkpoint, data, environment, streams
from bench.config import ROOT, get_preset
from reference import weights
from reference.config import ConfigError, require

SAVE_EVERY = 120.0  # seconds between states


def main(argv: list[str] | None = None) -> int:
    """Command line; exit codes as `bench.run`'s."""
    parser = argparse.ArgumentParser(prog="python -m bench.train", description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--backend", default="torch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--mode", default="tuned")
    parser.add_argument("--steps", type=int, required=True, help="optimiser steps; the learning rate decays over them")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", help="folder of the data set's files")
    parser.add_argument("--save", type=Path, required=True, help="folder of the finished pipeline")
    args = parser.parse_args(argv)
    try:
        train(args, ["python", "-m", "bench.train", *(sys.argv[1:] if argv is None else argv)])
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last state", file=sys.stderr)
        return 130
    return 0


def train(args: argparse.Namespace, command: list[str]) -> None:
    """Train, saving states beside `args.save`, then write the pipeline folder."""
    preset = get_preset(args.preset)
    require(args.steps > preset.optim.warmup_steps, "--steps", args.steps,
            f"must exceed the warm-up's {preset.optim.warmup_steps}")
    optim = replace(preset.optim, total_steps=args.steps)
    spec = Spec(preset.model, preset.diffusion, optim, args.device, args.dtype, args.mode)
    batch_size = args.batch_size or preset.batch_size
    dataset = data.load(preset.dataset, "train", args.data)
    backend = backends.load(args.backend).create(spec)
    backend.load_weights(weights.initialise(preset.model, args.seed))
    config = {"model": spec.model.to_dict(), "diffusion": spec.diffusion.to_dict(), "optim": optim.to_dict(), "seed": args.seed,
              "batch_size": batch_size, "dataset": dataset.sha256, "backend": args.backend, "dtype": args.dtype}
    states = args.save.with_name(args.save.name + ".states")
    losses, start, before = np.zeros(args.steps, np.float32), 0, 0.0
    if (found := checkpoint.load_state(states, config)) is not None:
        start, state = found
        losses[:start], before = state.pop("losses")[:start], float(state.pop("seconds"))
        backend.load_state(state)
    pending: list[tuple[int, object]] = []
    began = saved = time.monotonic()

    def collect() -> None:
        for n, loss in pending:
            losses[n] = float(backend.to_host(loss))
        pending.clear()
        bad = np.flatnonzero(~np.isfinite(losses))
        require(bad.size == 0, "loss", losses[bad[:1]].tolist(),
                f"is not finite at step {bad[:1].tolist()}; the last good state is in {states}")

    for step in tqdm(range(start, args.steps), initial=start, total=args.steps, desc=f"train {args.backend}", mininterval=2):
        batch = streams.training_batch(args.seed, dataset.images, step, batch_size, spec.diffusion.timesteps, flip=dataset.flip,
                                       self_conditioning=spec.diffusion.self_conditioning)
        pending.append((step, backend.train_step(batch)))
        if len(pending) == 100 or step == args.steps - 1:
            collect()
            if time.monotonic() - saved > SAVE_EVERY or step == args.steps - 1:
                seconds = np.array(before + time.monotonic() - began)
                checkpoint.save_state(states, step + 1, {**backend.state(), "losses": losses, "seconds": seconds}, config)
                saved = time.monotonic()
    about = {
        "command": shlex.join(command), "seconds": round(before + time.monotonic() - began, 1), "config": config,
        "dataset": dataset.provenance, "final_loss_mean_of_1000": float(losses[-1000:].mean()),
        "device": backend.device_info(), "environment": environment.describe(), "resumed": start > 0,
    }
    curve = "step,loss\n" + "".join(f"{n},{loss:.6g}\n" for n, loss in enumerate(losses))
    checkpoint.save_pipeline(args.save, backend.weights(ema=True), spec.model, spec.diffusion,
                             {"loss.csv": curve, "training.json": json.dumps(about, indent=2) + "\n"})
    print(f"wrote {args.save.relative_to(ROOT) if args.save.is_relative_to(ROOT) else args.save}")


if __name__ == "__main__":
    sys.exit(main())
