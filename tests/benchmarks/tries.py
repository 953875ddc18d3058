"""What else could make one network call faster, and what bounds it: `python -m tests.benchmarks.tries torch`, or `mindspore`.

One float32 call of the tuned network at batch 64, its time shifts made beforehand as in sampling, beside variants of it: other
settings of the framework, and parts left out, whose output is wrong and whose time says what the part costs. Blocks of all
variants are timed in turn (A B B A) in one process. `results/tries.md` shows the last run of each framework, from its row.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench import environment, files, rows, timing
from bench.config import ROOT, SPEED
from bench.rows import Row
from reference import weights

BATCH, T = 64, 500.0
Call = Callable[[], object]


def torch_variants(x: np.ndarray, values: dict[str, np.ndarray]) -> dict[str, Call]:
    """Every variant, warm."""
    import torch
    import torch._inductor.config as inductor
    from torch import Tensor, nn

    from backends.torch.layers import Attention, NormSiLU
    from backends.torch.unet import UNet

    def network(layout: torch.memory_format, left_out: tuple[type[nn.Module], ...] = ()) -> UNet:
        made = UNet(SPEED).eval().requires_grad_(False)
        made.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in values.items()})
        for module in made.modules():
            for name, child in module.named_children():
                if isinstance(child, left_out):
                    setattr(module, name, nn.Identity())
        return made.to(memory_format=layout)  # type: ignore[call-overload, no-any-return]

    def variant(network: UNet, layout: torch.memory_format, settings: dict[str, Any] | None = None,
                mode: str | None = None) -> Call:
        shifts = network.time_shifts(torch.tensor([T], dtype=torch.float64))
        inputs = torch.from_numpy(x).contiguous(memory_format=layout)
        function = network.denoise if settings is None else torch.compile(network.denoise, dynamic=False, mode=mode)

        def call() -> Tensor:
            with torch.inference_mode(), inductor.patch(settings or {}):
                return function(inputs, shifts)

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


def mindspore_variants(x: np.ndarray, values: dict[str, np.ndarray]) -> dict[str, Call]:
    """Every variant, warm."""
    import mindspore as ms
    from mindspore import Tensor, nn, ops

    from backends.mindspore.layers import AddShift, Attention, GroupNorm
    from backends.mindspore.unet import Resnet, UNet

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
        inputs = Tensor(x)
        shifts = ms.mutable(tuple(network.time_shifts(Tensor(np.array([T])))))
        function = ms.jit(network.denoise) if compiled else network.denoise

        def call() -> object:
            return function(inputs, shifts).asnumpy()

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


GOALS = {
    "torch": "Aimed at: float32 sampling 1.2 times as fast as diffusers' eager network, which calls the same convolutions. A "
             "variant would have to come near the last line, which has nothing but convolutions, sums and a few products.",
    "mindspore": "Aimed at: 4 times as fast as stock. A variant would have to come near the last line, which has nothing but "
                 "convolutions, sums and the upsampling.",
}
VARIANTS = {"torch": torch_variants, "mindspore": mindspore_variants}


def measure(framework: str, threads: int, blocks: int) -> Row:
    """All variants of this framework, timed in turn."""
    values = weights.initialise(SPEED, 0)
    x = np.random.default_rng(0).standard_normal((BATCH, SPEED.in_channels, SPEED.sample_size, SPEED.sample_size), np.float32)
    about = environment.describe()
    calls = VARIANTS[framework](x, values)

    def block(call: Call) -> timing.Block:
        def run(units: int) -> float:
            began = time.perf_counter()
            for _ in range(units):
                call()
            return time.perf_counter() - began
        return run

    raw = timing.time_blocks({name: block(call) for name, call in calls.items()}, blocks=blocks, cap_seconds=20)
    config = {"study": "tries", "framework": framework, "workload": "network call", "batch_size": BATCH, "threads": threads,
              "network": SPEED.to_dict()}
    return Row("study", framework, "tries", config, {"variants": raw}, about, about["commit"])


def render(found: list[Row]) -> str:
    """`tries.md`."""
    text = ["# One network call, tried otherwise", "",
            "Made by `python -m tests.benchmarks.tries torch` and `mindspore`; raw block times: "
            "[rows/study.jsonl](rows/study.jsonl). One float32 call of the network of preset `speed` at batch "
            f"{BATCH}, milliseconds, median of blocks that were timed in turn; *against tuned*: median of the ratios of "
            "neighbouring blocks, with its 95% interval, above 1 where the variant is faster. *Without* a part the output is "
            "wrong: such a line says what would be left if the part cost nothing."]
    for row in found:
        c, variants = row.config, row.values["variants"]
        seconds = {name: np.array(v["block_seconds"]) / v["units_per_block"] for name, v in variants.items()}
        lines = []
        for name, each in sorted(seconds.items(), key=lambda item: item[0] != "tuned"):
            ratio, low, high = timing.paired_ratio(seconds["tuned"], each)
            line = {"variant": name, "ms": f"{1e3 * np.median(each):.0f}",
                    "against tuned": "" if name == "tuned" else f"{ratio:.2f} ({low:.2f} to {high:.2f})"}
            if "stock" in seconds:
                line["against stock"] = "{:.2f} ({:.2f} to {:.2f})".format(*timing.paired_ratio(seconds["stock"], each))
            lines.append(line)
        text += ["", f"## {c['framework']} {row.environment['versions'][c['framework']]}", "", GOALS[row.backend], "",
                 f"{row.environment['cpu']}, {c['threads']} threads, {len(next(iter(seconds.values())))} blocks each.", "",
                 pd.DataFrame(lines).to_markdown(index=False, disable_numparse=True)]
    return "\n".join(text) + "\n"


def main() -> None:
    """Command line."""
    p = argparse.ArgumentParser(prog="python -m tests.benchmarks.tries", description=(__doc__ or "").split("\n\n")[0])
    p.add_argument("framework", choices=list(VARIANTS))
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--blocks", type=int, default=12)
    p.add_argument("--out", type=Path, default=ROOT / "results")
    args = p.parse_args()
    wanted = environment.worker_env(args.threads)
    if any(os.environ.get(name) != value for name, value in wanted.items()):  # they count before the first import alone
        os.execve(sys.executable, [sys.executable, "-m", "tests.benchmarks.tries", *sys.argv[1:]], {**os.environ, **wanted})
    rows.append(args.out / "rows", measure(args.framework, args.threads, args.blocks))
    newest = {row.config["framework"]: row for row in rows.studies(rows.read(args.out / "rows"), "tries")}
    with files.replacing(args.out / "tries.md") as file:
        file.write(render([newest[name] for name in VARIANTS if name in newest]).encode())


if __name__ == "__main__":
    main()
