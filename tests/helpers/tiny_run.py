"""The main job with a preset for tests, `tiny`, that ends in seconds: `python tests/helpers/tiny_run.py ARGUMENTS`."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from bench import presets
from bench.cli.main import main
from bench.data import datasets
from bench.metric import fid
from bench.report import measures
from bench.timing import blocks
from reference.config import DiffusionConfig, ModelConfig, OptimConfig

TINY = ModelConfig(sample_size=28, block_out_channels=(8, 16), norm_num_groups=4, zero_init=False,
                   down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"))


def first(whole: datasets.Dataset, n: int) -> datasets.Dataset:
    """The first images of a data set."""
    return replace(whole, images=whole.images[:n], sha256=f"first {n} of {whole.sha256}")


measures.MOST_LOAD = float("inf")  # the machine of a test may have other work
presets.PRESETS["tiny"] = presets.Preset(
    "tiny", TINY, None, DiffusionConfig(timesteps=20), OptimConfig(lr=1e-3), train_steps=20, batch_size=4, sample_batch=32)
presets.PRESETS["tiny-table"] = replace(presets.PRESETS["tiny"], name="tiny-table", train_steps=0, blocks=0)
load = datasets.load
datasets.load = lambda *args, **more: first(load(*args, **more), 1000)
if os.environ.get("TINY_METRIC") == "none":  # of no interest where workers and disks fail: half of the job's time
    NONE = {"metric": "none", "fid": 0.0, "fid_half": 0.0, "fid_inf": 0.0, "kid": 0.0, "kid_subset_size": 1, "kid_subset_std": 0.0,
            "kid_reference": "", "n": 128, "seed": 0, "extractor": "", "extractor_sha256": "", "reference": ""}
    fid.floor = fid.ceiling = fid.evaluate = lambda *_, **__: NONE
KID_REFERENCE = 500  # images in place of all 4,000 that ship, whose features take seconds in every process
whole_subset = datasets.load_subset
fid.load_subset = lambda name, split: first(whole_subset(name, split), KID_REFERENCE)
LEAST = 0.01  # seconds of a timed block
blocks.time_blocks = partial(blocks.time_blocks, least=LEAST, cap_seconds=1.0)
blocks.calibrate = partial(blocks.calibrate, least=LEAST)

if __name__ == "__main__":
    sys.exit(main(["run", "--preset", "tiny", "--threads", "1", *sys.argv[1:]]))
