"""Pipelines go out to diffusers and come back; damaged, foreign and hostile files end in one clear error; states outlive kills."""

import importlib.util
import inspect
import json
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from bench.files import FileError
from bench.metric.torchvision_shim import import_torchvision
from bench.presets import get_preset
from bench.records import trainings
from bench.training.states import load_state, save_state
from bench.weights import diffusers_config, pipeline, tensor_files
from bench.weights.errors import CheckpointError
from bench.weights.pipeline import load_pipeline, save_pipeline
from reference import unet
from reference.config import SCHEDULES, DiffusionConfig, ModelConfig
from reference.weights import initialise
from tests.helpers.tiny import TINY, same

OTHERS = replace(TINY, in_channels=3, out_channels=6, layers_per_block=2, norm_eps=1e-5, downsample_padding=1,
                 flip_sin_to_cos=True, freq_shift=0, attention_head_dim=4, dropout=0.1)
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize("model", [TINY, OTHERS, replace(TINY, num_attention_heads=2)])
@pytest.mark.parametrize("diffusion", [
    DiffusionConfig(), DiffusionConfig(schedule="cosine", timesteps=50, objective="v", variance="learned_range"),
    DiffusionConfig(schedule="sigmoid_alpha_bar", zero_terminal_snr=True, objective="x0", loss="l1", loss_weight="min_snr"),
    DiffusionConfig(beta_scaling=True, timesteps=100),
])
def test_round_trip_is_exact(tmp_path, model, diffusion):
    weights = initialise(model, 1)
    save_pipeline(tmp_path / "a", weights, model, diffusion, {"training.json": "{}"})
    back, model_back, diffusion_back = load_pipeline(tmp_path / "a")
    assert (model_back, diffusion_back) == (model, diffusion)
    assert same(back, weights)
    assert (tmp_path / "a/training.json").read_text() == "{}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="diffusers' network needs torch")


@needs_torch
@pytest.mark.parametrize("model", [TINY, replace(OTHERS, out_channels=3), replace(TINY, num_attention_heads=2)])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_diffusers_reads_ours_and_we_read_what_it_writes(tmp_path, model, schedule):
    """Same outputs from the same folder, in both directions: a network alone would not notice wrong heads."""
    import_torchvision()
    import torch
    from diffusers import DDPMPipeline

    from reference.schedules import betas
    weights, diffusion = initialise(model, 2), DiffusionConfig(schedule=schedule, variance="small")
    save_pipeline(tmp_path / "ours", weights, model, diffusion)
    theirs = DDPMPipeline.from_pretrained(tmp_path / "ours")
    np.testing.assert_allclose(theirs.scheduler.betas.double(), betas(diffusion), rtol=2e-3)
    x, t = np.random.default_rng(0).standard_normal((2, model.in_channels, 8, 8)), np.array([3, 977])
    with torch.no_grad():
        found = theirs.unet(torch.from_numpy(x).float(), torch.from_numpy(t)).sample.numpy()
    np.testing.assert_allclose(found, unet.forward(weights, model, x, t), atol=2e-5)

    if schedule in diffusers_config.BETA_SCHEDULES:
        theirs.save_pretrained(tmp_path / "theirs")
        for name in ("unet/config.json", "scheduler/scheduler_config.json"):  # diffusers keeps our key; drop it
            values = json.loads((tmp_path / "theirs" / name).read_text())
            values.pop("ddim_bench", None)
            (tmp_path / "theirs" / name).write_text(json.dumps(values))
        back, model_back, diffusion_back = load_pipeline(tmp_path / "theirs")
        assert diffusion_back == diffusion
        assert np.array_equal(unet.forward(back, model_back, x, t), unet.forward(weights, model, x, t))


@needs_torch
def test_defaults_and_fixed_keys_are_those_of_diffusers():
    import_torchvision()
    from diffusers import UNet2DModel
    theirs = {name: p.default for name, p in inspect.signature(UNet2DModel.__init__).parameters.items() if name != "self"}
    ours = diffusers_config.UNET_DEFAULTS | diffusers_config.UNET_FIXED
    assert set(theirs) == set(ours) | {"attention_head_dim"}
    assert all(theirs[name] == value for name, value in ours.items())


def make_legacy(folder, flat):
    """The layout of google/ddpm-cifar10-32: a flat folder, old attention names, an old config without newer keys."""
    weights = load_file(folder / WEIGHTS)
    for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        weights = {name.replace(f".{new}.", f".{old}."): value for name, value in weights.items()}
    config = json.loads((folder / "unet/config.json").read_text())
    for key in ("ddim_bench", "attention_head_dim", "dropout", "add_attention", "mid_block_type", "downsample_type"):
        del config[key]
    scheduler = {"_class_name": "DDPMScheduler", "beta_end": 0.02, "beta_schedule": "linear", "beta_start": 0.0001,
                 "clip_sample": True, "num_train_timesteps": 1000, "trained_betas": None, "variance_type": "fixed_large"}
    out = folder.with_name("legacy")
    unet_folder, scheduler_folder = (out, out) if flat else (out / "unet", out / "scheduler")
    for path in (unet_folder, scheduler_folder):
        path.mkdir(parents=True, exist_ok=True)
    save_file(weights, unet_folder / "diffusion_pytorch_model.safetensors")
    (unet_folder / "config.json").write_text(json.dumps(config))
    (scheduler_folder / "scheduler_config.json").write_text(json.dumps(scheduler))
    return out


@pytest.mark.parametrize("flat", [True, False])
def test_legacy_folders_are_read(folder, flat):
    back, model, diffusion = load_pipeline(make_legacy(folder, flat))
    weights = initialise(TINY, 0)
    assert all(np.array_equal(back[name], weights[name]) for name in weights)
    assert model == replace(TINY, zero_init=True) and model.attention_head_dim is None  # one head
    assert diffusion == DiffusionConfig(variance="large")


def test_a_missing_head_width_is_no_guess_where_the_names_are_new(folder):
    edit(folder / "unet/config.json", ddim_bench=None, attention_head_dim=None)
    with pytest.raises(CheckpointError, match=r"config\.json: attention_head_dim is missing: state 8"):
        load_pipeline(folder)


def edit(path, **changes):
    values = json.loads(path.read_text())
    for key, value in changes.items():
        values.pop(key, None)
        if value is not None:
            values[key] = value
    path.write_text(json.dumps(values))


@pytest.mark.parametrize("file, changes, said", [
    ("unet/config.json", {"norm_eps": 1e-5}, "norm_eps=1e-05 contradicts ddim_bench"),
    ("unet/config.json", {"ddim_bench": None, "attention_head_dim": 8, "act_fn": "elu"},
     "act_fn='elu': must be one of silu, swish, relu"),
    ("unet/config.json", {"ddim_bench": None, "attention_head_dim": 8, "mid_block_type": "UNetMidBlock2DCrossAttn"},
     "mid_block_type='UNetMidBlock2DCrossAttn': must be UNetMidBlock2D or null"),
    ("unet/config.json", {"ddim_bench": None, "attention_head_dim": 8, "mid_block_scale_factor": 0},
     "mid_block_scale_factor=0: must be positive and finite"),
    ("unet/config.json", {"ddim_bench": None, "attention_head_dim": 8, "sample_size": [8, 16]}, "sample_size"),
    ("unet/config.json", {"ddim_bench": None, "attention_head_dim": 8, "layers_per_block": 60000}, "not read"),
    ("unet/config.json", {"ddim_bench": None, "attention_head_dim": 8, "layers_per_block": 2}, "parameter is missing"),
    ("unet/config.json", {"ddim_bench": None, "attention_head_dim": 8, "in_channels": 2}, r"shape must be \(8, 2, 3, 3\)"),
    ("unet/config.json", {"ddim_bench": None, "attention_head_dim": "x"}, "attention_head_dim='x'"),
    ("unet/config.json", {"ddim_bench": [1]}, "must be an object"),
    ("unet/config.json", {"ddim_bench": {"depth": 3}}, "unknown keys"),
    ("unet/config.json", {"_class_name": "UNet2DConditionModel"}, "_class_name"),
    ("scheduler/scheduler_config.json", {"beta_end": 0.5}, "beta_end=0.5 contradicts"),
    ("scheduler/scheduler_config.json", {"ddim_bench": None, "beta_schedule": "exp"}, "beta_schedule='exp'"),
    ("scheduler/scheduler_config.json", {"ddim_bench": None, "beta_schedule": ["linear"]}, "beta_schedule"),
    ("scheduler/scheduler_config.json", {"ddim_bench": None, "trained_betas": [0.1]}, "trained_betas"),
    ("scheduler/scheduler_config.json", {"ddim_bench": None, "variance_type": "fixed_large_log"}, "variance_type"),
    ("scheduler/scheduler_config.json", {"ddim_bench": None, "num_train_timesteps": 10**9}, "timesteps"),
    ("scheduler/scheduler_config.json", {"_class_name": "LMSDiscreteScheduler"}, "must be one of DDIMScheduler"),
])
def test_a_wrong_config_is_named(folder, file, changes, said):
    edit(folder / file, **changes)
    with pytest.raises(CheckpointError, match=said) as caught:
        load_pipeline(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["unet/config.json", "scheduler/scheduler_config.json", WEIGHTS])
@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe", b"[" * 100_000, b"\0" * 100])
def test_a_missing_or_unreadable_file_is_named(folder, file, content):
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=file.split("/")[1]):
        load_pipeline(folder)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere: no such folder"):
        load_pipeline(tmp_path / "nowhere")


def test_a_pickle_is_never_opened(folder):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(folder / "sprung"),))

    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).with_suffix(".bin").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CheckpointError, match="pickle"):
        load_pipeline(folder)
    (folder / WEIGHTS).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CheckpointError, match="corrupt"):
        load_pipeline(folder)
    assert not (folder / "sprung").exists()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.2, 0.5, 0.999])
def test_truncated_weights_are_refused(folder, share):
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:int(share * len(whole))])
    with pytest.raises(CheckpointError, match="truncated|empty"):
        load_pipeline(folder)


def flip_bits(path, count, load, same):
    """Flip one bit at a time, all over the header and at random behind it: an error of ours, or the same content."""
    whole, random_ = path.read_bytes(), random.Random(0)
    header = 8 + int.from_bytes(whole[:8], "little")
    silent = 0
    for n in range(count):
        bit = random_.randrange(8 * header) if n % 2 else random_.randrange(8 * header, 8 * len(whole))
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            assert same(load()), f"bit {bit}"
            silent += 1
        except CheckpointError as error:
            assert path.name in str(error)
    path.write_bytes(whole)
    return silent


def test_a_flipped_bit_in_weights_never_goes_unseen(folder):
    weights = initialise(TINY, 0)

    def unharmed(found):
        return found[1:] == (TINY, DiffusionConfig()) and same(found[0], weights)

    assert flip_bits(folder / WEIGHTS, 600, lambda: load_pipeline(folder), unharmed) < 10


def test_a_huge_file_is_refused_before_it_is_read(folder):
    header = json.dumps({"a": {"dtype": "F32", "shape": [1 << 30], "data_offsets": [0, 1 << 32]}}).encode()
    with (folder / "huge.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + (1 << 32))  # sparse
    with pytest.raises(CheckpointError, match="more than this network"):
        load_pipeline(folder, folder / "huge.safetensors")


@pytest.mark.parametrize("change, said", [
    (lambda w: w | {"conv_in.weight": w["conv_in.weight"].astype(np.int64)}, "int64"),
    (lambda w: w | {"conv_in.bias": np.full(8, np.nan, np.float32)}, "NaN"),
    (lambda w: w | {"conv_in.bias": np.full(8, 1e300)}, "infinity"),
    (lambda w: w | {"extra": np.zeros(1, np.float32)}, "not part of this network"),
    (lambda w: w | {"mid_block.attentions.0.query.bias": np.zeros(16, np.float32)}, "old and its new name"),
    (lambda w: {name: value for name, value in w.items() if name != "conv_out.bias"}, "conv_out.bias"),
])
def test_wrong_weights_are_named(folder, change, said):
    save_file(change(initialise(TINY, 0)), folder / WEIGHTS)
    with pytest.raises(CheckpointError, match=said):
        load_pipeline(folder)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_precisions_become_float32(folder, dtype, monkeypatch):
    monkeypatch.setattr(pipeline, "MAX_HEADER", 1 << 15)  # little beside the arrays: those of float64 must pass, too
    weights = {name: value.astype(dtype) for name, value in initialise(TINY, 0).items()}
    save_file(weights, folder / WEIGHTS)
    back = load_pipeline(folder)[0]
    assert same(back, {name: value.astype(np.float32) for name, value in weights.items()})
    assert {value.dtype for value in back.values()} == {np.dtype(np.float32)}


def test_only_a_pipeline_is_replaced(folder, tmp_path):
    save_pipeline(folder, initialise(TINY, 5), TINY, DiffusionConfig())
    assert np.array_equal(load_pipeline(folder)[0]["conv_in.weight"], initialise(TINY, 5)["conv_in.weight"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years")
    with pytest.raises(CheckpointError, match="no pipeline folder"):
        save_pipeline(tmp_path / "mine", initialise(TINY, 5), TINY, DiffusionConfig())
    assert (tmp_path / "mine/thesis.txt").read_text() == "years"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "pipeline"]


def test_weights_of_another_network_are_not_saved(tmp_path):
    with pytest.raises(ValueError, match="shape must be"):
        save_pipeline(tmp_path / "a", initialise(replace(TINY, in_channels=2), 0), TINY, DiffusionConfig())
    assert list(tmp_path.iterdir()) == []


def test_heads_that_diffusers_cannot_express_are_refused(tmp_path):
    model = replace(TINY, num_attention_heads=2, down_block_types=("AttnDownBlock2D",) * 2, up_block_types=("AttnUpBlock2D",) * 2)
    with pytest.raises(CheckpointError, match="num_attention_heads=2.*one head width"):
        save_pipeline(tmp_path / "a", initialise(model, 0), model, DiffusionConfig())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_config_gives_a_network_or_our_error(folder, data):
    known = [*diffusers_config.UNET_DEFAULTS, *diffusers_config.UNET_FIXED, "attention_head_dim", "ddim_bench"]
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
    values = scalars | st.lists(st.integers(0, 64), max_size=4)
    path = folder / "unet/fuzzed.json"
    config = json.loads((folder / "unet/config.json").read_text()) | {"ddim_bench": None}
    del config["ddim_bench"]
    path.write_text(json.dumps(config | data.draw(st.dictionaries(st.sampled_from(known), values, max_size=4))))
    try:
        assert isinstance(diffusers_config.read_unet(path, legacy=data.draw(st.booleans())), ModelConfig)
    except CheckpointError as error:
        assert "fuzzed.json" in str(error)


CONFIG = {"optim": {"lr": 2e-4, "betas": [0.9, 0.999]}, "seed": 0}
STATE = {"weights/a": np.arange(6, dtype=np.float32).reshape(2, 3), "step": np.array(7, np.int64), "half": np.ones(2, np.float16),
         "strided": np.arange(12.0).reshape(3, 4).T[::2], "empty": np.zeros((0, 3), np.float32)}


def same_state(found):
    return (set(found) == set(STATE)
            and all(found[n].dtype == STATE[n].dtype and np.array_equal(found[n], STATE[n]) for n in STATE))


def test_states_come_back_exactly_and_the_last_two_are_kept(tmp_path):
    assert load_state(tmp_path / "states", CONFIG) is None
    for step in (5, 10, 15):
        save_state(tmp_path / "states", step, STATE, CONFIG)
    step, state = load_state(tmp_path / "states", json.loads(json.dumps(CONFIG)))
    assert step == 15 and same_state(state) and state["step"].shape == ()
    assert sorted(p.name for p in (tmp_path / "states").iterdir()) == ["state-00000010.safetensors", "state-00000015.safetensors"]
    with safe_open(tmp_path / "states/state-00000015.safetensors", "np") as file:
        assert len(file.metadata()["sha256"]) == 64


def test_a_state_of_another_config_is_refused_and_says_what_differs(tmp_path):
    save_state(tmp_path, 5, STATE, CONFIG)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(CheckpointError, match=r"state-00000005.*optim\.lr is 0\.0002 there and 0\.001 here; seed is 0 there"):
        load_state(tmp_path, {"optim": {"lr": 1e-3, "betas": [0.9, 0.999]}, "seed": 1})
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}


def test_a_damaged_state_offers_the_one_before(tmp_path):
    for step in (5, 10):
        save_state(tmp_path, step, STATE, CONFIG)
    newest, earlier = tmp_path / "state-00000010.safetensors", tmp_path / "state-00000005.safetensors"
    newest.write_bytes(newest.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match="truncated.*state-00000005.safetensors is good: remove state-00000010"):
        load_state(tmp_path, CONFIG)
    newest.unlink()
    assert load_state(tmp_path, CONFIG)[0] == 5
    earlier.write_bytes(earlier.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match="no earlier state"):
        load_state(tmp_path, CONFIG)


def test_a_flipped_bit_in_a_state_never_goes_unseen(tmp_path):
    path = save_state(tmp_path, 5, STATE, CONFIG)
    silent = flip_bits(path, 600, lambda: load_state(tmp_path, CONFIG), lambda found: found[0] == 5 and same_state(found[1]))
    assert silent < 10


def test_a_renamed_state_and_a_foreign_file_are_refused(tmp_path):
    save_state(tmp_path, 5, STATE, CONFIG).rename(tmp_path / "state-00000006.safetensors")
    with pytest.raises(CheckpointError, match="not the training state"):
        load_state(tmp_path, CONFIG)
    save_file({"a": np.zeros(1, np.float32)}, tmp_path / "state-00000007.safetensors")
    with pytest.raises(CheckpointError, match="not the training state"):
        load_state(tmp_path, CONFIG)


def test_a_later_state_is_not_shadowed(tmp_path):
    save_state(tmp_path, 10, STATE, CONFIG)
    with pytest.raises(CheckpointError, match="later than step 5"):
        save_state(tmp_path, 5, STATE, CONFIG)


def _die():
    os.kill(os.getpid(), signal.SIGKILL)


def _save_and_die(folder, stage):
    if stage == "half written":
        def half(arrays, path, metadata):
            save_file(arrays, path, metadata)
            os.truncate(path, os.path.getsize(path) // 2)
            _die()
        tensor_files.save_file = half
    elif stage == "not yet renamed":
        tensor_files.os.replace = lambda *_: _die()
    else:
        tensor_files.Path.unlink = lambda *_: _die()
    save_state(folder, 15, STATE, CONFIG)


@pytest.mark.parametrize("stage, survivor", [("half written", 10), ("not yet renamed", 10), ("old ones still there", 15)])
def test_kill_at_each_stage_of_saving(tmp_path, stage, survivor):
    for step in (5, 10):
        save_state(tmp_path, step, STATE, CONFIG)
    process = multiprocessing.get_context("fork").Process(target=_save_and_die, args=(tmp_path, stage))
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    step, state = load_state(tmp_path, CONFIG)
    assert step == survivor and same_state(state)
    save_state(tmp_path, 20, STATE, CONFIG)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"state-{n:08d}.safetensors" for n in (survivor, 20)]


def _save_forever(folder, acknowledged):
    step = 0
    while True:
        step += 1
        save_state(folder, step, {"x": np.full(1_000_000, step, np.float32)}, CONFIG)
        os.write(acknowledged, b".")


def test_kill_at_any_moment_leaves_a_good_state(tmp_path):
    context, random_ = multiprocessing.get_context("fork"), random.Random(0)
    for n in range(20):
        folder = tmp_path / str(n)
        reader, writer = os.pipe()
        process = context.Process(target=_save_forever, args=(folder, writer))
        process.start()
        os.close(writer)
        os.read(reader, 1)
        time.sleep(random_.random() * 0.03)
        os.kill(process.pid, signal.SIGKILL)
        process.join(30)
        acknowledged = 1
        while data := os.read(reader, 4096):
            acknowledged += len(data)
        os.close(reader)
        step, state = load_state(folder, CONFIG)
        assert step - acknowledged in (0, 1) and (state["x"] == step).all()
        save_state(folder, step + 1, state, CONFIG)  # and it goes on over the killed one's leftovers
        assert not [path for path in folder.iterdir() if path.suffix == ".part"]


def test_a_full_disk_keeps_the_earlier_state(tmp_path):
    save_state(tmp_path, 1, STATE, CONFIG)
    script = f"""
import resource, signal
import numpy as np
from pathlib import Path
from bench.files import FileError
from bench.training.states import save_state
from bench.weights.pipeline import save_pipeline
from reference.config import DiffusionConfig, ModelConfig
from reference.weights import initialise
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
folder = Path({str(tmp_path)!r})
for save in (lambda: save_state(folder, 2, {{"x": np.zeros(100_000)}}, {CONFIG!r}),
             lambda: save_pipeline(folder / "p", initialise(ModelConfig(), 0), ModelConfig(), DiffusionConfig())):
    try:
        save()
    except FileError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    lines = done.stdout.splitlines()
    assert len(lines) == 2 and all("can't be written" in line for line in lines), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["state-00000001.safetensors"]
    assert load_state(tmp_path, CONFIG)[0] == 1


def test_an_unwritable_place_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="states: can't be made"):
        save_state(tmp_path / "file" / "states", 1, STATE, CONFIG)
    with pytest.raises(FileError, match="pipeline: can't be written"):
        save_pipeline(tmp_path / "file" / "pipeline", initialise(TINY, 0), TINY, DiffusionConfig())


def test_the_hash_covers_names_shapes_dtypes_and_metadata():
    a = np.arange(4, dtype=np.float32)
    hashes = [tensor_files.digest({"a": a}, {}), tensor_files.digest({"b": a}, {}), tensor_files.digest({"a": a.reshape(2, 2)}, {}),
              tensor_files.digest({"a": a.view(np.int32)}, {}), tensor_files.digest({"a": a}, {"step": "1"})]
    assert len(set(hashes)) == len(hashes)
    assert tensor_files.digest({"a": a}, {"sha256": "x"}) == hashes[0]


@pytest.mark.parametrize("preset", [get_preset("quick"), get_preset("base")], ids=lambda preset: preset.name)
def test_a_shipped_checkpoint_is_what_its_record_and_preset_say(preset):
    weights, model, diffusion = load_pipeline(preset.weights)
    record = json.loads((preset.weights / "training.json").read_text())
    assert (model, diffusion) == (preset.model, preset.diffusion)
    recorded = record["config"]  # of an older version: without the fields that were added since
    assert (ModelConfig.from_dict(recorded["model"]), DiffusionConfig.from_dict(recorded["diffusion"])) == (model, diffusion)
    assert all(np.isfinite(array).all() for array in weights.values())
    losses = np.loadtxt(preset.weights / "loss.csv", delimiter=",", skiprows=1, usecols=1)
    assert len(losses) == sum(map(trainings.steps, trainings.stages(preset.weights / "training.json")))
    assert record["final_loss_mean_of_1000"] == pytest.approx(losses[-1000:].mean(), rel=1e-4)


def test_states_are_in_the_order_of_their_steps_and_one_may_be_written_again(tmp_path):
    """Of names the one of more digits is the earlier."""
    for step in (99_999_999, 100_000_000, 100_000_000):
        save_state(tmp_path, step, STATE, CONFIG)
    assert load_state(tmp_path, CONFIG)[0] == 100_000_000
