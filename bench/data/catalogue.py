"""The named data sets: their canonical files with checksums, where they are found or fetched, how they are read.

A data set is one `Record`, in `RECORDS`.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from os.path import isfile  # False where a folder above can't be read, as a HOME of someone else's
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.data.readers import CIFAR_RECORD, IDX_UINT8, DataError, read_cifar, read_idx, read_tar
from bench.progress import on_terminal

Arrays = tuple[NDArray[np.uint8], NDArray[np.uint8]]  # images (N, C, H, W), labels (N,)


@dataclass(frozen=True)
class File:
    """One file: its shape, the SHA-256 of its (decompressed) bytes, and that of the published .gz."""

    name: str
    shape: tuple[int, ...]
    sha256: str
    download_sha256: str | None = None


@dataclass(frozen=True)
class Archive:
    """A .tar.gz that holds the files in `folder`, with the SHA-256 of its own bytes; `limit` bytes bound its contents."""

    name: str
    sha256: str
    folder: str
    limit: int
    unread: tuple[str, ...]  # names of the same data in a form that is not read here


@dataclass(frozen=True)
class Record:
    """All that is known of a data set. `splits` hold each split's files: IDX images and labels, or CIFAR-10's batches.

    `flip` says whether a horizontal flip leaves the distribution alone: true of photographs, false of digits and
    clothes, where flipped images are no samples of the data. `urls` are mirrors, tried in turn.
    """

    name: str
    flip: bool
    urls: tuple[str, ...]
    splits: Mapping[str, tuple[File, ...]]
    archive: Archive | None = None
    debian_package: str | None = None
    debian_folder: Path | None = None
    subset: Mapping[str, tuple[File, ...]] | None = None  # what ships with this code
    torchvision: str | None = None  # the name of its folder there


def _idx(prefix: str, count: int, images: tuple[str, str | None], labels: tuple[str, str | None]) -> tuple[File, File]:
    return (File(f"{prefix}-images-idx3-ubyte.gz", (count, 28, 28), *images),
            File(f"{prefix}-labels-idx1-ubyte.gz", (count,), *labels))


# The SHA-256 of the downloads belong to files whose MD5 are those in the README of zalandoresearch/fashion-mnist.
FASHION_MNIST = Record(
    name="fashion-mnist",
    flip=False,
    torchvision="FashionMNIST",
    urls=("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
    debian_package="dataset-fashion-mnist",
    debian_folder=Path("/usr/share/datasets/fashion-mnist"),
    splits={
        "train": _idx("train", 60000, ("c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                                       "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
                      ("bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
                       "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845")),
        "test": _idx("t10k", 10000, ("5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                                     "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
                     ("0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
                      "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5")),
    },
    subset={
        "train": _idx("train", 4000, ("62e2e19d021f05163d78c85386b15830d9fba1aa5aaf514f3466575609e82a4f", None),
                      ("9313669c6f6b3ea86a4595fa27ef3389f38c0d066987f7c6bdd74e6ea83d002f", None)),
        "test": _idx("t10k", 2000, ("15a92dd1e9b16ea361928086e77df4dfa890c255c00b5a8c8162c1040ce8eef1", None),
                     ("234596aeb6eb48133ec99a62541f90bc0728c9559a681f1e0638037462458f2c", None)),
    },
)

# MD5 of the .gz, as published: f68b3c2d.., d53e105e.. (train), 9fb629c4.., ec29112d.. (test). The home page no longer serves them.
MNIST = Record(
    name="mnist",
    flip=False,
    torchvision="MNIST",
    urls=("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
    splits={
        "train": _idx("train", 60000, ("ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                                       "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
                      ("65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                       "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c")),
        "test": _idx("t10k", 10000, ("0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                                     "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
                     ("ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
                      "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6")),
    },
)

# MD5 of the archive, as published: c32a1d4ab5d03f1284b67883e8d87530.
CIFAR10 = Record(
    name="cifar10",
    flip=True,
    urls=("https://www.cs.toronto.edu/~kriz/",),
    archive=Archive("cifar-10-binary.tar.gz", "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                    "cifar-10-batches-bin", 6 * 10000 * CIFAR_RECORD + (1 << 20),
                    unread=("cifar-10-python.tar.gz", "cifar-10-batches-py")),
    splits={
        "train": tuple(File(f"data_batch_{n}.bin", (10000, CIFAR_RECORD), digest) for n, digest in enumerate((
            "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
            "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
            "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
            "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
            "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
        ), 1)),
        "test": (File("test_batch.bin", (10000, CIFAR_RECORD),
                      "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"),),
    },
)
RECORDS = {record.name: record for record in (FASHION_MNIST, MNIST, CIFAR10)}


def count(files: tuple[File, ...]) -> int:
    """Number of images in a split's files."""
    return sum(file.shape[0] for file in files if len(file.shape) > 1)


def find(record: Record, files: tuple[File, ...], folder: Path) -> list[Path]:
    """Where a split's files are in `folder`: one path each, or that of the archive. Empty where one is missing.

    Looked for as published, and as browsers, archive tools and torchvision leave them: unpacked, with dots in the names, in a
    folder each, in `raw` or NAME/raw, in capitals.
    """
    inner = (record.archive.folder,) if record.archive else (f"{record.torchvision}/raw", "raw")
    wanted = {name for file in files for name in (file.name, file.name.removesuffix(".gz"))}
    there = {name: path for place in (*(folder / name for name in inner), folder) for name, path in _files(place, wanted).items()}
    found = [there.get(file.name) or there.get(file.name.removesuffix(".gz")) for file in files]
    if None not in found:
        return [path for path in found if path]
    return [folder / record.archive.name] if record.archive and isfile(folder / record.archive.name) else []


def _files(folder: Path, wanted: set[str]) -> dict[str, Path]:
    """The wanted files of a folder, or of a folder in it that has the file's name, by their name as published."""
    try:
        named = [(entry.name.lower().replace(".idx", "-idx"), entry) for entry in sorted(folder.iterdir())]
    except OSError:
        return {}
    return {name: path for name, entry in named if name in wanted for path in (entry / entry.name, entry) if isfile(path)}


def read(record: Record, files: tuple[File, ...], folder: Path) -> Arrays:
    """Images and labels of a split's files in `folder`, checked by SHA-256. Raises DataError."""
    if not (paths := find(record, files, folder)):
        raise DataError(_missing(record, files, folder))
    if record.archive and paths[0].name == record.archive.name:
        arrays = _read_archive(record.archive, files, paths[0])
    else:
        arrays = [_read_file(file, path) for file, path in zip(files, paths, strict=True)]
    if record.archive is None:
        images, labels = arrays
        return images[:, None], labels
    records = np.concatenate(arrays)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].copy()


def download(record: Record, files: tuple[File, ...], folder: Path) -> None:
    """Fetch what `folder` lacks of these files. pooch keeps a file only where its SHA-256 is the published one."""
    import pooch

    if find(record, files, folder):
        return
    wanted = [(record.archive.name, record.archive.sha256)] if record.archive else [(f.name, f.download_sha256) for f in files]
    for name, sha256 in wanted:
        failed = []
        for url in record.urls:
            try:
                pooch.retrieve(url + name, known_hash=f"sha256:{sha256}", fname=name, path=folder, progressbar=on_terminal())
                break
            except Exception as error:  # requests, urllib3, OSError and ValueError (checksum) all mean the same here
                failed.append(f"{url + name}: {(str(error) or type(error).__name__).splitlines()[0]}")
        else:
            raise DataError(f"download of {name} to {folder} failed: {'; '.join(failed)}")


def _missing(record: Record, files: tuple[File, ...], folder: Path) -> str:
    if record.archive is None:
        file = next(file for file in files if not find(record, (file,), folder))
        return f"{folder / file.name}: no such file"
    for name in record.archive.unread:
        if (folder / name).exists() or folder.name == name:
            return (f"{folder}: {name} holds pickles, which are never read: put {record.archive.name} beside it, from "
                    f"{record.urls[0]}{record.archive.name}")
    return f"{folder / record.archive.name}: no such file, nor {files[0].name} of it"


def _read_file(file: File, path: Path) -> NDArray[np.uint8]:
    if path.suffix == ".bin":
        array, header = read_cifar(path, file.shape), b""
    else:
        array = read_idx(path, file.shape)
        header = struct.pack(f">{1 + array.ndim}I", IDX_UINT8 << 8 | array.ndim, *array.shape)
    digest = hashlib.sha256(header + array.tobytes()).hexdigest()
    if digest != file.sha256:
        raise DataError(f"{path}: SHA-256 of its decompressed bytes is {digest}, expected {file.sha256}")
    return array


def _read_archive(archive: Archive, files: tuple[File, ...], path: Path) -> list[NDArray[np.uint8]]:
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if digest != archive.sha256:
        raise DataError(f"{path}: SHA-256 is {digest}, expected {archive.sha256}")
    found = read_tar(path, {f"{archive.folder}/{f.name}": math.prod(f.shape) for f in files}, archive.limit)
    arrays = []
    for file in files:
        body = found[f"{archive.folder}/{file.name}"]
        if (digest := hashlib.sha256(body).hexdigest()) != file.sha256:
            raise DataError(f"{path}: {file.name}: SHA-256 is {digest}, expected {file.sha256}")
        arrays.append(np.frombuffer(body, np.uint8).reshape(file.shape))
    return arrays
