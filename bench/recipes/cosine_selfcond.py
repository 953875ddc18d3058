"""Which of the choices of later papers help, one at a time, with error bars.

The base is linear betas scaled by 1000 / T, noise prediction and the mean squared error. Each other line changes one thing: the
cosine schedule (Nichol & Dhariwal 2021, arXiv:2102.09672), prediction of x0 or of v (Salimans & Ho 2022, arXiv:2202.00512), L1,
self-conditioning in half of the steps (Chen et al. 2022, arXiv:2208.04202), p2 weighting (Choi et al. 2022, arXiv:2204.00227), as
lucidrains' denoising-diffusion-pytorch offers them; images are sampled by its rules. Losses of different targets say nothing
beside each other: the figure is the metric, each bar over trainings from several seeds.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from bench.data.pixels import to_uint8
from bench.pictures import plots
from bench.recipes.experiment import Experiment
from bench.recipes.recipe import Recipe

CHOICES: dict[str, dict[str, Any]] = {
    "base: linear, eps, L2": {},
    "cosine schedule": {"schedule": "cosine"},
    "predicts x0": {"objective": "x0"},
    "predicts v": {"objective": "v"},
    "L1": {"loss": "l1"},
    "self-conditioning": {"self_conditioning": True},
    "p2 weighting": {"loss_weight": "p2"},
    "cosine, v, self-conditioning": {"schedule": "cosine", "objective": "v", "self_conditioning": True},
}


def run(e: Experiment) -> None:
    """A training per choice and seed; the metric's mean and standard deviation, and images of the first seed."""
    o, preset = e.options, e.recipe.preset
    found: dict[str, list[float]] = {}
    shown = []
    for name, change in CHOICES.items():
        process = replace(preset.diffusion, **change)
        model = replace(preset.model, in_channels=preset.model.in_channels * (2 if process.self_conditioning else 1))
        distances = []
        for seed in range(o.seed, o.seed + o.seeds):
            trained = e.train(name, seed, model, process)
            x = trained.noise(e.samples, seed)
            plan = e.plan(trained)
            drawn = trained.follow(x, plan, seed=seed, batch_size=o.sample_batch)
            if (metric := e.measure(drawn)) is not None:
                distances.append(metric["fid"])
            if seed == o.seed:
                shown.append(drawn[:8])
        found[name] = distances
    e.values["fid"] = found
    if all(found.values()):
        figure, axes = plots.plot(f"FID[fmnist-cnn], n = {e.samples}: mean and standard deviation of {o.seeds} seeds", " ",
                                     figsize=(7, 4))
        for line, distances in enumerate(found.values()):
            spread = float(np.std(distances, ddof=1)) if len(distances) > 1 else 0.0
            axes.errorbar(np.mean(distances), line, xerr=spread, marker="o", capsize=4, color=plots.COLOURS[0])
            axes.plot(distances, [line] * len(distances), "|", color=plots.COLOURS[1])
        axes.set_yticks(range(len(found)), list(found))
        axes.invert_yaxis()
        e.save_figure("", figure, "The metric of each choice; ticks are single seeds, lower is better.")
    e.save_grid("samples", to_uint8(np.concatenate(shown)), len(shown[0]), rows=list(found),
                title=f"samples of the first seed, DDIM, S = {plan.steps}")


RECIPE = Recipe(
    "cosine-selfcond", "Schedules, targets, losses and self-conditioning compared",
    "lucidrains' denoising-diffusion-pytorch and the papers behind its options", steps=10_000, samples=1024,
    sampling={"steps": 50, "convention": "lucidrains"}, run=run, takes_weights=False, shows=False)
