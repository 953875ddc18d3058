"""What a `scheduler_config.json` says about sampling, read as `reference.scheduler.Scheduler` and written back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.weights.errors import CheckpointError, named, note, read_object
from reference.config import DiffusionConfig
from reference.scheduler import FIXED, SAMPLERS, Scheduler

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
PRIVATE = ("_class_name", "_diffusers_version", "ddim_bench")
IGNORE = "--ignore-scheduler (ignore_scheduler=True) goes on without the scheduler's settings"


def scheduler_class(path: Path, values: dict[str, Any], ignore: bool = False) -> str:
    """The class that the folder's pipeline makes of this file: that of model_index.json where there is one, as in diffusers.

    DDIMPipeline makes a DDIMScheduler of both. Raises `CheckpointError` for a class whose settings are not honoured, unless
    `ignore`.
    """
    said = [values.get("_class_name")]
    index = (path.parent.parent if path.parent.name == "scheduler" else path.parent) / "model_index.json"
    if index.exists():
        announced = read_object(index)
        pair = announced.get("scheduler")
        said += pair[1:] if isinstance(pair, list) and len(pair) == 2 else []
        said += ["DDIMScheduler"] if announced.get("_class_name") == "DDIMPipeline" else []
    strange = [name for name in said if not (isinstance(name, str) and name in SAMPLERS)]
    if strange and not ignore:
        raise CheckpointError(f"{path}: _class_name={strange[0]!r}: must be DDPMScheduler or DDIMScheduler; {IGNORE}")
    return "DDPMScheduler" if strange else str(said[-1])


def read_sampling(path: Path, ignore: bool = False) -> Scheduler:
    """What the file says about sampling, with its class's own values of missing keys; nothing where `ignore`.

    Warns once of keys that the class does not have. Raises `CheckpointError` for a class or a value that is not honoured.
    """
    if ignore:
        return Scheduler()
    values = read_object(path)
    name = scheduler_class(path, values)
    known = SAMPLING | OWN[name]
    unknown = sorted(set(values) - set(known) - set(PROCESS) - set(PRIVATE))
    if unknown:
        note(f"{path}: {', '.join(unknown)}: no keys of {name}, and not honoured")
    said = {key: values.get(key, default) for key, default in known.items()}
    said |= {key: False for key, default in known.items() if isinstance(default, bool) and said[key] is None}
    if (variance := said.get("variance_type")) in ("learned", "learned_range"):
        if variance == "learned" and "ddim_bench" not in values:
            raise CheckpointError(f"{path}: variance_type='learned': diffusers takes the network's output for the variance, and "
                                  f"here it is the logarithm; must be {', '.join(FIXED)} or learned_range; {IGNORE}")
        del said["variance_type"]
    with named(path):
        try:
            return Scheduler(name=name, **said)
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}; {IGNORE}") from None


def note_unused(scheduler: Scheduler, convention: str, *samplers: str | None) -> None:
    """Warn, in one line for each fast solver, that it goes without the settings of a folder's DDIM or DDPM scheduler, which the
    convention `diffusers` alone has."""
    settings = [key for key in scheduler.to_dict() if key != "name"] if convention == "diffusers" else []
    for sampler in dict.fromkeys(filter(None, samplers)) if settings else ():
        note(f"sampler={sampler!r}: goes without {', '.join(settings)}, which the weights' folder says for {scheduler.name}")


def sampling_json(scheduler: Scheduler) -> dict[str, Any]:
    """The keys of a `scheduler_config.json` that concern sampling, all but the variance's."""
    known = SAMPLING | OWN[written_class(scheduler)]
    said = scheduler.to_dict()
    return {key: said.get(key, default) for key, default in known.items() if key != "variance_type"}


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
        (diffusion.learned_variance and scheduler.name == "DDIMScheduler", f"variance={diffusion.variance!r}",
         "DDIMScheduler can't split the network's output; must be small or large"),
    )
    for wrong, fact, rule in rules:
        if wrong:
            raise CheckpointError(f"{where}: {fact}: can't be written as a diffusers pipeline: {rule}")
