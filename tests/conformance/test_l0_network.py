"""L0: the interface of a whole backend, with its network and training."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from backends.protocol import Batch
from reference import diffusion as process
from reference import unet
from reference import weights as reference_weights
from reference.config import ConfigError, DiffusionConfig

from .cases import ONE_LEVEL, TINY, network, plan_of, solved
from .kit import FULL, Subject, batch, normal, weights


@pytest.mark.parametrize("case", ["missing", "surplus", "shape", "nan"])
def test_bad_weights(subject: Subject, case: str) -> None:
    """Wrong weights are refused, with the reference's line, and the old ones stay."""
    backend = subject.backend()
    good = weights(TINY)
    backend.load_weights(good)
    bad = dict(good)
    name = "mid_block.resnets.0.conv1.weight"
    if case == "missing":
        del bad[name]
    else:
        key, value = {"surplus": ("extra.weight", good[name]), "shape": (name, good[name].transpose(0, 1, 3, 2)[:, :, :, :1]),
                      "nan": (name, np.full_like(good[name], np.nan))}[case]
        bad[key] = value
    with pytest.raises(ConfigError) as expected:
        reference_weights.check(bad, TINY, "weights")
    with pytest.raises(ConfigError) as raised:
        backend.load_weights(bad)
    assert str(raised.value) == str(expected.value)
    assert np.array_equal(backend.weights()[name], good[name])


def test_weights_come_back(subject: Subject) -> None:
    """Loaded weights, and the EMA with them, come back by name, unchanged; what is handed out is a copy."""
    backend = subject.backend()
    expected = weights(TINY)
    backend.load_weights(expected)
    for ema in (False, True):
        actual = dict(backend.weights(ema=ema))
        assert {n: v.shape for n, v in actual.items()} == reference_weights.shapes(TINY)
        assert all(np.array_equal(actual[n], v) for n, v in expected.items())
        for value in actual.values():
            value[...] = 0
        assert all(np.array_equal(backend.weights(ema=ema)[n], v) for n, v in list(expected.items())[:3])


def test_network_shapes(subject: Subject) -> None:
    """Forward, activations, loss and gradients: names, shapes and dtypes."""
    backend = subject.backend()
    backend.load_weights(weights(TINY))
    x, t = normal(1, 3, 2, 4, 4).astype(subject.real), np.array([0, 5, 999])
    y = backend.to_host(backend.forward(backend.to_device(x), backend.to_device(t)))
    assert y.shape == x.shape and y.dtype == subject.real
    seen: dict[str, np.ndarray] = {}
    unet.forward(weights(TINY), TINY, x, t, seen)
    actual = backend.activations(backend.to_device(x), backend.to_device(t))
    assert {n: v.shape for n, v in actual.items()} == {n: v.shape for n, v in seen.items()}
    loss, gradients = backend.loss_and_gradients(batch(subject.spec()))
    assert np.shape(backend.to_host(loss)) == ()
    assert {n: v.shape for n, v in gradients.items()} == reference_weights.shapes(TINY)


@pytest.mark.compiled
def test_state_names(subject: Subject) -> None:
    """The flat state holds each parameter four times and the number of steps done; in float16 a loss scaler's numbers, too. It is a
    copy, which the next step leaves as it is."""
    backend = subject.backend()
    backend.load_weights(weights(TINY))
    for step in range(3):
        loss = backend.to_host(backend.train_step(batch(subject.spec(), step=step)))
        assert np.shape(loss) == () and np.isfinite(loss)
    state = backend.state()
    shapes = reference_weights.shapes(TINY)
    expected = {f"{part}/{n}": s for part in ("weights", "ema", "adam_m", "adam_v") for n, s in shapes.items()}
    scaler = {n: () for n in state if n.startswith("scaler_") and subject.dtype == "float16"}
    assert {n: np.shape(v) for n, v in state.items()} == expected | scaler | {"step": ()}
    assert int(state["step"]) == 3
    assert all(type(v) is np.ndarray for v in state.values())
    copies = {n: v.copy() for n, v in state.items()}
    backend.train_step(batch(subject.spec(), step=3))
    backend.synchronize()
    assert all(np.array_equal(v, copies[n]) for n, v in state.items())


@pytest.mark.parametrize("case", [0.0, 0.7])
def test_sample_asks_for_noise_where_the_plan_adds_it(subject: Subject, case: float) -> None:
    """`noise(i)` is asked once for each step that adds noise, in order; `on_step(i)` follows every step; x stays as it was."""
    diffusion = DiffusionConfig(timesteps=100)
    plan = plan_of("ddim", {"eta": case}, {"timesteps": 100}, 4)
    backend = subject.backend(ONE_LEVEL, diffusion)
    backend.load_weights(weights(ONE_LEVEL))
    asked: list[int] = []
    done: list[int] = []

    def noise(i: int) -> np.ndarray:
        asked.append(i)
        return normal(i, 2, 2, 4, 4)

    array = normal(9, 2, 2, 4, 4).astype(subject.real)
    x = backend.to_device(array)
    out = backend.to_host(backend.sample(x, plan, noise, on_step=done.append))
    assert out.shape == array.shape and out.dtype == subject.real
    assert asked == ([0, 1, 2] if case else [])
    assert done == [0, 1, 2, 3]
    assert np.array_equal(backend.to_host(x), array)


@pytest.mark.subjects(dtypes=("float32",), solvers=True)
def test_a_solver_tells_of_every_call(subject: Subject) -> None:
    """`noise(k)` is asked where row k adds some, `on_step(k)` follows every call."""
    plan = solved("dpmpp_2m_sde", 4, diffusion={"timesteps": 100})
    backend = subject.backend(ONE_LEVEL, plan.diffusion)
    backend.load_weights(weights(ONE_LEVEL))
    told: list[str] = []
    x = backend.to_device(normal(9, 2, 2, 4, 4).astype(subject.real))
    backend.sample(x, plan, lambda k: told.append(f"noise {k}") or normal(k, 2, 2, 4, 4),  # type: ignore[func-returns-value]
                   on_step=lambda k: told.append(f"step {k}"))
    assert told == [line for k, row in enumerate(plan.path.rows) for line in (*[f"noise {k}"] * bool(row.noise), f"step {k}")]


@pytest.mark.parametrize("case", [
    ({"block_out_channels": (8, 18)}, "block_out_channels=(8, 18): every width must be a positive multiple of norm_num_groups=4"),
    ({"sample_size": 5}, "sample_size=5: must be divisible by 2^1 for 2 levels"),
    ({"attention_head_dim": 3}, "attention_head_dim=3: must divide the block's width 16"),
    ({"out_channels": 3}, "out_channels=3: variance large on 2 image channels needs 2"),
], ids=lambda case: next(iter(case[0])))
def test_impossible_networks(subject: Subject, case: tuple[dict[str, object], str]) -> None:
    """A config that no network can have is refused with one line, the same in every backend."""
    changes, line = case
    with pytest.raises(ConfigError, match=f"^{re.escape(line)}$"):
        subject.create(subject.spec(replace(TINY, **changes)))


@pytest.mark.subjects(dtypes=FULL)
def test_silu_over_its_range(subject: Subject) -> None:
    """x times its sigmoid, each value by itself, in a time embedding whose first layer is a constant and whose second is the
    identity."""
    values = np.linspace(-80, 80, TINY.time_width).astype(np.float32)
    w = weights(TINY) | {f"time_embedding.linear_{n}.{part}": np.zeros_like(weights(TINY)[f"time_embedding.linear_{n}.{part}"])
                         for n in (1, 2) for part in ("weight", "bias")}
    w |= {"time_embedding.linear_1.bias": values, "time_embedding.linear_2.weight": np.eye(len(values), dtype=np.float32)}
    backend = subject.backend()
    backend.load_weights(w)
    x, t = backend.to_device(normal(1, 1, 2, 4, 4).astype(subject.real)), backend.to_device(np.array([5]))
    expected = values.astype(np.float64) / (1 + np.exp(-values.astype(np.float64)))
    actual = backend.activations(x, t)["time_embedding"][0]
    subject.close("L0.primitives", actual / expected, np.ones_like(expected), "silu")


@pytest.mark.subjects(dtypes=FULL)
@pytest.mark.parametrize("case", ["relu", "gelu", "mish"])
def test_activations_over_their_range(subject: Subject, case: str) -> None:
    """Each value by itself, 64 from -100 to 100: shifts of a norm whose scale is 0, behind which a convolution is the identity."""
    model = replace(ONE_LEVEL, block_out_channels=(64,), act_fn=case)
    values, block = np.linspace(-100, 100, 64).astype(np.float32), "down_blocks.0.resnets.0"
    w = weights(model) | {name: np.zeros_like(weights(model)[name]) for name in (
        "conv_in.weight", "conv_in.bias", f"{block}.norm2.weight", f"{block}.conv2.weight", f"{block}.conv2.bias")}
    w[f"{block}.norm2.bias"], w[f"{block}.conv2.weight"][:, :, 1, 1] = values, np.eye(64)
    backend = subject.backend(model)
    backend.load_weights(w)
    x, t = backend.to_device(normal(1, 1, 2, 4, 4).astype(subject.real)), backend.to_device(np.array([5]))
    expected = unet.ACTIVATIONS[case](values.astype(np.float64))
    size = np.maximum(1, np.abs(expected))
    actual = backend.activations(x, t)[block][0, :, 1, 1]
    subject.close("L0.primitives", actual / size, expected / size, case)


@pytest.mark.subjects(dtypes=FULL)
@pytest.mark.parametrize("case", [1e-4, 1e4])
def test_norms_over_the_range_of_variances(subject: Subject, case: float) -> None:
    """1 / sqrt(variance + eps), of variances from about 1e-8, where eps is all, to 1e8: what enters the network is scaled."""
    w = weights(ONE_LEVEL)
    w = w | {f"conv_in.{part}": np.float32(case) * w[f"conv_in.{part}"] for part in ("weight", "bias")}
    backend, x, t = subject.backend(ONE_LEVEL), normal(3, 2, 2, 4, 4), np.array([5, 900])
    backend.load_weights(w)
    seen: dict[str, np.ndarray] = {}
    unet.forward(w, ONE_LEVEL, x, t, seen)
    actual = backend.activations(backend.to_device(x.astype(subject.real)), backend.to_device(t))
    for name, expected in seen.items():
        subject.close("L2.block", actual[name], expected, f"{name}, scale {case:g}")


@pytest.mark.subjects(mode="tuned", dtypes=FULL)
@pytest.mark.parametrize("case", [False, True])
def test_likelihood_over_its_range(subject: Subject, case: bool) -> None:
    """erfc or tanh, exp and log of the discretised likelihood, from 5 deviations below the mean to 5 above, through the loss of a
    network whose output is a constant."""
    diffusion = DiffusionConfig(objective="x0", variance="learned", approximate_cdf=case)
    model = network(diffusion, ONE_LEVEL)
    output = np.float32([0, 0, *2 * [2 * np.log(1 / 5)]])  # mean 0, deviation 1/5
    w = weights(model) | {"conv_out.weight": np.zeros_like(weights(model)["conv_out.weight"]), "conv_out.bias": output}
    backend = subject.backend(model, diffusion)
    backend.load_weights(w)
    x0 = np.linspace(-0.99, 0.99, 96).reshape(3, 2, 4, 4).astype(np.float32)
    zero = np.zeros(3, np.int64)
    loss, _ = backend.loss_and_gradients(Batch(ids=np.arange(3), x0=x0, t=zero, noise=np.zeros_like(x0), step=0))
    outputs = np.broadcast_to(output.astype(np.float64).reshape(1, 4, 1, 1), (3, 4, 4, 4))
    expected = process.loss(diffusion, x0.astype(np.float64), zero, np.zeros(x0.shape), outputs)
    subject.close("L0.likelihood", backend.to_host(loss), expected, f"approximate_cdf={case}")
