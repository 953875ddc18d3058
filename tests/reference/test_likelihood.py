"""The whole bound: closed forms for Gaussian data, exact, and what improved-diffusion's own loop gives.

`python -m tests.reference.test_likelihood FOLDER` runs `calc_bpd_loop` of improved-diffusion, a copy of which is in FOLDER, and
prints `ITS_OWN`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from bench import streams
from reference import likelihood, schedules, unet, weights
from reference.config import DiffusionConfig, ModelConfig
from reference.conventions import adopt
from reference.respacing import respaced

NODES, SHARES = np.polynomial.hermite_e.hermegauss(4)  # exact for polynomials of degree 7: a KL term is one of degree 2
SHARES = SHARES / SHARES.sum()
DATA, NOISE = (grid.reshape(-1, 1, 1, 1) for grid in np.meshgrid(NODES, NODES))
CHANCE = np.outer(SHARES, SHARES).ravel()
LINEAR, COSINE = DiffusionConfig(), DiffusionConfig(schedule="cosine", timesteps=200)


def path(config: DiffusionConfig, S: int) -> DiffusionConfig:
    return config if config.timesteps == S else respaced(config, S, spacing="linspace", convention="plain")


def expected(config: DiffusionConfig, sd: float, mean: float = 0.0) -> tuple[float, np.ndarray]:
    """(prior, terms (T,)), bits, expected over x_0 ~ N(mean, sd^2) and noise, under the best denoiser of eps, which is linear."""
    told_at = list(config.told_timesteps or range(config.timesteps))
    bars = schedules.alpha_bars(schedules.betas(config))

    def network(xt: np.ndarray, told: np.ndarray) -> np.ndarray:
        ab = bars[told_at.index(told[0])]
        x0_hat = mean + np.sqrt(ab) * sd**2 / (ab * sd**2 + 1 - ab) * (xt - np.sqrt(ab) * mean)
        return (xt - np.sqrt(ab) * x0_hat) / np.sqrt(1 - ab)

    prior, terms = likelihood.bound(config, network, mean + sd * DATA, lambda i: NOISE)
    return float(CHANCE @ prior), CHANCE @ terms


@pytest.mark.parametrize("config", [LINEAR, COSINE], ids=["linear", "cosine"])
@pytest.mark.parametrize("S", [2, 10, None])
def test_unit_gaussian_data_has_a_tight_bound(config, S):
    """x_0 ~ N(0, 1) stays N(0, 1), and the reverse step is Gaussian with variance beta_t, the large one.

    So the prior is what x_T says of x_0, term t what x_{t-1} says of it beyond x_t, and all add up to what x_1 says, -1/2 log2
    beta_1, whatever the number of steps.
    """
    process = replace(path(config, S or config.timesteps), variance="large")
    prior, terms = expected(process, 1.0)
    bars = schedules.alpha_bars(schedules.betas(process))
    information = -0.5 * np.log2(1 - bars)  # of x_t about x_0
    assert prior == pytest.approx(information[-1], rel=1e-10)
    np.testing.assert_allclose(terms[1:], information[:-1] - information[1:], rtol=1e-10, atol=1e-12)
    assert prior + terms[1:].sum() == pytest.approx(-0.5 * np.log2(schedules.betas(process)[0]), rel=1e-10)


@pytest.mark.parametrize("sd", [0.3, 2.0])
@pytest.mark.parametrize("variance", ["small", "large"])
def test_other_gaussian_data_under_a_fixed_variance(sd, variance):
    """Term t is 1/2 log2(V/v) + (v/V - 1 + c^2 Var(x_0 | x_t) / V) / (2 log 2), with v beta_tilde, V the fixed one, c the weight of
    x_0 in the posterior's mean; Var(x_0 | x_t) = sd^2 (1 - ab) / (ab sd^2 + 1 - ab)."""
    process = replace(path(COSINE, 20), variance=variance)
    prior, terms = expected(process, sd, mean=0.2)
    s = schedules.Schedule.from_config(process)
    left = sd**2 * (1 - s.alpha_bars) / (s.alpha_bars * sd**2 + 1 - s.alpha_bars)
    v, fixed = s.posterior_variance[1:], (s.posterior_variance if variance == "small" else s.betas)[1:]
    closed = np.log2(fixed / v) / 2 + (v / fixed - 1 + (s.posterior_mean_x0**2 * left)[1:] / fixed) / (2 * np.log(2))
    np.testing.assert_allclose(terms[1:], closed, rtol=1e-10)
    ab = s.alpha_bars[-1]
    assert prior == pytest.approx((1 - ab - 1 - np.log(1 - ab) + ab * (sd**2 + 0.2**2)) / (2 * np.log(2)), rel=1e-10)


def test_a_known_image_has_no_kl_under_the_small_variance():
    """Of one image alone the reverse step is the posterior itself."""
    _, terms = expected(replace(COSINE, variance="small"), 0.0, mean=0.2)
    assert np.abs(terms[1:]).max() < 1e-10
    _, wider = expected(replace(COSINE, variance="large"), 0.0, mean=0.2)
    assert wider[1] > 0.2 and wider[1:].min() > 0


def test_columns_that_are_asked_for():
    net, x0 = (lambda x, t: 0.5 * x), np.full((2, 1, 2, 2), 0.1)
    whole = likelihood.bound(COSINE, net, x0, lambda i: np.full_like(x0, i / 200))[1]
    some = likelihood.bound(COSINE, net, x0, lambda i: np.full_like(x0, i / 200), steps=[0, 7, 199])[1]
    np.testing.assert_array_equal(some, whole[:, [0, 7, 199]])


MODEL = ModelConfig(sample_size=8, block_out_channels=(8, 16), norm_num_groups=4, zero_init=False,
                    down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"))
T, SHORT = 40, 8
SHOWN = [0, 1, 4, 7]  # columns of the terms that are kept
ITS_OWN: dict[str, dict[str, list[float]]] = {  # at commit 1bc7bbb, 12 digits; terms of the first image
    "small linear 40": {"prior": [1.19128662227e-06, 1.0416117557e-06], "total": [40.703249779, 42.2465990807],
        "terms": [5.49621523731, 6.2331412815, 0.682701709486, 0.612466697316]},
    "small linear 8 clip": {"prior": [1.19128662227e-06, 1.0416117557e-06], "total": [80.814224536, 91.9018164728],
        "terms": [5.37612566333, 73.7432255053, 0.0785478398424, 0.00017568707962]},
    "small cosine 8": {"prior": [4.28455705011e-07, 3.7462376354e-07], "total": [62903.7920079, 48939.3876191],
        "terms": [5.39474379579, 33.9816529053, 1.49146192064, 62850.3835009]},
    "large linear 40": {"prior": [1.19128662227e-06, 1.0416117557e-06], "total": [33.2211729064, 34.855919357],
        "terms": [5.49621523731, 1.67253093453, 0.496992804237, 0.501640676679]},
    "large linear 8 clip": {"prior": [1.19128662227e-06, 1.0416117557e-06], "total": [9.85021775676, 9.64534821221],
        "terms": [5.37612566333, 3.34492429704, 0.0745804558519, 0.000175667007807]},
    "large cosine 8": {"prior": [4.28455705011e-07, 3.7462376354e-07], "total": [59495.397982, 46274.4352048],
        "terms": [5.39474379579, 2.86584762169, 1.07207798127, 59477.9713517]},
    "learned linear 40": {"prior": [1.19128662227e-06, 1.0416117557e-06], "total": [49.4352865313, 49.9538391987],
        "terms": [8.40597195475, 3.73904219867, 1.82814271785, 1.26433705991]},
    "learned linear 8 clip": {"prior": [1.19128662227e-06, 1.0416117557e-06], "total": [14.8489746009, 14.5394434376],
        "terms": [8.40594383421, 3.84129716714, 0.18622930916, 0.308615814337]},
    "learned cosine 8": {"prior": [4.28455705011e-07, 3.7462376354e-07], "total": [110090.684815, 48093.0475507],
        "terms": [8.40591505694, 3.74934256473, 0.911244598674, 110069.586741]},
    "learned_range linear 40": {"prior": [1.19128662227e-06, 1.0416117557e-06], "total": [34.0827271297, 36.7864743143],
        "terms": [5.38087457269, 2.66427967468, 0.538036135322, 0.5123741958]},
    "learned_range linear 8 clip": {"prior": [1.19128662227e-06, 1.0416117557e-06], "total": [22.871115572, 34.3024610607],
        "terms": [5.32787074388, 16.2100245818, 0.0753208921551, 0.000175675641271]},
    "learned_range cosine 8": {"prior": [4.28455705011e-07, 3.7462376354e-07], "total": [59257.0943306, 45892.8916859],
        "terms": [5.33881620564, 8.54883013825, 1.21158943651, 59232.4163694]},
}


def inputs(case: str) -> tuple[DiffusionConfig, Callable[[np.ndarray, np.ndarray], np.ndarray], np.ndarray, bool]:
    """Process, network, images (2, 1, 8, 8) of 8-bit pixels and whether x0_hat is clipped, of a case "VARIANCE SCHEDULE S clip"."""
    variance, schedule, steps, *clip = case.split()
    config = adopt(DiffusionConfig(timesteps=T, schedule=schedule, variance=variance), "nichol2021")
    model = replace(MODEL, out_channels=2 if config.learned_variance else 1)
    w = weights.initialise(model, 0)
    x0 = streams.uniform_int(0, "check", np.arange(128), 256).reshape(2, 1, 8, 8) / 127.5 - 1
    process = config if int(steps) == T else respaced(config, int(steps))
    return process, lambda x, told: unet.forward(w, model, x, told), x0, bool(clip)


def step_noise(i: int) -> np.ndarray:
    return streams.normal(0, "noise", np.arange(2), (1, 8, 8), step=i).astype(np.float64)


CASES = [f"{variance} {schedule} {S}{clip}" for variance in ("small", "large", "learned", "learned_range")
         for schedule, S, clip in (("linear", T, ""), ("linear", SHORT, " clip"), ("cosine", SHORT, ""))]


@pytest.mark.parametrize("case", CASES)
def test_improved_diffusion_gives_the_same(case):
    process, network, x0, clip = inputs(case)
    prior, terms = likelihood.bound(process, network, x0, step_noise, clip)
    own = ITS_OWN[case]
    np.testing.assert_allclose(prior, own["prior"], rtol=1e-9)
    np.testing.assert_allclose(prior + terms.sum(1), own["total"], rtol=1e-9)
    np.testing.assert_allclose(terms[0, SHOWN], own["terms"], rtol=1e-9)


def run_its_loop(case: str) -> dict[str, list[float]]:
    """`calc_bpd_loop` in float64, whose tables the code rounds to float32 as it looks them up: here they stay as they are."""
    import torch
    from improved_diffusion import gaussian_diffusion as own  # type: ignore[import-not-found]
    from improved_diffusion.respace import SpacedDiffusion, space_timesteps  # type: ignore[import-not-found]

    def look_up(table: np.ndarray, t: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.from_numpy(table)[t].reshape(-1, 1, 1, 1).expand(shape)

    own._extract_into_tensor = look_up
    variance, schedule, steps, *_ = case.split()
    _, network, x0, clip = inputs(case)
    kinds = {"small": "FIXED_SMALL", "large": "FIXED_LARGE", "learned": "LEARNED", "learned_range": "LEARNED_RANGE"}
    process = SpacedDiffusion(
        space_timesteps(T, steps), betas=own.get_named_beta_schedule(schedule, T), rescale_timesteps=True,
        model_mean_type=own.ModelMeanType.EPSILON, model_var_type=own.ModelVarType[kinds[variance]], loss_type=own.LossType.MSE)
    left = list(range(int(steps)))  # the loop goes from the last step to the first
    own.th.randn_like = lambda x: torch.from_numpy(step_noise(left.pop()))
    found = process.calc_bpd_loop(lambda x, t: torch.from_numpy(network(x.numpy(), t.numpy().astype(np.float64))),
                                  torch.from_numpy(x0), clip_denoised=clip)
    terms = found["vb"][0].flip(0)[SHOWN]
    return {"prior": found["prior_bpd"].tolist(), "total": found["total_bpd"].tolist(), "terms": terms.tolist()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.reference.test_likelihood", description=run_its_loop.__doc__)
    parser.add_argument("folder", help="of improved-diffusion's clone; what its loop gives is printed")
    sys.path.insert(0, parser.parse_args().folder)
    for case in CASES:
        rounded = {name: [float(f"{x:.12g}") for x in values] for name, values in run_its_loop(case).items()}
        print(f"    {case!r}: {rounded},")
