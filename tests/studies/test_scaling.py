"""The scaling study on a backend whose times are known, and the memory of sampling."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import backends
from bench.cli.main import main
from bench.messages import (
    Block,
    Create,
    Describe,
    Description,
    Load,
    Sample,
    TimeForward,
    TimePath,
    TimeSample,
    TimeTrain,
)
from bench.presets import PRESETS, Preset
from bench.records import rows
from bench.report import scaling_page
from bench.studies import scaling
from bench.workers.errors import WorkerError
from bench.workers.process import Worker
from reference import weights
from reference.config import ConfigError, DiffusionConfig, ModelConfig
from tests.studies.test_speed import (
    PRESET,
    backend,  # noqa: F401  (a fixture)
    row,  # noqa: F401  (a fixture)
)

SMALL = PRESETS["quick"]


def test_every_axis_varies_one_quantity_of_a_valid_network():
    for device in ("cpu", "cuda"):
        found = list(scaling.points(list(scaling.AXES), ["torch"], SMALL, device, 4))
        for p in found:
            model = p.preset.model
            expected = {"batch": p.batch, "steps": p.steps, "size": model.sample_size, "width": model.block_out_channels[0],
                        "threads": p.threads}[p.axis]
            assert expected == p.value or p.workload == "network call" and p.axis == "steps"
            assert weights.count(model) > 0
            assert (p.batch == SMALL.batch_size) != (p.axis == "batch" and p.value != SMALL.batch_size)
    assert [p.value for p in found if p.axis == "threads"] == [1, 1, 2, 2, 4, 4]
    assert max(p.value for p in found if p.axis == "batch") == 8192
    assert max(p.value for p in scaling.points(["batch"], ["torch"], SMALL, "cpu", 2)) == 256


def test_widths_grow_in_proportion():
    assert scaling.varied(SMALL, "width", 64).model.block_out_channels == (64, 96, 192)
    assert scaling.varied(SMALL, "width", 8).model.block_out_channels == (8, 12, 24)


class Crew:
    """A crew of workers that answer at once: the first description has 5 bytes, the second 9."""

    def __init__(self, logs, breaks=False):
        self.spec, self.logs, self.threads, self.breaks = SimpleNamespace(device="cpu"), logs, 1, breaks
        self.asked, self.closed = [], 0

    def start(self, who, name, **changes):
        if self.breaks:
            raise WorkerError("it broke")
        self.asked.append((who, changes["mode"], changes["dtype"], changes["model"]))

    def load(self, name, given):
        assert name == "torch tuned float32" and given

    def call(self, name, command):
        self.asked.append(command)
        described = sum(isinstance(one, Describe) for one in self.asked)
        return Description({}, 1 + 4 * described, 10, 20) if isinstance(command, Describe) else Block(0.5)

    def close(self):
        self.closed += 1


@pytest.mark.parametrize(("workload", "command"), [
    ("training step", lambda out: TimeTrain(3, str(out / "images-1-8.npy"), 0, 16)),
    ("network call", lambda out: TimeForward(3, 16, 0)), ("sampling", lambda out: TimePath(3, 16, 0, 7))])
def test_a_point_is_timed_with_its_own_batch_steps_and_threads(workload, command, tmp_path, monkeypatch):
    monkeypatch.setattr(scaling.blocks, "time_blocks", lambda timed, **_: {"": {"block_seconds": [timed[""](3)]}})
    kept = []
    book = SimpleNamespace(preset="", missing=[], cells=SimpleNamespace(done=lambda *_: False),
                           keep=lambda *given: kept.append(given))
    crew, preset = Crew(tmp_path), replace(PRESET, name="varied")
    scaling.measure(scaling.Point("batch", 16, workload, "torch", 16, 2, preset, 7), crew, book)
    assert crew.asked == [("torch", "tuned", "float32", preset.model), Describe(), command(tmp_path), Describe()]
    [(_, kind, key, values)] = kept
    assert (kind, key["stage"], key["axis"], key["value"], key["steps"], key["batch_size"], key["threads"]) == (
        "timing", "scaling", "batch", 16, 7, 16, 2)
    assert (values["idle_rss_bytes"], values["peak_rss_bytes"], values["block_seconds"]) == (5, 9, [0.5])
    assert (crew.threads, crew.closed, book.preset, book.missing) == (2, 1, "varied", [])


class Starting:
    """A crew of which some can't start, and how often its workers were ended."""

    def __init__(self, absent):
        self.absent, self.closed = absent, 0

    def start(self, name):
        if name in self.absent:
            raise self.absent[name]

    def close(self):
        self.closed += 1


def test_a_backend_that_can_not_start_has_one_line_for_all_its_points():
    book, crew = SimpleNamespace(missing=[]), Starting({"b": ConfigError("device='cuda': b has none"), "c": WorkerError("it died")})
    assert scaling.able(["a", "b", "c"], crew, book) == ["a"] and crew.closed == 3
    assert book.missing == ["missing: all points of b: device='cuda': b has none", "missing: all points of c: it died"]


def test_where_no_backend_can_start_the_first_ones_reason_is_the_error():
    """Each point was tried, minutes long, and the error was of their number."""
    crew = Starting({"a": ConfigError("device='cuda': a has none"), "b": ConfigError("device='cuda': b has none")})
    with pytest.raises(ConfigError, match="^device='cuda': a has none$"):
        scaling.able(["a", "b"], crew, SimpleNamespace(missing=[]))


def test_a_point_that_breaks_is_a_line_and_its_process_ends(tmp_path):
    book = SimpleNamespace(preset="", missing=[], cells=SimpleNamespace(done=lambda *_: False), keep=None)
    crew = Crew(tmp_path, breaks=True)
    scaling.measure(scaling.Point("threads", 4, "network call", "torch", 16, 4, PRESET), crew, book)
    assert book.missing == ["missing: torch, network call, threads = 4: it broke"] and crew.closed == 1


def test_a_backend_that_does_not_train_has_no_training_steps(monkeypatch):
    monkeypatch.setattr(scaling, "trains", lambda name: name == "torch")
    found = [(p.backend, p.workload, p.value) for p in scaling.points(["batch"], ["torch", "other"], SMALL, "cpu", 4)]
    assert {work for name, work, _ in found if name == "other"} == {"network call"}
    assert {work for name, work, _ in found if name == "torch"} == {"network call", "training step"}
    assert sorted({value for *_, value in found}) == [1, 4, 16, 64, 256]


def measured(axis: str, value: int, workload: str, seconds: float):
    out = row("torch tuned float32", 2 * seconds)
    return replace(out, config={**out.config, "stage": "scaling", "axis": axis, "value": value, "workload": workload})


def test_the_line_and_its_overhead_by_hand():
    """Sampling takes 5 ms + S 20 ms, a network call 18 ms."""
    found = [measured("steps", S, "sampling", 0.005 + 0.02 * S) for S in (1, 2, 10, 50)]
    found.append(measured("steps", 1, "network call", 0.018))
    assert scaling_page.line_fit(found, "steps", "sampling", "torch") == pytest.approx((0.005, 0.02, 0), abs=1e-9)
    [line] = scaling_page.findings(found, "steps")
    assert line == ("- torch: S steps take 5 ms + S x 20 ms, within 0% at every S. A network call takes 18 ms: "
                    "the overhead per step is 2 ms. Time grows linearly with S (DDIM paper, figure 4): **reproduced**; a line "
                    "within 25% at every S is called so.")
    found += [measured("steps", 100, "sampling", 0.02 * 100**1.5)]
    assert "**cannot tell**" in scaling_page.findings(found, "steps")[0], "time that grows faster is not called linear"
    table = scaling_page.table(found, "steps").set_index("sampling steps S")
    assert table.loc[10, "torch sampling, ms"] == "205" and table.loc[1, "torch network call, ms"] == "18"
    assert table.loc[50, "torch sampling, MB"] == "500"


def test_the_study_end_to_end(backend,  # noqa: F811
                              tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(scaling.AXES, "steps", lambda device, threads: (1, 3, 6))
    monkeypatch.setitem(PRESETS, "tiny", PRESET)
    monkeypatch.setattr(backends, "choose", lambda asked: ((asked,), []))
    monkeypatch.setattr(scaling, "WORK", {**scaling.WORK, "network call": TimeSample})  # the fake has no forward
    command = ["--axes", "steps", "--preset", "tiny", "--backends", backend, "--threads", "1", "--out", str(tmp_path / "out")]
    assert main(["study", "scaling", *command]) == 0, capsys.readouterr()
    found = rows.read(tmp_path / "out" / "rows")
    assert sorted((r.config["workload"], r.config["value"]) for r in found) == [
        ("network call", 1), ("sampling", 1), ("sampling", 3), ("sampling", 6)]
    assert all(scaling_page.seconds(r) >= 0.002 * r.config["value"] for r in found), "no step sleeps for less, on any machine"
    text = (tmp_path / "out" / "scaling.md").read_text()
    assert "## Steps" in text and "sleep: S steps take" in text
    assert (tmp_path / "out" / "figures" / "scaling.png").stat().st_size > 5000
    assert main(["study", "scaling", *command]) == 0 and len(rows.read(tmp_path / "out" / "rows")) == len(found)  # goes on
    assert main(["study", "scaling", "--axes", "depth", "--backends", backend]) == 2 and "--axes='depth'" in capsys.readouterr().err


WIDE = Preset("wide", ModelConfig(sample_size=32, in_channels=3, out_channels=3, block_out_channels=(4, 8), norm_num_groups=2,
                                  down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D")),
              None, DiffusionConfig(timesteps=20))


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch: the fake backend has no memory to speak of")
def test_sampling_many_images_costs_the_memory_of_one_batch(tmp_path):
    """As the main job draws them, batch by batch into files: 32 batches of 1.5 MB, whose activations take 50 MB each."""
    spec = {"model": WIDE.model.to_dict(), "diffusion": WIDE.diffusion.to_dict(), "optim": WIDE.optim.to_dict(), "device": "cpu",
            "dtype": "float32"}
    np.savez(tmp_path / "w.npz", **weights.initialise(WIDE.model, 0))
    with Worker("torch", spec, 1, tmp_path / "log") as worker:
        worker.call(Create())
        worker.call(Load(weights=str(tmp_path / "w.npz")))
        peaks = [worker.call(Describe()).peak_rss_bytes]
        for n in range(32):
            worker.call(Sample((128 * n, 128 * n + 128), {"steps": 1, "eta": 0.0}, batch_size=128, seed=0,
                               out=str(tmp_path / f"{n}.npy"), at=0, total=128))
            peaks.append(worker.call(Describe()).peak_rss_bytes)
    assert peaks[1] - peaks[0] > 20 << 20  # one batch: there is something to see
    assert peaks[32] - peaks[4] < 20 << 20  # 28 batches: 42 MB of images, 1.4 GB of activations
