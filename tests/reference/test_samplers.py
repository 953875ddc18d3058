"""Laws of DDPM and DDIM sampling: known distributions have closed forms that every path, eta and objective must meet.

With data N(m, s^2) the best eps is linear in x. Write r = sqrt(ab s^2 + 1 - ab) for the standard deviation of x_t and
phi = atan2(sqrt(1 - ab), s sqrt(ab)). With u = (x - sqrt(ab) m) / r, eps = sin(phi) u and x0_hat - m = s cos(phi) u, so
a step of eta = 0 gives x' = sqrt(ab') m + r' (cos phi' cos phi + sin phi' sin phi) u: u shrinks by cos(phi - phi').
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from reference import samplers, schedules
from reference.config import DiffusionConfig
from reference.conventions import CONVENTIONS, make_encode_plan, make_plan
from reference.samplers import coefficients, ddim_encode_step, ddim_step, ddpm_step, sample, step

from .strategies import LAW, SEED, diffusions

EPS = np.finfo(np.float64).eps
ETA = st.one_of(st.just(0.0), st.just(1.0), st.floats(0, 1), st.just("sigma_hat"))
LINEAR = DiffusionConfig()


@st.composite
def paths(draw: st.DrawFn, diffusion: DiffusionConfig, most: int = 60) -> dict:
    """`steps` and `spacing` of any path of our own, sections included."""
    T = diffusion.timesteps
    spacing = draw(st.sampled_from(("leading", "linspace", "trailing", "quad", "sections")))
    if spacing == "sections":
        parts = draw(st.integers(1, min(T, 4)))
        return {"steps": tuple(draw(st.integers(1, min(T // parts, most))) for _ in range(parts))}
    return {"steps": draw(st.integers(min(T, 2) if spacing == "linspace" else 1, min(T, most))), "spacing": spacing}


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def as_output(objective: str, x: np.ndarray, x0: np.ndarray, eps: np.ndarray, ab: float) -> np.ndarray:
    """What a network of this objective says when it means (x0, eps)."""
    return {"eps": eps, "x0": x0, "v": np.sqrt(ab) * eps - np.sqrt(1 - ab) * x0}[objective]


@LAW
@given(st.data(), diffusions(max_timesteps=200), ETA, st.sampled_from(("ddim", "ddpm")), st.floats(-1, 1), SEED)
def test_data_at_one_point_is_reached(data, diffusion, eta, sampler, point, seed):
    """q(x_0) is one point: eps = (x_t - sqrt(ab) point) / sqrt(1 - ab) is exact, and the last x0_hat is the point."""
    plan = make_plan(diffusion, **data.draw(paths(diffusion, 200)), eta=eta, sampler=sampler, clip="none")
    ab = iter(coefficients(plan)["alpha_bar"])
    largest = 0.0

    def network(x, t):
        nonlocal largest
        a, largest = next(ab), np.abs(x).max()
        return as_output(diffusion.objective, x, np.full_like(x, point), (x - np.sqrt(a) * point) / np.sqrt(1 - a), a)

    out = sample(network, normal(seed, 2, 1, 2, 2), plan, lambda i: normal(seed + i, 2, 1, 2, 2))
    last = coefficients(plan)["alpha_bar"][-1]
    bound = 16 * EPS * (largest + abs(point) + 1) / math.sqrt(last) if last else 0
    np.testing.assert_allclose(out, point, rtol=0, atol=bound + 4 * EPS)


class Gaussian:
    """The exact network for data N(m, s^2), told alpha_bar by its caller."""

    def __init__(self, m: float, s: float) -> None:
        self.m, self.s = m, s

    def r(self, ab: np.ndarray) -> np.ndarray:
        return np.sqrt(ab * self.s**2 + 1 - ab)

    def phi(self, ab: np.ndarray) -> np.ndarray:
        return np.arctan2(np.sqrt(1 - ab), self.s * np.sqrt(ab))

    def output(self, objective: str, x: np.ndarray, ab: float) -> np.ndarray:
        u = (x - np.sqrt(ab) * self.m) / self.r(ab)
        return as_output(objective, x, self.m + self.s * np.cos(self.phi(ab)) * u, np.sin(self.phi(ab)) * u, ab)

    def run(self, plan, x: np.ndarray) -> np.ndarray:
        ab = iter(coefficients(plan)["alpha_bar"])
        return sample(lambda x, t: self.output(plan.diffusion.objective, x, next(ab)), x, plan)

    def line(self, plan) -> tuple[float, float, float, float]:
        """Mean and standard deviation at the start of the path, then at its end from the true distribution at the start."""
        c = coefficients(plan)
        ab, end = c["alpha_bar"][0], c["alpha_bar_prev"][-1]
        mean, std = math.sqrt(ab) * self.m, float(self.r(ab))
        low, high = self.run(plan, np.array([mean - std, mean + std]).reshape(2, 1, 1, 1)).ravel()
        return (low + high) / 2, (high - low) / 2, math.sqrt(end) * self.m, float(self.r(end))

    def product(self, plan) -> float:
        c = coefficients(plan)
        return float(np.prod(np.cos(self.phi(c["alpha_bar"]) - self.phi(c["alpha_bar_prev"]))))


def precision(plan) -> float:
    """1e-12, or what is left of float64 after x0_hat was divided by sqrt(alpha_bar)."""
    ab = coefficients(plan)["alpha_bar"]
    return max(1e-12, 32 * EPS / math.sqrt(ab[ab > 0].min(initial=1)))


GAUSSIAN = st.builds(Gaussian, st.floats(-1, 1), st.floats(0.05, 2))


@LAW
@given(st.data(), diffusions(max_timesteps=1000), GAUSSIAN)
def test_gaussian_data_eta_zero(data, diffusion, gaussian):
    """The mean is exact, and the standard deviation is s prod cos(phi_i - phi_{i+1})."""
    assume(diffusion.ends_at_zero or np.prod(1 - schedules.betas(diffusion)) > 1e-12)
    plan = make_plan(diffusion, **data.draw(paths(diffusion)))
    mean, std, true_mean, true_std = gaussian.line(plan)
    digits = precision(plan)
    assert mean == pytest.approx(true_mean, rel=0, abs=digits * (1 + abs(gaussian.m)))
    assert std == pytest.approx(true_std * gaussian.product(plan), rel=digits, abs=digits)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "sigmoid_alpha_bar"])
def test_gaussian_error_is_first_order_in_the_step(schedule, spacing):
    gaussian = Gaussian(0.3, 0.5)
    lost = [-math.log(gaussian.line(make_plan(DiffusionConfig(schedule=schedule), S, spacing=spacing))[1] / 0.5)
            for S in (25, 50, 100)]
    assert lost[0] / lost[1] == pytest.approx(2, rel=0.1) and lost[1] / lost[2] == pytest.approx(2, rel=0.1)


@LAW
@given(GAUSSIAN, st.floats(1e-4, 0.999), st.floats(0, 1), st.floats(0, 1), st.sampled_from(("eps", "v", "x0")))
def test_variance_lost_in_one_step_of_any_eta(gaussian, ab_prev, share, eta, objective):
    """Let q = sqrt(1 - ab' - sigma^2). The step gives variance (sqrt(ab') s cos phi + q sin phi)^2 + sigma^2 of the true
    ab' s^2 + q^2 + sigma^2, and a^2 + b^2 - (a cos + b sin)^2 = (a sin - b cos)^2 is what is lost."""
    ab = ab_prev * (0.01 + 0.98 * share)
    sigma = eta * math.sqrt((1 - ab_prev) / (1 - ab) * (1 - ab / ab_prev))
    plan = make_plan(DiffusionConfig(timesteps=2, schedule="linear", beta_start=min(1 - ab_prev, 1 - ab / ab_prev),
                                     beta_end=max(1 - ab_prev, 1 - ab / ab_prev), objective=objective), 2, eta=eta)
    c = coefficients(plan)
    ab, ab_prev = c["alpha_bar"][0], c["alpha_bar_prev"][0]  # the two betas may have changed places
    sigma = eta * math.sqrt((1 - ab_prev) / (1 - ab) * (1 - ab / ab_prev))
    mean, r = math.sqrt(ab) * gaussian.m, float(gaussian.r(ab))
    x = np.array([mean - r, mean + r, mean]).reshape(3, 1, 1, 1)
    z = np.array([0.0, 0.0, 1.0]).reshape(3, 1, 1, 1)
    low, high, noisy = step(x, gaussian.output(objective, x, ab), 0, plan, z, c)[0].ravel()
    variance = ((high - low) / 2) ** 2 + (noisy - (low + high) / 2) ** 2
    phi, q = float(gaussian.phi(ab)), math.sqrt(1 - ab_prev - sigma**2)
    deficit = (math.sqrt(ab_prev) * gaussian.s * math.sin(phi) - q * math.cos(phi)) ** 2
    assert float(gaussian.r(ab_prev)) ** 2 - variance == pytest.approx(deficit, rel=0, abs=1e-12 * (1 + r**2) / math.sqrt(ab))


@LAW
@given(st.data(), diffusions(objectives=("eps", "v")), GAUSSIAN)
def test_encoding_then_decoding_scales_by_the_product_twice(data, diffusion, gaussian):
    """Exact at each state's own alpha_bar (at 1 eps is 0), encoding passes the same angles as decoding."""
    assume(diffusion.ends_at_zero or np.prod(1 - schedules.betas(diffusion)) > 1e-12)
    path = data.draw(paths(diffusion))
    encode, decode = make_encode_plan(diffusion, **path), make_plan(diffusion, **path)
    mean, std, true_mean, true_std = gaussian.line(encode)
    product = gaussian.product(decode)
    digits = precision(decode)
    assert gaussian.product(encode) == pytest.approx(product, rel=1e-12)
    assert mean == pytest.approx(true_mean, rel=0, abs=digits) and std == pytest.approx(true_std * product, rel=digits, abs=digits)
    x0 = np.array([gaussian.m - 0.7, gaussian.m + 0.2]).reshape(2, 1, 1, 1)
    back = gaussian.run(decode, gaussian.run(encode, x0))
    np.testing.assert_allclose(back - gaussian.m, product**2 * (x0 - gaussian.m), rtol=0, atol=4 * digits)


def test_encoding_tells_the_network_the_first_timestep_at_the_clean_image():
    """A network told only t = path[0] computes eps = sin(phi_0) (x - sqrt(ab_0) m) / r_0 for the clean x = m + s u. The step to
    ab_0 then gives u cos(phi_0) (1 + sin^2(phi_0) / sqrt(ab_0)) and a mean off by sin^2(phi_0) (1 - sqrt(ab_0)) m."""
    gaussian, plan = Gaussian(0.4, 0.5), make_encode_plan(LINEAR, 10, spacing="trailing")
    assert plan.network_t[:3] == (99, 99, 199) and plan.timesteps[:3] == (-1, 99, 199) and plan.previous[-1] == 999
    c = coefficients(plan)
    ab = schedules.alpha_bars(schedules.betas(LINEAR))[99]
    x = np.array([gaussian.m, gaussian.m + gaussian.s]).reshape(2, 1, 1, 1)
    told = schedules.alpha_bars(schedules.betas(LINEAR))[int(plan.network_t[0])]
    at_mean, above = step(x, gaussian.output("eps", x, told), 0, plan, None, c)[0].ravel()
    phi, r = float(gaussian.phi(ab)), float(gaussian.r(ab))
    assert at_mean - math.sqrt(ab) * gaussian.m == pytest.approx(math.sin(phi) ** 2 * (1 - math.sqrt(ab)) * gaussian.m, rel=1e-12)
    assert (above - at_mean) / r == pytest.approx(math.cos(phi) * (1 + math.sin(phi) ** 2 / math.sqrt(ab)), rel=1e-12)


@LAW
@given(st.data(), diffusions(max_timesteps=200), st.sampled_from(("none", "clip", "dynamic")), SEED)
def test_ddim_with_eta_one_on_all_steps_is_ddpm_small(data, diffusion, clip, seed):
    """DDIM section 4.1. With clipping this needs eps re-derived from the clipped x0, as `plain` does."""
    ddim = make_plan(diffusion, diffusion.timesteps, spacing="leading", eta=1.0, clip=clip)
    ddpm = make_plan(diffusion, diffusion.timesteps, spacing="leading", sampler="ddpm", variance="small", clip=clip)
    a, b = coefficients(ddim), coefficients(ddpm)
    x, output, z = normal(seed, 3, 2, 1, 4, 4)
    i = data.draw(st.integers(0, ddim.steps - 1))
    left, right = step(x, output, i, ddim, z, a)[0], step(x, output, i, ddpm, z, b)[0]
    tolerance = 64 * EPS / (1 - a["alpha_bar"].max())
    np.testing.assert_allclose(left, right, rtol=0, atol=tolerance * max(1, np.abs(right).max()))


def test_ddim_with_eta_one_is_not_ddpm_where_eps_is_kept_after_clipping():
    ddim = make_plan(LINEAR, 1000, eta=1.0, clip="clip", rederive_eps=False)
    ddpm = make_plan(LINEAR, 1000, sampler="ddpm", variance="small")
    x, output, z = normal(0, 3, 2, 1, 4, 4)
    left, right = (step(x, output, 100, p, z, coefficients(p))[0] for p in (ddim, ddpm))
    assert np.abs(left - right).max() > 1e-3


@LAW
@given(st.data(), diffusions(), ETA, SEED)
def test_step_is_the_papers_ddim_step(data, diffusion, eta, seed):
    plan = make_plan(diffusion, **data.draw(paths(diffusion)), eta=eta)
    c, i = coefficients(plan), data.draw(st.integers(0, plan.steps - 1))
    ab, ab_prev = c["alpha_bar"][i], c["alpha_bar_prev"][i]
    assume(ab > 1e-12)
    x, eps, z = normal(seed, 3, 2, 1, 4, 4)
    x0 = (x - np.sqrt(1 - ab) * eps) / np.sqrt(ab)
    got = step(x, as_output(diffusion.objective, x, x0, eps, ab), i, plan, z, c)[0]
    variance = (1 - ab_prev) / (1 - ab) * (1 - ab / ab_prev)  # DDIM equation 16
    if eta == "sigma_hat":  # DDIM appendix D.3: only the noise grows, the eps term keeps sigma(eta = 1)
        sigma_hat = np.sqrt(1 - ab / ab_prev) if i < plan.steps - 1 else 0
        expected = ddim_step(x, eps, ab, ab_prev, np.sqrt(variance), 0 * z) + sigma_hat * z
    else:
        expected = ddim_step(x, eps, ab, ab_prev, eta * np.sqrt(variance), z)
    scale = 64 * EPS * (1 + np.abs(x0).max()) / np.sqrt(1 - c["alpha_bar"].max()) ** 2
    np.testing.assert_allclose(got, expected, rtol=0, atol=scale)


@LAW
@given(st.data(), diffusions(), st.sampled_from(("small", "large")), SEED)
def test_step_is_the_papers_ddpm_step(data, diffusion, variance, seed):
    plan = make_plan(diffusion, **data.draw(paths(diffusion)), sampler="ddpm", variance=variance, clip="none")
    c, i = coefficients(plan), data.draw(st.integers(0, plan.steps - 1))
    ab, ab_prev = c["alpha_bar"][i], c["alpha_bar_prev"][i]
    assume(ab > 1e-12)
    x, eps, z = normal(seed, 3, 2, 1, 4, 4)
    x0 = (x - np.sqrt(1 - ab) * eps) / np.sqrt(ab)
    alpha = ab / ab_prev
    sigma2 = (1 - alpha) * ((1 - ab_prev) / (1 - ab) if variance == "small" else 1)
    got = step(x, as_output(diffusion.objective, x, x0, eps, ab), i, plan, z, c)[0]
    expected = ddpm_step(x, eps, alpha, ab, sigma2 if i < plan.steps - 1 else 0, z)
    scale = 64 * EPS * (1 + np.abs(x0).max()) / (1 - c["alpha_bar"].max())
    np.testing.assert_allclose(got, expected, rtol=0, atol=scale)


def test_papers_steps_by_hand():
    """alpha = 0.75, ab = 0.36, ab' = 0.48: sqrt(1 - ab) = 0.8, x0 = (1 - 0.4) / 0.6 = 1 for x = 1, eps = 0.5."""
    one, half, zero = np.array(1.0), np.array(0.5), np.array(0.0)
    assert ddim_step(one, half, 0.36, 0.48, 0.0, zero) == pytest.approx(math.sqrt(0.48) + math.sqrt(0.52) * 0.5)
    assert ddim_step(one, half, 0.36, 0.48, 0.4, one) == pytest.approx(math.sqrt(0.48) + 0.6 * 0.5 + 0.4)
    assert ddpm_step(one, half, 0.75, 0.36, 0.09, one) == pytest.approx((1 - 0.25 / 0.8 * 0.5) / math.sqrt(0.75) + 0.3)
    assert ddim_encode_step(one, half, 0.36, 0.25) == pytest.approx(0.5 + math.sqrt(0.75) * 0.5)


def test_dynamic_threshold_by_hand():
    """Four pixels |x0| = 0, 1, 2, 4. The 0.75 quantile lies at 0.75 x 3 = 2.25 between the third and fourth: 2 + 0.25 x 2 = 2.5.
    A second image inside [-1, 1] has threshold 1 and stays. A largest threshold of 0.5 is both images', below 1 though it is."""
    x0 = np.array([[0.0, -1.0, 2.0, -4.0], [0.0, 0.5, -0.5, 0.25]]).reshape(2, 1, 2, 2)
    for most, expected in ((math.inf, [[0.0, -0.4, 0.8, -1.0], [0.0, 0.5, -0.5, 0.25]]),
                           (2.0, [[0.0, -0.5, 1.0, -1.0], [0.0, 0.5, -0.5, 0.25]]),
                           (0.5, [[0.0, -1.0, 1.0, -1.0], [0.0, 1.0, -1.0, 0.5]])):
        plan = make_plan(DiffusionConfig(objective="x0"), 10, clip=f"dynamic:0.75:{most}")
        np.testing.assert_allclose(samplers.clip_x0(x0, plan).reshape(2, 4), expected, rtol=1e-15)


def test_clip():
    x0 = np.array([-3.0, -0.5, 1.5]).reshape(1, 1, 1, 3)
    assert samplers.clip_x0(x0, make_plan(LINEAR, 10, clip="clip")).ravel().tolist() == [-1, -0.5, 1]
    assert samplers.clip_x0(x0, make_plan(LINEAR, 10, clip="none")) is x0


def test_learned_variances():
    """The extra channels give log variance itself, or the share (v + 1) / 2 between log beta_tilde and log beta. The last step
    adds nothing, and a fixed variance ignores them."""
    x, output, z = np.zeros((1, 1, 1, 3)), np.zeros((1, 1, 1, 3)), np.ones((1, 1, 1, 3))
    v = np.array([-1.0, 0.0, 1.0]).reshape(1, 1, 1, 3)
    both = np.concatenate((output, v), axis=1)
    for variance in ("learned", "learned_range"):
        plan = make_plan(DiffusionConfig(variance=variance), 10, sampler="ddpm")
        c = coefficients(plan)
        ab, ab_prev = c["alpha_bar"][3], c["alpha_bar_prev"][3]
        beta = 1 - ab / ab_prev
        beta_tilde = beta * (1 - ab_prev) / (1 - ab)
        expected = np.exp(v / 2).ravel() if variance == "learned" else np.sqrt([beta_tilde, math.sqrt(beta_tilde * beta), beta])
        np.testing.assert_allclose(step(x, both, 3, plan, z, c)[0].ravel(), expected, rtol=1e-12)
        np.testing.assert_array_equal(step(x, both, 9, plan, z, c)[0], 0)
        fixed = make_plan(DiffusionConfig(variance=variance), 10, sampler="ddpm", variance="large")
        assert fixed.learned == "" and make_plan(DiffusionConfig(variance=variance), 10).learned == ""
        np.testing.assert_allclose(step(x, both, 3, fixed, z, c)[0].ravel(), math.sqrt(beta), rtol=1e-12)


@pytest.mark.parametrize("sampler, eta, needs", [
    ("ddim", 0.0, False), ("ddim", 0.1, True), ("ddim", "sigma_hat", True), ("ddpm", 0.0, True),
])
def test_noise_is_asked_for_only_where_it_is_added(sampler, eta, needs):
    plan = make_plan(LINEAR, 10, sampler=sampler, eta=eta)
    assert plan.needs_noise is needs
    asked = []
    sample(lambda x, t: x, np.ones((1, 1, 1, 1)), plan, lambda i: asked.append(i) or np.zeros((1, 1, 1, 1)))
    assert asked == (list(range(9)) if needs else [])


def test_network_is_told_the_plans_timesteps_and_its_last_x0():
    seen = []

    def network(x, t, x0):
        seen.append((t.tolist(), x0.copy()))
        return np.full_like(x, 0.5 * len(seen))

    plan = make_plan(DiffusionConfig(objective="x0", self_conditioning=True), 4, spacing="trailing")
    out = sample(network, normal(0, 2, 1, 2, 2), plan)
    assert [t for t, _ in seen] == [[999.0] * 2, [749.0] * 2, [499.0] * 2, [249.0] * 2]
    assert [float(x0.max()) for _, x0 in seen] == [0, 0.5, 1, 1.5]
    np.testing.assert_allclose(out, 2)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_tables_are_finite_float64_of_one_entry_a_step(convention, sampler):
    plan = make_plan(LINEAR, 1000 if convention == "ho2020" else 20, sampler=sampler, eta=1.0, convention=convention)
    for name, table in coefficients(plan).items():
        assert table.shape == (plan.steps,) and table.dtype == np.float64 and np.isfinite(table).all(), name


def test_a_step_is_the_same_for_one_image_and_for_many():
    """Three images of one channel, so that images and channels can't be taken for each other; with a learned variance."""
    plan = make_plan(DiffusionConfig(variance="learned_range"), 10, eta="ddpm")
    c, draw = coefficients(plan), np.random.default_rng(0).standard_normal
    x, output, z = draw((3, 1, 2, 2)), draw((3, 2, 2, 2)), draw((3, 1, 2, 2))
    together, x0 = step(x, output, 4, plan, z, c)
    alone = [step(x[[n]], output[[n]], 4, plan, z[[n]], c) for n in range(3)]
    np.testing.assert_array_equal(together, np.concatenate([one for one, _ in alone]))
    np.testing.assert_array_equal(x0, np.concatenate([one for _, one in alone]))


def test_tables_of_an_encoding_path_are_numbers():
    """Though alpha_bar falls there, and the variance of a step would be below 0."""
    c = samplers.coefficients(make_encode_plan(DiffusionConfig(), 6))
    assert all(np.isfinite(table).all() for table in c.values()) and (c["sigma"] == 0).all()
