"""What of the reference a backend claims, and whether a configuration or a path is within it.

One function decides, `unclaimed`. The conformance kit asks it which tests to run, the harness what to leave out or refuse, and a
backend itself may: `require_claimed` is all that it needs to refuse the rest.
"""

from __future__ import annotations

from backends.facts import About
from backends.protocol import MODES, DeviceError, Spec
from reference.config import BOUNDS, LOSSES, OBJECTIVES, SCHEDULES, VARIANCES, ConfigError, DiffusionConfig
from reference.conventions import CONVENTIONS, Plan
from reference.grids import GRIDS
from reference.solver_plans import CODES, FAST, SolverPlan
from reference.timesteps import LITERAL

EXACT = ("ddim", "ddpm")  # samplers that need no `Solver`
EVERYWHERE = ("stock", "tuned", "compiled")  # modes that a backend has which names none
NAMES: dict[str, tuple[str, ...]] = {  # all that may be claimed, by the field of `About`
    "schedules": (*SCHEDULES, "trained_betas"),
    "objectives": OBJECTIVES,
    "variances": VARIANCES,
    "losses": LOSSES,
    "samplers": (*EXACT, *FAST),
    "spacings": tuple(dict.fromkeys([*(rule for rules in LITERAL.values() for rule in rules), "sections",
                                     *(rule for _, rules in GRIDS.values() for rule in rules)])),
    "conventions": tuple(dict.fromkeys([*CONVENTIONS, *CODES])),
    "dtypes": ("float32", "float64", "bfloat16", "float16"),
    "modes": MODES,
    "devices": ("cpu", "cuda", "ascend", "tpu"),
}
OF_DEVICES = ("dtypes", "devices")  # whose refusal is a `DeviceError`


def claimed(about: About, kind: str) -> tuple[str, ...]:
    """The names of this kind that the backend claims, in its own order."""
    said: tuple[str, ...] | None = getattr(about, kind)
    if said is None and kind == "samplers" and not about.solvers:
        return EXACT
    if said is None and kind == "modes":
        return EVERYWHERE
    return NAMES[kind] if said is None else said


def missing(about: About, kind: str) -> tuple[str, ...]:
    """The names of this kind that it has to refuse, since it does not claim them. What it has no part for, the losses of a sampler,
    is none; nor is a mode where it names none, which `require_claimed` refuses before it is built."""
    if (kind == "losses" and not about.network) or (kind == "modes" and about.modes is None):
        return ()
    return tuple(name for name in NAMES[kind] if name not in claimed(about, kind))


def problem(about: About) -> str | None:
    """What is wrong with the first claim that names nothing, or that nothing is left of; None where all are right."""
    for kind, known in NAMES.items():
        said = claimed(about, kind)
        if not said:
            return f"{kind}=() leaves nothing: name some of {', '.join(known)}, or leave the field out, which claims all"
        if strange := [name for name in said if name not in known]:
            return f"{kind} has {strange[0]!r}, which must be one of {', '.join(known)}"
    if not about.solvers and (fast := [name for name in claimed(about, "samplers") if name in FAST]):
        return f"samplers has {fast[0]!r}, which needs solvers=True"
    return None


def asked(spec: Spec | None = None, plan: Plan | SolverPlan | None = None, trains: bool = False) -> list[tuple[str, str]]:
    """(kind, name) of what a backend needs for these. The loss counts where it `trains`; small and large in DDPM and in a bound
    that is trained; dtypes on the CPU, whose they are."""
    out: list[tuple[str, str]] = []
    if plan is not None:  # its convention first, which may change the schedule
        out += [("conventions", plan.convention), ("samplers", plan.sampler), ("spacings", plan.spacing)]
        out += _of_process(plan.diffusion, False)
    if isinstance(plan, Plan) and plan.sampler == "ddpm":
        out.append(("variances", plan.variance))
    if spec is not None:
        out += [("modes", spec.mode), ("devices", spec.device.partition(":")[0]), *_of_process(spec.diffusion, trains)]
        out += [("dtypes", spec.dtype)] if spec.device == "cpu" else []
    return out


def _of_process(diffusion: DiffusionConfig, trains: bool) -> list[tuple[str, str]]:
    out = [("schedules", diffusion.schedule if diffusion.trained_betas is None else "trained_betas"),
           ("objectives", diffusion.objective)]
    if diffusion.learned_variance or (trains and diffusion.loss in BOUNDS):
        out.append(("variances", diffusion.variance))
    return [*out, ("losses", diffusion.loss)] if trains else out


def unclaimed(about: About, spec: Spec | None = None, plan: Plan | SolverPlan | None = None,
              trains: bool = False) -> dict[str, str]:
    """What of `asked` this backend does not claim, the first name of each kind; empty where it claims all. A name that nobody knows
    is for the backend itself to refuse, where it says nothing of the kind."""
    out: dict[str, str] = {}
    for kind, name in asked(spec, plan, trains):
        if name not in claimed(about, kind) and (name in NAMES[kind] or getattr(about, kind) is not None):
            out.setdefault(kind, name)
    return out


def require_claimed(about: About, spec: Spec | None = None, plan: Plan | SolverPlan | None = None, trains: bool = False) -> None:
    """Raise `ConfigError` in one line for the first thing that this backend does not claim; of device and dtype a `DeviceError`."""
    for kind, name in unclaimed(about, spec, plan, trains).items():
        raise (DeviceError if kind in OF_DEVICES else ConfigError)(line(about, kind, name))


def line(about: About, kind: str, name: str) -> str:
    """What is said of a name that this backend does not claim."""
    able = ", ".join(claimed(about, kind))
    field = "loss" if kind == "losses" else kind.removesuffix("s")
    return f"{field}={name!r}: {about.label} claims {able}, says its ABOUT: use one of these, or another backend"
