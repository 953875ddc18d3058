"""The readers of bfloat16, of pickled shards and of what is no file of weights, on damaged and hostile input."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from bench.weights import tensor_files
from bench.weights.errors import CheckpointError
from bench.weights.pipeline import WEIGHTS, load_pipeline, save_pipeline
from reference.config import DiffusionConfig
from tests.helpers.fuzz import damaged, fuzz

torch = pytest.importorskip("torch")
from tests.weights.test_fuzz_weights import (  # noqa: E402
    JSON,
    MODEL,
    NETWORK,
    is_a_network,
    load_damaged,
    tensors,
    whole,
    without_hashed,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("fuzz") / "pipeline"
    save_pipeline(out, NETWORK, MODEL, DiffusionConfig())
    torch.save({"conv_in.bias": torch.ones(4)}, out / "secret.bin")  # outside unet/: never to be read
    return out


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def bfloat16_file(path):
    from safetensors.torch import save_file
    save_file({name: value.bfloat16() for name, value in tensors().items()}, path)


HALF = whole(bfloat16_file)


@fuzz()
@given(content=damaged(HALF))
def test_bfloat16_files(folder, content):
    if found := load_damaged(folder / "unet" / WEIGHTS, content, lambda: load_pipeline(folder)):
        is_a_network(found)


def bfloat16(values):
    """Float32 numbers of which these are the upper halves, by whole numbers alone."""
    return np.array([value << 16 for value in values], np.uint32).view(np.float32)


@fuzz()
@given(values=st.lists(st.integers(0, 0xFFFF), min_size=1, max_size=40), other=st.sampled_from([np.float16, np.float32, np.int64]))
def test_every_bfloat16_beside_other_dtypes(tmp_path_factory, values, other):
    path = tmp_path_factory.getbasetemp() / "values.safetensors"
    save_file({"a": np.array(values, np.uint16), "b": np.arange(3).astype(other)}, path)
    path.write_bytes(_as_bfloat16(path.read_bytes()))
    found = tensor_files.read(path)[""]
    np.testing.assert_array_equal(found["a"], bfloat16(values))
    assert found["b"].tolist() == [0, 1, 2]


def _as_bfloat16(content):
    """The same file whose array of U16 is said to be BF16."""
    size = int.from_bytes(content[:8], "little")
    header = content[8:8 + size].replace(b'"U16"', b'"BF16"')
    return len(header).to_bytes(8, "little") + header + content[8 + size:]


SHARDS = {"a.bin": [*NETWORK][::2], "b.bin": [*NETWORK][1::2]}
WHERE = {name: shard for shard, names in SHARDS.items() for name in names}
INDEX = json.dumps({"metadata": {"total_size": 1}, "weight_map": WHERE}).encode()
FILES = st.sampled_from(["a.bin", "b.bin", "../secret.bin", "/etc/passwd", "", "..", "unet/a.bin", "a.bin\0", "a.safetensors",
                         "config.json", "diffusion_pytorch_model.bin.index.json"])


@fuzz()
@given(content=damaged(INDEX) | st.builds(
    lambda changes: json.dumps({"weight_map": WHERE | changes}).encode(),
    st.dictionaries(st.sampled_from([*NETWORK]) | st.text(max_size=3), FILES | JSON, max_size=4))
    | JSON.map(lambda value: json.dumps({"weight_map": value}).encode()), variant=st.booleans())
def test_indices_of_pickled_shards(folder, content, variant):
    def read(path, largest):
        assert path.resolve().parent == folder / "unet"
        return original(path, largest)

    original = tensor_files._read
    for shard, names in SHARDS.items():
        if not (folder / "unet" / shard).exists():
            torch.save({name: torch.from_numpy(NETWORK[name]) for name in names}, folder / "unet" / shard)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensor_files, "_read", read)
        without_hashed(folder, f"diffusion_pytorch_model.bin.index{'.fp16' * variant}.json", content, is_a_network)


@fuzz()
@given(start=st.sampled_from([b"version https://git-lfs.github.com/spec/v1\n", b"<!DOCTYPE html>", b"<html>", b"<?xml "]),
       before=st.text(" \t\r\n", max_size=5), rest=st.binary(max_size=700),
       file=st.sampled_from(["unet/" + WEIGHTS, "unet/config.json", "scheduler/scheduler_config.json"]))
def test_what_is_left_of_a_download_is_always_named(folder, start, before, rest, file):
    pointer = start.startswith(b"version")
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes((b"" if pointer else before.encode()) + start + rest)
    try:
        with pytest.raises(CheckpointError, match="is a Git LFS pointer" if pointer else "is a page of HTML or XML"):
            load_pipeline(folder)
    finally:
        (folder / file).write_bytes(whole)
