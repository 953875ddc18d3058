"""A backend under test, watched: a method that is missing, raises or returns the wrong kind, shape or dtype is one line with level
and name, and what is not claimed is asked of no method."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from reference import weights
from reference.config import ConfigError, ModelConfig
from reference.conventions import Plan
from reference.solver_plans import SolverPlan

Asks = Callable[[Plan | SolverPlan | None, bool], None]
TRAINING = ("loss_and_gradients", "train_step")
ARRAYS = ("tables", "weights", "activations", "state")  # methods that return arrays by name
OF_X = {"step": 0, "forward": 0, "sample": 0, "solve": 1}  # that return a tensor like their argument x, and its place
TENSORS = ("to_device", "train_step", *OF_X)
level = "L0"  # of the test that runs


class Guard:
    """Every method of the backend; one that fails fails the test in one line. `ConfigError` is an answer, and passes: a test that
    does not expect it fails by `unasked`."""

    def __init__(self, backend: Any, asks: Asks = lambda plan, trains: None, model: ModelConfig | None = None) -> None:
        self._backend, self._model = backend, model
        self._asks = asks  # called before a method is, with its plan and whether it trains

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        found = getattr(self._backend, name, None)
        if found is None:
            refuse(name, f"{type(self._backend).__name__} has no such method")
        must(name, callable(found), f"is {kind(found)}, must be a method")
        return watched(name, found, self._asks, self._model, lambda: self.to_device(np.zeros(1, np.float32)))


def watched(name: str, method: Any, asks: Asks | None = None, model: ModelConfig | None = None,
            tensor: Callable[[], Any] | None = None) -> Any:
    """The method, which fails the test in one line; `tensor` makes one of the framework's."""
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        plan = next((value for value in (*args, *kwargs.values()) if isinstance(value, Plan | SolverPlan)), None)
        if asks and (plan is not None or name in TRAINING):
            asks(plan, name in TRAINING)
        try:
            out = method(*args, **kwargs)
        except ConfigError as error:
            vars(error).setdefault("method", name)
            raise
        except (Exception, SystemExit) as error:
            refuse(name, raised(error))
        check(name, out)
        if name in OF_X:
            check_like(name, kwargs["x"] if "x" in kwargs else args[OF_X[name]], out)
        if model and name in ("weights", "state", "loss_and_gradients"):
            check_parameters(name, out[1] if name == "loss_and_gradients" else out, model)
        result = out[0] if name == "loss_and_gradients" else out if name in ("train_step", *OF_X) else None
        if tensor and isinstance(result, np.ndarray | np.generic | float):  # to_host would be blamed
            right = tensor()
            must(name, isinstance(right, np.ndarray), f"returned {kind(result)}, must be a tensor, {kind(right)}")
        return out

    return call


def check(name: str, out: Any) -> None:
    """Fail the test where a method of the protocol returned the wrong kind."""
    must(name, name != "to_host" or type(out) is np.ndarray, f"returned {kind(out)}, must be a NumPy array")
    if name in TENSORS:
        must(name, out is not None and not isinstance(out, list | tuple | Mapping | str), f"returned {kind(out)}, must be a tensor")
    if name == "loss_and_gradients":
        must(name, isinstance(out, tuple) and len(out) == 2, f"returned {kind(out)}, must be (loss, gradients)")
    arrays = out[1] if name == "loss_and_gradients" else out if name in ARRAYS else {}
    must(name, isinstance(arrays, Mapping), f"returned {kind(arrays)}, must be NumPy arrays by name")
    for key, value in arrays.items():
        must(name, isinstance(value, np.ndarray), f"returned {kind(value)} for {key!r}, must be a NumPy array")
    must(name, name != "device_info" or isinstance(out, Mapping), f"returned {kind(out)}, must be strings by name")


def check_like(name: str, x: Any, out: Any) -> None:
    """Fail the test where a tensor has not the shape and dtype of x, where the framework's tensors tell; a network may have other
    channels."""
    if not hasattr(x, "shape"):
        return
    found, wanted = (tuple(getattr(tensor, "shape", ())) for tensor in (out, x))
    wanted = (*wanted[:1], *found[1:2], *wanted[2:]) if name == "forward" else wanted
    must(name, found == wanted, f"returned shape {found}, must be {wanted}")
    dtype, of_x = (getattr(tensor, "dtype", None) for tensor in (out, x))
    must(name, dtype == of_x, f"returned dtype {dtype}, must be x's, {of_x}")


def check_parameters(name: str, arrays: Mapping[str, np.ndarray], model: ModelConfig) -> None:
    """Fail the test where one of the network's parameters is missing or has another shape."""
    parts = [f"{part}/" for part in ("weights", "ema", "adam_m", "adam_v")] if name == "state" else [""]
    for key, shape in ((part + n, shape) for part in parts for n, shape in weights.shapes(model).items()):
        must(name, key in arrays, f"returned nothing for {key!r}")
        must(name, arrays[key].shape == shape, f"returned shape {arrays[key].shape} for {key!r}, must be {shape}")


def raised(error: BaseException) -> str:
    """What and where, in a line."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f" ({Path(place.filename).name}:{place.lineno})" if place.filename != __file__ else ""
    return f"raised {type(error).__name__}: {' '.join(str(error).split())[:300]}{where}"


def unasked(error: ConfigError) -> None:
    """Fail the test where this is a method's answer; a test that asks for one has caught it."""
    if name := vars(error).get("method"):
        refuse(name, raised(error))


def kind(value: Any) -> str:
    """The type, in words."""
    return "nothing" if value is None else f"a {type(value).__name__}"


def must(name: str, right: bool, what: str) -> None:
    """Fail the test, where that is not right, in one line that says what this method did."""
    if not right:
        refuse(name, what)


def refuse(name: str, what: str) -> NoReturn:
    """Fail the test in one line, without a traceback."""
    raise pytest.fail.Exception(f"{level}, {name}: {what}", pytrace=False) from None
