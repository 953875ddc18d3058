"""Frechet distance between two Gaussians, float64 (Heusel et al. 2017, arXiv:1706.08500, eq. 6)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.config import require

Float = NDArray[np.float64]


def statistics(features: NDArray[np.floating[Any]]) -> tuple[Float, Float]:
    """Mean (d,) and unbiased covariance (d, d) in float64 of features (n, d) of any float type, n >= 2."""
    x = np.asarray(features, np.float64)
    require(x.ndim == 2 and len(x) >= 2, "features", x.shape, "must have shape (n, d) with n >= 2")
    require(bool(np.isfinite(x).all()), "features", x.shape, "must be finite")
    return x.mean(0), np.atleast_2d(np.cov(x, rowvar=False))


def frechet_distance(mu_1: Float, sigma_1: Float, mu_2: Float, sigma_2: Float) -> float:
    """|mu_1 - mu_2|^2 + tr(sigma_1 + sigma_2 - 2 (sigma_1 sigma_2)^(1/2)).

    The eigenvalues of sigma_1 sigma_2 are those of the symmetric R_1 sigma_2 R_1 with R = sigma^(1/2). Their square
    roots are the singular values of R_1 R_2, taken from there because forming the product squares the rounding error
    of small ones: a singular covariance is as exact as any. Means have shape (d,), covariances (d, d). Raises
    ConfigError unless shapes agree, all is finite, and the covariances are symmetric and positive semidefinite.
    """
    mu_1, mu_2 = np.asarray(mu_1, np.float64), np.asarray(mu_2, np.float64)
    require(mu_1.ndim == 1 and len(mu_1) > 0, "mu_1", mu_1.shape, "must have shape (d,) with d >= 1")
    require(mu_1.shape == mu_2.shape, "mu_2", mu_2.shape, f"must have the shape of mu_1, {mu_1.shape}")
    require(bool(np.isfinite(mu_1).all() and np.isfinite(mu_2).all()), "mu_1, mu_2", mu_1.shape, "must be finite")
    root_1, trace_1 = _root("sigma_1", sigma_1, len(mu_1))
    root_2, trace_2 = _root("sigma_2", sigma_2, len(mu_1))
    difference = mu_1 - mu_2
    cross = np.linalg.svd(root_1 @ root_2, compute_uv=False).sum()
    return float(difference @ difference + trace_1 + trace_2 - 2 * cross)


def _root(name: str, sigma: Float, d: int) -> tuple[Float, float]:
    sigma = np.asarray(sigma, np.float64)
    require(sigma.shape == (d, d), name, sigma.shape, f"must have shape ({d}, {d})")
    require(bool(np.isfinite(sigma).all()), name, sigma.shape, "must be finite")
    tolerance = 1e-10 * float(np.abs(sigma).max())
    asymmetry = float(np.abs(sigma - sigma.T).max())
    require(asymmetry <= tolerance, name, asymmetry, "the largest |sigma - sigma.T| must be 0 up to rounding")
    values, vectors = np.linalg.eigh(sigma)
    require(values[0] >= -d * tolerance, name, float(values[0]), "the smallest eigenvalue must not be negative")
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T, float(np.trace(sigma))
