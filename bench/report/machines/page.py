"""`results/machines.md`: every machine that rows are of, those of `rows/` and those that people sent, in `machines/NAME.jsonl`."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from bench.records import rows
from bench.records.rows import AnyRow, of
from bench.records.values import Sample, Timing
from bench.report.machines.versus import newest_checks
from bench.report.measures import hardware, label, seconds_per_image, unit_seconds

PAGE, FOLDER = "machines.md", "machines"


def found(out: Path) -> dict[str, list[AnyRow]]:
    """The rows of each machine by its name, "here" for those of `out`/rows; of `out`/machines/NAME.jsonl NAME."""
    own = rows.read(out / "rows")
    sent = {path.stem: rows.read(path) for path in sorted((out / FOLDER).glob("*.jsonl"))}
    return {name: of_it for name, of_it in {"here": own, **sent}.items() if of_it}


def table(machines: dict[str, list[AnyRow]]) -> pd.DataFrame:
    """A line for each machine and backend."""
    lines = []
    for name, all_rows in machines.items():
        compared = newest_checks(all_rows)
        for where in dict.fromkeys(hardware(row) for row in all_rows if "device" in row.config):
            mine = [row for row in all_rows if "device" in row.config and hardware(row) == where]
            for backend in dict.fromkeys(row.backend for row in (*of(mine, Timing), *of(mine, Sample))):
                drawn = [row for row in of(mine, Sample) if row.backend == backend]
                timed = [row for row in of(mine, Timing) if row.backend == backend and row.config["workload"] == "sampling step"]
                checks = [v["ok"] for row in compared if backend in row.backend.split(" ") for v in row.values.values()]
                newest = max([*drawn, *timed], key=lambda row: row.created, default=None)
                lines.append({
                    "machine": name, "hardware": where, "backend": label(backend), "rows": len(mine),
                    "s/image, S": "; ".join(f"{seconds_per_image(row):.4g}, {row.config['steps']}" for row in drawn[-3:]),
                    "ms a sampling step": "; ".join(f"{1e3 * pd.Series(unit_seconds(row)).median():.3g}" for row in timed[-1:]),
                    "checks that agree": f"{sum(checks)} of {len(checks)}", "newest": newest.created[:10] if newest else ""})
    return pd.DataFrame(lines)


def render(machines: dict[str, list[AnyRow]], command: str) -> str:
    """The page as Markdown."""
    return "\n".join([
        "# Machines", "",
        f"Made by `{command}`, from [rows/](rows) and from machines/NAME.jsonl, which `ddim-bench submit` makes.",
        "`ddim-bench compare` sets two of them beside each other, with intervals.", "",
        table(machines).to_markdown(index=False), ""])
