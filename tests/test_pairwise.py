"""The covering arrays of the conformance kit have every pair of values."""

from __future__ import annotations

from itertools import product

import pytest

from tests.conformance import cases
from tests.helpers.pairwise import covering, pairs_of

ARRAYS = {"losses": (cases.LOSS_OPTIONS, cases.allowed_loss), "optims": (cases.OPTIM_OPTIONS, cases.allowed_optim)}


@pytest.mark.parametrize("array", ARRAYS)
def test_every_pair_that_may_be_is_there(array):
    """Held against all rows that there are, for the generator takes a pair for forbidden that its random rows don't have."""
    options, allowed = ARRAYS[array]
    everything = (dict(zip(options, values, strict=True)) for values in product(*options.values()))
    wanted = set().union(*(pairs_of(row) for row in everything if allowed(row)))
    rows = covering(options, allowed)
    assert all(allowed(row) for row in rows)
    assert set().union(*(pairs_of(row) for row in rows)) == wanted


def test_few_rows_and_the_same_ones_each_time():
    """Two options of four and six values need 24 rows; a third of three values adds none, and a forbidden pair is left out."""
    options = {"a": range(4), "b": range(6), "c": range(3)}
    rows = covering(options)
    assert rows == covering(options) != covering(options, seed=1)
    assert 24 <= len(rows) <= 28
    assert not any(row["a"] == row["b"] for row in covering(options, lambda row: row["a"] != row["b"]))
