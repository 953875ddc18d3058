"""The study of FID's noise: parts are what they are said to be, the spread and the bias are found where they are known."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.cli.main import main
from bench.data import datasets, pixels
from bench.metric import fid, fmnist_cnn
from bench.metric.resampling import resampled
from bench.records import rows
from bench.report import noise_page
from bench.report.measures import stale
from bench.studies import noise
from bench.weights import pipeline
from bench.weights.tensor_files import weights_hash
from reference.config import DiffusionConfig
from reference.weights import initialise
from tests.helpers.tiny import TINY


@pytest.mark.parametrize("total, n, count, disjoint", [(1000, 300, 3, True), (10_000, 128, noise.PARTS, True),
                                                       (1000, 501, noise.DRAWN, False), (1000, 1000, 1, False)])
def test_parts(total, n, count, disjoint):
    found = noise.parts(total, n, 5)
    assert [len(part) for part in found] == [n] * count and all(len(set(part.tolist())) == n for part in found)
    assert (len(np.unique(np.concatenate(found))) == n * count) == (disjoint or count == 1)
    assert len({part.tobytes() for part in found}) == count
    assert not np.array_equal(found[0], noise.parts(total, n, 6)[0])


def test_sizes_begin_at_two_images_a_feature_and_halves_at_four():
    def sizes(d):
        features = np.random.default_rng(0).normal(size=(300, d))
        found = noise.measure(features, {"mu": np.zeros(d), "sigma": np.eye(d)}, seed=0)
        return [(point["n"], len(point["fid_half"]) > 0) for point in found]

    assert sizes(32) == [(128, True), (256, True), (300, True)]
    assert sizes(64) == [(128, False), (256, True), (300, True)]
    assert sizes(65) == [(256, False), (300, True)]


def gaussian_study(n=4000, d=16, shift=1.0):
    """Features whose distance is known: two Gaussians of unit covariance, `shift` apart in one direction."""
    rng = np.random.default_rng(0)
    mu = np.zeros(d)
    mu[0] = shift
    points = noise.measure(rng.normal(size=(n, d)) + mu, {"mu": np.zeros(d), "sigma": np.eye(d)}, seed=0)
    config = {"study": "noise", "name": "two Gaussians", "images": "drawn", "samples": n, "images_sha256": "0" * 64,
              "extractor": "known", "extractor_sha256": "1" * 64, "reference": "train"}
    cost = {"features_seconds": 1.0, "distances_seconds": 2.0, "peak_rss_bytes": 1 << 30}
    return rows.Row("study", "images", "noise", config, {"points": points, "cost": cost}, {"cpu": "one", "affinity": 2}, "0" * 40)


def test_spread_bias_and_extrapolation_of_known_gaussians():
    """1 in truth, estimated with sd 2 / sqrt(n); the mean adds a bias of d / n, the covariance about d (d + 1) / (4 n)."""
    row = gaussian_study()
    frame = noise_page.table(row).set_index("n")
    assert frame.index.tolist() == [128, 256, 512, 1024, 2048, 4000]
    assert frame["parts"].tolist() == [31, 15, 7, 3, 16, 1] and frame["disjoint"].tolist() == [True] * 4 + [False] * 2
    for n in (128, 256, 512):
        assert frame["fid"][n] - 1 == pytest.approx(16 * 17 / (4 * n) + 16 / n, rel=0.25)
        if n < 512:
            assert frame["fid_sd"][n] == pytest.approx(2 / n**0.5, rel=0.5)
        assert abs(frame["inf"][n] - 1) < abs(frame["fid"][n] - 1) / 3
    assert frame["fid_sd"][4000] == pytest.approx(2 / 4000**0.5, rel=0.25)  # by the bootstrap, for there is but one part
    assert frame["fid_sd"].isna().tolist() == [False, False, True, True, False, False], "7 and 3 parts tell no spread"
    assert frame["inf_sd"].isna().tolist() == [False, False, True, True, False, True]
    assert frame["fid_sd"][2048] == pytest.approx(2 / 2048**0.5, rel=0.6)  # of overlapping parts, corrected
    assert frame["fid"][4000] == row.values["points"][-1]["fid"][0]


def test_report_says_which_differences_mean_something():
    row = gaussian_study()
    text, frame = noise_page.render([row], "the command", Path("nowhere")), noise_page.table(row)
    by_n = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()
            if line.startswith("| ")}
    sd = frame.set_index("n")["fid_sd"]
    assert by_n["256"][:5] == ["256", "15", f"{frame['fid'][1]:.3g}", f"{sd[256]:.3g}", f"{2.14479 * 2**0.5 * sd[256]:.3g}"]
    assert by_n["512"][:5] == ["512", "7", f"{frame['fid'][2]:.3g}", "", ""]
    assert by_n["4,000"][3:5] == [f"{sd[4000]:.3g}", f"{1.97196 * 2**0.5 * sd[4000]:.3g}"]


def test_rows_from_before_the_bootstrap_have_no_spread_of_the_whole_set():
    row = gaussian_study()
    del row.values["points"][-1]["resampled"]
    assert np.isnan(noise_page.table(row)["fid_sd"].iloc[-1]) and "| 4,000 |" in noise_page.render([row], "c", Path("nowhere"))


def test_report_marks_overlapping_parts():
    row = gaussian_study()
    text = noise_page.render([row], "the command", Path("nowhere"))
    assert "| 2,048 | 16* |" in re.sub(" +", " ", text) and "the command" in text and "extractor known, sha256 1111" in text


def test_the_last_study_of_every_name_counts():
    row = gaussian_study()
    old, other = (replace(row, created=f"2026-01-0{day}T00:00:00+00:00", config=row.config | more)
                  for day, more in ((1, {}), (2, {"name": "other"})))
    neighbour = replace(row, config={"study": "neighbours", "name": "two Gaussians"})
    assert noise_page.newest([row, old, other, neighbour]) == [row, other]


def test_command_keeps_rows_and_renders_them(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "load", lambda name, split, *_, **__: datasets.load_subset(name, split))
    test = datasets.load_subset("fashion-mnist", "test").images
    given, drew = datasets.load_subset("fashion-mnist", "train").images[::16], weights_hash(initialise(TINY, 0))
    np.savez(tmp_path / "mine.npz", images=given, weights=np.frombuffer(drew.encode(), np.uint8))
    assert main(["study", "noise", "--images", f"mine, S = 5={tmp_path / 'mine.npz'}", "--seed", "4", "--out", str(tmp_path)]) == 0
    found = rows.read(tmp_path / "rows")
    assert [row.config["name"] for row in found] == ["held-out images", "mine, S = 5"]
    assert [row.config["images"] for row in found] == ["fashion-mnist shipped subset test (2000)", "mine.npz"]
    assert [row.config["images_sha256"] for row in found] == [hashlib.sha256(x.tobytes()).hexdigest() for x in (test, given)]
    assert [row.config.get("weights") for row in found] == [None, drew]
    assert [point["n"] for point in found[-1].values["points"]] == [128, 250]
    mine, target = fid.features(given), fmnist_cnn.stored_statistics("train")
    some, points = noise.parts(250, 128, 4)[0], found[-1].values["points"]
    assert points[0]["fid"][0] == pytest.approx(fid.distance(fid.statistics(mine[some]), target), rel=1e-9)
    assert points[-1]["resampled"][:3] == pytest.approx(resampled(mine, target, 4, 3), rel=1e-9)
    assert [row.config["seed"] for row in found] == [4, 4]
    whole = found[-2].values["points"][-1]
    assert whole["fid"][0] == pytest.approx(fid.evaluate(test)["fid"], rel=1e-9) and len(whole["fid_half"]) == 1
    assert all(value > 0 for value in found[-1].values["cost"].values())
    text = (tmp_path / "noise.md").read_text()
    assert text.count("\n## ") == 2 and (tmp_path / "figures" / "noise.png").stat().st_size > 10_000
    json.dumps([row.values for row in found])


def test_a_page_says_when_the_weights_that_drew_its_images_are_no_more(tmp_path):
    """The digest comes from the file that `ddim-bench sample` writes, or from the cell beside the images; older rows have none."""
    old, new = (initialise(replace(TINY, sample_size=28), seed) for seed in (0, 1))
    drew = weights_hash(old)
    np.savez(tmp_path / "a.npz", images=np.zeros((1, 1, 2, 2), np.uint8), weights=np.frombuffer(drew.encode(), np.uint8))
    assert pixels.drawn_by(tmp_path / "a.npz") == {"weights": drew}
    assert pixels.drawn_by(tmp_path / "images.npy") == pixels.drawn_by(tmp_path / "absent.npz") == {}
    (tmp_path / "result.json").write_text(json.dumps({"config": {"weights": drew}}))
    assert pixels.drawn_by(tmp_path / "images.npy") == {"weights": drew}
    (tmp_path / "result.json").write_text('{"config": {"weights": "<b>"}}')
    assert pixels.drawn_by(tmp_path / "images.npy") == pixels.drawn_by(tmp_path / "other.npy") == {}

    row = gaussian_study()
    row = replace(row, config={**row.config, "name": "net, S = 5", "weights": drew})
    assert stale(row, tmp_path) == ""  # no such checkpoint is there
    changed = f"Stale: drawn by weights {drew}; those in checkpoints/net are {weights_hash(new)} now."
    for weights, said in ((old, ""), (new, changed)):
        pipeline.save_pipeline(tmp_path / "checkpoints" / "net", weights, replace(TINY, sample_size=28), DiffusionConfig())
        assert stale(row, tmp_path) == said and ("Stale" in noise_page.render([row], "c", tmp_path)) == bool(said)
    unsaid = replace(row, config={name: value for name, value in row.config.items() if name != "weights"})
    assert "Stale" not in noise_page.render([unsaid], "c", tmp_path)


@pytest.mark.parametrize("images, message", [("mine", "must be NAME=FILE.npy"), ("mine=absent.npy", "can't be read"),
                                             ("mine=few.npy", "few.npy, 127 images.*must be at least 128"),
                                             ("held-out images=few.npy", "every name once")])
def test_mistakes_are_one_line(tmp_path, capsys, monkeypatch, images, message):
    monkeypatch.chdir(tmp_path)
    np.save("few.npy", datasets.load_subset("fashion-mnist", "test").images[:127])
    monkeypatch.setattr(datasets, "load", lambda name, split, *_, **__: datasets.load_subset(name, split))
    assert main(["study", "noise", "--images", images, "--out", "out"]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1 and not Path("out").exists()
