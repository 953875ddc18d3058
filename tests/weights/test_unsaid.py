"""What a file of weights does not say is an option of every command that takes --weights, and a line where it is assumed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

from bench import api
from bench.cli.commands import parser
from bench.cli.main import main
from bench.cli.options import UNSAID
from bench.paths import ROOT
from bench.weights import sources
from bench.weights.errors import CheckpointError, Note
from bench.weights.pipeline import load_pipeline, save_pipeline
from bench.weights.unsaid import Unsaid
from reference import unet
from reference.config import ConfigError, DiffusionConfig, ModelConfig
from reference.scheduler import Scheduler
from reference.weights import initialise
from tests.helpers.tiny import TINY, same

torch = pytest.importorskip("torch")
from tests.helpers.other_codes import Parameters, nichol2021, song2021  # noqa: E402
from tests.weights.test_pipeline import edit  # noqa: E402
from tests.weights.test_weight_files import said  # noqa: E402

SAFE = "diffusion_pytorch_model.safetensors"
X, T = torch.randn((2, 3, 8, 8), generator=torch.Generator().manual_seed(1)), torch.tensor([3, 977])
SMALL = {"mult": (1, 1, 1, 1), "layers": 1, "attends": (3,), "out": 6}  # as the LSUN networks: attention late, one head


@pytest.fixture(scope="module")
def lsun(tmp_path_factory):
    """(file, its network's output) of improved-diffusion with one head."""
    path, state = tmp_path_factory.mktemp("lsun") / "lsun.pt", Parameters()
    with torch.no_grad():
        expected = nichol2021(state, X, T, heads=1, **SMALL).numpy()
    torch.save(dict(state), path)
    return path, expected


def close(weights, model, expected):
    return np.abs(unet.forward(weights, model, X.numpy(), T.numpy()) - expected).max() < 2e-5


def test_one_head_is_right_where_it_is_said_and_four_are_named_where_not(lsun):
    path, expected = lsun
    found, lines = said(path)
    assert not close(*found[:2], expected) and found[1].sample_size == 128
    assert len(lines) == 1 and lines[0].startswith(f"{path}: does not say, and is taken for: ")
    for words in ("heads 4 (--heads)", "image size 128 (--image-size)", "schedule linear (--schedule)",
                  "timesteps 1000 (--timesteps)", "objective eps (--objective)", "time order cos (--time-order)",
                  "clipping as the convention has it (--clip)"):
        assert words in lines[0]
    found = sources.load(path, Unsaid(heads=1, image_size=8))
    assert close(*found[:2], expected) and found[1].sample_size == 8


@pytest.mark.parametrize("order, expected", [("cos", True), ("sin", False)])
def test_every_option_is_taken_and_leaves_the_line(lsun, order, expected, recwarn):
    _, model, process = sources.load(lsun[0], Unsaid(1, 8, "cosine", 400, "x0", order, clip="none"))
    assert (model.sample_size, model.flip_sin_to_cos, model.heads(64)) == (8, expected, 1)
    assert process == DiffusionConfig(schedule="cosine", timesteps=400, objective="x0", variance="learned_range",
                                      rescale_timesteps=True)
    assert not recwarn.list


OPTIONS = ["--heads", "1", "--image-size", "8"]


def line_of(words):
    """The only line in which a command says what it assumes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert main(words) == 0
    lines = [str(item.message) for item in caught if item.category is Note]
    assert len(lines) == 1 and "is taken for" in lines[0]
    return lines[0]


def test_convert_says_it_to_the_file_that_it_writes(lsun, tmp_path):
    path, expected = lsun
    line = line_of(["convert", str(path), str(tmp_path / "out"), *OPTIONS])
    assert "--heads" not in line and "schedule linear (--schedule)" in line
    assert close(*load_pipeline(tmp_path / "out")[:2], expected)


def test_one_head_of_any_width_can_be_written(tmp_path):
    state = Parameters()
    with torch.no_grad():
        expected = nichol2021(state, X, T, mult=(1, 2), layers=1, attends=(0, 1), heads=1).numpy()
    torch.save(dict(state), tmp_path / "a.pt")
    assert main(["convert", str(tmp_path / "a.pt"), str(tmp_path / "out"), "--heads", "1"]) == 0
    assert close(*load_pipeline(tmp_path / "out")[:2], expected)


def test_sample_and_the_api_draw_with_it(lsun, tmp_path):
    path, expected = lsun
    model = api.load(path, heads=1, image_size=8)
    assert close(model.backend.weights(ema=True), model.spec.model, expected)
    with pytest.warns(UserWarning, match=r"clipping"):
        api.load(path, heads=1, image_size=8, schedule="linear", timesteps=1000, objective="eps", time_order="cos")
    with pytest.raises(ConfigError, match="heads=0"):
        api.load(path, heads=0)
    words = ["sample", "--weights", str(path), *OPTIONS, "--steps", "2", "--samples", "1", "--save", str(tmp_path / "a.npy")]
    assert "(--clip)" in line_of(words) and np.load(tmp_path / "a.npy").shape == (1, 3, 8, 8)
    assert "(--clip)" not in line_of([*words, "--clip", "none"])


def test_run_and_train_begin_with_it(lsun, tmp_path, capsys):
    path, expected = lsun
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (400, 8, 8, 3), np.uint8))
    data = ["--data", str(tmp_path / "images.npy")]
    line_of(["run", "--weights", str(path), *OPTIONS, *data, "--dry-run=plan", "--samples", "128", "--metric", "none",
             "--backends", "torch"])
    shown = capsys.readouterr().out
    assert '"sample_size": 8' in shown and '"num_attention_heads": null' in shown
    preset = ["--preset", "mnist-scratch", "--batch-size", "2", "--log", "none"]
    line_of(["train", "--weights", str(path), *OPTIONS, *data, *preset, "--train-steps", "1", "--save", str(tmp_path / "net")])
    assert load_pipeline(tmp_path / "net")[1].heads(64) == 1


@pytest.mark.parametrize("rank", [0, 1])
def test_the_line_is_on_stderr_of_one_process(lsun, tmp_path, rank):
    launcher = {"TORCHELASTIC_RUN_ID": "1", "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    done = subprocess.run([sys.executable, "-m", "bench", "convert", str(lsun[0]), str(tmp_path / "out")], text=True,
                          capture_output=True, env=os.environ | launcher, cwd=ROOT)
    lines = [line for line in done.stderr.splitlines() if "is taken for" in line]
    assert done.returncode == 0 and len(lines) == (rank == 0) and all(line.startswith("warning: ") for line in lines)


@pytest.mark.parametrize("given, line", [
    ({"heads": 2}, r"config\.json: --heads=2: contradicts the file, which says 1"),
    ({"image_size": 16}, r"config\.json: --image-size=16: contradicts the file, which says 8"),
    ({"time_order": "cos"}, r"config\.json: --time-order=cos: contradicts the file, which says sin"),
    ({"schedule": "linear"}, r"scheduler_config\.json: --schedule=linear: contradicts the file, which says cosine"),
    ({"timesteps": 1000}, r"scheduler_config\.json: --timesteps=1000: contradicts the file, which says 300"),
    ({"objective": "eps"}, r"scheduler_config\.json: --objective=eps: contradicts the file, which says v; must be that or"),
])
def test_an_option_that_contradicts_a_folder_is_refused(tmp_path, given, line):
    save_pipeline(tmp_path / "a", initialise(TINY, 0), TINY, DiffusionConfig(schedule="cosine", timesteps=300, objective="v"))
    with pytest.raises(CheckpointError, match=line):
        sources.load(tmp_path / "a", Unsaid(**given))
    right = Unsaid(1, 8, "cosine", 300, "v", "sin")
    assert sources.load(tmp_path / "a", right)[1:] == (TINY, sources.load(tmp_path / "a")[2])


def test_heads_that_differ_by_level_are_no_single_number(tmp_path):
    model = replace(TINY, attention_head_dim=4, down_block_types=("AttnDownBlock2D",) * 2, up_block_types=("AttnUpBlock2D",) * 2)
    save_pipeline(tmp_path / "a", initialise(model, 0), model, DiffusionConfig())
    with pytest.raises(CheckpointError, match=r"--heads=2: contradicts the file, which says \[2, 4\]"):
        sources.load(tmp_path / "a", Unsaid(heads=2))


def test_a_network_without_its_scheduler_is_named_and_takes_the_process(tmp_path):
    save_pipeline(tmp_path / "a", initialise(TINY, 0), TINY, DiffusionConfig())
    found, lines = said(tmp_path / "a")
    assert lines == []
    (tmp_path / "a/unet").rename(tmp_path / "net")
    found, lines = said(tmp_path / "net")
    assert found[2] == DiffusionConfig(variance="small")
    assert len(lines) == 1 and "schedule linear (--schedule), timesteps 1000 (--timesteps), objective eps (--objective)" in lines[0]
    assert "heads" not in lines[0] and "(--clip)" in lines[0]
    process = sources.load(tmp_path / "net", Unsaid(schedule="cosine", timesteps=300, objective="v"))[2]
    assert process == DiffusionConfig(schedule="cosine", timesteps=300, objective="v", variance="small")


def test_the_ddim_code_has_one_head(tmp_path):
    state = Parameters()
    song2021(state, X, T, mult=(1, 2), layers=1)
    torch.save(dict(state), tmp_path / "a.pth")
    found, lines = said(tmp_path / "a.pth")
    assert found[1].heads(64) == 1 and "heads" not in lines[0] and "time order sin" in lines[0]
    with pytest.raises(CheckpointError, match=r"a\.pth: --heads=2: contradicts the file, which says 1"):
        sources.load(tmp_path / "a.pth", Unsaid(heads=2))


PLAIN = ModelConfig(sample_size=8, in_channels=3, out_channels=3, block_out_channels=(64, 128), norm_num_groups=32, norm_eps=1e-5,
                    downsample_padding=1, flip_sin_to_cos=True, freq_shift=0, attention_head_dim=8,
                    down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"))


def test_a_plain_state_dict_of_a_unet2dmodel_is_read_with_what_that_has_by_default(tmp_path):
    weights = initialise(replace(PLAIN, zero_init=False), 0)
    save_file({"module." + name: value for name, value in weights.items()}, tmp_path / "a.safetensors")
    found, lines = said(tmp_path / "a.safetensors")
    assert same(found[0], weights) and found[1] == replace(PLAIN, sample_size=32) and found[2] == DiffusionConfig()
    assert "heads of 8 channels each (--heads)" in lines[0] and lines[0].endswith("a config.json beside the file would say it")
    found = sources.load(tmp_path / "a.safetensors", Unsaid(heads=4, image_size=8, time_order="sin"))
    assert found[1] == replace(PLAIN, attention_head_dim=None, num_attention_heads=4, flip_sin_to_cos=False)
    (tmp_path / "net").mkdir()
    save_file(weights, tmp_path / "net" / SAFE)
    save_pipeline(tmp_path / "whole", weights, PLAIN, DiffusionConfig())
    (tmp_path / "net/config.json").write_text(json.dumps(json.loads((tmp_path / "whole/unet/config.json").read_text())))
    x, t = X.numpy(), T.numpy()
    beside = sources.load(tmp_path / "net" / SAFE)
    bare = sources.load(tmp_path / "a.safetensors", Unsaid(image_size=8))
    np.testing.assert_array_equal(unet.forward(*beside[:2], x, t), unet.forward(*bare[:2], x, t))


def test_every_command_that_reads_weights_takes_what_their_files_do_not_say():
    whole = parser()
    reading = {*whole.having("--weights"), "ddim-bench convert"}
    for name in (*UNSAID, "ignore_scheduler"):
        having = set(whole.having(f"--{name.replace('_', '-')}")) - {"ddim-bench metric"}  # which reads images, no weights
        assert having == reading, name


@pytest.mark.parametrize("name, value", [("heads", 0), ("image_size", 0), ("timesteps", 0), ("head_channels", 0), ("schedule", "x"),
                                         ("objective", "x"), ("time_order", "x"), ("qkv_order", "x")])
def test_a_word_that_cannot_be_is_refused_by_its_name(name, value):
    with pytest.raises(ConfigError, match=f"^{name}={value!r}: must be "):
        Unsaid(**{name: value})


def test_heads_are_not_assumed_where_their_width_is_said(lsun, recwarn):
    assert sources.load(lsun[0], Unsaid(head_channels=32))[1].heads(64) == 2
    assert ["heads" in str(warning.message) for warning in recwarn] == [False]


def test_a_plain_state_dict_with_old_names_of_attention_has_one_head(tmp_path):
    """As UNet2DModel had before diffusers 0.17, where 8 channels a head are the default of today."""
    weights = initialise(replace(PLAIN, attention_head_dim=None), 0)
    for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        weights = {name.replace(f".{new}.", f".{old}."): value for name, value in weights.items()}
    save_file(weights, tmp_path / "a.safetensors")
    (_, model, _), lines = said(tmp_path / "a.safetensors")
    assert model.heads(128) == 1 and "heads 1 (--heads)" in lines[0]


@pytest.mark.parametrize("way", ["folder", "file", "hub"])
def test_what_a_user_says_reaches_every_kind_of_source(folder, monkeypatch, way):
    monkeypatch.setattr(sources, "fetch", lambda name, revision: folder)
    source = {"folder": folder, "file": folder / "unet" / SAFE, "hub": "owner/name@main"}[way]
    edit(folder / "scheduler/scheduler_config.json", steps_offset=3)
    assert sources.read(source).scheduler.steps_offset == 3
    assert sources.read(source, ignore_scheduler=True).scheduler == Scheduler()
    with pytest.raises(CheckpointError, match="--heads=2: contradicts the file, which says 1"):
        sources.read(source, Unsaid(heads=2))
