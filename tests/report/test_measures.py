"""Ratios of times: their intervals hold the truth as often as they say, and say where there is none to give."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from bench.records.rows import Row
from bench.report import measures
from bench.report.measures import (
    ABSENT,
    CONTRADICTED,
    REPRODUCED,
    UNKNOWN,
    Ratio,
    dependence,
    floor,
    paired_ratio,
    steady,
    time_ratio,
    unfit,
    verdict,
    verdict_on_all,
)
from reference.config import ConfigError


def rng() -> np.random.Generator:
    return np.random.Generator(np.random.Philox(1))


def covered(interval: Callable[[np.random.Generator], Ratio], truth: float, times: int) -> float:
    """The share of simulated runs whose interval holds the truth."""
    generator = rng()
    ratios = [interval(generator) for _ in range(times)]
    assert all(ratio.low <= ratio.median <= ratio.high for ratio in ratios)
    return sum(ratio.low <= truth <= ratio.high for ratio in ratios) / times


def race(generator: np.random.Generator, n: int, blocks: int = 10) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Two contenders, the first 1.5 times as slow, of n processes that differ by 3%, with 2% of noise in a block."""
    one, two = (scale * np.exp(0.03 * generator.standard_normal((n, 1)) + 0.02 * generator.standard_normal((n, blocks)))
                for scale in (1.5, 1.0))
    return list(one), list(two)


def test_times_are_of_the_hardware_that_was_at_work_and_memory_of_the_device_that_counts_it():
    machine = {"cpu": "a processor", "usable_cores": 2, "gpu": ["a card"]}
    row = Row("timing", "torch", "quick", {"device": "cpu"}, {"device": {}, "peak_rss_bytes": 7}, machine, "abc")
    assert measures.hardware(row) == "a processor, 2 cores" and measures.peak_memory(row) == 7
    row = replace(row, config={"device": "cuda:1"}, values=row.values | {"device": {"peak_memory_bytes": "99"}})
    assert measures.hardware(row) == "a card" and measures.peak_memory(row) == 99


def test_paired_ratio_ignores_drift_that_hits_both():
    drift = np.linspace(1, 3, 20)
    assert paired_ratio(2 * drift, drift) == (2, 2, 2)


def test_a_single_processes_interval_covers_its_own_ratio():
    def interval(generator: np.random.Generator) -> Ratio:
        noise = np.exp(0.1 * generator.standard_normal((2, 20)))
        return paired_ratio(1.5 * noise[0], noise[1], resamples=400)

    assert 0.9 <= covered(interval, 1.5, 300) <= 1


def test_intervals_over_processes_that_differ_cover_the_ratio():
    """At least 93% of 1000 (two standard deviations are 1.4%); the bootstrap of one process covers less than half."""
    def over(generator: np.random.Generator) -> Ratio:
        one, two = race(generator, 4)
        with pytest.MonkeyPatch.context() as patch:  # its interval is not used, and takes the time
            patch.setattr(measures, "paired_ratio", lambda x, y: Ratio(float(np.median(x / y)), 0, 0))
            return time_ratio(one, two)

    def alone(generator: np.random.Generator) -> Ratio:
        (one,), (two,) = race(generator, 1)
        return paired_ratio(one, two, resamples=400)

    assert 0.93 <= covered(over, 1.5, 1000) <= 0.97
    assert covered(alone, 1.5, 200) < 0.5


def test_the_interval_over_processes_by_hand():
    """Ratios e^0.1 and e^0.3: mean 0.2, standard error 0.1, times 12.706, the t of one degree of freedom."""
    one = [np.full(10, math.exp(x)) for x in (0.1, 0.3)]
    assert time_ratio(one, [np.ones(10)] * 2) == pytest.approx([math.exp(0.2 + 1.2706 * x) for x in (0, -1, 1)], rel=1e-4)
    assert time_ratio(one[:1], [np.ones(10)]) == paired_ratio(one[0], np.ones(10))
    with pytest.raises(ConfigError, match="as many processes"):
        time_ratio(one, [np.ones(10)])


def test_a_claim_of_several_comparisons_by_hand():
    """Normal intervals of +- 1.96; with one of two the other way +- 2.24, the quantile of 5% / 2."""
    for found, expected in [
        ([(-2.0, 1.0, math.inf)], REPRODUCED), ([(-2.0, 1.0, math.inf), (-1.9, 1.0, math.inf)], UNKNOWN),
        ([(-2.0, 1.0, math.inf), (2.1, 1.0, math.inf)], UNKNOWN), ([(-2.0, 1.0, math.inf), (2.3, 1.0, math.inf)], CONTRADICTED),
        ([(-2.0, 1.0, math.inf), (-2.0, math.nan, 0)], ABSENT), ([(5.0, 1.0, math.inf), (-2.0, 1.0, 0)], ABSENT),
    ]:
        assert verdict_on_all(found) == expected, found


def test_paired_ratio_is_repeatable_and_seeded():
    a, b = np.linspace(1, 2, 10)**2, np.linspace(1.5, 1.2, 10)
    assert paired_ratio(a, b) == paired_ratio(a, b)
    assert len({paired_ratio(a, b, seed=seed, resamples=10) for seed in range(5)}) > 1
    with pytest.raises(ConfigError, match="pair up"):
        paired_ratio(a, b[:-1])


def test_dependence_is_found_and_seldom_seen_where_there_is_none():
    generator = rng()
    alarms = np.mean([dependence(generator.standard_normal(10)) > 0 for _ in range(2000)])
    assert 0.03 <= alarms <= 0.07
    found = np.mean([dependence(series(generator, 20)) > 0 for _ in range(200)])
    assert found > 0.75
    assert dependence(np.ones(10)) == 0 == dependence(np.array([1.0, 2.0, 3.0])) and dependence(np.arange(50.0)) == 0.9
    assert dependence(np.array([1.0, 2.0] * 10)) == 0  # neighbours that differ make no interval too narrow


def series(generator: np.random.Generator, n: int) -> np.ndarray:
    """AR(1) with a correlation of 0.7."""
    out = np.zeros(n + 20)
    for i, value in enumerate(generator.standard_normal(n + 20)):
        out[i] = 0.7 * out[i - 1] + value
    return out[20:]


def test_blocks_that_depend_on_each_other_get_a_wider_interval(monkeypatch):
    def interval(generator: np.random.Generator) -> Ratio:
        return paired_ratio(np.exp(0.02 * series(generator, 20)), np.ones(20), resamples=200)

    with_it = covered(interval, 1.0, 300)
    monkeypatch.setattr(measures, "dependence", lambda x: 0.0)
    without = covered(interval, 1.0, 300)
    assert without < 0.75 and with_it > without + 0.1


def timing(seconds, environment=None, **more) -> Row:
    values = {"block_seconds": list(seconds), "units_per_block": 1, "warmup_seconds": [1.0], "first_seconds": 1.0, "steady": True}
    return Row("timing", "torch", "quick", {}, values | more, environment or {}, "c0ffee")


def test_steady_can_say_no():
    assert steady(timing([1.0, 1.04] * 5)) and steady(timing([1.0]))
    assert not steady(timing([1.0] * 5 + [1.06] * 5)) and not steady(timing([1.0] * 5 + [0.94] * 5))
    assert not steady(timing([1.0] * 10, steady=False))


def test_a_machine_that_is_not_fit_is_told_by_its_load_and_by_a_contender_that_differs_from_itself():
    quiet, busy = ({"usable_cores": 2, "load": [load, 9.0, 9.0]} for load in (2.9, 3.1))
    assert unfit([timing([1.0], quiet)], [Ratio(1.1, 0.68, 1.49)]) == "" == unfit([])
    assert unfit([timing([1.0], quiet), timing([1.0], busy)]) == "load average 3.1 on 2 cores"
    assert unfit([timing([1.0], {"usable_cores": 2, "load": [3.0]})]) == "", "as much as may be"
    assert unfit([timing([1.0], busy, load_before=[1.0, 1.0, 1.0])]) == "", "what was before the race counts, where it is known"
    assert unfit([timing([1.0], quiet, load_before=[4.0, 1.0, 1.0])]) == "load average 4.0 on 2 cores"
    assert unfit([], [Ratio(1.0, 0.64, 1.01)]) == unfit([], [Ratio(1.0, 0.99, 1.5625)]) == (
        "a contender differs from itself by up to 1.56 times")
    assert unfit([timing([1.0], busy)], [Ratio(1.3, 1.2, 1.7)]) == (
        "load average 3.1 on 2 cores and a contender differs from itself by up to 1.70 times")


def test_the_busiest_machine_is_that_of_the_highest_load_a_core():
    """And not of the highest load; a machine whose cores nobody wrote down has one, and a container's are those it may use."""
    large, small, unknown = ({"usable_cores": 16, "affinity": 2, "load": [4.0]}, {"affinity": 2, "load": [3.5]}, {"load": [1.6]})
    assert unfit([timing([1.0], large)]) == ""
    assert unfit([timing([1.0], large), timing([1.0], small)]) == "load average 3.5 on 2 cores"
    assert unfit([timing([1.0], unknown)]) == "load average 1.6 on 1 cores"


def test_a_difference_of_nothing_is_not_below_nothing():
    assert [verdict(*given) for given in ((0.0, 0.0), (-1.0, 1.0), (1.0, 1.0))] == [UNKNOWN] * 3
    assert verdict_on_all([(0.0, 0.0, math.inf)] * 2) == UNKNOWN


def test_no_difference_is_what_lies_inside_of_the_floor():
    assert floor([]) == 1 and floor([Ratio(1.0, 0.8, 1.1), Ratio(1.0, 0.9, 1.2)]) == 1.25
    assert Ratio(1.2, 1.1, 1.3).inside(1.25) and Ratio(0.81, 0.8, 0.82).inside(1.25) and Ratio(1.5, 0.9, 2.5).inside(1.0)
    assert not Ratio(1.2, 1.1, 1.3).inside(1.15) and not Ratio(0.79, 0.7, 0.8).inside(1.25)


def test_the_interval_of_a_ratio_is_that_of_pairs():
    """The median of an odd number of pairs is one pair's ratio, never that of one pair's time and another's."""
    a, b = np.array([1.0, 10.0, 2.0, 9.0, 3.0]), np.array([5.0, 1.1, 4.3, 2.0, 3.7])
    middle, low, high = paired_ratio(a, b)
    assert {middle, low, high} <= set(a / b) and low < middle < high
