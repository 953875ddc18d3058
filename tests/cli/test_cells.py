"""What each backend draws in the main job."""

import argparse

import pytest

from bench.cli import cells
from reference.scheduler import SILENT

THREE = ("torch", "mindspore", "jax")


@pytest.mark.parametrize("steps, backends, chosen, drawn, lines", [
    ("10,1000", None, THREE, [2, 1, 1], 2),
    ("10,1000", None, THREE[:2], [2, 2], 0),  # two backends take no longer than the job may
    ("10,1000", ",".join(THREE), THREE, [2, 2, 2], 0),  # asked for by name
    ("10,50", None, THREE, [2, 2, 2], 0),
    ("1000", None, THREE, [1, 1, 1], 0),  # a backend without any cell would not be compared
])
def test_the_first_of_three_backends_alone_draws_the_long_cells(steps, backends, chosen, drawn, lines):
    args = argparse.Namespace(table=None, steps=steps, backends=backends, sampler=None, eta="0", spacing=None, seed=0)
    found, said = cells.asked(args, chosen, SILENT)
    assert [len(found[backend]) for backend in chosen] == drawn
    assert len(said) == lines and all("S above 100" in line and "--backends torch,mindspore,jax" in line for line in said)
