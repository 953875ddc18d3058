"""`python -m tests.benchmarks.solver_grids`: FID of the solvers on every grid, by network calls, in results/solver-grids.md.

The defaults of `reference.solver_plans.CODES["plain"]` rest on that page. Figures are kept in --cells, and the same command goes
on from there.
"""

from __future__ import annotations

import argparse
import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import api, files
from bench.data.pixels import to_uint8
from bench.metric import fid
from bench.paths import ROOT, printable
from bench.weights.tensor_files import weights_hash
from reference.config import ConfigError
from reference.solver_plans import CODES, make_solver_plan

CALLS = (5, 10, 20)
GRIDS = ("leading", "quad", "linspace", "trailing", "log_snr", "karras")
MAIN = ("ddim", "heun", "dpmpp_2m", "unipc_3")  # on every grid
OTHERS = ("dpmpp_3m", "unipc_2", "dpmpp_2s", "dpmpp_2m_sde", "plms", "pndm")  # on those of FEW
FEW = ("leading", "trailing", "karras")
MORE: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {  # choices beside the grid, and the solvers that they change
    "clipped to [-1, 1]": ({"clip": 1}, MAIN),
    "orders p - 1, .., 1 at the end": ({"variant": {"lower_below": math.inf}}, ("dpmpp_2m", "unipc_3")),
    "ends at alpha_bar[0]": ({"final_alpha_bar": "first"}, MAIN)}
TRIED = ("leading", "trailing")  # grids of MORE
Cell = tuple[str, str, int, str]  # solver, grid, calls, name in MORE or ""


def cells() -> list[Cell]:
    """What is measured: on a loaded machine what decides first."""
    out = [(solver, grid, calls, "") for calls in CALLS[:2] for solver in MAIN for grid in GRIDS]
    out += [(solver, grid, CALLS[2], "") for grid in FEW for solver in MAIN]
    out += [(solver, grid, CALLS[1], "") for solver in OTHERS for grid in TRIED]
    out += [(solver, grid, CALLS[1], more) for more, (_, solvers) in MORE.items() for solver in solvers for grid in TRIED]
    out += [(solver, grid, calls, "") for calls in CALLS for solver in OTHERS for grid in FEW]
    out += [(solver, grid, CALLS[2], "") for solver in MAIN for grid in GRIDS]
    out += [(solver, grid, calls, more) for calls in CALLS for more, (_, solvers) in MORE.items() for solver in solvers
            for grid in TRIED]
    return list(dict.fromkeys(out))


def steps(solver: str, calls: int) -> int:
    """The most steps that so many calls pay for: S steps are 2S - 1 calls of Heun and 2S, S + 1 of PLMS, S + 9 of PNDM."""
    return {"heun": (calls + 1) // 2, "dpmpp_2s": (calls + 1) // 2, "plms": calls - 1, "pndm": calls - 9}.get(solver, calls)


def measure(model: api.Model, n: int, cell: Cell) -> dict[str, Any]:
    """FID and the calls that were made, or the reason why there is no such path."""
    solver, grid, calls, more = cell
    try:
        plan = make_solver_plan(model.spec.diffusion, steps(solver, calls), sampler=solver, spacing=grid,
                                **(MORE[more][0] if more else {}))
    except ConfigError as error:
        return {"refused": str(error)}
    images = model.follow(model.noise(n), plan, batch_size=128)
    return {"fid": fid.evaluate(to_uint8(images))["fid"], "calls": plan.steps}


def measured(model: api.Model, n: int, kept: Path, go_on: bool) -> dict[Cell, dict[str, Any]]:
    """Every figure; those of the file `kept` are not measured again, and the others only to `go_on`."""
    stored: dict[str, dict[str, Any]] = json.loads(kept.read_text()) if kept.exists() else {}
    weights, found = weights_hash(model.backend.weights(ema=True)), {}
    for cell in cells():
        name = " ".join(map(str, (weights, n, *cell))).strip()
        if name not in stored and go_on:
            stored[name] = measure(model, n, cell)
            with files.replacing(kept) as file:
                file.write(json.dumps(stored, indent=1).encode())
            print(name, stored[name], flush=True)
        if name in stored:
            found[cell] = stored[name]
    return found


def table(found: dict[Cell, dict[str, Any]], solvers: tuple[str, ...], grids: tuple[str, ...], more: str = "") -> str:
    """A line for each solver and number of calls, a column for each grid; the lowest FID of a line in bold."""
    lines = ["| solver | calls | " + " | ".join(grids) + " |", "|---|---|" + "---|" * len(grids)]
    for solver in solvers:
        for calls in CALLS:
            line = [found.get((solver, grid, calls, more), {}) for grid in grids]
            values = [each["fid"] for each in line if "fid" in each]
            made = {each["calls"] for each in line if "fid" in each}
            if values:
                shown = [f"{each['fid']:.1f}" if "fid" in each else "-" if each else "" for each in line]
                shown = [f"**{text}**" if each.get("fid") == min(values) else text for text, each in zip(shown, line, strict=True)]
                lines.append(f"| {solver} | {', '.join(map(str, sorted(made)))} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def page(found: dict[Cell, dict[str, Any]], weights: str, sha: str, n: int, command: str) -> str:
    """The page."""
    defaults = ", ".join(f"{solver} {code.spacing}" for solver, code in CODES["plain"].items() if solver != "ddpm")
    floor = fid.floor(n)
    parts = [f"## {more[0].upper()}{more[1:]}\n\n{table(found, solvers, TRIED, more)}\n\n" for more, (_, solvers) in MORE.items()
             if any(cell[3] == more for cell in found)]
    return f"""# Which grid a solver should have

Made by `{command}` on {datetime.now(UTC):%Y-%m-%d}: {n} images of {weights} (weights {sha}) from the same x_T, seed 0, PyTorch in
float32. The figures are {floor['metric']}; of {n} held-out real images it is {floor['fid']:.1f}. The paths are those of convention
plain, which end at alpha_bar = 1, without clipping. *calls* counts network calls: S steps of Heun and of DPM-Solver++(2S) are
2S - 1 of them, of PLMS S + 1, of PNDM S + 9, of every other solver S; where a number of calls has no such path, the most steps that
it pays for are drawn.

The default of each solver in convention plain: {defaults}. It is the spacing with the lowest FID of
those measured below, but that solvers for which leading and trailing are both good keep leading, which is DDIM's. Solvers without a
line keep it, too.

## Every grid

{table(found, MAIN, GRIDS)}

{table(found, OTHERS, FEW)}

{"".join(parts)}A "-" is a path that there is not: leading has its last call at alpha_bar[0] already. A blank was not measured.
"""


def main(argv: list[str] | None = None) -> int:
    """Measure what is not kept yet, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="results/checkpoints/fmnist-small")
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--cells", type=Path, default=Path("build/solver-grids.json"))
    parser.add_argument("--page", action="store_true", help="write the page from the figures that are kept, and measure nothing")
    parser.add_argument("--out", type=Path, default=ROOT / "results", help="folder of solver-grids.md")
    args = parser.parse_args(argv)
    files.folder(args.cells.parent)
    model = api.load(args.weights)
    found = measured(model, args.samples, args.cells, go_on=not args.page)
    command = f"python -m tests.benchmarks.solver_grids --weights {args.weights} --samples {args.samples}"
    text = page(found, args.weights, weights_hash(model.backend.weights(ema=True)), args.samples, command)
    print(f"page: {printable(files.write_page(args.out / 'solver-grids.md', text))}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
