"""Each row of the table of differences between public codes, as that code behaves. Golden numbers are in `test_golden`."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from reference import schedules, timesteps
from reference.config import ConfigError, DiffusionConfig, ModelConfig
from reference.conventions import CLEAN, CONVENTIONS, PURE_NOISE, adopt, adopt_network, get_convention, make_encode_plan, make_plan
from reference.samplers import coefficients, step
from reference.scheduler import Scheduler

LINEAR = DiffusionConfig()
NAMES = ("plain", "ho2020", "song2021", "nichol2021", "diffusers", "lucidrains")


def plan_of(convention: str, steps: int = 10, diffusion: DiffusionConfig = LINEAR, **choices):
    """A plan of this convention; Ho et al.'s code knows full paths alone."""
    return make_plan(diffusion, diffusion.timesteps if convention == "ho2020" else steps, convention=convention, **choices)


def row(values: str) -> dict[str, str]:
    return dict(zip(NAMES, values.split(), strict=True))


def test_names():
    assert tuple(CONVENTIONS) == NAMES and all(c.source for c in CONVENTIONS.values())
    with pytest.raises(ConfigError, match=f"convention='song': must be one of {', '.join(NAMES)}"):
        get_convention("song")


def test_encoding_has_no_thresholding():
    """diffusers' DDIMInverseScheduler has none: it clips as clip_sample says."""
    plans = [make_encode_plan(LINEAR, 10, convention="diffusers", scheduler=Scheduler(thresholding=on)) for on in (None, True)]
    assert plans[0] == plans[1] and plans[0].clip == "clip"


@pytest.mark.parametrize("name", NAMES)
def test_a_plan_says_everything_of_every_step(name):
    for plan in (plan_of(name), make_encode_plan(LINEAR, 1000 if name == "ho2020" else 10, convention=name)):
        said = plan.timesteps, plan.previous, plan.network_t, plan.noise_gate, plan.predicts
        assert {len(of_each_step) for of_each_step in said} == {plan.steps}


@pytest.mark.parametrize("name", NAMES)
def test_linear_betas_times_1000_over_T(name):
    diffusion = DiffusionConfig(timesteps=100)
    first = 1 - coefficients(plan_of(name, 100, diffusion, spacing="trailing" if name == "lucidrains" else None))["alpha_bar"][-1]
    scaled = {"nichol2021", "lucidrains"}
    assert first == pytest.approx(1e-3 if name in scaled else 1e-4, rel=1e-3)
    cosine = plan_of(name, 100, DiffusionConfig(timesteps=100, schedule="cosine"))
    assert not cosine.diffusion.beta_scaling


def test_scaling_that_cannot_be_is_refused_when_the_plan_is_made():
    with pytest.raises(ConfigError, match="timesteps=20: beta_scaling gives beta=1 >= 1"):
        make_plan(DiffusionConfig(timesteps=20), 10, convention="nichol2021")


@pytest.mark.parametrize("name", NAMES)
def test_last_alpha_bar_is_one_or_the_first(name):
    assert coefficients(plan_of(name))["alpha_bar_prev"][-1] == 1
    first = schedules.alpha_bars(schedules.betas(plan_of(name).diffusion), CONVENTIONS[name].float32_tables)[0]
    assert coefficients(plan_of(name, final_alpha_bar="first"))["alpha_bar_prev"][-1] == first


@pytest.mark.parametrize("name, spacing", row("leading all leading linspace leading trailing").items())
def test_default_spacing(name, spacing):
    S = 1000 if name == "ho2020" else 50
    assert list(plan_of(name, S).timesteps) == timesteps.path(1000, S, spacing, name)[::-1]


@pytest.mark.parametrize("name, steps, count", [("song2021", 30, 31), ("song2021", 300, 334), ("diffusers", 300, 300),
                                                ("plain", 30, 30)])
def test_number_of_network_calls(name, steps, count):
    plan = plan_of(name, steps)
    assert plan.steps == count == len(plan.previous) == len(plan.network_t) == len(plan.noise_gate)


def test_nichol2021_has_no_stride_for_ddim300():
    with pytest.raises(ConfigError, match="steps=300: no integer stride gives S=300 of T=1000"):
        plan_of("nichol2021", 300, spacing="leading")


def test_song2021_stays_where_quad_repeats_a_step():
    """At S = 50 the path ends 2, 1, 0, 0: the step from 0 to 0 has alpha = 1 and leaves x alone."""
    plan = plan_of("song2021", 50, spacing="quad", eta=1.0)
    assert plan.timesteps[-3:] == (1, 0, 0) and plan.previous[-3:] == (0, 0, CLEAN)
    x, output = np.random.default_rng(0).standard_normal((2, 2, 1, 4, 4))
    np.testing.assert_allclose(step(x, output, 48, plan, np.ones_like(x), coefficients(plan))[0], x, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name, clip", row("none clip none clip clip clip").items())
def test_ddim_clips_x0(name, clip):
    assert plan_of(name).clip == clip
    x, output = np.full((1, 1, 1, 1), 3.0), np.zeros((1, 1, 1, 1))
    plan = plan_of(name)
    x0 = step(x, output, plan.steps // 2, plan, None, coefficients(plan))[1].item()
    assert x0 == 1 if clip == "clip" else x0 > 3


@pytest.mark.parametrize("name", NAMES)
def test_ddpm_clips_x0(name):
    assert plan_of(name, sampler="ddpm").clip == "clip"


def test_dynamic_threshold_is_a_choice():
    assert plan_of("diffusers", clip="dynamic", threshold_ratio=0.9).threshold_ratio == 0.9
    for ratio in (0.0, 1.1):
        with pytest.raises(ConfigError, match=rf"threshold_ratio={ratio}: must be in \(0, 1\]"):
            plan_of("diffusers", clip="dynamic", threshold_ratio=ratio)


@pytest.mark.parametrize("name, rederived", row("yes no no yes no yes").items())
def test_eps_is_rederived_from_the_clipped_x0(name, rederived):
    """x = 3, output = 0: x0_hat = 3 / sqrt(ab) clips to 1, so eps is 0 or (3 - sqrt(ab)) / sqrt(1 - ab)."""
    plan = plan_of(name, clip="clip")
    c, i = coefficients(plan), plan.steps // 2
    ab, ab_prev = c["alpha_bar"][i], c["alpha_bar_prev"][i]
    eps = (3 - math.sqrt(ab)) / math.sqrt(1 - ab) if rederived == "yes" else 0
    x = np.full((1, 1, 1, 1), 3.0)
    got = step(x, 0 * x, i, plan, None, c)[0].item()
    assert got == pytest.approx(math.sqrt(ab_prev) + math.sqrt(1 - ab_prev) * eps, rel=1e-13)


@pytest.mark.parametrize("name, variance", row("large large large large small small").items())
def test_ddpm_variance(name, variance):
    plan = plan_of(name, sampler="ddpm")
    c, i = coefficients(plan), plan.steps // 2
    ab, ab_prev = c["alpha_bar"][i], c["alpha_bar_prev"][i]
    beta = 1 - ab / ab_prev
    expected = {"large": beta, "small": beta * (1 - ab_prev) / (1 - ab)}
    assert c["sigma"][i] ** 2 == pytest.approx(expected[variance], rel=1e-12)
    other = "small" if variance == "large" else "large"
    again = coefficients(plan_of(name, sampler="ddpm", variance=other))
    assert again["sigma"][i] ** 2 == pytest.approx(expected[other], rel=1e-12)


@pytest.mark.parametrize("variance", ["learned", "learned_range"])
def test_a_learned_variance_is_the_networks_own(variance):
    diffusion = DiffusionConfig(variance=variance)
    assert plan_of("nichol2021", diffusion=diffusion, sampler="ddpm").variance == variance
    with pytest.raises(ConfigError, match=f"variance='{variance}': the network was built for variance large"):
        plan_of("nichol2021", sampler="ddpm", variance=variance)


@pytest.mark.parametrize("name, value", row("-9.817 -9.817 -9.817 -9.817 -46.05 -46.05").items())
def test_log_variance_at_the_first_timestep(name, value):
    """beta_tilde is 0 at t = 0: log beta_tilde_1 = log(1.19920e-4 x 1e-4 / 2.19908e-4) = -9.8168, or log 1e-20 = -46.0517."""
    plan = make_plan(LINEAR, 1000, sampler="ddpm", convention=name, variance="small",
                     spacing={"nichol2021": "leading", "lucidrains": "trailing"}.get(name))
    assert plan.timesteps[-1] == 0
    # The DDIM code has no small variance; the value there is ours. float32 tables move it by 1e-4.
    assert coefficients(plan)["log_variance_min"][-1] == pytest.approx(float(value), abs=2e-3)


@pytest.mark.parametrize("name, substituted", row("no yes no yes no no").items())
def test_fixed_large_takes_beta_tilde_of_the_second_step_at_the_first(name, substituted):
    c = coefficients(plan_of(name, sampler="ddpm", variance="large"))
    beta = 1 - c["alpha_bar"][-1]
    expected = c["log_variance_min"][-2] if substituted == "yes" else math.log(beta)
    assert c["log_variance_max"][-1] == pytest.approx(expected, rel=1e-12)


def test_a_learned_range_ends_at_beta_whatever_the_large_variance_is():
    """ho2020's option is of the fixed large variance alone: at the last step of a learned range beta stays the upper end."""
    process = dataclasses.replace(LINEAR, variance="learned_range", large_variance_first=True)
    c = coefficients(make_plan(process, 20, sampler="ddpm", spacing="leading"))
    assert c["log_variance_max"][-1] == pytest.approx(math.log(1 - c["alpha_bar"][-1]), rel=1e-12)


def test_song2021_ddpm_adds_nothing_where_quad_repeats_a_step():
    """exp(0.5 log 0) = 0 there. S = 100 of T = 1000 begins 0, 0, 0, 0, 1, 2, 2, 3: one repeated step lies above 0."""
    plan = plan_of("song2021", 100, spacing="quad", sampler="ddpm")
    assert plan.timesteps[-8:] == (3, 2, 2, 1, 0, 0, 0, 0) and plan.noise_gate[-7] == plan.noise_gate[-6] == 1
    c = coefficients(plan)
    assert c["sigma"][-7] == 0 < c["sigma"][-6] and c["prev_from_x"][-7] == pytest.approx(1, rel=1e-12)
    x, output, z = np.random.default_rng(0).standard_normal((3, 2, 1, 4, 4))
    np.testing.assert_allclose(step(x, output, plan.steps - 7, plan, z, c)[0], x, rtol=1e-12)


def test_song2021_gates_noise_on_t_in_ddpm_and_on_the_list_in_ddim():
    """Where quad repeats t = 0, DDPM adds nothing on the way out of any of them, and DDIM nothing on the last step alone, whatever
    alpha_bar that ends at."""
    ddpm = plan_of("song2021", 100, spacing="quad", sampler="ddpm")
    assert ddpm.timesteps[-5:] == (1, 0, 0, 0, 0) and ddpm.noise_gate == (1,) * 96 + (0,) * 4
    for final in ("one", "first"):
        ddim = plan_of("song2021", 100, spacing="quad", eta=1.0, final_alpha_bar=final)
        assert ddim.noise_gate == (1,) * 99 + (0,)


@pytest.mark.parametrize("name", NAMES)
def test_no_eps_is_left_from_alpha_bar_zero_at_eta_one(name):
    """1 - ab' - sigma^2 is 0 there, and rounding must not make it the root of 1e-16 or NaN."""
    diffusion = DiffusionConfig(objective="v", zero_terminal_snr=True)
    plan = plan_of(name, diffusion=diffusion, eta=1.0, spacing="trailing" if name in ("plain", "diffusers") else None)
    c = coefficients(plan)
    assert all(np.isfinite(table).all() for table in c.values())
    assert (c["prev_from_eps"][c["alpha_bar"] == 0] == 0).all() and (c["alpha_bar"] == 0).any() == (name != "song2021")


def test_jsd_is_sampled_where_the_first_step_says_something_of_the_image():
    """The DDIM code's S = 10 begins at t = 900; at t = 999 alpha_bar is 0, where v and x0 say something and eps does not."""
    jsd = DiffusionConfig(schedule="jsd")
    c = coefficients(plan_of("song2021", diffusion=jsd, eta=1.0))
    np.testing.assert_allclose(c["alpha_bar"], [1 - (t + 1) / 1000 for t in range(900, -1, -100)], rtol=1e-6)
    assert all(np.isfinite(table).all() for table in c.values())
    for name, choices, advice, way in (
            ("plain", {"spacing": "trailing"}, "spacing leading", {"spacing": "leading"}),
            ("plain", {"steps": 1000}, "fewer steps", {"steps": 999}),
            ("nichol2021", {}, "spacing leading", {"spacing": "leading"}),
            ("lucidrains", {}, "convention plain with fewer steps", {"convention": "plain", "steps": 9})):
        choices = {"convention": name, "steps": 10} | choices
        with pytest.raises(ConfigError, match=f"timesteps=999: has alpha_bar = 0, .*: use {advice}, or a network of v or x0"):
            make_plan(jsd, **choices)
        make_plan(jsd, **(choices | way))
    for objective in ("v", "x0"):
        plan = plan_of("plain", diffusion=DiffusionConfig(schedule="jsd", objective=objective), spacing="trailing", sampler="ddpm")
        assert all(np.isfinite(table).all() for table in coefficients(plan).values())


def test_the_tutorials_sampler_in_its_own_words():
    """T + 1 points of beta, alpha_bar their product from point 0 on, t = T..1, noise at t = 1 too: DDPM algorithm 2 line 4 with
    the arrays at t."""
    T, plan = 6, make_plan(DiffusionConfig(schedule="tutorial", timesteps=6, beta_start=0.05, beta_end=0.4), 6, eta="ddpm",
                           clip="none", final_alpha_bar="start")
    beta = np.linspace(0.05, 0.4, T + 1)
    alpha, alpha_bar = 1 - beta, np.cumprod(1 - beta)
    c, rng = coefficients(plan), np.random.default_rng(0)
    for i, t in enumerate(range(T, 0, -1)):
        x, eps, z = rng.standard_normal((3, 2, 1, 2, 2))
        expected = (x - (1 - alpha[t]) / np.sqrt(1 - alpha_bar[t]) * eps) / np.sqrt(alpha[t]) + np.sqrt(beta[t]) * z
        np.testing.assert_allclose(step(x, eps, i, plan, z, c)[0], expected, rtol=1e-12, err_msg=f"t = {t}")
        assert plan.noise_gate[i] == 1
    small = coefficients(dataclasses.replace(plan, variance="small"))["sigma"][-1]
    assert small**2 == pytest.approx(beta[1] * (1 - alpha_bar[0]) / (1 - alpha_bar[1]), rel=1e-12)
    with pytest.raises(ConfigError, match="final_alpha_bar='start': is the state before t = 0 of the schedule tutorial"):
        plan_of("plain", final_alpha_bar="start")


def test_a_beta_that_float32_tables_lose_is_refused():
    tiny = DiffusionConfig(beta_start=1e-9, beta_end=1e-3)
    for name in ("song2021", "diffusers"):
        with pytest.raises(ConfigError, match="^beta_start, beta_end=.* alpha_bar from 1 to .* in float32"):
            plan_of(name, diffusion=tiny)
    assert plan_of("plain", diffusion=tiny).steps == 10


def test_eta_ddpm_names_the_sampler():
    assert plan_of("plain", eta="ddpm") == plan_of("plain", sampler="ddpm")


def test_what_training_adopts():
    """IDDPM trains on the scaled betas and tells the network t x 1000/T; Ho et al.'s bound has two choices of its own."""
    ours = DiffusionConfig(timesteps=500)
    assert adopt(ours, "plain") == ours and adopt(ours, "song2021") == dataclasses.replace(ours, loss_sum=True)
    assert adopt(ours, "ho2020") == dataclasses.replace(ours, large_variance_first=True, approximate_cdf=True)
    assert adopt(ours, "nichol2021") == dataclasses.replace(ours, beta_scaling=True, rescale_timesteps=True,
                                                            large_variance_first=True, approximate_cdf=True)
    assert adopt(ours, "diffusers") == dataclasses.replace(ours, schedule="linear_float32")
    assert adopt(ours, "lucidrains") == dataclasses.replace(ours, beta_scaling=True, loss_weight="snr")
    assert plan_of("nichol2021", 50, ours).diffusion == adopt(ours, "nichol2021")


@pytest.mark.parametrize("name, order, shift, eps, padding, zeroed, heads", [
    ("ho2020", "sin", 1, 1e-6, 0, True, 1), ("song2021", "sin", 1, 1e-6, 0, False, 1),
    ("nichol2021", "cos", 0, 1e-5, 1, True, 4), ("diffusers", "cos", 0, 1e-5, 1, False, 64 // 8),
])
def test_network_details(name, order, shift, eps, padding, zeroed, heads):
    model = adopt_network(ModelConfig(), name)
    assert (model.flip_sin_to_cos, model.freq_shift, model.norm_eps) == (order == "cos", shift, eps)
    assert model.downsample_padding == padding and model.zero_init == zeroed and model.heads(64) == heads
    assert (model.resnet_time_scale_shift == "scale_shift") == (name == "nichol2021")
    assert model.middle_groups == model.norm_num_groups  # every one of these codes has a norm before the middle attention
    assert adopt_network(model, "plain") == ModelConfig()


def test_diffusers_ddim_previous_step_is_a_ratio():
    """t - 1000 // 10 = t - 100 along 999, 888, .. 0: wrong in all 9 transitions. DDPM takes the next of the list."""
    plan = plan_of("diffusers", 10, spacing="linspace")
    assert plan.timesteps == tuple(range(999, -1, -111))
    assert plan.previous == tuple(t - 100 for t in plan.timesteps[:-1]) + (CLEAN,)
    assert sum(a != b for a, b in zip(plan.previous[:-1], plan.timesteps[1:], strict=True)) == 9
    assert plan_of("diffusers", 10, spacing="linspace", sampler="ddpm").previous == (*plan.timesteps[1:], CLEAN)


@pytest.mark.parametrize("steps, wrong", [(10, 0), (15, 10), (30, 10)])
def test_diffusers_trailing_is_wrong_where_S_does_not_divide_T(steps, wrong):
    """S falls of T // S or one more make up T, so T mod S of them are longer than the ratio: 1000 mod 15 = 1000 mod 30 = 10."""
    plan = plan_of("diffusers", steps, spacing="trailing")
    assert sum(a != b for a, b in zip(plan.previous, (*plan.timesteps[1:], CLEAN), strict=True)) == wrong


@pytest.mark.parametrize("name", sorted({*NAMES} - {"diffusers"}))
def test_previous_step_is_the_next_of_the_list(name):
    for sampler in ("ddim", "ddpm"):
        plan = plan_of(name, 30, sampler=sampler)
        assert plan.previous == (*plan.timesteps[1:], CLEAN)


@pytest.mark.parametrize("name, bits", row("64 64 32 64 32 64").items())
def test_precision_of_the_tables(name, bits):
    alpha_bar = coefficients(plan_of(name))["alpha_bar"]
    assert alpha_bar.dtype == np.float64
    assert (alpha_bar == alpha_bar.astype(np.float32)).all() == (bits == "32")


def test_lucidrains_sigmoid_has_a_float32_end():
    sigmoid = DiffusionConfig(schedule="sigmoid_alpha_bar")
    schedules_of = {name: plan_of(name, diffusion=sigmoid).diffusion.schedule for name in NAMES}
    assert schedules_of == dict.fromkeys(NAMES, "sigmoid_alpha_bar") | {"lucidrains": "sigmoid_alpha_bar_float32"}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_no_noise_on_the_step_from_zero_to_the_clean_image(name, sampler):
    plan = plan_of(name, 100, sampler=sampler, eta=1.0, spacing={"lucidrains": "trailing"}.get(name))
    assert plan.noise_gate == (1,) * (plan.steps - 1) + (0,)


def test_diffusers_ddpm_gates_noise_on_t():
    """Trailing at S = 10 ends at t = 99, not 0, so a last noise of sqrt(1 - ab_99) = 0.32 stays in the image."""
    plan = plan_of("diffusers", 10, spacing="trailing", sampler="ddpm", variance="large")
    assert plan.timesteps[-1] == 99 and plan.noise_gate == (1,) * 10
    c = coefficients(plan)
    assert c["sigma"][-1] == pytest.approx(math.sqrt(1 - c["alpha_bar"][-1]), rel=1e-12)
    assert round(float(c["sigma"][-1]), 2) == 0.32
    for name in ("plain", "lucidrains"):
        assert coefficients(plan_of(name, 10, spacing="trailing", sampler="ddpm", variance="large"))["sigma"][-1] == 0


def test_diffusers_ddim_adds_noise_unless_the_step_ends_at_one():
    """Trailing at S = 15: the last step goes from 66 to 66 - 66 = 0, whose alpha_bar is not 1."""
    plan = plan_of("diffusers", 15, spacing="trailing", eta=1.0)
    assert plan.timesteps[-1] == 66 and plan.previous[-1] == 0 and plan.noise_gate[-1] == 1
    c = coefficients(plan)
    ab, ab_0 = c["alpha_bar"][-1], c["alpha_bar_prev"][-1]
    assert c["sigma"][-1] == pytest.approx(math.sqrt((1 - ab_0) / (1 - ab) * (1 - ab / ab_0)), rel=1e-12)
    kept = plan_of("diffusers", 10, spacing="trailing", eta=1.0, final_alpha_bar="first")
    assert kept.previous[-1] == CLEAN and coefficients(kept)["sigma"][-1] > 9e-3


@pytest.mark.parametrize("name", sorted({*NAMES} - {"ho2020"}))
def test_eta_scales_the_standard_deviation(name):
    one, half = (coefficients(plan_of(name, eta=eta))["sigma"] for eta in (1.0, 0.5))
    np.testing.assert_allclose(half, one / 2, rtol=1e-15)


@pytest.mark.parametrize("eta", [-0.1, 1.1, "hat", float("nan")])
def test_eta_out_of_range(eta):
    with pytest.raises(ConfigError, match=rf"eta={eta!r}: must be in \[0, 1\], sigma_hat or ddpm"):
        plan_of("plain", eta=eta)


@pytest.mark.parametrize("choice", ["sampler", "clip", "variance", "final_alpha_bar", "spacing"])
def test_unknown_choices(choice):
    with pytest.raises(ConfigError, match=f"^{choice}='other': "):
        plan_of("plain", **{choice: "other"})


def test_nichol2021_tells_the_network_t_times_1000_over_T():
    plan = plan_of("nichol2021", 4, DiffusionConfig(timesteps=4000, schedule="cosine"), spacing="leading")
    assert plan.timesteps == (3000, 2000, 1000, 0) and plan.network_t == (750, 500, 250, 0)
    assert plan_of("plain", 4, DiffusionConfig(timesteps=4000, schedule="cosine")).network_t == (3000, 2000, 1000, 0)


def test_nichol2021_encoding_ends_at_pure_eps():
    """The image is taken for a sample at the first timestep, and alpha_bar_next of the last is 0: sqrt(0) x0 + sqrt(1) eps."""
    plan = make_encode_plan(LINEAR, 10, convention="nichol2021")
    assert plan.timesteps[0] == 0 and plan.previous[:2] == plan.timesteps[1:3] and plan.previous[-1] == PURE_NOISE
    assert plan.network_t == plan.timesteps and plan.clip == "clip" and not plan.needs_noise
    c = coefficients(plan)
    x, output = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 1, 1, 4, 4))
    ab = c["alpha_bar"][-1]
    x_prev, x0 = step(x, output, 9, plan, None, c)
    np.testing.assert_allclose(x_prev, (x - np.sqrt(ab) * x0) / np.sqrt(1 - ab), rtol=1e-12)
    unclipped = dataclasses.replace(plan, clip="none")
    np.testing.assert_allclose(step(x, output, 9, unclipped, None, c)[0], output, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["plain", "song2021", "nichol2021", "diffusers"])
def test_encoding_clips_as_it_is_asked_to(name):
    """IDDPM's clip_denoised=False leaves its encoding unclipped; the others clip x0_hat where they are asked to, and keep eps."""
    kinds = {clip: make_encode_plan(LINEAR, 10, convention=name, clip=clip) for clip in ("none", 0.5, None)}
    assert [plan.clip for plan in kinds.values()] == ["none", "clip", "clip" if name in ("nichol2021", "diffusers") else "none"]
    assert kinds[0.5].clip_range == 0.5
    x, eps = np.full((1, 1, 1, 1), 0.9), np.full((1, 1, 1, 1), 0.1)
    for clip, plan in kinds.items():
        c = coefficients(plan)
        ab, to = c["alpha_bar"][5], c["alpha_bar_prev"][5]
        x0 = (0.9 - math.sqrt(1 - ab) * 0.1) / math.sqrt(ab)
        x0 = min(x0, 0.5 if clip == 0.5 else 1.0 if plan.clip == "clip" else math.inf)
        kept = (0.9 - math.sqrt(ab) * x0) / math.sqrt(1 - ab) if name == "nichol2021" else 0.1
        expected = math.sqrt(to) * x0 + math.sqrt(1 - to) * kept
        assert step(x, eps, 5, plan, None, c)[0].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["plain", "song2021", "nichol2021", "diffusers", "lucidrains"])
def test_the_previous_state_is_that_of_the_process_or_of_the_path(name):
    """A network that outputs DDPM equation 7's mean exactly says x0: of t - 1, or in IDDPM's code of the kept step before t."""
    previous = DiffusionConfig(objective="previous")
    plan = plan_of(name, diffusion=previous, clip="none")
    bars = schedules.alpha_bars(schedules.betas(plan.diffusion), plan.float32_tables)
    x0, noise = np.random.default_rng(0).uniform(-1, 1, (2, 1, 1, 4, 4))
    for i, t in enumerate(plan.timesteps):
        before = plan.previous[i] if name == "nichol2021" else t - 1
        ab, of = bars[t], bars[before] if before >= 0 else 1.0
        xt = np.sqrt(ab) * x0 + np.sqrt(1 - ab) * noise
        mean = np.sqrt(of) * (1 - ab / of) / (1 - ab) * x0 + np.sqrt(ab / of) * (1 - of) / (1 - ab) * xt
        c = coefficients(plan)
        got = c["x0_from_x"][i] * xt + c["x0_from_output"][i] * mean
        np.testing.assert_allclose(got, x0, rtol=0, atol=1e-9, err_msg=f"t = {t}")
        np.testing.assert_allclose(c["eps_from_x"][i] * xt + c["eps_from_output"][i] * mean + c["eps_from_x0"][i] * x0, noise,
                                   rtol=0, atol=1e-9)


def test_ddpm_of_nichol2021_takes_the_output_for_the_mean():
    """With PREVIOUS_X its model mean is the output, whatever the clipped x0_hat is; a clip that is asked for is honoured."""
    previous = DiffusionConfig(objective="previous")
    plan = plan_of("nichol2021", diffusion=previous, sampler="ddpm")
    x, output = 3 * np.random.default_rng(0).standard_normal((2, 1, 1, 4, 4))
    for i in (0, 5, 9):
        np.testing.assert_allclose(step(x, output, i, plan, None, coefficients(plan))[0], output, rtol=0, atol=1e-12)
    assert plan.clip == "none" and plan_of("nichol2021", diffusion=previous, sampler="ddpm", clip=1).clip == "clip"
    assert plan_of("nichol2021", sampler="ddpm").clip == plan_of("nichol2021", diffusion=previous).clip == "clip"
    encode = make_encode_plan(previous, 10, convention="nichol2021")
    assert encode.predicts == (CLEAN, *encode.timesteps[:-1])
    with pytest.raises(ConfigError, match="objective='previous': a clean image"):
        make_encode_plan(previous, 10)


@pytest.mark.parametrize("name", NAMES)
def test_given_betas_stay_what_they_are(name):
    """1000/T and float32 variants are of the schedule, whose place they take."""
    given = DiffusionConfig(timesteps=50, trained_betas=tuple(np.linspace(1e-3, 0.2, 50).tolist()))
    adopted = adopt(given, name)
    assert (adopted.schedule, adopted.beta_scaling, adopted.trained_betas) == ("linear", False, given.trained_betas)


def test_song2021_trains_on_the_sum_over_pixels():
    assert [name for name in NAMES if adopt(LINEAR, name).loss_sum] == ["song2021"]
    assert not adopt(DiffusionConfig(loss="kl"), "song2021").loss_sum
    assert adopt(DiffusionConfig(loss="kl", objective="v"), "lucidrains").loss_weight == "none"


def test_diffusers_encoding_tells_the_network_the_destination():
    plan = make_encode_plan(LINEAR, 15, convention="diffusers", spacing="trailing")
    assert plan.previous[:3] == (66, 132, 199) and plan.network_t[:3] == (66, 132, 199)
    assert plan.timesteps[:3] == (0, 66, 133) and plan.clip == "clip"


@pytest.mark.parametrize("name", ["plain", "song2021", "lucidrains"])
def test_encoding_retraces_the_decoding_path(name):
    encode, decode = make_encode_plan(LINEAR, 10, convention=name), plan_of(name)
    assert encode.timesteps == decode.previous[::-1] and encode.previous == decode.timesteps[::-1]
    assert encode.timesteps[0] == CLEAN and encode.network_t == (decode.timesteps[-1], *decode.timesteps[:0:-1])
    assert encode.clip == "none" and not encode.rederive_eps


def test_encoding_needs_an_eps():
    with pytest.raises(ConfigError, match="objective='x0': a clean image and its x0 prediction leave eps undefined"):
        make_encode_plan(DiffusionConfig(objective="x0"), 10)


def test_plans_are_hashable_and_equal_by_value():
    assert plan_of("plain") == plan_of("plain") and len({plan_of("plain"), plan_of("plain"), plan_of("plain", eta=0.5)}) == 2


def test_a_plan_is_cut_by_steps():
    """Two parts are the whole path; a part without steps is refused."""
    plan = make_plan(DiffusionConfig(timesteps=100), 10, eta=1.0)
    first, second = plan.cut(0, 4), plan.cut(4, 10)
    for name in ("timesteps", "previous", "network_t", "noise_gate", "predicts"):
        assert getattr(first, name) + getattr(second, name) == getattr(plan, name)
    assert first.steps == 4 and plan.cut(0, 10) == plan
    for start, stop in ((3, 3), (-1, 2), (0, 11)):
        with pytest.raises(ConfigError, match="start, stop="):
            plan.cut(start, stop)
