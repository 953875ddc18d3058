"""The bootstrap of FID (Efron & Tibshirani 1993): how far chance moves it, and with it the difference of two sets of images."""

from __future__ import annotations

import numpy as np

from bench import streams
from bench.metric import fid
from bench.metric.extractor import Statistics

RESAMPLES = 200


def resampled(found: fid.Features, target: Statistics, seed: int, resamples: int = RESAMPLES) -> list[float]:
    """FID of as many of the features (n, width) drawn with replacement, `resamples` times. Resample k takes the same rows whatever
    the features are: the difference of two sets in resample k is that of the paired bootstrap."""
    n = len(found)
    picks = (streams.uniform_int(seed, "subset", np.arange(n), n, step=k) for k in range(resamples))
    return [fid.distance(fid.statistics(found[pick]), target) for pick in picks]
