"""For each field of a config two values that must not be taken for each other: where it counts, and the other value."""

from __future__ import annotations

from typing import Any

from reference.config import DiffusionConfig
from reference.plan import Plan
from reference.rows import Variant
from reference.solver_plans import SolverPlan

from .cases import ADOWN, AUP, LAST, plan_of, solved

NOISY = plan_of("ddim", {"eta": 0.7}, {})
SMALL = plan_of("ddpm", {"variance": "small"}, {})
PLAN: dict[str, tuple[Plan, Any]] = {
    "diffusion": (NOISY, DiffusionConfig(schedule="cosine")),
    "sampler": (NOISY, "ddpm"),
    "timesteps": (NOISY, tuple(range(990, 0, -100))),
    "previous": (NOISY, (*range(850, 0, -100), -1)),
    "network_t": (NOISY, tuple(float(t) for t in range(10))),
    "noise_gate": (plan_of("ddpm", {"variance": "large"}, {}), (1,) * 10),
    "predicts": (plan_of("ddim", {"eta": 0.7}, {"objective": "previous"}), (*range(850, 0, -100), -1)),
    "eta": (NOISY, 0.2),
    "sigma_hat": (NOISY, True),
    "variance": (SMALL, "large"),
    "clip": (NOISY, "clip"),
    "clip_range": (plan_of("ddim", {"eta": 0.7}, {}, clip="clip"), 0.5),
    "threshold_ratio": (plan_of("ddim", {"eta": 0.7}, {}, clip="dynamic"), 0.6),
    "sample_max": (plan_of("ddim", {"eta": 0.7}, {}, clip="dynamic:0.9:1.5"), 1.2),
    "rederive_eps": (plan_of("ddim", {"eta": 0.7}, {"objective": "v"}, clip="clip"), False),
    "final_alpha_bar": (NOISY, "first"),
    "float32_tables": (NOISY, True),
    "log_variance_first": (SMALL, "floor"),
    "convention": (NOISY, "ho2020"),  # a name, which decides nothing any more
    "spacing": (NOISY, "trailing"),  # as is this
}
SOLVED = solved("dpmpp_2m_sde", clip="dynamic:0.8:1.5", **LAST)
SOLVER_PLAN: dict[str, tuple[SolverPlan, Any]] = {
    "diffusion": (SOLVED, DiffusionConfig(objective="v")),
    "sampler": (SOLVED, "ddim"),
    "variant": (SOLVED, Variant(second="taylor", eta=1.0)),
    "t": (SOLVED, tuple(t / 2 for t in SOLVED.t)),
    "alpha": (SOLVED, tuple(alpha**2 for alpha in SOLVED.alpha)),
    "sigma": (SOLVED, tuple(sigma**2 for sigma in SOLVED.sigma)),
    "start": (SOLVED, 0.5),
    "clip": (SOLVED, "clip"),
    "clip_range": (solved("dpmpp_2m", clip=0.8), 0.5),
    "threshold_ratio": (SOLVED, 0.6),
    "sample_max": (SOLVED, 1.2),
    "convention": (SOLVED, "diffusers"),  # a name, which decides nothing any more
    "spacing": (SOLVED, "karras"),  # as is this
}
DIFFUSION: dict[str, tuple[dict[str, Any], Any]] = {
    "schedule": ({}, "cosine"),
    "timesteps": ({}, 500),
    "beta_start": ({}, 1e-3),
    "beta_end": ({}, 0.03),
    "beta_scaling": ({"timesteps": 500}, True),
    "zero_terminal_snr": ({"objective": "v"}, True),
    "objective": ({}, "v"),
    "variance": ({"variance": "learned"}, "learned_range"),
    "loss": ({}, "l1"),
    "loss_weight": ({}, "p2"),
    "p2_gamma": ({"loss_weight": "p2"}, 0.5),
    "p2_k": ({"loss_weight": "p2"}, 3.0),
    "min_snr_gamma": ({"loss_weight": "min_snr"}, 0.1),
    "self_conditioning": ({}, True),
    "rescale_timesteps": ({"timesteps": 500}, True),
    "large_variance_first": ({}, True),  # of the bound of a fixed variance, which is not trained
    "approximate_cdf": ({"variance": "learned_range"}, True),
    "trained_betas": ({"timesteps": 4}, (0.1, 0.2, 0.3, 0.4)),
    "loss_sum": ({}, True),
    "rescale_bound": ({"variance": "learned_range", "timesteps": 500}, False),
    "told_timesteps": ({"timesteps": 4}, (1.0, 50.5, 300.25, 900.0)),
}
MODEL: dict[str, Any] = {  # beside `cases.TINY`
    "sample_size": 8, "in_channels": 1, "out_channels": 4, "layers_per_block": 2, "block_out_channels": (16, 8),
    "down_block_types": (ADOWN, ADOWN), "up_block_types": (AUP, AUP), "norm_num_groups": 2, "norm_eps": 0.1,
    "downsample_padding": 1, "flip_sin_to_cos": True, "freq_shift": 0, "attention_head_dim": 4, "num_attention_heads": 2,
    "dropout": 0.5, "zero_init": False, "resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 8,
    "downsample_type": "resnet", "upsample_type": "resnet", "add_attention": False, "center_input_sample": True,
    "time_embedding_dim": 20, "act_fn": "relu", "mid_block_type": None, "mid_block_scale_factor": 2.0,
}
