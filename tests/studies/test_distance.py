"""`ddim-bench fid`: the distance of two sets of images in files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.cli.main import main
from bench.data.datasets import load_subset
from bench.metric import fid, fmnist_cnn, inception
from bench.metric.extractor import Extractor
from bench.metric.resampling import resampled
from bench.studies import distance
from reference.config import ConfigError

SEED = 3  # not the one that is taken where none is given


@pytest.fixture(scope="module")
def images():
    return load_subset("fashion-mnist", "test").images[:300]


def said(capsys, *words):
    assert main(["fid", *map(str, words), "--seed", str(SEED)]) == 0
    return capsys.readouterr().out


def test_a_folder_an_array_and_statistics_give_the_metrics_own_value(images, tmp_path, capsys):
    """With an interval around it, and the bias that the halves show."""
    (tmp_path / "a").mkdir()
    for n, image in enumerate(images):
        Image.fromarray(image[0]).save(tmp_path / "a" / f"{n:03}.png")
    other = load_subset("fashion-mnist", "train").images[:400]
    np.save(tmp_path / "b.npy", other)
    stats = fid.statistics(fid.features(other))
    np.savez(tmp_path / "b.npz", **stats)
    expected = fid.evaluate(images, other, seed=SEED)
    spread = 1.96 * np.std(resampled(fid.features(images), stats, SEED), ddof=1)
    both = [said(capsys, tmp_path / "a", tmp_path / name) for name in ("b.npy", "b.npz")]
    for text in both:
        assert f"FID[fmnist-cnn] = {expected['fid']:.3f}, n = 300" in text
        low, high = map(float, re.search(r"interval .*: ([\d.]+) \.\. ([\d.]+)", text).groups())
        assert low < expected["fid"] < high and abs(low + high - 2 * expected["fid"]) < 0.002
        assert (high - low) / 2 == pytest.approx(spread, abs=0.002)
        assert f"of infinitely many images of A about {expected['fid_inf']:.3f}" in text
        assert f"about {expected['fid'] - expected['fid_inf']:+.3f}" in text
    assert f"KID[fmnist-cnn] = {expected['kid']:.5f}" in both[0] and "KID" not in both[1]
    assert "A: 300 images of a, grey 28 x 28" in both[0] and "B: statistics of b.npz" in both[1]


@pytest.mark.parametrize(("n", "known"), [(256, True), (255, False)])
def test_the_bias_is_told_from_four_images_a_feature_on(images, n, known):
    by, ships = fmnist_cnn.extractor(), distance.Side("B", statistics=fmnist_cnn.stored_statistics("train"))
    text = "\n".join(distance.lines(distance.Side("A", images[:n]), ships, by, SEED))
    assert ("of infinitely many" in text, "bias: unknown" in text) == (known, not known)


def test_the_statistics_that_ship_are_a_name(images, tmp_path, capsys):
    np.save(tmp_path / "a.npy", images)
    assert f"= {fid.evaluate(images)['fid']:.3f}, n = 300" in said(capsys, tmp_path / "a.npy", "fashion-mnist")


def test_a_file_that_is_no_array_is_named_by_its_path(tmp_path, capsys):
    """And not by an option of another command."""
    (tmp_path / "a.npy").write_bytes(b"x")
    assert main(["fid", str(tmp_path / "a.npy"), "fashion-mnist"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'a.npy'}: can't be read as a NumPy array: ")


@pytest.mark.parametrize("array, line", [
    (np.zeros((300, 3, 28, 28), np.uint8), "its features are of grey 28 x 28 clothes, and {} holds RGB 28 x 28: --metric inception "
     "measures with the network of papers"),
    (np.zeros((100, 1, 28, 28), np.uint8), "number of images=100: {}: must be at least 128, twice the 64 features of fmnist-cnn; "
     "take more images")])
def test_what_it_can_not_measure_is_one_line(array, line, tmp_path, capsys):
    np.save(tmp_path / "a.npy", array)
    assert main(["fid", str(tmp_path / "a.npy"), "fashion-mnist"]) == 2
    error = capsys.readouterr().err
    assert line.format(tmp_path / "a.npy") in error and error.count("\n") == 1


MEANS = Extractor("means", 2, "ab" * 32, (3, None, None), 50, lambda device: lambda x: x.double().mean((2, 3))[:, :2],
                  inception.convert)  # the means of two colours


def test_a_network_of_any_size_takes_files_as_the_smallest_and_a_folder_goes_before_the_name_of_what_ships(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, sides in (("fashion-mnist", (15, 13, 14, 15)), ("even", (13,) * 4)):
        (tmp_path / name).mkdir()
        for n, side in enumerate(sides):
            Image.fromarray(np.full((side, side, 3), 50 * n, np.uint8)).save(tmp_path / name / f"{n}.png")
    found = [distance.read(Path(name), MEANS) for name in ("fashion-mnist", "even")]
    assert [side.what for side in found] == ["4 images of fashion-mnist, RGB 13 x 13, from files of up to 15",
                                             "4 images of even, RGB 13 x 13"]
    assert found[0].images.shape == (4, 3, 13, 13) and found[0].images[:, 0, 0, 0].tolist() == [0, 50, 100, 150]


def test_the_lines_say_the_bootstraps_interval_and_kids_subsets():
    """Of features in the hundreds, whose digits show every factor."""
    rng = np.random.default_rng(0)
    one, two = rng.integers(0, 256, (40, 3, 2, 2), np.uint8), rng.integers(0, 128, (30, 3, 2, 2), np.uint8)
    text = distance.lines(distance.Side("a", one), distance.Side("b", two), MEANS, SEED)
    found, other = (fid.features(images, extractor=MEANS) for images in (one, two))
    value, target = fid.distance(fid.statistics(found), fid.statistics(other)), fid.statistics(other)
    low, high = map(float, text[3].rpartition(": ")[2].split(" .. "))
    spread = 1.959964 * np.std(resampled(found, target, SEED), ddof=1)
    assert spread > 100 and (low, high) == pytest.approx((value - spread, value + spread), abs=0.01)
    assert text[5:] == [f"KID[means] = {fid.compare(found, target, other, SEED)['kid']:.5f}, in subsets of 30",
                        f"extractor means, sha256 {'ab' * 8}"]


@pytest.mark.parametrize(("mu", "sigma"), [(np.zeros(3), np.eye(2)), (np.zeros(2), np.eye(3)), (np.zeros((2, 1)), np.eye(2)),
                                           (np.array([0, np.nan]), np.eye(2)), (np.zeros(2), np.diag([1, np.inf]))])
def test_statistics_that_are_not_finite_or_of_another_width_are_refused(mu, sigma, tmp_path):
    np.savez(tmp_path / "s.npz", mu=mu, sigma=sigma)
    with pytest.raises(ConfigError, match=r"must be finite, \(2,\) and \(2, 2\), of the 2 features of means"):
        distance.read(tmp_path / "s.npz", MEANS)


def test_statistics_of_another_extractor_are_refused(images, tmp_path, capsys):
    np.save(tmp_path / "a.npy", images)
    np.savez(tmp_path / "b.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    assert main(["fid", str(tmp_path / "a.npy"), str(tmp_path / "b.npz")]) == 2
    assert "must be finite, (64,) and (64, 64), of the 64 features of fmnist-cnn" in capsys.readouterr().err
