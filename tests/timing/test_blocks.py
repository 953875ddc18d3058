"""Timing logic on clocks that the test controls, and what is recorded about the machine."""

import getpass
import json
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from backends.protocol import Spec
from bench.records import environment
from bench.timing import flops, memory
from bench.timing.blocks import calibrate, summary, time_blocks, warm_up
from reference.config import ConfigError, DiffusionConfig, ModelConfig


class Clock:
    """A contender whose unit costs seconds(number of earlier blocks)."""

    def __init__(self, seconds, overhead=0.0, log=None, name=""):
        self.seconds, self.overhead, self.ks, self.log, self.name = seconds, overhead, [], log, name

    def __call__(self, k):
        spent = self.overhead + k * self.seconds(len(self.ks))
        self.ks.append(k)
        if self.log is not None:
            self.log.append(self.name)
        return spent


@pytest.mark.parametrize("unit, overhead", [(1.0, 0), (0.2, 0), (0.19, 0), (0.01, 0.005), (1e-4, 0.1), (3e-6, 0)])
def test_calibrated_blocks_last_long_enough_and_not_forever(unit, overhead):
    block = Clock(lambda _: unit, overhead)
    seconds = block(calibrate(block))
    assert seconds >= 0.2
    assert seconds <= max(1.25 * unit, 0.5)


def test_a_block_that_lasts_just_long_enough_is_kept():
    assert calibrate(lambda k: 0.2 * k) == 1 and calibrate(lambda k: 0.05 * k, 4) == 4


def test_calibration_grows_tenfold_at_most_and_then_to_a_fifth_more_than_is_needed():
    block = Clock(lambda _: 1e-4)
    assert calibrate(block) == 2400 and block.ks == [1, 10, 100, 1000, 2400]


def test_calibration_of_nothing_ends():
    with pytest.raises(ConfigError, match="k=1048576: .*nothing is being timed"):
        calibrate(lambda k: 0.0)


def test_warm_up_ends_when_two_medians_agree():
    block = Clock(lambda n: 1.0 if n < 4 else 0.5)  # groups: 1 1 1 | 1 .5 .5 | .5 .5 .5
    assert warm_up(block, 1, 60) == ([1, 1, 1, 1, .5, .5, .5, .5, .5], True)
    assert warm_up(Clock(lambda n: 0.96 ** (n // 3)), 1, 60)[1] is True  # 4% apart
    assert len(warm_up(Clock(lambda n: 0.9 ** (n // 3)), 1, 10)[0]) > 6  # 10% apart
    assert len(warm_up(Clock(lambda n: (20.0, 21.0, 21.0)[n // 3]), 1, 200)[0]) == 6  # 5% apart, which is within


def test_a_median_of_warm_up_is_of_its_own_group():
    """Groups of 2 and 2.16 s are 8% apart, though those of both together would be 4% from the first."""
    assert len(warm_up(Clock(lambda n: (1.0, 2.0, 2.16, 2.16)[n // 3]), 1, 60)[0]) == 12


def test_one_outlier_does_not_unsettle_a_median():
    times, steady = warm_up(Clock(lambda n: 9.0 if n == 4 else 0.3), 1, 60)
    assert steady and len(times) == 6


def test_warm_up_that_never_settles_hits_its_cap():
    times, steady = warm_up(Clock(lambda n: 1.0 if n % 6 < 3 else 2.0), 1, 20)
    assert not steady and 20 <= sum(times) <= 26


def test_contenders_alternate_a_b_b_a():
    log = []
    a, b = Clock(lambda _: 0.3, log=log, name="a"), Clock(lambda _: 0.6, log=log, name="b")
    seen = []
    got = time_blocks({"a": a, "b": b}, blocks=10, on_progress=lambda done, total: seen.append((done, total)))
    assert log[-20:] == ["a", "b", "b", "a"] * 5
    assert seen == [(i, 20) for i in range(1, 21)]
    assert [len(values["block_seconds"]) for values in got.values()] == [10, 10]
    assert json.loads(json.dumps(got)) == got


def test_the_first_unit_is_reported_apart():
    got = time_blocks({"a": Clock(lambda n: 30.0 if n == 0 else 0.05)})["a"]
    assert got["first_seconds"] == 30.0 and max(got["warmup_seconds"] + got["block_seconds"]) < 1
    assert got["steady"] and got["units_per_block"] == 5  # ceil(1.2 * 0.2 / 0.05)
    assert np.allclose(got["block_seconds"], 0.25)


def test_blocks_stay_long_enough_when_work_grows_faster():
    got = time_blocks({"a": Clock(lambda n: 0.25 if n < 4 else 0.01)})["a"]
    assert min(got["block_seconds"]) >= 0.2


@pytest.mark.parametrize(("paces", "tried", "k"), [
    ((0.025, 0.01, 0.005, 0.0049), [10] * 12 + [49], 49),  # a fifth more than 0.2 s of the last group's pace
    ((0.025, 0.0007, 0.0007), [10] * 9 + [343], 343),
    ((0.025, 0.021, 0.021), [10] * 9 + [12], 12),  # 0.21 s are less than a tenth more than the least
    ((0.025, 0.0235, 0.0222, 0.02125), [10] * 12 + [12], 12),  # as is the last group alone
    ((0.025, 0.0225, 0.0225), [10] * 9, 10),
])
def test_blocks_are_sized_anew_by_the_last_group_of_the_warm_up(paces, tried, k):
    """The first unit and two trials come before the warm-up, of groups of three blocks, and ten timed blocks after it."""
    block = Clock(lambda n: paces[min(max(n - 3, 0) // 3, len(paces) - 1)])
    assert time_blocks({"a": block})["a"]["units_per_block"] == k
    assert block.ks == [1, 1, 10, *tried, *[k] * 10]


def test_an_unsteady_contender_is_marked():
    block = Clock(lambda n: 2.0 if (n - 2) % 6 < 3 else 3.0)  # after the first unit and one trial
    assert sum(time_blocks({"a": block})["a"]["warmup_seconds"]) == 60  # which are the cap: no group more
    assert not time_blocks({"a": Clock(lambda n: 1.0 if n % 6 < 3 else 2.0)}, cap_seconds=10)["a"]["steady"]


def test_fewer_blocks_than_the_rule_are_refused():
    with pytest.raises(ConfigError, match="blocks=9"):
        time_blocks({"a": Clock(lambda _: 1.0)}, blocks=9)


def test_summary_by_hand():
    got = summary([4.0, 1.0, 3.0, 2.0])
    assert got == {"median": 2.5, "q1": 1.75, "q3": 3.25, "min": 1.0, "mean": 2.5, "n": 4,
                   "cv": pytest.approx((5 / 3)**0.5 / 2.5)}
    assert summary([2.0])["cv"] == 0 and summary([1.0, 3.0])["cv"] == pytest.approx(2**0.5 / 2)
    for bad in ([], [0.0], [float("nan")], [1.0, float("inf")]):
        with pytest.raises(ConfigError, match="samples"):
            summary(bad)
    with pytest.raises(ConfigError, match=r"samples=\[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0\]: "):  # the first eight
        summary(np.arange(9.0))


def test_peak_memory_counts_what_the_process_itself_touched():
    here = b"x" * (300 << 20)  # a child must not inherit this
    script = """
from bench.timing.memory import peak_memory
before = peak_memory()
block = bytearray(b"x") * (100 << 20)
del block  # what is given back counts
print(peak_memory() - before)
"""
    grown = int(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)
    assert 90 << 20 <= grown <= 130 << 20 and len(here) == 300 << 20


@pytest.mark.parametrize(("platform", "bytes_each"), [("linux", 1024), ("darwin", 1)])
def test_peak_memory_without_proc_is_in_the_unit_of_the_system(monkeypatch, platform, bytes_each):
    """getrusage counts in KiB on Linux and in bytes on macOS (their manual pages)."""
    def nothing(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(memory.Path, "read_text", nothing)
    monkeypatch.setattr(memory.sys, "platform", platform)
    monkeypatch.setattr(memory.resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=3000))
    found = memory.peak_memory()
    monkeypatch.undo()
    assert found == 3000 * bytes_each < memory.peak_memory()  # which it asks the system for again
    assert memory.peak_memory() % 1024 == 0


@pytest.mark.parametrize(("limits", "expected"), [
    ({}, 1000), ({"memory.max": "max"}, 1000), ({"memory.max": "600"}, 600), ({"memory.limit_in_bytes": "400"}, 400),
    ({"memory.limit_in_bytes": "9223372036854771712"}, 1000),  # what cgroup v1 says where there is no limit
])
def test_a_container_has_the_smaller_of_its_limit_and_the_machines_memory(monkeypatch, limits, expected):
    def text(path):
        if path.name not in limits:
            raise FileNotFoundError(path)
        return limits[path.name]

    monkeypatch.setattr(memory.Path, "read_text", text)
    monkeypatch.setattr(memory.os, "sysconf", {"SC_PHYS_PAGES": 10, "SC_PAGE_SIZE": 100}.get)
    assert memory._memory() == expected


@pytest.mark.parametrize(("error", "found"), [
    (MemoryError(), True), (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 800 bytes"), True),
    (ValueError("operands could not be broadcast together"), False), (RuntimeError("memory format"), False),
])
def test_who_ran_out_of_memory(error, found):
    assert memory.out_of_memory(error) == found


def test_what_a_pass_computes_by_hand():
    """Two FLOPs a product and sum: of a convolution, of a linear layer, and of attention, whose scores and whose mean of the values
    are two products of matrices."""
    assert flops.conv(3, 5, 7) == 2 * 3 * 5 * 9 * 49 and flops.linear(3, 5) == 30
    assert flops.attention(4, 3) == 4 * 9 * 2 * 16 + 2 * (2 * 9 * 9 * 4)
    model = ModelConfig(sample_size=8, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4,
                        down_block_types=("AttnDownBlock2D",), up_block_types=("UpBlock2D",))
    same, wide = (2 * 9 * 64 * (cin * 8 + 8 * 8) + 2 * 32 * 8 for cin in (8, 16))  # a residual block: two convolutions, the time
    attention = 4 * 64 * 2 * 64 + 2 * (2 * 64 * 64 * 8)
    embedding, ends = 2 * 8 * 32 + 2 * 32 * 32, 2 * (2 * 8 * 9 * 64)
    assert flops.forward(model) == embedding + ends + 3 * same + 2 * attention + 2 * (wide + 2 * 16 * 8 * 64)


@pytest.mark.parametrize("more", [
    {}, {"time_embedding_dim": 24}, {"resnet_time_scale_shift": "scale_shift"}, {"add_attention": False}, {"mid_block_type": None},
    {"downsample_type": "resnet", "upsample_type": "resnet"},
    {"down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
     "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D")}],
    ids=lambda more: " ".join(more) or "plain")
def test_a_pass_computes_what_torch_counts(more):
    """By torch's own counter, on the network itself, with attention in plain products: it does not know CPU's fused kernel."""
    torch = pytest.importorskip("torch")
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from backends.torch.unet import UNet

    usual = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    model = ModelConfig(sample_size=8, in_channels=3, out_channels=6, block_out_channels=(8, 16), norm_num_groups=4, **usual | more)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        UNet(model)(torch.zeros(1, 3, 8, 8), torch.zeros(1))
    assert flops.forward(model) == counter.get_total_flops()


def test_what_a_training_step_keeps_by_hand():
    """Numbers of one image: 3 channels in and 6 out at 8 x 8, 8 channels there and 16 at 4 x 4, where attention is."""
    model = ModelConfig(sample_size=8, in_channels=3, out_channels=6, block_out_channels=(8, 16), layers_per_block=1,
                        norm_num_groups=4, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
                        up_block_types=("AttnUpBlock2D", "UpBlock2D"))
    large = 3 + 3 * (8 + 8) + 16 + 3 * (24 + 8) + 3 * (16 + 8) + 8  # the convolution after doubling has 16
    small = 8 + 3 * (8 + 16) + 96 + 2 * 3 * 32 + 96 + 3 * (32 + 16) + 96 + 3 * (24 + 16) + 96  # 96: attention on 16 channels
    assert flops.activations(model) == 64 * large + 16 * small
    learned = DiffusionConfig(variance="learned_range")
    for dtype, size in (("float64", 8), ("float32", 4), ("bfloat16", 2), ("float16", 2)):
        assert flops.kept(Spec(model, learned, dtype=dtype)) == size * flops.activations(model)
    assert flops.kept(Spec(model, learned, device="cuda")) == 0


def test_room_is_asked_for_four_float32_arrays_of_each_image(monkeypatch):
    """x, its noise, the network's input and its output; in training what it keeps, too."""
    monkeypatch.setattr(memory, "_memory", lambda: 10 * 4 * 4 * 784)
    memory.require_room("batch_size", 10, (1, 28, 28))
    memory.require_room("batch_size", 5, (1, 28, 28), kept=4 * 4 * 784)
    for less, count, kept in ((0, 11, 0), (0, 6, 4 * 4 * 784), (1, 10, 0)):
        monkeypatch.setattr(memory, "_memory", lambda less=less: 10 * 4 * 4 * 784 - less)
        with pytest.raises(ConfigError, match=f"batch_size={count}: images of 1 x 28 x 28 need"):
            memory.require_room("batch_size", count, (1, 28, 28), kept)


def test_the_environment_is_plain_json_without_names_of_people_or_places():
    got = environment.describe()
    text = json.dumps(got, allow_nan=False)
    assert got["cores"] >= 1 and got["versions"]["numpy"] == np.__version__
    for private in (str(Path.home()), socket.gethostname(), str(Path.cwd())):
        assert private not in text
    assert f'"{getpass.getuser()}"' not in text


def test_describing_imports_no_framework():
    script = ("import sys; from bench.records import environment; environment.describe(); "
              "import backends; print({backends.about(name).module for name in backends.names()} & {*sys.modules})")
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_commit_says_dirty(tmp_path, monkeypatch):
    def git(*args):
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", "-C", tmp_path, *who, *args], check=True, capture_output=True)

    monkeypatch.setattr(environment, "ROOT", tmp_path / "nowhere")
    assert environment.commit() == "unknown"
    git("init")
    for folder in ("results", "bench"):
        (tmp_path / folder).mkdir()
    for name in ("bench/code.py", "results/rows.jsonl"):
        (tmp_path / name).write_text("1")
    git("add", ".")
    git("commit", "-m", "x")
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    clean = environment.commit()
    assert len(clean) == 40
    (tmp_path / "results/rows.jsonl").write_text("2")
    assert environment.commit() == clean
    (tmp_path / "bench/code.py").write_text("2")
    assert environment.commit() == clean + "+dirty"


def test_worker_variables():
    got = environment.worker_env(3)
    assert got["OMP_NUM_THREADS"] == got["NPROC"] == "3" and got["MALLOC_MMAP_MAX_"] == "0"
    with pytest.raises(ConfigError, match="threads=0"):
        environment.worker_env(0)


