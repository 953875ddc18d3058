"""L2: the network's forward pass, block by block and whole, against `reference/unet.py` on the same weights."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from backends.protocol import Backend
from reference import unet

from . import cases, fields, guard
from .kit import FAR, FAR_CASES, FULL, Subject, far, normal, weights

T = np.array([0.0, 1.0, 333.25, 977.0])  # as networks are told it: IDDPM's is no whole number
SMALL = [case for case in cases.NETWORKS if case not in cases.IMAGES]
# Small images show a wrong norm_eps, large ones an overflow.
SCALES = {"unit": 1.0, "small": 1e-2, "large": 30.0}


def loaded(subject: Subject, case: str) -> Backend:
    """The backend of this network, with weights."""
    model = cases.NETWORKS[case]
    learned = model.out_channels == 2 * model.in_channels
    backend = subject.backend(model, subject.process(variance="learned_range" if learned else "large"))
    backend.load_weights(weights(model))
    return backend


def images(case: str, scale: float = 1.0) -> np.ndarray:
    """One image for each t."""
    model = cases.NETWORKS[case]
    return np.float32(scale) * normal(3, len(times(case)), model.in_channels, model.sample_size, model.sample_size)


def times(case: str) -> np.ndarray:
    """What the network is told, by image."""
    return np.resize(T, cases.IMAGES.get(case, len(T)))


@cache
def reference(case: str, scale: float = 1.0) -> dict[str, np.ndarray]:
    """Each block's output; `conv_out` is the network's."""
    seen: dict[str, np.ndarray] = {}
    unet.forward(weights(cases.NETWORKS[case]), cases.NETWORKS[case], images(case, scale), times(case), seen)
    return seen


def check_blocks(subject: Subject, case: str) -> None:
    """Each block's output, so that a failure names the first block that is wrong."""
    backend = loaded(subject, case)
    x, t = backend.to_device(images(case).astype(subject.real)), backend.to_device(times(case).astype(subject.real))
    actual = backend.activations(x, t)
    for name, expected in reference(case).items():
        guard.must("activations", name in actual, f"returned nothing for {name!r}, {case}")
        subject.close("L2.block", actual[name], expected, f"{case}: {name}")


@pytest.mark.parametrize("case", SMALL)
def test_blocks(subject: Subject, case: str) -> None:
    """Block by block."""
    check_blocks(subject, case)


@pytest.mark.subjects(dtypes=("float32", "bfloat16"))
def test_large_network(subject: Subject) -> None:
    """256 positions, 64 channels, 32 groups and 9 images, block by block."""
    check_blocks(subject, "large")


@pytest.mark.compiled(case="tiny-unit")
@pytest.mark.parametrize("case", [f"{network}-{scale}" for network in SMALL for scale in SCALES])
def test_forward(subject: Subject, case: str) -> None:
    """The whole network."""
    name, scale = case.split("-")
    backend = loaded(subject, name)
    x = backend.to_device(images(name, SCALES[scale]).astype(subject.real))
    actual = backend.to_host(backend.forward(x, backend.to_device(times(name).astype(subject.real))))
    error = subject.close("L2.forward", actual, reference(name, SCALES[scale])["conv_out"], case)
    if name == "tiny" and scale == "unit":
        subject.reduced("L2.forward", error, case)


@pytest.mark.parametrize("case", FAR_CASES)
def test_far_from_zero(subject: Subject, case: str) -> None:
    """No variance as a difference of squares, no softmax of exponentials that overflow, no x e^x / (1 + e^x). Reduced precision has
    too few digits there for more than a finite output."""
    backend, x = subject.backend(FAR), normal(3, len(T), 2, 4, 4)
    backend.load_weights(far(case))
    actual = backend.to_host(backend.forward(backend.to_device(x.astype(subject.real)), backend.to_device(T.astype(subject.real))))
    if subject.dtype in FULL:
        subject.close(f"L2.{case}", actual, unet.forward(far(case), FAR, x, T), case)
    else:
        assert np.isfinite(actual).all(), f"{case}: not finite"


@pytest.mark.subjects(mode="tuned", dtypes=("float32",))
@pytest.mark.parametrize("case", fields.MODEL)
def test_each_field(subject: Subject, case: str) -> None:
    """Two networks that differ in one field, in a row: what was kept for the first is not taken for the second."""
    for model in (cases.TINY, replace(cases.TINY, **{case: fields.MODEL[case]})):
        if case == "in_channels":
            model = replace(model, out_channels=model.in_channels)
        learned = model.out_channels == 2 * model.in_channels
        backend = subject.backend(model, subject.process(variance="learned_range" if learned else "large"))
        backend.load_weights(weights(model))
        x = normal(3, len(T), model.in_channels, model.sample_size, model.sample_size)
        actual = backend.activations(backend.to_device(x.astype(subject.real)), backend.to_device(T.astype(subject.real)))
        subject.close("L2.block", actual["conv_out"], unet.forward(weights(model), model, x, T), case)


def test_whole_timesteps(subject: Subject) -> None:
    """t may come as integers."""
    backend = loaded(subject, "tiny")
    t = np.array([0, 1, 500, 999])
    expected = unet.forward(weights(cases.TINY), cases.TINY, images("tiny"), t)
    actual = backend.to_host(backend.forward(backend.to_device(images("tiny").astype(subject.real)), backend.to_device(t)))
    subject.close("L2.forward", actual, expected, "integer t")


def test_ema_network(subject: Subject) -> None:
    """`ema` selects the averaged weights, which a state may hold apart from the others."""
    backend, other = loaded(subject, "tiny"), weights(cases.TINY, seed=1)
    kind = next(iter(backend.weights().values())).dtype
    backend.load_state(dict(backend.state()) | {f"ema/{name}": value.astype(kind) for name, value in other.items()})
    x, t = backend.to_device(images("tiny").astype(subject.real)), backend.to_device(T.astype(subject.real))
    for ema, w in ((False, weights(cases.TINY)), (True, other)):
        expected = unet.forward(w, cases.TINY, images("tiny"), T)
        subject.close("L2.forward", backend.to_host(backend.forward(x, t, ema=ema)), expected, f"ema={ema}")


def test_self_conditioned_network(subject: Subject) -> None:
    """The image comes first and its last x0_hat second; without one it is zeros, for `activations`, too."""
    diffusion = subject.process(self_conditioning=True)
    model = cases.network(diffusion)
    backend = subject.backend(model, diffusion)
    backend.load_weights(weights(model))
    x, x0 = images("tiny"), normal(4, *images("tiny").shape)
    tensors = [backend.to_device(a.astype(subject.real)) for a in (x, T, x0)]
    for given, self_cond in ((x0, tensors[2]), (np.zeros_like(x0), None)):
        expected = unet.forward(weights(model), model, np.concatenate((x, given), axis=1), T)
        actual = backend.to_host(backend.forward(tensors[0], tensors[1], self_cond))
        subject.close("L2.forward", actual, expected, f"self_cond {'given' if self_cond is not None else 'absent'}")
    seen: dict[str, np.ndarray] = {}
    unet.forward(weights(model), model, np.concatenate((x, np.zeros_like(x)), axis=1), T, seen)
    subject.close("L2.block", backend.activations(*tensors[:2])["conv_in"], seen["conv_in"], "self_cond: conv_in")
