"""The study of likelihoods: the backends give the oracle's bound, cells are found again, rows and page say what was measured."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import backends
from backends.protocol import Spec
from bench import api, oracle
from bench.cli.main import main
from bench.data.datasets import Dataset
from bench.data.pixels import to_float
from bench.records import rows
from bench.records.cells import Cells
from bench.records.notebook import Notebook
from bench.report.studies import likelihood_page
from bench.sampling import bound
from bench.studies import likelihood as study
from bench.weights import pipeline
from reference import likelihood
from reference.config import ConfigError, DiffusionConfig
from reference.weights import initialise
from tests.helpers import made_rows
from tests.helpers.tiny import TINY

LEARNED = replace(TINY, out_channels=2)
PROCESS = DiffusionConfig(timesteps=12, beta_end=0.5, schedule="linear", variance="learned_range")
IMAGES = np.random.default_rng(0).integers(0, 256, (60, 1, 8, 8), np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("likelihood")
    pipeline.save_pipeline(place / "learned", initialise(LEARNED, 0), LEARNED, PROCESS)
    np.save(place / "own.npy", IMAGES)
    return place


def give(folder, *words):
    return main(["likelihood", "--weights", str(folder / "learned"), "--data", str(folder / "own.npy"), "--samples", "5",
                 "--sample-batch", "4", "--threads", "1", "--out", str(folder / "out"), *words])


HERE = [name for name in backends.with_likelihood() if backends.installed(name)]


@pytest.mark.parametrize("backend", [name for name in HERE if "float64" in backends.about(name).dtypes])
@pytest.mark.parametrize("S", [12, 4])
@pytest.mark.parametrize("clip", [False, True])
def test_the_oracle_gives_the_same_in_float64(S, clip, backend):
    model = api.new(LEARNED, PROCESS, backend=backend, dtype="float64", allow_cancelled_time=True)
    path = bound.path(PROCESS, S, bound.variances(PROCESS))
    seen: list[tuple[int, int]] = []
    found = bound.bound(model.backend, path, IMAGES[:3], seed=5, batch_size=2, clip=clip, on_progress=lambda *n: seen.append(n))
    assert seen == [(n, 3 * S) for n in (*range(2, 2 * S + 1, 2), *range(2 * S + 1, 3 * S + 1))]  # of two images, and of one
    network = oracle.oracle_network(initialise(LEARNED, 0), model.spec)
    for name, process in path.processes.items():
        prior, terms = likelihood.bound(process, network, to_float(IMAGES[:3]).astype(np.float64),
                                        lambda i: bound.noise(5, np.arange(3), (1, 8, 8), path, i), clip)
        np.testing.assert_allclose(found.prior, prior, rtol=1e-10)
        np.testing.assert_allclose(found.terms[name], terms, rtol=1e-10, atol=1e-13, err_msg=name)
    assert not np.allclose(found.terms["learned_range"], found.terms["large"])


def test_noise_is_that_of_its_timestep_on_paths_of_every_length():
    """So that the bounds of two S are of the same noise."""
    short, whole = (bound.path(PROCESS, S, ["large"]) for S in (4, 12))
    ids = np.arange(2)
    for i, t in enumerate(short.timesteps):
        np.testing.assert_array_equal(bound.noise(3, ids, (1, 8, 8), short, i), bound.noise(3, ids, (1, 8, 8), whole, t))
    assert not np.array_equal(bound.noise(3, ids, (1, 8, 8), short, 1), bound.noise(3, ids, (1, 8, 8), whole, 1))


@pytest.mark.parametrize("sd", [1.0, 0.4])
def test_gaussian_data_on_torch_to_1e_10(sd):
    """x_0 ~ N(0, sd^2) under the best denoiser: the mean of term t in closed form, of the nodes of a quadrature that is exact."""
    torch = pytest.importorskip("torch")
    from backends.torch.training import Process

    config = replace(PROCESS, variance="large")
    process = Process(config, torch.device("cpu"))
    nodes, shares = np.polynomial.hermite_e.hermegauss(4)
    chance = np.outer(shares, shares).ravel() / shares.sum() ** 2
    data, noise = (torch.tensor(grid.reshape(-1, 1, 1, 1)) for grid in np.meshgrid(nodes, nodes))
    bars = np.cumprod(1 - np.linspace(1e-4, 0.5, 12))
    for i in range(1, 12):
        t, ab, before = torch.full((16,), i), bars[i], bars[i - 1]
        xt = process.q_sample(sd * data, t, noise)
        share = np.sqrt(ab) * sd**2 / (ab * sd**2 + 1 - ab)
        eps = (xt - np.sqrt(ab) * share * xt) / np.sqrt(1 - ab)
        beta = 1 - ab / before
        v, weight = beta * (1 - before) / (1 - ab), np.sqrt(before) * beta / (1 - ab)
        left = sd**2 * (1 - ab) / (ab * sd**2 + 1 - ab)
        closed = np.log2(beta / v) / 2 + ((v + weight**2 * left) / beta - 1) / (2 * np.log(2))
        assert chance @ process.vlb_terms(sd * data, xt, t, eps, eps).numpy() == pytest.approx(closed, rel=1e-10)


@pytest.mark.slow
def test_the_whole_study_and_again(folder, capsys):
    """Rows of all backends, held to the oracle and to the first; the same command does nothing twice; a page for a reader."""
    pytest.importorskip("torch")
    assert give(folder, "--steps", "4,2", "--backends", ",".join(HERE)) == 0
    found = rows.read(folder / "out" / "rows")
    checks = [row for row in found if row.kind == "check"]
    assert {row.backend for row in checks} == {*(f"{name} oracle" for name in HERE), *(f"{HERE[0]} {other}" for other in HERE[1:])}
    assert all(0 < v["error"] <= v["tolerance"] == 1e-4 and v["ok"] for row in checks for v in row.values.values())
    measured = [row for row in found if row.kind == "likelihood"]
    assert {(row.backend, row.config["steps"]) for row in measured} == {(name, S) for name in HERE for S in (4, 2)}
    row = measured[0]
    assert row.values["timesteps"] == [0, 4, 7, 11] and row.values["n"] == 5
    for bits in row.values["bounds"].values():
        assert np.mean(row.values["prior"]) + np.sum(bits["terms"]) == pytest.approx(np.mean(bits["total"]), rel=1e-12)
    assert set(row.values["bounds"]) == {"small", "large", "learned_range"}
    page = (folder / "out" / "likelihood.md").read_text()
    assert "## learned" in page and "learned_range" in page and "few steps, here S up to 100" in page
    assert (folder / "out" / "figures" / "likelihood.png").stat().st_size > 10_000
    assert give(folder, "--steps", "4,2", "--backends", "torch") == 0
    assert len(rows.read(folder / "out" / "rows")) == len(found)
    (folder / "out" / "likelihood.md").write_text(page)
    assert main(["report", "--out", str(folder / "out")]) == 0
    assert (folder / "out" / "likelihood.md").read_text() == page
    assert "The variational bound" in (folder / "out" / "report.html").read_text()
    capsys.readouterr()


FOUR = bound.path(PROCESS, 4, ["large", "learned_range"])
ASKED = study.Settings("net", 5, 3, 4, 1)
HELD_OUT = Dataset("images", "test", IMAGES[:5], None, "mine", "0" * 64, False)


@functools.cache
def right():
    """The oracle's terms of five images, as a worker writes them."""
    network, x0 = oracle.oracle_network(initialise(LEARNED, 0), Spec(LEARNED, PROCESS)), to_float(IMAGES[:5]).astype(np.float64)
    out = {}
    for name, process in FOUR.processes.items():
        out["prior"], out[f"terms/{name}"] = likelihood.bound(
            process, network, x0, lambda i: bound.noise(3, np.arange(5), (1, 8, 8), FOUR, i), study.CLIP)
    return out


def measured(out, backend, wrong=None, at=()):
    """A study and the row of a backend whose term `wrong` is off at that place."""
    kept = {name: array.copy() for name, array in right().items()}
    if wrong:
        kept[wrong][at] += 0.01
    this = study.Study(ASKED, Spec(LEARNED, PROCESS), initialise(LEARNED, 0), HELD_OUT, None, Notebook(Cells(out, False), "net"))
    row = SimpleNamespace(backend=backend, created="2030-01-01T00:00:00+00:00")
    file = this.terms(row, FOUR)
    file.parent.mkdir(parents=True)
    np.savez(file, **kept)
    return this, row


@pytest.mark.parametrize(("wrong", "at", "disagrees"), [
    (None, (), []), ("prior", (1,), ["large", "learned_range"]), ("terms/large", (0, 3), ["large"]),
    ("terms/learned_range", (1, 0), ["learned_range"]), ("terms/large", (2, 0), [])])
def test_the_check_sees_a_term_of_the_first_two_images_or_their_prior(wrong, at, disagrees, tmp_path):
    this, row = measured(tmp_path, "torch", wrong, at)
    this.check(row, FOUR)
    [found] = this.book.rows
    assert [name.split()[-1] for name, told in found.values.items() if not told["ok"]] == disagrees and len(found.values) == 2
    assert found.backend == "torch oracle"


def test_two_backends_are_compared_in_every_image(tmp_path):
    (this, first), (_, same), (_, other) = (measured(tmp_path, name, *wrong) for name, wrong in (
        ("torch", ()), ("jax", ()), ("mindspore", ("terms/large", (4, 2)))))
    this.compare(first, same, FOUR)
    this.compare(first, other, FOUR)
    assert [[v["ok"] for v in row.values.values()] for row in this.book.rows] == [[True, True], [False, True]]
    assert [row.backend for row in this.book.rows] == ["torch jax", "torch mindspore"]


def test_a_cell_is_named_by_all_that_decides_its_bound():
    """Another value of any of these is another cell."""
    spec = Spec(LEARNED, PROCESS)

    def key(backend="torch", path=FOUR, seed=0, spec=spec, held_out=HELD_OUT, **asked):
        return study.Study(replace(ASKED, **asked), spec, initialise(LEARNED, seed), held_out, None, None).key(backend, path)

    changes = [{}, {"backend": "jax"}, {"path": bound.path(PROCESS, 5, list(FOUR.processes))}, {"seed": 1}, {"name": "other"},
               {"path": bound.path(PROCESS, 4, ["large"])}, {"samples": 6}, {"batch_size": 5}, {"threads": 2},
               {"held_out": replace(HELD_OUT, sha256="1" * 64)}, *({"spec": replace(spec, **part)} for part in (
                   {"model": replace(LEARNED, norm_eps=1e-3)}, {"diffusion": replace(PROCESS, beta_end=0.4)},
                   {"device": "cuda"}, {"dtype": "bfloat16"}))]
    found = {json.dumps(key(**change), sort_keys=True) for change in changes}
    assert len(found) == len(changes)
    assert json.dumps(study.Study(replace(ASKED, seed=9), spec, initialise(LEARNED, 0), HELD_OUT, None, None).key("torch", FOUR),
                      sort_keys=True) not in found


def test_a_backend_that_disagrees_ends_with_4(folder, monkeypatch, capsys):
    pytest.importorskip("torch")
    monkeypatch.setitem(oracle.TOLERANCES["float32"], "likelihood", 1e-12)
    assert give(folder, "--steps", "2", "--variance", "large", "--backends", "torch", "--out", str(folder / "strict")) == 4
    assert "bound, variance large, S=2 off by" in capsys.readouterr().err


@pytest.mark.parametrize("words, said", [
    (["--steps", "13"], "--steps=13: spacing 'linspace' needs 1 <= S <= T=12"),
    (["--steps", "1"], "--steps=1: spacing 'linspace' needs 2"), (["--steps", "x"], "--steps='x': must be whole numbers"),
    (["--variance", "learned"], "--variance='learned': this network has small, large, learned_range"),
    (["--variance", "small,small"], "--variance='small,small': every name must appear once"),
    (["--samples", "1"], "--samples=1: must be at least 2"), (["--samples", "99"], "--samples=99: must be at most the 30 images"),
    (["--sample-batch", "0"], "--sample-batch=0: must be at least 1"), (["--seed", "-1"], "--seed=-1"),
    (["--backends", "another"], "--backends"), (["--dtype", "x"], "dtype='x'"),
])
def test_mistakes_end_with_one_line(folder, words, said, capsys):
    assert give(folder, *words, "--out", str(folder / "nowhere")) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not (folder / "nowhere").exists()


def test_what_has_no_bound_is_named():
    with pytest.raises(ConfigError, match="objective='eps': has no bound where alpha_bar ends at 0"):
        bound.path(DiffusionConfig(schedule="jsd", timesteps=5), 5, ["large"])
    with pytest.raises(ConfigError, match="steps=5: the network predicts the state one step before, of its own 12 steps alone"):
        bound.path(DiffusionConfig(timesteps=12, beta_end=0.5, objective="previous"), 5, ["large"])
    Spec(TINY, replace(PROCESS, variance="small"))  # a network of a fixed variance has no third bound
    assert bound.variances(replace(PROCESS, variance="small")) == ("small", "large")


@pytest.mark.parametrize("learned, verdict", [([1, 2, 3, 4], "reproduced"), ([3, 4, 5, 6], "contradicted"),
                                              ([1, 4, 3, 6], "cannot tell")])
def test_the_claim_has_a_verdict_from_paired_differences(learned, verdict):
    """2 to 5 bits differ from image to image, and by image the learned variance is 1 lower, 1 higher, or either."""
    jitter = np.array([0.1, -0.1, 0.05, 0])
    networks = likelihood_page.newest([made_rows.likelihood({"large": [2, 3, 4, 5], "learned_range": learned + jitter})])
    assert f"**{verdict}**" in likelihood_page.claims(networks["net"])[0]
    assert f"**{verdict}**" in likelihood_page.render(networks, "c")


@pytest.mark.parametrize("cosine, verdict", [([1, 2, 3, 4], "reproduced"), ([3, 4, 5, 6], "contradicted"),
                                             ([1, 4, 3, 6], "cannot tell")])
def test_the_schedules_claim_has_a_verdict_from_two_networks(cosine, verdict):
    """The bits of their own variance, image by image, over the longest path that both have; the large variance says the reverse."""
    jitter, large = np.array([0.1, -0.1, 0.05, 0]), 10 - np.array(cosine)
    bits = {"linear": {"large": [5, 5, 5, 5], "learned": [2, 3, 4, 5]}, "cosine": {"large": large, "learned": cosine + jitter}}
    found = [made_rows.likelihood(bits[name], name=name, weights=name, **process(name)) for name in bits]
    found.append(made_rows.likelihood(bits["linear"], 5, name="cosine", weights="cosine", **process("cosine")))
    [claim] = likelihood_page.schedule_claims(likelihood_page.newest(found))
    mean = np.mean(np.array(cosine) - [2, 3, 4, 5]) + jitter.mean()
    assert f"**{verdict}** (cosine less linear: {mean:+.3g} ± " in claim and "at S = 10 with the variance learned" in claim
    assert claim in likelihood_page.render(likelihood_page.newest(found), "c")


@pytest.mark.parametrize("other", [{}, {"images_sha256": "j"}, {"seed": 1}, {"model": {"n": 2}}, {"steps": 5}])
def test_networks_that_differ_in_more_have_no_verdict(other):
    found = [made_rows.likelihood({"large": [2, 3]}, name="a", **process("linear")),
             made_rows.likelihood({"large": [1, 2]}, name="b", **process("cosine") | other)]
    [claim] = likelihood_page.schedule_claims(likelihood_page.newest(found))
    assert ("no verdict" in claim) == bool(other)


def process(schedule: str) -> dict[str, object]:
    return {"diffusion": DiffusionConfig(schedule=schedule).to_dict(), "model": {"n": 1}}


def test_seconds_are_those_of_one_image():
    row = made_rows.likelihood({"large": [1, 2, 3, 4]})
    assert likelihood_page.table([row])["seconds"].tolist() == [row.values["seconds"] / 4] != [row.values["seconds"]]


def test_rows_of_other_weights_leave_the_page():
    old, new = made_rows.likelihood({"large": [1, 2, 3, 4]}, weights="old"), made_rows.likelihood({"large": [5, 6, 7, 8]}, steps=5)
    object.__setattr__(old, "created", "2020")
    found = likelihood_page.newest([new, old])
    assert [row.config["steps"] for row in found["net"]] == [5]


@pytest.mark.parametrize("field", ["weights", "images_sha256", "samples", "seed", "clip", "dtype", "device"])
def test_rows_that_differ_in_this_do_not_stand_beside_the_newest(field):
    old, new = made_rows.likelihood({"large": [1, 2]}, steps=20), made_rows.likelihood({"large": [1, 2]}, **{field: "other"})
    [found] = likelihood_page.newest([replace(new, created="2100-01-01T00:00:00+00:00"), old]).values()
    assert [row.config["steps"] for row in found] == [10]


def test_a_row_round_trips(folder):
    row = made_rows.likelihood({"large": [1, 2, 3, 4]})
    assert rows.parse(json.dumps(json.loads(row.line())).encode()).values == row.values
