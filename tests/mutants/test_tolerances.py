"""The tolerance table keeps its own rule."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conformance.kit import TOLERANCES

ULP = {"float64": float(np.finfo(np.float64).eps), "float32": float(np.finfo(np.float32).eps), "bfloat16": 2.0**-7, "float16": 2.0**-10}
ROWS = [(device, dtype, quantity) for device, table in TOLERANCES.items() for dtype, rows in table.items() for quantity in rows]


@pytest.mark.parametrize(("device", "dtype", "quantity"), ROWS)
def test_tolerance_follows_the_worst_error(device: str, dtype: str, quantity: str) -> None:
    """At most ten times the worst error ever recorded, or four units in the last place; and above that error."""
    row = TOLERANCES[device][dtype][quantity]
    ulp = ULP["float64"] if quantity == "L1.tables" else ULP[dtype.split()[0]]
    assert row["worst"] <= row["tolerance"] <= max(10 * row["worst"], 4 * ulp)


@pytest.mark.parametrize(("device", "dtype", "quantity"), [r for r in ROWS if r[1] == "float64"])
def test_float64_agrees_with_the_reference(device: str, dtype: str, quantity: str) -> None:
    """Tables and steps within 1e-10, the network and whole paths within 1e-9."""
    limit = {"L1": 1e-10, "L2": 1e-9, "L5": 1e-9}.get(quantity.split(".")[0], 1e-6)
    assert TOLERANCES[device][dtype][quantity]["tolerance"] <= limit


@pytest.mark.parametrize(("device", "dtype", "quantity"), [r for r in ROWS if "least" in TOLERANCES[r[0]][r[1]][r[2]]])
def test_float32_is_below_the_least_error_of_reduced_precision(device: str, dtype: str, quantity: str) -> None:
    """By a factor of two, so that float32 run in its place is seen."""
    assert dtype in ("bfloat16", "float16")
    row = TOLERANCES[device][dtype][quantity]
    assert 2 * TOLERANCES[device]["float32"][quantity]["tolerance"] <= row["least"] < row["worst"]
