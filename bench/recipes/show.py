"""Pictures of a network's samples: a grid, a strip from noise to images, a GIF."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench import api
from bench.data.pixels import to_uint8
from bench.pictures import grids
from reference.conventions import Plan
from reference.solver_plans import FAST, SolverPlan

KINDS = ("grid", "strip", "gif")
GRID_IMAGES, STRIP_FRAMES, STRIP_IMAGES, GIF_FRAMES = 256, 10, 6, 40
COLUMNS = 8


def on_the_way(sampler: str | None) -> tuple[str, ...]:
    """The kinds that show states on the way to the images, which this sampler does not have."""
    return ("strip", "gif") if sampler in FAST else ()


def show(model: api.Model, plan: Plan | SolverPlan, n: int, wanted: Mapping[str, Path], *, seed: int = 0, batch_size: int = 64,
         title: str = "", x: api.Images | None = None) -> tuple[NDArray[np.float32], dict[str, str]]:
    """Images 0 .. n - 1 of this seed, or those that begin with x (n, C, H, W), and the captions of the pictures drawn:
    `wanted` gives the file of each kind."""
    fast = isinstance(plan, SolverPlan)
    how = f"{plan.sampler}, {plan.steps} network calls" if fast else f"{plan.sampler.upper()}, S = {plan.steps}"
    x, captions = model.noise(n, seed) if x is None else x, {}
    images = model.follow(x, plan, seed=seed, batch_size=batch_size, progress="sample")
    if "grid" in wanted:
        shown = images[:GRID_IMAGES]
        captions["grid"] = f"{title}{len(shown)}{'' if len(shown) == n else f' of {n:,}'} samples, {how}"
        grids.save_grid(wanted["grid"], to_uint8(shown), min(COLUMNS, n), title=captions["grid"])
    if "strip" in wanted:
        captions["strip"] = f"{title}from noise to images, {how}"
        states, t = model.path(x[:STRIP_IMAGES], plan, min(STRIP_FRAMES, plan.steps), seed=seed)
        by_image = to_uint8(states.swapaxes(0, 1).reshape(-1, *x.shape[1:]))
        grids.save_grid(wanted["strip"], by_image, len(states), title=captions["strip"], heads=api.describe_timesteps(t))
    if "gif" in wanted:
        captions["gif"] = f"{title}the denoising of one image, {how}"
        states, t = model.path(x[:1], plan, min(GIF_FRAMES, plan.steps), seed=seed)
        grids.save_gif(wanted["gif"], list(to_uint8(states)), api.describe_timesteps(t), columns=1, scale=8)
    return images, captions
