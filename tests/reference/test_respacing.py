"""A respaced process against the whole one that it is kept of. Its losses as IDDPM's code has them are in `test_golden`."""

from __future__ import annotations

import numpy as np
import pytest

from reference import schedules
from reference.config import ConfigError, DiffusionConfig
from reference.conventions import make_plan
from reference.respacing import respaced
from reference.samplers import coefficients

COSINE = DiffusionConfig(schedule="cosine", timesteps=400)


@pytest.mark.parametrize("steps, options", [((10, 5), {}), (20, {"spacing": "leading"}),
                                            (7, {"convention": "plain", "spacing": "quad"})])
@pytest.mark.parametrize("whole", [COSINE, DiffusionConfig(objective="v", zero_terminal_snr=True)], ids=["cosine", "zero_snr"])
def test_kept_steps_keep_alpha_bar_and_their_name(whole, steps, options):
    """Also where the whole process ends at alpha_bar 0, which those kept may leave out."""
    process, plan = respaced(whole, steps, **options), make_plan(whole, steps, **{"convention": "nichol2021"} | options)
    assert process.timesteps == plan.steps and process.told_timesteps == plan.network_t[::-1]
    bars = schedules.alpha_bars(schedules.betas(process))
    np.testing.assert_allclose(bars[::-1], coefficients(plan)["alpha_bar"], rtol=1e-9)


def test_the_whole_path_of_a_respaced_process_is_the_path_through_the_whole_one():
    """Every step of the one, and the kept steps of the other: the same sampler, and the network is told the same."""
    process = respaced(COSINE, (10, 5))
    ours, theirs = (make_plan(d, s, sampler="ddpm", convention="nichol2021") for d, s in ((process, 15), (COSINE, (10, 5))))
    assert ours.network_t == theirs.network_t and not ours.diffusion.rescale_timesteps
    for name, table in coefficients(theirs).items():
        np.testing.assert_allclose(coefficients(ours)[name], table, rtol=1e-9, atol=1e-12, err_msg=name)


def test_a_respacing_that_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="steps=.*section 0 has 200 of T=400 timesteps and cannot give 300"):
        respaced(COSINE, (300, 5))
    ends_at_zero = respaced(DiffusionConfig(objective="v", zero_terminal_snr=True), 10)
    assert ends_at_zero.ends_at_zero and ends_at_zero.trained_betas[-1] == 1
