"""What is JAX's alone: the caller's own settings, what is compiled again, devices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from backends.protocol import Batch, DeviceError, Spec
from reference import weights
from reference.config import DiffusionConfig, ModelConfig
from reference.conventions import make_plan

jax = pytest.importorskip("jax")
from backends.jax import adam  # noqa: E402
from backends.jax import backend as module  # noqa: E402

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
])
def test_what_it_does_not_have_is_refused_in_one_line(changes, line):
    with pytest.raises(DeviceError, match=f"^{line}[^\n]*$"):
        module.create(replace(SPEC, **changes))
