"""Samplers with mistakes in them, written without the catalogue of `bench.diagnosis`: a plain loop, and the classes of diffusers
and of lucidrains' package with one thing changed each. Beside each mistake stands what it should be called; PAIR and UNKNOWN
stand for two mistakes at once and for one that the catalogue does not have, whose answer must be "unknown".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from bench.diagnosis.case import Case
from bench.metric.torchvision_shim import import_torchvision

PAIR, UNKNOWN = "(a pair)", "(not in the catalogue)"
Flaw = dict[str, Any]


def plain(case: Case, dtype: type = np.float64, **f: Any) -> np.ndarray:
    """The textbook's loop over numbers. One function, since a flaw may be anywhere in it: `f` says where."""
    T, S = case.diffusion.timesteps, case.said["steps"]
    betas = [f.get("start", 1e-4) + (f.get("end", 0.02) - 1e-4) * i / (T - 1 + f.get("endless", 0)) for i in range(T)]
    if f.get("cosine"):
        def g(u):
            return math.cos((u / T + 0.008) / 1.008 * math.pi / 2) ** 2
        betas = [min(1 - g(i + 1) / g(i), 0.999) for i in range(T)]
    if f.get("squared"):
        betas = [(1e-4**0.5 + (0.02**0.5 - 1e-4**0.5) * i / (T - 1)) ** 2 for i in range(T)]
    ab, product = [], 1.0
    for b in betas:
        product = (1 - b) if f.get("no_product") else product * (1 - b)
        ab.append(math.sqrt(product) if f.get("root_table") else product)
    if f.get("float32_product"):
        ab = np.cumprod(np.float32(1) - np.array(betas, np.float32), dtype=np.float32).astype(float).tolist()
    shift = f.get("shift", 0)
    level = [ab[min(max(t + shift, 0), T - 1)] for t in range(T)]
    path = [i * (T // S) for i in range(S)][::-1]
    if f.get("trailing"):
        path = [round(T - i * T / S) - 1 for i in range(S)]
    if f.get("linspace"):
        path = [round(i * (T - 1) / (S - 1)) for i in range(S)][::-1]
    path = [t + f.get("higher", 0) for t in path]
    if f.get("ascending"):
        path = path[::-1]
    eta = f.get("eta", case.said.get("eta", 0.0))
    x = case.x_T.astype(dtype)
    if f.get("scaled_start"):
        x = x * math.sqrt(1 - level[path[0]])
    for k, t in enumerate(path):
        a = level[t]
        after = path[k + 1] if k + 1 < S else -1
        if f.get("neighbour"):
            after = t - 1
        b = level[after] if after >= 0 else (level[0] if f.get("first") else 1.0)
        told = {"plus": t + 1, "minus": t - 1, "unit": t / T, "index": S - 1 - k, "count": k, "goes": max(after, 0)}.get(
            f.get("told", ""), t)
        out = case.network(x.astype(float), np.full(len(x), float(told))).astype(dtype) * (-1 if f.get("minus") else 1)
        if f.get("reads") == "v":
            x0, eps = math.sqrt(a) * x - math.sqrt(1 - a) * out, math.sqrt(a) * out + math.sqrt(1 - a) * x
        elif f.get("reads") == "x0":
            x0, eps = out, (x - math.sqrt(a) * out) / math.sqrt(1 - a)
        else:
            eps = out
            x0 = (x - (1 - a if f.get("noise_root") else math.sqrt(1 - a)) * eps) / (a if f.get("unrooted") else math.sqrt(a))
        if f.get("clip"):
            x0 = np.clip(x0, -1, 1)
        if f.get("clip") == "again" or f.get("reads") is None and (f.get("unrooted") or f.get("noise_root")):
            eps = (x - math.sqrt(a) * x0) / math.sqrt(1 - a)  # the plain convention takes eps from x0
        sigma = eta * math.sqrt(max((1 - b) / (1 - a) * (1 - a / b), 0))
        if f.get("eta_variance"):
            sigma = math.sqrt(eta) * math.sqrt(max((1 - b) / (1 - a) * (1 - a / b), 0))
        if f.get("add") is not None:
            sigma *= f["add"]
        into = {"no_sigma": 1 - b, "sigma": max(1 - b - sigma, 0), "same": 1 - a}.get(f.get("into", ""), max(1 - b - sigma**2, 0))
        x = math.sqrt(a if f.get("kept") else b) * x0 + (into if f.get("flat") else math.sqrt(into)) * eps
        if case.noise is not None and k + 1 < S and not f.get("silent"):
            which = {"once": 0, "reverse": S - 1 - k, "next": k + 1}.get(f.get("z", ""), k)
            z = case.noise[which].astype(dtype) if f.get("z") != "start" else case.x_T.astype(dtype)
            z = z[:1] if f.get("z") == "shared" else z
            x = x + (sigma**2 if f.get("variance") else sigma) * z * (-1 if f.get("z") == "minus" else 1)
        if f.get("clip_state"):
            x = np.clip(x, -1, 1)
        x = x.astype(dtype)
        if f.get("stops") and k == S - 2:
            break
    x = np.clip(x, -1, 1) if f.get("clip_end") else x
    return (x + 1) / 2 if f.get("unit_images") else x


NOISELESS: list[tuple[str, Flaw]] = [
    ("the last alpha_bar equals that of index 0", {"first": 1}), ("the network is told t + 1", {"told": "plus"}),
    ("the network is told t - 1", {"told": "minus"}), ("the network is told t / T", {"told": "unit"}),
    ("the network is told the number of the step", {"told": "index"}),
    ("the network is told the step counted from the start", {"told": "count"}),
    ("the network is told the timestep that the step goes to", {"told": "goes"}),
    ("the spacing trailing", {"trailing": 1}), ("the spacing linspace", {"linspace": 1}),
    ("every timestep of the path one higher", {"higher": 1}),
    ("the step before is t - 1, not the path's next", {"neighbour": 1}),
    ("alpha_bar one timestep early: t - 1 for t in the tables", {"shift": -1}),
    ("alpha_bar one timestep late: t + 1 for t in the tables", {"shift": 1}),
    ("alpha for alpha_bar: no product of the alphas", {"no_product": 1}),
    ("linear betas without their last point", {"endless": 1}),
    ("betas that end at 0.01, half of what they should", {"end": 0.01}), ("betas of the schedule cosine", {"cosine": 1}),
    ("betas of the schedule quad", {"squared": 1}), ("the output with the opposite sign", {"minus": 1}),
    ("the output read as v", {"reads": "v"}), ("the output read as x0", {"reads": "x0"}),
    ("x0 divided by alpha_bar, not by its square root", {"unrooted": 1}),
    ("1 - alpha_bar without its square root before eps", {"noise_root": 1}),
    ("x0 clipped to [-1, 1], eps derived again", {"clip": "again"}),
    ("x0 clipped to [-1, 1], eps as the network gives it", {"clip": "kept"}),
    ("the state clipped to [-1, 1] after every step", {"clip_state": 1}),
    ("the images clipped to [-1, 1] at the end", {"clip_end": 1}),
    ("the images in [0, 1], not [-1, 1]", {"unit_images": 1}), ("x_T scaled by sqrt(1 - alpha_bar)", {"scaled_start": 1}),
    ("sqrt(1 - alpha_bar) of the state before the step, not after it", {"into": "same"}),
    ("sqrt(alpha_bar) of the state before the step, not after it", {"kept": 1}),
    ("no square root over 1 - alpha_bar_prev before eps", {"flat": 1}),
    ("the last alpha_bar equals that of index 0", {"stops": 1}),  # a step left out: from t = 0 both leave the image where it is
    (UNKNOWN, {"start": 2e-4}), (UNKNOWN, {"end": 0.03}), (UNKNOWN, {"higher": 2}), (UNKNOWN, {"shift": 2}),
    (PAIR, {"told": "plus", "trailing": 1}), (PAIR, {"first": 1, "minus": 1}), (PAIR, {"clip": "again", "told": "minus"}),
    (PAIR, {"cosine": 1, "told": "plus"}), (PAIR, {"end": 0.01, "first": 1}), (PAIR, {"linspace": 1, "flat": 1}),
    (PAIR, {"reads": "v", "told": "goes"}), (PAIR, {"clip_state": 1, "told": "plus"})]
SILENT: list[tuple[str, Flaw]] = [("the path ascending, from clean to noise", {"ascending": 1})]  # else sigma is no number
NOISY: list[tuple[str, Flaw]] = [
    ("sqrt(1 - alpha_bar_prev) before eps, without sigma^2", {"into": "no_sigma"}),
    ("1 - alpha_bar_prev - sigma before eps, sigma not squared", {"into": "sigma"}),
    ("eta scales the variance, not the standard deviation", {"eta_variance": 1}),
    ("eta is ignored, as if it were 1, as ddpm with beta_tilde is", {"eta": 1.0}),
    ("eta is ignored, as if it were 0", {"eta": 0.0}), ("no noise is added", {"silent": 1}),
    ("the noise of the first step at every step", {"z": "once"}), ("the noise of the steps in reverse order", {"z": "reverse"}),
    ("the noise of the next step", {"z": "next"}), ("one noise for all images of a batch", {"z": "shared"}),
    ("noise with the opposite sign", {"z": "minus"}), ("noise from x_T at every step", {"z": "start"}),
    ("the variance before the noise, not its square root", {"variance": 1}),
    (UNKNOWN, {"eta": 0.123}), (UNKNOWN, {"add": 1.1}), (PAIR, {"z": "minus", "told": "plus"}),
    (PAIR, {"eta": 1.0, "z": "reverse"}), (PAIR, {"silent": 1, "first": 1})]


def diffusers(case: Case, change: Callable[[Any], None] | None = None, told: Callable[[float], float] = float,
              sign: int = 1, eta: float | None = None, z: Callable[[int], int] = int, unit: bool = False, again: bool = False,
              **config: Any) -> np.ndarray:
    """diffusers' DDIMScheduler: its config, its tables and the caller's loop are changed."""
    import torch
    from diffusers import DDIMScheduler

    S = case.said["steps"]
    code = DDIMScheduler(**{"num_train_timesteps": case.diffusion.timesteps, "beta_start": 1e-4, "beta_end": 0.02, **config})
    code.set_timesteps(S)
    if change:
        change(code)
    x = torch.from_numpy(case.x_T).float()
    for k, t in enumerate(code.timesteps):
        out = case.network(x.double().numpy(), np.full(len(x), told(float(t)))) * sign
        noise = None if case.noise is None else torch.from_numpy(case.noise[z(k)]).float()
        x = code.step(torch.from_numpy(out).float(), t, x, eta=case.said.get("eta", 0.0) if eta is None else eta,
                      use_clipped_model_output=again, variance_noise=noise).prev_sample
    x = x.numpy()
    return (x + 1) / 2 if unit else x


def _tables(of: Callable[[Any], Any]) -> Callable[[Any], None]:
    def change(code: Any) -> None:
        code.alphas_cumprod = of(code)
    return change


def in_diffusers(noisy: bool) -> list[tuple[str, dict[str, Any]]]:
    import torch

    def before(code: Any) -> Any:
        return torch.cat((torch.ones(1), code.alphas_cumprod[:-1]))

    still = [
        ("the last alpha_bar equals that of index 0", {"set_alpha_to_one": False}), ("x0 not clipped", {"clip_sample": False}),
        ("eps derived again from the clipped x0", {"again": True}), ("the output read as v", {"prediction_type": "v_prediction"}),
        ("the output read as x0", {"prediction_type": "sample"}),
        ("betas of the schedule quad", {"beta_schedule": "scaled_linear"}),
        ("betas of the schedule cosine", {"beta_schedule": "squaredcos_cap_v2"}),
        ("betas that end at 0.01, half of what they should", {"beta_end": 0.01}),
        ("every timestep of the path one higher", {"steps_offset": 1}),
        ("betas rescaled to a zero terminal SNR", {"rescale_betas_zero_snr": True}),
        ("x0 by a dynamic threshold", {"thresholding": True, "clip_sample": False, "sample_max_value": 1e9}),
        ("alpha for alpha_bar: no product of the alphas", {"change": _tables(lambda code: code.alphas)}),
        ("alpha_bar of the timestep before, 1 before the first: alphas_cumprod_prev for alphas_cumprod",
         {"change": _tables(before)}),
        ("the network is told t + 1", {"told": lambda t: t + 1}), ("the network is told t - 1", {"told": lambda t: t - 1}),
        ("the network is told t / T", {"told": lambda t: t / 1000}), ("the output with the opposite sign", {"sign": -1}),
        ("the images in [0, 1], not [-1, 1]", {"unit": True}), (UNKNOWN, {"beta_end": 0.012}),
        (UNKNOWN, {"clip_sample_range": 1.5}),
        (PAIR, {"set_alpha_to_one": False, "sign": -1}), (PAIR, {"steps_offset": 1, "clip_sample": False}),
        (PAIR, {"prediction_type": "v_prediction", "set_alpha_to_one": False})]
    return still + noisy * [
        ("eta is ignored, as if it were 1, as ddpm with beta_tilde is", {"eta": 1.0}),
        ("eta is ignored, as if it were 0", {"eta": 0.0}), ("the noise of the first step at every step", {"z": lambda k: 0}),
        (PAIR, {"eta": 1.0, "told": lambda t: t + 1})]


def lucidrains(case: Case, change: Callable[[Any], None] | None = None, told: Callable[[Any], Any] = lambda t: t, sign: int = 1,
               z: Callable[[int], int] = int, **config: Any) -> np.ndarray:
    """The package's GaussianDiffusion: its arguments, its buffers and the caller's network are changed."""
    import_torchvision()
    import torch
    from denoising_diffusion_pytorch import GaussianDiffusion

    class Net(torch.nn.Module):
        channels = out_dim = case.x_T.shape[1]
        self_condition = False

        def forward(self, x: Any, t: Any, *_: Any) -> Any:
            return torch.from_numpy(case.network(x.double().numpy(), told(t).double().numpy()) * sign).float()

    given = {"objective": "pred_noise", "beta_schedule": "linear", "ddim_sampling_eta": case.said.get("eta", 0.0), **config}
    code = GaussianDiffusion(Net(), image_size=case.x_T.shape[-1], timesteps=case.diffusion.timesteps, auto_normalize=False,
                             sampling_timesteps=case.said["steps"], **given)
    if change:
        change(code)
    asked = iter(range(case.said["steps"]))
    randn, randn_like = torch.randn, torch.randn_like
    torch.randn = lambda *_, **__: torch.from_numpy(case.x_T).float()
    torch.randn_like = lambda x: (torch.zeros_like(x) if case.noise is None
                                  else torch.from_numpy(case.noise[z(next(asked))]).float())
    try:
        return code.ddim_sample(case.x_T.shape).numpy()
    finally:
        torch.randn, torch.randn_like = randn, randn_like


def _buffers(make: Callable[[Any], Any]) -> Callable[[Any], None]:
    """All tables that the path uses, from another alpha_bar."""
    def change(code: Any) -> None:
        ab = make(code)
        code.alphas_cumprod = ab
        code.sqrt_recip_alphas_cumprod, code.sqrt_recipm1_alphas_cumprod = (1 / ab).sqrt(), (1 / ab - 1).sqrt()
        code.sqrt_alphas_cumprod, code.sqrt_one_minus_alphas_cumprod = ab.sqrt(), (1 - ab).sqrt()
    return change


def in_lucidrains(noisy: bool) -> list[tuple[str, dict[str, Any]]]:
    import torch

    still = [
        ("betas of the schedule cosine", {"beta_schedule": "cosine"}), ("the output read as v", {"objective": "pred_v"}),
        ("the output read as x0", {"objective": "pred_x0"}),
        ("alpha for alpha_bar: no product of the alphas", {"change": _buffers(lambda code: 1 - code.betas)}),
        ("alpha_bar one timestep late: t + 1 for t in the tables",
         {"change": _buffers(lambda code: torch.cat((code.alphas_cumprod[1:], code.alphas_cumprod[-1:])))}),
        ("the network is told t + 1", {"told": lambda t: t + 1}), ("the network is told t - 1", {"told": lambda t: t - 1}),
        ("the network is told t / T", {"told": lambda t: t.double() / 1000}), ("the output with the opposite sign", {"sign": -1}),
        (UNKNOWN, {"told": lambda t: t + 2}), (PAIR, {"objective": "pred_v", "told": lambda t: t + 1}),
        (PAIR, {"beta_schedule": "cosine", "sign": -1})]
    return still + noisy * [
        ("eta is ignored, as if it were 1, as ddpm with beta_tilde is", {"ddim_sampling_eta": 1.0}),
        ("eta is ignored, as if it were 0", {"ddim_sampling_eta": 0.0}),
        ("the noise of the first step at every step", {"z": lambda k: 0}), (UNKNOWN, {"ddim_sampling_eta": 0.2})]
