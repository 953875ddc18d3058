"""Agreement with diffusers: tables and steps of its DDIM and DDPM schedulers, its UNet forward and backward, its config files.

Its tables are float32, ours of the convention `diffusers` are rounded to float32 at the same places. What still differs is
arithmetic that torch does in float32 throughout (linspace, the zero-SNR rescale, 1 - alpha_bar). So tables are compared to
float32, and steps twice: as shipped, to float32, and with our tables put into its scheduler, where float64 leaves 1e-12.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

import backends
from backends.protocol import Spec
from bench.metric.torchvision_shim import import_torchvision
from bench.weights.diffusers_config import read_scheduler, read_unet
from reference import diffusion as process
from reference import samplers, schedules, timesteps, unet, weights
from reference.config import DiffusionConfig, ModelConfig
from reference.conventions import adopt, make_encode_plan, make_plan
from tests.reference.test_config import CIFAR10
from tests.reference.test_unet import random_weights

import_torchvision()
from diffusers import DDIMInverseScheduler, DDIMScheduler, DDPMScheduler, UNet2DModel  # noqa: E402

SCHEDULES = {"linear": "linear", "quad": "scaled_linear", "cosine": "squaredcos_cap_v2", "sigmoid": "sigmoid"}
PREDICTIONS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
VARIANCES = {"small": "fixed_small", "large": "fixed_large", "learned": "learned", "learned_range": "learned_range"}
SPACINGS = ("leading", "linspace", "trailing")
FLOAT32 = 2.0**-24


@pytest.fixture(autouse=True)
def one_thread():
    """Tensors are small: threads would spend their time waiting for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def scheduler(cls, config: DiffusionConfig, S: int, *, clip: str = "none", exact: bool = True, **choices):
    """The scheduler of this config; `exact` replaces its tables by ours in float64."""
    out = cls(num_train_timesteps=config.timesteps, beta_schedule=SCHEDULES[config.schedule],
              rescale_betas_zero_snr=config.zero_terminal_snr, prediction_type=PREDICTIONS[config.objective],
              clip_sample=clip == "clip", **({"thresholding": clip == "dynamic", "sample_max_value": 1e9}
                                             if cls is not DDIMInverseScheduler else {}), **choices)
    if exact:
        out.alphas_cumprod = torch.from_numpy(tables(config))
        if hasattr(out, "final_alpha_cumprod") and out.final_alpha_cumprod != 1:
            out.final_alpha_cumprod = out.alphas_cumprod[0]
    out.set_timesteps(S)
    return out


def tables(config: DiffusionConfig) -> np.ndarray:
    """alpha_bar of the convention `diffusers`."""
    return schedules.alpha_bars(schedules.betas(adopt(config, "diffusers")), float32_tables=True)


def close(got: np.ndarray, expected: torch.Tensor, tolerance: float) -> None:
    expected = expected.numpy()
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * max(1, np.abs(expected).max()))


def some(plan) -> list[int]:
    """First, middle and last step."""
    return [0, plan.steps // 2, plan.steps - 1]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("T", [1000, 200])
def test_tables_agree_to_float32(schedule, T):
    """Equal bit for bit, but for the sigmoid: torch's float32 exp is not always the nearest float32, and products of a thousand
    alphas keep its units of 6e-8. Our own float64 tables are within products of a thousand such units of all; the cosine's last
    alpha, 0.001, carries 6e-8 / 0.001."""
    config = DiffusionConfig(schedule=schedule, timesteps=T)
    theirs = scheduler(DDPMScheduler, config, T, exact=False)
    literal = adopt(config, "diffusers")
    betas, alpha_bars = schedules.betas(literal).astype(np.float32), tables(config)
    if schedule == "sigmoid":
        np.testing.assert_allclose(betas, theirs.betas.numpy(), rtol=5e-7)
        np.testing.assert_allclose(alpha_bars, theirs.alphas_cumprod.numpy(), rtol=5e-7)
    else:
        np.testing.assert_array_equal(betas, theirs.betas.numpy())
        np.testing.assert_array_equal(alpha_bars, theirs.alphas_cumprod.numpy())
    np.testing.assert_allclose(schedules.alpha_bars(schedules.betas(config)), theirs.alphas_cumprod.numpy(),
                               rtol=1e-4 if schedule == "cosine" else 1e-5)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_zero_snr_tables_agree_to_float32(schedule):
    """The rescale runs in float32 there: sqrt(alpha_bar) minus its last value carries 6e-8 of 1, and a beta is one less a ratio of
    such neighbours, so betas of 1e-4 keep two or three digits and alpha_bar six decimals."""
    config = DiffusionConfig(schedule=schedule, zero_terminal_snr=True, objective="v")
    theirs = scheduler(DDPMScheduler, config, 10, exact=False)
    np.testing.assert_allclose(schedules.betas(config), theirs.betas.numpy(), rtol=0, atol=6e-6)
    np.testing.assert_allclose(tables(config), theirs.alphas_cumprod.numpy(), rtol=0, atol=2e-6)
    assert theirs.alphas_cumprod[-1] == 0


@pytest.mark.parametrize("T", [1000, 77])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_timesteps_are_the_same_for_every_S(spacing, T):
    theirs = DDIMScheduler(num_train_timesteps=T, timestep_spacing=spacing)
    for S in range(1, T + 1, 1 if T < 100 else 7):
        theirs.set_timesteps(S)
        assert timesteps.path(T, S, spacing, "diffusers")[::-1] == theirs.timesteps.tolist(), S


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("objective", PREDICTIONS)
def test_ddim_steps(objective, spacing):
    x, output, z = normal(3, 2, 3, 4, 4)
    for zero_snr, S, eta, clip, final, rederive in itertools.product(
            (False, True), (10, 15), (0.0, 0.7), ("none", "clip", "dynamic"), ("one", "first"), (False, True)):
        if zero_snr and objective == "eps":
            continue  # which we refuse
        config = DiffusionConfig(objective=objective, zero_terminal_snr=zero_snr)
        plan = make_plan(config, S, eta=eta, spacing=spacing, convention="diffusers", clip=clip, final_alpha_bar=final,
                         rederive_eps=rederive)
        theirs = scheduler(DDIMScheduler, config, S, clip=clip, timestep_spacing=spacing, set_alpha_to_one=final == "one")
        c = samplers.coefficients(plan)
        for i in some(plan):
            got, x0 = samplers.step(x, output, i, plan, z if plan.noise_gate[i] else None, c)
            expected = theirs.step(torch.from_numpy(output), plan.timesteps[i], torch.from_numpy(x), eta=eta,
                                   use_clipped_model_output=rederive, variance_noise=torch.from_numpy(z) if eta else None)
            close(x0, expected.pred_original_sample, 1e-12)
            close(got, expected.prev_sample, 1e-12)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("variance", VARIANCES)
def test_ddpm_steps(variance, spacing, monkeypatch):
    """A network of `learned` variance gives the variance itself there, its logarithm here as in IDDPM: told apart by exp."""
    x, output, z = normal(3, 2, 3, 4, 4)
    v = np.random.default_rng(1).uniform(-1, 1, x.shape)
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: torch.from_numpy(z))
    theirs_v = np.exp(v) if variance == "learned" else v
    learned = variance.startswith("learned")
    for objective, zero_snr, S, clip in itertools.product(PREDICTIONS, (False, True), (10, 15), ("none", "clip", "dynamic")):
        if zero_snr and objective == "eps":
            continue
        config = DiffusionConfig(objective=objective, zero_terminal_snr=zero_snr, variance=variance)
        plan = make_plan(config, S, sampler="ddpm", spacing=spacing, convention="diffusers", clip=clip, variance=variance)
        theirs = scheduler(DDPMScheduler, config, S, clip=clip, timestep_spacing=spacing, variance_type=VARIANCES[variance])
        c = samplers.coefficients(plan)
        for i in some(plan):
            ours_says = np.concatenate((output, v), axis=1) if learned else output
            theirs_says = np.concatenate((output, theirs_v), axis=1) if learned else output
            got, x0 = samplers.step(x, ours_says, i, plan, z if plan.noise_gate[i] else None, c)
            expected = theirs.step(torch.from_numpy(theirs_says), plan.timesteps[i], torch.from_numpy(x))
            close(x0, expected.pred_original_sample, 1e-12)
            close(got, expected.prev_sample, 1e-12)


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("objective", ["eps", "v"])
def test_encoding_steps(objective, spacing):
    x, output = normal(2, 2, 3, 4, 4)
    for S in (10, 15, 300):
        config = DiffusionConfig(objective=objective)
        plan = make_encode_plan(config, S, spacing=spacing, convention="diffusers")
        theirs = scheduler(DDIMInverseScheduler, config, S, clip="clip", timestep_spacing=spacing)
        assert list(plan.network_t) == theirs.timesteps.tolist()
        c = samplers.coefficients(plan)
        for i in some(plan):
            expected = theirs.step(torch.from_numpy(output), int(plan.network_t[i]), torch.from_numpy(x)).prev_sample
            close(samplers.step(x, output, i, plan, None, c)[0], expected, 1e-12)


@pytest.mark.parametrize("schedule", ["linear", "quad", "cosine"])
@pytest.mark.parametrize("objective", PREDICTIONS)
def test_ddim_steps_as_shipped(objective, schedule):
    """Roots of 1 - ab, 1 - ab', 1 - ab / ab' and 1 - ab' - sigma^2 turn float32's 2^-24 of 1 into 2^-24 / root or more."""
    x, output, z = normal(3, 2, 3, 4, 4)
    config = DiffusionConfig(objective=objective, schedule=schedule)
    for S, spacing, eta in itertools.product((10, 300), SPACINGS, (0.0, 1.0)):
        plan = make_plan(config, S, eta=eta, spacing=spacing, convention="diffusers")
        theirs = scheduler(DDIMScheduler, config, S, clip="clip", exact=False, timestep_spacing=spacing)
        c = samplers.coefficients(plan)
        for i in some(plan):
            got = samplers.step(x, output, i, plan, z if plan.noise_gate[i] else None, c)[0]
            expected = theirs.step(torch.from_numpy(output), plan.timesteps[i], torch.from_numpy(x), eta=eta,
                                   variance_noise=torch.from_numpy(z) if eta else None).prev_sample
            ab, ab_prev, root = (c[k][i] for k in ("alpha_bar", "alpha_bar_prev", "prev_from_eps"))
            small = [1 - ab] if ab_prev == 1 else [1 - ab, 1 - ab_prev, 1 - ab / ab_prev, root]
            close(got, expected, 8 * FLOAT32 / min(small))


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_their_root_of_a_negative_number_is_not_ours(schedule):
    """From alpha_bar = 0 at eta = 1 nothing of eps is left. In float32 their 1 - ab' - sigma^2 is a unit of rounding of either
    sign: for some S its root is NaN and the image lost."""
    config, lost = DiffusionConfig(objective="v", schedule=schedule, zero_terminal_snr=True), 0
    x, output, z = normal(3, 1, 1, 2, 2)
    for S in (10, 20, 50, 100, 250, 1000):
        plan = make_plan(config, S, eta=1.0, spacing="trailing", convention="diffusers")
        theirs = scheduler(DDIMScheduler, config, S, clip="clip", exact=False, timestep_spacing="trailing")
        expected = theirs.step(torch.from_numpy(output), 999, torch.from_numpy(x), eta=1.0, variance_noise=torch.from_numpy(z))
        got = samplers.step(x, output, 0, plan, z, samplers.coefficients(plan))[0]
        assert np.isfinite(got).all()
        if torch.isnan(expected.prev_sample).any():
            lost += 1
        else:
            close(got, expected.prev_sample, 1e-3)
    assert lost > 0


@pytest.mark.parametrize("spacing", SPACINGS)
def test_whole_path_as_shipped(spacing):
    """Fifty DDIM steps with a smooth stand-in for a network, from the same x_T."""
    x_T = normal(2, 3, 4, 4)
    plan = make_plan(DiffusionConfig(), 50, spacing=spacing, convention="diffusers")
    theirs = scheduler(DDIMScheduler, DiffusionConfig(), 50, clip="clip", exact=False, timestep_spacing=spacing)
    x = torch.from_numpy(x_T)
    for t in theirs.timesteps:
        x = theirs.step(torch.sin(x) + t / 2000, t, x).prev_sample
    close(samplers.sample(lambda x, t: np.sin(x) + t.reshape(-1, 1, 1, 1) / 2000, x_T, plan), x, 1e-5)


def test_thresholding_is_plain_clipping_with_their_default_maximum():
    """`sample_max_value` 1.0 caps the threshold at the value that it has at least."""
    x = torch.from_numpy(normal(2, 3, 4, 4) * 3)
    theirs = DDIMScheduler(thresholding=True)
    np.testing.assert_array_equal(theirs._threshold_sample(x).numpy(), x.clamp(-1, 1).numpy())


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_noising_and_velocity(schedule):
    config = DiffusionConfig(schedule=schedule)
    theirs, t = scheduler(DDPMScheduler, config, 10), np.array([0, 500, 999])
    ab = tables(config)
    x0, noise = normal(2, 3, 2, 4, 4)
    tensors = torch.from_numpy(x0), torch.from_numpy(noise), torch.from_numpy(t)
    close(process.q_sample(x0, t, noise, ab), theirs.add_noise(*tensors), 1e-14)
    close(process.v_from_x0_eps(x0, t, noise, ab), theirs.get_velocity(*tensors), 1e-14)


DOWN, UP = ("DownBlock2D", "AttnDownBlock2D"), ("UpBlock2D", "AttnUpBlock2D")
NETS = {
    "ho2020 layout": ModelConfig(sample_size=8, in_channels=3, out_channels=3, block_out_channels=(8, 16, 16), norm_num_groups=4,
                                 layers_per_block=2),
    "diffusers defaults": ModelConfig(sample_size=8, block_out_channels=(16, 32), norm_num_groups=8, norm_eps=1e-5,
                                      down_block_types=DOWN, up_block_types=UP[::-1], downsample_padding=1, flip_sin_to_cos=True,
                                      freq_shift=0, attention_head_dim=8, layers_per_block=2),
    "heads of four": ModelConfig(sample_size=8, block_out_channels=(8, 16), norm_num_groups=2, down_block_types=(DOWN[1],) * 2,
                                 up_block_types=(UP[1],) * 2, attention_head_dim=4),
    "one level": ModelConfig(sample_size=6, block_out_channels=(12,), norm_num_groups=3, down_block_types=DOWN[:1],
                             up_block_types=UP[1:], freq_shift=0),
    "self-conditioned, learned variance": ModelConfig(sample_size=8, in_channels=2, out_channels=2, block_out_channels=(8, 24),
                                                      norm_num_groups=4, down_block_types=DOWN, up_block_types=UP),
    "four levels, widths that fall": ModelConfig(sample_size=8, block_out_channels=(16, 8, 16, 24), norm_num_groups=4,
                                                 down_block_types=(*DOWN, *DOWN), up_block_types=(*UP, *UP), flip_sin_to_cos=True),
    "two heads": ModelConfig(sample_size=4, block_out_channels=(8, 16), norm_num_groups=4, num_attention_heads=2,
                             down_block_types=DOWN, up_block_types=UP[::-1], downsample_padding=1),
    "as many groups as channels": ModelConfig(sample_size=8, block_out_channels=(32, 64), norm_num_groups=32, layers_per_block=2,
                                              down_block_types=DOWN, up_block_types=UP[::-1]),
    "scale-shift": ModelConfig(sample_size=8, in_channels=3, out_channels=6, block_out_channels=(8, 16), norm_num_groups=4,
                               down_block_types=DOWN, up_block_types=UP[::-1], resnet_time_scale_shift="scale_shift",
                               attn_norm_num_groups=8, attention_head_dim=4),
    "scale-shift, no norm in the middle": ModelConfig(sample_size=8, block_out_channels=(8, 16), norm_num_groups=8, freq_shift=0,
                                                      down_block_types=DOWN, up_block_types=UP[::-1], layers_per_block=2,
                                                      resnet_time_scale_shift="scale_shift"),
    "scale-shift, resampled by residual blocks": ModelConfig(
        sample_size=8, block_out_channels=(8, 16, 16), norm_num_groups=4, attn_norm_num_groups=4,
        resnet_time_scale_shift="scale_shift",
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"), downsample_type="resnet",
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"), upsample_type="resnet", attention_head_dim=8),
    "other ways to resample": ModelConfig(
        sample_size=16, block_out_channels=(8, 16, 8, 8), norm_num_groups=4, downsample_type="resnet", layers_per_block=2,
        down_block_types=("AttnDownBlock2D", "DownBlock2D", "ResnetDownsampleBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D", "UpBlock2D")),
    "other inputs and no attention in the middle": ModelConfig(
        sample_size=8, block_out_channels=(8, 16), norm_num_groups=4, down_block_types=DOWN, up_block_types=UP[::-1],
        center_input_sample=True, time_embedding_dim=20, add_attention=False, upsample_type="resnet"),
    "other activation, divided middle": ModelConfig(
        sample_size=8, block_out_channels=(8, 16), norm_num_groups=4, down_block_types=DOWN, up_block_types=UP[::-1], act_fn="gelu",
        mid_block_scale_factor=1.5, downsample_type="resnet", resnet_time_scale_shift="scale_shift", attn_norm_num_groups=4),
    "other activation, no middle": ModelConfig(
        sample_size=8, block_out_channels=(8, 16), norm_num_groups=4, down_block_types=DOWN, up_block_types=UP[::-1], act_fn="mish",
        mid_block_type=None),
    "other activation": ModelConfig(sample_size=8, block_out_channels=(8, 16), norm_num_groups=4, down_block_types=DOWN,
                                    up_block_types=UP[::-1], act_fn="relu", layers_per_block=2),
    "other groups in the middle": ModelConfig(sample_size=8, block_out_channels=(8, 16), norm_num_groups=4, attn_norm_num_groups=2,
                                              down_block_types=DOWN, up_block_types=UP[::-1]),
}


def unet2d(config: ModelConfig, w: weights.Weights) -> UNet2DModel:
    keys = config.to_dict()
    heads = keys.pop("num_attention_heads")
    if heads:  # UNet2DModel knows the width of a head alone
        keys["attention_head_dim"] = config.block_out_channels[-1] // heads
    del keys["zero_init"]
    model = UNet2DModel(**keys).double()
    model.load_state_dict({name: torch.from_numpy(value) for name, value in w.items()}, strict=True)
    return model.eval()


@pytest.mark.parametrize("name", NETS)
def test_unet_forward(name):
    """At t = 0 their float32 sinusoid is exact, and only rounding is left. At t = 977 its angle is 3e-5 off."""
    config = NETS[name]
    w = random_weights(config)
    model = unet2d(config, w)
    x = normal(2, config.in_channels, config.sample_size, config.sample_size)
    for t, tolerance in (([0, 0], 1e-12), ([1, 977], 1e-5)):
        with torch.no_grad():
            expected = model(torch.from_numpy(x), torch.tensor(t)).sample
        assert expected.std() > 0.1
        close(unet.forward(w, config, x, np.array(t)), expected, tolerance)


@pytest.mark.parametrize("name", [name for name in NETS if name.startswith(("scale", "other", "as many"))])
@pytest.mark.parametrize("backend, dtype", [
    ("torch", "float64"), ("torch", "float32"),
    pytest.param("mindspore", "float32", marks=[pytest.mark.slow, pytest.mark.sampled]),  # seconds for each
])
def test_forward_of_a_backend(backend, dtype, name):
    """Both told t as it is: in float64 at t = 0, where their sinusoid is exact."""
    pytest.importorskip(backend)
    config, t = NETS[name], np.array([0, 0] if dtype == "float64" else [1, 977])
    w = {key: value.astype(np.float32) for key, value in random_weights(config).items()}
    x = normal(2, config.in_channels, config.sample_size, config.sample_size).astype(dtype)
    learned = {"variance": "learned_range"} if config.out_channels == 2 * config.in_channels else {}
    ours = backends.load(backend).create(Spec(config, DiffusionConfig(**learned), dtype=dtype))
    ours.load_weights(w)
    with torch.no_grad():
        expected = unet2d(config, w)(torch.from_numpy(x.astype(np.float64)), torch.from_numpy(t)).sample
    close(ours.to_host(ours.forward(ours.to_device(x), ours.to_device(t))), expected, 1e-12 if dtype == "float64" else 1e-5)


@pytest.mark.parametrize("name", NETS)
def test_unet_backward(name):
    """Directional derivatives of the training loss, by central differences of our forward pass and by their autograd. Each of
    several directions moves every parameter; t = 0 leaves the sinusoid's rounding out."""
    config, diffusion = NETS[name], DiffusionConfig()
    w = random_weights(config)
    model = unet2d(config, w)
    rng = np.random.default_rng(0)
    c = config.out_channels
    x0, noise, extra = rng.uniform(-1, 1, (3, 2, max(c, config.in_channels), config.sample_size, config.sample_size))
    ab = schedules.alpha_bars(schedules.betas(diffusion))

    for t, tolerance in ((np.array([0, 0]), 1e-8), (np.array([3, 977]), 1e-5)):
        xt = process.q_sample(x0[:, :config.in_channels], t, noise[:, :config.in_channels], ab)

        def loss(moved, xt=xt, t=t):
            return process.loss(diffusion, x0[:, :c], t, noise[:, :c], unet.forward(moved, config, xt, t))

        model.zero_grad()
        out = model(torch.from_numpy(xt), torch.from_numpy(t)).sample
        torch.nn.functional.mse_loss(out, torch.from_numpy(noise[:, :c])).backward()
        gradients = {k: p.grad.numpy() for k, p in model.named_parameters()}
        for _ in range(3):
            d = {k: rng.standard_normal(v.shape) for k, v in w.items()}
            h = 1e-4 / math.sqrt(sum(v.size for v in d.values()))
            numeric = (loss({k: v + h * d[k] for k, v in w.items()}) - loss({k: v - h * d[k] for k, v in w.items()})) / (2 * h)
            exact = sum((gradients[k] * d[k]).sum() for k in d)
            size = math.sqrt(sum((g**2).sum() for g in gradients.values()))
            assert numeric == pytest.approx(exact, rel=0, abs=tolerance * size)


def test_parameters_of_the_published_cifar10_network():
    config = ModelConfig.from_dict(CIFAR10, ignore_unknown=True)
    with torch.device("meta"):
        model = UNet2DModel(**{k: v for k, v in CIFAR10.items() if not k.startswith("_")})
    assert {k: tuple(v.shape) for k, v in model.state_dict().items()} == weights.shapes(config)


@pytest.mark.parametrize("name", [n for n, c in NETS.items() if not c.num_attention_heads])
def test_a_network_is_read_from_their_config_json(name, tmp_path):
    unet2d(NETS[name], random_weights(NETS[name])).save_config(tmp_path)
    assert dataclasses.replace(read_unet(tmp_path / "config.json", legacy=False), zero_init=True) == NETS[name]


@pytest.mark.parametrize("cls", [DDPMScheduler, DDIMScheduler])
def test_a_diffusion_is_read_from_their_config_json(cls, tmp_path):
    choices = {"variance_type": "fixed_large"} if cls is DDPMScheduler else {}
    cls(num_train_timesteps=300, beta_schedule="scaled_linear", beta_end=0.012, prediction_type="v_prediction",
        rescale_betas_zero_snr=True, **choices).save_config(tmp_path)
    got = read_scheduler(tmp_path / "scheduler_config.json")
    assert got == DiffusionConfig(schedule="quad", timesteps=300, beta_end=0.012, objective="v", zero_terminal_snr=True,
                                  variance="large" if choices else "small")
