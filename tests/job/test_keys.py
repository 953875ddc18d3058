"""The key of a cell covers all that decides its result: every field of a job and of its preset is changed in turn."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bench import oracle
from bench.data.datasets import load_subset
from bench.job import checks, measuring, sampling, timing, training
from bench.job.job import Job
from bench.paths import RESULTS
from bench.presets import Preset
from bench.records import rows
from bench.records.agenda import Agenda
from bench.sampling.cell import Cell
from reference import weights
from reference.config import DiffusionConfig, OptimConfig
from reference.solver_plans import FAST
from tests.helpers.tiny import TINY

CELL = Cell(5, 0.0, None, 0)
ALL = {"fit", "train", "oracle", "timing", "sample", "metric", "bounds", "determinism"}
DRAWN = {"sample", "metric"}  # the images, and what is measured of them

# Field of Preset -> another value, and the cells that must be done again; or why it decides nothing.
OF_PRESET = {
    "name": "a row's preset, no cell's", "weights": "a place: what is there is `trained`",
    "dataset": "a name: the images' hashes are those of `dataset` and `held_out`",
    "fit_steps": "the default of --fit: what is done is `fit`",
    "model": (replace(TINY, block_out_channels=(8, 32)), ALL - {"bounds"}),
    "diffusion": (DiffusionConfig(timesteps=30), ALL - {"bounds"}),
    "optim": (OptimConfig(lr=0.5), {"fit", "train", "oracle", "timing", "determinism"}),
    "batch_size": (8, {"fit", "train", "oracle", "timing", "determinism"}), "train_steps": (9, {"train"}),
    "samples": (64, DRAWN | {"oracle", "bounds"}), "sample_batch": (16, DRAWN | {"oracle", "timing", "determinism"}),
    "blocks": (3, {"timing"}),
}
OTHER = load_subset("fashion-mnist", "test")
OF_JOB = {
    "preset": "each of its fields has a line of its own",
    "save_every": "a training that went on ends with the same bits", "timeout": "ends a worker, whose cell is then missing",
    "twice": "adds a cell and changes none", "rank": "all processes of a job share its cells",
    "measured": "leaves cells out and changes none",
    "initial": (weights.initialise(TINY, 1), {"fit", "train", "determinism"}),
    "trained": (weights.initialise(TINY, 2), DRAWN | {"oracle"}),
    "cells": ({"torch": (replace(CELL, eta=0.5),)}, DRAWN | {"oracle"}),
    "device": ("cuda", ALL - {"bounds"}), "dtype": ("float64", ALL - {"bounds"}), "convention": ("diffusers", ALL - {"bounds"}),
    "seed": (1, ALL - DRAWN), "dataset": (OTHER, ALL - {"timing", "sample"}),  # cells that are drawn have seeds of their own
    "held_out": (replace(OTHER, sha256="x"), {"metric", "bounds"}),
    "threads": (2, ALL - {"bounds"}), "processes": (2, ALL - {"bounds", "timing"}), "fit": (7, {"fit"}),
    "extractor": (SimpleNamespace(name="other", sha256="y"), {"metric", "bounds"}),
    "choices": ({"clip": "dynamic"}, DRAWN | {"oracle"}),
}


class Book:
    """A notebook that keeps the keys of the cells it is asked for, and does none."""

    def __init__(self):
        self.keys, self.missing, self.rows, self.agenda = {}, [], [], Agenda()
        self.cells = SimpleNamespace(done=lambda *_: True, folder=lambda *_: Path("nowhere"))

    def cell(self, name, key, compute):
        if key["backend"] in ("real", "noise"):
            name = "bounds"
        self.keys.setdefault("fit" if key.get("stage") == "fit" else name, []).append(json.dumps(key, sort_keys=True))

    def keep(self, name, kind, key, values):
        self.cell(name, key, None)


def keys(job):
    """The keys of all cells of a job of one backend, by stage."""
    book, crew = Book(), ("torch",)
    training.own_network(job, crew, book)
    training.compare(job, crew, book, "torch")
    checks.oracle(job, crew, book, "torch")
    timing.steps(job, crew, book)
    sampling.draw(job, crew, book, None)
    checks.determinism(job, crew, book, "torch")
    measuring.measure(job, book, {("torch", cell): Path("nowhere") for cell in job.all_cells}, None)
    return book.keys


def job(**changes):
    preset = Preset("tiny", TINY, None, DiffusionConfig(timesteps=20), train_steps=4, batch_size=4)
    data = replace(load_subset("fashion-mnist", "train"), images=np.zeros((1, 1, 8, 8), np.uint8))
    of_preset = {name: value for name, value in changes.items() if name in OF_PRESET and name != "dataset"}
    mine = {name: value for name, value in changes.items() if name not in of_preset}
    given = {"preset": replace(preset, **of_preset), "initial": weights.initialise(TINY, 0), "trained": weights.initialise(TINY, 0),
             "cells": {"torch": (CELL,)}, "device": "cpu", "dtype": "float32", "convention": "plain", "seed": 0, "dataset": data,
             "held_out": OTHER, "threads": 1, "save_every": 1.0, "timeout": 9.0, "twice": False, "fit": 3}
    return Job(**given | mine)


def test_every_field_of_a_job_and_of_a_preset_has_a_line_here():
    assert {field.name for field in fields(Preset)} == set(OF_PRESET) and {field.name for field in fields(Job)} == set(OF_JOB)
    assert set(keys(job())) == ALL


@pytest.mark.parametrize("field", [name for name, line in {**OF_PRESET, **OF_JOB}.items() if isinstance(line, tuple)])
def test_another_value_is_another_key_where_it_decides_the_result(field):
    value, expected = {**OF_PRESET, **OF_JOB}[field]
    before, after = keys(job()), keys(job(**{field: value}))
    assert {stage for stage in ALL if after.get(stage, "none") not in (before[stage], "none")} == expected


@pytest.mark.parametrize("field, value", [("name", "x"), ("weights", Path("x")), ("fit_steps", 5), ("save_every", 0.0),
                                          ("timeout", 1.0), ("twice", True), ("rank", 1)])
def test_what_is_listed_with_a_reason_changes_no_key(field, value):
    assert keys(job(**{field: value}, processes=2)) == keys(job(processes=2))


def test_a_solver_is_another_key_and_without_one_the_rows_of_before_still_match():
    """The keys of cells of DDIM and DDPM are those of the committed rows: no field was added to them."""
    solved = replace(CELL, sampler="dpmpp_2m")
    before, after = keys(job()), keys(job(cells={"torch": (solved,)}))
    assert {stage for stage in ALL if after[stage] != before[stage]} == DRAWN | {"oracle"}
    assert job().sample_key("torch", solved) == job().sample_key("torch", CELL) | {"sampler": "dpmpp_2m"}
    drawn = [row.config for row in rows.read(RESULTS / "rows") if row.kind == "sample"]
    found = [c for c in drawn if set(job().sample_key("torch", CELL)) == set(c)]
    assert found and all(Cell(c["steps"], c["eta"], c["spacing"], c["seed"]).config.items() <= c.items() for c in found)
    checked = [row for row in rows.read(RESULTS / "rows") if row.kind == "check" and row.config["stage"] == "oracle"]
    by_name = {"ddim", *FAST}
    lengths = {len(cell) for row in checked for cell in row.config.get("cells", []) if not set(cell) & by_name}
    assert max(lengths) == len(json.loads(before["oracle"][0])["cells"][0]) == 3  # older rows say less


def test_a_field_that_is_left_out_of_a_key_is_found(monkeypatch):
    whole = Job.key
    monkeypatch.setattr(Job, "key", lambda self, backend, **more: {k: v for k, v in whole(self, backend, **more).items()
                                                                  if k != "threads"})
    with pytest.raises(AssertionError):
        test_another_value_is_another_key_where_it_decides_the_result("threads")


def test_one_cell_of_every_sampler_eta_and_spacing_is_held_to_the_oracle():
    """Of fewest steps, whatever its seed."""
    cells = [Cell(steps, eta, spacing, seed, sampler) for steps in (10, 5) for eta in (0.0, 1.0) for spacing in ("leading", "quad")
             for seed in (0, 1) for sampler in (None, "heun")]
    found = job().alike(cells)
    assert [len(each) for each in found] == [4] * 8 and {each[0].steps for each in found} == {5}
    assert len({(each[0].sampler, each[0].eta, each[0].spacing) for each in found}) == 8


def test_features_of_the_small_network_are_taken_on_the_cpu():
    other = SimpleNamespace(name="inception-v3-compat", sha256="y")
    assert {job(device=device).metric_device for device in ("cpu", "cuda", "cuda:1")} == {"cpu"}
    assert job(device="cuda:1", extractor=other).metric_device == "cuda" and job(extractor=other).metric_device == "cpu"


def test_a_choice_of_variance_is_no_solvers():
    chosen = job(choices={"variance": "small", "clip": "none"})
    told = [chosen.draw(replace(CELL, sampler=sampler)).plan.get("variance") for sampler in (None, "dpmpp_2m")]
    assert told == ["small", None] and chosen.draw(replace(CELL, sampler="dpmpp_2m")).plan["clip"] == "none"


def test_the_agenda_of_a_table_of_a_network_that_is_fitted_first():
    """Two backends of which the second draws one of two cells; done twice. A step of training counts as three passes an image."""
    long = replace(CELL, steps=10)
    asked = job(cells={"torch": (CELL, long), "jax": (CELL,)}, twice=True, train_steps=4, batch_size=4, samples=32, blocks=10)
    cells = SimpleNamespace(done=lambda name, key: name == "sample" and key["backend"] == "jax")
    ahead = asked.agenda(cells, table=True)
    assert [(one.name, one.backend, one.passes) for one in ahead] == [
        ("train", "torch", 3 * 4 * 3), ("budget", "torch jax", 0), ("train", "torch", 3 * 4 * 4), ("train", "jax", 3 * 4 * 4),
        ("oracle", "torch", 0), ("oracle", "jax", 0), ("timing", "", 0), ("timing", "", 0),
        ("timed", "torch", 0), ("timed", "jax", 0),
        ("sample", "torch", 32 * 5), ("sample", "jax", 32 * 5), ("sample", "torch", 32 * 10),
        ("path", "torch oracle", 0), ("path", "jax oracle", 0), ("determinism", "torch", 0), ("determinism", "jax", 0),
        ("metric", "real", 0), ("metric", "noise", 0), ("metric", "torch", 0), ("metric", "jax", 0), ("metric", "torch", 0)]
    assert [one.backend for one in ahead if one.done] == ["jax"]


def test_several_processes_time_nothing_and_without_a_metric_nothing_is_measured():
    cells = SimpleNamespace(done=lambda name, key: False)
    names = [one.name for one in job(processes=2, measured=False, fit=0).agenda(cells, table=False)]
    assert names == ["train", "oracle", "sample", "path"]


def test_a_long_path_is_held_to_the_oracle_by_a_shorter_one_where_there_is_one():
    """Beyond 100 steps; a convention that visits all timesteps has no shorter path."""
    assert [job().compared(replace(CELL, steps=steps)).steps for steps in (100, 101)] == [100, oracle.STEPS]
    assert job(convention="ho2020").compared(replace(CELL, steps=1000)).steps == 1000


def test_a_choice_that_changes_no_path_is_in_no_key():
    same, other = ({"clip": rule} for rule in ("none", "1"))
    own = job().plan(CELL).clip
    assert job(choices={"clip": own}).choices_key(CELL) == {} == job().choices_key(CELL)
    assert [job(choices=choices).choices_key(CELL) for choices in (same, other)].count({}) == 1


def test_a_choice_is_in_the_key_of_every_cell_and_check_whose_path_it_changes():
    """DDPM's way of noise clips by default, DDIM does not."""
    ddpm = replace(CELL, eta="ddpm")
    asked = job(cells={"torch": (CELL, ddpm)}, choices={"clip": "none"})
    assert asked.choices_key(CELL) == {}
    assert asked.choices_key(ddpm) == asked.choices_key(CELL, ddpm) == {"choices": {"clip": "none"}}


def test_what_lies_ahead_knows_the_trainings_and_cells_that_are_done():
    """By their names and keys, as the stages look them up."""
    asked = job(cells={"torch": (CELL, replace(CELL, seed=1))})
    finished = [("train", asked.train_key("torch")), ("sample", asked.sample_key("torch", CELL))]
    ahead = asked.agenda(SimpleNamespace(done=lambda *which: which in finished), table=False)
    assert [(each.name, each.config.get("seed")) for each in ahead if each.done] == [("train", None), ("sample", 0)]
    assert [each.name for each in ahead].count("train") == [each.name for each in ahead].count("sample") == 2
