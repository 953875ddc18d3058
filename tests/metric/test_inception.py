"""Inception FID with randomly initialised weights in torch-fidelity's file format: the whole path but for the published numbers.

The network takes images of any side from 75 on; that side and an early layer keep most of these tests short.
"""

import hashlib
import pickle
import subprocess
import sys
import textwrap
from dataclasses import replace
from unittest.mock import MagicMock
from urllib.error import URLError

import numpy as np
import pytest

from bench.cli import commands, run
from bench.data import datasets
from bench.metric import fid, fmnist_cnn, inception
from bench.metric.extractor import Extractor
from bench.metric.torchvision_shim import import_torchvision
from bench.paths import ROOT
from bench.records import rows
from reference.config import ConfigError


def network_class():
    import_torchvision()
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    return FeatureExtractorInceptionV3


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A file of random weights, of a size that keeps activations alive through all layers."""
    cls = network_class()
    import torch

    class Blank(cls):
        def load_state_dict(self, state, *args, **kwargs):
            return None

    folder = tmp_path_factory.mktemp("inception")
    torch.save({}, folder / "empty.pth")
    torch.manual_seed(0)
    net = Blank(inception.NAME, ["2048"], feature_extractor_weights_path=str(folder / "empty.pth"))
    for parameter in net.parameters():
        if parameter.ndim == 4:
            torch.nn.init.kaiming_normal_(parameter)
    torch.save(net.state_dict(), folder / "weights.pth")
    return folder / "weights.pth"


@pytest.fixture
def small(weights, monkeypatch):
    """The extractor of the first 64 features, of images scaled to 75 x 75 in place of 299 x 299."""
    inception._pretrained.cache_clear()
    monkeypatch.setattr(network_class(), "INPUT_IMAGE_SIZE", 75)
    monkeypatch.setattr(inception, "LAYER", "64")
    monkeypatch.setattr(inception, "WIDTH", 64)
    yield inception.load(weights)
    inception._pretrained.cache_clear()


def colour(n, size=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 3, size, size), np.uint8)


def own(images):
    return datasets.Dataset("images", "train", images, None, f"images of mine, train ({len(images)})", "0" * 64, False)


def as_dataset(images):
    import torch

    class Images(torch.utils.data.Dataset):
        def __len__(self):
            return len(images)

        def __getitem__(self, i):
            return torch.from_numpy(images[i])

    return Images()


# The numbers


def test_features_are_those_of_torch_fidelity(weights):
    images, found = colour(3), inception.load(weights)
    assert (found.name, found.width, found.sha256) == (inception.NAME, 2048, hashlib.sha256(weights.read_bytes()).hexdigest())
    import torch
    from torch_fidelity.utils import create_feature_extractor

    theirs = create_feature_extractor(inception.NAME, ["2048"], cuda=False, verbose=False,
                                      feature_extractor_weights_path=str(weights))
    ours = fid.features(images, extractor=found)
    assert ours.shape == (3, 2048) and ours.dtype == np.float32 and (ours.std(axis=0) > 0).mean() > 0.8
    np.testing.assert_allclose(ours, theirs(torch.from_numpy(images))[0].numpy(), rtol=1e-5)


def test_same_numbers_as_torch_fidelity_called_whole(small, weights):
    images, reference = colour(160), colour(160, seed=1) // 2
    ours = fid.evaluate(images, own(reference), seed=3, extractor=small)
    import torch_fidelity

    theirs = torch_fidelity.calculate_metrics(
        input1=as_dataset(images), input2=as_dataset(reference), fid=True, kid=True, prc=True, feature_extractor=inception.NAME,
        feature_layer_fid="64", feature_layer_kid="64", feature_layer_prc="64", feature_extractor_weights_path=str(weights),
        cuda=False, kid_subset_size=160, rng_seed=3, cache=False, save_cpu_ram=True, verbose=False)
    for name, key in (("fid", "frechet_inception_distance"), ("kid", "kernel_inception_distance_mean"), ("precision", "precision"),
                      ("recall", "recall")):
        assert ours[name] == pytest.approx(theirs[key], rel=1e-4, abs=1e-6), name


def test_result_names_network_weights_and_reference(small, weights):
    result = fid.evaluate(colour(130), own(colour(150, seed=1)), extractor=small)
    assert result["metric"] == "FID[inception-v3-compat]" and result["n"] == 130 and result["reference_n"] == 150
    assert result["extractor_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert result["reference"] == "images of mine, train (150)"
    assert not inception.published(small)


def test_fashion_mnist_goes_in_grey_repeated_and_never_against_the_other_extractors_statistics(small):
    train, test = (datasets.load_subset("fashion-mnist", split) for split in ("train", "test"))
    few = datasets.Dataset("fashion-mnist", "train", train.images[:200], None, "200 of them", "0" * 64, False)
    result = fid.floor(140, few, test=test, extractor=small)
    assert result["reference"] == "200 of them; grey repeated as RGB for the extractor" and result["reference_n"] == 200
    assert result["fid"] < fid.ceiling(140, few, extractor=small)["fid"] / 3
    with pytest.raises(ConfigError, match="reference='train': no statistics ship for inception-v3-compat"):
        fid.evaluate(colour(200), "train", extractor=small)


def test_grey_images_have_three_equal_channels():
    grey = colour(2)[:, :1]
    found, said = inception.convert(grey)
    assert said and found.shape[1] == 3 and all((found[:, c] == grey[:, 0]).all() for c in range(3))
    assert inception.convert(colour(2))[1] == ""


def test_too_few_images_for_its_width(weights):
    found = inception.load(weights)
    with pytest.raises(ConfigError, match="number of images=4095: must be at least 4096, twice the 2048 features"):
        fid.evaluate(np.zeros((4095, 3, 8, 8), np.uint8), own(colour(2)), extractor=found)
    with pytest.raises(ConfigError, match="number of reference=4095: must be at least 4096"):
        fid.evaluate(np.zeros((4096, 3, 8, 8), np.uint8), own(np.zeros((4095, 3, 8, 8), np.uint8)), extractor=found)
    with pytest.raises(ConfigError, match=r"inception-v3-compat takes images of shape \(n, 3, any, any\)"):
        fid.features(np.zeros((2, 1, 8, 8), np.uint8), extractor=found)


@pytest.mark.parametrize("layer", ["64", pytest.param("2048", marks=[pytest.mark.slow, pytest.mark.recorded])])
def test_the_fewest_images_that_are_measured(weights, monkeypatch, layer):
    n = 2 * int(layer)
    monkeypatch.setattr(network_class(), "INPUT_IMAGE_SIZE", 75)
    monkeypatch.setattr(inception, "LAYER", layer)
    monkeypatch.setattr(inception, "WIDTH", int(layer))
    inception._pretrained.cache_clear()
    found = inception.load(weights)
    reference = own(colour(n))
    same, darker = (fid.evaluate(images, reference, extractor=found) for images in (colour(n, seed=1), colour(n) // 2))
    inception._pretrained.cache_clear()
    assert 0 < same["fid"] < darker["fid"] / 2 and same["n"] == same["reference_n"] == n and same["fid_half"] is None


# The file


def test_missing_file_tells_what_to_fetch_and_where_to_put_it(tmp_path, monkeypatch):
    """Also where nothing has loaded torchvision yet, which torch-fidelity needs: see `torchvision_shim`."""
    network_class()
    import torch

    called = []
    monkeypatch.setattr(inception, "import_torchvision", lambda: called.append(True))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", None)  # nothing is fetched without being asked for
    place = tmp_path / "hub" / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    url = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{place.name}"
    for weights, said in ((None, (url, str(place), "--download", "--inception-weights FILE")),
                          (tmp_path / "mine.pth", ("mine.pth", url))):
        with pytest.raises(ConfigError) as error:
            inception.load(weights)
        assert all(word in str(error.value) for word in said) and "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="mine.pth.*no such file"):
        inception.load(tmp_path / "mine.pth", download=True)  # it has a name of its own: nothing else may take its place
    assert called == [True] * 3


def test_download_goes_where_torch_fidelity_looks_and_is_checked(weights, tmp_path, monkeypatch):
    network_class()
    import torch

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    asked = []

    def fetch(url, place, hash_prefix, progress):
        asked.append((url.rpartition("/")[2], hash_prefix))
        with open(place, "wb") as file:
            file.write(weights.read_bytes())

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    first, again = inception.load(download=True), inception.load()
    assert first == again and asked == [("weights-inception-2015-12-05-6726825d.pth", "6726825d")]

    def fail(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "other"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(ConfigError, match="can't be fetched to .*other.*no route to host"):
        inception.load(download=True)


class Harmful:
    def __reduce__(self):
        return open, ("harm", "w")


def test_files_of_strangers_are_refused_and_run_no_code(weights, tmp_path, monkeypatch):
    network_class()
    import torch

    monkeypatch.chdir(tmp_path)
    state = torch.load(weights, weights_only=True)
    (tmp_path / "words.pth").write_text("words")
    (tmp_path / "empty.pth").touch()
    (tmp_path / "half.pth").write_bytes(weights.read_bytes()[:10**6])
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps(Harmful()))
    torch.save({"x": Harmful()}, "harmful.pth")
    torch.save([1, 2], "list.pth")
    torch.save({"fc.weight": torch.zeros(2)}, "other.pth")
    torch.save({**state, "fc.bias": torch.zeros(7)}, "shape.pth")
    for path in sorted(tmp_path.glob("*.pth")):
        with pytest.raises(ConfigError, match=f"{path.name}.*not a state dict of torch-fidelity's inception-v3-compat") as error:
            inception.load(path)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "harm").exists()


# The main job


@pytest.fixture
def zeros(monkeypatch):
    """Fashion-MNIST of its full size, without its images."""
    def load(name, split, *_, **__):
        n = {"train": 60_000, "test": 10_000}[split]
        return datasets.Dataset(name, split, np.zeros((n, 1, 28, 28), np.uint8), None, f"{n} zeros", split, False)

    monkeypatch.setattr(datasets, "load", load)


def resolved(*arguments):
    return run.resolve(commands.parser().parse(["run", "--backends", "torch", "--steps", "10", *arguments]))


def test_command_line_asks_for_what_papers_have(zeros, weights):
    job, notes = resolved("--metric", "inception", "--inception-weights", str(weights), "--spacing", "quad")
    assert job.preset.samples == 50_000 and job.extractor == inception.load(weights)
    assert [cell.spacing for cell in job.all_cells] == ["quad"]
    assert [note for note in notes if "FID" in note] == [
        "FID[inception-v3-compat]: of weights that torch-fidelity does not publish: compares with no paper's",
        "FID[inception-v3-compat]: its floor is that of 10,000 images, all that are held out, not of 50,000"]
    _, notes = resolved("--metric", "inception", "--inception-weights", str(weights), "--samples", "5000")
    assert any("of n = 5,000 images, where papers have 50,000" in note for note in notes)
    assert '"extractor": "inception-v3-compat"' in run.describe(job, [])


def test_metric_cells_of_two_extractors_are_two_cells(zeros, weights):
    theirs, ours = resolved("--metric", "inception", "--inception-weights", str(weights))[0], resolved("--samples", "5000")[0]
    assert ours.extractor == fmnist_cnn.extractor() and not any("FID" in note for note in resolved()[1])
    other = replace(theirs, preset=ours.preset)
    [cell] = ours.all_cells
    keys = [job.metric_key("torch", cell) for job in (ours, other)]
    assert {name for name in keys[0] if keys[0][name] != keys[1][name]} == {"extractor", "extractor_sha256"}
    assert [replace(job, device="cuda:1").metric_device for job in (ours, other)] == ["cpu", "cuda"]
    assert other.metric_device == "cpu"


@pytest.mark.parametrize("arguments, message", [
    (["--metric", "inception", "--inception-weights", "absent.pth"], "absent.pth.*no such file"),
    (["--inception-weights", "absent.pth"], "goes with --metric inception"),
    (["--metric", "inception", "--inception-weights", "WEIGHTS", "--samples", "4095"], "--samples=4095: .*4096"),
    (["--table", "ddim", "--spacing", "quad"], "--spacing='quad': goes without --table"),
    (["--spacing", "square"], "spacing='square'"),
])
def test_mistakes_are_told_before_anything_is_drawn(zeros, weights, arguments, message):
    with pytest.raises(ConfigError, match=message):
        resolved(*(str(weights) if a == "WEIGHTS" else a for a in arguments))


def test_splits_without_a_covariance_are_refused_before_anything_is_drawn(monkeypatch, weights):
    monkeypatch.setattr(datasets, "load", lambda name, split, *_, **__: datasets.load_subset(name, split))
    with pytest.raises(ConfigError, match=r"needs at least 4096 images of each split, and there are 4000: .*subset train"):
        resolved("--metric", "inception", "--inception-weights", str(weights))


@pytest.mark.slow
def test_main_job_measures_by_it(weights, tmp_path):
    program = f"""
        import sys
        from tests.helpers import tiny_run
        from bench.metric import inception
        from bench.metric.torchvision_shim import import_torchvision
        import_torchvision()
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        FeatureExtractorInceptionV3.INPUT_IMAGE_SIZE, inception.LAYER, inception.WIDTH = 75, "64", 64
        sys.exit(tiny_run.main(
            ["run", "--preset", "tiny", "--threads", "1", "--backends", "torch", "--steps", "3", "--spacing", "quad",
             "--samples", "128", "--metric", "inception", "--inception-weights", {str(weights)!r}, "--out", {str(tmp_path)!r}]))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = {row.backend: row for row in rows.read(tmp_path / "rows") if row.kind == "metric"}
    assert set(found) == {"real", "noise", "torch"}
    for row in found.values():
        assert row.values["metric"] == "FID[inception-v3-compat]" and row.values["n"] == 128 and row.values["reference_n"] == 1000
        assert row.values["extractor_sha256"] == row.config["extractor_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert found["torch"].config["spacing"] == "quad" and found["real"].values["fid"] < found["noise"].values["fid"]
    assert "FID[inception-v3-compat]" in (tmp_path / "README.md").read_text() and "does not publish" in done.stdout


@pytest.mark.parametrize("sizes", [(4095, 4096), (4096, 4095)])
def test_either_split_may_be_too_small_for_a_covariance(sizes):
    by = Extractor("net", 2048, "6726825d" + "0" * 56, (3, None, None), 50, None, None)
    splits = [MagicMock(provenance=f"{n} of them", __len__=lambda _, n=n: n) for n in sizes]
    with pytest.raises(ConfigError, match="at least 4096 images of each split, and there are 4095: 4095 of them"):
        inception.check(by, 50_000, *splits)
    assert inception.published(by) and not inception.published(replace(by, sha256="0" * 56 + "6726825d"))


@pytest.mark.parametrize("samples, held_out, said", [
    (50_000, 50_000, []), (50_000, 49_999, ["its floor is that of 49,999 images"]), (10_000, 10_000, ["of n = 10,000 images"]),
    (10_000, 5_000, ["of n = 10,000 images", "its floor is that of 5,000 images"])])
def test_what_would_not_compare_with_a_papers_value_is_a_line(monkeypatch, samples, held_out, said):
    monkeypatch.setattr(inception, "published", lambda extractor: True)
    train, test = (MagicMock(provenance="x", __len__=lambda _, n=n: n) for n in (60_000, held_out))
    by = Extractor("net", 2048, "", (3, None, None), 50, None, None)
    found = inception.check(by, samples, train, test)
    assert len(found) == len(said) and all(part in line for part, line in zip(said, found, strict=True))
