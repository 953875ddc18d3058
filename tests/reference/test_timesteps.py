"""Which timesteps each spacing visits: ours return exactly S distinct ones or say why not, the other codes' are literal."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference import timesteps
from reference.config import ConfigError

from .strategies import LAW

T = 1000


@pytest.mark.parametrize("rule, first, last", [
    ("leading", [0, 20, 40, 60], [940, 960, 980]),
    ("linspace", [0, 20, 41, 61], [958, 979, 999]),  # 999/49 = 20.39, 40.78, 61.16; .. 958.2, 978.6, 999
    ("trailing", [19, 39, 59, 79], [959, 979, 999]),
    ("quad", [0, 1, 2, 3], [736, 767, 800]),  # 800 (i/49)^2 = 0, 0.33 (moved up), 1.3 (moved up), 2.998 (too); .. 736.03, 767.7
])
def test_fifty_steps_of_a_thousand(rule, first, last):
    path = timesteps.path(T, 50, rule)
    assert len(path) == 50 and path[:4] == first and path[-3:] == last


def test_linspace_rounds_halves_to_even():
    """999 / 2 = 499.5 and 6 i / 4 = 0, 1.5, 3, 4.5, 6."""
    assert timesteps.path(T, 3, "linspace") == [0, 500, 999]
    assert timesteps.path(7, 5, "linspace") == [0, 2, 3, 4, 6]


def test_trailing_rounds_halves_to_even():
    """i 10 / 4 = 2.5, 5, 7.5, 10, each less one."""
    assert timesteps.path(10, 4, "trailing") == [1, 4, 7, 9]


@pytest.mark.parametrize("rule, path", [("leading", [0]), ("trailing", [999]), ("quad", [0])])
def test_one_step(rule, path):
    assert timesteps.path(T, 1, rule) == path


@pytest.mark.parametrize("rule", timesteps.SPACINGS)
def test_all_steps(rule):
    assert timesteps.path(T, T, rule) == list(range(T))


@LAW
@given(st.sampled_from(sorted(timesteps.SPACINGS)), st.integers(1, 4000), st.integers(-3, 4100))
def test_exactly_S_distinct_steps_or_an_error(rule, T, S):
    fits = (2 if rule == "linspace" and T > 1 else 1) <= S <= T
    if fits:
        path = timesteps.path(T, S, rule)
        assert len(path) == S and path == sorted(set(path)) and path[0] >= 0 and path[-1] < T
        assert all(type(t) is int for t in path)
    else:
        with pytest.raises(ConfigError, match=rf"steps={S}: spacing '{rule}' .*T={T}$"):
            timesteps.path(T, S, rule)


@LAW
@given(st.data(), st.integers(1, 4000), st.integers(1, 8))
def test_sections_give_exactly_their_counts(data, T, parts):
    parts = min(parts, T)
    sizes = [T // parts + (i < T % parts) for i in range(parts)]
    counts = tuple(data.draw(st.integers(1, size)) for size in sizes)
    path = timesteps.path(T, counts, "linspace")
    assert len(path) == sum(counts) and path == sorted(set(path)) and path[0] >= 0 and path[-1] < T
    for i in range(parts):
        start = sum(sizes[:i])
        inside = [t for t in path if start <= t < start + sizes[i]]
        assert len(inside) == counts[i] and inside[0] == start
        assert counts[i] == 1 or inside[-1] == start + sizes[i] - 1


def test_sections_of_three_hundred():
    """Thirds of 100, strided by 99/9 = 11, 99/14 = 7.07 and 99/19 = 5.21."""
    path = timesteps.path(300, (10, 15, 20), "linspace")
    assert path[:10] == list(range(0, 100, 11))
    assert path[10:25] == [100, 107, 114, 121, 128, 135, 142, 150, 157, 164, 171, 178, 185, 192, 199]
    assert path[25:] == [200, 205, 210, 216, 221, 226, 231, 236, 242, 247, 252, 257, 263, 268, 273, 278, 283, 289, 294, 299]


@pytest.mark.parametrize("counts, message", [
    ((), "steps=(): sections need at least one count"),
    ((10, 200), "steps=(10, 200): section 1 has 150 of T=300 timesteps and cannot give 200"),
    ((10, 0), "steps=(10, 0): section 1 has 150 of T=300 timesteps and cannot give 0"),
])
def test_sections_that_do_not_fit(counts, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        timesteps.path(300, counts, "linspace")


def test_sections_belong_to_two_conventions():
    with pytest.raises(ConfigError, match="steps=.*convention diffusers has no sections"):
        timesteps.path(T, (10, 20), "leading", "diffusers")


@pytest.mark.parametrize("convention", timesteps.LITERAL)
def test_unknown_spacing_lists_the_rules(convention):
    rules = ', '.join(timesteps.LITERAL[convention])
    rules = ", ".join(timesteps.LITERAL[convention])
    with pytest.raises(ConfigError, match=f"spacing='random': convention {convention} has {rules}"):
        timesteps.path(T, 10, "random", convention)


def test_parse_steps():
    assert timesteps.parse_steps("10, 50,1000") == [10, 50, 1000]
    for text in ("", "10,", "ten", "1.5", "-1", "0", "10,10", "9" * 20):
        with pytest.raises(ConfigError, match=f"--steps='{re.escape(text)}'"):
            timesteps.parse_steps(text)


def test_song2021_uniform_returns_too_many():
    """range(0, 1000, 1000 // 30 = 33) has 31 elements; range(0, 1000, 3) has 334."""
    path = timesteps.path(T, 30, "leading", "song2021")
    assert path == list(range(0, 1000, 33)) and len(path) == 31 and path[-1] == 990
    assert len(timesteps.path(T, 300, "leading", "song2021")) == 334
    assert len(timesteps.path(T, 50, "leading", "song2021")) == 50


@pytest.mark.parametrize("S, duplicates", [(50, 1), (100, 4)])
def test_song2021_quad_repeats_steps(S, duplicates):
    path = timesteps.path(T, S, "quad", "song2021")
    assert len(path) == S and S - len(set(path)) == duplicates
    exact = [800 * i * i / (S - 1) ** 2 for i in range(S)]
    assert all(t in (int(e), int(e - 1e-9)) for t, e in zip(path, exact, strict=True)) and path[-1] in (799, 800)


def test_ours_moves_the_repeated_quad_steps_up():
    song, ours = timesteps.path(T, 50, "quad", "song2021"), timesteps.path(T, 50, "quad")
    assert song[:4] == [0, 0, 1, 2] and ours[:4] == [0, 1, 2, 3]
    assert all(b - a in (0, 1) for a, b in zip(song, ours, strict=True)) and song[-40:] == ours[-40:]


def test_nichol2021_ddimN_needs_an_integer_stride():
    assert timesteps.path(T, 50, "leading", "nichol2021") == list(range(0, 1000, 20))
    assert timesteps.path(T, 334, "leading", "nichol2021") == list(range(0, 1000, 3))
    for S in (300, 1):
        with pytest.raises(ConfigError, match=f"steps={S}: no integer stride gives S={S} of T=1000"):
            timesteps.path(T, S, "leading", "nichol2021")


def test_nichol2021_sums_its_stride():
    """The stride 999/(S-1) is added up in float64, so an exact half may fall to either side; 283 of 999 paths differ by it."""
    differ = 0
    for S in range(2, T + 1):
        literal, exact = timesteps.path(T, S, "linspace", "nichol2021"), timesteps.path(T, S, "linspace")
        assert literal == timesteps.path(T, (S,), "linspace", "nichol2021")
        moved = [i for i, (a, b) in enumerate(zip(literal, exact, strict=True)) if a != b]
        assert all(2 * i * (T - 1) % (S - 1) == 0 and i * (T - 1) % (S - 1) for i in moved)
        differ += bool(moved)
    assert differ == 283
    assert timesteps.path(T, 21, "linspace", "nichol2021")[10] == 499  # ten times 49.95 sums to just under 499.5
    assert timesteps.path(T, 21, "linspace")[10] == 500
    with pytest.raises(ConfigError, match="nichol2021 cannot build a one-step path"):
        timesteps.path(T, 1, "linspace", "nichol2021")


def test_diffusers_leading_tops_out_early():
    path = timesteps.path(T, 300, "leading", "diffusers")
    assert len(path) == 300 and path[-1] == 897 == 299 * (1000 // 300)
    assert timesteps.path(T, 300, "leading")[-1] == 996


def test_diffusers_linspace_and_trailing():
    assert timesteps.path(T, 1, "linspace", "diffusers") == [0]
    assert timesteps.path(T, 10, "linspace", "diffusers") == list(range(0, 1000, 111))
    assert timesteps.path(T, 15, "trailing", "diffusers")[:3] == [66, 132, 199]  # 66.7, 133.3, 200 rounded, less one


def test_lucidrains_truncates_where_diffusers_rounds():
    """linspace(-1, 999, 16): -1 + 66.67 i = 65.67, 132.3, 199, .."""
    assert timesteps.path(T, 15, "trailing", "lucidrains")[:3] == [65, 132, 199]
    assert timesteps.path(T, T, "trailing", "lucidrains") == list(range(T))
    # Exactly -1 + 123 (4000/480) = 1024; the float32 step is a little short, and a fused multiply-add lands on 1023.99994.
    assert timesteps.path(4000, 480, "trailing", "lucidrains")[122] == 1023


def test_ho2020_visits_every_step():
    assert timesteps.path(T, T, "all", "ho2020") == list(range(T))
    with pytest.raises(ConfigError, match="steps=50: ho2020 visits every timestep: S must equal T=1000"):
        timesteps.path(T, 50, "all", "ho2020")


def test_a_process_of_one_step_has_a_path_of_one_step():
    """And none of no step."""
    assert timesteps.linspace(1, 1) == [0]
    with pytest.raises(ConfigError, match="needs 1 <= S <= T=1"):
        timesteps.linspace(1, 0)


def test_an_offset_moves_no_sections():
    """Whatever the spacing's name."""
    with pytest.raises(ConfigError, match="steps_offset=1: .* not sections"):
        timesteps.path(100, (5, 5), "leading", offset=1)


@pytest.mark.parametrize("S", [0, T + 1, 10.0])
@pytest.mark.parametrize("convention", timesteps.LITERAL)
def test_no_code_has_a_path_of_no_step_of_more_than_T_or_of_parts(convention, S):
    rule = next(iter(timesteps.LITERAL[convention]))
    with pytest.raises(ConfigError, match=f"^steps={S}: spacing '{rule}' needs 1 <= S <= T=1000$"):
        timesteps.path(T, S, rule, convention)
