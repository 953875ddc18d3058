"""Images of one's own: the network follows their size and colour, and the metric is refused where it says nothing of them."""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from bench.cli import train
from bench.cli.main import main
from bench.data.own_images import shape_of
from bench.data.readers import DataError
from bench.presets import fitting, get_preset
from bench.weights import pipeline


@pytest.mark.parametrize("said, expected", [(None, 100), (0, 0), (3, 3)])
def test_a_warm_up_of_nothing_is_one_too(said, expected):
    """A tenth of a length that is shorter than the preset's, where it is not said."""
    asked = argparse.Namespace(train_steps=1000, lr=None, warmup=said)
    assert get_preset("own-32").optim.warmup_steps >= 100 and train._optim(asked, get_preset("own-32")).warmup_steps == expected


def pictures(folder, n=16, size=(36, 40), mode="RGB"):
    folder.mkdir()
    for i in range(n):
        grey = np.random.default_rng(i).integers(0, 256, (*size[::-1], 3), np.uint8)
        Image.fromarray(grey).convert(mode).save(folder / f"{i:02}.png")
    return folder


@pytest.mark.parametrize("size, mode, pad, expected", [
    ((36, 40), "RGB", False, (3, 32)), ((28, 28), "L", False, (1, 28)), ((31, 90), "L", False, (1, 28)),
    ((90, 70), "RGBA", False, (3, 64)), ((60, 61), "P", False, (3, 56)), ((9, 100), "L", False, (1, 8)),
    ((28, 28), "LA", False, (1, 28)), ((28, 28), "1", False, (1, 28))])
def test_size_and_colour_are_those_of_the_files(tmp_path, size, mode, pad, expected):
    assert shape_of(pictures(tmp_path / "a", 2, size, mode), pad=pad) == expected


def test_the_smallest_file_decides_or_with_padding_the_largest_and_one_colour_makes_all_coloured(tmp_path):
    folder = pictures(tmp_path / "a", 2, (28, 28), "L")
    pictures(folder / "more", 1, (48, 50), "RGB")
    assert shape_of(folder) == (3, 28) and shape_of(folder, pad=True) == (3, 48)
    pictures(folder / "tiny", 1, (7, 50), "L")
    with pytest.raises(DataError, match="smallest image is 7 pixels wide or high, and at least 8 are needed; --pad"):
        shape_of(folder)


@pytest.mark.parametrize("shape, expected", [((5, 20, 20), (1, 20)), ((5, 16, 16, 3), (3, 16)), ((5, 3, 16, 16), (3, 16)),
                                             ((5, 1, 12, 12), (1, 12))])
def test_arrays_keep_their_size(tmp_path, shape, expected):
    np.save(tmp_path / "a.npy", np.zeros(shape, np.uint8))
    assert shape_of(tmp_path / "a.npy") == expected


def test_sixteen_colour_pictures_are_trained_on_as_they_are(tmp_path, capsys):
    """With its own learning rate and warm-up, samples on the way and a held-out loss; the first line says what was chosen."""
    said = ["train", "--data", str(pictures(tmp_path / "a")), "--train-steps", "4", "--batch-size", "4", "--log", "none",
            "--lr", "0.002", "--width", "16"]
    assert main([*said, "--save", str(tmp_path / "net"), "--sample-at", "4", "--validate", "2", "--warmup", "2"]) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith("images: RGB 32 x 32, as they are (--image-size and --channels choose another); network: preset own-32")
    assert [re.sub(r"\d+\.\d+|\.\d+", "X", line).partition(", grad")[0] for line in rest[:2]] == [
        f"step {n}: held-out loss X of 8 images" for n in (2, 4)], rest
    model = pipeline.read_pipeline(tmp_path / "net").model
    assert (model.in_channels, model.out_channels, model.sample_size) == (3, 3, 32) and model.block_out_channels == (16, 24, 48)
    optim = json.loads((tmp_path / "net" / "training.json").read_text())["config"]["optim"]
    assert (optim["lr"], optim["warmup_steps"], optim["total_steps"]) == (0.002, 2, 4)
    with Image.open(tmp_path / "net.logs" / "step-4.png") as picture:
        assert picture.size > (2 * 8 * 32, 2 * 2 * 32)
    # Looking changes nothing, and without --warmup a short training has none.
    assert main([*said, "--save", str(tmp_path / "alone"), "--warmup", "2"]) == 0
    assert (tmp_path / "alone" / "loss.csv").read_text() == (tmp_path / "net" / "loss.csv").read_text()
    assert get_preset("own-32").optim.warmup_steps > 4 and main([*said, "--save", str(tmp_path / "short")]) == 0
    assert json.loads((tmp_path / "short" / "training.json").read_text())["config"]["optim"]["warmup_steps"] == 0


@pytest.mark.parametrize("options, said", [
    (["--image-size", "30"], "--image-size=30: must be divisible by 2^2 for 3 levels; take 28, or another --preset"),
    (["--channels", "2"], "--channels=2: must be 1, grey, or 3, RGB"),
    (["--width", "20"], "--width=20: must be a multiple of 16, twice the network's groups"),
    (["--warmup", "4"], "--warmup=4: must be below the 4 of --train-steps"),
    (["--sample-at", "5"], "--sample-at='5': must be at most --train-steps=4"),
    (["--sample-at", "x"], "--sample-at='x': must be whole numbers separated by commas")])
def test_a_mistake_is_one_line_with_its_remedy(tmp_path, capsys, options, said):
    data = str(pictures(tmp_path / "a"))
    assert main(["train", "--data", data, "--train-steps", "4", "--save", str(tmp_path / "net"), *options]) == 2
    assert said in (error := capsys.readouterr().err) and error.count("\n") == 1 and not (tmp_path / "net").exists()


def test_sizes_go_without_a_published_data_set(tmp_path, capsys):
    assert main(["train", "--channels", "3", "--train-steps", "4", "--save", str(tmp_path / "net")]) == 2
    assert "--channels=3: is for images of your own, which --data names" in capsys.readouterr().err


def test_a_size_that_is_asked_for_is_taken(tmp_path, capsys):
    data = str(pictures(tmp_path / "a", size=(70, 90)))
    assert main(["run", "--data", data, "--image-size", "16", "--channels", "1", "--metric", "none", "--dry-run=plan"]) == 0
    first, rest = capsys.readouterr().out.split("\n", 1)
    assert first.startswith("images: grey 16 x 16; network: preset own-32, ")
    config, end = json.JSONDecoder().raw_decode(rest)
    assert (config["model"]["in_channels"], config["model"]["sample_size"], config["extractor"]) == (1, 16, None)
    assert "and measure" not in rest[end:] and "FID was not measured, as --metric none asks for" in rest[end:]


def test_the_features_of_grey_clothes_are_refused_for_colours(tmp_path, capsys):
    assert main(["run", "--data", str(pictures(tmp_path / "a")), "--dry-run=plan"]) == 2
    assert ("--metric='fmnist-cnn': its features are of grey 28 x 28 clothes, and say nothing of images of RGB 32 x 32: --metric "
            "none goes without") in capsys.readouterr().err


def test_few_images_can_be_drawn_without_the_metric(tmp_path, capsys):
    data = str(pictures(tmp_path / "a", size=(28, 28), mode="L"))
    assert main(["run", "--data", data, "--dry-run=plan"]) == 2
    assert "there are 8; draw fewer, or --metric none goes without" in capsys.readouterr().err
    assert main(["run", "--data", data, "--dry-run=plan", "--metric", "none"]) == 0


def test_a_preset_follows_the_images_and_its_weights_do_not():
    small, half = get_preset("quick"), get_preset("cosine-selfcond")
    assert small.of_shape(1, 28) is small
    own = small.of_shape(3, 20)
    assert (own.shape, own.weights, own.model.in_channels, own.model.out_channels) == ((3, 20, 20), None, 3, 3)
    told = half.changed(diffusion=replace(half.diffusion, self_conditioning=True), model=replace(half.model, in_channels=2))
    assert told.shape == (1, 28, 28)
    assert (told.of_shape(3, 28).model.in_channels, told.of_shape(3, 28).model.out_channels) == (6, 3)  # x0_hat beside x


def test_a_side_of_32_has_the_small_network_and_a_larger_one_the_other():
    assert [fitting(size).name for size in (8, 32, 33, 64)] == ["own-32", "own-32", "own-64", "own-64"]


def test_an_option_of_0_is_one_and_a_place_of_the_users_is_named_without_its_folders(tmp_path):
    preset = get_preset("quick")
    assert preset.changed(blocks=0, samples=None) == replace(preset, blocks=0) != preset
    assert preset.to_dict()["weights"] == "results/checkpoints/fmnist-small"
    assert preset.changed(weights=tmp_path / "mine").to_dict()["weights"] == "mine"
    json.dumps(preset.to_dict())
