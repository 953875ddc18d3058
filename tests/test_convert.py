"""Weights come in from other projects and go out to them with the same outputs, or are refused by the first difference."""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import threading
import time
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import backends
from backends.protocol import Spec
from bench import checkpoint, convert, run, tensor_files
from bench.checkpoint import load_pipeline, save_pipeline
from bench.diffusers_json import CheckpointError
from bench.torchvision_shim import import_torchvision
from reference import unet
from reference.config import DiffusionConfig, ModelConfig
from reference.conventions import make_plan
from reference.weights import initialise

from .reference.test_config import CIFAR10
from .test_checkpoint import OTHERS, TINY, WEIGHTS, edit, make_legacy

torch = pytest.importorskip("torch")
from .other_codes import Parameters, nichol2021, song2021  # noqa: E402

FMNIST_SMALL = Path(__file__).parents[1] / "results/checkpoints/fmnist-small"


@pytest.fixture(autouse=True)
def one_thread():
    """Networks here are tiny: threads would spend their time waiting for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(before)


@pytest.fixture
def folder(tmp_path):
    save_pipeline(tmp_path / "pipeline", initialise(TINY, 0), TINY, DiffusionConfig())
    return tmp_path / "pipeline"


def same(found, weights):
    return set(found) == set(weights) and all(np.array_equal(found[name], weights[name]) for name in weights)


# diffusers


@pytest.mark.parametrize("clip", ["clip", "none"])
def test_diffusers_ddim_pipeline_gives_our_images(clip):
    """The same folder and x_T, S = 50, eta = 0, float32, on the scale [-1, 1]."""
    import_torchvision()
    from diffusers import DDIMPipeline, DDIMScheduler
    pipeline = DDIMPipeline.from_pretrained(FMNIST_SMALL)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=clip == "clip")
    theirs = pipeline(batch_size=2, generator=torch.Generator().manual_seed(0), eta=0.0, num_inference_steps=50, output_type="np")
    x_T = torch.randn((2, 1, 28, 28), generator=torch.Generator().manual_seed(0)).numpy()  # what the pipeline drew

    weights, model, diffusion = convert.load(FMNIST_SMALL)
    backend = backends.load("torch").create(Spec(model, diffusion))
    backend.load_weights(weights)
    ours = backend.to_host(backend.sample(backend.to_device(x_T), make_plan(diffusion, 50, convention="diffusers", clip=clip)))
    images = 2 * theirs.images.transpose(0, 3, 1, 2) - 1
    np.testing.assert_allclose(np.clip(ours, -1, 1), images, rtol=0, atol=1e-4)
    assert images.std() > 0.1


def test_diffusers_ddpm_pipeline_loads_the_same_weights():
    import_torchvision()
    from diffusers import DDPMPipeline
    pipeline = DDPMPipeline.from_pretrained(FMNIST_SMALL)
    pipeline.set_progress_bar_config(disable=True)
    assert same({name: value.numpy() for name, value in pipeline.unet.state_dict().items()}, convert.load(FMNIST_SMALL)[0])
    images = pipeline(batch_size=1, generator=torch.Generator().manual_seed(0), num_inference_steps=3, output_type="np").images
    assert images.shape == (1, 28, 28, 1)


@pytest.mark.parametrize("kind", ["network alone", "network and scheduler", "legacy .bin"])
def test_flat_folders_of_diffusers_load(folder, tmp_path, kind):
    import_torchvision()
    from diffusers import UNet2DModel
    expected = DiffusionConfig(variance="small")  # that of diffusers' DDPMScheduler()
    if kind == "legacy .bin":
        source = make_legacy(folder, flat=True)
        weights = {name: torch.from_numpy(value) for name, value in load_file(source / checkpoint.WEIGHTS).items()}
        assert "mid_block.attentions.0.query.weight" in weights
        torch.save(weights, source / "diffusion_pytorch_model.bin")
        (source / checkpoint.WEIGHTS).unlink()
        expected = DiffusionConfig(variance="large")
    else:
        source = tmp_path / "unet-alone"
        UNet2DModel.from_pretrained(folder / "unet").save_pretrained(source)
        edit(source / "config.json", ddim_bench=None)
        if kind == "network and scheduler":
            (source / "scheduler_config.json").write_text((folder / "scheduler/scheduler_config.json").read_text())
            expected = DiffusionConfig()
    weights, model, diffusion = convert.load(source)
    assert same(weights, initialise(TINY, 0)) and model == replace(TINY, zero_init=True) and diffusion == expected


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
    assert same(convert.load(folder)[0], initialise(TINY, 0))


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
        convert.load(folder)


def test_shards_together_are_no_larger_than_the_network(folder):
    split(folder)
    shard = folder / "unet/diffusion_pytorch_model-00001-of-00002.safetensors"
    save_file(load_file(shard) | {"more": np.zeros(20 << 20, np.float32)}, shard)
    with pytest.raises(CheckpointError, match="00001.*more than this network"):
        convert.load(folder)


@pytest.mark.parametrize("key, value", [("class_embed_type", "timestep"), ("resnet_time_scale_shift", "scale_shift"),
                                        ("add_attention", False), ("time_embedding_type", "fourier"), ("act_fn", "gelu")])
def test_a_feature_that_we_lack_is_named(folder, key, value):
    edit(folder / "unet/config.json", ddim_bench=None, attention_head_dim=8, **{key: value})
    values = json.loads((folder / "unet/config.json").read_text())
    (folder / "unet/config.json").write_text(json.dumps(values | {key: value}))
    with pytest.raises(CheckpointError, match=f"config.json: {key}={value!r}: only"):
        convert.load(folder)


@pytest.mark.parametrize("block", ["AttnSkipDownBlock2D", "ResnetDownsampleBlock2D"])
def test_a_block_that_we_lack_is_named(folder, block):
    edit(folder / "unet/config.json", ddim_bench=None, attention_head_dim=8, down_block_types=["DownBlock2D", block])
    with pytest.raises(CheckpointError, match=f"down_block_types='{block}'"):
        convert.load(folder)


# the DDIM code and improved-diffusion

X, T = torch.randn((2, 3, 16, 16), generator=torch.Generator().manual_seed(1)), torch.tensor([3, 977])


def test_a_ddim_code_checkpoint_gives_its_networks_output(tmp_path):
    """`ckpt.pth`: [DataParallel's weights, the optimiser's state, epoch, step, the exponential moving average]."""
    ema = Parameters()
    expected = song2021(ema, X, T)
    raw = {f"module.{name}": value + 1 for name, value in ema.items()}
    torch.save([raw, {"state": {0: {"step": 5, "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4}]}, 3, 5, dict(ema)],
               tmp_path / "ckpt.pth")
    weights, model, diffusion = convert.load(tmp_path / "ckpt.pth", 16)
    assert diffusion == DiffusionConfig() and model.sample_size == 16
    np.testing.assert_allclose(unet.forward(weights, model, X.numpy(), T.numpy()), expected, atol=2e-5)
    assert convert.load(tmp_path / "ckpt.pth")[1].sample_size == 32  # attention at level 1 is taken for 16 x 16

    torch.save(raw, tmp_path / "model-790000.ckpt")  # the weights alone, as the converted ones were published
    weights = convert.load(tmp_path / "model-790000.ckpt")[0]
    np.testing.assert_array_equal(weights["conv_out.bias"], ema["conv_out.bias"] + 1)


@pytest.mark.parametrize("heads", [1, 4])
def test_an_improved_diffusion_checkpoint_gives_its_networks_output(tmp_path, heads):
    state = Parameters()
    expected = nichol2021(state, X, T, heads=heads)
    torch.save(dict(state), tmp_path / "ema_0.9999_500000.pt")
    weights, model, diffusion = convert.load(tmp_path / "ema_0.9999_500000.pt", 16, heads)
    assert diffusion == DiffusionConfig(variance="learned_range", rescale_timesteps=True)
    np.testing.assert_allclose(unet.forward(weights, model, X.numpy(), T.numpy()), expected, atol=2e-5)


@pytest.mark.parametrize("forward, options", [(song2021, {"mult": (1, 2), "attends": (0, 1), "layers": 1, "out": 3}),
                                              (nichol2021, {"mult": (1, 2, 3), "attends": (0, 2), "layers": 1, "out": 3})])
def test_other_shapes_of_both_codes(tmp_path, forward, options):
    state = Parameters()
    expected = forward(state, X, T, **options)
    torch.save(dict(state), tmp_path / "a.pt")
    weights, model, diffusion = convert.load(tmp_path / "a.pt")
    assert model.sample_size == 16 and diffusion.variance == "large"
    np.testing.assert_allclose(unet.forward(weights, model, X.numpy(), T.numpy()), expected, atol=2e-5)


def test_one_command_takes_a_ddim_code_checkpoint_to_a_plan_or_a_folder(tmp_path, capsys):
    state = Parameters()
    song2021(state, X, T)
    torch.save(dict(state), tmp_path / "ckpt.pth")
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (400, 32, 32, 3), np.uint8))
    assert run.main(["--weights", str(tmp_path / "ckpt.pth"), "--data", str(tmp_path / "images.npy"), "--dry-run=plan",
                     "--samples", "128", "--backends", "torch"]) == 0
    assert '"block_out_channels": [\n      64,\n      128,\n      128' in capsys.readouterr().out

    assert convert.main([str(tmp_path / "ckpt.pth"), str(tmp_path / "out"), "--schedule", "cosine", "--timesteps", "400"]) == 0
    assert "parameters" in capsys.readouterr().out
    weights, model, diffusion = load_pipeline(tmp_path / "out")
    assert diffusion == DiffusionConfig(schedule="cosine", timesteps=400) and model.sample_size == 32
    assert same(weights, convert.load(tmp_path / "ckpt.pth")[0])


def test_heads_that_no_folder_can_hold_are_one_line_and_write_nothing(tmp_path, capsys):
    torch.save(built(nichol2021, mult=(1, 2), layers=1, attends=(0, 1)), tmp_path / "a.pt")
    assert convert.load(tmp_path / "a.pt")[1].num_attention_heads == 4  # in memory they are no trouble
    assert convert.main([str(tmp_path / "a.pt"), str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "num_attention_heads=4: diffusers' layout has one head width" in said
    assert convert.main([str(tmp_path / "a.pt"), str(tmp_path / "out"), "--heads", "1"]) == 2  # widths differ, so do heads
    assert convert.main([str(tmp_path / "a.pt"), str(tmp_path / "out"), "--heads", "7"]) == 2
    assert "num_attention_heads=7: must divide" in capsys.readouterr().err and not (tmp_path / "out").exists()


LUCIDRAINS = {"betas": (10,), "model.init_conv.weight": (64, 3, 7, 7), "model.downs.0.0.block1.proj.weight": (64, 64, 3, 3),
              "model.downs.0.0.block1.norm.g": (1, 64, 1, 1), "model.downs.0.2.mem_kv": (2, 4, 32, 4)}


def without(state, name):
    return {key: value for key, value in state.items() if key != name}


def built(forward, **options):
    state = Parameters()
    forward(state, X, T, **options)
    return dict(state)


@pytest.mark.parametrize("make, said", [
    (lambda: built(nichol2021, scale_shift=True),
     r"input_blocks\.1\.0\.emb_layers\.1\.weight \(128, 256\): shape must be \(64, 256\): use_scale_shift_norm"),
    (lambda: built(nichol2021) | {"label_emb.weight": torch.zeros(10, 256)}, r"label_emb\.weight \(10, 256\).*not part"),
    (lambda: without(without(built(nichol2021), "input_blocks.3.0.op.weight"), "input_blocks.3.0.op.bias"),
     r"input_blocks\.3\.0\.op\.weight: parameter is missing"),  # conv_resample=False
    (lambda: built(song2021, mult=(2, 2), attends=(0,)), r"conv_in\.weight \(64, 3, 3, 3\): shape must be \(128, 3, 3, 3\)"),
    (lambda: without(built(song2021), "down.0.downsample.conv.bias"), r"down\.0\.downsample\.conv\.bias: parameter is missing"),
    (lambda: built(song2021) | {"logvar": torch.zeros(1000)}, r"logvar \(1000,\): parameter is not part"),
    (lambda: built(song2021, attends=()), "image size must be stated"),
    (lambda: built(song2021) | {"conv_in.bias": torch.full((64,), torch.nan)}, "conv_in.bias.*NaN"),
    (lambda: built(song2021) | {"conv_in.bias": torch.zeros(64, dtype=torch.int64)}, "conv_in.bias is int64"),
    (lambda: {"step": 7, "model": {name: torch.zeros(shape) for name, shape in LUCIDRAINS.items()}, "opt": {"state": {}}},
     r"model\.init_conv\.weight \(64, 3, 7, 7\): a 7x7 convolution.*lucidrains"),
    (lambda: {name: torch.zeros(shape) for name, shape in list(LUCIDRAINS.items())[2:]}, "RMSNorm stands where"),
    (lambda: {"layer1.weight": torch.zeros(3)}, "holds layer1.weight, which is neither"),
    (lambda: 3, "holds nothing"),
    (lambda: {"conv_in.weight": torch.zeros(3).to_sparse()}, "needs unpickling.*_rebuild_sparse_tensor"),
    (lambda: {"temb.dense.0.weight": torch.zeros(1).expand(10**13)}, "10000000000000 elements, more than the file holds"),
    (lambda: {"a": bytearray(10)}, "needs unpickling.*bytearray"),  # of any size, which weights_only=True would allocate
    (lambda: {"weights": {"a": torch.zeros(3)}, "args": argparse.Namespace(lr=1)}, "needs unpickling.*argparse.Namespace"),
])
def test_what_does_not_match_is_refused_by_its_first_difference(tmp_path, make, said):
    torch.save(make(), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=said) as caught:
        convert.load(tmp_path / "a.pt")
    assert str(caught.value).startswith(str(tmp_path / "a.pt")) and "\n" not in str(caught.value)


def test_lucidrains_own_class_is_refused(tmp_path):
    if importlib.util.find_spec("denoising_diffusion_pytorch") is None:
        pytest.skip("denoising-diffusion-pytorch is not installed; names of its layout are refused above")
    import_torchvision()
    from denoising_diffusion_pytorch import Unet
    torch.save(Unet(dim=64, dim_mults=(1, 2)).state_dict(), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="lucidrains"):
        convert.load(tmp_path / "a.pt")


def test_both_formats_of_torch_and_bfloat16_are_read(tmp_path):
    state = built(song2021)
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert same(convert.load(tmp_path / "old.pt")[0], convert.load_file(_saved(tmp_path / "new.pt", state))[0])
    parameters = {"epoch": 3, "model": {name: torch.nn.Parameter(value) for name, value in state.items()}}
    assert same(convert.load_file(_saved(tmp_path / "parameters.pt", parameters))[0], convert.load(tmp_path / "new.pt")[0])
    half = {name: value.bfloat16() for name, value in state.items()}
    found = convert.load_file(_saved(tmp_path / "half.pt", half))[0]
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
        convert.load(path)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    _saved(tmp_path / "a.pt", {"temb.dense.0.weight": torch.zeros(1 << 22)})
    with zipfile.ZipFile(tmp_path / "a.pt") as source, zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as bomb:
        for member in source.infolist():
            bomb.writestr(member.filename, source.read(member))
    assert (tmp_path / "b.pt").stat().st_size < 100_000
    with pytest.raises(CheckpointError, match="is compressed"):
        convert.load(tmp_path / "b.pt")


def test_a_file_larger_than_the_limit_is_refused_unread(tmp_path, folder, monkeypatch):
    with (tmp_path / "huge.pt").open("wb") as file:
        file.write(b"PK\x03\x04")
        file.truncate(tensor_files.MAX_FILE + 1)  # sparse
    with pytest.raises(CheckpointError, match="more than"):
        convert.load(tmp_path / "huge.pt")
    (folder / WEIGHTS).unlink()
    (tmp_path / "huge.pt").rename((folder / WEIGHTS).with_suffix(".bin"))
    with pytest.raises(CheckpointError, match="more than this network"):
        convert.load(folder)


def test_a_file_of_canonical_names_needs_its_config_beside_it(folder, tmp_path):
    path = folder / WEIGHTS
    assert same(convert.load(path)[0], initialise(TINY, 0))
    path.rename(tmp_path / "alone.safetensors")
    with pytest.raises(CheckpointError, match="config.json beside"):
        convert.load(tmp_path / "alone.safetensors")


@pytest.mark.parametrize("source", ["nowhere", "a/b/c", "../x", "a\nb", "x" * 5000])
def test_a_place_that_is_none_is_one_line(source):
    with pytest.raises(CheckpointError) as caught:
        convert.load(source)
    assert len(str(caught.value).splitlines()) <= 2


# MindSpore

needs_mindspore = pytest.mark.skipif(importlib.util.find_spec("mindspore") is None, reason="MindSpore is not installed")


@needs_mindspore
def test_mindspore_checkpoints_go_both_ways(folder, tmp_path):
    assert convert.main([str(folder), str(tmp_path / "out"), "--mindspore"]) == 0
    import mindspore as ms
    backends.load("mindspore")
    from backends.mindspore.unet import UNet

    net = UNet(TINY, tuned=False)
    loaded = ms.load_checkpoint(str(tmp_path / "out/unet/diffusion_pytorch_model.ckpt"))
    weights = initialise(TINY, 0)
    assert ms.load_param_into_net(net, loaded, strict_load=True) == ([], [])
    assert same({name: p.asnumpy() for name, p in net.parameters_and_names()}, weights)

    (tmp_path / "out" / WEIGHTS).unlink()  # the .ckpt is now all there is
    assert same(convert.load(tmp_path / "out")[0], weights)
    ms.save_checkpoint(net, str(tmp_path / "out/unet/mine.ckpt"))
    loaded = convert.load(tmp_path / "out/unet/mine.ckpt")
    assert same(loaded[0], weights) and loaded[1:] == (TINY, DiffusionConfig())

    renamed = [{"name": name.replace(".weight", ".gamma").replace(".bias", ".beta") if "norm" in name else name,
                "data": ms.Tensor(value)} for name, value in weights.items()]  # nn.GroupNorm's own names
    ms.save_checkpoint(renamed, str(tmp_path / "out/unet/gamma.ckpt"))
    assert same(convert.load(tmp_path / "out/unet/gamma.ckpt")[0], weights)


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
        convert.load(path)
    for damaged, said in ((content[:-100], "corrupt"), (content[:500] + b"\x7f" + content[501:], "CRC-32")):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=said):
            convert.load(path)


# the hub


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub on this machine: the routes that `snapshot_download` asks for, serving `hub.folder` as owner/name."""
    from huggingface_hub import constants

    class Handler(BaseHTTPRequestHandler):
        def answer(self, status, data=b"", **headers):
            self.send_response(status)
            for name, value in {**headers, "Content-Length": len(data)}.items():
                self.send_header(name.replace("_", "-"), str(value))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        def do_GET(self):
            path = self.path.partition("?")[0]
            files = [file.relative_to(server.folder).as_posix() for file in server.folder.rglob("*") if file.is_file()]
            if path.startswith("/api/models/owner/name/tree/"):
                sizes = {file: (server.folder / file).stat().st_size for file in files}
                tree = [{"type": "file", "path": file, "size": size, "oid": "a" * 40} for file, size in sizes.items()]
                self.answer(200, json.dumps(tree).encode(), Content_Type="application/json")
            elif path.startswith("/api/models/owner/name/revision/"):
                server.revisions.add(path.rpartition("/")[2])
                info = {"id": "owner/name", "sha": "0" * 40, "siblings": [{"rfilename": file} for file in files]}
                self.answer(200, json.dumps(info).encode(), Content_Type="application/json")
            elif path.startswith("/owner/name/resolve/") and (file := path.split("/", 5)[5]) in files:
                server.served.add(file)
                data = (server.folder / file).read_bytes()
                self.answer(200, data, ETag=f'"{hashlib.sha256(data).hexdigest()}"', X_Repo_Commit="0" * 40)
            else:
                self.answer(404)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.served, server.revisions = set(), set()
    url = f"http://127.0.0.1:{server.server_port}"  # read from $HF_ENDPOINT on import, which is too late here
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_name_on_the_hub_loads_and_only_what_is_needed_is_fetched(hub, folder, tmp_path):
    hub.folder = folder
    torch.save({"a": torch.zeros(1)}, (folder / WEIGHTS).with_suffix(".bin"))
    (folder / "run_me.py").write_text("raise SystemExit")
    weights, model, diffusion = convert.load("owner/name")
    assert same(weights, initialise(TINY, 0)) and (model, diffusion) == (TINY, DiffusionConfig())
    assert hub.served == {"model_index.json", "unet/config.json", "scheduler/scheduler_config.json", WEIGHTS}

    blob = (tmp_path / "cache").rglob("*.safetensors").__next__().resolve()
    damaged = bytearray(blob.read_bytes())
    damaged[-1] ^= 1
    blob.write_bytes(damaged)
    with pytest.raises(CheckpointError, match="does not match its SHA-256 on the hub"):
        convert.load("owner/name")


def test_a_hub_repository_with_a_pickle_alone_goes_through_weights_only(hub, folder):
    hub.folder = make_legacy(folder, flat=True)  # google/ddpm-cifar10-32 before it had safetensors
    weights = {name: torch.from_numpy(value) for name, value in load_file(hub.folder / checkpoint.WEIGHTS).items()}
    (hub.folder / checkpoint.WEIGHTS).unlink()
    torch.save(weights, hub.folder / "diffusion_pytorch_model.bin")
    assert same(convert.load("owner/name@v1.0")[0], initialise(TINY, 0)) and hub.revisions == {"v1.0"}


def test_no_network_is_one_line_that_says_what_to_do(hub, capsys):
    hub.shutdown()
    hub.server_close()
    assert run.main(["--weights", "google/ddpm-cifar10-32", "--dry-run=plan"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "put its config.json, scheduler_config.json and diffusion_pytorch_model.safetensors" in said


# at the size of the DDPM paper


@pytest.mark.slow
def test_the_ddpm_cifar10_network_loads_in_under_two_seconds_beside_reading(tmp_path):
    """A folder as google/ddpm-cifar10-32 is: flat, old names of attention, no attention_head_dim."""
    model = ModelConfig.from_dict(CIFAR10, ignore_unknown=True)
    weights = initialise(model, 0)
    assert sum(value.size for value in weights.values()) == 35_746_307
    save_pipeline(tmp_path / "a", weights, model, DiffusionConfig())
    source = make_legacy(tmp_path / "a", flat=True)
    (source / "config.json").write_text(json.dumps(without(CIFAR10, "attention_head_dim")))
    reading, loading = [], []
    for _ in range(3):
        began = time.perf_counter()
        (source / checkpoint.WEIGHTS).read_bytes()
        read = time.perf_counter()
        found = convert.load(source)
        reading.append(read - began)
        loading.append(time.perf_counter() - read)
    assert same(found[0], weights) and found[1:] == (model, DiffusionConfig(variance="large"))
    print(f"reading {min(reading):.2f} s, loading {min(loading):.2f} s")
    assert min(loading) - min(reading) < 2


def test_a_wide_variety_of_networks_survives_torch_files(tmp_path):
    """Weights in PyTorch's own format beside a config, as training scripts leave them."""
    save_pipeline(tmp_path / "p", initialise(OTHERS, 1), OTHERS, DiffusionConfig(variance="learned_range"))
    torch.save({name: torch.from_numpy(value) for name, value in initialise(OTHERS, 1).items()}, tmp_path / "p/unet/mine.pt")
    weights, model, diffusion = convert.load(tmp_path / "p/unet/mine.pt")
    assert same(weights, initialise(OTHERS, 1)) and isinstance(model, ModelConfig) and diffusion.variance == "learned_range"
