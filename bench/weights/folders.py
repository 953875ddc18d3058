"""Where in a folder the network, its weights and its process lie, as diffusers' pipelines and training runs leave them, and where
in a file its network."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from bench.weights import tensor_files
from bench.weights.errors import CheckpointError, note

WEIGHTS = "diffusion_pytorch_model.safetensors"
MINDSPORE = "diffusion_pytorch_model.ckpt"
FILES = (WEIGHTS, f"{WEIGHTS}.index.json", "diffusion_pytorch_model.bin", "diffusion_pytorch_model.bin.index.json",
         MINDSPORE)  # of choice first
VARIANT = re.compile(r"diffusion_pytorch_model\.(?:(\w+)\.(?:safetensors|bin)|(?:safetensors|bin)\.index\.(\w+)\.json)")
CHECKPOINT = re.compile(r"checkpoint-(\d{1,12})")
MARKS = ("time_embedding.linear_1.weight", "temb.dense.0.weight", "time_embed.0.weight")  # of the networks that are read
AVERAGE = re.compile(r"(^|[\W_])(ema|average)|average($|[\W_])", re.IGNORECASE)
SCHEDULER = "scheduler_config.json"
NETWORKS = ("unet", "unet_ema")  # names of their folders


@dataclass(frozen=True)
class Place:
    """A network's config and weights, and its scheduler's config: None where nothing around the network has or announces one."""

    config: Path
    weights: Path
    scheduler: Path | None


def find(folder: Path, file: Path | None = None) -> Place:
    """What belongs to a folder, with its weights in `file` where one is given.

    The folder is a pipeline, a run with its checkpoint-N, one of these, or the network's own (unet, unet_ema or any flat one).
    Of unet and unet_ema the latter is taken, of several checkpoints the last. Raises `CheckpointError`.
    """
    network = _network(folder)
    return Place(network / "config.json", file or weights_file(network), _scheduler(network))


def run_of(source: Path) -> Path:
    """The folder of the pipeline or run that a network's folder or file of weights is part of, else the folder itself."""
    network = source.parent if source.is_file() else source
    return network.parent if network.name in NETWORKS else network


def _network(folder: Path) -> Path:
    """The folder of the network's config and weights."""
    if (folder / "config.json").exists():
        if folder.name == "unet" and (folder.with_name("unet_ema") / "config.json").exists():
            note(f"{folder}: holds the weights without averaging, as asked; the EMA weights are in {folder.with_name('unet_ema')}")
        return folder
    if (folder / "unet_ema" / "config.json").exists():
        note(f"{folder}: the EMA weights in unet_ema are read" + (", not those in unet" if (folder / "unet").is_dir() else ""))
        return folder / "unet_ema"
    if (folder / "unet").is_dir():
        return folder / "unet"
    saved = {int(match[1]): path for path in folder.iterdir() if (match := CHECKPOINT.fullmatch(path.name)) and path.is_dir()}
    if not saved:
        return folder
    note(f"{folder}: has no finished network; {saved[max(saved)].name} is read, the last of its checkpoints")
    return _network(saved[max(saved)])


def _scheduler(network: Path) -> Path | None:
    around = [network]
    if network.name in NETWORKS:
        around.append(network.parent)
        if CHECKPOINT.fullmatch(network.parent.name):
            around.append(network.parent.parent)
    places = [path for folder in around for path in (folder / "scheduler" / SCHEDULER, folder / SCHEDULER)]
    announced = [folder / "scheduler" / SCHEDULER for folder in around if (folder / "model_index.json").exists()]
    return next((path for path in places if path.exists()), announced[0] if announced else None)


def weights_file(network: Path) -> Path:
    """The file of weights in a network's folder: the first of `FILES` that is there, else diffusers' only variant, or its EMA's."""
    if whole := [path for name in FILES if (path := network / name).exists()]:
        return whole[0]
    variants = {match[1] or match[2]: path for path in sorted(network.iterdir()) if (match := VARIANT.fullmatch(path.name))}
    if not variants:
        return network / WEIGHTS
    name = "ema" if "ema" in variants else next(iter(variants))
    if len(variants) > 1 and name != "ema":
        raise CheckpointError(f"{network}: holds the variants {', '.join(variants)} of its weights; give the file of one of them")
    note(f"{network}: its weights are read from the variant {name}")
    return variants[name]


def network_of(path: Path, states: dict[str, tensor_files.Arrays]) -> tensor_files.Arrays:
    """Of a file's dictionaries that with a network's weights; of several the exponential moving average, by its name.

    In a list it is the last one, as in the DDIM code's `ckpt.pth`. Raises `CheckpointError` where the names do not say it.
    """
    networks = [key for key, arrays in states.items() if any(mark in arrays for mark in MARKS)]
    if len(networks) <= 1 or "" in networks:
        return states[networks[0] if "" not in networks else ""] if networks else states.get("", {})
    averages = [key for key in networks if AVERAGE.search(key)] or [key for key in networks[-1:] if key.startswith("[")]
    if len(averages) != 1:
        raise CheckpointError(f"{path}: holds several networks, {', '.join(networks)}, and not one of them alone is named ema; "
                              "save the one that is meant to a file of its own")
    note(f"{path}: of its networks {', '.join(networks)} the exponential moving average {averages[0]} is read")
    return states[averages[0]]
