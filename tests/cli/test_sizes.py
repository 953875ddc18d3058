"""Sizes that can't be are refused before anything of that size is made."""

import pytest

from bench.cli.main import main
from bench.paths import CHECKPOINTS

SMALL = str(CHECKPOINTS / "fmnist-small")
HUGE = str(10**12)
RECIPE = ["recipe", "fashion-mnist-mindspore", "--backend", "torch"]


@pytest.mark.parametrize("words, said", [
    (["train", "--train-steps", "300", "--batch-size", HUGE, "--save"], f"--batch-size={HUGE}: images of 1 x 28 x 28 need "),
    (["train", "--train-steps", "300", "--batch-size", "300000", "--save"],
     "--batch-size=300000: images of 1 x 28 x 28 need 694 GiB in training, and this machine has "),
    (["run", "--batch-size", "300000", "--dry-run=plan", "--out"], "--batch-size=300000: images of 1 x 28 x 28 need 694 GiB in tr"),
    ([*RECIPE, "--batch-size", "1000000", "--out"], " GiB in training, and this machine has "),
    (["train", "--train-steps", "300", "--seed", str(2**64), "--save"], f"--seed={2**64}: must be at least 0 and below 2^64"),
    (["train", "--train-steps", HUGE, "--save"], f"--train-steps={HUGE}: must be at least 1 and at most 1,000,000,000"),
    (["run", "--fit", HUGE, "--dry-run=plan", "--out"], f"--fit={HUGE}: must be at least 0 and at most 1,000,000,000"),
    (["run", "--threads", HUGE, "--dry-run=plan", "--out"], f"--threads={HUGE}: must be at least 1 and below 2^14"),
    (["run", "--seed", str(2**64), "--dry-run", "--out"], f"--seed={2**64}: must be at least 0 and below 2^64"),
    (["study", "ablation", "--images", HUGE, "--only", "flips", "--out"], f"--images={HUGE}: make 1.5625e+10 steps; at most"),
    (["study", "ablation", "--samples", HUGE, "--out"], f"--samples={HUGE}: images of 1 x 28 x 28 need "),
    (["study", "neighbours", "--weights", SMALL, "--samples", HUGE, "--out"], f"--samples={HUGE}: images of 1 x 28 x 28 need "),
    ([*RECIPE, "--epochs", "1e300", "--out"], "--epochs=1e+300: must be at least 0 and at most 1,000,000,000"),
    (["sample", "--weights", SMALL, "--samples", HUGE, "--save"], f"--samples={HUGE}: images of 1 x 28 x 28 need "),
    (["sample", "--weights", SMALL, "--seed", str(10**40), "--save"], "below 2^64"),
    (["run", "--samples", "1e18", "--out"], "--samples: '1e18': must be a whole number in digits, such as 1000"),
    (["sample", "--weights", SMALL, "--samples", "1e18", "--save"], "--samples: '1e18': must be a whole number in digits"),
    (["study", "ablation", "--images", "9" * 5000, "--out"], "99': must be a whole number in digits"),
    (["run", "--save-every", "soon", "--out"], "--save-every: 'soon': must be a number, such as 0.5 or 1e-3"),
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
