"""The study of training settings: each variant changes what it names, is trained once, and is measured on its own samples."""

import re
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from bench import presets
from bench.cli.main import main
from bench.data import datasets, pixels
from bench.metric import fid, fmnist_cnn
from bench.presets import Preset, get_preset
from bench.records import rows
from bench.report import ablation_page
from bench.studies import ablation
from reference.config import DiffusionConfig, OptimConfig
from tests.helpers import made_rows
from tests.helpers.tiny import TINY

PRESET = Preset("tiny", replace(TINY, sample_size=28), None, DiffusionConfig(timesteps=20), OptimConfig(lr=1e-3, warmup_steps=2),
                batch_size=4)
SHORT = ["--preset", "tiny", "--images", "16", "--samples", "256", "--steps", "2", "--seeds", "1"]


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
    changed += [key for key in ("longer", "flip") if getattr(variant, key) != getattr(ablation.Variant(), key)]
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
    file = tmp_path / "rows" / "study.jsonl"
    file.write_text(file.read_text().replace('"backend": "torch"', '"backend": "jax"'))
    with pytest.raises(pytest.fail.Exception, match="trained again"):  # a row of another backend is none of this one's
        main(["study", "ablation", *again])


def test_seeds_come_in_rounds_and_the_preset_as_it_is_has_a_number_of_its_own(tiny, tmp_path, monkeypatch):
    done = []

    def measure(name, k, *_):
        done.append((name, k))
        [row] = trainings({name: [1.0]})
        return replace(row, created="", config=row.config | {"seed": k})  # of now

    monkeypatch.setattr(ablation, "measure", measure)
    words = [*SHORT, "--seeds", "3,2", "--only", "flips", "--only", "as it is", "--out", str(tmp_path)]
    assert main(["study", "ablation", *words]) == 0
    assert done == [("flips", 0), ("as it is", 0), ("flips", 1), ("as it is", 1), ("as it is", 2)]
    assert len(rows.read(tmp_path / "rows")) == 5


def test_the_state_of_a_training_is_its_backends_presets_variants_and_seeds_own(tiny, tmp_path, monkeypatch):
    """So that none goes on from another's."""
    folders = []

    class Asked(Exception):
        pass

    def train(*_, states, **__):
        folders.append(states)
        raise Asked

    monkeypatch.setattr(ablation.api, "new", lambda *_, **__: SimpleNamespace(train=train))
    data = datasets.load("fashion-mnist", "train")
    asked = ablation.Settings("tiny", 16, 256, 2, "torch", "cpu", "float32", 0, (1, 1))
    monkeypatch.setitem(presets.PRESETS, "other", replace(PRESET, name="other"))
    for name, k, settings in (("as it is", 0, asked), ("flips", 0, asked), ("as it is", 1, asked),
                              ("as it is", 0, replace(asked, preset="other")), ("as it is", 0, replace(asked, backend="jax"))):
        with pytest.raises(Asked):
            ablation.measure(name, k, settings, data, tmp_path)
    assert len(set(folders)) == 5


def test_figures_are_those_of_the_trained_network(tiny, tmp_path, monkeypatch):
    """The same training and sampling by the library's own functions; the loss is that of the last three of four steps."""
    monkeypatch.setattr(ablation, "LAST", 3)
    assert main(["study", "ablation", *SHORT, "--only", "as it is", "--seed", "3", "--seeds", "2,1", "--out", str(tmp_path)]) == 0
    first, row = rows.read(tmp_path / "rows")
    assert (first.config["seed"], row.config["seed"]) == (3, 4) and first.values["fid"] != row.values["fid"]
    model = ablation.api.new(PRESET.model, PRESET.diffusion, replace(PRESET.optim, total_steps=4), seed=4)
    fit = model.train(datasets.load().images, 4, batch_size=4, seed=4)
    images = pixels.to_uint8(model.sample(256, steps=2, seed=3))
    expected = fid.compare(fid.features(images), fmnist_cnn.stored_statistics("train"), fid.subset_features(), 3)
    assert {name: row.values[name] for name in expected} == pytest.approx(dict(expected), rel=1e-9)
    assert (row.values["last"], row.values["starts"], row.config["sample_seed"]) == (3, 1, 3)
    assert row.values["losses_mean_of_last"] == pytest.approx(np.mean(fit.losses[1:]), rel=1e-12)


def trainings(fids, **config):
    """Rows of {variant: FID of seeds 0, 1, ..}."""
    row = next(row for row in made_rows.committed() if row.config.get("study") == "ablation")
    each = [(name, seed, fid) for name, those in fids.items() for seed, fid in enumerate(those)]
    return [replace(row, created=f"2030-01-01T00:00:{k:02d}+00:00", config=row.config | {"variant": name, "seed": seed} | config,
                    values=row.values | {"fid": float(fid)}) for k, (name, seed, fid) in enumerate(each)]


def test_the_test_is_students_with_the_degrees_of_freedom_of_the_seeds():
    fids = {"as it is": [100, 104, 98, 103, 99], "flips": [95, 97, 91], "dropout 0.1": [101, 104, 97]}
    frame = ablation_page.table(ablation_page.studied(trainings(fids))).set_index("variant")
    for name in ("flips", "dropout 0.1"):
        expected = stats.ttest_ind(fids[name], fids["as it is"])
        assert frame.loc[name, "p"] == pytest.approx(expected.pvalue) and expected.df == 6
        low, high = expected.confidence_interval()
        assert frame.loc[name, ["difference", "half"]].tolist() == pytest.approx([(low + high) / 2, (high - low) / 2])
    assert frame.loc["flips", "adjusted"] == pytest.approx(2 * frame.loc["flips", "p"])
    assert frame.loc["dropout 0.1", "adjusted"] == pytest.approx(frame.loc["dropout 0.1", "p"])
    page = ablation_page.render(ablation_page.studied(trainings(fids)), "python")
    assert re.search(r"\| flips .* better ", page) and re.search(r"\| dropout 0.1 .* cannot tell ", page)
    assert "from that of the 5 trainings" in page and "100.80 ± 2.6" in page


def test_holm_steps_down():
    """p of 0.01, 0.04, 0.03, 0.005 become 0.03, 0.06, 0.06, 0.02 (Holm 1979)."""
    assert ablation_page.holm(np.array([0.01, 0.04, np.nan, 0.03, 0.005])) == pytest.approx([0.03, 0.06, np.nan, 0.06, 0.02],
                                                                                        nan_ok=True)


def test_a_table_of_equal_variants_has_a_false_alarm_in_5_of_100_and_one_of_another_size_its_power():
    rng, alarms, told = np.random.default_rng(0), 0, 0
    for _ in range(400):
        base, others = rng.standard_normal(5), rng.standard_normal((12, 3))
        compared = [ablation_page._compared(other, base) for other in others]
        alarms += bool((ablation_page.holm(np.array([c["p"] for c in compared])) < 0.05).any())
        size = compared[0]["detectable"]
        told += size > 0
    assert alarms / 400 < 0.08 and told == 400
    errors = [ablation_page._compared(rng.standard_normal(3) + 2.7, rng.standard_normal(5))["p"] < 0.05 for _ in range(1000)]
    typical = np.median([ablation_page._compared(rng.standard_normal(3), rng.standard_normal(5))["detectable"] for _ in range(400)])
    assert np.mean(errors) > 0.8 and typical == pytest.approx(2.4, abs=0.3)


def test_only_trainings_that_compare_stand_on_the_page():
    """Of one length; of a seed the newest; older rows name their seed in the variant."""
    old = trainings({"as it is": [1, 2], "as it is, third seed": [3]}, images=None)
    old[2] = replace(old[2], config=old[2].config | {"seed": 2})
    assert ablation_page.table(ablation_page.studied(old))["seeds"].tolist() == [3]
    new = [replace(row, created=f"2031{row.created[4:]}") for row in trainings({"as it is": [7, 8], "flips": [9]}, images=16)]
    again = replace(new[1], created="2032-01-01T00:00:00+00:00", values=new[1].values | {"fid": 10.0})
    frame = ablation_page.table(ablation_page.studied([*old, *new, again]))
    assert frame["seeds"].tolist() == [2, 1] and frame["fid"].tolist() == [8.5, 9.0]


@pytest.mark.parametrize("field", ["images", "samples", "sampling_steps", "dtype", "dataset", "extractor_sha256", "preset",
                                   "backend"])
def test_trainings_that_differ_in_what_all_share_do_not_compare(field):
    old, [new] = trainings({"as it is": [1, 2], "flips": [3]}), trainings({"flips": [4]})
    changes = {field: "other"} if field in ("preset", "backend") else {"config": new.config | {field: "other"}}
    newest = replace(new, created="2031-01-01T00:00:00+00:00", **changes)
    assert ablation_page.studied([*old, newest]) == [newest] and len(ablation_page.studied(old)) == 3


def test_figures_without_spread_are_told_apart_where_they_differ_and_one_seed_of_each_tells_nothing():
    ones = np.ones(3)
    assert [ablation_page._compared(x, ones)["p"] for x in (ones, ones + 1)] == [1, 0]
    assert ablation_page._compared(ones, ones[:0]) == ablation_page._compared(ones[:1], ones[:1]) == {}
    found = [ablation_page.verdict(*given) for given in ((-1.0, 0.049), (1.0, 0.049), (-1.0, 0.05), (np.nan, np.nan))]
    assert found == ["better", "worse", "cannot tell", ""]


@pytest.mark.parametrize("arguments, message", [
    (["--only", "magic"], "--only='magic': must be one of as it is, "),
    (["--samples", "255"], "--samples=255: must be at least 256"),
    (["--images", "8"], "--images=8: must be above 8, the warm-up of 'as it is'"),
    (["--seeds", "0"], "--seeds='0': must be at least 1"), (["--seeds", "x"], "--seeds='x': must be one or two whole numbers"),
    (["--seeds", "2", "--seed", str(2**64 - 1)], "must leave room for 2 seeds below 2^64"),
    (["--seeds", "1,2", "--seed", str(2**64 - 1)], "must leave room for 2 seeds below 2^64"),
    (["--images", str(4 * 10**9), "--only", "v prediction + batch x 0.5"], "make 2e+09 steps; at most 1,000,000,000 are done"),
    (["--preset", "none"], "--preset='none': must be one of"),
])
def test_mistakes_are_one_line(tiny, tmp_path, capsys, arguments, message):
    assert main(["study", "ablation", *SHORT, *arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "out").exists()
