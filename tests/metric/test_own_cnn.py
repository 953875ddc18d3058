"""A metric for images of one's own: the same images give the same file, and its distances know better from worse images."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from bench import streams
from bench.cli import metrics
from bench.cli.main import main
from bench.data import datasets
from bench.data.own_images import shape_of
from bench.data.pixels import to_uint8
from bench.metric import fid, own_cnn
from bench.paths import CHECKPOINTS
from reference.config import ConfigError

SHAPE = (3, 12, 12)


def scenes(n, seed, size=12):
    """Colour pictures with an upright and a left side: blue sky above ground, and a tower somewhere left of the middle."""
    rng = np.random.default_rng(seed)
    out = np.empty((n, 3, size, size), np.uint8)
    for image in out:
        horizon, left, top = rng.integers(size // 2, size - 2), rng.integers(1, size // 3), rng.integers(1, size // 2)
        image[:, :horizon] = rng.integers((80, 120, 200), (160, 200, 250))[:, None, None]
        image[:, horizon:] = rng.integers(0, 100, (3, 1, 1))
        image[:, top:horizon, left:left + size // 6] = rng.integers(0, 250, (3, 1, 1))
        image += rng.integers(0, 4, image.shape, np.uint8)
    return out


def dataset(images, split="train"):
    return datasets.Dataset("images", split, images, None, f"images of mine, {split} ({len(images)})",
                            hashlib.sha256(images.tobytes()).hexdigest(), False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(the file, the share of rotations that it tells) of 64 and 64 images: 32 features."""
    path = tmp_path_factory.mktemp("own") / "own.safetensors"
    return path, own_cnn.write(path, dataset(scenes(64, 0)), dataset(scenes(64, 1), "test"), 0, 60)


@pytest.fixture(scope="module")
def by(trained):
    return own_cnn.load(trained[0])


def distance(images, by):
    """FID of images from those of seed 0, which it was trained on."""
    return fid.distance(*(fid.statistics(fid.features(part, extractor=by)) for part in (images, scenes(64, 0))))


# The file


def test_the_same_images_seed_and_steps_give_the_same_file_and_any_other_another(tmp_path):
    """Whatever torch's own generator and its number of threads are, which is left as it was."""
    import torch

    def file(name, images, seed=0, steps=2):
        own_cnn.write(tmp_path / name, dataset(images), dataset(scenes(8, 3), "test"), seed, steps)
        return own_cnn.load(tmp_path / name)

    first, threads = file("a", scenes(8, 2)), torch.get_num_threads()
    torch.manual_seed(5)
    torch.set_num_threads(3)
    try:
        again = file("b", scenes(8, 2))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() and first == again
    others = [file("c", scenes(8, 4)), file("d", scenes(8, 2), seed=1), file("e", scenes(8, 2), steps=3)]
    assert len({first.sha256, *(other.sha256 for other in others)}) == 4
    assert first.sha256 == hashlib.sha256((tmp_path / "a").read_bytes()).hexdigest() and first.name == f"own-{first.sha256[:8]}"
    assert (first.width, first.shape, first.trained_on) == (4, SHAPE, dataset(scenes(8, 2)).sha256)


def test_the_weights_are_those_of_the_seed():
    """And not its name in the file alone."""
    one, other = (own_cnn.train(scenes(8, 2), 4, seed, 1).state_dict()["head.1.weight"] for seed in (0, 1))
    assert not bool((one == other).any())


@pytest.mark.parametrize("side", [8, 13, 64])
def test_any_side_has_a_network(side):
    net = own_cnn.train(scenes(2, 0, side)[:, :1], 5, 0, 1)
    assert net["features"](own_cnn._rotated(scenes(2, 0, side)[:, :1])[0].float()).shape == (8, 5)


def test_turns_are_counted_as_they_are_made():
    image = scenes(1, 0)
    turned, turns = own_cnn._rotated(image)
    assert turns.tolist() == [0, 1, 2, 3]
    for picture, n in zip(turned.numpy(), turns.tolist(), strict=True):
        back = Image.fromarray(picture.transpose(1, 2, 0)).rotate(-90 * n)
        np.testing.assert_array_equal(np.asarray(back).transpose(2, 0, 1), image[0])


def test_the_width_is_half_the_smaller_split():
    a, few, least = dataset(scenes(300, 0)), dataset(scenes(30, 1)), dataset(scenes(7, 1), "test")
    assert [own_cnn.width_of(*pair) for pair in ((a, few), (few, a), (a, a))] == [15, 15, 64]
    with pytest.raises(ConfigError, match="has 300 training and 7 held-out images, and 8 of each are needed, as 16 different"):
        own_cnn.width_of(a, least)
    with pytest.raises(ConfigError, match="its images are RGB 66 x 66, and must be squares of 8 to 64"):
        own_cnn.width_of(dataset(scenes(8, 0, 66)), dataset(scenes(8, 0, 66)))


# Laws of its distances


def test_it_learned_to_tell_the_turns_of_images_that_it_never_saw(trained):
    assert trained[1] > 0.9


def test_a_set_is_at_no_distance_from_itself(by):
    assert abs(distance(scenes(64, 0), by)) < 1e-3 * distance(scenes(64, 1), by)


def test_worse_images_are_further_off(by):
    """Real images, the same with more and more noise, and noise alone."""
    real, noise = scenes(64, 1).astype(float), to_uint8(streams.normal(0, "check", np.arange(64), SHAPE)).astype(float)
    found = [distance(np.rint(real * (1 - share) + noise * share).astype(np.uint8), by) for share in (0, 0.1, 0.3, 0.6, 1)]
    assert found == sorted(found) and found[-1] > 5 * found[0], found


@pytest.mark.parametrize("change", [lambda x: x[..., ::-1], lambda x: np.rot90(x, 1, (2, 3)), lambda x: np.rot90(x, 2, (2, 3)),
                                    lambda x: x[:, ::-1]], ids=["mirrored", "quarter turn", "half turn", "other colours"])
def test_images_that_are_changed_as_a_whole_differ(change, by):
    assert distance(np.ascontiguousarray(change(scenes(64, 1))), by) > 1.5 * distance(scenes(64, 1), by)


# The commands


def folder(path, images):
    path.mkdir()
    for n, image in enumerate(images):
        Image.fromarray(image.transpose(1, 2, 0)).save(path / f"{n:03}.png")
    return str(path)


def test_sixteen_pictures_give_a_file_with_floor_and_ceiling_and_a_word_of_caution(tmp_path, capsys):
    """Then two sets are measured by it, and the main job plans to; both say whose features these are."""
    data, file = folder(tmp_path / "a", scenes(16, 0)), str(tmp_path / "own.safetensors")
    assert main(["metric", "--data", data, "--save", file, "--train-steps", "3"]) == 0
    said, name = capsys.readouterr().out.splitlines(), f"FID[{own_cnn.load(tmp_path / 'own.safetensors').name}]"
    assert said[0] == "images: RGB 12 x 12, 8 to train on, 8 held out"
    assert said[1].startswith("quarter turns of held-out images told: ")
    floor, ceiling = (float(line.rpartition(" ")[2]) for line in said[2:4])
    assert said[2].startswith(f"{name} floor: held-out real images, n = 8 against 8 training images: ")
    assert said[3].startswith(f"{name} ceiling: standard normal noise, n = 8 against 8") and 0 < floor < ceiling
    assert said[4].startswith("too few images for a meaningful number: 8 of a split allow 4 features in place of 64")
    job = ["run", "--backends", "torch", "--steps", "2", "--dry-run=plan", "--metric", file, "--samples", "8", "--data"]
    plans = []
    for place in (data, folder(tmp_path / "b", scenes(16, 1))):
        assert main([*job, place]) == 0
        plans.append(capsys.readouterr().out)
    mine, others = plans
    assert all(f'"extractor": "{name[4:-1]}"' in plan for plan in (mine, others))
    assert "trained on other images" not in mine and f"{name}: its network was trained on other images than images of b" in others
    assert main(["fid", str(tmp_path / "b"), data, "--metric", file]) == 0
    assert f"{name} = " in capsys.readouterr().out


def test_enough_pictures_need_no_caution(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(own_cnn, "WIDTH", 4)
    monkeypatch.setattr(metrics, "TOLD", 0.0)
    assert main(["metric", "--data", folder(tmp_path / "a", scenes(16, 0)), "--save", str(tmp_path / "a.safetensors"),
                 "--train-steps", "1"]) == 0
    assert "too few" not in (said := capsys.readouterr().out) and "random filters" not in said


def test_a_folder_of_larger_files_is_read_as_the_network_was_trained(tmp_path, by, trained, capsys):
    """A network's size for files of 13 x 13 is 12 x 12; an array has the network's own size or is refused."""
    big = folder(tmp_path / "big", scenes(64, 1, 13))
    assert shape_of(tmp_path / "big") == (3, 12)
    np.save(tmp_path / "a.npy", scenes(64, 0))
    assert main(["fid", str(tmp_path / "a.npy"), big, "--metric", str(trained[0])]) == 0
    assert "B: 64 images of big, RGB 12 x 12, from files of up to 13\n" in capsys.readouterr().out


@pytest.fixture
def files(tmp_path, trained, monkeypatch):
    """Files that are none of this kind, by name, in the folder that the commands run in."""
    from safetensors.numpy import save_file

    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").write_bytes(trained[0].read_bytes())
    (tmp_path / "words").write_text("words")
    (tmp_path / "half").write_bytes(trained[0].read_bytes()[:-100])
    net = {name: part.numpy() for name, part in own_cnn.train(scenes(2, 0), 4, 0, 1).state_dict().items()}
    about = {"shape": SHAPE, "width": 4}
    for name, parts, said in (("narrow", net, about | {"width": 5}), ("large", net, about | {"shape": [3, 512, 512]}),
                              ("list", net, []), ("less", {"x": np.zeros(2)}, about),
                              ("nan", net | {"head.1.bias": np.full(own_cnn.HIDDEN, np.nan, np.float32)}, about)):
        save_file(parts, tmp_path / name, {own_cnn.KEY: json.dumps(said)})
    np.save("a.npy", scenes(64, 0))
    np.save("grey.npy", scenes(64, 0)[:, :1])
    np.save("small.npy", scenes(64, 0, 8))
    np.save("few.npy", scenes(63, 0))


@pytest.mark.parametrize("name", ["words", "half", "narrow", "large", "list", "less", "nan",
                                  str(CHECKPOINTS.parents[1] / "bench" / "assets" / "fmnist-cnn.safetensors")])
def test_other_files_are_refused_in_one_line(name, files, capsys):
    assert main(["fid", "a.npy", "a.npy", "--metric", name]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: --metric={name!r}: is no file that ddim-bench metric wrote (") and error.count("\n") == 1


@pytest.mark.parametrize(("words", "line"), [
    (["fid", "a.npy", "grey.npy"], "its features are of RGB 12 x 12 images, and grey.npy holds grey 12 x 12: --metric inception "
     "measures with the network of papers, ddim-bench metric trains one on images of your own"),
    (["fid", "small.npy", "a.npy"], "its features are of RGB 12 x 12 images, and small.npy holds RGB 8 x 8: --metric inception"),
    (["fid", "few.npy", "a.npy"], "number of images=63: few.npy: must be at least 64, twice the 32 features of own-"),
    (["fid", "a.npy", "fashion-mnist"], "no statistics ship for own-"),
    (["fid", "a.npy", "a.npy", "--metric", "fmnist"], "--metric='fmnist': is no metric's name and no file; ddim-bench metric "
     "--data IMAGES --save FILE.safetensors makes one"),
    (["fid", "a.npy", "a.npy", "--metric", "none"], "--metric='none': measures nothing"),
    (["fid", "a.npy", "a.npy", "--inception-weights", "x"], "goes with --metric inception"),
    (["run", "--backends", "torch", "--samples", "63"], "--samples=63: the metric needs at least twice its feature width, 64"),
    (["run", "--backends", "torch", "--samples", "64"], "of RGB 12 x 12 images, and say nothing of fashion-mnist of "
     "grey 28 x 28: --metric none goes without, --metric inception"),
    (["run", "--backends", "torch", "--data", "few.npy", "--samples", "64"], "--samples=64: the metric's floor is that of as many "
     "held-out images, and there are 31"),
    (["recipe", "ddim-respaced", "--dataset", "fashion-mnist"], "and say nothing of fashion-mnist of grey 28 x 28"),
])
def test_what_it_can_not_measure_is_one_line(words, line, files, capsys):
    assert main([*words, *(["--metric", "own"] * ("--metric" not in words))]) == 2
    assert line in (error := capsys.readouterr().err) and error.count("\n") == 1, error


@pytest.mark.parametrize(("words", "line"), [
    (["--data", "a.npy", "--save", "x.npy"], "--save='x.npy': must end in .safetensors"),
    (["--data", "a.npy", "--save", "no/x.safetensors"], "its folder must exist"),
    (["--data", "nothing"], "nothing: no such file or folder"),
    (["--data", "a.npy", "--train-steps", "0"], "--train-steps=0: must be at least 1"),
    (["--data", "a.npy", "--channels", "2"], "--channels=2: must be 1, grey, or 3, RGB"),
    (["--data", "a.npy", "--image-size", "65"], "--image-size=65: must be 8 to 64"),
    (["--image-size", "32"], "--image-size=32: does not apply without images of your own, which --data names"),
    (["--data", "seven.npy"], "has 4 training and 3 held-out images, and 8 of each are needed")])
def test_a_mistake_of_the_command_is_one_line(words, line, files, capsys):
    np.save("seven.npy", scenes(7, 0))
    assert main(["metric", *(["--save", "x.safetensors"] * ("--save" not in words)), *words]) == 2
    assert line in (error := capsys.readouterr().err) and error.count("\n") == 1, error
