"""Every recipe from its command line to its pictures, row and page, on tiny networks and images of their own.

The presets keep all their numbers but the network and T. Slow: each recipe on the backends beside torch.
"""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import ANY, MagicMock

import numpy as np
import pytest
from PIL import Image

import backends
from bench import api, presets
from bench.cli.main import main
from bench.data import datasets
from bench.metric import own_cnn
from bench.recipes import RECIPES, cosine_selfcond, ddim_respaced, ddpm_cifar10, experiment, mnist_scratch
from bench.recipes.recipe import shortened
from bench.records import rows
from reference import diffusion, samplers, schedules, unet, weights
from reference.config import ConfigError, DiffusionConfig, ModelConfig
from tests.helpers.tiny import TINY

SIZE, T = 8, 24
TABLE_2, CHOICES = ddim_respaced.DDIM_TABLE_2, cosine_selfcond.CHOICES  # as they stand there: the fixture below cuts them
DOWN, UP = "DownBlock2D", "UpBlock2D"


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Tiny networks in the presets."""
    for name, recipe_ in RECIPES.items():
        preset = presets.PRESETS[name]
        model = ModelConfig(sample_size=SIZE, in_channels=preset.model.in_channels, out_channels=preset.model.out_channels,
                            block_out_channels=(8, 16), norm_num_groups=4, down_block_types=(DOWN, DOWN), up_block_types=(UP, UP))
        monkeypatch.setitem(presets.PRESETS, name, replace(preset, model=model, diffusion=replace(preset.diffusion, timesteps=T)))
        assert recipe_.preset.model == model
    monkeypatch.setattr(ddpm_cifar10, "PARAMETERS", weights.count(presets.PRESETS["ddpm-cifar10"].model))
    monkeypatch.setattr(ddim_respaced, "RESPACINGS", {"ddim4": {"steps": 4, "spacing": "leading"}, "2,3": {"steps": (2, 3)}})
    monkeypatch.setattr(ddim_respaced, "ETA_STEPS", (3, 4))
    monkeypatch.setattr(ddim_respaced, "ROUND_TRIP_STEPS", (3, 6, 24))
    monkeypatch.setattr(ddim_respaced, "DDIM_TABLE_2", (0.014, 0.0065, 0.0023))
    monkeypatch.setattr(ddim_respaced, "PATH", 6)
    monkeypatch.setattr(cosine_selfcond, "CHOICES", dict(list(cosine_selfcond.CHOICES.items())[-3:]))


@pytest.fixture
def images(tmp_path):
    """Arrays in the shape of each recipe's data set: smooth images, to train on and held out."""
    ramp = np.linspace(0, 255, SIZE)
    grey = (ramp[None, :, None] * np.random.default_rng(1).uniform(0.2, 1, (300, 1, SIZE))).astype(np.uint8)
    for name, array in (("grey", grey), ("colour", np.stack([grey, grey[:, ::-1], 255 - grey], -1))):
        np.savez(tmp_path / f"{name}.npz", x_train=array[:200], x_test=array[200:])
    return tmp_path


def run(images, name, *options, backend="torch", code=0):
    source = images / ("colour.npz" if name == "ddpm-cifar10" else "grey.npz")
    found = main(["recipe", name, "--backend", backend, "--data", str(source), "--out", str(images / "out"), "--sample-batch", "8",
                         *options])
    assert found == code
    return rows.read(images / "out" / "rows") if code == 0 else None


def once(name):
    """One training per choice, where the recipe compares."""
    return () if RECIPES[name].takes_weights else ("--seeds", "1")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_leaves_its_pictures_its_row_and_its_place_on_the_page(images, name, capsys):
    row, = run(images, name, "--train-steps", "3", "--batch-size", "4", "--samples", "4", "--steps", "4", *once(name))
    assert (row.kind, row.preset, row.backend) == ("recipe", name, "torch")
    assert row.config["steps"] == 3 and row.config["provenance"].startswith("images of")
    for training in row.values["training"].values():
        assert len(training["losses"]) == 3 and np.isfinite(training["losses"]).all()
    shortened, data = row.values["notes"]
    assert re.fullmatch(r"Shortened: 3 of the recipe's [\d,]+ training steps, batch 4\.", shortened)
    assert presets.PRESETS[name].dataset in data and "was not at hand" in data
    assert len(row.values["pictures"]) >= 1
    for file, caption in row.values["pictures"]:
        with Image.open(images / "out" / "gallery" / file) as picture:
            assert min(picture.size) >= 50 and len(set(np.asarray(picture.convert("L")).ravel())) > 8
        assert caption
    page = (images / "out" / "gallery.md").read_text()
    assert f"![{row.values['pictures'][0][1]}](gallery/{row.values['pictures'][0][0]})" in page
    assert row.values["command"] in page and shortened in page and page.count("Not run yet.") == len(RECIPES) - 1
    work = images / "out" / "work"
    assert list(work.glob("*/logs/events*")) and not list(work.glob("*/states"))
    assert shortened in capsys.readouterr().out


def test_the_numbers_of_the_sources():
    """Against the papers, not against the code: DDPM appendix B, the tutorials' numbers."""
    assert RECIPES["fashion-mnist-mindspore"].steps == 10 * 60000 // 16 and RECIPES["mnist-scratch"].steps == 20 * 60000 // 128
    assert {name: r.backend for name, r in RECIPES.items() if r.backend != "torch"} == {"fashion-mnist-mindspore": "mindspore"}
    ddpm = next(p for p in presets._RECIPES if p.name == "ddpm-cifar10")
    assert weights.count(ddpm.model) == 35_746_307
    assert (ddpm.optim.lr, ddpm.optim.warmup_steps, ddpm.optim.ema_decay, ddpm.batch_size) == (2e-4, 5000, 0.9999, 128)
    assert (ddpm.model.dropout, ddpm.dataset, ddpm.diffusion.timesteps) == (0.1, "cifar10", 1000)
    mindspore = next(p for p in presets._RECIPES if p.name == "fashion-mnist-mindspore")
    assert mindspore.model.block_out_channels == (28, 2 * 28, 4 * 28) and mindspore.diffusion.timesteps == 200
    optim = mindspore.optim
    assert (mindspore.batch_size, optim.lr, optim.min_lr, optim.total_steps) == (16, 1e-4, 1e-7, 37500)
    assert optim.decay_every == 60000 // 16 and mindspore.diffusion.loss == "huber"
    scratch = next(p for p in presets._RECIPES if p.name == "mnist-scratch")
    bars = np.cumprod(1 - np.linspace(1e-4, 0.02, 1001))[1:]  # the tutorial's own, at t = 1..T
    np.testing.assert_allclose(schedules.alpha_bars(schedules.betas(scratch.diffusion)), bars, rtol=1e-13)


def test_another_networks_parameters_are_refused():
    with pytest.raises(ConfigError, match="parameters=.*the DDPM paper's network for CIFAR-10 has"):
        ddpm_cifar10.assert_the_papers(ModelConfig())


def test_the_interpolation_denoises_the_mix_of_two_diffused_images(images, monkeypatch):
    """Its strip at one t against the oracle, with the noise of the streams."""
    kept = {}
    interpolate = ddpm_cifar10.interpolate

    def keep(e, pair):
        kept.update(e=e, pair=pair, strips=interpolate(e, pair))
        return kept["strips"]

    monkeypatch.setattr(ddpm_cifar10, "interpolate", keep)
    run(images, "ddpm-cifar10", "--train-steps", "2", "--batch-size", "4", "--samples", "4")
    e, pair, (strips, reached) = kept["e"], kept["pair"].astype(np.float64), kept["strips"]
    assert reached == sorted(set(reached)) and reached[-1] == T - 1
    level, share = 3, 5
    plan = e.plan().cut(T - 1 - reached[level], T)
    spec, w = e.model.spec, e.model.backend.weights(ema=True)
    a, b = diffusion.q_sample(pair, np.full(2, reached[level]), e.model.noise(2).astype(np.float64),
                              schedules.alpha_bars(schedules.betas(spec.diffusion)))
    exact = samplers.sample(lambda x, t: unet.forward(w, spec.model, x, t),
                            (a + (b - a) * ddpm_cifar10.SHARES[share])[None], plan, e.model._z(0, np.array([0])))
    assert np.abs(strips[level][share] - exact[0]).max() < 1e-3
    assert np.abs(strips[0][0] - pair[0]).max() < np.abs(strips[0][-1] - pair[0]).max()


def test_the_slerp_grid_has_its_four_latents_at_the_corners():
    corners = np.random.default_rng(0).standard_normal((4, 1, 8, 8)).astype(np.float32)
    n = ddim_respaced.CORNERS
    grid = ddim_respaced.slerp_grid(corners).reshape(n, n, 1, 8, 8)
    for found, corner in zip((grid[0, 0], grid[0, -1], grid[-1, 0], grid[-1, -1]), corners, strict=True):
        assert np.abs(found - corner).max() < 1e-6
    norms = np.linalg.norm(grid.reshape(n * n, -1), axis=1)  # slerp keeps to the shell where noise lies, a mean would not
    ends = np.linalg.norm(corners.reshape(4, -1), axis=1)
    assert norms.min() > 0.9 * ends.min() and norms.max() < 1.1 * ends.max()


def test_respacing_keeps_iddpms_map_of_timesteps(images):
    row, = run(images, "ddim-respaced", "--train-steps", "2", "--batch-size", "4", "--samples", "4")
    found = row.values["respacing"]
    assert found["ddim4"] == {"timestep_map": [0, 6, 12, 18], "told": [t * 1000 / T for t in (0, 6, 12, 18)]}
    assert found["2,3"]["timestep_map"] == [0, 11, 12, 18, 23]
    assert {len(v) for v in row.values["round_trip_error"].values()} == {8}


def test_choices_are_compared_by_the_metric_over_seeds(images):
    row, = run(images, "cosine-selfcond", "--train-steps", "2", "--batch-size", "4", "--samples", "128", "--seeds", "2",
               "--steps", "2", "--sample-batch", "128")
    assert set(row.values["fid"]) == set(cosine_selfcond.CHOICES)
    assert all(len(v) == 2 and v[0] != v[1] and min(v) > 0 for v in row.values["fid"].values())
    assert row.values["pictures"][0][0] == "cosine-selfcond.png" and len(row.values["training"]) == 6


def test_a_metric_of_ones_own_images_measures_and_is_named_in_the_row(images, tmp_path):
    data = datasets.Choice("images", images / "grey.npz").both("mnist", (1, SIZE, SIZE))
    few = [replace(split, images=split.images[:8]) for split in data]
    own_cnn.write(tmp_path / "own.safetensors", *few, 0, 1)
    by = own_cnn.load(tmp_path / "own.safetensors")
    row, = run(images, "mnist-scratch", "--train-steps", "2", "--batch-size", "4", "--samples", "8",
               "--metric", str(tmp_path / "own.safetensors"))
    measured = [value["metric"] for value in row.values["variance"].values()]
    assert measured and {(m["metric"], m["extractor_sha256"], m["n"]) for m in measured} == {(f"FID[{by.name}]", by.sha256, 8)}


def test_weights_take_the_place_of_training_and_say_so(images):
    api.new(presets.PRESETS["ddim-respaced"].model, presets.PRESETS["ddim-respaced"].diffusion).save(images / "net")
    row, = run(images, "ddim-respaced", "--weights", str(images / "net"), "--samples", "4", "--strip", "--gif", "--grid")
    assert "training" not in row.values and row.config["weights"] == "net" and row.config["steps"] is None
    assert row.values["notes"][0].startswith("The network is that of the weights net, 0.0")
    files = [file for file, _ in row.values["pictures"]]
    assert {f"ddim-respaced-net-{kind}" for kind in ("grid.png", "strip.png", "denoising.gif")} <= set(files)
    with Image.open(images / "out" / "gallery" / "ddim-respaced-net-denoising.gif") as gif:
        assert gif.n_frames == T + 1


@pytest.mark.parametrize(("sampler", "how", "others"), [("unipc_3", "unipc_3, 4 network calls", []),
                                                        ("ddim", "DDIM, S = 4", ["denoising.gif"])])
def test_pictures_of_samples_are_drawn_by_the_sampler_asked_for(images, sampler, how, others):
    """A fast solver has no states on the way, which a picture of the recipe's would show."""
    row, = run(images, "fashion-mnist-mindspore", "--train-steps", "2", "--batch-size", "4", "--samples", "4", "--steps", "4",
               "--sampler", sampler)
    (file, caption), *more = (pair for pair in row.values["pictures"] if "losses" not in pair[0])
    assert file == f"fashion-mnist-mindspore-torch-{sampler}-grid.png" and caption.endswith(how)
    assert [name.rpartition("-")[2] for name, _ in more] == others and row.config["sampler"] == sampler
    assert ("No gif: stops of unipc_3 on the way would lose its earlier predictions." in row.values["notes"]) == (not others)


@pytest.mark.parametrize(("name", "options", "message"), [
    ("fashion-mnist-mindspore", "--sampler lms", "--sampler='lms': 'lms' is no sampler; did you mean plms?"),
    ("fashion-mnist-mindspore", "--sampler pndm --steps 3", "steps=3: pndm needs 4 <= S <= T=24"),
    ("fashion-mnist-mindspore", "--sampler heun --strip", "--strip=True: stops of heun on the way would lose its"),
    ("ddim-respaced", "--sampler heun", "--sampler='heun': ddim-respaced draws no samples unless it is asked to: add --grid"),
    ("mnist-scratch", "--sampler heun", "--sampler='heun': does not apply to mnist-scratch, which draws pictures of its own")])
def test_a_sampler_that_shows_nothing_is_refused_before_anything_is_trained(images, name, options, message, capsys):
    run(images, name, *options.split(), code=2)
    assert message in capsys.readouterr().err and not (images / "out").exists()


def test_samples_during_training_are_drawn_at_the_steps_asked_for(images):
    row, = run(images, "fashion-mnist-mindspore", "--train-steps", "4", "--batch-size", "4", "--samples", "4", "--sample-at", "2,4")
    assert [file for file, _ in row.values["pictures"] if "step" in file] == [
        "fashion-mnist-mindspore-torch-step-2.png", "fashion-mnist-mindspore-torch-step-4.png"]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(next((images / "out" / "work").glob("*/logs"))))
    events.Reload()
    assert [e.step for e in events.Images("samples")] == [2, 4]
    logged = [(e.step, e.value) for e in events.Scalars("train/loss")]
    losses = row.values["training"]["seed 0"]["losses"]
    assert [step for step, _ in logged] == [1, 2, 3, 4] and [v for _, v in logged] == pytest.approx(losses, rel=1e-4)


def test_an_interrupted_recipe_goes_on_from_its_training(images, monkeypatch):
    whole, = run(images, "mnist-scratch", "--train-steps", "3", "--batch-size", "4", "--samples", "4", "--seed", "1")
    follow = experiment.Experiment.follow
    monkeypatch.setattr(experiment.Experiment, "follow", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    options = ("--train-steps", "3", "--batch-size", "4", "--samples", "4", "--seed", "1", "--out", str(images / "again"))
    run(images, "mnist-scratch", *options, code=130)
    assert list((images / "again" / "work").glob("*/states/*")) and not (images / "again" / "rows").exists()
    monkeypatch.setattr(experiment.Experiment, "follow", follow)
    from backends.torch.backend import TorchBackend
    monkeypatch.setattr(TorchBackend, "train_step", lambda *_: pytest.fail("trained again"))
    run(images, "mnist-scratch", *options)
    row, = rows.read(images / "again" / "rows")
    assert row.values["training"] == {"seed 1": {**whole.values["training"]["seed 1"], "seconds": ANY}}
    assert row.config["weights_sha256"] == whole.config["weights_sha256"]


def test_a_shortened_run_keeps_the_shape_of_the_learning_rate():
    optim = presets._RECIPES[1].optim
    assert shortened(optim, 800_000, 800_000, None) == optim
    assert shortened(optim, 100, 800_000, None) == replace(optim, warmup_steps=10)
    decaying = presets._RECIPES[4].optim
    epochs = shortened(decaying, 50, 37_500, 1e-3)
    assert epochs == replace(decaying, total_steps=50, lr=1e-3, decay_every=5)
    assert len({epochs.learning_rate(n) for n in range(50)}) == 10


@pytest.mark.parametrize("options, message", [
    (["toast"], r"name='toast': must be one of mnist-scratch, "),
    (["mnist-scratch", "--train-steps", "3", "--epochs", "1"], r"--epochs=1.0: give --train-steps or --epochs, not both"),
    (["mnist-scratch", "--samples", "0"], r"--samples=0: must be positive"),
    (["cosine-selfcond", "--weights", "x"], r"--weights='x': cosine-selfcond compares trainings"),
    (["ddim-respaced", "--weights", "nowhere"], r"nowhere: no such folder"),
    (["mnist-scratch", "--log", "paper"], r"--log='paper': must be one of"),
    (["mnist-scratch", "--backend", "tensorflow"], r"backend='tensorflow': must be one of"),
    (["mnist-scratch", "--data", "nowhere"], r"nowhere"),
    (["mnist-scratch", "--seeds", "2"], r"--seeds=2: does not apply to mnist-scratch, which compares no trainings"),
    (["mnist-scratch", "--gif"], r"--gif=True: does not apply to mnist-scratch, which draws pictures of its own"),
    (["ddim-respaced", "--weights", "x", "--epochs", "1"], r"--epochs=1.0: does not apply with --weights"),
    (["ddim-respaced", "--weights", "x", "--log", "none"], r"--log='none': does not apply with --weights"),
])
def test_a_mistake_is_one_line_and_leaves_nothing(images, tmp_path, capsys, options, message):
    data = [] if "--data" in options else ["--data", str(images / "grey.npz")]
    assert main(["recipe", *options, *data, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip()
    assert re.search(message, error) and error.startswith("error: ") and "\n" not in error
    assert not (tmp_path / "out" / "rows").exists() and not (tmp_path / "out" / "gallery").exists()


def test_half_precision_trains_and_counts_the_steps_that_its_loss_scale_left_out(images):
    row, = run(images, "fashion-mnist-mindspore", "--train-steps", "3", "--batch-size", "4", "--samples", "4", "--steps", "2",
               "--dtype", "float16")
    training = row.values["training"]["seed 0"]
    assert training["skipped"] == 0 and np.isfinite(training["losses"]).all() and row.config["dtype"] == "float16"


def test_epochs_are_passes_over_the_data(images):
    row, = run(images, "mnist-scratch", "--epochs", "0.06", "--batch-size", "4", "--samples", "4")
    assert row.config["steps"] == round(0.06 * 200 / 4)
    of = SimpleNamespace(dataset=range(10), batch_size=4, options=SimpleNamespace(train_steps=None, epochs=4))
    assert experiment.Experiment.steps.func(of) == 10, "four passes over two batches and a half"


@pytest.mark.sampled
@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("backend", [name for name in backends.names()[1:] if backends.about(name).network])
def test_a_recipe_trains_as_on_torch(images, name, backend):
    if not backends.installed(backend):
        pytest.skip(f"{backend} is not installed")
    options = (name, "--train-steps", "3", "--batch-size", "4", "--samples", "4", "--steps", "4", *once(name))
    mode = ("--mode", "stock") if "cpu" in backends.about(backend).slow_to_compile else ()
    run(images, *options, *mode, backend=backend)
    another, torch = run(images, *options)
    assert (another.backend, torch.backend) == (backend, "torch")
    for training, other in zip(another.values["training"].values(), torch.values["training"].values(), strict=True):
        assert training["losses"] == pytest.approx(other["losses"], rel=1e-4)
    assert [words for _, words in another.values["pictures"]] == [words for _, words in torch.values["pictures"]]


def test_the_round_trip_is_measured_as_the_paper_does(monkeypatch):
    """Squared, per dimension, of pixels in [0, 1], where a network's are in [-1, 1]."""
    monkeypatch.setattr(ddim_respaced.plots, "plot", lambda *_: (MagicMock(), MagicMock()))
    monkeypatch.setattr(ddim_respaced, "ROUND_TRIP_STEPS", (10, 20, 50))
    e = MagicMock(values={}, held_out=MagicMock(images=np.full((9, 1, 2, 2), 51, np.uint8)))
    e.model.spec.diffusion = DiffusionConfig(timesteps=20)
    e.follow = lambda x, plan, what: x + np.float32(0.1)
    ddim_respaced.round_trip(e)
    assert {S: len(errors) for S, errors in e.values["round_trip_error"].items()} == {"10": 8, "20": 8}  # no S beyond T
    assert np.allclose(e.values["round_trip_error"]["10"], 0.2**2 / 4)
    assert TABLE_2 == (0.014, 0.0065, 0.0023, 0.0009, 0.0004, 0.0001, 0.0001)  # S = 10, 20, 50, .. 1000


def test_the_tutorials_variances_are_beta_above_and_beta_tilde_below():
    e = MagicMock(values={}, samples=3, shape=(1, 2, 2))
    e.model.spec.diffusion = presets.PRESETS["mnist-scratch"].diffusion
    e.plan = lambda **choices: MagicMock(choices=choices, steps=4)
    e.follow = lambda x, plan, what: np.full((3, 1, 2, 2), {"large": 1.0, "small": -0.5}[plan.choices["variance"]], np.float32)
    mnist_scratch.run(e)
    (_, picture, columns), options = e.save_grid.call_args
    assert options["rows"] == ["beta_t", "beta_tilde"] and columns == 8 and len(picture) == 16
    assert [int(image.max()) for image in picture] == [255] * 3 + [0] * 5 + [64] * 3 + [0] * 5  # each on lines of its own
    assert set(e.values["variance"]) == {"beta_t", "beta_tilde"}


def an_experiment(**options):
    given = dict.fromkeys(("weights", "train_steps", "epochs", "batch_size", "samples", "steps", "lr", "extractor")) | options
    return experiment.Experiment(RECIPES["ddim-respaced"], SimpleNamespace(**given), "")


def test_what_a_user_says_comes_before_the_recipe_and_a_call_before_both():
    model = api.new(TINY, DiffusionConfig(timesteps=20))
    assert an_experiment().plan(model).steps == 20  # its 50 are more than there are
    assert an_experiment(steps=7).plan(model).steps == 7 and an_experiment(steps=7).plan(model, steps=3).steps == 3
    assert an_experiment().batch_size == 32 and an_experiment(batch_size=5).batch_size == 5
    assert an_experiment().samples == 128 and an_experiment(samples=5).samples == 5
    e = an_experiment(epochs=1.5)
    e.dataset = range(64)
    assert e.steps == 3


def test_images_are_measured_from_twice_the_features_on():
    by = SimpleNamespace(width=8)
    assert [an_experiment(extractor=by, samples=n).measures for n in (15, 16)] == [False, True]
    assert not an_experiment(samples=16).measures and an_experiment(samples=16).measure(np.zeros((16, 1, 2, 2))) is None


def test_the_choices_that_are_compared_are_the_papers_one_at_a_time():
    base = presets.PRESETS["cosine-selfcond"].diffusion
    changed = {name: {k for k, v in replace(base, **change).to_dict().items() if v != base.to_dict()[k]}
               for name, change in CHOICES.items()}
    assert base.beta_scaling and (base.schedule, base.objective, base.loss) == ("linear", "eps", DiffusionConfig().loss)
    assert list(map(len, changed.values())) == [0, 1, 1, 1, 1, 1, 1, 3]
    assert RECIPES["cosine-selfcond"].sampling == {"steps": 50, "convention": "lucidrains"}
    assert RECIPES["ddpm-cifar10"].sampling == {"steps": 1000, "sampler": "ddpm", "variance": "large"}
