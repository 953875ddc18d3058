"""The conformance kit tells a wrong adapter in one line, and runs a test over the subjects that it names."""

from __future__ import annotations

import dataclasses
import re
from types import SimpleNamespace

import numpy as np
import pytest

import backends
from backends.protocol import DeviceError
from reference.config import ConfigError, DiffusionConfig, ModelConfig, OptimConfig
from reference.plan import Plan
from reference.solver_plans import SolverPlan
from tests.conformance import cases, fields, guard
from tests.conformance import test_l3_gradients as l3
from tests.conformance.conftest import SUBJECTS, UNCLAIMED, narrowed, of_no_subject, other_case, pytest_generate_tests
from tests.conformance.kit import FULL, Subject, weights


def adapter(**methods):
    """What the kit sees of a module whose backend has these methods."""
    backend = type("Port", (), {name: staticmethod(method) for name, method in methods.items()})()
    subject = Subject("my_port", SimpleNamespace(__name__="my_port.backend", create=lambda spec: backend))
    return subject.create(subject.spec())


def fail(error):
    """A method that raises."""
    def method(*args):
        raise error
    return method


@pytest.mark.parametrize("name, method, line", [
    ("step", None, "Port has no such method"),
    ("tables", lambda plan: [1.0], "returned a list, must be NumPy arrays by name"),
    ("tables", lambda plan: {"sigma": [0.0]}, "returned a list for 'sigma', must be a NumPy array"),
    ("to_host", lambda tensor: [1.0], "returned a list, must be a NumPy array"),
    ("device_info", lambda: None, "returned nothing, must be strings by name"),
    ("weights", lambda: None, "returned nothing, must be NumPy arrays by name"),
    ("loss_and_gradients", lambda batch: {}, "returned a dict, must be (loss, gradients)"),
    ("loss_and_gradients", lambda batch: (0.0, []), "returned a list, must be NumPy arrays by name"),
    ("forward", fail(TypeError("two\nlines")), "raised TypeError: two lines (test_kit.py:@)"),
    ("forward", fail(SystemExit(3)), "raised SystemExit: 3 (test_kit.py:@)"),
    ("forward", lambda: None, "raised TypeError: <lambda>() takes 0 positional arguments but 1 was given"),
    ("train_step", lambda batch: None, "returned nothing, must be a tensor"),
    ("to_device", lambda array: [array], "returned a list, must be a tensor"),
    ("step", lambda x: (x, x), "returned a tuple, must be a tensor"),
    ("step", lambda x: x.astype("float16"), "returned dtype float16, must be x's, float32"),
    ("sample", lambda x: x[:1], "returned shape (1, 1, 4, 4), must be (2, 1, 4, 4)"),
    ("forward", lambda x: x[..., :2], "returned shape (2, 1, 4, 2), must be (2, 1, 4, 4)"),
    ("weights", lambda: {}, "returned nothing for 'conv_in.weight'"),
    ("state", lambda: {f"weights/{n}": v for n, v in weights(cases.TINY).items()}, "returned nothing for 'ema/conv_in.weight'"),
    ("loss_and_gradients", lambda batch: (0.0, {n: v.T for n, v in weights(cases.TINY).items()}),
     "returned shape (3, 3, 2, 8) for 'conv_in.weight', must be (8, 2, 3, 3)"),
])
def test_a_wrong_method_is_one_line_with_the_level_and_its_name(monkeypatch, name, method, line):
    monkeypatch.setattr(guard, "level", "L5")
    backend = adapter(**{name: method} if method else {})
    given = [] if name in ("device_info", "weights", "state") else [np.zeros((2, 1, 4, 4), np.float32)]
    with pytest.raises(pytest.fail.Exception) as failed:
        getattr(backend, name)(*given)
    assert re.fullmatch(re.escape(f"L5, {name}: {line}").replace("@", r"\d+"), str(failed.value))
    assert not failed.value.pytrace and failed.value.__suppress_context__


@pytest.mark.parametrize("name, result, said", [
    ("train_step", np.float32(1), "float32"), ("train_step", 1.0, "float"), ("forward", np.ones((2, 1, 4, 4)), "ndarray"),
    ("loss_and_gradients", (np.ones(()), weights(cases.TINY)), "ndarray")])
def test_numpy_for_the_frameworks_tensor_is_the_fault_of_who_returns_it(name, result, said):
    """Not of to_host, which can't read it. A backend whose tensors are NumPy's may return it."""
    given = np.zeros((2, 1, 4, 4))
    assert getattr(adapter(**{name: lambda _: result}, to_device=lambda array: array), name)(given) is result
    with pytest.raises(pytest.fail.Exception, match=f"{name}: returned a {said}, must be a tensor, a memoryview"):
        getattr(adapter(**{name: lambda _: result}, to_device=memoryview), name)(given)


def test_another_number_of_channels_is_a_networks_own():
    x = np.zeros((2, 1, 4, 4), np.float32)
    port = adapter(forward=lambda x: np.concatenate((x, x), axis=1), to_device=lambda array: array)
    assert port.forward(x).shape == (2, 2, 4, 4)


def test_a_refusal_that_no_test_asked_for_is_one_line(monkeypatch):
    monkeypatch.setattr(guard, "level", "L1")
    with pytest.raises(ConfigError) as caught:
        adapter(tables=fail(ConfigError("clip='clip': not here"))).tables(None)
    with pytest.raises(pytest.fail.Exception, match=r"^L1, tables: raised ConfigError: clip='clip': not here \(test_kit.py:\d+\)$"):
        guard.unasked(caught.value)
    guard.unasked(ConfigError("of the kit itself"))  # is raised as it is


def test_a_module_without_create_or_with_one_that_raises_is_one_line(monkeypatch):
    monkeypatch.setattr(guard, "level", "L0")
    raises = SimpleNamespace(__name__="my_port", create=fail(KeyError("cpu")))
    for module, line in ((SimpleNamespace(__name__="my_port"), "my_port has no such function"),
                         (raises, r"raised KeyError: 'cpu' \(test_kit.py:\d+\)")):
        subject = Subject("my_port", module)
        with pytest.raises(pytest.fail.Exception, match=f"^L0, create: {line}$"):
            subject.create(subject.spec())


def test_answers_pass():
    """Errors that the protocol asks for, and right values."""
    backend = adapter(to_host=lambda tensor: np.ones(2), load_weights=fail(DeviceError("no")))
    assert backend.to_host(None).sum() == 2
    with pytest.raises(DeviceError):
        backend.load_weights({})


def test_stored_derivatives_are_those_of_the_numpy_network():
    """One of each kind is worked out again."""
    again = "run python -m tests.conformance.make_golden derivatives"
    for kind, count in (("loss", 3), ("crossed", 1)):
        case = next(case for found, case in l3.POINTS if found == kind)
        p, stored = l3.POINTS[kind, case](), l3.golden()[f"{kind}/{case}"]
        found = [l3.reference_loss(p), *l3.whole_derivatives(p, count)]
        np.testing.assert_allclose(found, stored[:1 + count], rtol=1e-6, err_msg=again)
    p, d = l3.POINTS["tensor", "tiny"](), l3.directions(cases.TINY, 0)
    found = [l3.derivative(p, {name: d[name]}) for name in list(d)[:3]]
    np.testing.assert_allclose(found, l3.golden()["tensor/tiny"][1:4], rtol=1e-6, err_msg=again)


def test_no_stored_derivatives_are_of_a_loss_of_before():
    """The kit would work them out each time, for seconds."""
    stale = [case for case, point in l3.POINTS.items()
             if abs(l3.golden()["/".join(case)][0] / l3.reference_loss(point()) - 1) > 1e-9]
    assert not stale, f"{stale}: run python -m tests.conformance.make_golden derivatives"


@pytest.mark.parametrize("words, files", [([], {"derivatives", *cases.OPTIMS}), (["derivatives"], {"derivatives"})])
def test_golden_files_are_made_with_and_without_a_part(monkeypatch, tmp_path, words, files):
    pytest.importorskip("torch", reason="whose gradients the trajectories have")
    from tests.conformance import make_golden

    monkeypatch.setattr(make_golden, "GOLDEN", tmp_path)
    monkeypatch.setattr(make_golden, "derivatives", lambda: {"loss/eps": np.ones(2)})
    monkeypatch.setattr(make_golden, "trajectory", lambda case: {"loss": np.ones(100)})
    make_golden.main(words)
    assert {path.stem for path in tmp_path.iterdir()} == files


def test_derivatives_of_another_loss_are_not_taken_from_the_file(monkeypatch):
    monkeypatch.setattr(l3, "golden", lambda: {"loss/eps": np.array([0.5, 7.0, 7.0, 7.0])})
    assert l3.derivatives.__wrapped__("loss", "eps") == l3.whole_derivatives(l3.POINTS["loss", "eps"]())


def test_every_field_of_a_config_is_changed_by_itself():
    for table, config in ((fields.PLAN, Plan), (fields.SOLVER_PLAN, SolverPlan), (fields.DIFFUSION, DiffusionConfig),
                          (fields.MODEL, ModelConfig)):
        assert set(table) == {field.name for field in dataclasses.fields(config)}, config.__name__


def test_every_field_of_the_optimiser_meets_the_others():
    """But the rate itself, Adam's second beta and its eps, which `cases.OPTIMS` move."""
    assert {*cases.OPTIM_OPTIONS, "lr", "beta2", "eps"} == {field.name for field in dataclasses.fields(OptimConfig)}


def test_a_test_runs_over_the_subjects_that_it_names():
    """All of a backend that has none of them: a port of one dtype, a run of one mode."""
    torch = [Subject("torch", None, dtype=d, mode=m) for d in ("float32", "bfloat16") for m in ("stock", "tuned")]
    port = [Subject("port", None, dtype="bfloat16", mode="stock")]
    assert narrowed(torch + port) == torch + port
    assert narrowed(torch + port, mode="tuned") == [torch[1], torch[3], *port]
    assert narrowed(torch + port, mode="tuned", dtypes=FULL) == [torch[1], *port]


def test_solvers_are_asked_of_backends_that_have_them(monkeypatch):
    """A test that runs over none is left out, and so does not count as passed."""
    monkeypatch.setattr(backends, "about", lambda name: backends.About(name, solvers=name == "fast"))
    fast, plain = Subject("fast", None), Subject("plain", None)
    assert narrowed([fast, plain], dtypes=FULL, solvers=True) == [fast]
    assert narrowed([plain], dtypes=FULL, solvers=True) == []
    items = [SimpleNamespace(callspec=SimpleNamespace(params={"subject": s})) for s in (fast, object())]
    assert [of_no_subject(item) for item in items] == [False, True]


def test_a_backend_that_is_slow_to_compile_runs_stock_and_once_a_level_compiled(monkeypatch):
    """Also where levels have no modes, and tests of both full dtypes in one of them; with --mode it runs as any other. Where it was
    not asked for, its tests are a sample."""
    found = [Subject(name, None, dtype=d, mode=m) for name in ("fast", "slow") for d in FULL for m in ("stock", "tuned")]
    monkeypatch.setattr(backends, "about", lambda name: backends.About(name, slow_to_compile=("cpu",) * (name == "slow")))

    def chosen(path, mode=(), asked=("fast", "slow"), **marks):
        options = {"--mode": list(mode), "--backend": list(asked)}
        subjects = [s for s in found if s.mode in (mode or s.mode)]
        config = SimpleNamespace(stash={SUBJECTS: subjects, UNCLAIMED: []}, getoption=options.get)
        marks = {name: SimpleNamespace(kwargs=value) for name, value in marks.items()}
        out = []
        pytest_generate_tests(SimpleNamespace(
            fixturenames=["subject"], config=config, module=SimpleNamespace(__file__=path),
            definition=SimpleNamespace(get_closest_marker=marks.get),
            parametrize=lambda name, sets, **_: [out.append(p.values[0]) for p in sets if asked or not p.marks]))
        once = [other_case(config, SimpleNamespace(get_closest_marker=marks.get, callspec=SimpleNamespace(
            params={"subject": s, "case": "second"}))) for s in out]
        return [f"{s.name} {s.dtype} {s.mode}" for s in out], once

    fast = [f"fast {d} {m}" for d in FULL for m in ("stock", "tuned")]
    stock = [f"slow {d} stock" for d in FULL]
    assert chosen("test_l2_network.py") == (fast + stock, 6 * [False])
    assert chosen("test_l1_steps.py")[0] == [fast[1], fast[3], *stock]
    assert chosen("test_l2_network.py", compiled={"case": "first"}) == (fast + stock + ["slow float32 tuned"], 6 * [False] + [True])
    assert chosen("test_l2_network.py", compiled={"case": "second"})[1] == 7 * [False]
    assert chosen("test_l6_invariance.py", compiled={"alone": True}, subjects={"mode": "tuned"})[0] == [
        fast[1], fast[3], "slow float32 tuned"]
    assert chosen("test_l2_network.py", mode=["tuned"], compiled={"case": "first"}) == (
        [fast[1], fast[3], "slow float64 tuned", "slow float32 tuned"], 4 * [False])
    assert chosen("test_l1_steps.py", subjects={"dtypes": FULL})[0] == [fast[1], fast[3], stock[0]]
    assert chosen("test_l1_steps.py", mode=["tuned"], subjects={"dtypes": FULL})[0][-2:] == [f"slow {d} tuned" for d in FULL]
    assert chosen("test_l2_network.py", asked=())[0] == fast
