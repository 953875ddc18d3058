"""What a `scheduler_config.json` says about sampling, read as `reference.scheduler.Scheduler` and written back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.weights.errors import CheckpointError, named, note, read_object
from reference.config import DiffusionConfig
from reference.scheduler import CLASSES, FIXED, SAMPLERS, Scheduler
from reference.solver_config import DEFAULTS as FAST

# diffusers' keys, with the value of a missing one.
SAMPLING: dict[str, Any] = {
    "clip_sample": True, "clip_sample_range": 1.0, "thresholding": False, "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0, "timestep_spacing": "leading", "steps_offset": 0,
}
OWN: dict[str, dict[str, Any]] = {
    "DDIMScheduler": {"set_alpha_to_one": True}, "DDPMScheduler": {"variance_type": "fixed_small"}}
PROCESS: dict[str, Any] = {
    "num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear", "trained_betas": None,
    "prediction_type": "epsilon", "rescale_betas_zero_snr": False}
ZERO_SNR = (*SAMPLERS, "DPMSolverMultistepScheduler", "UniPCMultistepScheduler")  # the classes that have the last of these keys
LEARNED = ("DDPMScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler")  # those that split a network's output
PIPELINES = {"DDIMPipeline": "DDIMScheduler", "PNDMPipeline": "PNDMScheduler"}  # those that make one class of every file
PRIVATE = ("_class_name", "_diffusers_version", "ddim_bench")
IGNORE = "--ignore-scheduler (ignore_scheduler=True) goes on without the scheduler's settings"


def scheduler_class(path: Path, values: dict[str, Any], ignore: bool = False) -> str:
    """The class that the folder's pipeline makes of this file: that of model_index.json where there is one, as in diffusers.

    DDIMPipeline makes a DDIMScheduler of any, PNDMPipeline a PNDMScheduler. Raises `CheckpointError` for a class whose settings are
    not honoured, unless `ignore`.
    """
    said = [values.get("_class_name")]
    index = (path.parent.parent if path.parent.name == "scheduler" else path.parent) / "model_index.json"
    if index.exists():
        announced = read_object(index)
        pair = announced.get("scheduler")
        said += pair[1:] if isinstance(pair, list) and len(pair) == 2 else []
        made = announced.get("_class_name")
        said += [PIPELINES[made]] if isinstance(made, str) and made in PIPELINES else []
    strange = [name for name in said if not (isinstance(name, str) and name in CLASSES)]
    if strange and not ignore:
        raise CheckpointError(f"{path}: _class_name={strange[0]!r}: must be one of {', '.join(CLASSES)}; {IGNORE}")
    return "DDPMScheduler" if strange else str(said[-1])


def process_keys(name: str) -> dict[str, Any]:
    """The keys of a class that say the process, with the value of a missing one."""
    own = {"beta_start": 0.00085, "beta_end": 0.012} if name == "HeunDiscreteScheduler" else {}
    return {key: value for key, value in (PROCESS | own).items() if key != "rescale_betas_zero_snr" or name in ZERO_SNR}


def read_sampling(path: Path, ignore: bool = False) -> Scheduler:
    """What the file says about sampling, with its class's own values of missing keys; nothing where `ignore`.

    Warns once of keys that the class does not have. Raises `CheckpointError` for a class or a value that is not honoured.
    """
    if ignore:
        return Scheduler()
    values = read_object(path)
    name = scheduler_class(path, values)
    known: dict[str, Any] = FAST[name] if name in FAST else SAMPLING | OWN[name]
    unknown = sorted(set(values) - set(known) - set(process_keys(name)) - set(PRIVATE))
    if unknown:
        note(f"{path}: {', '.join(unknown)}: no keys of {name}, and not honoured")
    given = {key: value for key, value in values.items() if key in known}
    with named(path):
        try:
            return Scheduler(name=name, solver=given) if name in FAST else _sampling(path, values, name, known | given)
        except ValueError as error:
            raise CheckpointError(str(error) if IGNORE in str(error) else f"{path}: {error}; {IGNORE}") from None


def _sampling(path: Path, values: dict[str, Any], name: str, said: dict[str, Any]) -> Scheduler:
    for key, default in (SAMPLING | OWN[name]).items():
        if said[key] is None and not isinstance(default, bool):
            raise CheckpointError(f"{path}: {key}=None: must be of type {type(default).__name__}, or left out; {IGNORE}")
    said |= {key: False for key, value in said.items() if value is None}
    if (variance := said.get("variance_type")) in ("learned", "learned_range"):
        if variance == "learned" and "ddim_bench" not in values:
            raise CheckpointError(f"{path}: variance_type='learned': diffusers takes the network's output for the variance, and "
                                  f"here it is the logarithm; must be {', '.join(FIXED)} or learned_range; {IGNORE}")
        del said["variance_type"]
    return Scheduler(name=name, **said)


def note_unused(scheduler: Scheduler, convention: str, *samplers: str | None) -> None:
    """Warn, in one line for each sampler that is not the folder's own, of the settings that it goes without: those of a class of
    fast solvers are its solver's alone, and no fast solver has DDIM's or DDPM's. Other conventions than `diffusers` have none."""
    settings = ["its solver", *scheduler.solver] if scheduler.fast else [key for key in scheduler.to_dict() if key != "name"]
    for sampler in dict.fromkeys(samplers) if settings and convention == "diffusers" else ():
        if sampler != scheduler.sampler and (scheduler.fast or sampler not in SAMPLERS.values()):
            note(f"sampler={sampler!r}: goes without {', '.join(settings)}, which the weights' folder says for {scheduler.name}")


def sampling_json(scheduler: Scheduler) -> dict[str, Any]:
    """The keys of a `scheduler_config.json` that concern sampling, all but the variance's."""
    if scheduler.fast:
        return {key: float(value) if value in ("inf", "-inf") else value  # diffusers writes -Infinity
                for key, value in scheduler.solver.items() if key != "variance_type"}
    known = SAMPLING | OWN[written_class(scheduler)]
    said = scheduler.to_dict()
    return {key: said.get(key, default) for key, default in known.items() if key != "variance_type"}


def pipeline_class(name: str) -> str:
    """Of diffusers' pipelines that which keeps a scheduler of this class."""
    return next((pipeline for pipeline, own in PIPELINES.items() if own == name), "DDPMPipeline")


def written_class(scheduler: Scheduler) -> str:
    """The class of the file that is written."""
    return scheduler.name or "DDPMScheduler"


def ours_alone(diffusion: DiffusionConfig) -> str:
    """Why a network of this process is written for this project alone; "" where diffusers can say the process.

    The file of such a process names a `beta_schedule` that diffusers lacks, so that none of its schedulers can be made of it.
    """
    if diffusion.told_timesteps is not None:
        return "told_timesteps: the network of a respaced process is told other numbers than diffusers' t = 0..T-1"
    return "objective='previous': diffusers has no such prediction_type" if diffusion.objective == "previous" else ""


def require_expressible(where: str, diffusion: DiffusionConfig, scheduler: Scheduler) -> None:
    """Raise `CheckpointError`, which names `where`, for a network that diffusers would load and misread."""
    rules = (
        (diffusion.rescale_timesteps and diffusion.timesteps != 1000, "rescale_timesteps=True",
         f"the network is given t x 1000/T, and diffusers gives it t: T={diffusion.timesteps} must be 1000"),
        (diffusion.self_conditioning, "self_conditioning=True", "diffusers' pipelines give a network no x0_hat; must be False"),
        (diffusion.variance == "learned", "variance='learned'",
         "diffusers takes the network's output for the variance, where it is its logarithm; must be small, large or learned_range"),
        (diffusion.learned_variance and written_class(scheduler) not in LEARNED, f"variance={diffusion.variance!r}",
         f"{scheduler.name} can't split the network's output; must be small or large"),
        (diffusion.zero_terminal_snr and written_class(scheduler) not in ZERO_SNR, "zero_terminal_snr=True",
         f"{scheduler.name} has no rescale_betas_zero_snr; must be False"),
    )
    for wrong, fact, rule in rules:
        if wrong:
            raise CheckpointError(f"{where}: {fact}: can't be written as a diffusers pipeline: {rule}")
