"""Which backends, in which dtypes and modes, each level runs over; and how a backend is known to deviate."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest

import backends
from backends import claims
from reference.errors import ConfigError

from . import guard, kit
from .accounts import Account
from .kit import SAMPLER_LEVELS, Subject

LEVEL_FILE = re.compile(r"test_(l\d)_(\w+)\.py")
ONCE = "float32"  # in which a backend that is slow to compile runs compiled
LONG = ("l4", "l6")  # levels of many training steps
SUBJECTS = pytest.StashKey[list[Subject]]()
UNCLAIMED = pytest.StashKey[list[Subject]]()  # in dtypes and modes that a backend which was asked for does not claim
NOTES = pytest.StashKey[list[str]]()


@pytest.hookimpl(trylast=True)  # after that of tests/conftest.py
def pytest_configure(config: pytest.Config) -> None:
    """Find the backends. One that was asked for is there, as tests/conftest.py has made sure."""
    device, asked = config.getoption("--device"), config.getoption("--backend")
    rows = kit.tolerances(device)
    subjects: list[Subject] = []
    unclaimed: list[Subject] = []
    notes: list[str] = []
    if device.split(":")[0] not in kit.TOLERANCES:
        notes.append(f"no tolerances were recorded on {device}: those of the CPU are used")
    for name in asked or backends.names():
        try:
            module = backends.load(name)
        except backends.NotInstalled as error:
            notes.append(f"NOT CHECKED: {error}")
            continue
        try:
            about = backends.about(name)
        except ConfigError as error:
            raise pytest.UsageError(str(error)) from error
        if wrong := claims.problem(about):
            raise pytest.UsageError(f"backend={name!r}: in its ABOUT {wrong}")
        modes = config.getoption("--mode") or ["stock", "tuned"]
        modes = modes if about.network else modes[-1:]  # without a network the modes are one
        whole = [Subject(name, module, device, dtype, mode) for dtype, mode in product(rows, modes)]
        found = [s for s in whole if not outside(s)]
        if not found:
            raise pytest.UsageError(f"backend={name!r}: of what is asked for here its ABOUT claims nothing: {device} in "
                                    f"{' or '.join(rows)}, {' or '.join(modes)}")
        subjects += found
        unclaimed += [s for s in whole if s not in found and asked]
        dtypes = list(dict.fromkeys(s.dtype for s in found))
        notes.append(f"{name} on {device}: {', '.join(found[0].levels)} in {', '.join(dtypes)}")
        if spared(config, found[0]):
            notes.append(f"{name}: compiled once a level, in {ONCE}, and tests of both full dtypes in one; --mode runs all")
    if not subjects:
        raise pytest.UsageError("no backend to check: " + "; ".join(notes))
    config.stash[SUBJECTS], config.stash[UNCLAIMED], config.stash[NOTES] = subjects, unclaimed, notes
    config.pluginmanager.register(Account(subjects, bool(asked)), "conformance-account")


def outside(subject: Subject) -> dict[str, str]:
    """What of the subject's device, dtype and mode its backend does not claim; dtypes are those on the CPU, and there is no other
    list."""
    asked = {"devices": subject.device.partition(":")[0], "dtypes": subject.dtype, "modes": subject.mode}
    return {kind: name for kind, name in asked.items() if name not in claims.claimed(subject.about, kind)}


def spared(config: pytest.Config, subject: Subject) -> bool:
    """Whether this backend runs compiled in the tests marked `compiled` alone, since compiling takes longer than the tests do. Of
    the tests that run in both full dtypes it then has those in the first."""
    return subject.device.partition(":")[0] in backends.about(subject.name).slow_to_compile and not config.getoption("--mode")


def subjects_of(config: pytest.Config, path: Path, more: Sequence[Subject] = ()) -> list[Subject]:
    """The subjects that a level's file runs over, and which of these more it would. Tables and steps have no modes: they run in
    one."""
    level, name = LEVEL_FILE.fullmatch(path.name).groups()  # type: ignore[union-attr]
    found = [s for s in (*config.stash[SUBJECTS], *more) if level.upper() in s.levels and (s.trains or name != "network")]
    return [s for s in found if not (spared(config, s) and s.mode != "stock")
            and (s.mode != "stock" or level.upper() not in ("L0", "L1") or spared(config, s))]


def narrowed(subjects: list[Subject], mode: str | None = None, dtypes: tuple[str, ...] = kit.DTYPES,
             solvers: bool = False, alone: bool = False) -> list[Subject]:
    """Of each backend's subjects those of this mode and these dtypes; all of them where it runs in no such mode or dtype, but none
    with `alone`. With `solvers` those of the backends alone that have the fast solvers."""
    subjects = [s for s in subjects if not solvers or backends.about(s.name).solvers]
    for test in (lambda s: mode in (None, s.mode), lambda s: s.dtype in dtypes):
        fitting = {s.name for s in subjects if test(s) or alone}
        subjects = [s for s in subjects if test(s) or s.name not in fitting]
    return subjects


def lost_by(config: pytest.Config, subjects: list[Subject], whole: list[Subject], kinds: dict[str, Any]) -> list[Subject]:
    """Of a backend that was asked for: subjects of a test that are left out by a dtype or mode, and by its having no fast solvers.
    `claimed_subject` leaves them out, and they are counted."""
    lost = [s for s in narrowed(whole, **kinds) if s in config.stash[UNCLAIMED]]
    if kinds.get("solvers") and config.getoption("--backend"):
        lost += [s for s in narrowed(subjects, **{**kinds, "solvers": False}) if not s.about.solvers]
    return lost


def first_dtype(subjects: list[Subject], name: str) -> str:
    """Of this backend's subjects the dtype that stands first in the kit's table."""
    return min((s.dtype for s in subjects if s.name == name), key=kit.DTYPES.index)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A level that no chosen backend claims is not collected, and the summary says which levels each claims."""
    if LEVEL_FILE.fullmatch(collection_path.name) and not subjects_of(config, collection_path):
        return True
    return None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`subject`: backend, device, dtype and mode. Where nothing was asked for, the long tests of further backends' stock mode are a
    sample, run with --slow: their tuned mode takes the same steps. So are all tests of a backend that is slow to compile. With
    --backend or --mode they are tests like any other.
    A test marked `subjects(mode=.., dtypes=..)` runs over these alone: what it looks at is the same code in the others. With
    `solvers=True` it runs over backends that have the fast solvers, and with `alone=True` in no other mode and dtype; where no
    backend fits it is left out.
    One marked `compiled` runs compiled, too, where a backend is spared that elsewhere; with `alone=True` in no other way."""
    if "subject" in metafunc.fixturenames:
        path, config = Path(str(metafunc.module.__file__)), metafunc.config
        whole = not (config.getoption("--backend") or config.getoption("--mode"))
        mark = metafunc.definition.get_closest_marker("subjects")
        kinds = mark.kwargs if mark else {}
        chosen = narrowed(subjects_of(config, path), **kinds)
        lost = lost_by(config, subjects_of(config, path), subjects_of(config, path, config.stash[UNCLAIMED]), kinds)
        if mark and mark.kwargs.get("dtypes") == kit.FULL:
            chosen = [s for s in chosen if not spared(config, s) or s.dtype == first_dtype(chosen, s.name)]
        if compiled := metafunc.definition.get_closest_marker("compiled"):
            alone = compiled.kwargs.get("alone", False)
            chosen = [s for s in chosen if not (alone and spared(config, s))]
            chosen += [s for s in config.stash[SUBJECTS] if spared(config, s) and (s.mode, s.dtype) == ("tuned", ONCE)]
        long = LEVEL_FILE.fullmatch(path.name).group(1) in LONG  # type: ignore[union-attr]
        sampled = [s for s in chosen if whole and s.name != backends.DEFAULT
                   and (spared(config, s) or (long and s.mode == "stock"))]
        marks = [pytest.mark.slow, pytest.mark.sampled]
        sets = [pytest.param(s, marks=marks if s in sampled else []) for s in (*chosen, *lost)]
        metafunc.parametrize("subject", sets, ids=str, scope="module")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A test marked `compiled(case=..)` runs compiled in this case alone, where a backend is spared it elsewhere.

    Tests that a backend lists in `conformance-xfails.txt` must fail; where one passes, or none fits, the entry is stale."""
    left_out = {item for item in items if other_case(config, item) or of_no_subject(item) or nothing_to_refuse(item)}
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]
    files = {item.path.name for item in items}
    complete = all(any(f.startswith(f"test_{level.lower()}_") for f in files) for level in SAMPLER_LEVELS)
    for module in {s.module for s in config.stash[SUBJECTS]}:
        name = next(s.name for s in config.stash[SUBJECTS] if s.module is module)
        for part, reason in known_deviations(Path(module.__file__).with_name("conformance-xfails.txt")):
            fitting = [item for item in items if f"[{name}-" in item.name and part in item.name]
            if complete and not fitting:
                raise pytest.UsageError(f"conformance-xfails.txt of {name}: {part!r} fits no test")
            for item in fitting:
                item.add_marker(pytest.mark.xfail(strict=True, reason=reason))


def other_case(config: pytest.Config, item: pytest.Item) -> bool:
    """Whether this is a compiled test of a spared backend that is not in the case to which its mark limits it."""
    mark, params = item.get_closest_marker("compiled"), getattr(item, "callspec", None)
    if not (mark and params and isinstance(subject := params.params.get("subject"), Subject)):
        return False
    wanted = mark.kwargs.get("case")
    return wanted not in (None, params.params.get("case")) and subject.mode != "stock" and spared(config, subject)


def of_no_subject(item: pytest.Item) -> bool:
    """Whether this is what pytest makes of a test that runs over no backend."""
    params = getattr(item, "callspec", None)
    return bool(params and "subject" in params.params and not isinstance(params.params["subject"], Subject))


def nothing_to_refuse(item: pytest.Item) -> bool:
    """Whether this asks for a refusal of a kind of which the backend claims all."""
    params = getattr(item, "callspec", None)
    if not (params and item.get_closest_marker("refusals") and isinstance(subject := params.params.get("subject"), Subject)):
        return False
    return not claims.missing(subject.about, params.params["case"])


def known_deviations(path: Path) -> Iterator[tuple[str, str]]:
    """(part of a test's name, reason) from lines `PART  # reason`; blank lines and comments are passed over."""
    for line in path.read_text().splitlines() if path.exists() else []:
        part, _, reason = (s.strip() for s in line.partition("#"))
        if part and not reason:
            raise pytest.UsageError(f"{path.name}: {part!r} needs a reason: PART  # reason")
        if part:
            yield part, reason


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """An error of ours that a test did not ask for is one line, as any other."""
    try:
        return (yield)
    except ConfigError as error:
        guard.unasked(error)
        raise


@pytest.fixture(autouse=True)
def named_level(request: pytest.FixtureRequest) -> None:
    """What a line about a wrong method calls the level."""
    if found := LEVEL_FILE.fullmatch(request.path.name):
        guard.level = found.group(1).upper()


@pytest.fixture(autouse=True)
def claimed_subject(request: pytest.FixtureRequest) -> None:
    """Leave out a test in a dtype or mode, or of fast solvers, that is not claimed."""
    if "subject" in request.fixturenames and isinstance(subject := request.getfixturevalue("subject"), Subject):
        mark = request.node.get_closest_marker("subjects")
        fast = {"samplers": "fast"} if mark and mark.kwargs.get("solvers") and not subject.about.solvers else {}
        subject.leave_out(outside(subject) | fast)


@pytest.fixture(autouse=True)
def deferred(request: pytest.FixtureRequest) -> Iterator[None]:
    """With --record a comparison that fails lets the test go on, so that every error is seen, and fails it at the end."""
    kit.DEFERRED = [] if request.config.getoption("--record") else None
    yield
    failed, kit.DEFERRED = kit.DEFERRED, None
    assert not failed, "\n".join(failed or [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What was checked and what was not; with --record the worst errors, as lines of tolerances.toml."""
    terminalreporter.section("conformance")
    account = config.pluginmanager.get_plugin("conformance-account")
    for note in (*config.stash[NOTES], *account.lines()):
        terminalreporter.line(note)
    if config.getoption("--record"):
        for (device, dtype, quantity), (error, what) in sorted(kit.WORST.items()):
            terminalreporter.line(f"[{device}.{dtype}] {quantity:<14} worst = {error:.1e}   # {what}"[:200])
