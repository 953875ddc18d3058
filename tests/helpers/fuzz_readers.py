"""Every reader of files from strangers, on broken and hostile input: it reads, or refuses in one line, soon and in bounded memory.

`python -m tests.helpers.fuzz_readers --inputs 10000` gives each reader so many inputs within 8 GB of address space and prints a
table; `--only NAME --number N` gives one input again. What every reader makes of a *right* file is for the tests of its room.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import importlib.util
import io
import json
import os
import random
import resource
import shutil
import struct
import sys
import tarfile
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from PIL import Image

from bench.cli import train
from bench.cli.main import main
from bench.data import datasets, image_files, pixels, readers
from bench.files import savez
from bench.metric import fmnist_cnn, inception, own_cnn
from bench.metric.torchvision_shim import import_torchvision
from bench.paths import ROOT
from bench.records import rows
from bench.records.cells import Cells
from bench.sampling import parts
from bench.sampling.cell import plan_of
from bench.training.states import load_state, save_state
from bench.weights import diffusers_config, other_codes, pipeline, sources, tensor_files
from bench.weights.errors import CheckpointError
from bench.weights.unsaid import QKV_ORDERS, TIME_ORDERS, Unsaid
from reference.config import OBJECTIVES, SCHEDULES, ConfigError, DiffusionConfig, ModelConfig
from reference.scheduler import Scheduler
from reference.weights import check, initialise
from tests.benchmarks import gate
from tests.helpers.fuzz import broken, broken_json
from tests.helpers.other_codes import Parameters, nichol2021, song2021

SECONDS, MEMORY, ADDRESSES = 2.0, 1 << 30, 8 << 30  # of one input's CPU time, of growth in bytes, of the process in bytes
LONGEST = 20_000  # characters of a line
MODEL = ModelConfig(sample_size=4, block_out_channels=(4,), norm_num_groups=2, down_block_types=("DownBlock2D",),
                    up_block_types=("UpBlock2D",), zero_init=False)
NETWORK = initialise(MODEL, 0)
CONFIG = {"optim": {"lr": 2e-4, "betas": [0.9, 0.999]}, "seed": 0}
SHAPE = (3, 8, 8)


class Reader(NamedTuple):
    """`make` gives an input, and `read` takes it: it returns what it read, None where it refused by itself, or raises one of
    `errors`."""

    make: Callable[[random.Random], Any]
    read: Callable[[Any], Any]
    errors: tuple[type[Exception], ...] = (ConfigError,)


@dataclass
class Count:
    """What became of the inputs of one reader."""

    read: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    memory: int = 0


class Fault(AssertionError):
    """A reader did what it must not; the message says how to give it the same input again."""


def fuzz(name: str, folder: Path, numbers: Sequence[int], seed: int = 0, seconds: float = SECONDS) -> Count:
    """Give the reader the inputs of these numbers, `seconds` of CPU time for each at most. Raises `Fault`."""
    reader, count = READERS[name](folder), Count()
    for number in numbers:
        content = reader.make(random.Random(f"{name} {seed} {number}"))
        memory, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        try:
            with warnings.catch_warnings(), mock.patch("os.fsync"):  # whether files survive a power cut is not asked here
                warnings.simplefilter("ignore")
                found = reader.read(content)
            count.read, count.refused = count.read + (found is not None), count.refused + (found is None)
            wrong = ""
        except reader.errors as error:
            count.refused += 1
            line = str(error)
            wrong = f"not one line: {line[:500]!r}" if "\n" in line or not line or len(line) > LONGEST else ""
        except BaseException as error:
            raise Fault(f"{name} {number} (seed {seed}): {type(error).__name__}: {str(error)[:500]}") from error
        took = time.process_time() - began
        grew = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory)
        count.seconds, count.slowest, count.memory = count.seconds + took, max(count.slowest, took), max(count.memory, grew)
        wrong = wrong or (f"{took:.1f} s" if took > seconds else f"{grew} bytes" if grew > MEMORY else "")
        if wrong:
            raise Fault(f"{name} {number} (seed {seed}): {wrong}")
    return count


def whole(write: Callable[[Path], Any], name: str = "file") -> bytes:
    """The bytes of the file that `write` writes."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / name)
        return (Path(folder) / name).read_bytes()


def in_place(path: Path, read: Callable[[], Any]) -> Callable[[bytes], Any]:
    """A reader of a file: writes the input there first. What stood there before is put back by nobody."""
    def given(content: bytes) -> Any:
        path.write_bytes(content)
        return read()
    return given


def any_of(*ways: Callable[[random.Random], Any]) -> Callable[[random.Random], Any]:
    """One of several ways to make an input."""
    return lambda rng: rng.choice(ways)(rng)


def bytes_of(*seeds: bytes) -> Callable[[random.Random], bytes]:
    """One of these files, broken, or bytes without sense behind its beginning."""
    def make(rng: random.Random) -> bytes:
        seed = rng.choice(seeds)
        if rng.random() < 0.95:
            return broken(rng, seed, seeds)
        return seed[:rng.choice((0, 4, 16))] + rng.randbytes(rng.randrange(300))
    return make


def rezipped(*seeds: bytes) -> Callable[[random.Random], bytes]:
    """A zip file one of whose members is broken, with every CRC-32 right."""
    def make(rng: random.Random) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(rng.choice(seeds))) as source, zipfile.ZipFile(out, "w") as target:
            spoilt = rng.choice(source.namelist())
            for name in source.namelist():
                body = source.read(name)
                target.writestr(name if rng.random() < 0.98 else name + "x", broken(rng, body) if name == spoilt else body)
        return out.getvalue()
    return make


# Weights


def network_is_whole(found: pipeline.Loaded) -> pipeline.Loaded:
    """What was read is a network, whatever its numbers."""
    check(found.weights, found.model, "")
    return found


def pipeline_folder(folder: Path, change: str, make: Callable[[random.Random], bytes]) -> Reader:
    """A pipeline's folder of which one file is what `make` gives, and the folder's way to its images."""
    place = folder / "pipeline"
    pipeline.save_pipeline(place, NETWORK, MODEL, DiffusionConfig(), scheduler=Scheduler(name="DDIMScheduler"))
    if change.startswith("unet/diffusion"):
        (place / "unet" / pipeline.WEIGHTS).unlink()

    def read() -> Any:
        found = network_is_whole(sources.read(place))
        how = {"steps": min(3, found.diffusion.timesteps), "convention": "diffusers", "scheduler": found.scheduler.to_dict()}
        plan_of(found.diffusion, how | ({"sampler": found.scheduler.sampler} if found.scheduler.fast else {}))
        return found

    return Reader(make, in_place(place / change, read))


def tensors(kind: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """The network's weights as torch's."""
    return {name: torch.from_numpy(value).to(kind) for name, value in NETWORK.items()}


def safetensors(folder: Path) -> Reader:
    from safetensors.torch import save_file

    seeds = [whole(partial(save_file, tensors(kind))) for kind in (torch.float32, torch.bfloat16, torch.float16)]
    seeds.append(whole(lambda path: tensor_files.write_safetensors(path, NETWORK, {"format": "pt"})))

    def header(rng: random.Random) -> bytes:
        seed = rng.choice(seeds)
        size = int.from_bytes(seed[:8], "little")
        text = broken_json(rng, json.loads(seed[8:8 + size]))
        return len(text).to_bytes(8, "little") + text + seed[8 + size:]

    return pipeline_folder(folder, f"unet/{pipeline.WEIGHTS}", any_of(bytes_of(*seeds), header))


def torch_files(folder: Path) -> Reader:
    zipped = [whole(partial(torch.save, tensors(kind))) for kind in (torch.float32, torch.bfloat16)]
    zipped.append(whole(lambda path: torch.save({"ema": tensors(), "model": tensors(), "step": 3}, path)))
    first = whole(lambda path: torch.save(tensors(), path, _use_new_zipfile_serialization=False))
    return pipeline_folder(folder, "unet/diffusion_pytorch_model.bin", any_of(bytes_of(*zipped, first), rezipped(*zipped)))


def mindspore_files(folder: Path) -> Reader:
    seed = whole(lambda path: tensor_files.write_mindspore(path, NETWORK), "file.ckpt")
    return pipeline_folder(folder, "unet/diffusion_pytorch_model.ckpt", bytes_of(seed, seed[:-17]))


def shards(folder: Path) -> Reader:
    from safetensors.numpy import save_file

    names = [*NETWORK]
    where = {name: f"{'ab'[n % 2]}.bin" for n, name in enumerate(names)}
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    kinds = {kind: json.loads(json.dumps(index).replace(".bin", f".{kind}")) for kind in ("bin", "safetensors")}
    for kind in kinds:
        pipeline_folder(folder / kind, "unet/diffusion_pytorch_model.bin", lambda _: b"")
        for n, shard in enumerate("ab"):
            own = {name: NETWORK[name] for name in names[n::2]}
            path = files_of(folder / kind) / f"{shard}.{kind}"
            save_file(own, path) if kind == "safetensors" else torch.save({k: torch.from_numpy(v) for k, v in own.items()}, path)

    def read(asked: tuple[str, bytes]) -> Any:
        kind, content = asked
        (files_of(folder / kind) / f"diffusion_pytorch_model.{kind}.index.json").write_bytes(content)
        return network_is_whole(sources.read(folder / kind / "pipeline"))

    def make(rng: random.Random) -> tuple[str, bytes]:
        kind = rng.choice((*kinds,))
        return kind, broken_json(rng, kinds[kind])

    return Reader(make, read)


def files_of(folder: Path) -> Path:
    """Where a folder of `pipeline_folder` has its network."""
    return folder / "pipeline" / "unet"


def network_configs(folder: Path) -> Reader:
    ours = diffusers_config.unet_json(MODEL)
    theirs = {key: value for key, value in ours.items() if key != diffusers_config.OURS} | {"attention_head_dim": 4}
    return pipeline_folder(folder, "unet/config.json", lambda rng: broken_json(rng, rng.choice((ours, theirs))))


def scheduler_configs(folder: Path) -> Reader:
    seeds = [diffusers_config.scheduler_json(DiffusionConfig(**how), Scheduler(name=name, **says)) for name, how, says in (
        ("DDIMScheduler", {}, {"clip_sample": False, "steps_offset": 1, "set_alpha_to_one": False}),
        ("DDPMScheduler", {"variance": "small"}, {"variance_type": "fixed_small", "thresholding": True}),
        ("DDIMScheduler", {"objective": "v", "zero_terminal_snr": True}, {"timestep_spacing": "trailing"}),
        ("DDPMScheduler", {"schedule": "cosine", "timesteps": 10}, {"clip_sample_range": 3.0}),
        ("DPMSolverMultistepScheduler", {"variance": "small"}, {"solver": {"solver_order": 3, "use_karras_sigmas": True}}),
        ("UniPCMultistepScheduler", {"objective": "v"}, {"solver": {"solver_type": "bh1", "final_sigmas_type": "sigma_min"}}),
        ("PNDMScheduler", {}, {"solver": {"skip_prk_steps": True, "steps_offset": 1}}),
        ("HeunDiscreteScheduler", {"schedule": "quad"}, {"solver": {"clip_sample": True, "timestep_spacing": "leading"}}))]
    seeds += [{key: value for key, value in seed.items() if key != diffusers_config.OURS} for seed in seeds]
    seeds.append(seeds[-1] | {"trained_betas": [0.1] * 10, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 2.0})
    return pipeline_folder(folder, "scheduler/scheduler_config.json", lambda rng: broken_json(rng, rng.choice(seeds)))


def pipeline_indices(folder: Path) -> Reader:
    index = {"_class_name": "DDIMPipeline", "scheduler": ["diffusers", "DDIMScheduler"], "unet": ["diffusers", "UNet2DModel"]}
    return pipeline_folder(folder, "model_index.json", lambda rng: broken_json(rng, index))


def other_layouts(folder: Path) -> Reader:
    """State dicts whose shapes may claim any size, as strides of zero cost nothing, with what a user says of them."""
    codes = {}
    for forward in (song2021, nichol2021):
        found = Parameters()
        forward(found, torch.zeros(1, 3, 2, 2), torch.zeros(1), ch=64, mult=(1, 2), layers=1, attends=(1,))
        codes[forward.__name__] = {name: value.detach().numpy() for name, value in found.items()}

    def make(rng: random.Random) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        state = dict(codes[rng.choice((*codes,))])
        for _ in range(rng.randrange(4)):
            name = rng.choice((*state,))
            value, kind = state.pop(name), rng.choice(("drop", "rename", "add", "shape", "type"))
            if kind in ("rename", "add"):
                state[name.replace(str(rng.randrange(4)), str(rng.randrange(99999)))] = value
            if kind == "add":
                state[name] = value
            elif kind in ("shape", "type"):
                sizes = rng.choices((0, 1, 2, 3, 32, 64, 1 << 11), k=rng.randrange(5))
                shape = value.shape if kind == "type" else tuple(sizes)
                one = np.zeros(1, rng.choice(("i8", "f2", "f8", "U3", "?", "V2")) if kind == "type" else "f4")
                state[name] = np.lib.stride_tricks.as_strided(one, shape, [0] * len(shape))
        values = {"heads": (1, 4, 7, 64, 10**9), "image_size": (1, 8, 64, 65536, 10**12), "timesteps": (1, 10, 1000, 10**7),
                  "schedule": (*SCHEDULES, "x"), "objective": (*OBJECTIVES, "x"), "time_order": TIME_ORDERS,
                  "head_channels": (1, 3, 64), "qkv_order": QKV_ORDERS, "clip": ("none", "dynamic:x")}
        return state, {name: rng.choice(some) for name, some in values.items() if rng.random() < 0.2}

    def read(asked: tuple[dict[str, np.ndarray], dict[str, Any]]) -> Any:
        found = other_codes.convert(Path("file"), {"": asked[0]}, Unsaid(**asked[1]))
        return found and network_is_whole(pipeline.Loaded(pipeline.as_weights(Path("file"), found[0], found[1]), *found[1:]))

    return Reader(make, read)


def states(folder: Path) -> Reader:
    state = {"weights/a": np.arange(6, dtype=np.float32).reshape(2, 3), "step": np.array(7), "half": np.ones(2, np.float16)}
    save_state(folder / "states", 3, state, CONFIG)
    path = save_state(folder / "states", 7, state, CONFIG)
    return Reader(bytes_of(path.read_bytes()), in_place(path, lambda: load_state(folder / "states", CONFIG)))


def records_of_trainings(folder: Path) -> Reader:
    """training.json and loss.csv beside weights that a training begins with."""
    seed = json.loads((ROOT / "results/checkpoints/fmnist-small/training.json").read_text())
    curve = b"step,loss\n0,1.5\n1,0.25\n2,1e-3\n"

    def read(asked: tuple[bytes, bytes]) -> Any:
        for name, content in zip(("training.json", "loss.csv"), asked, strict=True):
            (folder / name).write_bytes(content)
        return train._history(str(folder))

    return Reader(lambda rng: (broken_json(rng, seed), broken(rng, curve)), read)


def sources_by_name(folder: Path) -> Reader:
    def make(rng: random.Random) -> str:
        letters = rng.choice(("a/.@-~\\:", "ab/\0\ud800\u00fc \x7f", "google/ddpm-cifar10-32@main"))
        return "".join(rng.choice(letters) for _ in range(rng.choice((0, 3, 12, 300, 5000))))

    def read(text: str) -> Any:
        with mock.patch.object(sources, "fetch", side_effect=CheckpointError("asked the hub")):
            return sources.read(text)

    return Reader(make, read)


# Data


IMAGES = np.random.default_rng(0).integers(0, 256, (6, *SHAPE), np.uint8)


def idx_files(folder: Path) -> Reader:
    idx = struct.pack(">4I", 0x803, 6, 8, 8) + IMAGES[:, 0].tobytes()
    make = any_of(bytes_of(idx, gzip.compress(idx, mtime=0)), lambda rng: gzip.compress(broken(rng, idx), 1))
    return Reader(make, in_place(folder / "x.gz", lambda: readers.read_idx(folder / "x.gz", (6, 8, 8))))


def archives(folder: Path) -> Reader:
    def tar(bodies: dict[str, bytes]) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            for name, body in bodies.items():
                info = tarfile.TarInfo(name)
                info.size = len(body)
                archive.addfile(info, io.BytesIO(body))
        return out.getvalue()

    batch = np.random.default_rng(1).integers(0, 256, readers.CIFAR_RECORD, np.uint8).tobytes()
    members = {"c/a.bin": len(batch), "c/b.bin": 5}
    seed = tar({"c/a.bin": batch, "c/b.bin": b"hello"})
    make = any_of(bytes_of(gzip.compress(seed, mtime=0)), lambda rng: gzip.compress(broken(rng, seed), 1))
    return Reader(make, in_place(folder / "x.tar.gz", lambda: readers.read_tar(folder / "x.tar.gz", members, 30_000)))


def npy(array: np.ndarray) -> bytes:
    """A .npy file."""
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def own_arrays(folder: Path) -> Reader:
    """A .npz or .npy file of one's own, up to its two splits."""
    seeds = [whole(partial(savez, **arrays)) for arrays in (
        {"images": IMAGES}, {"x_train": IMAGES[:4], "x_test": IMAGES[4:]}, {"arr_0": IMAGES.transpose(0, 2, 3, 1)})]
    arrays = [npy(IMAGES), npy(np.asfortranarray(IMAGES)), npy(IMAGES.astype(np.float32))]

    def make(rng: random.Random) -> tuple[str, bytes]:
        packed = rng.random() < 0.7
        return ("x.npz" if packed else "x.npy"), (any_of(bytes_of(*seeds), rezipped(*seeds)) if packed else bytes_of(*arrays))(rng)

    def read(asked: tuple[str, bytes]) -> Any:
        (folder / asked[0]).write_bytes(asked[1])
        return datasets.load_images(folder / asked[0], SHAPE)

    return Reader(make, read)


def drawn_samples(folder: Path) -> Reader:
    seeds = [npy(IMAGES), npy(IMAGES / np.float32(255)), npy((IMAGES / 255.0).astype(np.float16)), npy(IMAGES.astype(np.int32))]
    return Reader(bytes_of(*seeds), in_place(folder / "x.npy", lambda: pixels.read_samples(folder / "x.npy")))


def picture(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    """An image file."""
    out = io.BytesIO()
    some = np.random.default_rng(2).integers(0, 256, (12, 16, 4), np.uint8)
    Image.fromarray(some, "RGBA").convert(mode).save(out, kind, **options)
    return out.getvalue()


def pictures(folder: Path) -> Reader:
    seeds = [picture(*how) for how in (
        ("PNG", "L"), ("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "P"), ("JPEG",), ("JPEG", "CMYK"), ("WEBP",), ("GIF", "P"),
        ("BMP",), ("BMP", "P"), ("PPM",), ("PPM", "L"), ("PPM", "1"))]
    some = Image.fromarray(IMAGES[0, 0].astype(np.uint16) * 257)
    for kind in ("PNG", "PPM"):
        out = io.BytesIO()
        some.save(out, kind)
        seeds.append(out.getvalue())
    seeds.append(picture("MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))]))

    def read(asked: tuple[int, bytes]) -> Any:
        (folder / "x").write_bytes(asked[1])
        return image_files.read_image(folder / "x", (asked[0], 8, 8))

    spoilt = bytes_of(*seeds)
    return Reader(lambda rng: (rng.choice((1, 3)), spoilt(rng)), read)


def folders_of_pictures(folder: Path) -> Reader:
    """A tree of pictures of any names, one of them broken."""
    seeds = [picture("PNG"), picture("JPEG"), picture("GIF", "P")]
    words = ("train", "Training", "test", "val", "x_test", "cats", ".hidden", "raw", "__MACOSX")
    names = ("0.png", "1.PNG", "2", "labels.csv", "Thumbs.db", ".x", "\u00fc.png", "x" * 200)

    def make(rng: random.Random) -> list[tuple[str, bytes]]:
        count = rng.randrange(7)
        placed = [("/".join((*rng.sample(words, rng.randrange(3)), rng.choice(names) + str(n))), bytes_of(*seeds)(rng) if n == 0
                   else picture("PNG")[:-12] + rng.choice((b"", bytes([n]))) + picture("PNG")[-12:]) for n in range(count)]
        return placed

    def read(placed: list[tuple[str, bytes]]) -> Any:
        shutil.rmtree(folder / "tree", ignore_errors=True)
        (folder / "tree").mkdir()
        for name, content in placed:
            (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "tree" / name).write_bytes(content)
        return datasets.load_images(folder / "tree", SHAPE)

    return Reader(make, read)


# Records


def found_rows() -> list[rows.Row]:
    """One row of each sort that the pages have."""
    chosen = {}
    for row in rows.read(ROOT / "results" / "rows"):
        if len(row.line()) < 60_000:
            chosen[row.kind, row.config.get("stage"), row.config.get("study"), row.backend] = row
    return [*chosen.values()]


def rows_of_strangers(folder: Path) -> Reader:
    seeds = [json.loads(row.line()) for row in found_rows()]
    good = rows.Row(**seeds[0]).line().encode() + b"\n"

    def make(rng: random.Random) -> bytes:
        line = broken_json(rng, rng.choice(seeds))
        return rng.choice((line, good + line + b"\n" + good, broken(rng, good * 2 + line, (good, line))))

    def read(content: bytes) -> Any:
        shutil.rmtree(folder / "rows", ignore_errors=True)
        (folder / "rows").mkdir()
        (folder / "rows" / "timing.jsonl").write_bytes(content)
        return rows.read(folder / "rows")

    return Reader(make, read)


def finished_cells(folder: Path) -> Reader:
    """result.json or seal.json of a finished cell: it is used again, or done again."""
    row = found_rows()[0]
    cells, key = Cells(folder, fresh=False), {"a": 1}
    cells.run("x", key, lambda _: row)
    place = cells.folder("x", key)
    seeds = {name: (place / name).read_bytes() for name in ("result.json", "seal.json")}

    def read(asked: tuple[str, bytes]) -> Any:
        shutil.rmtree(folder / "rows", ignore_errors=True)
        for name, content in seeds.items():
            (place / name).write_bytes(asked[1] if name == asked[0] else content)
        again = Cells(folder, fresh=False)
        assert again.run("x", key, lambda _: row) == row and rows.read(folder / "rows") == [row]
        return again.reused or None

    def make(rng: random.Random) -> tuple[str, bytes]:
        name = rng.choice((*seeds,))
        return name, any_of(lambda rng: broken_json(rng, json.loads(seeds[name])), bytes_of(seeds[name]))(rng)

    return Reader(make, read)


def parts_of_cells(folder: Path) -> Reader:
    """The record of images that were drawn: they are taken, or drawn again."""
    np.save(folder / parts.IMAGES, IMAGES)
    whole, path = range(len(IMAGES)), folder / "part"
    seed = {"seconds": 0.5, "calls": 3, "first_seconds": 0.25, "notes": ["x"], "crc32": parts._crc(folder / parts.IMAGES, whole)}
    return Reader(lambda rng: broken_json(rng, seed), in_place(path, lambda: parts._intact(path, whole) or None))


def statistics_of_extractors(folder: Path) -> Reader:
    """The files that ship beside the extractor, torch-fidelity's, and those of networks for images of one's own."""
    from safetensors.torch import save_file

    about = {own_cnn.KEY: json.dumps({"shape": [1, 8, 8], "width": 1})}
    seeds = {"statistics": fmnist_cnn.STATISTICS.read_bytes(), "record": fmnist_cnn.RECORD.read_bytes(),
             "inception": whole(lambda path: torch.save({"a": torch.zeros(3)}, path)),
             "own": whole(lambda path: save_file(own_cnn._network((1, 8, 8), 1).state_dict(), path, about))}

    def read(asked: tuple[str, bytes]) -> Any:
        for name, content in seeds.items():
            (folder / name).write_bytes(asked[1] if name == asked[0] else content)
        if asked[0] == "inception":
            import_torchvision()
            return inception._pretrained.__wrapped__(folder / "inception")
        if asked[0] == "own":
            return own_cnn.load(folder / "own")
        with mock.patch.object(fmnist_cnn, "STATISTICS", folder / "statistics"), \
                mock.patch.object(fmnist_cnn, "RECORD", folder / "record"):
            return fmnist_cnn.stored_statistics("train")

    def make(rng: random.Random) -> tuple[str, bytes]:
        name = rng.choice((*seeds,))
        ways = {"record": lambda rng: broken_json(rng, json.loads(seeds["record"])), "inception": rezipped(seeds["inception"])}
        return name, any_of(bytes_of(seeds[name]), ways.get(name, bytes_of(seeds[name])))(rng)

    return Reader(make, read)


def baselines(folder: Path) -> Reader:
    import pytest

    seed = json.loads(next((ROOT / "results" / "benchmarks").glob("*.json")).read_text())
    seed["benchmarks"] = seed["benchmarks"][:2]
    return Reader(lambda rng: broken_json(rng, seed), in_place(folder / "x.json", lambda: gate.read_baseline(folder / "x.json")),
                  (pytest.UsageError,))


def reports(folder: Path) -> Reader:
    """Rows, a training's record and older pages of strangers, up to the pages that `ddim-bench report` writes."""
    seeds = [json.loads(row.line()) for row in found_rows()]
    checkpoint = json.loads((ROOT / "results/checkpoints/fmnist-small/training.json").read_text())
    pages = {name: (ROOT / "results" / name).read_bytes() for name in ("table.md", "noise.md", "report.html")}
    pages["report.html"] = pages["report.html"][:3000]

    def make(rng: random.Random) -> dict[str, bytes]:
        some = rng.sample(seeds, 4)
        lines = [broken_json(rng, some[0], most=1), *(json.dumps(row).encode() for row in some[1:])]
        made = {"rows/x.jsonl": b"".join(line + b"\n" for line in lines if b"\n" not in line)}
        if rng.random() < 0.3:
            made["checkpoints/x/training.json"] = broken_json(rng, checkpoint, most=1)
            curve = b"step,loss\n0,1.5\n1,0.25\n"
            made["checkpoints/x/loss.csv"] = broken(rng, curve) if rng.random() < 0.3 else curve
        if rng.random() < 0.2:
            name = rng.choice((*pages,))
            made[name] = broken(rng, pages[name])
        return made

    def read(made: dict[str, bytes]) -> Any:
        shutil.rmtree(folder, ignore_errors=True)
        for name, content in made.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return command(["report", "--out", str(folder)], (0, 2, 3)) == 0 or None

    return Reader(make, read)


def command(words: list[str], codes: tuple[int, ...] = (0, 2)) -> int:
    """The exit code of a command line, one of `codes`; where it is 2 the line that says why is the only one that is no warning."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    said = [line for line in err.getvalue().splitlines() if not line.startswith(("warning: ", "Downloading data from "))]
    if code not in codes or (code == 2 and (len(said) != 1 or not said[0].startswith("error: ") or len(said[0]) > LONGEST)):
        raise AssertionError(f"exit code {code}: {err.getvalue()[-1500:]!r}")
    return code


READERS: dict[str, Callable[[Path], Reader]] = {
    "safetensors": safetensors, "PyTorch .bin": torch_files, "MindSpore .ckpt": mindspore_files, "index of shards": shards,
    "unet/config.json": network_configs, "scheduler_config.json": scheduler_configs, "model_index.json": pipeline_indices,
    "state dicts of other codes": other_layouts, "training states": states, "training.json and loss.csv": records_of_trainings,
    "names of sources": sources_by_name, "IDX": idx_files, "tar": archives, ".npz and .npy images": own_arrays,
    "samples .npy": drawn_samples, "pictures": pictures, "folders of pictures": folders_of_pictures, "rows": rows_of_strangers,
    "result.json and seal.json": finished_cells, "parts of cells": parts_of_cells, "statistics": statistics_of_extractors,
    "baselines of benchmarks": baselines, "report": reports,
}
if importlib.util.find_spec("mindspore") is None:
    del READERS["MindSpore .ckpt"]


def run(names: list[str], inputs: int, seed: int, first: int) -> int:
    """Fuzz these readers one after another and print a line of Markdown for each; returns the number of those at fault."""
    faults = 0
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            try:
                count = fuzz(name, Path(folder).resolve(), range(first, first + inputs), seed)
                print(f"| {name} | {inputs:,} | {count.read:,} | {count.refused:,} | {count.seconds:.0f} | "
                      f"{1000 * count.slowest:.0f} | {count.memory / 1e6:.0f} |", flush=True)
            except Fault as fault:
                faults += 1
                print(f"fault: {fault}", flush=True)
                if inputs == 1:
                    raise
    return faults


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    p.add_argument("--inputs", type=int, default=10_000, help="of each reader")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--only", action="append", choices=READERS, metavar="NAME", help=f"of {', '.join(READERS)}; may be repeated")
    p.add_argument("--number", type=int, help="one input alone")
    asked = p.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    torch.set_num_threads(1)
    os.environ["DDIM_BENCH_DATA"] = str(ROOT / "bench" / "assets" / "fashion-mnist")
    print("| reader | inputs | read | refused | s | slowest, ms | growth, MB |\n|:--|--:|--:|--:|--:|--:|--:|")
    sys.exit(run(asked.only or [*READERS], 1 if asked.number is not None else asked.inputs, asked.seed, asked.number or 0) > 0)
