"""How workers fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reference.config import ConfigError


class WorkerError(RuntimeError):
    """A command failed in a worker, which goes on."""


class WrongAnswer(WorkerError):
    """What a backend answered is no answer: of another shape, not finite, or without a part."""


class WorkerDied(WorkerError):
    """A worker ended or hung and was ended; the message has its exit signal and last output."""


class Left(WorkerError):
    """One of several that were at work in turn could not go on: `who`, for this `reason`."""

    def __init__(self, who: Any, error: Exception) -> None:
        super().__init__(str(error))
        self.who, self.reason = who, error


def in_turn(who: Any, do: Callable[..., Any], *args: Any, **more: Any) -> Any:
    """`do(..)`, which raises `Left` where it fails on account of `who`."""
    try:
        return do(*args, **more)
    except (WorkerError, ConfigError) as error:
        raise Left(who, error) from error
