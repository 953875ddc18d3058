"""The sections of `report.html` beside the table: the backends held against each other, samples, cost and machines."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from backends import order
from bench.paths import command_line, renamed
from bench.pictures import svg
from bench.pictures.svg import Series
from bench.records import rows, trainings
from bench.records.rows import AnyRow, Row, of
from bench.records.values import Checks, Neighbours, Noise, Recipe, Sample, Train
from bench.report import ablation_page, noise_page, results, table1_frames, table1_page
from bench.report.html import strips, table1_sections
from bench.report.html.parts import MAIN, Figure, Section, Table, plain
from bench.report.machines import page as machines_page
from bench.report.machines import versus
from bench.report.measures import cores, label, stale
from bench.sampling import table1
from reference import weights
from reference.config import ConfigError, ModelConfig

POINTS = 100  # of a curve of losses
CAPTIONS = {  # of what `compare` says
    "machines": "What of machines, versions and code differs.",
    "agreement": "Comparisons with the oracle and between backends; the worst error by its tolerance.",
    "distances": "FID minus that of {first}, of the same cells; intervals by the paired bootstrap where both kept resamples.",
    "times": "Time by that of {first}, bootstrap of blocks; A/A: a run's alternate blocks, the floor of any difference.",
    "not fit for times": "No ratio is said of these.",
}


def backends(found: list[AnyRow], every: list[AnyRow], command: str) -> Section:
    """Whether both backends give the same: FID and images of the table's rows `found`, losses and parity of all rows."""
    s = Section("Two backends, one table")
    if found:
        s.tables += table1_sections.equivalence(found, command)
        tables, s.figures = table1_sections.pixels(found, command)
        s.tables += tables
    train = _trained(every)
    if len(train) > 1:
        c, losses = train[0].config, [np.array(row.values["losses"]) for row in train]
        apart = max(float(np.max(np.abs(other - losses[0]) / losses[0])) for other in losses[1:])
        s.figures.append(Figure(
            "Training curves", [("", svg.losses({label(row.backend): row.values["losses"] for row in train}))],
            f"The same weights, batches, timesteps and noise: the losses differ by {apart:.1e} of their size at most. "
            f"n = {len(losses[0]):,} steps of batch {c['batch_size']}, each pale, 1 seed ({c['seed']}); no extractor.",
            command_line("run", "--preset", train[0].preset, "--train-steps", str(c["train_steps"]), "--batch-size",
                         str(c["batch_size"]), "--seed", str(c["seed"])), folded=True))
    else:
        s.missing.append(("Training curves need a training on both backends.", MAIN))
    if checks := _newest_checks(every):
        s.tables.append(Table("Parity: every comparison with the float64 oracle and between backends", results.check_table(checks),
                              "Largest errors. Those without a verdict are reported only.", MAIN, folded=True))
    else:
        s.missing.append(("No comparison with the oracle has rows yet.", MAIN))
    return s


def _trained(every: list[AnyRow]) -> list[Row[Train]]:
    """The trainings that differ in the backend alone: of most backends, the longest, the newest."""
    groups: dict[str, dict[str, Row[Train]]] = {}
    for row in of(every, Train):
        same = sorted((name, str(value)) for name, value in row.config.items() if name != "backend")
        groups.setdefault(str(same), {})[row.backend] = row
    def worth(group: dict[str, Row[Train]]) -> tuple[int, int, str]:
        return len(group), *max((len(row.values["losses"]), row.created) for row in group.values())

    best = max(groups.values(), key=worth, default={})
    return list(best.values())


def _newest_checks(every: list[AnyRow]) -> list[Row[Checks]]:
    """The last row of each comparison; of the table's images the pixels have a figure of their own."""
    places = ("stage", "device", "dtype", "steps", "sampler", "eta", "spacing", "seed")
    return list({(row.preset, row.backend, *(row.config.get(name) for name in places)): row
                 for row in of(every, Checks) if (row.preset, row.config.get("stage")) != ("table", "images")}.values())


def checkpoints(every: list[AnyRow], out: Path) -> Section:
    """The trained networks in `out`/checkpoints: how each was trained, what its samples are like; what improves the training."""
    s, studies = Section("The checkpoints", folded=True), {row.config["name"]: row for row in noise_page.newest(every)}
    seen = {row.config["name"]: row for row in rows.studies(every, Neighbours)}
    lines = []
    for path in sorted(out.glob("checkpoints/*/training.json")):
        try:
            name, stages, losses = path.parent.name, trainings.stages(path), trainings.losses(path.with_name("loss.csv"))
            about, c, where = stages[0], stages[0]["config"], stages[0]["environment"]
            size = weights.count(ModelConfig.from_dict(c["model"]))
        except ConfigError as error:
            warnings.warn(f"{path.parent}: left out of the page: {error}", stacklevel=2)
            continue
        line = {"checkpoint": name, "parameters": f"{size / 1e6:.2f}M",
                "process": f"{c['diffusion']['schedule']}, {c['diffusion']['objective']}", "EMA": c["optim"]["ema_decay"],
                "data": about["dataset"], "trainings": len(stages),
                "images": f"{sum(trainings.steps(x) * x['config']['batch_size'] for x in stages):,}",
                "batch": c["batch_size"], "dtype": c["dtype"], "hours": f"{sum(x['seconds'] for x in stages) / 3600:.2f}",
                "on": f"{cores(where)} cores of {where.get('cpu')}" if not where.get("gpu")
                else about["device"].get("name")}
        for drawn in (name, *(other for other in studies if other.startswith(f"{name}, "))):  # "NAME, HOW"
            about_images = _distance(studies[drawn], studies.get(noise_page.HELD_OUT)) if drawn in studies else {}
            about_images |= _classes(seen[drawn]) if drawn in seen else {}
            if said := {stale(of_it[drawn], out) for of_it in (studies, seen) if drawn in of_it} - {""}:
                about_images["stale"] = " ".join(sorted(said))
            line |= {key + drawn.removeprefix(name): value for key, value in about_images.items()}
        lines.append(line)
        k = max(1, len(losses) // POINTS)
        means = losses[:len(losses) // k * k].reshape(-1, k).mean(1)
        curve = Series(name, ((np.arange(len(means)) + 0.5) * k).tolist(), means.tolist())
        s.figures.append(Figure(f"Training of {name}", [("", svg.curves([curve], "training step", "loss", log="y"))],
                                f"n = {len(losses):,} steps of batch {c['batch_size']} in {len(stages)} "
                                f"training{'s' * (len(stages) > 1)}, means of {k}, 1 seed each, {c['backend']} in {c['dtype']}; no "
                                "extractor.", renamed(about["command"])))
    if lines:
        frame = pd.DataFrame(lines).fillna("").set_index("checkpoint").T.rename_axis("checkpoint").rename_axis(columns=None)
        s.tables.append(Table("Networks to sample from", frame.reset_index(), "Trainings: one "
                              "after another, each from the weights of the one before; images and hours are of all. Floor: "
                              "held-out real images, as many. By nearest neighbours in pixel space (study neighbours): "
                              "smallest class, the share of the class that is found least; near, the share of samples nearer "
                              "to a training image than 1% of held-out images are.",
                              command_line("study", "noise", "--images", "NAME=samples.npy")))
    else:
        s.missing.append(("No trained network lies beside this page.",
                          command_line("train", "--train-steps", "9000", "--save", "FOLDER")))
    if tried := ablation_page.studied(every):
        s.tables.append(Table("What improves the training", ablation_page.shown(tried), ablation_page.describe(tried),
                              command_line("study", "ablation", "--dtype", tried[-1].config["dtype"]), folded=True))
    return s


def _distance(study: Row[Noise], held_out: Row[Noise] | None) -> dict[str, Any]:
    """FID of all images of a study of noise, and that of as many held-out ones."""
    frame, c = noise_page.table(study), study.config
    last = frame.iloc[-1]
    spread = "" if pd.isna(last["fid_sd"]) else f" ± {last['fid_sd']:.2f}"
    line = {"n": f"{last['n']:,.0f}", f"FID[{c['extractor']}]": f"{last['fid']:.2f}{spread}"}
    if held_out is not None:
        floors = noise_page.table(held_out)
        for floor in floors["fid"][floors["n"] == last["n"]]:
            line |= {"floor": f"{floor:.2f}", "times the floor": f"{last['fid'] / floor:.1f}"}
    return line


def _classes(study: Row[Neighbours]) -> dict[str, Any]:
    """What a study of neighbours says of the classes, and of remembering."""
    v = study.values
    if not (shares := v["class_shares"]) or not (held_out := v["held_out_class_shares"]):
        return {}
    least = int(np.argmin(shares))
    return {"smallest class": f"{least}: {shares[least]:.1%} (of held-out images {held_out[least]:.1%})",
            "near": f"{v['near']:.2%}"}


def limits(found: list[AnyRow], command: str) -> Section:
    """Floor and ceiling of the metric."""
    s, bounds = Section("Floor and ceiling", folded=True), table1_frames.bounds(found)
    if bounds.empty:
        s.missing.append(("Floor and ceiling of the metric need the table.", command))
        return s
    spread, bounds = bounds["fid_sd"], bounds.drop(columns="fid_sd").dropna(axis="columns", how="all")
    measures = [name for name in table1_frames.MEASURES if name in bounds]
    shown = bounds.assign(**{name: [table1_page.figure(value, sd if name == "fid" else np.nan) for value, sd in
                                    zip(bounds[name], spread, strict=True)] for name in measures})
    shown = shown.rename(columns=table1_page.titles(found))
    s.tables.append(Table("What real images and noise score", shown, "Floor: held-out real images. Ceiling: standard "
                          "normal noise. One set of n images each, 1 seed; ±: standard deviation over other such sets. "
                          f"{table1_sections.extractor(found)}", command))
    return s


def samples(found: list[AnyRow], every: list[AnyRow], out: Path, command: str) -> Section:
    """Images by S, eta and backend from the same x_T, and a denoising path."""
    s = Section("Samples", folded=True)
    drawn = [row for row in of(found, Sample) if "sampler" not in row.config and row.config["spacing"] == table1.UNIFORM]
    seed = min((row.config["seed"] for row in drawn), default=0)
    lines: dict[tuple[str, str], dict[int, str]] = {}
    for row in drawn:
        c = row.config
        if c["seed"] == seed and (picture := strips.strip(row, out)):
            lines.setdefault((c["eta"], row.backend), {})[c["steps"]] = picture
    for (eta, backend), pictures in sorted(lines.items(), key=lambda line: (line[0][0], order(line[0][1]))):
        s.figures.append(Figure(f"{label(backend)}, eta = {plain(eta)}", [(f"S = {S}", pictures[S]) for S in sorted(pictures)],
                                f"The first n = {strips.SHOWN} images of 1 seed ({seed}), not chosen; the same x_T in every line "
                                "of every picture. Uniform spacing; no extractor.", command))
    if not lines:
        s.missing.append(("Samples by S and backend are shown where the table's images are at hand.", command))
    moving = [(row, path, caption) for row in of(every, Recipe) for file, caption in row.values["pictures"]
              if file.endswith(".gif") and (path := out / "gallery" / file).exists()]
    if moving:
        made, path, caption = moving[-1]
        s.figures.append(Figure(
            "From noise to an image", [("", svg.data_uri(path.read_bytes(), "image/gif"))], f"{caption}; "
            f"{label(made.backend)}. {' '.join(made.values['notes'])} n = 1 image, 1 seed; no extractor.",
            renamed(made.values["command"]), small=True))
    else:
        s.missing.append(("A denoising path in motion has no row yet.", command_line("recipe", "fashion-mnist-mindspore")))
    return s


def cost(found: list[AnyRow], every: list[AnyRow], command: str) -> Section:
    """What the table cost, and the machines that made its rows; those of all rows where there is no table."""
    s, budget = Section("Budget and machine", folded=True), table1_frames.budget(found)
    if not budget.empty:
        hours = {name: budget[name].map(lambda seconds: "" if pd.isna(seconds) else f"{seconds / 3600:.2f} h")
                 for name in ("predicted", "measured")}
        s.tables.append(Table("Budget", budget.assign(**hours), "Predicted by a short calibration before the first cell was "
                              "drawn. calls: network calls for one image of every cell.", command))
    machines: dict[str, dict[str, str]] = {}
    for row in found or every:
        where = _machine(row)
        machines.setdefault(str(where), where)["code"] = row.commit[:12] + "+dirty" * row.commit.endswith("+dirty")
    if machines:
        frame = pd.DataFrame({f"machine {k}": where for k, where in enumerate(machines.values(), 1)}).fillna("")
        s.tables.append(Table("Environment", frame.rename_axis("what").reset_index(), "Of the rows shown. cores: that the process "
                              "may use; code: the commit of the newest row.", command))
    return s


def machines(out: Path) -> list[Section]:
    """The machines whose rows lie in `out`/machines beside those of `out`/rows, and what `ddim-bench compare` says of them; none
    where there are no such rows."""
    runs = machines_page.found(out)
    if len(runs) < 2:
        return []
    first, *others = runs
    s = Section("Other machines", folded=True)
    listed = command_line("report")
    s.tables.append(Table("Machines", machines_page.table(runs), f"{first}: rows/; the others: machines/NAME.jsonl. Times of the "
                          "newest rows; each machine's own number of images and seeds.", listed))
    compared = command_line("compare", "rows", *(f"machines/{name}.jsonl" for name in others))
    for name, frame in versus.tables(runs).items():
        s.tables.append(Table(f"Compared: {name}", frame.fillna(""), CAPTIONS[name].format(first=first), compared,
                              folded=name == "machines"))
    return [s]


def _machine(row: AnyRow) -> dict[str, str]:
    e = row.environment
    found = {"CPU": e.get("cpu"), "GPU": "; ".join(e.get("gpu") or []), "cores": cores(e),
             "memory": f"{e['memory_bytes'] / 2**30:.0f} GiB" if e.get("memory_bytes") else None, "system": e.get("os"),
             "Python": e.get("python"), **e.get("versions", {})}
    return {name: str(value) for name, value in found.items() if value}
