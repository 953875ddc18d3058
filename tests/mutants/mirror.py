"""The mistakes of the catalogue in MindSpore: what the text of an edit is there.

Most stand there word for word, or with the framework's own words (`WORDS`). `OWN` has the text of others. What is left are mistakes
of layers, tables and dtypes that this backend does not have.
"""

from __future__ import annotations

from pathlib import Path

from .catalogue import RATE, Mutant

WORDS = (
    ("torch.float64", "ms.float64"), ("dtype=F64", "F64"), ("self.tables[\"weight\"][t].to(per_image.dtype)", "ops.gather(self.weight, t, 0)"),
    (".mean(dim=(1, 2, 3))", ".mean((1, 2, 3))"), (".sum(dim=(1, 2, 3))", ".sum((1, 2, 3))"), ("torch.special.ndtr", "ndtr"),
    ("F.silu", "ops.silu"), ("F.gelu", "ops.gelu"), ("torch.cat", "ops.cat"), ("torch.stack", "ops.stack"), ("torch.", "ops."), ("dim=", "axis="),
)
SOFTMAX = "self.mix(ops.softmax(self.scores(q * self.scale, k), axis=-1), v)"
STEPS = "t = Tensor(np.array(plan.network_t))"
DROP = "self.dropout(ops.silu(h), key)"
TABLES = "            alpha_bars.sqrt(), (1 - alpha_bars).sqrt(), loss_weights(config, alpha_bars, mean_x0),\n"
OWN: dict[str, tuple[str, str, str]] = {
    # Interface.
    "an unknown device falls back to the CPU": ("backend", "        raise DeviceError(f\"device={name!r}: the mindspore", "        return \"CPU\"\n        raise DeviceError(f\"device={name!r}: the mindspore"),
    "EMA not set by load_weights": ("backend", "for network in (self.network, self.ema):\n            set_weights", "for network in (self.network,):\n            set_weights"),
    "device_info names another device": ("backend", "\"device\": self.device.lower()", "\"device\": \"ascend\""),
    "device_info names another version": ("backend", "f\"mindspore {ms.__version__}\"", "\"mindspore 2.0\""),
    # Schedules and coefficients.
    "linear betas of T + 1 points, the last dropped": ("schedules", "return _linspace(beta_start, beta_end, T)\n", "return _linspace(beta_start, beta_end, T + 1)[:-1]\n"),
    "quad schedule without the roots": ("schedules", "return _linspace(beta_start**0.5, beta_end**0.5, T) ** 2", "return _linspace(beta_start, beta_end, T)"),
    "cosine schedule without the offset's denominator": ("schedules", "(t + f64(0.008)) / f64(1.008)", "(t + f64(0.008))"),
    "sigmoid betas over [-3, 3]": ("schedules", "_linspace(-6, 6, T)", "_linspace(-3, 3, T)"),
    "variance for standard deviation in DDIM": ("samplers", "f64(plan.eta) * ops.sqrt(beta_tilde)", "f64(plan.eta) * beta_tilde"),
    "eta scales the variance": ("samplers", "f64(plan.eta) * ops.sqrt(beta_tilde)", "ops.sqrt(f64(plan.eta) * beta_tilde)"),
    "tables handed out in float32": ("backend", "name: table.asnumpy().copy() for", "name: table.asnumpy().astype(\"float32\").astype(\"float64\") for"),
    "dynamic threshold without absolute values": ("samplers", "_quantile(x0.abs().flatten", "_quantile(x0.flatten"),
    "dynamic threshold: the nearest rank, not interpolated": ("samplers", "first + (second - first) * (position - low)", "first"),
    # The network.
    "time embedding not added": ("unet", "self.norm2(self.add_shift(h, shift))", "self.norm2(h)"),
    "time embedding added after the second norm": ("unet", "self.norm2(self.add_shift(h, shift))", "self.add_shift(self.norm2(h), shift)"),
    "scale and shift exchanged": ("unet", "scale, shift = shift[:, :self.cout], shift[:, self.cout:]", "scale, shift = shift[:, self.cout:], shift[:, :self.cout]"),
    "scale in place of 1 + scale": ("unet", "(1 + scale.reshape", "(scale.reshape"),
    "GroupNorm eps fixed at 1e-5": ("layers", "config.norm_eps", "1e-5"),
    "attention not scaled": ("layers", "self.scores(q * self.scale, k)", "self.scores(q, k)"),
    "attention scaled by the block's width": ("layers", "(channels // self.heads) ** -0.5", "channels ** -0.5"),
    "queries and keys exchanged": ("layers", "self.scores(q * self.scale, k)", "self.scores(k * self.scale, q)"),
    "softmax over the queries": ("layers", "axis=-1), v)", "axis=-2), v)"),
    "attention without its shortcut": ("layers", "return x + mixed", "return mixed"),
    "attention without its norm": ("layers", "tokens = self.group_norm(x).reshape", "tokens = x.reshape"),
    "asymmetric padding on the wrong sides": ("layers", "(0, 1, 0, 1)", "(1, 0, 1, 0)"),
    "asymmetric padding dropped": ("layers", "if config.downsample_padding else (0, 1, 0, 1)", "if True else ()"),
    "channel order in the skip concatenation": ("unet", "ops.cat((h, skips[last]), axis=1)", "ops.cat((skips[last], h), axis=1)"),
    "norm without SiLU": ("unet", "h = ops.silu(self.norm1(x))", "h = self.norm1(x)"),
    "attention to the first 64 positions": ("layers", SOFTMAX, "self.mix(ops.softmax(self.scores(q * self.scale, k[:, :, :64]), axis=-1), v[:, :, :64])"),
    "at most 16 groups": ("layers", "groups or config.norm_num_groups, config", "min(groups or config.norm_num_groups, 16), config"),
    "a softmax that overflows": ("layers", SOFTMAX, "self.mix(ops.exp(self.scores(q * self.scale, k)) / ops.exp(self.scores(q * self.scale, k)).sum(-1, keepdims=True), v)"),
    "a SiLU that overflows": ("unet", "h = ops.silu(self.norm1(x))", "h = self.norm1(x)\n        h = h * ops.exp(h) / (1 + ops.exp(h))"),
    # The loss.
    "x_t with alpha_bar for its root": ("training", TABLES, TABLES.replace("alpha_bars.sqrt(), (1", "alpha_bars, (1")),
    "x_t with the noise's variance": ("training", TABLES, TABLES.replace("(1 - alpha_bars).sqrt()", "(1 - alpha_bars)")),
    "x_t of the step before": ("training", "ops.gather(table, t, 0)", "ops.gather(table, (t - 1).clamp(min=0), 0)"),
    "the network told t + 1": ("training", "output = self.network(inputs, told, step)", "output = self.network(inputs, told + 1, step)"),
    "sign of the v target": ("training", "* noise - self.at(self.noise, t) * x0", "* noise + self.at(self.noise, t) * x0"),
    "p2 weights inverted": ("training", "f64(-config.p2_gamma)", "f64(config.p2_gamma)"),
    "p2 of any objective as of eps": ("training", "f64(-config.p2_gamma) * as_eps", "f64(-config.p2_gamma)"),
    "p2's k ignored": ("training", "(f64(config.p2_k) + snr)", "(1 + snr)"),
    "max-SNR": ("training", "snr.minimum(gamma)", "snr.maximum(gamma)"),
    "bound's mean not held fixed": ("training", "ops.stop_gradient(mean), output", "mean, output"),
    "edge pixels without their tails": ("training", "ops.where(x0 > 0.999, ops.ones_like(upper), upper)", "upper"),
    "self-conditioning on the raw output": ("training", "self.x0_from_output(xt, t, first))", "first)"),
    "gradient through the self-conditioning pass": ("training", "ops.stop_gradient(self.x0_from_output(xt, t, first))", "self.x0_from_output(xt, t, first)"),
    "t not rescaled in training": ("training", "t.astype(ms.float32) * (1000 / self.config.timesteps) if self.config.rescale_timesteps else t", "t"),
    "no gradient into the scale": ("unet", "(1 + scale.reshape", "(1 + ops.stop_gradient(scale).reshape"),
    "the loss weight on the bound, too": ("training", "terms.mean().astype(total.dtype)", "(ops.gather(self.weight, t, 0) * terms).mean().astype(total.dtype)"),
    "no bound beside an l1 loss": ("training", "if config.variance in (\"learned\", \"learned_range\"):", "if config.variance in (\"learned\", \"learned_range\") and config.loss != \"l1\":"),
    "the first pass is told t unscaled": ("training", "axis=1), told, step)[:, :channels]", "axis=1), t, step)[:, :channels]"),
    "the likelihood's tanh in float32": ("training", "ops.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))", "ops.tanh((math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)).astype(ms.float32)).astype(ms.float64)"),
    "the likelihood's distribution function in float32": ("training", "ops.erfc(x.abs() / math.sqrt(2))", "ops.erfc((x.abs() / math.sqrt(2)).astype(ms.float32)).astype(ms.float64)"),
    # Dropout.
    "dropout never active": ("unet", "Dropout(config.dropout)", "Dropout(0.0)"),
    "half of the dropout": ("unet", "Dropout(config.dropout)", "Dropout(config.dropout / 2)"),
    "what is left after dropout is not scaled": ("layers", ".astype(x.dtype) / (1 - self.p)", ".astype(x.dtype)"),
    "dropout after the second convolution": ("unet", "self.conv2(" + DROP + ")", "self.dropout(self.conv2(ops.silu(h)), key)"),
    "the same elements dropped of each image": ("layers", "return x * keep.reshape(x.shape)", "return x * keep.reshape(x.shape)[:1]"),
    "a resume draws other dropout": ("backend", "Tensor(batch.step * self.spec.processes + self.spec.rank, ms.int32)", "Tensor(np.random.randint(1000), ms.int32)"),
    # The optimiser.
    "gradients not clipped": ("training", "if self.config.max_grad_norm > 0:", "if False:"),
    "no bias correction": ("training", "config.beta1 ** (n + 1), config.beta2 ** (n + 1)", "0.0, 0.0"),
    "bias correction one step ahead": ("training", "config.beta1 ** (n + 1), config.beta2 ** (n + 1)", "config.beta1 ** (n + 2), config.beta2 ** (n + 2)"),
    "Adam eps fixed at 1e-8": ("training", "config.eps * math.sqrt", "1e-8 * math.sqrt"),
    "Adam eps scaled by the bias correction": ("training", "config.eps * math.sqrt(1 - power2)", "config.eps"),
    "Adam betas at their defaults": ("training", "Tensor(config.beta1, ms.float32), Tensor(config.beta2, ms.float32)", "Tensor(0.9, ms.float32), Tensor(0.999, ms.float32)"),
    "clipping only with warm-up": ("training", "if self.config.max_grad_norm > 0:", "if self.config.max_grad_norm > 0 and self.config.warmup_steps:"),
    # Sampling.
    "the network told t + 1 in sampling": ("backend", STEPS, "t = Tensor(np.array(plan.network_t) + 1)"),
    "the network told the step's number": ("backend", STEPS, "t = Tensor(np.arange(plan.steps)[::-1].astype(\"float64\"))"),
    "the network told t unscaled": ("backend", STEPS, "t = Tensor(np.array(plan.timesteps, \"float64\"))"),
    "the network told t rounded": ("backend", STEPS, "t = Tensor(np.round(np.array(plan.network_t)))"),
    "noise repeats after eight images": ("backend", "lambda i: self.to_device(noise(i))", "lambda i: self.to_device(noise(i)[np.arange(len(x)) % 8])"),
    "sampling ignores the EMA": ("backend", "network = self._inference(ema)\n", "network, ema = self._inference(False), False\n"),
}
RATE_THERE = "config.learning_rate(n), config.eps"


def mirrored(mutant: Mutant) -> Mutant | None:
    """The mistake in MindSpore's text; None where it has none."""
    if mutant.dtype != "float32" or mutant.mode == "compiled":
        return None
    folder = Path(__file__).parents[2] / "backends" / "mindspore"
    if mutant.name in OWN:
        file, old, new = OWN[mutant.name]
        return mutant._replace(file=file, old=old, new=new)
    if mutant.old == RATE:  # the rate is one of several numbers there
        new = mutant.new.removeprefix("= ").replace("self.config", "config")
        return mutant._replace(old=RATE_THERE, new=RATE_THERE.replace("config.learning_rate(n)", f"({new})"))
    if mutant.old.endswith("self.config.ema_decay_at(n)") or mutant.old == "1 - self.config.ema_decay_at(":
        return mutant._replace(old=mutant.old.replace("self.config", "config"), new=mutant.new.replace("self.config", "config"))
    old, new = mutant.old, mutant.new
    if old not in (folder / f"{mutant.file}.py").read_text() or "torch" in new or "F." in new:
        for torch_word, word in WORDS:
            old, new = old.replace(torch_word, word), new.replace(torch_word, word)
    return mutant._replace(old=old, new=new) if old in (folder / f"{mutant.file}.py").read_text() else None
