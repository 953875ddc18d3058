"""`ddim-bench report` on the rows that ship."""

import base64
import json
import re
import shutil
from dataclasses import replace

import pytest

from bench.cli import report
from bench.cli.main import main
from bench.paths import ROOT
from bench.records import rows
from bench.records.values import Ablation
from bench.report.html.page import pictures

PAGES = ("table.md", "speed.md", "scaling.md", "noise.md", "ablation.md", "gallery.md")


@pytest.fixture
def out(tmp_path):
    shutil.copytree(ROOT / "results" / "rows", tmp_path / "rows")
    return tmp_path


def test_the_committed_pages_are_what_their_rows_say(out):
    every = sorted(path.name for path in (ROOT / "results").iterdir() if path.suffix in (".md", ".html"))
    assert {*PAGES, "report.html"} <= set(every)
    for page in every:  # they name the command that each keeps
        shutil.copy(ROOT / "results" / page, out)
    for folder in ("checkpoints", "figures", "gallery"):  # what report.html shows is kept there
        shutil.copytree(ROOT / "results" / folder, out / folder)
    assert main(["report", "--out", str(out)]) == 0
    for page in every:
        (found, numbers), (kept, of_kept) = (read(folder / page) for folder in (out, ROOT / "results"))
        assert found == kept and numbers == pytest.approx(of_kept, abs=1e-4), f"{page}: run ddim-bench report"


def read(page):
    """The text of a page, and its drawings' coordinates apart: their last digit, and names made of it, are a processor's own.
    What a drawing says, such as the numbers at its axes, is text."""
    numbers = []

    def shape(tag):
        numbers.extend(map(float, re.findall(r"-?\d+\.\d+", tag[0])))
        return re.sub(r"-?\d+\.\d+|\b[pm][0-9a-f]{10}\b", "", tag[0])

    def drawing(data):
        return re.sub("<[^>]*>", shape, base64.b64decode(data[1]).decode())

    return re.sub("data:image/svg[^,]*,([A-Za-z0-9+/=]+)", drawing, page.read_text()), numbers


def test_a_drawing_of_other_numbers_is_another_page(tmp_path):
    """One that differs in the last digit of a coordinate is the same; not one that says another number."""
    pages = []
    for n, (d, says) in enumerate((("M 1.000001 2", "0.05"), ("M 1.000002 2", "0.05"), ("M 1.1 2", "0.05"),
                                   ("L 1.000001 2", "0.05"), ("M 1.000001 2", "0.05001"))):
        drawing = base64.b64encode(f'<svg id="p012345678{n}"><path d="{d}"/><text>{says}</text></svg>'.encode()).decode()
        (tmp_path / str(n)).write_text(f'<img src="data:image/svg+xml;base64,{drawing}">')
        pages.append(read(tmp_path / str(n)))
    assert pages[0][0] == pages[1][0] == pages[2][0] and pages[0][0] not in (pages[3][0], pages[4][0]) and len(pages[0][1]) == 1
    assert pages[0][1] == pytest.approx(pages[1][1], abs=1e-4) != pages[2][1]


def test_a_page_whose_images_are_gone_is_kept(out, capsys):
    shutil.copy(ROOT / "results" / "report.html", out)
    before = (out / "report.html").read_bytes()
    assert main(["report", "--out", str(out)]) == 3
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "report.html: kept as it is" in said and "PyTorch, eta = 0," in said and "--table ddim" in said
    assert (out / "report.html").read_bytes() == before
    assert all((out / page).exists() for page in PAGES)


def test_a_chart_that_its_rows_no_longer_make_keeps_no_page():
    """Of the committed page: images of cells are what can be lost; a chart goes with its rows, as where a machine was not fit."""
    found = pictures((ROOT / "results" / "report.html").read_text())
    assert {"Drawn with 50 steps", "PyTorch, eta = 0", "JAX, eta = 1", "From noise to an image"} <= found
    assert not any("against" in title or "Training" in title or "differences" in title for title in found)


def test_pages_without_rows_are_not_written(tmp_path):
    assert main(["report", "--out", str(tmp_path)]) == 0
    assert [path.name for path in tmp_path.glob("*.*")] == ["report.html"]


@pytest.mark.parametrize("variant", ["", "of my own"])
def test_a_strangers_variant_is_no_line_of_ours(tmp_path, variant):
    last = rows.studies(rows.read(ROOT / "results" / "rows"), Ablation)[-1]
    rows.append(tmp_path / "rows", replace(last, config=last.config | ({"variant": variant} if variant else {})))
    assert main(["report", "--out", str(tmp_path)]) == 0 and (tmp_path / "ablation.md").exists() == (not variant)


def test_a_folder_that_is_not_there_is_refused_and_not_made(tmp_path, capsys):
    assert main(["report", "--out", str(tmp_path / "reslts")]) == 2
    assert "reslts': is no folder; name one with rows" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_the_committed_rows_are_exported(tmp_path):
    """Rows of every kind, also those of timings that have no memory of a process."""
    found = rows.read(ROOT / "results" / "rows")
    timings = [row for row in found if row.kind == "timing"]
    assert any("peak_rss_bytes" not in row.values for row in timings)
    report.export(timings, tmp_path / "all.json", None)
    times = json.loads((tmp_path / "all.json").read_text())["times"]
    assert {"training step", "sampling step"} <= {line["workload"] for line in times}


def test_every_table_of_every_page_that_is_made_from_rows_is_exported():
    """By its page and heading, with numbers as numbers."""
    pages = [(name, (ROOT / "results" / name).read_text()) for name in (*PAGES, "solvers.md", "likelihood.md")]
    for name, text in pages:
        tables = report.of_page(name.removesuffix(".md"), text)
        assert len(tables) == len(re.findall(r"^\|[-:|]+\|$", text, re.MULTILINE)) and (tables or name == "gallery.md")
        assert all(re.fullmatch("[a-z0-9-]+", key) and len(table) > 0 for key, table in tables.items())
    steps = report.of_page("scaling", dict(pages)["scaling.md"])["scaling-steps"]["sampling steps S"]
    assert steps.tolist() == sorted(steps) and steps.dtype.kind == "i"


def test_two_tables_below_one_heading_have_two_names():
    table = "| a | b |\n|--:|:--|\n| 1 | x |\n"
    found = report.of_page("page", f"# A page\n\n## One, two\n\n{table}\n{table}\n## None\n\nText | of no table\n")
    assert list(found) == ["page-one-two", "page-one-two-table-2"]
    assert found["page-one-two"].to_dict("records") == [{"a": 1, "b": "x"}]
