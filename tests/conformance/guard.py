"""A backend under test, watched: a method that is missing, raises or returns the wrong kind is one line with level and name, and
what is not claimed is asked of no method."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from reference.config import ConfigError
from reference.conventions import Plan
from reference.solver_plans import SolverPlan

Asks = Callable[[Plan | SolverPlan | None, bool], None]
TRAINING = ("loss_and_gradients", "train_step")
ARRAYS = ("tables", "weights", "activations", "state")  # methods that return arrays by name
level = "L0"  # of the test that runs


class Guard:
    """Every attribute of the backend; methods of it that fail fail the test in one line. `ConfigError` is an answer, and passes."""

    def __init__(self, backend: Any, asks: Asks = lambda plan, trains: None) -> None:
        self._backend, self._asks = backend, asks  # called before a method is, with its plan and whether it trains

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        found = getattr(self._backend, name, None)
        if found is None:
            refuse(name, f"{type(self._backend).__name__} has no such method")
        return watched(name, found, self._asks) if callable(found) else found


def watched(name: str, method: Any, asks: Asks | None = None) -> Any:
    """The method, which fails the test in one line."""
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        plan = next((value for value in (*args, *kwargs.values()) if isinstance(value, Plan | SolverPlan)), None)
        if asks and (plan is not None or name in TRAINING):
            asks(plan, name in TRAINING)
        try:
            out = method(*args, **kwargs)
        except ConfigError:
            raise
        except Exception as error:
            refuse(name, f"raised {type(error).__name__}: {' '.join(str(error).split())[:300]}", error)
        check(name, out)
        return out

    return call


def check(name: str, out: Any) -> None:
    """Fail the test where a method of the protocol returned the wrong kind."""
    if name == "to_host" and type(out) is not np.ndarray:
        refuse(name, f"returned {kind(out)}, must be a NumPy array")
    if name == "loss_and_gradients" and not (isinstance(out, tuple) and len(out) == 2):
        refuse(name, f"returned {kind(out)}, must be (loss, gradients)")
    arrays = out[1] if name == "loss_and_gradients" else out if name in ARRAYS else {}
    if not isinstance(arrays, Mapping):
        refuse(name, f"returned {kind(arrays)}, must be NumPy arrays by name")
    for key, value in arrays.items():
        if not isinstance(value, np.ndarray):
            refuse(name, f"returned {kind(value)} for {key!r}, must be a NumPy array")
    if name == "device_info" and not isinstance(out, Mapping):
        refuse(name, f"returned {kind(out)}, must be strings by name")


def kind(value: Any) -> str:
    """The type, in words."""
    return "nothing" if value is None else f"a {type(value).__name__}"


def refuse(name: str, what: str, cause: Exception | None = None) -> None:
    """Fail the test in one line, without a traceback."""
    raise pytest.fail.Exception(f"{level}, {name}: {what}", pytrace=False) from cause
