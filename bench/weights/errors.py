"""What can be wrong with a file of weights, a config or a state, and what is said of one that is read: one line, with its name."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import files
from reference.config import ConfigError

MAX_JSON = 16 << 20  # bytes


class CheckpointError(ConfigError):
    """A file of weights, configs or training state that can't be used; the message names it and the reason."""


class Note(UserWarning):
    """What a user should know of weights that were read; the command line prints it as one line."""


def note(line: str) -> None:
    """Warn with a `Note`."""
    warnings.warn(line, Note, stacklevel=3)


def refuse_lookalikes(path: Path, start: bytes) -> None:
    """Raise `CheckpointError` where a file's first bytes are those of what downloads leave in place of a file."""
    if start.startswith(b"version https://git-lfs.github.com/spec/"):
        raise CheckpointError(f"{path}: is a Git LFS pointer, not the file itself; `git lfs pull` in its folder fetches that")
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError(f"{path}: is a page of HTML or XML in place of the file; download the file itself (on the hub its "
                              "link has /resolve/, not /blob/)")


def read_object(path: Path) -> dict[str, Any]:
    """The object of a JSON file, at most `MAX_JSON` bytes long. Raises `CheckpointError`."""
    try:
        with files.require_file(path).open("rb") as file:
            data = file.read(MAX_JSON + 1)
        if len(data) > MAX_JSON:
            raise OSError(f"larger than {MAX_JSON} bytes")
        refuse_lookalikes(path, data)
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
