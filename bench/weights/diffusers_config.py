"""Network and diffusion configs in the JSON files of diffusers' pipeline folders.

diffusers' keys say what they can; the exact record stands beside them under the key `ddim_bench`, and the two must agree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.weights.errors import CheckpointError, named, note, read_object
from bench.weights.scheduler_config import (
    IGNORE,
    LEARNED,
    ZERO_SNR,
    ours_alone,
    process_keys,
    sampling_json,
    scheduler_class,
    written_class,
)
from reference import schedules
from reference.config import DiffusionConfig, ModelConfig
from reference.scheduler import FIXED, SILENT, Scheduler

# diffusers' UNet2DModel: the value of a missing key, and the keys that this network does not vary.
UNET_DEFAULTS: dict[str, Any] = {
    "sample_size": None, "in_channels": 3, "out_channels": 3, "layers_per_block": 2, "block_out_channels": (224, 448, 672, 896),
    "down_block_types": ("DownBlock2D", *("AttnDownBlock2D",) * 3), "up_block_types": (*("AttnUpBlock2D",) * 3, "UpBlock2D"),
    "norm_num_groups": 32, "norm_eps": 1e-5, "downsample_padding": 1, "flip_sin_to_cos": True, "freq_shift": 0, "dropout": 0.0,
    "resnet_time_scale_shift": "default", "attn_norm_num_groups": None, "downsample_type": "conv", "upsample_type": "conv",
    "add_attention": True, "center_input_sample": False, "time_embedding_dim": None, "act_fn": "silu",
    "mid_block_type": "UNetMidBlock2D", "mid_block_scale_factor": 1,
}
UNET_FIXED: dict[str, Any] = {
    "time_embedding_type": "positional", "class_embed_type": None, "num_class_embeds": None, "num_train_timesteps": None,
}
UNUSED = {"num_train_timesteps"}  # UNet2DModel itself uses it with another time_embedding_type alone
BETA_SCHEDULES = {"linear": "linear", "quad": "scaled_linear", "cosine": "squaredcos_cap_v2", "sigmoid": "sigmoid"}
PREDICTION_TYPES = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
EPS_AND_V = ("HeunDiscreteScheduler", "PNDMScheduler")
VARIANCE_TYPES = {"small": "fixed_small", "large": "fixed_large", "learned": "learned", "learned_range": "learned_range"}
OURS = "ddim_bench"  # key of the exact record in both JSON files; diffusers ignores it with a warning


def unet_json(model: ModelConfig) -> dict[str, Any]:
    """Contents of `unet/config.json`. Raises `CheckpointError` for heads that diffusers can't express."""
    return {"_class_name": "UNet2DModel", **_unet_keys(model), **UNET_FIXED, OURS: model.to_dict()}


def _unet_keys(model: ModelConfig) -> dict[str, Any]:
    values = model.to_dict()
    head = {width // model.heads(width) for width in model.attention_widths}
    if model.num_attention_heads is not None:
        if len(head) > 1:
            raise CheckpointError(f"num_attention_heads={model.num_attention_heads}: diffusers' layout has one head width, and "
                                  f"attention at widths {list(model.attention_widths)} needs {sorted(head)}")
        values["attention_head_dim"] = head.pop()
    return {key: values.get(key, default) for key, default in (UNET_DEFAULTS | {"attention_head_dim": None}).items()}


def read_unet(path: Path, legacy: bool) -> ModelConfig:
    """The network of a `unet/config.json`; `legacy` weights have attention names of before diffusers 0.17.

    A missing `attention_head_dim` is one head with legacy weights and an error else: diffusers would take 8 silently. Raises
    `CheckpointError`.
    """
    values = _read_json(path, ("UNet2DModel",))
    if OURS in values:
        return _read_ours(path, values, ModelConfig, _unet_keys)
    for key, only in UNET_FIXED.items():
        if key not in UNUSED and values.get(key, only) != only:
            raise CheckpointError(f"{path}: {key}={values[key]!r}: only {only!r} is implemented")
    if "attention_head_dim" not in values and not legacy:
        raise CheckpointError(f"{path}: attention_head_dim is missing: state 8 (diffusers' default) or null (one head)")
    known = UNET_DEFAULTS | {"attention_head_dim": None}
    merged = {key: values.get(key, default) for key, default in known.items()}
    if isinstance(size := merged["sample_size"], list) and len(size) == 2 and size[0] == size[1]:
        merged["sample_size"] = size[0]
    if merged["sample_size"] is None:
        raise CheckpointError(f"{path}: sample_size=None: must be the image size, which nothing else says: write it there")
    with named(path):
        model = ModelConfig.from_dict(merged)
    return _limited(path, model)


def _limited(path: Path, model: ModelConfig) -> ModelConfig:
    """Refuse depths whose list of parameters alone would fill the memory."""
    if model.layers_per_block > 256 or max(model.block_out_channels) > 65536:
        raise CheckpointError(f"{path}: layers_per_block={model.layers_per_block}, block_out_channels="
                              f"{model.block_out_channels}: more than 256 layers or 65536 channels are not read")
    return model


def scheduler_json(diffusion: DiffusionConfig, scheduler: Scheduler = SILENT) -> dict[str, Any]:
    """Contents of `scheduler/scheduler_config.json`. A schedule that the class has no name for goes in as `trained_betas`."""
    name = written_class(scheduler)
    variance_type = scheduler.solver.get("variance_type", scheduler.variance_type)
    return {"_class_name": name, **_scheduler_keys(diffusion, name, variance_type), **sampling_json(scheduler),
            OURS: diffusion.to_dict()}


def _scheduler_keys(d: DiffusionConfig, name: str, variance_type: Any = None) -> dict[str, Any]:
    """`name` is the class, and `variance_type` diffusers' name of the variance, where it has two for ours."""
    has_name = d.schedule in _beta_schedules(name) and not d.beta_scaling and d.trained_betas is None
    keys: dict[str, Any] = {"beta_schedule": OURS} if ours_alone(d) else {
        "num_train_timesteps": d.timesteps, "beta_start": d.beta_start, "beta_end": d.beta_end,
        "beta_schedule": _beta_schedules(name).get(d.schedule, "linear"),
        **({"rescale_betas_zero_snr": d.zero_terminal_snr} if name in ZERO_SNR else {}),
        "trained_betas": None if has_name else schedules.betas(replace(d, zero_terminal_snr=False)).tolist(),
        "prediction_type": PREDICTION_TYPES[d.objective],
    }
    if name in LEARNED:
        kept = isinstance(variance_type, str) and FIXED.get(variance_type) == d.variance
        fixed = name != "DDPMScheduler" and not d.learned_variance  # of which the others have none
        keys["variance_type"] = variance_type if kept else None if fixed else VARIANCE_TYPES[d.variance]
    return keys


def _beta_schedules(name: str) -> dict[str, str]:
    """DDIMScheduler has no sigmoid."""
    return {ours: theirs for ours, theirs in BETA_SCHEDULES.items() if name == "DDPMScheduler" or theirs != "sigmoid"}


def _prediction_types(name: str) -> dict[str, str]:
    """HeunDiscreteScheduler and PNDMScheduler have no network of x0."""
    return {ours: theirs for ours, theirs in PREDICTION_TYPES.items() if theirs != "sample" or name not in EPS_AND_V}


def read_scheduler(path: Path, ignore: bool = False) -> DiffusionConfig:
    """The diffusion of a `scheduler_config.json`; `read_sampling` reads the rest of it. Raises `CheckpointError`.

    With `ignore` the class may be any, and what of the process can't be read is diffusers' default, with a warning.
    """
    values = read_object(path)
    name = scheduler_class(path, values, ignore)
    if OURS in values:
        return _read_ours(path, values, DiffusionConfig,
                          lambda config: {} if ignore else _scheduler_keys(config, name, values.get("variance_type")))
    try:
        return _process(path, values, name, ignore)
    except CheckpointError as error:
        if not ignore:
            raise
        note(f"{error}; ignored, and the process is that of diffusers' DDPMScheduler()")
        return DiffusionConfig(variance="small")


def _process(path: Path, values: dict[str, Any], name: str, ignore: bool) -> DiffusionConfig:
    def ours(key: str, names: dict[str, str], default: str) -> str:
        value = values.get(key, default)
        if isinstance(value, str) and value in names:
            return names[value]
        wrong = f"{path}: {key}={value!r}: must be one of {', '.join(names)}"
        if not ignore:
            raise CheckpointError(f"{wrong}; {IGNORE}")
        note(f"{wrong}; ignored, and {default} is used")
        return names[default]

    given = values.get("trained_betas")
    if given is not None and not (isinstance(given, list) and all(type(beta) in (int, float) for beta in given)):
        raise CheckpointError(f"{path}: trained_betas: must be null or a list of numbers")
    known = {key: values.get(key, default) for key, default in process_keys(name).items()}
    unlearned = name != "DDPMScheduler" and values.get("variance_type") is None
    with named(path):
        return DiffusionConfig(
            schedule="linear" if given is not None else ours("beta_schedule", _turned(_beta_schedules(name)), "linear"),
            timesteps=known["num_train_timesteps"], beta_start=known["beta_start"], beta_end=known["beta_end"],
            trained_betas=None if given is None else tuple(map(float, given)),
            zero_terminal_snr=known.get("rescale_betas_zero_snr", False),
            objective=ours("prediction_type", _turned(_prediction_types(name)), "epsilon"),
            variance="small" if unlearned else ours("variance_type", _turned(VARIANCE_TYPES) | FIXED, "fixed_small"),
        )


def _turned(names: dict[str, str]) -> dict[str, str]:
    return {theirs: ours for ours, theirs in names.items()}


def _read_ours(path: Path, values: dict[str, Any], record: Any, theirs: Callable[[Any], dict[str, Any]]) -> Any:
    """The exact record that was saved beside diffusers' keys, which must still agree with it."""
    if not isinstance(values[OURS], dict):
        raise CheckpointError(f"{path}: {OURS} must be an object")
    with named(path):
        config = record.from_dict(values[OURS])
        if isinstance(config, ModelConfig):
            _limited(path, config)
        expected = theirs(config)
    differ = [key for key in expected if key != "trained_betas" and values.get(key) != expected[key]]
    if differ:
        key = differ[0]
        raise CheckpointError(f"{path}: {key}={values.get(key)!r} contradicts {OURS}, which gives {expected[key]!r}")
    return config


def _read_json(path: Path, classes: tuple[str, ...]) -> dict[str, Any]:
    values = read_object(path)
    if values.get("_class_name") not in classes:
        raise CheckpointError(f"{path}: must be an object whose _class_name is {' or '.join(classes)}")
    return values


