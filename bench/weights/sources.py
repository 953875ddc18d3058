"""Weights of other projects as a pipeline folder: `ddim-bench convert SOURCE FOLDER`.

SOURCE is what `bench/run.py --weights` takes too: a diffusers pipeline or UNet2DModel folder, the name of one on the Hugging Face
hub, a checkpoint of the DDIM code, of improved-diffusion or of guided-diffusion, or a file of canonical names (safetensors,
PyTorch, MindSpore) with its `config.json` beside it.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import numpy as np

from bench.files import require_file
from bench.weights import folders, other_codes, pipeline, tensor_files
from bench.weights.errors import CheckpointError
from bench.weights.pipeline import Loaded
from bench.weights.unsaid import SILENT, Unsaid
from reference.config import DiffusionConfig, ModelConfig

HUB_NAME = re.compile(r"(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w./-]+))?")  # owner/name, owner/name@revision


def load(source: str | Path, unsaid: Unsaid = SILENT) -> tuple[dict[str, np.ndarray], ModelConfig, DiffusionConfig]:
    """The first three of `read`."""
    return read(source, unsaid)[:3]


def read(source: str | Path, unsaid: Unsaid = SILENT, ignore_scheduler: bool = False) -> Loaded:
    """What is in a folder, a file or a name on the hub.

    `unsaid` is the user's word on what the files don't say; a line names what is assumed. `ignore_scheduler` leaves out what a
    scheduler_config.json says about sampling, and takes any class. Raises `CheckpointError`, also where the file needs a framework
    that is not installed.
    """
    path = Path(source)
    try:
        if path.is_dir():
            return pipeline.read_pipeline(path, None, ignore_scheduler, unsaid)
        if path.is_file():
            return _read_file(path, unsaid, ignore_scheduler)
        require_file(path)
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read: {error.strerror or error}") from None
    if match := HUB_NAME.fullmatch(str(source)):
        return pipeline.read_pipeline(fetch(match["name"], match["revision"]), None, ignore_scheduler, unsaid)
    raise CheckpointError(f"{source}: no such folder or file, and no name on the hub (owner/name)")


def _read_file(path: Path, unsaid: Unsaid, ignore_scheduler: bool) -> Loaded:
    if (path.parent / "config.json").exists():
        return pipeline.read_pipeline(path.parent, path, ignore_scheduler, unsaid)
    states = tensor_files.read(path)
    if (found := other_codes.convert(path, states, unsaid)) is None:
        name = next((name for state in states.values() for name in state), "no array")
        raise CheckpointError(f"{path}: holds {name}, which is of no network that is read without a config.json: of the DDIM code, "
                              "improved-diffusion, UNet2DModel")
    return Loaded(pipeline.as_weights(path, found[0], found[1]), *found[1:])


def fetch(name: str, revision: str | None = None) -> Path:
    """The folder of a model on the Hugging Face hub, downloaded or from its cache; pickles only where it has nothing else.

    Each weights file is held against the SHA-256 under which the hub keeps it. Raises `CheckpointError`.
    """
    import huggingface_hub

    flat = ("model_index.json", "config.json", "scheduler_config.json", *folders.FILES[:2],
            "diffusion_pytorch_model-*.safetensors")
    wanted = [f"{folder}{file}" for folder in ("", "unet/", "scheduler/") for file in flat]
    try:
        folder = Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=wanted))
        if not any(folder.rglob("*.safetensors")):
            wanted += [f"{part}diffusion_pytorch_model*" for part in ("", "unet/")]  # pickles, and a variant alone
            folder = Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=wanted))
    except Exception as error:  # the hub's client, its HTTP library and the network each raise their own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{name}: no such folder here, nor fetched from the hub: {reason}; without a network, put its "
                              f"config.json, scheduler_config.json and {folders.WEIGHTS} into a folder and give that") from None
    for path in (*folder.rglob("*.safetensors"), *folder.rglob("*.bin")):
        kept_as = Path(os.path.realpath(path)).name
        if re.fullmatch(r"[0-9a-f]{64}", kept_as):
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != kept_as:
                    raise CheckpointError(f"{path}: does not match its SHA-256 on the hub; remove it to fetch it again")
    return folder
