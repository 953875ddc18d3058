"""Fuzzing with Hypothesis: how many inputs, and how a valid file is damaged.

`DDIM_BENCH_FUZZ_EXAMPLES=10000 pytest tests/test_fuzz_data.py` gives every test that many inputs; the default is small.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

INTERESTING = (b"\0", b"\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\1", b"\0" * 8, b"../", b"-1",
               b"9" * 12)


def fuzz(default: int = 30) -> Callable[[Any], Any]:
    """Hypothesis settings of a fuzz test: the number of inputs, and a minute for each, which none may take on any machine."""
    examples = int(os.environ.get("DDIM_BENCH_FUZZ_EXAMPLES", default))
    return settings(max_examples=examples, deadline=60_000, database=None,
                    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@st.composite
def damaged(draw: st.DrawFn, original: bytes, most: int = 4) -> bytes:
    """`original` after up to `most` changes: bits flipped, bytes overwritten, cut out, put in, repeated, or cut off."""
    content = bytearray(original)
    for _ in range(draw(st.integers(0, most))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        length = draw(st.integers(0, 16))
        kind = draw(st.sampled_from(("flip", "overwrite", "cut", "insert", "repeat", "truncate")))
        if kind == "flip" and content:
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "overwrite":
            value = draw(st.sampled_from(INTERESTING) | st.binary(max_size=8))
            content[at:at + len(value)] = value
        elif kind == "cut":
            del content[at:at + length]
        elif kind == "insert":
            content[at:at] = draw(st.binary(max_size=16))
        elif kind == "repeat":
            content[at:at] = content[at:at + length] * draw(st.integers(1, 50))
        elif kind == "truncate":
            del content[at:]
    return bytes(content)
