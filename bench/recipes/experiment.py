"""What every recipe does: load data, train or load weights, sample, leave pictures and a row."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.protocol import Spec
from bench import api
from bench.data.datasets import Dataset
from bench.data.pixels import to_uint8
from bench.metric import fid
from bench.pictures import grids, plots
from bench.progress import tracked
from bench.recipes import show
from bench.recipes.recipe import Options, Recipe, shortened
from bench.records import rows
from bench.records.notebook import stamped
from bench.records.rows import AnyRow
from bench.training.trackers import Log
from bench.weights.tensor_files import weights_hash
from reference.config import DiffusionConfig, ModelConfig
from reference.conventions import Plan
from reference.weights import count

LOOK_STEPS, LOOK_IMAGES = 50, 16  # DDIM steps and images of the samples drawn during training


@dataclass
class Experiment:
    """One run of a recipe: what was asked for, and what came of it."""

    recipe: Recipe
    options: Options
    command: str
    values: dict[str, Any] = field(default_factory=dict)  # measured, for the row
    made: list[tuple[str, str]] = field(default_factory=list)  # pictures: file in the gallery's folder, caption
    weights: str = ""  # hash of what was trained or loaded

    @property
    def gallery(self) -> Path:
        """Where pictures go."""
        return self.options.out / "gallery"

    @cached_property
    def model(self) -> api.Model:
        """The network that the recipe is about: trained, or with `--weights` loaded."""
        o = self.options
        model = self.train() if o.weights is None else api.load(o.weights, o.backend, device=o.device, dtype=o.dtype, mode=o.mode,
                                                                ignore_scheduler=o.ignore_scheduler, **vars(o.unsaid))
        self.weights = weights_hash(model.backend.weights(ema=True))
        return model

    @cached_property
    def steps(self) -> int:
        """Training steps of this run."""
        batches = len(self.dataset) / self.batch_size
        return self.options.train_steps or (round(self.options.epochs * batches) if self.options.epochs else self.recipe.steps)

    @property
    def batch_size(self) -> int:
        """Of training."""
        return self.options.batch_size or self.recipe.preset.batch_size

    @property
    def samples(self) -> int:
        """Images per set of samples."""
        return self.options.samples or self.recipe.samples

    @property
    def measures(self) -> bool:
        """Whether there is a metric, and so many are enough for it."""
        by = self.options.extractor
        return by is not None and self.samples >= 2 * by.width

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images."""
        if self.options.weights is not None:
            return self.model.spec.image_shape
        return Spec(self.recipe.preset.model, self.recipe.preset.diffusion).image_shape

    @cached_property
    def dataset(self) -> Dataset:
        """The training images."""
        return self._data[0]

    @cached_property
    def held_out(self) -> Dataset:
        """Images that training never saw."""
        return self._data[1]

    @property
    def notes(self) -> list[str]:
        """How this run differs from the recipe, a line each."""
        out, o, name = [], self.options, self.recipe.preset.dataset
        if o.weights is not None:
            out.append(f"The network is that of the weights {Path(o.weights).name}, {count(self.model.spec.model) / 1e6:.2f}M "
                       "parameters, in place of one trained by this recipe.")
        elif self.steps < self.recipe.steps:
            out.append(f"Shortened: {self.steps:,} of the recipe's {self.recipe.steps:,} training steps, batch {self.batch_size}"
                       + (f", learning rate {o.lr:g}" if o.lr else "") + ".")
        if self.dataset.name != name:
            out.append(f"Ran on {self.dataset.provenance}: the recipe's own data set, {name}, was not at hand.")
        if left := [kind for kind in show.on_the_way(o.sampler) if kind in self.recipe.pictures]:
            out.append(f"No {' and '.join(left)}: stops of {o.sampler} on the way would lose its earlier predictions.")
        return out

    @property
    def label(self) -> str:
        """What a picture says of a network that is not the recipe's, whole; "" for one that is."""
        if self.options.weights is not None:
            return f"weights {Path(self.options.weights).name}"
        return f"{self.steps:,} of {self.recipe.steps:,} training steps" if self.steps < self.recipe.steps else ""

    def train(self, tag: str = "", seed: int | None = None, model: ModelConfig | None = None,
              process: DiffusionConfig | None = None) -> api.Model:
        """A network trained as the options say, from its last state if this run was interrupted; losses go to `values`.

        `tag` names one of several trainings; `model` and `process` take the place of the preset's.
        """
        o, preset, dataset = self.options, self.recipe.preset, self.dataset
        seed = o.seed if seed is None else seed
        optim = shortened(preset.optim, self.steps, self.recipe.steps, o.lr)
        flip = dataset.flip if self.recipe.flip is None else self.recipe.flip
        new = api.new(model or preset.model, process or preset.diffusion, optim, o.backend, seed=seed, device=o.device,
                      dtype=o.dtype, mode=o.mode)
        name = f"{self.recipe.name} {tag}".strip()
        config = {"backend": o.backend, "dataset": dataset.sha256}
        with Log(self._work(tag, seed) / "logs", name, self.config, o.log) as log, \
                tracked(total=self.steps, desc=f"train {name}", mininterval=2) as bar:
            def on_step(done: int, _: int) -> None:
                bar.update(done - bar.n)
                if done in o.sample_at:
                    drawn = to_uint8(new.sample(LOOK_IMAGES, min(LOOK_STEPS, new.spec.diffusion.timesteps), seed=seed))
                    log.image("samples", grids.grid(drawn, 8), done)
                    self.save_grid(f"step-{done}", drawn, 8, f"{name}: samples after {done:,} training steps")

            fit = new.train(dataset.images, self.steps, batch_size=self.batch_size, seed=seed, flip=flip, config=config,
                            states=self._work(tag, seed) / "states", on_step=on_step, on_losses=log.losses)
        self.values.setdefault("training", {})[f"{tag} seed {seed}".strip()] = {
            "losses": [float(f"{loss:.5g}") for loss in fit.losses], "seconds": fit.seconds + fit.first_seconds,
            "skipped": fit.skipped}
        return new

    def plan(self, model: api.Model | None = None, **choices: Any) -> Plan:
        """The recipe's way to sample, with the command line's steps, and `choices` in place of its own."""
        return self.recipe.plan(model or self.model, self.options.steps, **choices)

    def losses(self) -> None:
        """The picture of the loss curve, if this run trained."""
        if training := self.values.get("training"):
            curves = {name: run["losses"] for name, run in training.items()}
            path = plots.save_losses(self._file("losses", ".png"), curves, "training loss")
            self.made.append((path.name, "The training loss."))

    def measure(self, images: NDArray[np.float32]) -> dict[str, Any] | None:
        """FID and KID of float images against the training images; None where nothing is measured, or they are too few for it."""
        if not self.measures:
            return None
        return dict(fid.evaluate(to_uint8(images), self.dataset, seed=self.options.seed, extractor=self.options.extractor))

    def follow(self, x: NDArray[np.float32], plan: Plan, what: str, **options: Any) -> NDArray[np.float32]:
        """`Model.follow` with a bar and the run's seed and batch."""
        return self.model.follow(x, plan, seed=self.options.seed, batch_size=self.options.sample_batch, progress=what, **options)

    def save_grid(self, stem: str, images: NDArray[np.uint8], columns: int, title: str, **options: Any) -> None:
        """A labelled grid, see `pictures.save_grid`, that says in its title where the network falls short of the recipe's."""
        lines = "\n".join(filter(None, (title, self.label)))
        self.made.append((grids.save_grid(self._file(stem, ".png"), images, columns, title=lines, **options).name, title))

    def save_figure(self, stem: str, figure: Any, caption: str) -> None:
        """A matplotlib figure of one plot, which gets the same title as `save_grid`'s."""
        figure.axes[0].set_title(self.label, fontsize=9)
        self.made.append((plots.save(figure, self._file(stem, ".png")).name, caption))

    def show_samples(self) -> None:
        """Grid, strip and GIF of the recipe's own way to sample, those that it makes and those that were asked for."""
        o = self.options
        wanted = [kind for kind in show.KINDS if kind in self.recipe.pictures or kind in o.pictures]
        wanted = [kind for kind in wanted if kind not in show.on_the_way(o.sampler)]
        if not wanted:
            return
        places = {kind: self._file({"gif": "denoising"}.get(kind, kind), ".gif" if kind == "gif" else ".png") for kind in wanted}
        images, captions = show.show(self.model, self.recipe.shown(self.model, o.steps, o.sampler), self.samples, places,
                                     seed=o.seed, batch_size=o.sample_batch,
                                     title=": ".join(filter(None, (self.recipe.name, self.label))) + "\n")
        self.values["samples"] = {"n": len(images), "metric": self.measure(images)}
        self.made += [(places[kind].name, caption.replace("\n", ": ")) for kind, caption in captions.items()]

    @property
    def config(self) -> dict[str, Any]:
        """What decides the result, plain JSON types."""
        o, p = self.options, self.recipe.preset
        return {"model": p.model.to_dict(), "diffusion": p.diffusion.to_dict(), "dataset": self.dataset.sha256,
                "optim": shortened(p.optim, self.steps, self.recipe.steps, o.lr).to_dict(), "provenance": self.dataset.provenance,
                "steps": self.steps, "batch_size": self.batch_size, "samples": self.samples, "seed": o.seed, "seeds": o.seeds,
                "backend": o.backend, "device": o.device, "dtype": o.dtype, "mode": o.mode, "sampling_steps": o.steps,
                "weights": None if o.weights is None else Path(o.weights).name, **({"sampler": o.sampler} if o.sampler else {})}

    def row(self) -> AnyRow:
        """Append the row of this run, and drop its training states, which are not needed any more."""
        config = self.config if self.options.weights is None else self.config | {
            "model": self.model.spec.model.to_dict(), "diffusion": self.model.spec.diffusion.to_dict(),
            "optim": None, "steps": None, "batch_size": None}
        values = {**self.values, "pictures": [list(pair) for pair in self.made], "notes": self.notes, "command": self.command}
        row = stamped("recipe", self.options.backend, self.recipe.name, config | {"weights_sha256": self.weights}, values)
        rows.append(self.options.out / "rows", row)
        for states in self.options.out.glob(f"work/recipe-{self.recipe.name}-{self._key}*/states"):
            shutil.rmtree(states, ignore_errors=True)
        return row

    @property
    def _key(self) -> str:
        return hashlib.sha256(json.dumps(self.config, sort_keys=True).encode()).hexdigest()[:12]

    def _work(self, tag: str, seed: int) -> Path:
        name = "-".join(["recipe", self.recipe.name, self._key, *re.findall(r"\w+", tag), str(seed)])
        return self.options.out / "work" / name

    def _file(self, stem: str, suffix: str) -> Path:
        backend = "" if self.options.backend == self.recipe.backend else self.options.backend
        weights = "" if self.options.weights is None else Path(self.options.weights).name
        return self.gallery / ("-".join(filter(None, (self.recipe.name, backend, weights, self.options.sampler, stem))) + suffix)

    @cached_property
    def _data(self) -> tuple[Dataset, Dataset]:
        o, name, (channels, *size) = self.options, self.recipe.preset.dataset, self.shape
        if channels == 3 and o.data.name in ("mnist", "fashion-mnist"):  # stand-ins for photographs
            train, test = (_as_colour(grey) for grey in o.data.both(name, (1, size[0], size[1])))
            return train, test
        return o.data.both(name, self.shape)


def _as_colour(grey: Dataset) -> Dataset:
    images = np.repeat(grey.images, 3, axis=1)
    return replace(grey, images=images, provenance=f"{grey.provenance}, grey as RGB",
                   sha256=hashlib.sha256(images.tobytes()).hexdigest())
