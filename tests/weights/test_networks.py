"""Networks beyond the plain UNet: state dicts of other codes and folders of diffusers give their own networks' outputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench.metric.torchvision_shim import import_torchvision
from bench.weights import sources
from bench.weights.errors import CheckpointError
from bench.weights.pipeline import load_pipeline, save_pipeline
from bench.weights.unsaid import Unsaid
from reference import unet
from reference.config import ConfigError, DiffusionConfig
from tests.helpers.tiny import same
from tests.weights.test_pipeline import edit

torch = pytest.importorskip("torch")
from tests.helpers.other_codes import Parameters, nichol2021, song2021  # noqa: E402

import_torchvision()
from diffusers import UNet2DModel  # noqa: E402

X, T = torch.randn((2, 3, 16, 16), generator=torch.Generator().manual_seed(1)), torch.tensor([3, 977])
# What github.com/openai/improved-diffusion itself (commit 1bc7bbb) gives at [1, :, 5, 7]: its UNetModel(3, 64, 6, 2, (2,),
# channel_mult=(1, 2, 2), num_heads=4, use_scale_shift_norm=scale_shift) with the state dict of `nichol2021`, at X and T.
NICHOL2021_SAYS = {
    False: [-0.12075750, -0.03652238, 0.02200918, 0.15496114, -0.13845776, -0.20569637],
    True: [-0.04596353, 0.01612959, 0.20979439, -0.51825106, 0.34229013, 0.01252415],
}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("scale_shift", NICHOL2021_SAYS)
def test_an_improved_diffusion_checkpoint_in_a_folder_is_diffusers_network(tmp_path, scale_shift):
    """scale_shift is that code's default. The folder says it to diffusers, and to us without our own record in it."""
    state = Parameters()
    expected = nichol2021(state, X, T, scale_shift=scale_shift)
    np.testing.assert_allclose(expected[1, :, 5, 7], NICHOL2021_SAYS[scale_shift], atol=2e-6)
    torch.save(dict(state), tmp_path / "ema_0.9999_500000.pt")
    weights, model = sources.load(tmp_path / "ema_0.9999_500000.pt")[:2]
    assert model.scale_shift == scale_shift
    np.testing.assert_allclose(unet.forward(weights, model, X.numpy(), T.numpy()), expected, atol=1e-5)
    save_pipeline(tmp_path / "out", weights, model, DiffusionConfig(variance="learned_range"))
    np.testing.assert_allclose(UNet2DModel.from_pretrained(tmp_path / "out/unet")(X, T).sample, expected, atol=1e-5)
    edit(tmp_path / "out/unet/config.json", ddim_bench=None)
    again, read = load_pipeline(tmp_path / "out")[:2]
    assert same(again, weights)
    assert replace(read, num_attention_heads=4, attention_head_dim=None, zero_init=model.zero_init) == model


# The same of github.com/openai/guided-diffusion (commit 22e0df8), its UNetModel(16, 3, 64, 6, layers, attends, channel_mult=mult,
# num_head_channels=32, resblock_updown=True) with use_scale_shift_norm and use_new_attention_order as named.
GUIDED_SAYS = (
    ({"scale_shift": True}, [-0.54620773, 0.15490524, 0.40677211, 0.41340759, 0.7030102, 0.07464004]),
    ({"qkv_first": True, "layers": 1, "mult": (1, 2, 3), "attends": (0, 2)},
     [-0.11180883, 0.5990817, -0.28852654, 0.14203393, 0.04565977, -0.23654298]),
)


@pytest.mark.parametrize("options, said", GUIDED_SAYS, ids=["legacy order", "new order"])
def test_a_guided_diffusion_checkpoint_gives_its_networks_output(tmp_path, options, said):
    state = Parameters()
    expected = nichol2021(state, X, T, updown=True, head_channels=32, **options)
    np.testing.assert_allclose(expected[1, :, 5, 7], said, atol=2e-6)
    torch.save(dict(state), tmp_path / "uncond.pt")
    unsaid = Unsaid(head_channels=32, qkv_order="qkv" if "qkv_first" in options else None)
    weights, model, diffusion = sources.load(tmp_path / "uncond.pt", unsaid)
    assert model.attention_head_dim == 32 and model.downsample_type == model.upsample_type == "resnet"
    np.testing.assert_allclose(unet.forward(weights, model, X.numpy(), T.numpy()), expected, atol=1e-5)
    save_pipeline(tmp_path / "out", weights, model, DiffusionConfig(variance="learned_range"))
    np.testing.assert_allclose(UNet2DModel.from_pretrained(tmp_path / "out/unet")(X, T).sample, expected, atol=1e-5)


@pytest.mark.parametrize("name, shape, said", [
    ("label_emb.weight", (10, 256), r"a\.pt: label_emb\.weight \(10, 256\): makes the network class-conditional"),
    ("input_blocks.0.0.weight", (64, 6, 3, 3), r"a\.pt: input_blocks\.0\.0\.weight \(64, 6, 3, 3\): .*enlarges images"),
])
def test_networks_with_another_input_are_refused_by_name(tmp_path, name, shape, said):
    state = Parameters()
    nichol2021(state, X, T)
    torch.save(state | {name: torch.zeros(shape)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=said) as raised:
        sources.load(tmp_path / "a.pt")
    assert "\n" not in str(raised.value)


def test_heads_and_order_are_options_of_the_codes_that_have_them(tmp_path):
    state = Parameters()
    song2021(state, X, T)
    torch.save(dict(state), tmp_path / "ckpt.pth")
    for given, said in (({"head_channels": 32}, "--head-channels=32"), ({"qkv_order": "qkv"}, "--qkv-order=qkv")):
        with pytest.raises(CheckpointError, match=f"ckpt.pth: {said}: applies to files of improved-diffusion"):
            sources.load(tmp_path / "ckpt.pth", Unsaid(**given))
    with pytest.raises(ConfigError, match="head_channels=32: is the width of a head and heads their number"):
        Unsaid(heads=4, head_channels=32)
    with pytest.raises(ConfigError, match="qkv_order='new': must be one of heads, qkv"):
        Unsaid(qkv_order="new")
