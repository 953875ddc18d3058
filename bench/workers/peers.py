"""What users would pick instead, as contenders of the speed table: diffusers, and lucidrains' denoising-diffusion-pytorch.

A peer takes the same commands in a worker as a backend does. `stock` is the library as its examples use it, eager in the spec's
dtype; `tuned` adds what the torch backend uses: channels_last, `torch.compile`, fused Adam, and with bfloat16 a network drawn in
bfloat16 and trained under autocast. A peer's training step is loss, gradients, clipping and Adam. It keeps no moving average of
the weights, which the backends do: ratios to it are lower bounds. Its TF32 setting is torch's default.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from backends import NotInstalled
from backends.protocol import Batch, Spec
from bench.metric.torchvision_shim import import_torchvision
from bench.weights.diffusers_config import PREDICTION_TYPES, scheduler_json, unet_json
from reference.config import require
from reference.conventions import Plan
from reference.weights import Weights

INSTALL = 'pip install -e ".[peers]"'
DTYPES = ("float32", "bfloat16")


def create(name: str, spec: Spec) -> Peer:
    """The peer `diffusers` or `lucidrains`. Raises `NotInstalled`, and `ConfigError` for a process that it does not have."""
    try:
        return PEERS[name](spec)
    except ImportError as error:
        raise NotInstalled(f"peer {name!r}: {error}; to install: {INSTALL}") from error


class Peer:
    """A library's network and training step in torch."""

    network: Any  # torch.nn.Module

    def __init__(self, spec: Spec) -> None:
        import torch

        require(spec.dtype in DTYPES, "dtype", spec.dtype, f"peers are timed in {' and '.join(DTYPES)}")
        require(spec.device.partition(":")[0] in ("cpu", "cuda"), "device", spec.device, "peers run on cpu and cuda")
        d = spec.diffusion
        require((d.schedule, d.objective, d.loss, d.loss_weight) == ("linear", "eps", "l2", "none") and not d.learned_variance
                and not d.self_conditioning, "diffusion", d, "peers are timed on the plain process: linear betas, eps, l2")
        self.spec, self.tuned, self.device = spec, spec.mode == "tuned", torch.device(spec.device)
        self.network = self.build().to(self.device)
        if self.tuned:
            self.network.to(memory_format=torch.channels_last)
        o = spec.optim
        self.adam = torch.optim.Adam(self.network.parameters(), lr=o.lr, betas=(o.beta1, o.beta2), eps=o.eps,
                                     fused=self.tuned or None)
        self.trained = torch.compile(self.network) if self.tuned else self.network

    def build(self) -> Any:
        """The network."""
        raise NotImplementedError

    def loss(self, x0: Any, t: Any, noise: Any) -> Any:
        """The training loss, a scalar."""
        raise NotImplementedError

    def size(self) -> dict[str, int]:
        """Parameters, and FLOPs of one image's forward pass as torch counts them on the eager network."""
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter, torch.no_grad(), torch.nn.attention.sdpa_kernel(
                torch.nn.attention.SDPBackend.MATH):
            self.network(torch.zeros(1, *self.spec.image_shape, device=self.device), torch.zeros(1, device=self.device))
        return {"parameters": sum(p.numel() for p in self.network.parameters()), "flops_per_image": counter.get_total_flops()}

    def device_info(self) -> dict[str, str]:
        """What runs where."""
        import torch

        cuda = self.device.type == "cuda"
        out = {"framework": f"torch {torch.__version__}", "threads": str(torch.get_num_threads()),
               "device": torch.cuda.get_device_name(self.device) if cuda else "cpu",
               "execution": "compiled" if self.tuned else "eager", "layout": "channels_last" if self.tuned else "contiguous_format",
               "tf32": str(torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32)}
        return out | ({"peak_memory_bytes": str(torch.cuda.max_memory_allocated(self.device))} if cuda else {})

    def to_device(self, array: np.ndarray) -> Any:
        """Copy to the device."""
        import torch
        return torch.tensor(array, device=self.device)

    def to_host(self, tensor: Any) -> np.ndarray:
        """Copy back."""
        return tensor.detach().cpu().float().contiguous().numpy()

    def synchronize(self, *results: Any) -> None:
        """Return when all queued work is done."""
        import torch
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def train_step(self, batch: Batch) -> Any:
        """One optimiser step."""
        import torch

        self.network.train()
        x0, t, noise = (self.to_device(array) for array in (batch.x0, batch.t, batch.noise))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.spec.dtype == "bfloat16"):
            loss = self.loss(x0, t, noise)
        loss.backward()
        if self.spec.optim.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.spec.optim.max_grad_norm)
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        return loss.detach()

    @functools.cached_property
    def drawing(self) -> Any:
        """The network that samples, with the weights of its first use; CUDA graphs spare it the launches there."""
        import torch

        network = copy.deepcopy(self.network).eval()
        if self.spec.dtype == "bfloat16":
            network = network.to(torch.bfloat16)
        if not self.tuned:
            return network
        return torch.compile(network, mode="reduce-overhead" if self.device.type == "cuda" else "default")

    def _inputs(self, x: Any) -> Any:
        import torch
        dtype = torch.bfloat16 if self.spec.dtype == "bfloat16" else torch.float32
        return x.to(dtype, memory_format=torch.channels_last if self.tuned else torch.contiguous_format)


class Diffusers(Peer):
    """`UNet2DModel` of the same config, trained with Adam as in its training example; `DDIMScheduler` on tensors."""

    def build(self) -> Any:
        """`UNet2DModel`, with our config in its own words."""
        import_torchvision()
        from diffusers import UNet2DModel

        config = {key: value for key, value in unet_json(self.spec.model).items() if key[0] != "_" and key != "ddim_bench"}
        return UNet2DModel(**config)

    def load_weights(self, weights: Weights) -> None:
        """Canonical names are its own."""
        import torch
        self.network.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in weights.items()})
        self.__dict__.pop("drawing", None)

    def forward(self, x: Any, t: Any, *, ema: bool = False) -> Any:
        """The network in inference mode."""
        import torch
        with torch.inference_mode():
            return self.drawing(self._inputs(x), t).sample.float()

    @functools.cached_property
    def noising(self) -> Any:
        """Its `DDPMScheduler`, which adds the training noise."""
        from diffusers import DDPMScheduler
        return DDPMScheduler(**_scheduler(self.spec))

    def loss(self, x0: Any, t: Any, noise: Any) -> Any:
        """Mean squared error of the noise."""
        import torch
        noisy = self.noising.add_noise(x0, noise, t)
        if self.tuned:
            noisy = noisy.contiguous(memory_format=torch.channels_last)
        return torch.nn.functional.mse_loss(self.trained(noisy, t).sample.float(), noise)

    def sample(self, x: Any, plan: Plan, noise: None = None, *, ema: bool = True,
               on_step: Callable[[int], None] | None = None) -> Any:
        """The plan's steps, with eta = 0, by `DDIMScheduler.step`."""
        import torch
        from diffusers import DDIMScheduler

        scheduler: Any = DDIMScheduler(**_scheduler(self.spec), clip_sample=plan.clip == "clip", timestep_spacing="leading",
                                       set_alpha_to_one=plan.final_alpha_bar == "one")
        T = self.spec.diffusion.timesteps
        scheduler.set_timesteps(T // (plan.timesteps[0] - plan.previous[0]) if plan.previous[0] >= 0 else 1)
        told = scheduler.timesteps[:plan.steps]
        require(tuple(told.tolist()) == plan.timesteps and plan.eta == 0, "plan", plan.timesteps[:3],
                "diffusers is timed on evenly spaced steps that start from 0, with eta = 0")
        on_device = told.to(self.device)
        with torch.inference_mode():
            for i in range(plan.steps):
                output = self.drawing(self._inputs(x), on_device[i]).sample.float()
                x = scheduler.step(output, int(told[i]), x, use_clipped_model_output=plan.rederive_eps).prev_sample
                if on_step is not None:
                    on_step(i)
        return x


class Lucidrains(Peer):
    """The nearest `Unet`: same widths (in whole multiples of the first), full attention at the same levels, all else its default.

    It has two blocks a level, a 7x7 first convolution, RMSNorm, four heads of 32, and linear attention wherever ours has none,
    so its parameters and FLOPs differ and stand beside its times. Its weights are its own.
    """

    def build(self) -> Any:
        """`Unet`."""
        import_torchvision()
        from denoising_diffusion_pytorch import GaussianDiffusion, Unet

        model, T = self.spec.model, self.spec.diffusion.timesteps
        first = model.block_out_channels[0]
        network = Unet(dim=first, dim_mults=tuple(max(1, round(width / first)) for width in model.block_out_channels),
                       channels=model.in_channels, full_attn=tuple("Attn" in kind for kind in model.down_block_types),
                       flash_attn=self.tuned)
        self.process = GaussianDiffusion(network, image_size=model.sample_size, timesteps=T, sampling_timesteps=T,
                                         objective="pred_noise", beta_schedule="linear", auto_normalize=False).to(self.device)
        return network

    def load_weights(self, weights: Weights) -> None:
        """Ours do not fit it: it starts from its own again."""
        self.__dict__.pop("drawing", None)

    def loss(self, x0: Any, t: Any, noise: Any) -> Any:
        """Its own loss."""
        self.process.model = self.trained
        return self.process.p_losses(x0, t, noise=noise)

    def sample(self, x: Any, plan: Plan, noise: None = None, *, ema: bool = True,
               on_step: Callable[[int], None] | None = None) -> Any:
        """As many steps by its own `ddim_sample`, from its own noise."""
        import torch

        self.process.model = self.drawing
        self.process.sampling_timesteps = plan.steps
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.spec.dtype == "bfloat16"):
            return self.process.ddim_sample(tuple(x.shape))


def _scheduler(spec: Spec) -> dict[str, Any]:
    values = scheduler_json(spec.diffusion)
    keys = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")
    return {key: values[key] for key in keys} | {"prediction_type": PREDICTION_TYPES[spec.diffusion.objective]}


PEERS: dict[str, type[Peer]] = {"diffusers": Diffusers, "lucidrains": Lucidrains}
