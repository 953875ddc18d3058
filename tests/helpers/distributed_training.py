"""One process of a training that `torchrun` or `msrun` started, or the only one: writes its losses and final state's hash.

Not a test by itself: `tests/training/test_distributed.py` runs it as `LAUNCHER distributed_training.py BACKEND FOLDER STEPS SLEEP
[LATE]`: SLEEP seconds after each step, and process 1 is LATE seconds later than the others to the second one.
"""

import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import backends  # noqa: E402
from backends.protocol import Spec  # noqa: E402
from bench.cli.launch import launched, serve_as_scheduler
from bench.training import loop
from reference import weights  # noqa: E402
from reference.config import DiffusionConfig, ModelConfig, OptimConfig  # noqa: E402

name, folder, steps, pause = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
late = float(sys.argv[5]) if len(sys.argv) > 5 else 0.0
serve_as_scheduler()
launch = launched()
model = ModelConfig(sample_size=8, block_out_channels=(8, 16), down_block_types=("DownBlock2D", "AttnDownBlock2D"),
                    up_block_types=("AttnUpBlock2D", "UpBlock2D"), layers_per_block=1, norm_num_groups=4)
spec = Spec(model, DiffusionConfig(timesteps=100), OptimConfig(lr=1e-3, warmup_steps=5, max_grad_norm=1.0), rank=launch.rank,
            processes=launch.processes)
backend = backends.load(name).create(spec)
backend.load_weights(weights.initialise(model, 3))
images = np.random.default_rng(0).integers(0, 256, (64, 1, 8, 8), dtype=np.uint8)
done = loop.fit(backend, spec, images, seed=0, steps=steps, batch_size=8, flip=True, states=folder / "states", save_every=0.0,
                    on_step=lambda done, total: time.sleep(pause + late * (launch.rank == done == 1)))
if spec.rank == 0:
    np.savez(folder / "result.npz", losses=done.losses, starts=done.starts, **backend.weights())
