"""What can be wrong with a file of weights, a config or a state; one line that names the file."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reference.config import ConfigError

MAX_JSON = 16 << 20  # bytes


class CheckpointError(ConfigError):
    """A file of weights, configs or training state that can't be used; the message names it and the reason."""


def read_object(path: Path) -> dict[str, Any]:
    """The object of a JSON file, at most `MAX_JSON` bytes long. Raises `CheckpointError`."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_JSON + 1)
        if len(data) > MAX_JSON:
            raise OSError(f"larger than {MAX_JSON} bytes")
        values = json.loads(data.decode("utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: can't be read: {error}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: must be an object")
    return values


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """A config error inside names this file."""
    try:
        yield
    except CheckpointError:
        raise
    except ConfigError as error:
        raise CheckpointError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
