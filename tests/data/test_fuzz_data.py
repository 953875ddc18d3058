"""Image files from strangers: whatever the bytes, a reader ends in DataError or in a right answer, soon and in bounded memory."""

from __future__ import annotations

import gzip
import hashlib
import io
import resource
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from contextlib import contextmanager
from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bench.data import catalogue, datasets, readers
from bench.data.image_files import read_image
from tests.helpers.fuzz import damaged, fuzz

SHAPE = (3, 8, 8)
PIXELS = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
IDX = struct.pack(">4I", 0x803, *SHAPE) + PIXELS.tobytes()
MEMORY = 4 << 20  # bytes of Python objects and arrays that reading such small files may take


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@contextmanager
def bounded(most):
    if most is None:
        yield
        return
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


def read(reader, path, content, *args, most: int | None = MEMORY):
    """What `reader` makes of these bytes, or None where it raises DataError, in one line that names the file."""
    path.write_bytes(content)
    with bounded(most):
        try:
            return reader(path, *args)
        except readers.DataError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            return None


def array(out, shape):
    assert isinstance(out, np.ndarray) and out.dtype == np.uint8 and out.shape == shape
    return out


# IDX


@fuzz()
@given(content=damaged(IDX) | st.binary(max_size=300))
def test_idx(folder, content):
    out = read(readers.read_idx, folder / "x", content, SHAPE)
    good = content[:16] == IDX[:16] and len(content) == len(IDX)
    assert (out is not None) == good
    assert out is None or array(out, SHAPE).tobytes() == content[16:]


@fuzz()
@given(content=damaged(gzip.compress(IDX, mtime=0)) | damaged(IDX).map(lambda b: gzip.compress(b, 1)) | st.binary(max_size=300)
       | damaged(IDX))
def test_gzipped_idx(folder, content):
    """Of that name, packed or unpacked by a browser."""
    out = read(readers.read_idx, folder / "x.gz", content, SHAPE)
    if out is not None:
        assert IDX[:16] + array(out, SHAPE).tobytes() == (content if content.startswith(b"\0\0") else gzip.decompress(content))


@fuzz()
@given(content=damaged(gzip.compress(IDX, mtime=0)) | damaged(IDX).map(lambda b: gzip.compress(b, 1)))
def test_checked_file_is_the_published_one_or_refused(folder, content):
    """Through the checksum: no damage that arrives."""
    labels = struct.pack(">2I", 0x801, 3) + b"\1\2\3"
    (folder / "labels.gz").write_bytes(gzip.compress(labels))
    files = tuple(catalogue.File(name, shape, hashlib.sha256(body).hexdigest()) for name, shape, body in (
        ("x.gz", SHAPE, IDX), ("labels.gz", (3,), labels)))
    record = replace(catalogue.RECORDS["mnist"], splits={"train": files})
    out = read(lambda path: catalogue.read(record, files, path.parent), folder / "x.gz", content)
    assert out is None or np.array_equal(out[0][:, 0], PIXELS)


# CIFAR-10


BATCH = np.random.default_rng(1).integers(0, 256, (1, readers.CIFAR_RECORD), np.uint8).tobytes()
MEMBERS = {"c/a.bin": len(BATCH), "c/b.bin": 5}


def tar(members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, kind, body in members:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(body), "/etc/passwd"
            archive.addfile(info, io.BytesIO(body))
    return out.getvalue()


TAR = tar([("c", tarfile.DIRTYPE, b""), ("c/a.bin", tarfile.REGTYPE, BATCH), ("c/b.bin", tarfile.REGTYPE, b"hello")])


@fuzz()
@given(content=damaged(BATCH) | st.binary(max_size=100))
def test_cifar_batch(folder, content):
    out = read(readers.read_cifar, folder / "x.bin", content, (1, readers.CIFAR_RECORD))
    assert (out is not None) == (len(content) == len(BATCH))
    assert out is None or array(out, (1, len(BATCH))).tobytes() == content


def check_members(out):
    assert {name: len(body) for name, body in out.items()} == MEMBERS


@fuzz()
@given(content=damaged(gzip.compress(TAR, mtime=0)) | damaged(TAR).map(lambda b: gzip.compress(b, 1)) | st.binary(max_size=300))
def test_tar(folder, content):
    out = read(readers.read_tar, folder / "x.tar.gz", content, MEMBERS, 30_000)
    if out is not None:
        check_members(out)


PARTS = st.lists(st.sampled_from(["c", "a.bin", "b.bin", "..", ".", "", "x" * 120]), min_size=1, max_size=4).map("/".join)
KINDS = st.sampled_from([tarfile.REGTYPE, tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE,
                         tarfile.CHRTYPE, tarfile.GNUTYPE_SPARSE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
GOOD = [("c/a.bin", tarfile.REGTYPE, BATCH), ("c/b.bin", tarfile.REGTYPE, b"hello")]
RENAMING = (tarfile.GNUTYPE_SPARSE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME)  # say what the next member is called
BODIES = st.sampled_from([b"hello", BATCH, b"", bytes(20_000)]) | st.binary(max_size=600)


@fuzz()
@given(members=st.lists(st.sampled_from(GOOD) | st.tuples(PARTS, KINDS, BODIES), max_size=3).map(lambda more: more + GOOD)
       | st.lists(st.tuples(PARTS | st.sampled_from(sorted(MEMBERS)), KINDS, BODIES), max_size=6))
def test_tar_members(folder, members):
    """Whole archives of strange members, with right checksums. (A body where there should be none can end an archive.)"""
    content = tar(members)
    out = read(readers.read_tar, folder / "x.tar.gz", gzip.compress(content, 1), MEMBERS, 30_000)
    if out is not None:
        check_members(out)
        if not any(kind in RENAMING or (kind != tarfile.REGTYPE and body) for _, kind, body in members):
            assert not any(name.rstrip("/").startswith("/") or ".." in PurePosixPath(name).parts for name, _, _ in members)


# Arrays


def npy(array):
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


NPY = npy(PIXELS)
HEADERS = st.builds(
    "{{'descr': {}, 'fortran_order': {}, 'shape': {}, }}".format,
    st.sampled_from(["'|u1'", "'<f8'", "'|O'", "[('a', '|u1')]", "'|V9'", "('|u1', (9,))", "1", "''"]),
    st.sampled_from(["True", "False", "0", "None"]),
    st.lists(st.integers(-2, 10) | st.integers(), max_size=5).map(lambda v: str(tuple(v)))
    | st.sampled_from(["(True,)", "(1.5, 2)", "()", "[3, 8, 8]", "((((", "-" * 3000 + "1", "'a'", "(" * 95 + ")" * 95]))


def with_header(header, body):
    content = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(content)) + content + body


ARRAY = (damaged(NPY) | damaged(npy(np.asfortranarray(PIXELS))) | st.builds(with_header, HEADERS, st.binary(max_size=200))
         | st.binary(max_size=300))


def zipped(content, name="images.npy", method=zipfile.ZIP_DEFLATED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr(zipfile.ZipInfo(name), content, method)
    return out.getvalue()


def check_array(out, content):
    """It holds the file's last bytes, in one order or the other."""
    array(out, out.shape)
    assert out.size > 0 and content.endswith((out.tobytes("C"), out.tobytes("F")))


@fuzz()
@given(content=ARRAY)
def test_npy(folder, content):
    out = read(readers.read_npy, folder / "x.npy", content)
    if out is not None:
        check_array(out, content)


@fuzz()
@given(content=ARRAY, method=st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2]))
def test_npz_member(folder, content, method):
    out = read(readers.read_npz, folder / "x.npz", zipped(content, method=method), "images", most=8 << 20)
    if out is not None:
        check_array(out, content)


@fuzz()
@given(content=damaged(zipped(NPY)) | damaged(zipped(NPY, method=zipfile.ZIP_STORED)) | st.binary(max_size=300))
def test_npz(folder, content):
    """Names and contents alike; a change that CRC-32 doesn't see arrives in a name or a time, not in pixels."""
    names = read(readers.npz_names, folder / "x.npz", content)
    for name in names or []:
        out = read(readers.read_npz, folder / "x.npz", content, name)
        assert out is None or np.array_equal(out, PIXELS)


# Pictures


def picture(kind, mode="RGB", **options):
    out = io.BytesIO()
    pixels = np.random.default_rng(2).integers(0, 256, (12, 16, 4), np.uint8)
    Image.fromarray(pixels, "RGBA").convert(mode).save(out, kind, **options)
    return out.getvalue()


def chunks(png):
    """Kind and body of each chunk."""
    out, at = [], 8
    while at < len(png):
        length = int.from_bytes(png[at:at + 4], "big")
        out.append((png[at + 4:at + 8], png[at + 8:at + 8 + length]))
        at += 12 + length
    return out


EXIF = Image.Exif()
EXIF[0x0112], EXIF[0x011A], EXIF[0x010E] = 6, 72.5, "a phone"
EXIF = EXIF.tobytes()


@st.composite
def png_with_right_checksums(draw):
    """Chunks damaged inside, or inside their compressed data, dropped, repeated or swapped."""
    parts = chunks(picture("PNG", draw(st.sampled_from(["L", "RGB", "RGBA", "P", "1", "LA"]))))
    if draw(st.booleans()):
        n = [kind for kind, _ in parts].index(b"IDAT")
        parts[n] = b"IDAT", zlib.compress(draw(damaged(zlib.decompress(parts[n][1]))))
    for _ in range(draw(st.integers(0, 3))):
        n = draw(st.integers(0, len(parts) - 1))
        kind, body = parts[n]
        kinds = [kind, kind, b"IDAT", b"PLTE", b"tRNS", b"acTL", b"fcTL", b"iCCP", b"zTXt"]
        parts[n] = draw(st.sampled_from(kinds)), draw(damaged(body))
        if draw(st.booleans()):
            parts.insert(draw(st.integers(0, len(parts))), parts[n])
    packed = b"".join(struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in parts)
    return b"\x89PNG\r\n\x1a\n" + packed


PICTURES = {
    "png": st.one_of(*(damaged(picture("PNG", mode)) for mode in ("L", "RGB", "RGBA", "P"))),
    "png with right checksums": png_with_right_checksums(),
    "jpeg": damaged(picture("JPEG")) | damaged(picture("JPEG", "L", progressive=True)) | damaged(picture("JPEG", "CMYK")),
    "jpeg of a phone": damaged(picture("MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])),
    "jpeg with exif": damaged(picture("JPEG", exif=EXIF)) | damaged(EXIF).map(lambda exif: picture("JPEG", exif=exif)),
    "webp": damaged(picture("WEBP")) | damaged(picture("WEBP", "RGBA", lossless=True)),
    "gif": damaged(picture("GIF", "P")) | damaged(picture("GIF", "P", transparency=3)),
    "bmp": damaged(picture("BMP")) | damaged(picture("BMP", "1")) | damaged(picture("BMP", "P")),
    "ppm": damaged(picture("PPM")) | damaged(picture("PPM", "L")) | damaged(picture("PPM", "1"))
    | damaged(b"P2 8 8 255 " + b"7 " * 64),
    "any": st.binary(max_size=300),
}


@pytest.mark.parametrize("kind", PICTURES)
@pytest.mark.parametrize("channels", [1, 3])
def test_picture(kind, channels, folder):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @fuzz(15)
    @given(content=PICTURES[kind])
    def check(content):
        out = read(read_image, folder / "x", content, (channels, 8, 8), most=None)
        if out is not None:
            array(out, (channels, 8, 8))

    check()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in KiB; tracemalloc does not see Pillow's memory
    assert after - before < 1.5e6


@fuzz(15)
@given(spoilt=st.one_of(*PICTURES.values()), name=st.sampled_from(["x.png", "x.jpg", "X", "x.dat", "x y.gif", "\u00fc.png"]))
def test_folder_of_pictures(tmp_path_factory, spoilt, name):
    """One bad file among good ones: the whole folder is refused, and the line names the file."""
    where = tmp_path_factory.mktemp("folder")
    for n in range(3):
        Image.fromarray(np.random.default_rng(10 + n).integers(0, 256, (8, 8, 3), np.uint8)).save(where / f"{n}.png")
    (where / name).write_bytes(spoilt)
    counts = []
    for split in datasets.SPLITS:
        try:
            counts.append(len(datasets.load("images", split, where, shape=(3, 8, 8))))
        except readers.DataError as error:
            assert str(where / name) in str(error)
            return
    assert counts == [2, 2]


# Splits


WORDS = ["train", "Training", "x_train", "test", "val", "x_val", "validation", "test_images", "images", "arr_0", "y_train"]


def check_splits(path):
    """Refused in one line, or no image is in both splits."""
    try:
        train, test = datasets.load_images(path, (1, 8, 8))
    except readers.DataError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return
    held_out = {image.tobytes() for image in test.images}
    assert len(train) and len(test) and not held_out & {image.tobytes() for image in train.images}


@fuzz()
@given(names=st.lists(st.sampled_from(WORDS), unique=True, min_size=1, max_size=4), copies=st.integers(0, 3), data=st.data())
def test_names_and_copies_of_arrays(tmp_path_factory, names, copies, data):
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    arrays = {name: np.random.default_rng(seed).integers(0, 256, (12, 8, 8), np.uint8) for seed, name in enumerate(names)}
    for name in data.draw(st.lists(st.sampled_from(names), max_size=copies)):
        arrays[name][data.draw(st.integers(0, 11))] = arrays[data.draw(st.sampled_from(names))][0]
    np.savez(path, **arrays)
    check_splits(path)


PLACES = st.lists(st.sampled_from([*WORDS[:8], "cats", ".hidden", "raw"]), max_size=3).map("/".join)
FILES = st.tuples(PLACES, st.sampled_from(["0.png", "1.PNG", "2", "labels.csv", "Thumbs.db", ".x", "a\nb.png", "caf\udce9.png"]),
                  st.integers(0, 9))


@fuzz()
@given(files=st.lists(FILES, max_size=12, unique_by=lambda file: file[:2]))
def test_names_and_copies_in_folders(tmp_path_factory, files):
    where = tmp_path_factory.mktemp("tree")
    for place, name, seed in files:
        (where / place).mkdir(parents=True, exist_ok=True)
        grey = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8), np.uint8))
        grey.save(where / place / name, format="PNG")
    check_splits(where)
