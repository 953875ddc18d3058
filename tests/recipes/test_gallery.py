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


def test_figures_are_those_of_the_end_and_in_the_order_of_their_steps():
    training = {"losses": [9.0] * 100 + [0.5] * 25, "seconds": 60.0, "skipped": 0}
    row = recipe("ddim-respaced", 1, "c")
    row.values.update(training={"a": training}, round_trip_error={"100": [1.0, 3.0], "20": [4.0], "1000": [0.5]})
    assert gallery._figures(row) == ("Backend torch; 1 training in 60 s, mean loss of the last 25 steps 0.5000; "
                                     "round-trip error 4 at S = 20, 2 at S = 100, 0.5 at S = 1000.")
    row.values.update(training={"a": training, "b": training}, round_trip_error={})
    assert gallery._figures(row) == "Backend torch; 2 trainings in 120 s."  # whose losses may be of different targets


def test_a_run_of_a_hundred_steps_is_shown_and_one_fewer_is_not():
    page = gallery.page([recipe("mnist-scratch", 100, "enough"), recipe("mnist-scratch", 99, "less")])
    assert "picture of 100]" in page and "less" not in page
