"""Hypothesis settings and strategies shared by the laws."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st

from reference.config import SCHEDULES, DiffusionConfig

LAW = settings(deadline=None, derandomize=True, max_examples=100)

SEED = st.integers(0, 2**32 - 1)


@st.composite
def diffusions(draw: st.DrawFn, objectives: tuple[str, ...] = ("eps", "x0", "v"), max_timesteps: int = 1000) -> DiffusionConfig:
    """Any forward process, by default of an objective that needs no other t: schedule, T, beta ends, 1000/T scaling, zero SNR."""
    objective = draw(st.sampled_from(objectives))
    T = draw(st.integers(1, max_timesteps))
    can_end_at_zero = T > 1 and objective != "eps"
    zero_snr = can_end_at_zero and draw(st.booleans())
    beta = st.floats(1e-6, min(0.3, 120 / T))  # alpha_bar would stand still below, or come to less than 2^-252 above
    start, end = sorted((draw(beta), draw(beta)))
    scaling = end < min(0.06, 0.9e-3 * T) and draw(st.booleans())
    schedules = [name for name in SCHEDULES if can_end_at_zero or name != "jsd"]
    return DiffusionConfig(schedule=draw(st.sampled_from(schedules)), timesteps=T, beta_start=start, beta_end=end,
                           beta_scaling=scaling, zero_terminal_snr=zero_snr, objective=objective)
