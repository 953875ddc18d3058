"""Fuzzing: how many inputs, and how a valid file is damaged; with Hypothesis, and with a plain generator.

`DDIM_BENCH_FUZZ_EXAMPLES=10000 pytest tests/test_fuzz_data.py` gives every test that many inputs; the default is small.
"""

from __future__ import annotations

import copy
import json
import os
import random
import re
from collections.abc import Callable, Iterator, Sequence
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


# The same with a plain generator, where millions of inputs are wanted: an input is a function of its reader, seed and number.


def broken(rng: random.Random, original: bytes, others: Sequence[bytes] = (), most: int = 4) -> bytes:
    """`original` after 1 to `most` changes: those of `damaged`, an extreme number, the end of one of `others` for its own."""
    content = bytearray(original)
    for _ in range(rng.randint(1, most)):
        at = rng.randrange(len(content) + 1)
        length = rng.choice((1, 2, 4, 8, 16, 200))
        match rng.randrange(8):
            case 0 if content:
                content[min(at, len(content) - 1)] ^= 1 << rng.randrange(8)
            case 1:
                value = rng.choice(INTERESTING) if rng.random() < 0.5 else rng.randbytes(rng.randrange(9))
                content[at:at + len(value)] = value
            case 2:
                del content[at:at + length]
            case 3:
                content[at:at] = rng.randbytes(length)
            case 4:
                content[at:at] = content[at:at + length] * rng.randint(1, 50)
            case 5:
                del content[at:]
            case 6:
                number = rng.choice((0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1))
                size = rng.choice((2, 4, 8))
                content[at:at + size] = (number % 2**(8 * size)).to_bytes(size, rng.choice(("little", "big")))
            case 7:
                other = rng.choice(others or (original,))
                content[at:] = other[rng.randrange(len(other) + 1):]
    return bytes(content)


def strange_json(rng: random.Random) -> str:
    """A value of JSON, or of what Python takes for it: huge, not finite, deeply nested, of every type."""
    depth = rng.choice((50, 300, 990, 20_000))
    return rng.choice((
        "null", "true", "false", "0", "-1", "1", "2", "8", "0.5", "-0.0", "1e-320", "1e308", "-1e308", "1e999", "NaN", "Infinity",
        "-Infinity", "65536", "65537", "1048576", "2147483648", "9223372036854775808", "9" * 30, "9" * 5000, '""', '"x"',
        '"../x"', '"a\\nb"', '"\\ud800"', '"\\u0000"', '"<b>"', "[]", "{}", "[[]]", "[null]", "[0]", '["x"]', '{"a": 1}',
        "[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth, json.dumps("x" * 3000), json.dumps([1] * 1000)))


def broken_json(rng: random.Random, original: Any, most: int = 3) -> bytes:
    """The text of a JSON value in which 1 to `most` places were removed, renamed, given another value or one of elsewhere."""
    value = copy.deepcopy(original)
    for _ in range(rng.randint(1, most)):
        found = list(_places(value))
        if not found:
            break
        holder, key = rng.choice(found)
        match rng.randrange(6):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[rng.choice(("x", "", "a\nb", key + "_"))] = holder.pop(key)
            case 2:
                other, name = rng.choice(found)
                holder[key] = copy.deepcopy(other.get(name) if isinstance(other, dict) else other[min(name, len(other) - 1)])
            case 3:
                holder[key] = [holder[key]]
            case _:
                holder[key] = "\0"
    text = re.sub(r'"\\u0000"', lambda _: strange_json(rng), json.dumps(value))
    return broken(rng, text.encode(), most=2) if rng.random() < 0.1 else text.encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container of a JSON value with each of its keys."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])
