"""`ddim-bench train`: what it begins with, and what it keeps of that."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import backends
from backends.protocol import Spec
from bench import presets
from bench.api import load
from bench.cli.main import main
from bench.data import datasets
from bench.training import loop
from bench.weights import pipeline
from reference.config import DiffusionConfig
from reference.respacing import respaced
from reference.scheduler import Scheduler
from reference.weights import initialise
from tests.helpers.tiny import EQUAL_GROUPS, TINY

PROCESS = DiffusionConfig(timesteps=5, objective="v")


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setitem(presets.PRESETS, "tiny", presets.Preset("tiny", TINY, None, PROCESS))
    monkeypatch.setitem(presets.PRESETS, "other", presets.Preset("other", replace(TINY, block_out_channels=(8, 12)), None))
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (30, 8, 8), np.uint8))

    def run(preset, name, *options):
        return main(["train", "--preset", preset, "--train-steps", "4", "--batch-size", "2", "--data", str(tmp_path / "images.npy"),
                           "--save", str(tmp_path / name), *map(str, options)])
    return run


def test_a_training_begins_with_weights_and_keeps_their_record(run, tmp_path):
    """Network and process are theirs, whatever the preset's; the losses are those of a training of them."""
    assert run("tiny", "a") == 0 and run("other", "b", "--weights", tmp_path / "a", "--seed", 1) == 0
    record = json.loads((tmp_path / "b" / "training.json").read_text())
    assert record["began_with"] == json.loads((tmp_path / "a" / "training.json").read_text())
    (_, *theirs), (_, *ours) = (pipeline.load_pipeline(tmp_path / name) for name in "ab")
    assert ours == theirs and ours[0].block_out_channels == TINY.block_out_channels and ours[1] == PROCESS
    model = load(tmp_path / "a")
    spec = replace(model.spec, optim=replace(presets.get_preset("other").optim, total_steps=4))
    images = datasets.load_images(tmp_path / "images.npy", spec.image_shape)[0].images
    backend = backends.load("torch").create(spec)
    backend.load_weights(model.backend.weights())
    expected = loop.fit(backend, spec, images, seed=1, steps=4, batch_size=2, flip=False)
    before, after = (np.loadtxt(tmp_path / name / "loss.csv", delimiter=",", skiprows=1) for name in "ab")
    assert np.array_equal(after[:4], before) and after[:, 0].tolist() == list(range(8))
    assert np.allclose(after[4:, 1], expected.losses, rtol=1e-5)


@pytest.mark.parametrize("part", ["unet", "unet/diffusion_pytorch_model.safetensors"])
def test_the_record_is_found_from_a_part_of_the_folder_too(run, tmp_path, part):
    assert run("tiny", "a") == 0 and run("tiny", "b", "--weights", tmp_path / "a" / part) == 0
    record = json.loads((tmp_path / "b" / "training.json").read_text())
    assert record["began_with"] == json.loads((tmp_path / "a" / "training.json").read_text())
    assert len((tmp_path / "b/loss.csv").read_text().splitlines()) == 9


@pytest.mark.parametrize("options, loss", [(["--loss", "kl", "--convention", "ho2020"], "kl"),
                                          (["--loss", "huber", "--convention", "song2021"], "huber")])
def test_a_loss_that_is_asked_for_is_trained_and_kept(run, tmp_path, options, loss):
    """The file says it, and the next training from these weights has it."""
    assert run("tiny", "a", *options) == 0 and run("tiny", "b", "--weights", tmp_path / "a") == 0
    processes = [pipeline.load_pipeline(tmp_path / name)[2] for name in "ab"]
    assert [p.loss for p in processes] == [loss, loss] and processes[0].loss_sum == (loss == "huber")
    first = [np.loadtxt(tmp_path / name / "loss.csv", delimiter=",", skiprows=1)[0, 1] for name in "ab"]
    assert np.isfinite(first).all() and (first[0] > 10) == (loss == "huber")  # summed over 8 x 8 pixels


DDIM = Scheduler(name="DDIMScheduler", clip_sample=False, steps_offset=1, timestep_spacing="trailing", set_alpha_to_one=False)


@pytest.mark.parametrize("options, scheduler", [((), DDIM), (("--respacing", 2), DDIM), ((), Scheduler(
    name="DPMSolverMultistepScheduler", solver={"solver_order": 3, "steps_offset": 1, "timestep_spacing": "leading"}))])
def test_what_the_weights_say_about_sampling_is_kept(run, tmp_path, options, scheduler):
    pipeline.save_pipeline(tmp_path / "w", initialise(TINY, 0), TINY, PROCESS, scheduler=scheduler)
    assert run("tiny", "a", "--weights", tmp_path / "w", *options) == 0
    before, after = (pipeline.read_pipeline(tmp_path / name) for name in "wa")
    assert after.scheduler == before.scheduler
    assert before.scheduler.sampler == scheduler.sampler and before.scheduler.solver_choices == scheduler.solver_choices
    assert (before.scheduler.steps_offset, before.scheduler.clip) == (scheduler.steps_offset, scheduler.clip)
    assert run("tiny", "b", "--weights", tmp_path / "w", "--ignore-scheduler") == 0
    assert pipeline.read_pipeline(tmp_path / "b").scheduler.steps_offset == 0


@pytest.mark.parametrize("options, expected", [
    (["--convention", "nichol2021", "--objective", "previous", "--loss", "rescaled_kl", "--timesteps", 40,
      "--respacing", "2,1"], respaced(replace(PROCESS, timesteps=40, objective="previous", loss="rescaled_kl"), (2, 1))),
    (["--timesteps", 50, "--schedule", "cosine", "--objective", "x0", "--loss-weight", "p2", "--loss-sum"],
     replace(PROCESS, timesteps=50, schedule="cosine", objective="x0", loss_weight="p2", loss_sum=True)),
    (["--variance", "learned_range", "--unscaled-bound"], replace(PROCESS, variance="learned_range", rescale_bound=False)),
    (["--convention", "lucidrains", "--schedule", "cosine", "--loss-weight", "none"],
     replace(PROCESS, schedule="cosine", variance="small")),
    (["--respacing", 3, "--spacing", "trailing"], respaced(PROCESS, 3, spacing="trailing", convention="plain")),
])
def test_a_new_network_is_trained_by_the_process_that_is_asked_for(run, tmp_path, options, expected):
    """Losses are those of a training of that process, and the folder says it to the next one."""
    assert run("tiny", "a", *options) == 0
    model, diffusion = pipeline.load_pipeline(tmp_path / "a")[1:]
    assert diffusion == expected and model.out_channels == 1 + diffusion.learned_variance
    spec = Spec(model, expected, replace(presets.get_preset("tiny").optim, total_steps=4))
    images = datasets.load_images(tmp_path / "images.npy", spec.image_shape)[0].images
    backend = backends.load("torch").create(spec)
    backend.load_weights(initialise(model, 0))
    losses = loop.fit(backend, spec, images, seed=0, steps=4, batch_size=2, flip=False).losses
    assert np.allclose(np.loadtxt(tmp_path / "a/loss.csv", delimiter=",", skiprows=1)[:, 1], losses, rtol=1e-5)
    assert run("tiny", "b", "--weights", tmp_path / "a") == 0 and pipeline.load_pipeline(tmp_path / "b")[2] == expected


@pytest.mark.parametrize("options, said", [
    (["--respacing", "6"], "--respacing='6': spacing 'leading' needs"),
    (["--respacing", "3,9"], "--respacing='3,9': section"),
    (["--respacing", "2", "--spacing", "karras"], "--spacing='karras': convention plain has leading"),
    (["--respacing", "3,x"], "--respacing='3,x': must be a number"),
    (["--spacing", "quad"], "--spacing='quad': does not apply without --respacing"),
    (["--unscaled-bound"], "--unscaled-bound=True: applies to the losses"),
    (["--unscaled-bound", "--variance", "learned", "--loss", "kl"], "--unscaled-bound=True: applies to the losses"),
    (["--loss", "kl", "--loss-sum"], "--loss-sum=True: must be False with loss kl"),
    (["--loss-weight", "much"], "--loss-weight='much': must be one of none, snr, p2, min_snr"),
    (["--variance", "fixed"], "--variance='fixed': must be one of small, large, learned, learned_range"),
    (["--timesteps", "0"], "--timesteps=0: must be at least 1"), (["--heads", "2"], "--heads=2: does not apply without --weights"),
    (["--weights", "none", "--variance", "small"], "--variance='small': does not apply with --weights"),
])
def test_a_process_that_cannot_be_is_one_line_before_anything_is_written(run, tmp_path, capsys, options, said):
    assert run("tiny", "a", *options) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {said}") and not list(tmp_path.glob("a*"))


def test_states_of_other_first_weights_are_refused(run, tmp_path, capsys):
    assert run("tiny", "a") == 0 and run("tiny", "b", "--weights", tmp_path / "a") == 0
    assert run("tiny", "b", "--weights", tmp_path / "b") == 2
    assert "weights" in capsys.readouterr().err


@pytest.mark.parametrize(("options", "said"), [
    (["--weights", "a", "--convention", "song2021"], "--convention='song2021': goes without --weights"),
    (["--loss", "mse"], "--loss='mse': must be one of l2, l1, huber, kl, rescaled_kl"),
    (["--weights", "none/here/at/all"], "no such folder or file"),
    (["--weights", "a"], "training.json: not JSON"),
    (["--weights", "b"], "loss.csv: not lines of step,loss"),
])
def test_what_cannot_be_begun_with_is_one_line(run, tmp_path, monkeypatch, capsys, options, said):
    monkeypatch.chdir(tmp_path)
    assert run("tiny", "a") == 0 and run("tiny", "b") == 0
    (tmp_path / "a" / "training.json").write_text("{")
    (tmp_path / "b" / "loss.csv").write_text("step,loss\n0")
    assert run("tiny", "c", *options) == 2
    assert said in (lines := capsys.readouterr().err.splitlines())[-1] and len([x for x in lines if "error" in x]) == 1


def test_a_network_that_cannot_know_t_is_trained_only_when_asked_for(run, tmp_path, capsys, monkeypatch):
    """Its preset, and weights that were loaded with a warning."""
    monkeypatch.setitem(presets.PRESETS, "equal", presets.Preset("equal", EQUAL_GROUPS, None, PROCESS))
    with pytest.warns(UserWarning):
        pipeline.save_pipeline(tmp_path / "w", initialise(EQUAL_GROUPS, 0), EQUAL_GROUPS, PROCESS)
        pipeline.load_pipeline(tmp_path / "w")
    for options in ((), ("--weights", tmp_path / "w")):
        assert run("equal", "c", *options) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith("error: norm_num_groups=8: must be below every width") and "--allow-cancelled-time" in said
        assert not list(tmp_path.glob("c*"))
    assert run("equal", "c", "--allow-cancelled-time") == 0
    assert load(tmp_path / "c").spec.model.norm_num_groups == 8
