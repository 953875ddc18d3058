"""Known mistakes are named from images alone, unknown ones and pairs are not."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from bench import api, streams
from bench.cli.main import main
from bench.diagnosis import case as cases
from bench.diagnosis import verdict
from bench.diagnosis.noises import MISTAKES
from bench.diagnosis.trial import right
from bench.diagnosis.verdict import RIGHT, UNKNOWN, Verdict, check_sampler, diagnose
from bench.paths import RESULTS
from bench.weights import pipeline
from reference import samplers, schedules
from reference.config import ConfigError, DiffusionConfig
from reference.plan import CLEAN
from tests.diagnosis import planted, table
from tests.helpers.tiny import TINY

FORM = next(iter(table.FORMS))


@pytest.mark.parametrize("eta", [0.0, 0.6])
def test_mistakes_of_a_plain_loop_are_named(eta):
    """Every one in float64, its pairs and what the catalogue does not have are unknown, and nothing is called by a wrong name."""
    case = table.case_of(FORM, 5, eta, "plain")
    wrong = []
    for name, flaw in planted.NOISELESS + (planted.NOISY if eta else planted.SILENT):
        found = diagnose(case, planted.plain(case, **flaw))
        expected = found.answer == UNKNOWN if name in (planted.PAIR, planted.UNKNOWN) else name in found.names
        wrong += [] if expected else [(name, found)]
    assert not wrong
    assert diagnose(case, planted.plain(case)).answer == diagnose(case, planted.plain(case, np.float32)).answer == RIGHT


@pytest.mark.parametrize("share, named", [(0.96, True), (0.94, False), (0.92, False)])
def test_a_mistake_that_is_hardly_nearer_than_the_right_sampler_is_not_named(monkeypatch, share, named):
    """Images that are off by a few times the tolerance, beside a mistake that is off by this share of it."""
    case = table.case_of(FORM, 5, 0.0, "plain")
    states = right(case).states(case.network)
    monkeypatch.setattr(verdict, "paths", lambda case: {"a mistake": states + share * 1e-8})
    monkeypatch.setattr(verdict, "ROUNDED", 0.0)
    assert diagnose(case, states[-1] + 1e-8).names == ("a mistake",) * named


def test_a_stride_past_the_first_timestep_ends_at_the_clean_image():
    case = cases.make(4, diffusion=DiffusionConfig(timesteps=100), spacing="quad")
    wrong = MISTAKES["the step before is t - T // S, not the path's next"](right(case))
    assert case.plan.timesteps == (80, 35, 8, 0) and wrong.plan.previous == (55, 10, CLEAN, CLEAN)


@pytest.mark.slow
@pytest.mark.parametrize("code", ["diffusers", "lucidrains"])
def test_mistakes_in_other_libraries_are_named(code):
    pytest.importorskip({"diffusers": "diffusers", "lucidrains": "denoising_diffusion_pytorch"}[code])
    found = [p for p in table.run((FORM,), [(5, 0.6)]) if p.code == code]
    assert len(found) > 10 and not [p for p in found if p.kind == "WRONG"]
    assert all((p.found.answer == UNKNOWN) == (p.is_called in (planted.PAIR, planted.UNKNOWN)) for p in found)
    case = table.case_of(FORM, 5, 0.6, code)
    assert diagnose(case, getattr(planted, code)(case)).answer == RIGHT


def test_the_table_that_is_committed_names_at_least_25_and_none_wrongly():
    text = (RESULTS / "diagnosis.md").read_text()
    assert int(re.search(r"- (\d+) of \d+ known mistakes are named", text)[1]) >= 25
    said = re.search(r"Of (\d+) samplers with two .*\n\s+(\d+) are called unknown and (\d+) by", text)
    aliens, unknown, wrong = map(int, said.groups())
    assert (aliens, wrong) == (unknown, 0) and aliens > 100
    of, rights = map(int, re.search(r"Of the (\d+) samplers without a mistake, (\d+) are called right", text).groups())
    assert of == rights > 10


def test_states_say_where_a_sampler_departs():
    """From states on the way: the first step beyond the tolerance, and a mistake that they alone would not forgive."""
    case = cases.make(10)
    good = right(case)
    states = good.of(replace(good.plan, final_alpha_bar="first")).states(case.network)
    found = diagnose(case, states)
    assert (found.step, found.timestep) == (9, 0) and "the last alpha_bar equals that of index 0" in found.names
    broken = good.states(case.network).copy()
    broken[3] += 0.1
    assert (diagnose(case, broken).step, diagnose(case, broken).answer) == (3, UNKNOWN)
    assert diagnose(case, good.states(case.network)).answer == RIGHT


def test_one_call_from_python():
    case = cases.make(6, eta=0.5)

    def mine(network, x, noise, plan):
        return samplers.sample(network, x, plan, noise.__getitem__)

    assert check_sampler(case, mine).answer == RIGHT
    assert check_sampler(case, lambda *a: mine(*a) * np.float32(2)).answer == UNKNOWN
    found = check_sampler(case, lambda network, x, noise, plan: mine(network, x, -noise, plan))
    assert found.names == ("noise with the opposite sign",)


@pytest.mark.parametrize("found, said", [
    (np.zeros((2, 3, 8, 9)), "must be images (2, 3, 8, 8), or the states after each step (4, 2, 3, 8, 8)"),
    (np.zeros((2, 3, 8, 8), np.int64), "must be float32 or float64, as it was computed"),
    (np.full((2, 3, 8, 8), np.nan), "PORT.npy='384 values': must be finite")])
def test_what_is_no_answer_is_refused(found, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        diagnose(cases.make(4), found)


PORT = """
import json, sys
import numpy as np
about = json.load(open("case/case.json"))
x, z, plan = np.load("case/x_T.npy"), np.load("case/noise.npy"), np.load("case/plan.npz")
a, b, c = about["closed_form"]
ab = np.append(np.cumprod(1 - plan["betas"]), 1.0 if sys.argv[1] == "right" else np.cumprod(1 - plan["betas"])[0])
for i, (t, p) in enumerate(zip(plan["timesteps"], plan["previous"])):
    out = a * x + b * np.sin(2 * x + plan["network_t"][i] / c)
    x0 = (x - np.sqrt(1 - ab[t]) * out) / np.sqrt(ab[t])
    sigma = about["eta"] * np.sqrt((1 - ab[p]) / (1 - ab[t]) * (1 - ab[t] / ab[p])) * plan["noise_gate"][i]
    x = np.sqrt(ab[p]) * x0 + np.sqrt(1 - ab[p] - sigma**2) * out + sigma * z[i]
np.save("port.npy", x)
"""


def test_a_port_that_knows_the_files_alone_is_judged(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["export-case", "--sampler", "ddim", "--steps", "8", "--eta", "0.4", "--spacing", "trailing", "--out", "case"]) == 0
    assert "ddim-bench check-images case PORT.npy" in capsys.readouterr().out
    for how, code, said in (("right", 0, "right: the images are off by"),
                            ("wrong", 4, "mistake: the last alpha_bar equals that of index 0, without noise in that step")):
        subprocess.run([sys.executable, "-c", PORT, how], check=True, timeout=60)
        assert main(["check-images", "case", "port.npy"]) == code and said in capsys.readouterr().out


def test_a_trained_network_is_part_of_a_case(tmp_path, capsys):
    model = api.new(TINY, DiffusionConfig(timesteps=20), seed=1)
    model.save(tmp_path / "net")
    assert main(["export-case", "--weights", str(tmp_path / "net"), "--steps", "5", "--out", str(tmp_path / "case")]) == 0
    case = cases.read(tmp_path / "case")
    loaded = api.load(tmp_path / "net")
    np.save(tmp_path / "port.npy", loaded.follow(case.x_T.astype(np.float32), loaded.plan(5)))
    capsys.readouterr()
    assert main(["check-images", str(tmp_path / "case"), str(tmp_path / "port.npy")]) == 0
    np.save(tmp_path / "port.npy", loaded.follow(case.x_T.astype(np.float32), loaded.plan(5, spacing="trailing")))
    assert main(["check-images", str(tmp_path / "case"), str(tmp_path / "port.npy")]) == 4
    assert "by a known mistake: the spacing trailing" in capsys.readouterr().out


def test_a_case_that_is_none_and_a_folder_in_use_are_one_line(tmp_path, capsys):
    np.save(tmp_path / "port.npy", np.zeros((2, 3, 8, 8)))
    (tmp_path / "case.json").write_text("{}")
    assert main(["check-images", str(tmp_path), str(tmp_path / "port.npy")]) == 2
    assert "is no case that export-case wrote" in capsys.readouterr().err
    assert main(["export-case", "--out", str(tmp_path)]) == 2
    assert "holds something already; name a new folder" in capsys.readouterr().err


def about(case, folder):
    """What case.json and plan.npz say of a case."""
    cases.write(case, folder)
    with np.load(folder / "plan.npz") as plan:
        return json.loads((folder / "case.json").read_text()), dict(plan)


def test_a_case_says_all_that_its_sampler_needs(tmp_path):
    """In words of the paper, beside the tables of each step in the order of sampling."""
    plain, plan = about(cases.make(5, eta=0.4, clip=3.5, diffusion=DiffusionConfig(timesteps=50, schedule="cosine", objective="v"),
                                   images=3, shape=(1, 4, 4), sampler=None), tmp_path / "a")
    said = {name: plain[name] for name in ("sampler", "steps", "eta", "images", "shape", "schedule", "T", "predicts", "clip",
                                           "variance", "last_alpha_bar")}
    assert said == {"sampler": "ddim", "steps": 5, "eta": 0.4, "images": 3, "shape": [1, 4, 4], "schedule": "cosine", "T": 50,
                    "predicts": "v", "clip": 3.5, "variance": None, "last_alpha_bar": "one"}
    assert plan["timesteps"].tolist() == sorted(plan["timesteps"], reverse=True) and plan["previous"][-1] == CLEAN
    assert plan["previous"][:-1].tolist() == plan["timesteps"][1:].tolist() and plan["noise_gate"].tolist() == [1, 1, 1, 1, 0]
    np.testing.assert_array_equal(plan["betas"], schedules.betas(DiffusionConfig(timesteps=50, schedule="cosine")))
    hat, _ = about(cases.make(5, eta="sigma_hat", clip="none"), tmp_path / "b")
    assert (hat["eta"], hat["clip"]) == ("sigma_hat", "none")
    ddpm, _ = about(cases.make(1000, sampler="ddpm", variance="large", images=1, shape=(1, 1, 1)), tmp_path / "c")
    assert (ddpm["sampler"], ddpm["variance"]) == ("ddpm", "large")


@pytest.mark.parametrize("convention", ["plain", "diffusers"])
def test_a_case_says_whether_eps_is_derived_again(tmp_path, convention):
    case = cases.make(5, convention=convention, clip=1)
    assert about(case, tmp_path / "a")[0]["eps_from_clipped_x0"] is case.plan.rederive_eps
    back = cases.read(tmp_path / "a")
    assert back.plan == case.plan and np.array_equal(back.x_T, case.x_T) and back.noise is None


def test_what_is_not_diagnosed_is_refused():
    for change, said in (({"images": 0}, "images=0: must be at least 1"),
                         ({"diffusion": DiffusionConfig(variance="learned_range")}, "a learned variance is not diagnosed")):
        with pytest.raises(ConfigError, match=said):
            cases.make(4, **change)
    loaded = pipeline.Loaded({}, replace(TINY, in_channels=2), DiffusionConfig(self_conditioning=True))
    with pytest.raises(ConfigError, match="self_conditioning=True: is not diagnosed; take other weights"):
        cases.make(4, network=loaded)


@pytest.mark.parametrize("dtype, off, tolerance, is_right", [
    (np.float64, 5e-10, 1e-9, True), (np.float64, 5e-5, 1e-4, True),  # of a float32 program
    (np.float64, 5e-4, 1e-9, False), (np.float32, 5e-5, 1e-4, True), (np.float32, 5e-4, 1e-4, False)])
def test_images_are_right_to_the_rounding_of_their_dtype(dtype, off, tolerance, is_right):
    case = cases.make(4)
    images = right(case).states(case.network)[-1]
    moved = images.copy()
    moved.flat[5] += off * max(1, np.abs(images).max())
    found = diagnose(case, moved.astype(dtype))
    assert (found.answer, found.tolerance) == (RIGHT if is_right else UNKNOWN, tolerance)
    assert found.error == pytest.approx(off, rel=0.01, abs=1e-7 if dtype == np.float32 else 0)


def test_lines_say_where_and_by_what():
    assert Verdict(RIGHT, (), 1e-12, 1e-9).lines() == ["right: the images are off by 1.0e-12, tolerance 1e-09"]
    wrong = "wrong: the images are off by 5.0e-01, tolerance 1e-09"
    assert Verdict(UNKNOWN, (), 0.5, 1e-9, 0, 90).lines() == [wrong, "departs at step 0 (t = 90), the first being 0",
                                                             "by no known mistake alone: unknown"]
    assert Verdict("a; b", ("a", "b"), 0.5, 1e-9).lines() == [wrong, "by one of these mistakes, which draw the same here: a; b"]


def base(steps=5, sampler=None, eta=0.0, **process):
    """What a case is made of: arguments of `cases.make`."""
    return {"steps": steps, "sampler": sampler, "eta": None if sampler == "ddpm" else eta, "diffusion": DiffusionConfig(**process)}


DDPM, NOISY = base(sampler="ddpm") | {"clip": "none"}, base(eta=0.6)
# A case, what else its sampler was given, and what that is called. Each is the reference's own plan of other arguments.
OTHERS = (
    (base(), base(schedule="sigmoid"), "betas of the schedule sigmoid"),
    (base(), base(schedule="sigmoid_alpha_bar"), "betas of the schedule sigmoid_alpha_bar"),
    (base(schedule="cosine"), base(), "betas of the schedule linear"),
    (base(schedule="cosine") | {"final_alpha_bar": "first"}, base() | {"final_alpha_bar": "first"}, "betas of the schedule linear"),
    (base(), base(schedule="linear_float32"), "linear betas in float32"),
    (base(objective="v") | {"spacing": "trailing"}, base(objective="v", zero_terminal_snr=True) | {"spacing": "trailing"},
     "betas rescaled to a zero terminal SNR"),
    (base(objective="v"), base(), "the output read as eps"),
    (base() | {"spacing": "trailing"}, base(), "the spacing leading"), (base(), base() | {"spacing": "quad"}, "the spacing quad"),
    (base() | {"steps_offset": 1}, base(), "every timestep of the path one lower"),
    (base() | {"final_alpha_bar": "first"}, base(), "the last alpha_bar is 1, not that of index 0"),
    (base(timesteps=500), base(timesteps=500, rescale_timesteps=True), "the network is told t times 1000 / T"),
    (base() | {"clip": 1}, base() | {"clip": 1, "rederive_eps": False}, "eps not derived again from the clipped x0"),
    (base() | {"clip": 1, "rederive_eps": False}, base() | {"clip": 1}, "eps derived again from the clipped x0"),
    (base() | {"clip": 1}, base() | {"clip": "none"}, "x0 not clipped"),
    (base() | {"clip": "none"}, base() | {"clip": "dynamic:0.995:1000000000"}, "x0 by a dynamic threshold"),
    (NOISY, base(eta="sigma_hat"), "noise of sigma_hat"), (base(eta="sigma_hat"), base(eta=1.0), "noise of eta = 1 for sigma_hat"),
    (NOISY, DDPM | {"variance": "large"}, "the sampler ddpm with the variance beta, not ddim"),
    (DDPM | {"variance": "large"}, base(), "the sampler ddim with eta = 0, not ddpm"),
    (DDPM | {"variance": "large"}, DDPM | {"variance": "small"}, "the variance beta_tilde, not beta"),
    (DDPM | {"variance": "small"}, DDPM | {"variance": "large"}, "the variance beta, not beta_tilde"),
)


@pytest.mark.parametrize("case, other, name", OTHERS)
def test_another_choice_of_the_plan_is_called_by_its_name(case, other, name):
    said, wrong = (cases.make(**{"images": 1, "shape": (1, 4, 4)} | given) for given in (case, other))
    noise = None if wrong.noise is None else wrong.noise.__getitem__
    images = samplers.sample(said.network, said.x_T, wrong.plan, noise)
    assert name in diagnose(said, images).names


def ddpm(case, divide=True, last_noise=False, stops=0, scale=1.0):
    """DDPM's algorithm 2 along the case's path, with the variance beta between its neighbours."""
    ab, x, path = np.cumprod(1 - schedules.betas(case.diffusion)), case.x_T, case.plan.timesteps
    for k, (t, after) in enumerate(zip(path[:len(path) - stops], case.plan.previous, strict=False)):
        a, b = ab[t], ab[after] if after >= 0 else 1.0
        alpha = a / b
        eps = case.network(x * scale, np.full(len(x), float(t)))
        x0 = np.clip((x - np.sqrt(1 - a) * eps) / np.sqrt(a), -1, 1)
        mean = np.sqrt(b) * (1 - alpha) / (1 - a) * x0 + np.sqrt(alpha) * (1 - b) / (1 - a) * x
        x = mean * (1 if divide else np.sqrt(alpha)) + np.sqrt(1 - alpha) * case.noise[k] * (after >= 0 or last_noise)
    return x


@pytest.mark.parametrize("flaw, name", [
    ({}, None), ({"divide": False}, "the mean not divided by sqrt(alpha)"), ({"last_noise": True}, "noise at the last step, too"),
    ({"stops": 1}, "the last step is left out"),
    ({"scale": "first"}, "the network's input scaled by the square root of alpha_bar of the first step")])
def test_mistakes_of_algorithm_2_are_named(flaw, name):
    case = cases.make(5, sampler="ddpm", variance="large", steps_offset=7, images=2, shape=(1, 4, 4))
    if flaw.get("scale"):
        flaw = {"scale": np.sqrt(np.cumprod(1 - schedules.betas(case.diffusion))[case.plan.timesteps[0]])}
    found = diagnose(case, ddpm(case, **flaw))
    assert found.answer == RIGHT if name is None else name in found.names


@pytest.mark.parametrize("flaw, name", [
    ({"root_table": 1}, "the square root of alpha_bar for alpha_bar"),
    ({"float32_product": 1}, "the product of alphas taken in float32"),
    ({"unit_images": 1, "end": 1}, "the images clipped to [0, 1]")])
def test_mistakes_of_tables_and_of_the_end_are_named(flaw, name):
    case = table.case_of(FORM, 5, 0.6, "plain")
    images = planted.plain(case, **{key: value for key, value in flaw.items() if key != "end"})
    found = diagnose(case, np.clip(images, 0, 1) if "end" in flaw else images)
    assert any(each.startswith(name) for each in found.names), found


def test_a_case_has_the_noise_of_its_seed():
    case, ids = cases.make(3, eta=0.5, seed=5, images=2, shape=(1, 2, 2)), np.arange(2)
    np.testing.assert_array_equal(case.x_T, streams.normal(5, "x_T", ids, (1, 2, 2)))
    np.testing.assert_array_equal(case.noise, [streams.normal(5, "z", ids, (1, 2, 2), step=i) for i in range(3)])
