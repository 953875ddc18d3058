"""Who races in the speed table, and in what: the backends as they claim to run, and peers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from backends import about, claims, trains
from bench.messages import TimeSample, TimeTrain, Timing
from bench.presets import Preset
from bench.workers import peers
from reference.config import require


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


@dataclass(frozen=True)
class Workload:
    """One cell: a kind of work, at one batch size."""

    name: str
    command: Callable[..., Timing]
    batch_size: int
    stock: bool = True  # whether stock modes of backends that have another race, too

    @property
    def word(self) -> str:
        """What --workloads calls it."""
        return f"{self.name.split()[0]}-{self.batch_size}"

    @property
    def title(self) -> str:
        """What --dry-run calls it."""
        return f"{self.name}, batch {self.batch_size}" + ("" if self.stock else ", without the backends' stock modes")

    def racing(self, wanted: Sequence[Contender]) -> list[Contender]:
        """Those that can do this work, and race in it."""
        who = [c for c in wanted if self.command is not TimeTrain
               or (c.backend not in peers.ENGINES and c.mode != "exported" and trains(c.backend))]
        others = {c.backend for c in who if c.mode != "stock"}
        return [c for c in who if self.stock or c.mode != "stock" or c.backend in peers.PEERS or c.backend not in others]


def workloads(preset: Preset, words: Sequence[str] = ()) -> list[Workload]:
    """Training, and sampling at the preset's batch, four times it, and one image (latency); of these the ones of `words`, where
    there are any. All contenders of a race are in memory at once, so that stock modes stay out of the largest batch; the other
    batches show their ratio."""
    n = preset.sample_batch
    every = [Workload("training step", TimeTrain, preset.batch_size), Workload("sampling step", TimeSample, n),
             Workload("sampling step", TimeSample, 4 * n, stock=False), Workload("sampling step", TimeSample, 1)]
    known = [w.word for w in every]
    for word in words:
        require(word in known, "--workloads", word, f"must be of {', '.join(known)}")
    return [w for w in every if not words or w.word in words]


def contenders(backends: Sequence[str], with_peers: bool, device: str = "cpu") -> list[Contender]:
    """All that could race: backends stock, tuned and compiled, also in reduced precision, as far as they claim it; and peers, eager
    and tuned, with backends for which an engine draws. The first that is tuned runs twice."""
    out = [c for c in _possible(backends, device) if not _outside(c, device)]
    if with_peers:
        out += [Contender("diffusers", "stock", "float32"), Contender("diffusers", "tuned", "float32"),
                Contender("diffusers", "tuned", "bfloat16"), Contender("lucidrains", "stock", "float32"),
                Contender("flax", "tuned", "float32")]
    if with_peers and device == "cpu":
        out += [Contender(name, "exported", "float32") for name in backends if "exported" in claims.claimed(about(name), "modes")]
        out += [Contender(name, "tuned", dtype) for name in peers.ENGINES for dtype in peers.dtypes(name)]
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
