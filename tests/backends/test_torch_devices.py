"""The torch backend's ways on an accelerator, as far as a machine without one can go them.

On the device "meta" tensors have shapes and no numbers, and an operation on tensors of two devices raises as on CUDA.
"""

from __future__ import annotations

import contextlib
import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from backends.protocol import Batch, DeviceError, Spec
from reference import weights
from reference.config import ConfigError, DiffusionConfig, OptimConfig
from reference.conventions import make_plan
from reference.solver_plans import make_solver_plan
from tests.helpers.tiny import TINY

torch = pytest.importorskip("torch")
from backends.torch import backend as module  # noqa: E402
from backends.torch import compiling, devices, distributed, layers, replaying  # noqa: E402
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


def batch(spec: Spec, step: int = 0, size: int = 4) -> Batch:
    """One training step's inputs."""
    rng = np.random.default_rng(step)
    x0, noise = rng.standard_normal((2, size, *spec.image_shape)).astype(np.float32)
    coin = np.arange(size) % 2 == 0 if spec.diffusion.self_conditioning else None
    return Batch(np.arange(size), x0.clip(-1, 1), rng.integers(0, spec.diffusion.timesteps, size), noise, step, coin)


@pytest.mark.parametrize("mode", ["stock", "tuned"])
@pytest.mark.parametrize("process", PROCESSES)
def test_no_tensor_of_a_training_step_stays_on_the_host(elsewhere, process, mode):
    backend = elsewhere(mode, process)
    assert backend.train_step(batch(backend.spec)).device.type == "meta"
    assert all(p.grad is not None and p.grad.device.type == "meta" for p in backend.network.parameters())
    counters = {state["step"].device.type for state in backend.optimiser.adam.state.values()}
    assert counters == {"meta" if mode == "tuned" else "cpu"}  # the fused kernel reads them there, the plain one on the host


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


def test_graphs_of_one_rule_of_clipping_or_of_one_network_serve_no_other(monkeypatch):
    """Limits, quantiles and largest thresholds; the weights and their average."""
    monkeypatch.setattr(replaying, "Graph", Unrecorded)
    small = replace(TINY, block_out_channels=(8,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",))
    plain, replayed = (module.create(Spec(small)) for _ in range(2))
    replayed.replayed = True
    for backend in (plain, replayed):
        backend.load_weights(weights.initialise(small, 0))
        backend.load_state(dict(backend.state()) | {f"ema/{name}": value for name, value in weights.initialise(small, 1).items()})
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 1, 8, 8)).astype(np.float32))
    for clip, ema in ((1.0, True), (1.0, False), (0.5, False), ("dynamic:0.9", False), ("dynamic:0.6", False),
                      ("dynamic:0.6:1.5", False), ("dynamic:0.6:1.1", False)):
        plan = make_plan(DiffusionConfig(), 2, clip=clip)
        assert torch.equal(replayed.sample(x, plan, ema=ema), plain.sample(x, plan, ema=ema)), (clip, ema)


class Warmed(Unrecorded):
    """One that ran `WARM_UPS` times before it was recorded, with all its effects."""

    def __init__(self, function, inputs):
        super().__init__(function, inputs)
        for _ in range(compiling.WARM_UPS):
            function(*self.inputs)


def test_recorded_training_steps_are_the_plain_ones(monkeypatch):
    """A graph for each size of a batch, the second recorded when weights, moments and rate are no longer those of the start."""
    monkeypatch.setattr(module, "Graph", Warmed)
    spec = Spec(TINY, optim=OptimConfig(lr=1e-2, warmup_steps=3, max_grad_norm=0.5, ema_decay=0.5))
    plain, recorded = (module.create(spec) for _ in range(2))
    recorded.recorded = True
    recorded.optimiser = Optimiser(spec.optim, recorded.network, recorded.ema, True, False, True)
    for backend in (plain, recorded):
        backend.load_weights(weights.initialise(TINY, 0))
    for step, size in enumerate((2, 3, 2, 3)):
        losses = [float(backend.train_step(batch(spec, step, size))) for backend in (plain, recorded)]
        assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    end = plain.state()
    for name, value in recorded.state().items():
        np.testing.assert_allclose(value, end[name], rtol=1e-4, atol=1e-6, err_msg=name)
    assert sorted(recorded.graphs) == [2, 3]


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


def test_a_device_is_one_that_is_there(monkeypatch):
    """Counted from 0."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [devices.find_device(name).index for name in ("cuda", "cuda:0", "cuda:1")] == [None, 0, 1]
    with pytest.raises(DeviceError, match="device='cuda:2': torch .* finds 2 CUDA devices here"):
        devices.find_device("cuda:2")


@pytest.fixture
def arithmetic():
    """Sets whether products and convolutions are in TF32, and these in one order; in the end all is as it was."""
    places = ((torch.backends.cuda.matmul, "allow_tf32"), (torch.backends.cudnn, "allow_tf32"),
              (torch.backends.cudnn, "deterministic"))

    def put(*values: bool) -> None:
        for (of, name), value in zip(places, values, strict=True):
            setattr(of, name, value)

    before = [getattr(*place) for place in places]
    yield put
    put(*before)


@pytest.mark.parametrize("products, convolutions", [(False, False), (True, False), (False, True)])
def test_what_rows_say_of_a_device(monkeypatch, arithmetic, products, convolutions):
    """Whether anything is computed in TF32; of CUDA its name, and the most memory that was ever taken."""
    arithmetic(products, convolutions, False)
    for name, value in (("get_device_name", "H200"), ("max_memory_allocated", 7), ("memory_allocated", 3)):
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    said = devices.describe(torch.device("cuda"))
    assert (said["device"], said["peak_memory_bytes"], said["tf32"]) == ("H200", "7", str(products or convolutions))
    assert devices.describe(torch.device("cpu"))["device"] == "cpu"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_float32_is_no_tf32_and_float64_adds_in_a_fixed_order(arithmetic, dtype):
    arithmetic(True, True, dtype != "float64")
    module.create(Spec(TINY, dtype=dtype))
    assert not torch.backends.cuda.matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.deterministic == (dtype == "float64")


@pytest.fixture
def group(monkeypatch):
    """torchrun's sixth process of six, the second of its machine, at the third attempt; and what it asks of torch."""
    dist, asked = torch.distributed, {}
    for name, value in {"LOCAL_RANK": "1", "RANK": "5", "TORCHELASTIC_RESTART_COUNT": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(dist, "is_initialized", lambda: False)
    monkeypatch.setattr(dist, "rendezvous", lambda url: iter([("store", 5, 6)]))
    monkeypatch.setattr(dist, "PrefixStore", lambda prefix, store: (prefix, store))
    monkeypatch.setattr(dist, "init_process_group", lambda kind, **more: asked.update(kind=kind, **more))
    monkeypatch.setattr(dist, "get_rank", lambda: 5)
    monkeypatch.setattr(dist, "get_world_size", lambda: 6)
    monkeypatch.setattr(dist, "all_reduce", lambda value: value.mul_(6))
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: asked.update(device=str(device)))
    return asked


def test_each_process_of_a_machine_has_a_device_of_its_own(group):
    many = Spec(TINY, device="cuda", rank=5, processes=6)
    names = [distributed.own_device(spec) for spec in (many, replace(many, device="cuda:3"), replace(many, device="cpu"),
                                                       replace(many, rank=0, processes=1))]
    assert names == ["cuda:1", "cuda:3", "cpu", "cuda"]


@pytest.mark.parametrize("device, asked", [("cuda:1", {"kind": "nccl", "device": "cuda:1"}), ("cpu", {"kind": "gloo"})])
def test_the_group_is_torchruns_of_this_attempt(group, device, asked):
    """A store of the last attempt has addresses at which nobody listens any more."""
    distributed.join(Spec(TINY, rank=5, processes=6), torch.device(device))
    assert group == asked | {"store": ("attempt 2", "store"), "rank": 5, "world_size": 6}
    with pytest.raises(ConfigError, match=r"rank, processes=\(4, 6\): torchrun says \(5, 6\)"):
        distributed.join(Spec(TINY, rank=4, processes=6), torch.device(device))


def test_means_over_processes_are_no_sums(group):
    assert float(distributed.mean(torch.tensor(2.0), 6)) == float(distributed.mean(torch.tensor(2.0), 1)) == 2
    backend = SimpleNamespace(device=torch.device("cpu"), spec=SimpleNamespace(processes=6))
    assert module.TorchBackend.mean(backend, 0.2) == 6 * 0.2 / 6  # in float64


def test_waiting_is_for_the_backends_own_device(monkeypatch):
    """Which is not torch's current one, where a process was told cuda:1."""
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: waited.append(device))
    for name in ("cuda:1", "cpu"):
        module.TorchBackend.synchronize(SimpleNamespace(device=torch.device(name)))
    assert waited == [torch.device("cuda:1")]


@pytest.mark.parametrize("mode, dtype, execution, layout", [
    ("stock", "float32", "eager", "contiguous_format"), ("tuned", "float32", "eager", "channels_last"),
    ("tuned", "bfloat16", "eager", "contiguous_format"), ("compiled", "bfloat16", "compiled", "channels_last")])
def test_rows_say_how_the_network_runs(monkeypatch, mode, dtype, execution, layout):
    """On the CPU: convolutions in channels_last where that is faster, and so lie the weights."""
    monkeypatch.setattr(module, "compiled", lambda function, failed: function)
    backend = module.create(Spec(TINY, mode=mode, dtype=dtype))
    said = backend.device_info()
    assert (said["execution"], said["layout"]) == (execution, layout)
    assert backend.network.mid_block.resnets[0].conv1.weight.is_contiguous(memory_format=getattr(torch, layout))


def test_watching_activations_leaves_nothing_behind():
    """Also where the network fails: what it would watch later has no reader."""
    backend = module.create(Spec(TINY))
    x = torch.zeros(1, 1, 8, 8)
    assert backend.activations(x, torch.zeros(1))
    with pytest.raises(RuntimeError):
        backend.activations(x[:, :, :3], torch.zeros(1))
    assert not any(part._forward_hooks for part in backend.network.modules())
