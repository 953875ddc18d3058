"""A plain port to Flax, as its guide writes one: modules of `flax.linen`, Adam of optax, one `jax.jit` a step."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from backends.protocol import Batch, Spec
from bench.workers.peers.peer import require_plain
from reference import samplers, schedules
from reference.config import ModelConfig, require
from reference.conventions import Plan
from reference.weights import Weights, initialise

PLAIN = ("resnet_time_scale_shift", "attn_norm_num_groups", "downsample_type", "upsample_type", "add_attention",
         "center_input_sample", "time_embedding_dim", "act_fn", "mid_block_type", "mid_block_scale_factor")  # as by default
TO_FLAX = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}  # axes of canonical arrays, by their number
FROM_FLAX = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}


def unet(config: ModelConfig) -> Any:
    """The network as a `linen.Module`: output (N, out_channels, H, W) for x (N, in_channels, H, W) and t (N,). Its modules have the
    canonical names. One function, since they are classes of Flax, which is not imported before a peer is created."""
    import jax.numpy as jnp
    from flax import linen as nn

    widths, layers, half = config.block_out_channels, config.layers_per_block, config.block_out_channels[0] // 2
    norm = partial(nn.GroupNorm, config.norm_num_groups, epsilon=config.norm_eps)

    class Resnet(nn.Module):
        width: int

        @nn.compact
        def __call__(self, x: Any, temb: Any, train: bool) -> Any:
            h = nn.Conv(self.width, (3, 3), name="conv1")(nn.silu(norm(name="norm1")(x)))
            h = h + nn.Dense(self.width, name="time_emb_proj")(nn.silu(temb))[:, None, None]
            h = nn.Dropout(config.dropout, deterministic=not train)(nn.silu(norm(name="norm2")(h)))
            h = nn.Conv(self.width, (3, 3), name="conv2")(h)
            return h + (x if x.shape[-1] == self.width else nn.Conv(self.width, (1, 1), name="conv_shortcut")(x))

    class Attention(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            n, h, w, c = x.shape
            tokens = norm(name="group_norm")(x).reshape(n, h * w, c)
            q, k, v = (nn.Dense(c, name=name)(tokens).reshape(n, h * w, config.heads(c), -1) for name in ("to_q", "to_k", "to_v"))
            mixed = nn.dot_product_attention(q, k, v).reshape(n, h * w, c)
            return x + nn.Dense(c, name="to_out.0")(mixed).reshape(x.shape)

    class UNet(nn.Module):
        @nn.compact
        def __call__(self, x: Any, t: Any, train: bool = False) -> Any:
            last = len(widths) - 1
            angle = t[:, None] * jnp.exp(-math.log(10000) * jnp.arange(half) / (half - config.freq_shift))
            waves = (jnp.cos(angle), jnp.sin(angle)) if config.flip_sin_to_cos else (jnp.sin(angle), jnp.cos(angle))
            temb = nn.silu(nn.Dense(config.time_width, name="time_embedding.linear_1")(jnp.concatenate(waves, -1)))
            temb = nn.Dense(config.time_width, name="time_embedding.linear_2")(temb)
            h = nn.Conv(widths[0], (3, 3), name="conv_in")(x.transpose(0, 2, 3, 1))
            skips = [h]
            for i, kind in enumerate(config.down_block_types):
                for j in range(layers):
                    h = Resnet(widths[i], name=f"down_blocks.{i}.resnets.{j}")(h, temb, train)
                    if kind.startswith("Attn"):
                        h = Attention(name=f"down_blocks.{i}.attentions.{j}")(h)
                    skips.append(h)
                if i < last:
                    pad = (config.downsample_padding, 1)
                    h = nn.Conv(widths[i], (3, 3), (2, 2), (pad, pad), name=f"down_blocks.{i}.downsamplers.0.conv")(h)
                    skips.append(h)
            h = Resnet(widths[-1], name="mid_block.resnets.0")(h, temb, train)
            h = Attention(name="mid_block.attentions.0")(h)
            h = Resnet(widths[-1], name="mid_block.resnets.1")(h, temb, train)
            for i, kind in enumerate(config.up_block_types):
                width = widths[last - i]
                for j in range(layers + 1):
                    h = Resnet(width, name=f"up_blocks.{i}.resnets.{j}")(jnp.concatenate((h, skips.pop()), -1), temb, train)
                    if kind.startswith("Attn"):
                        h = Attention(name=f"up_blocks.{i}.attentions.{j}")(h)
                if i < last:
                    h = nn.Conv(width, (3, 3), name=f"up_blocks.{i}.upsamplers.0.conv")(h.repeat(2, 1).repeat(2, 2))
            h = nn.silu(norm(name="conv_norm_out")(h))
            return nn.Conv(config.out_channels, (3, 3), name="conv_out")(h).transpose(0, 3, 1, 2)

    return UNet()


class Flax:
    """The same network from the same weights in float32. It keeps no moving average, as the other peers."""

    def __init__(self, spec: Spec) -> None:
        import jax
        import jax.numpy as jnp
        import optax
        from flax.traverse_util import flatten_dict

        from backends.jax.devices import find_device

        require_plain(spec)
        model, o = spec.model, spec.optim
        for name in PLAIN:
            require(getattr(model, name) == getattr(ModelConfig(), name), name, getattr(model, name),
                    f"the Flax port has {getattr(ModelConfig(), name)!r} alone")
        require(not any(map(model.by_resnet, model.down_block_types + model.up_block_types)), "down_block_types",
                model.down_block_types, "the Flax port resizes by convolutions")
        self.spec, self.device = spec, find_device(spec.device)
        self.network, adam = unet(model), optax.adam(o.lr, o.beta1, o.beta2, o.eps)
        self.optimiser = optax.chain(optax.clip_by_global_norm(o.max_grad_norm), adam) if o.max_grad_norm else adam
        shapes = jax.eval_shape(self.network.init, jax.random.key(0), jnp.zeros((1, *spec.image_shape)), jnp.zeros(1))
        self.places = {".".join(path): path for path in flatten_dict(shapes["params"])}
        self.load_weights(initialise(model, 0))
        self.update, self.step = jax.jit(self._update, donate_argnums=(0, 1)), jax.jit(self._step, static_argnames="clip")
        self.forward_ = jax.jit(lambda params, x, t: self.network.apply({"params": params}, x, t))
        alpha_bar = schedules.alpha_bars(schedules.betas(spec.diffusion))
        self.signal, self.sigma = (jnp.array(np.sqrt(table), jnp.float32) for table in (alpha_bar, 1 - alpha_bar))

    def _update(self, params: Any, state: Any, x0: Any, t: Any, noise: Any, key: Any) -> Any:
        import jax
        import jax.numpy as jnp
        import optax

        def loss(params: Any) -> Any:
            at = t.reshape(-1, 1, 1, 1)
            noisy = self.signal[at] * x0 + self.sigma[at] * noise
            return jnp.square(self.network.apply({"params": params}, noisy, t, True, rngs={"dropout": key}) - noise).mean()

        value, gradients = jax.value_and_grad(loss)(params)
        updates, state = self.optimiser.update(gradients, state)
        return optax.apply_updates(params, updates), state, value

    def _step(self, params: Any, x: Any, t: Any, c: Any, clip: float | None) -> Any:
        import jax.numpy as jnp

        output = self.network.apply({"params": params}, x, jnp.full(len(x), t))
        x0 = c["x0_from_x"] * x + c["x0_from_output"] * output
        x0 = x0 if clip is None else x0.clip(-clip, clip)
        eps = c["eps_from_x"] * x + c["eps_from_output"] * output + c["eps_from_x0"] * x0
        return c["prev_from_x0"] * x0 + c["prev_from_eps"] * eps

    def load_weights(self, weights: Weights) -> None:
        """Canonical arrays, in Flax's axes and by its names."""
        import jax
        import jax.numpy as jnp
        from flax.traverse_util import unflatten_dict

        found = {}
        for name, value in weights.items():
            module, _, leaf = name.rpartition(".")
            leaf = leaf if leaf == "bias" else "scale" if value.ndim == 1 else "kernel"
            found[self.places[f"{module}.{leaf}"]] = jnp.array(value.transpose(TO_FLAX[value.ndim]), jnp.float32)
        self.params = jax.device_put(unflatten_dict(found), self.device)
        self.state = self.optimiser.init(self.params)

    def weights(self, ema: bool = False) -> Weights:
        """Canonical arrays; of an average there are none."""
        from flax.traverse_util import flatten_dict

        return {f"{'.'.join(module)}.{'bias' if leaf == 'bias' else 'weight'}": np.array(value).transpose(FROM_FLAX[value.ndim])
                for (*module, leaf), value in flatten_dict(self.params).items()}

    def device_info(self) -> dict[str, str]:
        """What runs where."""
        import flax
        import jax

        return {"framework": f"flax {flax.__version__}, jax {jax.__version__}",
                "device": "cpu" if self.device.platform == "cpu" else self.device.device_kind, "execution": "compiled",
                "layout": "NHWC"}

    def to_device(self, array: np.ndarray) -> Any:
        """Copy to the device."""
        import jax
        return jax.device_put(array, self.device)

    def to_host(self, tensor: Any) -> np.ndarray:
        """Copy back."""
        return np.array(tensor)

    def synchronize(self, *results: Any) -> None:
        """Return when `results` and the last step are done."""
        import jax
        jax.block_until_ready((results, self.params))

    def forward(self, x: Any, t: Any, *, ema: bool = False) -> Any:
        """The network in inference mode."""
        return self.forward_(self.params, x, t)

    def train_step(self, batch: Batch) -> Any:
        """One optimiser step."""
        import jax

        inputs = (self.to_device(array) for array in (batch.x0, batch.t, batch.noise))
        self.params, self.state, loss = self.update(self.params, self.state, *inputs, jax.random.key(batch.step))
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
