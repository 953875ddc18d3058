"""Every reader of weights and their configs, on damaged and hostile input: our own error, or a right answer, and nothing else."""

from __future__ import annotations

import importlib.util
import io
import json
import pickle
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from bench.training.states import load_state, save_state
from bench.weights import diffusers_config, other_codes, pipeline, sources, tensor_files
from bench.weights.errors import CheckpointError
from bench.weights.pipeline import WEIGHTS, load_pipeline, save_pipeline
from bench.weights.unsaid import Unsaid
from reference.config import DiffusionConfig, ModelConfig
from reference.weights import check, initialise
from tests.helpers.fuzz import damaged, fuzz

torch = pytest.importorskip("torch")
from tests.helpers.other_codes import Parameters, nichol2021, song2021  # noqa: E402

MODEL = ModelConfig(sample_size=4, block_out_channels=(4,), norm_num_groups=2, down_block_types=("DownBlock2D",),
                    up_block_types=("UpBlock2D",), zero_init=False)
NETWORK = initialise(MODEL, 0)
HASHED = "unet/" + WEIGHTS
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pipeline folder; each input replaces one of its files and puts it back."""
    out = tmp_path_factory.mktemp("fuzz") / "pipeline"
    save_pipeline(out, NETWORK, MODEL, DiffusionConfig())
    save_file({"conv_in.bias": np.ones(4, np.float32)}, out / "secret.safetensors")  # outside unet/: never to be read
    return out


def load_damaged(path, content, load):
    """What `load()` returns while `path` holds `content`; None where it refused in one line that names a file."""
    whole = path.read_bytes() if path.exists() else None
    path.write_bytes(content)
    try:
        return load()
    except CheckpointError as error:
        assert str(path.parent) in str(error) and len(str(error)) < 20_000
        return None
    finally:
        path.unlink()
        if whole is not None:
            path.write_bytes(whole)


def is_exact(found):
    weights, model, diffusion = found
    assert (model, diffusion) == (MODEL, DiffusionConfig())
    assert set(weights) == set(NETWORK) and all(np.array_equal(weights[name], NETWORK[name]) for name in NETWORK)


def is_a_network(found):
    """Without a hash a changed number can't be noticed; anything else can."""
    weights, model, _ = found
    check(weights, model, "")
    assert all(value.dtype == np.float32 for value in weights.values())


def without_hashed(folder, name, content, judge):
    """Load the folder with its weights in this file alone."""
    kept = (folder / HASHED).read_bytes()
    (folder / HASHED).unlink()
    try:
        if found := load_damaged(folder / "unet" / name, content, lambda: load_pipeline(folder)):
            judge(found)
    finally:
        (folder / HASHED).write_bytes(kept)


def whole(write):
    """The bytes of a valid file."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "file")
        return (Path(folder) / "file").read_bytes()


def tensors(weights=NETWORK):
    return {name: torch.from_numpy(value) for name, value in weights.items()}


OURS = whole(lambda path: tensor_files.write_safetensors(path, NETWORK, {"format": "pt"}))
THEIRS = whole(lambda path: save_file(NETWORK, path))
ZIPPED = whole(lambda path: torch.save(tensors(), path))
LEGACY = whole(lambda path: torch.save(tensors(), path, _use_new_zipfile_serialization=False))


@fuzz()
@given(content=damaged(OURS))
def test_weights_with_our_hash(folder, content):
    if found := load_damaged(folder / HASHED, content, lambda: load_pipeline(folder)):
        is_exact(found)


@fuzz()
@given(content=damaged(THEIRS) | st.binary(max_size=200))
def test_weights_of_others(folder, content):
    if found := load_damaged(folder / HASHED, content, lambda: load_pipeline(folder)):
        is_a_network(found)


SIZES = st.lists(st.integers(-1, 1 << 62), max_size=3)
ENTRY = st.fixed_dictionaries({"dtype": st.sampled_from(["F32", "F16", "BF16", "I64", "F8_E4M3", "C64", "X"]), "shape": SIZES,
                               "data_offsets": SIZES})
ENTRIES = st.dictionaries(st.sampled_from([*NETWORK][:4]) | st.just("__metadata__") | st.text(max_size=3), JSON | ENTRY, max_size=4)


@fuzz()
@given(header=ENTRIES, body=st.binary(max_size=32), more=st.integers(-9, 9))
def test_safetensors_headers(folder, header, body, more):
    text = json.dumps(header).encode()
    content = max(0, len(text) + more).to_bytes(8, "little") + text + body
    assert load_damaged(folder / HASHED, content, lambda: load_pipeline(folder)) is None


STATE = {"weights/a": np.arange(6, dtype=np.float32).reshape(2, 3), "step": np.array(7), "half": np.ones(2, np.float16)}
CONFIG = {"optim": {"lr": 2e-4, "betas": [0.9, 0.999]}, "seed": 0}


@fuzz()
@given(data=st.data())
def test_training_states(tmp_path_factory, data):
    states = tmp_path_factory.getbasetemp() / "states"
    path = states / "state-00000007.safetensors"
    if not path.exists():
        save_state(states, 3, STATE, CONFIG)
        save_state(states, 7, STATE, CONFIG)
    content = data.draw(damaged(path.read_bytes()))
    if found := load_damaged(path, content, lambda: load_state(states, CONFIG)):
        step, state = found
        assert step == 7 and set(state) == set(STATE)
        assert all(state[n].dtype == STATE[n].dtype and np.array_equal(state[n], STATE[n]) for n in STATE)


SHARDS = {"a.safetensors": [*NETWORK][::2], "b.safetensors": [*NETWORK][1::2]}
WHERE = {name: shard for shard, names in SHARDS.items() for name in names}
INDEX = json.dumps({"metadata": {"total_size": 1}, "weight_map": WHERE}).encode()
FILES = st.sampled_from(["a.safetensors", "b.safetensors", "../secret.safetensors", "/etc/passwd", "", "..", "unet/a.safetensors",
                         "a.safetensors\0", "config.json", "A.SAFETENSORS", WEIGHTS + ".index.json"])


@fuzz()
@given(content=damaged(INDEX) | st.builds(
    lambda changes: json.dumps({"weight_map": WHERE | changes}).encode(),
    st.dictionaries(st.sampled_from([*NETWORK]) | st.text(max_size=3), FILES | JSON, max_size=4))
    | JSON.map(lambda value: json.dumps({"weight_map": value}).encode()))
def test_indices_of_shards(folder, content):
    if not (folder / "unet/a.safetensors").exists():
        for shard, names in SHARDS.items():
            save_file({name: NETWORK[name] for name in names}, folder / "unet" / shard)
    def read(path, largest):
        assert path.resolve().parent == folder / "unet"
        return read_safetensors(path, largest)

    read_safetensors = tensor_files.read_safetensors
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensor_files, "read_safetensors", read)
        without_hashed(folder, WEIGHTS + ".index.json", content, is_exact)


def changed(values, known):
    """A config with some values of some keys replaced."""
    return st.dictionaries(st.sampled_from([*values, *known]) | st.text(max_size=3), JSON | st.integers(0, 64), max_size=4).map(
        lambda changes: json.dumps(values | changes).encode())


UNET = diffusers_config.unet_json(MODEL)
FOREIGN_UNET = {key: value for key, value in UNET.items() if key != "ddim_bench"} | {"attention_head_dim": 4}


@fuzz()
@given(content=damaged(json.dumps(UNET).encode()) | damaged(json.dumps(FOREIGN_UNET).encode())
       | changed(UNET, ()) | changed(FOREIGN_UNET, ()) | st.builds(
           lambda ours: json.dumps(UNET | {"ddim_bench": UNET["ddim_bench"] | ours}).encode(),
           st.dictionaries(st.sampled_from([*UNET["ddim_bench"]]), JSON, max_size=3)))
def test_network_configs(folder, content):
    if found := load_damaged(folder / "unet/config.json", content, lambda: load_pipeline(folder)):
        is_a_network(found)


SCHEDULER = diffusers_config.scheduler_json(DiffusionConfig())
FOREIGN_SCHEDULER = {key: value for key, value in SCHEDULER.items() if key != "ddim_bench"}


@fuzz()
@given(content=damaged(json.dumps(SCHEDULER).encode()) | damaged(json.dumps(FOREIGN_SCHEDULER).encode())
       | changed(SCHEDULER, ()) | changed(FOREIGN_SCHEDULER, ()) | st.builds(
           lambda ours: json.dumps(SCHEDULER | {"ddim_bench": SCHEDULER["ddim_bench"] | ours}).encode(),
           st.dictionaries(st.sampled_from([*SCHEDULER["ddim_bench"]]), JSON, max_size=3)))
def test_scheduler_configs(folder, content):
    if found := load_damaged(folder / "scheduler/scheduler_config.json", content, lambda: load_pipeline(folder)):
        is_a_network(found)
        assert isinstance(found[2], DiffusionConfig)


BIN = "diffusion_pytorch_model.bin"


@fuzz()
@given(content=damaged(ZIPPED))
def test_torch_files(folder, content):
    """Every byte that counts is under a CRC-32."""
    without_hashed(folder, BIN, content, is_exact)


@fuzz()
@given(content=damaged(LEGACY))
def test_torch_files_of_the_first_format(folder, content):
    without_hashed(folder, BIN, content, is_a_network)


def rezipped(change):
    """A torch file with one of its members changed and every CRC-32 right, so that torch's own reader meets the damage."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(ZIPPED)) as source, zipfile.ZipFile(out, "w") as target:
        for member in source.infolist():
            target.writestr(member.filename, change.get(member.filename.partition("/")[2], source.read(member)))
    return out.getvalue()


with zipfile.ZipFile(io.BytesIO(ZIPPED)) as members:
    PICKLE = members.read(next(name for name in members.namelist() if name.endswith("/data.pkl")))


class Trap:
    """What a plain unpickler would run."""

    def __reduce__(self):
        return (Path.touch, (Path(tempfile.gettempdir()) / "ddim-bench-sprung",))


@fuzz()
@given(inner=damaged(PICKLE, most=3) | st.binary(max_size=60).map(lambda tail: b"\x80\x02" + tail)
       | st.sampled_from([pickle.dumps(Trap(), protocol) for protocol in (0, 2, 4)]).flatmap(damaged),
       store=st.none() | st.binary(max_size=40))
def test_pickles_inside_torch_files(folder, inner, store):
    without_hashed(folder, BIN, rezipped({"data.pkl": inner} if store is None else {"data.pkl": inner, "data/0": store}),
                   is_a_network)
    assert not (Path(tempfile.gettempdir()) / "ddim-bench-sprung").exists()


CODES = {}
for forward in (song2021, nichol2021):
    parameters = Parameters()
    forward(parameters, torch.zeros(1, 3, 2, 2), torch.zeros(1), ch=64, mult=(1, 2), layers=1, attends=(1,))
    CODES[forward.__name__] = {name: value.detach().numpy() for name, value in parameters.items()}
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 32, 64, 128, 1 << 20, 1 << 40]), max_size=5).filter(
    lambda shape: np.prod(np.maximum(shape, 1), dtype=float) < 2**58)


@fuzz()
@given(data=st.data(), code=st.sampled_from([*CODES]), heads=st.none() | st.integers(1, 65), size=st.none() | st.integers(1, 70000))
def test_layouts_of_other_codes(data, code, heads, size):
    """Parameters dropped, renamed, reshaped, added: a shape may claim any size, as strides of zero cost nothing."""
    state = dict(CODES[code])
    for _ in range(data.draw(st.integers(0, 3))):
        name = data.draw(st.sampled_from([*CODES[code]]))
        kind = data.draw(st.sampled_from(["drop", "rename", "reshape", "add", "type"]))
        value = state.pop(name, np.zeros(3, np.float32))
        other = name.replace(str(data.draw(st.integers(0, 3))), str(data.draw(st.integers(0, 99999))))
        if kind in ("rename", "add"):
            state[other + data.draw(st.text(max_size=2))] = value
        if kind == "add":
            state[name] = value
        elif kind in ("reshape", "type"):
            shape = data.draw(SHAPES) if kind == "reshape" else value.shape
            dtype = "f4" if kind == "reshape" else data.draw(st.sampled_from(["i8", "f2", "f8", "U3", "?", "V2"]))
            state[name] = np.lib.stride_tricks.as_strided(np.zeros(1, dtype), shape, [0] * len(shape))
    try:
        found = other_codes.convert(Path("file"), {"": state}, Unsaid(heads, size))
        if found:
            weights = pipeline.as_weights(Path("file"), *found[:2])
            is_a_network((weights, *found[1:]))
    except CheckpointError as error:
        assert "file" in str(error)


@pytest.mark.skipif(importlib.util.find_spec("mindspore") is None, reason="MindSpore is not installed")
@fuzz()
@given(data=st.data(), crc=st.booleans())
def test_mindspore_files(folder, data, crc):
    path = folder / "unet/valid.ckpt"
    if not path.exists():
        tensor_files.write_mindspore(path, NETWORK)
    valid = path.read_bytes()
    without_hashed(folder, "diffusion_pytorch_model.ckpt", data.draw(damaged(valid if crc else valid[:-17])), is_a_network)


@fuzz()
@given(content=st.binary(max_size=300), start=st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"\n", b"\x10" + b"\0" * 7 + b"{"]),
       name=st.sampled_from(["a.safetensors", "a.bin", "a.pt", "a.ckpt", "a.pth", "a", "a.safetensors.index.json"]))
def test_random_bytes_under_every_name(tmp_path_factory, content, start, name):
    path = tmp_path_factory.getbasetemp() / name
    assert load_damaged(path, start + content, lambda: sources.load(path)) is None


@fuzz()
@given(source=st.text(max_size=30) | st.text(st.sampled_from("a/.@-~\\:"), max_size=12))
def test_any_text_as_a_source(source):
    def fetch(name, revision):
        assert "/" in name and ".." not in name.split("/")
        raise CheckpointError(name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "fetch", fetch)
        with pytest.raises(CheckpointError):
            sources.load(source)


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
