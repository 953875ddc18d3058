"""L1: the coefficient tables of every plan, and single steps, against `reference/samplers.py`. No network runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any, cast

import numpy as np
import pytest

from backends.protocol import Solver
from bench import oracle
from reference import samplers, solving
from reference.conventions import Plan
from reference.solver_plans import SolverPlan

from . import cases, fields, guard
from .kit import FULL, Subject, normal

SHAPE = (2, 2, 4, 4)
coefficients = lru_cache(maxsize=None)(oracle.coefficients)


def check_tables(subject: Subject, plan: Plan | SolverPlan, what: str) -> None:
    """Every entry of every table, by the rule of `bench.oracle.table_error`."""
    actual = subject.backend().tables(plan)
    for name, table in coefficients(plan).items():
        guard.must("tables", name in actual, f"returned nothing for {name!r}, {what}")
        shape = actual[name].shape
        guard.must("tables", shape == table.shape, f"returned shape {shape} for {name!r}, must be {table.shape}, {what}")
        subject.within("L1.tables", oracle.table_error(actual[name], table), f"{name}, {what}")


@pytest.mark.subjects(dtypes=FULL)  # tables are float64 in every dtype of the network, which `test_special_tables` holds it to
@pytest.mark.parametrize("case", cases.FAMILIES)
def test_tables(subject: Subject, case: str) -> None:
    """Convention, sampler, objective and schedule, over all kinds of noise and all spacings of the convention."""
    for plan in subject.claimed(cases.family(case)):
        check_tables(subject, plan, cases.label(plan))


@pytest.mark.parametrize("case", cases.SPECIAL)
def test_special_tables(subject: Subject, case: str) -> None:
    """Paths and choices outside the families: one step, sections, other last alpha_bar, encoding."""
    check_tables(subject, cases.SPECIAL[case], cases.label(cases.SPECIAL[case]))


def check_step(subject: Subject, plan: Plan, i: int, give_noise: bool) -> None:
    """x_prev of one step from images whose x0_hat leaves [-1, 1], so that clipping matters."""
    diffusion = subject.process(variance=plan.diffusion.variance)  # few backends: steps depend on the plan alone
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
    for plan in subject.claimed(cases.step_plans(case)):
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
        check_tables(subject, p, cases.label(p))
        for i in (0, p.steps - 1):
            check_step(subject, p, i, give_noise=True)


@pytest.mark.subjects(dtypes=FULL, solvers=True)  # tables are float64 in every dtype: the next test
@pytest.mark.parametrize("case", cases.SOLVED)
def test_solver_tables(subject: Subject, case: str) -> None:
    """The rows of every solver."""
    check_tables(subject, cases.SOLVED[case], case)


@pytest.mark.subjects(solvers=True)
def test_solver_tables_of_every_dtype(subject: Subject) -> None:
    """Those of one solver."""
    check_tables(subject, cases.SOLVED["unipc_3"], "unipc_3")


def said(plan: SolverPlan, k: int) -> np.ndarray:
    """What stands in for the network's output at call k. With a learned variance half of the channels is no prediction."""
    output = (0.3 if plan.diffusion.objective == "x0" else 1) * normal(20 + k, *SHAPE)
    return np.concatenate((output, 5 + output), axis=1) if plan.diffusion.learned_variance else output


def visited(solve: Callable[..., Any], plan: SolverPlan, x: Any, host: Callable[[Any], np.ndarray],
            device: Callable[[np.ndarray], Any]) -> tuple[list[np.ndarray], list[int]]:
    """The states that the calls see and the last one, and the calls whose noise is asked for."""
    states: list[np.ndarray] = []
    asked: list[int] = []

    def network(state: Any, k: Any, *last: Any) -> Any:
        states.append(host(state).copy())
        return device(said(plan, len(states) - 1))

    def noise(k: int) -> Any:
        asked.append(k)
        return device(normal(60 + k, *SHAPE))

    end = host(solve(network, x, plan, noise))  # fills `states`
    return [*states, end], asked


@pytest.mark.subjects(dtypes=FULL, solvers=True)
@pytest.mark.parametrize("case", cases.SOLVED)
def test_solver_steps(subject: Subject, case: str) -> None:
    """Every state of a path whose calls give what is said, and the noise that is asked for."""
    check_solver_steps(subject, cases.SOLVED[case], case)


@pytest.mark.subjects(solvers=True)
def test_solver_steps_of_every_dtype(subject: Subject) -> None:
    """States are float32 where the network is in less, as those of `test_special_steps` are."""
    check_solver_steps(subject, cases.SOLVED["unipc_3"], "unipc_3")


@pytest.mark.subjects(dtypes=("float32",), solvers=True)
@pytest.mark.parametrize("case", fields.SOLVER_PLAN)
def test_each_solver_field(subject: Subject, case: str) -> None:
    """Two plans that differ in one field, of one backend in a row: what was kept for the first is not taken for the second."""
    plan, value = fields.SOLVER_PLAN[case]
    for p in (plan, replace(plan, **{case: value}), plan):
        check_solver_steps(subject, p, case)


def check_solver_steps(subject: Subject, plan: SolverPlan, case: str) -> None:
    """The states and the noise of one path."""
    backend = subject.backend()
    x = normal(19, *SHAPE)
    expected, wanted = visited(solving.solve, plan, x.astype(np.float64), np.asarray, lambda a: a.astype(np.float64))
    actual, asked = visited(cast(Solver, backend).solve, plan, backend.to_device(x.astype(subject.real)), backend.to_host,
                            lambda a: backend.to_device(a.astype(subject.real)))
    assert asked == wanted and len(actual) == len(expected)
    for k, (found, state) in enumerate(zip(actual, expected, strict=True)):
        assert found.dtype == subject.real
        subject.close("L1.solver", found, state, f"{case}, state {k}")
