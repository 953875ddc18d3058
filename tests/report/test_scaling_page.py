"""What is said of many processes and many images, on rows and networks whose answers are known."""

import itertools
from dataclasses import replace

import pytest

from bench.presets import PRESETS
from bench.records.rows import Row
from bench.report import scaling_page
from bench.weights.tensor_files import weights_hash
from reference import weights


def row(kind, values, **config):
    base = {"device": "cpu", "threads": 1, "batch_size": 8, "model": {}}
    return Row(kind=kind, backend="torch", preset="quick", config=base | config, values=values, environment={}, commit="x")


def train(processes, seconds, **more):
    return row("train", {"losses": [1.0] * 11, "seconds": seconds, "starts": 1}, processes=processes, train_steps=11, **more)


def sample(processes, seconds):
    return row("sample", {"batch_seconds": seconds, "images": 4}, processes=processes, steps=50, eta="0.0")


def test_speed_up_is_of_the_same_work_on_other_numbers_of_processes():
    found = [train(1, 4.0), train(1, 2.0), train(2, 1.0), train(2, 9.0, threads=2), sample(1, [1.0] * 4),
             sample(4, [1.0, 1.0, 2.0, 1.0])]
    table = scaling_page.processes_table(found)
    assert table[["processes", "ms", "speed-up", "of the ideal"]].to_numpy().tolist() == [
        [1, "200", "1.00", "100%"], [2, "100", "2.00", "100%"], [1, "1000", "1.00", "100%"], [4, "500", "2.00", "50%"]]
    assert "No two rows" in "\n".join(scaling_page.extrapolation(found[:1]))
    without_one = scaling_page.processes_table([train(2, 4.0), train(8, 2.0)])  # four times as many, twice as fast
    assert without_one["of the ideal"].tolist() == ["100%", "50%"]


def test_the_page_says_when_the_presets_network_has_changed():
    now = weights_hash(weights.initialise(PRESETS["quick"].model, 0))
    other = row("timing", {}, axis="batch", weights="0" * 16)
    assert scaling_page._stale([other]) == ["", "Stale: the network of preset quick has changed since."]
    varied = row("timing", {}, axis="size", weights="1" * 16)
    assert scaling_page._stale([row("timing", {}, axis="batch", weights=now), varied]) == []
    assert scaling_page._stale([row("timing", {}, axis="batch")]) == []  # older rows do not say it


def test_the_figure_draws_what_the_rows_hold(monkeypatch, tmp_path):
    """Seven contenders, so more than there are markers: milliseconds and megabytes by hand, all of them in the legend, a tick at
    every value that was measured."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    kept = []
    monkeypatch.setattr(pyplot, "close", kept.append)
    who = [("torch", f"work {i}") for i in range(7)]
    found = []
    for (backend, workload), value in itertools.product(who, (3, 24)):
        values = {"block_seconds": [0.004 * value, 0.008 * value, 0.012 * value], "units_per_block": 2, "device": {},
                  "peak_rss_bytes": 3_000_000 * value}
        found.append(replace(row("timing", values, axis="batch", value=value, workload=workload), backend=backend))
    scaling_page.figure(found, tmp_path / "scaling.png")
    monkeypatch.undo()
    [figure] = kept
    times, memory = figure.axes
    for panel, expected in ((times, [12, 96]), (memory, [9, 72])):
        assert [list(line.get_xdata()) for line in panel.lines] == [[3, 24]] * 7
        assert [list(line.get_ydata()) for line in panel.lines] == [pytest.approx(expected, rel=1e-9)] * 7
        assert list(panel.get_xticks()) == [3, 24] and panel.get_xscale() == panel.get_yscale() == "log"
    [legend] = figure.legends
    assert {text.get_text() for text in legend.get_texts()} == {f"{backend}, {workload}" for backend, workload in who}
    pyplot.close(figure)
    assert (tmp_path / "scaling.png").stat().st_size > 0


def test_hours_are_rounds_of_batches(monkeypatch):
    monkeypatch.setattr(scaling_page.flops, "forward", lambda model: 10**9)
    one, eight, many = (scaling_page.paper_hours(PRESETS["quick"].model, n, 0.5) for n in (1, 8, 64))
    assert one == pytest.approx(50_000 * 1000 * 1e9 / (67e12 * 0.5) / 3600)
    assert eight == pytest.approx(one * 13 / 100) and many == pytest.approx(one * 2 / 100)


def test_a_point_that_was_measured_again_counts_once_and_axes_come_in_their_order():
    def point(axis, value=1, workload="network call", **more):
        return replace(row("timing", {}, stage="scaling", axis=axis, value=value, workload=workload), **more)

    old, new = point("threads"), point("threads")
    others = [point("batch"), point("threads", 2), point("threads", workload="sampling"), point("threads", backend="jax")]
    found = scaling_page.newest([old, *others, new, row("timing", {}, stage="speed")])
    assert found[0] is others[0] and found[1] is new and len(found) == 5 and not any(r is old for r in found)


def test_a_measured_rate_becomes_hours():
    """Of paths of 50 steps and more, on machines that were fit for times."""
    short, busy = sample(1, [9.0] * 4), replace(sample(1, [9.0] * 4), environment={"usable_cores": 1, "load": [9.0]})
    short = replace(short, config=short.config | {"steps": 49})
    text = "\n".join(scaling_page.extrapolation([busy, sample(1, [1.0] * 4), short]))
    assert "20 ms for an image and a step" in text and "278 hours for all" in text
    assert "On paper, not measured" in text and "| 64 GPUs" in text.replace("|   64", "| 64")
