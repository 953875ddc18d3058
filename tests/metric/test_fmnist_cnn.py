"""What ships with the metric's own extractor, what it takes, and how torch-fidelity is loaded."""

import hashlib
import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from bench.cli.main import main
from bench.data import datasets, readers
from bench.metric import fid, fmnist_cnn
from bench.paths import ASSETS
from reference.frechet import statistics


def held_out():
    return datasets.load_subset("fashion-mnist", "test").images


# The shipped files


def test_shipped_files_belong_together():
    record = json.loads(fmnist_cnn.RECORD.read_text())
    assert record["test_accuracy"] >= 0.91 and record["train_split"] == "train[:30000]"
    assert fmnist_cnn.TRAINED_ON.indices(60000) == (0, 30000, 1) and fmnist_cnn.REFERENCES["train[30000:]"] == slice(30000, 60000)
    assert record["weights_sha256"] == fmnist_cnn.sha256()
    assert record["statistics_sha256"] == fmnist_cnn.sha256(fmnist_cnn.STATISTICS)
    assert record["subset_sha256"] == datasets.load_subset("fashion-mnist", "train").sha256


def test_features_span_their_space():
    """No dead feature: the covariance is regular, so the square root in the distance is well defined."""
    for name in fmnist_cnn.REFERENCES:
        assert np.linalg.cond(fmnist_cnn.stored_statistics(name)["sigma"]) < 1e6


def test_extractor_classifies_the_shipped_test_images():
    import torch

    labels = datasets.load_subset("fashion-mnist", "test").labels
    with torch.no_grad():
        logits = fmnist_cnn.pretrained()["head"](torch.from_numpy(fid.features(held_out())).float())
    assert (logits.argmax(1).numpy() == labels).mean() > 0.9


RECORDED = [pytest.mark.slow, pytest.mark.recorded]  # they depend on the machine's speed, or take minutes


@pytest.mark.parametrize("name", [pytest.param(name, marks=RECORDED if name == "train" else pytest.mark.slow)
                                  for name in fmnist_cnn.REFERENCES])
def test_shipped_statistics_are_those_of_the_training_set(name):
    full = datasets.load("fashion-mnist", "train")
    if len(full) != 60000:
        pytest.skip("needs the full data set")
    mu, sigma = statistics(fid.features(full.images[fmnist_cnn.REFERENCES[name]]))
    stored = fmnist_cnn.stored_statistics(name)
    np.testing.assert_allclose(mu, stored["mu"], atol=1e-4)
    np.testing.assert_allclose(sigma, stored["sigma"], atol=1e-3)


@pytest.mark.parametrize("n, reference, gigabytes, seconds", [
    pytest.param(5_000, "images[::-1]", 0.9, None, marks=pytest.mark.slow),  # 1.25 with the whole matrix of distances at once
    pytest.param(10_000, "'train'", 4, 180, marks=RECORDED), pytest.param(50_000, "images[::-1]", 4, None, marks=RECORDED),
])
def test_time_and_memory_on_two_cores(n, reference, gigabytes, seconds):
    """Features and all distances, from the import of PyTorch on; the worst case for memory has as many reference images."""
    program = f"""
        import os, time
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
        import numpy as np
        from bench.metric import fid
        from bench.timing.memory import peak_memory
        images = np.random.default_rng(0).integers(0, 256, ({n}, 1, 28, 28), np.uint8)
        began = time.perf_counter()
        fid.evaluate(images, {reference})
        print(time.perf_counter() - began, peak_memory())
    """
    taken, memory = map(float, run(program).splitlines()[-1].split())
    assert memory < gigabytes * 1e9 and (seconds is None or taken < seconds), f"{taken:.0f} s, {memory / 1e9:.2f} GB"


def test_statistics_of_another_extractor_are_refused(monkeypatch, tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "statistics.safetensors"
    stored = fmnist_cnn.stored_statistics("train")
    save_file({f"train.{key}": value for key, value in stored.items()}, path, {"extractor_sha256": "0" * 64})
    monkeypatch.setattr(fmnist_cnn, "STATISTICS", path)
    monkeypatch.setattr(fmnist_cnn, "RECORD", record := tmp_path / "record.json")
    record.write_text(json.dumps({"statistics_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}))
    with pytest.raises(readers.DataError, match="made by extractor 000"):
        fmnist_cnn.stored_statistics("train")
    fmnist_cnn.sha256.cache_clear()
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(readers.DataError, match="damaged: its SHA-256 is .*record.json says .*restore the file"):
        fmnist_cnn.stored_statistics("train")
    for content in (fmnist_cnn.WEIGHTS.read_bytes()[:100], fmnist_cnn.WEIGHTS.read_bytes()):  # the second is a file of another kind
        fmnist_cnn.sha256.cache_clear()
        path.write_bytes(content)
        with pytest.raises(readers.DataError, match="damaged: its SHA-256"):
            fmnist_cnn.stored_statistics("train")
    for content in (b"", b"[", b"[]", b"{}", b"\xff", b"[" * 100_000):
        record.write_bytes(content)
        with pytest.raises(readers.DataError, match="record.json: cannot be read: .*restore the file"):
            fmnist_cnn.stored_statistics("train")


@pytest.mark.parametrize("name", ["WEIGHTS", "STATISTICS"])
@pytest.mark.parametrize("words", [["run", "--preset", "smoke"],
                                   ["recipe", "mnist-scratch", "--dataset", "fashion-mnist", "--samples", "128"],
                                   ["study", "noise"], ["study", "ablation"]],
                         ids=lambda words: " ".join(words[:2]))
def test_a_flipped_bit_of_what_ships_ends_a_command_before_its_first_cell(name, words, tmp_path, monkeypatch, capsys):
    def begins(*_, **__):
        raise AssertionError("work began")

    for work in ("bench.workers.crew.Crew.start", "bench.training.loop.fit", "bench.metric.fid.features", "bench.api.new"):
        monkeypatch.setattr(work, begins)
    shipped = getattr(fmnist_cnn, name)
    path = tmp_path / shipped.name
    path.write_bytes(shipped.read_bytes()[:-1] + b"!")
    monkeypatch.setattr(fmnist_cnn, name, path)
    fmnist_cnn.extractor.cache_clear()
    try:
        assert main([*words, "--out", str(tmp_path / "out")]) == 2
    finally:
        fmnist_cnn.extractor.cache_clear()
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {path}: damaged: its SHA-256 is ") and error.endswith("restore the file")
    assert not (tmp_path / "out").exists()


def test_conversion_keeps_what_it_can():
    images = held_out()[:3]
    assert fmnist_cnn.convert(images) == (images, "")
    for back in (fmnist_cnn.convert(np.repeat(images, 3, axis=1))[0],
                 fmnist_cnn.convert(np.repeat(np.repeat(images, 2, axis=2), 2, axis=3))[0]):
        assert back.shape == images.shape and np.abs(back.astype(int) - images).mean() < 10
    np.testing.assert_array_equal(fmnist_cnn.convert(np.repeat(images, 3, axis=1))[0], images)


def test_grey_is_luma():
    """ITU-R 601: 0.299, 0.587 and 0.114 of red, green and blue."""
    planes = np.full((3, 1, 28, 28), 200, np.uint8) * np.eye(3, dtype=np.uint8)[:, :, None, None]
    assert planes.shape == (3, 3, 28, 28)
    grey = fmnist_cnn.convert(planes)[0]
    assert np.abs(grey - 200 * np.array([0.299, 0.587, 0.114])[:, None, None, None]).max() <= 1


def test_conversion_is_bicubic():
    """Catmull-Rom's kernel, as wide as two pixels of the smaller image; an edge overshoots on both sides."""
    columns = np.where(np.arange(56) < 28, 64, 192).astype(np.uint8)
    x = np.abs(np.arange(56)[None] + 0.5 - 2 * (np.arange(28)[:, None] + 0.5)) / 2
    kernel = np.where(x < 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x < 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0))
    by_hand = (kernel / kernel.sum(axis=1, keepdims=True)) @ columns
    found = fmnist_cnn.convert(np.broadcast_to(columns, (1, 1, 56, 56)).copy())[0]
    assert by_hand.min() < 63 and by_hand.max() > 193 and np.abs(found[0, 0] - by_hand).max() <= 1


# How torch-fidelity is loaded


def run(program, *path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, path), str(ASSETS.parents[1])])}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True,
                          env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_metric_loads_no_framework():
    run("""
        import sys
        import bench.data.datasets, bench.metric.extractor, bench.metric.fid, bench.metric.torchvision_shim
        assert not {"torch", "torchvision", "torch_fidelity", "mindspore", "pooch"} & set(sys.modules)
    """)


def fake_torchvision(folder, body):
    (folder / "torchvision").mkdir()
    (folder / "torchvision" / "transforms.py").touch()
    (folder / "torchvision" / "__init__.py").write_text(textwrap.dedent(body))
    return folder


def test_shim_declares_the_missing_operators(tmp_path):
    """A torchvision whose compiled half is missing, as on CPU-only PyTorch: its meta kernel finds no operator."""
    broken = fake_torchvision(tmp_path, """
        import torch
        import torchvision.transforms
        @torch.library.register_fake("torchvision::nms")
        def meta_nms(dets, scores, iou_threshold):
            return dets.new_empty(0, dtype=torch.long)
        torch.ops.torchvision.nms, torch.ops.torchvision.qnms
    """)
    run("""
        try:
            import torchvision
        except (RuntimeError, AttributeError) as error:
            assert "torchvision::nms does not exist" in str(error), error
        else:
            raise SystemExit("the fake torchvision is not broken")
        from bench.metric.torchvision_shim import import_torchvision
        import_torchvision()
        import torchvision
        assert torchvision.meta_nms and torchvision.transforms  # a stale submodule would not be bound to its parent
    """, broken)


def test_shim_leaves_a_working_torchvision_and_other_errors_alone(tmp_path):
    (tmp_path / "good").mkdir(), (tmp_path / "bad").mkdir()
    run("""
        import sys
        from bench.metric.torchvision_shim import import_torchvision, _kept_alive
        import_torchvision()
        assert not _kept_alive and "torch" not in sys.modules
    """, fake_torchvision(tmp_path / "good", "x = 1"))
    run("""
        from bench.metric.torchvision_shim import import_torchvision
        try:
            import_torchvision()
        except RuntimeError as error:
            assert str(error) == "another reason"
        else:
            raise SystemExit("swallowed")
    """, fake_torchvision(tmp_path / "bad", """
        import torch
        declared = torch.library.Library("torchvision", "FRAGMENT")
        declared.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        raise RuntimeError("another reason")
    """))
