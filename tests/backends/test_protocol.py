"""The records of `backends.protocol`, without a framework."""

from __future__ import annotations

import json

import pytest

from backends.protocol import Spec
from reference.config import ConfigError, DiffusionConfig, ModelConfig, OptimConfig


def test_a_spec_survives_json():
    spec = Spec(ModelConfig(sample_size=8), DiffusionConfig(timesteps=20), OptimConfig(lr=1e-3), dtype="float64", rank=1,
                processes=2)
    assert Spec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert Spec.from_dict({"model": {}}) == Spec(ModelConfig())


@pytest.mark.parametrize(("values", "says"), [
    ({"model": {}, "colour": 1}, "Spec=.'colour'.: unknown keys"),
    ({"model": {"colour": 1}}, "ModelConfig=.'colour'.: unknown keys"),
    ({"model": {}, "mode": "fast"}, "mode='fast': must be one of"),
    ({"model": {}, "dtype": "int8"}, "dtype='int8': must be one of float32, bfloat16, float16, float64"),
])
def test_a_spec_that_cannot_be_is_refused(values, says):
    with pytest.raises(ConfigError, match=says):
        Spec.from_dict(values)


@pytest.mark.parametrize(("rank", "processes", "fits"), [(0, 1, True), (1, 2, True), (1, 1, False), (2, 2, False), (-1, 2, False)])
def test_a_rank_is_one_of_the_processes(rank, processes, fits):
    if fits:
        assert Spec(ModelConfig(), rank=rank, processes=processes).rank == rank
    else:
        with pytest.raises(ConfigError, match=f"rank={rank}: must be one of 0 .. processes - 1, of {processes}"):
            Spec(ModelConfig(), rank=rank, processes=processes)


def test_the_networks_channels_are_those_of_image_condition_and_variance():
    """An image beside its last x0_hat goes in; mean and variance come out."""
    learned, told = DiffusionConfig(variance="learned"), DiffusionConfig(self_conditioning=True)
    assert Spec(ModelConfig(in_channels=3, out_channels=6, sample_size=16), learned).image_shape == (3, 16, 16)
    assert Spec(ModelConfig(in_channels=6, out_channels=3, sample_size=16), told).image_shape == (3, 16, 16)
    with pytest.raises(ConfigError, match="out_channels=3: variance learned on 3 image channels needs 6"):
        Spec(ModelConfig(in_channels=3, out_channels=3), learned)
    with pytest.raises(ConfigError, match="in_channels=3: .*must be even"):
        Spec(ModelConfig(in_channels=3, out_channels=1), told)
