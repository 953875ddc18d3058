"""The grid of the DDIM paper's table 1: its cells, what is derived from their rows, and the verdicts."""

from __future__ import annotations

import itertools
import math
import signal
import subprocess
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from bench import streams
from bench.cli.main import main
from bench.job import checks
from bench.records import rows
from bench.records.cells import SCRATCH
from bench.records.rows import Row
from bench.report import measures, table1_claims, table1_frames, table1_page
from bench.sampling import table1
from bench.sampling.cell import Cell
from tests.helpers import tree
from tests.helpers.tiny import HELPERS, install_backend

WHOLE = table1.grid(list(table1.STEPS), table1.ETAS, 0, (3, 1))


def test_the_long_path_has_a_number_of_seeds_of_its_own():
    cells = table1.grid([10, table1.FULL], (0.0, 0.2), 5, (3, 2))
    assert {S: sorted({c.seed for c in cells if c.steps == S}) for S in (10, table1.FULL)} == {10: [5, 6, 7], table1.FULL: [5, 6]}
    assert [c.eta for c in cells if c.steps == table1.FULL] == [0.0, 0.0] and len(cells) == 3 * 2 * 2 + 2


def test_the_grid_is_the_papers_by_both_spacings_and_cheap_cells_come_first():
    assert len(WHOLE) == len(set(WHOLE)) == 4 * 5 * 2 * 3 + 3
    assert {c for c in WHOLE if c.steps == 1000} == {Cell(1000, eta, "leading", 0) for eta in (0.0, 1.0, "sigma_hat")}
    assert {(c.steps, c.eta, c.spacing, c.seed) for c in WHOLE if c.steps < 1000} == set(itertools.product(
        (10, 20, 50, 100), (0.0, 0.2, 0.5, 1.0, "sigma_hat"), ("leading", "quad"), (0, 1, 2)))
    assert [c.steps for c in WHOLE[-3:]] == [1000] * 3 and [c.seed for c in WHOLE[:-3]] == sorted(c.seed for c in WHOLE[:-3])
    assert set(table1.paired(WHOLE)) == {Cell(s, eta, "leading", k) for s in (10, 20, 50) for eta in (0.0, 1.0) for k in (0, 1, 2)}
    cut = table1.grid([10, 1000], (0.2, 1.0), 7, (2, 2))
    assert Counter((c.steps, c.eta) for c in cut) == {(10, 0.2): 4, (10, 1.0): 4, (1000, 1.0): 2}
    assert {c.seed for c in cut} == {7, 8}


def test_sample_seeds_share_no_number():
    found = [set(streams.normal(seed, "x_T", np.arange(8), (1, 28, 28)).ravel().tolist()) for seed in (0, 1, 2)]
    assert all(len(a & b) < 0.01 * len(a) for a, b in itertools.combinations(found, 2))  # float32 numbers meet by chance


def test_the_plan_names_every_cell_and_the_network_calls(capsys, tmp_path):
    out = ["--out", str(tmp_path / "out")]
    assert main(["run", "--table", "ddim", "--dry-run=plan", "--backends", "torch", *out]) == 0
    said = capsys.readouterr().out
    assert '"name": "table"' in said and said.count("sample and measure") == 129 and "train 60" not in said
    assert "torch: sample and measure S=10 eta=0.2 quad seed=2 n=256" in said
    assert "torch: network calls for one image of every cell: 4,800 (seed 0), 4,800 (seed 1), 4,800 (seed 2)" in said
    assert f"for 256 images of each: {256 * 14400:,}" in said
    assert main(["run", "--table", "ddim", "--dry-run=plan", "--steps", "10,1000", "--eta", "0", "--seeds", "2", *out]) == 0
    said = capsys.readouterr().out
    assert said.count("torch: sample") == 6 and said.count("mindspore: sample") in (0, 2)  # 0: it is not installed
    assert main(["run", "--table", "ddim", "--dry-run=plan", "--steps", "100", "--backends", "torch,mindspore", *out]) in (0, 2)
    said = capsys.readouterr()
    assert "mindspore: draws none of the cells asked for" in said.out or "mindspore is not installed" in said.err
    assert not (tmp_path / "out").exists()


# Rows

CONFIG = {"model": {"block_out_channels": [8]}, "diffusion": {"schedule": "linear", "timesteps": 1000}, "weights": "w1",
          "convention": "plain", "dtype": "float32", "device": "cpu", "threads": 1, "batch_size": 128}
CLOCK = itertools.count()


def row(kind, backend, values, *, preset="table", environment=None, **config):
    created = datetime.fromtimestamp(next(CLOCK), UTC).isoformat()
    return Row(kind, backend, preset, CONFIG | config, values, {"cell_seconds": 2.0} | (environment or {}), "c", created)


def metric(backend, fid, **config):
    values = {"metric": "FID[fmnist-cnn]", "fid": fid, "fid_half": fid + 4, "fid_inf": fid - 4, "kid": fid / 8, "n": 256,
              "precision": 0.5, "recall": 0.25, "extractor": "fmnist-cnn", "extractor_sha256": "e" * 64, "reference": "train"}
    known = {"stage": "metric", "samples": 256, "reference": "r", "extractor_sha256": "e" * 64}
    return row("metric", backend, values, **known | config)


def cell_rows(backend, fid, steps, eta, spacing, seed, **more):
    config = {"steps": steps, "eta": eta, "spacing": spacing, "seed": seed, **more}
    values = {"batch_seconds": [1.28 * steps, 2.56 * steps], "images": 256, "first_seconds": 1.0, "calls": steps * 2}
    return [row("sample", backend, values, samples=256, stage="sample", **config), metric(backend, fid, **config)]


def budget_row(**config):
    cells = [{"backend": "torch", "stage": stage, "cell": "", "seconds": seconds, "memory": None}
             for stage, seconds in (("oracle", 9.0), ("sample", 3.0), ("sample", 4.0), ("metric", 1.0))]
    return row("budget", "torch", {"calls": {"torch": {"0": 4800, "1": 1800}}, "cells": cells}, stage="budget", samples=256, seed=0,
               extractor_sha256="e" * 64, environment={"versions": {"torch": "2"}, "cpu": "a processor"}, **config)


def bound_rows(reference="r"):
    """Floor and ceiling, which a job of another preset measured."""
    out = []
    for name, fid in (("real", 8.0), ("noise", 400.0)):
        found = metric(name, fid, seed=0)
        kept = {"stage": "metric", "samples": 256, "seed": 0, "backend": name, "reference": reference, "extractor_sha256": "e" * 64}
        out.append(Row("metric", name, "quick", kept, found.values, {}, "c", found.created))
    return out


def test_measurements_and_statistics_are_those_of_the_rows():
    found = [r for seed, fid in enumerate((10.0, 13.0, 16.0)) for r in cell_rows("torch", fid, 10, "0.0", "quad", seed)]
    found += cell_rows("torch", 7.0, 1000, "sigma_hat", None, 0)  # by the convention's spacing
    found += bound_rows()
    measured = table1_frames.measurements(found)
    assert list(measured.columns) == [*table1_frames.PLACE, *table1_frames.MEASURES] and len(measured) == 4
    assert measured["spacing"].tolist() == ["quad"] * 3 + ["leading"]
    assert measured["seconds"].tolist() == pytest.approx([0.15] * 3 + [15.0])
    by_cell = table1_frames.statistics(measured).set_index("S")
    assert by_cell.loc[10, ["seeds", "fid_mean", "fid_sd", "fid_inf_mean", "kid_mean", "kid_sd", "recall_mean"]].tolist() == [
        3, 13.0, 3.0, 9.0, 13 / 8, 3 / 8, 0.25]
    assert by_cell.loc[1000, "fid_mean"] == 7.0 and math.isnan(by_cell.loc[1000, "fid_sd"])
    bounds = table1_frames.bounds(found).set_index("bound")
    assert bounds.loc["floor", "fid"] == 8.0 and bounds.loc["ceiling", "kid"] == 50.0 and set(bounds["n"]) == {256}


def test_a_cell_whose_images_have_no_row_is_left_out():
    """As where a row could not be read: nothing says what drew them, or how long that took."""
    drawn = cell_rows("torch", 1.0, 10, "0.0", "quad", 0)
    assert table1_frames.measurements([*drawn, cell_rows("torch", 2.0, 20, "0.0", "quad", 0)[1]])["S"].tolist() == [10]


def test_verdicts_stand_in_the_papers_order():
    compared = table1_claims.comparisons(frame(papers()))
    assert table1_claims.verdicts(compared)["claim"].tolist()[:4] == [claim.text for claim in table1_claims.claims()[:4]]


def test_rows_without_precision_give_nan_and_no_rows_give_empty_frames():
    sample, measured = cell_rows("torch", 1.0, 10, "0.0", "quad", 0)
    older = {name: value for name, value in measured.values.items() if name not in ("precision", "recall")}
    older_row = Row("metric", "torch", "table", measured.config, older, {}, "c", measured.created)
    frame = table1_frames.measurements([sample, older_row])
    assert math.isnan(frame.loc[0, "precision"]) and frame.loc[0, "fid"] == 1.0
    assert table1_frames.measurements([]).empty and table1_frames.statistics(table1_frames.measurements([])).empty
    assert table1_frames.budget([]).empty
    assert table1_frames.latest([sample]) == [] and table1_claims.equivalence(table1_frames.measurements([])).empty


def test_a_tables_rows_are_those_of_its_weights_and_extractor_and_the_later_of_two():
    begun, other = budget_row(), budget_row(weights="w2")
    first = cell_rows("torch", 1.0, 10, "0.0", "quad", 0)
    foreign = cell_rows("torch", 2.0, 10, "0.0", "quad", 0, weights="w2")
    place = {"steps": 10, "eta": "0.0", "spacing": "quad", "seed": 0}
    foreign.append(metric("torch", 3.0, preset="quick", **place))
    again = cell_rows("torch", 4.0, 10, "0.0", "quad", 0)
    more = cell_rows("mindspore", 5.0, 10, "0.0", "quad", 0)
    by_another = metric("torch", 6.0, extractor_sha256="f" * 64, **place)
    found = [begun, other, *first, *foreign, *again, *more, *bound_rows("other images"), by_another, *bound_rows()]
    measured = table1_frames.measurements(table1_frames.of_table(found, begun))
    assert dict(zip(measured["backend"], measured["fid"], strict=True)) == {"torch": 4.0, "mindspore": 5.0}
    assert table1_frames.measurements(table1_frames.latest(found))["fid"].tolist() == [2.0]
    assert table1_frames.bounds(table1_frames.of_table(found, begun))["bound"].tolist() == ["floor", "ceiling"]
    assert table1_frames.bounds(table1_frames.latest(found))["bound"].tolist() == ["floor", "ceiling"]


    for order in (found[::-1], found[1:] + found[:1]):  # the time of a row counts, and not its place in a file
        measured = table1_frames.measurements(table1_frames.of_table(order, begun))
        assert dict(zip(measured["backend"], measured["fid"], strict=True)) == {"torch": 4.0, "mindspore": 5.0}
        assert table1_frames.measurements(table1_frames.latest(order))["fid"].tolist() == [2.0]


@pytest.mark.parametrize("other", [
    {"model": {"block_out_channels": [16]}}, {"diffusion": {"schedule": "cosine"}}, {"convention": "ho2020"}, {"dtype": "float64"},
    {"choices": {"clip": "dynamic"}}, {"table": "solvers"}, {"sampler": "heun"}], ids=lambda other: next(iter(other)))
def test_cells_that_were_drawn_otherwise_are_not_of_the_table(other):
    begun, mine = budget_row(), cell_rows("torch", 1.0, 10, "0.0", "quad", 0)
    later = cell_rows("torch", 2.0, 20, "0.0", "quad", 0, **other)
    assert table1_frames.measurements(table1_frames.of_table([begun, *mine, *later], begun))["fid"].tolist() == [1.0]


def test_floor_and_ceiling_are_of_the_same_held_out_images():
    begun, mine = budget_row(), cell_rows("torch", 1.0, 10, "0.0", "quad", 0)
    ours = bound_rows()
    later = [replace(r, config=r.config | {"held_out": "others"}, values=r.values | {"fid": 9.5}) for r in bound_rows()]
    found = table1_frames.of_table([begun, *mine, *ours, *later], begun)
    assert table1_frames.bounds(found)["fid"].tolist() == [8.0, 400.0]


def test_the_budget_stands_beside_what_was_measured():
    """Of its own n and device."""
    cell = cell_rows("torch", 1.0, 10, "0.0", "quad", 0)
    others = [replace(r, config=r.config | other) for r in cell for other in ({"samples": 128}, {"device": "cuda"})]
    found = [budget_row(), *cell, *others, *cell_rows("jax", 1.0, 10, "0.0", "quad", 0)]
    sample, measure = table1_frames.budget(found).to_dict("records")
    assert sample == {"backend": "torch", "device": "cpu", "n": 256, "what": "sample", "cells": 2, "finished": 1,
                      "calls": "4,800 (seed 0), 1,800 (seed 1)", "predicted": 7.0, "measured": 2.0}
    assert (measure["what"], measure["predicted"], measure["measured"], measure["calls"]) == ("metric", 1.0, 2.0, "")


# Verdicts

def frame(fids, backend="torch", n=256):
    """Measurements of {(S, eta, spacing): FID of seeds 0, 1, ..}; KID is FID / 8."""
    lines = [(backend, "cpu", n, *place, seed, fid, fid / 8) for place, each in fids.items() for seed, fid in enumerate(each)]
    return pd.DataFrame(lines, columns=[*table1_frames.PLACE, "fid", "kid"])


def papers(noise=0.003):
    """The published values for both spacings, quad better by 2%, of three seeds and one at S = 1000, with noise of their own."""
    rng, paper, out = np.random.default_rng(0), table1_frames.published(), {}
    for eta, S in itertools.product(paper.index, paper.columns):
        for spacing, factor in (("leading", 1.02), ("quad", 1.0)) if S < 1000 else (("leading", 1.0),):
            out[S, eta, spacing] = factor * paper.loc[eta, S] + noise * rng.standard_normal(3 if S < 1000 else 1)
    return out


def verdict(fids, start, spacing=None, measure="fid"):
    found = table1_claims.verdicts(table1_claims.comparisons(frame(fids), measure))
    found = found[found["claim"].str.startswith(start)]
    if spacing:
        found = found[found["spacing"] == spacing]
    (only,) = set(found["verdict"])
    return only


CLAIMS = ("eta = 0 is the best", "eta = 0 is better", "FID falls", "sigma_hat explodes", "S = 50 is nearly", "S = 100 is nearly",
          "sigma_hat is the best", "quad spacing")


def test_published_values_are_the_papers():
    paper = table1_frames.published()
    assert paper.shape == (5, 5) and paper.loc["0.0", 10] == 13.36 and paper.loc["sigma_hat", 1000] == 3.17
    assert paper.loc["1.0"].tolist() == [41.07, 18.36, 8.01, 5.78, 4.73]


@pytest.mark.parametrize("measure", ["fid", "kid"])
def test_the_papers_own_values_reproduce_every_claim(measure):
    assert {verdict(papers(), claim, measure=measure) for claim in CLAIMS} == {"reproduced"}


def test_the_papers_values_stand_beside_comparisons_of_one_spacing():
    """The paper has one spacing: what it says of two is nothing. At S = 1000 all spacings are one."""
    found = table1_claims.comparisons(frame(papers()))
    for spacing in ("quad", "leading"):
        line = found[found["claim"].str.startswith("FID falls") & (found["spacing"] == spacing)].set_index("a")
        assert line["paper_a"].tolist() == [6.84, 4.67, 4.16, 4.04] and line["paper_b"].tolist() == [13.36, 6.84, 4.67, 4.16]
    assert found[found["claim"].str.startswith("quad")][["paper_a", "paper_b"]].isna().all(axis=None)


def test_large_noise_makes_every_verdict_that_can_be_lost_unknown():
    shaken = papers(noise=3.0)
    lost = ("eta = 0 is the best", "FID falls", "S = 100 is nearly")
    assert {verdict(shaken, claim, "quad") for claim in lost} == {"cannot tell"}
    assert verdict(papers(noise=0.5), "sigma_hat explodes") == "reproduced"  # 41 against 367


@pytest.mark.parametrize("claim, spacing, place, values", [
    ("eta = 0 is the best", "leading", (20, "0.5", "leading"), (1.0, 1.1, 1.2)),
    ("FID falls", "leading", (10, "0.0", "leading"), (2.0, 2.01, 2.02)),
    ("sigma_hat explodes", "leading", (10, "sigma_hat", "leading"), (50.0, 50.5, 51.0)),
    ("S = 50 is nearly", "leading", (50, "0.0", "leading"), (9.0, 9.1, 9.2)),
    ("S = 100 is nearly", "leading", (100, "0.0", "leading"), (9.0, 9.02, 9.04)),
    ("sigma_hat is the best", None, (1000, "1.0", "leading"), (2.0,)),
    ("quad spacing", None, (20, "0.0", "quad"), (17.0, 17.1, 17.2)),
])
def test_one_cell_the_other_way_refutes_its_claim_for_its_spacing(claim, spacing, place, values):
    assert verdict(papers() | {place: values}, claim, spacing) == "contradicted"
    if spacing:
        assert verdict(papers() | {place: values}, claim, "quad") == "reproduced"


def test_a_missing_cell_is_not_run_and_so_is_one_whose_noise_nothing_tells():
    fids = papers()
    del fids[20, "0.2", "leading"]
    assert verdict(fids, "eta = 0 is the best", "leading") == "not run"
    alone = {place: each[:1] for place, each in papers().items()}
    assert {verdict(alone, claim) for claim in CLAIMS} == {"not run"}


def test_one_of_many_comparisons_the_other_way_must_be_so_beyond_their_number():
    """eta = 0.2 below eta = 0 at S = 10, at 5% but not at 5% / 8: t of 2 degrees of freedom is 4.3 and 12.6."""
    d = np.array([-1.0, 0.0, 1.0])  # standard deviation 1, standard error 1 / sqrt(3)
    base = papers()[10, "0.0", "leading"]
    for t, expected in ((3.0, "cannot tell"), (8.0, "cannot tell"), (14.0, "contradicted")):
        fids = papers() | {(10, "0.2", "leading"): base - t / np.sqrt(3) + d * 1.0}
        compared = table1_claims.comparisons(frame(fids)).set_index(["claim", "spacing", "b"])
        [one] = compared[(compared.index.get_level_values("b") == "S = 10, eta = 0.2, leading")].to_dict("records")
        assert one["difference"] / one["se"] == pytest.approx(t)
        assert one["verdict"] == ("cannot tell" if t < 4.3 else "contradicted")
        assert verdict(fids, "eta = 0 is the best", "leading") == expected


def test_the_noise_of_one_seed_is_that_of_the_largest_smaller_s_with_several():
    fids = papers() | {(100, "0.0", "leading"): (4.0, 4.3, 4.6), (100, "sigma_hat", "leading"): (9.0, 9.4, 9.8),
                       (1000, "0.0", "leading"): (4.0,), (1000, "sigma_hat", "leading"): (3.0,)}
    found = table1_claims.comparisons(frame(fids))
    one = found[(found["a"] == "S = 1000, eta = sigma_hat") & (found["b"] == "S = 1000, eta = 0")].iloc[0]
    assert one["se"] == pytest.approx(0.5) and one["df"] == 2 and one["seeds"] == 1 and "S = 100" in one["noise"]
    assert one["high"] == pytest.approx(-1 + 4.3027 * 0.5, abs=1e-3) and one["verdict"] == "cannot tell"
    assert (one["paper_a"], one["paper_b"]) == (3.17, 4.04)


def test_differences_are_paired_by_seed():
    """Seeds far apart, cells of one seed not: only a paired test sees it."""
    fids = papers() | {(10, "0.0", "quad"): (5.0, 50.0, 500.0), (10, "0.0", "leading"): (6.0, 51.01, 501.02)}
    assert verdict(fids, "quad spacing") == "reproduced"


@pytest.mark.parametrize("shift, expected", [
    ((0.0, 0.0, 0.0), "equivalent"), ((1e-3, 1.2e-3, 8e-4), "equivalent"),
    ((1e-3, 9e-3, -1e-2), "cannot tell"), ((9.5e-3, 1.05e-2, 1e-2), "cannot tell"), ((1e-3,), "cannot tell"),
    ((0.03, 0.031, 0.029), "different"), ((-0.03, -0.031, -0.029), "different"),
])
def test_equivalence_has_three_verdicts(shift, expected):
    """The seeds spread by 1, a hundred times the margin, which does not matter: differences are paired."""
    one = {(10, "0.0", "leading"): np.array([9.0, 10.0, 11.0]), (50, "0.0", "leading"): np.array([1.0, 2.0, 3.0])}
    other = {(10, "0.0", "leading"): one[10, "0.0", "leading"][:len(shift)] + np.array(shift)}
    found = table1_claims.equivalence(pd.concat([frame(other, "mindspore"), frame(one), frame(one, n=512)]))
    [line] = found.to_dict("records")
    assert (line["one"], line["other"], line["n"]) == ("torch cpu", "mindspore cpu", 256)
    assert line["verdict"] == expected
    assert line["difference"] == pytest.approx(np.mean(shift))
    if len(shift) > 1:
        half = 2.91999 * np.std(shift, ddof=1) / np.sqrt(3)
        assert (line["low"], line["high"]) == pytest.approx((np.mean(shift) - half, np.mean(shift) + half), abs=1e-6)


def test_what_lies_on_the_margin_lies_within_it(monkeypatch):
    monkeypatch.setattr(table1_claims, "MARGIN", 2**-7)  # which these sums hold exactly
    place, fids = (10, "0.0", "leading"), np.array([9.0, 10.0])
    both = pd.concat([frame({place: fids}), frame({place: fids + 2**-7}, "mindspore")])
    [line] = table1_claims.equivalence(both).to_dict("records")
    assert (abs(line["difference"]), line["verdict"]) == (2**-7, "equivalent")


def test_a_backend_on_another_device_is_held_against_the_first():
    place = (10, "0.0", "leading")
    both = pd.concat([frame({place: (9.0, 10.0, 11.0), (50, *place[1:]): (1.0, 2.0)}),
                      frame({place: (9.03, 10.031, 11.029)}).assign(device="cuda")])
    [line] = table1_claims.equivalence(both).to_dict("records")
    assert (line["one"], line["other"], line["verdict"]) == ("torch cpu", "torch cuda", "different")
    assert line["difference"] == pytest.approx(0.03)


def pooled(fid, spread, *place, seeds=(0, 1, 2)):
    """A row of the images of all seeds; `spread` moves every resample of the cell."""
    S, eta, spacing = place
    shared = 5 * np.random.default_rng(0).standard_normal(200)  # of the same images in every cell
    values = {"n": 768, "metric": "FID[fmnist-cnn]", "fid": fid, "resampled": (fid + shared + spread).tolist()}
    return row("study", "torch", values, stage="pooled", study="pooled", table="ddim", steps=S, eta=eta, spacing=spacing, seed=0,
               seeds=list(seeds), samples=256, extractor_sha256="e" * 64)


def test_differences_are_paired_by_image_where_all_seeds_were_measured_together():
    """Both cells move by 5 together, and by 0.1 apart: the difference of 1 is told from 0, which seeds alone would not tell."""
    a, b = (10, "0.0", "quad"), (10, "0.0", "leading")
    own = 0.1 * np.random.default_rng(1).standard_normal(200)
    found = [budget_row(), pooled(9.0, 0.0, *a), pooled(10.0, own, *b), pooled(1.0, own, *b, seeds=(0,))]
    assert len(table1_frames.of_table(found, found[0])) == 3, "of a cell that was measured twice the later row is kept"
    together = table1_frames.together(found[:3], "torch", "cpu", 256)
    assert set(together) == {a, b} and table1_frames.together(found, "torch", "cpu", 128) == {}
    fids = papers() | {a: (0.0, 50.0, 100.0), b: (90.0, 0.0, 20.0)}

    def line(**more):
        [one] = [c for c in table1_claims.comparisons(frame(fids), **more).to_dict("records")
                 if (c["a"], c["b"]) == ("S = 10, eta = 0, quad", "S = 10, eta = 0, leading")]
        return one

    assert line()["verdict"] == "cannot tell" and line()["noise"] == "3 paired seeds"
    one, se = line(together=together), own.std(ddof=1)
    assert one["verdict"] == "reproduced" and one["noise"] == "768 paired images" and one["difference"] == -1.0
    assert (one["low"], one["high"]) == pytest.approx((-1 - 1.95996 * se, -1 + 1.95996 * se), abs=1e-5)
    assert one["detectable"] == pytest.approx((1.95996 + 0.84162) * se, rel=1e-4)
    unlike = together | {b: found[3]}  # of other seeds
    assert line(together=unlike)["noise"] == "3 paired seeds"
    assert line(together=together, measure="kid")["noise"] == "3 paired seeds", "resamples are of FID alone"


def test_the_power_is_what_it_says():
    """Of studies with a true difference of that size, 80% tell it from 0; of those with none, 5% do."""
    rng, se = np.random.default_rng(0), 0.7
    detectable = measures.half(se, np.inf, 0.05) + measures.half(se, np.inf, 0.4)
    for true, share in ((-detectable, 0.8), (0.0, 0.05)):
        verdicts = [measures.verdict(d, measures.half(se, np.inf, 0.05)) for d in true + se * rng.standard_normal(4000)]
        assert np.mean([v != "cannot tell" for v in verdicts]) == pytest.approx(share, abs=0.025)


def test_the_distribution_of_pixel_differences_is_kept(tmp_path):
    """Of 1000 pixels one is off by 0.5, eight by 0.01 and the rest by 1e-6; above S = 100 nothing is held to a tolerance."""
    a = np.zeros((10, 1, 10, 10), np.float32)
    b = a + np.float32(1e-6)
    b.ravel()[:8], b.ravel()[8] = 0.01, 0.5
    kept, drawn = [], {}

    class Job:
        backends, dtype = ("torch", "mindspore"), "float32"

        all_cells = [Cell(steps, 0.0, "leading", 1) for steps in (50, 1000, 20)]  # the last one is drawn by none

        def images_key(self, backend, cell, **more):
            return CONFIG | cell.config | {"backend": backend, "samples": 10} | more

    class Book:
        def cell(self, name, key, compute):
            kept.append(compute(tmp_path))

        def row(self, kind, backend, key, values):
            return row(kind, key.pop("backend"), values, **key)

    for name, array in (("torch", a), ("mindspore", b)):
        np.save(tmp_path / f"{name}.npy", array)
        for steps in (50, 1000):
            drawn[name, Cell(steps, 0.0, "leading", 1)] = tmp_path / f"{name}.npy"
    checks.images(Job(), None, Book(), drawn)
    assert [(r.values["images"]["error"], r.values["images"]["ok"]) for r in kept] == [(0.5, False), (0.5, True)]
    kept.append(row("check", "torch mindspore", {"images": {"error": 1.0, "tolerance": None, "ok": True}}, stage="images", steps=50,
                    eta="1.0", spacing="leading", seed=0, samples=10))
    found = table1_frames.pixel_differences(kept)
    assert found[["one", "other", "S", "seed"]].values.tolist() == [["torch", "mindspore", 50, 1], ["torch", "mindspore", 1000, 1]]
    assert found.loc[0, list(table1_frames.QUANTILES)].tolist() == pytest.approx([1e-6, 1e-6, 1e-6, 0.01, 0.5], rel=0.1)


def test_the_page_shows_figures_bounds_verdicts_and_what_is_missing(tmp_path):
    found = [budget_row(), *bound_rows()]
    for (S, eta, spacing), each in papers(noise=0.05).items():
        for seed, fid in enumerate(each):
            found += cell_rows("torch", fid, S, eta, spacing, seed)
            if (S, eta, spacing) == (10, "0.0", "leading"):
                found += cell_rows("mindspore", fid, S, eta, spacing, seed)
    path = table1_page.write(tmp_path, found, "python bench/run.py --table ddim", ["missing: something"])
    text = path.read_text()
    statistics = table1_frames.statistics(table1_frames.measurements(found))
    one = statistics[(statistics["S"] == 20) & (statistics["eta"] == "sigma_hat") & (statistics["spacing"] == "quad")].iloc[0]
    assert f"{one['fid_mean']:.4g} ± {one['fid_sd']:.2g}" in text
    found.append(replace(found[1], values=found[1].values | {"fid": 77.5, "n": 512}))
    found[1] = replace(found[1], values=found[1].values | {"fid_sd": 1.25})
    text = table1_page.page(found, "python bench/run.py --table ddim", ["missing: something"])
    for words in ("python bench/run.py --table ddim", "floor 8 ± 1.2, ceiling 400", "KID[fmnist-cnn]", "precision[fmnist-cnn]",
                  "n = 256",
                  "sha256 " + "e" * 16, "3 at S = 10", "1 at S = 1000", "another data set and another extractor", "367.43",
                  "**reproduced**", "**equivalent**", "equivalent in 1 of 1 cells", "4,800 (seed 0)", "seconds per image",
                  "- missing: something", "weights w1"):
        assert words in text, words
    assert "77.5" not in text, "the floor of another n"
    lines = [line for line in text.splitlines() if line.startswith("| 0.5")]
    assert len(lines) == 6 * 2 + 1, "eta = 0.5 in six tables of two spacings, and in the published one"


def test_times_of_a_machine_with_other_work_are_not_shown():
    """A load average of 5 on 2 cores; FID of the same cells stays."""
    quiet, busy = ([replace(r, environment=r.environment | {"affinity": 2, "cores": 2, "load": [load, 0.0, 0.0]}) for S in (10, 20)
                    for r in cell_rows("torch", 8.0, S, "0.0", "leading", 0)] for load in (2.0, 5.0))
    for found, shown in ((quiet, True), (busy, False)):
        measured = table1_frames.measurements(found)
        assert measured["seconds"].notna().all() == shown and measured["fid"].tolist() == [8.0, 8.0]
        text = table1_page.page([budget_row(), *bound_rows(), *found], "command", [])
        assert text.count("was not fit for times") == (not shown) and "nan" not in text


def test_rows_from_before_spacings_are_still_read():
    from bench.report import results
    config = {"steps": 10, "eta": "0.0", "seed": 0}
    found = [row("sample", "torch", {"batch_seconds": [1.0], "images": 128}, **config),
             row("metric", "torch", {"metric": "FID[x]", "fid": 2.0, "kid": 3.0}, **config)]
    [line] = results.sample_table(found).to_dict("records")
    assert (line["FID[x]"], line["KID[x]"], line["S"]) == (2.0, 3.0, 10)


# Whole runs

GRID = ["--preset", "tiny-table", "--table", "ddim", "--steps", "10", "--eta", "0,1", "--seeds", "2", "--samples", "128"]


@pytest.mark.slow
def test_a_whole_table_goes_on_where_it_was_killed(tmp_path, monkeypatch):
    """A second backend that is the first one under another name is equivalent, image by image."""
    pytest.importorskip("torch")
    monkeypatch.setattr(measures, "MOST_LOAD", math.inf)  # the machine may have other work
    (tmp_path / "code").mkdir()
    code, out = tree.copy_to(tmp_path / "code"), tmp_path / "out"
    install_backend(code, "shaky", (HELPERS / "shaky_backend.py").read_text())
    arguments = [*GRID, "--backends", "torch,shaky", "--out", out]
    process = tree.start(code, "tests/helpers/tiny_run.py", *arguments, log=tmp_path / "log", SHAKY="")
    assert tree.kill_when(process, lambda: len(list(out.glob("work/sample-*/seal.json"))) >= 3, 0.0, signal.SIGINT), (
        process.returncode, (tmp_path / "log").read_text()[-2000:])
    assert "predicted for the whole job" in (tmp_path / "log").read_text() and not (out / "table.md").exists()
    [begun] = [r for r in rows.read(out / "rows") if r.kind == "budget"]
    drawn = [cell for cell in begun.values["cells"] if cell["stage"] == "sample"]
    assert Counter(cell["backend"] for cell in drawn) == {"torch": 8, "shaky": 4} and all(cell["seconds"] > 0 for cell in drawn)
    finished = {path: path.stat().st_mtime for path in out.glob("work/*/seal.json")}
    done = subprocess.run(tree.command(code, "tests/helpers/tiny_run.py", *arguments),
                          env=tree.environment(code, SHAKY=""), cwd=code, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    assert all(path.stat().st_mtime == when for path, when in finished.items()), "no finished cell was done twice"
    found = rows.read(out / "rows")
    checks = 2 + 4 + 4 + 2  # with the oracle, of images, of each backend's paths
    assert Counter(r.kind for r in found) == {"budget": 1, "sample": 12, "metric": 14, "check": checks, "study": 6}
    places = [(r.backend, *(r.config[name] for name in ("steps", "eta", "spacing", "seed"))) for r in found if r.kind == "sample"]
    assert len(set(places)) == 12 and Counter(place[0] for place in places) == {"torch": 8, "shaky": 4}
    measured = table1_frames.measurements(table1_frames.latest(found))
    assert len(measured) == 12 and not measured[["fid", "kid", "seconds"]].isna().any(axis=None)
    assert set(table1_claims.equivalence(measured)["verdict"]) == {"equivalent"}
    assert (table1_frames.pixel_differences(found)["max"] == 0).all() and len(table1_frames.pixel_differences(found)) == 2
    spread = table1_frames.statistics(measured)
    assert (spread["seeds"] == 2).all() and (spread["fid_sd"] > 0).all(), "seeds give other images"
    text = (out / "table.md").read_text()
    assert "equivalent in 2 of 2 cells" in text and "missing" not in text and not (out / "README.md").exists()
    assert (out / "report.html").exists()
    assert (out / "report.html").read_text().count("data:image/png") == 2 * 2, "eta and backend: the images are at hand"
    assert not list(out.glob(f"work/*/{SCRATCH}"))
