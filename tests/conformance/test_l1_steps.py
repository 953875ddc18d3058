"""L1: the coefficient tables of every plan, and single steps, against `reference/samplers.py`. No network runs."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from reference import samplers
from reference.config import DiffusionConfig
from reference.conventions import Plan

from . import cases, fields
from .kit import FULL, Subject, normal

SHAPE = (2, 2, 4, 4)
coefficients = lru_cache(maxsize=None)(samplers.coefficients)


def check_tables(subject: Subject, plan: Plan) -> None:
    """Every entry of every table, each relative to itself, so that a small one can't hide behind a large one."""
    actual, expected = subject.backend().tables(plan), coefficients(plan)
    for name, table in expected.items():
        assert actual[name].shape == table.shape, f"{name}, {cases.label(plan)}"
        floor = 1e-8 * np.abs(table).max() + 1e-300
        error = float((np.abs(actual[name] - table) / (np.abs(table) + floor)).max())
        subject.within("L1.tables", error, f"{name}, {cases.label(plan)}")


@pytest.mark.subjects(dtypes=FULL)  # tables are float64 in every dtype of the network, which `test_special_tables` holds it to
@pytest.mark.parametrize("case", cases.FAMILIES)
def test_tables(subject: Subject, case: str) -> None:
    """Convention, sampler, objective and schedule, over all kinds of noise and all spacings of the convention."""
    for plan in cases.family(case):
        check_tables(subject, plan)


@pytest.mark.parametrize("case", cases.SPECIAL)
def test_special_tables(subject: Subject, case: str) -> None:
    """Paths and choices outside the families: one step, sections, other last alpha_bar, encoding."""
    check_tables(subject, cases.SPECIAL[case])


def check_step(subject: Subject, plan: Plan, i: int, give_noise: bool) -> None:
    """x_prev of one step from images whose x0_hat leaves [-1, 1], so that clipping matters."""
    diffusion = DiffusionConfig(variance=plan.diffusion.variance)  # few backends: steps depend on the plan alone
    backend = subject.backend(cases.network(diffusion), diffusion)
    x, output, z = (normal(seed, *SHAPE) for seed in (i, i + 1, i + 2))
    if plan.diffusion.learned_variance:
        extra = 0.5 * normal(i + 3, *SHAPE)
        output = np.concatenate((output, extra - 3 if plan.diffusion.variance == "learned" else extra), axis=1)
    c = coefficients(plan)
    exact = [a.astype(np.float64) for a in (x, output, z)]
    expected, _ = samplers.step(exact[0], exact[1], i, plan, exact[2] if give_noise else None, c)
    tensors = [backend.to_device(a.astype(subject.real)) for a in (x, output, z)]
    actual = backend.to_host(backend.step(tensors[0], tensors[1], i, plan, tensors[2] if give_noise else None))
    assert actual.dtype == subject.real
    subject.close("L1.step", actual, expected, cases.label(plan, i))


@pytest.mark.subjects(dtypes=FULL)  # the others step in float32, which `test_special_steps` holds them to
@pytest.mark.parametrize("case", cases.STEPS)
def test_steps(subject: Subject, case: str) -> None:
    """Convention, sampler and objective, over all kinds of noise and clipping; schedules and spacings take turns."""
    for plan in cases.step_plans(case):
        for i in {0, plan.steps // 2, plan.steps - 1}:
            check_step(subject, plan, i, give_noise=True)  # where the plan adds none, the noise given must not matter


@pytest.mark.parametrize("case", cases.SPECIAL)
def test_special_steps(subject: Subject, case: str) -> None:
    """The first and the last step of each, without noise at the last."""
    plan = cases.SPECIAL[case]
    check_step(subject, plan, 0, give_noise=bool(plan.noise_gate[0]))
    check_step(subject, plan, plan.steps - 1, give_noise=bool(plan.noise_gate[-1]))


@pytest.mark.subjects(dtypes=("float32",))
@pytest.mark.parametrize("case", fields.PLAN)
def test_each_field(subject: Subject, case: str) -> None:
    """Two plans that differ in one field, of one backend in a row: what was kept for the first is not taken for the second."""
    plan, value = fields.PLAN[case]
    for p in (plan, replace(plan, **{case: value}), plan):
        check_tables(subject, p)
        for i in (0, p.steps - 1):
            check_step(subject, p, i, give_noise=True)
