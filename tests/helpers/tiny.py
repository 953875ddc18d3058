"""What many tests use: a tiny network, a comparison of weights, an outside package with a backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from reference.config import ModelConfig

HELPERS = Path(__file__).parent
TINY = ModelConfig(sample_size=8, block_out_channels=(8, 16), norm_num_groups=4, zero_init=False,
                   down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"))
EQUAL_GROUPS = replace(TINY, norm_num_groups=8)  # whose blocks of width 8 can't know t


def same(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> bool:
    """Whether two dictionaries hold the same arrays under the same names."""
    return set(found) == set(expected) and all(np.array_equal(found[name], expected[name]) for name in expected)


def install_backend(site: Path, name: str, source: str) -> None:
    """Put a package that offers the backend `name` into the folder `site`: its module NAME_backend and its entry point."""
    about = site / f"{name}_backend-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-backend\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[ddim_bench.backends]\n{name} = {name}_backend\n")
    (site / f"{name}_backend.py").write_text(source)
