"""Pictures drawn from weights by the command line are those of the API's images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from bench import api, oracle, streams
from bench.cli.main import main
from bench.data.pixels import drawn_by, to_uint8
from bench.recipes import show
from bench.weights.tensor_files import weights_hash
from reference import solving
from reference.config import ConfigError, DiffusionConfig, ModelConfig
from reference.solver_plans import make_solver_plan

TINY = ModelConfig(sample_size=8, block_out_channels=(8, 16), norm_num_groups=4, zero_init=False,
                   down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"))


@pytest.fixture
def net(tmp_path):
    api.new(TINY, DiffusionConfig(timesteps=20)).save(tmp_path / "net")
    return tmp_path / "net"


def test_every_picture_and_the_array_show_the_apis_images(net, tmp_path, capsys):
    files = {kind: tmp_path / f"a.{'gif' if kind == 'gif' else 'png'}" for kind in ("gif", "grid")} | {"strip": tmp_path / "s.png"}
    options = [word for kind, path in files.items() for word in (f"--{kind}", str(path))]
    options += ["--samples", "3", "--steps", "5", "--eta", "1", "--seed", "2", "--convention", "diffusers"]
    assert main(["sample", "--weights", str(net), *options, "--save", str(tmp_path / "a.npy")]) == 0
    expected = to_uint8(api.load(net).sample(3, 5, 1.0, seed=2, convention="diffusers"))
    saved = np.load(tmp_path / "a.npy")
    assert saved.dtype == np.uint8 and np.abs(saved.astype(int) - expected).max() <= 1
    with Image.open(files["gif"]) as gif:
        assert gif.n_frames == 6
        gif.seek(5)
        last = np.asarray(gif.convert("L"))[4:64:8, 4:64:8]
    assert np.abs(last.astype(int) - expected[0, 0]).max() <= 4  # the palette's rounding
    assert all(path.stat().st_size > 500 for path in files.values())
    assert capsys.readouterr().out.count("wrote") == 4


def test_an_npz_file_holds_the_same_array(net, tmp_path):
    for name in ("a.npy", "a.npz"):
        assert main(["sample", "--weights", str(net), "--samples", "2", "--steps", "3", "--save", str(tmp_path / name)]) == 0
    assert np.array_equal(np.load(tmp_path / "a.npz")["images"], np.load(tmp_path / "a.npy"))
    assert drawn_by(tmp_path / "a.npz") == {"weights": weights_hash(api.load(net).backend.weights(ema=True))}


def test_section_counts_and_the_ddpm_sampler(net, tmp_path):
    assert main(["sample", "--weights", str(net), "--samples", "2", "--sections", "3,3", "--sampler", "ddpm", "--save",
                        str(tmp_path / "a.npy")]) == 0
    expected = to_uint8(api.load(net).sample(2, (3, 3), sampler="ddpm"))
    assert np.abs(np.load(tmp_path / "a.npy").astype(int) - expected).max() <= 1


def test_a_grid_of_very_many_shows_the_first(net, tmp_path, monkeypatch):
    monkeypatch.setattr(show, "GRID_IMAGES", 4)
    model = api.load(net)
    images, captions = show.show(model, model.plan(2), 9, {"grid": tmp_path / "a.png"})
    assert len(images) == 9 and captions == {"grid": "4 of 9 samples, DDIM, S = 2"}


def test_the_spacing(net, tmp_path):
    assert main(["sample", "--weights", str(net), "--samples", "2", "--steps", "3", "--spacing", "trailing", "--save",
                        str(tmp_path / "a.npy")]) == 0
    trailing, uniform = (to_uint8(api.load(net).sample(2, 3, spacing=spacing)).astype(int) for spacing in ("trailing", None))
    found = np.load(tmp_path / "a.npy")
    assert np.abs(found - trailing).max() <= 1 < np.abs(found - uniform).max()


@pytest.mark.parametrize("options, message", [
    (["--save", "{out}.npy", "--spacing", "even"], "spacing='even': convention plain has"),
    ([], "at least one must name a file"),
    (["--save", "{out}.npy", "--eta", "big"], "--eta='big': must be a number"),
    (["--save", "{out}.npy", "--steps", "0"], "--steps=0: must be at least 1"),
    (["--save", "{out}.npy", "--steps", "3,3"], "--steps: '3,3': must be a whole number; IDDPM's section counts are --sections"),
    (["--save", "{out}.npy", "--steps", "5", "--samples", "0"], "--samples=0: must be at least 1"),
    (["--grid", "{out}/there.png"], "there.png': its folder must exist"),
    (["--grid", "{out}.xyz"], "missing.xyz': must end in .png"), (["--gif", "{out}.png"], "missing.png': must end in .gif"),
    (["--save", "{out}"], "missing': must end in .npy or .npz"), (["--save", ""], "--save='': must not be empty"),
    (["--save", "{out}.npy", "--sections", "2,3", "--steps", "5"], "--steps=5: does not apply with --sections"),
    (["--save", "{out}.npy", "--sections", "2,3", "--spacing", "quad"], "--spacing='quad': does not apply with --sections"),
    (["--save", "{out}.npy", "--sections", "5"], "--sections='5': must be two or more whole numbers"),
    (["--save", "{out}.npy", "--sampler", "ddpm", "--eta", "0.5"], "--eta='0.5': does not apply to the sampler ddpm"),
    (["--save", "{out}.npy", "--batch-size", "2"],
     "--batch-size: does not apply to ddim-bench sample; did you mean --sample-batch?"),
])
def test_a_mistake_is_one_line_before_anything_is_drawn(net, tmp_path, capsys, monkeypatch, options, message):
    monkeypatch.setattr(show, "show", lambda *_, **__: pytest.fail("drew images"))
    assert main(["sample", "--weights", str(net), *(word.format(out=tmp_path / "missing") for word in options)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(("sampler", "options"), [("dpmpp_2m", {}), ("heun", {"spacing": "karras"}),
                                                  ("dpmpp_2m_sde", {"eta": 0.5})])
def test_a_fast_solver_draws_the_oracles_images(net, tmp_path, sampler, options):
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    said = ["sample", "--weights", str(net), "--samples", "3", "--steps", "5", "--seed", "2", "--sampler", sampler, *words]
    assert main([*said, "--save", str(tmp_path / "a.npy")]) == 0
    model = api.load(net)
    images = model.sample(3, 5, seed=2, sampler=sampler, **options)
    assert np.abs(np.load(tmp_path / "a.npy").astype(int) - to_uint8(images)).max() <= 1
    plan = make_solver_plan(model.spec.diffusion, 5, sampler=sampler, **options)
    network = oracle.oracle_network(model.backend.weights(ema=True), model.spec)

    def noise(k: int) -> np.ndarray:
        return streams.normal(2, "z", np.arange(3), images.shape[1:], step=k)

    wanted = solving.solve(network, model.noise(3, 2).astype(np.float64), plan, noise)
    assert np.abs(images - wanted).max() < 1e-4 * max(1, np.abs(wanted).max())


@pytest.mark.parametrize(("words", "line"), [
    ("--sampler dpmpp_2", "sampler='dpmpp_2': must be one of ddim, ddpm, heun, plms"),
    ("--sampler dpmpp_3m --steps 2", "steps=2: dpmpp_3m needs 3 <= S <= T=20"),
    ("--sampler heun --steps 5 --eta 0.5", "eta=0.5: heun has no noise to scale"),
    ("--sampler dpmpp_2m --steps 5 --eta sigma_hat", "eta='sigma_hat': dpmpp_2m has no noise to scale"),
    ("--sampler heun --sections 5,5", "--sections='5,5': does not apply to the sampler heun"),
    ("--sampler heun --variance small", "--variance='small': does not apply to the sampler heun"),
    ("--sampler heun --convention song2021", "convention='song2021': fast solvers have plain"),
    ("--sampler plms --steps 5 --spacing quadratic", "spacing='quadratic': must be one of"),
    ("--sampler heun --strip s.png", "stops of heun on the way would lose its earlier predictions"),
])
def test_what_a_fast_solver_refuses_is_one_line(net, tmp_path, capsys, monkeypatch, words, line):
    monkeypatch.chdir(tmp_path)
    code = main(["sample", "--weights", str(net), "--samples", "1", "--save", "a.npy", *words.split()])
    err = capsys.readouterr().err.strip()
    assert code == 2 and line in err and len(err.splitlines()) == 1 and not (tmp_path / "a.npy").exists()


def test_one_line_names_the_settings_of_a_folder_that_a_fast_solver_goes_without(net, tmp_path, recwarn):
    words = ["sample", "--weights", str(net), "--samples", "1", "--save", str(tmp_path / "a.npy"), "--steps", "3"]
    for convention, sampler, lines in (("diffusers", "dpmpp_2m", 1), ("plain", "dpmpp_2m", 0), ("diffusers", "ddim", 0)):
        assert main([*words, "--convention", convention, "--sampler", sampler]) == 0
        said = [str(warning.message) for warning in recwarn if "goes without" in str(warning.message)]
        assert len(said) == lines and all("sampler='dpmpp_2m': goes without clip_sample, " in line for line in said)
        recwarn.clear()


def test_the_api_refuses_what_a_fast_solver_does_not_have(net, monkeypatch):
    model = api.load(net)
    with pytest.raises(ConfigError, match="variance='small': is no choice of heun"):
        model.sample(1, 5, sampler="heun", variance="small")
    with pytest.raises(ConfigError, match="section counts are for ddim and ddpm: give heun one number"):
        model.sample(1, (2, 3), sampler="heun")
    with pytest.raises(ConfigError, match="sampler='heun': stops on the way"):
        model.path(model.noise(1), model.solver_plan(5, sampler="heun"), 2)
    monkeypatch.setattr(model.backend, "sample", lambda *args, **more: pytest.fail("ran"))
    with pytest.raises(ConfigError, match="sampler='heun': backend outside has ddim and ddpm alone, says its ABOUT: use torch"):
        replace(model, name="outside").sample(1, 5, sampler="heun")
