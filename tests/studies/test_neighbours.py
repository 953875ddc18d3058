"""Neighbours in pixel space: exact, classes and copies found where they were planted, one row and one picture a study."""

import hashlib
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from bench import api
from bench.cli.main import main
from bench.data import datasets, pixels
from bench.records import rows
from bench.studies import neighbours
from bench.weights import pipeline
from bench.weights.tensor_files import weights_hash
from reference.config import ConfigError, DiffusionConfig
from reference.weights import initialise
from tests.helpers.tiny import TINY


def part(split, every):
    whole = datasets.load_subset("fashion-mnist", split)
    return replace(whole, images=whole.images[::every], labels=whole.labels[::every])


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 2, 2), (3, 32, 32)])
def test_neighbours_are_those_of_brute_force(shape, monkeypatch):
    monkeypatch.setattr(neighbours, "ROWS", 20)
    rng = np.random.default_rng(0)
    base, queries = (rng.integers(0, 256, (n, *shape), np.uint8) for n in (60, 45))
    base[7], queries[0], queries[1] = 255, 0, 255  # the largest distance that there is, and none at all
    ids, squared = neighbours.nearest(queries, base, 4)
    exact = ((queries[:, None].astype(np.int64) - base[None]) ** 2).reshape(45, 60, -1).sum(-1)
    np.testing.assert_array_equal(squared, np.sort(exact, axis=1)[:, :4])
    np.testing.assert_array_equal(np.take_along_axis(exact, ids, 1), squared)
    assert ids[1, 0] == 7 and squared[1, 0] == 0
    assert len({*ids[2]}) == 4


def test_exact_where_float32_rounds():
    """Two images that differ by one level of one pixel, at a squared distance beyond 2^24."""
    base = np.full((2, 1, 28, 28), 255, np.uint8)
    base[1, 0, 0, 0] = 254
    ids, squared = neighbours.nearest(np.zeros((1, 1, 28, 28), np.uint8), base, 2)
    assert ids.tolist() == [[1, 0]] and squared.tolist() == [[784 * 255**2 - 509, 784 * 255**2]]


def test_neighbours_refuse_other_shapes_and_too_many():
    images = np.zeros((3, 1, 4, 4), np.uint8)
    with pytest.raises(ConfigError, match=r"queries=\(3, 1, 4, 2\): must be images of shape \(1, 4, 4\)"):
        neighbours.nearest(images[..., :2], images, 1)
    with pytest.raises(ConfigError, match="k=4: must be from 1 to 3"):
        neighbours.nearest(images, images, 4)


def test_the_majority_decides_and_the_nearer_class_where_there_is_none():
    labels = np.array([0, 1, 2, 2, 1], np.uint8)
    assert neighbours.classify(np.array([[0, 2, 3], [1, 4, 2], [0, 1, 2], [2, 0, 1]]), labels).tolist() == [2, 1, 0, 2]
    assert neighbours.classify(np.array([[1, 2, 4, 3]]), labels).tolist() == [1]


def test_classes_of_real_images_are_found():
    train, held_out = part("train", 2), part("test", 4)
    only = replace(held_out, images=held_out.images[held_out.labels == 1])
    found, _ = neighbours.study(only.images, train, held_out)
    assert found["accuracy"] > 0.7 and found["class_shares"][1] > 0.9 and sum(found["class_shares"]) == pytest.approx(1)
    assert min(found["held_out_class_shares"]) > 0.05
    unlabelled, _ = neighbours.study(only.images, replace(train, labels=None), held_out)
    assert unlabelled["accuracy"] is unlabelled["class_shares"] is None and unlabelled["near"] == found["near"]


def test_copies_are_told_from_new_images():
    train, held_out = part("train", 4), part("test", 4)
    others = part("test", 3).images
    copies = train.images[:100].copy()
    copies[:, 0, 3, 3] ^= 8
    fresh, half = (neighbours.study(x, train, held_out)[0] for x in (others, np.concatenate((copies, others[:100]))))
    assert fresh["near"] < 0.03 and fresh["copies"]["samples"] < 0.01
    assert half["near"] == pytest.approx(0.5, abs=0.02) and half["copies"]["samples"] == pytest.approx(0.5, abs=0.02)
    assert half["squared"]["samples"][:100] == [64] * 100 and fresh["copies"]["held_out"] < 0.01


def test_near_and_copied_by_hand():
    """Images of one pixel. Each sample's own nearest two, of 0, 50, 50, 100, 103, 200."""
    def of(*values):
        return replace(train, images=np.array(values, np.uint8).reshape(-1, 1, 1, 1), labels=None)

    train = part("train", 400)
    train, held_out = of(0, 50, 50, 100, 103, 200), of(*[10] * 100)  # every one 10 from the nearest
    samples = of(9, 10, 50, 51, 101, 99)  # nearest two at 9 41, 10 40, 0 0, 1 1, 1 2, 1 4
    found, _ = neighbours.study(samples.images, train, held_out)
    assert found["squared"]["samples"] == [81, 100, 0, 1, 1, 1]
    assert found["near"] == pytest.approx(5 / 6)  # nearer than all: 10 is not nearer than 10
    assert found["copies"] == {"samples": pytest.approx(4 / 6), "held_out": 1.0}  # 9, 10, 50 and 99
    three = of(102)  # 1 and 2 away; of 0 and 3 or of 1 and 3 it is a copy
    assert neighbours.study(three.images, train, held_out)[0]["copies"]["samples"] == 0
    assert neighbours.study(of(99).images, of(0, 10, 20, 98, 102), held_out)[0]["copies"]["samples"] == 1


def test_near_is_nearer_than_one_in_a_hundred_held_out_images():
    """Of held-out images of one pixel at distances 0 to 100 from all training images; of samples at 0, 1 and 2 the first."""
    def of(*values):
        return replace(part("test", 1000), images=np.array(values, np.uint8).reshape(-1, 1, 1, 1), labels=None)

    assert neighbours.study(of(0, 1, 2).images, of(*[0] * 5), of(*range(101)))[0]["near"] == pytest.approx(1 / 3)


def test_what_is_printed_stands_under_its_own_heading():
    """Samples at distances 0 to 100 and held-out images at twice that: the quantile q is at 100 q."""
    squared = {name: [(255 * k * times) ** 2 for k in range(101)] for name, times in (("samples", 1), ("held_out", 2))}
    found = {"accuracy": 0.875, "class_shares": [0.25, 0.75], "held_out_class_shares": [0.625, 0.375], "squared": squared,
             "near": 0.125, "copies": {"samples": 0.0625, "held_out": 0.03}}
    text = " ".join(neighbours.describe(found, 1600).split())
    quantiles = " ".join(f"{q}% {q}.000 {2 * q}.000" for q in (0, 1, 5, 25, 50, 75, 95, 99))
    for said in (f"samples held-out images {quantiles}", "12.50% of 1,600 samples are nearer than 1% of the held-out images are",
                 "3 times nearer to one training image than to the next: 6.25% of the samples, 3.00% of the held-out images",
                 "class samples held-out images 0 25.00% 62.50% 1 75.00% 37.50%",
                 "by 5 nearest neighbours, which are right for 87.50% of the held-out images"):
        assert said in text, text
    assert "class" not in neighbours.describe(found | {"class_shares": None}, 1600)


def test_command_keeps_a_row_and_a_picture(tmp_path, capsys, monkeypatch):
    splits = {"train": part("train", 8), "test": part("test", 8)}
    monkeypatch.setattr(datasets, "load", lambda name, split, *_, **__: splits[split])
    np.save(tmp_path / "mine.npy", pixels.to_float(part("test", 20).images))
    drawn, save = [], neighbours.grids.save_grid
    monkeypatch.setattr(neighbours.grids, "save_grid", lambda path, images, *more, **how: drawn.append(images) or save(
        path, images, *more, **how))
    assert main(["study", "neighbours", "--images", str(tmp_path / "mine.npy"), "--out", str(tmp_path)]) == 0
    (row,) = rows.read(tmp_path / "rows")
    assert (row.kind, row.backend, row.config["study"], row.config["name"]) == ("study", "images", "neighbours", "mine")
    assert row.config["samples"] == 100 == len(row.values["squared"]["samples"])
    for name, split in (("train", "train"), ("held_out", "test")):
        assert (row.config[name], row.config[f"{name}_sha256"]) == (splits[split].provenance, splits[split].sha256)
    squared = neighbours.nearest(part("test", 20).images, splits["train"].images, 1)[1]
    assert row.values["squared"]["samples"] == squared[:, 0].tolist()
    above, below = drawn[0].astype(np.int64).reshape(2, 16, -1)  # those that come nearest, nearest first, and what they come near
    assert ((above - below) ** 2).sum(1).tolist() == sorted(squared[:, 0].tolist())[:16]
    out = capsys.readouterr().out
    assert f"right for {row.values['accuracy']:.2%} of the held-out images" in out and "samples are nearer" in out
    assert (tmp_path / "figures" / "neighbours-mine.png").stat().st_size > 5000
    json.dumps(row.values)


@pytest.mark.parametrize("name, array", [("images", np.uint8), ("other", np.float32)])
def test_images_are_read_from_npz_too(tmp_path, name, array):
    """As `ddim-bench sample --save FILE.npz` writes them, and any only array; what does not fit is refused."""
    images = part("test", 200).images
    given = images if array == np.uint8 else pixels.to_float(images)
    np.savez_compressed(tmp_path / "a.npz", **{name: given})
    np.testing.assert_array_equal(pixels.read_samples(tmp_path / "a.npz"), images)
    np.savez(tmp_path / "b.npz", **{name: given, "labels": np.arange(3)})
    if name == "images":
        np.testing.assert_array_equal(pixels.read_samples(tmp_path / "b.npz"), images)
    else:
        with pytest.raises(ConfigError, match="b.npz: must hold one array, or one called images"):
            pixels.read_samples(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", images=np.arange(16).reshape(1, 1, 4, 4))
    with pytest.raises(ConfigError, match="holds int64, and images must be uint8 in 0 .. 255 or floats"):
        pixels.read_samples(tmp_path / "c.npz")


def test_samples_are_drawn_from_weights(tmp_path, monkeypatch):
    network = replace(TINY, sample_size=28)
    splits = {"train": part("train", 40), "test": part("test", 40)}
    monkeypatch.setattr(datasets, "load", lambda name, split, *_, **__: splits[split])
    pipeline.save_pipeline(tmp_path / "net", initialise(network, 0), network, DiffusionConfig(timesteps=20))
    assert main(["study", "neighbours", "--weights", str(tmp_path / "net"), "--samples", "9", "--steps", "2", "--seed", "7",
                 "--out", str(tmp_path)]) == 0
    (row,) = rows.read(tmp_path / "rows")
    assert (row.backend, row.config["name"], row.config["steps"], row.values["near"]) == ("torch", "net", 2, 0)
    assert row.config["weights"] == weights_hash(initialise(network, 0))
    drawn = pixels.to_uint8(api.load(tmp_path / "net").sample(9, steps=2, seed=7))
    assert (row.config["seed"], row.config["images_sha256"]) == (7, hashlib.sha256(drawn.tobytes()).hexdigest())


def test_images_without_labels_have_a_row_too(tmp_path, monkeypatch):
    splits = {split: replace(part(split, 40), labels=None) for split in ("train", "test")}
    monkeypatch.setattr(datasets, "load", lambda name, split, *_, **__: splits[split])
    np.save(tmp_path / "mine.npy", splits["test"].images)
    assert main(["study", "neighbours", "--images", str(tmp_path / "mine.npy"), "--out", str(tmp_path)]) == 0
    (row,) = rows.read(tmp_path / "rows")
    assert row.values["accuracy"] is None and row.values["class_shares"] is None


@pytest.mark.parametrize("arguments, message", [
    ([], "exactly one must be given"),
    (["--images", "absent.npy"], "absent.npy.*can't be read"),
    (["--images", "words.npy"], "words.npy.*can't be read"),
    (["--images", "integers.npy"], "must be uint8 or floats"),
    (["--images", "flat.npy"], "must be uint8 or floats"),
    (["--images", "nan.npy"], "not finite"),
    (["--images", "large.npy"], "network takes|images of shape"),
    (["--weights", "absent", "--samples", "0"], "--samples=0: must be at least 1"),
])
def test_mistakes_are_one_line(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.npy").write_text("words")
    for name, array in (("integers", np.zeros((2, 1, 28, 28), np.int64)), ("flat", np.zeros((2, 784), np.uint8)),
                        ("nan", np.full((2, 1, 28, 28), np.nan)), ("large", np.zeros((2, 1, 32, 32), np.uint8))):
        np.save(f"{name}.npy", array)
    assert main(["study", "neighbours", *arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1 and not (tmp_path / "out").exists()
