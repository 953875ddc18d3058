"""Forward process, predictions, posterior and losses against closed forms and hand-derived values."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from reference import diffusion, schedules
from reference.config import DiffusionConfig
from reference.schedules import Schedule

from .strategies import LAW, SEED, diffusions

EPS = np.finfo(np.float64).eps
TWO = np.array([0.25, 0.5])  # betas of the hand-worked examples: alpha_bar = 3/4, 3/8
TWO_STEPS = DiffusionConfig(timesteps=2, beta_start=0.25, beta_end=0.5)


def image(*values: float) -> np.ndarray:
    return np.array(values).reshape(1, 1, 1, -1)


@LAW
@given(st.data(), diffusions(objectives=("eps",)), st.floats(-1e3, 1e3), st.floats(-1e3, 1e3))
def test_q_sample_then_the_exact_eps_recovers_x0(data, config, x0, eps):
    alpha_bars = schedules.alpha_bars(schedules.betas(config))
    t = np.array([data.draw(st.integers(0, config.timesteps - 1))])
    ab = alpha_bars[t[0]]
    xt = diffusion.q_sample(image(x0), t, image(eps), alpha_bars)
    back = diffusion.x0_from_eps(xt, t, image(eps), alpha_bars)
    bound = 16 * EPS * (abs(xt.item()) + math.sqrt(1 - ab) * abs(eps)) / math.sqrt(ab) + 1e-300  # subnormals
    assert abs(back.item() - x0) <= bound


@LAW
@given(st.data(), diffusions(), SEED)
def test_eps_x0_and_v_say_the_same(data, config, seed):
    alpha_bars = schedules.alpha_bars(schedules.betas(config))
    t = np.array(data.draw(st.lists(st.integers(0, config.timesteps - 1), min_size=3, max_size=3)))
    x0, eps = np.random.default_rng(seed).standard_normal((2, 3, 2, 4, 4))
    xt = diffusion.q_sample(x0, t, eps, alpha_bars)
    v = diffusion.v_from_x0_eps(x0, t, eps, alpha_bars)
    close = {"rtol": 0, "atol": 64 * EPS}
    np.testing.assert_allclose(diffusion.x0_from_v(xt, t, v, alpha_bars), x0, **close)
    np.testing.assert_allclose(diffusion.eps_from_v(xt, t, v, alpha_bars), eps, **close)
    np.testing.assert_allclose(diffusion.eps_from_x0(xt, t, x0, alpha_bars), eps, rtol=0,
                               atol=64 * EPS / math.sqrt(1 - alpha_bars[t].max()))
    target = diffusion.target(config, x0, t, eps, alpha_bars)
    np.testing.assert_array_equal(target, {"eps": eps, "x0": x0, "v": v}[config.objective])
    assume(alpha_bars[t].min() > 1e-12 or config.objective != "eps")
    scale = math.sqrt(alpha_bars[t].min()) if config.objective == "eps" else 1
    np.testing.assert_allclose(diffusion.x0_from_output(config, xt, t, target, alpha_bars), x0, rtol=0, atol=64 * EPS / scale)


@LAW
@given(st.data(), diffusions(objectives=("previous",), max_timesteps=300), SEED)
def test_the_previous_state_says_x0(data, config, seed):
    """Its target is DDPM equation 7, and what a network means by it is the x0 there. At t = 0 the state before is x0 itself."""
    s = Schedule.from_config(config)
    t = np.array([0, *data.draw(st.lists(st.integers(0, config.timesteps - 1), min_size=2, max_size=2))])
    x0, eps = np.random.default_rng(seed).standard_normal((2, 3, 1, 2, 2))
    xt, target = diffusion.q_sample(x0, t, eps, s.alpha_bars), diffusion.target(config, x0, t, eps, s.alpha_bars)
    for n, i in enumerate(t):
        mean = s.posterior_mean_x0[i] * x0[n] + s.posterior_mean_xt[i] * xt[n]
        np.testing.assert_allclose(target[n], mean, rtol=0, atol=1e-14)
    np.testing.assert_allclose(target[0], x0[0], rtol=0, atol=64 * EPS / (1 - s.alpha_bars[0]))
    lost = 64 * EPS / s.posterior_mean_x0[t].min()
    np.testing.assert_allclose(diffusion.x0_from_output(config, xt, t, target, s.alpha_bars), x0, rtol=0, atol=lost)
    bound = diffusion.vlb_terms(config, x0, xt, t, target, None, s)
    variance = replace(config, variance="small")
    np.testing.assert_allclose(diffusion.vlb_terms(variance, x0, xt, t, target, None, s)[t > 0], 0, atol=1e-12)
    assert np.isfinite(bound).all()


@LAW
@given(diffusions(objectives=("v",)), SEED)
def test_v_rotates(config, seed):
    """(x_t, v) is (x_0, eps) turned by an angle, so it keeps the length."""
    alpha_bars = schedules.alpha_bars(schedules.betas(config))
    t = np.array([config.timesteps - 1])
    x0, eps = np.random.default_rng(seed).standard_normal((2, 1, 1, 2, 2))
    xt, v = diffusion.q_sample(x0, t, eps, alpha_bars), diffusion.v_from_x0_eps(x0, t, eps, alpha_bars)
    np.testing.assert_allclose(xt**2 + v**2, x0**2 + eps**2, rtol=1e-13)


def test_forward_process_by_hand():
    """ab = 3/8 at t = 1: x_t = sqrt(3/8) 0.5 + sqrt(5/8) (-1), v = -sqrt(3/8) - sqrt(5/8) 0.5."""
    ab, t = np.cumprod(1 - TWO), np.array([1])
    assert diffusion.q_sample(image(0.5), t, image(-1), ab).item() == pytest.approx(0.5 * math.sqrt(3 / 8) - math.sqrt(5 / 8))
    assert diffusion.v_from_x0_eps(image(0.5), t, image(-1), ab).item() == pytest.approx(-math.sqrt(3 / 8) - 0.5 * math.sqrt(5 / 8))


def test_posterior_mean_by_hand():
    """mu = sqrt(3/4) (1/2) / (5/8) x0 + sqrt(1/2) (1/4) / (5/8) x_t."""
    s = Schedule.from_betas(TWO)
    mean = diffusion.posterior_mean(image(1.0, 0.0), image(0.0, 1.0), np.array([1]), s)
    np.testing.assert_allclose(mean.ravel(), [0.8 * math.sqrt(3 / 4), 0.4 * math.sqrt(1 / 2)], rtol=1e-14)


def test_normal_kl_by_hand():
    """KL(N(1, 1) || N(0, 4)) = ln 2 + (1 + 1) / 8 - 1/2."""
    kl = diffusion.normal_kl(image(1), image(0), image(0), image(math.log(4)))
    assert kl.item() == pytest.approx(math.log(2) + 2 / 8 - 1 / 2)
    assert diffusion.normal_kl(image(0.3), image(-1), image(0.3), image(-1)).item() == 0


@LAW
@given(st.floats(-1.5, 1.5), st.floats(-6, 1))
def test_256_bins_of_the_decoder_have_probability_one(mean, log_scale):
    bins = np.arange(256).reshape(256, 1, 1, 1) / 127.5 - 1
    probability = np.exp(-diffusion.discretised_nll(bins, np.array(mean), np.array(log_scale)))
    assert probability.sum() == pytest.approx(1, abs=256 * 1e-12 + 1e-12)


def test_decoder_by_hand():
    """Scale 1/255 around mean 0: the bin of the pixel at 1/255 is [0, 2/255], so Phi(2) - Phi(0); the last bin is open."""
    nll = diffusion.discretised_nll(image(1 / 255, 1.0), np.array(0.0), np.array(-math.log(255)))
    assert nll.ravel()[0] == pytest.approx(-math.log(0.5 * math.erf(2 / math.sqrt(2))))
    assert diffusion.discretised_nll(image(1.0), np.array(2.0), np.array(-3.0)).item() == pytest.approx(0, abs=1e-12)
    assert diffusion.discretised_nll(image(-1.0), np.array(-2.0), np.array(-3.0)).item() == pytest.approx(0, abs=1e-12)
    assert nll.ravel()[1] == pytest.approx(-math.log(1e-12))  # floored, not infinite


def test_approximate_distribution_function():
    """Page 1977's tanh formula: half at 0, point-symmetric, 1.8e-4 off at worst, near |x| = 2.0 and 0.6 of either sign."""
    x = np.linspace(-6, 6, 2401)
    exact = np.array([0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x])
    approximate = diffusion.approximate_cdf(x)
    np.testing.assert_allclose(approximate + approximate[::-1], 1, rtol=1e-14)
    assert np.abs(approximate - exact).max() == pytest.approx(1.8e-4, rel=0.05)
    at_one = 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * 1.044715))
    assert diffusion.approximate_cdf(np.array(1.0)) == pytest.approx(at_one, rel=1e-14)


def test_large_variance_first_by_hand():
    """beta_tilde_1 = 1/5 takes the place of beta_0 = 1/4, at t = 0 alone."""
    config = DiffusionConfig(timesteps=2, beta_start=0.25, beta_end=0.5, large_variance_first=True)
    t = np.array([0, 1])
    got = np.exp(diffusion.model_log_variance(config, np.zeros((2, 1, 1, 1)), t, Schedule.from_betas(TWO))).ravel()
    np.testing.assert_allclose(got, [0.2, 0.5], rtol=1e-14)


def test_vlb_terms_by_hand():
    """x0 = 0.5, eps = -1, network says eps = 0. At t = 1 (beta = 1/2, beta_tilde = 1/5, ab = 3/8):
    x0_hat = x_1 / sqrt(3/8); means differ by c (x0_hat - x0), c = 0.8 sqrt(3/4); KL in bits follows. At t = 0 (beta = 1/4,
    ab = 3/4) the mean is x0_hat and the deviation sqrt(1/4) for the large variance, sqrt(1/5) for the small one, which takes
    beta_tilde of t = 1: -log2 of the bin's probability."""
    s = Schedule.from_betas(TWO)
    x0, noise, zero = image(0.5), image(-1.0), image(0.0)

    def term(variance: str, t: int) -> float:
        at = np.array([t])
        xt = diffusion.q_sample(x0, at, noise, s.alpha_bars)
        config = DiffusionConfig(timesteps=2, beta_start=0.25, beta_end=0.5, variance=variance)
        return diffusion.vlb_terms(config, x0, xt, at, zero, zero, s).item()

    def phi(x: float) -> float:
        return 0.5 * (1 + math.erf(x / math.sqrt(2)))

    x0_hat = (math.sqrt(3 / 8) * 0.5 - math.sqrt(5 / 8)) / math.sqrt(3 / 8)
    gap = (0.8 * math.sqrt(3 / 4) * (x0_hat - 0.5)) ** 2
    assert term("small", 1) == pytest.approx(0.5 * gap / 0.2 / math.log(2))
    assert term("large", 1) == pytest.approx(0.5 * (math.log(0.5 / 0.2) - 1 + 0.2 / 0.5 + gap / 0.5) / math.log(2))
    # learned range with v = 0: the geometric mean of beta_tilde and beta; learned with 0: variance 1.
    middle = math.sqrt(0.2 * 0.5)
    assert term("learned_range", 1) == pytest.approx(0.5 * (math.log(middle / 0.2) - 1 + 0.2 / middle + gap / middle) / math.log(2))
    assert term("learned", 1) == pytest.approx(0.5 * (math.log(1 / 0.2) - 1 + 0.2 + gap) / math.log(2))
    decoded = (math.sqrt(3 / 4) * 0.5 - 0.5) / math.sqrt(3 / 4)
    for variance, std in (("large", math.sqrt(0.25)), ("small", math.sqrt(0.2))):
        bin_ = phi((0.5 - decoded + 1 / 255) / std) - phi((0.5 - decoded - 1 / 255) / std)
        assert term(variance, 0) == pytest.approx(-math.log2(bin_), rel=1e-12)


def test_bits_per_dimension_of_a_perfect_network_by_hand():
    """The exact eps and the small variance cost nothing for t > 0. The bound is then the decoder's bin at t = 0, where the model's
    mean is x0 and its variance beta_tilde_1 = 1/5, and the prior's KL(N(sqrt(3/8) x0, 5/8) || N(0, 1))."""
    s = Schedule.from_betas(TWO)
    x0 = image(0.5, -0.25)
    noise = image(1.0, 2.0)
    config = DiffusionConfig(timesteps=2, beta_start=0.25, beta_end=0.5, variance="small")
    terms = [diffusion.vlb_terms(config, x0, diffusion.q_sample(x0, np.array([t]), noise, s.alpha_bars), np.array([t]), noise,
                                 noise, s).item() for t in (0, 1)]
    assert terms[1] == pytest.approx(0, abs=1e-15)
    assert terms[0] == pytest.approx(-math.log2(math.erf(1 / 255 / math.sqrt(0.2) / math.sqrt(2))))
    prior = np.mean([0.5 * (-1 - math.log(5 / 8) + 5 / 8 + 3 / 8 * x * x) for x in (0.5, -0.25)]) / math.log(2)
    assert diffusion.prior_bits(x0, s).item() == pytest.approx(prior)


def test_vlb_clips_x0_when_asked():
    s, t, xt = Schedule.from_betas(TWO), np.array([1]), image(3.0)
    config = DiffusionConfig(timesteps=2, beta_start=0.25, beta_end=0.5, variance="small")
    clipped = diffusion.vlb_terms(config, image(1.0), xt, t, image(0.0), image(0.0), s, clip=True).item()
    assert clipped == pytest.approx(0, abs=1e-15)  # x0_hat = 3 / sqrt(3/8) clips to the true 1
    assert diffusion.vlb_terms(config, image(1.0), xt, t, image(0.0), image(0.0), s).item() > 1


def test_loss_by_hand():
    """Errors (1, -3) and (0, 2) against eps: mean of squares per image 5 and 2, of sizes 2 and 1."""
    noise = np.array([[0.5, -0.5], [1.0, 2.0]]).reshape(2, 1, 1, 2)
    output = noise + np.array([[1.0, -3.0], [0.0, 2.0]]).reshape(2, 1, 1, 2)
    x0, t = np.zeros_like(noise), np.array([0, 1])
    assert diffusion.loss(TWO_STEPS, x0, t, noise, output) == pytest.approx(3.5)
    l1 = DiffusionConfig(timesteps=2, beta_start=0.25, beta_end=0.5, loss="l1")
    assert diffusion.loss(l1, x0, t, noise, output) == pytest.approx(1.5)
    # Huber, (1/2, 3 - 1/2) and (0, 2 - 1/2): per image 1.5 and 0.75.
    huber = DiffusionConfig(timesteps=2, beta_start=0.25, beta_end=0.5, loss="huber")
    assert diffusion.loss(huber, x0, t, noise, output) == pytest.approx(1.125)
    # p2 with k = 2, gamma = 1/2: SNR = 3 at t = 0 and 3/5 at t = 1, weights 5^-1/2 and 2.6^-1/2.
    p2 = DiffusionConfig(timesteps=2, beta_start=0.25, beta_end=0.5, loss_weight="p2", p2_k=2.0, p2_gamma=0.5)
    assert diffusion.loss(p2, x0, t, noise, output) == pytest.approx((5 / math.sqrt(5) + 2 / math.sqrt(2.6)) / 2)
    # min-SNR with gamma = 1: min(3, 1) / 3 at t = 0, 1 at t = 1.
    min_snr = DiffusionConfig(timesteps=2, beta_start=0.25, beta_end=0.5, loss_weight="min_snr", min_snr_gamma=1.0)
    assert diffusion.loss(min_snr, x0, t, noise, output) == pytest.approx((5 / 3 + 2) / 2)


@pytest.mark.parametrize("objective, weights", [("x0", [5, 3, 0.25]), ("eps", [5 / 9, 1, 1]), ("v", [5 / 10, 3 / 4, 0.2])])
def test_min_snr_weights_by_hand(objective, weights):
    """SNR = 9, 3, 1/4 and gamma = 5."""
    config = DiffusionConfig(objective=objective, loss_weight="min_snr")
    np.testing.assert_allclose(diffusion.loss_weights(config, np.array([0.9, 0.75, 0.2])), weights, rtol=1e-12)


@pytest.mark.parametrize("objective, as_eps", [("x0", [9, 3, 1 / 4]), ("eps", [1, 1, 1]), ("v", [9 / 10, 3 / 4, 1 / 5])])
def test_snr_and_p2_weights_by_hand(objective, as_eps):
    """SNR = 9, 3, 1/4; p2 with k = 1 and gamma = 1 divides the eps loss by 10, 4, 5/4."""
    for weight, divided in (("snr", [1, 1, 1]), ("p2", [10, 4, 1.25])):
        config = DiffusionConfig(objective=objective, loss_weight=weight)
        found = diffusion.loss_weights(config, np.array([0.9, 0.75, 0.2]))
        np.testing.assert_allclose(found, np.divide(as_eps, divided), rtol=1e-12)


@pytest.mark.parametrize("weight", ["snr", "p2", "min_snr"])
@LAW
@given(st.data(), st.integers(2, 500), SEED)
def test_a_weighted_loss_is_the_same_for_every_objective(weight, data, T, seed):
    """The eps loss is SNR times the x0 loss, the v loss SNR + 1 times and that of the previous state by its x0's weight squared, so
    the weighted losses of one prediction agree."""
    t = np.array([data.draw(st.integers(0, T - 1))])
    x0, noise, x0_hat = np.random.default_rng(seed).standard_normal((3, 1, 1, 4, 4))
    losses = []
    for objective in ("eps", "x0", "v", "previous"):
        config = DiffusionConfig(timesteps=T, objective=objective, loss_weight=weight)
        ab = schedules.alpha_bars(schedules.betas(config))
        eps_hat = diffusion.eps_from_x0(diffusion.q_sample(x0, t, noise, ab), t, x0_hat, ab)
        losses.append(diffusion.loss(config, x0, t, noise, diffusion.target(config, x0_hat, t, eps_hat, ab)))
    assert losses == pytest.approx([losses[1]] * 4, rel=1e-9)


@pytest.mark.parametrize("variance", ["learned", "learned_range"])
def test_hybrid_loss_is_simple_plus_a_thousandth_of_the_bound(variance):
    """IDDPM equation 16 with lambda = 1/1000 and L_vlb = T times the mean term; T = 2 here."""
    config = DiffusionConfig(timesteps=2, beta_start=0.25, beta_end=0.5, variance=variance)
    rng = np.random.default_rng(0)
    x0, noise, mean, v = rng.uniform(-1, 1, (4, 3, 2, 4, 4))
    t = np.array([0, 1, 1])
    s = Schedule.from_betas(TWO)
    xt = diffusion.q_sample(x0, t, noise, s.alpha_bars)
    vlb = diffusion.vlb_terms(config, x0, xt, t, mean, v, s)
    expected = ((mean - noise) ** 2).mean() + 2 / 1000 * vlb.mean()
    assert diffusion.loss(config, x0, t, noise, np.concatenate((mean, v), axis=1)) == pytest.approx(expected, rel=1e-13)
    assert vlb.shape == (3,)


def test_losses_of_the_bound_and_sums_by_hand():
    """kl is the mean term and rescaled_kl T of them, with fixed variances too. Unscaled, the hybrid loss has the term as it is.
    A sum over 2 x 4 x 4 pixels is 32 means."""
    config = DiffusionConfig(timesteps=2, beta_start=0.25, beta_end=0.5, variance="learned_range")
    x0, noise, mean, v = np.random.default_rng(0).uniform(-1, 1, (4, 3, 2, 4, 4))
    t, output, s = np.array([0, 1, 1]), np.concatenate((mean, v), axis=1), Schedule.from_betas(TWO)
    xt = diffusion.q_sample(x0, t, noise, s.alpha_bars)
    bound, simple = diffusion.vlb_terms(config, x0, xt, t, mean, v, s).mean(), ((mean - noise) ** 2).mean()
    for changes, expected in (({"loss": "kl"}, bound), ({"loss": "rescaled_kl"}, 2 * bound),
                              ({"rescale_bound": False}, simple + bound), ({"loss_sum": True}, 32 * simple + 2 / 1000 * bound)):
        assert diffusion.loss(replace(config, **changes), x0, t, noise, output) == pytest.approx(expected, rel=1e-13), changes
    fixed = replace(config, variance="large")
    term = diffusion.vlb_terms(fixed, x0, xt, t, mean, None, s).mean()
    assert diffusion.loss(replace(fixed, loss="kl"), x0, t, noise, mean) == pytest.approx(term, rel=1e-13)


def test_the_loss_weight_is_not_the_bounds():
    """With a learned variance the weight multiplies the simple loss alone."""
    plain = DiffusionConfig(timesteps=2, beta_start=0.25, beta_end=0.5, variance="learned_range", objective="x0")
    weighted = replace(plain, loss_weight="snr")
    x0, noise, mean, v = np.random.default_rng(1).uniform(-1, 1, (4, 2, 2, 4, 4))
    t, output = np.array([0, 1]), np.concatenate((mean, v), axis=1)
    weights = np.array([0.75 / 0.25, 0.375 / 0.625])  # SNR of alpha_bar 0.75 and 0.375
    extra = ((weights - 1) * ((mean - x0) ** 2).mean(axis=(1, 2, 3))).mean()
    losses = [diffusion.loss(config, x0, t, noise, output) for config in (plain, weighted)]
    assert losses[1] - losses[0] == pytest.approx(extra, rel=1e-12)


def test_learned_range_ends_at_the_fixed_variances():
    s, t = Schedule.from_betas(TWO), np.array([1])
    config = DiffusionConfig(timesteps=2, variance="learned_range")
    got = np.exp(diffusion.model_log_variance(config, image(-1.0, 1.0), t, s)).ravel()
    np.testing.assert_allclose(got, [0.2, 0.5], rtol=1e-14)


def test_self_conditioning_shows_x0_where_the_coin_says_so():
    x0_hat = np.arange(8.0).reshape(2, 1, 2, 2)
    shown = diffusion.self_condition(x0_hat, np.array([True, False]))
    np.testing.assert_array_equal(shown[0], x0_hat[0])
    assert not shown[1].any()


@LAW
@given(SEED, st.floats(0, 1))
def test_slerp_keeps_the_angle(seed, share):
    a, b = np.random.default_rng(seed).standard_normal((2, 1, 4, 4))
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    theta = math.acos(np.vdot(a, b))
    c = diffusion.slerp(a, b, share)
    assert np.linalg.norm(c) == pytest.approx(1, rel=1e-12)
    assert math.acos(min(1, np.vdot(a, c))) == pytest.approx(share * theta, abs=1e-7)


def test_interpolation_by_hand():
    """Halfway between orthogonal vectors of length 2 lies sin(45 deg) (a + b)."""
    a, b = image(2.0, 0.0)[0], image(0.0, 2.0)[0]
    np.testing.assert_allclose(diffusion.slerp(a, b, 0.5), math.sqrt(0.5) * (a + b), rtol=1e-15)
    np.testing.assert_array_equal(diffusion.slerp(a, b, 0.0), a)
    np.testing.assert_allclose(diffusion.slerp(a, a, 0.3), a)
    for c in np.random.default_rng(0).standard_normal((50, 7)):  # rounding takes the cosine of some above 1
        np.testing.assert_allclose(diffusion.slerp(c, 3 * c, 0.5), 2 * c)
    np.testing.assert_allclose(diffusion.slerp(a, -a, 0.25), 0.5 * a)  # no arc is the shortest one: on the straight line
    np.testing.assert_allclose(diffusion.mix(a, b, 0.25), 0.75 * a + 0.25 * b)


def test_pixel_losses_by_hand():
    """Huber: half the square below 1, the size less a half above."""
    error = np.array([0.5, -0.5, -3.0])
    assert diffusion.pixel_loss(error, "huber").tolist() == [0.125, 0.125, 2.5]
    assert diffusion.pixel_loss(error, "l2").tolist() == [0.25, 0.25, 9.0]
    assert diffusion.pixel_loss(error, "l1").tolist() == [0.5, 0.5, 3.0]


def test_what_a_network_is_told_between_two_steps_lies_on_a_line():
    """Solvers ask between timesteps."""
    config = DiffusionConfig(timesteps=3, told_timesteps=(0.0, 10.0, 30.0))
    assert diffusion.network_t(config, np.array([0.5, 1.0, 1.25])).tolist() == [5.0, 10.0, 15.0]
