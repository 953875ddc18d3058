"""What the conformance kit can't see of the torch backend: diffusers' numbers, resumption, fallbacks, and its own fast paths."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from backends import NotInstalled
from backends.protocol import Batch, DeviceError, Spec
from reference import weights as reference_weights
from reference.config import DiffusionConfig, ModelConfig, OptimConfig
from reference.conventions import make_plan

torch = pytest.importorskip("torch")
from backends.torch import compiling  # noqa: E402
from backends.torch.backend import TorchBackend, create  # noqa: E402
from backends.torch.compiling import compiled  # noqa: E402
from backends.torch.training import LossScaler  # noqa: E402

DOWN, UP, ADOWN, AUP = "DownBlock2D", "UpBlock2D", "AttnDownBlock2D", "AttnUpBlock2D"
SMALL = ModelConfig(sample_size=8, block_out_channels=(8, 16), norm_num_groups=4, down_block_types=(DOWN, ADOWN),
                    up_block_types=(AUP, UP))
NETWORKS = {
    "ho2020": SMALL,
    "symmetric": replace(SMALL, downsample_padding=1, flip_sin_to_cos=True, freq_shift=0, norm_eps=1e-5, layers_per_block=2,
                         in_channels=3, out_channels=3),
    "head_dim": replace(SMALL, attention_head_dim=4, block_out_channels=(8, 8, 16), down_block_types=(ADOWN, DOWN, DOWN),
                        up_block_types=(UP, AUP, AUP), out_channels=2),
}


def random_weights(model: ModelConfig) -> dict[str, np.ndarray]:
    """Weights without a zero, so that every parameter counts."""
    rng = np.random.default_rng(0)
    start = reference_weights.initialise(replace(model, zero_init=False), 0)
    return {name: (value + 0.1 * rng.standard_normal(value.shape)).astype(np.float32) for name, value in start.items()}


def batch(spec: Spec, step: int, size: int = 4) -> Batch:
    """One training step's inputs."""
    rng = np.random.default_rng(step)
    x0, noise = rng.standard_normal((2, size, *spec.image_shape)).astype(np.float32)
    return Batch(np.arange(size), x0.clip(-1, 1), rng.integers(0, spec.diffusion.timesteps, size), noise, step,
                 rng.random(size) < 0.5 if spec.diffusion.self_conditioning else None)


def diffusers_unet(model: ModelConfig) -> torch.nn.Module:
    """diffusers' network of this config with the same weights."""
    from bench.metric.torchvision_shim import import_torchvision

    import_torchvision()
    from diffusers import UNet2DModel

    fields = {k: v for k, v in model.to_dict().items() if k not in ("num_attention_heads", "zero_init")}
    network = UNet2DModel(**fields)
    network.load_state_dict({name: torch.from_numpy(value) for name, value in random_weights(model).items()})
    return network


def loaded(spec: Spec):
    """A backend of this spec with the seeded weights."""
    backend = create(spec)
    backend.load_weights(random_weights(spec.model))
    return backend


@pytest.mark.parametrize("mode", ["stock", "tuned"])
@pytest.mark.parametrize("model", NETWORKS.values(), ids=NETWORKS)
def test_forward_and_gradients_are_those_of_diffusers(model: ModelConfig, mode: str) -> None:
    spec = Spec(replace(model, out_channels=model.in_channels), mode=mode)
    backend, theirs, given = loaded(spec), diffusers_unet(spec.model), batch(spec, 0)
    x, t = torch.from_numpy(given.noise), torch.from_numpy(given.t)
    expected = theirs(x, t).sample.detach().numpy()
    np.testing.assert_allclose(backend.forward(x, t).numpy(), expected, rtol=0, atol=1e-5 * np.abs(expected).max())

    loss, gradients = backend.loss_and_gradients(given)
    ab = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)[t].reshape(-1, 1, 1, 1)
    xt = (ab.sqrt() * torch.from_numpy(given.x0) + (1 - ab).sqrt() * x).float()
    expected_loss = (theirs(xt, t).sample - x).square().mean()
    expected_loss.backward()
    assert float(loss) == pytest.approx(expected_loss.item(), rel=1e-5)
    expected_gradients = {name: p.grad.numpy() for name, p in theirs.named_parameters()}
    assert gradients.keys() == expected_gradients.keys()
    largest = max(np.abs(g).max() for g in expected_gradients.values())
    for name, gradient in gradients.items():  # to_k.bias has none but rounding errors: the softmax cancels it
        scale = largest if name.endswith("to_k.bias") else np.abs(expected_gradients[name]).max()
        np.testing.assert_allclose(gradient, expected_gradients[name], rtol=0, atol=5e-5 * scale, err_msg=name)


@pytest.mark.parametrize("mode", ["stock", "tuned"])
def test_ten_steps_are_those_of_a_plain_adam_loop(mode: str) -> None:
    optim = OptimConfig(lr=1e-3, eps=1e-6, warmup_steps=3, max_grad_norm=0.5, ema_decay=0.5)
    spec = Spec(SMALL, optim=optim, dtype="float64", mode=mode)
    backend, theirs = loaded(spec), loaded(replace(spec, mode="stock"))
    adam = torch.optim.Adam(theirs.network.parameters(), lr=1.0, eps=1e-6, foreach=False)
    ema = [p.detach().clone() for p in theirs.network.parameters()]
    clipped = 0
    for n in range(10):
        loss = backend.train_step(batch(spec, n))
        expected, _ = theirs.loss_and_gradients(batch(spec, n))
        assert float(loss) == pytest.approx(float(expected), rel=1e-9)
        clipped += bool(torch.nn.utils.clip_grad_norm_(theirs.network.parameters(), 0.5) > 0.5)
        adam.param_groups[0]["lr"] = 1e-3 * min(1, (n + 1) / 3)
        adam.step()
        decay = min(0.5, (1 + n) / (10 + n))
        ema = [decay * e + (1 - decay) * p.detach() for e, p in zip(ema, theirs.network.parameters(), strict=True)]
    assert clipped > 0
    for ours, other in ((backend.weights(), theirs.network.parameters()), (backend.weights(ema=True), ema)):
        for (name, value), tensor in zip(ours.items(), other, strict=True):
            np.testing.assert_allclose(value, tensor.detach().numpy(), rtol=0, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("mode", ["stock", "tuned"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_a_resumed_run_is_the_uninterrupted_one(dtype: str, mode: str) -> None:
    spec = Spec(replace(SMALL, dropout=0.2), optim=OptimConfig(lr=1e-3), dtype=dtype, mode=mode)
    whole = loaded(spec)
    for n in range(4):
        if n == 2:
            saved = whole.state()
        whole.train_step(batch(spec, n))
    torch.manual_seed(99)
    resumed = create(spec)
    resumed.load_state(saved)
    assert all(np.array_equal(value, saved[name]) for name, value in resumed.state().items())
    for n in (2, 3):
        resumed.train_step(batch(spec, n))
    end = whole.state()
    assert all(np.array_equal(value, end[name]) for name, value in resumed.state().items())
    assert not np.array_equal(end["weights/conv_in.weight"], saved["weights/conv_in.weight"])


def test_loading_weights_starts_the_optimiser_afresh() -> None:
    spec = Spec(SMALL, optim=OptimConfig(lr=1e-3))
    once, twice = loaded(spec), loaded(spec)
    for n in range(3):
        twice.train_step(batch(spec, n))
    twice.load_weights(random_weights(SMALL))
    for backend in (once, twice):
        backend.train_step(batch(spec, 0))
    expected = once.state()
    assert all(np.array_equal(value, expected[name]) for name, value in twice.state().items())


GENTLE = make_plan(DiffusionConfig(objective="v"), 5, eta=0.5, clip="clip")  # v magnifies no rounding
ONE_LEVEL = replace(SMALL, block_out_channels=(8,), down_block_types=(DOWN,), up_block_types=(UP,))  # traced in little time
PLANS = {
    "ddim": make_plan(DiffusionConfig(), 5, eta=0.5, clip="clip"),
    "dynamic": make_plan(DiffusionConfig(), 5, clip="dynamic", threshold_ratio=0.8),
    "ddpm": make_plan(DiffusionConfig(timesteps=20), 20, sampler="ddpm"),
}


def noise(size: int):
    """z of a step: the same for the first images, however many there are."""
    return lambda i: np.stack([np.random.default_rng((i, k)).standard_normal((1, 8, 8)) for k in range(size)]).astype(np.float32)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_time_embeddings_made_beforehand_and_the_batch_size_change_nothing(plan) -> None:
    x = torch.from_numpy(noise(3)(99))
    spec = Spec(SMALL, plan.diffusion, dtype="float64")  # in float32 the first step magnifies rounding 157 times
    stock = loaded(replace(spec, mode="stock")).sample(x, plan, noise(3)).numpy()
    tuned = loaded(spec)
    scale = np.abs(stock).max()
    np.testing.assert_allclose(tuned.sample(x, plan, noise(3)).numpy(), stock, rtol=0, atol=1e-12 * scale)
    np.testing.assert_allclose(tuned.sample(x[:1], plan, noise(1)).numpy(), stock[:1], rtol=0, atol=1e-12 * scale)


def test_the_state_of_a_path_has_the_precision_of_the_optimiser_not_of_the_network() -> None:
    x = torch.from_numpy(noise(2)(99))
    expected = loaded(Spec(SMALL, dtype="float64")).sample(x, GENTLE, noise(2))
    assert expected.dtype == torch.float64
    for dtype, tolerance in (("float32", 1e-4), ("bfloat16", 0.1)):
        out = loaded(Spec(SMALL, dtype=dtype)).sample(x, GENTLE, noise(2))
        assert out.dtype == torch.float32
        error = float((out - expected).abs().max() / expected.abs().max())
        assert 0 < error < tolerance
        assert (error > 1e-4) == (dtype == "bfloat16")  # the network did run in bfloat16


def test_floating_arrays_keep_their_dtype_on_the_way_to_the_device() -> None:
    backend = create(Spec(SMALL))
    for dtype in (np.float32, np.float64, np.int64, np.bool_):
        assert backend.to_host(backend.to_device(np.ones(3, dtype))).dtype == dtype


@pytest.mark.parametrize("device", ["ascend", "cuda:99", "cpu:x"])
def test_what_the_machine_lacks_is_one_line(device: str) -> None:
    with pytest.raises(DeviceError, match=device) as error:
        create(Spec(SMALL, device=device))
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_where_nothing_can_be_compiled_all_is_eager_and_says_so() -> None:
    import torch._inductor.config

    x = torch.from_numpy(noise(2)(99))
    backend, eager = loaded(Spec(ONE_LEVEL, mode="compiled")), loaded(Spec(ONE_LEVEL))
    expected = eager.sample(x, GENTLE, noise(2))
    with torch._inductor.config.patch({"cpp.cxx": (None, "/no/such/compiler"), "force_disable_caches": True}):
        out = backend.sample(x, GENTLE, noise(2))
        loss = backend.train_step(batch(backend.spec, 0))
    assert "no/such/compiler" in backend.device_info()["execution"]
    assert "\n" not in backend.device_info()["execution"]
    assert torch.equal(out, expected)
    assert torch.equal(loss, eager.train_step(batch(eager.spec, 0)))


@pytest.mark.slow
@pytest.mark.sampled
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("bfloat16", 0.1)])
def test_the_compiled_network_is_the_eager_one(dtype: str, tolerance: float) -> None:
    _is_the_eager_one("compiled", dtype, tolerance)


@pytest.mark.slow
def test_the_exported_network_is_the_eager_one() -> None:
    pytest.importorskip("onnxscript", reason="extra onnx")
    _is_the_eager_one("exported", "float32", 2e-5)


def _is_the_eager_one(mode: str, dtype: str, tolerance: float) -> None:
    """It samples with the weights of now and trains alike, as its own mode says."""
    x = torch.from_numpy(noise(2)(99))
    exact = loaded(Spec(ONE_LEVEL, optim=OptimConfig(lr=1e-3), dtype="float64"))
    backend = loaded(replace(exact.spec, dtype=dtype, mode=mode))
    begun = backend.state()

    def drawn() -> tuple[torch.Tensor, torch.Tensor]:
        out, expected = (b.sample(x, GENTLE, noise(2), ema=False) for b in (backend, exact))
        scale = expected.abs().max()
        assert backend.device_info()["execution"] == mode
        assert float((out - expected).abs().max() / scale) < tolerance
        return out, scale

    first, _ = drawn()
    for n in range(2):
        loss, expected_loss = (b.train_step(batch(b.spec, n)).item() for b in (backend, exact))
        assert loss == pytest.approx(expected_loss, rel=tolerance)
    out, _ = drawn()  # with the weights of the last step
    if dtype != "float32":  # the rest is the same, and compiles for half a minute each time
        return
    for b in (backend, exact):  # other weights altogether, with no training between the path before and the next
        b.load_weights({name: -value for name, value in random_weights(ONE_LEVEL).items()})
    after, scale = drawn()
    assert float((after - out).abs().max() / scale) > 2 * tolerance
    backend.load_state(begun)
    assert torch.equal(backend.sample(x, GENTLE, noise(2), ema=False), first), "the weights of the first path again"


@pytest.mark.slow
def test_the_exported_graph_has_torchs_own_layers(monkeypatch):
    """Also for one channel in channels_last, a layout that would go on from there: engines know GroupNorm, and not what stands for
    it in that layout. A session is kept for each shape."""
    onnx, onnxruntime = (pytest.importorskip(name, reason="extra onnx") for name in ("onnx", "onnxruntime"))
    opened, opens = [], onnxruntime.InferenceSession

    def session(path, *args, **more):
        opened.append(Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node))
        return opens(path, *args, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    backend = loaded(Spec(replace(ONE_LEVEL, in_channels=1, out_channels=1), mode="exported"))
    for n in (2, 1, 2):
        backend.sample(torch.from_numpy(noise(n)(99)[:, :1]), GENTLE, lambda i, n=n: noise(n)(i)[:, :1])
    norms = sum(isinstance(layer, torch.nn.GroupNorm) for layer in backend.network.modules())
    assert len(opened) == 2 and opened[0]["InstanceNormalization"] == opened[1]["InstanceNormalization"] == norms > 0
    assert not opened[0]["ReduceMean"]


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_what_is_exported_is_float32(dtype):
    with pytest.raises(DeviceError, match=rf"^mode='exported': runs in float32 on the CPU, not in {dtype} on cpu; [^\n]*$"):
        create(Spec(ONE_LEVEL, dtype=dtype, mode="exported"))


@pytest.mark.parametrize("name", ["onnxruntime", "onnxscript"])
def test_without_its_packages_exported_says_how_to_install_them(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", ModuleType("onnxruntime"))
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(NotInstalled, match=rf"^mode='exported': .*{name}.*\[onnx\]\"$"):
        create(Spec(ONE_LEVEL, mode="exported"))


def test_every_shape_and_every_network_is_compiled(monkeypatch):
    """torch.compile is eager from the ninth on, if it is not told otherwise."""
    found, compiles = [], torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, dynamic, options: compiles(
        function, dynamic=dynamic, backend=lambda graph, inputs: found.append(len(inputs)) or graph.forward))

    class Scale(torch.nn.Module):
        def denoise(self, x):
            return 2 * x

    for call in [compiled(Scale().denoise, pytest.fail) for _ in range(10)]:
        call(torch.ones(3))
    assert len(found) == 10
    for n in range(4, 14):
        call(torch.ones(n))
    assert len(found) == 20


def test_what_could_not_be_compiled_once_is_not_tried_again(monkeypatch):
    tried, told = [], []

    def fails(*args):
        tried.append(args)
        raise torch._dynamo.exc.TorchDynamoException("no compiler\nof any kind")

    monkeypatch.setattr(torch, "compile", lambda function, **more: fails)
    call = compiled(lambda x: 2 * x, told.append)
    assert [call(3), call(4)] == [6, 8] and len(tried) == 1 and told == ["no compiler"]


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_denoiser_has_the_weights_of_now(dtype, frozen):
    """A copy where its dtype is another or its weights are constants; made again where constants changed, and only there."""
    class Scale(torch.nn.Linear):
        def denoise(self, x):
            return self(x)

    made, source = [], Scale(2, 2)
    denoiser = compiling.Denoiser(source, dtype, frozen, lambda network: made.append(network) or network.denoise)
    for value in (1.0, 2.0):
        torch.nn.init.constant_(source.weight, value)
        denoiser.changed()
        for _ in range(2):
            network = denoiser.current().__self__
            assert network.weight.dtype == dtype and (network.weight == value).all()
            assert (network is source) == (dtype == torch.float32 and not frozen)
    assert len(made) == 1 + frozen


def test_the_step_at_which_the_loss_scale_grows_is_divided_by_that_of_its_loss():
    scaler, parameter = LossScaler(), torch.nn.Parameter(torch.zeros(2))
    scaler.scale, scaler.good, parameter.grad = 8.0, 1999, torch.full((2,), 16.0)
    assert scaler.unscale([parameter]) and parameter.grad.tolist() == [2, 2] and scaler.scale == 16


def test_a_process_drops_elements_of_its_own_at_each_step():
    """Process 1 of 3 at step 2 has the seed 2 x 3 + 1, which no other process and step have."""
    told = batch(Spec(SMALL), 2)
    spec = SimpleNamespace(model=replace(SMALL, dropout=0.1), processes=3, rank=1)
    backend = SimpleNamespace(spec=spec, network=torch.nn.Identity(), to_device=torch.tensor, dtype=torch.float32)
    TorchBackend._inputs(backend, told)
    assert torch.initial_seed() == 7
