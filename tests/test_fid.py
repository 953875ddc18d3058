"""The metric: the distance is the formula, torch-fidelity computes the same, and the numbers mean what they say."""

import functools
import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from bench import data, extractor, fid
from reference.config import ConfigError
from reference.frechet import frechet_distance, statistics


@functools.cache
def held_out():
    return data.load_subset("fashion-mnist", "test").images


@functools.cache
def held_out_features():
    return fid.features(held_out())


@functools.cache
def held_out_result():
    return fid.evaluate(held_out())


def gaussian(seed, d=6, rank=None):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(d, rank or d))
    return rng.normal(size=d), root @ root.T


# Frechet distance: closed forms, laws, refusals


def test_diagonal_covariances_closed_form():
    rng = np.random.default_rng(0)
    mu_1, mu_2, a, b = rng.normal(size=5), rng.normal(size=5), rng.uniform(0.1, 9, 5), rng.uniform(0.1, 9, 5)
    expected = ((mu_1 - mu_2) ** 2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert frechet_distance(mu_1, np.diag(a), mu_2, np.diag(b)) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_two_by_two_closed_form(seed):
    """Covariances that do not commute: tr sqrt(M) = sqrt(tr M + 2 sqrt(det M)) for a 2x2 M (Cayley-Hamilton)."""
    (mu_1, s_1), (mu_2, s_2) = gaussian(seed, 2), gaussian(seed + 100, 2)
    assert np.abs(s_1 @ s_2 - s_2 @ s_1).max() > 1e-3
    product = s_1 @ s_2
    root = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    expected = ((mu_1 - mu_2) ** 2).sum() + np.trace(s_1) + np.trace(s_2) - 2 * root
    assert frechet_distance(mu_1, s_1, mu_2, s_2) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("rank", [None, 3, 1])
def test_a_gaussian_is_at_no_distance_from_itself(rank):
    mu, sigma = gaussian(1, rank=rank)
    assert frechet_distance(mu, sigma, mu, sigma) == pytest.approx(0, abs=1e-10)
    assert frechet_distance(mu, sigma, mu + 2, sigma) == pytest.approx(4 * len(mu), abs=1e-10)


def test_distance_is_symmetric_scales_squared_and_ignores_rotations():
    (mu_1, s_1), (mu_2, s_2) = gaussian(2), gaussian(3)
    q = np.linalg.qr(np.random.default_rng(4).normal(size=(6, 6)))[0]
    distance = frechet_distance(mu_1, s_1, mu_2, s_2)
    assert distance > 1
    assert frechet_distance(mu_2, s_2, mu_1, s_1) == pytest.approx(distance, rel=1e-10)
    assert frechet_distance(3 * mu_1, 9 * s_1, 3 * mu_2, 9 * s_2) == pytest.approx(9 * distance, rel=1e-10)
    rotated = frechet_distance(q @ mu_1, q @ s_1 @ q.T, q @ mu_2, q @ s_2 @ q.T)
    assert rotated == pytest.approx(distance, rel=1e-10)


@pytest.mark.parametrize("argument, change, message", [
    (0, lambda mu: mu[None], "mu_1=.*shape"),
    (2, lambda mu: mu[:-1], "mu_2=.*shape of mu_1"),
    (1, lambda s: s[:-1], "sigma_1=.*shape"),
    (3, lambda s: s * np.nan, "sigma_2=.*finite"),
    (0, lambda mu: mu + np.inf, "mu_1, mu_2=.*finite"),
    (3, lambda s: s + np.triu(np.ones_like(s), 1) * 1e-3, "sigma_2=.*sigma.T"),
    (1, lambda s: -s, "sigma_1=.*eigenvalue"),
])
def test_frechet_refuses_what_is_no_gaussian(argument, change, message):
    arguments = [*gaussian(5), *gaussian(6)]
    arguments[argument] = change(arguments[argument])
    with pytest.raises(ConfigError, match=message):
        frechet_distance(*arguments)


def test_statistics_are_unbiased_float64():
    x = np.array([[0, 1], [2, 1], [4, 7]], np.float32)
    mu, sigma = statistics(x)
    assert mu.dtype == sigma.dtype == np.float64
    np.testing.assert_allclose(mu, [2, 3])
    np.testing.assert_allclose(sigma, [[4, 6], [6, 12]])
    with pytest.raises(ConfigError, match="n >= 2"):
        statistics(x[:1])


# torch-fidelity's numbers


def test_three_ways_agree_on_real_features():
    """torch-fidelity (eigenvalues of the plain product), this repository's oracle and SciPy's matrix square root."""
    from scipy.linalg import sqrtm

    mu, sigma = statistics(held_out_features())
    stored = fid.stored_statistics(fid.DEFAULT_REFERENCE)
    ours = frechet_distance(mu, sigma, stored["mu"], stored["sigma"])
    root = sqrtm(sigma @ stored["sigma"]).real
    scipys = ((mu - stored["mu"]) ** 2).sum() + np.trace(sigma + stored["sigma"] - 2 * root)
    assert held_out_result()["fid"] == pytest.approx(ours, rel=1e-6)
    assert scipys == pytest.approx(ours, rel=1e-6)


def test_same_numbers_as_torch_fidelity_called_whole():
    images, reference = held_out()[:600], data.load_subset("fashion-mnist", "train").images[:700]
    ours = fid.evaluate(images, reference, seed=3)
    import torch
    import torch_fidelity
    from torch.utils.data import Dataset

    class Images(Dataset):
        def __init__(self, array):
            self.array = torch.from_numpy(array.copy())

        def __len__(self):
            return len(self.array)

        def __getitem__(self, i):
            return self.array[i]

    theirs = torch_fidelity.calculate_metrics(
        input1=Images(images), input2=Images(reference), feature_extractor=extractor.NAME, fid=True, kid=True,
        cuda=False, kid_subset_size=600, rng_seed=3, cache=False, save_cpu_ram=True, verbose=False,
    )
    assert ours["fid"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-5)
    assert ours["kid"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-5)
    assert ours["kid_subset_std"] == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-5)
    assert ours["kid_subset_size"] == 600


# What the numbers mean


def test_result_tells_all_that_a_row_needs():
    result = held_out_result()
    assert result["metric"] == "FID[fmnist-cnn]" and result["n"] == 2000
    assert result["extractor_sha256"] == json.loads(extractor.RECORD.read_text())["weights_sha256"]
    assert result["reference"] == "fashion-mnist train, shipped statistics"
    json.dumps(result)


def test_golden_value_of_shipped_images_weights_and_statistics():
    """Measured once with the shipped files; other machines' convolutions may move the last digits only."""
    assert held_out_result()["fid"] == pytest.approx(0.217601, rel=1e-3)


def test_flips_and_noise_and_blank_images_are_far_from_real_ones():
    real = held_out_result()
    rng = np.random.default_rng(0)
    flipped = held_out().copy()
    chosen = rng.random(len(flipped)) < 0.5
    flipped[chosen] = flipped[chosen][..., ::-1]
    noise = fid.ceiling(2000)
    assert fid.evaluate(flipped)["fid"] > 10 * real["fid"]
    assert noise["fid"] > 100 * real["fid"]
    assert abs(real["kid"]) < 0.01 * noise["kid"]


def test_images_that_the_extractor_saw_do_not_flatter_the_reference():
    """With and without them in the reference set: 0.2176 and 0.2466 for these images, where half flips cost 10."""
    unseen = fid.evaluate(held_out(), "train[30000:]")
    assert unseen["fid"] == pytest.approx(held_out_result()["fid"], abs=0.1)
    assert unseen["fid"] != held_out_result()["fid"]


def test_extrapolation_removes_a_one_over_n_bias():
    assert fid.extrapolate(2 + 30 / 1000, 1000, 2 + 30 / 500, 500) == pytest.approx(2, abs=1e-12)
    result = held_out_result()
    assert result["fid_inf"] < result["fid"] < result["fid_half"]
    assert result["fid_inf"] == pytest.approx(2 * result["fid"] - result["fid_half"])
    halves = [fid.evaluate(held_out()[i::2])["fid"] for i in (0, 1)]
    assert result["fid_half"] == pytest.approx(sum(halves) / 2, rel=1e-4)
    with pytest.raises(ConfigError, match="n > m > 0"):
        fid.extrapolate(1.0, 500, 2.0, 500)


def test_smallest_allowed_number_of_images():
    result = fid.evaluate(held_out()[:128])
    assert result["fid_half"] is None and result["fid_inf"] is None and result["kid_subset_size"] == 128
    assert result["fid"] > held_out_result()["fid"]


# Refusals


@pytest.mark.parametrize("n", [0, 1, 127])
def test_too_few_images(n):
    with pytest.raises(ConfigError, match=rf"number of images={n}: must be at least 128, twice the 64 features"):
        fid.evaluate(held_out()[:n])


def test_too_few_reference_images():
    with pytest.raises(ConfigError, match="number of reference=100"):
        fid.evaluate(held_out(), held_out()[:100])


@pytest.mark.parametrize("change, message", [
    (lambda x: x / np.float32(255), "images=.*float32.*uint8"),
    (lambda x: x[:, 0], "images=.*takes images of shape"),
    (lambda x: np.repeat(x, 3, axis=1), "images=.*takes images of shape"),
])
def test_wrong_kind_of_images(change, message):
    with pytest.raises(ConfigError, match=message):
        fid.evaluate(change(held_out()[:200]))


def test_unknown_reference_and_device():
    with pytest.raises(ConfigError, match="reference='test': must be one of"):
        fid.evaluate(held_out(), "test")
    with pytest.raises(ConfigError, match="metric_device='tpu'"):
        fid.evaluate(held_out(), metric_device="tpu")


def test_statistics_of_another_extractor_are_refused(monkeypatch, tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "statistics.safetensors"
    stored = fid.stored_statistics("train")
    save_file({f"train.{key}": value for key, value in stored.items()}, path, {"extractor_sha256": "0" * 64})
    monkeypatch.setattr(extractor, "STATISTICS", path)
    with pytest.raises(data.DataError, match="made by extractor 000"):
        fid.stored_statistics("train")
    path.write_bytes(extractor.WEIGHTS.read_bytes()[:100])
    with pytest.raises(data.DataError, match="cannot be read"):
        fid.stored_statistics("train")


# The shipped files


def test_shipped_files_belong_together():
    record = json.loads(extractor.RECORD.read_text())
    assert record["test_accuracy"] >= 0.91 and record["train_split"] == "train[:30000]"
    assert record["weights_sha256"] == extractor.sha256()
    assert record["statistics_sha256"] == extractor.sha256(extractor.STATISTICS)
    assert record["subset_sha256"] == data.load_subset("fashion-mnist", "train").sha256


def test_features_span_their_space():
    """No dead feature: the covariance is regular, so the square root in the distance is well defined."""
    for name in extractor.REFERENCES:
        assert np.linalg.cond(fid.stored_statistics(name)["sigma"]) < 1e6


def test_extractor_classifies_the_shipped_test_images():
    import torch

    labels = data.load_subset("fashion-mnist", "test").labels
    with torch.no_grad():
        logits = extractor.pretrained()["head"](torch.from_numpy(held_out_features()).float())
    assert (logits.argmax(1).numpy() == labels).mean() > 0.9


@pytest.mark.slow
def test_shipped_statistics_are_those_of_the_training_set():
    full = data.load("fashion-mnist", "train")
    if len(full) != 60000:
        pytest.skip("needs the full data set")
    found = fid.features(full.images)
    for name, part in extractor.REFERENCES.items():
        mu, sigma = statistics(found[part])
        stored = fid.stored_statistics(name)
        np.testing.assert_allclose(mu, stored["mu"], atol=1e-4)
        np.testing.assert_allclose(sigma, stored["sigma"], atol=1e-3)


@pytest.mark.slow
def test_fifty_thousand_images_fit_in_four_gigabytes():
    program = """
        import resource
        import numpy as np
        from bench import fid
        fid.evaluate(np.random.default_rng(0).integers(0, 256, (50000, 1, 28, 28), np.uint8))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    """
    assert int(run(program).splitlines()[-1]) * 1024 < 4e9


# Imports


def run(program, *path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, path), str(data.ASSETS.parents[1])])}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True,
                          env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_metric_loads_no_framework():
    run("""
        import sys
        import bench.data, bench.extractor, bench.fid, bench.torchvision_shim
        assert not {"torch", "torchvision", "torch_fidelity", "mindspore", "pooch"} & set(sys.modules)
    """)


def fake_torchvision(folder, body):
    (folder / "torchvision").mkdir()
    (folder / "torchvision" / "transforms.py").touch()
    (folder / "torchvision" / "__init__.py").write_text(textwrap.dedent(body))
    return folder


def test_shim_declares_the_missing_operators(tmp_path):
    """A torchvision whose compiled half is missing, as on CPU-only PyTorch: its meta kernel finds no operator."""
    broken = fake_torchvision(tmp_path, """
        import torch
        import torchvision.transforms
        @torch.library.register_fake("torchvision::nms")
        def meta_nms(dets, scores, iou_threshold):
            return dets.new_empty(0, dtype=torch.long)
        torch.ops.torchvision.nms, torch.ops.torchvision.qnms
    """)
    run("""
        try:
            import torchvision
        except (RuntimeError, AttributeError) as error:
            assert "torchvision::nms does not exist" in str(error), error
        else:
            raise SystemExit("the fake torchvision is not broken")
        from bench.torchvision_shim import import_torchvision
        import_torchvision()
        import torchvision
        assert torchvision.meta_nms and torchvision.transforms  # a stale submodule would not be bound to its parent
    """, broken)


def test_shim_leaves_a_working_torchvision_and_other_errors_alone(tmp_path):
    (tmp_path / "good").mkdir(), (tmp_path / "bad").mkdir()
    run("""
        import sys
        from bench.torchvision_shim import import_torchvision, _kept_alive
        import_torchvision()
        assert not _kept_alive and "torch" not in sys.modules
    """, fake_torchvision(tmp_path / "good", "x = 1"))
    run("""
        from bench.torchvision_shim import import_torchvision
        try:
            import_torchvision()
        except RuntimeError as error:
            assert str(error) == "another reason"
        else:
            raise SystemExit("swallowed")
    """, fake_torchvision(tmp_path / "bad", """
        import torch
        declared = torch.library.Library("torchvision", "FRAGMENT")
        declared.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        raise RuntimeError("another reason")
    """))


# Other data sets than Fashion-MNIST


def own(images, name="images"):
    return data.Dataset(name, "train", images, None, "images of mine, train (700 of 900)", "0" * 64, False)


def rgb(images, size):
    """Grey images as RGB of another size."""
    return np.repeat(np.pad(images, [(0, 0), (0, 0), (0, size - 28), (0, size - 28)]), 3, axis=1)


def test_fashion_mnist_as_a_data_set_has_its_shipped_statistics():
    full = data.load("fashion-mnist", "train")
    assert fid.evaluate(held_out()[:128], full) == fid.evaluate(held_out()[:128])
    assert fid.ceiling(128, full) == fid.ceiling(128)


def test_own_images_are_the_reference_and_the_row_says_what_was_converted():
    images = data.load_subset("fashion-mnist", "train").images[:700]
    grey = fid.evaluate(held_out()[:200], own(images))
    assert grey["fid"] == pytest.approx(fid.evaluate(held_out()[:200], images)["fid"], rel=1e-9)
    assert grey["reference"] == grey["kid_reference"] == "images of mine, train (700 of 900)"
    colour = fid.evaluate(rgb(held_out()[:200], 32), own(rgb(images, 32)))
    assert colour["reference"].endswith("; RGB 32 x 32 converted to grey 28 x 28 for the extractor")
    assert colour["fid"] != grey["fid"]
    floor, ceiling = fid.floor(200, own(rgb(images, 32)), test=own(rgb(held_out(), 32))), fid.ceiling(200, own(rgb(images, 32)))
    assert floor["fid"] == colour["fid"] < ceiling["fid"] / 5 and "RGB" in ceiling["reference"]
    with pytest.raises(ConfigError, match="number of reference=100"):
        fid.evaluate(held_out(), own(images[:100]))


def test_conversion_keeps_what_it_can():
    images = held_out()[:3]
    assert fid.convert(images) == (images, "")
    for back in (fid.convert(np.repeat(images, 3, axis=1))[0],
                 fid.convert(np.repeat(np.repeat(images, 2, axis=2), 2, axis=3))[0]):
        assert back.shape == images.shape and np.abs(back.astype(int) - images).mean() < 10
    np.testing.assert_array_equal(fid.convert(np.repeat(images, 3, axis=1))[0], images)
