"""Logs are read back with TensorBoard's own reader; the two services are stood in for by modules of their call signatures."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from bench import presets
from bench.cli.main import main
from bench.files import FileError
from bench.training.trackers import Log
from reference.config import ConfigError, DiffusionConfig, ModelConfig


def read(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def test_tensorboard_reads_back_curves_and_pictures(tmp_path):
    picture = np.arange(48, dtype=np.uint8).reshape(4, 12)
    with Log(tmp_path / "run", "try", {}) as log:
        for step in range(3):
            log.scalar("train/loss", np.float32(1 / (step + 1)), step)
        log.image("samples", picture, 2)
        log.image("colour", np.stack([picture] * 3, -1), 2)
    events = read(tmp_path / "run")
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(0, 1.0), (1, 0.5), (2, pytest.approx(1 / 3))]
    for name in ("samples", "colour"):
        found = events.Images(name)[0]
        assert (found.step, found.width, found.height) == (2, 12, 4) and found.encoded_image_string.startswith(b"\x89PNG")


def test_what_was_logged_is_there_when_training_breaks_off(tmp_path):
    with pytest.raises(KeyboardInterrupt), Log(tmp_path, "try", {}) as log:
        log.scalar("train/loss", 0.25, 7)
        raise KeyboardInterrupt
    assert [(e.step, e.value) for e in read(tmp_path).Scalars("train/loss")] == [(7, 0.25)]


def test_a_run_that_goes_on_adds_to_the_same_curve(tmp_path, monkeypatch):
    for pid, steps in enumerate(((0, 1), (1, 2))):
        monkeypatch.setattr(os, "getpid", lambda pid=pid: pid)  # another process, within the same second
        with Log(tmp_path, "try", {}) as log:
            for step in steps:
                log.scalar("train/loss", step / 4, step)
    assert {(e.step, e.value) for e in read(tmp_path).Scalars("train/loss")} == {(0, 0.0), (1, 0.25), (2, 0.5)}


def test_wandb_and_mlflow_get_the_same_values(tmp_path, monkeypatch):
    seen = []
    run = SimpleNamespace(log=lambda values, *, step: seen.append(("wandb", values, step)), finish=lambda: seen.append("finished"))
    wandb = SimpleNamespace(init=lambda **asked: seen.append(asked) or run, Image=lambda picture: picture.shape)
    mlflow = SimpleNamespace(
        set_experiment=seen.append, start_run=lambda *, run_name: seen.append(run_name), end_run=lambda: seen.append("ended"),
        log_params=lambda params: seen.append(("mlflow", params)),
        log_metric=lambda name, value, *, step: seen.append(("mlflow", name, value, step)),
        log_image=lambda image, *, key, step: seen.append(("mlflow", key, image.shape, step)))
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    with Log(tmp_path, "try", {"lr": 0.5, "model": "x" * 600}, ("wandb", "mlflow")) as log:
        log.scalar("train/loss", 1, 3)
        log.image("train/samples", np.zeros((2, 3), np.uint8), 4)
    config = {"lr": 0.5, "model": "x" * 600}
    assert seen == [{"project": "ddim-bench", "name": "try", "config": config, "dir": str(tmp_path)}, "ddim-bench", "try",
                    ("mlflow", {"lr": "0.5", "model": "x" * 500}), ("wandb", {"train/loss": 1.0}, 3),
                    ("mlflow", "train/loss", 1.0, 3),
                    ("wandb", {"train/samples": (2, 3)}, 4), ("mlflow", "train_samples", (2, 3), 4), "finished", "ended"]


def test_a_missing_package_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    with pytest.raises(ConfigError, match="--log='wandb'.*pip install wandb"):
        Log(tmp_path, "try", {}, ("tensorboard", "wandb"))


def test_a_service_that_refuses_is_one_line(tmp_path, monkeypatch):
    def init(**_):
        raise RuntimeError("not logged in\nsecond line")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    with pytest.raises(ConfigError, match=r"^--log='wandb': not logged in$"):
        Log(tmp_path, "try", {}, ("wandb",))


def test_an_unknown_log_and_a_place_that_cannot_be_written(tmp_path):
    with pytest.raises(ConfigError, match="--log='paper': must be one of tensorboard, wandb, mlflow"):
        Log(tmp_path, "try", {}, ("paper",))
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="file.*can't be written"):
        Log(tmp_path / "file", "try", {})


def test_training_logs_every_loss(tmp_path, monkeypatch):
    model = ModelConfig(sample_size=8, block_out_channels=(8,), norm_num_groups=4, down_block_types=("DownBlock2D",),
                        up_block_types=("UpBlock2D",))
    monkeypatch.setitem(presets.PRESETS, "tiny", presets.Preset("tiny", model, None, DiffusionConfig(timesteps=5)))
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (300, 8, 8), np.uint8))
    assert main(["train", "--preset", "tiny", "--train-steps", "4", "--batch-size", "2", "--data", str(tmp_path / "images.npy"),
                 "--save", str(tmp_path / "net")]) == 0
    found = [(e.step, e.value) for e in read(tmp_path / "net.logs").Scalars("train/loss")]
    written = [line.split(",") for line in (tmp_path / "net" / "loss.csv").read_text().splitlines()[1:]]
    assert found == [(int(n) + 1, pytest.approx(float(loss), rel=1e-4)) for n, loss in written] and len(found) == 4


def test_writing_loads_no_framework_and_leaves_them_importable(tmp_path):
    code = """
import sys
from pathlib import Path
from bench.training.trackers import Log
with Log(Path(sys.argv[1]), "try", {}) as log:
    log.scalar("a", 1.0, 0)
assert not {"torch", "mindspore", "tensorflow", "tensorboard"} & set(sys.modules), sys.modules.keys()
import importlib.util
assert importlib.util.find_spec("torch")
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=100)


@pytest.mark.parametrize("spoilt, said", [("net.logs", "net.logs: can't be written"), ("net", "exists and is no pipeline folder")])
def test_what_cannot_be_written_ends_a_training_before_it_begins(spoilt, said, tmp_path, capsys):
    (tmp_path / spoilt).write_text("mine")
    assert main(["train", "--train-steps", "300", "--save", str(tmp_path / "net")]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1 and said in errors and [path.name for path in tmp_path.iterdir()] == [spoilt]
