"""Trains the extractor behind `FID[fmnist-cnn]` again and rewrites `bench/assets/`: `ddim-bench study extractor`.

Needs the full data set; takes minutes on two cores.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.data.datasets import Dataset, load, load_subset
from bench.metric import fmnist_cnn
from bench.metric.fmnist_cnn import RECORD, REFERENCES, STATISTICS, TRAINED_ON, WEIGHTS, network, scale, sha256
from bench.paths import command_line, require_clone
from bench.progress import tracked
from reference.config import require
from reference.frechet import statistics

if TYPE_CHECKING:
    import torch


def train(data: Dataset, test: Dataset, seed: int, epochs: int, batch: int = 128) -> tuple[torch.nn.ModuleDict, float]:
    """Train on `data` and its labels; return the network and its test accuracy."""
    import torch

    assert data.labels is not None and test.labels is not None
    torch.manual_seed(seed)
    net = network()
    images, labels = torch.from_numpy(data.images[TRAINED_ON].copy()), torch.from_numpy(data.labels[TRAINED_ON].copy())
    labels = labels.long()
    each = len(images) // batch

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for _ in tracked(range(epochs), desc="epochs"):
            for ids in torch.randperm(len(images)).split(batch)[:each]:
                yield images[ids], labels[ids]

    fit(net, batches(), epochs * each)
    return net, accuracy(net, torch.from_numpy(test.images.copy()), torch.from_numpy(test.labels.copy()))


def fit(net: torch.nn.ModuleDict, batches: Iterable[tuple[torch.Tensor, torch.Tensor]], steps: int) -> None:
    """Train a network of `features` and `head` on `steps` batches of uint8 images (N, C, H, W) and labels (N,) by cross-entropy,
    AdamW and a one-cycle learning rate; it is left in evaluation mode."""
    import torch
    from torch.nn.functional import cross_entropy

    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for images, labels in batches:
        loss = cross_entropy(net["head"](net["features"](scale(images))), labels, label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    net.eval()


def accuracy(net: torch.nn.ModuleDict, images: torch.Tensor, labels: torch.Tensor) -> float:
    """The share of uint8 images (N, C, H, W) whose largest logit is that of their label (N,)."""
    import torch

    with torch.no_grad():
        found = torch.cat([net["head"](net["features"](scale(part))).argmax(1) for part in images.split(1000)])
    return float((found == labels).double().mean())


def run(data_folder: Path | None, seed: int, epochs: int, threads: int) -> None:
    """Train, then write weights, record and reference statistics to `bench/assets/`.

    Raises ConfigError where the full data set is not found, in `data_folder` or else the download cache.
    """
    require_clone("study extractor", "its files are written to bench/assets")
    import torch
    from safetensors.numpy import save_file
    from safetensors.torch import save_file as save_tensors

    from bench.metric.fid import features

    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    data, test = (load("fashion-mnist", split, data_folder) for split in ("train", "test"))
    require(len(data) == REFERENCES["train"].stop, "--data", data.provenance, "training needs the full data set")
    start = time.perf_counter()
    net, told = train(data, test, seed, epochs)
    seconds = time.perf_counter() - start
    save_tensors(net.state_dict(), WEIGHTS)
    sha256.cache_clear()
    fmnist_cnn.extractor.cache_clear()

    arrays: dict[str, np.ndarray[Any, Any]] = {}
    found = features(data.images, extractor=fmnist_cnn.unchecked())  # the record still has the hashes of before
    for name, part in REFERENCES.items():
        arrays[f"{name}.mu"], arrays[f"{name}.sigma"] = statistics(found[part])
    metadata = {"extractor_sha256": sha256(), "data": data.provenance, "data_sha256": data.sha256}
    save_file(arrays, STATISTICS, metadata)
    RECORD.write_text(json.dumps({
        "name": fmnist_cnn.NAME, "width": fmnist_cnn.WIDTH, "test_accuracy": told, "test_images": len(test), "seed": seed,
        "epochs": epochs, "threads": threads, "train_split": "train[:30000]",
        "train_seconds": round(seconds),
        "command": command_line("study", "extractor", "--seed", str(seed), "--epochs", str(epochs), "--threads", str(threads)),
        "torch": torch.__version__, "data": data.provenance, "data_sha256": data.sha256,
        "test_sha256": test.sha256, "weights_sha256": sha256(), "statistics_sha256": sha256(STATISTICS),
        "subset_sha256": load_subset("fashion-mnist", "train").sha256,
    }, indent=1) + "\n")
    print(RECORD.read_text())

