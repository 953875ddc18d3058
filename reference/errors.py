"""A user's mistake, as an exception. The standard library is enough here: a command line can refuse a value without NumPy."""

from __future__ import annotations


class ConfigError(ValueError):
    """A user's mistake: one line that names the argument, its value and the rule."""


def require(condition: bool, name: str, value: object, rule: str) -> None:
    """Raise `ConfigError` unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{name}={value!r}: {rule}")
