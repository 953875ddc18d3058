"""diffusers, the library that most people take."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from backends.protocol import Spec
from bench.metric.torchvision_shim import import_torchvision
from bench.weights.diffusers_config import PREDICTION_TYPES, scheduler_json, unet_json
from bench.workers.peers.peer import Peer
from reference.config import require
from reference.conventions import Plan
from reference.weights import Weights


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


def _scheduler(spec: Spec) -> dict[str, Any]:
    values = scheduler_json(spec.diffusion)
    keys = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")
    return {key: values[key] for key in keys} | {"prediction_type": PREDICTION_TYPES[spec.diffusion.objective]}
