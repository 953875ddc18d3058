"""The page of the recipes, `gallery.md`: from the newest row of each, its picture, the command that made it and what came out."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.files import write_page
from bench.paths import command_line, renamed
from bench.recipes import RECIPES
from bench.records import rows
from bench.records.rows import AnyRow, Row
from bench.records.values import Recipe
from bench.report.measures import fid_text

LEAST = 100  # training steps of a run that is shown


def write(out: Path) -> Path:
    """Write `out`/gallery.md from `out`/rows; returns it."""
    return write_page(out / "gallery.md", page(rows.read(out / "rows")))


def page(every: list[AnyRow]) -> str:
    """`gallery.md`. A recipe without a row gets its command alone. Those that were not shortened come first."""
    found = rows.of(every, Recipe)
    taught = {row.preset for row in found if _teaches(row)}
    found = [row for row in found if _teaches(row) or row.preset not in taught]
    text = ["# Gallery", "", "One picture and one command per recipe. Every run has a row in "
            "[rows/recipe.jsonl](rows/recipe.jsonl) with its raw numbers, its configuration, the machine and the commit.", ""]
    drawn = {row.preset: row for row in found}
    whole_first = sorted(RECIPES.items(), key=lambda item: item[0] not in drawn or _shortened(drawn[item[0]]))
    for name, recipe in whole_first:
        of = [row for row in found if row.preset == name]
        text += [f"## {name}", "", f"{recipe.title}. After {recipe.source}.", "",
                 f"The whole of it: `{command_line('recipe', name)}`", ""]
        text += _shown(of[-1]) if of else ["Not run yet.", ""]
        last = {renamed(row.values["command"]): row for row in of}
        older = {typed: row for typed, row in last.items() if row is not of[-1]}
        text += [f"- Also run: `{typed}`: {_linked(row.values['pictures'])}. {' '.join(row.values['notes'])} {_figures(row)}"
                 for typed, row in older.items()]
        text += [""] if older else []
    return "\n".join(text)


def _teaches(row: Row[Recipe]) -> bool:
    """Whether every network of a run that trained was trained for long enough to draw anything."""
    return all(len(run["losses"]) >= LEAST for run in row.values.get("training", {}).values())


def _shortened(row: Row[Recipe]) -> bool:
    """Whether a run's training was shorter than the recipe's."""
    return any(note.startswith("Shortened") for note in row.values["notes"])


def _shown(row: Row[Recipe]) -> list[str]:
    (first, caption), *others = row.values["pictures"]
    notes = " ".join(row.values["notes"])
    figures = _figures(row)
    return ["```sh", renamed(row.values["command"]), "```", "", *([notes, ""] if notes else []),
            f"![{caption}](gallery/{first})", "", *([figures, ""] if figures else []),
            *([f"More: {_linked(others)}.", ""] if others else [])]


def _linked(made: list[tuple[str, str]]) -> str:
    """Links to pictures, by their captions."""
    return ", ".join(f"[{caption.rstrip('.')}](gallery/{file})" for file, caption in made)


def _figures(row: Row[Recipe]) -> str:
    """What a row measured, in a line."""
    parts = [f"Backend {row.backend}"]
    if training := row.values.get("training"):
        last = [run["losses"][-25:] for run in training.values()]
        seconds = sum(run["seconds"] for run in training.values())
        parts.append(f"{len(training)} training{'s' if len(training) > 1 else ''} in {seconds:.0f} s"
                     + (f", mean loss of the last {len(last[0])} steps {np.mean(last[0]):.4f}" if len(last) == 1 else ""))
    metrics = {**{name: value["metric"] for name, value in row.values.get("variance", {}).items()},
               "samples": row.values.get("samples", {}).get("metric")}
    parts += [f"{m['metric']} of {name} {fid_text(m, '.1f')} (n = {m['n']})" for name, m in metrics.items() if m]
    if errors := row.values.get("round_trip_error"):
        parts.append("round-trip error " + ", ".join(f"{np.mean(errors[s]):.2g} at S = {s}" for s in sorted(errors, key=int)))
    return "; ".join(parts) + "."
