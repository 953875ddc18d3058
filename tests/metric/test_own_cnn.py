"""A metric for images of one's own: the same images give the same file, and its distances know better from worse images."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from bench import streams
from bench.cli import commands, metrics
from bench.cli.main import main
from bench.data import datasets
from bench.data.own_images import shape_of
from bench.data.pixels import to_uint8
from bench.metric import fid, fmnist_cnn, own_cnn
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


def test_a_hidden_layer_of_128_lies_between_features_and_turns():
    """So that the features need not be the four classes alone."""
    found = {name: tuple(values.shape) for name, values in own_cnn._seeded(SHAPE, 64, 5).named_parameters() if "head" in name}
    assert found == {"head.1.weight": (128, 64), "head.1.bias": (128,), "head.3.weight": (4, 128), "head.3.bias": (4,)}


def test_initial_weights_are_hes_of_a_stream_each():
    """Normal of variance 2 / fan-in, with biases of 0; stream 0 is that of the order."""
    for number, (name, values) in enumerate(own_cnn._seeded(SHAPE, 64, 5).named_parameters(), start=1):
        found = values.detach().numpy()
        expected = name.endswith("weight") * np.ones(found.shape)  # of a batch norm, or a bias
        if found.ndim > 1:
            expected = streams.normal(5, "extractor", [number], found.shape)[0] * np.sqrt(2 / found[0].size)
        np.testing.assert_allclose(found, expected, rtol=1e-6, err_msg=name)


def test_an_epoch_shows_an_image_once_in_all_rotations_and_the_next_one_in_another_order(monkeypatch):
    """Of 33 images in one thread: two batches of 16 an epoch, and the last of each order waits for another epoch."""
    import torch

    seen, threads, before = [], [], torch.get_num_threads()
    monkeypatch.setattr(own_cnn, "fit", lambda net, batches, steps: (seen.extend(batches), threads.append(
        torch.get_num_threads()), seen.append(steps)))
    torch.set_num_threads(3)
    try:
        own_cnn.train(scenes(33, 0), 4, 0, 5)
    finally:
        torch.set_num_threads(before)
    assert threads == [1] and seen.pop() == 5 == len(seen)
    upright = [[image.tobytes() for image in images[:16].numpy()] for images, _ in seen]
    assert all(turns.tolist() == [0] * 16 + [1] * 16 + [2] * 16 + [3] * 16 for _, turns in seen)
    first, second = ([*upright[k], *upright[k + 1]] for k in (0, 2))
    assert len(set(first)) == len(set(second)) == 32 and first != second and upright[4] not in (upright[0], upright[2])


def test_the_share_that_is_told_is_that_of_the_first_held_out_images(tmp_path, monkeypatch):
    seen, held_out = [], np.arange(1003 * 64, dtype=np.uint32).astype(np.uint8).reshape(1003, 1, 8, 8)
    monkeypatch.setattr(own_cnn, "accuracy", lambda net, images, turns: seen.append((images, turns)) or 0.625)
    assert own_cnn.write(tmp_path / "x", dataset(held_out[:8]), dataset(held_out, "test"), 0, 1) == 0.625
    [(images, turns)] = seen
    np.testing.assert_array_equal(images[:1000].numpy(), held_out[:1000])
    assert turns.tolist() == [turn for turn in range(4) for _ in range(1000)] and len(images) == 4000


@pytest.mark.parametrize(("shape", "fits"), [((1, 8, 8), True), ((3, 64, 64), True), ((3, 7, 7), False), ((3, 65, 65), False),
                                             ((2, 8, 8), False), ((3, 8, 9), False)])
def test_squares_of_8_to_64_grey_or_rgb_have_a_network(shape, fits):
    data = dataset(np.zeros((8, *shape), np.uint8))
    if fits:
        assert own_cnn.width_of(data, data) == 4
    else:
        with pytest.raises(ConfigError, match="must be squares of 8 to 64 pixels a side, grey or RGB"):
            own_cnn.width_of(data, data)


def test_a_file_as_large_as_the_largest_is_refused_unread(trained, monkeypatch):
    size = trained[0].stat().st_size
    monkeypatch.setattr(own_cnn, "LARGEST", size + 1)
    own_cnn.load(trained[0])
    monkeypatch.setattr(own_cnn, "LARGEST", size)
    with pytest.raises(ConfigError, match=f"size={size}: must be below {size}"):
        own_cnn.load(trained[0])


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


def test_the_features_of_an_image_do_not_depend_on_those_beside_it(by):
    images = scenes(5, 1)
    np.testing.assert_allclose(fid.features(images[:1], extractor=by), fid.features(images, extractor=by)[:1], rtol=1e-4, atol=1e-4)


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


@pytest.mark.parametrize(("told", "cautious"), [(0.49, True), (0.5, False)])
def test_the_command_sets_held_out_images_and_noise_beside_the_training_images(told, cautious, tmp_path, by, monkeypatch, capsys):
    calls = {}
    monkeypatch.setattr(own_cnn, "write", lambda *given: calls.update(write=given) or told)
    monkeypatch.setattr(own_cnn, "load", lambda path: by)
    for name, value in (("floor", 1.25), ("ceiling", 80.5)):
        monkeypatch.setattr(fid, name, lambda *given, _as=(name, value), **more: calls.update({_as[0]: (given, more)}) or {
            "fid": _as[1]})
    np.save(tmp_path / "a.npy", scenes(41, 0))
    assert main(["metric", "--data", str(tmp_path / "a.npy"), "--save", str(tmp_path / "x.safetensors"), "--train-steps", "7",
                 "--seed", "5"]) == 0
    path, train, held_out, *how = calls["write"]
    assert (train.split, held_out.split, how) == ("train", "test", [5, 7])
    n, m = len(held_out), len(train)
    assert n < m and n + m == 41
    assert calls["floor"] == ((n, train), {"test": held_out, "extractor": by})
    assert calls["ceiling"] == ((n, train), {"seed": 5, "extractor": by})
    said = capsys.readouterr().out
    assert (f"held-out images told: {told:.0%}" in said, "random filters" in said) == (True, cautious)
    assert f"floor: held-out real images, n = {n} against {m} training images: 1.250\n" in said
    assert f"ceiling: standard normal noise, n = {n} against {m} training images: 80.500\n" in said
    assert (f"too few images for a meaningful number: {n} of a split allow {n // 2} features in place of 64, for which 128 of each "
            "are needed, as 256 without splits give") in said


@pytest.mark.parametrize(("samples", "training", "held_out", "said"), [
    (10, 128, 10, ""), (11, 128, 10, "--samples=11: the metric's floor is that of as many held-out images, and there are 10"),
    (10, 127, 10, "--metric='fmnist-cnn': needs at least 128 training images to compare with, and there are 127")])
def test_a_metric_needs_as_many_held_out_images_and_training_images_of_two_a_feature(samples, training, held_out, said):
    train, test = (dataset(np.zeros((n, 1, 28, 28), np.uint8)) for n in (training, held_out))
    if not said:
        assert metrics.notes("fmnist-cnn", fmnist_cnn.extractor(), samples, train, test) == []
    else:
        with pytest.raises(ConfigError, match=said):
            metrics.notes("fmnist-cnn", fmnist_cnn.extractor(), samples, train, test)


@pytest.mark.parametrize(("words", "shape"), [
    (["--data", "rgb"], (3, 12, 12)), (["--data", "rgb", "--channels", "1"], (1, 12, 12)),
    (["--data", "rgb", "--image-size", "8"], (3, 8, 8)), (["--data", "rgb", "--image-size", "64"], (3, 64, 64)),
    (["--data", "rgb", "--image-size", "20", "--channels", "1"], (1, 20, 20)),
    (["--dataset", "cifar10"], (3, 32, 32)), (["--dataset", "mnist"], (1, 28, 28)), ([], (1, 28, 28))])
def test_a_network_has_the_shape_of_its_images_or_the_one_that_is_asked_for(words, shape, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "rgb", scenes(2, 0, 13))
    assert metrics._shape(commands.parser().parse(["metric", "--save", "x.safetensors", *words])) == shape


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
    wide, empty = ({name: part.numpy() for name, part in own_cnn._network(SHAPE, width).state_dict().items()}
                   for width in (own_cnn.WIDTH + 1, 0))
    for name, parts, said in (("narrow", net, about | {"width": 5}), ("large", net, about | {"shape": [3, 512, 512]}),
                              ("wide", wide, about | {"width": own_cnn.WIDTH + 1}),
                              ("empty", empty, about | {"width": 0}),
                              ("inf", net | {"head.1.bias": np.full(own_cnn.HIDDEN, np.inf, np.float32)}, about),
                              ("list", net, []), ("less", {"x": np.zeros(2)}, about),
                              ("nan", net | {"head.1.bias": np.full(own_cnn.HIDDEN, np.nan, np.float32)}, about)):
        save_file(parts, tmp_path / name, {own_cnn.KEY: json.dumps(said)})
    np.save("a.npy", scenes(64, 0))
    np.save("grey.npy", scenes(64, 0)[:, :1])
    np.save("small.npy", scenes(64, 0, 8))
    np.save("few.npy", scenes(63, 0))


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@pytest.mark.parametrize("name", ["words", "half", "narrow", "large", "wide", "empty", "list", "less", "nan", "inf",
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
