"""Two machines' rows: compared, packed, and listed on one page."""

from __future__ import annotations

import getpass
import json
import socket
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from bench.cli.main import main
from bench.cli.submit import private
from bench.records import rows
from bench.report.machines import page, versus
from bench.report.measures import ratio
from reference.config import DiffusionConfig

ENVIRONMENT = {"cpu": "a CPU", "usable_cores": 2, "os": "Linux 6", "python": "CPython 3.11",
               "versions": {"torch": "2.1", "numpy": "1.26"}}
CELL = {"steps": 10, "eta": "0.0", "spacing": None, "seed": 0, "samples": 200, "batch_size": 20, "device": "cpu",
        "diffusion": DiffusionConfig().to_dict(), "weights": "0" * 16, "extractor_sha256": "a" * 64, "reference": "r" * 64}
SPREAD = np.random.default_rng(0).normal(0, 0.5, 50)


def timing(seconds, **more):
    return rows.Row("timing", "torch", "quick", {
        "workload": "sampling step", "batch_size": 8, "dtype": "float32", "device": "cpu", "threads": 2, "stage": "timing", **more},
        {"block_seconds": [float(x) for x in seconds], "units_per_block": 1, "warmup_seconds": [1.0], "first_seconds": 1.0,
         "steady": True, "parameters": 10, "peak_rss_bytes": 10, "device": {}}, ENVIRONMENT, "c" * 40)


def pooled(fid, resampled):
    config = {**CELL, "study": "pooled", "table": "ddim", "seeds": [0], "resamples": len(resampled)}
    return rows.Row("study", "torch", "table", config, {
        "n": 200, "metric": "FID[x]", "fid": fid, "resampled": [float(x) for x in resampled]}, ENVIRONMENT, "c" * 40)


def check(error, ok=True):
    return rows.Row("check", "torch oracle", "quick", {"backend": "torch oracle"}, {
        "forward": {"error": error, "tolerance": 1e-5, "ok": ok}}, ENVIRONMENT, "c" * 40)


def run_of(out, seconds, fid, resampled, **environment):
    for row in (timing(seconds), pooled(fid, resampled), check(1e-6)):
        rows.append(out / "rows", replace(row, environment={**ENVIRONMENT, **environment}))
    return out


@pytest.fixture
def two(tmp_path):
    blocks = 1 + 0.02 * np.random.default_rng(1).standard_normal(20)
    return (run_of(tmp_path / "a", blocks, 20.0, 20 + SPREAD),
            run_of(tmp_path / "b", 1.5 * blocks, 19.0, 19 + SPREAD + 0.05 * np.arange(50) / 50, cpu="another CPU",
                   versions={"torch": "2.2", "numpy": "1.26"}))


def compared(capsys, *words):
    assert main(["compare", *map(str, words), "--format", "json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_difference_is_said_with_its_interval_and_what_of_the_machines_differs(two, capsys):
    found = compared(capsys, *two)
    assert {line["what"]: (line["a"], line["b"]) for line in found["machines"]} == {
        "cpu": ("a CPU", "another CPU"), "torch": ("2.1", "2.2")}
    (fid,) = found["distances"]
    assert (fid["a"], fid["b"], fid["difference"], fid["verdict"]) == (20.0, 19.0, -1.0, "less")
    low, high = map(float, fid["95% interval"].split(" .. "))
    assert low < -1 < high < -0.9  # the images' own spread, ten times as large, is common to both
    (time,) = found["times"]
    assert time["ratio"] == 1.5 and time["verdict"] == "more" and time["hardware"] == "different" and ".." in time["A/A a"]
    assert [line["verdict"] for line in found["agreement"]] == ["agrees", "agrees"]


@pytest.mark.parametrize("device, compared", [("cuda:0", 1), ("cuda:1", 1), ("cpu", 0)])
def test_times_of_one_kind_of_device_are_compared_whatever_its_number(device, compared):
    assert len(versus.times({"a": [timing([1.0] * 4, device="cuda")], "b": [timing([1.0] * 4, device=device)]})) == compared


def test_the_worst_comparison_is_that_of_the_largest_share_of_its_tolerance():
    several = replace(check(2e-6), values={
        "tables": {"error": 1e-11, "tolerance": 1e-10, "ok": True}, "forward": {"error": 2e-6, "tolerance": 4e-6, "ok": True},
        "loss": {"error": 1e-3, "tolerance": None, "ok": True}, "step": {"error": None, "tolerance": 1e-4, "ok": False}})
    (line,) = versus.agreement({"a": [several]}).to_dict("records")
    assert (line["comparisons"], line["disagree"], line["worst error / tolerance"], line["of"]) == (4, 1, 0.5, "forward")


def test_where_there_is_no_difference_it_says_so(tmp_path, capsys):
    values = 1 + 0.02 * np.random.default_rng(2).standard_normal((2, 20))
    a = run_of(tmp_path / "a", values[0], 20.0, 20 + SPREAD)
    b = run_of(tmp_path / "b", values[1], 20.05, 20.05 + SPREAD + 0.2 * np.random.default_rng(3).standard_normal(50))
    found = compared(capsys, a, b)
    assert "machines" not in found
    assert [line["verdict"] for name in ("distances", "times") for line in found[name]] == ["no difference"] * 2


def test_a_run_that_disagrees_and_a_value_without_an_interval(tmp_path, capsys):
    a, b = (run_of(tmp_path / name, [1.0] * 4, 20.0, 20 + SPREAD) for name in "ab")
    rows.append(b / "rows", check(1.0, ok=False))
    single = {"n": 200, "fid_half": None, "fid_inf": None, "kid": 1.0, "kid_subset_size": 10, "kid_subset_std": 0.1, "seed": 0,
              "metric": "FID[x]", "extractor": "x", "extractor_sha256": "a" * 64, "reference": "r", "kid_reference": "r"}
    for out, fid in ((a, 20.0), (b, 21.0)):
        rows.append(out / "rows", rows.Row("metric", "torch", "quick", CELL, {**single, "fid": fid}, ENVIRONMENT, "c" * 40))
    found = compared(capsys, a, b)
    assert [(line["run"], line["verdict"]) for line in found["agreement"]] == [("a", "agrees"), ("b", "disagrees")]
    assert [(line["difference"], line["verdict"]) for line in found["distances"]] == [(0.0, "no difference"), (1.0, "cannot tell")]


def test_a_comparison_that_was_made_again_counts_as_it_came_out_last():
    """In whatever order the rows lie."""
    wrong, mended = (replace(row, created=f"2026-01-0{day}T00:00:00+00:00")
                     for day, row in ((1, check(1.0, ok=False)), (2, check(1e-6))))
    for order in ([wrong, mended], [mended, wrong]):
        (line,) = versus.agreement({"a": order}).to_dict("records")
        assert (line["comparisons"], line["disagree"], line["verdict"]) == (1, 0, "agrees")
        (line,) = page.table({"a": [timing([1.0] * 4), *order, replace(check(1.0), preset="other")]}).to_dict("records")
        assert line["checks that agree"] == "2 of 2"


def test_a_gpu_is_one_machine_whatever_its_clock_of_the_moment(tmp_path, capsys):
    """Its greatest clock is the card's own, and is kept."""
    gpu, out = "A card, 580.1, {} MHz, 1980 MHz, 81559 MiB", tmp_path / "gpu"
    for clock in (345, 1980):
        here = {**ENVIRONMENT, "gpu": [gpu.format(clock)]}
        rows.append(out / "rows", replace(timing([1.0] * 4, device="cuda"), environment=here))
    assert main(["submit", "--out", str(out), "--name", "mine", "--file", str(tmp_path / "x.jsonl")]) == 0
    assert "2 rows of A card, 580.1, 1980 MHz, 81559 MiB\n" in capsys.readouterr().out


def test_a_machine_that_was_busy_or_differs_from_itself_gives_no_ratio(two, tmp_path, capsys):
    """And is named with the reason; the times themselves stay."""
    busy = run_of(tmp_path / "busy", [1.0 + 0.01 * (n % 3) for n in range(20)], 20.0, 20 + SPREAD, load=[9.0, 1.0, 1.0])
    shaky = run_of(tmp_path / "shaky", [1.0, 3.0] * 10, 20.0, 20 + SPREAD)
    found = compared(capsys, two[0], busy, shaky)
    assert [(line["ratio"], line["95% interval"], line["verdict"]) for line in found["times"]] == [
        (None, "", "none: busy not fit"), (None, "", "none: shaky not fit")]
    assert found["times"][0]["busy"] == "1.01e+03 ms"
    assert [(line["run"], line["why"]) for line in found["not fit for times"]] == [
        ("busy", "load average 9.0 on 2 cores"), ("shaky", "a contender differs from itself by up to 3.00 times")]
    assert main(["compare", str(busy), str(two[0])]) == 0
    text = capsys.readouterr().out
    assert "none: busy not fit" in text and "nan" not in text.lower() and max(map(len, text.splitlines())) <= 80


def test_the_html_page_lists_the_machines_and_compares_them(two, capsys):
    a, b = two
    assert main(["submit", "--out", str(b), "--name", "other", "--file", str(a / "other.jsonl")]) == 0
    assert main(["report", "--out", str(a)]) == 0
    assert "Other machines" not in (a / "report.html").read_text()
    (a / "machines").mkdir()
    (a / "other.jsonl").rename(a / "machines" / "other.jsonl")
    assert main(["report", "--out", str(a)]) == 0
    page = (a / "report.html").read_text().split("Other machines")[-1]
    assert "another CPU, 2 cores" in page and "compare rows machines/other.jsonl" in page
    for name in ("machines", "agreement", "distances", "times"):
        assert f"Compared: {name}" in page
    assert ">1.5<" in page.split("Compared: times")[-1] and ">-1.0<" in page.split("Compared: distances")[-1]
    assert "not fit" not in page


def test_text_and_csv_hold_the_same_tables(two, capsys):
    for form in ("text", "csv"):
        assert main(["compare", *map(str, two), "--format", form]) == 0
        text = capsys.readouterr().out
        assert [name for name in ("machines", "agreement", "distances", "times") if f"{name}\n" in text] == [
            "machines", "agreement", "distances", "times"] and "-1" in text


def test_cells_that_differ_in_their_network_do_not_compare(tmp_path):
    other = replace(pooled(19.0, SPREAD), config={**pooled(0, SPREAD).config, "weights": "1" * 16})
    assert versus.distances({"a": [pooled(20.0, SPREAD)], "b": [other]}).empty
    assert versus.times({"a": [timing([1.0] * 4)], "b": [timing([1.0] * 4, batch_size=16)]}).empty


@pytest.mark.parametrize("name", ["backend", "model", "diffusion", "dtype", "convention", "steps", "eta", "spacing", "sampler",
                                  "samples", "weights", "choices", "seed", "extractor_sha256", "reference", "table"])
def test_a_cell_that_differs_in_this_does_not_compare(name):
    one, other = pooled(20.0, SPREAD), pooled(19.0, SPREAD)
    changed = replace(other, backend="jax") if name == "backend" else replace(other, config=other.config | {name: "other"})
    assert versus.distances({"a": [one], "b": [changed]}).empty and len(versus.distances({"a": [one], "b": [other]})) == 1


@pytest.mark.parametrize("name", ["backend", "workload", "batch_size", "dtype", "threads", "stage", "contender", "mode", "axis",
                                  "value", "model"])
def test_a_time_that_differs_in_this_does_not_compare(name):
    one = other = timing([1.0] * 4)
    changed = replace(other, backend="jax") if name == "backend" else replace(other, config=other.config | {name: "other"})
    assert versus.times({"a": [one], "b": [changed]}).empty and len(versus.times({"a": [one], "b": [other]})) == 1


def test_of_a_cell_that_was_measured_again_the_newest_row_compares_wherever_it_stands():
    """And the newest row says what a machine is."""
    new = [timing([2.0] * 5), pooled(20.0, 20 + SPREAD)]
    old = [replace(row, created="2026-01-01T00:00:00+00:00", environment=ENVIRONMENT | {"cpu": "an old CPU"})
           for row in (timing([9.0] * 5), pooled(99.0, SPREAD))]
    for found in ([*old, *new], [*new, *old]):
        tables = versus.tables({"a": found, "b": new})
        assert [line["ratio"] for line in tables["times"].to_dict("records")] == [1.0] and "machines" not in tables
        assert tables["distances"]["difference"].tolist() == [0.0] and tables["times"]["hardware"].tolist() == ["the same"]


def test_a_ratio_within_what_a_contender_differs_from_itself_is_no_difference():
    """Every odd block takes 1 s, of the even ones 12 in 20 1.1 s: A/A reaches from 0.909 to 1, and the median is 1 s for sure."""
    blocks = np.ones(40)
    blocks[1::2][:12] = 1.1

    def line(factor):
        [found] = versus.times({"a": [timing(blocks)], "b": [timing(factor * blocks)]}).to_dict("records")
        return found["ratio"], found["95% interval"], found["verdict"]

    assert line(0.95) == (0.95, "0.950 .. 0.950", "no difference")
    assert line(0.85) == (0.85, "0.850 .. 0.850", "less")


def test_distances_are_told_to_three_digits_and_their_difference_to_four():
    found = versus._distance("a", "b", pooled(20.12345, SPREAD), 0.00456, 0.0021)
    assert (found["a"], found["b"], found["difference"], found["95% interval"]) == (20.123, 20.128, 0.0046, "+0.002 .. +0.007")


def test_the_page_of_machines_has_the_last_of_each_device():
    """Three cells, in their order, and one timing of sampling steps, the median of its blocks; checks are of the backend's name."""
    def at(day, row, **config):
        return replace(row, created=f"2026-01-{day:02}T00:00:00+00:00", config=row.config | config)

    drawn = rows.Row("sample", "torch", "quick", CELL, {"batch_seconds": [3.0, 1.0], "images": 8, "first_seconds": 1.0, "calls": 1},
                     ENVIRONMENT, "c" * 40)
    found = [at(9, drawn, steps=5), *(at(day, drawn, steps=S) for day, S in ((2, 10), (3, 20), (4, 50))),
             at(5, timing([9.0] * 3)), at(6, timing([0.1, 0.2, 0.9])), at(7, timing([5.0] * 3, workload="training step")),
             replace(at(8, timing([7.0] * 3)), backend="mindspore"),
             check(1e-6), replace(check(1.0, ok=False), preset="base"), replace(check(1.0, ok=False), backend="torch2 oracle"),
             at(8, replace(timing([0.004] * 3), environment=ENVIRONMENT | {"gpu": ["a card"]}), device="cuda:0")]
    here, other, card = page.table({"mine": found}).to_dict("records")
    assert (other["backend"], other["s/image, S"], other["ms a sampling step"]) == ("MindSpore", "", "7e+03")
    assert here == {"machine": "mine", "hardware": "a CPU, 2 cores", "backend": "PyTorch", "rows": 8,
                    "s/image, S": "0.5, 10; 0.5, 20; 0.5, 50", "ms a sampling step": "200", "checks that agree": "1 of 2",
                    "newest": "2026-01-09"}
    assert (card["hardware"], card["rows"], card["ms a sampling step"], card["s/image, S"]) == ("a card", 1, "4", "")


def test_runs_are_named_by_their_folders_and_one_of_the_same_name_by_its_path(two, tmp_path, capsys):
    a, b = two
    assert {"a", "b"} <= set(compared(capsys, a / "rows", b / "rows")["times"][0])
    (tmp_path / "other").mkdir()
    a.rename(tmp_path / "other" / "b")
    assert {"b", str(tmp_path / "other" / "b")} <= set(compared(capsys, b, tmp_path / "other" / "b")["times"][0])


def test_the_ratio_of_blocks_that_were_not_taken_in_turn():
    a, b = np.random.default_rng(0).normal(2, 0.1, (2, 30))
    value, low, high = ratio(a, b)
    assert low < value < high and abs(value - np.median(a) / np.median(b)) < 1e-12 and (low, high) == ratio(a, b)[1:]
    again = ratio(a, a)
    assert again[0] == 1 and again[1] < 0.999 < 1.001 < again[2], "each is resampled on its own"
    drawn = np.random.default_rng(3)
    medians = np.median(drawn.choice(a, (50_000, 30)), axis=1) / np.median(drawn.choice(b, (50_000, 30)), axis=1)
    assert [low, high] == pytest.approx(np.quantile(medians, (0.025, 0.975)), abs=0.03 * (high - low))
    wide = ratio(np.random.default_rng(1).normal(2, 0.5, 30), b)
    assert wide[2] - wide[1] > 2 * (high - low)


def test_two_machines_are_packed_and_listed(two, tmp_path, capsys):
    """Submitted from one, laid beside the rows of the other, on the page and in a comparison."""
    a, b = two
    assert main(["submit", "--out", str(b), "--name", "other-2-cores", "--file", str(tmp_path / "sent.jsonl")]) == 0
    assert "3 rows of another CPU, 2 cores" in capsys.readouterr().out
    (a / "machines").mkdir()
    (tmp_path / "sent.jsonl").rename(a / "machines" / "other-2-cores.jsonl")
    assert main(["report", "--out", str(a), "--json", str(tmp_path / "t.json"), "--csv", str(tmp_path / "csv")]) == 0
    page = (a / "machines.md").read_text()
    assert "| here " in page and "| other-2-cores " in page and "another CPU, 2 cores" in page and "1 of 1" in page
    capsys.readouterr()
    assert compared(capsys, a, a / "machines" / "other-2-cores.jsonl")["times"][0]["ratio"] == 1.5
    exported = json.loads((tmp_path / "t.json").read_text())
    assert exported["times"][0]["images/s"] == pytest.approx(8, rel=0.1) and exported["checks"][0]["verdict"] == "ok"
    assert list(pd.read_csv(tmp_path / "csv" / "times.csv")["batch"]) == [8]
    assert [line["machine"] for line in exported["machines-machines"]] == ["here", "other-2-cores"]
    assert exported["compared-times"][0]["ratio"] == 1.5 and (tmp_path / "csv" / "compared-times.csv").exists()


@pytest.mark.parametrize("more, said", [
    ({"cpu": "/home/ann/cpu"}, "holds '/home/ann/cpu', which names a host or a user"),
    ({"note": "ran in /Users/ann/x"}, "holds '/Users/ann/x'")])
def test_a_row_that_names_a_user_is_not_sent(two, tmp_path, capsys, more, said):
    rows.append(two[0] / "rows", replace(check(1e-6), environment={**ENVIRONMENT, **more}))
    assert main(["submit", "--out", str(two[0]), "--name", "mine", "--file", str(tmp_path / "x.jsonl")]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "x.jsonl").exists()


def test_hosts_and_users_are_known_by_their_names(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "anns-laptop")
    monkeypatch.setattr(getpass, "getuser", lambda: "annabel")
    assert private('{"a": "on anns-laptop"}') == "anns-laptop" and private('{"a": "annabel"}') == "annabel"
    assert private('{"a": "annabella, C:\\\\temp"}') is None
    assert private('{"a": "in /root/x"}') == "/root/x"
    monkeypatch.setattr(socket, "gethostname", lambda: "cpu")  # three letters are a word, and root is every container's user
    monkeypatch.setattr(socket, "getfqdn", lambda: "root")
    assert private('{"a": "cpu of root"}') is None


def test_rows_of_two_machines_are_not_one(two, tmp_path, capsys):
    rows.append(two[0] / "rows", replace(timing([1.0] * 4), environment={**ENVIRONMENT, "cpu": "a third CPU"}))
    assert main(["submit", "--out", str(two[0]), "--name", "mine", "--file", str(tmp_path / "x.jsonl")]) == 2
    assert "holds rows of 2 machines, must be of one: a CPU, 2 cores; a third CPU, 2 cores" in capsys.readouterr().err


@pytest.mark.parametrize("words, said", [
    (["compare", "{out}"], "must be two or more folders or files of rows"),
    (["compare", "{out}", "{out}/none"], "no such folder or file"),
    (["compare", "{out}", "{out}/empty/.."], "every run must appear once"),
    (["compare", "{out}", "{out}/empty"], "holds no rows; name a results folder"),
    (["submit", "--out", "{out}/empty", "--name", "mine"], "holds no rows; ddim-bench run writes them"),
    (["submit", "--out", "{out}", "--name", "My Machine"], "must be small letters, digits and -")])
def test_a_mistake_is_one_line(two, capsys, words, said):
    (two[0] / "empty").mkdir()
    assert main([word.format(out=two[0]) for word in words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
