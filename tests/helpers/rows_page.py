"""`results/ROWS.md`, from the records of `bench.records.values`: `tests.helpers.pages` writes it."""

from __future__ import annotations

from typing import get_args, get_type_hints

from bench.paths import ROOT
from bench.records import values

PAGE = ROOT / "results" / "ROWS.md"
HEAD = ("# What a row holds", "",
        "Written by `python -m tests.helpers.pages`. A line of [rows/](rows) is one row: `kind`, `backend`, `preset`, "
        "`config` (what was asked for), `values` (what was measured, raw), `environment` (the machine), `commit`, `created` "
        "(UTC), `version`. These are the fields of `values`. Fields in brackets may be absent. Medians and intervals are "
        "derived by the pages.")


def render() -> str:
    """The whole page, Markdown."""
    text = [*HEAD]
    for name, record in [*values.KINDS.items(), *((f"study, {study}", record) for study, record in values.STUDIES.items())]:
        text += ["", f"## {name}", "", (record.__doc__ or "").replace("\n    ", " "), "",
                 "| field | type | meaning |", "|---|---|---|"]
        for field, hint in get_type_hints(record, include_extras=True).items():
            optional = field not in record.__required_keys__  # type: ignore[attr-defined]
            kind, meaning = get_args(hint.__args__[0] if optional else hint)
            named = values.shown(kind).replace("typing.", "").replace("|", "or")
            text.append(f"| {f'[{field}]' if optional else field} | {named} | {meaning} |")
    return "\n".join(text) + "\n"


def write() -> None:
    """Write the page again."""
    PAGE.write_text(render())
