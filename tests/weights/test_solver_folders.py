"""A diffusers folder with a fast solver's scheduler is drawn as its file says, or refused in one line, and written as it was."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest

from bench.api import load
from bench.cli.main import main
from bench.metric.torchvision_shim import import_torchvision
from bench.weights.errors import CheckpointError, Note
from bench.weights.pipeline import read_pipeline
from bench.weights.scheduler_config import process_keys
from reference.config import ConfigError
from reference.scheduler import Scheduler
from reference.solver_config import DEFAULTS
from tests.weights.test_pipeline import edit

torch = pytest.importorskip("torch")
import_torchvision()
import diffusers  # noqa: E402
from diffusers import DDPMPipeline, PNDMPipeline  # noqa: E402

FILE = "scheduler/scheduler_config.json"
MULTI, SINGLE, UNIPC, DEIS, HEUN, PNDM = DEFAULTS
SDE, EPS = {"algorithm_type": "sde-dpmsolver++"}, {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}
FIRST, KARRAS, V = {"final_sigmas_type": "sigma_min"}, {"use_karras_sigmas": True}, {"prediction_type": "v_prediction"}
TRAILING, LEADING = {"timestep_spacing": "trailing"}, {"timestep_spacing": "leading", "steps_offset": 1}
DYNAMIC = {"thresholding": True, "sample_max_value": 1.3, "dynamic_thresholding_ratio": 0.9}
ZERO = V | {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
CASES = [
    *((name, settings) for name in (MULTI, UNIPC, DEIS) for settings in (
        {}, TRAILING, LEADING, KARRAS, V, {"prediction_type": "sample"}, DYNAMIC, {"solver_order": 3},
        {"beta_schedule": "scaled_linear"}, {"trained_betas": np.linspace(1e-3, 0.05, 200).tolist(), "num_train_timesteps": 200},
        {"lower_order_final": False} | (FIRST if name == UNIPC else {}))),
    *((name, FIRST) for name in (MULTI, SINGLE, UNIPC)), *((name, ZERO) for name in (MULTI, UNIPC)),
    *((MULTI, settings) for settings in (
        SDE, SDE | {"solver_order": 3}, SDE | KARRAS, EPS, EPS | {"solver_order": 3}, {"solver_type": "heun"},
        {"euler_at_final": True} | FIRST, {"use_lu_lambdas": True}, {"variance_type": "fixed_small"},
        {"beta_schedule": "squaredcos_cap_v2"} | LEADING)),
    *((SINGLE, settings) for settings in ({}, KARRAS, {"solver_type": "heun"}, EPS, V, DYNAMIC)),
    *((UNIPC, settings) for settings in ({"solver_type": "bh1"} | FIRST, {"predict_x0": False} | FIRST)),
    *((HEUN, settings) for settings in ({}, TRAILING, LEADING, KARRAS, V, {"clip_sample": True, "clip_sample_range": 0.7},
                                        {"use_exponential_sigmas": True}, {"beta_start": 1e-4, "beta_end": 0.02})),
    *((PNDM, settings) for settings in ({}, {"skip_prk_steps": True}, {"steps_offset": 1}, {"set_alpha_to_one": True})),
]

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore::FutureWarning")]


def class_of(name: str):
    return getattr(diffusers, name)


def written(folder: Path, scheduler, net) -> Path:
    DDPMPipeline(unet=net, scheduler=scheduler).save_pretrained(folder)
    return folder


def their_path(theirs, net, x_T: np.ndarray, noise: np.ndarray, steps: int):
    """What the network sees and gives at each of their calls, and the end."""
    theirs.set_timesteps(steps)
    x, seen, given = torch.tensor(x_T) * float(theirs.init_noise_sigma), [], []
    with torch.no_grad():
        for k, t in enumerate(theirs.timesteps):
            seen.append(theirs.scale_model_input(x, t))
            given.append(net(seen[-1], t).sample)
            random = str(theirs.config.get("algorithm_type", "")).startswith("sde")
            more = {"variance_noise": torch.tensor(noise[k])} if random else {}
            x = theirs.step(given[-1], t, x, **more).prev_sample
    return [s.numpy() for s in seen], [g.numpy() for g in given], x.numpy()


SAMPLED = [pytest.mark.slow, pytest.mark.sampled]


@pytest.mark.parametrize("backend, every", [
    ("torch", 6), pytest.param("torch", 1, marks=SAMPLED), pytest.param("mindspore", 1, marks=SAMPLED)])
@pytest.mark.parametrize("name", DEFAULTS)
def test_each_step_is_theirs(name, backend, every, net, tmp_path):
    """From their state before each call, in float32, with their outputs and noise: what the network is told, and the next state."""
    tensor = torch.tensor if backend == "torch" else pytest.importorskip("mindspore").Tensor
    solving = pytest.importorskip(f"backends.{backend}.solving")
    rng = np.random.default_rng(0)
    x_T, noise = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 1, 8, 8), (99, 2, 1, 8, 8)))
    assert len(CASES) >= 40
    for settings in [settings for cls, settings in CASES if cls == name][::every]:
        model = load(written(tmp_path / "p", class_of(name)(**settings), net))
        for steps in (20,) if name == PNDM else (20, 13):
            theirs = class_of(name).from_pretrained(tmp_path / "p" / "scheduler")
            seen, given, end = their_path(theirs, net, x_T, noise, steps)
            plan = model.solver_plan(steps, sampler=model.fast_solver(None, "diffusers"), convention="diffusers")
            c, got = solving.coefficients(plan), []

            def network(x, k, *_, seen=seen, given=given, got=got):
                got.append(np.array(array(x)))
                x.copy_(tensor(seen[k])) if backend == "torch" else x.assign_value(tensor(seen[k]))
                return tensor(given[k])

            got.append(array(solving.solve(network, tensor(x_T), plan, c, lambda k: tensor(noise[k]))))
            np.testing.assert_allclose(array(c["network_t"]), theirs.timesteps, rtol=0, atol=1e-4, err_msg=f"{settings}")
            for k, (ours, wanted) in enumerate(zip(got, [*seen, end], strict=True)):
                error = np.abs(ours - wanted) / np.maximum(1, np.abs(wanted))
                assert error.max() < 1e-5, (settings, steps, k, error.max())


def array(x) -> np.ndarray:
    return x.asnumpy() if hasattr(x, "asnumpy") else x.numpy()


FOLDERS = {MULTI: {"solver_order": 3, "beta_schedule": "scaled_linear", "timestep_spacing": "leading", "steps_offset": 1},
           SINGLE: {"solver_type": "heun"}, UNIPC: {"solver_type": "bh1", "final_sigmas_type": "sigma_min"}, DEIS: {},
           HEUN: {"clip_sample": True}, PNDM: {"skip_prk_steps": True, "set_alpha_to_one": True}}


@pytest.mark.parametrize("name", FOLDERS)
def test_the_folder_says_sampler_and_settings(name, net, tmp_path, capsys):
    """To the library, to `sample` and to `run`; choices of the caller come first, and other conventions take none of it."""
    folder = str(written(tmp_path / "p", class_of(name)(**FOLDERS[name]), net))
    model, out, steps = load(folder), str(tmp_path / "a.npy"), 10
    own = model.scheduler.sampler
    as_json = json.dumps(model.scheduler.to_dict(), allow_nan=False)  # as rows and workers have it
    assert Scheduler.from_dict(json.loads(as_json)) == model.scheduler
    plan = model.solver_plan(steps, sampler=own, convention="diffusers")
    wanted = model.follow(model.noise(2), plan)
    np.testing.assert_array_equal(model.sample(2, steps, convention="diffusers"), wanted)
    asked = ["sample", "--weights", folder, "--samples", "2", "--steps", str(steps), "--save", out]
    for words in ([], ["--sampler", own]):
        assert main([*asked, "--convention", "diffusers", *words]) == 0
        np.testing.assert_allclose(np.load(out), np.clip((wanted + 1) * 127.5, 0, 255), atol=1.01)
    clipped = model.solver_plan(steps, sampler=own, convention="diffusers", clip=0.5)
    assert (clipped.clip_range, clipped.variant) == (0.5, plan.variant)
    assert model.plan(steps) == load(folder, ignore_scheduler=True).plan(steps) and model.fast_solver(None, "plain") is None
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 256, (300, 8, 8), np.uint8))
    asked = ["run", "--dry-run=plan", "--backends", "torch", "--weights", folder, "--data", str(tmp_path / "x.npy"),
             "--samples", "128", "--metric", "none", "--steps", str(steps)]
    for convention in ("diffusers", "plain"):
        capsys.readouterr()
        assert main([*asked, "--convention", convention]) == 0
        said = capsys.readouterr().out
        assert (f"sample {own} S={steps}" in said) == (convention == "diffusers")


def test_another_sampler_says_what_it_goes_without(net, tmp_path, recwarn):
    model = load(written(tmp_path / "p", class_of(MULTI)(solver_order=3), net))
    for sampler, lines in (("dpmpp_3m", 0), ("ddim", 1), ("ddpm", 1), ("unipc_2", 1)):
        for convention in ("diffusers", "plain"):
            recwarn.clear()
            model.sample(1, 5, sampler=sampler, convention=convention)
            said = [str(warning.message) for warning in recwarn if "goes without" in str(warning.message)]
            assert len(said) == lines * (convention == "diffusers"), (sampler, said)
            assert all(f"sampler={sampler!r}: goes without its solver, " in line and "solver_order" in line for line in said)
    default = class_of(UNIPC)()  # of which the convention has all settings
    plain = load(written(tmp_path / "q", default, net)).solver_plan(5, sampler="unipc_2", convention="diffusers")
    assert model.solver_plan(5, sampler="unipc_2", convention="diffusers") == plain


@pytest.mark.parametrize("words, said", [
    (["--strip", "a.png"], "--strip='a.png': stops of dpmpp_2m on the way would lose its earlier predictions"),
    (["--grid", "a.png", "--variance", "small"], "--variance='small': does not apply to the sampler dpmpp_2m"),
    (["--grid", "a.png", "--eta", "0.5"], "eta=0.5: dpmpp_2m has no noise to scale"),
])
def test_what_the_solver_of_the_folder_lacks_is_one_line(words, said, net, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "p", class_of(MULTI)(), net)
    assert main(["sample", "--weights", "p", "--convention", "diffusers", "--samples", "1", "--steps", "5", *words]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1 and not (tmp_path / "a.png").exists()


@pytest.mark.parametrize("name, changes, said", [
    (MULTI, {"solver_order": 1}, "solver_order=1: must be one of 2, 3"),
    (MULTI, {"solver_order": [2]}, r"solver_order=\[2\]: must be of type int"),
    (MULTI, {"flow_shift": math.nan}, "flow_shift=nan: must be of type float"),
    (MULTI, {"use_beta_sigmas": True}, "use_beta_sigmas=True: only False"),
    (MULTI, {"sample_max_value": "much", "thresholding": True}, "sample_max_value='much': must be of type float"),
    (MULTI, {"prediction_type": "flow_prediction"}, "prediction_type='flow_prediction': must be one of epsilon, sample, v_pred"),
    (SINGLE, {"algorithm_type": "dpmsolver"}, "final_sigmas_type='zero': must be sigma_min with algorithm_type dpmsolver"),
    (UNIPC, {"lower_order_final": False}, "lower_order_final=False: gives NaN in diffusers"),
    (HEUN, {"prediction_type": "sample"}, "prediction_type='sample': must be one of epsilon, v_prediction"),
    (HEUN, {"beta_schedule": "exp"}, "beta_schedule='exp': must be one of linear, scaled_linear, squaredcos_cap_v2"),
    (HEUN, {"use_karras_sigmas": True, "timestep_spacing": "trailing"}, "timestep_spacing='trailing': must be linspace with use_"),
    (PNDM, {"timestep_spacing": "trailing"}, "timestep_spacing='trailing': must be one of leading"),
    (PNDM, {"steps_offset": -1}, "steps_offset=-1: must be 0 or more"),
    ("EulerDiscreteScheduler", {}, "_class_name='EulerDiscreteScheduler': must be one of DDIMScheduler, DDPMScheduler, DPMSolver"),
])
def test_a_value_that_is_not_honoured_is_one_line(name, changes, said, net, tmp_path, capsys):
    folder = written(tmp_path / "p", class_of(name)(), net)
    edit(folder / FILE, **changes)
    with pytest.raises(CheckpointError, match=said) as caught:
        load(folder)
    assert str(folder / FILE) in str(caught.value) and "--ignore-scheduler" in str(caught.value)
    assert main(["sample", "--weights", str(folder), "--grid", str(tmp_path / "a.png"), "--convention", "diffusers"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        found = load(folder, ignore_scheduler=True)
    assert found.scheduler == Scheduler() and found.plan(5, convention="diffusers").sampler == "ddim"


def test_a_path_that_diffusers_has_not_is_refused(net, tmp_path):
    for name, settings, steps, said in (
            (PNDM, {"prediction_type": "v_prediction"}, 10, "objective='v': diffusers' pndm averages v"),
            (UNIPC, {"solver_type": "bh1"}, 10, "variant='bh1': gives NaN in diffusers"),
            (MULTI, ZERO, 1, "steps=1: dpmpp_2m needs 2"),
            (PNDM, {"steps_offset": 200}, 10, "steps_offset='up to t=1100': every timestep must be below T=1000")):
        model = load(written(tmp_path / "p", class_of(name)(**settings), net))
        with pytest.raises(ConfigError, match=said):
            model.sample(1, steps, convention="diffusers")


@pytest.mark.parametrize("name", FOLDERS)
def test_what_was_read_is_written(name, net, tmp_path):
    """By convert and by Model.save, as the same class with the same keys, which diffusers loads."""
    before = json.loads((written(tmp_path / "a", class_of(name)(**FOLDERS[name]), net) / FILE).read_text())
    assert main(["convert", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    load(tmp_path / "b").save(tmp_path / "c")
    for folder in ("b", "c"):
        after = json.loads((tmp_path / folder / FILE).read_text())
        kept = [key for key in before if key != "_diffusers_version"]
        assert {key: after.get(key) for key in kept} == {key: before[key] for key in kept}
        a, b = read_pipeline(tmp_path / "a"), read_pipeline(tmp_path / folder)
        assert (a.diffusion, a.scheduler) == (b.diffusion, b.scheduler)
        theirs = (PNDMPipeline if name == PNDM else DDPMPipeline).from_pretrained(tmp_path / folder)
        assert type(theirs.scheduler) is class_of(name)
        assert theirs.scheduler.config.items() >= {key: before[key] for key in kept if key != "_class_name"}.items()


def test_the_pipeline_decides_the_class(net, tmp_path, recwarn):
    """DDIMPipeline and PNDMPipeline make their own scheduler of any file, whose other keys are named."""
    for name, pipeline, own in ((MULTI, "DDIMPipeline", "DDIMScheduler"), ("DDPMScheduler", "PNDMPipeline", PNDM)):
        folder = written(tmp_path / pipeline, class_of(name)(), net)
        edit(folder / "model_index.json", _class_name=pipeline)
        recwarn.clear()
        assert load(folder).scheduler.name == own == type(class_of(pipeline).from_pretrained(folder).scheduler).__name__
        assert sum(f"no keys of {own}, and not honoured" in str(warning.message) for warning in recwarn) == 1


def test_known_process_keys_are_those_of_diffusers():
    """A missing key is the class's own value: HeunDiscreteScheduler has other betas than the others."""
    for name in DEFAULTS:
        theirs = json.loads(class_of(name)().to_json_string())
        assert {key: theirs[key] for key in process_keys(name)} == process_keys(name)
        assert set(theirs) - {"_class_name", "_diffusers_version"} <= set(process_keys(name)) | set(DEFAULTS[name])
