"""The main job's own alarm, in this process: quiet beside a right backend, and what its stages ask of metric and kept cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest

from backends import about
from bench import messages
from bench.job import checks, measuring, sampling
from bench.job.job import GATED_STEPS
from bench.metric import fid
from bench.records.cells import Cells
from bench.records.notebook import Notebook
from bench.records.rows import Row, of
from bench.records.values import Checks, Sample
from bench.report import results
from bench.sampling.cell import Cell
from reference.config import DiffusionConfig

pytest.importorskip("torch", reason="the right backend is torch's")
import torch  # noqa: E402

from tests.mutants.job import wrong  # noqa: E402
from tests.mutants.job.run import NONE, job, run  # noqa: E402

LONG = DiffusionConfig(timesteps=104)


def test_a_right_backend_rings_no_alarm(tmp_path: Path) -> None:
    """One backend alone: every comparison is made, and none disagrees."""
    ended = run(job(("torch",), steps=(4, 104), etas=(0.0, 1.0), blocks=10, diffusion=LONG), tmp_path)
    assert (ended.code, ended.stderr.count("off by")) == (0, 0), ended.stderr
    found = [(name, row.config.get("eta")) for row in of(ended.book.rows, Checks) for name in row.values]
    assert sorted(found, key=str) == sorted([
        *((name, None) for name in ("tables", "forward", "loss", "gradient", "step", "timed steps",
                                    "loss after 12 steps by that before", "work left of a timed training step",
                                    "work left of a timed sampling step")),
        *((name, eta) for name in ("sampling", "late steps") for eta in ("0.0", "1.0"))], key=str)


SOLVED = (Cell(4, 0.0, None, 0), *(Cell(4, eta, None, 0, name) for name, eta in (
    ("heun", 0.0), ("dpmpp_2s", 0.0), ("dpmpp_2m", 0.0), ("dpmpp_2m_sde", 1.0), ("dpmpp_2m_sde", 0.5), ("unipc_3", 0.0))))


@pytest.mark.parametrize("wrong", ["the image in the midst of a batch wrong", "the last image of a batch wrong"])
def test_of_several_batches_the_midst_of_one_is_compared_too(wrong: str, tmp_path: Path) -> None:
    asked = job(etas=(0.0,), train_steps=0)
    ended = run(replace(asked, preset=replace(asked.preset, samples=16)), tmp_path, wrong)
    assert ended.code == 4 and "wrong oracle: sampling, S=4, eta=0.0 off by" in ended.stderr


def test_the_images_that_are_compared() -> None:
    """First, last, and the middle row of the middle batch; a last batch may be short."""
    found = [checks._some(*given) for given in ((8,), (8, 8), (16, 8), (24, 8), (9, 8), (12, 8), (17, 16), (1, 8), (3, 2))]
    assert found == [[0, 4, 7], [0, 4, 7], [0, 12, 15], [0, 12, 23], [0, 4, 8], [0, 4, 11], [0, 8, 16], [0], [0, 1, 2]]


def test_a_path_of_every_solver_is_held_to_the_oracle(tmp_path: Path) -> None:
    """Each has a row and comparisons of its own, and its network calls; the page names it."""
    ended = run(job(("torch",), cells={"torch": SOLVED}, train_steps=0), tmp_path)
    assert ended.code == 0, ended.stderr
    drawn = {(row.config.get("sampler"), row.config["eta"]): row.values for row in of(ended.book.rows, Sample)}
    assert {which: values["calls"] for which, values in drawn.items()} == {
        (cell.sampler, str(cell.eta)): 7 if cell.sampler in ("heun", "dpmpp_2s") else 4 for cell in SOLVED}
    assert {which: values.get("calls_per_image") for which, values in drawn.items()} == {
        (cell.sampler, str(cell.eta)): {None: None, "heun": 7, "dpmpp_2s": 7}.get(cell.sampler, 4) for cell in SOLVED}
    found = {(row.config.get("sampler"), row.config["eta"]) for row in of(ended.book.rows, Checks) if "sampling" in row.values}
    assert found == set(drawn) and "sampling, unipc_3, S=4, eta=0.0" in ended.stdout
    again = run(job(("torch",), cells={"torch": SOLVED}, train_steps=0), tmp_path)
    assert again.book.cells.reused == len(again.book.rows) > 0


def test_a_solver_that_is_wrong_alone_ends_with_4(tmp_path: Path) -> None:
    ended = run(job(cells={"wrong": SOLVED}, train_steps=0), tmp_path, "a fast solver that forgets its past")
    assert ended.code == 4 and ended.stderr.count("off by") == 1 and "sampling, dpmpp_2m, S=4, eta=0.0 off by" in ended.stderr


def test_a_solvers_long_path_is_checked_by_a_short_one_and_beyond_its_first_steps(tmp_path: Path) -> None:
    cells = {"torch": tuple(Cell(104, 0.0, "trailing", 0, name) for name in ("dpmpp_2m", "pndm"))}
    ended = run(job(("torch",), cells=cells, diffusion=LONG, train_steps=0), tmp_path)
    assert ended.code == 0, ended.stderr
    assert all(f"{what}, {name}, S=104" in ended.stdout for what in ("late steps", "sampling") for name in ("dpmpp_2m", "pndm"))


def test_two_backends_are_compared_with_the_first(tmp_path: Path) -> None:
    """Exit code 4 where their images differ by more than is accepted; what is right alone is not enough."""
    both = job(("torch", "wrong"), etas=(0.0,), train_steps=0)
    assert run(both, tmp_path / "same").code == 0
    ended = run(both, tmp_path / "other", "images too dark")
    assert ended.code == 4 and "torch wrong: images, S=4, eta=0.0 off by" in ended.stderr


class Off(wrong.Changed):
    """One pixel of the last image, which the oracle draws, is off."""

    in_float32, in_float64 = 2e-3, 0.0

    def images(self, x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        x[(slice(-1, None), *[0] * (x.ndim - 1))] += self.in_float64 if x.dtype == torch.float64 else self.in_float32
        return x


@pytest.mark.parametrize(("error", "in_float64", "code"), [(2e-3, 0.0, 0), (2e-3, 2e-3, 4), (2e-3, 1e-7, 4), (2e-2, 0.0, 4)])
@pytest.mark.parametrize("backends", [("torch", "wrong"), ("wrong",)])
def test_rounding_that_a_network_magnifies_is_told_from_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: float,
                                                                  in_float64: float, code: int, backends: tuple[str, ...]) -> None:
    """Float32's alone, of up to ten times the tolerance. What is in float64, too, is wrong, and so is more."""
    monkeypatch.setitem(wrong.MISTAKES, "off", ("", type("Off", (Off,), {"in_float32": error, "in_float64": in_float64})))
    monkeypatch.setattr(sampling, "about", lambda backend: about("torch"))  # of an outside package, which says that it has float64
    ended = run(job(backends, etas=(0.0,), train_steps=0), tmp_path, "off")
    what = "images" if len(backends) > 1 else "sampling"
    assert ended.code == code, ended.stderr
    values = [row.values[what] for row in of(ended.book.rows, Checks) if what in row.values][-1]
    assert ("float64" in values) == (error < 1e-2) and values["ok"] == (code == 0)
    assert ("ok in float64" in ended.stdout) == (code == 0)


def shifted(by: float, which: int) -> Callable[..., np.ndarray]:
    """Images drawn again, of which one has in float64 a pixel off by so much."""
    redrawn = sampling._redrawn

    def again(*asked: object) -> np.ndarray:
        images = redrawn(*asked)
        images[which, 0, 0, 0] += by if asked[-1] == "float64" else 0
        return images

    return again


@pytest.mark.parametrize(("first", "ok"), [(1e-4, True), (2e-5, False)])
def test_rounding_beside_the_oracle_of_a_backend_without_float64_is_held_to_that_of_another(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: float, ok: bool) -> None:
    """The second is off by 0.0004, four times what is accepted."""
    monkeypatch.setitem(wrong.MISTAKES, "off", ("", type("Off", (Off,), {"in_float32": 4e-4})))
    dtypes = {"torch": ("float32", "float64"), "wrong": ("float32",)}
    monkeypatch.setattr(sampling, "about", lambda backend: replace(about("torch"), dtypes=dtypes[backend]))
    monkeypatch.setattr(sampling, "_redrawn", shifted(first, -1))
    ended = run(job(("torch", "wrong"), etas=(0.0,), train_steps=0), tmp_path, "off")
    found = [row.values["sampling"] for row in of(ended.book.rows, Checks) if "sampling" in row.values][-1]
    np.testing.assert_allclose([found["rounding"]["torch"], found["rounding"]["wrong"]], [first, 4e-4 - first], atol=1e-5)
    assert (found["ok"], ended.code) == (ok, 0 if ok else 4), ended.stderr


@pytest.mark.parametrize(("first", "ok"), [(0.0, False), (1e-3, True), (-3e-4, False), (2.7e-4, False), (3.2e-4, True)])
def test_rounding_of_a_backend_without_float64_is_held_to_that_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                            first: float, ok: bool) -> None:
    """The second, off by 0.002, may be six times as far from the first one's images in float64 as the first one is."""
    monkeypatch.setitem(wrong.MISTAKES, "off", ("", Off))
    dtypes = {"torch": ("float32", "float64"), "wrong": ("float32",)}
    monkeypatch.setattr(sampling, "about", lambda backend: replace(about("torch"), dtypes=dtypes[backend]))
    monkeypatch.setattr(sampling, "_redrawn", shifted(first, 0))  # the worst image
    ended = run(job(("torch", "wrong"), etas=(0.0,), train_steps=0), tmp_path, "off")
    found = [row.values["images"] for row in of(ended.book.rows, Checks) if "images" in row.values][-1]
    np.testing.assert_allclose([found["rounding"]["torch"], found["rounding"]["wrong"]], [abs(first), 2e-3 - first], atol=1e-5)
    assert (found["ok"], "ok: rounding" in ended.stdout, "torch wrong: images" in ended.stderr) == (ok, ok, not ok), ended.stderr


def test_of_a_batch_the_first_the_middle_and_the_last_image_are_held_to_the_oracle() -> None:
    assert [checks._some(n) for n in (1, 2, 3, 10)] == [[0], [0, 1], [0, 1, 2], [0, 5, 9]]


def test_a_training_is_checked_where_its_row_has_both_losses() -> None:
    """Rows of before have none."""
    kept: list[dict[str, object]] = []
    book = SimpleNamespace(keep=lambda name, kind, key, found: kept.append(found))
    asked = SimpleNamespace(key=lambda *_, **__: {}, dtype="float32")
    trained = [Row("train", "torch", "quick", {"train_steps": 3}, losses, {}, "abc", "2026-01-01T00:00:00+00:00") for losses in (
        {}, {"loss_before": 1.0}, {"loss_after": 1.0}, {"loss_before": 2.0, "loss_after": 1.0})]
    checks.training(asked, book, trained)
    assert kept == [{"loss after 3 steps by that before": {"error": 0.5, "tolerance": checks.BELOW, "ok": True}}]


@pytest.mark.parametrize(("steps", "verdict"), [(GATED_STEPS, "ok"), (GATED_STEPS + 1, "")])
def test_images_of_so_many_steps_are_compared_with_a_verdict(tmp_path: Path, steps: int, verdict: str) -> None:
    """Images of more steps are compared and reported."""
    book, cell, drawn = Notebook(Cells(tmp_path, fresh=False), "tiny"), Cell(steps, 0.0, None, 0), {}
    for backend, value in (("torch", 0.0), ("wrong", 1e-4)):
        drawn[backend, cell] = tmp_path / f"{backend}.npy"
        np.save(drawn[backend, cell], np.linspace(0, value, 512, dtype=np.float32).reshape(8, 1, 8, 8))
    checks.images(job(("torch", "wrong"), steps=(steps,), etas=(0.0,), diffusion=LONG), None, book, drawn)
    (found,) = book.rows
    assert found.values["images"]["error"] == pytest.approx(1e-4)
    assert found.values["images"]["quantiles"] == {
        q: pytest.approx(float(q) * 1e-4) for q in ("0.5", "0.9", "0.99", "0.999", "1.0")}
    assert (found.values["images"]["tolerance"] is not None) == (verdict == "ok")


def test_the_losses_of_every_further_backend_are_compared(tmp_path: Path) -> None:
    """A third one's, too; of each the first ten."""
    book = Notebook(Cells(tmp_path, fresh=False), "tiny")
    asked = job(("torch",))
    trained = [book.row("train", name, asked.train_key(name), {"losses": [first] * 10 + [last] * 2, "seconds": 1.0,
                                                                "first_seconds": 1.0})
               for name, first, last in (("torch", 1.0, 0.5), ("one", 1.0, 0.25), ("two", 2.0, 0.5))]
    checks.losses(asked, book, trained)
    assert [(row.backend, row.values["losses_of_10_steps"]["ok"]) for row in book.rows] == [
        ("torch one", True), ("torch two", False)]


def test_a_disagreement_outweighs_what_is_missing(tmp_path: Path) -> None:
    """Exit code 3 for the latter alone. An answer that is none is both."""
    with patch.object(checks, "timed", side_effect=lambda job, crew, book, backend: book.missing.append("missing: x")):
        assert run(job(("torch",), etas=(1.0,), train_steps=0), tmp_path / "missing").code == 3
        assert run(job(etas=(1.0,), train_steps=0), tmp_path / "both", "images too dark").code == 4
    ended = run(job(etas=(1.0,), train_steps=0), tmp_path / "none", "one image not finite")
    assert ended.code == 4 and "missing: sample wrong" in ended.stdout and "sample wrong: worker wrong" in ended.stderr


class Forgetful:
    """A crew whose backend gives other numbers in each process, and the same ones within one."""

    processes = 0

    def start(self, backend: str) -> None:
        self.processes += 1

    def load(self, *_: object) -> None:
        pass

    def call(self, backend: str, asked: object, stage: str = "") -> SimpleNamespace:
        if isinstance(asked, messages.Weights):
            np.savez(asked.out, weights=np.zeros(2))
        return SimpleNamespace(losses=[0.5 + self.processes])

    def draw(self, *_: object) -> np.ndarray:
        return np.full(3, 1e-9 * self.processes)


def test_the_second_run_of_the_determinism_check_is_in_a_process_of_its_own(tmp_path: Path) -> None:
    book = Notebook(Cells(tmp_path, False), "tiny")
    checks.determinism(job(("torch",)), Forgetful(), book, "torch")  # type: ignore[arg-type]
    [row] = of(book.rows, Checks)
    assert {name.split()[0]: value["bit_equal"] for name, value in row.values.items()} == {
        "losses": False, "weights": True, "images": False}  # numbers that lie close are other bits


def test_only_long_paths_are_checked_beyond_their_first_steps(tmp_path: Path) -> None:
    """A cell of many steps is compared by a short path of its batch, and by many steps of a network that costs nothing."""
    ended = run(job(("torch",), steps=(104,), etas=(1.0,), diffusion=LONG, train_steps=0), tmp_path)
    assert ended.code == 0 and "late steps, S=104, eta=1.0" in ended.stdout and "sampling, S=104, eta=1.0" in ended.stdout
    ended = run(job(("torch",), etas=(1.0,), train_steps=0), tmp_path / "short")
    assert ended.code == 0 and "late steps" not in ended.stdout


def test_the_floor_is_that_of_held_out_images_and_each_cell_has_its_own_metric(tmp_path: Path) -> None:
    """What is asked of the metric, and for which images."""
    asked = job(("torch",))
    book, calls = Notebook(Cells(tmp_path, fresh=False), "tiny"), []
    files = {}
    for n, cell in enumerate(asked.cells["torch"]):
        files["torch", replace(cell, seed=n)] = tmp_path / f"{n}.npy"
        np.save(tmp_path / f"{n}.npy", np.full((8, 1, 8, 8), n / 2 - 1, np.float32))
    with patch.object(fid, "floor", lambda n, train, *, test, **_: calls.append(("floor", n, train, test)) or NONE), \
            patch.object(fid, "ceiling", lambda n, train, *, seed, **_: calls.append(("ceiling", n, train, seed)) or NONE), \
            patch.object(fid, "evaluate", lambda images, train, _, seed, *__: calls.append((images.mean(), train, seed)) or NONE):
        measuring.measure(asked, book, files, None)
    assert calls[0] == ("floor", 8, asked.dataset, asked.held_out) and calls[1] == ("ceiling", 8, asked.dataset, 0)
    assert [(round(mean), train, seed) for mean, train, seed in calls[2:]] == [
        (0, asked.dataset, 0), (64, asked.dataset, 1), (128, asked.dataset, 2)]


def test_another_networks_cells_are_not_used_again_and_the_report_is_of_this_run(tmp_path: Path) -> None:
    """The same job is all used again; other weights draw their own images."""
    first = run(job(("torch",), etas=(0.0,), train_steps=0), tmp_path)
    again = run(job(("torch",), etas=(0.0,), train_steps=0), tmp_path)
    assert again.book.cells.reused == len(again.book.rows) > 0 and first.book.cells.reused == 0
    other = job(("torch",), etas=(0.0,), train_steps=0)
    other = replace(other, trained={name: 1.1 * value for name, value in other.trained.items()})
    ended = run(other, tmp_path)
    assert ended.code == 0, ended.stderr
    drawn, = of(ended.book.rows, Sample)
    assert drawn.config.get("weights") == other.trained_hash != first.book.rows[-1].config.get("weights")
    assert len(results.sample_table(ended.book.rows)) == 1 and ended.stdout.count("sampling, S=4") == 1
