"""The page of the table: what rows say is on it, what they do not say is named with its command, and nothing else is loaded."""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import backends
from bench.cli.main import main
from bench.files import FileError
from bench.paths import ROOT
from bench.pictures import svg
from bench.pictures.svg import Series
from bench.presets import PRESETS
from bench.records import rows
from bench.records.rows import Row
from bench.report import results, table1_frames, table1_page
from bench.report.html import first_screen, other_sections, table1_sections
from bench.report.html import page as html_page
from bench.report.html.parts import MAIN, TABLE, Table
from bench.sampling import table1

HASH = "c0ffee" * 10
CELLS = [(S, eta, spacing, seed) for S in (10, 50) for eta in ("0.0", "1.0", "sigma_hat") for spacing in ("leading", "quad")
         for seed in (0, 1, 2)] + [(1000, eta, "leading", 0) for eta in ("0.0", "1.0", "sigma_hat")]
VOID = {"meta", "link", "img", "br"}
PUBLISHED = "367.43"


def row(kind: str, backend: str, values: dict, preset: str = "table", **config: object) -> Row:
    environment = {"cpu": "CPU of a test", "affinity": 2, "gpu": None, "memory_bytes": 2**34, "versions": {"torch": "2.0"},
                   "cell_seconds": 3.0}
    same = {"convention": "plain", "device": "cpu", "dtype": "float32", "model": {}, "diffusion": {}, "weights": "w", "threads": 1}
    return Row(kind, backend, preset, same | config, values, environment, "abc", "2025-01-01T00:00:00+00:00")


def cell_rows(backend: str, S: int, eta: str, spacing: str, seed: int) -> list[Row]:
    """FID is 100 / S, more with noise, and moves with the seed; MindSpore's is a little larger."""
    fid = 1000 / S * {"0.0": 1, "1.0": 2, "sigma_hat": 8 if S < 1000 else 0.5}[eta] + 0.25 * seed + 0.001 * (backend == "mindspore")
    where = {"samples": 256, "steps": S, "eta": eta, "spacing": spacing, "seed": seed}
    metric = {"metric": "FID[fmnist-cnn]", "fid": fid, "fid_inf": fid - 1, "kid": fid / 10, "precision": 0.75, "recall": 0.5,
              "n": 256, "extractor": "fmnist-cnn", "extractor_sha256": HASH, "reference": "a test's images"}
    return [row("sample", backend, {"batch_seconds": [S / 100 * (1 + seed / 10)], "images": 256}, stage="sample", **where),
            row("metric", backend, metric, stage="metric", **where)]


def table_rows() -> list[Row]:
    """A table of both backends with everything that the page shows of one."""
    out = [row("budget", "torch mindspore", {"calls": {"torch": {"0": 1060}}, "cells": [
        {"backend": "torch", "stage": "sample", "cell": "S=10", "seconds": 7200.0, "memory": 1}]}, stage="budget", samples=256)]
    paired = [c for c in CELLS if c[0] < 100 and c[2] == "leading" and c[1] != "sigma_hat"]
    for backend, cells in (("torch", CELLS), ("mindspore", paired)):
        out += [made for cell in cells for made in cell_rows(backend, *cell)]
    measured = out[2].values
    out += [Row("metric", name, "table", {"backend": name, "samples": 256, "seed": 0, "stage": "metric"}, measured | {"fid": fid},
                out[2].environment, "abc") for name, fid in (("real", 1.5), ("noise", 400.25))]
    quantiles = {"0.5": 1e-7, "0.9": 1e-6, "0.99": 1e-5, "0.999": 2e-5, "1.0": 1e-4}
    for S, seed in ((S, seed) for S in (10, 50) for seed in (0, 1, 2)):
        found = {"error": 1e-4 * S, "tolerance": None, "ok": True, "quantiles": {q: value * S for q, value in quantiles.items()}}
        out.append(row("check", "torch mindspore", {"images": found}, stage="images", samples=256, steps=S, eta="0.0",
                       spacing="leading", seed=seed))
    return out


def main_rows() -> list[Row]:
    """What the main job, a recipe and a study of noise leave."""
    training = {"stage": "train", "train_steps": 60, "batch_size": 64, "seed": 0}
    check = {"forward": {"error": 1e-6, "tolerance": 2e-5, "ok": True}, "loss": {"error": 1.0, "tolerance": 1e-5, "ok": False}}
    recipe = {"pictures": [["a.png", "a grid"], ["a.gif", "the denoising of one image"]], "notes": ["Shortened: 7 steps."],
              "command": "ddim-bench recipe a --train-steps 7"}
    points = [{"n": n, "disjoint": n < 512, **{name: [9 + bias / n + i / n for i in range(4 if n < 512 else 1)] for name, bias in
                                               (("fid", 500), ("fid_half", 1000))}} for n in (256, 384, 512)]
    study = {"study": "noise", "name": "held-out <images>", "samples": 512, "seed": 0, "reference": "train",
             "extractor": "fmnist-cnn", "extractor_sha256": HASH, "images": "test", "images_sha256": HASH}
    cost = {"features_seconds": 1.0, "distances_seconds": 0.5, "peak_rss_bytes": 2**30}
    machine = {"cpu": "a CPU", "affinity": 2}
    return [*(row("train", backend, {"losses": [1 / (k + 1) + more for k in range(60)], "seconds": 1.0, "first_seconds": 0.1},
                  "quick", **training)
              for backend, more in (("torch", 0.0), ("mindspore", 1e-7))),
            row("check", "torch oracle", check, "quick", stage="oracle"), row("recipe", "mindspore", recipe, "a"),
            Row("study", "images", "noise", study, {"points": points, "cost": cost}, machine, "abc")]


ROWS = [*main_rows(), *table_rows()]


def with_pictures(out: Path, found: list[Row] = ROWS) -> Path:
    """The folders of cells with images, and a recipe's GIF, as the commands leave them."""
    from PIL import Image

    for k, drawn in enumerate(r for r in found if r.kind == "sample"):
        folder = out / "work" / f"sample-{k}"
        folder.mkdir(parents=True)
        (folder / "result.json").write_bytes(drawn.line().encode())
        np.save(folder / "images.npy", np.random.default_rng(k).uniform(-1, 1, (12, 1, 28, 28)).astype(np.float32))
    (out / "gallery").mkdir()
    frames = [Image.new("L", (28, 28), v) for v in (0, 200)]
    frames[0].save(out / "gallery" / "a.gif", save_all=True, append_images=frames[1:])
    return out


class Reader(HTMLParser):
    """Text, images, what is asked for from elsewhere, and tags that were not closed."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: dict[str, str] = {}
        self.foreign: list[str] = []
        self.captions: list[str] = []
        self.texts: list[str] = []
        self.feed(page.read_text())
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        addresses = [str(given[name]) for name in ("src", "href") if name in given]
        self.foreign += [address for address in addresses if not address.startswith(("data:", "#"))]
        self.foreign += [tag] if tag in ("script", "iframe", "object") else []
        if tag == "img":
            self.images[str(given["alt"])] = str(given["src"])
        if tag == "figcaption":
            self.captions.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)
        if "figcaption" in self.open:
            self.captions[-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = with_pictures(tmp_path_factory.mktemp("page"))
    return html_page.render(ROWS, out, "python bench/run.py --table ddim --samples 256")


@pytest.fixture(scope="module")
def whole(page: Path) -> Reader:
    return Reader(page)


def test_the_page_needs_nothing_else_and_is_small(whole, page):
    assert whole.foreign == [] and page.stat().st_size < 2_000_000
    assert not re.search(r"\bnan\b", whole.text, re.IGNORECASE)


def test_means_and_deviations_are_those_of_the_rows(whole):
    assert "100.2 ± 0.25" in whole.text  # S = 10, eta = 0: 100, 100.25, 100.5
    assert "0.00043" in whole.text and "0.0004297" not in whole.text  # seconds of one of 256 images: 0.1, 0.11 and 0.12 for all
    assert "S = 1000" in whole.text and "floor 1.5 400.2" not in whole.text
    assert PUBLISHED in whole.text and "Another data set and another extractor" in whole.text


def test_claims_equivalence_parity_budget_and_machine_are_told(whole):
    for said in ("not run", "eta = 0 is the best at S = 10 and 20", "equivalent", "DISAGREES", "CPU of a test", "2.00 h",
                 "1,060 (seed 0)"):
        assert said in whole.text, said
    assert "MindSpore on cpu minus PyTorch on cpu" in whole.text and "+0.0010" in whole.text


def test_every_figure_says_n_seeds_extractor_and_command(whole):
    captions = [c for c in whole.captions if "python" in c or "ddim-bench" in c]
    no_metric = [c for c in captions if c.startswith(("Largest errors", "Predicted by", "Of the rows"))]
    figures = [c for c in captions if c not in no_metric]
    assert len(figures) > 20 and len(no_metric) == 3
    for caption in figures:
        assert re.search(r"n = [\d,]+ |Parts of n of 512 images|n images", caption) and "seed" in caption, caption
        assert re.search("fmnist-cnn, sha256 c0ffeec0ffeec0ff|no extractor|neither spread nor hash", caption), caption
    assert any("--table ddim --samples 256" in c for c in captions)
    assert any("--preset quick --train-steps 60 --batch-size 64 --seed 0" in c for c in captions)
    assert any("ddim-bench recipe a --train-steps 7" in c and "Shortened: 7 steps." in c for c in captions)


def test_every_kind_of_picture_is_there(whole):
    for alt in ("FID[fmnist-cnn] against steps, uniform spacing", "FID[fmnist-cnn] against steps, quad spacing",
                "FID[fmnist-cnn] against time, PyTorch", "FID[fmnist-cnn] against time, MindSpore", "Training curves",
                "Pixel differences of PyTorch and MindSpore", "The paper's curves, for their shape", "From noise to an image",
                "FID[fmnist-cnn] against n: held-out <images>",
                *(f"{name}, eta = {eta}, S = {S}" for name in ("PyTorch", "MindSpore") for eta in ("0", "1") for S in (10, 50)),
                "PyTorch, eta = sigma_hat, S = 1000"):
        assert alt in whole.images, alt
    kinds = {uri.split(";")[0] for uri in whole.images.values()}
    assert kinds == {"data:image/svg+xml", "data:image/png", "data:image/gif"}


def test_a_strip_is_of_its_own_cell(tmp_path):
    """The images of another row, or of a row that was measured again, are not taken."""
    out = with_pictures(tmp_path)
    drawn = next(r for r in ROWS if r.kind == "sample")
    again = replace(drawn, created="2026-01-01T00:00:00+00:00")
    other_sections.samples(table1_frames.latest(ROWS), [], out, TABLE)  # which keeps the strips of the older row
    found = other_sections.samples(table1_frames.latest([*ROWS, again]), [], out, TABLE)
    shown = {figure.title: [name for name, _ in figure.images] for figure in found.figures}
    assert shown["PyTorch, eta = 0"] == ["S = 50", "S = 1000"] and shown["MindSpore, eta = 0"] == ["S = 10", "S = 50"]


def test_checkpoints_stand_beside_the_floor_of_as_many_images(tmp_path):
    """A network whose FID at n = 512 is 9 + 500/512 more than nothing, real images' a quarter of that."""
    trained = json.loads((ROOT / "results" / "checkpoints" / "fmnist-small" / "training.json").read_text())
    folder = tmp_path / "checkpoints" / "net"
    folder.mkdir(parents=True)
    (folder / "training.json").write_text(json.dumps(trained | {"seconds": 5400.0}))
    (folder / "loss.csv").write_text("step,loss\n" + "".join(f"{n},{1 / (n + 1)}\n" for n in range(250)))
    of_net = main_rows()[-1]
    resampled = [p | {"resampled": [9.0, 11.0] * 6} for p in of_net.values["points"]]  # an sd, which few parts do not give
    of_net = replace(of_net, config=of_net.config | {"name": "net"}, values=of_net.values | {"points": resampled})
    points = [p | {"fid": [x / 4 for x in p["fid"]]} for p in of_net.values["points"]]
    real = replace(of_net, config=of_net.config | {"name": "held-out images"}, values={"points": points, "cost": {}})
    near = replace(of_net, config={"study": "neighbours", "name": "net"}, values={
        "class_shares": [0.93, 0.07], "held_out_class_shares": [0.75, 0.25], "near": 0.0125})
    shown = ("9.98 ± ", "2.49", "4.0", "1: 7.0% (of held-out images 25.0%)", "1.25%")
    for studies, expected in (([of_net, real, near], shown), ([of_net], shown[:1]), ([], ())):
        s = other_sections.checkpoints(studies, tmp_path)
        line = s.tables[0].frame.set_index("checkpoint")["net"].to_dict()
        assert (line["hours"], line["images"], line["parameters"]) == ("1.50", "4,096,000", "0.41M")
        assert line["data"] == trained["dataset"]
        assert all(any(str(value).startswith(text) for value in line.values()) for text in expected), line
        assert len(line) == 10 + (2 if studies else 0) + (2 if real in studies else 0) + (2 if near in studies else 0)
    assert line["trainings"] == 1 and "in 1 training," in s.figures[0].caption
    assert [f.title for f in s.figures] == ["Training of net"] and "n = 250 steps" in s.figures[0].caption
    assert other_sections.checkpoints([], tmp_path / "none").missing


def test_a_checkpoint_says_what_all_its_trainings_took(tmp_path):
    record = json.loads((ROOT / "results" / "checkpoints" / "fmnist-small" / "training.json").read_text()) | {"seconds": 1800.0}
    folder = tmp_path / "checkpoints" / "net"
    folder.mkdir(parents=True)
    (folder / "loss.csv").write_text("step,loss\n" + "".join(f"{n},{1 / (n + 1)}\n" for n in range(250)))
    for before, trainings in (({"weights": "of/someone"}, 1), (record, 2), (record | {"began_with": record}, 3)):
        (folder / "training.json").write_text(json.dumps(record | {"began_with": before}))
        s = other_sections.checkpoints([], tmp_path)
        line = s.tables[0].frame.set_index("checkpoint")["net"].to_dict()
        assert (line["trainings"], line["hours"]) == (trainings, f"{trainings / 2:.2f}")
        assert line["images"] == f"{trainings * 4_096_000:,}"
        assert f" in {trainings} training" in s.figures[0].caption


def test_images_of_a_checkpoint_drawn_otherwise_have_lines_of_their_own(tmp_path):
    trained = ROOT / "results" / "checkpoints" / "fmnist-small"
    shutil.copytree(trained, tmp_path / "checkpoints" / "net")
    study = main_rows()[-1]
    names = ("net", "net, trailing", "network", "held-out images")
    s = other_sections.checkpoints([replace(study, config=study.config | {"name": name}) for name in names], tmp_path)
    line = s.tables[0].frame.set_index("checkpoint")["net"].to_dict()
    floors = [name for name in line if "floor" in name]
    assert floors == ["floor", "times the floor", "floor, trailing", "times the floor, trailing"]
    assert line["n"] == line["n, trailing"] and line["FID[fmnist-cnn]"] == line["FID[fmnist-cnn], trailing"]


def test_pictures_that_are_gone_leave_no_trace(tmp_path):
    out = with_pictures(tmp_path)
    assert len(other_sections.samples(table_rows(), ROWS, out, TABLE).figures) == 6
    shown = [*(out / "figures" / "shown").glob("*.png")]
    for file in (*out.glob("work/*/images.npy"), out / "gallery" / "a.gif"):
        file.unlink()
    assert len(other_sections.samples(table_rows(), ROWS, out, TABLE).figures) == 5 and len(shown) > 10  # what was kept is there
    for file in shown:
        file.unlink()
    left = other_sections.samples(table_rows(), ROWS, out, TABLE)
    assert left.figures == []
    assert left.missing[0] == ("Samples by S and backend are shown where the table's images are at hand.", TABLE)


def test_without_rows_the_page_says_which_commands_make_them(tmp_path):
    page = Reader(html_page.render([], tmp_path))
    for command in (TABLE, MAIN, "ddim-bench recipe", "ddim-bench study noise"):
        assert command in page.text
    assert page.images == {} and PUBLISHED in page.text


def test_old_rows_are_read(tmp_path):
    """Rows from before the table had spacing, precision and quantiles: those that the main job has written so far."""
    found = [r for r in rows.read(ROOT / "results" / "rows") if r.preset == "quick"]
    page = Reader(html_page.render(found, tmp_path))
    assert "Training curves" in page.images and "images, S=1000, eta=0.0" in page.text
    older = [replace(r, config={k: v for k, v in r.config.items() if k != "spacing"}, values={
        k: v for k, v in r.values.items() if k not in ("precision", "recall", "fid_inf")}) for r in table_rows()]
    for drawn in older:
        for found_values in drawn.values.values():
            if isinstance(found_values, dict):
                found_values.pop("quantiles", None)
    grids = table1_sections.grids(table1_frames.latest(older))
    shown = table1_sections.cells(grids, TABLE).tables + other_sections.limits(older, TABLE).tables
    assert not any("recision" in "".join((t.title, *t.frame.columns)) for t in shown)
    assert "FID[fmnist-cnn]: PyTorch on cpu, uniform spacing, n = 256" in [t.title for t in shown]
    assert table1_sections.pixels(older, TABLE) == ([], [])


def test_the_tables_cells_floor_and_intervals_by_hand():
    """The floor has the spread of other such images; MindSpore's FID is 0.001 more in each seed, and no interval is 0 wide."""
    found = [replace(r, values=r.values | {"fid_sd": 0.25}) if r.backend == "real" else r for r in table_rows()]
    [limits] = other_sections.limits(found, TABLE).tables
    assert limits.frame.set_index("bound")["FID[fmnist-cnn]"].to_dict() == {"floor": "1.5 ± 0.25", "ceiling": "400.2"}
    more = iter([0.0, 1e-3, 2e-3] * 100)
    apart = [replace(r, values=r.values | {"fid": r.values["fid"] + next(more)}) if r.backend == "mindspore" and r.kind == "metric"
             else r for r in found]
    line = table1_sections.equivalence(apart, TABLE)[0].frame.iloc[0]
    assert (line["difference"], line["90% interval"]) == ("+0.0020", "+0.0003 .. +0.0037")  # 2.92 * 0.001 / sqrt(3) to either side
    grids = table1_sections.grids(table1_frames.latest(found))
    assert table1_sections.cells(grids, TABLE).missing == [] != table1_sections.cells([], TABLE).missing


def test_changes_that_no_commit_holds_are_said(tmp_path):
    [table] = other_sections.cost([], [replace(main_rows()[0], commit="0123456789abcdef+dirty")], TABLE).tables
    assert table.frame.set_index("what")["machine 1"]["code"] == "0123456789ab+dirty"


def test_a_checkpoint_that_cannot_be_read_is_named_where_the_page_was_asked_for(tmp_path):
    (tmp_path / "checkpoints" / "net").mkdir(parents=True)
    (tmp_path / "checkpoints" / "net" / "training.json").write_text("[")
    with pytest.warns(UserWarning, match="checkpoints/net: left out of the page: ") as said:
        assert other_sections.checkpoints([], tmp_path).missing
    assert [one.filename for one in said] == [__file__]


def test_one_seed_has_no_deviation():
    alone = [r for r in table_rows() if r.config.get("seed", 0) == 0]
    grids = table1_sections.grids(alone)
    first = table1_sections.cells(grids, TABLE).tables[0]
    assert "±" not in str(first.lines) and "1 seed a cell" in first.caption
    assert set(table1_sections.equivalence(alone, TABLE)[0].frame["verdict"]) == {"cannot tell"}


def test_a_page_is_whole_or_not_there(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="file"):
        html_page.render([], tmp_path / "file")


def test_the_command_writes_the_page_from_rows_alone(tmp_path, capsys):
    for r in main_rows():
        rows.append(tmp_path / "rows", r)
    assert main(["report", "--out", str(tmp_path)]) == 0
    assert f"page: {tmp_path / 'report.html'}" in capsys.readouterr().out
    written = (tmp_path / "report.html").read_bytes()
    assert (tmp_path / "noise.md").exists() and (tmp_path / "gallery.md").exists()
    assert main(["report", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").read_bytes() == written  # nothing of the day or of chance
    (tmp_path / "rows" / "train.jsonl").write_text("no row\n")
    assert main(["report", "--out", str(tmp_path)]) == 2
    assert "train.jsonl:1: not JSON" in capsys.readouterr().err


def decoded(uri: str) -> str:
    return base64.b64decode(uri.removeprefix("data:image/svg+xml;base64,")).decode()


def test_a_curve_has_labelled_axes_bars_and_the_theme_of_the_reader():
    series = [Series("one", [10, 100], [3, 2], [0.5, 0]), Series("two", [10, 100], [4, 1], colour=1)]
    found = html.unescape(decoded(svg.curves(series, "steps S", "FID[x]", ticks=[10, 100], bounds={"floor": 1.5}, front=True)))
    for text in ("steps S", "FID[x]", ">10<", ">100<", ">one<", ">two<", "floor", "Pareto front", "prefers-color-scheme:dark",
                 "currentColor", "#0072b2", "#d55e00"):
        assert text in found, text
    assert svg.INK not in found and "LineCollection" in found


def test_the_pareto_front_holds_what_nothing_beats():
    assert svg.pareto([(3, 1), (1, 5), (2, 6), (2, 3), (4, 1), (1, 7)]) == ([1, 2, 3], [5, 3, 1])


def test_a_table_marks_numbers_and_verdicts():
    import pandas as pd

    found = Table("t", pd.DataFrame({"a": ["1.5 ± 0.1", ""], "b": ["x" * 25, "-3"], "c": ["reproduced", "not run"]}), "c").lines
    assert found == [[("a", "n"), ("b", ""), ("c", "")], [("1.5 ± 0.1", "n"), ("x" * 25, "long"), ("reproduced", "badge good")],
                     [("", "n"), ("-3", ""), ("not run", "badge even")]]


def test_the_etas_of_the_published_table_are_ours():
    assert table1_frames.published().index.tolist() == [str(eta) for eta in table1.ETAS]


def test_the_readmes_table_is_that_of_the_rows():
    """Every line comes from rows, and every cell of the newest run of the main job, with its own n, has its line."""
    shown = (ROOT / "README.md").read_text().split(results.BEGIN)[1].split(results.END)[0].strip()
    n = PRESETS["quick"].samples
    found = [r for r in rows.read(ROOT / "results" / "rows")
             if r.preset == "quick" and r.kind in ("sample", "metric", "check") and r.config.get("samples", n) == n]
    weights = max((r for r in found if r.kind == "sample"), key=lambda r: r.created).config["weights"]
    found = [r for r in found if r.config.get("weights", weights) == weights]
    newest = {(r.kind, r.backend, *(r.config.get(k) for k in ("stage", "steps", "eta", "seed"))): r for r in found}.values()
    order = sorted(newest, key=lambda r: (r.config.get("steps", 0), r.config.get("eta", ""),
                                           backends.order(r.backend) if r.kind == "sample" else ()))
    assert shown == "\n".join([results.sample_table(order).to_markdown(index=False), "", *results.bounds(order)])


def check_of_images(error: float | None) -> Row:
    found = {"error": error, "tolerance": None, "ok": True}
    return row("check", "torch mindspore", {"images": found}, "quick", stage="images", samples=256, steps=10, eta="0.0", seed=0)


@pytest.mark.parametrize(("errors", "said"), [
    ([1e-4, 4.2e-4], "PyTorch and MindSpore agree to 4e-4 in every pixel."),
    ([1e-4, None], "PyTorch and MindSpore differ by up to inf in a pixel, which ranges from -1 to 1."),  # JSON's inf and NaN
    ([1e-4, 0.25], "PyTorch and MindSpore differ by up to 2e-1 in a pixel, which ranges from -1 to 1."), ([], "")])
def test_the_first_sentence_says_how_far_the_backends_are_apart(errors, said):
    assert first_screen.agreement([check_of_images(error) for error in errors]) == said


@pytest.mark.parametrize(("difference", "half", "nearly", "said"), [
    (0.1, 0.3, "reproduced", "50 DDIM steps are as good as 1000: the difference is +0.10 ± 0.3 FID of 8."),
    (0.5, 0.3, "reproduced", "50 DDIM steps are nearly as good as 1000: the difference is +0.50 ± 0.3 FID of 8."),
    (-0.5, 0.3, "reproduced", "50 DDIM steps are better than 1000: the difference is -0.50 ± 0.3 FID of 8."),
    (-0.5, 0.5, "reproduced", "50 DDIM steps are as good as 1000: the difference is -0.50 ± 0.5 FID of 8."),
    (9.0, 0.3, "contradicted", "50 DDIM steps are worse than 1000: the difference is +9.00 ± 0.3 FID of 8."),
    (0.5, 9.0, "cannot tell", "Whether 50 DDIM steps are as good as 1000 cannot be told: the difference is +0.50 ± 9 FID of 8."),
    (0.5, float("nan"), "not run", "Whether 50 DDIM steps are as good as 1000 cannot be told: the difference is +0.50 FID of 8.")])
def test_the_second_sentence_follows_the_verdict(difference, half, nearly, said):
    assert first_screen.quality(difference, half, 8.0, nearly) == said


@pytest.mark.parametrize(("blocks", "said"), [
    ([2.0, 2.01, 1.99, 2.0, 2.0, 2.01, 1.99, 2.0], "JAX takes 2 times PyTorch's time"),
    ([1.1, 0.95, 1.05, 0.92, 1.08, 0.97, 1.02, 1.0], "Whether JAX takes longer than PyTorch cannot be told")])
def test_a_ratio_of_time_that_chance_explains_is_not_said(blocks, said):
    job = [row("timing", backend, {"block_seconds": seconds, "units_per_block": 1, "load_before": [0.0], "steady": True}, "quick",
               stage="timing", workload="sampling step") for backend, seconds in (("torch", [1.0] * 8), ("jax", blocks))]
    assert first_screen.times(job).startswith(said)


def test_the_first_screen_is_of_the_table_and_without_one_of_the_main_job(whole, tmp_path):
    """FID of the made table is 1000 / S: 50 steps are twenty times as bad. The main job's own page has its own chart."""
    assert "50 DDIM steps are worse than 1000: the difference is +19" in whole.text
    assert "FID[fmnist-cnn] against time" in whole.images and "Drawn with 50 steps" in whole.images
    job = [replace(r, preset="quick") for r in table_rows() if r.kind in ("sample", "metric") and r.config.get("eta") == "0.0"
           and r.config["spacing"] == "leading" and r.config["seed"] == 0]
    page = Reader(html_page.render([*job, check_of_images(1e-4)], with_pictures(tmp_path, job)))
    assert "agree to 1e-4 in every pixel. Whether 50 DDIM steps are as good as 1000 cannot be told" in page.text
    assert "FID[fmnist-cnn] against time" in page.images and "Images of preset quick" in page.text


def test_two_cells_of_a_table_are_enough_for_the_second_sentence(tmp_path):
    """Those that it is about, beside floor and ceiling."""
    def of(*cells):
        return [r for r in table_rows() if r.kind == "budget" or r.backend in ("real", "noise") or r.backend == "torch" and (
            r.config.get("steps"), r.config.get("eta"), r.config.get("spacing")) in cells]

    short, full = ((S, "0.0", "leading") for S in (50, 1000))
    assert "50 DDIM steps are worse than 1000: the difference is +19" in Reader(html_page.render(of(short, full), tmp_path)).text
    assert "DDIM steps are" not in Reader(html_page.render(of(short), tmp_path)).text


def test_the_second_sentence_is_of_paired_images_where_they_were_measured(tmp_path):
    """One seed tells nothing; resamples of the same images tell that 50 steps have 1.1 times the FID of 1000."""
    def pooled(S, fid):
        values = {"n": 256, "metric": "FID[fmnist-cnn]", "fid": fid, "resampled": [fid + k / 1000 for k in range(100)]}
        return row("study", "torch", values, stage="pooled", study="pooled", table="ddim", steps=S, eta="0.0", spacing="leading",
                   seed=0, seeds=[0], samples=256)

    one = [r for r in table_rows() if r.config.get("seed", 0) == 0 and r.config.get("eta", "0.0") == "0.0"]
    assert "cannot be told" in Reader(html_page.render(one, tmp_path)).text
    page = Reader(html_page.render([*one, pooled(50, 11.0), pooled(1000, 10.0)], tmp_path))
    assert "50 DDIM steps are nearly as good as 1000: the difference is +1.00 ± 0 FID of 10." in page.text


def test_a_first_chart_is_against_steps_where_the_machine_was_not_fit_for_times(whole, tmp_path):
    busy = [replace(r, environment=r.environment | {"load": [40.0], "usable_cores": 2}) for r in table_rows()]
    page = Reader(html_page.render(busy, tmp_path))
    told = "The machine had other work, and was not fit for times."
    assert "FID[fmnist-cnn] against steps" in page.images and any(told in caption for caption in page.captions)
    assert "FID[fmnist-cnn] against steps" not in whole.images and not any(told in caption for caption in whole.captions)


def test_verdicts_come_first_and_the_best_cell_is_marked():
    import pandas as pd

    frame = pd.DataFrame({"eta": ["0", "1"], "S = 10": ["3.5 ± 1", "2 ± 0.1"], "S = 50": ["", "2.5"], "verdict": ["ok", "ok"]})
    lines = Table("t", frame, "c", best="lowest").lines
    assert [cell for cell, _ in lines[0]] == ["verdict", "eta", "S = 10", "S = 50"] and lines[1][0] == ("ok", "badge good")
    marked = [(i, cell) for i, line in enumerate(lines) for cell, css in line if "best" in css]
    assert marked == [(2, "2 ± 0.1")]
    assert [cell for line in Table("t", frame, "c", best="highest").lines for cell, css in line if "best" in css] == ["3.5 ± 1"]


def test_tables_of_two_presets_are_both_on_the_pages(tmp_path):
    """The smaller one, begun later, hides nothing of the other."""
    small = [replace(r, preset="table-base", config=r.config | {"weights": "other"}, created="2026-01-01T00:00:00+00:00")
             for r in table_rows() if r.config.get("seed", 0) == 0]
    found = [*table_rows(), *small]
    assert [t[0].preset for t in table1_frames.tables(found)] == ["table", "table-base"]
    page = Reader(html_page.render(found, tmp_path))
    assert "Verdict on each claim: table-base, n = 256" in page.text
    real = table1_frames.latest(rows.read(ROOT / "results" / "rows"))
    text = table1_page.page(real, "c", [], [[replace(r, preset="table-base") for r in real if r.config.get("seed", 0) == 0]])
    assert 0 < text.index("### The paper's claims") < text.index("\n# Preset table-base\n") < text.index("preset table-base:")
    assert text.count("### The paper's claims") == 2
