"""A library in torch as a contender of the speed table.

`stock` is the library as its examples use it, eager in the spec's
dtype; `tuned` adds what the torch backend uses: channels_last, `torch.compile`, fused Adam, and with bfloat16 a network drawn in
bfloat16 and trained under autocast. A peer's training step is loss, gradients, clipping and Adam. It keeps no moving average of
the weights, which the backends do: ratios to it are lower bounds. Its TF32 setting is torch's default.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import numpy as np

from backends.protocol import Batch, Spec
from reference.config import require

DTYPES = ("float32", "bfloat16")


def require_plain(spec: Spec) -> None:
    """Raise `ConfigError` for a device or process that no peer is timed on."""
    require(spec.device.partition(":")[0] in ("cpu", "cuda"), "device", spec.device, "peers run on cpu and cuda")
    d = spec.diffusion
    require((d.schedule, d.objective, d.loss, d.loss_weight) == ("linear", "eps", "l2", "none") and not d.learned_variance
            and not d.self_conditioning, "diffusion", d, "peers are timed on the plain process: linear betas, eps, l2")


class Peer:
    """A library's network and training step in torch."""

    network: Any  # torch.nn.Module

    def __init__(self, spec: Spec) -> None:
        import torch

        require_plain(spec)
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
