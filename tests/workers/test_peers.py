"""Peers compute what they are said to: diffusers and Flax our function, lucidrains the nearest; and FLOPs are torch's."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from backends import NotInstalled
from backends.protocol import BackendError, Spec
from bench import streams
from bench.messages import Describe, Load, TimeSample, TimeTrain
from bench.presets import PRESETS
from bench.timing import flops
from bench.training import batches
from bench.workers import peers, session, timed
from bench.workers.peers import exported
from reference import samplers, unet, weights
from reference.config import ConfigError, DiffusionConfig, ModelConfig, OptimConfig
from reference.conventions import make_plan

TINY = ModelConfig(sample_size=8, layers_per_block=2, block_out_channels=(8, 16), norm_num_groups=4, zero_init=False,
                   down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"))
SPEC = Spec(TINY, DiffusionConfig(timesteps=20), OptimConfig(lr=1e-3), mode="stock")
STEPS = {"batch_size": 4, "seed": 0}


def opened(name: str, spec: Spec = SPEC) -> session.Session:
    return session.create(name, spec, lambda *_: None, print)


HEADS = replace(TINY, attention_head_dim=8, flip_sin_to_cos=True, freq_shift=0, downsample_padding=1)


@pytest.mark.parametrize("model", [TINY, HEADS])
def test_diffusers_computes_our_function(model):
    peer, w = peers.create("diffusers", replace(SPEC, model=model)), weights.initialise(model, 1)
    peer.load_weights(w)
    x, t = streams.normal(0, "check", np.arange(3), (1, 8, 8)), np.array([0, 7, 19])
    found = peer.to_host(peer.forward(peer.to_device(x), peer.to_device(t)))
    np.testing.assert_allclose(found, unet.forward(w, model, x.astype(float), t), atol=1e-5)


@pytest.mark.slow
@pytest.mark.sampled
@pytest.mark.parametrize("model", [TINY, HEADS])
def test_the_port_to_flax_computes_our_function(model):
    """Its network, path and, from the same batches, losses and weights."""
    pytest.importorskip("flax")
    spec = replace(SPEC, model=model, mode="tuned", optim=OptimConfig(lr=1e-2, eps=1e-3, max_grad_norm=1.0))
    peer, w = peers.create("flax", spec), weights.initialise(model, 1)
    peer.load_weights(w)
    assert all(np.array_equal(value, w[name]) for name, value in peer.weights().items())
    x, t = streams.normal(0, "check", np.arange(3), (1, 8, 8)), np.array([0, 7, 19])
    found = peer.to_host(peer.forward(peer.to_device(x), peer.to_device(t)))
    np.testing.assert_allclose(found, unet.forward(w, model, x.astype(float), t), atol=1e-5)
    for clip in ("clip", "none"):
        plan = make_plan(SPEC.diffusion, 5, clip=clip, spacing="leading")
        ours = samplers.sample(lambda x, t: unet.forward(w, model, x, t), x.astype(float), plan, None)
        np.testing.assert_allclose(peer.to_host(peer.sample(peer.to_device(x), plan)), ours, atol=1e-4)
    torch = opened("torch", spec).backend
    torch.load_weights(w)
    for n in range(3):
        batch = batches.training_batch(0, np.arange(256, dtype=np.uint8).reshape(4, 1, 8, 8), n, 4, 20)
        np.testing.assert_allclose(*(float(one.to_host(one.train_step(batch))) for one in (torch, peer)), rtol=1e-5)
    for name, value in peer.weights().items():
        np.testing.assert_allclose(value, torch.weights()[name], atol=2e-5, err_msg=name)
    with pytest.raises(ConfigError, match="the Flax port has 'default' alone"):
        peers.create("flax", replace(spec, model=replace(model, resnet_time_scale_shift="scale_shift")))


@pytest.mark.slow
@pytest.mark.sampled
@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("bfloat16", 6e-2)])
def test_tuned_diffusers_computes_it_too(dtype, tolerance):
    """Compiled, channels_last, and in bfloat16 to its precision. With one layer on one level: compiling each takes seconds."""
    model = replace(TINY, layers_per_block=1, block_out_channels=(8,), down_block_types=("DownBlock2D",),
                    up_block_types=("UpBlock2D",))
    peer, w = peers.create("diffusers", replace(SPEC, model=model, mode="tuned", dtype=dtype)), weights.initialise(model, 1)
    peer.load_weights(w)
    x, t = streams.normal(0, "check", np.arange(3), (1, 8, 8)), np.array([0, 7, 19])
    found = peer.to_host(peer.forward(peer.to_device(x), peer.to_device(t)))
    np.testing.assert_allclose(found, unet.forward(w, model, x.astype(float), t), atol=tolerance)
    batch = batches.training_batch(0, np.arange(256, dtype=np.uint8).reshape(4, 1, 8, 8), 0, 4, 20)
    eager = peers.create("diffusers", replace(SPEC, model=model))
    eager.load_weights(w)
    np.testing.assert_allclose(float(peer.train_step(batch)), float(eager.train_step(batch)), rtol=tolerance)


ENGINES = [(name, dtype) for name in peers.ENGINES for dtype in peers.dtypes(name)]


@pytest.mark.slow
@pytest.mark.sampled
@pytest.mark.parametrize("name, dtype", ENGINES)
def test_engines_compute_it_with_the_weights_that_were_loaded_last(name, dtype):
    """Two batch sizes and two sets of weights, each converted and checked; and diffusers' path."""
    model = replace(TINY, layers_per_block=1, block_out_channels=(8,), down_block_types=("DownBlock2D",),
                    up_block_types=("UpBlock2D",))
    try:
        peer = peers.create(name, replace(SPEC, model=model, mode="tuned", dtype=dtype))
    except NotInstalled as error:
        pytest.skip(str(error))
    t = np.array([0, 7, 19])
    for seed, n in ((1, 3), (2, 3), (2, 1)):
        w, x = weights.initialise(model, seed), streams.normal(seed, "check", np.arange(n), (1, 8, 8))
        peer.load_weights(w)
        found = peer.to_host(peer.forward(peer.to_device(x), peer.to_device(t[:n])))
        np.testing.assert_allclose(found, unet.forward(w, model, x.astype(float), t[:n]), atol=1e-4 if dtype == "float32" else 6e-2)
    assert 0 <= float(peer.device_info()["largest_difference"]) < (1e-4 if dtype == "float32" else 6e-2)
    plan = make_plan(SPEC.diffusion, 5, clip="clip", spacing="leading")
    ours = samplers.sample(lambda x, t: unet.forward(w, model, x, t), x.astype(float), plan, None)
    np.testing.assert_allclose(peer.to_host(peer.sample(peer.to_device(x), plan)), ours, atol=1e-3 if dtype == "float32" else 0.2)


def test_a_wrong_conversion_is_refused_before_it_is_timed():
    """Also one that gives no numbers."""
    class Wrong(exported.Exported):
        def engine_version(self):
            return "wrong 1"

        def convert(self, network, x, t):
            return lambda x, t: network(x, t) * self.factor

    for factor, ok in ((1.0, True), (1.01, False), (float("nan"), False)):
        peer = Wrong(replace(SPEC, mode="tuned"))
        peer.factor = factor
        peer.load_weights(weights.initialise(TINY, 1))
        x, t = peer.to_device(streams.normal(0, "check", np.arange(2), (1, 8, 8))), peer.to_device(np.array([3, 4]))
        with contextlib.nullcontext() if ok else pytest.raises(BackendError, match="wrong 1: its network differs from diffusers'"):
            peer.forward(x, t)


def test_engines_train_nothing_and_run_on_the_cpu():
    with pytest.raises(ConfigError, match="dtype='bfloat16': onnxruntime is timed in float32"):
        peers.create("onnxruntime", replace(SPEC, dtype="bfloat16"))
    with pytest.raises(ConfigError, match="exported networks are timed on the CPU"):
        peers.create("aotinductor", replace(SPEC, device="cuda"))


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_an_engine_that_is_absent_says_how_to_install_it(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(NotInstalled, match=r"\[peers,engines\]"):
        peers.create(name, SPEC)


@pytest.mark.parametrize("steps", [20, 5, 1])
def test_diffusers_walks_our_path(steps):
    peer, w = peers.create("diffusers", SPEC), weights.initialise(TINY, 1)
    peer.load_weights(w)
    x = streams.normal(3, "x_T", np.arange(2), (1, 8, 8))
    plan = make_plan(SPEC.diffusion, steps, clip="clip", spacing="leading")
    ours = samplers.sample(lambda x, t: unet.forward(w, TINY, x, t), x.astype(float), plan, None)
    np.testing.assert_allclose(peer.to_host(peer.sample(peer.to_device(x), plan)), ours, atol=1e-4)


def test_diffusers_refuses_a_path_that_its_scheduler_does_not_take():
    peer = peers.create("diffusers", SPEC)
    with pytest.raises(ConfigError, match="evenly spaced"):
        peer.sample(peer.to_device(np.zeros((1, 1, 8, 8), np.float32)), make_plan(SPEC.diffusion, 3, spacing="trailing"))


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_diffusers_takes_our_training_steps(clip):
    """Same weights and batches: same losses and weights as the torch backend, whose moving average it lacks.

    A large eps of Adam, for gradients that are 0 but for rounding (of the keys' bias) not to decide an update's sign."""
    spec = replace(SPEC, optim=OptimConfig(lr=1e-2, eps=1e-3, max_grad_norm=clip))
    images, start = np.arange(256, dtype=np.uint8).reshape(4, 1, 8, 8), weights.initialise(TINY, 1)
    ours, theirs = opened("torch", spec).backend, opened("diffusers", spec).backend
    for one in (ours, theirs):
        one.load_weights(start)
    for n in range(3):
        batch = batches.training_batch(0, images, n, 4, 20)
        losses = [float(one.to_host(one.train_step(batch))) for one in (ours, theirs)]
        np.testing.assert_allclose(*losses, rtol=1e-5)
    for name, value in theirs.network.state_dict().items():
        np.testing.assert_allclose(value.numpy(), ours.weights()[name], atol=2e-5, err_msg=name)
    assert np.abs(ours.weights()["conv_in.weight"] - start["conv_in.weight"]).max() > 1e-3


@pytest.mark.parametrize("name", ["diffusers", pytest.param("lucidrains", marks=[pytest.mark.slow, pytest.mark.sampled])])
@pytest.mark.parametrize("dtype", peers.DTYPES)
def test_every_peer_takes_the_commands_of_the_speed_table(name, dtype, tmp_path):
    worker = opened(name, replace(SPEC, dtype=dtype))
    np.savez(tmp_path / "w.npz", **weights.initialise(TINY, 1))
    np.save(tmp_path / "images.npy", np.zeros((4, 1, 8, 8), np.uint8))
    session.load(worker, Load(str(tmp_path / "w.npz")))
    before = [p.detach().clone() for p in worker.backend.network.parameters()]
    assert timed.time_train(worker, TimeTrain(2, str(tmp_path / "images.npy"), **STEPS)).seconds > 0
    assert any((a != b).any() for a, b in zip(before, worker.backend.network.parameters(), strict=True))
    assert timed.time_sample(worker, TimeSample(23, **STEPS)).seconds > 0


@pytest.mark.slow
def test_a_step_of_lucidrains_is_one_call_of_its_network(monkeypatch):
    peer = peers.create("lucidrains", SPEC)
    calls = []
    peer.drawing.register_forward_pre_hook(lambda *_: calls.append(1))
    for steps in (20, 7):
        calls.clear()
        out = peer.sample(peer.to_device(np.zeros((2, 1, 8, 8), np.float32)), make_plan(SPEC.diffusion, steps))
        assert len(calls) == steps and out.shape == (2, 1, 8, 8)


@pytest.mark.parametrize("mistake", [{"dtype": "float64"}, {"device": "ascend"}, {"diffusion": DiffusionConfig(objective="v")}])
def test_what_no_peer_does_is_refused(mistake):
    with pytest.raises(ConfigError):
        peers.create("diffusers", replace(SPEC, **mistake))


def test_a_peer_that_is_absent_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "denoising_diffusion_pytorch", None)
    with pytest.raises(NotInstalled, match=r"\[peers\]"):
        peers.create("lucidrains", SPEC)


def test_peers_import_nothing_until_one_is_created():
    script = ("import sys; from bench.workers import peers; "
              "print({'torch', 'diffusers', 'denoising_diffusion_pytorch'} & {*sys.modules})")
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.slow
def test_sizes():
    """diffusers counts what ours does; lucidrains is another network, of the same order."""
    ours, lucid = opened("torch"), opened("lucidrains")
    told = session.describe(opened("diffusers"), Describe())
    assert told.parameters == weights.count(TINY) == session.describe(ours, Describe()).parameters
    assert told.flops_per_image == flops.forward(TINY) == session.describe(ours, Describe()).flops_per_image
    assert 1 < session.describe(lucid, Describe()).flops_per_image / flops.forward(TINY) < 10


DEEP = ModelConfig(sample_size=16, in_channels=3, out_channels=6, layers_per_block=2, block_out_channels=(16, 32, 64),
                   num_attention_heads=2, down_block_types=("AttnDownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
                   up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D"))
MODELS = {"tiny": TINY, "quick": PRESETS["quick"].model, "speed": PRESETS["speed"].model, "deep": DEEP}


@pytest.mark.parametrize("name", MODELS)
def test_flops_are_those_of_torchs_counter(name):
    """On the eager network; attention as two products, since torch's counter does not know the CPU's fused kernel."""
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    from backends.torch.unet import UNet

    model = MODELS[name]
    network, x = UNet(model), torch.zeros(2, model.in_channels, model.sample_size, model.sample_size)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), FlopCounterMode(display=False) as forward:
        loss = network(x, torch.zeros(2)).sum()
    assert forward.get_total_flops() == 2 * flops.forward(model)
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    assert abs((forward.get_total_flops() + backward.get_total_flops()) / (2 * flops.TRAINING * flops.forward(model)) - 1) < 0.03
