"""A sampler without a network that draws with the network of another backend: SAMPLER+NETWORK.

Tables and steps are the sampler's, all else the network's. Arrays cross from one framework to the other as NumPy arrays, at every
step: times of such a pair say what the pair costs, not what the sampler does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from backends import claims
from backends.facts import About
from backends.protocol import Backend, Sampler, Spec, Tensor
from reference.config import ConfigError
from reference.conventions import Plan


def about(sampler: About, network: About) -> About:
    """The facts of the pair: it stands in the sampler's place, and claims what both do."""
    both: dict[str, Any] = {kind: tuple(name for name in claims.claimed(sampler, kind) if name in claims.claimed(network, kind))
            for kind in claims.NAMES if kind != "losses"}  # of which the sampler has none
    both["samplers"] = tuple(name for name in both["samplers"] if name in claims.EXACT)
    return replace(network, **both, label=f"{sampler.label} with the network of {network.label}", order=sampler.order,
                   install=f"{sampler.install}; {network.install}",
                   packages=(*sampler.packages, *network.packages), solvers=False, likelihood=False, roofline=False,
                   weight_files=(), launcher=None)


def module(name: str, sampler: ModuleType, network: ModuleType) -> Any:
    """What exports `create(spec)` of the pair."""
    return SimpleNamespace(__name__=name, create=lambda spec: Borrowing(spec, sampler.create(spec), network.create(spec)))


class Borrowing:
    """`backends.protocol.Backend`. Weights, network and training are the network's own, by name."""

    def __init__(self, spec: Spec, sampler: Sampler, network: Backend) -> None:
        self._spec, self._sampler, self._network = spec, sampler, network

    def __getattr__(self, name: str) -> Any:
        """Of the network: `load_weights`, `weights`, `forward`, `train_step` and the like."""
        return getattr(self._network, name)

    def device_info(self) -> dict[str, str]:
        """The network's, and the sampler's framework."""
        return self._network.device_info() | {"sampler": self._sampler.device_info().get("framework", "unknown")}

    def tables(self, plan: Plan) -> dict[str, np.ndarray]:
        """The sampler's."""
        return self._sampler.tables(plan)

    def step(self, x: Tensor, output: Tensor, i: int, plan: Plan, z: Tensor | None) -> Tensor:
        """The sampler's, of the network's tensors: x, output, z and the result (N, C, H, W)."""
        mine = [None if array is None else self._sampler.to_device(self._network.to_host(array)) for array in (x, output, z)]
        return self._network.to_device(self._sampler.to_host(self._sampler.step(mine[0], mine[1], i, plan, mine[2])))

    def sample(self, x: Tensor, plan: Plan, noise: Callable[[int], np.ndarray] | None = None, *, ema: bool = True,
               on_step: Callable[[int], None] | None = None) -> Tensor:
        """The whole path from x = x_T (N, C, H, W). Raises `ConfigError` for self-conditioning, whose x0_hat no step gives."""
        if plan.diffusion.self_conditioning:
            raise ConfigError("self_conditioning=True: a sampler with another backend's network does not have it: use that backend")
        size = self._network.to_host(x).shape[0]
        for i in range(plan.steps):
            t = self._network.to_device(np.full(size, plan.network_t[i], np.float64))
            output = self._network.forward(x, t, ema=ema)
            noisy = noise is not None and plan.needs_noise and plan.noise_gate[i]
            z = self._network.to_device(noise(i)) if noise is not None and noisy else None
            x = self.step(x, output, i, plan, z)
            if on_step:
                on_step(i)
        return x
