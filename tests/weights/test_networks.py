"""Networks beyond the plain UNet: state dicts of other codes and folders of diffusers give their own networks' outputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench.metric.torchvision_shim import import_torchvision
from bench.weights import sources
from bench.weights.pipeline import load_pipeline, save_pipeline
from reference import unet
from reference.config import DiffusionConfig
from tests.helpers.tiny import same
from tests.weights.test_pipeline import edit

torch = pytest.importorskip("torch")
from tests.helpers.other_codes import Parameters, nichol2021  # noqa: E402

import_torchvision()
from diffusers import UNet2DModel  # noqa: E402

X, T = torch.randn((2, 3, 16, 16), generator=torch.Generator().manual_seed(1)), torch.tensor([3, 977])
# What github.com/openai/improved-diffusion itself (commit 1bc7bbb) gives at [1, :, 5, 7]: its UNetModel(3, 64, 6, 2, (2,),
# channel_mult=(1, 2, 2), num_heads=4, use_scale_shift_norm=scale_shift) with the state dict of `nichol2021`, at X and T.
NICHOL2021_SAYS = {
    False: [-0.12075750, -0.03652238, 0.02200918, 0.15496114, -0.13845776, -0.20569637],
    True: [-0.04596353, 0.01612959, 0.20979439, -0.51825106, 0.34229013, 0.01252415],
}


@pytest.fixture(autouse=True)
def one_thread():
    """Networks here are tiny: threads would spend their time waiting for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(before)


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
