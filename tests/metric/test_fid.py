"""The metric: the distance is the formula, torch-fidelity computes the same, and the numbers mean what they say."""

import dataclasses
import functools
import json

import numpy as np
import pytest

from bench import streams
from bench.data import datasets, pixels
from bench.metric import fid, fmnist_cnn
from bench.metric.deviation import deviation
from reference.config import ConfigError
from reference.frechet import frechet_distance, statistics


@functools.cache
def held_out():
    return datasets.load_subset("fashion-mnist", "test").images


@functools.cache
def held_out_features():
    return fid.features(held_out())


@functools.cache
def held_out_result():
    return fid.evaluate(held_out())


# torch-fidelity's numbers


def test_three_ways_agree_on_real_features():
    """torch-fidelity (eigenvalues of the plain product), this repository's oracle and SciPy's matrix square root."""
    from scipy.linalg import sqrtm

    mu, sigma = statistics(held_out_features())
    stored = fmnist_cnn.stored_statistics(fid.DEFAULT_REFERENCE)
    ours = frechet_distance(mu, sigma, stored["mu"], stored["sigma"])
    root = sqrtm(sigma @ stored["sigma"]).real
    scipys = ((mu - stored["mu"]) ** 2).sum() + np.trace(sigma + stored["sigma"] - 2 * root)
    assert held_out_result()["fid"] == pytest.approx(ours, rel=1e-6)
    assert scipys == pytest.approx(ours, rel=1e-6)


def test_same_numbers_as_torch_fidelity_called_whole():
    images, reference = held_out()[:600], datasets.load_subset("fashion-mnist", "train").images[:600]
    ours = fid.evaluate(images, reference, seed=3)
    import torch
    import torch_fidelity

    class Extractor(torch_fidelity.FeatureExtractorBase):
        def __init__(self, name, features_list, **kwargs):
            super().__init__(name, features_list)
            self.net = fmnist_cnn.extractor().network("cpu")

        @staticmethod
        def get_provided_features_list():
            return ("features",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric):
            return "features"

        @staticmethod
        def can_be_compiled():
            return False

        def forward(self, images):
            return (self.net(images),)

    class Images(torch.utils.data.Dataset):
        def __init__(self, array):
            self.array = torch.from_numpy(array.copy())

        def __len__(self):
            return len(self.array)

        def __getitem__(self, i):
            return self.array[i]

    torch_fidelity.register_feature_extractor(fmnist_cnn.NAME, Extractor)
    theirs = torch_fidelity.calculate_metrics(
        input1=Images(images), input2=Images(reference), feature_extractor=fmnist_cnn.NAME, fid=True, kid=True, prc=True,
        cuda=False, kid_subset_size=600, rng_seed=3, cache=False, save_cpu_ram=True, verbose=False,
    )
    assert ours["fid"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-5)
    assert ours["kid"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-5)
    assert ours["kid_subset_std"] == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-5)
    assert (ours["precision"], ours["recall"]) == pytest.approx((theirs["precision"], theirs["recall"]), abs=1e-6)
    assert ours["kid_subset_size"] == ours["prc_size"] == 600


def test_a_nearly_singular_covariance_gives_the_same_number():
    """Three images, 100 of each: 62 of 64 eigenvalues of the covariance are zero up to rounding."""
    few = np.repeat(held_out()[[0, 700, 1500]], 100, axis=0)
    mu, sigma = statistics(fid.features(few))
    assert np.linalg.matrix_rank(sigma) == 2
    stored = fmnist_cnn.stored_statistics(fid.DEFAULT_REFERENCE)
    found = fid.evaluate(few)
    assert found["fid"] == pytest.approx(frechet_distance(mu, sigma, stored["mu"], stored["sigma"]), rel=1e-6)
    assert np.isfinite(found["fid_sd"])


# Precision and recall


def in_some_ball(points, centres, k):
    """Share of points within the distance from one of the centres to its k-th nearest other one."""
    def distances(a, b):
        return np.linalg.norm(a[:, None] - b[None], axis=-1)

    return (distances(points, centres) <= np.sort(distances(centres, centres), axis=1)[:, k]).any(1).mean()


def test_precision_and_recall_are_those_of_the_paper():
    rng = np.random.default_rng(0)
    fake, real = rng.normal(size=(150, 4)), 1.5 * rng.normal(size=(150, 4)) + 1.5
    mu, sigma = statistics(real)
    found = fid.compare(fake, {"mu": mu, "sigma": sigma}, real, seed=0)
    assert found["precision"] == pytest.approx(in_some_ball(fake, real, 3), abs=1e-6)
    assert found["recall"] == pytest.approx(in_some_ball(real, fake, 3), abs=1e-6)
    assert 0.1 < found["recall"] < found["precision"] < 1 and found["prc_size"] == 150


def test_torchvision_is_mended_before_torch_fidelity_imports_it(monkeypatch):
    """Where its operators do not load, `import_torchvision` is what makes the import work."""
    fid.import_torchvision()
    import torch_fidelity.metric_kid

    some, done = np.random.default_rng(0).normal(size=(8, 2)), []
    target = fid.statistics(some)
    monkeypatch.setattr(fid, "import_torchvision", lambda: done.append("mended"))
    monkeypatch.setattr(torch_fidelity.metric_kid, "kid_features_to_metric", lambda *_, **__: done.append("used"))
    with pytest.raises(TypeError):  # of the None in place of KID
        fid.compare(some, target, some, 0)
    assert done[:2] == ["mended", "used"]


def test_one_class_alone_is_precise_but_covers_little_and_noise_is_neither():
    images, labels = (getattr(datasets.load_subset("fashion-mnist", "test"), name) for name in ("images", "labels"))
    real, one_class, noise = held_out_result(), fid.evaluate(images[labels == 1]), fid.ceiling(200)
    assert real["precision"] > 0.8 and real["recall"] > 0.8 and real["prc_size"] == 2000
    assert one_class["precision"] > 0.8 and one_class["recall"] < 0.2
    assert noise["precision"] < 0.01 and noise["recall"] < 0.01


def test_as_many_images_of_both_sides_are_compared():
    few = fid.evaluate(held_out()[:300])
    assert few["prc_size"] == 300 and few["n"] == 300
    others = fid.evaluate(held_out()[:300], seed=1)  # beside another 300 of the 4,000 real ones
    assert (others["precision"], others["recall"]) != (few["precision"], few["recall"])
    reference = datasets.load_subset("fashion-mnist", "train").images[:200]
    assert fid.evaluate(held_out(), reference)["prc_size"] == 200


# What the numbers mean


def test_result_tells_all_that_a_row_needs():
    result = held_out_result()
    assert result["metric"] == "FID[fmnist-cnn]" and result["n"] == 2000
    assert result["extractor_sha256"] == json.loads(fmnist_cnn.RECORD.read_text())["weights_sha256"]
    assert result["reference"] == "fashion-mnist train, shipped statistics" and result["reference_n"] == 60000
    assert result["kid_reference"] == "fashion-mnist shipped subset train (4000)"
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


def test_the_ceiling_is_of_this_projects_streams(monkeypatch):
    """Image i of a seed is the same for every n, on every NumPy."""
    seen = []
    monkeypatch.setattr(fid, "evaluate", lambda images, *_, **__: seen.append(images))
    fid.ceiling(130)
    fid.ceiling(2)
    fid.ceiling(2, seed=1)
    assert np.array_equal(seen[0][:2], seen[1]) and not np.array_equal(seen[1], seen[2])
    assert np.array_equal(seen[1], pixels.to_uint8(streams.normal(0, "ceiling", np.arange(2), (1, 28, 28))))
    assert 0.25 < np.mean((seen[0] == 0) | (seen[0] == 255)) < 0.4, "32% of a normal distribution is clipped"


def test_floor_and_ceiling_are_of_ten_thousand_images(monkeypatch):
    """As many as FID is usual for; of a held-out set that is larger, those that come first."""
    seen = []
    monkeypatch.setattr(fid, "evaluate", lambda images, *_, **__: seen.append(images))
    images = np.zeros((10_002, 1, 1, 1), np.uint8)
    images[:, 0, 0, 0] = np.arange(10_002) % 251
    fid.floor(test=own(images))
    fid.ceiling(reference=own(images))
    assert np.array_equal(seen[0], images[:10_000]) and seen[1].shape == (10_000, 1, 1, 1)


def test_images_that_the_extractor_saw_do_not_flatter_the_reference():
    """With and without them in the reference set: 0.2176 and 0.2466 for these images, where half flips cost 10."""
    unseen = fid.evaluate(held_out(), "train[30000:]")
    assert unseen["fid"] == pytest.approx(held_out_result()["fid"], abs=0.1)
    assert unseen["fid"] != held_out_result()["fid"]


def test_the_seed_chooses_kids_subsets():
    """Of 300 images 100 at a time: another seed, another value."""
    draw = np.random.default_rng(0).standard_normal
    found, target = draw((300, 4)), draw((100, 4))
    one, same, other = (fid.compare(found, fid.statistics(target), target, seed)["kid"] for seed in (0, 0, 1))
    assert one == same != other


def test_kid_is_the_papers_estimator_over_torch_fidelitys_hundred_subsets():
    """By hand (arXiv:1801.01401, equation 4): the kernel (x y / d + 1)^3, without the diagonals of one side with itself."""
    rng = np.random.default_rng(0)
    found, target = rng.normal(size=(40, 3)), rng.normal(size=(60, 3)) + 0.3
    draw, values = np.random.RandomState(7), []
    for _ in range(100):
        x, y = (side[draw.choice(len(side), 40, replace=False)] for side in (found, target))
        xx, yy, xy = ((a @ b.T / 3 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
        values.append((xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)) / (40 * 39) - 2 * xy.mean())
    got = fid.compare(found, fid.statistics(target), target, 7)
    assert (got["kid"], got["kid_subset_std"]) == pytest.approx((np.mean(values), np.std(values)), rel=1e-9)
    from torch_fidelity.defaults import DEFAULTS
    assert got["kid_subset_size"] == 40 and DEFAULTS["kid_subset_size"] == fid.KID_SUBSET_SIZE


def test_every_seed_chooses_subsets_of_its_own():
    """torch-fidelity's NumPy takes seeds below 2**32, and a job's may be larger."""
    rng = np.random.default_rng(0)
    found, target = rng.normal(size=(30, 3)), rng.normal(size=(90, 3)) + 0.1  # 30 of which are drawn
    kids = [fid.compare(found, fid.statistics(target), target, seed)["kid"]
            for seed in (5, 2**31 + 5, 2**32 - 1, 2**32 + 7, 2**40 + 6)]
    assert len(set(kids)) == 5


def test_both_halves_of_an_odd_number_of_images_count():
    """Of 33 images the last is in no half: FID of 16 of them, twice, and both sizes as they are in the extrapolation."""
    rng = np.random.default_rng(0)
    found, target = rng.normal(size=(33, 8)), fid.statistics(rng.normal(size=(50, 8)))
    got = fid.compare(found, target, rng.normal(size=(50, 8)), 0)
    halves = [frechet_distance(*statistics(found[i:32:2]), target["mu"], target["sigma"]) for i in (0, 1)]
    assert got["fid_half"] == pytest.approx(np.mean(halves), rel=1e-6)
    assert got["fid_inf"] == pytest.approx((33 * got["fid"] - 16 * got["fid_half"]) / 17)
    assert [fid.compare(found[:n], target, found, 0)["fid_half"] is None for n in (31, 32)] == [True, False]


def test_references_are_as_long_as_their_rows_say():
    assert {name: fid._length(name) for name in fmnist_cnn.REFERENCES} == {"train": 60000, "train[30000:]": 30000}


def test_extrapolation_by_hand():
    assert fid.extrapolate(2 + 30 / 1000, 1000, 2 + 30 / 500, 500) == pytest.approx(2, abs=1e-12)
    assert fid.extrapolate(2 + 30 / 1000, 1000, 2 + 30 / 200, 200) == pytest.approx(2, abs=1e-12)  # m is not always half of n


def test_extrapolation_removes_a_one_over_n_bias():
    result = held_out_result()
    assert result["fid_inf"] < result["fid"] < result["fid_half"]
    assert result["fid_inf"] == pytest.approx(2 * result["fid"] - result["fid_half"])
    halves = [fid.evaluate(held_out()[i::2])["fid"] for i in (0, 1)]
    assert result["fid_half"] == pytest.approx(sum(halves) / 2, rel=1e-4)
    for m in (500, 0):
        with pytest.raises(ConfigError, match="n > m > 0"):
            fid.extrapolate(1.0, 500, 2.0, m)


def test_smallest_allowed_number_of_images(capsys):
    """torch-fidelity prints nothing of its own."""
    result = fid.evaluate(held_out()[:128])
    assert tuple(capsys.readouterr()) == ("", "")
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


@pytest.mark.parametrize("change, message", [
    (lambda x: x[:0], r"images=\(0, 1, 28, 28\): .*takes images of shape"),
    (lambda x: x.tolist(), "images='list': must be a uint8 array"),
])
def test_no_images_and_no_array_have_no_features(change, message):
    with pytest.raises(ConfigError, match=message):
        fid.features(change(held_out()[:200]))


def test_unknown_reference_and_device():
    with pytest.raises(ConfigError, match="reference='test': must be one of"):
        fid.evaluate(held_out(), "test")
    with pytest.raises(ConfigError, match="metric_device='tpu'"):
        fid.evaluate(held_out(), metric_device="tpu")


# Other data sets than Fashion-MNIST


def own(images, name="images"):
    return datasets.Dataset(name, "train", images, None, "images of mine, train (700 of 900)", "0" * 64, False)


def rgb(images, size):
    """Grey images as RGB of another size."""
    return np.repeat(np.pad(images, [(0, 0), (0, 0), (0, size - 28), (0, size - 28)]), 3, axis=1)


def test_fashion_mnist_as_a_data_set_has_its_shipped_statistics():
    full = datasets.load("fashion-mnist", "train")
    assert fid.evaluate(held_out()[:128], full) == fid.evaluate(held_out()[:128])
    assert fid.ceiling(128, full) == fid.ceiling(128)
    for name, values in fmnist_cnn.stored_statistics("train").items():
        np.testing.assert_array_equal(fid.target(full)[name], values)
    extractor = fmnist_cnn.extractor()
    assert fid.statistics_ship(full, extractor) and not fid.statistics_ship(own(full.images), extractor)
    assert not fid.statistics_ship(own(np.zeros((200, 1, 32, 32), np.uint8), "fashion-mnist"), extractor)


def test_own_images_are_the_reference_and_the_row_says_what_was_converted():
    images = datasets.load_subset("fashion-mnist", "train").images[:700]
    grey = fid.evaluate(held_out()[:200], own(images))
    given = fid.evaluate(held_out()[:200], images)
    assert grey["fid"] == pytest.approx(given["fid"], rel=1e-9) and grey["reference_n"] == given["reference_n"] == 700
    assert given["reference"] == given["kid_reference"] == "700 images given"
    assert grey["reference"] == grey["kid_reference"] == "images of mine, train (700 of 900)"
    colour = fid.evaluate(rgb(held_out()[:200], 32), own(rgb(images, 32)))
    assert colour["reference"].endswith("; RGB 32 x 32 converted to grey 28 x 28 for the extractor")
    assert colour["fid"] != grey["fid"]
    floor, ceiling = fid.floor(200, own(rgb(images, 32)), test=own(rgb(held_out(), 32))), fid.ceiling(200, own(rgb(images, 32)))
    assert floor["fid"] == colour["fid"] < ceiling["fid"] / 5 and "RGB" in ceiling["reference"]
    with pytest.raises(ConfigError, match="number of reference=100"):
        fid.evaluate(held_out(), own(images[:100]))


def test_the_target_is_of_the_extractor_that_is_asked_for():
    """Here one whose features are the means of an image's halves, and Fashion-MNIST's shipped statistics are not of it."""
    halves = dataclasses.replace(fmnist_cnn.extractor(), name="halves", width=2, sha256="0" * 64,
                                 network=lambda device: lambda x: x.double().reshape(len(x), 2, -1).mean(2))
    data = own(held_out()[:200], "fashion-mnist")
    expected = data.images.reshape(200, 2, -1).mean(2)
    found = fid.target(data, extractor=halves)
    assert np.allclose(found["mu"], expected.mean(0), rtol=1e-12) and np.allclose(found["sigma"], np.cov(expected.T), rtol=1e-9)


def test_features_of_both_sides_are_taken_on_the_device_that_was_asked_for(monkeypatch):
    """Of images and their reference, of the shipped images that KID needs, of floor and ceiling; a reference's once."""
    asked = []

    def features(images, metric_device="cpu", extractor=None):
        asked.append(metric_device)
        return np.random.default_rng(len(asked)).normal(size=(len(images), 64))

    monkeypatch.setattr(fid, "features", features)
    for name in ("subset_features", "_dataset_features"):
        monkeypatch.setattr(fid, name, functools.cache(getattr(fid, name).__wrapped__))
    data, images = own(held_out()[:130]), held_out()[:128]
    for reference in ("train", data, images):
        fid.evaluate(images, reference, "cuda")
    fid.floor(128, data, "cuda", test=data)
    fid.ceiling(128, data, "cuda")
    fid.target(own(images), "cuda")
    assert asked == ["cuda"] * 9


def test_the_deviation_of_two_features_by_hand():
    """Each adds (m - mu)^2 + (s - sigma)^2, which an image x moves by 2 (x - m)(m - mu) + (1 - sigma / s)(x - m)^2. Both standard
    deviations have n - 1 in their divisor. Four values of one feature beside two of the other do not correlate."""
    x = np.array([(a, b) for a in (0.0, 1.0, 3.0, 8.0) for b in (0.0, 5.0)])
    m, s, mu, sigma = x.mean(0), x.std(0, ddof=1), np.array([1.0, 2.0]), np.array([2.0, 3.0])
    moved = (2 * (x - m) * (m - mu) + (1 - sigma / s) * (x - m) ** 2).sum(1)
    found = deviation(x, {"mu": mu, "sigma": np.diag(sigma**2)})
    assert found == pytest.approx(moved.std(ddof=1) / 8**0.5, rel=1e-9)


def test_features_that_lie_in_a_plane_have_the_deviation_of_the_plane():
    """Of 64 dimensions 62 have eigenvalues of rounding alone, which are left out."""
    rng = np.random.default_rng(0)
    plane, turned = rng.normal(size=(200, 2)) * [1, 3] + [0.3, 0.2], np.linalg.qr(rng.normal(size=(64, 64)))[0][:2]
    expected = deviation(plane, {"mu": np.zeros(2), "sigma": np.diag([1.0, 2.0])})
    found = deviation(plane @ turned, {"mu": np.zeros(64), "sigma": turned.T @ np.diag([1.0, 2.0]) @ turned})
    assert found == pytest.approx(expected, rel=1e-11)


def test_the_deviation_is_that_of_the_bootstrap_and_of_other_sets_of_images():
    """Of 256 noise images, whose FID is far from the floor; and nothing moves images that are all one."""
    target = fmnist_cnn.stored_statistics(fid.DEFAULT_REFERENCE)
    noise = fid.features(pixels.to_uint8(streams.normal(1, "check", np.arange(4096), fmnist_cnn.SHAPE)))
    parts = noise.reshape(16, 256, -1)
    apart = np.std([fid.distance(fid.statistics(part), target) for part in parts], ddof=1)
    found = [deviation(part, target) for part in parts]
    assert np.mean(found) == pytest.approx(apart, rel=0.5) and np.ptp(found) < 0.5 * np.mean(found)
    picks = (streams.uniform_int(0, "subset", np.arange(256), 256, step=k) for k in range(60))
    spread = np.std([fid.distance(fid.statistics(parts[0][pick]), target) for pick in picks], ddof=1)
    assert found[0] == pytest.approx(spread, rel=0.35)
    assert held_out_result()["fid_sd"] == pytest.approx(deviation(held_out_features(), target), rel=1e-9)
    assert deviation(np.repeat(parts[0][:1], 256, 0), target) == pytest.approx(0, abs=1e-9)


def test_the_derivative_of_the_distance_is_right():
    """An image that counts a little more moves the distance by its influence: against a difference quotient."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(40, 3)) @ rng.normal(size=(3, 3)), rng.normal(size=(50, 3))
    mu, sigma = statistics(y)

    def weighted(weights):
        mean = weights @ x / weights.sum()
        return frechet_distance(mean, (x - mean).T @ np.diag(weights / weights.sum()) @ (x - mean), mu, sigma)

    ones, step = np.ones(40), 1e-4
    slopes = [(weighted(ones + step * row) - weighted(ones - step * row)) / (2 * step) for row in np.eye(40)]
    assert deviation(x, {"mu": mu, "sigma": sigma}) == pytest.approx(np.std(slopes, ddof=1) * 40**0.5, rel=0.03)
