"""The reference against the classes of improved-diffusion and the functions of the DDIM code themselves, run beside it.

Neither is a package. `DDIM_BENCH_PUBLIC_CODES=FOLDER pytest --slow tests/reference/test_public_codes.py -s` takes FOLDER with
clones of github.com/openai/improved-diffusion and github.com/ermongroup/ddim, under these names, and prints how many arrays were
compared.
"""

from __future__ import annotations

import os
import sys
import types
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from reference import diffusion, likelihood, schedules
from reference.config import DiffusionConfig
from reference.conventions import adopt, make_encode_plan, make_plan
from reference.respacing import respaced
from reference.samplers import coefficients, step

CODES = Path(os.environ.get("DDIM_BENCH_PUBLIC_CODES", "/none"))
pytestmark = [pytest.mark.slow, pytest.mark.recorded,
              pytest.mark.skipif(not CODES.is_dir(), reason="needs DDIM_BENCH_PUBLIC_CODES")]

N, SHAPE = 5, (2, 4, 4)
RNG = np.random.default_rng(0)
NOISE, Z = RNG.standard_normal((2, N, *SHAPE))
IMAGES = RNG.integers(0, 256, (N, *SHAPE)) / 127.5 - 1
OUTPUT = RNG.uniform(-1, 1, (N, 2 * SHAPE[0], *SHAPE[1:]))  # with a half for the variance
# Schedule, T, the code's name of a respacing, and our steps and spacing.
PROCESSES = [("linear", 100, "", 100, "linspace"), ("cosine", 50, "", 50, "linspace"), ("linear", 100, "10", 10, "linspace"),
             ("linear", 100, "ddim5", 5, "leading"), ("cosine", 60, "10,5,3", (10, 5, 3), None),
             ("linear", 4000, "25", 25, "linspace")]
MEANS = {"previous": "PREVIOUS_X", "x0": "START_X", "eps": "EPSILON"}
VARIANCES = {"small": "FIXED_SMALL", "large": "FIXED_LARGE", "learned": "LEARNED", "learned_range": "LEARNED_RANGE"}
LOSSES: dict[str, dict] = {"MSE": {"rescale_bound": False}, "RESCALED_MSE": {}, "KL": {"loss": "kl"},
                           "RESCALED_KL": {"loss": "rescaled_kl"}}
BITS = 1e-7  # the likelihood of a pixel is the difference of two numbers near each other


class Count:
    """Arrays that were compared."""

    arrays = 0

    def hold(self, ours, theirs, tolerance: float = 5e-9) -> None:
        self.arrays += 1
        theirs = np.asarray(theirs, np.float64)
        error = np.abs(np.asarray(ours, np.float64) - theirs) / np.maximum(1, np.abs(theirs))
        assert error.max() < tolerance, error.max()


@pytest.fixture
def iddpm(monkeypatch):
    """Their modules, of which all arithmetic is float64."""
    torch = pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(CODES / "improved-diffusion"))
    from improved_diffusion import gaussian_diffusion, respace

    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    monkeypatch.setattr(gaussian_diffusion.th, "randn_like", lambda x: torch.from_numpy(Z))
    yield gaussian_diffusion, respace
    for name in [name for name in sys.modules if name.startswith("improved_diffusion")]:
        del sys.modules[name]


@pytest.mark.parametrize("schedule, T, kept, steps, spacing", PROCESSES)
def test_improved_diffusion(iddpm, schedule, T, kept, steps, spacing):
    """Every mean, variance and loss: what the network is told, losses, samples, encodings and the bound of whole images."""
    torch, (gaussian, respace), count = pytest.importorskip("torch"), iddpm, Count()
    for mean, variance in product(MEANS, VARIANCES):
        output = OUTPUT if variance.startswith("learned") else OUTPUT[:, : SHAPE[0]]
        told: list[np.ndarray] = []

        def model(x, t, told=told, output=output):
            told.append(t.numpy())
            return torch.from_numpy(output)

        def theirs(loss, mean=mean, variance=variance):
            use = respace.space_timesteps(T, kept or [T])
            return respace.SpacedDiffusion(
                use_timesteps=use, betas=gaussian.get_named_beta_schedule(schedule, T), rescale_timesteps=True,
                model_mean_type=gaussian.ModelMeanType[MEANS[mean]], model_var_type=gaussian.ModelVarType[VARIANCES[variance]],
                loss_type=gaussian.LossType[loss])

        process = DiffusionConfig(schedule=schedule, timesteps=T, objective=mean, variance=variance)

        def shortened(loss, process=process):
            whole = adopt(replace(process, **LOSSES[loss]), "nichol2021")
            return respaced(whole, steps, spacing=spacing, convention="nichol2021") if kept else whole

        for loss in LOSSES:
            config, code = shortened(loss), theirs(loss)
            t = np.array([0, 1, code.num_timesteps // 2, code.num_timesteps - 2, code.num_timesteps - 1])
            terms = code.training_losses(model, torch.from_numpy(IMAGES), torch.from_numpy(t), noise=torch.from_numpy(NOISE))
            each = [diffusion.loss(config, IMAGES[[i]], t[[i]], NOISE[[i]], output[[i]]) for i in range(N)]
            count.hold(each, terms["loss"], BITS)
            count.hold(diffusion.network_t(config, t), told[-1], 1e-6)  # ours is their float32 product
        count = sampled(count, torch, theirs("MSE"), model, told, process, output, steps, spacing)
        if T <= 100:
            bits = theirs("MSE").calc_bpd_loop(model, torch.from_numpy(IMAGES))
            prior, parts = likelihood.bound(shortened("MSE"), lambda x, t, output=output: output, IMAGES, lambda i: Z, clip=True)
            count.hold(prior, bits["prior_bpd"])
            count.hold(parts[:, ::-1], bits["vb"], BITS)
    print(f"{schedule} T={T} {kept or 'whole'}: {count.arrays} arrays")


def sampled(count: Count, torch, code, model, told, process: DiffusionConfig, output: np.ndarray, steps, spacing) -> Count:
    """The samples of a path's first, second, middle and last two steps, clipped and not."""
    x = torch.from_numpy(NOISE)
    for clip, (sampler, eta) in product((False, True), (("ddpm", None), ("ddim", 0.0), ("ddim", 0.7), ("encode", None))):
        literal = process.objective == "previous" and sampler == "ddpm"  # the mean is the output: clipping moves nothing
        how = {"spacing": spacing, "convention": "nichol2021", "clip": None if literal else "clip" if clip else "none"}
        if sampler == "encode":
            plan, theirs = make_encode_plan(process, steps, **how), code.ddim_reverse_sample
        else:
            variance = process.variance if sampler == "ddpm" else None
            plan = make_plan(process, steps, sampler=sampler, eta=eta, variance=variance, **how)
            theirs = code.p_sample if sampler == "ddpm" else code.ddim_sample
        c, more = coefficients(plan), {} if eta is None else {"eta": eta}
        for i in sorted({0, 1, plan.steps // 2, plan.steps - 2, plan.steps - 1}):
            t = torch.full((N,), i if sampler == "encode" else plan.steps - 1 - i)
            got = theirs(model, x, t, clip_denoised=clip, **more)
            after, x0 = step(NOISE, output, i, plan, Z if plan.needs_noise and plan.noise_gate[i] else None, c)
            count.hold(after, got["sample"])
            count.hold(c["network_t"][i], told[-1][0], 1e-6)
            if not literal:
                count.hold(x0, got["pred_xstart"])
    return count


def functions(path: str, source: str = "") -> types.ModuleType:
    """A file of the DDIM code as a module, on the CPU."""
    module = types.ModuleType(path)
    exec(source or (CODES / "ddim" / path).read_text().replace(".to('cuda')", ""), module.__dict__)
    return module


@pytest.mark.parametrize("schedule", ["linear", "quad", "const", "jsd", "sigmoid"])
def test_the_ddim_code(schedule, monkeypatch):
    """Betas, the loss of the images, and from each state of its paths in float32 the next."""
    torch, count = pytest.importorskip("torch"), Count()
    text = (CODES / "ddim" / "runners" / "diffusion.py").read_text()
    betas = functions("betas", "import numpy as np\n" + text[text.index("def get_beta_schedule"):text.index("class Diffusion")])
    denoising, losses = functions("functions/denoising.py"), functions("functions/losses.py")
    process = DiffusionConfig(schedule=schedule)
    theirs = betas.get_beta_schedule(schedule, beta_start=1e-4, beta_end=0.02, num_diffusion_timesteps=1000)
    count.hold(schedules.betas(process), theirs, 1e-12)
    b, output = torch.from_numpy(theirs), OUTPUT[:, : SHAPE[0]]
    for i, t in enumerate((0, 500, 999)):
        image, noise, out = IMAGES[[i]], NOISE[[i]], output[[i]]
        loss = losses.noise_estimation_loss(lambda x, t, out=out: torch.from_numpy(out), torch.from_numpy(image), torch.tensor([t]),
                                            torch.from_numpy(noise), b)
        count.hold(diffusion.loss(adopt(process, "song2021"), image, np.array([t]), noise, out), loss)
    monkeypatch.setattr(torch, "randn_like", lambda x: torch.from_numpy(Z).float())
    for (kind, S), (sampler, eta) in product((("leading", 10), ("quad", 10), ("leading", 50), ("quad", 50), ("leading", 30)),
                                             (("ddim", 0.0), ("ddim", 0.5), ("ddim", 1.0), ("ddpm", None))):
        plan = make_plan(process, S, sampler=sampler, eta=eta, spacing=kind, convention="song2021")
        run = denoising.ddpm_steps if sampler == "ddpm" else denoising.generalized_steps
        seq = range(0, 1000, 1000 // S) if kind == "leading" else [int(t) for t in np.linspace(0, np.sqrt(800), S) ** 2]
        count.hold(plan.timesteps[::-1], seq)
        states, x0s = run(torch.from_numpy(NOISE).float(), seq, lambda x, t: 0.9 * torch.tanh(x), b.float(), eta=eta)
        c = coefficients(plan)
        for i, (x, after, x0) in enumerate(zip(states, states[1:], x0s, strict=False)):
            given = Z if plan.needs_noise and plan.noise_gate[i] else None
            ours = step(x.double().numpy(), (0.9 * torch.tanh(x)).double().numpy(), i, plan, given, c)
            count.hold(ours[0], after, 1e-4)  # near t = 0 beta is a difference of float32 numbers there
            count.hold(ours[1], x0, 1e-4)
    print(f"{schedule}: {count.arrays} arrays")
