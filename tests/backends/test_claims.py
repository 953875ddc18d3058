"""What a backend claims of the reference: what is within it, what the kit asks, and which wrong claims it finds."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import backends
from backends import claims, facts
from backends.facts import About
from backends.protocol import DeviceError, Spec
from reference.config import ConfigError, DiffusionConfig
from reference.conventions import make_encode_plan, make_plan
from reference.solver_plans import make_solver_plan
from tests.conformance import accounts, cases, kit
from tests.conformance import test_l0_refusals as refusals
from tests.conformance import test_l1_steps as l1
from tests.conformance.kit import Subject

PORT = Path(__file__).resolve().parents[2] / "examples" / "port"
HALF = About("half", levels=("L0", "L1", "L5"), schedules=("linear", "cosine"), objectives=("eps",), variances=("large",),
             samplers=("ddim", "ddpm"), spacings=("leading",), conventions=("plain",), devices=("cpu",), modes=("tuned",))
OURS = sorted(path.parent.name for path in PORT.parents[1].glob("backends/*/backend.py"))


@pytest.fixture
def port(monkeypatch):
    """The port of examples/, as the kit sees it; a test may change what it claims: port(schedules=..)."""
    monkeypatch.syspath_prepend(PORT)
    module = importlib.import_module("my_port.backend")
    kit.forget()

    def claiming(**changes) -> Subject:
        monkeypatch.setattr(module, "ABOUT", about := replace(module.ABOUT, **changes))
        monkeypatch.setattr(backends, "about", lambda name: about)
        return Subject("my_port", module)

    yield claiming
    kit.forget()
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_port"]:
        del sys.modules[name]


@pytest.mark.parametrize("name", OURS)
def test_ours_claim_all_but_dtypes(name):
    about = backends.about(name)
    assert claims.problem(about) is None
    assert not [kind for kind in claims.NAMES if kind != "dtypes" and claims.missing(about, kind)]


@pytest.mark.parametrize(("plan", "outside"), [
    (make_plan(DiffusionConfig(), 10), {}),
    (make_plan(DiffusionConfig(schedule="cosine"), 10, sampler="ddpm"), {}),
    (make_plan(DiffusionConfig(schedule="quad"), 10), {"schedules": "quad"}),
    (make_plan(DiffusionConfig(timesteps=2, trained_betas=(0.1, 0.2)), 2), {"schedules": "trained_betas"}),
    (make_plan(DiffusionConfig(objective="v"), 10), {"objectives": "v"}),
    (make_plan(DiffusionConfig(variance="small"), 10), {}),
    (make_plan(DiffusionConfig(), 10, sampler="ddpm", variance="small"), {"variances": "small"}),
    (make_plan(DiffusionConfig(variance="learned"), 10), {"variances": "learned"}),
    (make_plan(DiffusionConfig(), (5, 5)), {"spacings": "sections"}),
    (make_plan(DiffusionConfig(), 10, spacing="quad"), {"spacings": "quad"}),
    (make_encode_plan(DiffusionConfig(), 10, spacing="trailing"), {"spacings": "trailing"}),
    (make_plan(DiffusionConfig(), 10, convention="song2021"), {"conventions": "song2021"}),
    (make_solver_plan(DiffusionConfig(), 10, sampler="heun", spacing="karras"), {"samplers": "heun", "spacings": "karras"}),
])
def test_what_of_a_path_is_outside(plan, outside):
    assert claims.unclaimed(HALF, plan=plan) == outside
    assert claims.unclaimed(About("whole", solvers=True), plan=plan) == {}


@pytest.mark.parametrize(("changes", "trains", "outside"), [
    ({}, False, {}), ({"mode": "stock"}, False, {"modes": "stock"}),
    ({"device": "cuda:1", "dtype": "float64"}, False, {"devices": "cuda"}),  # dtypes are those on the CPU
    ({"device": "mps"}, False, {"devices": "mps"}),  # which nobody knows: this backend has said what it has
    ({"dtype": "float64"}, False, {"dtypes": "float64"}),
    ({"diffusion": DiffusionConfig(loss="l1")}, False, {}), ({"diffusion": DiffusionConfig(loss="l1")}, True, {"losses": "l1"}),
    ({"diffusion": DiffusionConfig(variance="small")}, True, {}),
    ({"diffusion": DiffusionConfig(loss="kl", variance="small")}, True, {"losses": "kl", "variances": "small"}),
])
def test_what_of_a_spec_is_outside(changes, trains, outside):
    about = replace(HALF, losses=("l2",))
    assert claims.unclaimed(about, Spec(cases.TINY, **changes), trains=trains) == outside


def test_a_mode_of_one_backend_is_claimed_by_name_alone():
    """Where none is named the harness refuses it, and the kit does not ask the backend to."""
    plain, naming = About("plain"), About("naming", modes=("tuned", "exported"))
    spec = Spec(cases.TINY, mode="exported")
    assert claims.unclaimed(plain, spec) == {"modes": "exported"} and not claims.unclaimed(naming, spec)
    assert not claims.missing(plain, "modes") and claims.missing(naming, "modes") == ("stock", "compiled")
    assert all(not claims.unclaimed(plain, replace(spec, mode=mode)) for mode in ("stock", "tuned", "compiled"))


def test_of_a_spec_and_a_path_both_count():
    """Whichever of them is outside."""
    good, bad = DiffusionConfig(), DiffusionConfig(schedule="quad", objective="v")
    for of_spec, of_plan in ((good, bad), (bad, good), (bad, bad)):
        found = claims.unclaimed(HALF, Spec(cases.TINY, of_spec, mode="tuned"), make_plan(of_plan, 10))
        assert found == {"schedules": "quad", "objectives": "v"}
    assert claims.unclaimed(HALF, Spec(cases.TINY, good), make_plan(good, 10)) == {}
    other = DiffusionConfig(schedule="sigmoid", objective="x0")
    assert claims.unclaimed(HALF, Spec(cases.TINY, other), make_plan(bad, 10)) == found  # the path's are the first
    assert claims.unclaimed(About("whole"), Spec(cases.TINY, device="mps")) == {}  # for the backend itself to refuse


def test_a_refusal_is_one_line_with_what_is_claimed():
    with pytest.raises(ConfigError) as refused:
        claims.require_claimed(HALF, plan=make_plan(DiffusionConfig(schedule="quad"), 10))
    assert str(refused.value) == "schedule='quad': half claims linear, cosine, says its ABOUT: use one of these, or another backend"
    for changes, line in (({"device": "cuda"}, "device='cuda': half claims cpu"), ({"dtype": "float64"}, "dtype='float64': half")):
        with pytest.raises(DeviceError, match=f"^{line}"):
            claims.require_claimed(HALF, Spec(cases.TINY, **changes))
    assert claims.line(replace(HALF, losses=("l2",)), "losses", "kl").startswith("loss='kl': half claims l2, says its ABOUT: use")


@pytest.mark.parametrize(("changes", "rule"), [
    ({"schedules": ()}, "schedules=() leaves nothing: name some of linear, "),
    ({"objectives": ("eps", "epsilon")}, "objectives has 'epsilon', which must be one of eps, x0, v, previous"),
    ({"dtypes": ("half",)}, "dtypes has 'half', which must be one of float32, "),
    ({"samplers": ("ddim", "heun")}, "samplers has 'heun', which needs solvers=True"),
])
def test_a_claim_of_nothing_is_a_mistake(changes, rule):
    assert (claims.problem(replace(HALF, **changes)) or "").startswith(rule)
    assert claims.problem(HALF) is None


@pytest.mark.parametrize("kind", claims.NAMES)
def test_the_example_refuses_what_it_does_not_claim(port, kind):
    """And without its refusals the kit finds every kind."""
    subject = port(spacings=("leading", "quad"), modes=("tuned",))
    refusals.test_what_is_not_claimed_is_refused(subject, kind)
    subject.module.require_claimed = lambda *args, **more: None
    if claims.missing(subject.about, kind):
        with pytest.raises(BaseException, match=f"answered for {kind} '|raised |has no such method") as found:
            refusals.test_what_is_not_claimed_is_refused(subject, kind)
        assert isinstance(found.value, pytest.fail.Exception)
    else:
        assert kind == "losses"  # of which a sampler has none


@pytest.fixture
def trainer(monkeypatch):
    """The torch backend that claims half of what it has, and refuses the rest in all methods, or in all but one."""
    pytest.importorskip("torch")
    from backends.torch.backend import TorchBackend

    about = replace(HALF, levels=facts.LEVELS, losses=("l2",), variances=("large",), solvers=True)
    monkeypatch.setattr(backends, "about", lambda name: about)
    kit.forget()

    def but(gap: str = "") -> Subject:
        def checked(what, **asked):
            if what != gap:
                claims.require_claimed(about, **asked)

        class Half(TorchBackend):
            def __init__(self, spec):
                checked("spec", spec=spec)
                super().__init__(spec)

            def tables(self, plan):
                checked("tables", plan=plan)
                return super().tables(plan)

            def step(self, x, output, i, plan, z):
                checked("step", plan=plan)
                return super().step(x, output, i, plan, z)

            def sample(self, x, plan, noise=None, **more):
                checked("sample", plan=plan)
                return super().sample(x, plan, noise, **more)

            def loss_and_gradients(self, batch):
                checked("loss", spec=self.spec, trains=True)
                return super().loss_and_gradients(batch)

        return Subject("half", SimpleNamespace(__name__="half.backend", create=Half))

    yield but
    kit.forget()


@pytest.mark.parametrize(("gap", "kind", "method"), [
    ("spec", "modes", "create"), ("tables", "conventions", "tables"), ("step", "spacings", "step"),
    ("sample", "objectives", "sample"), ("sample", "samplers", "sample"), ("loss", "losses", "loss_and_gradients"),
])
def test_a_backend_that_trains_refuses_everywhere_or_is_found(trainer, gap, kind, method):
    refusals.test_what_is_not_claimed_is_refused(trainer(), kind)
    with pytest.raises(pytest.fail.Exception, match=f"{method}: answered for {kind} '"):
        refusals.test_what_is_not_claimed_is_refused(trainer(gap), kind)


def test_a_refusal_of_another_kind_is_found(port):
    """What is refused in one method and answered in another; an error that is not ours."""
    subject = port()
    good = subject.module.Adapter.step
    subject.module.Adapter.step = lambda self, x, output, i, plan, z: x
    with pytest.raises(pytest.fail.Exception, match="step: answered for objectives 'x0', which is not claimed"):
        refusals.test_what_is_not_claimed_is_refused(subject, "objectives")
    subject.module.Adapter.step = good
    subject.module.require_claimed = lambda about, spec=None, plan=None: 1 / 0 if plan else None
    with pytest.raises(pytest.fail.Exception, match="tables: raised ZeroDivisionError"):
        refusals.test_what_is_not_claimed_is_refused(port(spacings=("leading",)), "spacings")


def test_a_claim_of_more_than_there_is_fails(port):
    """What is computed as something else, and what is refused though it is claimed."""
    l1.test_tables(port(), "plain-ddim-eps-cosine")
    with pytest.raises(pytest.skip.Exception, match="my_port does not claim schedules=quad"):
        l1.test_tables(port(), "plain-ddim-eps-quad")
    more = {"schedules": ("linear", "cosine", "quad")}
    with pytest.raises(AssertionError, match="L1.tables"):
        l1.test_tables(port(**more), "plain-ddim-eps-quad")
    subject = port(**more)
    subject.module.betas = lambda c: claims.require_claimed(HALF, plan=make_plan(c, 10))
    with pytest.raises(ConfigError, match="schedule='quad'"):
        l1.test_tables(subject, "plain-ddim-eps-quad")


def test_of_a_family_what_is_claimed_is_asked(port):
    """Though other plans of it are not claimed."""
    subject, plans = port(variances=("large",)), list(cases.family("plain-ddpm-eps-linear"))
    assert [plan.variance for plan in subject.claimed(plans)] == ["large"] and len(plans) == 4
    broken = subject.module.row
    subject.module.row = lambda plan, table, i: {**broken(plan, table, i), "sigma": 0.5}
    with pytest.raises(AssertionError, match="sigma, plain ddpm eps linear variance=large"):
        l1.test_tables(subject, "plain-ddpm-eps-linear")


def test_a_process_that_is_claimed_takes_the_place_of_the_default(port):
    assert port().process() == DiffusionConfig()
    assert port(schedules=("cosine",), objectives=("v", "x0")).process(timesteps=5) == DiffusionConfig(
        timesteps=5, schedule="cosine", objective="v")


def report(test, outcome="passed", reason=None, name="my_port"):
    """What pytest says of a test."""
    longrepr = ("kit.py", 1, f"Skipped: {reason}") if reason else None
    return SimpleNamespace(nodeid=f"tests/conformance/{test}[{name}-cpu-float32-tuned-x]", when="call", outcome=outcome,
                           skipped=outcome == "skipped", longrepr=longrepr)


def test_a_level_of_which_nothing_is_left_is_an_error(port):
    """Though all that was refused was refused rightly, and other levels passed."""
    account = accounts.Account([port()], asked=True)
    session = SimpleNamespace(exitstatus=pytest.ExitCode.OK)
    for one in (report("test_l0_refusals.py::test_x"), report("test_l0_interface.py::test_x"),
                report("test_l1_steps.py::test_x", "skipped", "my_port does not claim schedules=quad, objectives=v")):
        account.pytest_runtest_logreport(one)
    account.pytest_sessionfinish(session, session.exitstatus)
    assert session.exitstatus == pytest.ExitCode.TESTS_FAILED
    *lines, total, error = account.lines()
    assert any(line.startswith("NOT CLAIMED by my_port: objectives x0, v, previous: 1 tests left out") for line in lines)
    assert total.startswith("my_port: 1 tests left out in all")
    assert error.startswith("ERROR: L1 of my_port: nothing is left to test")
    account.pytest_runtest_logreport(report("test_l1_steps.py::test_y", "failed"))
    assert account.empty() == []


def test_other_skips_are_not_counted_as_left_out(port):
    account = accounts.Account([port()], asked=True)
    account.pytest_runtest_logreport(report("test_l1_steps.py::test_x", "skipped", "no GPU"))
    assert not account.left and account.empty() == []


def test_spacing_is_a_name_alone():
    """Two paths of the same timesteps are one plan, whatever the rule is called."""
    a, b = (make_plan(DiffusionConfig(timesteps=10), 10, spacing=spacing) for spacing in ("leading", "trailing"))
    assert a == b and (a.spacing, b.spacing) == ("leading", "trailing") and np.array_equal(a.timesteps, b.timesteps)
