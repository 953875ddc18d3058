"""What lies beside the weights of a training: read with its fields' types, or refused in one line."""

import json

import numpy as np
import pytest

from bench.paths import CHECKPOINTS
from bench.records import trainings
from reference.config import ConfigError

BASE = CHECKPOINTS / "fmnist-base"


def after(about):
    """The record of a training that began with the weights of this one."""
    return {**about, "began_with": {**about}}


def test_the_records_that_ship_are_read_with_the_trainings_before_them(tmp_path):
    about = json.loads((BASE / "training.json").read_text())
    assert trainings.stages(BASE / "training.json") == [about]
    (tmp_path / "training.json").write_text(json.dumps(after(about)))
    assert trainings.stages(tmp_path / "training.json") == [after(about), about]
    planned = about["config"]["optim"]["total_steps"]
    assert trainings.steps(about) == about.pop("steps") == len(trainings.losses(BASE / "loss.csv")) < planned
    assert trainings.steps(about) == planned
    curve = trainings.losses(BASE / "loss.csv")
    assert np.array_equal(curve, np.loadtxt(BASE / "loss.csv", delimiter=",", skiprows=1, usecols=1))


@pytest.mark.parametrize("change, said", [
    (lambda about: about.pop("config"), "config is missing"), (lambda about: about.update(seconds="1"), "seconds='1' is not float"),
    (lambda about: about["config"].update(optim=[]), r"config\.optim=\[\] is not dict\[str, .*Any\]"),
    (lambda about: about["began_with"].pop("environment"), "environment is missing"),
    (lambda about: about.update(steps="1"), "steps='1' is not int"),
])
def test_a_record_of_another_form_is_refused_with_what_is_wrong(tmp_path, change, said):
    change(about := after(json.loads((BASE / "training.json").read_text())))
    (tmp_path / "training.json").write_text(json.dumps(about))
    with pytest.raises(ConfigError, match=rf"training\.json: {said}; restore the file"):
        trainings.stages(tmp_path / "training.json")


@pytest.mark.parametrize("text", ["", "step,loss\n", *(f"step,loss\n{line}\n" for line in ("0", "0,x", "0,nan", "0,inf"))])
def test_losses_that_are_none_are_refused(tmp_path, text):
    (tmp_path / "loss.csv").write_text(text)
    with pytest.raises(ConfigError, match=r"loss\.csv: .*restore the file"):
        trainings.losses(tmp_path / "loss.csv")
