"""The page of the recipes: whole runs come first, what shows nothing goes where there is better, notes stand before pictures."""

from __future__ import annotations

from bench.recipes import gallery
from bench.records.rows import Row


def recipe(name, steps, command, notes=()):
    training = {"": {"losses": [0.5] * steps, "seconds": 1.0, "skipped": 0}}
    values = {"command": command, "pictures": [[f"{name}.png", f"picture of {steps}"]], "notes": list(notes), "training": training}
    return Row("recipe", "torch", name, {}, values, {}, "c")


def test_runs_that_teach_are_shown_and_the_whole_ones_first():
    short = recipe("mnist-scratch", 150, "short", ["Shortened: 150 of the recipe's 9,375 training steps."])
    page = gallery.page([recipe("mnist-scratch", 3, "nothing"), short, recipe("ddim-respaced", 9000, "whole")])
    assert page.index("## ddim-respaced") < page.index("## mnist-scratch") < page.index("## ddpm-cifar10")
    assert "picture of 3]" not in page and "nothing" not in page
    assert page.index("Shortened: 150") < page.index("picture of 150")
    assert "picture of 3]" in gallery.page([recipe("mnist-scratch", 3, "alone")])
