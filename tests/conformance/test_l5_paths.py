"""L5: whole sampling paths of every convention, with a small network of random weights, against `reference.samplers.sample`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, cast

import numpy as np
import pytest

from backends.protocol import Solver
from reference import samplers, solving, unet
from reference.config import ModelConfig
from reference.conventions import Plan
from reference.solver_plans import SolverPlan
from reference.weights import Weights

from . import cases
from .kit import FULL, Subject, normal, weights

SHAPE = (2, 2, 4, 4)
NOISE = [normal(100 + i, *SHAPE) for i in range(cases.LONG.steps)]
X = normal(99, *SHAPE)


Network = Callable[..., np.ndarray]  # of x (N, C, H, W), t (N,) and with self-conditioning the last x0_hat


def predict(plan: Plan | SolverPlan, x: np.ndarray, t: np.ndarray, x0: np.ndarray | None = None) -> np.ndarray:
    """The output of the NumPy network that this plan's diffusion needs."""
    model = cases.network(plan.diffusion, cases.ONE_LEVEL)
    return unet.forward(weights(model), model, x if x0 is None else np.concatenate((x, x0), axis=1), t)


@cache
def expected_path(case: str) -> np.ndarray:
    """The reference's last state."""
    plan = cases.PATHS[case]
    return samplers.sample(lambda *inputs: predict(plan, *inputs), X.astype(np.float64), plan, NOISE.__getitem__)


def sampled(subject: Subject, plan: Plan, model: ModelConfig, named: Weights, network: Network) -> np.ndarray:
    """The last state, by the backend's own network with these weights; a sampler that has none steps with `network`, in NumPy."""
    if not subject.trains:
        return sampled_by_steps(subject, plan, network)
    backend = subject.backend(model, plan.diffusion)
    backend.load_weights(named)
    return backend.to_host(backend.sample(backend.to_device(X.astype(subject.real)), plan, NOISE.__getitem__))


def sampled_by_steps(subject: Subject, plan: Plan, network: Network) -> np.ndarray:
    """The path of a sampler that has no network: the NumPy one predicts, the sampler steps."""
    backend, c = subject.backend(), samplers.coefficients(plan)
    x, x0 = backend.to_device(X.astype(subject.real)), np.zeros(SHAPE)
    for i in range(plan.steps):
        host = backend.to_host(x).astype(np.float64)
        t = np.full(len(host), plan.network_t[i])
        output = network(host, t, x0) if plan.diffusion.self_conditioning else network(host, t)
        _, x0 = samplers.step(host, output, i, plan, None, c)
        z = backend.to_device(NOISE[i].astype(subject.real)) if plan.needs_noise and plan.noise_gate[i] else None
        x = backend.step(x, backend.to_device(output.astype(subject.real)), i, plan, z)
    return backend.to_host(x)


def test_path_of_a_scale_shift_network(subject: Subject) -> None:
    """Scale and shift of each step, for networks that compute them once for the whole path."""
    plan, model = cases.PATHS["plain_eta"], cases.NETWORKS["scale_shift_bare"]

    def network(x: np.ndarray, t: np.ndarray) -> np.ndarray:
        return unet.forward(weights(model), model, x, t)

    expected = samplers.sample(network, X.astype(np.float64), plan, NOISE.__getitem__)
    subject.close("L5.path", sampled(subject, plan, model, weights(model), network), expected, "scale_shift_bare")


@pytest.mark.compiled(case="plain_eta")
@pytest.mark.subjects(mode="tuned")
@pytest.mark.parametrize("case", cases.PATHS)
def test_path(subject: Subject, case: str) -> None:
    """Deterministic, noisy, ancestral and encoding paths, from the same x_T with the same noise."""
    check_path(subject, case)


@pytest.mark.subjects(mode="stock")
@pytest.mark.parametrize("case", ["plain_eta", "nichol2021_ddpm", "encode_diffusers", "learned_range", "self_cond",
                                  "self_cond_learned"])
def test_stock_path(subject: Subject, case: str) -> None:
    """The same with plain layers, which see the same steps: one path of each kind."""
    check_path(subject, case)


def check_path(subject: Subject, case: str) -> None:
    """The last state."""
    plan = cases.PATHS[case]
    model = cases.network(plan.diffusion, cases.ONE_LEVEL)
    actual = sampled(subject, plan, model, weights(model), partial(predict, plan))
    error = subject.close("L5.path", actual, expected_path(case), case)
    if case == "plain_eta0" and subject.trains:
        subject.reduced("L5.path", error, case)


@pytest.mark.subjects(mode="tuned", dtypes=FULL, solvers=True)
@pytest.mark.parametrize("case", cases.SOLVED_PATHS)
def test_solver_path(subject: Subject, case: str) -> None:
    """Of every solver, from the same x_T with the same noise."""
    plan = cases.SOLVED[case]
    model = cases.network(plan.diffusion, cases.ONE_LEVEL)
    actual = solved(subject, plan, model, weights(model), partial(predict, plan))
    subject.close("L5.solver", actual, solver_path(case), case)


def solved(subject: Subject, plan: SolverPlan, model: ModelConfig, named: Weights, network: Network) -> np.ndarray:
    """`sampled` of a fast solver."""
    backend = subject.backend(model, plan.diffusion) if subject.trains else subject.backend()
    x = backend.to_device(X.astype(subject.real))
    if subject.trains:
        backend.load_weights(named)
        return backend.to_host(backend.sample(x, plan, NOISE.__getitem__))
    told = solving.coefficients(plan)["network_t"]

    def said(x: Any, k: int, x0: Any) -> Any:
        last = (backend.to_host(x0),) if plan.diffusion.self_conditioning else ()
        return backend.to_device(network(backend.to_host(x), np.full(len(X), told[k]), *last).astype(subject.real))

    return backend.to_host(cast(Solver, backend).solve(said, x, plan, lambda k: backend.to_device(NOISE[k].astype(subject.real))))


@cache
def solver_path(case: str) -> np.ndarray:
    """The reference's last state."""
    plan = cases.SOLVED[case]
    return solving.solve(lambda *inputs: predict(plan, *inputs), X.astype(np.float64), plan, NOISE.__getitem__)


@pytest.mark.subjects(mode="tuned", dtypes=FULL)
def test_long_path(subject: Subject) -> None:
    """300 steps."""
    actual = sampled(subject, cases.LONG, cases.ONE_LEVEL, weights(cases.ONE_LEVEL), partial(predict, cases.LONG))
    subject.close("L5.long", actual, long_path(), "300 steps")


@cache
def long_path() -> np.ndarray:
    """The reference's."""
    return samplers.sample(lambda *inputs: predict(cases.LONG, *inputs), X.astype(np.float64), cases.LONG, NOISE.__getitem__)


CONSTANT = np.float32([0.5, -0.25])


def constant(x: np.ndarray, *_: Any) -> np.ndarray:
    """An output that every dtype has: what is left of an error is the sampler's."""
    return np.broadcast_to(CONSTANT.astype(np.float64).reshape(1, 2, 1, 1), SHAPE)


def constant_weights() -> Weights:
    """The network that gives it."""
    named = weights(cases.ONE_LEVEL)
    return named | {"conv_out.weight": np.zeros_like(named["conv_out.weight"]), "conv_out.bias": CONSTANT}


def test_images_are_not_rounded(subject: Subject) -> None:
    """A path's states are float32 or more, whatever the network's dtype."""
    plan = cases.PATHS["plain_eta"]
    expected = samplers.sample(constant, X.astype(np.float64), plan, NOISE.__getitem__)
    subject.close("L5.rounding", sampled(subject, plan, cases.ONE_LEVEL, constant_weights(), constant), expected, "constant output")


@pytest.mark.subjects(solvers=True)
def test_images_of_a_solver_are_not_rounded(subject: Subject) -> None:
    """The same of a fast solver's."""
    plan = cases.SOLVED["dpmpp_2m"]
    expected = solving.solve(constant, X.astype(np.float64), plan, NOISE.__getitem__)
    subject.close("L1.solver", solved(subject, plan, cases.ONE_LEVEL, constant_weights(), constant), expected, "constant output")
