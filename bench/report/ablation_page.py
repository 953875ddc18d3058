"""The page of the study of the training: `results/ablation.md`, from rows alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from bench.records import rows
from bench.records.rows import AnyRow, Row
from bench.records.values import Ablation
from bench.report.measures import LEVEL, POWER, UNKNOWN

STUDY = "ablation"
AS_IS = "as it is"
ORDER = (  # of the lines, by the names of `studies.ablation.VARIANTS`
    AS_IS, "cosine schedule", "v prediction", "min-SNR weighting",
    "v prediction + cosine schedule", "v prediction + batch x 0.5", "batch x 2", "learning rate x 0.3", "learning rate x 3",
    "EMA 0.99", "dropout 0.1", "flips", "half as long", "twice as long",
)
LAST = 500  # losses whose mean is shown
BETTER, WORSE = "better", "worse"
SAME = ("images", "samples", "sampling_steps", "dtype", "dataset", "extractor_sha256")  # what comparable trainings share


def variant(row: Row[Ablation]) -> str:
    """The name of its variant; older rows name the seed behind a comma."""
    name: str = row.config["variant"]
    return name.partition(", ")[0]


def studied(every: list[AnyRow]) -> list[Row[Ablation]]:
    """The rows of the page, oldest first: of those that compare with the newest, the last of each variant in `ORDER` and seed."""
    found = [row for row in rows.studies(every, Ablation) if variant(row) in ORDER]
    alike = [row for row in found if (row.backend, row.preset) == (found[-1].backend, found[-1].preset)
             and all(row.config.get(name) == found[-1].config.get(name) for name in SAME)]
    last = {(variant(row), row.config["seed"]): row for row in alike}
    return sorted(last.values(), key=lambda row: row.created)


def table(studies: list[Row[Ablation]]) -> pd.DataFrame:
    """One line a variant, in `ORDER`: means over its `seeds`, `fid_sd` between them, and the comparison with the preset as it is.

    `difference` is that of the mean FID, `half` of its 95% interval by Student's t with as many degrees of freedom as both have
    seeds less 2, which pools their spread; `detectable` is the difference that is told from 0 with `POWER`; `p` is two-sided, and
    `adjusted` by Holm (1979) for all variants, so that a false alarm anywhere in the table has the probability `LEVEL`.
    """
    lines: list[dict[str, Any]] = []
    base = np.array([row.values["fid"] for row in studies if variant(row) == AS_IS])
    for name in ORDER:
        these = [row for row in studies if variant(row) == name]
        if not these:
            continue
        c, fid = these[-1].config, np.array([row.values["fid"] for row in these])
        v = pd.DataFrame([row.values for row in these])
        means = {key: float(v[key].mean()) if key in v else math.nan
                 for key in ("losses_mean_of_last", "fid", "kid", "precision", "recall")}
        lines.append({"variant": name, "images": c["batch_size"] * c["optim"]["total_steps"], "batch": c["batch_size"],
                      "seeds": len(these), **means, "fid_sd": float(fid.std(ddof=1)) if len(fid) > 1 else math.nan,
                      **(_compared(fid, base) if name != AS_IS else {})})
    frame = pd.DataFrame(lines)
    for key in ("difference", "half", "detectable", "p"):
        frame[key] = frame.get(key, math.nan)
    return frame.assign(adjusted=holm(frame["p"].to_numpy(float)))


def _compared(fid: np.ndarray[Any, Any], base: np.ndarray[Any, Any]) -> dict[str, float]:
    """The mean of `fid` less that of `base`, by Student's t; NaN where nothing tells the spread."""
    df = len(fid) + len(base) - 2
    if not len(base) or df < 1:
        return {}
    squares = sum(float(((x - x.mean()) ** 2).sum()) for x in (fid, base))
    error, difference = math.sqrt(squares / df * (1 / len(fid) + 1 / len(base))), float(fid.mean() - base.mean())
    half = float(stats.t.ppf(1 - LEVEL / 2, df)) * error
    return {"difference": difference, "half": half, "detectable": half + float(stats.t.ppf(POWER, df)) * error,
            "p": 2 * float(stats.t.sf(abs(difference) / error, df)) if error else float(difference == 0)}


def holm(p: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """p values adjusted by Holm's step-down rule: the k-th smallest of m times m - k + 1, and no smaller than the one before it."""
    out, known = np.full(len(p), math.nan), np.flatnonzero(~np.isnan(p))
    order, largest = known[np.argsort(p[known], kind="stable")], 0.0
    for k, i in enumerate(order):
        largest = max(largest, min(1.0, float(p[i]) * (len(order) - k)))
        out[i] = largest
    return out


def verdict(difference: float, adjusted: float) -> str:
    """What is told of a variant; "" of the preset as it is, and where nothing tells the spread."""
    if math.isnan(adjusted):
        return ""
    return UNKNOWN if adjusted >= LEVEL else BETTER if difference < 0 else WORSE


def shown(studies: list[Row[Ablation]]) -> pd.DataFrame:
    """`table` as people read it."""
    frame, by = table(studies), studies[-1].config["extractor"]

    def text(name: str, form: str) -> list[str]:
        return ["" if math.isnan(value) else format(value, form) for value in frame[name]]

    return pd.DataFrame({
        "variant": frame["variant"], "training images": [f"{n:,}" for n in frame["images"]], "batch": frame["batch"].astype(str),
        "seeds": frame["seeds"].astype(str), f"loss, last {LAST} steps": text("losses_mean_of_last", ".4f"),
        f"FID[{by}]": [f"{a:.2f}" + ("" if math.isnan(b) else f" ± {b:.2g}")
                       for a, b in zip(frame["fid"], frame["fid_sd"], strict=True)],
        "difference": ["" if math.isnan(a) else f"{a:+.1f} ± {b:.1f}" for a, b in
                       zip(frame["difference"], frame["half"], strict=True)],
        "told in 80%": text("detectable", ".1f"), "p": text("adjusted", ".2g"),
        "verdict": [verdict(a, b) for a, b in zip(frame["difference"], frame["adjusted"], strict=True)],
        "KID": text("kid", ".2g"), "precision": text("precision", ".3f"), "recall": text("recall", ".3f"),
    })


def describe(studies: list[Row[Ablation]]) -> str:
    """What the lines have in common."""
    row, frame = studies[-1], table(studies)
    c = row.config
    base = frame[frame["variant"] == AS_IS]["seeds"].sum()
    test = (f"Difference: of the mean FID from that of the {base} trainings of the preset as it is, ± half of its 95% interval by "
            "Student's t, with as many degrees of freedom as both have seeds less 2. Told in 80%: the size of a difference that "
            "this test tells from 0 in 80% of studies, of one variant alone. p: two-sided, adjusted by Holm's rule for all "
            f"variants of the table; below {LEVEL:g} the variant is better or worse, otherwise we cannot tell."
            if frame["difference"].notna().any()
            else "With one training seed of the preset as it is nothing tells a difference from chance.")
    return (f"Each variant changes one setting of the preset {row.preset}, or the two that it names. Figures are means over seeds, "
            f"± of FID the standard deviation between them. {test} All draw from the "
            f"same {c['samples']:,} x_T with DDIM, S = {c['sampling_steps']}, eta = 0; reference fashion-mnist {c['reference']}; "
            f"extractor {c['extractor']}, sha256 {c['extractor_sha256'][:16]}; trained on {c['dataset']} in {c['dtype']} by "
            f"{row.backend}, on {row.environment.get('cpu')}. Losses of other schedules, predictions and weightings do not "
            "compare. "
            "The decay of the EMA is at most (1 + n) / (10 + n) at step n: of such a short training all above 0.999 are the same.")


def render(studies: list[Row[Ablation]], command: str) -> str:
    """`ablation.md`."""
    return "\n".join(["# What improves the training", "", f"Made by `{command}`. Raw values: [rows/study.jsonl](rows/study.jsonl).",
                      "", describe(studies), "", shown(studies).to_markdown(index=False, disable_numparse=True)]) + "\n"
