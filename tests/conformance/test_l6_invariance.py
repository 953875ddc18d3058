"""L6: what must not matter. Batch size, other images in the batch, a stop and resume, earlier calls, stock or tuned."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest

from backends.protocol import Backend, Batch
from reference import samplers, unet
from reference.config import DiffusionConfig

from . import cases
from .kit import Subject, batch, normal, weights

SHAPE = (9, 2, 4, 4)  # more than 8, and odd
PLAN = cases.PATHS["plain_eta"]
MODEL = cases.ONE_LEVEL


def loaded(subject: Subject, diffusion: DiffusionConfig = PLAN.diffusion) -> Backend:
    """A backend at step 0."""
    backend = subject.backend(MODEL, diffusion, cases.OPTIMS["schedule"])
    backend.load_weights(weights(MODEL))
    return backend


def sampled(subject: Subject, part: slice) -> np.ndarray:
    """These images of the batch, sampled."""
    backend = loaded(subject)
    x = backend.to_device(normal(0, *SHAPE)[part].astype(subject.real))
    return backend.to_host(backend.sample(x, PLAN, lambda i: normal(i + 1, *SHAPE)[part]))


def test_sampling_in_parts(subject: Subject) -> None:
    """An image is the same in whatever batch it is sampled."""
    whole = sampled(subject, slice(0, 9))
    parts = np.concatenate([sampled(subject, slice(0, 1)), sampled(subject, slice(1, 9))])
    subject.close("L6.batch", parts, whole, "a batch of 9 against 1 + 8")


def test_forward_in_parts(subject: Subject) -> None:
    """The network treats each image, with its own t, alone."""
    backend = loaded(subject)
    x, t = normal(0, *SHAPE).astype(subject.real), np.array([0, 10, 100, 299, 1, 298, 17, 33, 256])

    def forward(part: slice) -> np.ndarray:
        return backend.to_host(backend.forward(backend.to_device(x[part]), backend.to_device(t[part])))

    subject.close("L6.batch", np.concatenate([forward(slice(0, 1)), forward(slice(1, 9))]), forward(slice(0, 9)), "forward")


def test_gradient_in_parts(subject: Subject) -> None:
    """The batch's loss and gradients are the means of its images'."""
    backend = loaded(subject)
    whole, shares = batch(subject.spec(MODEL, PLAN.diffusion), size=9), (1 / 9, 8 / 9)
    parts = [replace(whole, **{name: getattr(whole, name)[part] for name in ("ids", "x0", "t", "noise")})
             for part in (slice(0, 1), slice(1, 9))]

    def gradients(b: Batch) -> tuple[float, dict[str, np.ndarray]]:
        loss, out = backend.loss_and_gradients(b)
        return float(backend.to_host(loss)), dict(out)

    expected_loss, expected = gradients(whole)
    each = [gradients(b) for b in parts]
    loss = sum(share * loss for share, (loss, _) in zip(shares, each, strict=True))
    subject.close("L6.batch", loss, expected_loss, "loss")
    scale = max(float(np.abs(g).max()) for g in expected.values())
    for name, gradient in expected.items():
        mean = sum(share * np.asarray(g[name], np.float64) for share, (_, g) in zip(shares, each, strict=True))
        subject.within("L6.gradient", float(np.abs(mean - gradient).max()) / scale, f"gradient of {name}")


def train(backend: Backend, subject: Subject, steps: range) -> list[float]:
    """Losses of these steps."""
    return [float(backend.to_host(backend.train_step(batch(subject.spec(MODEL, PLAN.diffusion), step=n)))) for n in steps]


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    """Assert that two states agree bit for bit."""
    assert set(a) == set(b)
    for name in a:
        assert a[name].dtype == b[name].dtype and a[name].tobytes() == b[name].tobytes(), f"{name} differs"


@pytest.mark.parametrize("case", ["plain", "dropout"])
def test_resume(subject: Subject, case: str) -> None:
    """Stopped before the first or the fourth step, saved, loaded into another backend and continued: bit for bit the run that never
    stopped."""
    spec = subject.spec(replace(MODEL, dropout=0.2 if case == "dropout" else 0.0), PLAN.diffusion, cases.OPTIMS["schedule"])
    backend, resumed = subject.backend(spec.model, spec.diffusion, spec.optim), subject.create(spec)
    for stop in (3, 0):
        backend.load_weights(weights(MODEL))
        train(backend, subject, range(stop))
        file = io.BytesIO()
        np.savez(file, **backend.state())
        losses = train(backend, subject, range(stop, 6))
        file.seek(0)
        resumed.load_weights(weights(MODEL, seed=5))
        train(resumed, subject, range(2))  # another past must not show
        saved = dict(np.load(file))
        resumed.load_state(saved)
        same(saved, dict(resumed.state()))
        assert train(resumed, subject, range(stop, 6)) == losses
        same(dict(backend.state()), dict(resumed.state()))


def test_fresh_start(subject: Subject) -> None:
    """`load_weights` resets all that training and sampling have changed: the second run repeats the first, from the same state."""
    backend = loaded(subject)
    start, first, end = dict(backend.state()), train(backend, subject, range(4)), dict(backend.state())
    backend.sample(backend.to_device(normal(5, 1, *SHAPE[1:]).astype(subject.real)), cases.PATHS["plain_eta0"], None)
    backend = loaded(subject)
    same(start, dict(backend.state()))
    assert train(backend, subject, range(4)) == first
    same(end, dict(backend.state()))


def test_repeat(subject: Subject) -> None:
    """The same call twice, with training, another plan and another shape between, gives the same bits."""
    backend = loaded(subject)
    first = sampled(subject, slice(0, 9))
    backend.loss_and_gradients(batch(subject.spec(MODEL, PLAN.diffusion)))
    backend.sample(backend.to_device(normal(5, 1, *SHAPE[1:]).astype(subject.real)), cases.PATHS["plain_eta0"], None)
    assert np.array_equal(sampled(subject, slice(0, 9)), first)


def test_sampling_follows_training(subject: Subject) -> None:
    """Sampling and `forward` use the weights of now, averaged or not, and not those that were there when a graph was built. They
    drop nothing, though training did."""
    backend = subject.backend(replace(MODEL, dropout=0.3), PLAN.diffusion, cases.OPTIMS["schedule"])
    backend.load_weights(weights(MODEL))
    x = backend.to_device(normal(0, *SHAPE).astype(subject.real))

    def sample(b: Backend, ema: bool) -> np.ndarray:
        return b.to_host(b.sample(x, cases.PATHS["plain_eta0"], None, ema=ema))

    sample(backend, False), sample(backend, True)
    train(backend, subject, range(3))
    for ema in (False, True):
        now = dict(backend.weights(ema=ema))
        expected = samplers.sample(lambda x, t, w=now: unet.forward(w, MODEL, x, t), normal(0, *SHAPE).astype(np.float64),
                                   cases.PATHS["plain_eta0"])
        subject.close("L5.path", sample(backend, ema), expected, f"after training, ema={ema}")
    train(backend, subject, range(3, 4))  # sampling itself may have turned dropout off
    t = np.full(SHAPE[0], 7)
    for ema in (False, True):
        expected = unet.forward(dict(backend.weights(ema=ema)), MODEL, normal(0, *SHAPE), t)
        subject.close("L2.forward", backend.to_host(backend.forward(x, backend.to_device(t), ema=ema)), expected,
                      f"forward after training, ema={ema}")


@pytest.mark.compiled(alone=True)
@pytest.mark.subjects(mode="tuned")
def test_stock_and_tuned(subject: Subject) -> None:
    """Both modes sample the same images and train the same weights."""
    other = replace(subject, mode="tuned" if subject.mode == "stock" else "stock")
    subject.close("L6.modes", sampled(subject, slice(0, 9)), sampled(other, slice(0, 9)), "samples")
    states = []
    for s in (subject, other):
        backend = loaded(s)
        train(backend, s, range(5))
        states.append(dict(backend.state()))
    for name, value in states[0].items():
        if name.startswith(("weights/", "ema/")):
            subject.close("L6.modes", value, states[1][name], name)
