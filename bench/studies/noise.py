"""How far chance alone moves FID: `ddim-bench study noise`, `ddim-bench study noise --images NAME=samples.npy`.

FID of fixed images against their number n: many parts of one set of images are measured, each against the same reference.
Their spread tells which differences between two figures mean something at that n; their mean, how large the bias is; and the
extrapolation from n/2 and n to infinitely many images (`bench.metric.fid`), how much of it that removes. Held-out real images
are always there, images of a network by `--images`. A study is a row of kind "study"; `noise.md` and its figure
show the last of every name.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import files, streams
from bench.data import datasets
from bench.data.pixels import drawn_by, read_samples
from bench.metric import fid, fmnist_cnn
from bench.metric.resampling import resampled
from bench.paths import printable
from bench.records import rows
from bench.records.notebook import stamped
from bench.records.rows import AnyRow
from bench.report import noise_page
from bench.timing import memory
from reference.config import require

SIZES = (128, 256, 512, 1024, 2048, 4096, 8192)
PARTS = 64  # of one size, at most
DRAWN = 16  # random parts of a size that fits only once


def parts(total: int, n: int, seed: int) -> list[NDArray[np.int64]]:
    """Indices of parts of n of `total` images: disjoint ones, or random ones where it fits only once, or the whole."""
    if total // n > 1:
        order = streams.permutation(seed, "subset", total, 0)
        return [order[start:start + n] for start in range(0, min(total // n, PARTS) * n, n)]
    return [streams.permutation(seed, "subset", total, 1 + i)[:n] for i in range(DRAWN if n < total else 1)]


def measure(found: fid.Features, target: fid.Statistics, seed: int) -> list[dict[str, Any]]:
    """FID of every part of features (N, d), and the mean of its halves where both are large enough; one entry a size, the last of
    which has the bootstrap's resamples too."""
    least, out = 2 * found.shape[1], []
    for n in sorted({*(n for n in SIZES if least <= n < len(found)), len(found)}):
        whole, half = [], []
        for part in parts(len(found), n, seed):
            whole.append(fid.distance(fid.statistics(found[part]), target))
            if n >= 2 * least:
                half.append(sum(fid.distance(fid.statistics(found[part[i:n // 2 * 2:2]]), target) for i in (0, 1)) / 2)
        out.append({"n": n, "disjoint": len(found) // n > 1, "fid": whole, "fid_half": half})
    out[-1]["resampled"] = resampled(found, target, seed)  # the whole set is one part and has no spread of its own
    return out


def study(name: str, images: fid.Images, provenance: str, seed: int, weights: Mapping[str, str]) -> AnyRow:
    """The row of one set of images, whole: also the seconds and memory of its features and of all its distances. `weights` is what
    `pixels.drawn_by` gives."""
    by = fmnist_cnn.extractor()
    target = fmnist_cnn.stored_statistics(fid.DEFAULT_REFERENCE)
    real = fid.subset_features()  # first: it loads the network
    began = time.perf_counter()
    found = fid.features(fmnist_cnn.convert(images)[0])
    half_way = time.perf_counter()
    fid.compare(found, target, real, seed)
    cost = {"features_seconds": half_way - began, "distances_seconds": time.perf_counter() - half_way,
            "peak_rss_bytes": memory.peak_memory()}
    config = {"study": "noise", "name": name, "images": provenance, "samples": len(images), "seed": seed,
              "reference": fid.DEFAULT_REFERENCE, "images_sha256": hashlib.sha256(images.tobytes()).hexdigest(),
              "extractor": by.name, "extractor_sha256": by.sha256, **weights}
    return stamped("study", "images", "noise", config, {"points": measure(found, target, seed), "cost": cost})


def run(images: Sequence[str], data: datasets.Choice, seed: int, out: Path, command: str) -> None:
    """Measure the held-out images and those of every NAME=FILE.npy in `images`, append their rows to `out`/rows and write the page.

    Raises ConfigError for a file that can't be measured; nothing is written then.
    """
    test = data.load("fashion-mnist", fmnist_cnn.SHAPE, "test")
    sets: dict[str, tuple[fid.Images, str, Mapping[str, str]]] = {noise_page.HELD_OUT: (test.images, test.provenance, {})}
    for text in images:
        name, _, path = text.rpartition("=")
        require(bool(name and path) and name not in sets, "--images", text, "must be NAME=FILE.npy, every name once")
        read, least = read_samples(Path(path)), 2 * fmnist_cnn.WIDTH
        require(len(read) >= least, "--images", f"{text}, {len(read)} images", f"must be at least {least}")
        sets[name] = read, Path(path).name, drawn_by(Path(path))
    for name, (measured, provenance, weights) in sets.items():
        rows.append(out / "rows", study(name, measured, provenance, seed, weights))
    studies = noise_page.newest(rows.read(out / "rows"))
    noise_page.figure(studies, out / "figures" / "noise.png")
    files.write_page(out / "noise.md", noise_page.render(studies, command, out))
    print(f"report: {printable(out / 'noise.md')}")
