"""The Python API on a tiny network, on torch; slow: the same on MindSpore, and folders that go between backends."""

from __future__ import annotations

import textwrap
from types import SimpleNamespace

import numpy as np
import pytest

import backends
from bench import api
from bench.data.pixels import to_uint8
from reference import samplers, unet, weights
from reference.config import ConfigError, DiffusionConfig, ModelConfig, OptimConfig
from reference.conventions import CLEAN
from tests.helpers.tiny import EQUAL_GROUPS, TINY, same

BACKENDS = ["torch", pytest.param("mindspore", marks=pytest.mark.slow)]


def tiny(backend="torch", **diffusion):
    process = DiffusionConfig(**{"timesteps": 20, **diffusion})
    model = TINY if not process.self_conditioning else ModelConfig(**{**TINY.to_dict(), "in_channels": 2})
    return api.new(model, process, OptimConfig(lr=1e-3), backend, seed=3)


def test_a_float64_network_gives_float64_images_within_float64s_tolerance():
    model = api.new(TINY, DiffusionConfig(timesteps=20), seed=3, dtype="float64")
    x, plan = model.noise(2), model.plan(4)
    assert all(v["ok"] for v in model.check().values()), model.check()
    assert model.follow(x, plan).dtype == model.path(x, plan, 2)[0].dtype == np.float64
    assert tiny("torch").follow(x, plan).dtype == tiny("torch").path(x, plan, 2)[0].dtype == np.float32


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_example_of_the_docstring_runs(backend, capsys):
    code = textwrap.dedent(api.__doc__.split("\n\n", 1)[1].rsplit("\n\n", 1)[0])
    names: dict = {}
    for long, short in (('"torch"', repr(backend)), ("16, steps=50", "2, steps=5"),
                        ("batch_size=16", "batch_size=1, least=0.01, cap_seconds=1")):
        assert long in code
        code = code.replace(long, short)
    exec(code, names)
    assert names["images"].shape == (2, 1, 28, 28) and names["images"].dtype == np.float32
    assert float(capsys.readouterr().out.split()[0]) > 0


def test_a_new_network_that_cannot_know_t_is_refused_unless_asked_for():
    with pytest.raises(ConfigError, match=r"^norm_num_groups=8: must be below every width: .* cancels the time embedding.*=True"):
        api.new(EQUAL_GROUPS)
    model = api.new(EQUAL_GROUPS, allow_cancelled_time=True)
    assert model.train(np.zeros((4, 1, 8, 8), np.uint8), 1, batch_size=2).losses.shape == (1,)


@pytest.mark.parametrize("backend", BACKENDS)
def test_samples_are_the_oracles_and_do_not_depend_on_the_batch(backend):
    model = tiny(backend)
    images = model.sample(5, 6, 0.5, seed=1, batch_size=2)
    assert np.abs(images - model.sample(5, 6, 0.5, seed=1, batch_size=5)).max() < 1e-5
    w, plan = weights.initialise(TINY, 3), model.plan(6, eta=0.5)
    noise = {i: model._z(1, np.arange(5))(i) for i in range(6)}
    exact = samplers.sample(lambda x, t: unet.forward(w, TINY, x, t), model.noise(5, 1).astype(np.float64), plan, noise.get)
    assert np.abs(images - exact).max() < 1e-3 * max(1, np.abs(exact).max())
    assert np.abs(images - model.sample(5, 6, 0.5, seed=2)).max() > 0.1


@pytest.mark.parametrize("diffusion", [{}, {"self_conditioning": True}], ids=["plain", "self-conditioning"])
def test_a_path_starts_at_x_and_ends_at_the_sample(diffusion):
    model = tiny(**diffusion)
    x, plan = model.noise(3), model.plan(10, sampler="ddpm")
    states, t = model.path(x, plan, 4)
    assert states.shape == (5, 3, 1, 8, 8) and (states[0] == x).all()
    assert t[0] == plan.timesteps[0] and t[-1] == CLEAN and t[1:-1] == [plan.timesteps[n] for n in (2, 5, 8)]
    end = model.follow(x, plan)
    assert np.abs(states[-1] - end).max() < 1e-4 * max(1, np.abs(end).max())
    assert api.describe_timesteps([19, CLEAN]) == ["t = 19", "clean"]


def test_row_n_gets_the_noise_of_the_id_it_is_given():
    model = tiny()
    plan = model.plan(5, eta=1.0)
    x = np.repeat(model.noise(1), 3, axis=0)
    same, own = model.follow(x, plan, ids=[1, 1, 1]), model.follow(x, plan)
    assert np.abs(same[0] - same[1:]).max() < 1e-5 and np.abs(same[0] - own[1]).max() < 1e-5
    assert np.abs(own[0] - own[1]).max() > 0.1


def test_encoding_and_decoding_err_less_with_more_steps():
    model = tiny()
    images = np.tanh(model.noise(4, seed=9))
    errors = [np.abs(model.follow(model.encode(images, s), model.plan(s, clip="none")) - images).mean() for s in (5, 10, 20)]
    assert errors[0] > errors[1] > errors[2] > 0


def test_training_moves_the_samples_and_a_saved_folder_gives_them_back(tmp_path):
    model = tiny()
    before = model.sample(2, 4)
    fit = model.train(to_uint8(model.noise(16, seed=5)), 6, batch_size=4)
    after = model.sample(2, 4)
    assert fit.losses.shape == (6,) and np.isfinite(fit.losses).all() and np.abs(before - after).max() > 1e-3
    model.save(tmp_path / "net")
    assert np.abs(api.load(tmp_path / "net").sample(2, 4) - after).max() == 0


@pytest.mark.slow
@pytest.mark.parametrize("backend", [name for name in backends.names() if name != backends.DEFAULT and backends.installed(name)
                                     and backends.about(name).network])
def test_a_folder_that_one_backend_saved_is_read_by_another(tmp_path, backend):
    """Both ways: the same bits of the weights, and the same images."""
    process = DiffusionConfig(timesteps=20)
    for one, other in ((backends.DEFAULT, backend), (backend, backends.DEFAULT)):
        trained = api.new(TINY, process, backend=one, mode="stock")
        trained.train(to_uint8(trained.noise(16)), 3, batch_size=4)
        trained.save(tmp_path / one)
        read = api.load(tmp_path / one, other, mode="stock")
        assert same(read.backend.weights(), trained.backend.weights(ema=True))
        assert not same(read.backend.weights(), api.new(TINY, process, mode="stock").backend.weights())
        assert np.abs(read.sample(2, 4) - trained.sample(2, 4)).max() < 1e-3


@pytest.mark.parametrize("diffusion", [{}, {"objective": "v", "self_conditioning": True}], ids=["eps", "v, self-conditioning"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_check_holds_every_stage_and_sees_one_that_is_off(backend, diffusion):
    model = tiny(backend, **diffusion)
    found = model.check()
    assert set(found) == {"tables", "forward", "loss", "sampling"} and all(v["ok"] for v in found.values()), found
    forward = model.backend.forward
    model.backend.forward = lambda *args, **kwargs: forward(*args, **kwargs) * 1.001
    assert [name for name, v in model.check().items() if not v["ok"]] == ["forward"]


def test_time_is_that_of_the_steps():
    found = tiny().time(10, batch_size=2, least=0.01, cap_seconds=1)
    assert found["images_per_second"] == pytest.approx(2 / (10 * found["seconds_per_step"]))
    assert 0 < found["q1"] <= found["seconds_per_step"] <= found["q3"] < 1


def test_mistakes_are_config_errors(tmp_path):
    model = tiny()
    for wrong, match in ((lambda: api.load(tmp_path / "none"), "no such folder"),
                         (lambda: api.new(TINY, backend="tensorflow"), "backend='tensorflow': must be one of"),
                         (lambda: model.sample(0), "n=0: must be at least 1"),
                         (lambda: model.sample(1, 21), "steps=21"),
                         (lambda: model.path(model.noise(1), model.plan(4), 5), "frames=5: must be from 1 to the plan's 4 steps"),
                         (lambda: model.train(np.zeros((1, 1, 28, 28), np.uint8), 1), r"images=.*made for images of shape")):
        with pytest.raises(ConfigError, match=match):
            wrong()


def test_what_a_training_is_told_reaches_the_loop(monkeypatch):
    told = {}
    monkeypatch.setattr(api.loop, "fit", lambda *_, **options: told.update(options))
    tiny().train(np.zeros((4, 1, 8, 8), np.uint8), 7, batch_size=2, seed=5, flip=True, save_every=3.0)
    assert told == {"seed": 5, "steps": 7, "batch_size": 2, "flip": True, "save_every": 3.0}
    tiny().train(np.zeros((4, 1, 8, 8), np.uint8), 7)
    assert (told["seed"], told["batch_size"], told["flip"]) == (0, 64, False)


def test_a_batch_is_no_larger_than_its_rows_and_what_was_noted_is_said(monkeypatch):
    """A batch that is filled up would cost as much as a full one."""
    told = {}
    monkeypatch.setattr(api, "draw", lambda *_, **options: told.update(options) or SimpleNamespace(images=0, notes=["halved"]))
    model = tiny()
    with pytest.warns(UserWarning, match="^halved$"):
        model.follow(model.noise(3), model.plan(2), seed=4)
    assert (told["batch_size"], told["seed"]) == (3, 4)


def test_a_path_has_the_noise_of_its_seed_at_every_step():
    model = tiny()
    x, plan = model.noise(2, 5), model.plan(6, eta=1.0)
    states, _ = model.path(x, plan, 3, seed=5)
    assert np.abs(states[-1] - model.follow(x, plan, seed=5)).max() < 1e-4
    assert np.abs(states[-1] - model.follow(x, plan, seed=6)).max() > 0.1


def test_a_process_of_few_timesteps_is_checked_too():
    model = tiny(timesteps=4)
    assert all(v["ok"] for v in model.check().values())


def test_a_trained_network_is_checked_by_its_weights_and_by_their_average():
    """The loss is that of the weights, all else of their average."""
    model = tiny()
    model.train(to_uint8(model.noise(16, seed=5)), 3, batch_size=4)
    assert all(v["ok"] for v in model.check().values()), model.check()


def test_what_a_sampling_is_told_reaches_its_plan_and_its_loop(monkeypatch):
    told = {}
    monkeypatch.setattr(api, "draw", lambda backend, plan, ids, shape, **options: told.update(options, plan=plan)
                        or SimpleNamespace(images=0, notes=[]))
    model = tiny()
    model.sample(5, 4, 0.5, seed=3, batch_size=2, sampler="dpmpp_2m_sde")
    assert (told["batch_size"], told["seed"], told["plan"].variant.eta) == (2, 3, 0.5)
    model.encode(model.noise(5), 4, batch_size=3)
    assert told["batch_size"] == 3
    with pytest.raises(ConfigError, match="batch_size=0: must be at least 1"):
        model.sample(1, 4, batch_size=0)
    with pytest.raises(ConfigError, match="frames=0: must be from 1 to the plan's 4 steps"):
        model.path(model.noise(1), model.plan(4), 0)


def test_a_folder_is_loaded_into_the_backend_that_is_asked_for(folder):
    spec = api.load(folder, dtype="float64", mode="stock").spec
    assert (spec.dtype, spec.mode) == ("float64", "stock") and api.load(folder).spec.mode == "tuned"
