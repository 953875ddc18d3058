"""Who races in the speed table: the backends as they claim to run, and peers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from backends import about, claims
from bench.workers import peers


@dataclass(frozen=True)
class Contender:
    """One column of the race: a backend or peer, how it runs, and whether it is the second run of another one."""

    backend: str
    mode: str
    dtype: str
    again: bool = False

    @property
    def name(self) -> str:
        """What the report calls it."""
        mode = "eager" if self.backend in peers.PEERS and self.mode == "stock" else self.mode
        return f"{self.backend} {mode} {self.dtype}" + (" (again)" if self.again else "")


def contenders(backends: Sequence[str], with_peers: bool, device: str = "cpu") -> list[Contender]:
    """All that could race: backends stock, tuned and compiled, also in reduced precision, as far as they claim it, and peers, eager
    and tuned. The first that is tuned runs twice."""
    out = [c for c in _possible(backends, device) if not _outside(c, device)]
    if with_peers:
        out += [Contender("diffusers", "stock", "float32"), Contender("diffusers", "tuned", "float32"),
                Contender("diffusers", "tuned", "bfloat16"), Contender("lucidrains", "stock", "float32"),
                Contender("flax", "tuned", "float32")]
        out += [Contender(name, "tuned", dtype) for name in peers.ENGINES if device == "cpu" for dtype in peers.dtypes(name)]
    first = next((c for c in out if c.mode == "tuned"), None)
    return [*out, replace(first, again=True)] if first else out


def unclaimed(backends: Sequence[str], device: str = "cpu") -> list[str]:
    """A line for each contender that its backend does not claim to be."""
    return [f"not run: {c.name}: {claims.line(about(c.backend), *next(iter(outside.items())))}"
            for c in _possible(backends, device) if (outside := _outside(c, device))]


def _possible(backends: Sequence[str], device: str) -> list[Contender]:
    out = []
    for backend in backends:
        out += [Contender(backend, "stock", "float32"), Contender(backend, "tuned", "float32")]
        out += [Contender(backend, "tuned", dtype) for dtype in about(backend).reduced]
        if device.partition(":")[0] in about(backend).compiled_apart:
            out += [Contender(backend, "compiled", dtype) for dtype in ("float32", *about(backend).reduced)]
    return out


def _outside(c: Contender, device: str) -> dict[str, str]:
    """What of its mode and, on the CPU, its dtype the backend does not claim, by kind."""
    asked = {"modes": c.mode} | ({"dtypes": c.dtype} if device == "cpu" else {})
    return {kind: name for kind, name in asked.items() if name not in claims.claimed(about(c.backend), kind)}
