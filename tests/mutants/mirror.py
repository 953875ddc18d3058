"""The catalogue's mistakes in the text of the other backends, which have the same files and functions; and what each can reach.

`python -m tests.mutants.mirror` plants all of them and writes [MIRROR.md](MIRROR.md); with `--missing` those that it does not have, with
`--backend` those of one backend.
"""

from __future__ import annotations

import argparse
import ast
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.paths import ROOT

from .catalogue import MUTANTS, Mutant
from .run import Found, asked_first, first_failure, mutated, recorded

PAGE = Path(__file__).parent / "MIRROR.md"
WORDS = {"mindspore": (("torch.", "ops."), ("dim=", "axis=")), "jax": (("torch.", "jnp."), ("dim=", "axis="))}  # how another framework says what torch's text says
# A mistake whose text stands in another backend too, where it is another one: JAX has Adam's moments beside the weights, and its
# optimiser keeps the loss scaler alone; MindSpore's `mul_` leaves its tensor as it was, and its plain layers do not interpolate.
OTHERWISE = {
    ("mindspore", "a step scales x in place"): ('c["x0_from_x"][i] * x +', 'x.assign_value(c["x0_from_x"][i] * x) +'),
    ("mindspore", "bilinear upsampling"): (
        "ops.repeat_interleave(ops.repeat_interleave(x, 2, 2), 2, 3)",
        'ops.interpolate(x, size=(2 * x.shape[2], 2 * x.shape[3]), mode="bilinear")'),
    ("jax", "load_weights keeps Adam's moments"): (
        'self.parts: Parts = {part:', 'kept = getattr(self, "parts", None)\n        self.parts: Parts = {part: kept[part] if kept and "adam" in part else'),
    ("jax", "a resume forgets Adam's moments"): ('{name: state[f"{part}/{name}"]', '{name: state[f"{part}/{name}"] * (not part.startswith("adam"))')}
# Levels of the kit that run a file's functions, or what these have made; the likeliest first. A mistake in it is asked of no other.
REACH = {
    "schedules": ("L1", "L0", "L3", "L4", "L5", "L6"), "samplers": ("L1", "L0", "L5", "L6"), "solvers": ("L1", "L0", "L5"),
    "solving": ("L1", "L0", "L5"), "training": ("L3", "L4", "L0", "L2", "L5", "L6"), "layers": ("L2", "L3", "L0", "L4", "L5", "L6"),
    "unet": ("L2", "L3", "L0", "L4", "L5", "L6"), "adam": ("L4", "L0", "L5", "L6"), "backend": ("L0", "L1", "L2", "L3", "L4", "L5", "L6")}
HEAD = """# The catalogue in the other backends

A mistake of [catalogue.py](catalogue.py) is written once, as an edit of torch's text. Where the same text stands in another backend, but
for the framework's own words ([mirror.py](mirror.py)), it is planted there as well, with the plain layers, and asked of its level.
`python -m tests.mutants.mirror` writes this page. CI plants a fixed sample.

"""


def mirrored(mutant: Mutant, backend: str) -> Mutant | None:
    """The same mistake in another backend's text; None where that has it in other words, or does not run the dtype."""
    path = ROOT / "backends" / backend / f"{mutant.file}.py"
    if mutant.dtype != "float32" or not path.exists():
        return None
    text = path.read_text()
    said = OTHERWISE.get((backend, mutant.name), (mutant.old, mutant.new))
    for words in ((), WORDS[backend]):
        old, new = said
        for ours, theirs in words:
            old, new = old.replace(ours, theirs), new.replace(ours, theirs)
        if text.count(old) == mutant.places and _is_python(text.replace(old, new)):
            return mutant._replace(old=old, new=new, mode="stock")
    return None


def _is_python(text: str) -> bool:
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True


MIRRORED = {backend: [found for mutant in MUTANTS if (found := mirrored(mutant, backend))] for backend in WORDS}


def ask(mutant: Mutant, backend: str, levels: Sequence[str]) -> tuple[str, Found | None]:
    """The first of these levels that catches it and its first check that fails. Levels that its file cannot reach are left out."""
    with tempfile.TemporaryDirectory() as folder, mutated(mutant, Path(folder), backend) as subject:
        for level in levels:
            if level in REACH[mutant.file] and (found := first_failure(level, subject, asked_first(mutant, recorded()))):
                return level, found
    return "none", None


def lines_of(page: str) -> dict[tuple[str, str], str]:
    """The lines of the page, by backend and mistake."""
    rows = [line for line in page.splitlines() if line.startswith("| ")][1:]
    return {(row.split(" | ")[0].strip("| "), row.split(" | ")[1]): row for row in rows}


def main(missing: bool, backends: Sequence[str]) -> None:
    """Write the page, after every mistake anew."""
    known = {line: said for line, said in lines_of(PAGE.read_text()).items() if missing or line[0] not in backends}
    for backend in backends:
        for mutant in MIRRORED[backend]:
            if (backend, mutant.name) not in known:
                level, found = ask(mutant, backend, [mutant.level])
                known[backend, mutant.name] = f"| {backend} | {mutant.name} | {level} | {f'`{found.name}`' if found else 'nothing'} |"
                print(known[backend, mutant.name], flush=True)
                PAGE.write_text(HEAD + "| backend | mistake | level | caught by |\n|---|---|---|---|\n" + "\n".join(
                    known[b, m.name] for b in MIRRORED for m in MIRRORED[b] if (b, m.name) in known) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.mutants.mirror", description=__doc__)
    parser.add_argument("--missing", action="store_true", help="ask about mistakes that the page does not have alone")
    parser.add_argument("--backend", choices=tuple(MIRRORED), action="append", help="may be repeated; default: all")
    asked = parser.parse_args()
    main(asked.missing, asked.backend or tuple(MIRRORED))
