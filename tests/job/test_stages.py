"""The stages of the main job: their order, what each is given, and what a stage that fails leaves to the others."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from bench.job import checks, measuring, run, sampling, timing, training
from bench.messages import Train
from bench.metric import fid
from bench.records.agenda import Agenda, Ahead
from bench.records.cells import Cells
from bench.records.notebook import Notebook
from bench.sampling.cell import Cell
from bench.weights.pipeline import load_pipeline
from bench.workers.errors import WorkerError
from reference import weights
from tests.helpers.tiny import TINY, same
from tests.job.test_keys import CELL, job

BOTH = {"torch": (CELL,), "jax": (CELL,)}
TRAINED = {"losses": [1.0] * 4, "seconds": 1.0, "first_seconds": 1.0}


class Crew(list):
    """Backends whose starts and whose end are noted."""

    def __init__(self, names, done=None, ill=()):
        super().__init__(names)
        self.done, self.ill = [] if done is None else done, ill

    def start(self, backend):
        if backend in self.ill:
            raise WorkerError("no room")
        self.done.append(("start", backend))

    def close(self):
        self.done.append("close")


def note(tmp_path):
    return Notebook(Cells(tmp_path, fresh=False), "tiny")


@pytest.fixture
def done(monkeypatch):
    """What every stage was asked, in order: its name, the seed of its job, and the backend or the rows. The second backend's
    training is left missing."""
    seen = []

    def stage(name, gives):
        def called(job, *more):
            given = (each for each in more if isinstance(each, (str, list, dict)) and type(each) is not Crew)
            seen.append((name, job.seed, *given))
            return gives(job, *more)
        return called

    for module, names in ((checks, ("oracle", "training", "losses", "timed", "paths", "images", "determinism")),
                          (measuring, ("measure",)), (timing, ("steps",))):
        for name in names:
            monkeypatch.setattr(module, name, stage(name, lambda *_: None))
    monkeypatch.setattr(sampling, "draw", stage("draw", lambda *_: {"drawn": 1}))
    monkeypatch.setattr(training, "compare", stage("compare", lambda job, crew, book, backend: None if backend == "jax" else "row"))
    monkeypatch.setattr(training, "own_network", stage("own_network", lambda job, *_: replace(job, seed=9)))
    return seen


def test_stages_are_in_their_order_and_of_the_network_that_was_trained_first(done, tmp_path):
    crew, asked = Crew(BOTH, done), job(cells=BOTH, fit=3, twice=True)
    assert run.run(asked, crew, note(tmp_path), begin=lambda job, book: done.append(("begin", job.seed))) == {"drawn": 1}
    each = {name: [(name, 9, backend) for backend in BOTH] for name in ("compare", "oracle", "timed", "determinism")}
    assert done == [("own_network", 0), ("begin", 9), *each["compare"], *each["oracle"], ("training", 9, ["row"]),
                    ("losses", 9, ["row"]), ("steps", 9), *each["timed"], ("draw", 9),
                    *(("paths", 9, backend, {"drawn": 1}) for backend in BOTH), ("images", 9, {"drawn": 1}), *each["determinism"],
                    "close", ("measure", 9, {"drawn": 1})]
    for fit, first in ((3, ("own_network", 0)), (0, ("compare", 0, "torch"))):
        done.clear()
        run.run(replace(asked, fit=fit, twice=False), crew, note(tmp_path))
        assert done[0] == first and not {"begin", "determinism"} & {each[0] for each in done}


def test_without_the_network_to_sample_from_floor_and_ceiling_are_measured_alone(done, monkeypatch, tmp_path):
    monkeypatch.setattr(training, "own_network", lambda *_: None)
    assert run.run(job(fit=3), Crew(["torch"], done), note(tmp_path)) == {} and done == [("measure", 0, {})]


def test_a_worker_that_does_not_start_leaves_its_cells_missing_unless_others_wait_for_it(tmp_path):
    book, crew = note(tmp_path), Crew(BOTH, ill=("jax",))
    book.agenda = Agenda([Ahead("sample", backend, "", 10) for backend in BOTH])
    book.agenda.took("sample", "torch", 1, 1.0)
    run.start(job(cells=BOTH), crew, book)
    assert crew.done == [("start", "torch")] and book.missing == ["missing: all cells of jax: no room"]
    assert book.agenda.seconds_left() == 10
    with pytest.raises(WorkerError):
        run.start(job(cells=BOTH, processes=2), crew, book)


def test_a_further_process_shares_every_training_and_every_cell(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(training, "share", lambda job, crew, book, backend: seen.append(backend))
    monkeypatch.setattr(sampling, "share", lambda job, crew, book, backend, cell: seen.append((backend, cell.steps)))
    asked = job(cells={"torch": (CELL, replace(CELL, steps=7))})
    run.share(asked, Crew(["torch"]), note(tmp_path))
    run.share(replace(asked, preset=replace(asked.preset, train_steps=0)), Crew(["torch"]), note(tmp_path))
    assert seen == ["torch", ("torch", 5), ("torch", 7), ("torch", 5), ("torch", 7)]


def test_a_training_is_told_all_that_decides_it(tmp_path):
    seen = []
    crew = SimpleNamespace(load=lambda *given: seen.append(given), call=lambda name, asked, stage: seen.append(asked) or CELL)
    asked = job(batch_size=6, seed=5, save_every=7.0, rank=1, processes=2)
    asked = replace(asked, dataset=replace(asked.dataset, flip=True))
    training._fit(asked, crew, "torch", tmp_path / "scratch", 4, tmp_path / "out.npz")
    loaded, told = seen
    assert loaded == ("torch", asked.initial)
    images = tmp_path / "scratch" / "images-1.npy"
    assert told == Train(str(images), 5, 4, 6, True, str(tmp_path / "scratch" / "states"),
                         {"backend": "torch", "dataset": asked.dataset.sha256}, 7.0, str(tmp_path / "out.npz"))
    np.testing.assert_array_equal(np.load(images), asked.dataset.images)


def test_the_network_that_is_trained_first_is_sampled_from_and_kept_as_a_folder(monkeypatch, tmp_path):
    made, seen = weights.initialise(TINY, 7), []

    def cell(job, crew, book, backend, key, weights):
        seen.append((backend, key["stage"], key["train_steps"]))
        folder = book.cells.folder("train", key)
        folder.mkdir(parents=True)
        np.savez(folder / weights, **made)
        return SimpleNamespace(backend=backend)

    monkeypatch.setattr(training, "_cell", cell)
    book, asked = note(tmp_path), job(cells=BOTH, fit=3)
    fitted = training.own_network(asked, ["jax"], book)  # the first one did not start
    assert seen == [("jax", "fit", 3)] and same(fitted.trained, made) and fitted.initial is asked.initial
    name = f"tiny-{asked.dataset.sha256[:8]}"
    assert same(load_pipeline(tmp_path / "checkpoints" / name)[0], made)
    assert book.missing == [f"weights: trained for 3 steps with jax on {asked.dataset.provenance}; kept in checkpoints/{name}"]
    monkeypatch.setattr(training, "_cell", lambda *_: None)
    assert training.own_network(asked, ["jax"], book) is None is training.own_network(asked, [], book)


@pytest.mark.parametrize("after, dtype, ok", [(2.0, "float32", False), (1.999, "float32", True), (2.02, "bfloat16", True),
                                              (2.06, "bfloat16", False)])
def test_a_training_must_lower_the_loss_by_more_than_its_dtypes_rounding_may_raise_it(tmp_path, after, dtype, ok):
    book, asked = note(tmp_path), job(dtype=dtype)
    row = book.row("train", "torch", asked.train_key("torch"), TRAINED | {"loss_before": 2.0, "loss_after": after})
    checks.training(asked, book, [book.row("train", "torch", asked.train_key("torch"), TRAINED), row])
    assert [found.values["loss after 4 steps by that before"]["ok"] for found in book.rows] == [ok]


def test_each_cell_is_measured_with_its_own_seed_and_keeps_its_features(monkeypatch, tmp_path):
    asked, seen = job(cells={"torch": (replace(CELL, seed=3), replace(CELL, seed=4))}, samples=8, device="cuda"), []
    monkeypatch.setattr(fid, "evaluate", lambda images, *more: seen.append(more) or {})
    monkeypatch.setattr(measuring, "_cell", lambda book, key, compute: "steps" in key and compute(tmp_path / str(key["seed"])))
    images = {}
    for cell in asked.all_cells:
        images["torch", cell] = tmp_path / f"{cell.seed}.npy"
        np.save(images["torch", cell], np.zeros((8, 1, 8, 8), np.float32))
    measuring.measure(asked, note(tmp_path), images, None)
    assert seen == [(asked.dataset, "cpu", seed, asked.extractor, tmp_path / str(seed) / "features.npy") for seed in (3, 4)]
    np.save(images["torch", asked.all_cells[0]], np.zeros((7, 1, 8, 8), np.float32))
    with pytest.raises(ValueError, match="3.npy, 7': must be the cell's 8"):
        measuring.measure(asked, note(tmp_path), images, None)


class Cluster:
    """Hands the cells back in the other order, each with values, images of its steps, and its machine."""

    def __init__(self, *gives):
        self.gives, self.asked = gives, {}

    def put(self, value):
        return value

    def map(self, work, remote):
        self.asked = remote
        for which in reversed(remote):
            yield which, lambda which=which: tuple(give(which) for give in self.gives)


def test_what_a_cluster_draws_is_kept_in_the_jobs_order_with_its_machine(tmp_path):
    """And what was finished before is not asked for."""
    cells = tuple(Cell(steps, 0.0, None, 0) for steps in (5, 6, 7))
    book, asked = note(tmp_path), job(cells={"torch": cells}, samples=8)
    cluster = Cluster(lambda which: {"images": 8, "batch_seconds": [1.0], "first_seconds": 1.0, "calls": 5, "notes": []},
                      lambda which: np.full((8, 1, 8, 8), which[1].steps, np.float32),
                      lambda which: {"cpu": f"of {which[1].steps}"})
    book.rows = ["before"]
    images = sampling.draw(asked, Crew(["torch"]), book, cluster)
    first, *rows = book.rows
    assert first == "before" and [row.config["steps"] for row in rows] == [5, 6, 7] == [cell.steps for _, cell in images]
    assert [row.environment["cpu"] for row in rows] == ["of 5", "of 6", "of 7"]
    assert [np.load(path).flat[0] for path in images.values()] == [5, 6, 7] and len(cluster.asked) == 3
    sampling.draw(replace(asked, cells={"torch": (*cells, Cell(8, 0.0, None, 0))}), Crew(["torch"]), note(tmp_path), cluster)
    assert [cell.steps for _, cell in cluster.asked] == [8]
