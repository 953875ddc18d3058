"""What sampling can begin with, and where its images can go."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from bench import api
from bench.cli.main import main
from bench.data.pixels import to_uint8
from reference.config import DiffusionConfig
from reference.diffusion import slerp
from tests.helpers.tiny import TINY


@pytest.fixture
def net(tmp_path):
    api.new(TINY, DiffusionConfig(timesteps=20)).save(tmp_path / "net")
    return ["sample", "--weights", str(tmp_path / "net"), "--steps", "10"]


def test_images_go_into_a_folder_and_an_array_of_floats(net, tmp_path, capsys):
    options = ["--samples", "3", "--save-dir", str(tmp_path / "out"), "--save-float", str(tmp_path / "a.npy"),
               "--save-x-T", str(tmp_path / "x.npy")]
    assert main([*net, *options]) == 0 and capsys.readouterr().out.count("wrote") == 3
    floats, model = np.load(tmp_path / "a.npy"), api.load(tmp_path / "net")
    assert floats.dtype == np.float32 and np.abs(floats - model.sample(3, 10)).max() < 1e-5
    assert np.array_equal(np.load(tmp_path / "x.npy"), model.noise(3))
    read = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "out").iterdir())]
    assert np.array_equal(read, to_uint8(floats)[:, 0])
    assert main([*net, *options]) == 2 and "holds something already; name a new folder" in capsys.readouterr().err


def test_x_T_is_read_from_a_file(net, tmp_path):
    x = np.random.default_rng(0).standard_normal((2, *api.load(tmp_path / "net").spec.image_shape)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    assert main([*net, "--x-T", str(tmp_path / "x.npy"), "--save-float", str(tmp_path / "a.npy")]) == 0
    model = api.load(tmp_path / "net")
    assert np.abs(np.load(tmp_path / "a.npy") - model.follow(x, model.plan(10))).max() < 1e-5


def test_images_are_encoded_and_decoded(net, tmp_path, capsys):
    """In the order of their names, and what is printed is the distance of the decoding."""
    model = api.load(tmp_path / "net")
    images = to_uint8(model.sample(3, 20))
    (tmp_path / "in").mkdir()
    for n, image in enumerate(images):
        Image.fromarray(image[0]).save(tmp_path / "in" / f"{n}.png")
    assert main([*net, "--encode", str(tmp_path / "in"), "--save-float", str(tmp_path / "a.npy"),
                 "--save-x-T", str(tmp_path / "x.npy")]) == 0
    there = model.encode(images / np.float32(127.5) - np.float32(1), 10)
    back = model.follow(there, model.plan(10))
    assert np.abs(np.load(tmp_path / "x.npy") - there).max() < 1e-4 and np.abs(np.load(tmp_path / "a.npy") - back).max() < 1e-4
    off = np.abs(np.clip(back, -1, 1) - (images / 127.5 - 1)).mean() * 127.5
    assert f"decoded: {off:.2f} of 255" in capsys.readouterr().out


def test_the_arc_between_two_images_of_a_seed(net, tmp_path):
    assert main([*net, "--interpolate", "4", "1", "--samples", "5", "--save-x-T", str(tmp_path / "x.npy")]) == 0
    x, noise = np.load(tmp_path / "x.npy"), api.load(tmp_path / "net").noise(5)
    assert len(x) == 5 and np.abs(x[0] - noise[4]).max() < 1e-6 and np.abs(x[-1] - noise[1]).max() < 1e-6
    assert np.abs(x[1] - slerp(noise[4].astype(float), noise[1].astype(float), 0.25)).max() < 1e-6


@pytest.mark.parametrize("options, said", [
    (["--interpolate", "1", "1"], "--interpolate=[1, 1]: must be two different numbers of images, counted from 0"),
    (["--interpolate", "0", "2"], "--interpolate=3: --x-T holds 2"),
    (["--samples", "3"], "--samples=3: --x-T holds 2"),
    (["--encode", "."], "--encode='.': goes without --x-T")])
def test_a_mistake_is_one_line(net, tmp_path, capsys, options, said):
    np.save(tmp_path / "x.npy", np.zeros((2, *api.load(tmp_path / "net").spec.image_shape), np.float32))
    if "--interpolate" not in options or options[2] != "1":
        options = [*options, "--x-T", str(tmp_path / "x.npy")]
    assert main([*net, *options, "--save", str(tmp_path / "a.npy")]) == 2
    assert f"error: {said}\n" == capsys.readouterr().err


def test_encoding_needs_a_sampler_with_a_way_back(net, tmp_path, capsys):
    assert main([*net, "--encode", str(tmp_path), "--sampler", "ddpm", "--save", str(tmp_path / "a.npy")]) == 2
    assert "is for the sampler ddim with eta 0, whose way back exists" in capsys.readouterr().err
