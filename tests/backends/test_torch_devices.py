"""The torch backend's ways on an accelerator, as far as a machine without one can go them.

On the device "meta" tensors have shapes and no numbers, and an operation on tensors of two devices raises as on CUDA.
"""

from __future__ import annotations

import contextlib
import copy
from dataclasses import replace

import numpy as np
import pytest

from backends.protocol import Batch, Spec
from reference import weights
from reference.config import DiffusionConfig, OptimConfig
from reference.conventions import make_plan
from reference.solver_plans import make_solver_plan
from tests.helpers.tiny import TINY

torch = pytest.importorskip("torch")
from backends.torch import backend as module  # noqa: E402
from backends.torch import layers, replaying  # noqa: E402
from backends.torch.training import Optimiser  # noqa: E402

PROCESSES = {
    "eps": {}, "v": {"objective": "v", "schedule": "cosine"}, "previous": {"objective": "previous", "variance": "small"},
    "learned": {"variance": "learned_range"}, "bound": {"loss": "kl", "variance": "learned"},
    "weighted": {"loss_weight": "min_snr", "loss": "huber"}, "self_conditioning": {"self_conditioning": True},
    "rescaled": {"rescale_timesteps": True, "timesteps": 100},
}


@pytest.fixture
def elsewhere(monkeypatch):
    """Makes a backend whose device is not the host."""
    monkeypatch.setattr(module, "find_device", lambda name: torch.device("meta"))
    monkeypatch.setattr(module.TorchBackend, "_autocast", lambda self, enabled=True: contextlib.nullcontext())  # "meta" has none

    def create(mode: str = "stock", process: str = "eps") -> module.TorchBackend:
        diffusion = DiffusionConfig(**PROCESSES[process])
        model = replace(TINY, in_channels=1 + diffusion.self_conditioning, out_channels=1 + diffusion.learned_variance)
        return module.create(Spec(model, diffusion, device="cuda", mode=mode))

    return create


def batch(spec: Spec) -> Batch:
    """One training step's inputs."""
    rng = np.random.default_rng(0)
    x0, noise = rng.standard_normal((2, 4, *spec.image_shape)).astype(np.float32)
    coin = np.array([True, False, True, False]) if spec.diffusion.self_conditioning else None
    return Batch(np.arange(4), x0.clip(-1, 1), rng.integers(0, spec.diffusion.timesteps, 4), noise, 0, coin)


@pytest.mark.parametrize("mode", ["stock", "tuned"])
@pytest.mark.parametrize("process", PROCESSES)
def test_no_tensor_of_a_training_step_stays_on_the_host(elsewhere, process, mode):
    backend = elsewhere(mode, process)
    assert backend.train_step(batch(backend.spec)).device.type == "meta"
    assert all(p.grad is not None and p.grad.device.type == "meta" for p in backend.network.parameters())


@pytest.mark.parametrize("mode", ["stock", "tuned"])
def test_no_tensor_of_a_path_stays_on_the_host(elsewhere, mode):
    backend = elsewhere(mode)
    x, diffusion = torch.zeros(2, 1, 8, 8, device="meta"), backend.spec.diffusion
    plans = [make_plan(diffusion, 5, eta=1.0), make_plan(diffusion, 5, sampler="ddpm", clip="dynamic"),
             *(make_solver_plan(diffusion, 6, sampler=name, spacing="karras") for name in ("heun", "dpmpp_2m_sde", "unipc_3"))]
    for plan in plans:
        assert backend.sample(x, plan, lambda i: np.zeros((2, 1, 8, 8), np.float32)).device.type == "meta"
    assert backend.forward(x, torch.zeros(2, device="meta")).device.type == "meta"


class Unrecorded:
    """A CUDA graph's place where there is no CUDA: the recorded function, called again on the tensors that a graph would hold."""

    def __init__(self, function, inputs):
        assert len({tensor.device for tensor in inputs if tensor is not None}) == 1  # the host's numbers would be recorded
        self.function, self.inputs = function, [None if tensor is None else tensor.clone() for tensor in inputs]

    def __call__(self, *inputs):
        for place, tensor in zip(self.inputs, inputs, strict=True):
            assert (place is None) == (tensor is None)
            if place is not None:
                assert place.shape == tensor.shape and place.dtype == tensor.dtype and place.device == tensor.device
                place.copy_(tensor)
        return self.function(*self.inputs).clone()


def paths(diffusion: DiffusionConfig) -> list:
    """Plans that follow each other: other lengths, rules of clipping and noise, and solvers."""
    if diffusion.learned_variance:
        return [make_plan(diffusion, steps, sampler="ddpm") for steps in (3, 4)]
    return [make_plan(diffusion, 3, eta=1.0), make_plan(diffusion, 4), make_plan(diffusion, 2, sampler="ddpm", clip="dynamic"),
            make_plan(diffusion, 3, eta=1.0, clip="none"), make_solver_plan(diffusion, 3, sampler="dpmpp_2m"),
            *(make_solver_plan(diffusion, 4, sampler=name, spacing="karras") for name in ("heun", "dpmpp_2m_sde"))]


@pytest.mark.parametrize("process", ["eps", "learned", "self_conditioning"])
def test_no_tensor_of_a_replayed_step_stays_on_the_host(elsewhere, monkeypatch, process):
    monkeypatch.setattr(replaying, "Graph", Unrecorded)
    backend = elsewhere("tuned", process)
    backend.replayed = True
    for plan in paths(backend.spec.diffusion):
        x = torch.zeros(2, 1, 8, 8, device="meta")
        assert backend.sample(x, plan, lambda i: np.zeros((2, 1, 8, 8), np.float32)).device.type == "meta"


@pytest.mark.parametrize("process", ["v", "learned", "self_conditioning"])
def test_replayed_steps_give_the_same_bits(monkeypatch, process):
    """Over batches of several sizes and plans of one rule and of others, and after other weights are loaded."""
    monkeypatch.setattr(replaying, "Graph", Unrecorded)
    diffusion = DiffusionConfig(**PROCESSES[process])
    model = replace(TINY, in_channels=1 + diffusion.self_conditioning, out_channels=1 + diffusion.learned_variance)
    plain, replayed = (module.create(Spec(model, diffusion)) for _ in range(2))
    replayed.replayed = True
    for seed, size in ((0, 2), (1, 2), (2, 3)):
        given, rng = weights.initialise(model, seed), np.random.default_rng(seed)
        x = torch.from_numpy(rng.standard_normal((size, 1, 8, 8)).astype(np.float32))
        noise = rng.standard_normal((20, size, 1, 8, 8)).astype(np.float32)
        for backend in (plain, replayed):
            backend.load_weights(given)
        for plan in paths(diffusion):
            steps: list[int] = []
            found = replayed.sample(x, plan, noise.__getitem__, on_step=steps.append)
            assert torch.equal(found, plain.sample(x, plan, noise.__getitem__)), plan
            assert steps == list(range(plan.steps))
            assert not torch.equal(found, plain.sample(-x, plan, noise.__getitem__))
    assert 1 < len(replayed.steps) <= replaying.MOST


def test_a_table_that_stays_on_the_host_is_found(elsewhere):
    backend = elsewhere()
    backend.process.tables = {name: table.new_zeros(table.shape, device="cpu") for name, table in backend.process.tables.items()}
    with pytest.raises((RuntimeError, NotImplementedError), match="meta|device"):
        backend.train_step(batch(backend.spec))


def test_the_optimiser_of_a_cuda_graph_takes_the_same_steps():
    """Learning rate and EMA's share as tensors, through warm-up, decay and clipping; begun anew in between, as after a resume."""
    config = OptimConfig(lr=1e-2, warmup_steps=3, total_steps=9, max_grad_norm=0.5, ema_decay=0.5)
    networks = [torch.nn.Linear(4, 3)]
    networks.append(copy.deepcopy(networks[0]))
    emas = [copy.deepcopy(network) for network in networks]
    plain, recorded = (Optimiser(config, networks[kind], emas[kind], True, False, bool(kind)) for kind in (0, 1))
    for n in (0, 1, 2, 5, 6, 7):
        for optimiser in (plain, recorded):
            rng = np.random.default_rng(n)
            for parameter in optimiser.parameters:
                parameter.grad = torch.from_numpy(rng.standard_normal(parameter.shape).astype(np.float32))
        plain.step(n)
        recorded.begin(n)
        recorded.apply()
    for one, other in ((networks[0], networks[1]), (emas[0], emas[1])):
        for a, b in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    assert not torch.equal(networks[0].weight, emas[0].weight)


def test_the_average_of_a_cuda_graph_asks_the_device_for_no_number():
    """On "meta", which has none: reading EMA's share would end the recording of a graph."""
    network, ema = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
    optimiser = Optimiser(OptimConfig(max_grad_norm=0), network, ema, True, False, True)
    optimiser.adam.step = lambda: None
    optimiser.parameters, optimiser.ema = ([p.to("meta") for p in of.parameters()] for of in (network, ema))
    optimiser.new_share = torch.zeros((), device="meta")
    optimiser.apply()
    with pytest.raises(RuntimeError, match="meta"):
        optimiser.new_share.item()


def test_the_compiled_norm_and_upsampling_are_torchs_own():
    """What CUDA's compiled network has in their place, also where the mean is 100 deviations, and in channels_last."""
    x = (torch.randn(3, 16, 5, 7, generator=torch.Generator().manual_seed(0)) + 100).to(memory_format=torch.channels_last)
    weight, bias = torch.linspace(0.5, 2, 16), torch.linspace(-1, 1, 16)
    expected = torch.nn.functional.group_norm(x.double(), 4, weight.double(), bias.double(), 1e-6)
    for wide, tolerance in ((x.double(), 1e-10), (x, 1e-4)):
        found = layers._compiled_norm(wide, weight.to(wide.dtype), bias.to(wide.dtype), 4, 1e-6)
        assert found.is_contiguous(memory_format=torch.channels_last) and found.dtype == wide.dtype
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=tolerance)
        variance, mean = layers._moments(wide)  # what CPU's compiled network takes them by
        torch.testing.assert_close(mean.double(), x.double().mean((2, 3)), rtol=0, atol=tolerance)
        torch.testing.assert_close(variance.double(), x.double().var((2, 3), correction=0), rtol=tolerance, atol=0)
    doubled = layers._doubled(x)
    assert doubled.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(doubled, torch.nn.functional.interpolate(x, scale_factor=2.0, mode="nearest"))
