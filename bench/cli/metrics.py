"""Whether the metric of `--metric` says anything of the images that a job is about."""

from __future__ import annotations

from bench.data.datasets import Dataset
from bench.metric import fmnist_cnn, inception
from bench.metric.extractor import Extractor
from reference.config import require


def notes(metric: str, by: Extractor, samples: int, dataset: Dataset, held_out: Dataset) -> list[str]:
    """Lines about what a metric's values say. Raises ConfigError where it would say nothing of these images."""
    if metric == "none":
        return ["FID was not measured, as --metric none asks for"]
    if by.name == inception.NAME:
        return inception.check(by, samples, dataset, held_out)
    fmnist_cnn.require_fitting(dataset, "--metric none goes without, --metric inception measures with the network of papers")
    require(samples <= len(held_out), "--samples", samples, "the metric's floor is that of as many held-out images, and there are "
            f"{len(held_out)}; draw fewer, or --metric none goes without")
    return []
