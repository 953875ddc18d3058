"""The networks, losses, optimisers and sampling plans that the levels run over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

from reference.config import LOSS_WEIGHTS, DiffusionConfig, ModelConfig, OptimConfig
from reference.conventions import CONVENTIONS, Plan, make_encode_plan, make_plan
from reference.solver_plans import CODES, SolverPlan, make_solver_plan
from reference.timesteps import LITERAL
from tests.helpers.pairwise import covering

# Networks. Together they move every field of `ModelConfig` off its default.
DOWN, UP, ADOWN, AUP = "DownBlock2D", "UpBlock2D", "AttnDownBlock2D", "AttnUpBlock2D"
TINY = ModelConfig(
    sample_size=4, in_channels=2, out_channels=2, layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=4,
    down_block_types=(DOWN, ADOWN), up_block_types=(AUP, UP), norm_eps=1e-5,
)
ONE_LEVEL = replace(TINY, block_out_channels=(8,), down_block_types=(DOWN,), up_block_types=(UP,))
NETWORKS = {
    "tiny": TINY,
    "iddpm": replace(TINY, flip_sin_to_cos=True, freq_shift=0, downsample_padding=1, norm_eps=1e-2, num_attention_heads=4),
    "head_dim": replace(TINY, attention_head_dim=4, layers_per_block=2, block_out_channels=(8, 8), dropout=0.3),
    "three_levels": replace(TINY, sample_size=8, block_out_channels=(8, 16, 24), norm_num_groups=2, zero_init=False,
                            down_block_types=(ADOWN, DOWN, DOWN), up_block_types=(AUP, UP, AUP), in_channels=1, out_channels=2),
    "one_level": replace(ONE_LEVEL, down_block_types=(ADOWN,), up_block_types=(UP,), in_channels=3, out_channels=3, freq_shift=2,
                         norm_eps=1e-6),
    "equal_groups": replace(TINY, norm_num_groups=8, norm_eps=0.1),  # one channel a group at width 8
    "scale_shift": replace(TINY, resnet_time_scale_shift="scale_shift", attn_norm_num_groups=2),
    "scale_shift_bare": replace(ONE_LEVEL, resnet_time_scale_shift="scale_shift", dropout=0.3,  # no norm in the middle attention
                                act_fn="relu"),
    "resampling": replace(TINY, sample_size=8, block_out_channels=(8, 16, 8), downsample_type="resnet", upsample_type="resnet",
                          down_block_types=("ResnetDownsampleBlock2D", ADOWN, DOWN), center_input_sample=True,
                          up_block_types=("ResnetUpsampleBlock2D", AUP, UP)),
    "no_middle_attention": replace(TINY, down_block_types=(ADOWN, DOWN), up_block_types=(UP, AUP), add_attention=False,
                                   time_embedding_dim=24, downsample_type="resnet", upsample_type="conv", act_fn="gelu"),
    "divided_middle": replace(TINY, mid_block_scale_factor=1.5, act_fn="mish"),
    "no_middle": replace(TINY, mid_block_type=None, act_fn="swish"),
}
# Sizes at which a mistake may begin: 9 images, 256 positions in attention, 64 channels in 32 groups.
LARGE = replace(ONE_LEVEL, sample_size=16, block_out_channels=(64,), norm_num_groups=32, num_attention_heads=2,
                down_block_types=(ADOWN,), up_block_types=(AUP,))
NETWORKS["large"] = LARGE
IMAGES = {"large": 9}  # by network; others get 4
TRAINED = {"tiny": TINY, "iddpm": replace(NETWORKS["iddpm"], block_out_channels=(8, 8)),
           "scale_shift": replace(NETWORKS["scale_shift"], block_out_channels=(8, 8)),
           "resampling": replace(NETWORKS["no_middle_attention"], block_out_channels=(8, 8), upsample_type="resnet")}


def network(diffusion: DiffusionConfig, base: ModelConfig = TINY) -> ModelConfig:
    """The network that this diffusion config needs."""
    return replace(base, in_channels=base.in_channels * (1 + diffusion.self_conditioning),
                   out_channels=base.in_channels * (1 + diffusion.learned_variance))


# Training. The objective "previous" and the bound as a loss have cases of their own.
OBJECTIVES = ("eps", "x0", "v")
LOSSES = {name: DiffusionConfig(**changes) for name, changes in {
    "eps": {},
    "eps-l1-p2": {"loss": "l1", "loss_weight": "p2", "p2_gamma": 0.5, "p2_k": 2.0, "schedule": "quad"},
    "eps-min_snr": {"loss_weight": "min_snr", "schedule": "sigmoid_alpha_bar"},
    "x0-l1": {"objective": "x0", "loss": "l1", "schedule": "cosine"},
    "x0-p2": {"objective": "x0", "loss_weight": "p2", "schedule": "sigmoid"},
    "x0-min_snr": {"objective": "x0", "loss_weight": "min_snr", "min_snr_gamma": 0.5, "zero_terminal_snr": True},
    "v": {"objective": "v", "schedule": "tutorial", "timesteps": 50, "told_timesteps": tuple(9.75 * i for i in range(50))},
    "v-p2": {"objective": "v", "loss_weight": "p2", "beta_scaling": True, "timesteps": 100},
    "v-l1-min_snr": {"objective": "v", "loss": "l1", "loss_weight": "min_snr", "schedule": "sigmoid_alpha_bar_float32"},
    "x0-snr": {"objective": "x0", "loss_weight": "snr", "schedule": "cosine", "timesteps": 100},
    "v-huber-snr": {"objective": "v", "loss": "huber", "loss_weight": "snr", "schedule": "const"},
    "learned_range": {"variance": "learned_range", "timesteps": 400},
    "learned": {"variance": "learned", "schedule": "cosine", "timesteps": 100, "objective": "v", "rescale_bound": False},
    "learned_range-x0": {"variance": "learned_range", "objective": "x0", "beta_start": 1e-3, "beta_end": 0.03},
    "learned_range-nichol2021": {"variance": "learned_range", "approximate_cdf": True, "rescale_timesteps": True, "timesteps": 400},
    "previous-sum-min_snr": {"objective": "previous", "loss_sum": True, "loss_weight": "min_snr", "schedule": "cosine",
                             "timesteps": 100},
    "previous-p2": {"objective": "previous", "loss_weight": "p2", "timesteps": 100},
    "previous-rescaled_kl-learned": {"loss": "rescaled_kl", "objective": "previous", "variance": "learned_range", "timesteps": 40,
                                     "beta_scaling": True},
    "self_cond-previous": {"self_conditioning": True, "objective": "previous", "schedule": "const", "beta_end": 0.1,
                           "timesteps": 20},
    "self_cond-kl": {"self_conditioning": True, "loss": "kl", "timesteps": 50, "beta_scaling": True, "approximate_cdf": True,
                     "large_variance_first": True},
    "self_cond-v-learned": {"self_conditioning": True, "objective": "v", "variance": "learned_range", "timesteps": 200},
}.items()}
# Options that meet: every two of them in every pair of their values. A case is named by its values that are not the first.
LOSS_OPTIONS: dict[str, tuple[Any, ...]] = {
    "schedule": ("linear", "cosine", "quad", "sigmoid", "sigmoid_alpha_bar", "const"), "objective": OBJECTIVES,
    "loss": ("l2", "l1", "huber"), "loss_weight": LOSS_WEIGHTS, "variance": ("large", "learned", "learned_range"),
    "self_conditioning": (False, True), "rescale_timesteps": (False, True), "approximate_cdf": (False, True),
    "zero_terminal_snr": (False, True), "timesteps": (1000, 150),
}
OPTIM_OPTIONS: dict[str, tuple[Any, ...]] = {
    "warmup_steps": (0, 3), "total_steps": (0, 6), "min_lr": (0.0, 5e-4), "max_grad_norm": (0.0, 0.5, 1e3),
    "ema_decay": (0.0, 0.15, 0.9), "beta1": (0.9, 0.0), "decay_every": (1, 3),
}


def allowed_loss(row: dict[str, Any]) -> bool:
    """Whether `DiffusionConfig` takes this row."""
    return not (row["zero_terminal_snr"] and row["objective"] == "eps")


def allowed_optim(row: dict[str, Any]) -> bool:
    """A floor under the rate needs a decay towards it, and so do its steps."""
    return bool(row["total_steps"]) or not (row["min_lr"] or row["decay_every"] > 1)


def named(options: dict[str, tuple[Any, ...]], allowed: Callable[[dict[str, Any]], bool]) -> dict[str, dict[str, Any]]:
    """The rows of the covering array by their values."""
    def word(name: str, value: Any) -> str:
        return value if isinstance(value, str) else name if value is True else f"{name}={value:g}"

    return {"-".join(word(k, v) for k, v in row.items() if v != options[k][0]): row for row in covering(options, allowed)}


CROSSED_LOSSES = {name: DiffusionConfig(**row) for name, row in named(LOSS_OPTIONS, allowed_loss).items()}
CROSSED_OPTIMS = {name: OptimConfig(lr=5e-3, eps=1e-4, **row) for name, row in named(OPTIM_OPTIONS, allowed_optim).items()}
OPTIMS = {
    "schedule": OptimConfig(lr=5e-3, eps=1e-4, warmup_steps=4, total_steps=60, min_lr=5e-4, max_grad_norm=1.0, ema_decay=0.9),
    "constant": OptimConfig(lr=2e-3, eps=1e-2, beta1=0.8, beta2=0.95, max_grad_norm=0.0, ema_decay=0.5),
}

# Tables and steps.
SCHEDULES: dict[str, dict[str, Any]] = {
    "linear": {}, "quad": {"schedule": "quad"}, "cosine": {"schedule": "cosine"}, "sigmoid": {"schedule": "sigmoid"},
    "sigmoid_alpha_bar": {"schedule": "sigmoid_alpha_bar"}, "tutorial": {"schedule": "tutorial"},
    "scaled": {"beta_scaling": True, "timesteps": 500}, "other_ends": {"beta_start": 1e-3, "beta_end": 0.03},
    "zero_snr": {"zero_terminal_snr": True}, "zero_snr_cosine": {"schedule": "cosine", "zero_terminal_snr": True},
}
NOISES: dict[str, list[dict[str, Any]]] = {
    "ddim": [{"eta": 0.0}, {"eta": 0.3}, {"eta": 1.0}, {"eta": "sigma_hat"}],
    "ddpm": [{"variance": v} for v in ("small", "large", "learned", "learned_range")],
}
FAMILIES = ["-".join(f) for f in product(CONVENTIONS, NOISES, OBJECTIVES, SCHEDULES) if not ("eps" in f and "zero_snr" in f[3])]
STEPS = ["-".join(f) for f in product(CONVENTIONS, NOISES, OBJECTIVES)]


def plan_of(sampler: str, noise: dict[str, Any], diffusion: dict[str, Any], steps: Any = 10, **options: Any) -> Plan:
    """A plan from keyword arguments of both configs; a learned variance is the network's, too."""
    if "learned" in str(noise.get("variance")):
        diffusion = diffusion | noise
    return make_plan(DiffusionConfig(**diffusion), steps, sampler=sampler, **noise, **options)


def label(plan: Plan, i: int | None = None) -> str:
    """A plan in a few words, for messages."""
    d = plan.diffusion
    noise = f"eta={'sigma_hat' if plan.sigma_hat else plan.eta}" if plan.sampler == "ddim" else f"variance={plan.variance}"
    schedule = d.schedule + " x1000/T" * d.beta_scaling + " zero-SNR" * d.zero_terminal_snr
    where = "" if i is None else f", step {i}"
    return (f"{plan.convention} {plan.sampler} {d.objective} {schedule} {noise} clip={plan.clip} T={d.timesteps} "
            f"{plan.timesteps[0]}..{plan.timesteps[-1]} S={plan.steps}{where}")


def family(name: str) -> Iterator[Plan]:
    """The plans of one family: every kind of noise, and the convention's spacings in turn, so that all families have all pairs."""
    convention, sampler, objective, schedule = name.split("-")
    diffusion, spacings = SCHEDULES[schedule] | {"objective": objective}, list(LITERAL[convention])
    turn = list(SCHEDULES).index(schedule) + OBJECTIVES.index(objective)
    for n in range(max(len(NOISES[sampler]), len(spacings))):
        steps = diffusion.get("timesteps", 1000) if convention == "ho2020" else 10
        yield plan_of(sampler, NOISES[sampler][n % len(NOISES[sampler])], diffusion, steps,
                      spacing=spacings[(turn + n) % len(spacings)], convention=convention)


def step_plans(name: str) -> Iterator[Plan]:
    """Every kind of noise with every kind of clipping; schedules and spacings take turns."""
    convention, sampler, objective = name.split("-")
    schedules = [s for s in SCHEDULES.values() if not (objective == "eps" and "zero_terminal_snr" in s)]
    spacings = list(LITERAL[convention])
    turn = STEPS.index(name)
    for n, (noise, clip) in enumerate(product(NOISES[sampler], ("none", "clip", "dynamic"))):
        diffusion = schedules[(turn + n) % len(schedules)] | {"objective": objective}
        steps = diffusion.get("timesteps", 1000) if convention == "ho2020" else 10
        spacing = spacings[(turn + n) % len(spacings)]
        yield plan_of(sampler, noise, diffusion, steps, spacing=spacing, convention=convention, clip=clip, threshold_ratio=0.8)


DDIM, DDPM = ({"eta": 0.7}, {"variance": "small"})
SPECIAL = {
    "one_step": plan_of("ddim", DDIM, {}, 1), "one_step_ddpm": plan_of("ddpm", DDPM, {}, 1),
    "odd_steps": plan_of("ddim", DDIM, {}, 7, spacing="trailing"),
    "odd_timesteps": plan_of("ddim", DDIM, {"timesteps": 11, "beta_end": 0.5}, 11, convention="diffusers"),  # a middle
    "sections": plan_of("ddim", DDIM, {}, (10, 15, 20)),
    "sections_nichol2021": plan_of("ddpm", DDPM, {"schedule": "cosine", "timesteps": 4000}, (5, 3), convention="nichol2021"),
    "every_step": plan_of("ddpm", DDPM, {"timesteps": 20}, 20), "one_timestep": plan_of("ddpm", DDPM, {"timesteps": 1}, 1),
    "const": plan_of("ddim", DDIM, {"schedule": "const"}, convention="song2021"),
    "jsd": plan_of("ddim", DDIM, {"schedule": "jsd"}, convention="song2021"),
    "jsd_v": plan_of("ddpm", DDPM, {"schedule": "jsd", "objective": "v"}, spacing="trailing"),
    "tutorial": plan_of("ddpm", DDPM, {"schedule": "tutorial", "timesteps": 20}, 20, clip="none", final_alpha_bar="start"),
    "tutorial_textbook": plan_of("ddim", DDIM, {"schedule": "tutorial_textbook"}),
    "trained_betas": plan_of("ddim", DDIM, {"timesteps": 20, "trained_betas": tuple(1e-3 + 0.0137 * i for i in range(20))}, 5),
    "trained_betas_zero_snr": plan_of("ddim", DDIM, {"timesteps": 20, "trained_betas": (0.1,) * 20, "zero_terminal_snr": True,
                                                     "objective": "v"}, 5, spacing="trailing"),
    "previous": plan_of("ddim", DDIM, {"objective": "previous"}, clip="clip"),
    "previous_final_first": plan_of("ddim", DDIM, {"objective": "previous"}, clip="clip", final_alpha_bar="first"),
    "large_variance_cut": plan_of("ddpm", {"variance": "large"}, {"large_variance_first": True}).cut(0, 6),  # not to its end
    "previous_not_rederived": plan_of("ddim", DDIM, {"objective": "previous"}, clip="clip", rederive_eps=False),
    "previous_of_path": plan_of("ddpm", {"variance": "large"}, {"objective": "previous"}, convention="nichol2021"),
    "previous_encoded": make_encode_plan(DiffusionConfig(objective="previous"), 6, convention="nichol2021"),
    "encode_clipped": make_encode_plan(DiffusionConfig(), 6, clip=0.5),
    "final_first": plan_of("ddim", DDIM, {}, final_alpha_bar="first"),
    "final_first_ddpm": plan_of("ddpm", DDPM, {}, final_alpha_bar="first"),
    "final_first_diffusers": plan_of("ddim", DDIM, {}, final_alpha_bar="first", convention="diffusers"),
    "not_rederived": plan_of("ddim", DDIM, {"objective": "v"}, clip="clip", rederive_eps=False),
    "rederived": plan_of("ddim", DDIM, {"objective": "x0"}, clip="clip", rederive_eps=True, convention="song2021"),
    "quad_doubles": plan_of("ddim", {"eta": 0.0}, {}, 50, spacing="quad", convention="song2021"),
    "wrong_previous": plan_of("ddim", DDIM, {}, spacing="linspace", convention="diffusers"),
    "high_quantile": plan_of("ddim", DDIM, {}, clip="dynamic", threshold_ratio=0.97),
    "whole_quantile": plan_of("ddim", DDIM, {}, clip="dynamic:1"),  # the largest pixel, beside which there is no other
    "clip_range": plan_of("ddim", DDIM, {}, clip=3.5),
    "clip_range_ddpm": plan_of("ddpm", DDPM, {}, clip=0.5, convention="diffusers"),
    "sample_max": plan_of("ddim", DDIM, {}, clip="dynamic:0.9:1.5"),
    "sample_max_below_1": plan_of("ddim", DDIM, {}, clip="dynamic:0.9:0.7"),
    "ddim_learned": plan_of("ddim", DDIM, {"variance": "learned"}),  # DDIM has no use for the variance that such a network gives
    "ddim_learned_range": plan_of("ddim", {"eta": "sigma_hat"}, {"variance": "learned_range"}, convention="nichol2021"),
    "steps_offset": plan_of("ddim", DDIM, {}, steps_offset=7),
    "steps_offset_diffusers": plan_of("ddpm", {"variance": "large"}, {}, steps_offset=1, convention="diffusers"),
} | {
    f"encode_{convention}_{objective}": make_encode_plan(
        DiffusionConfig(objective=objective, timesteps=300), 300 if convention == "ho2020" else 6, convention=convention)
    for convention, objective in product(CONVENTIONS, OBJECTIVES) if objective != "x0" or convention == "nichol2021"
}

# Whole paths, short enough that their error stays that of arithmetic. ho2020 visits every timestep.
SHORT = {"timesteps": 300, "beta_scaling": True}
PATHS = {
    f"{convention}_{name}": plan_of(sampler, noise, {"timesteps": 8} if convention == "ho2020" else SHORT,
                                  8 if convention == "ho2020" else 6, convention=convention)
    for convention in CONVENTIONS
    for name, sampler, noise in (("eta0", "ddim", {"eta": 0.0}), ("eta", "ddim", {"eta": 0.5}),
                                 ("sigma_hat", "ddim", {"eta": "sigma_hat"}), ("ddpm", "ddpm", {}))
} | {
    f"encode_{convention}": make_encode_plan(DiffusionConfig(**SHORT), 6, convention=convention)
    for convention in CONVENTIONS if convention != "ho2020"
} | {
    "x0": plan_of("ddim", DDIM, SHORT | {"objective": "x0"}, 6, spacing="linspace"),
    "v": plan_of("ddim", DDIM, {"timesteps": 300, "objective": "v", "zero_terminal_snr": True}, 6, spacing="trailing"),
    "dynamic": plan_of("ddim", DDIM, SHORT, 6, clip="dynamic", threshold_ratio=0.8),
    "learned": plan_of("ddpm", {"variance": "learned"}, SHORT, 6),
    "learned_range": plan_of("ddpm", {"variance": "learned_range"}, SHORT, 6, convention="nichol2021"),
    "ddim_learned": plan_of("ddim", DDIM, SHORT | {"variance": "learned"}, 6),
    "ddim_learned_range": plan_of("ddim", {"eta": 0.0}, SHORT | {"variance": "learned_range"}, 6, convention="nichol2021"),
    "self_cond": plan_of("ddim", DDIM, SHORT | {"self_conditioning": True}, 6),
    "self_cond_learned": plan_of("ddpm", {"variance": "learned_range"}, SHORT | {"self_conditioning": True, "objective": "v"}, 6),
}
LONG = plan_of("ddim", DDIM, SHORT, 300)  # beyond 256 steps


def solved(sampler: str, steps: int = 6, convention: str = "plain", *, diffusion: dict[str, Any] | None = None,
           **choices: Any) -> SolverPlan:
    """A path of a fast solver, of convention plain on leading timesteps where nothing else is said."""
    said = ({"spacing": "leading"} if convention == "plain" else {}) | choices
    return make_solver_plan(DiffusionConfig(**(diffusion or {})), steps, sampler=sampler, convention=convention, **said)


# Fast solvers: every code's, and every choice that moves a table.
LAST = {"spacing": "trailing", "final_alpha_bar": "first"}
ZERO_SNR = {"spacing": "trailing", "diffusion": {"objective": "v", "zero_terminal_snr": True}}
SOLVED = {
    **{sampler: solved(sampler) for sampler in CODES["plain"]},
    **{f"{convention}_{sampler}": solved(sampler, 10, convention)
       for convention in CODES if convention != "plain" for sampler in CODES[convention]},
    **{f"{sampler}_karras": solved(sampler, clip=0.8, spacing="karras", diffusion={"objective": "x0"})
       for sampler in CODES["plain"]},
    **{f"{sampler}_first": solved(sampler, 7, diffusion={"objective": "v"}, **LAST) for sampler in CODES["plain"]},
    **{f"{sampler}_lower": solved(sampler, 7, variant={"lower_below": 8}, **LAST)
       for sampler in ("dpmpp_2s", "dpmpp_3m", "unipc_3")},
    "fewest_2m": solved("dpmpp_2m", 2), "fewest_3m": solved("dpmpp_3m", 3), "fewest_pndm": solved("pndm", 4),
    "fewest_heun": solved("heun", 1), "ddim_one": solved("ddim", 1), "ddim_eta": solved("ddim", eta=0.6),
    "ddpm_small": solved("ddpm", variant={"variance": "small"}), "sde_eta": solved("dpmpp_2m_sde", eta=0.4, clip="dynamic:0.8:1.5"),
    "sde_taylor": solved("dpmpp_2m_sde", variant={"second": "taylor"}),
    "2m_taylor": solved("dpmpp_2m", variant={"second": "taylor"}),
    "3m_public": solved("dpmpp_3m", variant={"third": "public"}),
    "3m_sde_wrong_sign": solved("dpmpp_3m", 8, "diffusers", variant={"third": "wrong_sign", "eta": 1.0}),
    "2m_eps": solved("dpmpp_2m", variant={"form": "eps"}), "3m_eps": solved("dpmpp_3m", 9, clip="clip", variant={"form": "eps"}),
    "2s_taylor": solved("dpmpp_2s", spacing="trailing", variant={"second": "taylor"}),
    "2s_pairs": solved("dpmpp_2s", 10, "diffusers", variant={"lower_below": 0}),  # even, to sigma = 0: no room for the last pair
    "2s_lower": solved("dpmpp_2s", 10, "diffusers", final_alpha_bar="first"),
    "2s_eps": solved("dpmpp_2s", variant={"form": "eps"}), "unipc_3_eps": solved("unipc_3", 5, variant={"form": "eps"}),
    "unipc_3_bh1": solved("unipc_3", 8, variant={"basis": "bh1"}, **LAST), "unipc_2_bh1": solved("unipc_2", 5, "unipc"),
    "short_2m": solved("dpmpp_2m", 14, "diffusers", final_alpha_bar="first"),
    "long_2m": solved("dpmpp_2m", 15, "diffusers", final_alpha_bar="first"),
    "short_3m": solved("dpmpp_3m", 14, "diffusers", final_alpha_bar="first"),
    "last_2m": solved("dpmpp_2m", 20, variant={"lower_last": True}, **LAST),
    "zero_snr": solved("dpmpp_2m", **ZERO_SNR), "zero_snr_3m": solved("dpmpp_3m", **ZERO_SNR),
    "zero_snr_sde": solved("dpmpp_2m_sde", **ZERO_SNR),
    "cosine": solved("unipc_2", spacing="log_snr", diffusion={"schedule": "cosine"}),
    "told": solved("heun", spacing="karras", diffusion={"timesteps": 500, "rescale_timesteps": True}),
    "learned": solved("dpmpp_2m", diffusion={"variance": "learned_range"}),
    "self_cond": solved("dpmpp_3m", diffusion={"self_conditioning": True, "objective": "v"}),
}
# Whole paths, with a network: one of each solver, and what a path alone shows.
SOLVED_PATHS = [*CODES["plain"], "dpmpp_2m_karras", "heun_first", "unipc_3_lower", "2s_eps", "sde_eta", "zero_snr", "learned",
                "self_cond", "told", "diffusers_heun", "dpm_solver_dpmpp_2m"]
