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
])
def test_a_spec_that_cannot_be_is_refused(values, says):
    with pytest.raises(ConfigError, match=says):
        Spec.from_dict(values)
