"""How the text of a value becomes what it means, or one line that says the rule. Nothing here takes time to load."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

from reference.errors import ConfigError, require


def whole(text: str) -> int:
    """A whole number. Raises ArgumentTypeError."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:80]!r}: must be a whole number in digits, such as 1000") from None


def real(text: str) -> float:
    """A number. Raises ArgumentTypeError."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:80]!r}: must be a number, such as 0.5 or 1e-3") from None


def device(text: str) -> str:
    """A device of the kinds that backends may claim, `backends.claims.NAMES`. Raises ArgumentTypeError."""
    if not re.fullmatch(r"(cpu|ascend|tpu)|cuda(:\d{1,4})?", text):
        raise argparse.ArgumentTypeError(f"{text!r}: must be cpu, cuda, cuda:N, ascend or tpu")
    return text


def place_to_write(text: str) -> Path:
    """A folder that a command makes or replaces as a whole. Raises ArgumentTypeError for one that the user is in, and for /."""
    if Path.cwd().is_relative_to(os.path.realpath(text)):
        raise argparse.ArgumentTypeError(f"{text!r}: must be a folder of its own, not the current one or one that holds it")
    return Path(text)


def place_to_read(text: str) -> Path:
    """A file or folder. Raises ArgumentTypeError for /, all of whose files nobody means."""
    if os.path.dirname(real := os.path.realpath(text)) == real:  # unlike Path.resolve it passes a loop of links on to who reads
        raise argparse.ArgumentTypeError(f"{text!r}: must not be the root of all files")
    return Path(text)


def parse_eta(text: str) -> tuple[float | str, ...]:
    """ "0,0.5,sigma_hat,ddpm" as eta values; `make_plan` checks their range. Raises ConfigError."""
    out: list[float | str] = []
    for part in text.split(","):
        try:
            out.append(part.strip() if part.strip() in ("sigma_hat", "ddpm") else float(part))
        except ValueError:
            raise ConfigError(f"--eta={text!r}: must be numbers in [0, 1], sigma_hat or ddpm, separated by commas") from None
    require(len(set(out)) == len(out), "--eta", text, "every value must appear once")
    return tuple(out)


def parse_seeds(text: str) -> tuple[int, int]:
    """ "3,1" or "3" as two numbers of seeds, of a table up to S = 100 and at S = 1000. Raises ConfigError."""
    require(re.fullmatch(r"\d{1,4}(,\d{1,4})?", text) is not None, "--seeds", text, "must be one or two whole numbers, such as 3,1")
    up_to, full = ([int(n) for n in text.split(",")] * 2)[:2]
    require(up_to >= 1 and full >= 1, "--seeds", text, "must be at least 1")
    return up_to, full


def parse_sections(text: str) -> tuple[int, ...]:
    """IDDPM's section counts, "10,15,20" as (10, 15, 20); a count may repeat. Raises ConfigError."""
    require(re.fullmatch(r"\d{1,9}(,\d{1,9})+", text) is not None, "--sections", text,
            "must be two or more whole numbers separated by commas, such as 10,15,20; one count is --steps")
    return tuple(int(count) for count in text.split(","))


def parse_log(text: str) -> tuple[str, ...]:
    """ "tensorboard,wandb" as names of `training.trackers.LOGS`; "none" as no name at all."""
    return () if text == "none" else tuple(text.split(","))
