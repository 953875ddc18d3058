"""lucidrains' denoising-diffusion-pytorch, which tutorials take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.metric.torchvision_shim import import_torchvision
from bench.workers.peers.peer import Peer
from reference.conventions import Plan
from reference.weights import Weights


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
