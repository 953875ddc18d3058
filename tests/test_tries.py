"""The report of what else was tried for a step."""

from bench.paths import ROOT
from bench.records import rows
from bench.records.values import Tries
from tests.benchmarks import tries


def test_the_committed_report_is_what_its_rows_say():
    studies = rows.studies(rows.read(ROOT / "results" / "rows"), Tries)
    assert (ROOT / "results" / "tries.md").read_text() == tries.render(studies)


def test_the_report_names_the_tries_that_have_rows():
    studies = rows.studies(rows.read(ROOT / "results" / "rows"), Tries)
    assert "NAME of mindspore;" in tries.render([row for row in studies if row.config["framework"] == "mindspore"])
