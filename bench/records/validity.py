"""Whether a row is one of its kind: its fields and their types are those of `bench.records.values`; and whether its date can be."""

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from types import UnionType
from typing import Any, Literal, TypedDict, get_args, get_origin, get_type_hints, is_typeddict

from bench.records import values
from bench.records.values import shown


class Machine(TypedDict, total=False):
    """What pages read of a row's `environment`, where it is there; `bench.records.environment.describe` writes more."""

    cpu: str | None
    os: str | None
    python: str | None
    versions: dict[str, str | None]
    gpu: list[str] | None
    usable_cores: int | None
    affinity: int | None
    memory_bytes: int | None
    cell_seconds: float


def environment_problems(environment: dict[str, Any]) -> list[str]:
    """Fields of a row's `environment` that the pages read and that are of another type."""
    return [f"environment: {wrong}" for wrong in differences(environment, Machine, open_to_others=True)]


def problems(kind: str, config: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What keeps a row from being one of its kind: fields that are missing, unknown or of another type."""
    record = values.STUDIES.get(str(config.get("study"))) if kind == "study" else values.KINDS[kind]
    if record is None:
        return [f"study {config.get('study')!r} is unknown"]
    stage = config.get("stage") if kind == "timing" else config.get("study") if kind == "study" else None
    wanted: dict[str, Any] = values.CONFIG.get(kind, {}) | values.CONFIG.get(f"{kind} {stage}", {})
    out = [f"config: {name} is missing" if name not in config else f"config: {name}={config[name]!r:.40} is not {shown(hint)}"
           for name, hint in ({k: hint for k, hint in values.MAYBE.items() if k in config} | wanted).items()
           if not _is(config.get(name), hint)]
    for name, part in found.items() if kind == "check" else [("values", found)]:
        out += [f"{name}: {wrong}" for wrong in differences(part, record, open_to_others=kind in values.OPEN)]
    if kind == "timing":
        use = "roof" if config.get("workload") in values.KERNELS else str(stage)
        out += [f"values: {name} is missing" for name in values.NEEDED.get(use, ()) if name not in found]
    if record is values.Train and not out and len(found["losses"]) != config["train_steps"]:
        out.append(f"values: losses: {len(found['losses'])} numbers: must be train_steps={config['train_steps']}")
    if record is values.Likelihood and not out:
        images, steps = config["samples"], config["steps"]
        lengths = [("prior", found["prior"], images), ("timesteps", found["timesteps"], steps)]
        for name, bits in found["bounds"].items():
            lengths += [(f"bounds: {name}: total", bits["total"], images), (f"bounds: {name}: terms", bits["terms"], steps)]
        out = [f"values: {name}: {len(numbers)} numbers: must be {n}" for name, numbers, n in lengths if len(numbers) != n]
        out += ["values: bounds={}: must be one or more"] * (not found["bounds"])
    if record is values.Noise and not out:
        rule = f"must be from 2 to samples={config['samples']}, and fid_half of as many numbers as fid, or empty"
        out = [f"values: points: n={p['n']}: {rule}" for p in found["points"]
               if not (2 <= p["n"] <= config["samples"] and len(p["fid_half"]) in (0, len(p["fid"]))
                       and all(_is(half, float) for half in p["fid_half"]))]
        out += ["values: points=[]: must be one or more"] * (not found["points"])
    return out


def differences(value: Any, record: Any, open_to_others: bool = False) -> list[str]:
    """What keeps a value from being this typed dictionary."""
    if not isinstance(value, dict):
        return [f"{value!r:.40} is no object"]
    hints = _hints(record)
    out = [f"{name} is missing" for name in sorted(record.__required_keys__ - set(value))]
    out += [f"{name} is unknown" for name in sorted(set(value) - set(hints)) if not open_to_others]
    return out + [f"{name}={value[name]!r:.40} is not {shown(hint)}" for name, hint in hints.items()
                  if name in value and not _is(value[name], hint)]


_hints = cache(get_type_hints)


def _is(value: Any, hint: Any) -> bool:
    """Whether a value of JSON has this type; a list must not be empty where its items are numbers or pairs, and has
    the length of a tuple."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if is_typeddict(hint):
        return not differences(value, hint)
    if origin is list:
        filled = inner[0] is float or get_origin(inner[0]) is tuple
        return isinstance(value, list) and all(_is(item, inner[0]) for item in value) and (not filled or value != [])
    if origin is tuple:
        return isinstance(value, list) and len(value) == len(inner) and all(map(_is, value, inner))
    if origin is dict:
        return isinstance(value, dict) and all(_is(item, inner[1]) for item in value.values())
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if origin is UnionType:
        return any(_is(value, one) for one in inner)
    return isinstance(value, (int, float) if hint is float else hint) and (hint is bool or not isinstance(value, bool))


def clock_problem(line: bytes) -> str:
    """What to say of a row, as a line of JSON, whose date was not reached yet, so that one appended now would stand before it in
    pages; "" for any other line."""
    with suppress(ValueError, TypeError, LookupError, RecursionError):
        created = json.loads(line)["created"]
        if datetime.fromisoformat(created) > datetime.now(UTC) + timedelta(minutes=1):
            return (f"its last row is of {created}, which is later than now: a clock was wrong, and pages take the row of the "
                    "latest date for the newest; set this machine's clock")
    return ""
