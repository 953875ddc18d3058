"""What else could make a step faster, and what bounds it: `python -m tests.benchmarks.tries NAME`.

`torch`, `mindspore`, `jax`: one float32 call of the tuned network at batch 64, its time shifts made beforehand as in sampling,
beside variants of it: other settings of the framework, and parts left out, whose output is wrong and whose time says what the part
costs. `latency`: the same of the compiled torch network for one image, also in bfloat16. `training`: the same of a whole training
step of the torch backend. `layout`: whole steps of the tuned torch backend, beside the same with the other memory layout. Blocks of
all variants are timed in turn (A B B A) in one process. `results/tries.md` shows the last run of each, from its row.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from backends.protocol import Batch, Spec
from bench import files, streams
from bench.paths import ROOT
from bench.presets import SPEED, get_preset
from bench.records import environment, rows
from bench.records.rows import Row
from bench.records.values import Tries
from bench.report.measures import paired_ratio
from bench.timing import blocks
from bench.training import batches
from reference import weights
from reference.conventions import make_plan

BATCH, T = 64, 500.0
Call = Callable[[], object]


def inputs() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """x_t, and weights."""
    shape = BATCH, SPEED.in_channels, SPEED.sample_size, SPEED.sample_size
    return np.random.default_rng(0).standard_normal(shape, np.float32), weights.initialise(SPEED, 0)


def strip(network: Any, left_out: tuple[type, ...]) -> Any:
    """A torch network without its modules of these classes."""
    from torch import nn

    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, left_out):
                setattr(module, name, nn.Identity())
    return network


def torch_variants() -> dict[str, Call]:
    """Every variant, warm."""
    import torch
    import torch._inductor.config as inductor
    from torch import Tensor, nn

    from backends.torch.layers import Attention, NormSiLU
    from backends.torch.unet import UNet

    x, values = inputs()

    def network(layout: torch.memory_format, left_out: tuple[type[nn.Module], ...] = ()) -> UNet:
        made = UNet(SPEED).eval().requires_grad_(False)
        made.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in values.items()})
        return strip(made, left_out).to(memory_format=layout)  # type: ignore[call-overload, no-any-return]

    def variant(network: UNet, layout: torch.memory_format, settings: dict[str, Any] | None = None,
                mode: str | None = None) -> Call:
        shifts = network.time_shifts(torch.tensor([T], dtype=torch.float64))
        at = torch.from_numpy(x).contiguous(memory_format=layout)
        function = network.denoise if settings is None else torch.compile(network.denoise, dynamic=False, mode=mode)

        def call() -> Tensor:
            with torch.inference_mode(), inductor.patch(settings or {}):
                return function(at, shifts)

        call()
        return call

    last, plain = torch.channels_last, torch.contiguous_format
    norm_and_attention: tuple[type[nn.Module], ...] = (NormSiLU, Attention)
    return {
        "tuned": variant(network(last), last),
        "NCHW": variant(network(plain), plain),
        "compiled": variant(network(last), last, {}),
        "compiled, NCHW": variant(network(plain), plain, {}),
        "compiled, weights frozen": variant(network(last), last, {"freezing": True}),
        "compiled, max-autotune": variant(network(last), last, {}, "max-autotune-no-cudagraphs"),
        "compiled, C++ wrapper": variant(network(last), last, {"cpp_wrapper": True}),
        "without norm and SiLU": variant(network(last, (NormSiLU,)), last),
        "without norm, SiLU and attention": variant(network(last, norm_and_attention), last),
    }


def latency_variants(dtype: str) -> dict[str, Call]:
    """Every variant of the compiled network for one image, warm. The first is `--mode compiled`."""
    from contextlib import ExitStack
    from unittest.mock import patch

    import torch
    from torch import Tensor, nn

    from backends.torch import compiling, layers, unet

    x, values = inputs()
    one = torch.from_numpy(x[:1]).to(getattr(torch, dtype), memory_format=torch.channels_last)

    def variant(*patches: Any, left_out: tuple[type[nn.Module], ...] = ()) -> Call:
        made = unet.UNet(SPEED).eval().requires_grad_(False)
        made.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in values.items()})
        strip(made, left_out).to(one.dtype).to(memory_format=torch.channels_last)
        shifts = [s.to(one.dtype) for s in made.time_shifts(torch.tensor([T], dtype=torch.float64))]
        function = compiling.compiled(made.denoise, sys.exit, frozen=True)

        def call() -> Tensor:
            with ExitStack() as stack, torch.inference_mode():  # at every call, since what is compiled holds for these alone
                for each in patches:
                    stack.enter_context(each)
                return function(one, shifts)

        call()
        return call

    def one_bias(self: unet.Resnet, x: Tensor, shift: Tensor) -> Tensor:
        h = nn.functional.conv2d(self.norm1(x), self.conv1.weight, self.conv1.bias + shift[0], padding=1)
        return self.conv_shortcut(x) + self.conv2(self.norm2(h))

    def torchs_norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        return nn.functional.group_norm(x, groups, weight, bias, eps)

    return {
        "tuned": variant(),
        "all guards": variant(patch.object(torch.compiler, "skip_guard_on_all_nn_modules_unsafe", lambda all: [True] * len(all))),
        "torch's norm": variant(patch.object(layers, "_compiled_norm", torchs_norm)),
        "torch's fused attention": variant(patch.object(layers, "FEW_SCORES", 0)),
        "time shift in the bias of the convolution": variant(patch.object(unet.Resnet, "forward", one_bias)),
        "without norm, SiLU and attention": variant(left_out=(layers.NormSiLU, layers.Attention)),
    }


def mindspore_variants() -> dict[str, Call]:
    """Every variant, warm."""
    import mindspore as ms
    from mindspore import Tensor, nn, ops

    from backends.mindspore.layers import AddShift, Attention, GroupNorm
    from backends.mindspore.unet import Resnet, UNet

    x, values = inputs()

    class First(nn.Cell):
        def construct(self, x: Tensor, *others: Tensor) -> Tensor:
            return x

    class WithoutSiLU(Resnet):
        def construct(self, x: Tensor, shift: Tensor, key: Tensor) -> Tensor:
            h = self.add_shift(self.conv1(self.norm1(x)), shift)
            return self.conv_shortcut(x) + self.conv2(self.norm2(h))

    def network(tuned: bool, left_out: tuple[type[nn.Cell], ...] = ()) -> UNet:
        made = UNet(SPEED, tuned)
        made.set_train(False)
        for name, parameter in made.parameters_and_names():
            parameter.requires_grad = False
            ops.assign(parameter, Tensor(np.array(values[name])))
        for _, cell in list(made.cells_and_names()):
            for name, child in list(cell.name_cells().items()):
                if isinstance(child, Resnet) and Resnet in left_out:
                    child.__class__ = WithoutSiLU
                elif isinstance(child, left_out):
                    setattr(cell, name, First())
        return made

    def variant(network: UNet, compiled: bool = True) -> Call:
        at = Tensor(x)
        shifts = ms.mutable(tuple(network.time_shifts(Tensor(np.array([T])))))
        function = ms.jit(network.denoise) if compiled else network.denoise

        def call() -> object:
            return function(at, shifts).asnumpy()

        call()
        return call

    def half(network: UNet) -> UNet:
        return network.to_float(ms.float16)

    norms: tuple[type[nn.Cell], ...] = (GroupNorm,)
    return {
        "tuned": variant(network(True)),
        "stock": variant(network(False), compiled=False),
        "stock, compiled": variant(network(False)),
        "tuned, PyNative": variant(network(True), compiled=False),
        "float16": variant(half(network(True))),
        "without norm": variant(network(True, norms)),
        "without norm and attention": variant(network(True, (*norms, Attention))),
        "without norm, attention and time": variant(network(True, (*norms, Attention, AddShift))),
        "without norm, attention, time and SiLU": variant(network(True, (*norms, Attention, AddShift, Resnet))),
    }


def jax_variants() -> dict[str, Call]:
    """Every variant, warm."""
    from contextlib import ExitStack
    from unittest.mock import patch

    import jax
    import jax.numpy as jnp

    from backends.jax import layers, unet
    from backends.jax.devices import at_work, find_device

    x, values = inputs()

    class Variant:
        device = find_device("cpu")

        @at_work
        def __init__(self, *patches: Any, dtype: str = "float32", compiled: bool = True, **xla: Any) -> None:
            w = {name: jnp.array(value) for name, value in values.items()}
            shifts = unet.time_shifts(w, SPEED, unet.time_embedding(w, SPEED, jnp.array([T]), dtype))
            self.given = w, layers.in_dtype(jnp.array(x), dtype), shifts

            def denoise(w: layers.Arrays, x: jax.Array, shifts: dict[str, jax.Array]) -> jax.Array:
                return unet.denoise(w, SPEED, x, shifts)

            with ExitStack() as stack:
                for each in patches:
                    stack.enter_context(each)
                self.function = jax.jit(denoise).lower(*self.given).compile(xla) if compiled else denoise
            self()

        @at_work
        def __call__(self) -> object:
            return jax.block_until_ready(self.function(*self.given))

    def conv(weight: jax.Array, bias: jax.Array, x: jax.Array, *others: Any) -> jax.Array:
        if weight.shape[-1] > 1:
            return kept(weight, bias, x, *others)  # type: ignore[no-any-return]
        return layers.add_shift(x @ weight[:, :, 0, 0].T, bias[None])

    def first(w: object, name: str, x: jax.Array, *others: object) -> jax.Array:
        return x

    kept = layers._conv
    no_norm = [patch.object(module, "group_norm", first) for module in (layers, unet)]
    return {
        "tuned": Variant(),
        "stock": Variant(compiled=False),
        "bfloat16": Variant(dtype="bfloat16"),
        "convolutions of one pixel as products": Variant(patch.object(layers, "_conv", conv)),
        "xla_cpu_enable_fast_math": Variant(xla_cpu_enable_fast_math=True),
        "xla_cpu_prefer_vector_width of 512": Variant(xla_cpu_prefer_vector_width=512),
        "xla_cpu_use_thunk_runtime off": Variant(xla_cpu_use_thunk_runtime=False),
        "without norm": Variant(*no_norm),
        "without norm and attention": Variant(*no_norm, patch.object(unet, "attention", first)),
    }


def training_variants() -> dict[str, Call]:
    """Every variant, warm."""
    import torch._inductor.config as inductor
    from torch import nn

    from backends.torch.backend import TorchBackend, create
    from backends.torch.layers import Attention, NormSiLU

    preset = get_preset("speed")
    spec = Spec(SPEED, preset.diffusion, preset.optim)
    batch = training_batch(spec)

    def variant(mode: str = "tuned", settings: dict[str, Any] | None = None, apply: Call | None = None,
                left_out: tuple[type[nn.Module], ...] = ()) -> Call:
        made: TorchBackend = create(replace(spec, mode=mode))
        made.load_weights(weights.initialise(SPEED, 0))
        strip(made.network, left_out)
        if apply:
            made.optimiser.apply = apply  # type: ignore[method-assign]

        def call() -> object:
            with inductor.patch(settings or {}):
                return made.to_host(made.train_step(batch))

        call()
        return call

    return {
        "tuned": variant(),
        "stock": variant("stock"),
        "compiled": variant("compiled"),
        "compiled, C++ wrapper": variant("compiled", {"cpp_wrapper": True}),
        "compiled, max-autotune": variant("compiled", {"max_autotune": True}),
        "without clipping, Adam and average": variant(apply=lambda: None),
        "without those, norm and SiLU": variant(apply=lambda: None, left_out=(NormSiLU,)),
        "without those, norm, SiLU and attention": variant(apply=lambda: None, left_out=(NormSiLU, Attention)),
    }


def training_batch(spec: Spec) -> Batch:
    """Of black images."""
    T = spec.diffusion.timesteps
    return batches.training_batch(0, np.zeros((BATCH, *spec.image_shape), np.uint8), 0, BATCH, T)


def layout_variants(workload: str, dtype: str) -> dict[str, Call]:
    """A step of the tuned backend, and of the same with its networks in the other layout, warm."""
    import torch

    from backends.torch.backend import create

    preset = get_preset("speed")
    spec = Spec(SPEED, preset.diffusion, preset.optim, dtype=dtype)
    step = make_plan(preset.diffusion, preset.diffusion.timesteps).cut(0, 1)
    batch = training_batch(spec)

    def variant(layout: torch.memory_format | None = None) -> tuple[torch.memory_format, Call]:
        made = create(spec)
        made.load_weights(weights.initialise(SPEED, 0))
        made.layout = layout or made.layout
        for network in (made.network, made.ema):
            network.to(memory_format=made.layout)  # type: ignore[call-overload]
        x = made.to_device(streams.normal(0, "x_T", np.arange(BATCH), spec.image_shape))

        def call() -> object:
            return made.to_host(made.train_step(batch) if workload == "training step" else made.sample(x, step, None))

        call()
        return made.layout, call

    layout, tuned = variant()
    other, name = (torch.contiguous_format, "NCHW") if layout == torch.channels_last else (torch.channels_last, "channels_last")
    return {"tuned": tuned, name: variant(other)[1]}


@dataclass(frozen=True)
class Try:
    """`variants` are timed beside one another; one of them is "tuned"."""

    framework: str
    workload: str
    aim: str
    variants: Callable[[], dict[str, Call]]
    dtype: str = "float32"
    batch: int = BATCH


LAYOUT = "Aimed at: what the choice of the memory layout is worth. The tuned backend has channels_last, but NCHW in bfloat16."
TRIES = {
    "torch": [Try("torch", "network call",
                  "Aimed at: float32 sampling 1.2 times as fast as diffusers' eager network, which calls the same convolutions. A "
                  "variant would have to come near the last line, which has nothing but convolutions, sums and a few products.",
                  torch_variants)],
    "mindspore": [Try("mindspore", "network call",
                      "Aimed at: 4 times as fast as stock. A variant would have to come near the last line, which has nothing but "
                      "convolutions, sums and the upsampling.", mindspore_variants)],
    "jax": [Try("jax", "network call",
                "Aimed at: 1.2 times as fast as stock. Names with xla_cpu are XLA's own settings. The line without norm "
                "and attention has little but convolutions, sums, SiLU and the upsampling: a variant would have to come near it.",
                jax_variants)],
    "latency": [Try("torch", "network call of the compiled backend, one image",
                    "Aimed at: one image as fast as the fastest engine draws it (results/speed.md). \"Tuned\" is `--mode compiled` "
                    "here. The last line has nothing but convolutions, sums and a few products.",
                    partial(latency_variants, dtype), dtype, 1) for dtype in ("float32", "bfloat16")],
    "training": [Try("torch", "training step and its parts",
                     "Aimed at: float32 training 1.1 times as fast as diffusers' compiled network, which calls the same "
                     "convolutions. A variant would have to come near the last line, which has nothing but convolutions and sums, "
                     "forwards and backwards.", training_variants)],
    "layout": [Try("torch", workload, LAYOUT, partial(layout_variants, workload, dtype), dtype)
               for workload in ("training step", "sampling step") for dtype in ("float32", "bfloat16")],
}


def measure(tried: Try, threads: int, count: int) -> Row:
    """All variants, timed in turn."""
    about = environment.describe()
    calls = tried.variants()

    def block(call: Call) -> blocks.Block:
        def run(units: int) -> float:
            began = time.perf_counter()
            for _ in range(units):
                call()
            return time.perf_counter() - began
        return run

    raw = blocks.time_blocks({name: block(call) for name, call in calls.items()}, blocks=count, cap_seconds=20)
    config = {"study": "tries", "framework": tried.framework, "workload": tried.workload, "dtype": tried.dtype,
              "batch_size": tried.batch, "threads": threads, "network": SPEED.to_dict()}
    return Row("study", tried.framework, "tries", config, {"variants": raw}, about, about["commit"])


def render(every: list[Row]) -> str:
    """`tries.md`: the last row of each try."""
    newest = {_key(row.config): row for row in every}
    names = [name for name, group in TRIES.items() if any((t.framework, t.workload, t.dtype) in newest for t in group)]
    text = ["# A step, tried otherwise", "",
            f"Made by `python -m tests.benchmarks.tries NAME`, NAME of {', '.join(names)}; raw block times: "
            "[rows/study.jsonl](rows/study.jsonl). The network of preset `speed` at batch "
            f"{BATCH} unless it says one image, milliseconds, median of blocks that were timed in turn; *against tuned*: median of "
            "the ratios of neighbouring blocks, with its 95% interval, above 1 where the variant is faster. *Without* a part the "
            "output is wrong: such a line says what would be left if the part cost nothing."]
    for tried in (tried for group in TRIES.values() for tried in group):
        if (row := newest.get((tried.framework, tried.workload, tried.dtype))) is None:
            continue
        c, variants = row.config, row.values["variants"]
        seconds = {name: np.array(v["block_seconds"]) / v["units_per_block"] for name, v in variants.items()}
        lines = []
        for name, each in sorted(seconds.items(), key=lambda item: item[0] != "tuned"):
            ratio, low, high = paired_ratio(seconds["tuned"], each)
            line = {"variant": name, "ms": f"{1e3 * np.median(each):.{0 if c['batch_size'] > 1 else 2}f}",
                    "against tuned": "" if name == "tuned" else f"{ratio:.2f} ({low:.2f} to {high:.2f})"}
            if "stock" in seconds:
                line["against stock"] = "{:.2f} ({:.2f} to {:.2f})".format(*paired_ratio(seconds["stock"], each))
            lines.append(line)
        text += ["", f"## {c['framework']} {row.environment['versions'][c['framework']]}: {tried.workload}, {tried.dtype}", "",
                 tried.aim, "",
                 f"{row.environment['cpu']}, {c['threads']} threads, {len(next(iter(seconds.values())))} blocks each.", "",
                 pd.DataFrame(lines).to_markdown(index=False, disable_numparse=True)]
    return "\n".join(text) + "\n"


def _key(config: dict[str, Any]) -> tuple[str, str, str]:
    return config["framework"], config["workload"], config.get("dtype", "float32")  # older rows: all of them float32


def main() -> None:
    """Command line."""
    p = argparse.ArgumentParser(prog="python -m tests.benchmarks.tries", description=(__doc__ or "").split("\n\n")[0])
    p.add_argument("tries", choices=list(TRIES))
    p.add_argument("--threads", type=int, default=environment.usable_cores())
    p.add_argument("--blocks", type=int, default=12)
    p.add_argument("--out", type=Path, default=ROOT / "results")
    args = p.parse_args()
    wanted = environment.worker_env(args.threads)
    if any(os.environ.get(name) != value for name, value in wanted.items()):  # they count before the first import alone
        os.execve(sys.executable, [sys.executable, "-m", "tests.benchmarks.tries", *sys.argv[1:]], {**os.environ, **wanted})
    for tried in TRIES[args.tries]:
        rows.append(args.out / "rows", measure(tried, args.threads, args.blocks))
    with files.replacing(args.out / "tries.md") as file:
        file.write(render(rows.studies(rows.read(args.out / "rows"), Tries)).encode())


if __name__ == "__main__":
    main()
