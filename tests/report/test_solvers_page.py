"""The table of solvers: its cells, what is derived from their rows, the verdicts and the pages."""

from __future__ import annotations

import itertools
import subprocess
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from bench.cli import report
from bench.cli.main import main
from bench.data import datasets
from bench.data.pixels import to_uint8
from bench.job import measuring, pooled
from bench.job.job import Job
from bench.metric import fid
from bench.pictures import plots
from bench.presets import PRESETS
from bench.records import rows
from bench.records.cells import Cells
from bench.records.notebook import Notebook
from bench.records.rows import Row, of
from bench.records.values import Pooled
from bench.report import measures, table1_frames
from bench.report.html import solver_sections
from bench.report.solvers import claims, frames, page
from bench.sampling import solver_table
from bench.sampling.cell import Cell
from reference.config import ConfigError
from reference.solver_plans import CODES, make_solver_plan
from tests.helpers import tree

SHA = "e" * 64
CLOCK = itertools.count()
CONFIG = {"model": {"block_out_channels": [8]}, "diffusion": {"schedule": "linear", "timesteps": 1000, "objective": "eps"},
          "weights": "w1" * 8, "convention": "plain", "dtype": "float32", "device": "cpu", "threads": 1, "samples": 256,
          "batch_size": 128}
CALLS = {"heun": lambda S: 2 * S - 1, "dpmpp_2s": lambda S: 2 * S - 1, "plms": lambda S: S + 1, "pndm": lambda S: S + 9}


def row(kind, backend, values, preset="table", **config):
    created = datetime.fromtimestamp(next(CLOCK), UTC).isoformat()
    return Row(kind, backend, preset, CONFIG | config, values, {"cpu": "a processor", "versions": {"torch": "2"}}, "c", created)


def metric(backend, found, **config):
    values = {"metric": "FID[fmnist-cnn]", "fid": found, "fid_half": None, "fid_inf": None, "kid": found / 8, "kid_subset_size": 9,
              "kid_subset_std": 0.1, "n": 256, "seed": 0, "extractor": "fmnist-cnn", "extractor_sha256": SHA, "reference": "train",
              "kid_reference": "train"}
    return row("metric", backend, values, stage="metric", reference="r", held_out="h", extractor_sha256=SHA, **config)


def of_cell(solver, S, found, seed=0, backend="torch", **more):
    calls = CALLS.get(solver, lambda S: S)(S)
    where = {"steps": S, "eta": "0.0", "spacing": "trailing", "seed": seed, "sampler": solver, **more}
    values = {"batch_seconds": [0.256 * calls], "images": 256, "first_seconds": 1.0, "calls": calls, "calls_per_image": calls}
    return [row("sample", backend, values, stage="sample", **where), metric(backend, found, **where)]


def resampled(solver, S, found, spread=(0.0,), seeds=(0, 1), backend="torch", **more):
    values = {"n": 512, "metric": "FID[fmnist-cnn]", "fid": found, "resampled": [found + s for s in np.resize(spread, 100)]}
    return row("study", backend, values, stage="pooled", study="pooled", table="solvers", sampler=solver, steps=S, eta="0.0",
               spacing="trailing", seed=0, seeds=list(seeds), extractor_sha256=SHA, **more)


def budget(preset="table", **config):
    return row("budget", "torch", {"calls": {}, "cells": []}, preset, stage="budget", table="solvers", seed=0, extractor_sha256=SHA,
               **config)


def bounds():
    return [metric(name, value, seed=0) for name, value in (("real", 4.0), ("noise", 400.0))]


def table(**more):
    """DDIM and DPM-Solver++(2M) at 10 and 20 calls, DDIM at 100, two seeds."""
    found = {("ddim", 10): 20.0, ("ddim", 20): 10.0, ("ddim", 100): 8.0, ("dpmpp_2m", 10): 9.0, ("dpmpp_2m", 15): 8.5,
             ("dpmpp_2m", 20): 8.0, ("ddim", 15): 12.0, ("heun", 10): 9.5}
    out = [budget(**more)]
    for (solver, S), value in found.items():
        for seed in (0, 1):
            out += of_cell(solver, S, value + seed, seed, **more)
        out.append(resampled(solver, S, value, (-0.1, 0.1), **more))
    return out


def test_the_cells_are_each_solver_at_every_s_on_its_own_grid_and_those_of_the_claims():
    whole = solver_table.cells(list(solver_table.STEPS), list(solver_table.SOLVERS), 0, 3)
    assert len(whole) == len(set(whole)) == 3 * (6 * len(solver_table.SOLVERS) + 3 + 1)
    assert [c.seed for c in whole] == sorted(c.seed for c in whole)
    assert {c.sampler for c in whole} == set(CODES["plain"]) - {"ddpm"}
    assert all(c.spacing == CODES["plain"][c.sampler].spacing for c in whole)
    assert {c.eta for c in whole if c.sampler == "dpmpp_2m_sde"} == {1.0} and {c.eta for c in whole if c.sampler == "ddim"} == {0.0}
    assert {c.steps for c in whole if c.sampler == "heun"} == {3, 4, 8, 5, 7, 10, 15, 20, 50}
    drawn = {(c.sampler, c.steps) for c in whole}
    assert drawn >= {place for claim in solver_table.CLAIMS for pair in claim.pairs for place in pair}, "every claim has its cells"
    assert {(c.sampler, c.steps) for c in solver_table.paired(whole)} == {(s, 10) for s in solver_table.SOLVERS}
    assert [(c.sampler, c.steps, c.seed) for c in solver_table.cells([7, 10], ["heun"], 4, 1)] == [
        ("heun", 7, 4), ("heun", 10, 4), ("heun", 4, 4)]
    with pytest.raises(ConfigError, match=r"--steps=6: table solvers has 5, 7"):
        solver_table.cells([6], ["heun"], 0, 1)
    with pytest.raises(ConfigError, match=r"--sampler='ddpm': table solvers has ddim, heun"):
        solver_table.cells([5], ["ddpm"], 0, 1)


def test_claims_compare_equal_calls():
    for claim in solver_table.CLAIMS:
        if "equal calls" in claim.text or "better than (2M)" in claim.text:
            for (a, S), (b, R) in claim.pairs:
                apart = CALLS.get(b, lambda S: S)(R) - CALLS.get(a, lambda S: S)(S)
                assert apart == 0 or ("one fewer" in claim.text and apart == 1), (a, S, b, R)


def test_the_plan_names_both_networks_and_every_cell(capsys, tmp_path):
    assert main(["run", "--table", "solvers", "--dry-run=plan", "--backends", "torch", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert '"name": "table"' in said and '"name": "table-base"' in said
    assert said.count("sample and measure") == 2 * 3 * (6 * len(solver_table.SOLVERS) + 4)
    assert said.count("torch: sample and measure heun S=3 eta=0.0 ") == 6 and "train 60" not in said
    assert main(["run", "--table", "solvers", "--dry-run=plan", "--backends", "torch", "--preset", "table", "--steps", "5",
                 "--sampler", "heun,dpmpp_2m", "--seeds", "1", "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.count("torch: sample") == 3 and not (tmp_path / "out").exists()


@pytest.mark.parametrize("line, words", [
    ("--eta 0", "--eta='0': does not apply with --table solvers"), ("--spacing karras", "--spacing='karras': goes without --table"),
    ("--clip 1", "--clip='1': does not apply with --table solvers"), ("--steps 6", "--steps=6: table solvers has 5, 7, 10"),
    ("--sampler ddpm", "--sampler='ddpm': table solvers has ddim"), ("--seeds 3,1", "--seeds='3,1': is one number with"),
    ("--convention diffusers", "--convention='diffusers': goes without --table solvers")])
def test_what_the_table_does_not_take_is_one_line(line, words, capsys, tmp_path):
    assert main(["run", "--table", "solvers", "--backends", "torch", "--out", str(tmp_path / "out"), *line.split()]) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_table_is_its_networks_newest_and_takes_no_other_rows():
    old, new = table(weights="old"), table()
    strange = [*of_cell("ddim", 10, 99.0, dtype="float64"), *of_cell("ddim", 10, 99.0, samples=128),
               row("sample", "torch", {"batch_seconds": [9.0], "images": 256, "first_seconds": 1.0, "calls": 10}, stage="sample",
                   steps=10, eta="0.0", spacing="leading", seed=0)]
    found = [*old, *new, *bounds(), *strange]
    [begun] = frames.begun(found)
    assert begun.config["weights"] == CONFIG["weights"]
    ours = frames.of_table(found, begun)
    measured = frames.measurements(ours)
    assert len(measured) == 16 and measured["fid"].max() == 21 and set(measured["n"]) == {256}
    stats = frames.statistics(measured).set_index(["solver", "S"])
    assert stats.loc[("ddim", 10), ["fid_mean", "kid_mean", "seeds", "calls"]].tolist() == [20.5, 20.5 / 8, 2, 10]
    assert stats.loc[("ddim", 10), "fid_sd"] == pytest.approx(0.5**0.5) and stats.loc[("heun", 10), "calls"] == 19
    assert stats.loc[("heun", 10), "seconds"] == pytest.approx(0.019)
    assert frames.bounds(ours) == {"floor: real images": 4.0, "ceiling: noise": 400.0}
    again = of_cell("ddim", 10, 30.0)
    for order in ([*found, *again], [*found, *again][::-1]):  # the time of a row counts, and not its place in a file
        assert frames.measurements(frames.of_table(order, begun))["fid"].max() == 30, "the later row counts"
        assert frames.begun(order) == [begun]


@pytest.mark.parametrize("other", [
    {"model": {"block_out_channels": [16]}}, {"diffusion": {"schedule": "cosine"}}, {"convention": "diffusers"}, {"device": "cuda"},
    {"batch_size": 64}, {"table": "ddim"}], ids=lambda other: next(iter(other)))
def test_cells_and_bounds_that_differ_are_not_of_the_table(other):
    """Of the bounds those of as many images, of the same reference and held-out ones."""
    begun, ours = budget(), bounds()
    later = [replace(r, config=r.config | change, values=r.values | {"fid": 9.5}) for r in bounds()
             for change in ({"samples": 128}, {"held_out": "others"}, {"reference": "others"}, {"extractor_sha256": "f" * 64})]
    found = frames.of_table([begun, *of_cell("ddim", 10, 20.0), *ours, *of_cell("ddim", 20, 30.0, **other), *later], begun)
    assert frames.measurements(found)["fid"].tolist() == [20.0]
    assert frames.bounds(found) == {"floor: real images": 4.0, "ceiling: noise": 400.0}


def test_the_tables_of_ddim_and_of_solvers_do_not_mix():
    ddim = row("budget", "torch", {"calls": {}, "cells": []}, stage="budget", seed=0, extractor_sha256=SHA)
    newer = table()
    found = table1_frames.latest([ddim, *newer])
    assert [r.kind for r in found] == ["budget"] and "table" not in found[0].config
    assert table1_frames.latest(newer) == [] and len(frames.begun([ddim, *newer])) == 1


@pytest.mark.parametrize("difference, spread, wanted", [
    (-1.0, 0.1, measures.REPRODUCED), (1.0, 0.1, measures.CONTRADICTED), (-0.1, 0.1, measures.UNKNOWN),
    (0.1, 0.1, measures.UNKNOWN), (-0.21, 0.1, measures.REPRODUCED), (0.21, 0.1, measures.CONTRADICTED)])
def test_a_verdict_is_where_the_interval_lies(difference, spread, wanted):
    claim = solver_table.Claim("a is better", "", ((("a", 5), ("b", 5)),))
    found = {("a", 5): resampled("a", 5, 9 + difference, (-spread, spread)), ("b", 5): resampled("b", 5, 9.0)}
    [compared] = claims.comparisons(claim, found)
    assert compared.difference == pytest.approx(difference) and compared.error == pytest.approx(spread * (100 / 99) ** 0.5)
    assert np.subtract(*compared.interval()[::-1]) == pytest.approx(2 * 1.96 * compared.error, rel=1e-4)
    assert claims.verdict(claim, [compared]) == compared.verdict == wanted


def test_what_both_cells_share_is_no_noise_and_the_factor_counts():
    """The resamples are the same images in both cells: what moves both alike leaves their difference where it is."""
    claim = solver_table.Claim("nearly as good", "", ((("a", 5), ("b", 5)),), factor=1.05)
    wild = np.linspace(-5, 5, 100)
    found = {("a", 5): resampled("a", 5, 10.2, 1.05 * wild), ("b", 5): resampled("b", 5, 10.0, wild)}
    [compared] = claims.comparisons(claim, found)
    assert compared.error == pytest.approx(0, abs=1e-12) and compared.difference == pytest.approx(-0.3)
    assert claims.verdict(claim, [compared]) == measures.REPRODUCED


def test_a_claim_of_several_comparisons():
    pairs = tuple(((("a", S), ("b", S))) for S in (5, 10))
    claim = solver_table.Claim("a is better", "", pairs)

    def told(first, second, spread=0.1):
        found = {("b", S): resampled("b", S, 9.0) for S in (5, 10)} | {
            ("a", S): resampled("a", S, 9 + apart, (-spread, spread)) for S, apart in ((5, first), (10, second))}
        return claims.verdict(claim, claims.comparisons(claim, found))

    assert told(-1, -1) == measures.REPRODUCED and told(-1, -0.1) == measures.UNKNOWN and told(-1, 1) == measures.CONTRADICTED
    assert told(-1, 0.21) == measures.UNKNOWN, "one of two at 5% is not enough to contradict"
    alone = {("a", 5): resampled("a", 5, 8.0), ("b", 5): resampled("b", 5, 9.0)}
    assert claims.verdict(claim, claims.comparisons(claim, alone)) == measures.ABSENT
    other = alone | {("a", 5): resampled("a", 5, 8.0, seeds=(0, 1, 2))}
    assert claims.comparisons(claim, other) == [], "cells of other seeds share no images"


def test_the_pages_show_figures_verdicts_and_what_they_come_from(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(plots, "save", lambda figure, path: shown.append(figure) or path)
    found = [*table(), *bounds(), *of_cell("ddim", 10, 20.25, backend="mindspore")]
    made = page.write(tmp_path, found, "python bench/run.py --table solvers", ["missing: something"])
    text = made.read_text()
    assert made == tmp_path / "solvers.md"
    for words in ("python bench/run.py --table solvers", "- floor: real images: 4.00", "2S - 1", "figures/solvers.png",
                  "20.5 ± 0.71", "| DPM-Solver++(2M) is better than DDIM at equal calls ", "**reproduced**", "**not run**",
                  "missing: something",
                  "| dpmpp_2m, S = 20 | ddim, S = 100 | 1.05 ", "8.00, 8.00", "-0.40", "| MindSpore | ddim ", "-2.5e-01"):
        assert " ".join(words.split()) in " ".join(text.split()), words
    calls, seconds = shown[0].axes
    lines = {line.get_label(): line for line in calls.containers[0:] for line in [line]}
    assert set(lines) == {"ddim", "heun", "dpmpp_2m"}
    assert lines["heun"][0].get_xdata().tolist() == [19] and lines["ddim"][0].get_xdata().tolist() == [10, 15, 20, 100]
    assert seconds.containers[0][0].get_xdata().tolist() == pytest.approx([0.01, 0.015, 0.02, 0.1])
    section = solver_sections.section(found, "THE COMMAND")
    assert len(section.figures) == 2 and not section.missing and all(f.command == "THE COMMAND" for f in section.figures)
    assert Counter(section.tables[0].frame["verdict"])["reproduced"] == 2
    empty = solver_sections.section([])
    assert empty.missing == [("FID of fast solvers against network calls has no rows yet.", "python bench/run.py --table solvers")]


def test_times_of_a_machine_with_other_work_are_not_shown(tmp_path, monkeypatch):
    """A load average of 5 on 2 cores: no times in the figure, the page and the report; FID of the same cells stays."""
    shown = []
    monkeypatch.setattr(plots, "save", lambda figure, path: shown.append(figure) or path)
    busy = [replace(r, environment=r.environment | {"affinity": 2, "cores": 2, "load": [5.0, 0.0, 0.0]}) for r in table()]
    text = page.write(tmp_path, [*busy, *bounds()], "run", []).read_text()
    assert measures.NO_TIMES in text and "nan" not in text and "20.5 ± 0.71" in text
    page.write(tmp_path, [*busy, *bounds(), *of_cell("ddim", 10, 20.25, backend="mindspore")], "run", [])  # the figure is of torch
    for figure in shown:
        calls, seconds = figure.axes
        assert calls.containers and not seconds.containers and measures.NO_TIMES in seconds.texts[0].get_text()
    section = solver_sections.section([*busy, *bounds()])
    assert len(section.figures) == 1 and any(measures.NO_TIMES in line for line in section.text)


def test_the_caption_is_of_the_run_that_began_the_table():
    """Its cells may have been drawn by a later one."""
    found = table()
    said = page.caption([found[0], *(replace(r, commit="later", preset="other") for r in found[1:])])
    assert "preset table:" in said[0] and said[-1].endswith("commit c")


def test_calls_that_one_solver_made_alone_are_no_comparison():
    stats = frames.statistics(frames.measurements([budget(), *of_cell("ddim", 10, 20.0)]))
    assert page.by_calls(stats).empty and page.by_calls(stats).columns.tolist() == ["calls", "solvers, by FID"]


def test_a_comparison_beyond_its_tolerance_is_on_the_page():
    """Of this table's cells alone; one within it is no line."""
    def check(error, **config):
        images = {"error": error, "tolerance": 1e-3, "ok": error <= 1e-3, "quantiles": {}}
        return row("check", "torch mindspore", {"images": images}, stage="images", steps=10, eta="0.0", spacing="leading", **config)

    begun = budget()
    found = [begun, *of_cell("plms", 10, 8.0), check(0.002, sampler="plms", seed=0), check(1e-5, sampler="heun", seed=0),
             check(0.003, seed=0)]  # of the main job
    text = page.page([frames.of_table(found, begun)], "run", [])
    assert [line for line in text.splitlines() if "off by" in line] == [
        "- torch mindspore: images, plms, S=10, eta=0.0 off by 0.002, tolerance 0.001"]
    assert "beyond their tolerance" not in page.page([frames.of_table(found[:3], begun)], "run", [])


def test_report_writes_the_page_again_from_rows(tmp_path, capsys):
    for each in [*table(), *bounds()]:
        rows.append(tmp_path / "rows", each)
    (tmp_path / "solvers.md").write_text("Made by `python bench/run.py --table solvers --seeds 2`. And more.\n")
    names = [name for name, _ in report.pages(rows.read(tmp_path / "rows"), tmp_path)]
    assert names == ["solvers.md", "report.html"] and (tmp_path / "figures" / "solvers.png").exists()
    assert main(["report", "--out", str(tmp_path)]) == 0
    assert "--table solvers --seeds 2`" in (tmp_path / "solvers.md").read_text()
    assert "Fast solvers at equal network calls" in (tmp_path / "report.html").read_text()


def test_the_images_of_all_seeds_are_resampled_alike_in_every_cell(tmp_path, monkeypatch):
    """Two cells of the same images have the same resamples; a cell of which a seed is missing is left out. The target is the
    training set, as of the other distances."""
    monkeypatch.setattr(pooled, "RESAMPLES", 3)
    monkeypatch.setattr(fid, "features", lambda images, *_: images.reshape(len(images), -1)[:, 300:303].astype(np.float64))
    target = fid.statistics(np.random.default_rng(1).normal(100, 50, (200, 3)))
    monkeypatch.setattr(fid, "target", lambda found, *_: target if found is data else None)
    drawn = [Cell(5, 0.0, "trailing", seed, solver) for solver in ("dpmpp_2m", "heun", "unipc_3") for seed in (0, 1)]
    images = {}
    for cell in drawn[:-1]:
        path = tmp_path / f"{cell.sampler}-{cell.seed}.npy"
        np.save(path, np.random.default_rng(cell.seed).normal(size=(64, 1, 28, 28)).astype(np.float32))
        images["torch", cell] = path
    data = datasets.load_subset("fashion-mnist", "test")
    preset = PRESETS["table"].changed(samples=64)
    job = Job(preset, {}, {}, {"torch": tuple(drawn)}, "cpu", "float32", "plain", 0, data, replace(data), 1,
              1.0, 1.0, False)
    book = Notebook(Cells(tmp_path / "out", fresh=False), "table")
    pooled.keep(job, book, images, "solvers")
    found = of(book.rows, Pooled)
    assert [r.config["sampler"] for r in found] == ["dpmpp_2m", "heun"] and {tuple(r.config["seeds"]) for r in found} == {(0, 1)}
    assert found[0].values["n"] == 128 and found[0].values["resampled"] == found[1].values["resampled"]
    assert len(set(found[0].values["resampled"])) == 3 and found[0].values["fid"] not in found[0].values["resampled"]
    both = np.concatenate([np.load(images["torch", cell]) for cell in drawn[:2]])
    assert found[0].values["fid"] == fid.distance(fid.statistics(fid.features(to_uint8(both))), target)
    assert rows.read(tmp_path / "out" / "rows") == book.rows
    again = Notebook(Cells(tmp_path / "out", fresh=False), "table")
    pooled.keep(job, again, images, "solvers")
    assert again.cells.reused == 2


def test_features_are_extracted_once(tmp_path, monkeypatch):
    """What the metric cell extracted is what the pooled cell takes; where its file is gone, the images are read again."""
    monkeypatch.setattr(pooled, "RESAMPLES", 2)
    drawn = [Cell(5, 0.0, "trailing", seed, "heun") for seed in (0, 1)]
    images = {("torch", cell): tmp_path / f"{cell.seed}.npy" for cell in drawn}
    for cell in drawn:
        np.save(images["torch", cell], np.random.default_rng(cell.seed).normal(size=(128, 1, 28, 28)).astype(np.float32))
    data = datasets.load_subset("fashion-mnist", "test")
    job = Job(PRESETS["table"].changed(samples=128), {}, {}, {"torch": tuple(drawn)}, "cpu", "float32", "plain", 0, data, data, 1,
              1.0, 1.0, False)
    book = Notebook(Cells(tmp_path / "out", fresh=False), "table")
    measuring.measure(job, book, images, None)
    both = np.concatenate([fid.features(to_uint8(np.load(path))) for path in images.values()])
    extracted = []
    whole = fid.features
    monkeypatch.setattr(fid, "features", lambda found, *more: extracted.append(len(found)) or whole(found, *more))
    for gone in (False, True):
        for file in (tmp_path / "out" / "work").glob(f"metric-*/{measuring.FEATURES}") if gone else ():
            file.unlink()
        pooled.keep(job, Notebook(Cells(tmp_path / "out", fresh=True), "table"), images, "solvers")
        [row] = of(rows.read(tmp_path / "out" / "rows"), Pooled)[-1:]
        assert row.values["fid"] == pytest.approx(fid.distance(fid.statistics(both), fid.target(data)), rel=1e-12)
        assert [n for n in extracted if n == 128] == [128, 128] * gone


def test_what_the_page_says_of_calls_is_so():
    """S steps are S calls, but for the solvers that the page names."""
    process = PRESETS["table"].diffusion
    for solver in solver_table.SOLVERS:
        made = [make_solver_plan(process, S, sampler=solver, spacing="trailing").steps for S in (5, 7, 10)]
        assert made == [CALLS.get(solver, lambda S: S)(S) for S in (5, 7, 10)], solver


@pytest.mark.slow
def test_a_whole_table_is_drawn_compared_and_shown_and_its_cells_are_used_again(tmp_path):
    pytest.importorskip("torch")
    out = tmp_path / "out"
    words = ["--preset", "tiny-table", "--table", "solvers", "--steps", "5,7", "--sampler", "ddim,heun,dpmpp_2m", "--seeds", "2",
             "--samples", "128", "--backends", "torch", "--out", str(out)]
    for time in (1, 2):
        done = subprocess.run(tree.command(tree.ROOT, "tests/helpers/tiny_run.py", *words), cwd=tree.ROOT, capture_output=True,
                              text=True, timeout=500)
        assert done.returncode == 0, done.stderr[-3000:]
        found = rows.read(out / "rows")
        assert Counter(r.kind for r in found) == {"budget": 1, "sample": 16, "metric": 18, "study": 8, "check": 4}, time
    assert "finished cells were used again" in done.stdout
    text = (out / "solvers.md").read_text()
    assert "heun, S = 3 | ddim, S = 5" in " ".join(text.split()) and "## tiny-table" in text
    assert (out / "figures" / "solvers.png").exists() and "tiny-table" in (out / "report.html").read_text()
