"""A held-out image is never a training image: one rule for every source, and a check by hashes of all images."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from bench.data import datasets, own_images, readers, splits
from bench.paths import ROOT

SHAPE = (1, 8, 8)


def pictures(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 8, 8), np.uint8)


def fill(folder, images):
    folder.mkdir(parents=True, exist_ok=True)
    for n, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{n:03}.png")


def both(path):
    return datasets.load_images(path, SHAPE)


def pixels(dataset):
    return [image.tobytes() for image in dataset.images]


@pytest.mark.parametrize("train, test", [("train", "test"), ("train", "val"), ("train", "valid"), ("Train", "Test"),
                                         ("training", "testing"), ("train_images", "test_images"), ("TRAIN", "validation")])
@pytest.mark.parametrize("above", ["", "my-set"])
def test_a_folders_own_splits_are_kept(train, test, above, tmp_path):
    fill(tmp_path / "set" / above / train / "class", pictures(40))
    fill(tmp_path / "set" / above / test, pictures(20, 1))
    got = both(tmp_path / "set")
    assert [part.provenance for part in got] == [f"images of set, train (40, its folder {train}), grey 8 x 8",
                                                 f"images of set, test (20, its folder {test}), grey 8 x 8"]
    assert [pixels(part) for part in got] == [[i.tobytes() for i in pictures(40)], [i.tobytes() for i in pictures(20, 1)]]
    for split, part in zip(splits.SPLITS, got, strict=True):
        assert datasets.load("images", split, tmp_path / "set", shape=SHAPE).sha256 == part.sha256


def test_of_test_and_val_test_is_held_out_and_what_is_not_read_is_named(tmp_path):
    for seed, name in enumerate(("train", "test", "val", "masks")):
        fill(tmp_path / name, pictures(4, seed))
    (tmp_path / "labels.csv").write_text("a,1")
    train, test = both(tmp_path)
    assert pixels(test) == [i.tobytes() for i in pictures(4, 1)]
    assert train.notes == (f"{tmp_path.name}: not read: labels.csv, masks, val",)


def test_a_training_folder_alone_is_divided(tmp_path):
    fill(tmp_path / "train", pictures(40))
    fill(tmp_path / "masks", pictures(40, 1))
    train, test = both(tmp_path)
    assert sorted(pixels(train) + pixels(test)) == sorted(i.tobytes() for i in pictures(40))
    assert train.provenance.endswith("train (20 of 40), grey 8 x 8") and train.notes[0].endswith("not read: masks")


REFUSED = {
    "no training images": (("test",), "test would be held out, and no train is there"),
    "held-out images twice": (("train", "val", "valid"), "both val and valid are called as a val split"),
    "training images twice": (("train", "Train", "test"), "both Train and train are called as a train split"),
    "below other folders": (("cats/train", "cats/test", "dogs/train"), "holds folders that are called as splits below others"),
    "below other folders, not called test": (("cats/train", "cats/val", "dogs/train"), "called as splits below others"),
    "no images in one": (("train", "test/"), "test: no image in this folder"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_rule_does_not_decide_is_refused(case, tmp_path):
    names, reason = REFUSED[case]
    for seed, name in enumerate(names):
        fill(tmp_path / name, pictures(0 if name.endswith("/") else 4, seed))
    with pytest.raises(readers.DataError, match=reason) as caught:
        both(tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("train, test", [("x_train", "x_test"), ("X_train", "X_val"), ("train_images", "val_images"),
                                         ("train", "test")])
def test_an_arrays_own_splits_are_kept(train, test, tmp_path):
    np.savez(tmp_path / "a.npz", **{train: pictures(40), test: pictures(20, 1), "y_train": np.zeros(40)})
    got = both(tmp_path / "a.npz")
    assert [pixels(part) for part in got] == [[i.tobytes() for i in pictures(40)], [i.tobytes() for i in pictures(20, 1)]]
    assert f"test (20, its array {test})" in got[1].provenance and got[0].notes == ()


@pytest.mark.parametrize("more", [{}, {"arr_0": pictures(60, 1)}, {"arr_0": pictures(40)}], ids=["alone", "another", "a copy"])
def test_one_split_of_an_npz_is_divided_and_nothing_else_is_read(more, tmp_path):
    np.savez(tmp_path / "a.npz", x_train=pictures(40), **more)
    train, test = both(tmp_path / "a.npz")
    assert len(train) == len(test) == 20 and not {*pixels(train)} & {*pixels(test)}
    assert {*pixels(train), *pixels(test)} == {i.tobytes() for i in pictures(40)}
    assert train.notes == (("a.npz: not read: arr_0",) if more else ())


def test_copies_stay_on_one_side(tmp_path):
    """A class that was balanced by repetition: every image five times."""
    np.save(tmp_path / "a.npy", np.tile(pictures(40), (5, 1, 1)))
    train, test = both(tmp_path / "a.npy")
    assert len(train) == len(test) == 100 and not {*pixels(train)} & {*pixels(test)}
    np.save(tmp_path / "same.npy", np.tile(pictures(1), (5, 1, 1)))
    with pytest.raises(readers.DataError, match="same.npy: holds 1 image 5 times, and needs one to train on"):
        both(tmp_path / "same.npy")


@pytest.mark.parametrize("copies, said", [(0, None), (2, "2 of its 200 held-out images are training images too"), (3, None)])
def test_copies_between_a_sources_own_splits(copies, said, tmp_path):
    """At most one in a hundred is named, more are refused; a published set is never refused for its own."""
    test = pictures(200, 1)
    test[:copies] = pictures(copies)
    np.savez(tmp_path / "a.npz", x_train=pictures(40), x_test=test)
    if copies < 3:
        notes = both(tmp_path / "a.npz")[0].notes
        assert [note.rpartition("a.npz: ")[2] for note in notes] == ([said] if said else [])
        return
    with pytest.raises(readers.DataError, match="a.npz: 3 of its 200 held-out images are training images too: at most one in 100"):
        both(tmp_path / "a.npz")
    assert "3 of its 200" in splits.check(pictures(40), test, "a", published=True)


def test_what_ships_has_no_copies():
    """Nor has Fashion-MNIST as a whole, where it is installed: 60,000 and 10,000 different images."""
    for load in (datasets.load_subset, datasets.load):
        train, test = (load("fashion-mnist", split) for split in splits.SPLITS)
        assert splits.check(train.images, test.images, "it") is None
    train, test = datasets.Choice().both("fashion-mnist", (1, 28, 28))
    assert train.notes == test.notes == ()


def test_notes_are_said_once(tmp_path):
    fill(tmp_path / "set", np.minimum(pictures(40), 1))
    (tmp_path / "set" / "Thumbs.db").write_bytes(b"no image")
    with pytest.warns(UserWarning) as said:
        datasets.Choice(path=tmp_path / "set").both("fashion-mnist", SHAPE)
    assert [str(warning.message) for warning in said] == [
        "set: not read: Thumbs.db", "set: nearly black: its brightest pixel is 1 of 255; multiply masks of 0 and 1 by 255"]


def test_in_their_order_a_folders_images_are_those_of_all_its_splits(tmp_path):
    every = pictures(5)
    fill(tmp_path / "set" / "test", every[:2])
    fill(tmp_path / "set" / "train", every[2:])
    np.testing.assert_array_equal(own_images.in_order(tmp_path / "set", SHAPE)[:, 0], every)


@pytest.mark.parametrize(("brightest", "dark"), [(15, True), (16, False)])
def test_images_that_nowhere_reach_16_are_named(brightest, dark, tmp_path):
    np.save(tmp_path / "a.npy", np.minimum(pictures(40), brightest))
    assert any("nearly black" in note for note in both(tmp_path / "a.npy")[0].notes) == dark


def test_a_source_with_copies_is_refused_before_anything_is_trained(tmp_path):
    """By the main job and by a training alike; nothing is written."""
    for name in ("train", "test"):
        fill(tmp_path / "set" / name, np.pad(pictures(40), ((0, 0), (10, 10), (10, 10))))
    for words in ("run --preset smoke --backends torch --fit 3 --out", "train --train-steps 300 --save"):
        done = subprocess.run([sys.executable, "-m", "bench", *words.split(), str(tmp_path / "out"), "--data",
                               str(tmp_path / "set")], cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        assert "40 of its 40 held-out images are training images too" in done.stderr and not (tmp_path / "out").exists()


def test_of_many_files_that_were_not_read_five_are_named(tmp_path):
    for extra in (5, 7):
        fill(tmp_path / str(extra), pictures(40))
        for n in range(extra):
            (tmp_path / str(extra) / f"{n}.txt").touch()
        named = ", ".join(f"{n}.txt" for n in range(5))
        assert both(tmp_path / str(extra))[0].notes == (f"{extra}: not read: {named}{' and 2 more' if extra == 7 else ''}",)


def test_images_are_in_the_order_of_their_folders_and_then_of_their_names(tmp_path):
    images = pictures(4)
    for n, place in enumerate(("b/1.png", "a/2.png", "a/10.png", "0.png")):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        Image.fromarray(images[n]).save(tmp_path / place)
    found = own_images.in_order(tmp_path, (1, *images.shape[1:]))
    np.testing.assert_array_equal(found[:, 0], images[[3, 2, 1, 0]])


@pytest.mark.parametrize("dark", ["x_train", "x_test"])
def test_images_of_which_one_split_alone_is_dark_are_not_named(dark, tmp_path):
    arrays = {"x_train": pictures(40), "x_test": pictures(20, 1)}
    np.savez(tmp_path / "a.npz", **(arrays | {dark: arrays[dark] // 64}))
    assert both(tmp_path / "a.npz")[0].notes == ()
