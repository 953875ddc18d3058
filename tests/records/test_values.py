"""The fields of a row's values: every committed row has those of its kind, the page is current, and what is wrong is named."""

from __future__ import annotations

from bench.paths import ROOT
from bench.records import rows, values

SAMPLE = {"images": 8, "batch_seconds": [0.5], "first_seconds": 0.1, "calls": 10, "notes": []}


def test_every_committed_row_has_the_fields_of_its_kind():
    found = rows.read(ROOT / "results" / "rows")
    assert len(found) > 500 and {row.kind for row in found} == set(rows.KINDS)
    assert {row.created: wrong for row in found if (wrong := values.problems(row.kind, row.config, row.values))} == {}


def test_missing_and_unknown_fields_are_named():
    assert values.problems("sample", {}, SAMPLE) == []
    assert values.problems("sample", {}, {**SAMPLE, "speed": 1}) == ["values: speed is unknown"]
    assert values.problems("sample", {}, {"images": 8, "calls": 1, "first_seconds": 0.1}) == ["values: batch_seconds is missing"]
    assert values.problems("check", {}, {"loss": {"error": 0.0, "ok": True}}) == ["loss: tolerance is missing"]
    assert values.problems("recipe", {}, {"command": "c", "pictures": [], "notes": [], "fid": {}}) == []
    assert values.problems("study", {"study": "weather"}, {}) == ["study 'weather' is unknown"]


def test_the_page_is_current():
    assert (ROOT / "results" / "ROWS.md").read_text() == values.page(), "python -m bench.records.values writes it again"
