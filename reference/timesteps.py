"""Which timesteps a shortened sampler visits. Every rule returns increasing integers in 0..T-1.

The rules of this file return exactly S distinct steps or raise `ConfigError`. The rules as other codes wrote them, which may
return more, fewer or repeated steps, are in `LITERAL` by the name of the convention that has them.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from .config import ConfigError, require
from .schedules import torch_linspace


def _check(T: int, S: int, rule: str, least: int = 1) -> None:
    require(isinstance(S, int) and least <= S <= T, "steps", S, f"spacing {rule!r} needs {least} <= S <= T={T}")


def _even(length: int, count: int) -> list[int]:
    """`count` points from 0 to length - 1, rounded half to even from the exact quotient; one point is 0."""
    return [round(i * (length - 1) / max(count - 1, 1)) for i in range(count)]


def leading(T: int, S: int) -> list[int]:
    """floor(i T / S): 0, 20, .. 980 for T = 1000, S = 50. The DDIM paper's "linear" selection, appendix D.2."""
    _check(T, S, "leading")
    return [i * T // S for i in range(S)]


def linspace(T: int, S: int) -> list[int]:
    """S evenly spaced points from 0 to T - 1, rounded half to even: 0, 20, 41, .. 999."""
    _check(T, S, "linspace", least=2 if T > 1 else 1)
    return _even(T, S)


def trailing(T: int, S: int) -> list[int]:
    """round(i T / S) - 1 for i = 1..S: 19, 39, .. 999; always ends at T - 1 (Lin et al. 2023, arXiv:2305.08891)."""
    _check(T, S, "trailing")
    return [round(i * T / S) - 1 for i in range(1, S + 1)]


def quad(T: int, S: int) -> list[int]:
    """trunc(linspace(0, sqrt(0.8 T), S)^2), DDIM appendix D.2 for CIFAR-10; a repeated step moves up to the next free one."""
    _check(T, S, "quad")
    out: list[int] = []
    for t in _song_quad(T, S):
        out.append(max(t, out[-1] + 1) if out else t)
    return out


def sections(T: int, counts: tuple[int, ...], points: Callable[[int, int], list[int]] = _even) -> list[int]:
    """IDDPM's respacing: T is cut into len(counts) nearly equal sections, each strided on its own to counts[i] steps."""
    require(len(counts) > 0, "steps", counts, "sections need at least one count")
    size, extra = divmod(T, len(counts))
    out: list[int] = []
    start = 0
    for i, count in enumerate(counts):
        length = size + (i < extra)
        require(1 <= count <= length, "steps", counts, f"section {i} has {length} of T={T} timesteps and cannot give {count}")
        out += [start + t for t in points(length, count)]
        start += length
    return out


SPACINGS: dict[str, Callable[[int, int], list[int]]] = {f.__name__: f for f in (leading, linspace, trailing, quad)}


def _song_uniform(T: int, S: int) -> list[int]:
    return list(range(0, T, T // S))  # 31 steps for S = 30, 334 for S = 300


def _song_quad(T: int, S: int) -> list[int]:
    return [int(t) for t in np.linspace(0, np.sqrt(T * 0.8), S) ** 2]  # repeats a step at S = 50


def _nichol_ddim(T: int, S: int) -> list[int]:
    for stride in range(1, T):
        if len(range(0, T, stride)) == S:
            return list(range(0, T, stride))
    raise ConfigError(f"steps={S!r}: no integer stride gives S={S} of T={T} timesteps (rule ddimN of nichol2021)")


def _nichol_even(length: int, count: int) -> list[int]:
    stride, position, out = (length - 1) / max(count - 1, 1), 0.0, []
    for _ in range(count):  # the sum's rounding decides halves: 500 where 499.5 is exact, for some S
        out.append(round(position))
        position += stride
    return out


def _nichol_sections(T: int, counts: tuple[int, ...]) -> list[int]:
    require(sum(counts) > 1, "steps", counts, "nichol2021 cannot build a one-step path")
    return sections(T, counts, _nichol_even)


def _diffusers_leading(T: int, S: int) -> list[int]:
    return [i * (T // S) for i in range(S)]  # tops out at 897 for S = 300


def _diffusers_linspace(T: int, S: int) -> list[int]:
    return [int(t) for t in np.round(np.linspace(0, T - 1, S))]


def _diffusers_trailing(T: int, S: int) -> list[int]:
    return [int(t) - 1 for t in np.round(np.arange(T, 0, -T / S))[::-1]]


def _lucidrains(T: int, S: int) -> list[int]:
    """torch.linspace(-1, T - 1, S + 1) in float32, truncated."""
    return [int(t) for t in torch_linspace(-1, T - 1, S + 1)[1:]]


def _all_steps(T: int, S: int) -> list[int]:
    require(S == T, "steps", S, f"ho2020 visits every timestep: S must equal T={T}")
    return list(range(T))


LITERAL: dict[str, dict[str, Callable[[int, int], list[int]]]] = {
    "plain": SPACINGS,
    "ho2020": {"all": _all_steps},
    "song2021": {"leading": _song_uniform, "quad": _song_quad},
    "nichol2021": {"linspace": lambda T, S: _nichol_sections(T, (S,)), "leading": _nichol_ddim},
    "diffusers": {"leading": _diffusers_leading, "trailing": _diffusers_trailing, "linspace": _diffusers_linspace},
    "lucidrains": {"trailing": _lucidrains},
}


def path(T: int, steps: int | tuple[int, ...], spacing: str, convention: str = "plain", offset: int = 0) -> list[int]:
    """Increasing timesteps of a shortened sampler.

    `steps` is S, or IDDPM's section counts (conventions plain and nichol2021). `offset` moves the rule "leading" up, diffusers'
    `steps_offset`. Raises `ConfigError` naming S, T and the rule.
    """
    rules = LITERAL[convention]
    require(offset >= 0 and not (offset and (isinstance(steps, tuple) or spacing != "leading")), "steps_offset", offset,
            f"must be 0 or more, and moves the spacing leading alone, not {'sections' if isinstance(steps, tuple) else spacing}")
    if isinstance(steps, tuple):
        require(convention in ("plain", "nichol2021"), "steps", steps, f"convention {convention} has no sections")
        return _nichol_sections(T, steps) if convention == "nichol2021" else sections(T, steps)
    require(spacing in rules, "spacing", spacing, f"convention {convention} has {', '.join(rules)}")
    _check(T, steps, spacing)
    out = rules[spacing](T, steps)
    require(out[-1] + offset < T, "steps_offset", offset,
            f"takes the first step to t = {out[-1] + offset}, which must be below T={T}")
    return [t + offset for t in out]


def parse_steps(text: str) -> list[int]:
    """Step counts from a command line: "10,50,1000" gives [10, 50, 1000]. Raises `ConfigError` for anything else."""
    require(re.fullmatch(r"\s*\d{1,9}\s*(,\s*\d{1,9}\s*)*", text) is not None, "--steps", text,
            "must be whole numbers separated by commas, such as 10,50,1000")
    out = [int(s) for s in text.split(",")]
    require(all(s > 0 for s in out), "--steps", text, "every step count must be at least 1")
    require(len(set(out)) == len(out), "--steps", text, "every step count must appear once")
    return out
