"""Files of weights as diffusers, torch and half a download leave them, and the places in a run's folder where they lie."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bench.weights import errors, sources, tensor_files
from bench.weights.diffusers_config import read_unet, unet_json
from bench.weights.errors import CheckpointError, Note
from bench.weights.pipeline import save_pipeline
from reference.config import DiffusionConfig
from reference.weights import initialise
from tests.helpers.tiny import TINY, same

torch = pytest.importorskip("torch")
from tests.helpers.other_codes import song2021  # noqa: E402
from tests.weights.test_sources import built  # noqa: E402

NETWORK = initialise(TINY, 0)
EMA = initialise(TINY, 1)
PROCESS = DiffusionConfig(schedule="cosine", timesteps=300, objective="v")
SAFE, BIN = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"


def said(source):
    """(what `sources.load` returns, the lines that it says)."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = sources.load(source)
    assert all(item.category is Note and "\n" not in str(item.message) for item in caught)
    return found, [str(item.message) for item in caught]


@pytest.fixture
def run(tmp_path):
    """A pipeline in tmp_path/run without its SHA-256, as others write it."""
    save_pipeline(tmp_path / "run", NETWORK, TINY, PROCESS)
    save_file(NETWORK, tmp_path / "run/unet" / SAFE)
    return tmp_path / "run"


def tensors(weights):
    return {name: torch.from_numpy(value) for name, value in weights.items()}


# what diffusers writes

def upper_half(weights):
    return {name: value.bfloat16() for name, value in tensors(weights).items()}


def bfloat16(unet):
    from safetensors.torch import save_file
    save_file(upper_half(NETWORK), unet / SAFE)


def bfloat16_bin(unet):
    (unet / SAFE).unlink()
    torch.save(upper_half(NETWORK), unet / BIN)


@pytest.mark.parametrize("write", [bfloat16, bfloat16_bin])
def test_bfloat16_comes_as_the_float32_of_the_same_value(run, write):
    write(run / "unet")
    assert same(sources.load(run)[0], {name: value.float().numpy() for name, value in upper_half(NETWORK).items()})


def test_bfloat16_beside_float32_and_of_every_value(tmp_path):
    from safetensors.torch import save_file
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)  # subnormals, infinities and NaN too
    none = torch.zeros(0, dtype=torch.bfloat16)
    save_file({"b": every.reshape(256, 256), "a": torch.ones(3), "c": none}, tmp_path / "a.safetensors")
    found = tensor_files.read(tmp_path / "a.safetensors")[""]
    np.testing.assert_array_equal(found["b"], every.reshape(256, 256).float().numpy())
    assert found["b"].dtype == found["a"].dtype == np.float32 and found["a"].tolist() == [1, 1, 1] and found["c"].shape == (0,)


@pytest.mark.parametrize("name, index", [("diffusion_pytorch_model.fp16.safetensors", None),
                                         ("diffusion_pytorch_model.non_ema.bin", None),
                                         ("shard.safetensors", "diffusion_pytorch_model.safetensors.index.fp16.json")])
def test_a_variant_alone_is_read_and_named(run, name, index):
    (run / "unet" / SAFE).unlink()
    if name.endswith(".bin"):
        torch.save(tensors(NETWORK), run / "unet" / name)
    else:
        save_file({key: value.astype(np.float16) for key, value in NETWORK.items()}, run / "unet" / name)
    if index:
        (run / "unet" / index).write_text(json.dumps({"weight_map": dict.fromkeys(NETWORK, name)}))
    (weights, *_), lines = said(run)
    assert all(np.array_equal(weights[key], value if name.endswith(".bin") else value.astype(np.float16))
               for key, value in NETWORK.items())
    assert len(lines) == 1 and f"variant {'non_ema' if name.endswith('.bin') else 'fp16'}" in lines[0]


def test_of_several_variants_the_average_is_read_and_else_none(run):
    for name in ("fp16", "bf16"):
        save_file(NETWORK, run / f"unet/diffusion_pytorch_model.{name}.safetensors")
    assert same(said(run)[0][0], NETWORK) and said(run)[1] == []  # the file without a variant comes first
    (run / "unet" / SAFE).unlink()
    with pytest.raises(CheckpointError, match="holds the variants bf16, fp16 of its weights; give the file"):
        sources.load(run)
    save_file(EMA, run / "unet/diffusion_pytorch_model.ema.safetensors")
    (weights, *_), lines = said(run)
    assert same(weights, EMA) and "variant ema" in lines[0]


def test_pickled_shards_with_an_index_are_read(run):
    (run / "unet" / SAFE).unlink()
    where = {name: f"diffusion_pytorch_model-0000{1 + n % 2}-of-00002.bin" for n, name in enumerate(NETWORK)}
    for shard in set(where.values()):
        torch.save({name: value for name, value in tensors(NETWORK).items() if where[name] == shard}, run / "unet" / shard)
    (run / "unet" / (BIN + ".index.json")).write_text(json.dumps({"metadata": {}, "weight_map": where}))
    found, lines = said(run)
    assert same(found[0], NETWORK) and found[1:3] == (TINY, PROCESS) and lines == []
    (run / "unet" / (BIN + ".index.json")).write_text(json.dumps({"weight_map": where | {"conv_in.bias": "x.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"shard 'x\.safetensors': must be a \.bin file"):
        sources.load(run)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "unet.", "module._orig_mod.", "model.unet."])
@pytest.mark.parametrize("format", ["safetensors", "pickle"])
def test_prefixes_of_wrappers_are_dropped(run, prefix, format):
    wrapped = {prefix + name: value for name, value in NETWORK.items()}
    if format == "safetensors":
        save_file(wrapped, run / "unet" / SAFE)
    else:
        (run / "unet" / SAFE).unlink()
        torch.save(tensors(wrapped), run / "unet" / BIN)
    assert same(sources.load(run)[0], NETWORK)


def test_a_prefix_of_some_names_is_no_wrapper(run):
    save_file({"module." + name: value for name, value in NETWORK.items()} | {"betas": np.ones(3, np.float32)}, run / "unet" / SAFE)
    with pytest.raises(CheckpointError, match="'conv_in.weight': parameter is missing"):
        sources.load(run)


# what is no file of weights

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 714024\n"
PAGE = b"\n <!DOCTYPE html>\n<html><body>Sign in to continue</body></html>"


@pytest.mark.parametrize("file", ["unet/" + SAFE, "unet/" + BIN, "unet/diffusion_pytorch_model.ckpt", "unet/config.json",
                                  "scheduler/scheduler_config.json", "unet/" + SAFE + ".index.json"])
@pytest.mark.parametrize("content, line", [
    (POINTER, "is a Git LFS pointer, not the file itself; `git lfs pull`"), (PAGE, "is a page of HTML"),
    (b"<html>404", "is a page of HTML"), (b'\xef\xbb\xbf<?xml version="1.0"?><Error>', "is a page of HTML or XML")])
def test_what_a_download_left_in_place_of_a_file_is_named(run, file, content, line):
    if "json" not in file or "index" in file:
        (run / "unet" / SAFE).unlink()
    (run / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=line) as caught:
        sources.load(run)
    assert str(caught.value).startswith(f"{run / file}: ") and "\n" not in str(caught.value)


def test_an_optimisers_file_is_named(tmp_path):
    net = torch.nn.Linear(2, 2)
    adam = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 2)).sum().backward()
    adam.step()
    torch.save(adam.state_dict(), tmp_path / "opt500000.pt")
    with pytest.raises(CheckpointError, match=r"opt500000\.pt: holds an optimiser's state and param_groups, no network"):
        sources.load(tmp_path / "opt500000.pt")


def test_a_dtype_that_is_none_of_weights_is_named(run):
    from safetensors.torch import save_file
    save_file(tensors(NETWORK) | {"conv_in.bias": torch.zeros(8, dtype=torch.float8_e4m3fn)}, run / "unet" / SAFE)
    with pytest.raises(CheckpointError, match=r"conv_in\.bias is F8_E4M3; weights must be bfloat16, float16, float32 or float64"):
        sources.load(run)


# several networks in a file

RAW_STATE = built(song2021)
EMA_STATE = {name: value + 1 for name, value in RAW_STATE.items()}


@pytest.mark.parametrize("name", ["ema", "model_ema", "state_dict_ema", "ema_0.9999", "EMA", "averaged"])
@pytest.mark.parametrize("first", [True, False])
def test_the_average_is_known_by_its_name_wherever_it_is(tmp_path, name, first):
    pair = [(name, EMA_STATE), ("model", RAW_STATE)]
    torch.save({"step": 3, **dict(pair if first else pair[::-1]), "optimizer": {"state": {}}}, tmp_path / "a.pt")
    (weights, *_), lines = said(tmp_path / "a.pt")
    np.testing.assert_array_equal(weights["conv_out.bias"], EMA_STATE["conv_out.bias"])
    assert any(f"the exponential moving average {name} is read" in line and "model" in line for line in lines)


def test_one_network_among_other_things_is_read_by_any_name(tmp_path):
    torch.save({"schema": {"a": torch.ones(1)}, "state_dict": RAW_STATE}, tmp_path / "a.pt")
    (weights, *_), lines = said(tmp_path / "a.pt")
    np.testing.assert_array_equal(weights["conv_out.bias"], RAW_STATE["conv_out.bias"])
    assert not any("average" in line for line in lines)


@pytest.mark.parametrize("names", [("model", "best"), ("ema_0.99", "ema_0.999"), ("schema", "model")])
def test_networks_whose_names_do_not_say_which_is_meant_are_refused(tmp_path, names):
    torch.save(dict.fromkeys(names, RAW_STATE), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=f"a.pt: holds several networks, {', '.join(names)}, and not one of them alone is"):
        sources.load(tmp_path / "a.pt")


def test_a_training_state_beside_a_config_gives_its_average_too(run):
    torch.save({"model": tensors(NETWORK), "ema": tensors(EMA)}, run / "unet/last.pt")
    (weights, *rest), lines = said(run / "unet/last.pt")
    assert same(weights, EMA) and tuple(rest[:2]) == (TINY, PROCESS) and "moving average ema" in lines[0]


# places in a run's folder

@pytest.fixture
def training(run):
    """The run of a training script of diffusers: checkpoints with raw and averaged weights, and the finished pipeline."""
    for step, weights in ((500, EMA), (50, NETWORK)):
        for name, network in (("unet", NETWORK), ("unet_ema", weights)):
            folder = run / f"checkpoint-{step}" / name
            folder.mkdir(parents=True)
            shutil.copy(run / "unet/config.json", folder)
            save_file(network, folder / SAFE)
    return run


@pytest.mark.parametrize("place, weights", [
    ("", NETWORK), ("unet", NETWORK), (f"unet/{SAFE}", NETWORK), ("checkpoint-500/unet_ema", EMA), ("checkpoint-500", EMA),
    (f"checkpoint-500/unet_ema/{SAFE}", EMA), ("checkpoint-500/unet", NETWORK), (f"checkpoint-500/unet/{SAFE}", NETWORK)])
def test_every_place_in_a_run_has_the_runs_network_and_process(training, place, weights):
    found, lines = said(training / place)
    assert same(found[0], weights) and found[1:3] == (TINY, PROCESS)
    raw = "as asked; the EMA weights are in"
    about_ema = {"checkpoint-500": "the EMA weights in unet_ema are read, not those in unet", "checkpoint-500/unet": raw,
                 f"checkpoint-500/unet/{SAFE}": raw}
    assert [about_ema[place] in line for line in lines] == ([True] if place in about_ema else [])


def test_a_run_with_checkpoints_alone_is_read_from_its_last(training):
    shutil.rmtree(training / "unet")
    (training / "checkpoint-x").mkdir()
    found, lines = said(training)
    assert same(found[0], EMA) and found[1:3] == (TINY, PROCESS)
    assert len(lines) == 2 and "checkpoint-500 is read, the last of its checkpoints" in lines[0] and "unet_ema" in lines[1]


def test_a_pipeline_without_its_scheduler_is_refused_from_every_place(training):
    (training / "scheduler/scheduler_config.json").unlink()
    for place in ("", "unet", "checkpoint-500", f"checkpoint-500/unet_ema/{SAFE}"):
        with pytest.raises(CheckpointError, match=r"run/scheduler/scheduler_config\.json: missing"):
            sources.load(training / place)
    (training / "model_index.json").unlink()
    assert sources.load(training / "unet")[2] == DiffusionConfig(variance="small")


def test_files_of_a_run_keep_their_own_places(run):
    """The weights' own folder has a scheduler: that of the folder above is another network's."""
    flat = run / "unet"
    scheduler = json.loads((run / "scheduler/scheduler_config.json").read_text())
    (flat / "scheduler_config.json").write_text(json.dumps({k: v for k, v in scheduler.items() if k != "ddim_bench"}
                                                            | {"num_train_timesteps": 77}))
    assert sources.load(flat)[2].timesteps == 77 and isinstance(flat, Path)
    assert load_file(flat / SAFE).keys() == NETWORK.keys()


def test_the_last_checkpoint_is_that_of_the_largest_number(training):
    """Not of the last name: checkpoint-1000 is one of after checkpoint-500."""
    shutil.rmtree(training / "unet")
    shutil.copytree(training / "checkpoint-500", training / "checkpoint-1000")
    assert "checkpoint-1000 is read, the last of its checkpoints" in said(training)[1][0]


@pytest.mark.parametrize("change, read", [({"layers_per_block": 256}, True), ({"layers_per_block": 257}, False)])
def test_a_depth_that_would_fill_the_memory_is_refused_before_anything_is_made(tmp_path, change, read):
    values = unet_json(TINY)
    del values["ddim_bench"]
    (tmp_path / "config.json").write_text(json.dumps(values | {"attention_head_dim": None} | change))
    if read:
        assert read_unet(tmp_path / "config.json", legacy=False).layers_per_block == 256
    else:
        with pytest.raises(CheckpointError, match="more than 256 layers or 65536 channels are not read"):
            read_unet(tmp_path / "config.json", legacy=False)


@pytest.mark.parametrize("change, read", [({"block_out_channels": [8, 65536]}, True), ({"block_out_channels": [8, 65544]}, False),
                                          ({"sample_size": [8, 8]}, True)])
def test_a_width_that_would_fill_the_memory_is_refused_and_a_square_size_is_read(tmp_path, change, read):
    values = {key: value for key, value in unet_json(TINY).items() if key != "ddim_bench"} | change
    (tmp_path / "config.json").write_text(json.dumps(values))
    if read:
        assert read_unet(tmp_path / "config.json", legacy=False).sample_size == 8
    else:
        with pytest.raises(CheckpointError, match="more than 256 layers or 65536 channels are not read"):
            read_unet(tmp_path / "config.json", legacy=False)


def test_our_own_record_of_a_depth_that_would_fill_the_memory_is_refused_too(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(unet_json(replace(TINY, layers_per_block=257))))
    with pytest.raises(CheckpointError, match="more than 256 layers"):
        read_unet(tmp_path / "config.json", legacy=False)


def test_a_config_that_is_larger_than_any_is_refused(run, monkeypatch):
    size = (run / "unet/config.json").stat().st_size
    for most, read in ((size, True), (size - 1, False)):
        monkeypatch.setattr(errors, "MAX_JSON", most)
        if read:
            assert sources.load(run)[1] == TINY
        else:
            with pytest.raises(CheckpointError, match=f"config.json: can't be read: larger than {most} bytes"):
                sources.load(run)


def test_of_several_files_of_weights_safetensors_is_read(run):
    torch.save(tensors(EMA), run / "unet" / BIN)
    assert same(sources.load(run)[0], NETWORK)
