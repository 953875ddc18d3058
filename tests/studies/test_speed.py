"""The speed table end to end on a backend whose speed is known, and its report on rows with known ratios."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from backends.facts import About
from bench.messages import TimeTrain
from bench.presets import Preset
from bench.records import rows
from bench.records.rows import Row
from bench.report import results, speed_page
from bench.studies import contenders, speed
from bench.timing import blocks
from reference.config import ConfigError, DiffusionConfig, ModelConfig, OptimConfig
from tests.helpers.tiny import install_backend

TINY = ModelConfig(sample_size=8, block_out_channels=(8, 16), norm_num_groups=4,
                   down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"))
PRESET = Preset("tiny", TINY, None, DiffusionConfig(timesteps=20), batch_size=4, sample_batch=2)
TUNED = contenders.Contender("sleep", "tuned", "float32")

BACKEND = '''
import os, time
import numpy as np
from backends.protocol import DeviceError

def create(spec):
    return Sleeper(spec)

class Sleeper:
    """A training step takes 4 ms stock and 2 ms tuned; half precision dies or is not offered."""
    def __init__(self, spec):
        if spec.dtype == "float16":
            raise DeviceError("dtype='float16': not here")
        self.spec, self.unit, self.steps = spec, {"stock": 0.004, "tuned": 0.002}[spec.mode], 0
    def device_info(self):
        return {"framework": "sleep", "threads": os.environ["OMP_NUM_THREADS"], "allocator": os.environ["MALLOC_MMAP_MAX_"]}
    def to_device(self, array):
        return array
    def to_host(self, tensor):
        return tensor
    def weights(self, ema=False):
        return {}
    def synchronize(self, *results):
        pass
    def load_weights(self, weights):
        pass
    def train_step(self, batch):
        self.steps += 1
        if self.spec.dtype == "bfloat16" and os.environ.get("SLEEP_HARM") == "first":
            raise DeviceError("dtype='bfloat16': not this network")
        if self.spec.dtype == "bfloat16" and self.steps > 5 and os.environ.get("SLEEP_HARM"):
            os._exit(9)
        time.sleep(self.unit)
        return 0
    def sample(self, x, plan, noise):
        time.sleep(self.unit * plan.steps)
        return x
'''


@pytest.fixture
def backend(tmp_path, monkeypatch):
    """The backend "sleep", as an installed package, for this process and the workers."""
    install_backend(tmp_path / "site", "sleep", BACKEND)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.setattr(blocks, "time_blocks", functools.partial(blocks.time_blocks, least=0.02, cap_seconds=0.3))
    monkeypatch.setattr(contenders, "about", lambda name: About(name, dtypes=("float32", "bfloat16", "float16")))
    monkeypatch.setattr(speed, "workloads", lambda preset, words: [speed.Workload("training step", TimeTrain, 4)])
    return "sleep"


def options(out: Path, **more) -> dict:
    return {"device": "cpu", "threads": 1, "out": out, "fresh": False, "peers": False, "words": (), "processes": 2, "timeout": 60.0,
            "dry_run": False, **more}


def test_the_table_end_to_end(backend, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    assert speed.run(PRESET, [backend], **options(out)) == 0
    told = capsys.readouterr().out
    assert "not run: sleep tuned float16: dtype='float16': not here" in told
    found = rows.read(out / "rows")
    names = ["sleep stock float32", "sleep tuned float32", "sleep tuned bfloat16", "sleep tuned float32 (again)"]
    assert [(r.config["process"], r.config["contender"]) for r in found] == [(n, name) for n in (0, 1) for name in names]
    for row in found:
        assert len(row.values["block_seconds"]) == 10 and row.values["device"]["allocator"] == "0" == row.config["variables"][
            "MALLOC_MMAP_MAX_"]
        assert len(row.config["beside"]) == 4 and row.values["flops_per_image"] > 0 and row.values["peak_rss_bytes"] > 1 << 20
    text = (out / "speed.md").read_text()
    assert "### training step, batch 4" in text and "A/A (sleep tuned float32): " in text
    assert "processes of a contender: 2" in text
    [group] = speed_page.groups(found)
    assert 1.4 < speed_page.speed_up(group, "sleep tuned float32", "sleep stock float32").median < 2.4

    monkeypatch.setattr(speed.Race, "able", lambda self, wanted: [c for c in wanted if c.name in names])
    monkeypatch.setattr(speed.Race, "start", None)  # goes on from finished cells: none is started
    assert speed.run(PRESET, [backend], **options(out)) == 0
    assert len(rows.read(out / "rows")) == len(found)


def test_a_contender_that_dies_is_left_out_and_named(backend, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SLEEP_HARM", "yes")
    few = [speed.Contender("sleep", "tuned", dtype) for dtype in ("float32", "bfloat16")]
    monkeypatch.setattr(speed, "contenders", lambda *_: few)
    assert speed.run(PRESET, [backend], **options(tmp_path / "out")) == 3
    told = capsys.readouterr().out
    assert told.count("missing: training step, batch 4: sleep tuned bfloat16: worker sleep ended") == 1  # not in each process
    for n, left in enumerate(rows.read(tmp_path / "out" / "rows")):
        assert left.config["contender"] == "sleep tuned float32" == left.config["beside"][0] and len(left.config["beside"]) == 1
        assert left.config["process"] == n < 2


def test_a_contender_whose_first_call_fails_leaves_the_others_at_work(backend, tmp_path, capsys, monkeypatch):
    """They compiled for minutes by then. The same command goes on from the cells of those that were left."""
    started = []
    monkeypatch.setenv("SLEEP_HARM", "first")
    monkeypatch.setattr(speed, "contenders", lambda *_: [speed.Contender("sleep", "tuned", "bfloat16"), TUNED])
    monkeypatch.setattr(speed.Race, "able", lambda self, wanted: wanted)
    start = speed.Race.start
    monkeypatch.setattr(speed.Race, "start", lambda self, c: (started.append(c.dtype), start(self, c)))
    for blocks_timed in (True, False):
        if not blocks_timed:
            monkeypatch.setattr(blocks, "time_blocks", None)
        started.clear()
        assert speed.run(PRESET, [backend], **options(tmp_path / "out", processes=1)) == 3
        assert started == ["bfloat16", "float32"]
        told = capsys.readouterr().out
        assert "missing: training step, batch 4: sleep tuned bfloat16: " in told and "not this network" in told
        [left] = rows.read(tmp_path / "out" / "rows")
        assert left.config["beside"] == [TUNED.name]


def test_a_dry_run_names_all_and_writes_nothing(tmp_path, capsys):
    assert speed.run(PRESET, ["torch"], **options(tmp_path / "out", dry_run=True, peers=True)) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[:4] == ["training step, batch 4", "sampling step, batch 2",
                        "sampling step, batch 8, without the backends' stock modes", "sampling step, batch 1"]
    assert {"diffusers eager float32", "diffusers tuned float32", "diffusers tuned bfloat16", "lucidrains eager float32",
            "torch stock float32", "torch tuned bfloat16", "torch tuned float32 (again)", "torch exported float32",
            "onnxruntime tuned float32", "openvino tuned bfloat16", "aotinductor tuned float32", "flax tuned float32"} <= set(told)
    assert not {"onnxruntime tuned bfloat16", "torch exported bfloat16", "jax exported float32"} & set(told)
    assert not (tmp_path / "out").exists()


def test_on_an_accelerator_of_any_number_what_compiles_apart_races_and_no_engine(monkeypatch):
    """One contender runs twice, the first that is tuned."""
    monkeypatch.setattr(contenders, "about", lambda name: About(name, reduced=("bfloat16",), compiled_apart=("cuda",)))
    names = {device: [c.name for c in contenders.contenders(["a", "b"], True, device)] for device in ("cuda", "cuda:1", "cpu")}
    assert names["cuda"] == names["cuda:1"] == [
        *(f"{backend} {how}" for backend in "ab" for how in ("stock float32", "tuned float32", "tuned bfloat16", "compiled float32",
                                                             "compiled bfloat16")),
        "diffusers eager float32", "diffusers tuned float32", "diffusers tuned bfloat16", "lucidrains eager float32",
        "flax tuned float32", "a tuned float32 (again)"]
    assert not any("compiled" in name or name == "a tuned bfloat16" for name in names["cpu"])
    assert "openvino tuned float32" in names["cpu"] and names["cpu"][-1] == "a tuned float32 (again)"


def test_a_cell_of_the_race_is_named_by_all_that_decides_its_times():
    """Another value of any of these is another cell."""
    def key(preset=PRESET, device="cpu", threads=1, workload="training step", batch=4, process=0, **of_contender):
        crew = SimpleNamespace(spec=SimpleNamespace(device=device), threads=threads)
        return speed.Race(preset, crew, None).key(replace(TUNED, **of_contender), workload, batch, process=process)

    changes = [{}, {"backend": "other"}, {"mode": "stock"}, {"dtype": "bfloat16"}, {"again": True}, {"workload": "sampling step"},
               {"batch": 5}, {"device": "cuda"}, {"threads": 2}, {"process": 1}, *({"preset": replace(PRESET, **part)} for part in (
                   {"model": replace(TINY, sample_size=16)}, {"diffusion": DiffusionConfig(timesteps=21)},
                   {"optim": OptimConfig(lr=0.5)}, {"blocks": PRESET.blocks + 1}))]
    assert len({json.dumps(key(**change), sort_keys=True) for change in changes}) == len(changes)


def test_workloads_are_chosen_by_name():
    assert [w.word for w in speed.workloads(PRESET)] == ["training-4", "sampling-2", "sampling-8", "sampling-1"]
    assert [w.title for w in speed.workloads(PRESET, ("sampling-1", "training-4"))] == [
        "training step, batch 4", "sampling step, batch 1"]
    with pytest.raises(ConfigError, match="--workloads='sampling-3': must be of training-4, sampling-2, sampling-8, sampling-1"):
        speed.workloads(PRESET, ("sampling-3",))


def test_engines_do_not_train_and_stock_modes_stay_out_of_the_largest_batch():
    """A backend that has no other mode races in its stock mode everywhere; so does a library as its examples use it."""
    wanted = [speed.Contender(*words.split()) for words in (
        "torch stock float32", "torch tuned float32", "plain stock float32", "diffusers stock float32", "openvino tuned float32",
        "torch exported float32")]
    train, sample, large, one = speed.workloads(PRESET)
    assert train.racing(wanted) == wanted[:4] and sample.racing(wanted) == one.racing(wanted) == wanted
    assert large.batch_size == 4 * sample.batch_size and large.racing(wanted) == wanted[1:]


def test_nobody_who_can_run_is_a_mistake(backend, tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "contenders", lambda *_: [speed.Contender("nobody", "tuned", "float32")])
    with pytest.raises(ConfigError, match="^contenders=1: none can run here; not run: nobody tuned float32: backend='nobody': "):
        speed.run(PRESET, ["nobody"], **options(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def row(contender: str, seconds, **more) -> Row:
    backend, mode, dtype = contender.split()[:3]
    config = {"stage": "speed", "contender": contender, "workload": "training step", "batch_size": 10, "dtype": dtype,
              "device": "cpu", "mode": "stock" if mode == "eager" else mode, "threads": 2, "variables": {},
              **more.pop("config", {})}
    values = {"block_seconds": list(np.broadcast_to(seconds, 10).astype(float)), "units_per_block": 2, "warmup_seconds": [2.0],
              "began": "2026-01-01T00:00:00", "steady": True, "first_seconds": 1.5, "parameters": 10**6,
              "flops_per_image": 10**9, "peak_rss_bytes": 5 * 10**8, "device": {}, "load_before": [0.1], **more}
    return Row("timing", backend, "tiny", config, values, {"cpu": "A", "affinity": 2, "versions": {"torch": "2"}}, "c0ffee")


def test_figures_by_hand():
    """Blocks of 2 steps of 10 images of 1 GFLOP, three times in training, under a roof of 100 GFLOP/s."""
    found = [row("torch stock float32", 4), row("torch tuned float32", 2), row("torch tuned float32 (again)", [2.0, 2.1] * 5),
             row("diffusers eager float32", 3), row("diffusers tuned float32", 2.5), row("mindspore tuned float32", 5),
             row("torch tuned float32", [1.0], config={"workload": "gemm"}, flops=4 * 10**10),
             row("mindspore tuned float32", [1.0], config={"workload": "convolution"}, flops=5 * 10**10)]
    roof = speed_page.roofs(found)
    assert roof == {(speed_page.machine(found[0]), "float32"): (1e11, "convolution of mindspore")}
    [group] = speed_page.groups(found)
    table = speed_page.table(group, roof).set_index("contender")
    ours = table.loc["torch tuned float32"]
    assert ours["ms"] == "1000" and ours["images/s"] == "10" and ours["roof"] == "30%" and ours["peak MB"] == "500"
    assert ours["x own stock"] == "2.00 (2.00 .. 2.00)" and ours["x diffusers eager"] == "1.50 (1.50 .. 1.50)"
    assert ours["x diffusers tuned"] == "1.25 (1.25 .. 1.25)" and ours["x torch tuned"] == ""
    assert table.loc["mindspore tuned float32", "x torch tuned"] == "0.40 (0.40 .. 0.40)"
    assert speed_page.said(group)[0].startswith("A/A (torch tuned float32): 0.9")
    assert speed_page.said(group)[1:] == ["processes of a contender: 1; the intervals are of these alone"]
    assert "torch tuned float32 (again)" not in table.index


def test_noise_and_unsteadiness_are_marked():
    [group] = speed_page.groups([row("torch stock float32", [1, 2] * 5), row("torch tuned float32", 1, steady=False)])
    table = speed_page.table(group, {}).set_index("contender")
    assert "(noisy)" in table.loc["torch stock float32", "CV"] and "(unsteady)" in table.loc["torch tuned float32", "CV"]
    assert "roof" not in table.columns and speed_page.said(group)[0] == "A/A: not measured"


def test_ratios_inside_the_floor_are_marked_and_a_machine_that_is_not_fit_has_none():
    """A/A of 1.1: a speed-up of 1.05 is none, one of 1.2 is. At a load of 4 on 2 cores, or with A/A of 1.6, there are none."""
    def shown(again: float, load: float = 0.1) -> tuple[list[str], list[str]]:
        [group] = speed_page.groups([row(name, seconds, load_before=[load]) for name, seconds in (
            ("torch stock float32", 2.0), ("torch tuned float32", 2 / 1.05), ("torch tuned float32 (again)", 2 / 1.05 * again),
            ("diffusers eager float32", 2 / 1.05 * 1.2))])
        table = speed_page.table(group, {}).set_index("contender")
        ratios = [name for name in table.columns if name.startswith("x ")]
        return [table.loc["torch tuned float32", name] for name in ratios], speed_page.said(group)

    assert shown(1.1)[0] == ["1.05 (1.05 .. 1.05) no difference", "1.20 (1.20 .. 1.20)", ""]
    assert shown(1.6)[0] == [] == shown(1.1, 4.0)[0]
    why = "no ratios, since the machine was not fit for any: "
    assert shown(1.6)[1][-1] == why + "a contender differs from itself by up to 1.60 times"
    assert shown(1.1, 4.0)[1][-1] == why + "load average 4.0 on 2 cores"


def test_processes_of_a_contender_are_counted_together():
    """Ratios 2 and 4 of two processes: 2.83, the geometric mean, in a wide interval; the third has no stock process beside it."""
    def process(n: int, *contenders: tuple[str, float]) -> list[Row]:
        return [row(name, seconds, began=f"2026-01-0{n + 1}T00:00:00", config={"process": n}) for name, seconds in contenders]

    stock, tuned = "torch stock float32", "torch tuned float32"
    first = process(0, (stock, 2.0), (tuned, 1.0))
    [group] = speed_page.groups([*first, *process(1, (stock, 4.0), (tuned, 1.0)), *process(2, (tuned, 1.0))])
    ratio = speed_page.speed_up(group, tuned, stock)
    assert ratio.median == pytest.approx(8**0.5) and ratio.low < 1 < 5 < ratio.high
    assert "processes of a contender: 3" in speed_page.said(group)
    newer = [replace(r, values=r.values | {"began": "2026-02-01T00:00:00"}) for r in first]
    assert speed_page.groups([*group, *newer]) == [newer], "another run's processes do not count with it"


def test_the_newest_run_of_each_machine_counts(tmp_path):
    old, new = row("torch stock float32", 4), row("torch stock float32", 2, began="2026-01-02T00:00:00")
    other = replace(old, environment={**old.environment, "cpu": "B"})
    for one in (old, new, other):
        rows.append(tmp_path, one)
    text = speed_page.render(speed_page.of_races(rows.read(tmp_path)))
    assert "A, 2 cores, 2 threads" in text and "B, 2 cores, 2 threads" in text
    assert text.count("| torch stock float32 | 1000 |") == 1 and text.count("| torch stock float32 | 2000 |") == 1


def test_the_main_jobs_report_links_to_what_is_there(tmp_path):
    told = {"speed.md": "Stock and tuned", "scaling.md": "Time and memory"}
    assert results._links(tmp_path, told) == []
    (tmp_path / "speed.md").touch()
    assert results._links(tmp_path, told) == ["- Stock and tuned: [speed.md](speed.md)", ""]
