"""A diffusers folder samples as its own scheduler_config.json says, or is refused in one line, and is written as it was read."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import numpy as np
import pytest

from bench import streams
from bench.api import load
from bench.cli.main import main
from bench.metric.torchvision_shim import import_torchvision
from bench.weights import scheduler_config, sources
from bench.weights.errors import CheckpointError, Note
from bench.weights.pipeline import read_pipeline, save_pipeline
from bench.weights.scheduler_config import OWN, PROCESS, SAMPLING
from reference import schedules
from reference.config import ConfigError, DiffusionConfig
from reference.conventions import make_plan
from reference.respacing import respaced
from reference.scheduler import Scheduler, parse_clip
from reference.weights import initialise
from tests.helpers.tiny import TINY
from tests.weights.test_pipeline import edit

torch = pytest.importorskip("torch")
import_torchvision()
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel  # noqa: E402

FMNIST_SMALL = Path(__file__).parents[2] / "results/checkpoints/fmnist-small"
FILE = "scheduler/scheduler_config.json"
CLASSES = {"DDIMScheduler": DDIMScheduler, "DDPMScheduler": DDPMScheduler}

pytestmark = pytest.mark.usefixtures("one_thread")


def written(folder: Path, scheduler, net) -> Path:
    pipeline = DDIMPipeline if isinstance(scheduler, DDIMScheduler) else DDPMPipeline
    pipeline(unet=net, scheduler=scheduler).save_pretrained(folder)
    return folder


# What a folder says.

SETTINGS = [
    {}, {"clip_sample": False}, {"clip_sample_range": 3.5}, {"clip_sample_range": 0.5},
    {"thresholding": True}, {"thresholding": True, "sample_max_value": 1.5, "clip_sample": False},
    {"thresholding": True, "sample_max_value": 9.0, "dynamic_thresholding_ratio": 0.9},
    {"thresholding": True, "sample_max_value": 0.7},
    {"steps_offset": 1}, {"steps_offset": 7, "clip_sample": False}, {"timestep_spacing": "trailing"},
    {"timestep_spacing": "linspace"},
    {"timestep_spacing": "trailing", "steps_offset": 1, "num_train_timesteps": 300},
    {"prediction_type": "v_prediction"}, {"prediction_type": "sample", "clip_sample_range": 2.0},
    {"beta_schedule": "scaled_linear"},
    {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"},
    {"trained_betas": np.linspace(1e-3, 0.05, 200).tolist(), "num_train_timesteps": 200},
    {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"},
    {"rescale_betas_zero_snr": True, "prediction_type": "sample", "timestep_spacing": "linspace", "clip_sample": False},
]
ENDS: list[dict[str, object]] = [{}, {"steps_offset": 1}, {"timestep_spacing": "trailing"}]
DDIM = [*SETTINGS, *({"set_alpha_to_one": False} | more for more in ENDS)]
DDPM = [*SETTINGS, *({"variance_type": "fixed_large"} | more for more in ENDS),
        {"variance_type": "fixed_small_log"}, {"beta_schedule": "sigmoid"}]
CASES = [*(("DDIMScheduler", 0.0, s) for s in DDIM), *(("DDIMScheduler", 0.5, s) for s in DDIM[::4]),
         *(("DDPMScheduler", None, s) for s in DDPM)]


SAMPLED = [pytest.mark.slow, pytest.mark.sampled]


@pytest.mark.parametrize("backend, every", [
    ("torch", 7), pytest.param("torch", 1, marks=SAMPLED), pytest.param("mindspore", 1, marks=SAMPLED)])
@pytest.mark.parametrize("name", CLASSES)
def test_each_of_fifty_steps_is_theirs(name, backend, every, net, tmp_path, monkeypatch):
    """From the state of their path before each step, with the network's output and the noise given to both."""
    samplers = pytest.importorskip(f"backends.{backend}.samplers")
    tensor = pytest.importorskip("mindspore").Tensor if backend == "mindspore" else torch.tensor
    assert len(CASES) >= 40
    x_T, *noise = np.random.default_rng(0).standard_normal((51, 2, 1, 8, 8)).astype(np.float32)
    for cls, eta, settings in [case for case in CASES if case[0] == name][::every]:
        theirs = CLASSES[cls](**settings)
        theirs.save_pretrained(tmp_path)
        path = tmp_path / "scheduler_config.json"
        config, said = sources.pipeline.read_scheduler(path), scheduler_config.read_sampling(path)
        plan = make_plan(config, 50, eta=eta, convention="diffusers", scheduler=said)
        assert (plan.sampler == "ddim") == (cls == "DDIMScheduler")
        theirs.set_timesteps(50)
        assert list(plan.timesteps) == theirs.timesteps.tolist()
        c, x = samplers.coefficients(plan), torch.tensor(x_T)
        for i, t in enumerate(theirs.timesteps):
            output, z = net(x, t).sample, torch.tensor(noise[i])
            monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, z=z, **__: z)
            more = {} if eta is None else {"eta": eta, "variance_noise": z if eta else None}
            after = theirs.step(output, t, x, **more).prev_sample
            given = tensor(noise[i]) if plan.needs_noise and plan.noise_gate[i] else None
            ours = samplers.step(tensor(x.numpy()), tensor(output.numpy()), i, plan, given, c)[0]
            ours = ours.numpy() if backend == "torch" else ours.asnumpy()
            error = np.abs(ours - after.numpy()) / np.maximum(1, np.abs(after.numpy()))
            assert error.max() < 1e-5, (cls, eta, settings, i, error.max())
            x = after


PATHS = [
    ("DDIMScheduler", {"clip_sample": False}), ("DDIMScheduler", {"clip_sample_range": 1.5, "steps_offset": 1}),
    ("DDIMScheduler", {"thresholding": True, "sample_max_value": 1.5, "timestep_spacing": "trailing"}),
    ("DDIMScheduler", {"set_alpha_to_one": False, "timestep_spacing": "linspace"}),
    ("DDPMScheduler", {"variance_type": "fixed_large", "steps_offset": 1}), ("DDPMScheduler", {"variance_type": "fixed_small"}),
]


@pytest.mark.slow
@pytest.mark.sampled
@pytest.mark.parametrize("name, settings", PATHS)
def test_whole_paths_of_the_network_that_ships(name, settings, tmp_path, monkeypatch):
    stated = json.loads((FMNIST_SMALL / FILE).read_text())
    del stated["ddim_bench"]  # which diffusers keeps, and which would contradict another variance
    theirs = CLASSES[name].from_config(stated, **settings)
    net = UNet2DModel.from_pretrained(FMNIST_SMALL / "unet")
    model = load(written(tmp_path / "p", theirs, net))
    x_T, ids = model.noise(2), np.arange(2)
    theirs.set_timesteps(50)
    x = torch.tensor(x_T)
    for i, t in enumerate(theirs.timesteps):
        z = torch.tensor(streams.normal(0, "z", ids, (1, 28, 28), step=i))
        monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, z=z, **__: z)
        x = theirs.step(net(x, t).sample, t, x).prev_sample
    error = np.abs(model.follow(x_T, model.plan(50, convention="diffusers")) - x.numpy()) / np.maximum(1, np.abs(x.numpy()))
    assert error.max() < 1e-4


def test_the_stated_fixed_variance_holds_in_every_convention(net, tmp_path):
    for kind, variance in (("fixed_small", "small"), ("fixed_large", "large")):
        model = load(written(tmp_path / kind, DDPMScheduler(variance_type=kind), net))
        for convention in ("plain", "song2021", "nichol2021", "diffusers", "lucidrains"):
            assert model.plan(10, sampler="ddpm", convention=convention).variance == variance
        assert model.plan(10, sampler="ddpm", variance="small").variance == "small"
    model = load(written(tmp_path / "ddim", DDIMScheduler(), net))  # its class has no variance
    assert model.plan(10, sampler="ddpm").variance == "large"
    assert model.plan(10, sampler="ddpm", convention="diffusers").variance == "small"


def test_choices_of_the_caller_come_first_and_other_conventions_keep_their_own(net, tmp_path):
    scheduler = DDIMScheduler(clip_sample_range=3.0, steps_offset=1, set_alpha_to_one=False)
    model = load(written(tmp_path / "p", scheduler, net))
    theirs = model.plan(10, convention="diffusers")
    assert (theirs.clip, theirs.clip_range, theirs.final_alpha_bar, theirs.timesteps[-1]) == ("clip", 3.0, "first", 1)
    mine = model.plan(10, convention="diffusers", clip="dynamic:0.9:2", final_alpha_bar="one", steps_offset=0, spacing="leading")
    assert (mine.clip, mine.threshold_ratio, mine.sample_max) == ("dynamic", 0.9, 2)
    assert (mine.final_alpha_bar, mine.timesteps[-1]) == ("one", 0)
    assert model.plan(10) == load(tmp_path / "p", ignore_scheduler=True).plan(10)
    assert model.plan(10, convention="diffusers", sampler="ddpm").final_alpha_bar == "one"  # DDPMScheduler has no other
    assert model.plan(10, convention="diffusers", spacing="trailing").timesteps[0] == 999  # the offset is leading's


def test_trailing_may_have_a_step_more_than_asked_for():
    """61 of 1000: diffusers' float steps give 62 timesteps, and its stride is 1000 // 61."""
    theirs = DDIMScheduler(timestep_spacing="trailing")
    for S in (61, 103, 999):
        theirs.set_timesteps(S)
        plan = make_plan(DiffusionConfig(), S, spacing="trailing", convention="diffusers")
        assert list(plan.timesteps) == theirs.timesteps.tolist()
        assert plan.previous == tuple(max(t - 1000 // S, -1) for t in plan.timesteps)


# Refusals.


def test_known_keys_and_their_defaults_are_those_of_diffusers():
    for name, cls in CLASSES.items():
        theirs = {key: p.default for key, p in inspect.signature(cls.__init__).parameters.items() if key != "self"}
        assert theirs == SAMPLING | OWN[name] | PROCESS


@pytest.mark.parametrize("changes, said", [
    ({"_class_name": "EulerDiscreteScheduler"}, "_class_name='EulerDiscreteScheduler': must be one of DDIMScheduler, "),
    ({"ddim_bench": None, "variance_type": "fixed_large_log"}, "variance_type='fixed_large_log': must be one of fixed_small"),
    ({"ddim_bench": None, "variance_type": "learned"}, "variance_type='learned': diffusers takes"),
    ({"timestep_spacing": "karras"}, "timestep_spacing='karras': must be one of leading, linspace, trailing"),
    ({"clip_sample_range": -1.0}, "clip_sample_range=-1.0: must be above 0"),
    ({"sample_max_value": "much"}, "sample_max_value='much': must be of type float"),
    ({"dynamic_thresholding_ratio": 2.0}, "dynamic_thresholding_ratio=2.0: must be in"),
    ({"steps_offset": -3}, "steps_offset=-3: must be 0 or more"),
])
@pytest.mark.filterwarnings("ignore::bench.weights.errors.Note")
def test_what_is_not_honoured_is_one_line_and_can_be_ignored(folder, tmp_path, capsys, changes, said):
    edit(folder / FILE, **changes)
    with pytest.raises(CheckpointError) as caught:
        sources.read(folder)
    assert str(folder / FILE) in str(caught.value) and said in str(caught.value) and "--ignore-scheduler" in str(caught.value)
    assert main(["convert", str(folder), str(tmp_path / "out")]) == 2 and not (tmp_path / "out").exists()
    assert capsys.readouterr().err.count("\n") == 1
    found = sources.read(folder, ignore_scheduler=True)
    assert found.scheduler == Scheduler() and found.model == TINY
    make_plan(found.diffusion, 10, convention="diffusers", scheduler=found.scheduler)


def test_a_null_is_no_default(folder):
    """diffusers takes it as it is: a threshold without a largest value, or an error."""
    file = folder / FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | {"sample_max_value": None}))
    with pytest.raises(CheckpointError, match="sample_max_value=None: must be of type float, or left out"):
        sources.read(folder)


def test_unknown_keys_are_named_once(net, tmp_path, recwarn):
    written(tmp_path / "p", DDIMScheduler(), net)
    edit(tmp_path / "p" / FILE, skip_prk_steps=True, variance_type="fixed_small")
    load(tmp_path / "p")
    notes = [str(w.message) for w in recwarn if w.category is Note]
    assert len(notes) == 1 and "skip_prk_steps, variance_type: no keys of DDIMScheduler" in notes[0]


@pytest.mark.parametrize("text", ["", "0", "-1", "clipped", "dynamic:0", "dynamic:2", "dynamic:0.9:1:1", "dynamic:0.9:0", "nan",
                                  "1:2"])
def test_mistyped_clipping(text):
    with pytest.raises(ConfigError, match="clip=.*must be none, clip, a number above 0, or dynamic"):
        parse_clip(text)


def test_an_offset_that_leaves_the_process_is_refused():
    for choices, said in (({"steps_offset": 1, "steps": 1000}, "takes the first step to t = 1000"),
                          ({"steps_offset": -1}, "must be 0"),
                          ({"steps_offset": 1, "spacing": "trailing"}, "moves the spacing leading alone, not trailing")):
        with pytest.raises(ConfigError, match=said):
            make_plan(DiffusionConfig(), **{"steps": 10, **choices})


@pytest.mark.parametrize("diffusion, name, said", [
    (DiffusionConfig(rescale_timesteps=True, timesteps=500), None, "rescale_timesteps=True"),
    (DiffusionConfig(self_conditioning=True), None, "self_conditioning=True"),
    (DiffusionConfig(variance="learned"), None, "variance='learned'"),
    (DiffusionConfig(variance="learned_range"), "DDIMScheduler", "variance='learned_range': can't be written"),
    (DiffusionConfig(zero_terminal_snr=True, objective="v"), "HeunDiscreteScheduler", "zero_terminal_snr=True: can't be written"),
])
def test_what_diffusers_would_misread_is_not_written(tmp_path, diffusion, name, said):
    with pytest.raises(CheckpointError, match=said):
        save_pipeline(tmp_path / "a", initialise(TINY, 0), TINY, diffusion, scheduler=Scheduler(name=name))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("diffusion, said", [
    (DiffusionConfig(objective="previous", variance="large"), "objective='previous': diffusers has no such prediction_type"),
    (respaced(DiffusionConfig(variance="small"), 25), "told_timesteps: the network of a respaced process is told other numbers"),
])
def test_a_process_that_diffusers_cannot_say_is_read_here_and_refused_there(tmp_path, capsys, diffusion, said):
    with pytest.warns(Note, match=said):
        save_pipeline(tmp_path / "a", initialise(TINY, 0), TINY, diffusion)
    found = read_pipeline(tmp_path / "a")
    assert found.diffusion == diffusion
    plan = make_plan(found.diffusion, 5, sampler="ddpm", scheduler=found.scheduler)
    assert plan == make_plan(diffusion, 5, sampler="ddpm", variance=diffusion.variance)
    for cls in CLASSES.values():
        with pytest.raises(NotImplementedError, match="ddim_bench"):
            cls.from_pretrained(tmp_path / "a", subfolder="scheduler")
    with pytest.raises(NotImplementedError, match="ddim_bench"):
        DDPMPipeline.from_pretrained(tmp_path / "a")
    assert main(["convert", str(tmp_path / "a"), str(tmp_path / "b")]) == 2 and not (tmp_path / "b").exists()
    assert "b': would not be loaded by diffusers: " + said in capsys.readouterr().err


# Writing.


@pytest.mark.parametrize("scheduler", [
    DDIMScheduler(clip_sample=False, steps_offset=1, set_alpha_to_one=False, timestep_spacing="trailing"),
    DDIMScheduler(thresholding=True, sample_max_value=1.5, clip_sample_range=2.0, dynamic_thresholding_ratio=0.9),
    DDPMScheduler(variance_type="fixed_small_log", timestep_spacing="linspace", beta_schedule="sigmoid"),
    DDPMScheduler(trained_betas=np.linspace(1e-3, 0.05, 200).tolist(), num_train_timesteps=200, variance_type="fixed_large"),
    DDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction"),
    DDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction", trained_betas=np.linspace(1e-3, 0.05, 200).tolist(),
                  num_train_timesteps=200),
], ids=range(6))
def test_what_was_read_is_written(net, tmp_path, scheduler):
    """By convert and by Model.save, and read again as the same."""
    before = json.loads((written(tmp_path / "a", scheduler, net) / FILE).read_text())
    assert main(["convert", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    load(tmp_path / "b").save(tmp_path / "c")
    for folder in ("b", "c"):
        after = json.loads((tmp_path / folder / FILE).read_text())
        assert {key: after[key] for key in before if key != "_diffusers_version"} == \
            {key: value for key, value in before.items() if key != "_diffusers_version"}
        theirs = (DDIMPipeline if isinstance(scheduler, DDIMScheduler) else DDPMPipeline).from_pretrained(tmp_path / folder)
        assert type(theirs.scheduler) is type(scheduler) and torch.equal(theirs.scheduler.betas, scheduler.betas)
        a, b = read_pipeline(tmp_path / "a"), read_pipeline(tmp_path / folder)
        assert (a.diffusion, a.scheduler) == (b.diffusion, b.scheduler)


@pytest.mark.parametrize("diffusion", [DiffusionConfig(schedule="sigmoid", variance="small"),
                                       DiffusionConfig(beta_scaling=True, timesteps=100, variance="small")])
def test_a_schedule_that_the_class_lacks_goes_as_betas(tmp_path, diffusion):
    """DDIMScheduler has no sigmoid, and no class betas that are scaled by 1000 / T."""
    save_pipeline(tmp_path / "a", initialise(TINY, 0), TINY, diffusion, scheduler=Scheduler(name="DDIMScheduler"))
    theirs = DDIMPipeline.from_pretrained(tmp_path / "a").scheduler
    np.testing.assert_allclose(theirs.betas, schedules.betas(diffusion), rtol=1e-6)
    assert read_pipeline(tmp_path / "a").diffusion == diffusion


def test_options_of_sample(net, tmp_path):
    """The command draws what the library draws with the same choices; the folder's sampler is the default with its convention."""
    folder, out = str(written(tmp_path / "p", DDPMScheduler(clip_sample_range=3.0), net)), str(tmp_path / "a.npy")
    model, asked = load(folder), ["sample", "--weights", folder, "--samples", "2", "--steps", "4", "--save", out]
    for words, choices in (
            (["--convention", "diffusers"], {"convention": "diffusers", "sampler": "ddpm", "clip": 3.0}),
            (["--sampler", "ddpm", "--clip", "dynamic:0.9:1.5", "--variance", "large"],
             {"sampler": "ddpm", "clip": "dynamic:0.9:1.5", "variance": "large"}),
            (["--final-alpha", "first", "--steps-offset", "3", "--clip", "3.5"],
             {"final_alpha_bar": "first", "steps_offset": 3, "clip": "3.5", "sampler": "ddim"})):
        assert main([*asked, *words]) == 0
        expected = np.clip((model.sample(2, 4, **choices) + 1) * 127.5, 0, 255)
        np.testing.assert_allclose(np.load(out), expected, atol=1.01)
    assert main([*asked, "--clip", "much"]) == 2


def read(path, values, **how):
    """Process and scheduler of these values in a scheduler_config.json."""
    path.write_text(json.dumps(values))
    return sources.pipeline.read_scheduler(path, **how), scheduler_config.read_sampling(path, **how)


def test_a_file_of_the_class_alone_has_its_classs_own_process(tmp_path):
    path = tmp_path / "scheduler_config.json"
    assert read(path, {"_class_name": "DDPMScheduler"})[0] == DiffusionConfig(variance="small")
    assert read(path, {"_class_name": "HeunDiscreteScheduler"})[0] == DiffusionConfig(
        beta_start=0.00085, beta_end=0.012, variance="small")


def test_what_is_ignored_of_a_process_is_what_diffusers_has_by_default(tmp_path):
    path, strange = tmp_path / "scheduler_config.json", {"_class_name": "Karras", "prediction_type": "flow", "beta_schedule": "exp",
                                                         "variance_type": "other"}
    with pytest.warns(Note, match="ignored, and .* is used"):
        found = read(path, strange | {"num_train_timesteps": 300}, ignore=True)[0]
    assert found == DiffusionConfig(timesteps=300, variance="small")
    with pytest.warns(Note, match="ignored, and the process is that of diffusers' DDPMScheduler"):
        assert read(path, strange | {"num_train_timesteps": "many"}, ignore=True)[0] == DiffusionConfig(variance="small")


def test_a_flag_that_is_null_is_off_as_in_diffusers(tmp_path):
    path = tmp_path / "scheduler_config.json"
    for key in ("clip_sample", "thresholding", "set_alpha_to_one"):
        assert getattr(read(path, {"_class_name": "DDIMScheduler", key: None})[1], key) is False


def test_the_pipeline_of_a_flat_folder_decides_the_class_too(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "DDIMPipeline"}')
    assert read(tmp_path / "scheduler_config.json", {"_class_name": "DDPMScheduler"})[1].name == "DDIMScheduler"
