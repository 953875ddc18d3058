"""The studies of x_T: what they measure is right, cells are found again, pages say what was found and come back from rows."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from backends.protocol import Spec
from bench import api, oracle, streams
from bench.cli.main import main
from bench.data.pixels import to_float, to_uint8
from bench.metric import fid
from bench.records import rows
from bench.records.values import Interpolation, RoundTrip, SameNoise
from bench.report.studies import image_claims, round_trip_page, same_noise_page
from bench.report.studies.image_claims import Claim
from bench.studies import latents
from bench.weights import pipeline
from reference import samplers
from reference.config import DiffusionConfig
from reference.conventions import make_encode_plan, make_plan
from reference.diffusion import slerp
from reference.weights import initialise
from tests.helpers import made_rows
from tests.helpers.tiny import TINY

PROCESS = DiffusionConfig(timesteps=12, beta_end=0.5)
SIZE = replace(TINY, sample_size=28)
SEED = 5  # not the one that is taken where none is given
IMAGES = np.random.default_rng(0).integers(0, 256, (60, 1, 28, 28), np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("torch")
    place = tmp_path_factory.mktemp("latents")
    for name, model in (("tiny", SIZE), ("smaller", TINY)):
        pipeline.save_pipeline(place / name, initialise(model, 0), model, PROCESS)
    np.save(place / "own.npy", IMAGES)
    return place


def give(folder, study, *words, weights="tiny"):
    samples = "6" if study == "round-trip" else "7"  # the last of which has no partner
    return main(["study", study, "--weights", str(folder / weights), "--samples", samples, "--sample-batch", "4", "--seed",
                 str(SEED), "--out", str(folder / "out"), *words,
                 *(("--data", str(folder / "own.npy")) if study == "round-trip" else ())])


def again(folder, study, page, record):
    """The same command computes nothing, and `report` writes the same page from rows."""
    found, text = rows.read(folder / "out" / "rows"), page.read_text()
    assert give(folder, study, "--steps", "3,6") == 0
    assert len(rows.of(rows.read(folder / "out" / "rows"), record)) == len(rows.of(found, record))
    page.write_text(text)
    assert main(["report", "--out", str(folder / "out")]) == 0
    assert page.read_text() == text


def test_round_trips_are_those_of_the_oracle(folder, capsys):
    assert give(folder, "round-trip", "--steps", "3,6") == 0
    found = {row.config["steps"]: row.values for row in rows.of(rows.read(folder / "out" / "rows"), RoundTrip)}
    assert set(found) == {3, 6} and {len(v["error"][eta]) for v in found.values() for eta in ("0.0", "1.0")} == {6}
    network = oracle.oracle_network(initialise(SIZE, 0), Spec(SIZE, PROCESS))
    from bench.data import datasets
    _, held_out = datasets.Choice(None, folder / "own.npy", False, False).both("fashion-mnist", (1, 28, 28))
    x0 = to_float(held_out.images[:6]).astype(np.float64)
    noise = lambda i: streams.normal(SEED, "z", np.arange(6), (1, 28, 28), step=i)  # noqa: E731
    for S, values in found.items():
        latents = samplers.sample(network, x0, make_encode_plan(PROCESS, S))
        for eta in (0.0, 1.0):
            back = samplers.sample(network, latents, make_plan(PROCESS, S, eta=eta),
                                   noise)
            expected = (((back - x0) / 2) ** 2).mean((1, 2, 3))
            np.testing.assert_allclose(values["error"][str(eta)], expected, rtol=1e-3)
    page = folder / "out" / "round-trip.md"
    assert "## tiny" in page.read_text() and "n = 6 images" in page.read_text()
    assert (folder / "out" / "figures" / "round-trip.png").stat().st_size > 10_000
    again(folder, "round-trip", page, RoundTrip)
    capsys.readouterr()


def test_images_of_the_same_noise(folder, capsys, monkeypatch):
    drawn, save = [], latents.grids.save_grid
    monkeypatch.setattr(latents, "SHOWN", 5)
    monkeypatch.setattr(latents.grids, "save_grid", lambda *given, **how: drawn.append((given, how)) or save(*given, **how))
    assert give(folder, "same-noise", "--steps", "3,6") == 0
    [((_, shown, columns), how)] = drawn
    assert columns == 5 and how["rows"] == [*(f"eta = 0, S = {S}" for S in (3, 6, 12)), "eta = 1, S = 12"]
    model = api.load(folder / "tiny")
    for line, (S, eta) in zip(shown.reshape(4, 5, 1, 28, 28), ((3, 0), (6, 0), (12, 0), (12, 1)), strict=True):
        expected = to_uint8(model.sample(7, steps=S, eta=eta, seed=SEED))[:5]
        assert np.abs(line.astype(int) - expected).max() <= 1, (S, eta)
    every = rows.read(folder / "out" / "rows")
    found = {row.config["steps"]: row.values for row in rows.of(every, SameNoise)}
    assert set(found) == {3, 6, 12} and {v["reference_steps"] for v in found.values()} == {12}
    own = found[12]["distance"]["0.0"]
    assert own["own"] == [0] * 7 and own["found"] == 1 and min(own["others"]) > 0
    assert min(found[3]["distance"]["0.0"]["own"]) > 0 < min(found[12]["distance"]["1.0"]["own"])
    [way] = rows.of(every, Interpolation)
    assert way.values["n"] == 3 and len(way.values["distance"]["0.0"]["ends"]) == 3 and way.config["steps"] == 12
    by_hand(found[3]["distance"]["0.0"], way.values["distance"]["0.0"])
    page = folder / "out" / "same-noise.md"
    assert (folder / "out" / "figures" / "same-noise-tiny.png").exists() and "(figures/same-noise-tiny.png)" in page.read_text()
    again(folder, "same-noise", page, SameNoise)
    capsys.readouterr()


def by_hand(apart, way):
    """Both studies' figures at eta = 0, of the oracle's images: float32 moves a few of them by one grey."""
    network, x = oracle.oracle_network(initialise(SIZE, 0), Spec(SIZE, PROCESS)), streams.normal(SEED, "x_T", range(7), (1, 28, 28))

    def features(x, steps):
        return fid.features(to_uint8(samplers.sample(network, np.asarray(x, np.float64), make_plan(PROCESS, steps)))).astype(float)

    few, whole = features(x, 3), features(x, 12)
    each = np.array([[np.linalg.norm(a - b) for b in whole] for a in few])
    np.testing.assert_allclose(apart["own"], np.diag(each), rtol=0.02)
    np.testing.assert_allclose(apart["others"], [(line.sum() - line[i]) / 6 for i, line in enumerate(each)], rtol=0.02)
    assert apart["found"] == np.mean(each.argmin(1) == np.arange(7))
    between = features([slerp(x[2], x[3], share / 10) for share in range(11)], 12)  # the second pair
    assert way["ends"][1] == pytest.approx(np.linalg.norm(between[-1] - between[0]), rel=0.02)
    assert way["largest"][1] == pytest.approx(max(np.linalg.norm(b - a) for a, b in pairwise(between)), rel=0.05)


def test_an_image_looks_for_its_own_among_all_references():
    """Both images are nearest to reference 0, and both references to image 1."""
    assert latents.own_nearest(np.array([[1.0, 2], [0, 3]])) == 0.5


def test_a_cell_is_named_by_all_that_decides_its_images():
    """Another value of any of these is another cell; the weights are the averaged ones, which draw."""
    def key(steps=3, study="round trip", backend="torch", mean=0.0, spec=Spec(SIZE, PROCESS), **asked):  # noqa: B008
        network = SimpleNamespace(weights=lambda ema: {"w": np.full(2, mean if ema else 9.0)})
        model = SimpleNamespace(name=backend, spec=spec, backend=network)
        settings = latents.Settings(**{"name": "net", "samples": 6, "seed": 0, "batch_size": 4} | asked)
        return latents.Study(settings, model, None).key(study, steps)

    changes = [{}, {"steps": 4}, {"study": "same noise"}, {"backend": "jax"}, {"mean": 1.0}, {"name": "other"}, {"samples": 7},
               {"seed": 1}, {"batch_size": 5}, *({"spec": replace(Spec(SIZE, PROCESS), **part)} for part in (
                   {"model": TINY}, {"diffusion": replace(PROCESS, beta_end=0.4)}, {"device": "cuda"}, {"dtype": "bfloat16"}))]
    assert len({json.dumps(key(**change), sort_keys=True) for change in changes}) == len(changes)


@pytest.mark.parametrize("field", ["weights", "samples", "seed", "dtype", "device", "images_sha256", "extractor_sha256", "backend"])
def test_rows_that_differ_in_this_do_not_stand_beside_the_newest(field):
    def newer(row):
        changes = {"backend": "jax"} if field == "backend" else {"config": row.config | {field: "other"}}
        return replace(row, created="2100-01-01T00:00:00+00:00", **changes)

    three = {"0.0": [1.0, 1.1, 1.2], "1.0": [3.0, 3.1, 3.2]}
    if field != "extractor_sha256":  # errors are of pixels
        [found] = round_trip_page.newest([made_rows.round_trip(three, steps=20), newer(made_rows.round_trip(three))]).values()
        assert [row.config["steps"] for row in found] == [10]
    if field != "images_sha256":  # nothing is encoded
        [(found, way)] = same_noise_page.newest([made_rows.same_noise(three, steps=20), made_rows.interpolation(three),
                                                 newer(made_rows.same_noise(three))]).values()
        assert [row.config["steps"] for row in found] == [10] and way is None


@pytest.mark.parametrize(("study", "words", "said"), [
    ("round-trip", ["--samples", "1"], "--samples=1: must be at least 2"),
    ("round-trip", ["--steps", "3", "--samples", "99"], "--samples=99: must be at most the 30 images of"),
    ("round-trip", ["--steps", "13"], "--steps='13': must be at most the network's 12 timesteps"),
    ("same-noise", ["--steps", "3,3"], "--steps='3,3': every step count must appear once"),
])
def test_what_cannot_be_measured(folder, study, words, said, capsys):
    assert give(folder, study, *words) == 2
    assert said in capsys.readouterr().err


def test_likeness_is_of_the_images_that_the_extractor_knows(folder, capsys):
    assert give(folder, "same-noise", "--steps", "3", weights="smaller") == 2
    assert "draws images of shape (1, 8, 8), and likeness is measured in features of fmnist-cnn" in capsys.readouterr().err


def test_verdicts_follow_the_images():
    """Reproduced, contradicted and neither, by values whose answer is known."""
    below, above = np.array([-1.0, -1.2, -0.9, -1.1]), np.array([1.0, 1.2, 0.9, 1.1])
    neither = np.array([-1.0, 1.1, -0.9, 1.0])
    assert Claim("", {"a": below}).verdict == "reproduced" == Claim("", {"a": below, "b": below}).verdict
    assert Claim("", {"a": below, "b": above}).verdict == "contradicted"
    assert Claim("", {"a": below, "b": neither}).verdict == "cannot tell"
    frame = image_claims.detail([Claim("c", {"a": below, "b": neither})])
    assert list(frame["verdict"]) == ["reproduced", "cannot tell"] and frame["mean"][0] == "-1.05 ± 0.21"
    assert frame["told in 80%"][0] == "0.27"  # (3.182 + 0.978) standard errors of 0.0645
    assert image_claims.summary([Claim("c", {"a": below, "b": neither})])["comparisons"][0] == "1 of 2"


def test_pages_take_what_compares():
    """Of a network that was trained again, the rows of the new weights alone; claims go from each S to the next."""
    def error(S, mean, weights="w"):
        trip = [mean + d for d in (-0.001, 0, 0.001)]
        return made_rows.round_trip({"0.0": trip, "1.0": [1 + x for x in trip]}, steps=S, weights=weights)

    found = [error(50, 0.9, "old"), error(20, 0.05), error(10, 0.1), error(100, 0.2)]
    [rows_of] = round_trip_page.newest(found).values()
    assert [row.config["steps"] for row in rows_of] == [10, 20, 100]
    falls, ddpm = round_trip_page.claims(rows_of)
    assert list(falls.values) == ["error at S = 20 less that at S = 10", "error at S = 100 less that at S = 20"]
    assert falls.verdict == "contradicted" and ddpm.verdict == "reproduced"

    near, far = {"0.0": [1.0, 1.1, 1.2], "1.0": [4.0, 4.1, 4.4]}, {"0.0": [3.9, 4.0, 4.1], "1.0": [4.1, 4.1, 4.1]}
    way = made_rows.interpolation({"0.0": [0.5, 0.6, 0.7], "1.0": [0.5, 0.6, 0.9]})
    network = same_noise_page.newest([made_rows.same_noise(near, steps=20), made_rows.same_noise(far, steps=10), way])["net"]
    assert [claim.verdict for claim in same_noise_page.claims(network)] == [
        "contradicted", "reproduced", "cannot tell", "reproduced", "cannot tell"]
