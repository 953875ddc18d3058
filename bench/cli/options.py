"""What several commands' options have in common: how their texts are read."""

from __future__ import annotations

import re

from reference.config import ConfigError, require


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
    """ "3,1" or "3" as the numbers of sample seeds up to S = 100 and at S = 1000. Raises ConfigError."""
    require(re.fullmatch(r"\d{1,4}(,\d{1,4})?", text) is not None, "--seeds", text, "must be one or two whole numbers, such as 3,1")
    up_to, full = ([int(n) for n in text.split(",")] * 2)[:2]
    require(up_to >= 1 and full >= 1, "--seeds", text, "must be at least 1")
    return up_to, full
