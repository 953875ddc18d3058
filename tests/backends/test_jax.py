"""What is JAX's alone: the caller's own settings, what is compiled again, devices."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from backends.protocol import Batch, DeviceError, Spec
from reference import weights
from reference.config import ConfigError, DiffusionConfig, ModelConfig
from reference.conventions import make_plan

jax = pytest.importorskip("jax")
from backends.jax import adam, devices, distributed  # noqa: E402
from backends.jax import backend as module  # noqa: E402
from backends.jax.training import LossScaler  # noqa: E402

MODEL = ModelConfig(sample_size=4, block_out_channels=(8,), norm_num_groups=4, zero_init=False,
                    down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",))
DIFFUSION = DiffusionConfig(timesteps=20)
SPEC = Spec(MODEL, DIFFUSION)


def batch(step: int) -> Batch:
    x0, noise = np.random.default_rng(step).uniform(-1, 1, (2, 2, 1, 4, 4)).astype(np.float32)
    return Batch(np.arange(2), x0, np.array([3, 19]), noise, step)


def test_the_callers_own_jax_stays_as_it_is():
    """A backend has 64 bits for its tables, also after an error; the program around it does not."""
    backend = module.create(replace(SPEC, mode="stock"))
    assert backend.tables(make_plan(DIFFUSION, 4))["alpha_bar"].dtype == np.float64
    assert backend.to_device(np.ones(2)).dtype == np.float64
    with pytest.raises(Exception, match="weights"):
        backend.load_weights({})
    assert jax.numpy.ones(2, float).dtype == np.float32 and not jax.config.jax_enable_x64
    assert jax.config.jax_default_matmul_precision is None


def test_another_step_plan_or_backend_compiles_nothing_again():
    """Of one model, dtype and number of steps. Another batch size does, so that the counters count."""
    def work(backend, size=2):
        backend.load_weights(weights.initialise(MODEL, 0))
        for step in range(2):
            backend.train_step(batch(step))
        for eta in (0.0, 1.0):
            plan = make_plan(DIFFUSION, 4, eta=eta)
            backend.sample(backend.to_device(np.ones((size, 1, 4, 4), np.float32)), plan, lambda i: np.zeros((size, 1, 4, 4)))
        functions = (module.compiled_gradient, module.compiled_denoise, module.compiled_shifts, adam.compiled_update)
        return [function._cache_size() for function in functions]

    first = work(module.create(SPEC))
    assert work(module.create(SPEC)) == first
    again = work(module.create(SPEC), size=3)
    assert again[1] == first[1] + 1 and again[0] == first[0]


def test_what_was_handed_out_outlives_the_next_step():
    """The update writes in place, into arrays that nobody else holds."""
    backend = module.create(SPEC)
    backend.load_weights(weights.initialise(MODEL, 0))
    state, given = backend.state(), backend.weights()
    copies = {name: value.copy() for name, value in state.items()}
    backend.train_step(batch(0))
    assert all(np.array_equal(state[name], value) for name, value in copies.items())
    assert all(np.array_equal(value, copies[f"weights/{name}"]) for name, value in given.items())
    assert not np.array_equal(backend.weights()["conv_in.weight"], given["conv_in.weight"])


@pytest.mark.parametrize("changes, line", [
    ({"device": "cuda:99"}, "device='cuda:99': jax "), ({"device": "tpu"}, "device='tpu': jax "),
    ({"device": "tpu:0"}, "device='tpu:0': the jax backend has cpu, cuda, cuda:N and tpu"),
    ({"device": "cuda:x"}, "device='cuda:x': the jax backend has cpu, cuda, cuda:N and tpu"),
])
def test_what_it_does_not_have_is_refused_in_one_line(changes, line):
    with pytest.raises(DeviceError, match=f"^{line}[^\n]*$"):
        module.create(replace(SPEC, **changes))


def test_methods_at_work_have_64_bits_whole_products_and_their_own_device():
    class Worker:
        device = jax.devices()[0]

        @devices.at_work
        def settings(self):
            config = jax.config
            return config.jax_enable_x64, config.jax_default_matmul_precision, config.jax_default_device

    assert Worker().settings() == (True, "highest", Worker.device)


def test_a_number_names_a_device_of_this_process(monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda backend: [f"{backend} 0", f"{backend} 1"])
    assert [devices.find_device(name) for name in ("cpu", "cuda", "cuda:1")] == ["cpu 0", "cuda 0", "cuda 1"]


@pytest.mark.parametrize("device, own", [("cpu", None), ("cuda", 1)])
def test_the_group_is_the_launchers(monkeypatch, device, own):
    """Of GPUs each process takes its own."""
    asked = []
    monkeypatch.setenv("DDIM_BENCH_MEET", "host:1")
    monkeypatch.setattr(distributed.jax, "config", SimpleNamespace(update=lambda *words: None))
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: False)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *words: asked.extend(words))
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    distributed.join(replace(SPEC, device=device, rank=1, processes=3))
    assert asked == ["host:1", 3, 1, own]
    with pytest.raises(ConfigError, match=r"rank, processes=\(2, 3\): jax says \(1, 3\)"):
        distributed.join(replace(SPEC, device=device, rank=2, processes=3))


def test_means_over_processes_are_no_sums_and_keep_their_names():
    average = distributed.Average(jax.devices()[0], 1)
    given = {"b": jax.numpy.arange(6.0).reshape(2, 3), "a": jax.numpy.array(7.0)}
    found = average(given)
    assert all(np.array_equal(found[name], value) and found[name].shape == value.shape for name, value in given.items())
    assert average.mean(jax.numpy.array([[1.0, 2.0], [3.0, 6.0]])).tolist() == [2, 4]  # of two processes' shares
    means = [module.JaxBackend.mean(SimpleNamespace(average=of, device=jax.devices()[0]), 3.5) for of in (lambda v: 2 * v, None)]
    assert means == [7, 3.5]  # alone it is the value


@pytest.mark.parametrize("tuned, execution", [(True, "compiled"), (False, "layer by layer")])
def test_what_rows_say_of_a_device(tuned, execution):
    """Of an accelerator its name, and the most memory that was ever taken."""
    device = SimpleNamespace(platform="gpu", device_kind="H200", memory_stats=lambda: {"bytes_in_use": 3, "peak_bytes_in_use": 7})
    said = module.JaxBackend.device_info(SimpleNamespace(device=device, tuned=tuned))
    assert (said["device"], said["peak_memory_bytes"], said["execution"]) == ("H200", "7", execution)


def test_the_step_at_which_the_loss_scale_grows_is_divided_by_that_of_its_loss():
    scaler = LossScaler()
    scaler.scale, scaler.good = 8.0, 1999
    assert scaler.unscale({"w": jax.numpy.full(2, 16.0)})["w"].tolist() == [2, 2] and scaler.scale == 16


def test_a_process_drops_elements_of_its_own_at_each_step():
    """Process 1 of 3 at step 2 has the key 2 x 3 + 1, which no other process and step have."""
    spec = SimpleNamespace(model=replace(MODEL, dropout=0.1), dtype="float32", processes=3, rank=1)
    backend = SimpleNamespace(spec=spec, dtype=np.float32, process=None, _network=lambda ema: {},
                              gradient=lambda *inputs: ((None, None), inputs[-1]))
    _, key = module.JaxBackend._backward(backend, batch(2), 1.0)
    assert np.array_equal(jax.random.key_data(key), jax.random.key_data(jax.random.key(7)))


def test_waiting_is_for_the_results_and_for_the_last_update(monkeypatch):
    waited = []
    monkeypatch.setattr(jax, "block_until_ready", waited.append)
    module.JaxBackend.synchronize(SimpleNamespace(parts="update"), "loss")
    assert jax.tree.leaves(waited) == ["loss", "update"]


def test_bfloat16_which_numpy_lacks_comes_back_as_float32():
    for dtype, kind in ((jax.numpy.bfloat16, np.float32), (jax.numpy.float16, np.float16)):
        assert module.JaxBackend.to_host(None, jax.numpy.ones(2, dtype)).dtype == kind
