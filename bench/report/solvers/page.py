"""The page of the table of solvers: `results/solvers.md` and its figure, from rows alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from bench import files
from bench.pictures import plots
from bench.records.rows import AnyRow, of
from bench.records.values import Metric
from bench.report import measures
from bench.report.measures import fid_text, label, versions
from bench.report.results import beyond_tolerance
from bench.report.solvers import claims, frames
from bench.report.table1_page import figure as plus_minus
from bench.sampling.solver_table import EQUAL, LONG, NAME, PAIRED_STEPS, Place

PAGE, FIGURE = f"{NAME}.md", f"{NAME}.png"
HOW = ("Two cells are compared by FID of the images of all seeds together, from the same x_T. The interval is 1.96 standard errors "
       "to either side; the standard error is that of resamples of these images, the same ones in both cells (paired bootstrap). A "
       "claim is reproduced where the interval of a - factor x b lies below 0 in every comparison, contradicted where one lies "
       "above 0 at 5% / (their number), and not run where a cell is absent; otherwise we cannot tell.")
CALLS = ("S steps of Heun and of DPM-Solver++(2S) are 2S - 1 network calls, of PLMS S + 1, of PNDM S + 9, of every other solver "
         "S. Compare solvers at equal calls, or at equal seconds.")


def page(tables: list[list[AnyRow]], command: str, missing: list[str]) -> str:
    """The page of these tables, each the rows of one network (`frames.of_table`)."""
    out = ["# Fast solvers beside DDIM: FID against network calls", "",
           f"Made by `{command}`. Every number comes from a row in [rows/](rows).", "", CALLS, "",
           f"![FID against network calls and against seconds](figures/{FIGURE})", ""]
    for rows in tables:
        out += _network(rows)
    return "\n".join([*out, *(f"- {line}" for line in missing), ""])


def write(out: Path, found: list[AnyRow], command: str, missing: list[str]) -> Path:
    """Write `out`/solvers.md and its figure."""
    tables = [frames.of_table(found, budget) for budget in frames.begun(found)]
    draw(tables, out / "figures" / FIGURE)
    return files.write_page(out / PAGE, page(tables, command, missing))


def draw(tables: list[list[AnyRow]], path: Path) -> Path:
    """A line of two panels for each network: FID against calls, and against seconds. One colour for each solver."""
    picture, axes = plots.panels(len(tables), 2, (11, 4.6 * len(tables)))
    for panels, rows in zip(axes, tables, strict=True):
        stats = frames.statistics(frames.measurements(rows))
        backend = first(stats)
        ours = stats[stats["backend"] == backend]
        for panel, x, words in zip(panels, ("calls", "seconds"), ("network calls for an image", "seconds for an image"),
                                   strict=True):
            if backend and ours[x].isna().all():  # an axis without a value can't be logarithmic
                panel.set_axis_off()
                panel.text(0.5, 0.5, f"{words}: {measures.NO_TIMES}", ha="center", wrap=True)
                continue
            for k, (solver, line) in enumerate(ours.groupby("solver", sort=False)):
                ordered = line.sort_values("calls")
                panel.errorbar(ordered[x], ordered["fid_mean"], yerr=ordered["fid_sd"].fillna(0), label=solver, lw=1.2, ms=4,
                               marker="osD^vPX"[k % 7], color=plots.COLOURS[k % 6], ls="-" if k < 6 else ":", capsize=2)
            for (name, value), style in zip(frames.bounds(rows).items(), (":", "--"), strict=False):
                if name.startswith("floor"):
                    panel.axhline(value, ls=style, lw=1, color="black", label=name)
            panel.set(xlabel=words, ylabel=frames.metric(rows),
                      title=f"{title(rows)}, {label(backend)}" if backend else "")
            for axis in "xy":
                plots.logarithmic(panel, axis)
            if x == "calls":
                plots.mark(panel, stats["calls"])
            panel.grid(alpha=0.3)
        panels[0].legend(fontsize="small", ncols=2)
    return plots.save(picture, path)


def title(rows: list[AnyRow]) -> str:
    """What a table's network is called: the preset's, with its weights' hash."""
    c = rows[0].config
    return f"{rows[0].preset}, weights {c['weights'][:8]}"


def first(stats: pd.DataFrame) -> str:
    """The backend with the most cells, "" without any."""
    return str(stats["backend"].value_counts().idxmax()) if len(stats) else ""


def words(place: Place) -> str:
    """A cell as people write it."""
    return f"{place[0]}, S = {place[1]}"


def by_steps(stats: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Mean +- standard deviation between seeds as text, of seconds the median: a line for each solver, a column for each S."""
    text = pd.DataFrame({"solver": stats["solver"], "spacing": stats["spacing"], "S": stats["S"],
                         "text": [plus_minus(value, np.nan, 3) for value in stats["seconds"]] if measure == "seconds" else [
        plus_minus(mean, sd) for mean, sd in zip(stats[f"{measure}_mean"], stats[f"{measure}_sd"], strict=True)]})
    wide = text.pivot(index=["solver", "spacing"], columns="S", values="text").fillna("").reset_index()
    return wide.sort_values("solver", key=lambda column: column.map(frames.rank)).rename(
        columns={S: f"S = {S}" for S in text["S"].unique()})


def by_calls(stats: pd.DataFrame) -> pd.DataFrame:
    """FID for each number of calls that several solvers make, the best solver first."""
    lines = []
    for calls, cells in stats.groupby("calls"):
        if len(cells) > 1:
            ordered = cells.sort_values("fid_mean")
            names = zip(ordered["solver"], ordered["fid_mean"], strict=True)
            told = ", ".join(f"{name} {plus_minus(mean, np.nan)}" for name, mean in names)
            lines.append({"calls": calls, "solvers, by FID": told})
    return pd.DataFrame(lines, columns=["calls", "solvers, by FID"])


def verdict_table(rows: list[AnyRow], backend: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The claims with their verdicts, and every comparison behind them."""
    found = claims.verdicts(frames.pooled(rows, backend))
    shown = pd.DataFrame([{"claim": claim.text, "source": claim.source, "verdict": verdict, "comparisons":
                           f"{sum(c.verdict == measures.REPRODUCED for c in compared)} of {len(claim.pairs)}"}
                          for claim, compared, verdict in found])
    lines = []
    for claim, compared, _ in found:
        for c in compared:
            low, high = c.interval()
            lines.append({"claim": claim.text, "a": words(c.a), "b": words(c.b), "factor": f"{claim.factor:g}", "n": c.n,
                          "FID(a), FID(b)": f"{c.fid_a:.2f}, {c.fid_b:.2f}", "a - factor x b": f"{c.difference:+.2f}",
                          "95% interval": f"{low:+.2f} .. {high:+.2f}", "verdict": c.verdict})
    return shown, pd.DataFrame(lines)


def between_backends(stats: pd.DataFrame, backend: str) -> pd.DataFrame:
    """FID of further backends beside the first one's, for the cells that both drew."""
    ours = stats[stats["backend"] == backend].set_index(["solver", "S"])
    lines = []
    for other, cells in stats[stats["backend"] != backend].groupby("backend", sort=False):
        for c in cells.to_dict("records"):
            if (c["solver"], c["S"]) in ours.index:
                mine = ours.loc[(c["solver"], c["S"])]
                lines.append({"backend": label(str(other)), "solver": c["solver"], "S": c["S"], "seeds": c["seeds"],
                              "FID": f"{c['fid_mean']:.3f}", f"FID of {label(backend)}": f"{mine['fid_mean']:.3f}",
                              "difference": f"{c['fid_mean'] - mine['fid_mean']:+.1e}"})
    return pd.DataFrame(lines)


def caption(rows: list[AnyRow]) -> list[str]:
    """What decides a table's numbers."""
    begun, c, e = rows[0], rows[0].config, rows[0].environment
    extractors = {f"extractor {row.values['extractor']}, sha256 {row.values['extractor_sha256'][:16]}; reference: "
                  f"{row.values['reference']}" for row in of(rows, Metric)}
    return [f"weights {c['weights']}, preset {begun.preset}: channels {c['model']['block_out_channels']}, schedule "
            f"{c['diffusion']['schedule']}, T = {c['diffusion']['timesteps']}, predicts {c['diffusion']['objective']}; "
            f"{c['dtype']}, without clipping", *sorted(extractors),
            f"machine: {', '.join(e.get('gpu') or []) or e.get('cpu')}, {c['threads']} threads; {versions(begun)}; commit "
            f"{begun.commit}", *(f"{frames.BOUNDS[row.backend]}: {fid_text(row.values, '.2f')}"
                                  for row in of(rows, Metric) if row.backend in frames.BOUNDS)]


def _network(rows: list[AnyRow]) -> list[str]:
    """Tables and verdicts of one network."""
    stats, name = frames.statistics(frames.measurements(rows)), frames.metric(rows)
    out = [f"## {title(rows)}", "", *(f"- {line}" for line in caption(rows)), ""]
    if not (backend := first(stats)):
        return [*out, "No cell was measured yet.", ""]
    ours, n = stats[stats["backend"] == backend], int(stats["n"].iloc[0])
    out += [f"{label(backend)}. Mean ± standard deviation between seeds ({ours['seeds'].max()} at most), each of n = {n} images. "
            f"FID depends on n: compare it with the floor of the same n and with no paper's values. S = {LONG} of DDIM and S = "
            f"{', '.join(map(str, EQUAL))} of Heun are for the claims.", ""]
    for measure, words_ in (("fid", name), ("kid", name.replace("FID", "KID")), ("seconds", "seconds per image, medians")):
        none = measure == "seconds" and ours[measure].isna().all()
        out += [f"### {words_}", "", measures.NO_TIMES if none else _markdown(by_steps(ours, measure)), ""]
        if measure == "fid":
            out += ["At equal calls, the lowest FID first:", "", _markdown(by_calls(ours)), ""]
    shown, each = verdict_table(rows, backend)
    out += ["### The papers' claims", "", _markdown(shown.assign(verdict=shown["verdict"].map("**{}**".format))), "", HOW, ""]
    if len(each):
        out += [_markdown(each), ""]
    others = between_backends(stats, backend)
    same = f"The cells of S = {', '.join(map(str, PAIRED_STEPS))}, drawn from the same x_T."
    if not others.empty:
        out += ["### Backends", "", same, "", _markdown(others), ""]
    return out + beyond_tolerance(rows)


def _markdown(frame: pd.DataFrame) -> str:
    return str(frame.to_markdown(index=False, disable_numparse=True))
