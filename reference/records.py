"""What the three configs share: they check their types, and go to JSON and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from .errors import require

LATER = {"later": True}  # metadata of a field that older files lack: `to_dict` leaves it out where it has its default


def choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a value that is none of the choices."""
    require(value in choices, name, value, f"must be one of {', '.join(choices)}")


_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,), "float": (int, float), "str": (str,), "bool": (bool,), "None": (type(None),),
    "tuple[int, ...]": (tuple,), "tuple[str, ...]": (tuple,), "tuple[float, ...]": (tuple,),
    "dict[str, Any]": (dict,),
}


def freeze(config: Any) -> None:
    """JSON gives lists where the frozen record needs tuples; wrong types are the user's mistake, not a traceback."""
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, list):
            value = tuple(value)
            object.__setattr__(config, field.name, value)
        allowed = tuple(t for kind in str(field.type).split(" | ") for t in _TYPES[kind])
        require(isinstance(value, allowed) and (not isinstance(value, bool) or bool in allowed), field.name, value,
                f"must be of type {field.type}")
        if "tuple[" in str(field.type):
            inner = int if "int" in str(field.type) else float if "float" in str(field.type) else str
            require(value is None or all(type(v) is inner for v in value), field.name, value, f"must be of type {field.type}")


class Record:
    """JSON in and out, shared by the three records."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, ignore_unknown: bool = False) -> Any:
        """Build from a mapping; an unknown key is an error unless `ignore_unknown` (diffusers files carry more keys)."""
        known = {field.name for field in fields(cls)}  # type: ignore[arg-type]
        unknown = sorted(set(values) - known)
        require(ignore_unknown or not unknown, cls.__name__, unknown, f"unknown keys; known are {', '.join(sorted(known))}")
        return cls(**{key: value for key, value in values.items() if key in known})

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` of it gives an equal record. Files and keys made before a field was added stay valid."""
        at_default = {f.name for f in fields(self) if "later" in f.metadata and getattr(self, f.name) == f.default}  # type: ignore[arg-type]
        values = json.loads(json.dumps(asdict(self)))  # type: ignore[call-overload]
        return {key: value for key, value in values.items() if key not in at_default}
