"""Sizes that can't be are refused before anything of that size is made."""

import pytest

from bench.cli.main import main
from bench.paths import CHECKPOINTS

SMALL = str(CHECKPOINTS / "fmnist-small")
HUGE = str(10**12)
RECIPE = ["recipe", "fashion-mnist-mindspore", "--backend", "torch"]


@pytest.mark.parametrize("words, said", [
    (["train", "--train-steps", "300", "--batch-size", HUGE, "--save"], f"--batch-size={HUGE}: images of 1 x 28 x 28 need "),
    (["train", "--train-steps", "300", "--seed", str(2**64), "--save"], f"--seed={2**64}: must be at least 0 and below 2^64"),
    (["sample", "--weights", SMALL, "--samples", HUGE, "--save"], f"--samples={HUGE}: images of 1 x 28 x 28 need "),
    (["sample", "--weights", SMALL, "--seed", str(10**40), "--save"], "below 2^64"),
    ([*RECIPE, "--epochs", "inf", "--out"], "--epochs=inf: must be positive and finite"),
    ([*RECIPE, "--sample-batch", HUGE, "--out"], f"--sample-batch={HUGE}: images"),
    ([*RECIPE, "--seed", str(2**64), "--out"], "below 2^64"),
])
def test_a_size_that_cannot_be_is_one_line(words, said, tmp_path, capsys):
    place = tmp_path / "images.npy" if words[0] == "sample" else tmp_path / "out"
    assert main([*words, str(place)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and said in error, error
    assert list(tmp_path.iterdir()) == []
