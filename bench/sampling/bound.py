"""The variational bound of images in bits per dimension, term by term, as a backend computes it (DDPM equation 5).

All variances share the network's outputs: one pass gives the bound of each. The noise of an image is that of its id, its timestep
and the seed, on every backend and on paths of every length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from backends.protocol import Backend, Likelihood
from bench import streams
from bench.data.pixels import to_float
from bench.sampling.loop import sound
from reference import timesteps
from reference.config import DiffusionConfig, require
from reference.respacing import respaced

SPACING = "linspace"  # IDDPM's even spacing, which keeps the first and the last timestep
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Path:
    """A process of S steps with each variance, by name, and the timesteps of the whole process that it keeps, increasing."""

    timesteps: Sequence[int]
    processes: Mapping[str, DiffusionConfig]

    @property
    def steps(self) -> int:
        """S."""
        return len(self.timesteps)


@dataclass(frozen=True)
class Bound:
    """Bits per dimension: `prior` (n,), and `terms` (n, S) by variance, column 0 of them the decoder's. Their sum is the bound."""

    prior: Array
    terms: Mapping[str, Array]


def variances(diffusion: DiffusionConfig) -> tuple[str, ...]:
    """The variances that a network has a bound with: small and large, and that which it learned."""
    return ("small", "large", *([diffusion.variance] if diffusion.learned_variance else []))


def path(diffusion: DiffusionConfig, steps: int, names: Sequence[str]) -> Path:
    """The path of S of the process's timesteps, all or `SPACING`, for these variances. Raises `ConfigError` where there is none."""
    T = diffusion.timesteps
    require(not (diffusion.ends_at_zero and diffusion.objective == "eps"), "objective", diffusion.objective,
            "has no bound where alpha_bar ends at 0: eps says nothing of the image there; use weights that predict v or x0")
    require(steps == T or diffusion.objective != "previous", "steps", steps,
            f"the network predicts the state one step before, of its own {T} steps alone: leave the steps out")
    for name in names:
        require(name in variances(diffusion), "variance", name, f"this network has {', '.join(variances(diffusion))}")
    whole = steps == T
    kept = range(T) if whole else timesteps.path(T, steps, SPACING)
    shorter = diffusion if whole else respaced(diffusion, steps, spacing=SPACING, convention="plain")
    return Path(list(kept), {name: replace(shorter, variance=name) for name in names})


def noise(seed: int, ids: NDArray[np.int64], shape: tuple[int, ...], path: Path, i: int) -> Array:
    """The noise of step i of the path for these images, (n, *shape) float64."""
    return streams.normal(seed, "bound", ids, shape, step=path.timesteps[i]).astype(np.float64)


def bound(backend: Backend, path: Path, images: NDArray[np.uint8], *, seed: int, batch_size: int, clip: bool,
          on_progress: Callable[[int, int], object] | None = None) -> Bound:
    """The bound of images 0 .. n - 1, uint8 (n, C, H, W), under the EMA weights. `clip` clips x0_hat to [-1, 1].

    Every batch has one size, as in `loop.draw`. A self-conditioned network is shown zeros in place of its last x0_hat.
    `on_progress(done, total)` counts network calls on an image. Raises `BackendError` for values that are not finite.
    """
    n, S, channels = len(images), path.steps, images.shape[1]
    size = min(batch_size, n)
    whole = cast(Likelihood, backend).process
    processes = {name: whole.of(config) for name, config in path.processes.items()}
    forward = next(iter(processes.values()))  # the variance changes no x_t
    prior, terms = np.empty(n), {name: np.empty((n, S)) for name in processes}
    for start in range(0, n, size):
        ids, kept = np.arange(start, start + size) % n, slice(start, min(start + size, n))
        x0 = backend.to_device(to_float(images[ids]).astype(np.float64))
        prior[kept] = sound("prior", backend.to_host(forward.prior_bits(x0)), (size,))[:kept.stop - start]
        for i in reversed(range(S)):
            t = backend.to_device(np.full(size, i))
            xt = forward.q_sample(x0, t, backend.to_device(noise(seed, ids, images.shape[1:], path, i)))
            output = backend.to_host(backend.forward(xt, forward.network_t(t), ema=True)).astype(np.float64)
            mean = backend.to_device(output[:, :channels])
            variance = backend.to_device(output[:, channels:]) if output.shape[1] > channels else mean  # unused: it is fixed
            for name, process in processes.items():
                found = backend.to_host(process.vlb_terms(x0, xt, t, mean, variance, clip))
                terms[name][kept, i] = sound("bound", found, (size,))[:kept.stop - start]
            if on_progress:
                on_progress(start * S + (S - i) * (kept.stop - start), n * S)
    return Bound(prior, terms)
