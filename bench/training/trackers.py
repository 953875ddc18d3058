"""Training curves and pictures where people look for them: TensorBoard's event files, and Weights & Biases or MLflow.

TensorBoard's files are written by tensorboardX, which needs no framework. The other two are used where they are installed and
asked for, with their own settings (WANDB_MODE, MLFLOW_TRACKING_URI and so on).
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bench.files import FileError
from reference.config import ConfigError, require

PROJECT = "ddim-bench"


class Sink(Protocol):
    """One place that takes values."""

    def scalar(self, name: str, value: float, step: int) -> None:
        """One number of a curve."""

    def image(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        """One picture, (H, W) or (H, W, 3) uint8."""

    def close(self) -> None:
        """Write what is left."""


class TensorBoard:
    """Event files in `folder`. A resumed run adds a file, whose first points repeat the interrupted one's last, bit for bit."""

    def __init__(self, folder: Path) -> None:
        # Hidden meanwhile: tensorboardX imports torch where it is installed, and a MindSpore process shall hold no other framework.
        hidden = "torch" not in sys.modules
        if hidden:
            sys.modules["torch"] = None  # type: ignore[assignment]
        try:
            from tensorboardX import SummaryWriter
        finally:
            if hidden:
                del sys.modules["torch"]
        self.writer = SummaryWriter(str(folder), filename_suffix=f".{os.getpid()}")  # its names are unique to the second only

    def scalar(self, name: str, value: float, step: int) -> None:
        self.writer.add_scalar(name, value, step)

    def image(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        self.writer.add_image(name, picture, step, dataformats="HW" if picture.ndim == 2 else "HWC")

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases:
    """A run of wandb."""

    def __init__(self, name: str, config: Mapping[str, Any], folder: Path) -> None:
        self.wandb = importlib.import_module("wandb")
        self.run = self.wandb.init(project=PROJECT, name=name, config=dict(config), dir=str(folder))

    def scalar(self, name: str, value: float, step: int) -> None:
        self.run.log({name: value}, step=step)

    def image(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        self.run.log({name: self.wandb.Image(picture)}, step=step)

    def close(self) -> None:
        self.run.finish()


class MLflow:
    """A run of mlflow; its parameters are the config's entries as text."""

    def __init__(self, name: str, config: Mapping[str, Any]) -> None:
        self.client = importlib.import_module("mlflow")
        self.client.set_experiment(PROJECT)
        self.client.start_run(run_name=name)
        self.client.log_params({key: str(value)[:500] for key, value in config.items()})

    def scalar(self, name: str, value: float, step: int) -> None:
        self.client.log_metric(name, value, step=step)

    def image(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        self.client.log_image(picture, key=name.replace("/", "_"), step=step)

    def close(self) -> None:
        self.client.end_run()


LOGS = ("tensorboard", "wandb", "mlflow")


class Log:
    """Every sink that was asked for, as one. Use as a context manager, so that nothing is lost when training stops."""

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any], to: Sequence[str] = ("tensorboard",)) -> None:
        """Raises `ConfigError` for a log that is unknown, missing or refuses, `FileError` for a folder that can't be written."""
        for log in to:
            require(log in LOGS, "--log", log, f"must be one of {', '.join(LOGS)}")
        made: dict[str, Callable[[], Sink]] = {
            "tensorboard": lambda: TensorBoard(folder), "wandb": lambda: WeightsAndBiases(name, config, folder),
            "mlflow": lambda: MLflow(name, config)}
        self.sinks: list[Sink] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for log in to:
                self.sinks.append(made[log]())
        except OSError as error:
            self.close()
            raise FileError(f"{folder}: can't be written: {error.strerror or error}") from error
        except ImportError as error:
            self.close()
            raise ConfigError(f"--log={log!r}: {error}; to install: pip install {log}") from error
        except Exception as error:  # not logged in, no server: its own kinds of error, all the user's to settle
            self.close()
            raise ConfigError(f"--log={log!r}: {(str(error) or type(error).__name__).splitlines()[0]}") from error

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what is left and end the runs."""
        for sink in self.sinks:
            sink.close()

    def scalar(self, name: str, value: float, step: int) -> None:
        """One number of a curve, such as "train/loss", after training step `step`."""
        for sink in self.sinks:
            sink.scalar(name, float(value), step)

    def losses(self, step: int, losses: NDArray[np.float64]) -> None:
        """Training losses from step `step` on, counted from 0: `bench.training.loop.fit`'s `on_losses`."""
        for done, loss in enumerate(losses.tolist(), step + 1):
            self.scalar("train/loss", loss, done)

    def image(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        """One picture, (H, W) or (H, W, 3) uint8, such as `pictures.grid` makes."""
        for sink in self.sinks:
            sink.image(name, picture, step)
