"""What the pages' pictures draw, read back from matplotlib or from what is given to it: which numbers, against what, and whose."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench.pictures import plots, svg
from bench.records.rows import AnyRow, Row
from bench.report import noise_page
from bench.report.html import page as html_page
from bench.report.html import solver_sections, study_sections
from bench.report.job import figures
from bench.report.studies import likelihood_page, round_trip_page
from bench.sampling.cell import Cell
from tests.helpers import made_rows
from tests.report import test_results, test_solvers_page
from tests.report.test_html import ROWS, main_rows, table_rows, with_pictures


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are saved as PNG meanwhile, in order; none is written."""
    kept: list[Any] = []
    monkeypatch.setattr(plots, "save", lambda figure, path: kept.append(figure) or path)
    return kept


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """What `svg.curves` and `svg.multiples` are given meanwhile; nothing is drawn."""
    kept: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    for name in ("curves", "multiples"):
        monkeypatch.setattr(svg, name, lambda *words, **more: kept.append((words, more)) or "data:,")
    return kept


def xy(line: Any) -> tuple[list[float], list[float]]:
    return list(line.get_xdata()), list(line.get_ydata())


def job() -> list[AnyRow]:
    """A main job's cells of both backends at S = 10, 50, 1000."""
    return [replace(r, preset="quick") for r in table_rows() if r.kind in ("sample", "metric") and r.config.get("eta") == "0.0"
            and r.config["spacing"] == "leading" and r.config["seed"] == 0]


def test_the_first_chart_of_a_job_has_a_curve_a_backend_from_its_own_rows(given, tmp_path):
    """FID is 1000 / S, MindSpore's 0.001 more; 256 images take S / 100 seconds. The best points have their front."""
    html_page.render(job(), tmp_path)
    [((series, *labels), more)] = [found for found in given if found[0][1] == "seconds per image"]
    assert labels == ["seconds per image", "FID[fmnist-cnn]"] and more["front"] is True
    assert [(s.label, s.x, s.y) for s in series] == [
        ("PyTorch", pytest.approx([0.1 / 256, 0.5 / 256, 10 / 256]), pytest.approx([100, 20, 1])),
        ("MindSpore", pytest.approx([0.1 / 256, 0.5 / 256]), pytest.approx([100.001, 20.001]))]


def test_the_images_of_the_first_screen_are_the_first_backends_of_eta_0(given, tmp_path):
    """In whatever order the cells were drawn."""
    found = [*main_rows(), table_rows()[0], *table_rows()[:0:-1]]
    out = with_pictures(tmp_path, ROWS)
    text = html_page.page(found, out)
    assert "The first n = 10 images of 1 seed (0), not chosen; PyTorch, eta = 0; no extractor." in text
    shown = text.split('alt="Drawn with 50 steps"')[0].rsplit('src="', 1)[1].split('"')[0]
    assert f'src="{shown}" alt="PyTorch, eta = 0, S = 50"' in text and text.count(shown) == 2


def test_losses_have_a_curve_a_backend(drawn, tmp_path):
    trained = [test_results.row("train", name, {"losses": [3.0, k]}, stage="train") for k, name in enumerate(("torch", "jax"))]
    [(path, _)] = figures.losses(trained, tmp_path)
    first, second = drawn[0].axes[0].lines
    assert (xy(first), xy(second)) == (([0, 1], [3, 0]), ([0, 1], [3, 1])) and path == tmp_path / "losses.png"
    assert first.get_color() != second.get_color() and [first.get_label(), second.get_label()] == ["PyTorch", "JAX"]
    assert figures.losses([], tmp_path) == []


def test_pictures_are_written_where_the_report_says(tmp_path):
    trained = test_results.row("train", "torch", {"losses": [3.0, 1.0]}, stage="train")
    np.save(file := tmp_path / "0.npy", np.zeros((1, 1, 2, 2), np.float32))
    made = [*figures.losses([trained], tmp_path), *figures.grids({("torch", Cell(10, 0.0, None, 0)): file}, tmp_path)]
    assert [(path, path.stat().st_size > 0) for path, _ in made] == [(tmp_path / f"{n}.png", True) for n in ("losses", "samples")]


def test_a_fifth_backend_is_drawn_too(drawn, tmp_path):
    """With more series than colours a backend has its dashes, of which there are four."""
    cells = [test_results.sample(name, S, [S / 5], sampler=solver) for name in ("torch", "mindspore", "jax", "numpy", "a:B")
             for solver in ("ddim", "heun") for S in (5, 10)]
    figures.curves(cells, tmp_path)
    assert len(drawn[0].axes[0].lines) == 10


def noise(name: str) -> Row[Any]:
    study = main_rows()[-1]
    return replace(study, config=study.config | {"name": name})


def test_the_noise_of_fid_has_a_panel_a_set_of_images(drawn, tmp_path):
    """Two in a line; of three sets the fourth panel is empty."""
    studies = [noise(name) for name in ("a", "b", "c")]
    noise_page.figure(studies, tmp_path / "noise.png")
    panels = drawn[0].axes
    assert [panel.get_title() for panel in panels] == ["a", "b", "c", ""] and not panels[3].axison
    frame = noise_page.table(studies[0])
    for panel in panels[:3]:
        plain, beyond = (bars[0] for bars in panel.containers)
        assert xy(plain) == (frame["n"].tolist(), frame["fid"].tolist())
        assert list(beyond.get_xdata()) == pytest.approx(1.04 * frame["n"]) and list(beyond.get_ydata()) == frame["inf"].tolist()
        assert list(panel.get_xticks()) == [256, 384, 512] and panel.get_xscale() == "log" and panel.get_legend()
    assert panels[0].get_gridspec().get_geometry() == (2, 2)


def test_round_trips_are_drawn_beside_the_papers(drawn, tmp_path):
    found = [made_rows.round_trip({"0.0": [S / 8, S / 4], "1.0": [S, S]}, steps=S) for S in (4, 10)]
    round_trip_page.figure(round_trip_page.newest(found), tmp_path / "round-trip.png")
    [axes] = drawn[0].axes
    assert axes.get_ylabel() == "squared error per dimension" and axes.get_xlabel().startswith("steps S")
    assert [(line.get_label(), *xy(line)) for line in axes.lines[:2]] == [
        ("net, eta = 0", [4, 10], [0.75, 1.875]), ("net, eta = 1", [4, 10], [4, 10])]
    assert xy(axes.lines[2])[0] == [10, 20, 50, 100, 200, 500, 1000]
    assert list(axes.get_xticks()) == [4, 10, 20, 50, 100, 200, 500, 1000]


def test_likelihoods_are_drawn_against_s_and_t(drawn, tmp_path):
    networks = likelihood_page.newest([made_rows.likelihood({"large": [1, 2], "small": [3, 4]}, steps=S) for S in (4, 10)])
    likelihood_page.figure(networks, tmp_path / "likelihood.png")
    left, right = drawn[0].axes
    assert [(panel.get_xscale(), panel.get_yscale()) for panel in (left, right)] == [("log", "log")] * 2
    assert list(left.get_xticks()) == [4, 10] and right.get_ylabel() == "KL term, S = 10"
    assert [xy(bars[0])[1] for bars in left.containers] == [[3.5, 3.5], [1.5, 1.5]]  # of small and large, in their order
    assert [xy(line) for line in right.lines] == [([*range(1, 10)], [1.0] * 9)] * 2


def test_the_sections_of_studies_draw_the_same(given):
    """x_T's: a mean an S with half of its interval, the paper's beside it. Likelihoods': KL terms begin behind the decoder's."""
    study_sections.latents([made_rows.round_trip({"0.0": [1.0, 3.0], "1.0": [4.0, 4.0]}, steps=S) for S in (10, 20)])
    half = 12.7062  # of a mean of 1 and 3: its standard error is 1, t of one degree of freedom
    zero, one, paper = given[0][0][0]
    assert (zero.label, zero.x, zero.y, zero.error) == ("eta = 0", [10, 20], [2, 2], pytest.approx([half] * 2, rel=1e-5))
    assert (one.label, one.x, one.y, one.error) == ("eta = 1", [10, 20], [4, 4], [0, 0])
    assert (paper.label, paper.x[:2], paper.y[:2]) == ("DDIM paper, CIFAR-10", [10, 20], [0.014, 0.0065])
    row = made_rows.likelihood({"large": [1, 2]}, steps=4)
    row.values["bounds"]["large"]["terms"] = [9.0, 3.0, 2.0, 1.0]
    study_sections.likelihoods([row])
    [bits], [terms] = (found[0][0] for found in given[1:])
    assert (bits.label, bits.x, bits.y) == ("large", [4], [1.5])
    assert (terms.label, terms.x, terms.y) == ("large", [1, 2, 3], [3.0, 2.0, 1.0])


def test_the_section_of_solvers_has_a_panel_a_solver_in_their_order(given):
    found = [*test_solvers_page.table(), *test_solvers_page.bounds()]
    solver_sections.section([found[0], *found[:0:-1]])
    ((panels, *_), more), _ = given
    assert [title for title, _ in panels] == ["ddim", "heun", "dpmpp_2m"] and more["front"] is True
    [ddim] = panels[0][1]
    assert (ddim.x, ddim.y) == ([10, 15, 20, 100], [20.5, 12.5, 10.5, 8.5]) and ddim.error == pytest.approx([0.5**0.5] * 4)
    [heun] = panels[1][1]
    assert (heun.x, heun.y) == ([19], [10.0])


def test_one_seed_has_no_bar(given):
    """Its deviation is unknown: nothing is drawn of it."""
    found = [r for r in test_solvers_page.table() if r.config.get("seed") == 0 and r.kind in ("budget", "sample", "metric")]
    solver_sections.section(found)
    assert all(set(s.error) == {0} for ((panels, *_), _) in given for _, series in panels for s in series)


def test_what_is_open_at_first_is_what_a_reader_came_for(monkeypatch, given, tmp_path):
    """Of a folded section nothing is seen; of the others all that a verdict rests on is folded."""
    told: dict[str, Any] = {}
    page = SimpleNamespace(render=lambda **words: told.update(words) or "")
    monkeypatch.setattr(html_page, "Environment", lambda **_: SimpleNamespace(get_template=lambda _: page))
    html_page.page([*ROWS, *job(), *test_solvers_page.table(), *test_solvers_page.bounds(),
                    made_rows.likelihood({"large": [1, 2]}), made_rows.round_trip({"0.0": [1.0, 3.0], "1.0": [4.0, 4.0]})],
                   tmp_path)
    sections = {s.title: s for s in told["sections"]}
    assert {title for title, s in sections.items() if s.folded} == {
        "The main job", "Floor and ceiling", "The checkpoints", "How far chance alone moves FID", "Likelihoods", "Samples",
        "Budget and machine"}
    tables = {table.title: table for s in sections.values() for table in s.tables}
    for title in ("Parity: every comparison with the float64 oracle and between backends", "Agreement in preset quick",
                  "The variational bound: net", "Error of encoding and decoding: net", "Every comparison behind the verdicts"):
        assert tables[title].folded and len(tables[title].frame.columns) > 1, title
    assert not tables["Verdict on each claim"].folded
    assert [f.folded for f in sections["Fast solvers at equal network calls"].figures] == [False, True]
