"""Weights come in from other projects and go out to them with the same outputs, or are refused by the first difference."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import backends
from backends.protocol import Spec
from bench.cli.main import main
from bench.metric.torchvision_shim import import_torchvision
from bench.weights import sources
from bench.weights.errors import CheckpointError
from bench.weights.pipeline import WEIGHTS, load_pipeline, save_pipeline
from bench.weights.unsaid import Unsaid
from reference import unet
from reference.config import DiffusionConfig, ModelConfig
from reference.conventions import make_plan
from reference.weights import initialise
from tests.helpers.tiny import TINY, same
from tests.reference.test_config import CIFAR10
from tests.weights.test_pipeline import edit, make_legacy

torch = pytest.importorskip("torch")
from tests.helpers.other_codes import Parameters, nichol2021, song2021  # noqa: E402

FMNIST_SMALL = Path(__file__).parents[2] / "results/checkpoints/fmnist-small"

pytestmark = pytest.mark.usefixtures("one_thread")


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

    weights, model, diffusion = sources.load(FMNIST_SMALL)
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
    assert same({name: value.numpy() for name, value in pipeline.unet.state_dict().items()}, sources.load(FMNIST_SMALL)[0])
    images = pipeline(batch_size=1, generator=torch.Generator().manual_seed(0), num_inference_steps=3, output_type="np").images
    assert images.shape == (1, 28, 28, 1)


@pytest.mark.parametrize("kind", ["network alone", "network and scheduler", "legacy .bin"])
def test_flat_folders_of_diffusers_load(folder, tmp_path, kind):
    import_torchvision()
    from diffusers import UNet2DModel
    expected = DiffusionConfig(variance="small")  # that of diffusers' DDPMScheduler()
    if kind == "legacy .bin":
        source = make_legacy(folder, flat=True)
        weights = {name: torch.from_numpy(value) for name, value in load_file(source / WEIGHTS).items()}
        assert "mid_block.attentions.0.query.weight" in weights
        torch.save(weights, source / "diffusion_pytorch_model.bin")
        (source / WEIGHTS).unlink()
        expected = DiffusionConfig(variance="large")
    else:
        source = tmp_path / "unet-alone"
        UNet2DModel.from_pretrained(folder / "unet").save_pretrained(source)
        edit(source / "config.json", ddim_bench=None)
        if kind == "network and scheduler":
            (source / "scheduler_config.json").write_text((folder / "scheduler/scheduler_config.json").read_text())
            expected = DiffusionConfig()
    weights, model, diffusion = sources.load(source)
    assert same(weights, initialise(TINY, 0)) and model == replace(TINY, zero_init=True) and diffusion == expected


def test_as_many_groups_as_channels_load_with_a_line(tmp_path):
    """diffusers' default of 32 groups with a width of 32: a warning in one line, by every way in; the output is theirs."""
    import_torchvision()
    from diffusers import UNet2DModel
    net = UNet2DModel(sample_size=8, in_channels=3, block_out_channels=(32, 64), layers_per_block=1,
                      down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"))
    net.save_pretrained(tmp_path / "net")
    torch.save(net.state_dict(), tmp_path / "net/a.pt")
    x = torch.randn(2, 3, 8, 8)
    for source in (tmp_path / "net", tmp_path / "net/a.pt"):
        with pytest.warns(UserWarning, match=r"^\S+: norm_num_groups=32: .*\(width 32\) GroupNorm cancels the time embedding"):
            weights, model, _ = sources.load(source)
        np.testing.assert_allclose(unet.forward(weights, model, x.numpy(), T.numpy()), net(x, T).sample, atol=1e-5)
    done = subprocess.run([sys.executable, "-m", "bench", "convert", tmp_path / "net", tmp_path / "out"], capture_output=True,
                          text=True, cwd=Path(__file__).parents[2])
    said = [line for line in done.stderr.splitlines() if "cancels" in line]
    assert done.returncode == 0 and len(said) == 1 and said[0].startswith("warning: ") and "UserWarning" not in done.stderr


@pytest.mark.parametrize("key, value", [("class_embed_type", "timestep"), ("num_class_embeds", 10),
                                        ("time_embedding_type", "fourier"), ("time_embedding_type", "learned")])
def test_a_feature_that_we_lack_is_named(folder, key, value):
    edit(folder / "unet/config.json", ddim_bench=None, attention_head_dim=8, **{key: value})
    values = json.loads((folder / "unet/config.json").read_text())
    (folder / "unet/config.json").write_text(json.dumps(values | {key: value}))
    with pytest.raises(CheckpointError, match=f"config.json: {key}={value!r}: only"):
        sources.load(folder)


@pytest.mark.parametrize("size", [None, "absent"])
def test_a_config_without_an_image_size_is_refused(folder, size):
    edit(folder / "unet/config.json", ddim_bench=None, attention_head_dim=8, sample_size=None)
    values = json.loads((folder / "unet/config.json").read_text())
    values = {key: value for key, value in values.items() if key != "sample_size"} | ({"sample_size": None} if size is None else {})
    (folder / "unet/config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="config.json: sample_size=None: must be the image size, .*write it there"):
        sources.load(folder)


@pytest.mark.parametrize("block", ["AttnSkipDownBlock2D", "SkipDownBlock2D"])
def test_a_block_that_we_lack_is_named(folder, block):
    edit(folder / "unet/config.json", ddim_bench=None, attention_head_dim=8, down_block_types=["DownBlock2D", block])
    with pytest.raises(CheckpointError, match=f"down_block_types='{block}'"):
        sources.load(folder)


# the DDIM code and improved-diffusion

X, T = torch.randn((2, 3, 16, 16), generator=torch.Generator().manual_seed(1)), torch.tensor([3, 977])


def test_a_ddim_code_checkpoint_gives_its_networks_output(tmp_path):
    """`ckpt.pth`: [DataParallel's weights, the optimiser's state, epoch, step, the exponential moving average]."""
    ema = Parameters()
    expected = song2021(ema, X, T)
    raw = {f"module.{name}": value + 1 for name, value in ema.items()}
    torch.save([raw, {"state": {0: {"step": 5, "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4}]}, 3, 5, dict(ema)],
               tmp_path / "ckpt.pth")
    weights, model, diffusion = sources.load(tmp_path / "ckpt.pth", Unsaid(image_size=16))
    assert diffusion == DiffusionConfig() and model.sample_size == 16
    np.testing.assert_allclose(unet.forward(weights, model, X.numpy(), T.numpy()), expected, atol=2e-5)
    assert sources.load(tmp_path / "ckpt.pth")[1].sample_size == 32  # attention at level 1 is taken for 16 x 16

    torch.save(raw, tmp_path / "model-790000.ckpt")  # the weights alone, as the converted ones were published
    weights = sources.load(tmp_path / "model-790000.ckpt")[0]
    np.testing.assert_array_equal(weights["conv_out.bias"], ema["conv_out.bias"] + 1)


@pytest.mark.parametrize("heads", [1, 4])
def test_an_improved_diffusion_checkpoint_gives_its_networks_output(tmp_path, heads):
    state = Parameters()
    expected = nichol2021(state, X, T, heads=heads)
    torch.save(dict(state), tmp_path / "ema_0.9999_500000.pt")
    weights, model, diffusion = sources.load(tmp_path / "ema_0.9999_500000.pt", Unsaid(heads, 16))
    assert diffusion == DiffusionConfig(variance="learned_range", rescale_timesteps=True)
    np.testing.assert_allclose(unet.forward(weights, model, X.numpy(), T.numpy()), expected, atol=2e-5)


@pytest.mark.parametrize("forward, options", [(song2021, {"mult": (1, 2), "attends": (0, 1), "layers": 1, "out": 3}),
                                              (song2021, {"mult": (1, 2, 3), "attends": (0,), "layers": 1, "out": 3}),
                                              (nichol2021, {"mult": (1, 2, 3), "attends": (0, 2), "layers": 1, "out": 3})])
def test_other_shapes_of_both_codes(tmp_path, forward, options):
    state = Parameters()
    expected = forward(state, X, T, **options)
    torch.save(dict(state), tmp_path / "a.pt")
    weights, model, diffusion = sources.load(tmp_path / "a.pt")
    assert model.sample_size == 16 and diffusion.variance == "large"
    np.testing.assert_allclose(unet.forward(weights, model, X.numpy(), T.numpy()), expected, atol=2e-5)


def test_one_command_takes_a_ddim_code_checkpoint_to_a_plan_or_a_folder(tmp_path, capsys):
    state = Parameters()
    song2021(state, X, T)
    torch.save(dict(state), tmp_path / "ckpt.pth")
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (400, 32, 32, 3), np.uint8))
    assert main(["run", "--weights", str(tmp_path / "ckpt.pth"), "--data", str(tmp_path / "images.npy"), "--dry-run=plan",
                     "--samples", "128", "--metric", "none", "--backends", "torch"]) == 0
    assert '"block_out_channels": [\n      64,\n      128,\n      128' in capsys.readouterr().out

    assert main(["convert", str(tmp_path / "ckpt.pth"), str(tmp_path / "out"), "--schedule", "cosine", "--timesteps", "400"]) == 0
    assert "parameters" in capsys.readouterr().out
    weights, model, diffusion = load_pipeline(tmp_path / "out")
    assert diffusion == DiffusionConfig(schedule="cosine", timesteps=400) and model.sample_size == 32
    assert same(weights, sources.load(tmp_path / "ckpt.pth")[0])


def test_heads_that_no_folder_can_hold_are_one_line_and_write_nothing(tmp_path, capsys):
    torch.save(built(nichol2021, mult=(1, 2), layers=1, attends=(0, 1)), tmp_path / "a.pt")
    assert sources.load(tmp_path / "a.pt")[1].num_attention_heads == 4  # in memory they are no trouble
    assert main(["convert", str(tmp_path / "a.pt"), str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "num_attention_heads=4: diffusers' layout has one head width" in said
    assert main(["convert", str(tmp_path / "a.pt"), str(tmp_path / "out"), "--heads", "7"]) == 2
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
    (lambda: built(nichol2021) | {"middle_block.0.emb_layers.1.weight": torch.zeros(256, 256)},
     r"middle_block\.0\.emb_layers\.1\.weight \(256, 256\): shape must be \(128, 256\)"),
    (lambda: built(nichol2021) | {"label_emb.weight": torch.zeros(10, 256)},
     r"label_emb\.weight \(10, 256\): makes the network class-conditional"),
    (lambda: without(without(built(nichol2021), "input_blocks.3.0.op.weight"), "input_blocks.3.0.op.bias"),
     r"input_blocks\.3\.0\.op\.weight: parameter is missing"),  # conv_resample=False
    (lambda: built(song2021, mult=(2, 2), attends=(0,)), r"conv_in\.weight \(64, 3, 3, 3\): shape must be \(128, 3, 3, 3\)"),
    (lambda: without(built(song2021), "down.0.downsample.conv.bias"), r"down\.0\.downsample\.conv\.bias: parameter is missing"),
    (lambda: built(song2021) | {"logvar": torch.zeros(1000)}, r"logvar \(1000,\): parameter is not part"),
    (lambda: built(song2021, attends=()), "does not say image size.*give --image-size"),
    (lambda: built(song2021) | {"conv_in.bias": torch.full((64,), torch.nan)}, "conv_in.bias.*NaN"),
    (lambda: built(song2021) | {"conv_in.bias": torch.zeros(64, dtype=torch.int64)}, "conv_in.bias is int64"),
    (lambda: {"step": 7, "model": {name: torch.zeros(shape) for name, shape in LUCIDRAINS.items()}, "opt": {"state": {}}},
     r"model\.init_conv\.weight \(64, 3, 7, 7\): a 7x7 convolution.*lucidrains"),
    (lambda: {name: torch.zeros(shape) for name, shape in list(LUCIDRAINS.items())[2:]}, "RMSNorm stands where"),
    (lambda: {"layer1.weight": torch.zeros(3)}, "holds layer1.weight, which is of no network"),
    (lambda: 3, "holds no array"),
    (lambda: {"conv_in.weight": torch.zeros(3).to_sparse()}, "needs unpickling.*_rebuild_sparse_tensor"),
    (lambda: {"temb.dense.0.weight": torch.zeros(1).expand(10**13)}, "10000000000000 elements, more than the file holds"),
    (lambda: {"temb.dense.0.weight": torch.zeros(1).expand(600)}, "600 elements, more than the file holds"),  # of 4 bytes each
    (lambda: {"a": bytearray(10)}, "needs unpickling.*bytearray"),  # of any size, which weights_only=True would allocate
    (lambda: {"weights": {"a": torch.zeros(3)}, "args": argparse.Namespace(lr=1)}, "needs unpickling.*argparse.Namespace"),
])
def test_what_does_not_match_is_refused_by_its_first_difference(tmp_path, make, said):
    torch.save(make(), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=said) as caught:
        sources.load(tmp_path / "a.pt")
    assert str(caught.value).startswith(str(tmp_path / "a.pt")) and "\n" not in str(caught.value)


@pytest.mark.slow
def test_lucidrains_own_class_is_refused(tmp_path):
    import_torchvision()
    from denoising_diffusion_pytorch import Unet
    torch.save(Unet(dim=64, dim_mults=(1, 2)).state_dict(), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="lucidrains"):
        sources.load(tmp_path / "a.pt")


# at the size of the DDPM paper


@pytest.mark.slow
@pytest.mark.recorded
def test_the_ddpm_cifar10_network_loads_in_under_two_seconds_beside_reading(tmp_path):
    """Of processor time, in which other work on the machine does not count. The folder is as google/ddpm-cifar10-32: flat, old
    names of attention, no attention_head_dim."""
    model = ModelConfig.from_dict(CIFAR10, ignore_unknown=True)
    weights = initialise(model, 0)
    assert sum(value.size for value in weights.values()) == 35_746_307
    save_pipeline(tmp_path / "a", weights, model, DiffusionConfig())
    source = make_legacy(tmp_path / "a", flat=True)
    (source / "config.json").write_text(json.dumps(without(CIFAR10, "attention_head_dim")))
    reading, loading = [], []
    for _ in range(3):
        began = time.process_time()
        (source / WEIGHTS).read_bytes()
        read = time.process_time()
        found = sources.load(source)
        reading.append(read - began)
        loading.append(time.process_time() - read)
    assert same(found[0], weights) and found[1:] == (model, DiffusionConfig(variance="large"))
    print(f"reading {min(reading):.2f} s, loading {min(loading):.2f} s")
    assert min(loading) - min(reading) < 2
