"""The page of the study of the training: `results/ablation.md`, from rows alone."""

from __future__ import annotations

import math

import pandas as pd

from bench.records import rows
from bench.records.rows import AnyRow, Row
from bench.records.values import Ablation

STUDY = "ablation"
AS_IS = "as it is"
ORDER = (  # of the lines, by the names of `studies.ablation.VARIANTS`
    AS_IS, f"{AS_IS}, second seed", f"{AS_IS}, third seed", "cosine schedule", "v prediction", "min-SNR weighting",
    "v prediction + cosine schedule", "v prediction + batch x 0.5", "batch x 2", "learning rate x 0.3", "learning rate x 3",
    "EMA 0.99", "dropout 0.1", "flips", "half as long", "twice as long",
)
LAST = 500  # losses whose mean is shown


def studied(every: list[AnyRow]) -> list[Row[Ablation]]:
    """The rows of the page, oldest first: those of variants in `ORDER`."""
    return [row for row in rows.studies(every, Ablation) if row.config["variant"] in ORDER]


def table(studies: list[Row[Ablation]]) -> pd.DataFrame:
    """One line a variant, its last row, in `ORDER`; `studies` from `studied`."""
    last = {row.config["variant"]: row for row in studies}
    lines: list[dict[str, str | float | None]] = []
    for name in (name for name in ORDER if name in last):
        c, v = last[name].config, last[name].values
        lines.append({"variant": name, "images": c["batch_size"] * c["optim"]["total_steps"], "batch": c["batch_size"],
                      "loss": v["losses_mean_of_last"], "fid": v["fid"], "fid_inf": v["fid_inf"],
                      "kid": v["kid"], "precision": v.get("precision", math.nan), "recall": v.get("recall", math.nan)})
    return pd.DataFrame(lines)


def shown(studies: list[Row[Ablation]]) -> pd.DataFrame:
    """`table` as people read it."""
    frame, by = table(studies), studies[-1].config["extractor"]
    return pd.DataFrame({
        "variant": frame["variant"], "training images": [f"{n:,}" for n in frame["images"]], "batch": frame["batch"].astype(str),
        f"loss, last {LAST} steps": [f"{x:.4f}" for x in frame["loss"]], f"FID[{by}]": [f"{x:.2f}" for x in frame["fid"]],
        "infinitely many": [f"{x:.2f}" for x in frame["fid_inf"]], "KID": [f"{x:.4f}" for x in frame["kid"]],
        "precision": [f"{x:.3f}" for x in frame["precision"]], "recall": [f"{x:.3f}" for x in frame["recall"]],
    })


def describe(studies: list[Row[Ablation]]) -> str:
    """What the lines have in common."""
    row, frame = studies[-1], table(studies)
    c, as_is = row.config, frame[frame["variant"].str.startswith(AS_IS)]["fid"]
    seeds = (f"FID over the {len(as_is)} training seeds of the preset as it is: mean {as_is.mean():.1f}, standard deviation "
             f"{as_is.std(ddof=1):.1f}; what lies within two of these of the mean may be chance." if len(as_is) > 1
             else "With one training seed of the preset as it is nothing tells a difference from chance.")
    return (f"Each variant changes one setting of the preset {row.preset}, or the two that it names. {seeds} All draw from the "
            f"same {c['samples']:,} x_T with DDIM, S = {c['sampling_steps']}, eta = 0; reference fashion-mnist {c['reference']}; "
            f"extractor {c['extractor']}, sha256 {c['extractor_sha256'][:16]}; trained on {c['dataset']} in {c['dtype']} by "
            f"{row.backend}, on {row.environment.get('cpu')}. Losses of other schedules, predictions and weightings do not "
            "compare. "
            "The decay of the EMA is at most (1 + n) / (10 + n) at step n: of such a short training all above 0.999 are the same.")


def render(studies: list[Row[Ablation]], command: str) -> str:
    """`ablation.md`."""
    return "\n".join(["# What improves the training", "", f"Made by `{command}`. Raw values: [rows/study.jsonl](rows/study.jsonl).",
                      "", describe(studies), "", shown(studies).to_markdown(index=False, disable_numparse=True)]) + "\n"
