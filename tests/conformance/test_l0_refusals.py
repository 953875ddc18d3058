"""L0: what a backend does not claim it refuses. One path, or one spec, for each name that its `About` leaves out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest

from backends import claims
from backends.facts import About
from backends.protocol import Spec
from reference.config import ConfigError, DiffusionConfig
from reference.conventions import Plan, make_plan
from reference.solver_plans import FAST, FEWEST, SolverPlan, make_solver_plan

from . import guard
from .cases import network
from .kit import Subject, batch, normal, weights

T, S = 100, 10
FEW = 2  # names of a kind that are tried beside one that is not claimed
OF_SPECS = ("dtypes", "modes", "devices")
OF_PROCESSES = ("schedules", "objectives", "variances", "losses")  # which a training has, too
OF_PATHS = ("schedules", "objectives", "variances", "samplers", "spacings", "conventions")


def diffusion_of(names: dict[str, str]) -> DiffusionConfig:
    """The process of these names. Raises `ConfigError` where they do not go together."""
    given = names["schedules"] == "trained_betas"
    return DiffusionConfig(timesteps=T, objective=names["objectives"], variance=names["variances"],
                           trained_betas=tuple(np.linspace(1e-3, 0.2, T).tolist()) if given else None,
                           **({} if given else {"schedule": names["schedules"]}))


def plan_of(names: dict[str, str]) -> Plan | SolverPlan:
    """The path of these names. Raises `ConfigError` where they do not go together."""
    diffusion, sampler, spacing = diffusion_of(names), names["samplers"], names["spacings"]
    if sampler in FAST:
        return make_solver_plan(diffusion, max(S, FEWEST.get(sampler, 1)), sampler=sampler, convention=names["conventions"],
                                spacing=spacing)
    steps: Any = {"sections": (S // 2, S // 2), "all": T}.get(spacing, S)
    return make_plan(diffusion, steps, sampler=sampler, variance=names["variances"], convention=names["conventions"],
                     spacing=None if spacing == "sections" else spacing)


def path_with(about: About, kind: str, name: str) -> Plan | SolverPlan | None:
    """A path with this name of this kind and nothing else that the backend does not claim. Where there is none, with another
    sampler, spacing or convention, whether claimed or not: some codes have one rule alone. None where no path has the name."""
    within = {k: claims.claimed(about, k)[:FEW] for k in OF_PATHS}
    for able in (within, within | {k: claims.NAMES[k] for k in ("samplers", "spacings", "conventions")}):
        for values in product(*({**able, kind: (name,)}[k] for k in OF_PATHS)):
            try:
                plan = plan_of(dict(zip(OF_PATHS, values, strict=True)))
            except ConfigError:  # no code has these together
                continue
            if claims.unclaimed(about, plan=plan).get(kind) == name:
                return plan
    return None


def asked_for_paths(subject: Subject, kind: str, name: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Each method that is given a plan, with a plan of this name."""
    plan = path_with(subject.about, kind, name)
    if plan is None:
        return
    diffusion = subject.process(variance=plan.diffusion.variance) if kind != "variances" else subject.process()
    model = network(diffusion)
    backend: Any = guard.Guard(guard.watched("create", subject.module.create)(subject.spec(model, diffusion)))
    x, z = (normal(seed, 2, 2, 4, 4).astype(subject.real) for seed in range(2))
    output = np.concatenate((x, z), axis=1) if plan.diffusion.learned_variance else x
    yield "tables", lambda: backend.tables(plan)
    if isinstance(plan, Plan):
        yield "step", lambda: backend.step(*map(backend.to_device, (x, output)), 0, plan, backend.to_device(z))
    if subject.trains:
        def sample() -> Any:
            backend.load_weights(weights(model))
            return backend.sample(backend.to_device(x), plan, lambda i: normal(i, 2, 2, 4, 4))

        yield "sample", sample


def asked_for_specs(subject: Subject, kind: str, name: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """`create`, with a spec of this name, and of a process the loss."""
    spec = subject.spec()
    if kind in OF_SPECS:
        spec = replace(spec, **{"dtypes": {"device": "cpu", "dtype": name}, "modes": {"mode": name}}.get(kind, {"device": name}))
        yield "create", lambda: guard.watched("create", subject.module.create)(spec)
    elif kind in OF_PROCESSES and subject.trains and not (kind == "variances" and "learned" not in name):
        names = {k: str(getattr(spec.diffusion, k.removesuffix("s"))) for k in ("schedules", "objectives", "variances")}
        diffusion = replace(diffusion_of({**names, kind: name}), **({"loss": name} if kind == "losses" else {}))
        yield "loss_and_gradients", lambda: _train(subject, subject.spec(network(diffusion), diffusion))


def _train(subject: Subject, spec: Spec) -> Any:
    backend: Any = guard.Guard(guard.watched("create", subject.module.create)(spec))
    backend.load_weights(weights(spec.model))
    return backend.loss_and_gradients(batch(spec))


@pytest.mark.refusals
@pytest.mark.subjects(mode="tuned", dtypes=("float32",))
@pytest.mark.parametrize("case", claims.NAMES)
def test_what_is_not_claimed_is_refused(subject: Subject, case: str) -> None:
    """Every name of the kind: the project's error in one line, and no answer."""
    asks = (asked_for_specs, asked_for_paths) if case in OF_PATHS else (asked_for_specs,)
    for name in claims.missing(subject.about, case):
        calls = [pair for ask in asks for pair in ask(subject, case, name)]
        assert calls, f"{case} {name}: no path and no spec has it"
        for method, call in calls:
            try:
                call()
            except ConfigError as error:
                assert "\n" not in str(error), f"{case} {name}, {method}: {error} has several lines"
                continue
            guard.refuse(method, f"answered for {case} {name!r}, which is not claimed: raise ConfigError, as "
                         "backends.claims.require_claimed does, or claim it")
