"""DDIM on a respaced path: section counts, eta, encoding and decoding, interpolation of latents.

Song et al. 2021 (arXiv:2010.02502): the sweep over S and eta (table 1), the error of an image that is encoded to x_T and decoded
again with S steps each (table 2: per dimension, on [0, 1]), the spherical interpolation of x_T (figure 6, equation 67). Nichol &
Dhariwal 2021 (arXiv:2102.09672): respacing "ddim50" and by section counts "10,15,20", its map of timesteps, and the timesteps
t x 1000 / T that their network is told. The network is this project's small one, trained as its shipped checkpoint was.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data.pixels import to_float, to_uint8
from bench.pictures import plots
from bench.recipes.experiment import Experiment
from bench.recipes.recipe import Recipe
from reference.conventions import make_encode_plan
from reference.diffusion import slerp

RESPACINGS: dict[str, dict[str, Any]] = {
    "ddim50": {"steps": 50, "spacing": "leading"}, "10,15,20": {"steps": (10, 15, 20)}, "50": {"steps": 50}}
ETA_STEPS, ETAS = (10, 20, 50), (0.0, 0.25, 0.5, 1.0, "sigma_hat")
ROUND_TRIP_STEPS, ROUND_TRIP_IMAGES = (10, 20, 50, 100, 200, 500, 1000), 8
DDIM_TABLE_2 = (0.014, 0.0065, 0.0023, 0.0009, 0.0004, 0.0001, 0.0001)  # CIFAR-10's test set, at the steps above
PATH = 50  # steps of the interpolation
CORNERS = 8  # the interpolation's grid is CORNERS x CORNERS


def run(e: Experiment) -> None:
    """The interpolation, the round trip, the eta sweep, the respacings, and the loss curve."""
    plan = e.model.plan(PATH)
    latents = slerp_grid(e.model.noise(4, e.options.seed))
    e.save_grid("", to_uint8(e.follow(latents, plan, "slerp")), CORNERS,
                title=f"spherical interpolation of x_T between four latents (corners), DDIM, S = {PATH}", scale=2.5)
    round_trip(e)
    eta_sweep(e)
    respaced(e)
    e.show_samples()
    e.losses()


def slerp_grid(corners: NDArray[np.float32]) -> NDArray[np.float32]:
    """Latents (CORNERS^2, C, H, W) between four (4, C, H, W), first along the columns, then along the rows."""
    shares = np.linspace(0, 1, CORNERS)
    top, bottom = ([slerp(a, b, share) for share in shares] for a, b in (corners[:2], corners[2:]))
    return np.stack([slerp(a, b, share) for share in shares for a, b in zip(top, bottom, strict=True)]).astype(np.float32)


def round_trip(e: Experiment) -> None:
    """Held-out images encoded and decoded with S steps each: error per dimension of [0, 1] against S, and the images."""
    images = to_float(e.held_out.images[:ROUND_TRIP_IMAGES])
    T, lines = e.model.spec.diffusion.timesteps, [images]
    errors: dict[str, list[float]] = {}
    for steps in (s for s in ROUND_TRIP_STEPS if s <= T):
        latents = e.follow(images, make_encode_plan(e.model.spec.diffusion, steps), f"encode S = {steps}")
        back = e.follow(latents, e.model.plan(steps), f"decode S = {steps}")
        errors[str(steps)] = ((back - images) ** 2 / 4).mean((1, 2, 3)).tolist()
        lines.append(back)
    e.values["round_trip_error"] = errors
    e.save_grid("round-trip", to_uint8(np.concatenate(lines)), len(images), rows=["image", *(f"S = {steps}" for steps in errors)],
                title="held-out images, encoded to x_T and decoded again")
    figure, axes = plots.plot("steps S of encoding and of decoding", "squared error per dimension of [0, 1]")
    mean, low, high = (np.array([f(v) for v in errors.values()]) for f in (np.mean, np.min, np.max))
    s = [int(steps) for steps in errors]
    axes.errorbar(s, mean, [mean - low, high - mean], marker="o", capsize=3, color=plots.COLOURS[0],
                  label=f"this network, mean and range of {len(images)} images")
    axes.plot(ROUND_TRIP_STEPS, DDIM_TABLE_2, "--", marker="s", color=plots.COLOURS[1],
              label="DDIM table 2: CIFAR-10, another network")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(s, [str(steps) for steps in s])
    axes.minorticks_off()
    axes.legend()
    e.save_figure("round-trip-error", figure, "Error of encoding and decoding against S.")


def eta_sweep(e: Experiment) -> None:
    """S against eta from the same x_T: images, and the metric where there are enough of them."""
    x = e.model.noise(e.samples, e.options.seed)
    shown, found = [], dict[str, Any]()
    for steps in ETA_STEPS:
        for eta in ETAS:
            drawn = e.follow(x, e.model.plan(steps, eta=eta), f"S = {steps}, eta = {eta}")
            found[f"S={steps} eta={eta}"] = {"n": len(drawn), "metric": e.measure(drawn)}
            shown.append(drawn[:2])
    e.values["eta_sweep"] = found
    e.save_grid("eta", to_uint8(np.concatenate(shown)), 2 * len(ETAS), title="two images for each S and eta, same x_T",
                rows=[f"S = {steps}" for steps in ETA_STEPS],
                heads=[head for eta in ETAS for head in (f"eta = {eta:g}" if isinstance(eta, float) else eta, "")])
    if all(value["metric"] for value in found.values()):
        figure, axes = plots.plot("eta (last: sigma_hat)", f"{next(iter(found.values()))['metric']['metric']}, n = {len(x)}")
        for colour, steps in zip(plots.COLOURS, ETA_STEPS, strict=False):
            axes.plot(range(len(ETAS)), [found[f"S={steps} eta={eta}"]["metric"]["fid"] for eta in ETAS], marker="o", color=colour,
                      label=f"S = {steps}")
        axes.set_xticks(range(len(ETAS)), [str(eta) for eta in ETAS])
        axes.set_yscale("log")
        axes.legend()
        e.save_figure("eta-fid", figure, "The metric against eta.")


def respaced(e: Experiment) -> None:
    """IDDPM's ways to shorten the path: which timesteps, what the network is told, and images from the same x_T."""
    x, shown = e.model.noise(8, e.options.seed), []
    found = e.values["respacing"] = {}
    for name, choice in RESPACINGS.items():
        plan = e.model.plan(**choice, convention="nichol2021")
        found[name] = {"timestep_map": list(plan.timesteps[::-1]), "told": list(plan.network_t[::-1])}
        shown.append(e.follow(x, plan, f"respacing {name}"))
    e.save_grid("respaced", to_uint8(np.concatenate(shown)), len(x), title="IDDPM's respacings, DDIM, same x_T",
                rows=[f'"{name}"' for name in RESPACINGS])


RECIPE = Recipe(
    "ddim-respaced", "DDIM: fewer steps, eta, round trips and latents",
    "Song et al. 2021 (arXiv:2010.02502), tables 1 and 2, figure 6; Nichol & Dhariwal 2021 (arXiv:2102.09672)",
    steps=9000, samples=128, sampling={"steps": 50}, run=run)
