"""The figures of the main job's report, from rows whose figures are worked out by hand."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from bench.pictures.plots import COLOURS
from bench.records.rows import Row
from bench.report import results, speed_page
from bench.report.job import figures
from bench.report.measures import interval, label
from bench.sampling.cell import Cell
from reference.solvers import SOLVERS

TORCH, MINDSPORE = label("torch"), label("mindspore")


def row(kind: str, backend: str, values: dict[str, Any], **config: Any) -> Row[Any]:
    """A row of this machine's."""
    return Row(kind, backend, "quick", {"device": "cpu", "dtype": "float32"} | config, values, {}, "abc",
               "2025-01-01T00:00:00+00:00")


def timing(backend: str, seconds: list[float], workload: str = "sampling step", units: int = 2, **more: Any) -> Row[Any]:
    """Blocks of two units of a batch of 16."""
    values = {"block_seconds": seconds, "units_per_block": units, "warmup_seconds": [9.0], "first_seconds": 7.0, "steady": True,
              "peak_rss_bytes": 250_000_000}
    return row("timing", backend, values | more, workload=workload, batch_size=16, threads=1)


def sample(backend: str, steps: int, seconds: list[float], eta: str = "0.0", **config: Any) -> Row[Any]:
    """Twelve images."""
    values = {"images": 12, "batch_seconds": seconds, "first_seconds": 50.0, "calls": 1, "notes": []}
    return row("sample", backend, values, steps=steps, eta=eta, spacing=None, seed=0, samples=12, batch_size=6, **config)


def metric(backend: str, fid: float, kid: float, **config: Any) -> Row[Any]:
    """A measurement of twelve images."""
    values = {"n": 12, "fid": fid, "fid_half": None, "fid_inf": None, "kid": kid, "kid_subset_size": 12, "kid_subset_std": 0.0,
              "seed": 0, "metric": "FID[x]", "extractor": "x", "extractor_sha256": "c0ffee", "reference": "r", "kid_reference": "k"}
    return row("metric", backend, values, samples=12, seed=0, **config)


def of_cell(backend: str, steps: int, fid: float, kid: float) -> Row[Any]:
    """The metric of a cell's images."""
    return metric(backend, fid, kid, steps=steps, eta="0.0", spacing=None)


def check(backend: str, **config: Any) -> Row[Any]:
    """One comparison that is well, one that is not, one that is reported, one that is not finite."""
    return row("check", backend, {
        "images": {"error": 0.25, "tolerance": 0.5, "ok": True}, "losses": {"error": 0.75, "tolerance": 0.5, "ok": False},
        "again": {"error": 0.1, "tolerance": None, "ok": True}, "odd": {"error": None, "tolerance": None, "ok": False}}, **config)


def test_speed_lines() -> None:
    """Units of 0.1, 0.2, 0.3 and 0.6 s: median 0.25, quartiles 0.175 and 0.375, mean 0.3, standard deviation 0.2160, halves
    that differ."""
    line, = results.speed_table([timing("torch", [0.2, 0.4, 1.2, 0.6])]).to_dict("records")
    assert line == {
        "backend": TORCH, "workload": "sampling step", "batch": 16, "ms (median)": 250.0, "quartiles": "175.00 .. 375.00",
        "per second": 4.0, "images/s": 64.0, "CV": "72.0% (noisy)", "first call s": 7.0, "steady": "no", "peak memory MB": 250}
    line, = results.speed_table([timing("torch", [0.6, 0.6, 0.6], units=3, steady=False)]).to_dict("records")
    assert (line["ms (median)"], line["images/s"], line["CV"], line["steady"]) == (200.0, 80.0, "0.0%", "no")
    line, = results.speed_table([timing("torch", [0.6, 0.62])]).to_dict("records")
    assert line["steady"] == "yes"
    line, = results.speed_table([timing("torch", [0.0246912], peak_rss_bytes=10**12)]).to_dict("records")
    assert (line["ms (median)"], line["peak memory MB"]) == (12.35, 1_000_000)


def test_ratio_lines() -> None:
    """Units of 1.0 and 1.25 s by turns beside 3.0 s: ratios 3.0 and 2.4, A/A 0.8 of one and 1 of the other."""
    rows = [timing("torch", [2.0, 2.5] * 5), timing("mindspore", [6.0] * 10), timing("torch", [1.0] * 10, "training step"),
            timing("mindspore", [4.0] * 10, "training step", units=4)]
    assert results.ratio_lines(rows) == [
        f"- training step: {MINDSPORE} takes 2.00 times {TORCH}'s time (95% interval 2.00 .. 2.00); A/A: 1.00 .. 1.00",
        f"- sampling step: {MINDSPORE} takes 2.70 times {TORCH}'s time (95% interval 2.40 .. 3.00); A/A: 0.80 .. 1.00"]
    rows = [timing("torch", [2.0, 2.5] * 5), timing("mindspore", [2.4, 2.7] * 5)]
    assert results.ratio_lines(rows) == [
        f"- sampling step: {MINDSPORE} takes 1.14 times {TORCH}'s time (95% interval 1.08 .. 1.20); A/A: 0.80 .. 0.89; "
        "no difference"]


def test_a_machine_that_is_not_fit_gives_no_ratio_and_no_table_of_the_readme(tmp_path: Path) -> None:
    """Its load, and blocks that differ from each other by 1.6 times. The other workload has its ratio."""
    readme, before = tmp_path / "README.md", f"{results.BEGIN}old{results.END}"
    readme.write_text(before)
    odd = [timing(name, [2.0, 3.2] * 5, "training step") for name in ("torch", "mindspore")]
    even = [timing(name, [2.0] * 10) for name in ("torch", "mindspore")]
    why = "a contender differs from itself by up to 1.60 times"
    first, second = results.ratio_lines([*odd, *even])
    assert first == f"- training step: no ratio, since the machine was not fit for one: {why}" and "takes 1.00 times" in second
    assert results.update_readme(readme, [*odd, *even, sample("torch", 10, [2.0])]) == why and readme.read_text() == before
    busy = [replace(r, environment={"usable_cores": 2, "load": [7.0, 7.0, 7.0]}) for r in (*even, sample("torch", 10, [2.0]))]
    why = "load average 7.0 on 2 cores"
    assert results.ratio_lines(busy) == [f"- sampling step: no ratio, since the machine was not fit for one: {why}"]
    for rows in (busy, busy[2:]):
        assert results.update_readme(readme, rows) == why and readme.read_text() == before
    assert results.update_readme(readme, [*even, sample("torch", 10, [2.0])]) == "" and "|    0.1667 |" in readme.read_text()


def test_a_single_backend_has_no_ratio() -> None:
    """Nor has a workload that nobody was timed on; on a busy machine, too, there was none to leave out."""
    alone = timing("torch", [1.0] * 10)
    assert results.ratio_lines([alone]) == []
    assert results.ratio_lines([replace(alone, environment={"usable_cores": 2, "load": [7.0, 7.0, 7.0]})]) == []


def test_sample_lines() -> None:
    """Each cell beside its own backend's metric; 12 images in 2 and 4 s, one process or two."""
    rows = [sample("torch", 10, [2.0, 4.0]), sample("mindspore", 10, [2.0, 4.0], processes=2), sample("torch", 50, [6.0, 6.0]),
            of_cell("mindspore", 10, 7.5, 0.75), of_cell("torch", 50, 5.0, 0.5), of_cell("torch", 10, 2.5, 0.25),
            check("torch mindspore", steps=10, eta="0.0", spacing=None, seed=0)]
    shown = results.sample_table(rows).to_dict("records")
    assert [(line["backend"], line["S"], line["FID[x]"], line["KID[x]"], line["s/image"], line["images/s"],
             line["max pixel difference"]) for line in shown] == [
        (TORCH, 10, 2.5, 0.25, "0.5", "2", ""), (MINDSPORE, 10, 7.5, 0.75, "0.3333", "3", "2.5e-01"),
        (TORCH, 50, 5.0, 0.5, "1", "1", "")]
    assert [line["n"] for line in shown] == [12, 12, 12]


def test_each_seed_has_its_own_metric() -> None:
    """Two sets of images of one cell."""
    cell = sample("torch", 10, [2.0])
    rows = [cell, replace(cell, config=cell.config | {"seed": 1})]
    measured = [of_cell("torch", 10, fid, fid) for fid in (2.5, 7.5)]
    measured[1] = replace(measured[1], config=measured[1].config | {"seed": 1})
    for found in (measured, measured[::-1]):
        assert [line["FID[x]"] for line in results.sample_table([*rows, *found]).to_dict("records")] == [2.5, 7.5]


def test_a_solver_is_named_beside_its_network_calls_and_has_its_own_metric(tmp_path: Path) -> None:
    """Cells of one S and eta are told apart by the sampler; quality is shown against calls and seconds."""
    ddim, heun = sample("torch", 10, [2.0]), sample("torch", 10, [4.0], sampler="heun")
    heun = replace(heun, values=heun.values | {"calls_per_image": 19})
    measured = [of_cell("torch", 10, 2.5, 0.25), metric("torch", 1.5, 0.125, steps=10, eta="0.0", spacing=None, sampler="heun")]
    shown = results.sample_table([heun, ddim, *measured]).to_dict("records")
    assert [(line["sampler"], line["network calls"], line["FID[x]"]) for line in shown] == [("heun", 19, 1.5), ("ddim", 10, 2.5)]
    ddpm = sample("torch", 10, [2.0], eta="ddpm")
    assert [line["sampler"] for line in results.sample_table([heun, ddpm]).to_dict("records")] == ["heun", "ddpm"]
    assert "sampler" not in results.sample_table([ddim, ddpm, *measured[:1]])
    wrong = check("torch oracle", steps=10, eta="0.0", sampler="heun")
    assert results.disagreements([wrong])[0] == "torch oracle: losses, heun, S=10, eta=0.0 off by 0.75, tolerance 0.5"
    with patch.object(figures.plots, "save"), patch.object(figures.plots, "plot", wraps=figures.plots.plot) as plotted:
        assert [path.name for path, _ in figures.curves([ddim, heun, *measured], tmp_path)] == [
            "metric.png", "seconds.png", "calls.png", "cost.png"]
        assert [call.args for call in plotted.call_args_list[2:]] == [
            ("network calls for an image", "FID[x]", (6, 4)), ("seconds for an image", "FID[x]", (6, 4))]
        assert [path.name for path, _ in figures.curves([ddim, *measured[:1]], tmp_path)] == ["metric.png", "seconds.png"]


def test_eight_series_are_told_apart_and_their_legend_covers_none(tmp_path: Path) -> None:
    """A solver has one colour on both backends, a backend its dashes; the legend lies beside the axes."""
    rows = [sample(backend, s, [s / 5], sampler=solver) for backend in ("torch", "mindspore") for s in (5, 10)
            for solver in ("ddim", "heun", "dpmpp_2m", "unipc_3")]
    drawn = []
    with patch.object(figures.plots, "save", side_effect=lambda figure, _: drawn.append(figure)):
        figures.curves(rows, tmp_path)
    lines, (legend,) = drawn[0].axes[0].lines, drawn[0].legends
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == len(lines) == 8
    for color, dashes in ((line.get_color(), line.get_linestyle()) for line in lines):
        assert sum(line.get_color() == color for line in lines) == 2 and sum(line.get_linestyle() == dashes for line in lines) == 4
    drawn[0].draw_without_rendering()
    assert not legend.get_window_extent().overlaps(drawn[0].axes[0].get_window_extent())


def test_every_solver_of_one_backend_has_a_look_of_its_own(tmp_path: Path) -> None:
    """Where there are more of them than colours, too."""
    rows = [sample("torch", s, [s / 5], sampler=solver) for s in (5, 10) for solver in SOLVERS]
    drawn = []
    with patch.object(figures.plots, "save", side_effect=lambda figure, _: drawn.append(figure)):
        figures.curves(rows, tmp_path)
    lines = drawn[0].axes[0].lines
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == len(lines) == len(SOLVERS) > len(COLOURS)


def test_bounds() -> None:
    """Floor, ceiling, extractor."""
    lines = results.bounds([metric("noise", 400.0, 40.0), metric("real", 1.5, 0.125), of_cell("torch", 10, 2.5, 0.25)])
    assert lines[:3] == ["- FID[x] floor: held-out real images, n = 12: 1.500 (KID 0.12)",
                         "- FID[x] ceiling: standard normal noise, n = 12: 400.000 (KID 40)",
                         "- extractor x, sha256 c0ffee; reference: r"]
    assert "n = 12 images are few" in lines[3]


def test_verdicts_are_shown_and_counted() -> None:
    """What is wrong is in the table and has a line of its own, whatever its row."""
    rows = [check("torch oracle"), timing("torch", [1.0]), check("torch mindspore", steps=10, eta="1.0", spacing=None, seed=0)]
    table = results.check_table(rows).to_dict("records")
    assert [(line["measured"], line["tolerance"], line["verdict"]) for line in table[:4]] == [
        ("2.5e-01", "5e-01", "ok"), ("7.5e-01", "5e-01", "**DISAGREES**"), ("1.0e-01", "(reported)", ""),
        ("not finite", "(reported)", "**DISAGREES**")]
    assert results.disagreements(rows) == [
        "torch oracle: losses off by 0.75, tolerance 0.5", "torch oracle: odd off by not finite, tolerance any finite number",
        "torch mindspore: losses, S=10, eta=1.0 off by 0.75, tolerance 0.5",
        "torch mindspore: odd, S=10, eta=1.0 off by not finite, tolerance any finite number"]


@pytest.mark.parametrize("wanted", ["PyTorch", "2.5", "0.80 .. 1.00", "250.0", "DISAGREES", "ceiling", "missing: x"])
def test_the_terminal_shows_all(wanted: str) -> None:
    """Cells, speeds, ratios, bounds, verdicts, what is missing."""
    rows = [sample("torch", 10, [2.0]), of_cell("torch", 10, 2.5, 0.25), metric("noise", 400.0, 40.0), check("torch oracle"),
            timing("torch", [0.4, 0.5] * 5), timing("mindspore", [0.5] * 10)]
    assert wanted.replace("PyTorch", TORCH).replace("250.0", "225.0") in results.shown(rows, ["missing: x"])


def test_a_table_in_parts_says_in_each_which_cell_a_line_is_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its backend, S and eta; of a speed its backend and workload; of a check who and what; of a job that drew nothing there is no
    table of cells."""
    said: list[list[str]] = []
    monkeypatch.setattr(results.terminal, "fit", lambda table, keys: said.append(list(table)[:keys]) or "")
    results.shown([sample("torch", 10, [2.0]), timing("torch", [0.5] * 10), check("torch oracle")], [])
    results.shown([timing("torch", [0.5] * 10)], [])
    assert said == [["backend", "S", "eta"], ["backend", "workload"], ["who", "what"], ["backend", "workload"], []]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are drawn meanwhile, in order."""
    kept: list[Any] = []
    monkeypatch.setattr(pytest.importorskip("matplotlib.pyplot"), "close", kept.append)
    return kept


def test_the_curves_are_of_their_rows(drawn: list[Any], tmp_path: Path) -> None:
    """The metric and the seconds of one image against S: twelve images in batches of 2 s each; floor and ceiling as lines."""
    rows = [metric("real", 0.5, 0.1), metric("noise", 400.0, 40.0)]
    for backend in ("torch", "mindspore"):
        rows += [row for S in (50, 10) for row in (sample(backend, S, [2.0 * S]), of_cell(backend, S, 30.0 / S, 1.0))]
    made = figures.curves(rows, tmp_path)
    assert [path.name for path, _ in made] == ["metric.png", "seconds.png"] and all(path.stat().st_size for path, _ in made)
    of_metric, of_seconds = (figure.axes[0] for figure in drawn)
    said = [f"{name}, eta 0.0" for name in (TORCH, MINDSPORE)]
    assert [text.get_text() for text in of_metric.get_legend().get_texts()] == [*said, "floor: real images", "ceiling: noise"]
    assert [text.get_text() for text in of_seconds.get_legend().get_texts()] == said
    for line in of_metric.lines[:2]:
        assert (list(line.get_xdata()), list(line.get_ydata())) == ([10, 50], [3.0, 0.6])
    for line in of_seconds.lines:
        assert (list(line.get_xdata()), list(line.get_ydata())) == ([10, 50], pytest.approx([20 / 12, 100 / 12]))
    assert [list(axes.get_xticks()) for axes in (of_metric, of_seconds)] == [[10, 50]] * 2
    sizes = [line.get_markersize() for line in of_seconds.lines]
    assert sizes[0] > sizes[1]  # both are seen where they lie on one another


def test_what_was_not_measured_has_no_picture_and_no_warning(tmp_path: Path) -> None:
    """As with --metric none, where a legend without entries said so on stderr."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = figures.curves([sample("torch", S, [2.0 * S]) for S in (10, 50)], tmp_path)
        assert [path.name for path, _ in made] == ["seconds.png"] and figures.curves([], tmp_path) == []


def test_the_pictures_of_a_cell_stand_in_the_column_of_its_backend(drawn: list[Any], tmp_path: Path) -> None:
    """A line for each cell, torch first; a backend without a cell leaves its place empty."""
    images = {}
    for i, (backend, S) in enumerate((("mindspore", 10), ("torch", 10), ("torch", 50))):
        np.save(path := tmp_path / f"{i}.npy", np.full((33, 1, 2, 2), i - 1, np.float32))
        images[backend, Cell(S, 0.0, None, 0)] = path
    [(path, _)] = figures.grids(images, tmp_path)
    panels = drawn[0].axes
    assert [panel.get_title() for panel in panels] == [f"{TORCH}, S = 10, eta = 0.0", f"{MINDSPORE}, S = 10, eta = 0.0",
                                                       f"{TORCH}, S = 50, eta = 0.0", ""]
    shown = [[np.unique(image.get_array()).tolist() for image in panel.get_images()] for panel in panels]
    assert shown == [[[128]], [[0]], [[255]], []] and path.stat().st_size  # 32 images fill four lines of eight


def test_tables_of_the_page_have_no_column_of_numbers_of_lines(tmp_path: Path) -> None:
    """The first column of each is what it is about; the machine is told in words, its lists left out."""
    rows = [sample("torch", 10, [2.0]), of_cell("torch", 10, 2.5, 0.25), check("torch oracle"), timing("torch", [0.5] * 10)]
    rows = [replace(r, environment={"cpu": "a processor", "load": [0.0], "versions": {"torch": "2"}}) for r in rows]
    lines = results.render(rows, {}, tmp_path, "ddim-bench run", []).read_text().splitlines()
    assert lines[lines.index("## Machine") + 2:] == ["- cpu: a processor", "- torch: 2"]
    heads = [line.strip("|").split("|")[0].strip() for line, below in zip(lines, lines[1:], strict=False) if below.startswith("|:")]
    assert heads == ["backend", "backend", "who"]


def test_the_interval_of_a_mean_by_hand():
    """Student's t of three degrees of freedom is 3.182446 at 97.5%, and the deviation of 1, 2, 3, 4 the root of 5/3."""
    assert interval(np.array([1.0, 2.0, 3.0, 4.0])) == pytest.approx((2.5, 3.182446 * (5 / 3) ** 0.5 / 2), rel=1e-6)
    mean, half = interval(np.array([7.0]))
    assert mean == 7 and np.isnan(half)


def test_of_two_races_the_newer_one_is_shown_in_either_order():
    """All of its contenders, and none of the older one's."""
    def contender(name: str, began: str) -> Row[Any]:
        found = timing("torch", [1.0], began=began)
        return replace(found, config=found.config | {"stage": "speed", "contender": name})

    old, new = [contender(name, "2026-01-01") for name in "ab"], [contender(name, "2026-01-02") for name in "cd"]
    for rows in (old + new, new + old):
        assert speed_page.groups(rows) == [new]
