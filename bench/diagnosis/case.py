"""A case: all that a sampler in any language needs to draw the images of one plan, as plain files.

    case.json     what to draw: sampler, steps, eta, schedule, T, what the network predicts, clipping, the network
    x_T.npy       (N, C, H, W), what the path begins with
    noise.npy     (S, N, C, H, W), z of step i; absent where no step adds noise
    plan.npz      of each step, in the order of sampling: timesteps, previous (-1: clean), network_t, noise_gate; betas (T,)
    weights.npz   canonical arrays and model.json, where the network is a trained one

The closed-form network is out = a x + b sin(2 x + t / c), pixel by pixel, in float64.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.protocol import Spec
from bench import files, oracle, streams
from bench.weights.pipeline import Loaded
from reference import schedules, weights
from reference.config import ConfigError, DiffusionConfig, ModelConfig, require
from reference.conventions import Plan, make_plan

Array = NDArray[np.float64]
Network = Callable[[Array, Array], Array]
CLOSED_FORM = (0.8, 0.3, 40.0)  # a, b, c
SHAPE = (3, 8, 8)  # of the images of a closed-form network


@dataclass(frozen=True, eq=False)
class Case:
    """What to draw. `said` are the arguments of `make_plan`. x_T (N, C, H, W) and noise (S, N, C, H, W) are float64."""

    diffusion: DiffusionConfig
    said: dict[str, Any]
    x_T: Array
    noise: Array | None
    closed_form: tuple[float, float, float] | None
    model: ModelConfig | None = None
    weights: weights.Weights | None = None

    @property
    def plan(self) -> Plan:
        """The right path."""
        return make_plan(self.diffusion, **self.said)

    @property
    def network(self) -> Network:
        """(x, t) -> output, as `reference.samplers.sample` calls it."""
        if self.closed_form is not None:
            return closed_form(*self.closed_form)
        assert self.model is not None and self.weights is not None
        return oracle.oracle_network(self.weights, Spec(self.model, self.diffusion))


def closed_form(a: float, b: float, c: float) -> Network:
    """The network of the module's docstring."""
    def network(x: Array, t: Array) -> Array:
        return a * x + b * np.sin(2 * x + np.reshape(t, (-1, 1, 1, 1)) / c)
    return network


def make(steps: int, *, network: Loaded | None = None, diffusion: DiffusionConfig | None = None, images: int = 2, seed: int = 0,
         constants: tuple[float, float, float] = CLOSED_FORM, shape: tuple[int, int, int] = SHAPE, **choices: Any) -> Case:
    """A case of `steps` steps: `choices` are `make_plan`'s (sampler, eta, spacing, convention, clip, variance, final_alpha_bar).
    The network is one that was read, or the closed form of the process `diffusion` on images of `shape`. Raises ConfigError."""
    require(images >= 1, "images", images, "must be at least 1")
    said, model, arrays = {"steps": steps, **{k: v for k, v in choices.items() if v is not None}}, None, None
    process = diffusion or DiffusionConfig()
    if network is not None:
        model, process, arrays = network.model, network.diffusion, network.weights
        require(not process.self_conditioning, "self_conditioning", True, "is not diagnosed; take other weights")
        shape = Spec(model, process).image_shape
    require(not process.learned_variance, "variance", process.variance, "a learned variance is not diagnosed; take other weights")
    plan = make_plan(process, **said)
    ids = np.arange(images)
    noise = np.stack([streams.normal(seed, "z", ids, shape, step=i) for i in range(plan.steps)]) if plan.needs_noise else None
    return Case(process, said, streams.normal(seed, "x_T", ids, shape).astype(np.float64),
                None if noise is None else noise.astype(np.float64), None if arrays else constants, model, arrays)


def write(case: Case, folder: Path) -> None:
    """The files of the module's docstring. Raises ConfigError for a folder that holds something, FileError for one that can't be
    written."""
    require(not folder.exists() or folder.is_dir() and not any(folder.iterdir()), "--out", str(folder),
            "holds something already; name a new folder")
    plan, (n, *shape) = case.plan, case.x_T.shape
    about = {
        "sampler": plan.sampler, "steps": plan.steps, "eta": "sigma_hat" if plan.sigma_hat else plan.eta,
        "images": n, "shape": shape,
        "schedule": plan.diffusion.schedule, "T": plan.diffusion.timesteps, "predicts": plan.diffusion.objective,
        "clip": plan.clip if plan.clip != "clip" else plan.clip_range, "eps_from_clipped_x0": plan.rederive_eps,
        "last_alpha_bar": plan.final_alpha_bar, "variance": plan.variance if plan.sampler == "ddpm" else None,
        "closed_form": case.closed_form, "diffusion": case.diffusion.to_dict(), "said": case.said,
        "hand_back": "a .npy file of the images (N, C, H, W), or of the states after each step (S, N, C, H, W), in the dtype that "
                     "they were computed in"}
    files.folder(folder)
    _save(folder / "x_T.npy", case.x_T)
    if case.noise is not None:
        _save(folder / "noise.npy", case.noise)
    files.savez(folder / "plan.npz", timesteps=np.array(plan.timesteps), previous=np.array(plan.previous),
                network_t=np.array(plan.network_t), noise_gate=np.array(plan.noise_gate), betas=schedules.betas(plan.diffusion))
    if case.model is not None and case.weights is not None:
        files.savez(folder / "weights.npz", **case.weights)
        files.write_page(folder / "model.json", json.dumps(case.model.to_dict(), indent=2) + "\n")
    files.write_page(folder / "case.json", json.dumps(about, indent=2) + "\n")


def read(folder: Path) -> Case:
    """What `write` wrote. Raises ConfigError."""
    try:
        about = json.loads(files.read_text(folder / "case.json"))
        process, said = DiffusionConfig.from_dict(about["diffusion"]), dict(about["said"])
        form = about["closed_form"]
        x_T = np.load(files.require_file(folder / "x_T.npy"), allow_pickle=False)
        noise = np.load(folder / "noise.npy", allow_pickle=False) if (folder / "noise.npy").exists() else None
        model = arrays = None
        if form is None:
            model = ModelConfig.from_dict(json.loads(files.read_text(folder / "model.json")))
            with np.load(files.require_file(folder / "weights.npz"), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            weights.check(arrays, model, str(folder))
        return Case(process, said, x_T, noise, None if form is None else (form[0], form[1], form[2]), model, arrays)
    except ConfigError:
        raise
    except (ValueError, KeyError, TypeError, IndexError, OSError, RecursionError) as error:
        raise ConfigError(f"CASE={str(folder)!r}: is no case that export-case wrote: {type(error).__name__}: "
                          f"{str(error).splitlines()[0] if str(error) else ''}; export it again") from None


def _save(path: Path, array: NDArray[Any]) -> None:
    with files.replacing(path) as file:
        np.save(file, array)
