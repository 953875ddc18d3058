"""How the extractor that ships was made: what it learns from, and the files that are written."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from bench.data import datasets
from bench.metric import fid, fmnist_cnn, make_fmnist_cnn
from reference.config import ConfigError
from reference.frechet import statistics

NAMES = {"WEIGHTS": "net.safetensors", "STATISTICS": "statistics.safetensors", "RECORD": "record.json"}


def test_it_learns_each_of_the_first_images_once_an_epoch_in_whole_batches(monkeypatch):
    """Batches of 4 of 10 images: two an epoch, in another order each, with the labels of their images and the seed's weights."""
    import torch

    monkeypatch.setattr(make_fmnist_cnn, "TRAINED_ON", slice(0, 10))
    data, held_out = (datasets.load_subset("fashion-mnist", split) for split in ("train", "test"))
    test = dataclasses.replace(held_out, images=held_out.images[:50], labels=held_out.labels[:50])
    seen, steps, told = [], [], []

    def fit(net, batches, number):
        net["head"][1].weight.data.zero_()
        net["head"][1].bias.data = torch.eye(10)[3]
        seen.extend(batches)
        steps.append(number)

    monkeypatch.setattr(make_fmnist_cnn, "fit", fit)
    for seed in (0, 0, 1):
        net, share = make_fmnist_cnn.train(data, test, seed, 3, batch=4)
        told.append((share, net["features"][0].weight.sum().item()))
    assert [share for share, _ in told] == [pytest.approx((test.labels == 3).mean())] * 3
    assert steps == [6] * 3 and len(seen) == 18 and told[0] == told[1] != told[2]
    first = {data.images[i].tobytes(): int(data.labels[i]) for i in range(10)}
    orders = [[image.numpy().tobytes() for k in epoch for image in seen[k][0]] for epoch in ((0, 1), (2, 3), (12, 13))]
    assert all(len(set(order)) == 8 and set(order) <= set(first) for order in orders) and orders[0] != orders[1] != orders[2]
    for images, labels in seen:
        assert [first[image.numpy().tobytes()] for image in images] == labels.tolist()


def test_the_batch_of_the_shipped_network(monkeypatch):
    monkeypatch.setattr(make_fmnist_cnn, "TRAINED_ON", slice(0, 300))
    found = []
    monkeypatch.setattr(make_fmnist_cnn, "fit", lambda net, batches, steps: found.extend(len(images) for images, _ in batches))
    data, test = (datasets.load_subset("fashion-mnist", split) for split in ("train", "test"))
    make_fmnist_cnn.train(data, test, 0, 1)
    assert found == [128, 128]


def test_a_network_learns_to_tell_what_it_was_shown():
    """Black from white, in 20 steps; it is left in evaluation mode, where dropout and batch statistics rest."""
    import torch

    torch.manual_seed(0)
    net, labels = fmnist_cnn.network(), torch.arange(8) % 2
    images = (labels * 255).to(torch.uint8)[:, None, None, None].expand(8, 1, 28, 28)
    make_fmnist_cnn.fit(net, [(images, labels)] * 20, 20)
    assert make_fmnist_cnn.accuracy(net, images, labels) == 1 and not any(part.training for part in net.modules())


def test_weights_statistics_and_record_belong_together(tmp_path, monkeypatch, capsys):
    import torch
    from safetensors.numpy import load_file, safe_open

    for name, file in NAMES.items():
        for module in (fmnist_cnn, make_fmnist_cnn):
            monkeypatch.setattr(module, name, tmp_path / file)
    monkeypatch.setattr(fmnist_cnn.sha256.__wrapped__, "__defaults__", (tmp_path / NAMES["WEIGHTS"],))
    monkeypatch.setattr(make_fmnist_cnn, "REFERENCES", {"train[30000:]": slice(200, 400), "train": slice(0, 400)})
    whole = datasets.load_subset("fashion-mnist", "train")
    asked, data = [], datasets.Dataset("mine", "train", whole.images[:400], whole.labels[:400], "mine, train", "a1", False)

    def load(name, split, folder):
        asked.append((name, split, folder))
        return data

    def train(data, test, seed, epochs):
        assert (seed, epochs, torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == (5, 7, 2, True)
        torch.manual_seed(3)
        return fmnist_cnn.network().eval(), 0.625

    monkeypatch.setattr(make_fmnist_cnn, "load", load)
    monkeypatch.setattr(make_fmnist_cnn, "train", train)
    threads = torch.get_num_threads()
    try:
        make_fmnist_cnn.run(tmp_path, 5, 7, 2)
        torch.manual_seed(3)
        weights = {name: part.numpy() for name, part in fmnist_cnn.network().state_dict().items()}
        found = fid.features(data.images, extractor=fmnist_cnn.unchecked())
        record, owner = json.loads((tmp_path / NAMES["RECORD"]).read_text()), fmnist_cnn.sha256()
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)
        fmnist_cnn.sha256.cache_clear()
        fmnist_cnn.extractor.cache_clear()
    assert asked == [("fashion-mnist", "train", tmp_path), ("fashion-mnist", "test", tmp_path)]
    written = load_file(tmp_path / NAMES["WEIGHTS"])
    assert set(written) == set(weights) and all(np.array_equal(written[name], weights[name]) for name in weights)
    stored = load_file(tmp_path / NAMES["STATISTICS"])
    for name, part in {"train[30000:]": slice(200, 400), "train": slice(0, 400)}.items():
        mu, sigma = statistics(found[part])
        np.testing.assert_allclose(stored[f"{name}.mu"], mu, rtol=1e-6)
        np.testing.assert_allclose(stored[f"{name}.sigma"], sigma, rtol=1e-6, atol=1e-12)
    with safe_open(tmp_path / NAMES["STATISTICS"], "numpy") as file:
        assert file.metadata() == {"extractor_sha256": owner, "data": "mine, train", "data_sha256": "a1"}
    assert record["weights_sha256"] == owner and record["statistics_sha256"] == fmnist_cnn.sha256(tmp_path / NAMES["STATISTICS"])
    assert {name: record[name] for name in ("name", "width", "test_accuracy", "test_images", "seed", "epochs", "threads")} == {
        "name": "fmnist-cnn", "width": 64, "test_accuracy": 0.625, "test_images": 400, "seed": 5, "epochs": 7, "threads": 2}
    assert record["command"] == "ddim-bench study extractor --seed 5 --epochs 7 --threads 2" and record["train_seconds"] == 0
    assert record["subset_sha256"] == whole.sha256 and json.loads(capsys.readouterr().out) == record


def test_a_program_that_is_not_a_clone_has_no_place_for_them(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(make_fmnist_cnn, "require_clone", lambda *said: asked.append(said))
    monkeypatch.setattr(make_fmnist_cnn, "load", lambda name, split, folder: datasets.load_subset(name, split))
    with pytest.raises(ConfigError, match="--data"):
        make_fmnist_cnn.run(tmp_path, 0, 1, 1)
    assert asked == [("study extractor", "its files are written to bench/assets")]


def test_a_part_of_the_training_set_is_not_enough(tmp_path, monkeypatch):
    monkeypatch.setattr(make_fmnist_cnn, "load", lambda name, split, folder: datasets.load_subset(name, split))
    with pytest.raises(ConfigError, match=r"subset train [(]4000[)]': training needs the full data set$"):
        make_fmnist_cnn.run(tmp_path, 0, 1, 1)
