"""A person's own images: folders and arrays become what the network takes, or one line says which file is wrong."""

import os
import struct
import subprocess
import sys
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from bench.data import datasets, image_files, own_images, readers, splits
from bench.data.image_files import read_image
from bench.metric import fmnist_cnn
from bench.paths import ASSETS, ROOT
from bench.records import rows
from bench.weights import pipeline
from reference import weights
from reference.config import DiffusionConfig, ModelConfig

GREY, RGB = (1, 8, 8), (3, 8, 8)


def png(header, lines):
    """A PNG of this header and these lines."""
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def picture(n, shape=(8, 8)):
    return np.random.default_rng(n).integers(0, 256, shape, np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Twelve grey 8x8 PNGs, some in a subfolder, a hidden file and a hidden folder."""
    where = tmp_path / "pngs"
    (where / "more").mkdir(parents=True)
    for n in range(12):
        Image.fromarray(picture(n)).save(where / ("more" if n % 3 == 0 else ".") / f"{n:02}.png")
    for place in (".DS_Store", ".thumbnails/a.png"):
        (where / place).parent.mkdir(exist_ok=True)
        (where / place).write_bytes(b"hidden")
    return where


def load(path, split="train", shape=GREY, **options):
    return datasets.load("images", split, path, shape=shape, **options)


# Folders


def test_folder_is_split_once_and_for_all(folder):
    train, test = load(folder), load(folder, "test")
    assert train.images.shape == (6, *GREY) and test.images.shape == (6, *GREY)
    assert train.provenance == "images of pngs, train (6 of 12), grey 8 x 8" and not train.flip and train.labels is None
    got = {image.tobytes() for image in np.concatenate([train.images, test.images])}
    assert got == {picture(n).tobytes() for n in range(12)}
    assert load(folder).sha256 == train.sha256
    with pytest.raises(ValueError, match="read-only"):
        train.images[0] = 0


@pytest.mark.parametrize("count, held_out", [(2, 1), (3, 1), (255, 127), (256, 128), (1279, 128), (1290, 129), (50000, 5000)])
def test_how_many_are_held_out(count, held_out):
    test = np.flatnonzero(splits.chosen(count))
    assert len(test) == held_out
    assert count < 255 or 0.4 < test.mean() / count < 0.6
    assert 2 * fmnist_cnn.WIDTH == splits.HELD_OUT


def test_own_train_and_test_folders_are_taken(folder):
    (folder / "train").mkdir()
    (folder / "test").mkdir()
    Image.fromarray(picture(100)).save(folder / "train" / "a.png")
    Image.fromarray(picture(101)).save(folder / "test" / "a.png")
    np.testing.assert_array_equal(load(folder).images[0, 0], picture(100))
    np.testing.assert_array_equal(load(folder, "test").images[0, 0], picture(101))


@pytest.mark.parametrize("stray", ["labels.csv", "Thumbs.db", "desktop.ini", "README.txt", "_SUCCESS", "LICENSE", "meta.JSON"])
def test_what_lies_beside_images_is_named_once_and_not_counted(stray, folder):
    (folder / "more" / stray).write_bytes(b"no image")
    with pytest.warns(UserWarning) as said:
        both = datasets.Choice(path=folder).both("mnist", GREY)
    assert [str(warning.message) for warning in said] == [f"pngs: not read: {stray}"]
    for split, part in zip(datasets.SPLITS, both, strict=True):
        assert part.provenance == f"images of pngs, {split} (6 of 12), grey 8 x 8"


def test_any_other_file_is_refused_for_both_splits_alike(folder):
    (folder / "features.bin").write_bytes(b"no image")
    for split in datasets.SPLITS:
        with pytest.raises(readers.DataError, match="features.bin: is no PNG"):
            load(folder, split)


def test_crop_is_central_and_scaling_antialiased(tmp_path):
    wide = np.zeros((16, 40), np.uint8)
    wide[:, 12:28] = np.indices((16, 16)).sum(0) % 2 * 255  # a checkerboard of single pixels in the middle, black around it
    Image.fromarray(wide).save(tmp_path / "wide.png")
    Image.fromarray(wide.T.copy()).save(tmp_path / "tall.png")
    for name in ("wide.png", "tall.png"):
        inner = read_image(tmp_path / name, GREY)[0, 1:-1, 1:-1]
        assert inner.min() >= 120 and inner.max() <= 135  # nearest or plain bilinear would give 0 or 255
    same = picture(1)
    Image.fromarray(same).save(tmp_path / "same.png")
    np.testing.assert_array_equal(read_image(tmp_path / "same.png", GREY)[0], same)


def test_scaling_is_pillows_bicubic(tmp_path):
    (image := Image.fromarray(picture(0, (20, 20)))).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", GREY)[0], image.resize((8, 8), Image.Resampling.BICUBIC))


def test_colours_become_the_networks(tmp_path):
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    Image.fromarray(red).save(tmp_path / "red.png")
    Image.fromarray(picture(0)).save(tmp_path / "grey.png")
    assert set(read_image(tmp_path / "red.png", GREY).ravel()) == {76}  # 0.299 * 255
    np.testing.assert_array_equal(read_image(tmp_path / "red.png", RGB), red.transpose(2, 0, 1))
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png", RGB), np.stack([picture(0)] * 3))


def test_transparent_pixels_become_white_and_opaque_ones_stay(tmp_path):
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[:, 4:, 3] = 255
    Image.fromarray(rgba).save(tmp_path / "half.png")
    palette = Image.fromarray(np.indices((8, 8))[1].astype(np.uint8) // 4).convert("P")
    palette.putpalette([9, 9, 9, 100, 100, 100])
    palette.save(tmp_path / "palette.gif", transparency=0)
    for name, opaque in (("half.png", 0), ("palette.gif", 100)):
        image = read_image(tmp_path / name, GREY)[0]
        assert set(image[:, :4].ravel()) == {255} and set(image[:, 4:].ravel()) == {opaque}, name


def test_exif_orientation_is_followed(tmp_path):
    image = Image.new("L", (16, 16))
    image.paste(255, (0, 0, 16, 8))  # white above
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter to the left: to be shown with the top on the right
    image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    upright = read_image(tmp_path / "turned.jpg", GREY)[0]
    assert upright[:, 5:].min() > 200 and upright[:, :3].max() < 50


def tiff(entries, extra=b""):
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries) + b"\0\0\0\0" + extra


TURN, PLACE = struct.pack("<HHIHH", 0x112, 3, 1, 6, 0), 8 + 2 + 24 + 4
EXIF = {
    "prefix twice": b"Exif\0\0" + tiff([TURN]),
    "signed rational -1/0": tiff([TURN, struct.pack("<HHII", 0x11A, 10, 1, PLACE)], struct.pack("<ii", -1, 0)),
    "rational 0/0": tiff([TURN, struct.pack("<HHII", 0x11A, 5, 1, PLACE)], struct.pack("<II", 0, 0)),
    "two values for one": tiff([TURN, struct.pack("<HHII", 0x11A, 5, 2, PLACE)], struct.pack("<IIII", 72, 1, 72, 1)),
    "offset beyond the end": tiff([TURN, struct.pack("<HHII", 0x11A, 5, 1, 99999)]),
}


@pytest.mark.parametrize("case", EXIF)
def test_orientation_is_followed_beside_damaged_tags(case, tmp_path):
    left_white = np.zeros((64, 64, 3), np.uint8)
    left_white[:, :32] = 255
    Image.fromarray(left_white).save(tmp_path / "a.jpg", exif=EXIF[case], quality=95)
    image = read_image(tmp_path / "a.jpg", (1, 28, 28))[0]
    assert image[4].mean() > 200 and image[24].mean() < 50


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_pillows(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture(0)).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(read_image(tmp_path / "a.png", GREY)[0], np.asarray(ImageOps.exif_transpose(image)))


def test_unreadable_exif_leaves_the_pixels_as_they_are(tmp_path):
    Image.fromarray(picture(0)).save(tmp_path / "a.png", exif=b"Exif\0\0" + b"no TIFF at all")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", GREY)[0], picture(0))


def test_of_a_phones_jpeg_the_first_picture_is_read(tmp_path):
    """Gain maps and previews lie behind it (MPO)."""
    image = Image.new("RGB", (64, 64), (200, 10, 10))
    image.save(tmp_path / "IMG_0001.jpg", format="MPO", save_all=True, append_images=[Image.new("RGB", (32, 32))])
    assert np.abs(read_image(tmp_path / "IMG_0001.jpg", RGB).astype(int) - [[[200]], [[10]], [[10]]]).max() < 4


def png_16_bits(channels, colour):
    """White of a 12-bit camera, 4095 of 65535."""
    pixels = np.full((8, 8, channels), 4095, ">u2")
    return png(struct.pack(">IIBBBBB", 8, 8, 16, colour, 0, 0, 0), b"".join(b"\0" + line.tobytes() for line in pixels))


SIXTEEN_BITS = {
    "grey.png": png_16_bits(1, 0), "grey-alpha.png": png_16_bits(2, 4), "rgb.png": png_16_bits(3, 2), "rgba.png": png_16_bits(4, 6),
    "rgb.ppm": b"P6\n8 8\n65535\n" + np.full((8, 8, 3), 4095, ">u2").tobytes(), "plain.ppm": b"P3 8 8 4095 " + b"4095 " * 192,
    "grey.pgm": b"P5\n8 8\n4095\n" + np.full((8, 8), 4095, ">u2").tobytes(),
}


@pytest.mark.parametrize("name", SIXTEEN_BITS)
@pytest.mark.parametrize("shape", [GREY, RGB])
def test_16_bits_a_channel_are_refused_in_every_format(name, shape, tmp_path):
    (tmp_path / name).write_bytes(SIXTEEN_BITS[name])
    with pytest.raises(readers.DataError, match=f"{name}: pixels of type .*only 8 bits a channel are read"):
        read_image(tmp_path / name, shape)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.gif", "a.bmp", "a.pgm"])
def test_formats(name, tmp_path):
    Image.new("L", (8, 8), 77).save(tmp_path / name)
    assert np.abs(read_image(tmp_path / name, GREY).astype(int) - 77).max() <= 2


def png_bomb(w, h):
    """A PNG of 70 bytes whose header says w x h."""
    return png(struct.pack(">IIBBBBB", w, h, 8, 0, 0, 0, 0), b"")


def write_png(path, **options):
    Image.fromarray(picture(0)).save(path, **options)


def wrong_crc(path):
    write_png(path)
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 8] ^= 1
    path.write_bytes(content)


def truncated(path):
    Image.fromarray(picture(0, (64, 64))).save(path)
    path.write_bytes(path.read_bytes()[:-500])


def animated(path):
    Image.new("L", (8, 8)).save(path.with_suffix(".gif"), save_all=True, append_images=[Image.new("L", (8, 8), 255)])


BROKEN = {
    "truncated": (truncated, "x.png: is broken"),
    "wrong checksum": (wrong_crc, "x.png: is broken"),
    "no image": (lambda path: path.write_bytes(b"hello"), "x.png: is no PNG, JPEG"),
    "empty file": (lambda path: path.write_bytes(b""), "x.png: is no PNG, JPEG"),
    "table of features": (lambda path: path.with_name("features.dat").write_text("a,1"), "features.dat: is no PNG"),
    "PostScript, which Pillow hands to a program": (
        lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n"), "x.png: is no PNG"),
    "too small": (lambda path: Image.new("L", (40, 7)).save(path), "x.png: 40 x 7 is smaller than the network's 8 x 8"),
    "16 bits": (lambda path: Image.fromarray(picture(0).astype(np.uint16) * 257).save(path), "x.png: pixels of type I;16"),
    "several frames": (animated, "x.gif: holds several frames"),
    "bomb": (lambda path: path.write_bytes(png_bomb(16384, 8192)), "x.png: 16384 x 8192 are more than 67108864 pixels"),
    "larger bomb": (lambda path: path.write_bytes(png_bomb(60000, 60000)), r"x.png: is broken: Image size \(3600000000 pixels\)"),
    "pipe": (lambda path: os.mkfifo(path), "x.png: is no plain file"),
    "loop of links": (lambda path: path.symlink_to(path.parent), "x.png: is no plain file"),
    "link to nothing": (lambda path: path.symlink_to(path.parent / "nothing"), "x.png: is no plain file"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_one_bad_file_is_one_line_with_its_name(case, folder):
    spoil, reason = BROKEN[case]
    spoil(folder / "more" / "x.png")
    tracemalloc.start()
    with pytest.raises(readers.DataError, match=reason) as caught:
        load(folder)  # whichever split the file would be in
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(folder / "more") in str(caught.value) and "\n" not in str(caught.value) and peak < 20_000_000


def test_folder_that_is_empty_missing_or_of_one_image(tmp_path):
    with pytest.raises(readers.DataError, match=f"{tmp_path}: no image in this folder"):
        load(tmp_path)
    with pytest.raises(readers.DataError, match="nowhere: no such file or folder"):
        load(tmp_path / "nowhere")
    write_png(tmp_path / "one.png")
    with pytest.raises(readers.DataError, match="holds 1 image"):
        load(tmp_path)
    (tmp_path / "x.zip").write_bytes(b"")
    with pytest.raises(readers.DataError, match="x.zip: is no folder and no .npz or .npy file"):
        load(tmp_path / "x.zip")


@pytest.mark.parametrize(("sides", "pad", "side"), [
    ((8,), False, 8), ((11, 40), False, 8), ((32, 40), False, 32), ((39, 40), False, 32), ((40, 47), False, 40),
    ((65, 90), False, 64), ((9, 30), True, 28), ((9, 70), True, 64)])
def test_the_side_of_a_network_for_a_folder(sides, pad, side, tmp_path):
    """A multiple of 4, above 32 of 8, that the smallest image has, or with padding the largest."""
    for n, size in enumerate(sides):
        Image.fromarray(np.zeros((size, size + n), np.uint8)).save(tmp_path / f"{n}.png")
    assert own_images.shape_of(tmp_path, pad=pad) == (1, side)


def test_padding_keeps_small_images_and_scales_large_ones(folder):
    Image.new("L", (40, 40), 255).save(folder / "large.png")
    assert load(folder, shape=(1, 12, 12), pad=True).images.shape == (7, 1, 12, 12)
    small = read_image(folder / "01.png", (1, 13, 13), pad=True)[0]
    np.testing.assert_array_equal(small[2:10, 2:10], picture(1))
    assert small.sum() == picture(1).sum()
    assert read_image(folder / "large.png", (1, 12, 12), pad=True).min() == 255


# Arrays


def test_layouts_of_arrays(tmp_path):
    path = tmp_path / "x.npy"
    images = picture(0, (40, 8, 8, 3))
    for layout, shape in ((images, RGB), (images.transpose(0, 3, 1, 2), RGB), (images[..., 0], GREY), (images[..., :1], GREY),
                          (np.asfortranarray(images), RGB)):
        np.save(path, layout)
        both = np.concatenate([load(path, split, shape).images for split in datasets.SPLITS])
        assert both.shape == (40, *shape)
        assert {i.tobytes() for i in both} == {np.ascontiguousarray(i.transpose(2, 0, 1)[:shape[0]]).tobytes() for i in images}
    assert load(path, shape=RGB).provenance == "images of x.npy, train (20 of 40), RGB 8 x 8"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_by_name(save, tmp_path):
    path, a, b = tmp_path / "x.npz", picture(0, (4, 8, 8)), picture(1, (2, 8, 8))
    save(path, x_train=a, y_train=np.arange(4), x_test=b, y_test=np.arange(2))
    np.testing.assert_array_equal(load(path).images[:, 0], a)
    np.testing.assert_array_equal(load(path, "test").images[:, 0], b)
    for arrays in ({"images": a, "labels": np.arange(4)}, {"anything": a}, {"arr_0": a, "arr_1": np.arange(4)}):
        save(path, **arrays)
        assert len(load(path)) == 2 and len(load(path, "test")) == 2
    save(path, first=a, second=a)
    with pytest.raises(readers.DataError, match="x.npz: which array are the images, of first, second"):
        load(path)


class Unpickled:
    def __reduce__(self):
        return pytest.fail, ("unpickled",)


ARRAYS = {
    "floats": (np.zeros((4, 8, 8), np.float32), "holds float32"),
    "objects": (np.array([Unpickled(), None]), "holds object"),
    "wrong size": (picture(0, (4, 9, 9)), r"images of shape \(1, 9, 9\), and the network takes \(1, 8, 8\)"),
    "too few axes": (picture(0, (4, 8)), r"shape \(4, 8\) is not that of images with 1 channels"),
    "wrong channels": (picture(0, (4, 8, 8, 3)), "is not that of images with 1 channels"),
    "nothing": (picture(0, (0, 8, 8)), "take from 1 to"),
    "scalar": (picture(0, ()), "is not that of images|holds"),
}


@pytest.mark.parametrize("case", ARRAYS)
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_arrays_that_are_no_images(case, suffix, tmp_path):
    array, reason = ARRAYS[case]
    path = tmp_path / f"x.{suffix}"
    np.save(path, array, allow_pickle=True) if suffix == "npy" else np.savez(path, array)
    with pytest.raises(readers.DataError, match=reason) as caught:
        load(path)
    assert f"x.{suffix}" in str(caught.value) and "\n" not in str(caught.value)


def lying_npy(shape, size=100):
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(size)


@pytest.mark.parametrize("shape", ["(1000000, 28, 28)", "(99999999999, 99999, 99999)", "(-1, 8, 8)", "(True, 8, 8)", "(100, True)",
                                   "(" * 60, "()"])
def test_header_that_lies_costs_no_memory(shape, tmp_path):
    (tmp_path / "x.npy").write_bytes(lying_npy(shape))
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as file:
        file.writestr("images.npy", lying_npy(shape))
    for name in ("x.npy", "x.npz"):
        tracemalloc.start()
        with pytest.raises(readers.DataError, match=name):
            load(tmp_path / name)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2_000_000


def test_plain_shapes_compress_far_and_are_read(tmp_path):
    """White squares on black, 70 MB of them: 860 to 1."""
    images = np.zeros((1100, 256, 256), np.uint8)
    for image, (row, column) in zip(images, np.random.default_rng(0).integers(0, 240, (1100, 2)), strict=True):
        image[row:row + 9, column:column + 9] = 255
    np.savez_compressed(tmp_path / "x.npz", images=images)
    assert images.nbytes > max(readers.RATIO_FREE, 700 * (tmp_path / "x.npz").stat().st_size)
    assert len(load(tmp_path / "x.npz", shape=(1, 256, 256))) > 900


def test_endings_in_capitals(tmp_path):
    images = picture(0, (4, 8, 8))
    np.save(tmp_path / "x.npy", images)
    np.savez(tmp_path / "y.npz", images)
    for name in ("x.npy", "y.npz"):
        (tmp_path / name).rename(tmp_path / name.upper())
        assert len(load(tmp_path / name.upper())) == 2
    Image.fromarray(images[0]).save(tmp_path / "x.png")
    (tmp_path / "x.png").rename(tmp_path / "X.PNG")
    np.testing.assert_array_equal(read_image(tmp_path / "X.PNG", GREY)[0], images[0])


def test_zip_bomb_and_other_compressions_are_refused(tmp_path):
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("images.npy", lying_npy("(1200000, 8, 8)", 76_800_000))
    tracemalloc.start()
    with pytest.raises(readers.DataError, match="that claim to unpack to 76800128 are no images"):
        load(path)
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as file:
        file.writestr("images.npy", lying_npy("(4, 8, 8)", 256))
    with pytest.raises(readers.DataError, match="compression method 14"):
        load(path)
    path.write_bytes(b"PK\x03\x04 nothing more")
    with pytest.raises(readers.DataError, match="x.npz: cannot be read"):
        load(path)


def test_of_an_array_that_is_not_square_the_longer_side_counts(tmp_path):
    """Of the images that are trained on, where an array is called so."""
    np.savez(tmp_path / "a.npz", arr_0=picture(0, (5, 9, 9)), x_test=picture(1, (5, 12, 20)), x_train=picture(2, (5, 12, 20)))
    assert own_images.shape_of(tmp_path / "a.npz") == (1, 20)
    np.save(tmp_path / "a.npy", picture(0, (4, 8, 20)))
    with pytest.raises(readers.DataError, match=r"images of shape \(1, 8, 20\), and the network takes \(1, 12, 12\)"):
        load(tmp_path / "a.npy", shape=(1, 12, 12), pad=True)
    with pytest.raises(readers.DataError, match=r"4 images of shape \(1, 8, 20\), and \(1, 8, 8\) is needed"):
        own_images.in_order(tmp_path / "a.npy", GREY)


def test_no_array_no_image_and_too_many_are_named(folder, monkeypatch, tmp_path):
    np.savez(tmp_path / "a.npz")
    with pytest.raises(readers.DataError, match="a.npz: holds no array"):
        load(tmp_path / "a.npz")
    np.save(tmp_path / "a.npy", picture(0, (5, 4, 16, 16)))
    with pytest.raises(readers.DataError, match=r"a.npy: shape \(5, 4, 16, 16\) is not that of images"):
        own_images.shape_of(tmp_path / "a.npy")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.png").write_text("none")
    with pytest.raises(readers.DataError, match="a.png: is no PNG"):
        own_images.shape_of(tmp_path / "texts")
    for most, read in ((12 * 64, True), (12 * 64 - 1, False)):
        monkeypatch.setattr(image_files, "MAX_BYTES", most)
        if read:
            assert len(load(folder)) == 6
        else:
            with pytest.raises(readers.DataError, match=r"12 images of shape \(1, 8, 8\) take more than 767 bytes"):
                load(folder)


def test_a_folder_that_holds_only_a_link_to_another_is_not_followed(folder, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "link").symlink_to(folder)
    with pytest.raises(readers.DataError, match="set/link: is no plain file; links to folders are not followed"):
        load(tmp_path / "set")


# The command line


def choice(path=None, **more):
    return datasets.Choice(path=path, **more)


def test_data_alone_is_enough(folder, tmp_path):
    """--data names the preset's set where its files are there, and else images."""
    assert choice(folder).load("fashion-mnist", GREY, "train").name == "images"
    np.save(tmp_path / "x.npy", picture(0, (4, 8, 8)))
    assert len(choice(tmp_path / "x.npy").load("cifar10", GREY, "train")) == 2
    with pytest.raises(readers.DataError, match="train-images-idx3-ubyte.gz: header says shape"):  # a part only
        choice(ASSETS / "fashion-mnist").load("fashion-mnist", (1, 28, 28), "train")
    for wrong in (choice(name="images"), choice(folder, download=True)):
        with pytest.raises(readers.DataError, match="needs --data PATH, .* and no --download"):
            wrong.load("mnist", GREY, "train")
    padded = choice(folder, pad=True).load("mnist", (1, 12, 12), "test")
    assert padded.images.shape[1:] == (1, 12, 12)


def job(*arguments, ends=0):
    """The main job with the tiny preset; its output."""
    done = subprocess.run([sys.executable, str(ROOT / "tests" / "helpers" / "tiny_run.py"), "--backends", "torch", "--steps", "5",
                           *map(str, arguments)], capture_output=True, text=True, timeout=600)
    assert done.returncode == ends, done.stderr + done.stdout
    return done.stdout if ends == 0 else done.stderr


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """300 colour PNGs of 40 x 30."""
    where = tmp_path_factory.mktemp("data") / "pngs"
    where.mkdir()
    for n, image in enumerate(datasets.load_subset("fashion-mnist", "test").images[:300, 0]):
        Image.fromarray(image).convert("RGB").resize((40, 30)).save(where / f"{n}.png")
    return where


@pytest.mark.slow
def test_pictures_reach_the_table_by_one_command(photographs, tmp_path):
    """A network is trained on them first, sampled from, and measured against them; its folder can be sampled again."""
    out = job("--data", photographs, "--image-size", 28, "--channels", 1, "--fit", 30, "--out", tmp_path / "first")
    assert "FID[fmnist-cnn]" in out and "weights: trained for 30 steps with torch on images of pngs, train (172 of 300)" in out
    metric = [row for row in rows.read(tmp_path / "first" / "rows") if row.kind == "metric"]
    assert {row.backend for row in metric} == {"real", "noise", "torch"}
    assert all(row.values["reference"] == "images of pngs, train (172 of 300), grey 28 x 28" for row in metric)
    fid = {row.backend: row.values["fid"] for row in metric}
    assert fid["real"] < fid["torch"] and fid["real"] < fid["noise"] / 5
    kept, = (tmp_path / "first" / "checkpoints").iterdir()
    job("--data", photographs, "--weights", kept, "--out", tmp_path / "again")
    again = {row.backend: row.values["fid"] for row in rows.read(tmp_path / "again" / "rows") if row.kind == "metric"}
    assert again["torch"] == pytest.approx(fid["torch"], rel=1e-6)


@pytest.mark.slow
def test_a_colour_network_of_another_size_is_not_measured_by_features_of_clothes(photographs, tmp_path):
    model = ModelConfig(sample_size=16, in_channels=3, out_channels=3, block_out_channels=(8, 16), norm_num_groups=4,
                        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)
    pipeline.save_pipeline(tmp_path / "net", weights.initialise(model, 0), model, DiffusionConfig(timesteps=20))
    asked = ("--data", photographs, "--weights", tmp_path / "net", "--out", tmp_path / "out")
    assert "say nothing of images of RGB 16 x 16: --metric none goes without" in job(*asked, ends=2)
    assert not (tmp_path / "out").exists()
    job(*asked, "--metric", "none")
    assert {row.kind for row in rows.read(tmp_path / "out" / "rows")} >= {"sample", "check"}
    assert not [row for row in rows.read(tmp_path / "out" / "rows") if row.kind == "metric"]
