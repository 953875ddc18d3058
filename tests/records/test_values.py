"""The fields of a row's values: every committed row has those of its kind, the page is current, and what is wrong is named."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from typing import get_args

import pytest

from bench.paths import ROOT
from bench.records import rows, validity, values
from bench.report import scaling_page
from tests.helpers import made_rows, rows_page
from tests.helpers.made_rows import committed

CONFIG = {"steps": 5, "eta": "0.0", "samples": 8, "seed": 0, "batch_size": 8, "device": "cpu"}
SAMPLE = {"images": 8, "batch_seconds": [0.5], "first_seconds": 0.1, "calls": 10, "notes": []}


def test_every_committed_row_has_the_fields_of_its_kind():
    found = committed()
    assert len(found) > 500 and {row.kind for row in found} == set(rows.KINDS)
    assert {row.created: wrong for row in found if (wrong := validity.problems(row.kind, row.config, row.values)
                                                  + validity.environment_problems(row.environment))} == {}


def test_missing_and_unknown_fields_are_named():
    assert validity.problems("sample", CONFIG, SAMPLE) == []
    assert validity.problems("sample", {}, SAMPLE)[0] == "config: steps is missing"
    assert validity.problems("sample", CONFIG, {**SAMPLE, "speed": 1}) == ["values: speed is unknown"]
    assert validity.problems("sample", CONFIG, {k: v for k, v in SAMPLE.items() if k != "calls"}) == ["values: calls is missing"]
    assert validity.problems("check", {}, {"loss": {"error": 0.0, "ok": True}}) == ["loss: tolerance is missing"]
    assert validity.problems("recipe", {}, {"command": "c", "pictures": [["a.png", "A."]], "notes": [], "fid": {}}) == []
    assert validity.problems("study", {"study": "weather"}, {}) == ["study 'weather' is unknown"]


def test_sizes_of_a_study_of_noise_that_do_not_belong_together_are_named():
    row = next(row for row in committed() if row.config.get("study") == "noise")
    whole = row.values["points"]
    strange = ["1"] * len(whole[0]["fid"])
    for change in ({"n": 1}, {"n": row.config["samples"] + 1}, {"fid_half": [1.0] * 99}, {"fid_half": strange}):
        found = validity.problems("study", row.config, row.values | {"points": [whole[0] | change, *whole[1:]]})
        assert len(found) == 1 and f"points: n={(whole[0] | change)['n']}: must be from 2 to samples" in found[0]
    assert validity.problems("study", row.config, row.values | {"points": [whole[0] | {"n": 2}]}) == []
    assert validity.problems("study", row.config, row.values | {"points": []}) == ["values: points=[]: must be one or more"]


@pytest.mark.parametrize("change, said", [
    ({"prior": [1.0]}, "prior: 1 numbers: must be 2"), ({"timesteps": [0]}, "timesteps: 1 numbers: must be 3"),
    ({"bounds": {"large": {"total": [1.0, 2.0], "terms": [1.0]}}}, "bounds: large: terms: 1 numbers: must be 3"),
    ({"bounds": {"large": {"total": [1.0], "terms": [1.0] * 3}}}, "bounds: large: total: 1 numbers: must be 2"),
    ({"bounds": {}}, "bounds={}: must be one or more")])
def test_numbers_of_a_likelihood_that_do_not_belong_together_are_named(change, said):
    row = made_rows.likelihood({"large": [1, 2]}, 3)
    assert validity.problems("likelihood", row.config, row.values) == []
    assert validity.problems("likelihood", row.config, row.values | change) == [f"values: {said}"]


def test_what_only_some_timings_have_is_wanted_where_a_page_reads_it():
    found = committed()
    for stage in ("timing", "scaling", "speed"):
        row = next(row for row in found if row.kind == "timing" and row.config["stage"] == stage
                   and row.config["workload"] not in values.KERNELS)
        for name in values.NEEDED[stage]:
            less = {k: v for k, v in row.values.items() if k != name}
            assert validity.problems("timing", row.config, less) == [f"values: {name} is missing"]
    roof = next(row for row in found if row.config.get("workload") in values.KERNELS)
    assert validity.problems("timing", roof.config, {**roof.values, "flops": None})
    assert validity.problems("timing", {k: v for k, v in roof.config.items() if k != "device"}, roof.values)


def test_fields_of_config_are_of_their_type_where_they_are_there():
    assert validity.problems("check", {"seed": [0]}, {}) == ["config: seed=[0] is not int"]
    assert validity.problems("check", {"steps": None}, {}) == []
    scaling = next(row for row in committed() if row.config.get("stage") == "scaling")
    assert validity.problems("timing", scaling.config | {"axis": "colour"}, scaling.values) == [
        "config: axis='colour' is not one of batch, steps, size, width, threads"]
    assert set(get_args(values.AXES)) == set(scaling_page.UNITS)
    train = next(row for row in committed() if row.kind == "train")
    assert validity.problems("train", train.config | {"train_steps": 61}, train.values) == [
        "values: losses: 60 numbers: must be train_steps=61"]


def test_values_of_another_type_are_named():
    assert validity.problems("recipe", {}, {"command": "c", "pictures": [["a.png"]], "notes": []}) == [
        "values: pictures=[['a.png']] is not list[tuple[str, str]]"]
    assert validity.problems("recipe", {}, {"command": "c", "pictures": [], "notes": []}) == [
        "values: pictures=[] is not list[tuple[str, str]]"]
    assert validity.problems("sample", {}, {**SAMPLE, "calls": 1.5})[-1:] == ["values: calls=1.5 is not int"]
    assert validity.problems("sample", {}, {**SAMPLE, "calls": True})[-1:] == ["values: calls=True is not int"]
    assert validity.problems("sample", {}, {**SAMPLE, "batch_seconds": []})[-1:] == ["values: batch_seconds=[] is not list[float]"]
    assert validity.problems("check", {}, {"loss": None}) == ["loss: None is no object"]
    assert validity.problems("check", {}, {"loss": {"error": 0, "tolerance": None, "ok": True, "quantiles": {"0.5": "x"}}}) == [
        "loss: quantiles={'0.5': 'x'} is not dict[str, float]"]
    assert validity.problems("sample", CONFIG | {"steps": "5"}, SAMPLE) == ["config: steps='5' is not int"]
    assert validity.environment_problems({"gpu": ["a"], "cpu": None, "more": {}}) == []
    assert validity.environment_problems({"memory_bytes": [1]}) == ["environment: memory_bytes=[1] is not int | None"]
    assert validity.environment_problems({"versions": {"numpy": 1}})[0].startswith("environment: versions={'numpy': 1} is not ")


@pytest.mark.parametrize("kind", [kind for kind in rows.KINDS if kind != "study"])
def test_a_strangers_row_is_left_out_and_the_pages_are_those_of_the_others(tmp_path, kind):
    """For each kind: every field of `values` in turn removed, and replaced by another type."""
    first = next(row for row in committed() if row.kind == kind)
    parts = first.values if kind == "check" else {"": first.values}
    name, part = next(iter(parts.items()))
    record = values.KINDS[kind]
    strange = [{k: v for k, v in part.items() if k != field} for field in record.__required_keys__]
    strange += [{**part, field: {"strange": None}} for field in part if field in record.__required_keys__ and field != "calls"]
    for changed in strange:
        rows.append(tmp_path, replace(first, values={name: changed} if name else changed))
    rows.append(tmp_path, first)
    with pytest.warns(UserWarning) as said:
        assert rows.read(tmp_path) == [first]
    assert len(said) == len(strange) > 2
    assert all(f"{kind}.jsonl:{n}: row left out: " in str(w.message) for n, w in enumerate(said, 1))


def test_readers_get_their_rows_by_the_record_of_their_values():
    found = committed()
    for kind, record in values.KINDS.items():
        assert rows.of(found, values.Checks if kind == "check" else record) == [row for row in found if row.kind == kind] != []
    for study, record in values.STUDIES.items():
        of_study = [row for row in found if row.config.get("study") == study]
        assert rows.of(found, record) == of_study and (of_study or study == "pooled"), study  # of which no row is committed yet
    assert {row.config["eta"] for row in rows.of(found, values.Sample, eta="0.0")} == {"0.0"}


def test_a_type_checker_sees_a_misspelt_field_wherever_rows_are_read():
    """`Row` without its kind, whose fields nobody checks, is an error in every room that knows rows."""
    [strict] = [part["module"] for part in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["overrides"]
                if part.get("disallow_any_generics")]
    readers = {path.parts[1] for path in (path.relative_to(ROOT) for path in (ROOT / "bench").rglob("*.py"))
               if "records.rows import" in (ROOT / path).read_text() or "records import rows" in (ROOT / path).read_text()}
    assert {f"bench.{room}.*" for room in readers} <= set(strict), readers


def test_the_page_is_current():
    assert rows_page.PAGE.read_text() == rows_page.render(), "python -m tests.helpers.pages writes it again"
