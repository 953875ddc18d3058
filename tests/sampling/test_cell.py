"""What a cell asks of a worker: its plan, the short path that compiles, the parts of its images; and the cells of tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.sampling import bound, solver_table
from bench.sampling.cell import Cell, Draw, plan_of
from reference.config import ConfigError, DiffusionConfig
from reference.schedules import alpha_bars, betas
from reference.solver_plans import FEWEST

PROCESS = DiffusionConfig(timesteps=20)


def test_a_solver_without_noise_is_told_no_eta_and_one_with_noise_is():
    """A plan refuses the eta of a solver that has none."""
    assert "eta" not in Cell(5, 0.0, None, 0, "dpmpp_2m").plan("plain") and Cell(5, 0.5, None, 0).plan("plain")["eta"] == 0.5
    assert Cell(5, 1.0, None, 0, "dpmpp_2m_sde").plan("plain")["eta"] == 1.0


def test_the_short_path_has_two_steps_without_noise_or_what_a_solver_needs_at_least():
    assert Cell(50, 1.0, "quad", 0).short == {"steps": 2, "eta": 0.0} and Cell(1, 1.0, None, 0).short["steps"] == 1
    for solver, fewest in FEWEST.items():
        assert Cell(50, 0.0, None, 0, solver).short == {"steps": fewest, "sampler": solver, "spacing": "leading"} and fewest > 1
    assert Cell(50, 0.0, None, 0, "heun").short["steps"] == 1


def test_section_counts_come_as_a_list_and_are_counts():
    assert plan_of(PROCESS, {"steps": [2, 3]}).steps == 5


def test_a_draw_has_parts_of_one_size_and_the_rest_and_no_batch_larger_than_the_cell():
    draw = Draw({}, Cell(5, 0.0, None, 0), "plain", 10, 4, {"variance": "large", "clip": "none"})
    assert {path.name: (ids.start, ids.stop) for path, ids in draw.parts(Path("here")).items()} == {
        "images-000000.json": (0, 4), "images-000004.json": (4, 8), "images-000008.json": (8, 10)}
    assert Draw({}, draw.cell, "plain", 3, 4).batch == 3 and draw.batch == 4
    assert (draw.plan["variance"], draw.plan["clip"]) == ("large", "none")
    solved = Draw({}, Cell(5, 0.0, None, 0, "heun"), "plain", 10, 4, draw.choices)
    assert "variance" not in solved.plan and solved.plan["clip"] == "none"


@pytest.mark.parametrize("steps, drawn", [([10], False), ([20], True), ([50], True), ([5, 50], True)])
def test_ddims_long_path_is_drawn_where_a_claim_looks_back_to_it(steps, drawn):
    found = solver_table.cells(steps, ["ddim"], 0, 1)
    assert (solver_table.LONG in {cell.steps for cell in found}) == drawn


def test_a_factor_of_a_claim_is_the_one_that_its_text_says():
    for claim in solver_table.CLAIMS:
        assert (f"at most {claim.factor} times" in claim.text) == (claim.factor != 1.0)


def test_a_bound_is_refused_where_the_network_has_none():
    """The state one step before is that of the network's own steps; eps says nothing of the image where alpha_bar ends at 0."""
    before, zero = (DiffusionConfig(timesteps=20, **change) for change in ({"objective": "previous"}, {"schedule": "jsd"}))
    assert bound.path(before, 20, ["small"]).steps == 20
    with pytest.raises(ConfigError, match="steps=5: the network predicts the state one step before, of its own 20 steps alone"):
        bound.path(before, 5, ["small"])
    with pytest.raises(ConfigError, match="objective='eps': has no bound where alpha_bar ends at 0"):
        bound.path(zero, 20, ["small"])
    v = DiffusionConfig(timesteps=20, schedule="jsd", objective="v")
    assert list(bound.path(v, 20, ["small"]).timesteps) == list(range(20)) and bound.path(v, 5, ["small"]).steps == 5
    with pytest.raises(ConfigError, match="variance='learned_range': this network has small, large"):
        bound.path(PROCESS, 20, ["learned_range"])


def test_a_shortened_bounds_process_is_the_whole_one_at_the_timesteps_that_it_keeps():
    """Its alpha_bar is theirs, so that the noise drawn for a timestep is that of its state."""
    whole = alpha_bars(betas(PROCESS))
    for steps in (4, 7, 20):
        path = bound.path(PROCESS, steps, ["small", "large"])
        for process in path.processes.values():
            np.testing.assert_allclose(alpha_bars(betas(process)), whole[list(path.timesteps)], rtol=1e-13)


def test_a_cell_is_called_by_all_that_tells_it_from_others():
    assert str(Cell(5, 0.0, None, 3)) == "S=5 eta=0.0 seed=3"
    assert [str(Cell(5, 0.0, "quad", 3, sampler)) for sampler in (None, "heun")] == [
        "S=5 eta=0.0 quad seed=3", "heun S=5 eta=0.0 quad seed=3"]
