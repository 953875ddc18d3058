"""What a change of the training is worth: `ddim-bench study ablation --only "cosine schedule"`.

Every variant changes one setting of a preset, or two where that is named `A + B`. Each is trained for the same number of images,
several times: seed k has the same initial weights and batches in every variant. All sample with DDIM from the same x_T, and are
measured against the same statistics. A training is a row of kind "study"; one that has its row is not done again, one that was
interrupted goes on from its last state. `ablation.md` compares every variant with the preset as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backends.protocol import Spec
from bench import api, files
from bench.data import datasets, pixels
from bench.metric import fid, fmnist_cnn
from bench.paths import printable
from bench.presets import Preset, get_preset
from bench.progress import tracked
from bench.records import rows
from bench.records.notebook import stamped
from bench.records.rows import AnyRow
from bench.records.values import Ablation
from bench.report import ablation_page
from bench.report.ablation_page import AS_IS, LAST, STUDY
from bench.timing.memory import require_room
from bench.training import MOST_STEPS
from reference.config import require


@dataclass(frozen=True)
class Variant:
    """What differs from the preset as it is."""

    change: Callable[[Preset], Preset] = lambda preset: preset
    longer: float = 1.0  # factor on the number of training images
    flip: bool = False


def _with(room: str, **changes: Any) -> Callable[[Preset], Preset]:
    """Changes of `preset.model`, `.diffusion` or `.optim`."""
    return lambda preset: replace(preset, **{room: replace(getattr(preset, room), **changes)})


def _rate(factor: float) -> Callable[[Preset], Preset]:
    return lambda preset: _with("optim", lr=factor * preset.optim.lr)(preset)


def _batch(factor: float, change: Callable[[Preset], Preset] = Variant.change) -> Callable[[Preset], Preset]:
    return lambda preset: replace(change(preset), batch_size=int(factor * preset.batch_size))


VARIANTS = {
    AS_IS: Variant(),
    "cosine schedule": Variant(_with("diffusion", schedule="cosine")),
    "v prediction": Variant(_with("diffusion", objective="v")),
    "min-SNR weighting": Variant(_with("diffusion", loss_weight="min_snr")),
    "v prediction + cosine schedule": Variant(_with("diffusion", objective="v", schedule="cosine")),
    "v prediction + batch x 0.5": Variant(_batch(0.5, _with("diffusion", objective="v"))),
    "batch x 2": Variant(_batch(2)),
    "learning rate x 0.3": Variant(_rate(0.3)),
    "learning rate x 3": Variant(_rate(3)),
    "EMA 0.99": Variant(_with("optim", ema_decay=0.99)),
    "dropout 0.1": Variant(_with("model", dropout=0.1)),
    "flips": Variant(flip=True),
    "half as long": Variant(longer=0.5),
    "twice as long": Variant(longer=2),
}


@dataclass(frozen=True)
class Settings:
    """What all variants of a study have in common."""

    preset: str
    images: int  # of training, for each variant
    samples: int
    steps: int  # S of DDIM
    backend: str
    device: str
    dtype: str
    seed: int  # of the first training; further ones have the next numbers
    seeds: tuple[int, int]  # trainings of the preset as it is, and of each variant


def measure(name: str, k: int, asked: Settings, dataset: datasets.Dataset, out: Path) -> AnyRow | None:
    """Train one variant with its seed number k, sample from it and measure; its row, or None where there is one of the same
    settings."""
    variant = VARIANTS[name]
    preset = variant.change(get_preset(asked.preset))
    steps = round(asked.images * variant.longer / preset.batch_size)
    require(steps > preset.optim.warmup_steps, "--images", asked.images,
            f"must be above {preset.optim.warmup_steps * preset.batch_size / variant.longer:.0f}, the warm-up of {name!r}")
    preset = replace(preset, optim=replace(preset.optim, total_steps=steps))
    by, seed = fmnist_cnn.extractor(), asked.seed + k
    config = {
        "study": STUDY, "variant": name, "images": asked.images,
        "model": preset.model.to_dict(), "diffusion": preset.diffusion.to_dict(),
        "optim": preset.optim.to_dict(), "batch_size": preset.batch_size, "flip": variant.flip, "seed": seed, "dtype": asked.dtype,
        "dataset": dataset.provenance, "dataset_sha256": dataset.sha256, "samples": asked.samples, "sampling_steps": asked.steps,
        "eta": "0.0", "sample_seed": asked.seed, "reference": fid.DEFAULT_REFERENCE, "extractor": by.name,
        "extractor_sha256": by.sha256,
    }
    if any(row.backend == asked.backend and row.config == config for row in rows.studies(rows.read(out / "rows"), Ablation)):
        return None
    model = api.new(preset.model, preset.diffusion, preset.optim, asked.backend, seed=seed, device=asked.device, dtype=asked.dtype)
    folder = out / "work" / f"ablation-{asked.backend}-{asked.preset}-{name.replace(' ', '-')}-seed-{seed}"
    with tracked(total=steps, desc=f"train {name}, seed {seed}", mininterval=2) as bar:
        fit = model.train(dataset.images, steps, batch_size=preset.batch_size, seed=seed, flip=variant.flip, states=folder,
                          config={"dataset": dataset.sha256}, on_step=lambda n, _: bar.update(n - bar.n))
    images = model.follow(model.noise(asked.samples, asked.seed), model.plan(asked.steps), seed=asked.seed,
                          progress=f"sample {name}")
    values = {**fid.evaluate(pixels.to_uint8(images), seed=asked.seed), "last": min(LAST, steps),
              "losses_mean_of_last": float(fit.losses[-LAST:].mean()), "train_seconds": fit.seconds + fit.first_seconds,
              "starts": fit.starts}
    return stamped("study", asked.backend, asked.preset, config, values)


def run(asked: Settings, only: Sequence[str], data: datasets.Choice, out: Path, command: str) -> None:
    """Measure the variants `only`, by default all, that have no row in `out`/rows yet, and write the page after each. The first
    seed of all comes first, then the second of all.

    Raises ConfigError for an unknown variant, and for too few samples or images.
    """
    require(asked.samples >= 4 * fmnist_cnn.WIDTH, "--samples", asked.samples, f"must be at least {4 * fmnist_cnn.WIDTH}")
    for name in only:
        require(name in VARIANTS, "--only", name, f"must be one of {', '.join(VARIANTS)}")
    require(asked.seed + max(asked.seeds) <= 2**64, "--seed", asked.seed,
            f"must leave room for {max(asked.seeds)} seeds below 2^64")
    preset = get_preset(asked.preset)
    shape = Spec(preset.model, preset.diffusion).image_shape
    require_room("--samples", asked.samples, shape)
    for variant in (VARIANTS[name] for name in only or VARIANTS):
        steps = asked.images * variant.longer / variant.change(preset).batch_size
        require(steps <= MOST_STEPS, "--images", asked.images, f"make {steps:g} steps; at most {MOST_STEPS:,} are done")
    dataset = data.load("fashion-mnist", shape, "train")
    for k in range(max(asked.seeds)):
        for name in only or VARIANTS:
            if k >= asked.seeds[name != AS_IS]:
                continue
            if (row := measure(name, k, asked, dataset, out)) is not None:
                rows.append(out / "rows", row)
            files.write_page(out / "ablation.md", ablation_page.render(ablation_page.studied(rows.read(out / "rows")), command))
    print(f"report: {printable(out / 'ablation.md')}")
