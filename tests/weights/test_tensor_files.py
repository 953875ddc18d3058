"""Files of weights: shards, PyTorch's and MindSpore's formats come in as they were written, hostile and damaged ones do not."""

from __future__ import annotations

import importlib.util
import json
import zipfile

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import backends
from bench.cli.main import main
from bench.weights import pipeline, sources, tensor_files
from bench.weights.errors import CheckpointError
from bench.weights.pipeline import save_pipeline
from reference.config import DiffusionConfig
from reference.weights import initialise
from tests.helpers.tiny import TINY, same
from tests.weights.test_pipeline import OTHERS, WEIGHTS

torch = pytest.importorskip("torch")
from tests.helpers.other_codes import song2021  # noqa: E402
from tests.weights.test_sources import built  # noqa: E402


def split(folder, change=lambda where: where):
    """The folder's weights in two shards with an index."""
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names, files = sorted(weights), [f"diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    where = {name: files[n % 2] for n, name in enumerate(names)}
    for file in files:
        save_file({name: weights[name] for name in names if where[name] == file}, folder / "unet" / file)
    index = folder / "unet/diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": change(where)}))


def test_shards_are_read(folder):
    split(folder)
    assert same(sources.load(folder)[0], initialise(TINY, 0))


@pytest.mark.parametrize("change, said", [
    (lambda where: where | {"conv_in.bias": "../secret.safetensors"}, r"shard '\.\./secret\.safetensors'.*own folder"),
    (lambda where: where | {"conv_in.bias": "/etc/passwd"}, "own folder"),
    (lambda where: where | {"conv_in.bias": ".."}, "own folder"),
    (lambda where: where | {"more": "no.safetensors"}, r"no\.safetensors: missing"),
    (lambda where: where | {"conv_in.bias": where["conv_in.weight"]}, "does not say that conv_in.bias"),
    (lambda where: where | {"more": where["conv_in.weight"]}, "more is not in"),
    (lambda where: [where], "must be an object"), (lambda where: where | {"conv_in.bias": 3}, "must be an object"),
])
def test_a_hostile_or_wrong_index_is_refused(folder, tmp_path, change, said):
    save_file({"conv_in.bias": np.zeros(8, np.float32)}, tmp_path / "pipeline/secret.safetensors")
    split(folder, change)
    with pytest.raises(CheckpointError, match=said):
        sources.load(folder)


def test_shards_together_are_no_larger_than_the_network(folder):
    split(folder)
    shard = folder / "unet/diffusion_pytorch_model-00001-of-00002.safetensors"
    save_file(load_file(shard) | {"more": np.zeros(20 << 20, np.float32)}, shard)
    with pytest.raises(CheckpointError, match="00001.*more than this network"):
        sources.load(folder)


def test_of_shards_that_each_would_fit_the_second_is_refused(folder, monkeypatch):
    """Room for the larger one and a little more."""
    split(folder)
    second = folder / "unet/diffusion_pytorch_model-00002-of-00002.safetensors"
    values = sum(value.size for value in initialise(TINY, 0).values())
    monkeypatch.setattr(pipeline, "MAX_HEADER", second.stat().st_size + 400 - 8 * values)
    with pytest.raises(CheckpointError, match="00002.*more than this network"):
        sources.load(folder)


def test_both_formats_of_torch_and_bfloat16_are_read(tmp_path):
    state = built(song2021)
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert same(sources.load(tmp_path / "old.pt")[0], sources.load(_saved(tmp_path / "new.pt", state))[0])
    parameters = {"epoch": 3, "model": {name: torch.nn.Parameter(value) for name, value in state.items()}}
    assert same(sources.load(_saved(tmp_path / "parameters.pt", parameters))[0], sources.load(tmp_path / "new.pt")[0])
    half = {name: value.bfloat16() for name, value in state.items()}
    found = sources.load(_saved(tmp_path / "half.pt", half))[0]
    np.testing.assert_array_equal(found["conv_in.bias"], half["conv_in.bias"].float())


def _saved(path, state):
    torch.save(state, path)
    return path


@pytest.mark.parametrize("harm, said", [
    (lambda data: data[:len(data) // 2], "corrupt or truncated"), (lambda data: data[:3], "corrupt or truncated"),
    (lambda data: data.replace(np.float32(0.75).tobytes(), np.float32(0.5).tobytes(), 1), "does not match its CRC-32"),
    (lambda data: b"", "empty"), (lambda data: b"\x80\x02}q\x00.", "a.pt"), (lambda data: b"GIF89a" + data, "neither"),
    (lambda data: b"\n" + data, "no MindSpore checkpoint|mindspore"),
])
def test_damaged_torch_files_are_refused(tmp_path, harm, said):
    path = _saved(tmp_path / "a.pt", built(song2021) | {"conv_in.bias": torch.full((64,), 0.75)})
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(CheckpointError, match=said):
        sources.load(path)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    _saved(tmp_path / "a.pt", {"temb.dense.0.weight": torch.zeros(1 << 22)})
    with zipfile.ZipFile(tmp_path / "a.pt") as source, zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as bomb:
        for member in source.infolist():
            bomb.writestr(member.filename, source.read(member))
    assert (tmp_path / "b.pt").stat().st_size < 100_000
    with pytest.raises(CheckpointError, match="is compressed"):
        sources.load(tmp_path / "b.pt")


def test_a_file_larger_than_the_limit_is_refused_unread(tmp_path, folder, monkeypatch):
    with (tmp_path / "huge.pt").open("wb") as file:
        file.write(b"PK\x03\x04")
        file.truncate(tensor_files.MAX_FILE + 1)  # sparse
    with pytest.raises(CheckpointError, match="more than"):
        sources.load(tmp_path / "huge.pt")
    (folder / WEIGHTS).unlink()
    (tmp_path / "huge.pt").rename((folder / WEIGHTS).with_suffix(".bin"))
    with pytest.raises(CheckpointError, match="more than this network"):
        sources.load(folder)


def test_a_file_of_canonical_names_needs_its_config_beside_it(folder, tmp_path):
    path = folder / WEIGHTS
    assert same(sources.load(path)[0], initialise(TINY, 0))
    path.rename(tmp_path / "alone.safetensors")
    with pytest.raises(CheckpointError, match="put the network.s config.json beside"):
        sources.load(tmp_path / "alone.safetensors")


@pytest.mark.parametrize("source", ["nowhere", "a/b/c", "../x", "a\nb", "x" * 5000])
def test_a_place_that_is_none_is_one_line(source):
    with pytest.raises(CheckpointError) as caught:
        sources.load(source)
    assert len(str(caught.value).splitlines()) <= 2


def test_a_torch_file_beside_its_config_is_read(tmp_path):
    """As training scripts leave it."""
    save_pipeline(tmp_path / "p", initialise(OTHERS, 1), OTHERS, DiffusionConfig(variance="learned_range"))
    torch.save({name: torch.from_numpy(value) for name, value in initialise(OTHERS, 1).items()}, tmp_path / "p/unet/mine.pt")
    weights, model, diffusion = sources.load(tmp_path / "p/unet/mine.pt")
    assert same(weights, initialise(OTHERS, 1)) and model == OTHERS and diffusion.variance == "learned_range"


needs_mindspore = pytest.mark.skipif(importlib.util.find_spec("mindspore") is None, reason="MindSpore is not installed")


@needs_mindspore
def test_mindspore_checkpoints_go_both_ways(folder, tmp_path):
    assert main(["convert", str(folder), str(tmp_path / "out"), "--mindspore"]) == 0
    import mindspore as ms
    backends.load("mindspore")
    from backends.mindspore.unet import UNet

    net = UNet(TINY, tuned=False)
    loaded = ms.load_checkpoint(str(tmp_path / "out/unet/diffusion_pytorch_model.ckpt"))
    weights = initialise(TINY, 0)
    assert ms.load_param_into_net(net, loaded, strict_load=True) == ([], [])
    assert same({name: p.asnumpy() for name, p in net.parameters_and_names()}, weights)

    (tmp_path / "out" / WEIGHTS).unlink()  # the .ckpt is now all there is
    assert same(sources.load(tmp_path / "out")[0], weights)
    ms.save_checkpoint(net, str(tmp_path / "out/unet/mine.ckpt"))
    loaded = sources.load(tmp_path / "out/unet/mine.ckpt")
    assert same(loaded[0], weights) and loaded[1:] == (TINY, DiffusionConfig())

    renamed = [{"name": name.replace(".weight", ".gamma").replace(".bias", ".beta") if "norm" in name else name,
                "data": ms.Tensor(value)} for name, value in weights.items()]  # nn.GroupNorm's own names
    ms.save_checkpoint(renamed, str(tmp_path / "out/unet/gamma.ckpt"))
    assert same(sources.load(tmp_path / "out/unet/gamma.ckpt")[0], weights)


@needs_mindspore
@pytest.mark.parametrize("harm, said", [
    (lambda value: value.tensor.dims.__setitem__(0, 1 << 40), "is not a Float32 of shape"),
    (lambda value: value.tensor.dims.__setitem__(0, -8), "is not a Float32 of shape"),
    (lambda value: setattr(value.tensor, "tensor_type", "str"), "is of type 'str'"),
    (lambda value: setattr(value.tensor, "tensor_content", b""), "holds 0 bytes"),
])
def test_lying_mindspore_files_are_refused(folder, harm, said):
    from mindspore.train.checkpoint_pb2 import Checkpoint
    path = folder / "unet/diffusion_pytorch_model.ckpt"
    tensor_files.write_mindspore(path, initialise(TINY, 0))
    content = path.read_bytes()
    message = Checkpoint()
    message.ParseFromString(content[:-17])
    harm(message.value[0])
    path.write_bytes(message.SerializeToString())
    with pytest.raises(CheckpointError, match=said):
        sources.load(path)
    for damaged, said in ((content[:-100], "corrupt"), (content[:500] + b"\x7f" + content[501:], "CRC-32")):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=said):
            sources.load(path)


def test_the_same_weights_are_the_same_bytes(tmp_path):
    """The library writes metadata in an order that differs from call to call."""
    made = {name: np.full(3, n, np.float32) for n, name in enumerate(("b", "a", "\u00e9"))}
    about = {"format": "pt", "note": "caf\u00e9 \"quoted\"", "z": "1"}
    for n in range(12):
        tensor_files.write_safetensors(tmp_path / f"{n}.safetensors", made, about)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    tensors, metadata = tensor_files.read_safetensors(tmp_path / "0.safetensors")
    assert same(tensors, made) and {**about, "sha256": metadata["sha256"]} == metadata
