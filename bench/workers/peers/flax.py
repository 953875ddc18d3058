"""A plain port to Flax, as its guides write one: modules of `flax.linen`, Adam of optax, one `jax.jit` a step."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from backends.protocol import Batch, Spec
from reference import samplers, schedules
from reference.config import ModelConfig, require
from reference.conventions import Plan
from reference.weights import Weights, initialise

PLAIN = ("resnet_time_scale_shift", "attn_norm_num_groups", "downsample_type", "upsample_type", "add_attention",
         "center_input_sample", "time_embedding_dim", "act_fn", "mid_block_type", "mid_block_scale_factor")  # as by default


class Resnet(nn.Module):
    """x (N, H, W, cin) and temb (N, time width) to (N, H, W, width)."""

    width: int
    config: ModelConfig

    @nn.compact
    def __call__(self, x: Any, temb: Any, train: bool) -> Any:
        norm = partial(nn.GroupNorm, self.config.norm_num_groups, epsilon=self.config.norm_eps)
        h = nn.Conv(self.width, (3, 3), name="conv1")(nn.silu(norm(name="norm1")(x)))
        h = h + nn.Dense(self.width, name="time_emb_proj")(nn.silu(temb))[:, None, None]
        h = nn.silu(norm(name="norm2")(h))
        h = nn.Conv(self.width, (3, 3), name="conv2")(nn.Dropout(self.config.dropout, deterministic=not train)(h))
        return h + (x if x.shape[-1] == self.width else nn.Conv(self.width, (1, 1), name="conv_shortcut")(x))


class Attention(nn.Module):
    """Self-attention over the positions of x (N, H, W, C)."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x: Any) -> Any:
        n, h, w, c = x.shape
        tokens = nn.GroupNorm(self.config.norm_num_groups, epsilon=self.config.norm_eps, name="group_norm")(x).reshape(n, h * w, c)
        q, k, v = (nn.Dense(c, name=name)(tokens).reshape(n, h * w, self.config.heads(c), -1) for name in ("to_q", "to_k", "to_v"))
        return x + nn.Dense(c, name="to_out.0")(nn.dot_product_attention(q, k, v).reshape(n, h * w, c)).reshape(x.shape)


class UNet(nn.Module):
    """Output (N, out_channels, H, W) for x (N, in_channels, H, W) and t (N,). Modules have the canonical names."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x: Any, t: Any, train: bool = False) -> Any:
        config = self.config
        widths, layers = config.block_out_channels, config.layers_per_block
        last, half = len(widths) - 1, widths[0] // 2
        angle = t[:, None] * jnp.exp(-math.log(10000) * jnp.arange(half) / (half - config.freq_shift))
        waves = (jnp.cos(angle), jnp.sin(angle)) if config.flip_sin_to_cos else (jnp.sin(angle), jnp.cos(angle))
        temb = nn.silu(nn.Dense(config.time_width, name="time_embedding.linear_1")(jnp.concatenate(waves, -1)))
        temb = nn.Dense(config.time_width, name="time_embedding.linear_2")(temb)
        h = nn.Conv(widths[0], (3, 3), name="conv_in")(x.transpose(0, 2, 3, 1))
        skips = [h]
        for i, kind in enumerate(config.down_block_types):
            for j in range(layers):
                h = Resnet(widths[i], config, name=f"down_blocks.{i}.resnets.{j}")(h, temb, train)
                if kind.startswith("Attn"):
                    h = Attention(config, name=f"down_blocks.{i}.attentions.{j}")(h)
                skips.append(h)
            if i < last:
                pad = (config.downsample_padding, 1)
                h = nn.Conv(widths[i], (3, 3), (2, 2), (pad, pad), name=f"down_blocks.{i}.downsamplers.0.conv")(h)
                skips.append(h)
        h = Resnet(widths[-1], config, name="mid_block.resnets.0")(h, temb, train)
        h = Attention(config, name="mid_block.attentions.0")(h)
        h = Resnet(widths[-1], config, name="mid_block.resnets.1")(h, temb, train)
        for i, kind in enumerate(config.up_block_types):
            width = widths[last - i]
            for j in range(layers + 1):
                h = Resnet(width, config, name=f"up_blocks.{i}.resnets.{j}")(jnp.concatenate((h, skips.pop()), -1), temb, train)
                if kind.startswith("Attn"):
                    h = Attention(config, name=f"up_blocks.{i}.attentions.{j}")(h)
            if i < last:
                h = nn.Conv(width, (3, 3), name=f"up_blocks.{i}.upsamplers.0.conv")(h.repeat(2, 1).repeat(2, 2))
        h = nn.silu(nn.GroupNorm(config.norm_num_groups, epsilon=config.norm_eps, name="conv_norm_out")(h))
        return nn.Conv(config.out_channels, (3, 3), name="conv_out")(h).transpose(0, 3, 1, 2)


class Flax:
    """The same network from the same weights in float32. It keeps no moving average, as the other peers."""

    def __init__(self, spec: Spec) -> None:
        d, model = spec.diffusion, spec.model
        for name in PLAIN:
            require(getattr(model, name) == getattr(ModelConfig(), name), name, getattr(model, name),
                    f"the Flax port has {getattr(ModelConfig(), name)!r} alone")
        require(not any(map(model.by_resnet, model.down_block_types + model.up_block_types)), "down_block_types",
                model.down_block_types, "the Flax port resizes by convolutions")
        require((d.objective, d.loss, d.loss_weight) == ("eps", "l2", "none") and not d.learned_variance
                and not d.self_conditioning, "diffusion", d, "peers are timed on the plain process: eps, l2")
        self.spec, self.device = spec, jax.devices({"cuda": "gpu"}.get(spec.device, spec.device))[0]
        alpha_bar = schedules.alpha_bars(schedules.betas(d))
        signal, sigma = (jnp.array(np.sqrt(table), jnp.float32) for table in (alpha_bar, 1 - alpha_bar))
        network, o = UNet(model), spec.optim
        adam = optax.adam(o.lr, o.beta1, o.beta2, o.eps)
        self.optimiser = optax.chain(optax.clip_by_global_norm(o.max_grad_norm), adam) if o.max_grad_norm else adam
        x = jnp.zeros((1, model.in_channels, model.sample_size, model.sample_size))
        shapes = flatten_dict(jax.eval_shape(network.init, jax.random.key(0), x, jnp.zeros(1))["params"])
        self.places = {".".join(path): path for path in shapes}
        self.load_weights(initialise(model, 0))

        def loss(params: Any, x0: Any, t: Any, noise: Any, key: Any) -> Any:
            at = t.reshape(-1, 1, 1, 1)
            output = network.apply({"params": params}, signal[at] * x0 + sigma[at] * noise, t, True, rngs={"dropout": key})
            return jnp.square(output - noise).mean()

        @partial(jax.jit, donate_argnums=(0, 1))
        def update(params: Any, state: Any, *inputs: Any) -> Any:
            value, gradients = jax.value_and_grad(loss)(params, *inputs)
            updates, state = self.optimiser.update(gradients, state)
            return optax.apply_updates(params, updates), state, value

        @partial(jax.jit, static_argnames="clip")
        def step(params: Any, x: Any, t: Any, c: Any, clip: float | None) -> Any:
            output = network.apply({"params": params}, x, jnp.full(len(x), t))
            x0 = c["x0_from_x"] * x + c["x0_from_output"] * output
            x0 = x0 if clip is None else x0.clip(-clip, clip)
            eps = c["eps_from_x"] * x + c["eps_from_output"] * output + c["eps_from_x0"] * x0
            return c["prev_from_x0"] * x0 + c["prev_from_eps"] * eps

        self.update, self.step = update, step
        self.forward_ = jax.jit(lambda params, x, t: network.apply({"params": params}, x, t))

    def load_weights(self, weights: Weights) -> None:
        """Canonical arrays, in Flax's axes and by its names."""
        found = {}
        for name, value in weights.items():
            module, _, leaf = name.rpartition(".")
            if leaf == "weight":
                leaf = "scale" if value.ndim == 1 else "kernel"
            axes = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[value.ndim]
            found[self.places[f"{module}.{leaf}"]] = jnp.array(value.transpose(axes), jnp.float32)
        self.params = jax.device_put(unflatten_dict(found), self.device)
        self.state = self.optimiser.init(self.params)

    def weights(self, ema: bool = False) -> Weights:
        """Canonical arrays; of an average there are none."""
        axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
        return {f"{'.'.join(path[:-1])}.{'bias' if path[-1] == 'bias' else 'weight'}": np.array(value).transpose(axes[value.ndim])
                for path, value in flatten_dict(self.params).items()}

    def device_info(self) -> dict[str, str]:
        """What runs where."""
        return {"framework": f"flax {flax.__version__}, jax {jax.__version__}",
                "device": "cpu" if self.device.platform == "cpu" else self.device.device_kind, "execution": "compiled",
                "layout": "NHWC"}

    def to_device(self, array: np.ndarray) -> Any:
        """Copy to the device."""
        return jax.device_put(jnp.array(array), self.device)

    def to_host(self, tensor: Any) -> np.ndarray:
        """Copy back."""
        return np.array(tensor)

    def synchronize(self, *results: Any) -> None:
        """Return when `results` and the last step are done."""
        jax.block_until_ready((results, self.params))

    def forward(self, x: Any, t: Any, *, ema: bool = False) -> Any:
        """The network in inference mode."""
        return self.forward_(self.params, x, t)

    def train_step(self, batch: Batch) -> Any:
        """One optimiser step."""
        key = jax.random.key(batch.step)
        inputs = (self.to_device(array) for array in (batch.x0, batch.t, batch.noise))
        self.params, self.state, loss = self.update(self.params, self.state, *inputs, key)
        return loss

    def sample(self, x: Any, plan: Plan, noise: None = None, *, ema: bool = True,
               on_step: Callable[[int], None] | None = None) -> Any:
        """The plan's steps, with eta = 0: one compiled call each."""
        require((plan.sampler, plan.eta) == ("ddim", 0) and plan.clip in ("none", "clip"), "plan",
                (plan.sampler, plan.eta, plan.clip), "the Flax port samples by DDIM with eta = 0, clipped or not")
        clip = plan.clip_range if plan.clip == "clip" else None
        tables = {name: table.astype(np.float32) for name, table in samplers.coefficients(plan).items()}
        for i in range(plan.steps):
            x = self.step(self.params, x, plan.network_t[i], {name: table[i] for name, table in tables.items()}, clip)
            if on_step is not None:
                on_step(i)
        return x
