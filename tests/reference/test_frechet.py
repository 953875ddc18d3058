"""The oracle of the metric: the Frechet distance is the formula, in closed forms, under its laws and where it is degenerate."""

import numpy as np
import pytest

from reference.config import ConfigError
from reference.frechet import frechet_distance, statistics


def gaussian(seed, d=6, rank=None):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(d, rank or d))
    return rng.normal(size=d), root @ root.T


def test_diagonal_covariances_closed_form():
    rng = np.random.default_rng(0)
    mu_1, mu_2, a, b = rng.normal(size=5), rng.normal(size=5), rng.uniform(0.1, 9, 5), rng.uniform(0.1, 9, 5)
    expected = ((mu_1 - mu_2) ** 2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert frechet_distance(mu_1, np.diag(a), mu_2, np.diag(b)) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_two_by_two_closed_form(seed):
    """Covariances that do not commute: tr sqrt(M) = sqrt(tr M + 2 sqrt(det M)) for a 2x2 M (Cayley-Hamilton)."""
    (mu_1, s_1), (mu_2, s_2) = gaussian(seed, 2), gaussian(seed + 100, 2)
    assert np.abs(s_1 @ s_2 - s_2 @ s_1).max() > 1e-3
    product = s_1 @ s_2
    root = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    expected = ((mu_1 - mu_2) ** 2).sum() + np.trace(s_1) + np.trace(s_2) - 2 * root
    assert frechet_distance(mu_1, s_1, mu_2, s_2) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("rank", [None, 3, 1])
def test_a_gaussian_is_at_no_distance_from_itself(rank):
    mu, sigma = gaussian(1, rank=rank)
    assert frechet_distance(mu, sigma, mu, sigma) == pytest.approx(0, abs=1e-10)
    assert frechet_distance(mu, sigma, mu + 2, sigma) == pytest.approx(4 * len(mu), abs=1e-10)


def test_distance_is_symmetric_scales_squared_and_ignores_rotations():
    (mu_1, s_1), (mu_2, s_2) = gaussian(2), gaussian(3)
    q = np.linalg.qr(np.random.default_rng(4).normal(size=(6, 6)))[0]
    distance = frechet_distance(mu_1, s_1, mu_2, s_2)
    assert distance > 1
    assert frechet_distance(mu_2, s_2, mu_1, s_1) == pytest.approx(distance, rel=1e-10)
    assert frechet_distance(3 * mu_1, 9 * s_1, 3 * mu_2, 9 * s_2) == pytest.approx(9 * distance, rel=1e-10)
    rotated = frechet_distance(q @ mu_1, q @ s_1 @ q.T, q @ mu_2, q @ s_2 @ q.T)
    assert rotated == pytest.approx(distance, rel=1e-10)


@pytest.mark.parametrize("argument, change, message", [
    (0, lambda mu: mu[None], "mu_1=.*shape"),
    (2, lambda mu: mu[:-1], "mu_2=.*shape of mu_1"),
    (1, lambda s: s[:-1], "sigma_1=.*shape"),
    (3, lambda s: s * np.nan, "sigma_2=.*finite"),
    (0, lambda mu: mu + np.inf, "mu_1, mu_2=.*finite"),
    (3, lambda s: s + np.triu(np.ones_like(s), 1) * 1e-3, "sigma_2=.*sigma.T"),
    (1, lambda s: -s, "sigma_1=.*eigenvalue"),
    (3, lambda s: s + np.triu(np.ones_like(s), 1) * 1e-8 * s.max(), "sigma_2=.*sigma.T"),  # hundreds of times its rounding
    (1, lambda s: s - (np.linalg.eigvalsh(s)[0] + 1e-7 * s.max()) * np.eye(len(s)), "sigma_1=.*eigenvalue"),
])
def test_frechet_refuses_what_is_no_gaussian(argument, change, message):
    arguments = [*gaussian(5), *gaussian(6)]
    arguments[argument] = change(arguments[argument])
    with pytest.raises(ConfigError, match=message):
        frechet_distance(*arguments)


def test_statistics_are_unbiased_float64():
    x = np.array([[0, 1], [2, 1], [4, 7]], np.float32)
    mu, sigma = statistics(x)
    assert mu.dtype == sigma.dtype == np.float64
    np.testing.assert_allclose(mu, [2, 3])
    np.testing.assert_allclose(sigma, [[4, 6], [6, 12]])
    for wrong, rule in ((x[:1], "n >= 2"), (x[:, 0], "shape"), (x * np.nan, "must be finite")):
        with pytest.raises(ConfigError, match=rule):
            statistics(wrong)
    mu, sigma = statistics(x[:, 1:])  # of one feature
    assert mu.shape == (1,) and sigma.tolist() == [[12]]


# Degenerate covariances


def rotated(seed, a, b):
    """Covariances with eigenvalues a and b in one random basis."""
    q = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(a), len(a))))[0]
    return tuple((q * values) @ q.T for values in (a, b))


@pytest.mark.parametrize("smallest", [1e-4, 1e-8, 1e-12, 1e-16, 0])
def test_nearly_singular_covariances_are_exact(smallest):
    """Commuting covariances: the distance is the sum of (sqrt(a) - sqrt(b))^2, here with half of b as good as nothing."""
    rng = np.random.default_rng(6)
    a, b = rng.uniform(0.5, 2, 32), rng.uniform(0.5, 2, 32)
    b[::2] = smallest
    s_1, s_2 = (0.5 * (s + s.T) for s in rotated(7, a, b))
    expected = ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    mu = np.zeros(32)
    assert frechet_distance(mu, s_1, mu, s_2) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(mu, s_2, mu, s_1) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("n", [2, 8, 63])
def test_fewer_images_than_features_are_exact(n):
    """Features scaled by 3 and moved: sigma_2 = 9 sigma_1, so that the distance is |move|^2 + (3 - 1)^2 tr sigma_1."""
    x = np.random.default_rng(n).normal(size=(n, 64))
    mu, sigma = statistics(x)
    assert np.linalg.matrix_rank(sigma) == n - 1
    mu_3, sigma_3 = statistics(3 * x)
    distance = frechet_distance(mu, sigma, mu_3 - 2 * mu + 1, sigma_3)
    assert distance == pytest.approx(64 + 4 * np.trace(sigma), rel=1e-6)


def test_one_image_has_no_covariance():
    with pytest.raises(ConfigError, match="n >= 2"):
        statistics(np.ones((1, 64)))
