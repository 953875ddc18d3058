"""Data sets: the real bytes arrive, damaged ones do not, pixels survive the way to [-1, 1] and back."""

import dataclasses
import functools
import gzip
import hashlib
import http.server
import io
import os
import shutil
import struct
import tarfile
import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.data import catalogue, datasets, pixels, readers
from bench.data.readers import read_tar
from reference.config import ConfigError

RECORD = catalogue.FASHION_MNIST
SHAPE = (3, 28, 28)


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch, tmp_path):
    """Only the shipped subset exists, whatever this machine has."""
    for record in list(catalogue.RECORDS.values()):
        empty = dataclasses.replace(record, debian_folder=tmp_path / "no-package", urls=("http://127.0.0.1:9/",))
        monkeypatch.setitem(catalogue.RECORDS, record.name, empty)
    monkeypatch.delenv(datasets.ENVIRONMENT, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return catalogue.RECORDS[RECORD.name]


def idx(array, magic=None, dims=None):
    magic = 0x800 | array.ndim if magic is None else magic
    return struct.pack(f">{1 + array.ndim}I", magic, *(dims or array.shape)) + array.tobytes()


def some_pixels(shape=SHAPE):
    return np.arange(np.prod(shape)).astype(np.uint8).reshape(shape)


@pytest.mark.parametrize("split, n, digest", [
    ("train", 4000, "583ebdeb37a04d513e491295e541fa9baef98d478f20504238373481b3ab0c7d"),
    ("test", 2000, None),
])
def test_shipped_subset_is_the_last_resort(split, n, digest):
    loaded = datasets.load("fashion-mnist", split)
    assert loaded.images.shape == (n, 1, 28, 28) and loaded.images.dtype == np.uint8 and len(loaded) == n
    assert np.bincount(loaded.labels).tolist() == [n // 10] * 10
    assert loaded.provenance == f"fashion-mnist shipped subset {split} ({n})"
    assert not loaded.flip
    assert digest in (None, loaded.sha256)
    with pytest.raises(ValueError, match="read-only"):
        loaded.images[0] = 0


def test_subset_is_part_of_the_published_data():
    if not all((RECORD.debian_folder / file.name).exists() for pair in RECORD.splits.values() for file in pair):
        pytest.skip("needs the Debian package dataset-fashion-mnist")
    catalogue.RECORDS[RECORD.name] = RECORD
    for split, first in (("train", 30000), ("test", 0)):
        full, part = datasets.load("fashion-mnist", split), datasets.load_subset("fashion-mnist", split)
        assert full.provenance.endswith("Debian package dataset-fashion-mnist")
        rows = {image.tobytes(): int(label) for image, label in zip(full.images[first:], full.labels[first:],
                                                                    strict=True)}
        assert all(rows.get(image.tobytes()) == label for image, label in zip(part.images, part.labels, strict=True))


@pytest.fixture
def small(monkeypatch, nothing_installed, tmp_path):
    """A record of three images in a folder of its own; returns (record, folder)."""
    images, labels = some_pixels(), np.array([1, 2, 3], np.uint8)
    folder = tmp_path / "data"
    folder.mkdir()
    files = []
    for name, array in (("train-images-idx3-ubyte.gz", images), ("train-labels-idx1-ubyte.gz", labels)):
        (folder / name).write_bytes(gzip.compress(idx(array)))
        files.append(catalogue.File(name, array.shape, hashlib.sha256(idx(array)).hexdigest(), "0" * 64))
    record = dataclasses.replace(nothing_installed, splits={"train": tuple(files)})
    monkeypatch.setitem(catalogue.RECORDS, record.name, record)
    return record, folder


def test_named_folder_environment_cache_and_package(small, monkeypatch, tmp_path):
    record, folder = small
    by_name = datasets.load("fashion-mnist", "train", folder)
    assert by_name.provenance == "fashion-mnist full train (3), folder data"
    np.testing.assert_array_equal(by_name.images[:, 0], some_pixels())
    monkeypatch.setenv(datasets.ENVIRONMENT, str(folder))
    assert datasets.load("fashion-mnist", "train").sha256 == by_name.sha256
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "fashion-mnist").symlink_to(folder)
    monkeypatch.setenv(datasets.ENVIRONMENT, str(tmp_path / "all"))
    assert datasets.load("fashion-mnist", "train").sha256 == by_name.sha256
    monkeypatch.delenv(datasets.ENVIRONMENT)
    monkeypatch.setitem(catalogue.RECORDS, record.name, dataclasses.replace(record, debian_folder=folder))
    assert datasets.load("fashion-mnist", "train").provenance.endswith("Debian package dataset-fashion-mnist")
    cache = tmp_path / "cache" / "ddim-bench" / "fashion-mnist"
    shutil.copytree(folder, cache)
    assert datasets.load("fashion-mnist", "train").provenance.endswith("downloaded")


def test_a_folder_that_is_given_is_the_place_itself(small):
    """Also where it holds a folder of the set's name, in which $DDIM_BENCH_DATA would look."""
    _, folder = small
    (folder / "fashion-mnist").mkdir()
    np.testing.assert_array_equal(datasets.load("fashion-mnist", "train", folder).images[:, 0], some_pixels())


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_cache_that_cant_be_read_is_passed_over(name, tmp_path, monkeypatch):
    """As below a HOME of somebody else's; root may read all, so the system's answer is played."""
    stat = os.stat

    def refused(path, *args, **more):
        if not isinstance(path, int) and os.fspath(path).startswith(str(tmp_path / "cache")):
            raise PermissionError(13, "Permission denied", path)
        return stat(path, *args, **more)

    monkeypatch.setattr(os, "stat", refused)
    with pytest.raises(ConfigError, match="is nowhere found: --download fetches it"):
        datasets.load(name, "train")
    assert len(datasets.load("fashion-mnist", "train")) == 4000


def test_plain_files_are_read_too(small):
    _, folder = small
    for path in list(folder.iterdir()):
        (folder / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    assert len(datasets.load("fashion-mnist", "train", folder)) == 3


AS_PEOPLE_HAVE_THEM = {
    "unpacked, dots in the names": (lambda name: name.removesuffix(".gz").replace("-idx", ".idx"), True),
    "unpacked by a browser, which left the name": (lambda name: name, True),
    "torchvision's": (lambda name: f"FashionMNIST/raw/{name.removesuffix('.gz')}", True),
    "torchvision's, packed": (lambda name: f"raw/{name}", False),
    "a folder for each file": (lambda name: f"{name.removesuffix('.gz')}/{name.removesuffix('.gz')}", True),
    "capitals": (lambda name: name.upper(), False),
}


@pytest.mark.parametrize("case", AS_PEOPLE_HAVE_THEM)
def test_files_are_found_as_people_have_them(case, small, tmp_path):
    _, folder = small
    renamed, unpacked = AS_PEOPLE_HAVE_THEM[case]
    for path in list(folder.iterdir()):
        new = tmp_path / "other" / renamed(path.name)
        new.parent.mkdir(parents=True, exist_ok=True)
        new.write_bytes(gzip.decompress(path.read_bytes()) if unpacked else path.read_bytes())
    there = datasets.load("fashion-mnist", "train", tmp_path / "other")
    assert there.sha256 == datasets.load("fashion-mnist", "train", folder).sha256
    assert datasets.Choice(path=tmp_path / "other").load("fashion-mnist", (1, 28, 28), "train").name == "fashion-mnist"
    new.unlink()
    with pytest.raises(readers.DataError, match="train-(images|labels)-idx.*: no such file"):
        datasets.load("fashion-mnist", "train", tmp_path / "other")


def test_altered_pixel_is_refused(small):
    _, folder = small
    images = some_pixels()
    images[1, 2, 3] ^= 1
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
    with pytest.raises(readers.DataError, match=r"train-images-idx3-ubyte.gz: SHA-256 .* expected"):
        datasets.load("fashion-mnist", "train", folder)


def test_named_folder_without_the_files_is_an_error(tmp_path):
    with pytest.raises(readers.DataError, match="train-images-idx3-ubyte.gz: no such file"):
        datasets.load("fashion-mnist", "train", tmp_path)


def test_failed_download_is_one_line(tmp_path):
    with pytest.raises(readers.DataError, match=r"failed: http://127.0.0.1:9/train-images") as caught:
        datasets.load("fashion-mnist", "train", tmp_path, download=True)
    assert "\n" not in str(caught.value)


def test_what_is_there_is_not_fetched_and_an_archive_is_fetched_whole(small, monkeypatch, tmp_path):
    """All mirrors are down."""
    assert len(datasets.load("fashion-mnist", "train", small[1], download=True)) == 3
    record, asked = catalogue.RECORDS["cifar10"], []
    monkeypatch.setattr("pooch.retrieve", lambda url, *, known_hash, fname, path, progressbar: asked.append(
        (url, known_hash, fname, path)))
    catalogue.download(record, record.splits["test"], tmp_path)
    name = "cifar-10-binary.tar.gz"
    assert asked == [(f"http://127.0.0.1:9/{name}", f"sha256:{record.archive.sha256}", name, tmp_path)]


def test_a_published_sets_own_copies_are_said_and_never_refused(small, monkeypatch):
    record, folder = small
    monkeypatch.setitem(catalogue.RECORDS, record.name, dataclasses.replace(record, splits={
        split: record.splits["train"] for split in ("train", "test")}))
    line = "fashion-mnist: 3 of its 3 held-out images are training images too"
    with pytest.warns(UserWarning, match=f"^{line}$"):
        train, test = datasets.Choice(path=folder).both("fashion-mnist", (1, 28, 28))
    assert (train.notes, test.notes) == ((), (line,))


def test_download_keeps_only_the_published_bytes(small, tmp_path):
    """A server with other bytes is refused by checksum, the right ones are kept and read."""
    record, folder = small
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        urls = ("http://127.0.0.1:9/", f"http://127.0.0.1:{server.server_address[1]}/")  # the first mirror is down
        catalogue.RECORDS[record.name] = dataclasses.replace(record, urls=urls)
        with pytest.raises(readers.DataError, match="failed"):
            datasets.load("fashion-mnist", "train", tmp_path / "refused", download=True)
        assert not list(tmp_path.glob("refused/*"))
        good = tuple(dataclasses.replace(
            file, download_sha256=hashlib.sha256((folder / file.name).read_bytes()).hexdigest()
        ) for file in record.splits["train"])
        catalogue.RECORDS[record.name] = dataclasses.replace(record, urls=urls, splits={"train": good})
        assert datasets.load("fashion-mnist", "train", download=True).provenance.endswith("downloaded")
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("name, split, message", [("cifar11", "train", "'cifar11' is unknown"),
                                                  ("fashion-mnist", "dev", "'dev' of fashion-mnist is unknown")])
def test_unknown_names(name, split, message):
    with pytest.raises(readers.DataError, match=message):
        datasets.load(name, split)
    assert issubclass(readers.DataError, ConfigError)


DAMAGED = {
    "truncated gzip": (gzip.compress(idx(some_pixels()))[:-60], "cannot be read"),
    "no gzip at all": (b"<html>not found</html>", "cannot be read"),
    "flipped bit inside": (b"".join((gzip.compress(idx(some_pixels()), 0)[:40], b"\xff",
                                     gzip.compress(idx(some_pixels()), 0)[41:])), "cannot be read"),
    "empty": (gzip.compress(b""), "ends after 0 bytes, inside its 16-byte header"),
    "data too short": (gzip.compress(idx(some_pixels())[:-1]), "ends after 2351 of 2352 bytes"),
    "wrong magic": (gzip.compress(idx(some_pixels(), magic=0x801)), "magic number 0x00000801 is not 0x00000803"),
    "float data": (gzip.compress(idx(some_pixels(), magic=0xD03)), "magic number 0x00000d03"),
    "claims 2**96 bytes": (gzip.compress(idx(some_pixels(), dims=(2**32 - 1,) * 3)), "header says shape"),
    "claims fewer images": (gzip.compress(idx(some_pixels(), dims=(2, 28, 28))), "header says shape"),
    "wrong picture size": (gzip.compress(idx(some_pixels(), dims=(3, 14, 56))), "header says shape"),
    "one byte too many": (gzip.compress(idx(some_pixels()) + b"\0"), "holds more than the 2352 bytes"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_file_is_one_line_with_its_name(case, tmp_path):
    content, reason = DAMAGED[case]
    path = tmp_path / "images.gz"
    path.write_bytes(content)
    with pytest.raises(readers.DataError, match=reason) as caught:
        readers.read_idx(path, SHAPE)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("payload", [idx(some_pixels()), idx(some_pixels(), dims=(2**31, 2**8, 2**8))], ids=["data", "header"])
def test_gzip_bomb_costs_no_memory(payload, tmp_path):
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(payload + bytes(200_000_000), 1))
    tracemalloc.start()
    with pytest.raises(readers.DataError):
        readers.read_idx(path, SHAPE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


def cifar(folder, monkeypatch, contents=None, plain=False):
    """Two batches of three records and a test batch of two, as an archive or as plain files; the record knows their hashes."""
    rng = np.random.default_rng(0)
    batches = {name: rng.integers(0, 256, (n, 3073), np.uint8) for name, n in (("data_batch_1.bin", 3), ("data_batch_2.bin", 3),
                                                                              ("test_batch.bin", 2))}
    files = {name: catalogue.File(name, a.shape, hashlib.sha256(a.tobytes()).hexdigest()) for name, a in batches.items()}
    folder.mkdir()
    archive = catalogue.RECORDS["cifar10"].archive
    path = folder / archive.name
    if plain:
        (folder / archive.folder).mkdir()
        for name, a in batches.items():
            (folder / archive.folder / name).write_bytes(a.tobytes())
        digest = "0" * 64
    else:
        path.write_bytes(tar(contents or {f"{archive.folder}/{name}": a.tobytes() for name, a in batches.items()}))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    record = dataclasses.replace(catalogue.RECORDS["cifar10"], archive=dataclasses.replace(archive, sha256=digest),
                                 splits={"train": (files["data_batch_1.bin"], files["data_batch_2.bin"]),
                                         "test": (files["test_batch.bin"],)})
    monkeypatch.setitem(catalogue.RECORDS, "cifar10", record)
    return batches, path


def tar(contents, **fields):
    """A .tar.gz of names and bytes; `fields` are set on every member."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, body in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(body)
            for field, value in fields.items():
                setattr(member, field, value)
            archive.addfile(member, io.BytesIO(body))
    return out.getvalue()


@pytest.mark.parametrize("plain", [False, True])
def test_cifar10_records_become_labels_and_planes(plain, monkeypatch, tmp_path):
    batches, _ = cifar(tmp_path / "data", monkeypatch, plain=plain)
    loaded = datasets.load("cifar10", "train", tmp_path / "data")
    assert loaded.images.shape == (6, 3, 32, 32) and loaded.flip and "cifar10 full train (6)" in loaded.provenance
    for n, (name, row) in enumerate([(f"data_batch_{b}.bin", r) for b in (1, 2) for r in range(3)]):
        assert loaded.labels[n] == batches[name][row, 0]
        red, green, blue = batches[name][row, 1:1025], batches[name][row, 1025:2049], batches[name][row, 2049:]
        np.testing.assert_array_equal(loaded.images[n].reshape(3, -1), [red, green, blue])
        assert loaded.images[n, 1, 5, 7] == green[5 * 32 + 7]
    np.testing.assert_array_equal(datasets.load("cifar10", "test", tmp_path / "data").labels, batches["test_batch.bin"][:, 0])
    with pytest.raises(ValueError, match="read-only"):
        loaded.images[0] = 0


def test_cifar10_archive_is_checked_before_it_is_opened(monkeypatch, tmp_path):
    _, path = cifar(tmp_path / "data", monkeypatch)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    monkeypatch.setattr(catalogue, "read_tar", lambda *_: pytest.fail("opened"))
    with pytest.raises(readers.DataError, match="cifar-10-binary.tar.gz: SHA-256 is"):
        datasets.load("cifar10", "train", tmp_path / "data")


def test_altered_cifar10_batch_is_refused(monkeypatch, tmp_path):
    _, path = cifar(tmp_path / "data", monkeypatch, plain=True)
    batch = path.parent / "cifar-10-batches-bin" / "data_batch_2.bin"
    batch.write_bytes(batch.read_bytes()[:-1] + b"x")
    with pytest.raises(readers.DataError, match="data_batch_2.bin: SHA-256"):
        datasets.load("cifar10", "train", tmp_path / "data")


@pytest.mark.parametrize("name", ["cifar-10-python.tar.gz", "cifar-10-batches-py"])
def test_cifar10_pickles_are_never_read(name, tmp_path):
    (tmp_path / name).mkdir()
    with pytest.raises(readers.DataError, match=rf"{name} holds pickles.*put cifar-10-binary.tar.gz"):
        datasets.load("cifar10", "train", tmp_path)
    with pytest.raises(readers.DataError, match="pickles"):
        datasets.load("cifar10", "train", tmp_path / name)


WANTED = {"a/x.bin": 4}
TARS = {
    "outside": (tar({"../x.bin": b"abcd", "a/x.bin": b"abcd"}), r"member '../x.bin' lies outside"),
    "absolute": (tar({"/etc/x.bin": b"abcd"}), "member '/etc/x.bin' lies outside"),
    "a link": (tar({"a/x.bin": b""}, type=tarfile.SYMTYPE, linkname="/etc/passwd"), "must be a plain file of 4"),
    "a device": (tar({"a/x.bin": b""}, type=tarfile.CHRTYPE), "must be a plain file of 4"),
    "wrong size": (tar({"a/x.bin": b"abc"}), "of 3 bytes must be a plain file of 4"),
    "absent": (tar({"a/y.bin": b"abcd"}), "has no member a/x.bin"),
    "cut off": (tar({"a/x.bin": b"abcd"})[:-20], "cannot be read"),
    "no archive": (b"<html>", "cannot be read"),
    "bomb before it": (tar({"a/big": bytes(50_000_000), "a/x.bin": b"abcd"}), "larger than they should be"),
    "bomb in it": (tar({"a/x.bin": bytes(50_000_000)}), "of 50000000 bytes must be"),
}


@pytest.mark.parametrize("case", TARS)
def test_hostile_archive_is_one_line(case, tmp_path):
    content, reason = TARS[case]
    path = tmp_path / "x.tar.gz"
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(readers.DataError, match=reason) as caught:
        read_tar(path, WANTED, 100_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(path) in str(caught.value) and "\n" not in str(caught.value) and peak < 2_000_000
    assert list(tmp_path.iterdir()) == [path]
    path.write_bytes(tar({"a/y.bin": b"....", "a/x.bin": b"abcd"}))
    assert read_tar(path, WANTED, 100_000) == {"a/x.bin": b"abcd"}


def test_sets_without_a_shipped_part_say_how_to_get_them():
    for name, file in (("mnist", "train-images-idx3-ubyte.gz"), ("cifar10", "cifar-10-binary.tar.gz")):
        with pytest.raises(readers.DataError, match=rf"{name}: {file} is nowhere found: --download"):
            datasets.load(name, "train")


def test_what_is_known_of_the_named_sets():
    for name, shape, digits in (("mnist", (60000, 28, 28), 64), ("cifar10", (10000, 3073), 64)):
        record = catalogue.RECORDS[name]
        files = [file for split in record.splits.values() for file in split]
        assert files[0].shape == shape and all(len(file.sha256) == digits for file in files)
        assert len({file.sha256 for file in files}) == len(files)
    assert catalogue.RECORDS["cifar10"].flip and not catalogue.RECORDS["mnist"].flip
    assert catalogue.RECORDS["cifar10"].archive.limit > 6 * 30_730_000


def test_padding_to_32(small):
    _, folder = small
    plain = datasets.load("fashion-mnist", "train", folder)
    padded = datasets.load("fashion-mnist", "train", folder, shape=(1, 32, 32), pad=True)
    assert padded.images.shape == (3, 1, 32, 32) and padded.provenance.endswith("padded to 32")
    np.testing.assert_array_equal(padded.images[..., 2:30, 2:30], plain.images)
    edge = padded.images.copy()
    edge[..., 2:30, 2:30] = 0
    assert not edge.any() and pixels.to_float(padded.images)[0, 0, 0, 0] == -1 and padded.sha256 != plain.sha256
    for shape, pad, reason in (((1, 32, 32), False, "--pad surrounds"), ((3, 32, 32), True, "takes"), ((1, 24, 24), True, "takes")):
        with pytest.raises(readers.DataError, match=reason):
            datasets.load("fashion-mnist", "train", folder, shape=shape, pad=pad)


def test_every_pixel_value_survives_the_way_there_and_back():
    grey = np.arange(256, dtype=np.uint8)
    x = pixels.to_float(grey)
    assert x.dtype == np.float32 and x[0] == -1 and x[255] == 1
    np.testing.assert_array_equal(pixels.to_uint8(x), grey)


def test_to_uint8_clips_and_rounds_half_to_even():
    # (x + 1) 127.5 is 0.5, 1.5, 126.5 and 127.5; truncation and "+ 128" give other values.
    x = np.array([0.5, 1.5, 126.5, 127.5]) / 127.5 - 1
    exact = (x + 1) * 127.5 == [0.5, 1.5, 126.5, 127.5]
    np.testing.assert_array_equal(pixels.to_uint8(x)[exact], np.array([0, 2, 126, 128])[exact])
    assert exact[-1] and exact.sum() >= 2
    np.testing.assert_array_equal(pixels.to_uint8(np.array([-7.0, 7.0], np.float32)), [0, 255])


@given(st.floats(-3, 3))
def test_to_uint8_is_the_nearest_grey(x):
    grey = int(pixels.to_uint8(np.array(x)))
    assert abs(grey - (min(max(x, -1), 1) + 1) * 127.5) <= 0.5


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_to_uint8_refuses_what_is_no_picture(bad):
    with pytest.raises(readers.DataError, match="1 of 2 values are not finite"):
        pixels.to_uint8(np.array([0, bad]))


def test_a_folder_that_is_given_comes_before_that_of_the_environment(small, monkeypatch, tmp_path):
    _, folder = small
    monkeypatch.setenv(datasets.ENVIRONMENT, str(tmp_path / "absent"))
    assert len(datasets.load("fashion-mnist", "train", folder)) == 3
    with pytest.raises(ConfigError, match="absent"):
        datasets.load("fashion-mnist", "train")


def test_files_at_the_top_come_before_those_of_other_programs_below(small):
    """Both may be there; what lies where it was asked for is meant."""
    _, folder = small
    (folder / "raw").mkdir()
    (folder / "raw" / "train-images-idx3-ubyte.gz").write_bytes(b"damaged")
    np.testing.assert_array_equal(datasets.load("fashion-mnist", "train", folder).images[:, 0], some_pixels())


def test_colour_and_size_are_said_as_height_by_width():
    assert [pixels.in_words((c, 3, 5)) for c in (1, 2, 3)] == ["grey 3 x 5", "2 channels 3 x 5", "RGB 3 x 5"]


def test_an_archive_may_have_all_that_its_limit_says(tmp_path):
    (path := tmp_path / "x.tar.gz").write_bytes(tar({"a/x.bin": b"abcd"}))
    whole = len(gzip.decompress(path.read_bytes()))
    assert read_tar(path, WANTED, whole) == {"a/x.bin": b"abcd"}
    with pytest.raises(readers.DataError, match="larger than they should be"):
        read_tar(path, WANTED, whole - 1)
