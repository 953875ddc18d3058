"""The study of training settings: each variant changes what it names, is trained once, and is measured on its own samples."""

import re
from dataclasses import asdict, replace

import numpy as np
import pytest

from bench import presets
from bench.cli.main import main
from bench.data import datasets, pixels
from bench.metric import fid, fmnist_cnn
from bench.presets import Preset, get_preset
from bench.records import rows
from bench.records.values import Ablation
from bench.report import ablation_page
from bench.studies import ablation
from reference.config import DiffusionConfig, OptimConfig
from tests.helpers.tiny import TINY

PRESET = Preset("tiny", replace(TINY, sample_size=28), None, DiffusionConfig(timesteps=20), OptimConfig(lr=1e-3, warmup_steps=2),
                batch_size=4)
SHORT = ["--preset", "tiny", "--images", "16", "--samples", "256", "--steps", "2"]


@pytest.fixture
def tiny(monkeypatch):
    subset = datasets.load_subset("fashion-mnist", "train")
    monkeypatch.setitem(presets.PRESETS, "tiny", PRESET)
    monkeypatch.setattr(datasets, "load", lambda *_, **__: replace(subset, images=subset.images[:100]))


@pytest.mark.parametrize("name", ablation.VARIANTS)
def test_a_variant_changes_what_it_names(name):
    preset = get_preset("quick")
    variant = ablation.VARIANTS[name]
    before, after = ({f"{room}.{key}": value for room in ("model", "diffusion", "optim") for key, value in asdict(p)[room].items()}
                     | {"batch_size": p.batch_size} for p in (preset, variant.change(preset)))
    changed = [key for key in before if before[key] != after[key]]
    changed += [key for key in ("longer", "seed", "flip") if getattr(variant, key) != getattr(ablation.Variant(), key)]
    assert len(changed) == (name != ablation_page.AS_IS) + name.count(" + "), changed


def test_the_page_knows_the_order_of_all_variants():
    assert tuple(ablation.VARIANTS) == ablation_page.ORDER


def test_each_variant_is_trained_once_and_measured(tiny, tmp_path, monkeypatch, capsys):
    again = [*SHORT, "--only", "as it is", "--only", "flips", "--only", "twice as long", "--out", str(tmp_path)]
    assert main(["study", "ablation", *again]) == 0
    found = {row.config["variant"]: row for row in rows.read(tmp_path / "rows")}
    assert [*found] == ["as it is", "flips", "twice as long"]
    assert [row.config["optim"]["total_steps"] for row in found.values()] == [4, 4, 8]
    assert [row.config["flip"] for row in found.values()] == [False, True, False]
    assert found["as it is"].values["losses_mean_of_last"] != found["flips"].values["losses_mean_of_last"]
    text = (tmp_path / "ablation.md").read_text()
    assert "one training seed" in text and all(re.search(rf"\| {name} +\| {n} ", text) for name, n in (
        ("as it is", 16), ("flips", 16), ("twice as long", 32)))
    monkeypatch.setattr(ablation.api, "new", lambda *_, **__: pytest.fail("a variant that has its row was trained again"))
    assert main(["study", "ablation", *again]) == 0 and len(rows.read(tmp_path / "rows")) == 3


def test_figures_are_those_of_the_trained_network(tiny, tmp_path):
    """The same training and sampling by the library's own functions."""
    assert main(["study", "ablation", *SHORT, "--only", "as it is, second seed", "--out", str(tmp_path)]) == 0
    [row] = rows.read(tmp_path / "rows")
    model = ablation.api.new(PRESET.model, PRESET.diffusion, replace(PRESET.optim, total_steps=4), seed=1)
    fit = model.train(datasets.load().images, 4, batch_size=4, seed=1)
    images = pixels.to_uint8(model.sample(256, steps=2))
    expected = fid.compare(fid.features(images), fmnist_cnn.stored_statistics("train"), fid.subset_features(), 0)
    assert {name: row.values[name] for name in expected} == pytest.approx(dict(expected), rel=1e-9)
    assert row.values["losses_mean_of_last"] == pytest.approx(np.mean(fit.losses), rel=1e-12)


def test_the_spread_between_seeds_is_stated(tiny, tmp_path):
    assert main(["study", "ablation", *SHORT, "--only", "as it is", "--out", str(tmp_path)]) == 0
    [row] = rows.read(tmp_path / "rows")
    for name, value in (("as it is, second seed", 4.0), ("as it is", 1.0), ("flips", 100.0)):  # the newest row counts
        rows.append(tmp_path / "rows", replace(row, created="2999-01-01T00:00:00+00:00", config=row.config | {"variant": name},
                                               values=row.values | {"fid": value}))
    studies = rows.studies(rows.read(tmp_path / "rows"), Ablation)
    told = ablation_page.render(studies, "python")
    assert "over the 2 training seeds of the preset as it is: mean 2.5, standard deviation 2.1;" in told
    assert ablation_page.table(studies)["fid"].tolist() == [1, 4, 100]


@pytest.mark.parametrize("arguments, message", [
    (["--only", "magic"], "--only='magic': must be one of as it is, "),
    (["--samples", "255"], "--samples=255: must be at least 256"),
    (["--images", "8"], "--images=8: must be above 8, the warm-up of 'as it is'"),
    (["--preset", "none"], "--preset='none': must be one of"),
])
def test_mistakes_are_one_line(tiny, tmp_path, capsys, arguments, message):
    assert main(["study", "ablation", *SHORT, *arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "out").exists()
